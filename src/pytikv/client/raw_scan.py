"""A scan under way: which span is left, how many pairs may still come. Pages are asked for one at a time.

Both clients drive the same cursor, the asyncio one by `async for`, the blocking one with a call for each page: nothing
is held between two pages, no connection, no lock, no snapshot. A scan of raw data is therefore not a moment in time;
a key written or deleted behind the present page is not seen.
"""

from __future__ import annotations

from pytikv.client.arguments import MAX_SCAN_PAGE, check_count, check_range
from pytikv.client.pages import Pair
from pytikv.client.raw_backend import RawBackend, Span

__all__ = ["RawScan"]


class RawScan:
    """The state of one scan over a range of user keys; belongs to one consumer."""

    __slots__ = ("_backend", "_batch_size", "_keys_only", "_left", "_reverse", "_span")

    def __init__(
        self,
        backend: RawBackend,
        start: bytes | None,
        end: bytes | None,
        *,
        limit: int | None,
        reverse: bool,
        keys_only: bool,
        batch_size: int,
    ) -> None:
        low, high = check_range(start, end)
        self._left = None if limit is None else check_count("limit", limit, low=0)
        self._batch_size = check_count("batch_size", batch_size, high=MAX_SCAN_PAGE)
        is_empty = self._left == 0 or (high != b"" and low >= high)
        self._span: Span | None = None if is_empty else backend.span(low, high)
        self._backend = backend
        self._reverse = bool(reverse)
        self._keys_only = bool(keys_only)

    async def next_page(self) -> list[Pair]:
        """Return the next pairs; an empty list at the end. After an error the scan may be gone on with."""
        while self._span is not None:
            size = self._batch_size if self._left is None else min(self._batch_size, self._left)
            page = await self._backend.scan_page(self._span, size, reverse=self._reverse, keys_only=self._keys_only)
            self._span = page.rest
            if self._left is not None:
                self._left -= len(page.pairs)
                if self._left <= 0:
                    self._span = None
            if page.pairs:
                return page.pairs
        return []
