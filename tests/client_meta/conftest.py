"""Fake PDs on real sockets, a runtime without a loop, and tests that run on asyncio and in the calling thread alike."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from pytikv.client.pd import PdClient
from pytikv.client.pool import ConnectionPool, PoolSettings
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import ServerConnection, StreamHandler, Streaming, Unary


class FakeRuntime:
    """Time that passes only by sleeping; coroutines on it never suspend, so `run` is one step."""

    exclusive_connections = False

    def __init__(self) -> None:
        self.clock = 100.0
        self.rng = random.Random(7)
        self.spawned: list[Coroutine[Any, Any, Any]] = []

    def now(self) -> float:
        return self.clock

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds

    async def wait(self, awaitable: Any, deadline: float | None) -> Any:
        assert awaitable.done(), "nothing may wait on this runtime"
        return awaitable.result()

    async def with_deadline(self, coroutine: Coroutine[Any, Any, Any], deadline: float) -> Any:
        return await coroutine

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> None:
        self.spawned.append(coroutine)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the coroutine waits")


class FakeCluster:
    """What all members of one fake PD share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int, cluster_id: int) -> None:
        self.loop = loop
        self.cluster_id = cluster_id
        self.members = [FakeMember(self, i) for i in range(count)]
        self.leader = 0
        self.regions: list[pdpb.Region] = []
        self.stores: dict[int, metapb.Store] = {}
        self.bootstrapped = True
        self.has_batch_scan = True
        self.has_query_region = True
        self.answer_cluster_id: int | None = None
        self.announce: Callable[[FakeMember], str] = lambda member: f"http://{member.address}"
        self.calls: list[tuple[int, str]] = []
        self.tso = FakeTso()
        self.before_answer: Callable[[FakeMember, str], None] | None = None

    def count(self, method: str) -> int:
        return sum(1 for _, name in self.calls if name == method)

    @property
    def endpoints(self) -> list[str]:
        return [member.address for member in self.members]


class FakeTso:
    """The oracle; tests set `script` to answer by hand."""

    def __init__(self) -> None:
        self.physical = 1_700_000_000_000
        self.logical = 0
        self.requests: list[int] = []
        self.script: Callable[[pdpb.TsoRequest], pdpb.TsoResponse | RpcError | None] | None = None

    def answer(self, request: pdpb.TsoRequest, cluster_id: int) -> pdpb.TsoResponse | RpcError | None:
        self.requests.append(request.count)
        if self.script is not None:
            return self.script(request)
        self.logical += request.count
        if self.logical >= 1 << 18:
            self.physical += 1
            self.logical = request.count
        return self.block(request.count, cluster_id)

    def block(self, count: int, cluster_id: int, *, physical: int | None = None, logical: int | None = None) -> Any:
        stamp = pdpb.Timestamp(
            physical=self.physical if physical is None else physical,
            logical=self.logical if logical is None else logical,
        )
        return pdpb.TsoResponse(header=pdpb.ResponseHeader(cluster_id=cluster_id), count=count, timestamp=stamp)


