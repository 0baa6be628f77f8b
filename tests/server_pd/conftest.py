"""A server on free ports, and calls to its PD over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.aio import AioRuntime
from pytikv.rt.tls import TLS
from pytikv.server.serve import ServeConfig, Server
from pytikv.wire.channel import ClientChannel

ANY = "127.0.0.1:0"


class PdCalls:
    """A connection to PD's port that fills the cluster id in."""

    def __init__(self, server: Server, channel: ClientChannel) -> None:
        self.server = server
        self.rt = server.rt
        self.channel = channel

    @property
    def deadline(self) -> float:
        return self.rt.now() + 10

    def header(self) -> pdpb.RequestHeader:
        return pdpb.RequestHeader(cluster_id=self.server.pd.cluster_id)

    async def call(self, path: str, request: Any, response_type: Any) -> Any:
        if not request.HasField("header") and "header" in request.DESCRIPTOR.fields_by_name:
            request.header.cluster_id = self.server.pd.cluster_id
        data = await self.channel.unary(path, request.SerializeToString(), deadline=self.deadline)
        return response_type.FromString(data)

    async def pd(self, name: str, request: Any) -> Any:
        answer = {"GetPrevRegion": "GetRegion", "GetRegionByID": "GetRegion"}.get(name, name)
        return await self.call(f"/pdpb.PD/{name}", request, getattr(pdpb, f"{answer}Response"))


@pytest.fixture
def with_server() -> Callable[..., None]:
    """Run `body(calls)` against a server in memory; keyword arguments are options of `ServeConfig`."""

    def run(body: Callable[[PdCalls], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            rt = AioRuntime()
            server = Server(rt, ServeConfig(**{"addr": ANY, "pd_addr": ANY, "status_addr": ANY, **options}))
            await server.start()
            channel = ClientChannel(rt, address=f"127.0.0.1:{server.pd_port}")
            try:
                await channel.connect("127.0.0.1", server.pd_port, rt.now() + 10)
                await body(PdCalls(server, channel))
            finally:
                await channel.close()
                await server.stop()
                await rt.close()

        asyncio.run(asyncio.wait_for(main(), 30))

    return run


@pytest.fixture
def with_tls_server() -> Callable[..., None]:
    """Run `body(rt, server)` against a server with TLS that asks clients for a certificate."""

    def run(body: Callable[[AioRuntime, Server], Awaitable[None]], tls: TLS) -> None:
        async def main() -> None:
            rt = AioRuntime()
            server = Server(rt, ServeConfig(addr=ANY, pd_addr=ANY, status_addr=ANY, tls=tls))
            await server.start()
            try:
                await body(rt, server)
            finally:
                await server.stop()
                await rt.close()

        asyncio.run(asyncio.wait_for(main(), 30))

    return run
