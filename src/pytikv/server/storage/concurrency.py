"""What readers and writers of transactions must know of each other beside the engine: max_ts and the locks in memory.

*max_ts* is the largest timestamp that any read was served at. An async commit (and a 1PC) takes a commit_ts of its own,
above max_ts, so that no snapshot that was read can change afterwards.

*Memory locks* cover the moment between that choice and the engine's write. The orders that make it safe:

* a reader first raises max_ts to its timestamp, then looks for memory locks, then reads the engine: locks first, then
  versions;
* a writer publishes its locks and reads max_ts in one step, then writes the engine, then takes the locks back.

So either the writer sees the reader's timestamp and commits above it, or the reader meets the lock, in memory or in the
engine. A reader needs no engine snapshot for one key: what is committed between its two looks has a larger commit_ts.

*The limit*: a timestamp far above PD's clock (`MAX_DRIFT_MS`) would push every later async commit there, and with it
every reader: it is refused (`InvalidMaxTsUpdate`) after asking PD once more. Timestamps of 2**64 - 1 mean "the latest"
and leave max_ts alone.

Safe for threads; one mutex. Bound: as many memory locks as there are keys in requests being written.
Sources: TiKV components/concurrency_manager/src.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from pytikv.errors import InvalidArgument
from pytikv.rt.locks import mutex
from pytikv.server.mvcc.keys import TS_MAX
from pytikv.server.mvcc.records import Lock
from pytikv.types import LOGICAL_BITS

__all__ = ["MAX_DRIFT_MS", "ConcurrencyManager", "InvalidMaxTsUpdate"]

MAX_DRIFT_MS: Final = 60_000


class InvalidMaxTsUpdate(InvalidArgument):
    """A timestamp further above PD's than clocks drift apart. Nothing was read or written."""

    def __init__(self, ts: int, limit: int) -> None:
        super().__init__(f"invalid max_ts update: {ts} is over the limit {limit}, which is PD's time and a minute")


class ConcurrencyManager:
    """max_ts and the memory locks of one store. Keys are encoded keys."""

    def __init__(self, current_ts: Callable[[], int]) -> None:
        """`current_ts()` is PD's present timestamp; it is asked once here and again when a request claims more."""
        self._current_ts = current_ts
        self._mutex = mutex()
        self.max_ts = current_ts()
        self.limit = self._limit_at(self.max_ts)
        self._locks: dict[bytes, Lock] = {}

    def __len__(self) -> int:
        """The number of memory locks."""
        return len(self._locks)

    @staticmethod
    def _limit_at(ts: int) -> int:
        return ts + (MAX_DRIFT_MS << LOGICAL_BITS)

    def update_max_ts(self, ts: int) -> None:
        """Raise max_ts to `ts`. Raises InvalidMaxTsUpdate."""
        if ts <= self.max_ts or ts == TS_MAX:
            return
        if ts > self.limit:
            self._raise_limit(ts)
        with self._mutex:
            self.max_ts = max(self.max_ts, ts)

    def _raise_limit(self, ts: int) -> None:
        limit = self._limit_at(self._current_ts())  # outside of the mutex: PD may write its disk
        with self._mutex:
            self.limit = max(self.limit, limit)
        if ts > limit:
            raise InvalidMaxTsUpdate(ts, limit)

    # --- memory locks -------------------------------------------------------------------------------------------------

    def lock_of(self, key: bytes) -> Lock | None:
        """Return the memory lock of `key`. To be asked after `update_max_ts`."""
        return self._locks.get(key) if self._locks else None

    def locks_in(self, start_key: bytes, end_key: bytes) -> list[tuple[bytes, Lock]]:
        """Return the memory locks in `[start_key, end_key)`, in the order of their keys."""
        if not self._locks:
            return []
        with self._mutex:
            locks = list(self._locks.items())
        return sorted((pair for pair in locks if start_key <= pair[0] and (not end_key or pair[0] < end_key)), key=_key)

    def publish(self, key: bytes, lock: Lock) -> int:
        """Make `lock` visible and return its min_commit_ts: raised, where it is not, to one above max_ts.

        Whoever publishes holds the latch of `key`, and takes the lock back (`retract`) once it, or what it stands for,
        is in the engine.
        """
        with self._mutex:
            lock.min_commit_ts = max(lock.min_commit_ts, self.max_ts + 1)
            self._locks[key] = lock
            return lock.min_commit_ts

    def retract(self, keys: Iterable[bytes]) -> None:
        """Take memory locks back."""
        with self._mutex:
            for key in keys:
                self._locks.pop(key, None)


def _key(pair: tuple[bytes, Lock]) -> bytes:
    return pair[0]
