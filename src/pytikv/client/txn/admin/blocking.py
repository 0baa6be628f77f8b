"""The administration of transactional data as methods of the blocking client: each drives its asynchronous twin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pytikv.client.blocking_base import BlockingBase
from pytikv.client.txn.admin.facade import AsyncAdministration
from pytikv.client.txn.admin.gc import GcReport
from pytikv.client.txn.admin.locks import LockInfo
from pytikv.client.txn.admin.mvcc import MvccInfo
from pytikv.client.txn.admin.range_task import OnProgress, Progress
from pytikv.client.txn.backend import GcState
from pytikv.types import Consistency

__all__ = ["Administration"]

CoreT = TypeVar("CoreT", bound=AsyncAdministration)


class Administration(BlockingBase[CoreT]):
    """What `TransactionClient` offers beside transactions."""

    __slots__ = ()

    # --- garbage ------------------------------------------------------------------------------------------------------

    def gc(self, life_time: float = 600.0, *, on_progress: OnProgress | None = None) -> GcReport:
        """Collect garbage: let go of versions that were replaced more than `life_time` seconds ago.

        Settles the locks of transactions below the safe point, then publishes it; the stores remove the versions in
        the background, an embedded store before this returns. Transactions and snapshots that began earlier than the
        safe point get SnapshotTooOld; while others read, a minute is the least that gives them time to learn of it.
        Barriers may hold it back: `blocker` of the report names the lowest one. `on_progress` is called after each
        region that was searched for locks.
        """
        return self._rt.run(self._core.gc(life_time, on_progress=on_progress))

    def gc_state(self) -> GcState:
        """Return the safe points that PD has at present."""
        return self._rt.run(self._core.gc_state())

    def set_gc_barrier(self, name: str, ts: int, ttl: int) -> None:
        """Keep what can be read at the timestamp `ts` for `ttl` whole seconds; a barrier of that name is replaced.

        Raises InvalidArgument where the safe point is past `ts` already.
        """
        self._rt.run(self._core.set_gc_barrier(name, ts, ttl))

    def delete_gc_barrier(self, name: str) -> None:
        """Remove a barrier; one that is not there is no error."""
        self._rt.run(self._core.delete_gc_barrier(name))

    # --- locks --------------------------------------------------------------------------------------------------------

    def list_locks(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        max_ts: int | None = None,
        limit: int | None = None,
    ) -> list[LockInfo]:
        """Return the locks on keys of `[start, end)`, in key order: of transactions that began at `max_ts` or before.

        `max_ts` None: all. `limit`: how many at most.
        """
        return self._rt.run(self._core.list_locks(start, end, max_ts=max_ts, limit=limit))

    def resolve_locks(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        max_ts: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Progress:
        """Settle all locks on keys of `[start, end)` of transactions that began at `max_ts` or before (None: all).

        Transactions that are still under way are rolled back. `items` of the answer counts the locks.
        """
        return self._rt.run(self._core.resolve_locks(start, end, max_ts=max_ts, on_progress=on_progress))

    # --- ranges -------------------------------------------------------------------------------------------------------

    def delete_range(self, start: bytes | None, end: bytes | None, *, on_progress: OnProgress | None = None) -> None:
        """Remove all versions of all keys of `[start, end)`, beneath transactions: for data that nobody uses.

        Snapshots lose the data, too. Not atomic; after a failure a part may be gone.
        """
        self._rt.run(self._core.delete_range(start, end, on_progress=on_progress))

    def unsafe_destroy_range(self, start: bytes | None, end: bytes | None) -> None:
        """Remove the range from the disks of all stores at once, beneath the regions. Cannot be undone.

        As `delete_range`, faster and harsher: replicas that come back later may bring data back. May take
        five minutes. Raises ServerError that names the stores that failed.
        """
        self._rt.run(self._core.unsafe_destroy_range(start, end))

    # --- regions ------------------------------------------------------------------------------------------------------

    def split(self, keys: Iterable[bytes], *, scatter: bool = False, wait: bool = False) -> list[int]:
        """Split regions at `keys`, so that a region begins at each of them; returns the ids of the new regions.

        `scatter`: ask PD to spread them over the stores; `wait`: until it has. Keys that are borders already are
        passed over. In an embedded store there are no regions: the answer is empty.
        """
        return self._rt.run(self._core.split(keys, scatter=scatter, wait=wait))

    def scatter(self, region_ids: Iterable[int], *, wait: bool = False) -> None:
        """Ask PD to spread regions over the stores; `wait`: until it has, DeadlineExceeded if it takes too long."""
        self._rt.run(self._core.scatter(region_ids, wait=wait))

    # --- a look inside ------------------------------------------------------------------------------------------------

    def mvcc(self, key: bytes) -> MvccInfo:
        """Return all that the store holds of `key`: its lock and all its versions, newest first."""
        return self._rt.run(self._core.mvcc(key))

    def mvcc_by_start_ts(self, start_ts: int) -> list[MvccInfo]:
        """Return all that the stores hold of keys that the transaction `start_ts` wrote or locked: one key a region.

        Reads everything: for small data.
        """
        return self._rt.run(self._core.mvcc_by_start_ts(start_ts))

    def check_consistency(self) -> Consistency:
        """Check the locks, records and values of an embedded store against each other, in all keyspaces.

        Reads everything. Raises UnsupportedByServer for a store that is not in this process.
        """
        return self._rt.run(self._core.check_consistency())
