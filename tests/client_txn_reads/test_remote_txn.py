"""The backend over the wire, down to the bytes: contexts, the fast path, lost answers, replicas, PD's safe points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pytikv
from pytikv.client import rpcs
from pytikv.client.cluster import Cluster
from pytikv.client.region_cache import RegionCache
from pytikv.client.region_loader import RegionLoader
from pytikv.client.request_sender import RegionStale
from pytikv.client.store_cache import StoreCache
from pytikv.client.txn.backend import DEFAULT_CONTEXT, GcState, RequestContext, TxnPiece
from pytikv.client.txn.pd_gc import PdGc
from pytikv.client.txn.remote import RemoteTxn
from pytikv.codec import api
from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.config import ClientConfig
from pytikv.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    Outcome,
    ServerError,
    TikvError,
    UnsupportedByServer,
)
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.types import Store
from pytikv.wire.errors import RpcError, Status

RESOLVE = kvrpcpb.ResolveLockRequest(start_version=5)


@pytest.fixture
def make(raw_fakes: Any) -> Callable[..., Any]:
    """Make a cluster in memory and the backend on it."""
    raw_fakes.SLOTS.update({1: "KvGet", 2: "KvScan", 7: "KvBatchGet", 9: "KvScanLock", 10: "KvResolveLock"})

    class TxnModel(raw_fakes.Model):
        def serve(self, address: str, name: str, data: bytes, deadline: float) -> bytes:
            self.deadlines.append(deadline - self.rt.now())
            for kind in ("Get", "Scan", "BatchGet", "ScanLock", "ResolveLock", "UnsafeDestroyRange", "MvccGetByKey"):
                setattr(kvrpcpb, f"Kv{kind}Request", getattr(kvrpcpb, f"{kind}Request"))
                setattr(kvrpcpb, f"Kv{kind}Response", getattr(kvrpcpb, f"{kind}Response"))
            try:
                return super().serve(address, name, data, min(deadline, self.rt.now() + 5.0))
            finally:
                for kind in ("Get", "Scan", "BatchGet", "ScanLock", "ResolveLock"):
                    delattr(kvrpcpb, f"Kv{kind}Request")
                    delattr(kvrpcpb, f"Kv{kind}Response")

        def region_error(self, address: str, request: Any) -> Any:
            if not request.context.region_id:
                return None
            error = super().region_error(address, request)
            if error is not None and error.HasField("not_leader") and request.context.stale_read:
                return None
            return error

        async def get_all_stores(self, deadline: float) -> list[Store]:
            return [Store(i, f"store{i}:20160", labels=self.labels.get(i, ())) for i in self.store_ids]

        async def get_store(self, store_id: int, deadline: float) -> Store:
            return Store(store_id, f"store{store_id}:20160", labels=self.labels.get(store_id, ()))

        def KvGet(self, request: Any) -> Any:
            assert self.inside(request, request.key)
            value = self.data.get(request.key)
            commit_ts = 7 if request.need_commit_ts else 0
            return kvrpcpb.GetResponse(value=value or b"", not_found=value is None, commit_ts=commit_ts)

        def KvBatchGet(self, request: Any) -> Any:
            pairs = [kvrpcpb.KvPair(key=key, value=self.data[key]) for key in request.keys if key in self.data]
            return kvrpcpb.BatchGetResponse(pairs=pairs)

        def KvScanLock(self, request: Any) -> Any:
            return kvrpcpb.ScanLockResponse()

        def KvResolveLock(self, request: Any) -> Any:
            return kvrpcpb.ResolveLockResponse()

        def UnsafeDestroyRange(self, request: Any) -> Any:
            return kvrpcpb.UnsafeDestroyRangeResponse()

        def MvccGetByKey(self, request: Any) -> Any:
            return kvrpcpb.MvccGetByKeyResponse()

        def last(self) -> Any:
            return self.calls[-1][2].context

    def build(*, version: int = 1, stores: int = 3, **options: Any) -> tuple[Any, RemoteTxn]:
        codec = api.v2(0, is_raw=False) if version == 2 else api.txn_v1()
        model = TxnModel(stores, codec=codec)
        model.deadlines = []
        model.labels = options.pop("labels", {})
        caches = StoreCache(model.rt, model, model)
        for store_id in model.store_ids:
            caches.put(Store(store_id, f"store{store_id}:20160", labels=model.labels.get(store_id, ())))
        regions = RegionCache(caches.entry, model.rt.rng)
        pd: Any = raw_fakes._Pd(model)
        loader = RegionLoader(model.rt, model, regions)
        cluster = Cluster(model.rt, model, pd, caches, regions, loader, raw_fakes._Configs())
        return model, RemoteTxn(cluster, ClientConfig(api_version=version, **options), codec, {})

    return build


def send(
    model: Any, backend: RemoteTxn, rpc: Any = rpcs.KV_RESOLVE_LOCK, request: Any = RESOLVE, **options: Any
) -> Any:
    async def body() -> Any:
        call = options.pop("call", None) or backend.call()
        while True:
            try:
                return await backend.send(rpc, await backend.find(b"k", call), request, call, **options)
            except RegionStale:
                continue

    return model.rt.run(body())


def fails(work: Callable[[], Any]) -> TikvError:
    with pytest.raises(TikvError) as caught:
        work()
    return caught.value


# --- reads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_get(make: Any, version: int) -> None:
    model, backend = make(version=version)
    wire = backend.codec.encode_key(b"k")
    model.data[wire] = b"v"
    model.split(backend.codec.encode_key(b"c"))
    run = model.rt.run
    for _ in range(2):  # the region is looked up; then on the fast path
        assert run(backend.get(wire, 9, None)) == b"v"
        assert run(backend.get(backend.codec.encode_key(b"b"), 9, None)) is None
    request = model.calls[-2][2]
    assert (request.key, request.version, request.need_commit_ts) == (wire, 9, False)
    assert request.context.api_version == (kvrpcpb.V2 if version == 2 else kvrpcpb.V1)
    assert request.context.keyspace_id == (0 if version == 2 else NULL_KEYSPACE_ID)
    answer = run(backend.get(wire, 9, None, need_commit_ts=True))
    assert (answer.value, answer.commit_ts) == (b"v", 7)
    assert run(backend.get(wire, 9, None, need_commit_ts=True)).commit_ts == 7


def test_get_goes_on_after_what_it_met(make: Any) -> None:
    """Splits, other leaders, cut connections and refusals are met on the fast path and by the general loop alike."""
    model, backend = make()
    model.data = {b"a": b"1", b"k": b"2"}
    run = model.rt.run
    assert run(backend.get(b"k", 9, None)) == b"2"
    model.split(b"c")
    assert run(backend.get(b"k", 9, None)) == b"2"
    model.at(backend.codec.region_key(b"k")).leader = 2
    assert run(backend.get(b"k", 9, None)) == b"2"
    faults: list[Any] = [RpcError(Status.UNAVAILABLE, "connection reset"), errorpb.Error(server_is_busy={})]
    model.fault = lambda address, name, request: faults.pop(0) if faults else None
    assert run(backend.get(b"k", 9, None)) == b"2"
    assert run(backend.get(b"a", 9, backend.call())) == b"1"
    locked = kvrpcpb.GetResponse(error=kvrpcpb.KeyError(locked=kvrpcpb.LockInfo(key=b"k", lock_version=3)))
    model.fault = lambda address, name, request: locked.SerializeToString()
    for call in (None, backend.call()):
        assert run(backend.get(b"k", 9, call)).error.locked.lock_version == 3
    model.fault = lambda address, name, request: RpcError(Status.DEADLINE_EXCEEDED, "silence")
    with pytikv.deadline(1.0):
        error = fails(lambda: run(backend.get(b"k", 9, None)))
    assert isinstance(error, ConnectionFailed | DeadlineExceeded)
    assert error.outcome is Outcome.NOT_APPLIED


def test_batch_get(make: Any) -> None:
    model, backend = make()
    model.data = {b"k%d" % n: b"v%d" % n for n in range(5)}

    async def read(keys: list[bytes], **options: Any) -> Any:
        call = backend.call()
        return await backend.batch_get(await backend.find(b"k", call), keys, 9, call, **options)

    assert model.rt.run(read([b"k0", b"k3", b"x"])) == ([b"k0", b"k3"], [b"v0", b"v3"])
    model.data[b"k3"] = b"longer"
    answer = model.rt.run(read([b"k0", b"k3"]))
    assert [pair.value for pair in answer.pairs] == [b"v0", b"longer"]
    answer = model.rt.run(read([b"k0"], need_commit_ts=True))
    assert answer.pairs[0].value == b"v0"


# --- contexts ---------------------------------------------------------------------------------------------------------

FULL = RequestContext(
    isolation=kvrpcpb.RC,
    priority="normal",
    not_fill_cache=True,
    request_source="mine",
    resource_group_tag=b"tag",
    task_id=77,
    txn_source=3,
    disk_full_opt=kvrpcpb.AllowedOnAlmostFull,
    resolved_locks=(1, 1 << 60),
    committed_locks=(3,),
)


def test_contexts_say_more_than_the_options(make: Any) -> None:
    model, backend = make(priority="high", request_source="option", resource_group="rg")
    for _ in range(2):
        model.rt.run(backend.get(b"k", 9, None, FULL))
        said = model.last()
        assert (said.priority, said.isolation_level, said.not_fill_cache) == (kvrpcpb.Normal, kvrpcpb.RC, True)
        assert (said.request_source, said.resource_group_tag, said.task_id) == ("mine", b"tag", 77)
        assert (said.txn_source, said.disk_full_opt) == (3, kvrpcpb.AllowedOnAlmostFull)
        assert (list(said.resolved_locks), list(said.committed_locks)) == ([1, 1 << 60], [3])
        assert said.resource_control_context.resource_group_name == "rg"
        assert 0 < said.max_execution_duration_ms <= 5000
    for context in (DEFAULT_CONTEXT, RequestContext(), RequestContext(not_fill_cache=True)):
        for _ in range(2):
            model.rt.run(backend.get(b"k", 9, None, context))
            said = model.last()
            assert (said.priority, said.request_source) == (kvrpcpb.High, "option")
            assert said.not_fill_cache == context.not_fill_cache
            assert not said.resolved_locks
    send(model, backend, context=FULL)
    assert model.last().txn_source == 3


def test_contexts_with_locks_are_not_kept(make: Any) -> None:
    model, backend = make()
    run = model.rt.run
    for number in range(40):
        run(backend.get(b"k", 9, None, RequestContext(resolved_locks=(number + 1,))))
        assert list(model.last().resolved_locks) == [number + 1]
    call = backend.call()
    region = run(backend.find(b"k", call))
    assert len(region.leader.contexts) <= 1


# --- replicas ---------------------------------------------------------------------------------------------------------


def test_replica_reads_of_one_request(make: Any) -> None:
    model, backend = make()
    model.data[b"k"] = b"v"
    run = model.rt.run
    seen = set()
    for _ in range(20):
        assert run(backend.get(b"k", 9, None, RequestContext(replica_read="follower"))) == b"v"
        seen.add(model.addresses()[-1])
        assert model.last().replica_read
    assert seen == {"store2", "store3"}
    assert run(backend.get(b"k", 9, None)) == b"v"
    assert (model.addresses()[-1], model.last().replica_read) == ("store1", False)


def test_the_leader_although_the_option_says_followers(make: Any) -> None:
    model, backend = make(replica_read="follower")
    run = model.rt.run
    run(backend.get(b"k", 9, None, RequestContext(replica_read="leader")))
    assert model.addresses()[-1] == "store1"
    send(model, backend)
    assert (model.addresses()[-1], model.last().replica_read) == ("store1", False)
    for rpc, request in ((rpcs.KV_SCAN_LOCK, kvrpcpb.ScanLockRequest(limit=1)), (rpcs.MVCC_GET_BY_KEY, b"k")):
        if request == b"k":
            request = kvrpcpb.MvccGetByKeyRequest(key=b"k")
        send(model, backend, rpc, request)
        assert model.addresses()[-1] == "store1", "who looks at locks asks the leader"


@pytest.mark.parametrize(
    ("zones", "store"),
    [({2: "z1", 3: "z2"}, "store2"), ({3: "z1"}, "store3"), ({1: "z1", 2: "z1"}, None), ({}, "store1")],
)
def test_closest(make: Any, zones: dict[int, str], store: str | None) -> None:
    """A replica of the zone; the leader where there is none."""
    labels = {store_id: (("zone", zone),) for store_id, zone in zones.items()}
    model, backend = make(labels=labels, match_labels={"zone": "z1"})
    seen = set()
    for _ in range(20):
        model.rt.run(backend.get(b"k", 9, None, RequestContext(replica_read="closest")))
        seen.add(model.addresses()[-1])
        assert model.last().replica_read == (model.addresses()[-1] != "store1")
    assert seen == ({store} if store else {"store1", "store2"})
    model.refused.add(f"{store}:20160" if store else "store1:20160")
    model.rt.run(backend.get(b"k", 9, None, RequestContext(replica_read="closest")))


def test_stale_reads(make: Any) -> None:
    """Any replica answers by itself; one that cannot yet sends the reader to the leader, for a usual read."""
    model, backend = make()
    model.data[b"k"] = b"v"
    stale = RequestContext(stale_read=True)
    seen = set()
    for _ in range(30):
        assert model.rt.run(backend.get(b"k", 9, None, stale)) == b"v"
        seen.add(model.addresses()[-1])
        assert (model.last().stale_read, model.last().replica_read) == (True, False)
    assert seen == {"store1", "store2", "store3"}
    model.calls.clear()

    def fault(address: str, name: str, request: Any) -> Any:
        return errorpb.Error(data_is_not_ready={}) if request.context.stale_read else None

    model.fault = fault
    for _ in range(10):
        assert model.rt.run(backend.get(b"k", 9, None, stale)) == b"v"
        assert (model.addresses()[-1], model.last().stale_read) == ("store1", False)


# --- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["lost", "undetermined", "stale"])
def test_a_request_of_a_transaction_is_sent_again(make: Any, raw_fakes: Any, loss: str) -> None:
    model, backend = make(retry_lost_writes=False)
    send(model, backend)
    model.calls.clear()
    losses = {
        "lost": raw_fakes.LOST,
        "undetermined": errorpb.Error(undetermined_result={}),
        "stale": errorpb.Error(stale_command={}),
    }
    faults = [losses[loss]] * 2
    model.fault = lambda address, name, request: faults.pop(0) if faults else None
    call = backend.call()
    send(model, backend, call=call)
    first, *others = (request.context.is_retry_request for _, _, request in model.calls)
    assert not first
    assert len(others) >= 2
    assert all(others)
    assert call.lost is None, "an answer settles the doubt"


def test_a_region_that_changed_after_a_loss_keeps_the_doubt(make: Any) -> None:
    model, backend = make()
    faults: list[Any] = [RpcError(Status.UNAVAILABLE, "connection reset")]

    def fault(address: str, name: str, request: Any) -> Any:
        if faults:
            model.split(b"c")
            return faults.pop()
        return None

    model.fault = fault
    call = backend.call()
    send(model, backend, call=call)
    assert [request.context.is_retry_request for _, _, request in model.calls][-1]


@pytest.mark.parametrize("then", ["lost", "refused", "busy"])
def test_a_doubt_that_is_not_settled_in_time(make: Any, raw_fakes: Any, then: str) -> None:
    model, backend = make()
    send(model, backend)
    faults: list[Any] = [raw_fakes.LOST]
    after = {"lost": raw_fakes.LOST, "refused": None, "busy": errorpb.Error(server_is_busy={})}

    def fault(address: str, name: str, request: Any) -> Any:
        if faults:
            if then == "refused":
                model.refused.update(f"store{n}:20160" for n in (1, 2, 3))
            return faults.pop()
        return after[then]

    model.fault = fault
    with pytikv.deadline(3.0):
        assert fails(lambda: send(model, backend)).outcome is Outcome.UNDETERMINED


def test_one_that_never_left_is_not_in_doubt(make: Any) -> None:
    model, backend = make()
    model.refused.update(f"store{n}:20160" for n in (1, 2, 3))
    with pytikv.deadline(1.0):
        assert fails(lambda: send(model, backend)).outcome is Outcome.NOT_APPLIED


def test_parts_of_a_call_inherit_its_doubt(make: Any) -> None:
    _, backend = make()
    call = backend.call()
    call.lost = "cut"
    assert call.fork().lost == "cut"


# --- ranges and stores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_pieces_of_a_range(make: Any, version: int) -> None:
    model, backend = make(version=version)
    codec = backend.codec
    c, m = codec.encode_key(b"c"), codec.encode_key(b"m")
    model.split(c)
    model.split(m)
    low, high = codec.encode_range(b"", b"")

    async def body() -> None:
        call = backend.call()
        pieces = await backend.pieces(low, high, call)
        assert [(piece.start_key, piece.end_key) for piece in pieces] == [(low, c), (c, m), (m, high)]
        assert all(isinstance(piece, TxnPiece) for piece in pieces)
        first = await backend.first_piece(low, high, call)
        assert (first.start_key, first.end_key) == (low, c)
        last = await backend.first_piece(low, high, call, reverse=True)
        assert (last.start_key, last.end_key) == (m, high)
        inner = await backend.first_piece(codec.encode_key(b"a"), codec.encode_key(b"b"), call)
        assert (inner.start_key, inner.end_key) == (codec.encode_key(b"a"), codec.encode_key(b"b"))
        inner = await backend.first_piece(codec.encode_key(b"d"), codec.encode_key(b"m"), call, reverse=True)
        assert (inner.start_key, inner.end_key) == (codec.encode_key(b"d"), m)
        groups = await backend.group([m, c, low + b"a"], None, call)
        assert [list(part) for _, part in groups] == [[low + b"a"], [c], [m]]

    model.rt.run(body())


def test_all_stores(make: Any, raw_fakes: Any) -> None:
    model, backend = make(stores=4, labels={4: (("engine", "tiflash"),)})
    faults: list[Any] = [raw_fakes.LOST, RpcError(Status.UNAVAILABLE, "later")]
    refusing = {"store3:20160"}

    def fault(address: str, name: str, request: Any) -> Any:
        if address in refusing:
            return RpcError(Status.PERMISSION_DENIED, "no")
        return faults.pop(0) if faults and address == "store2:20160" else None

    model.fault = fault
    request = kvrpcpb.UnsafeDestroyRangeRequest(start_key=b"a", end_key=b"b")
    call = backend.call(model.rt.now() + 300)
    found = dict(model.rt.run(backend.send_to_all_stores(rpcs.UNSAFE_DESTROY_RANGE, request, call)))
    assert sorted(found) == ["store1:20160", "store2:20160", "store3:20160"]
    assert isinstance(found["store1:20160"], kvrpcpb.UnsafeDestroyRangeResponse)
    assert isinstance(found["store2:20160"], kvrpcpb.UnsafeDestroyRangeResponse)
    assert isinstance(found["store3:20160"], TikvError)
    sent = [request.context for address, _, request in model.calls if address == "store2:20160"]
    assert [context.is_retry_request for context in sent] == [False, True, True]
    assert all(context.cluster_id == 42 and not context.region_id for context in sent)
    assert max(model.deadlines) > 100, "not bound by rpc_timeout"


# --- PD ---------------------------------------------------------------------------------------------------------------


NEW_CALLS = ("GetGCState", "AdvanceTxnSafePoint", "AdvanceGCSafePoint", "SetGCBarrier", "DeleteGCBarrier")


class Pd:
    """PD's answers, by method. `old`: it lacks the newer calls."""

    def __init__(self, *, old: bool = False, own: bool = False) -> None:
        self.old, self.own = old, own
        self.calls: list[tuple[str, Any]] = []
        self.txn, self.gc, self.services = 100, 50, {"gc_worker": 0}

    async def call(self, path: str, request: Any, response: Any, deadline: float) -> Any:
        method = path.rpartition("/")[2]
        self.calls.append((method, request))
        if self.old and method in (
            "GetGCState",
            "AdvanceTxnSafePoint",
            "AdvanceGCSafePoint",
            "SetGCBarrier",
            "DeleteGCBarrier",
        ):
            raise UnsupportedByServer(f"PD does not have {method}")
        return getattr(self, method)(request)

    def GetGCState(self, request: Any) -> Any:
        return pdpb.GetGCStateResponse(
            gc_state=pdpb.GCState(txn_safe_point=self.txn, gc_safe_point=self.gc, is_keyspace_level_gc=self.own)
        )

    def AdvanceTxnSafePoint(self, request: Any) -> Any:
        if request.target < self.txn:
            raise ServerError("PD refused AdvanceTxnSafePoint")
        old, self.txn = self.txn, min(request.target, 150)
        return pdpb.AdvanceTxnSafePointResponse(
            old_txn_safe_point=old,
            new_txn_safe_point=self.txn,
            blocker_description="a barrier" if self.txn == 150 else "",
        )

    def AdvanceGCSafePoint(self, request: Any) -> Any:
        if not self.gc <= request.target <= self.txn:
            raise ServerError("PD refused AdvanceGCSafePoint")
        self.gc = request.target
        return pdpb.AdvanceGCSafePointResponse(new_gc_safe_point=self.gc)

    def SetGCBarrier(self, request: Any) -> Any:
        if request.barrier_ts < self.txn:
            raise ServerError("PD refused SetGCBarrier")
        return pdpb.SetGCBarrierResponse()

    def DeleteGCBarrier(self, request: Any) -> Any:
        return pdpb.DeleteGCBarrierResponse()

    def GetGCSafePoint(self, request: Any) -> Any:
        return pdpb.GetGCSafePointResponse(safe_point=self.gc)

    def UpdateGCSafePoint(self, request: Any) -> Any:
        self.gc = max(self.gc, request.safe_point)
        return pdpb.UpdateGCSafePointResponse(new_safe_point=self.gc)

    def UpdateServiceGCSafePoint(self, request: Any) -> Any:
        name = request.service_id.decode()
        lowest = min(self.services.values())
        if request.TTL <= 0:
            self.services.pop(name, None)
        elif request.safe_point >= lowest:
            self.services[name] = request.safe_point
        return pdpb.UpdateServiceGCSafePointResponse(min_safe_point=min(self.services.values()))

    def ScatterRegion(self, request: Any) -> Any:
        assert list(request.regions_id) == [7]
        return pdpb.ScatterRegionResponse()

    def GetOperator(self, request: Any) -> Any:
        return self.operator

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def run(coroutine: Any) -> Any:
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def test_safe_points_in_the_words_of_today() -> None:
    pd = Pd()
    gc = PdGc(pd, NULL_KEYSPACE_ID)
    assert run(gc.state(9.0)) == GcState(100, 50)
    assert run(gc.advance_txn_safe_point(140, 9.0)) == GcState(140, 50)
    assert run(gc.advance_txn_safe_point(160, 9.0)) == GcState(150, 50, "a barrier")
    assert run(gc.advance_gc_safe_point(145, 9.0)) == GcState(150, 145)
    assert run(gc.advance_txn_safe_point(120, 9.0)) == run(gc.advance_gc_safe_point(120, 9.0)) == GcState(150, 145)
    with pytest.raises(ServerError):
        run(gc.advance_gc_safe_point(151, 9.0))
    run(gc.set_barrier("backup", 155, 60, 9.0))
    run(gc.delete_barrier("backup", 9.0))
    sent = [request for name, request in pd.calls if "Barrier" in name]
    assert (sent[0].barrier_id, sent[0].barrier_ts, sent[0].ttl_seconds) == ("backup", 155, 60)
    assert not any(request.HasField("keyspace_scope") for _, request in pd.calls)
    with pytest.raises(InvalidArgument, match="150"):
        run(gc.set_barrier("backup", 149, 60, 9.0))


