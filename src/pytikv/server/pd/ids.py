"""Ids for stores, regions and peers: unique over the life of a cluster, never given out twice.

Ids come from a reserve `(last, end]` whose end is persisted before any of it is used, in steps of 1000; what a life did
not use of its reserve is lost. Source: PD pkg/id/id.go (step, first id 1, answer is the last of a block).
Sans-IO, not safe for threads: the owner saves the end that `needs_end` names and says so with `end_saved`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["STEP", "IdAllocator"]

STEP: Final = 1000


class IdAllocator:
    """Gives out consecutive ids. `saved_end` is the end of the reserve that the last life persisted."""

    __slots__ = ("_end", "_last")

    def __init__(self, saved_end: int = 0) -> None:
        self._last = saved_end
        self._end = saved_end

    @property
    def last(self) -> int:
        """The last id given out; in a new life, the end of what the one before had reserved."""
        return self._last

    def needs_end(self, count: int) -> int | None:
        """Return the end to persist before `count` ids can be had, or None when the reserve holds them."""
        missing = self._last + count - self._end
        return None if missing <= 0 else self._end + -(-missing // STEP) * STEP

    def end_saved(self, end: int) -> None:
        """Say that `end` is durable."""
        self._end = max(self._end, end)

    def allocate(self, count: int = 1) -> int:
        """Take `count` ids; return the last of them. Raises ValueError when the reserve does not hold them."""
        if count < 1 or self._last + count > self._end:
            raise ValueError(f"the reserve does not hold {count} ids")
        self._last += count
        return self._last
