"""A dumb store of versions and locks behind the client's protocol: regions that split, virtual time, faults.

It knows as much of TiKV's rules as reads and lock resolving need, in the plainest form: lists of versions, no column
families. The world is `testing.sim`'s: tasks run in turn, waiting costs nothing, time jumps.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "txn_fakes"))

from txn_regions import EPOCH_MS, Place, RoutedFake, error_of, split
from txn_regions import raw_fakes as raw_fakes_module

from pytikv.client.backoff import REGION_MISS
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import DEFAULT_CONTEXT, GcState, RequestContext
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.client.txn.options import ReadOptions
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.snapshot_reader import SnapshotReader
from pytikv.codec import api
from pytikv.config import ClientConfig
from pytikv.errors import InvalidArgument
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.testing.sim import World
from pytikv.types import MAX_TIMESTAMP, Timestamp

PUT, DELETE = kvrpcpb.Put, kvrpcpb.Del


@dataclasses.dataclass
class Held:
    """A lock with what waits behind it."""

    info: Any
    value: bytes | None = None


class Scripted(RoutedFake):
    """`TxnBackend` and store in one. `fault(name, request, place)` may raise, or return an answer."""

    def __init__(self, world: World, *, version: int = 1, **options: Any) -> None:
        self.rt: Any = world.process("main")
        self.config = ClientConfig(api_version=version, **options)
        self.codec = api.v2(0, is_raw=False) if version == 2 else api.txn_v1()
        self.shared: dict[str, Any] = {}
        self.places = self.known = [Place(b"", b"")]
        self.versions: dict[bytes, list[tuple[int, int, bytes | None]]] = {}
        self.locks: dict[bytes, Held] = {}
        self.records: dict[tuple[bytes, int], int] = {}  # (key, start_ts) -> commit_ts, 0: rolled back
        self.calls: list[tuple[str, Any, RequestContext]] = []
        self.fault: Callable[[str, Any, Place], Any] = lambda name, request, place: None
        self.safe_points = GcState(0, 0)
        self.memory_lock: Any = None  # a lock that concerns every page, as that of an async commit in the making
        self.oracle_calls = 0
        self._logical = 0

    # --- what tests do to the store -----------------------------------------------------------------------------------

    def wire(self, key: bytes) -> bytes:
        return self.codec.encode_key(key)

    def now_ts(self, ago_ms: int = 0) -> int:
        self._logical += 1
        return int(Timestamp.compose(EPOCH_MS + int(self.rt.now() * 1000) - ago_ms, self._logical % 1000))

    def commit(self, **pairs: bytes | None) -> int:
        """Write as a transaction that met nobody; returns its commit_ts."""
        start_ts, commit_ts = self.now_ts(), self.now_ts()
        for name, value in pairs.items():
            self.apply(self.wire(name.encode()), start_ts, commit_ts, value)
        return commit_ts

    def apply(self, wire: bytes, start_ts: int, commit_ts: int, value: bytes | None) -> None:
        self.versions.setdefault(wire, []).append((commit_ts, start_ts, value))
        self.versions[wire].sort(key=lambda version: -version[0])
        self.records[wire, start_ts] = commit_ts

    def lock(
        self, key: bytes, start_ts: int, *, value: bytes | None = b"new", primary: bytes = b"p", **fields: Any
    ) -> Any:
        """Leave a lock as a client that crashed does."""
        defaults = {"lock_ttl": 3000, "txn_size": 1, "lock_type": PUT, "min_commit_ts": start_ts + 1}
        info = kvrpcpb.LockInfo(
            key=self.wire(key), primary_lock=self.wire(primary), lock_version=start_ts, **{**defaults, **fields}
        )
        self.locks[self.wire(key)] = Held(info, value)
        return info

    def split(self, *keys: bytes) -> None:
        split(self.places, map(self.wire, keys))

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    def requests(self, name: str) -> list[Any]:
        return [request for called, request, _ in self.calls if called == name]

    def reader(self, ts: int | None = None, **options: Any) -> SnapshotReader:
        return SnapshotReader(self, ts or self.now_ts(), ReadOptions(**options))

    def snapshot(self, ts: int | None = None, **options: Any) -> AsyncSnapshot:
        return AsyncSnapshot(self, ts, ReadOptions(**options))

    def resolver(self) -> LockResolver:
        return LockResolver.of(self)

    # --- the protocol -------------------------------------------------------------------------------------------------

    async def timestamp(self, deadline: float) -> Timestamp:
        self.oracle_calls += 1
        return Timestamp(self.now_ts())

    async def low_resolution_timestamp(self, max_age_s: float, deadline: float) -> Timestamp:
        return Timestamp(self.now_ts())

    async def validate_read_ts(self, read_ts: int, deadline: float) -> None:
        if read_ts != MAX_TIMESTAMP and read_ts > self.now_ts():
            raise InvalidArgument("the read timestamp lies in the future")

    async def _serve(self, name: str, place: Place, request: Any, call: Call, context: RequestContext) -> Any:
        assert self.rt.now() < call.backoffer.deadline, "a request that cannot be answered in time"
        copy = type(request).FromString(request.SerializeToString())
        self.calls.append((name, copy, context))
        await self.rt.sleep(0.0005)
        fault = self.fault(name, copy, place)
        if fault is not None:
            if isinstance(fault, BaseException):
                raise fault
            return fault
        if not place.valid:
            await call.backoffer.backoff(REGION_MISS, "epoch not match")
            raise RegionStale
        if name.startswith("KvGet") or name in ("KvBatchGet", "KvScan"):
            return getattr(self, name)(copy, place, context)
        return getattr(self, name)(copy, place)

    async def gc_state(self, deadline: float) -> GcState:
        self.calls.append(("gc_state", None, DEFAULT_CONTEXT))
        await self.rt.sleep(0.0005)
        fault = self.fault("gc_state", None, self.places[0])
        if isinstance(fault, BaseException):
            raise fault
        return self.safe_points

    # --- reads --------------------------------------------------------------------------------------------------------

    def _read(self, key: bytes, ts: int, context: RequestContext, *, needs_commit: bool = False) -> Any:
        """The version at `ts`, as (commit_ts, value), None, or a KeyError."""
        held = self.locks.get(key)
        if held is not None and held.info.lock_version <= ts and context.isolation == 0:
            info = held.info
            if info.lock_version in context.committed_locks and not needs_commit:
                return (0, held.value) if held.value is not None else None
            passes = info.lock_version in context.resolved_locks or info.lock_type == kvrpcpb.PessimisticLock
            if not passes and (ts == MAX_TIMESTAMP or info.min_commit_ts <= ts):
                return kvrpcpb.KeyError(locked=info)
        for commit_ts, _, value in self.versions.get(key, ()):
            if context.isolation == 2 and commit_ts > ts:
                conflict = kvrpcpb.WriteConflict(start_ts=ts, conflict_commit_ts=commit_ts, key=key, reason="RcCheckTs")
                return kvrpcpb.KeyError(conflict=conflict)
            if commit_ts <= ts:
                return None if value is None else (commit_ts, value)
        return None

    def KvGet(self, request: Any, place: Place, context: RequestContext) -> Any:
        assert place.holds(request.key)
        found = self._read(request.key, request.version, context, needs_commit=request.need_commit_ts)
        if isinstance(found, kvrpcpb.KeyError):
            return kvrpcpb.GetResponse(error=found)
        if found is None:
            return kvrpcpb.GetResponse(not_found=True)
        return kvrpcpb.GetResponse(value=found[1], commit_ts=found[0] if request.need_commit_ts else 0)

    def KvBatchGet(self, request: Any, place: Place, context: RequestContext) -> Any:
        assert request.keys
        assert all(place.holds(key) for key in request.keys)
        assert len(request.keys) <= 5120
        if self._is_blocked(context):
            return kvrpcpb.BatchGetResponse(error=kvrpcpb.KeyError(locked=self.memory_lock))
        return kvrpcpb.BatchGetResponse(pairs=self._pairs(request.keys, request.version, context))

    def _is_blocked(self, context: RequestContext) -> bool:
        lock = self.memory_lock
        return lock is not None and lock.lock_version not in context.resolved_locks

    def _pairs(self, keys: Any, ts: int, context: RequestContext) -> list[Any]:
        pairs = []
        for key in keys:
            found = self._read(key, ts, context)
            if isinstance(found, kvrpcpb.KeyError):
                pairs.append(kvrpcpb.KvPair(error=found))
            elif found is not None:
                pairs.append(kvrpcpb.KvPair(key=key, value=found[1]))
        return pairs

    def KvScan(self, request: Any, place: Place, context: RequestContext) -> Any:
        low, high = request.start_key, request.end_key
        if request.reverse:
            low, high = high, low
        assert place.start <= low
        assert not place.end or (high and high <= place.end)
        if self._is_blocked(context):
            error = kvrpcpb.KeyError(locked=self.memory_lock)
            return kvrpcpb.ScanResponse(error=error, pairs=[kvrpcpb.KvPair(error=error)])
        keys = sorted({*self.versions, *self.locks}, reverse=request.reverse)
        keys = [key for key in keys if key >= low and (not high or key < high)]
        pairs = self._pairs(keys, request.version, context)[: request.limit]
        if request.key_only:
            pairs = [kvrpcpb.KvPair(key=p.key, error=p.error if p.HasField("error") else None) for p in pairs]
        return kvrpcpb.ScanResponse(pairs=pairs)

    # --- locks --------------------------------------------------------------------------------------------------------

    def _is_expired(self, info: Any, current_ts: int) -> bool:
        return Timestamp(info.lock_version).physical_ms + info.lock_ttl < Timestamp(current_ts).physical_ms

    def KvCheckTxnStatus(self, request: Any, place: Place) -> Any:
        key, start_ts = request.primary_key, request.lock_ts
        assert place.holds(key)
        held = self.locks.get(key)
        answer = kvrpcpb.CheckTxnStatusResponse()
        if held is not None and held.info.lock_version == start_ts:
            return self._status_of_locked(request, held, answer)
        commit_ts = self.records.get((key, start_ts))
        if commit_ts is not None:
            answer.commit_version = commit_ts
        elif not request.rollback_if_not_exist:
            answer.error.txn_not_found.start_ts = start_ts
        elif request.resolving_pessimistic_lock:
            answer.action = kvrpcpb.LockNotExistDoNothing
        else:
            self.records[key, start_ts] = 0
            answer.action = kvrpcpb.LockNotExistRollback
        return answer

    def _status_of_locked(self, request: Any, held: Held, answer: Any) -> Any:
        info, key = held.info, request.primary_key
        if request.verify_is_primary and info.primary_lock != key:
            answer.error.primary_mismatch.lock_info.CopyFrom(info)
            return answer
        answer.lock_info.CopyFrom(info)
        if info.use_async_commit and not request.force_sync_commit:
            answer.lock_ttl = info.lock_ttl
            return answer
        if self._is_expired(info, request.current_ts):
            del self.locks[key]
            if request.resolving_pessimistic_lock and info.lock_type == kvrpcpb.PessimisticLock:
                answer.action = kvrpcpb.TTLExpirePessimisticRollback
            else:
                self.records[key, request.lock_ts] = 0
                answer.action = kvrpcpb.TTLExpireRollback
            return answer
        answer.lock_ttl = info.lock_ttl
        if info.min_commit_ts and request.caller_start_ts >= info.min_commit_ts != MAX_TIMESTAMP:
            info.min_commit_ts = request.caller_start_ts + 1
        if request.caller_start_ts and info.min_commit_ts > request.caller_start_ts:
            answer.action = kvrpcpb.MinCommitTSPushed
        return answer

    def KvCheckSecondaryLocks(self, request: Any, place: Place) -> Any:
        assert request.keys
        assert all(place.holds(key) for key in request.keys)
        answer = kvrpcpb.CheckSecondaryLocksResponse()
        for key in request.keys:
            held = self.locks.get(key)
            if held is not None and held.info.lock_version == request.start_version:
                answer.locks.append(held.info)
                continue
            answer.commit_ts = self.records.setdefault((key, request.start_version), 0)
        return answer

    def KvResolveLock(self, request: Any, place: Place) -> Any:
        fates = {info.txn: info.status for info in request.txn_infos} or {request.start_version: request.commit_version}
        for key in list(self.locks):
            held = self.locks[key]
            start_ts = held.info.lock_version
            if not place.holds(key) or start_ts not in fates or held.info.lock_type == kvrpcpb.PessimisticLock:
                continue
            if request.keys and key not in request.keys:
                continue
            del self.locks[key]
            if fates[start_ts]:
                self.apply(key, start_ts, fates[start_ts], held.value)
            else:
                self.records[key, start_ts] = 0
        assert all(place.holds(key) for key in request.keys)
        return kvrpcpb.ResolveLockResponse()

    def KVPessimisticRollback(self, request: Any, place: Place) -> Any:
        assert all(place.holds(key) for key in request.keys)
        for key in list(request.keys) or list(self.locks):
            held = self.locks.get(key)
            if held is None or held.info.lock_version != request.start_version or not place.holds(key):
                continue
            if held.info.lock_type == kvrpcpb.PessimisticLock and held.info.lock_for_update_ts <= request.for_update_ts:
                del self.locks[key]
        return kvrpcpb.PessimisticRollbackResponse()


@pytest.fixture
def world() -> Iterator[World]:
    with World(7) as made:
        yield made


@pytest.fixture
def store(world: World) -> Scripted:
    return Scripted(world)


@pytest.fixture
def scripted(world: World) -> Callable[..., Scripted]:
    """Make a store with options of the client."""
    return lambda **options: Scripted(world, **options)


@pytest.fixture
def failing() -> Callable[..., Any]:
    """Run a coroutine that must fail; returns the error."""
    return error_of


@pytest.fixture(scope="session")
def raw_fakes() -> Any:
    """The cluster in memory of the raw client's tests, which speaks bytes."""
    return raw_fakes_module()
