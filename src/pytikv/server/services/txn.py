"""The transactional RPCs: what a request must pass before `TxnStorage` carries it out, and where its errors go.

In TiKV's order: the API version with the mode of the keys, the region, the keys against the region, and, for a stale
read, whether its timestamp is safe in the region. A key outside is an error text, a range outside of the region an
error (never clipped, but for the commands that go over a region's locks, which have no range of their own).

Where errors of the request as such go: `services.errors`.

Answers tell what they cost where TiKV's do (`services.cost`): they are open until they leave. A request whose client's
time is over when its turn comes is not carried out (`storage.spent`).

Long ones (scans and batches of many keys, everything region-wide) run off the loop. A lock request that waits is an
outcome of its own. KvGC, the lock observer and KvImport are not served, as in TiKV: UNIMPLEMENTED.

Sources: TiKV src/server/service/kv.rs, src/storage/mod.rs, src/storage/txn/store.rs (verify_range).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from pytikv.codec import memcomparable
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.metrics.store import StoreMetrics, command_of
from pytikv.server.regions import RegionEntry, RegionError, check_key_in_region
from pytikv.server.services.clock import ServiceClock
from pytikv.server.services.cost import details_field, opened, read_parts, write_header, write_parts
from pytikv.server.services.errors import REFUSALS, refusal_body
from pytikv.server.services.outcome import Blocking, Durable, Outcome, Waits
from pytikv.server.services.pending import PendingWrites
from pytikv.server.services.raw import count
from pytikv.server.services.requests import check_cluster, decode, encode
from pytikv.server.storage.api_version import check_txn_keys, check_txn_range
from pytikv.server.storage.errors import InvalidReqRange, KeyOutOfRegion
from pytikv.server.storage.spent import DeadlineExceeded, Spent
from pytikv.server.storage.txn_storage import Done, Waiting
from pytikv.server.store import Store
from pytikv.types import EVERYTHING

__all__ = ["DETAILS", "TxnCommands"]

_MANY_KEYS: Final = 512
_LONG_SCAN: Final = 1024
_SAFE_TS_EVERY_S: Final = 0.05
_ALL_KEYS: Final = (None,)
_NOTHING_SAFE: Final = (0, float("-inf"))
_encode = memcomparable.encode
Handler = Callable[[bytes], Outcome]


@dataclasses.dataclass(frozen=True, slots=True)
class _Rpc:
    """How one RPC is treated."""

    request: type[Message]
    response: type[Message]
    keys: Callable[[Any], Sequence[bytes]] | None = None
    """The keys that must lie in the region; None: the request has none."""
    checked_as: str = ""
    """What the API version check calls the command; empty: it is not checked."""
    check_range: Callable[[Any, RegionEntry], None] | None = None
    """Of requests with a range: raises when it does not lie in the region."""
    has_region: bool = True
    is_write: bool = False
    is_snapshot_read: bool = False
    is_long: Callable[[Any], bool] = lambda _: False


def _keys(request: Any) -> Sequence[bytes]:
    keys: Sequence[bytes] = request.keys
    return keys


def _mutated(request: Any) -> Sequence[bytes]:
    return [mutation.key for mutation in request.mutations]


def _one(field: str) -> Callable[[Any], Sequence[bytes]]:
    return lambda request: (getattr(request, field),)


def _always(request: Any) -> bool:
    return True


def _has_no_keys(request: Any) -> bool:
    return not request.keys


def _has_many_keys(request: Any) -> bool:
    return len(request.keys) > _MANY_KEYS


def _has_many_mutations(request: Any) -> bool:
    return len(request.mutations) > _MANY_KEYS


def _writes(name: str, keys: Callable[[Any], Sequence[bytes]], checked_as: str = "", **more: Any) -> _Rpc:
    request, response = getattr(kvrpcpb, f"{name}Request"), getattr(kvrpcpb, f"{name}Response")
    return _Rpc(request, response, keys, checked_as, is_write=True, **more)


def _check_scan(request: kvrpcpb.ScanRequest, region: RegionEntry) -> None:
    """A scan stays in its region. Only the lower bound of a reverse scan, and the upper one else, may be left out."""
    lower, upper = _encode(request.start_key), memcomparable.encode_border(request.end_key)
    if request.reverse:
        lower, upper = upper, lower
    if (lower and lower < region.start_key) or (upper and region.end_key and upper > region.end_key):
        raise InvalidReqRange(lower, upper, region.start_key, region.end_key)


def _check_delete_range(request: kvrpcpb.DeleteRangeRequest, region: RegionEntry) -> None:
    start, end = _encode(request.start_key), _encode(request.end_key)
    if start >= end:
        raise RegionError(errorpb.Error(message="invalid delete range command: start_key is not below end_key"))
    check_key_in_region(region, start)
    if region.end_key and end != region.end_key:
        check_key_in_region(region, end)


_RPCS: Final[dict[str, _Rpc]] = {
    "KvGet": _Rpc(kvrpcpb.GetRequest, kvrpcpb.GetResponse, _one("key"), "get", is_snapshot_read=True),
    "KvBatchGet": _Rpc(
        kvrpcpb.BatchGetRequest,
        kvrpcpb.BatchGetResponse,
        _keys,
        "batch_get",
        is_snapshot_read=True,
        is_long=_has_many_keys,
    ),
    "KvBufferBatchGet": _Rpc(
        kvrpcpb.BufferBatchGetRequest,
        kvrpcpb.BufferBatchGetResponse,
        _keys,
        "buffer_batch_get",
        is_long=_has_many_keys,
    ),
    "KvScan": _Rpc(
        kvrpcpb.ScanRequest,
        kvrpcpb.ScanResponse,
        checked_as="scan",
        check_range=_check_scan,
        is_snapshot_read=True,
        is_long=lambda request: request.limit > _LONG_SCAN or request.sample_step > 0,
    ),
    "KvScanLock": _Rpc(kvrpcpb.ScanLockRequest, kvrpcpb.ScanLockResponse, is_long=_always),
    "KvPrewrite": _writes("Prewrite", _mutated, "prewrite", is_long=_has_many_mutations),
    "KvFlush": _writes("Flush", _mutated, "flush", is_long=_has_many_mutations),
    "KvPessimisticLock": _writes("PessimisticLock", _mutated, "acquire_pessimistic_lock"),
    "KVPessimisticRollback": _writes("PessimisticRollback", _keys, is_long=_has_no_keys),
    "KvCommit": _writes("Commit", _keys, is_long=_has_many_keys),
    "KvCleanup": _writes("Cleanup", _one("key")),
    "KvBatchRollback": _writes("BatchRollback", _keys, is_long=_has_many_keys),
    "KvTxnHeartBeat": _writes("TxnHeartBeat", _one("primary_lock")),
    "KvCheckTxnStatus": _writes("CheckTxnStatus", _one("primary_key")),
    "KvCheckSecondaryLocks": _writes("CheckSecondaryLocks", _keys),
    "KvResolveLock": _writes("ResolveLock", _keys, is_long=_has_no_keys),
    "KvDeleteRange": _Rpc(
        kvrpcpb.DeleteRangeRequest,
        kvrpcpb.DeleteRangeResponse,
        checked_as="delete_range",
        check_range=_check_delete_range,
        is_write=True,
        is_long=_always,
    ),
    "UnsafeDestroyRange": _Rpc(
        kvrpcpb.UnsafeDestroyRangeRequest,
        kvrpcpb.UnsafeDestroyRangeResponse,
        has_region=False,
        is_write=True,
        is_long=_always,
    ),
    "MvccGetByKey": _Rpc(kvrpcpb.MvccGetByKeyRequest, kvrpcpb.MvccGetByKeyResponse, _one("key")),
    "MvccGetByStartTs": _Rpc(kvrpcpb.MvccGetByStartTsRequest, kvrpcpb.MvccGetByStartTsResponse, is_long=_always),
    "BroadcastTxnStatus": _Rpc(kvrpcpb.BroadcastTxnStatusRequest, kvrpcpb.BroadcastTxnStatusResponse, has_region=False),
    "GetLockWaitInfo": _Rpc(kvrpcpb.GetLockWaitInfoRequest, kvrpcpb.GetLockWaitInfoResponse, has_region=False),
}


DETAILS: Final = frozenset(name for name, rpc in _RPCS.items() if details_field(rpc.response))
"""The RPCs whose answers tell what they cost."""


class _Plan:
    """What is the same for all requests of one RPC."""

    def __init__(self, name: str, rpc: _Rpc, metrics: StoreMetrics) -> None:
        self.name = name
        self.rpc = rpc
        self.command = command_of(name)
        self.counts = metrics.counts_of(self.command) if rpc.is_write else None
        self.field = details_field(rpc.response)
        self.write_header = write_header(self.field) if rpc.is_write and self.field else b""

    def open(self, body: bytes, spent: Spent) -> bytes:
        """Return an answer as it is until it leaves."""
        if self.write_header:
            return body + self.write_header + write_parts(spent)
        return opened(body, self.field, read_parts(spent), is_get=self.name == "KvGet") if self.field else body


class TxnCommands:
    """The transactional RPCs of one store."""

    def __init__(self, store: Store, pending: PendingWrites, clock: ServiceClock, metrics: StoreMetrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._txn = store.txn
        self._regions = store.regions
        self._api = store.api_version
        self._pending = pending
        self._safe_ts: dict[tuple[int, int], tuple[int, float]] = {}
        """By region id and version: up to where stale reads are safe, and when that was found out."""

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by RPC."""
        return {name: self._handler(name, rpc) for name, rpc in _RPCS.items()}

    def _handler(self, name: str, rpc: _Rpc) -> Handler:
        plan, clock, store = _Plan(name, rpc, self._metrics), self._clock, self._store

        def handle(data: bytes) -> Outcome:
            request: Any = decode(rpc.request, data)
            context = request.context
            check_cluster(store.cluster_id, context)
            spent = Spent(clock.now, clock.arrived, context.max_execution_duration_ms)
            if not rpc.is_long(request) and not self._must_look(rpc, request):
                return self._serve(plan, request, len(data), spent)
            return Blocking(lambda: self._serve_off_loop(plan, request, len(data), spent))

        return handle

    def _serve_off_loop(self, plan: _Plan, request: Any, size_bytes: int, spent: Spent) -> bytes | Durable:
        if not plan.rpc.is_write or not self._pending.sync:
            outcome = self._serve(plan, request, size_bytes, spent)
        else:
            with self._pending.off_loop():
                outcome = self._serve(plan, request, size_bytes, spent)
        assert isinstance(outcome, bytes | Durable), "no long request waits for a lock"
        return outcome

    def _serve(self, plan: _Plan, request: Any, size_bytes: int, spent: Spent) -> bytes | Durable | Waits:
        """Check and carry out one request of so many bytes."""
        rpc = plan.rpc
        keys = () if rpc.keys is None else rpc.keys(request)
        try:
            spent.begin()
            region = self._check(rpc, request, keys)
            done = self._txn.execute(plan.name, request, EVERYTHING if region is None else region.bounds, spent)
        except REFUSALS as error:
            if isinstance(error, DeadlineExceeded):
                self._metrics.came_too_late(plan.command)
            return plan.open(refusal_body(plan.rpc.response(), error, request.context.region_id), spent)
        spent.end()
        if isinstance(done, Waiting):
            finish = functools.partial(self._finish, plan, keys, size_bytes, spent, region)
            return Waits(done, functools.partial(self._finish_late, spent, spent.now(), finish))
        return self._finish(plan, keys, size_bytes, spent, region, done)

    def _finish_late(
        self, spent: Spent, waits_since: float, finish: Callable[[Done], bytes | Durable], done: Done
    ) -> bytes | Durable:
        spent.lock_wait_s = spent.now() - waits_since
        self._metrics.waits.observe(spent.lock_wait_s)
        return finish(done)

    def _finish(
        self,
        plan: _Plan,
        keys: Sequence[bytes],
        size_bytes: int,
        spent: Spent,
        region: RegionEntry | None,
        done: Done,
    ) -> bytes | Durable:
        body = plan.open(encode(done.response), spent)
        if plan.counts is not None:
            self._metrics.changed(plan.counts, spent, len(keys))
            if not done.ticket:
                self._metrics.refused(plan.command, done.response)
        if not done.ticket:
            return self._pending.gate(keys[0], body) if len(keys) == 1 else self._pending.gate_all(body)
        if region is not None:
            count(region, size_bytes, len(keys))
        if not self._pending.sync:
            return body
        self._pending.note(keys or _ALL_KEYS, done.ticket)
        return Durable(body, done.ticket)

    # --- checks -------------------------------------------------------------------------------------------------------

    def _check(self, rpc: _Rpc, request: Any, keys: Sequence[bytes]) -> RegionEntry | None:
        context = request.context
        if rpc.check_range is not None:
            check_txn_range(self._api, context.api_version, rpc.checked_as, request.start_key, request.end_key)
        elif rpc.checked_as:
            check_txn_keys(self._api, context.api_version, rpc.checked_as, keys)
        if not rpc.has_region:
            return None
        region = self._regions.check(context).region
        if region.start_key or region.end_key:
            for key in keys:
                encoded = _encode(key)
                if not region.contains(encoded):
                    raise KeyOutOfRegion(encoded, region.id, region.start_key, region.end_key)
        if rpc.check_range is not None:
            rpc.check_range(request, region)
        if rpc.is_snapshot_read and context.stale_read:
            self._check_stale_read(request.version, region)
        return region

    def _must_look(self, rpc: _Rpc, request: Any) -> bool:
        """Tell whether a stale read has to look at the locks of its region first, which takes time."""
        if not rpc.is_snapshot_read or not request.context.stale_read:
            return False
        context = request.context
        known = self._safe_ts.get((context.region_id, context.region_epoch.version), _NOTHING_SAFE)
        return bool(request.version > known[0])

    def _check_stale_read(self, version: int, region: RegionEntry) -> None:
        """Refuse a read above what is known to be safe in the region, looking at its locks now and then."""
        place = region.id, region.version
        safe_ts, looked_s = self._safe_ts.get(place, _NOTHING_SAFE)
        now_s = self._txn.runner.now_s()
        if version > safe_ts and not 0 <= now_s - looked_s < _SAFE_TS_EVERY_S:
            safe_ts = max(safe_ts, self._txn.ranges.safe_ts(region.bounds))
            if len(self._safe_ts) > 2 * len(self._regions):
                self._safe_ts.clear()  # of regions that are no more
            self._safe_ts[place] = safe_ts, now_s
        if version > safe_ts:
            error = errorpb.Error(message=f"data of region {region.id} is not ready at {version}")
            error.data_is_not_ready.region_id = region.id
            error.data_is_not_ready.peer_id = region.peer.id
            error.data_is_not_ready.safe_ts = safe_ts
            raise RegionError(error)
