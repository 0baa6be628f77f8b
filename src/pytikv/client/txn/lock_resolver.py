"""Locks that reads and writes meet: what became of their transactions, and the locks brought to their end.

A lock names its transaction's primary key. Whoever meets one looks there (CheckTxnStatus, which also rolls back what
has expired) and then acts on the locks as `lock_decisions` says:

    met locks -> groups by transaction -> status of each (remembered | under way | asked) -> act -> verdict

* **Committed or rolled back**: the locks are resolved, key by key for small transactions, by whole regions for those
  of `LITE_BELOW_KEYS` keys and more, all regions at once. `TOGETHER` small ones or more that were met together are
  ended together, by one request a region, which is looked through once for all of them (`joint_resolve`). Readers do
  not wait for any of it: they pass the locks over or look behind them, and the work goes to the background
  (`txn.background`); what fails there is left to whoever comes next.
* **Async commit, expired**: the secondaries are asked, region by region, and settle it.
* **Primary not there** (TxnNotFound): its prewrite may be under way. Asked again until the met lock's own time to live
  is over, and then rolled back for good.
* **Another primary** (PrimaryMismatch): legal for pessimistic locks only, which are rolled back by themselves.
* **Pessimistic locks** are ended by PessimisticRollback and never by ResolveLock: their transaction may go on.

Time is the oracle's, at most `_TIME_AGE_S` old. Questions that are under way are joined (`client.flights`), over all
tasks and threads of the client, and so are resolutions of one transaction in one region. Final statuses are remembered,
`txn_status_cache.MAX_STATUSES` of them. Everything ends at the caller's deadline, background work after
`_BACKGROUND_S`.

Source of the protocol: client-go txnkv/txnlock/lock_resolver.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from pytikv.client import backoff, rpcs
from pytikv.client.by_region import run_bounded
from pytikv.client.flights import Flights
from pytikv.client.request_sender import Call
from pytikv.client.rpcs import Rpc
from pytikv.client.txn.backend import TxnBackend, one_for_all, send_to_key
from pytikv.client.txn.background import Background
from pytikv.client.txn.joint_resolve import JointResolve
from pytikv.client.txn.key_batches import over_keys
from pytikv.client.txn.key_errors import key_error
from pytikv.client.txn.lock_decisions import (
    Fate,
    FellBack,
    LockGroup,
    ReadVerdict,
    SecondaryCheck,
    TxnStatus,
    expires_in_ms,
    group_locks,
    read_verdict,
    status_of,
)
from pytikv.client.txn.txn_status_cache import TxnStatusCache
from pytikv.errors import ServerError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP

__all__ = ["TOGETHER", "LockResolver", "ReadLocks"]

TOGETHER: Final = 16
"""Transactions whose locks are resolved by one request a region, and not by one each."""

_NAME: Final = "lock_resolver"
_TIME_AGE_S: Final = 0.05
_BACKGROUND_S: Final = 40.0


class ReadLocks(NamedTuple):
    """What a reader does next: which transactions to pass over, whose values to take, how long to wait first."""

    ignore: tuple[int, ...] = ()
    access: tuple[int, ...] = ()
    wait_ms: int = 0
    """0: read again at once."""


class _NotFound(Exception):
    """The primary holds neither a lock nor a record of the transaction."""


class _Mismatch(Exception):
    """The key that a lock names is not its transaction's primary."""


