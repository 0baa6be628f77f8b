"""The timestamp oracle with its disk and its clock: what `tso.TsoAllocator` decides, made durable and safe for threads.

Two mutexes: `writer` orders what is written, so that a lower bound never overwrites a higher one; the allocator's own
is never held while the disk works, so that timestamps flow during a save.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from pytikv.rt.locks import mutex
from pytikv.server.pd.storage import TSO_KEY, MetaStorage, load_number
from pytikv.server.pd.tso import BoundReached, TsoAllocator
from pytikv.types import Timestamp

__all__ = ["TimestampOracle"]


class TimestampOracle:
    """Gives out timestamps. `time`: the wall clock, Unix seconds."""

    def __init__(self, storage: MetaStorage, writer: AbstractContextManager[object], time: Callable[[], float]) -> None:
        self._storage = storage
        self._writer = writer
        self._time = time
        self._mutex = mutex()
        self._tso = TsoAllocator(load_number(storage.get(TSO_KEY)))
        self.saves = 0
        """How many bounds were persisted."""

    @property
    def physical_ms(self) -> int:
        """The physical part of the last timestamp, Unix milliseconds."""
        return self._tso.physical_ms

    def try_take(self, count: int) -> tuple[int, int]:
        """Take `count` timestamps without touching the disk; return `(physical_ms, last_logical)`.

        Raises BoundReached when `save_bound` must come first, ValueError for a count that is not served.
        """
        with self._mutex:
            return self._tso.allocate(count, int(self._time() * 1000))

    def try_take_one(self) -> Timestamp:
        """Take a timestamp. Raises BoundReached as `try_take` does."""
        with self._mutex:
            physical_ms, logical = self._tso.allocate(1, int(self._time() * 1000))
        return Timestamp.compose(physical_ms, logical)

    def bound_due(self) -> bool:
        """Whether it is time for `save_bound`, before timestamps must wait for it."""
        with self._mutex:
            return self._tso.next_bound(int(self._time() * 1000)) is not None

    def save_bound(self) -> None:
        """Persist a new bound where one is due. Writes the disk."""
        with self._writer:
            with self._mutex:
                bound_ms = self._tso.next_bound(int(self._time() * 1000))
            if bound_ms is None:
                return
            self._storage.write({TSO_KEY: bound_ms.to_bytes(8, "big")}, sync=True)
            with self._mutex:
                self._tso.bound_saved(bound_ms)
            self.saves += 1

    def get(self, count: int = 1) -> Timestamp:
        """Take `count` timestamps (1 to 2^18 - 1); return the last. Writes the disk about every 1.5 s of use."""
        while True:
            try:
                return Timestamp.compose(*self.try_take(count))
            except BoundReached:
                self.save_bound()
