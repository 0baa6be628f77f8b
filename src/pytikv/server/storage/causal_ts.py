"""Timestamps for the versions of raw data in API v2: each is larger than the one before, and all are PD's.

They are taken from PD in blocks, the first at once: taking one may write PD's disk, and a loop may be waiting.

Source: TiKV components/causal_ts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pytikv.rt.locks import mutex

__all__ = ["CausalTs"]


class CausalTs:
    """Safe for threads. `take(count)` takes timestamps from PD and returns the last."""

    def __init__(self, take: Callable[[int], int], block_size: int) -> None:
        self._take = take
        self._block_size = block_size
        self._lock = mutex()
        self._block = self._next_block()

    def _next_block(self) -> Iterator[int]:
        last = int(self._take(self._block_size))
        return iter(range(last - self._block_size + 1, last + 1))

    def __call__(self) -> int:
        """Return the next one."""
        while True:
            block = self._block
            for timestamp in block:  # taking from an iterator is one step: no two threads get the same
                return timestamp
            with self._lock:
                if block is self._block:
                    self._block = self._next_block()