class FakeMember:
    """One PD process: listens, and answers from what the cluster holds."""

    def __init__(self, cluster: FakeCluster, index: int) -> None:
        self.cluster = cluster
        self.index = index
        self.port = 0
        self.hangs = False
        self.fails: set[str] = set()
        self.connections: list[ServerConnection] = []
        self.listener: Any = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # --- from the test's thread ---

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.cluster.loop).result(10)

    def start(self) -> None:
        self._do(self._start())

    def stop(self) -> None:
        self._do(self._stop())

    def cut(self) -> None:
        self._do(self._cut())

    # --- on the server's loop ---

    async def _start(self) -> None:
        rt = AioRuntime()
        routes: dict[bytes, Any] = {}
        for method in ("GetMembers", "GetRegion", "GetPrevRegion", "GetRegionByID", "ScanRegions", "BatchScanRegions"):
            routes[f"/pdpb.PD/{method}".encode()] = Unary(self._handler(method))
        for method in ("GetStore", "GetAllStores"):
            routes[f"/pdpb.PD/{method}".encode()] = Unary(self._handler(method))
        routes[b"/keyspacepb.Keyspace/LoadKeyspace"] = Unary(self._handler("LoadKeyspace"))
        routes[b"/pdpb.PD/QueryRegion"] = Streaming(lambda stream: _QueryHandler(self, stream))
        routes[b"/pdpb.PD/Tso"] = Streaming(lambda stream: _TsoHandler(self, stream))

        def accept() -> ServerConnection:
            connection = ServerConnection(rt, routes)
            self.connections.append(connection)
            return connection

        self.listener = await rt.listen("127.0.0.1", self.port, accept)
        self.port = self.listener.port

    async def _stop(self) -> None:
        if self.listener is not None:
            await self.listener.close()
            self.listener = None
        await self._cut()

    async def _cut(self) -> None:
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.abort()
        self.connections.clear()

    def _handler(self, method: str) -> Callable[[bytes, Any], Any]:
        async def hang() -> bytes:
            await asyncio.sleep(3600)
            return b""

        def handle(data: bytes, info: Any) -> Any:
            cluster = self.cluster
            cluster.calls.append((self.index, method))
            if self.hangs:
                return hang()
            if cluster.before_answer is not None:
                cluster.before_answer(self, method)
            if method in self.fails:
                raise RpcError(Status.UNAVAILABLE, "injected")
            if method != "GetMembers" and cluster.leader != self.index:
                raise RpcError(Status.UNAVAILABLE, "not leader")
            answer = getattr(self, "_" + method)(data)
            if not answer.header.cluster_id:
                answer.header.cluster_id = cluster.answer_cluster_id or cluster.cluster_id
            if not cluster.bootstrapped and method != "GetMembers":
                answer.Clear()
                answer.header.error.type = pdpb.NOT_BOOTSTRAPPED
                answer.header.error.message = "cluster is not bootstrapped"
            return answer.SerializeToString()

        return handle

    def _check(self, request: Any) -> None:
        if request.header.cluster_id != self.cluster.cluster_id:
            text = f"mismatch cluster id, need {self.cluster.cluster_id} but got {request.header.cluster_id}"
            raise RpcError(Status.FAILED_PRECONDITION, text)

    def _GetMembers(self, data: bytes) -> Any:
        cluster = self.cluster
        members = [
            pdpb.Member(name=f"pd{m.index}", member_id=m.index + 1, client_urls=[cluster.announce(m)])
            for m in cluster.members
        ]
        answer = pdpb.GetMembersResponse(members=members)
        if cluster.leader >= 0:
            answer.leader.CopyFrom(members[cluster.leader])
        return answer

    def _find(self, key: bytes) -> int | None:
        for i, found in enumerate(self.cluster.regions):
            meta = found.region
            if meta.start_key <= key and (not meta.end_key or key < meta.end_key):
                return i
        return None

    def _region(self, index: int | None) -> Any:
        if index is None or not 0 <= index < len(self.cluster.regions):
            return pdpb.GetRegionResponse()
        found = self.cluster.regions[index]
        return pdpb.GetRegionResponse(region=found.region, leader=found.leader, down_peers=found.down_peers)

    def _GetRegion(self, data: bytes) -> Any:
        request = pdpb.GetRegionRequest.FromString(data)
        self._check(request)
        return self._region(self._find(request.region_key))

    def _GetPrevRegion(self, data: bytes) -> Any:
        index = self._find(pdpb.GetRegionRequest.FromString(data).region_key)
        return self._region(None if index is None else index - 1)

    def _GetRegionByID(self, data: bytes) -> Any:
        wanted = pdpb.GetRegionByIDRequest.FromString(data).region_id
        return self._region(next((i for i, r in enumerate(self.cluster.regions) if r.region.id == wanted), None))

    def _overlapping(self, start_key: bytes, end_key: bytes) -> list[pdpb.Region]:
        return [
            r
            for r in self.cluster.regions
            if (not r.region.end_key or r.region.end_key > start_key) and (not end_key or r.region.start_key < end_key)
        ]

    def _ScanRegions(self, data: bytes) -> Any:
        request = pdpb.ScanRegionsRequest.FromString(data)
        return pdpb.ScanRegionsResponse(regions=self._overlapping(request.start_key, request.end_key)[: request.limit])

    def _BatchScanRegions(self, data: bytes) -> Any:
        if not self.cluster.has_batch_scan:
            raise RpcError(Status.UNIMPLEMENTED, "unknown method BatchScanRegions")
        request = pdpb.BatchScanRegionsRequest.FromString(data)
        found: dict[int, pdpb.Region] = {}
        for one in request.ranges:
            found.update((r.region.id, r) for r in self._overlapping(one.start_key, one.end_key))
        return pdpb.BatchScanRegionsResponse(regions=list(found.values())[: request.limit])

    def _GetStore(self, data: bytes) -> Any:
        store_id = pdpb.GetStoreRequest.FromString(data).store_id
        answer = pdpb.GetStoreResponse()
        store = self.cluster.stores.get(store_id)
        if store is None:
            answer.header.error.type = pdpb.UNKNOWN
            answer.header.error.message = f"invalid store ID {store_id}, not found"
        else:
            answer.store.CopyFrom(store)
        return answer

    def _GetAllStores(self, data: bytes) -> Any:
        request = pdpb.GetAllStoresRequest.FromString(data)
        stores = [s for s in self.cluster.stores.values() if s.state != 2 or not request.exclude_tombstone_stores]
        return pdpb.GetAllStoresResponse(stores=stores)

    def _LoadKeyspace(self, data: bytes) -> Any:
        name = keyspacepb.LoadKeyspaceRequest.FromString(data).name
        answer = keyspacepb.LoadKeyspaceResponse()
        if name == "gone":
            answer.keyspace.state = keyspacepb.ARCHIVED
        elif name == "app":
            answer.keyspace.id = 42
        else:
            answer.header.error.type = pdpb.ENTRY_NOT_FOUND
        return answer


