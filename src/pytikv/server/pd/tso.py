"""The timestamp oracle: timestamps that only ever grow, also after kill -9, restarts and jumps of the clock.

A timestamp is 46 bits of Unix milliseconds and 18 bits of a counter. The allocator holds the last one given out and a
*bound*, persisted before it is used. Invariants:

* every timestamp given out is greater than all before it and has `physical < bound`;
* a bound is only used after it was saved, and a new life starts at the saved bound, so it is above all earlier lives.

The clock is a hint: it moves `physical` forward when it is ahead and is ignored when it is behind. When the 2^18 - 1
counters of a millisecond are used up, `physical` moves on by one although the clock may not have: the oracle runs a
little ahead, which is harmless, rather than waiting.

The window that is saved ahead is 3 s, renewed when less than half of it is left; after kill -9 the oracle is thus at
most 3 s ahead of the clock. Sources: PD pkg/tso/tso.go (saved window, counter from 1), client-go oracle/oracle.go.

Sans-IO: `allocate` raises `BoundReached` where a bound must be saved first; the owner saves what `next_bound` names and
says so with `bound_saved`. Not safe for threads; its owner holds the lock.
"""

from __future__ import annotations

from typing import Final

from pytikv.types import LOGICAL_BITS

__all__ = ["MAX_COUNT", "WINDOW_MS", "BoundReached", "TsoAllocator"]

WINDOW_MS: Final = 3_000
MAX_COUNT: Final = (1 << LOGICAL_BITS) - 1
"""Most timestamps of one block: the counters of a millisecond, of which PD never uses 0."""


class BoundReached(Exception):
    """The next timestamp lies at or above the saved bound: save `next_bound` first."""


class TsoAllocator:
    """Gives out blocks of timestamps. `saved_ms` is the bound that the last life persisted (0: there was none)."""

    __slots__ = ("_bound_ms", "_logical", "_physical_ms")

    def __init__(self, saved_ms: int = 0) -> None:
        self._physical_ms = saved_ms
        self._logical = 0
        self._bound_ms = saved_ms

    @property
    def bound_ms(self) -> int:
        """The saved bound; no timestamp at or above it is given out."""
        return self._bound_ms

    @property
    def physical_ms(self) -> int:
        """Of the last timestamp given out."""
        return self._physical_ms

    def allocate(self, count: int, now_ms: int) -> tuple[int, int]:
        """Take `count` timestamps (1 to MAX_COUNT); return `(physical_ms, last_logical)` of the block.

        The block is `last_logical - count + 1 .. last_logical`. Raises ValueError for another count and BoundReached
        when a bound must be saved first; nothing was taken then.
        """
        if not 0 < count <= MAX_COUNT:
            raise ValueError("tso count should be positive" if count <= 0 else f"tso count exceeds {MAX_COUNT}")
        physical_ms, last = self._physical_ms, self._logical + count
        if now_ms > physical_ms:
            physical_ms, last = now_ms, count
        elif last > MAX_COUNT:
            physical_ms, last = physical_ms + 1, count
        if physical_ms >= self._bound_ms:
            raise BoundReached
        self._physical_ms, self._logical = physical_ms, last
        return physical_ms, last

    def next_bound(self, now_ms: int) -> int | None:
        """Return the bound to save now, or None while more than half of the window is left."""
        # One more than `physical` because an overflowing counter may be what reached the bound.
        next_ms = max(self._physical_ms + 1, now_ms)
        return next_ms + WINDOW_MS if self._bound_ms - next_ms < WINDOW_MS // 2 else None

    def bound_saved(self, bound_ms: int) -> None:
        """Say that `bound_ms` is durable; a lower one than before is ignored."""
        self._bound_ms = max(self._bound_ms, bound_ms)