class LockResolver:
    """One for all views of one connect. Safe for many threads and tasks."""

    def __init__(self, backend: TxnBackend) -> None:
        self._backend = backend
        self._rt = backend.rt
        self._limit = backend.config.batch_concurrency
        self._flights = Flights(backend.rt)
        self._joint = JointResolve(backend.rt, self._flights, self._send_resolve)
        self.statuses = TxnStatusCache()
        """Final statuses of transactions met so far."""

    @classmethod
    def of(cls, backend: TxnBackend) -> LockResolver:
        """Return the one of this connect, made when it is first asked for."""
        return one_for_all(backend, _NAME, cls)

    # --- for whom -----------------------------------------------------------------------------------------------------

    async def resolve_for_read(
        self, locks: Sequence[kvrpcpb.LockInfo], start_ts: int, call: Call, *, at_once: bool = False
    ) -> ReadLocks:
        """Settle locks that a reader at `start_ts` met.

        `at_once`: resolve here and not in the background, for reads that a store does not let look behind a lock.
        Raises KeyLocked or DeadlineExceeded when the call's time is up, ServerError, and what sending raises.
        """
        groups = group_locks(locks)
        statuses = await self._settle_all(groups, start_ts, call, in_background=not at_once)
        ignore: list[int] = []
        access: list[int] = []
        waits: list[int] = []
        for group, status in zip(groups, statuses, strict=True):
            verdict = read_verdict(status, start_ts)
            if verdict is ReadVerdict.IGNORE:
                ignore.append(group.start_ts)
            elif verdict is ReadVerdict.ACCESS:
                access.append(group.start_ts)
            elif status.is_alive:
                waits.append(max(1, await self._wait_ms(group, status, call)))
        return ReadLocks(tuple(ignore), () if at_once else tuple(access), min(waits, default=0))

    async def resolve_for_write(
        self,
        locks: Sequence[kvrpcpb.LockInfo],
        start_ts: int,
        call: Call,
        *,
        resolve_pessimistic_region: bool = False,
    ) -> int:
        """Settle locks that stand in the way of a write; returns the milliseconds to wait, 0: all were resolved.

        `start_ts`: of the writer, 0 where its snapshot is not to be protected from the locks' transactions.
        `resolve_pessimistic_region`: roll back all expired pessimistic locks of the transaction in the region.
        Raises as `resolve_for_read` does.
        """
        groups = group_locks(locks)
        statuses = await self._settle_all(groups, start_ts, call, pessimistic_region=resolve_pessimistic_region)
        alive = [(group, status) for group, status in zip(groups, statuses, strict=True) if status.is_alive]
        return min([max(1, await self._wait_ms(group, status, call)) for group, status in alive], default=0)

    async def resolve_for_gc(self, locks: Sequence[kvrpcpb.LockInfo], region: Any, call: Call) -> None:
        """End the transactions of all `locks`, whatever their time to live, and their locks in `region`.

        Raises RegionStale when the region has changed: look for locks again. Otherwise as `resolve_for_read`.
        """
        found: dict[int, int] = {}
        if not locks:
            return

        async def one(group: LockGroup) -> None:
            own = call.fork()
            status = await self._end(group, own)
            if group.is_pessimistic:
                await self._roll_back_pessimistic(group, own)
            else:
                found[group.start_ts] = status.commit_ts

        await run_bounded(self._rt, [partial(one, group) for group in group_locks(locks)], self._limit)
        if found:
            infos = [kvrpcpb.TxnInfo(txn=start_ts, status=commit_ts) for start_ts, commit_ts in found.items()]
            await self._send_resolve(region, kvrpcpb.ResolveLockRequest(txn_infos=infos), call)

    # --- one transaction ----------------------------------------------------------------------------------------------

    async def _settle_all(
        self,
        groups: Sequence[LockGroup],
        start_ts: int,
        call: Call,
        *,
        in_background: bool = False,
        pessimistic_region: bool = False,
    ) -> list[TxnStatus]:
        statuses: dict[int, TxnStatus] = {}
        small: list[tuple[LockGroup, TxnStatus]] = []
        now_ts: int | None = None

        async def one(place: int, own: Call) -> None:
            group = groups[place]
            status = await self._status(group, start_ts, own, now_ts=now_ts)
            if status.is_final and group.is_small:
                small.append((group, status))
            else:
                status = await self._act(
                    group, status, start_ts, own, in_background=in_background, pessimistic_region=pessimistic_region
                )
            statuses[place] = status

        jobs: list[Callable[[], Coroutine[Any, Any, None]]] = []
        for place, group in enumerate(groups):
            known = self.statuses.get(group.start_ts)
            if known is not None and group.is_small:
                statuses[place] = known
                small.append((group, known))
            else:
                jobs.append(partial(one, place, call.fork()))
        if len(jobs) > 1:
            now_ts = await self._now_ts(call)  # not each for itself
        await run_bounded(self._rt, jobs, self._limit)
        await self._resolve_small(small, call, in_background=in_background)
        return [statuses[place] for place in range(len(groups))]

    async def _act(
        self,
        group: LockGroup,
        status: TxnStatus,
        start_ts: int,
        call: Call,
        *,
        in_background: bool,
        pessimistic_region: bool,
    ) -> TxnStatus:
        """Do what the status asks for; returns the status that counts then."""
        keys: list[bytes] | None = None
        if status.is_async_commit and not await self._wait_ms(group, status, call):
            try:
                status, keys = await self._recover(group, status, call)
            except FellBack:
                status = await self._status(group, start_ts, call, force_sync_commit=True)
        if status.is_alive:
            return status
        if group.is_pessimistic:
            await self._roll_back_pessimistic(group, call, whole_regions=pessimistic_region)
        elif status.is_final:
            await self._resolve(group, keys, status, call, in_background=in_background)
        return status

    async def _wait_ms(self, group: LockGroup, status: TxnStatus, call: Call) -> int:
        """Return how long a lock that lives may yet do so; 0: it has expired."""
        return expires_in_ms(group.start_ts, status.ttl_ms, await self._now_ts(call))

    async def _now_ts(self, call: Call) -> int:
        return await self._backend.low_resolution_timestamp(_TIME_AGE_S, call.backoffer.deadline)

    async def _status(
        self,
        group: LockGroup,
        start_ts: int,
        call: Call,
        *,
        now_ts: int | None = None,
        force_sync_commit: bool = False,
    ) -> TxnStatus:
        """Ask for the status until the primary is there, or the met lock's time is over.

        `now_ts`: PD's time, where the caller has it; an older one only takes longer to see that a lock has expired.
        """
        lock = group.first
        rollback_if_not_exist = False
        while True:
            current_ts = MAX_TIMESTAMP  # lock_ttl 0: the store decides now
            if lock.lock_ttl:
                current_ts = now_ts or await self._now_ts(call)
                now_ts = None
            try:
                return await self._check(
                    group,
                    start_ts,
                    current_ts,
                    call,
                    rollback_if_not_exist=rollback_if_not_exist,
                    force_sync_commit=force_sync_commit,
                )
            except _Mismatch:
                return TxnStatus(Fate.LOCK_GONE)
            except _NotFound:
                if rollback_if_not_exist:
                    raise ServerError(f"the store would not end transaction {group.start_ts}") from None
            left_ms = expires_in_ms(group.start_ts, lock.lock_ttl, await self._now_ts(call)) if lock.lock_ttl else 0
            if not left_ms:
                rollback_if_not_exist = True
            elif group.is_pessimistic:
                return TxnStatus(Fate.ALIVE, ttl_ms=lock.lock_ttl)
            else:
                cause = f"the primary of transaction {group.start_ts} is not there yet"
                await call.backoffer.backoff(backoff.TXN_NOT_FOUND, cause, at_most_s=left_ms / 1000)

    async def _check(
        self,
        group: LockGroup,
        start_ts: int,
        current_ts: int,
        call: Call,
        *,
        rollback_if_not_exist: bool,
        force_sync_commit: bool = False,
    ) -> TxnStatus:
        """Return the status that is remembered, or that CheckTxnStatus tells. Raises _NotFound, _Mismatch."""
        known = self.statuses.get(group.start_ts)
        if known is not None:
            return known
        request = kvrpcpb.CheckTxnStatusRequest(
            primary_key=group.primary,
            lock_ts=group.start_ts,
            caller_start_ts=start_ts,
            current_ts=current_ts,
            rollback_if_not_exist=rollback_if_not_exist,
            force_sync_commit=force_sync_commit,
            resolving_pessimistic_lock=group.is_pessimistic,
            verify_is_primary=True,
        )
        ends_now = current_ts == MAX_TIMESTAMP
        key = ("status", group.start_ts, group.primary, start_ts, ends_now, rollback_if_not_exist, force_sync_commit)
        answer = await self._flights.run(
            (*key, group.is_pessimistic),
            lambda: self._ask(rpcs.KV_CHECK_TXN_STATUS, group.primary, request, call),
            call.backoffer.deadline,
        )
        if answer.HasField("error"):
            if answer.error.HasField("txn_not_found"):
                raise _NotFound
            if answer.error.HasField("primary_mismatch") and group.is_pessimistic:
                raise _Mismatch
            raise key_error(answer.error, self._backend.codec, group.start_ts)
        status = status_of(answer)
        self.statuses.put(group.start_ts, status)
        return status

    async def _end(self, group: LockGroup, call: Call) -> TxnStatus:
        """Have a transaction ended now, as garbage collection does."""
        check = partial(self._check, group, 0, MAX_TIMESTAMP, call, rollback_if_not_exist=True)
        try:
            status = await check()
            if status.is_async_commit:
                try:
                    return (await self._recover(group, status, call))[0]
                except FellBack:
                    status = await check(force_sync_commit=True)
            if not status.is_alive:
                return status
        except _Mismatch:
            return TxnStatus(Fate.LOCK_GONE)
        except _NotFound:
            pass
        raise ServerError(f"the store would not end transaction {group.start_ts}")

    # --- async commit -------------------------------------------------------------------------------------------------

    async def _recover(self, group: LockGroup, status: TxnStatus, call: Call) -> tuple[TxnStatus, list[bytes]]:
        """Settle an async commit by its secondaries; returns its status and the keys that are locked.

        Raises FellBack.
        """
        primary = status.primary
        assert primary is not None

        async def load() -> tuple[TxnStatus, list[bytes]]:
            check = SecondaryCheck(group.start_ts, primary.min_commit_ts)

            async def ask(region: Any, keys: Sequence[bytes], own: Call) -> None:
                request = kvrpcpb.CheckSecondaryLocksRequest(keys=keys, start_version=group.start_ts)
                answer = await self._backend.send(rpcs.KV_CHECK_SECONDARY_LOCKS, region, request, own)
                if answer.HasField("error"):
                    raise key_error(answer.error, self._backend.codec, group.start_ts)
                check.take(answer.locks, len(keys), answer.commit_ts)

            await over_keys(self._backend, list(dict.fromkeys(primary.secondaries)), call, ask)
            settled = TxnStatus.final(check.commit_ts)
            self.statuses.put(group.start_ts, settled)
            return settled, check.keys

        settled, keys = await self._flights.run(("recover", group.start_ts), load, call.backoffer.deadline)
        return settled, [*keys, group.primary]

    # --- the locks ----------------------------------------------------------------------------------------------------

    async def _resolve_small(
        self, small: Sequence[tuple[LockGroup, TxnStatus]], call: Call, *, in_background: bool
    ) -> None:
        """Resolve locks of transactions of few keys: those of a few key by key, those of many together."""
        if len(small) < TOGETHER:
            jobs = [
                partial(self._resolve, group, None, status, call.fork(), in_background=in_background)
                for group, status in small
            ]
            await run_bounded(self._rt, jobs, self._limit)
            return
        keys = {key: (group.start_ts, status.commit_ts) for group, status in small for key in _left(group)}
        if keys:
            work = partial(self._resolve_together, keys)
            await self._do(work, call, f"resolve locks of {len(small)} transactions", in_background=in_background)

    async def _resolve_together(self, keys: dict[bytes, tuple[int, int]], call: Call) -> None:
        async def send(region: Any, part: Sequence[bytes], own: Call) -> None:
            await self._joint.resolve(region, dict(keys[key] for key in part), own)

        await over_keys(self._backend, list(keys), call, send, whole_regions=True)

    async def _resolve(
        self, group: LockGroup, keys: list[bytes] | None, status: TxnStatus, call: Call, *, in_background: bool
    ) -> None:
        """Resolve the locks of one transaction that were met, or `keys` and those."""
        whole_regions = keys is None and group.is_large
        if keys is not None:
            keys = list(dict.fromkeys([*keys, *group.locks]))
        else:
            keys = list(group.locks) if whole_regions else _left(group)
        if keys:
            work = partial(self._resolve_keys, group.start_ts, status.commit_ts, keys, whole_regions)
            await self._do(work, call, f"resolve locks of transaction {group.start_ts}", in_background=in_background)

    async def _do(self, work: Callable[[Call], Awaitable[None]], call: Call, name: str, *, in_background: bool) -> None:
        """Do it now, or soon."""
        if not in_background:
            await work(call)
            return

        async def later() -> None:
            await work(self._backend.call(self._rt.now() + _BACKGROUND_S))

        await Background.of(self._backend).submit(later, name)

    async def _resolve_keys(
        self, start_ts: int, commit_ts: int, keys: Sequence[bytes], whole_regions: bool, call: Call
    ) -> None:
        async def send(region: Any, part: Sequence[bytes], own: Call) -> None:
            request = kvrpcpb.ResolveLockRequest(start_version=start_ts, commit_version=commit_ts)
            if not whole_regions:
                request.keys.extend(part)
            what: Hashable = region if whole_regions else tuple(part)
            await self._once(
                ("resolve", start_ts, commit_ts, what), lambda: self._send_resolve(region, request, own), own
            )

        await over_keys(self._backend, keys, call, send, whole_regions=whole_regions)

    async def _send_resolve(self, region: Any, request: kvrpcpb.ResolveLockRequest, call: Call) -> None:
        answer = await self._backend.send(rpcs.KV_RESOLVE_LOCK, region, request, call)
        if answer.HasField("error"):
            raise key_error(answer.error, self._backend.codec, request.start_version)

    async def _roll_back_pessimistic(self, group: LockGroup, call: Call, *, whole_regions: bool = False) -> None:
        """Roll back pessimistic locks, each up to the for_update_ts that was seen."""
        for for_update_ts, keys in group.by_for_update_ts().items():
            send = partial(self._send_pessimistic_rollback, group.start_ts, for_update_ts, whole_regions)
            await over_keys(self._backend, keys, call, send, whole_regions=whole_regions)

    async def _send_pessimistic_rollback(
        self, start_ts: int, for_update_ts: int, whole_regions: bool, region: Any, keys: Sequence[bytes], call: Call
    ) -> None:
        request = kvrpcpb.PessimisticRollbackRequest(
            start_version=start_ts, for_update_ts=for_update_ts or MAX_TIMESTAMP, keys=() if whole_regions else keys
        )

        async def load() -> None:
            answer = await self._backend.send(rpcs.KV_PESSIMISTIC_ROLLBACK, region, request, call)
            if answer.errors:
                raise key_error(answer.errors[0], self._backend.codec, start_ts)

        what: Hashable = region if whole_regions else tuple(keys)
        await self._once(("roll back", start_ts, for_update_ts, what), load, call)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _ask(self, rpc: Rpc, key: bytes, request: Any, call: Call) -> Any:
        """Send a request about one key to wherever that is."""
        return await send_to_key(self._backend, rpc, key, request, call)

    async def _once(self, key: Hashable, load: Callable[[], Awaitable[None]], call: Call) -> None:
        """Do what `key` names, or wait for whoever is doing it."""

        async def run() -> None:
            await load()

        await self._flights.run(key, run, call.backoffer.deadline)


def _left(group: LockGroup) -> list[bytes]:
    """Return the keys that are still locked: the look at the primary has resolved that one."""
    return [key for key in group.locks if key != group.primary]
