"""What carrying out a command leaves to be done before its answer may go out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

__all__ = ["Blocking", "Durable", "Outcome"]


@dataclasses.dataclass(frozen=True, slots=True)
class Durable:
    """An answer that must wait until the engine's change with `ticket` is durable."""

    body: bytes
    ticket: int


@dataclasses.dataclass(frozen=True, slots=True)
class Blocking:
    """A command that takes long or writes the disk: to be run off the loop. It is not begun yet."""

    run: Callable[[], bytes | Durable]


Outcome = bytes | Durable | Blocking
"""A serialized answer that may go at once, or one of the above."""
