"""A cluster in memory for the client's request path: regions, stores, a clock that sleeps move, and faults on demand.

Nothing here waits: every fake answers at once, so a coroutine runs to its end in one step and time is what sleeps add.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytikv.client.cluster import Cluster
from pytikv.client.handle import Connection
from pytikv.client.raw import AsyncRawClient
from pytikv.client.raw_remote import RemoteRaw
from pytikv.client.region_cache import RegionCache
from pytikv.client.region_loader import RegionLoader
from pytikv.client.store_cache import StoreCache
from pytikv.codec import api
from pytikv.config import ClientConfig
from pytikv.errors import ConnectionFailed
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.rt.clock import ambient_clock
from pytikv.types import Peer, Region, Store
from pytikv.wire.errors import RpcError, Status

SLOTS = {13: "RawGet", 14: "RawBatchGet", 15: "RawPut", 16: "RawBatchPut", 17: "RawDelete", 18: "RawBatchDelete",
         19: "RawScan", 20: "RawDeleteRange", 34: "RawCoprocessor"}  # fmt: skip
LOST = "lost"  # a fault: the request takes effect, its answer does not come back


class Clock:
    """A runtime whose waits are over at once."""

    exclusive_connections = False
    Cancelled = KeyboardInterrupt

    def __init__(self) -> None:
        self.rng = random.Random(7)
        self.clock = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.clock

    def time(self) -> float:
        return 1.7e9 + self.clock

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a wait of nothing spins"
        self.clock += seconds
        self.slept.append(seconds)

    async def gather(self, *coroutines: Any) -> list[Any]:
        try:
            return [await coroutine for coroutine in coroutines]
        finally:
            for coroutine in coroutines:
                coroutine.close()

    async def with_deadline(self, coroutine: Any, deadline: float) -> Any:
        return await coroutine

    async def run_blocking(self, function: Any, *args: Any) -> Any:
        return function(*args)

    def spawn(self, coroutine: Any, *, name: str) -> None:
        self.run(coroutine)

    def run(self, coroutine: Any) -> Any:
        token = ambient_clock.set(self.now)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        finally:
            ambient_clock.reset(token)
        raise AssertionError("a fake waited")


@dataclasses.dataclass
class RegionState:
    id: int
    start_key: bytes
    end_key: bytes
    stores: tuple[int, ...]
    leader: int
    version: int = 1

    def contains(self, key: bytes) -> bool:
        return self.start_key <= key and (not self.end_key or key < self.end_key)

    def peer(self, store_id: int) -> Peer:
        return Peer(self.id * 100 + store_id, store_id)

    def meta(self) -> Region:
        peers = tuple(self.peer(store) for store in self.stores)
        return Region(self.id, self.start_key, self.end_key, 1, self.version, peers, self.peer(self.leader))

    def pb(self) -> metapb.Region:
        meta = self.meta()
        region = metapb.Region(id=meta.id, start_key=meta.start_key, end_key=meta.end_key)
        region.region_epoch.conf_ver, region.region_epoch.version = meta.conf_ver, meta.version
        for peer in meta.peers:
            region.peers.add(id=peer.id, store_id=peer.store_id)
        return region


class Model:
    """Stores, regions and data. `fault(address, name, request)` may return an answer, an exception, or LOST."""

    def __init__(self, stores: int = 3, *, codec: Any = None) -> None:
        self.rt = Clock()
        self.codec = codec or api.raw_v1()
        self.store_ids = tuple(range(1, stores + 1))
        self.regions = [RegionState(1, b"", b"", self.store_ids, 1)]
        self.data: dict[bytes, bytes] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.alone: list[tuple[str, dict[str, str]]] = []  # unary calls and their metadata
        self.fault: Callable[[str, str, Any], Any] = lambda address, name, request: None
        self.refused: set[str] = set()
        self.forgotten: list[str] = []
        self.pd_lag: list[Region] = []

    # --- PD -----------------------------------------------------------------------------------------------------------

    async def get_region(self, key: bytes, deadline: float) -> Region | None:
        if self.pd_lag:
            return self.pd_lag.pop(0)
        return self.at(key).meta()

    async def get_prev_region(self, key: bytes, deadline: float) -> Region | None:
        found = [r for r in self.regions if r.end_key and r.end_key <= self.at(key).start_key]
        return max(found, key=lambda r: r.start_key).meta() if found else None

    async def scan_regions(self, start: bytes, end: bytes, limit: int, deadline: float) -> list[Region]:
        found = [
            r.meta() for r in self.ordered() if (not r.end_key or r.end_key > start) and (not end or r.start_key < end)
        ]
        return found[:limit]

    async def get_store(self, store_id: int, deadline: float) -> Store | None:
        return Store(store_id, f"store{store_id}:20160", f"store{store_id}:20180")

    async def get_all_stores(self, deadline: float) -> list[Store]:
        return [Store(i, f"store{i}:20160") for i in self.store_ids]

    # --- the pool -----------------------------------------------------------------------------------------------------

    async def channel(self, address: str, deadline: float) -> Model.Channel:
        if address in self.refused:
            raise ConnectionFailed(f"{address}: connection refused")
        return Model.Channel(self, address)

    def forget(self, address: str) -> None:
        self.forgotten.append(address)

    async def is_alive(self, address: str, deadline: float) -> bool:
        return address not in self.refused

    class Channel:
        def __init__(self, model: Model, address: str) -> None:
            self.model, self.address = model, address

        async def batch(self, slot: int, request: bytes, deadline: float) -> bytes:
            return self.model.serve(self.address, SLOTS[slot], request, deadline)

        async def unary(self, path: bytes, request: bytes, *, deadline: float, metadata: Any = ()) -> bytes:
            self.model.alone.append((path.rpartition(b"/")[2].decode(), dict(metadata)))
            return self.model.serve(self.address, path.rpartition(b"/")[2].decode(), request, deadline)

    # --- regions ------------------------------------------------------------------------------------------------------

    def ordered(self) -> list[RegionState]:
        return sorted(self.regions, key=lambda region: region.start_key)

    def at(self, key: bytes) -> RegionState:
        return next(region for region in self.regions if region.contains(key))

    def split(self, wire_key: bytes, leader: int | None = None) -> None:
        key = self.codec.region_key(wire_key)
        old = self.at(key)
        if old.start_key == key:
            return
        old.version += 1
        new_id = max(region.id for region in self.regions) + 1
        self.regions.append(RegionState(new_id, key, old.end_key, old.stores, leader or old.leader, old.version))
        old.end_key = key

    # --- the store ----------------------------------------------------------------------------------------------------

    def serve(self, address: str, name: str, data: bytes, deadline: float) -> bytes:
        request = getattr(kvrpcpb, {"RawCompareAndSwap": "RawCAS"}.get(name, name) + "Request").FromString(data)
        assert self.rt.now() <= deadline <= self.rt.now() + 5.0
        self.calls.append((address, name, request))
        fault = self.fault(address, name, request)
        if isinstance(fault, BaseException):
            raise fault
        if isinstance(fault, bytes):
            return fault
        if fault is not None and fault != LOST:
            return self.answer(name, region_error=fault)
        error = self.region_error(address, request)
        if error is not None:
            return self.answer(name, region_error=error)
        answer = getattr(self, name)(request)
        if fault == LOST:
            raise RpcError(Status.UNAVAILABLE, "connection reset")
        return answer.SerializeToString()

    def answer(self, name: str, **fields: Any) -> bytes:
        kind = {"RawCompareAndSwap": "RawCAS"}.get(name, name) + "Response"
        return getattr(kvrpcpb, kind)(**fields).SerializeToString()

    def region_error(self, address: str, request: Any) -> errorpb.Error | None:
        context = request.context
        assert context.cluster_id == 42
        error = errorpb.Error(message="x")
        region = next((r for r in self.regions if r.id == context.region_id), None)
        store_id = int(address[5:].partition(":")[0])
        assert context.peer.store_id == store_id
        if region is None:
            error.region_not_found.region_id = context.region_id
        elif region.leader != store_id and not context.replica_read:
            error.not_leader.region_id = region.id
            leader = region.peer(region.leader)
            error.not_leader.leader.id, error.not_leader.leader.store_id = leader.id, leader.store_id
        elif context.region_epoch.version != region.version:
            error.epoch_not_match.current_regions.extend(r.pb() for r in self.ordered() if self.touches(r, request))
        else:
            return None
        return error

    def touches(self, region: RegionState, request: Any) -> bool:
        return True  # a store tells the regions that came of the one addressed; all of them will do

    def inside(self, request: Any, key: bytes) -> bool:
        region = next(r for r in self.regions if r.id == request.context.region_id)
        return region.contains(self.codec.region_key(key))

    def RawGet(self, request: Any) -> Any:
        assert self.inside(request, request.key)
        if request.key not in self.data:
            return kvrpcpb.RawGetResponse(not_found=True)
        return kvrpcpb.RawGetResponse(value=self.data[request.key])

    def RawPut(self, request: Any) -> Any:
        assert self.inside(request, request.key)
        if len(request.key) > 8192:
            return kvrpcpb.RawPutResponse(error=f"max key size exceeded, size: {len(request.key)}, limit: 8192")
        self.data[request.key] = request.value
        return kvrpcpb.RawPutResponse()

    def RawDelete(self, request: Any) -> Any:
        assert self.inside(request, request.key)
        self.data.pop(request.key, None)
        return kvrpcpb.RawDeleteResponse()

    def RawBatchGet(self, request: Any) -> Any:
        assert all(self.inside(request, key) for key in request.keys)
        pairs = [kvrpcpb.KvPair(key=key, value=self.data[key]) for key in request.keys if key in self.data]
        return kvrpcpb.RawBatchGetResponse(pairs=pairs)

    def RawBatchPut(self, request: Any) -> Any:
        assert all(self.inside(request, pair.key) for pair in request.pairs)
        assert len(request.ttls) in (0, len(request.pairs))
        if any(len(pair.key) > 8192 for pair in request.pairs):
            return kvrpcpb.RawBatchPutResponse(error="max key size exceeded, size: 9000, limit: 8192")
        self.data.update({pair.key: pair.value for pair in request.pairs})
        return kvrpcpb.RawBatchPutResponse()

    def RawBatchDelete(self, request: Any) -> Any:
        assert all(self.inside(request, key) for key in request.keys)
        for key in request.keys:
            self.data.pop(key, None)
        return kvrpcpb.RawBatchDeleteResponse()

    def RawScan(self, request: Any) -> Any:
        region = next(r for r in self.regions if r.id == request.context.region_id)
        low, high = (request.end_key, request.start_key) if request.reverse else (request.start_key, request.end_key)
        keys = [k for k in sorted(self.data, reverse=request.reverse) if k >= low and (k < high or not high)]
        keys = [k for k in keys if region.contains(self.codec.region_key(k))][: request.limit]
        kvs = [kvrpcpb.KvPair(key=k, value=b"" if request.key_only else self.data[k]) for k in keys]
        return kvrpcpb.RawScanResponse(kvs=kvs)

    def RawDeleteRange(self, request: Any) -> Any:
        assert request.start_key < request.end_key
        assert len(request.end_key) <= 8192
        assert self.inside(request, request.start_key)
        for key in [k for k in self.data if request.start_key <= k < request.end_key]:
            assert self.inside(request, key)
            del self.data[key]
        return kvrpcpb.RawDeleteRangeResponse()

    def RawChecksum(self, request: Any) -> Any:
        keys = [k for r in request.ranges for k in self.data if r.start_key <= k < r.end_key]
        assert all(self.inside(request, key) for key in keys)
        xor = 0
        for key in keys:
            xor ^= hash((key, self.data[key])) & 0xFFFF
        total = sum(len(k) + len(self.data[k]) for k in keys)
        return kvrpcpb.RawChecksumResponse(checksum=xor, total_kvs=len(keys), total_bytes=total)

    def RawCompareAndSwap(self, request: Any) -> Any:
        present = self.data.get(request.key)
        expected = None if request.previous_not_exist else request.previous_value
        if present == expected:
            if request.delete:
                self.data.pop(request.key, None)
            else:
                self.data[request.key] = request.value
        return kvrpcpb.RawCASResponse(
            succeed=present == expected, previous_not_exist=present is None, previous_value=present or b""
        )

    def RawCoprocessor(self, request: Any) -> Any:
        return kvrpcpb.RawCoprocessorResponse(data=b"%d:" % request.context.region_id + request.data)

    # --- clients ------------------------------------------------------------------------------------------------------

    def client(self, **options: Any) -> Sync:
        config = ClientConfig(api_version=2 if self.codec.prefix else 1, **options)
        stores = StoreCache(self.rt, self, self)
        regions = RegionCache(stores.entry, self.rt.rng)
        pd = _Pd(self)
        cluster = Cluster(self.rt, self, pd, stores, regions, RegionLoader(self.rt, self, regions), _Configs())
        backend = RemoteRaw(cluster, config, self.codec)
        self.cluster = cluster
        connection = Connection(self.rt, backend)
        connection._backend = None  # nothing to close, so nothing to warn about
        return Sync(self.rt, AsyncRawClient(connection, backend, is_owner=False))

    async def close(self) -> None:
        pass

    def abandon(self, *, forked: bool) -> None:
        pass

    def names(self) -> list[str]:
        return [name for _, name, _ in self.calls]

    def addresses(self) -> list[str]:
        return [address.partition(":")[0] for address, _, _ in self.calls]


class _Pd:
    cluster_id = 42

    def __init__(self, model: Model) -> None:
        self.model = model

    def close(self) -> None:
        pass


class _Configs:
    has_ttl = True
    cas_delete = True

    async def require_ttl(self, stores: Any, declared: Any, deadline: float) -> None:
        from pytikv.errors import UnsupportedByServer

        if not self.has_ttl:
            raise UnsupportedByServer("no TTL")

    async def know_cas_delete(self, stores: Any, deadline: float) -> bool:
        return self.cas_delete


class Sync:
    """Drives the asynchronous client against the fakes."""

    def __init__(self, rt: Clock, core: AsyncRawClient) -> None:
        self.rt, self.core = rt, core

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.core, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = attribute(*args, **kwargs)
            if hasattr(result, "__aiter__"):
                return self.rt.run(_collect(result))
            if isinstance(result, AsyncRawClient):
                return Sync(self.rt, result)
            return self.rt.run(result)

        return call


async def _collect(iterator: Any) -> list[Any]:
    return [item async for item in iterator]


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    return Model


@pytest.fixture
def model() -> Model:
    return Model()


class Serving:
    """A server in a thread of its own, with its own event loop."""

    def __init__(self, mode: str, options: dict[str, Any]) -> None:
        self.mode = mode
        self._options = {"addr": "127.0.0.1:0", "pd_addr": "127.0.0.1:0", "status_addr": "127.0.0.1:0", **options}
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True, name="server")

    async def _main(self) -> None:
        from pytikv.rt.aio import AioRuntime
        from pytikv.server.serve import ServeConfig, Server

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        rt = AioRuntime()
        self.server = Server(rt, ServeConfig(api_version=self.mode, **self._options))
        try:
            await self.server.start()
        except BaseException as error:
            self._failure = error
            self._ready.set()
            raise
        self.url = self.server.url
        self._ready.set()
        await self._stop.wait()
        await self.server.stop()
        await rt.close()

    def __enter__(self) -> Serving:
        self._thread.start()
        assert self._ready.wait(20)
        assert self._failure is None, self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    @property
    def api_version(self) -> int:
        return 2 if self.mode == "2" else 1

    def connect(self, **options: Any) -> Any:
        import pytikv

        return pytikv.RawClient.connect(self.url, api_version=self.api_version, **options)

    def split(self, key: bytes) -> None:
        """Split the region that holds a user key (of the default keyspace) at it."""
        codec = api.v2(0, is_raw=True) if self.mode == "2" else api.raw_v1()
        border = codec.region_key(codec.encode_key(key))
        store = self.server.store
        region = next(
            entry
            for entry in store.regions.entries
            if entry.start_key <= border and not (entry.end_key and border >= entry.end_key)
        )
        if region.start_key != border:
            store.split(region, [border])


@pytest.fixture(scope="session")
def serving() -> Callable[..., Serving]:
    """Start a server: `with serving("1ttl") as server:`; keyword arguments are options of ServeConfig."""
    return lambda mode="1", **options: Serving(mode, options)
