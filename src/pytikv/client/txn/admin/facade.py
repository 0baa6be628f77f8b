"""The administration of transactional data as methods of the asynchronous client; the modules beside do the work.

Each method is safe to call again after a failure, and works on the client's keyspace alone. Unless a docstring says
otherwise, each step (a region, a store, a question to PD) has the time of the option `timeout`, within the ambient
deadline; the whole takes as long as it takes.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytikv.client.arguments import check_count, check_key, check_keys, check_range
from pytikv.client.base import AsyncBase
from pytikv.client.observed import recorded
from pytikv.client.txn.admin import ranges, split
from pytikv.client.txn.admin.gc import GcReport, collect_garbage
from pytikv.client.txn.admin.locks import LockInfo, list_locks, resolve_locks
from pytikv.client.txn.admin.mvcc import MvccInfo, mvcc_by_key, mvcc_by_start_ts
from pytikv.client.txn.admin.range_task import OnProgress, Progress
from pytikv.client.txn.backend import GcState, TxnBackend
from pytikv.errors import InvalidArgument, WrongType
from pytikv.types import MAX_TIMESTAMP, Consistency

__all__ = ["AsyncAdministration"]

_MAX_TTL_S = (1 << 62) - 1


class AsyncAdministration(AsyncBase[TxnBackend]):
    """What `AsyncTransactionClient` offers beside transactions."""

    __slots__ = ()

    def _deadline(self) -> float:
        return self._backend.call().backoffer.deadline

    # --- garbage ------------------------------------------------------------------------------------------------------

    @recorded
    async def gc(self, life_time: float = 600.0, *, on_progress: OnProgress | None = None) -> GcReport:
        """Collect garbage: let go of versions that were replaced more than `life_time` seconds ago.

        Settles the locks of transactions below the safe point, then publishes it; the stores remove the versions in
        the background, an embedded store before this returns. Transactions and snapshots that began earlier than the
        safe point get SnapshotTooOld; while others read, a minute is the least that gives them time to learn of it.
        Barriers may hold it back: `blocker` of the report names the lowest one. `on_progress` is called after each
        region that was searched for locks.
        """
        return await collect_garbage(self._backend, life_time, on_progress=on_progress)

    @recorded
    async def gc_state(self) -> GcState:
        """Return the safe points that PD has at present."""
        return await self._backend.gc_state(self._deadline())

    @recorded
    async def set_gc_barrier(self, name: str, ts: int, ttl: int) -> None:
        """Keep what can be read at the timestamp `ts` for `ttl` whole seconds; a barrier of that name is replaced.

        Raises InvalidArgument where the safe point is past `ts` already.
        """
        _check_name(name)
        check_count("ts", ts, high=MAX_TIMESTAMP - 1)
        check_count("ttl", ttl, high=_MAX_TTL_S)
        await self._backend.set_gc_barrier(name, ts, ttl, self._deadline())

    @recorded
    async def delete_gc_barrier(self, name: str) -> None:
        """Remove a barrier; one that is not there is no error."""
        _check_name(name)
        await self._backend.delete_gc_barrier(name, self._deadline())

    # --- locks --------------------------------------------------------------------------------------------------------

    @recorded
    async def list_locks(
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
        low, high = self._wire_range(start, end)
        if limit is not None:
            check_count("limit", limit)
        return await list_locks(self._backend, low, high, _check_ts(max_ts), limit)

    @recorded
    async def resolve_locks(
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
        low, high = self._wire_range(start, end)
        return await resolve_locks(self._backend, low, high, _check_ts(max_ts), on_progress=on_progress)

    # --- ranges -------------------------------------------------------------------------------------------------------

    @recorded
    async def delete_range(
        self, start: bytes | None, end: bytes | None, *, on_progress: OnProgress | None = None
    ) -> None:
        """Remove all versions of all keys of `[start, end)`, beneath transactions: for data that nobody uses.

        Snapshots lose the data, too. Not atomic; after a failure a part may be gone.
        """
        await ranges.delete_range(self._backend, *check_range(start, end), on_progress=on_progress)

    @recorded
    async def unsafe_destroy_range(self, start: bytes | None, end: bytes | None) -> None:
        """Remove the range from the disks of all stores at once, beneath the regions. Cannot be undone.

        As `delete_range`, faster and harsher: replicas that come back later may bring data back. May take
        five minutes. Raises ServerError that names the stores that failed.
        """
        await ranges.unsafe_destroy_range(self._backend, *check_range(start, end))

    # --- regions ------------------------------------------------------------------------------------------------------

    @recorded
    async def split(self, keys: Iterable[bytes], *, scatter: bool = False, wait: bool = False) -> list[int]:
        """Split regions at `keys`, so that a region begins at each of them; returns the ids of the new regions.

        `scatter`: ask PD to spread them over the stores; `wait`: until it has. Keys that are borders already are
        passed over. In an embedded store there are no regions: the answer is empty.
        """
        wanted = check_keys(keys)
        made = await split.split(self._backend, sorted(self._backend.codec.encode_key(key) for key in wanted if key))
        if scatter and made:
            await split.scatter(self._backend, made)
            if wait:
                await split.wait_scattered(self._backend, made)
        return made

    @recorded
    async def scatter(self, region_ids: Iterable[int], *, wait: bool = False) -> None:
        """Ask PD to spread regions over the stores; `wait`: until it has, DeadlineExceeded if it takes too long."""
        wanted = [check_count("region_ids", region_id) for region_id in region_ids]
        await split.scatter(self._backend, wanted)
        if wait:
            await split.wait_scattered(self._backend, wanted)

    # --- a look inside ------------------------------------------------------------------------------------------------

    @recorded
    async def mvcc(self, key: bytes) -> MvccInfo:
        """Return all that the store holds of `key`: its lock and all its versions, newest first."""
        check_key(key)
        return await mvcc_by_key(self._backend, key)

    @recorded
    async def mvcc_by_start_ts(self, start_ts: int) -> list[MvccInfo]:
        """Return all that the stores hold of keys that the transaction `start_ts` wrote or locked: one key a region.

        Reads everything: for small data.
        """
        check_count("start_ts", start_ts, high=MAX_TIMESTAMP)
        return await mvcc_by_start_ts(self._backend, start_ts)

    @recorded
    async def check_consistency(self) -> Consistency:
        """Check the locks, records and values of an embedded store against each other, in all keyspaces.

        Reads everything. Raises UnsupportedByServer for a store that is not in this process.
        """
        return await self._backend.check_consistency()

    def _wire_range(self, start: bytes | None, end: bytes | None) -> tuple[bytes, bytes]:
        return self._backend.codec.encode_range(*check_range(start, end))


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise WrongType(f"the name of a barrier must be a string, not {type(name).__name__}")
    if name in ("", "gc_worker"):  # the latter is the safe point itself
        raise InvalidArgument(f"a barrier cannot have the name {name!r}")


def _check_ts(ts: int | None) -> int | None:
    return None if ts is None else check_count("max_ts", ts, low=0, high=MAX_TIMESTAMP)