class _TsoHandler(StreamHandler):
    def __init__(self, member: FakeMember, stream: Any) -> None:
        self.member = member
        self.stream = stream

    def on_message(self, message: bytes) -> None:
        cluster = self.member.cluster
        cluster.calls.append((self.member.index, "Tso"))
        if self.member.hangs:
            return
        if cluster.leader != self.member.index:
            raise RpcError(Status.UNAVAILABLE, "not leader")
        answer = cluster.tso.answer(pdpb.TsoRequest.FromString(message), cluster.cluster_id)
        if isinstance(answer, RpcError):
            raise answer
        if answer is not None:
            self.stream.send(answer.SerializeToString())


class _QueryHandler(StreamHandler):
    def __init__(self, member: FakeMember, stream: Any) -> None:
        self.member = member
        self.stream = stream

    def on_message(self, message: bytes) -> None:
        member, cluster = self.member, self.member.cluster
        if not cluster.has_query_region:
            raise RpcError(Status.UNIMPLEMENTED, "unknown method QueryRegion")
        if cluster.leader != member.index:
            raise RpcError(Status.UNAVAILABLE, "not leader")
        cluster.calls.append((member.index, "QueryRegion"))
        request = pdpb.QueryRegionRequest.FromString(message)
        answer = pdpb.QueryRegionResponse(header=pdpb.ResponseHeader(cluster_id=cluster.cluster_id))

        def note(found: Any) -> int:
            if found.region.id:
                region = pdpb.RegionResponse(region=found.region, leader=found.leader)
                answer.regions_by_id[found.region.id].CopyFrom(region)
            return found.region.id

        for key in request.keys:
            answer.key_id_map.append(note(member._region(member._find(key))))
        for key in request.prev_keys:
            index = member._find(key)
            answer.prev_key_id_map.append(note(member._region(None if index is None else index - 1)))
        for region in cluster.regions:
            if region.region.id in request.ids:
                note(region)
        self.stream.send(answer.SerializeToString())


class Fakes:
    """Makes fake clusters on one background loop, and clients of them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clusters: list[FakeCluster] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake PDs")
        self._thread.start()

    def cluster(self, count: int = 1, *, cluster_id: int = 7) -> FakeCluster:
        cluster = FakeCluster(self.loop, count, cluster_id)
        for member in cluster.members:
            member.start()
        self.clusters.append(cluster)
        return cluster

    def region(self, region_id: int, start: bytes, end: bytes, *, version: int = 1, leader: int = 1) -> pdpb.Region:
        peers = [metapb.Peer(id=10 * region_id + s, store_id=s) for s in (1, 2, 3)]
        epoch = metapb.RegionEpoch(conf_ver=1, version=version)
        meta = metapb.Region(id=region_id, start_key=start, end_key=end, region_epoch=epoch, peers=peers)
        return pdpb.Region(region=meta, leader=peers[leader - 1])

    def close(self) -> None:
        for cluster in self.clusters:
            for member in cluster.members:
                member.stop()
        asyncio.run_coroutine_threadsafe(self._settle(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _settle(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def fakes() -> Iterator[Fakes]:
    made = Fakes()
    yield made
    made.close()


@pytest.fixture
def fake_rt() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture(params=["aio", "caller"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Any], Coroutine[Any, Any, Any]]], Any]:
    """`run(main)`: runs `main(rt)` on asyncio, and on the calling thread."""

    def on_aio(main: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        async def start() -> Any:
            return await main(AioRuntime())

        return asyncio.run(start())

    def on_caller(main: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        rt = CallerRuntime()
        try:
            return rt.run(main(rt))
        finally:
            rt.close()

    return on_aio if request.param == "aio" else on_caller


@pytest.fixture
def with_pd(run: Callable[..., Any]) -> Callable[..., Any]:
    """`with_pd(endpoints, main, **options)`: runs `main(pd, rt)` with a client that is connected, and closes it."""

    def start(endpoints: list[str], main: Callable[[PdClient, Any], Coroutine[Any, Any, Any]], **options: Any) -> Any:
        settings = options.pop("settings", PoolSettings())
        connect = options.pop("connect", True)

        async def body(rt: Any) -> Any:
            pool = ConnectionPool(rt, settings)
            pd = PdClient(rt, pool, endpoints, **options)
            try:
                if connect:
                    await pd.connect(rt.now() + 5)
                return await main(pd, rt)
            finally:
                pd.close()
                await pool.close()

        return run(body)

    return start