@pytest.mark.parametrize("own", [True, False])
def test_safe_points_of_a_keyspace(own: bool) -> None:
    pd = Pd(own=own)
    gc = PdGc(pd, 5)
    run(gc.advance_txn_safe_point(140, 9.0))
    run(gc.advance_gc_safe_point(140, 9.0))
    scopes = [request.keyspace_scope.keyspace_id for _, request in pd.calls if request.HasField("keyspace_scope")]
    assert pd.names()[0] == "GetGCState", "asked whether they are its own"
    assert scopes == [5] * (len(pd.calls) if own else 1)


def test_safe_points_in_the_words_of_old() -> None:
    pd = Pd(old=True)
    gc = PdGc(pd, NULL_KEYSPACE_ID)
    assert run(gc.state(9.0)) == GcState(50, 50)
    run(gc.set_barrier("backup", 120, 60, 9.0))
    assert run(gc.advance_txn_safe_point(110, 9.0)) == GcState(110, 50)
    state = run(gc.advance_txn_safe_point(130, 9.0))
    assert (state.txn_safe_point, state.gc_safe_point) == (120, 50)
    assert "120" in state.blocker
    assert run(gc.advance_gc_safe_point(120, 9.0)) == GcState(120, 120)
    run(gc.delete_barrier("backup", 9.0))
    assert run(gc.advance_txn_safe_point(130, 9.0)).blocker == ""
    with pytest.raises(InvalidArgument, match="too late"):
        run(gc.set_barrier("backup", 100, 60, 9.0))
    assert pd.names().count("GetGCState") == 1, "an old PD is asked once"


def test_each_call_may_be_the_first_that_an_old_pd_lacks() -> None:
    for work in ("set_barrier('b', 120, 60, 9.0)", "delete_barrier('b', 9.0)", "advance_gc_safe_point(60, 9.0)"):
        pd = Pd(old=True)
        run(eval(f"PdGc(pd, NULL_KEYSPACE_ID).{work}"))
        assert pd.names()[-1].startswith("Update")


@pytest.mark.parametrize(
    ("operator", "is_done"),
    [
        (pdpb.GetOperatorResponse(desc=b"scatter-region", status=pdpb.RUNNING), False),
        (pdpb.GetOperatorResponse(desc=b"scatter-region", status=pdpb.SUCCESS), True),
        (pdpb.GetOperatorResponse(desc=b"balance-leader", status=pdpb.RUNNING), True),
        (pdpb.GetOperatorResponse(), True),
    ],
)
def test_scattering(operator: Any, is_done: bool) -> None:
    pd = Pd()
    pd.operator = operator
    gc = PdGc(pd, NULL_KEYSPACE_ID)
    run(gc.scatter_region(7, 9.0))
    assert run(gc.is_scattered(7, 9.0)) is is_done
