"""The clusters that scenarios are played against: in process, and over the wire."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.rt.aio import AioRuntime
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.services import pd_routes
from pytikv.server.serve import ServeConfig, Server
from pytikv.server.services.kv_service import KvService
from pytikv.server.services.tikv import AsyncKvService
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import open_store
from pytikv.wire.channel import ClientChannel
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import CallInfo, Unary

TSO = "/pdpb.PD/Tso"
TIMEOUT_S = 10.0
# BatchCommands calls KvGet `Get`, and so on.
_SLOTS = {
    prefix + field.name: field.number
    for field in tikvpb.BatchCommandsRequest.Request.DESCRIPTOR.fields
    for prefix in ("", "Kv", "KV")
}


class ShiftedRuntime(AioRuntime):
    """A runtime whose wall clock the test moves, so that nothing waits for a TTL to pass."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_s = 0.0
        real = self.time
        self.time = lambda: real() + self.shift_s


class _OneAnswer:
    """A stream for a handler that is asked once."""

    def __init__(self, rt: AioRuntime) -> None:
        self.future: Any = rt.create_future()

    def send(self, message: bytes) -> None:
        self.future.set_result(message)

    def finish(self, status: int = 0, message: str = "") -> None:
        if not self.future.done():
            self.future.set_exception(RpcError(status or Status.INTERNAL, message))


class InProcess:
    """Handlers called directly: no wire, no sockets."""

    def __init__(self, rt: ShiftedRuntime, engine: Engine, api_version: ApiVersion) -> None:
        self._rt = rt
        pd = PdServer(EngineMeta(engine), time=rt.time, getrandbits=rt.rng.getrandbits)
        store = open_store(
            engine, pd, api_version, meta=lambda id: metapb.Store(id=id, address="in-process:1"), now_s=rt.time
        )
        self.cluster_id = pd.cluster_id
        self._routes = pd_routes(rt, pd)
        self._service = AsyncKvService(rt, KvService(store))

    async def store(self, rpc: str, request: bytes, *, unary: bool) -> bytes:
        answer = self._service.handle(rpc, request)
        return answer if isinstance(answer, bytes) else await answer

    async def pd(self, path: str, request: bytes) -> bytes:
        route = self._routes[path.encode()]
        if isinstance(route, Unary):
            answer = route.handler(request, CallInfo(path.encode(), [], None, "test"))
            return answer if isinstance(answer, bytes) else await answer
        stream: Any = _OneAnswer(self._rt)
        route.factory(stream).on_message(request)
        result: bytes = await self._rt.wait(stream.future, self._rt.now() + TIMEOUT_S)
        return result

    async def sleep(self, seconds: float) -> None:
        self._rt.shift_s += seconds

    def time(self) -> float:
        return self._rt.time()


class OverTheWire:
    """A real server on real sockets, asked by unary calls or by BatchCommands where it has a slot."""

    def __init__(self, rt: ShiftedRuntime, server: Server, *, batch: bool) -> None:
        assert server.pd is not None
        self._rt = rt
        self.server = server
        self.cluster_id = server.pd.cluster_id
        self._batch = batch
        self._pd = ClientChannel(rt, address="pd")
        self._store = ClientChannel(rt, address="store")

    async def connect(self) -> None:
        await self._pd.connect("127.0.0.1", self.server.pd_port, self._deadline())
        await self._store.connect("127.0.0.1", self.server.port, self._deadline())

    async def close(self) -> None:
        await self._pd.close()
        await self._store.close()

    def _deadline(self) -> float:
        return self._rt.now() + TIMEOUT_S

    async def store(self, rpc: str, request: bytes, *, unary: bool) -> bytes:
        if self._batch and not unary and rpc in _SLOTS:
            return await self._store.batch(_SLOTS[rpc], request, self._deadline())
        return await self._store.unary(f"/tikvpb.Tikv/{rpc}", request, deadline=self._deadline())

    async def pd(self, path: str, request: bytes) -> bytes:
        if path != TSO:
            return await self._pd.unary(path, request, deadline=self._deadline())
        stream = self._pd.stream(path, deadline=self._deadline())
        stream.send(request)
        answer = await stream.recv(self._deadline())
        stream.end()
        while await stream.recv(self._deadline()) is not None:
            pass
        assert answer is not None
        return answer

    async def sleep(self, seconds: float) -> None:
        self._rt.shift_s += seconds

    def time(self) -> float:
        return self._rt.time()


@contextlib.asynccontextmanager
async def served(rt: ShiftedRuntime, api_version: str, *, batch: bool) -> AsyncIterator[OverTheWire]:
    """Start a server in memory and connect to it."""
    any_port = "127.0.0.1:0"
    config = ServeConfig(addr=any_port, pd_addr=any_port, status_addr=any_port, api_version=api_version)
    server = Server(rt, config)
    await server.start()
    cluster = OverTheWire(rt, server, batch=batch)
    try:
        await cluster.connect()
        yield cluster
        await cluster.close()
    finally:
        await server.stop()
