"""Scans are taken page by page: what iterates over one needs to know no more of it than this.

Nothing is held between two pages; an iteration may be left at any point, and gone on with after an error. The blocking
clients iterate in the calling thread (`client.blocking_base`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

__all__ = ["Pages", "Pair", "drain", "iterate"]

Pair = tuple[bytes, bytes]
"""A key and its value."""


class Pages(Protocol):
    """A scan under way; belongs to one consumer."""

    async def next_page(self) -> list[Pair]:
        """Return the next pairs; an empty list at the end. After an error the scan may be gone on with."""
        ...


async def iterate(pages: Pages) -> AsyncIterator[Pair]:
    """Iterate over the pairs, asking for each page when the one before is used up."""
    while page := await pages.next_page():
        for pair in page:
            yield pair


async def drain(pages: Pages) -> list[Pair]:
    """Return all that is left, at once."""
    found: list[Pair] = []
    while page := await pages.next_page():
        found += page
    return found
