"""A server's life inside one process: configuration, ports, restarts on one directory, a stop that finishes calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from pytikv.errors import ConfigError, StorageError
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.aio import AioRuntime
from pytikv.rt.tls import TLS
from pytikv.server import ports
from pytikv.server.ports import split_address
from pytikv.server.serve import ServeConfig, Server
from pytikv.wire.channel import ClientChannel
from pytikv.wire.errors import ConnectFailed, RpcError

ANY = "127.0.0.1:0"


def run(body) -> None:
    async def main():
        rt = AioRuntime()
        try:
            await body(rt)
        finally:
            await rt.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def any_ports(**options) -> ServeConfig:
    return ServeConfig(**{"addr": ANY, "pd_addr": ANY, "status_addr": ANY, **options})


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a:1", ("a", 1)), ("[::1]:2379", ("::1", 2379)), (":0", ("", 0)), ("10.0.0.1:65535", ("10.0.0.1", 65535))],
)
def test_addresses(text, parts):
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["a", "a:", "a:x", "a:65536", "::1:5", "a:-1", "a:1:2", "a:²"])
def test_bad_addresses(text):
    with pytest.raises(ValueError, match="host:port"):
        split_address(text)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"api_version": "3"}, "api_version"),
        ({"tls": TLS(ca="ca.pem")}, "cert"),
        ({"region_split_keys": 0}, "positive"),
        ({"addr": "nonsense"}, "addr"),
        ({"addr": ":20160"}, "no host"),
        ({"pd_addr": "0.0.0.0:2379"}, "insecure"),
        ({"pd_addr": "[::]:2379"}, "insecure"),
        ({"status_addr": "192.0.2.1:20180"}, "insecure"),
        ({"addr": "example.com:20160"}, "insecure"),
        ({"addr": "0.0.0.0:0", "insecure": True}, "advertise_host"),
    ],
)
def test_configurations_that_are_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        ServeConfig(**options).check()


def test_configurations_that_are_taken():
    ServeConfig().check()
    ServeConfig(addr="localhost:1", pd_addr="127.1.2.3:1", status_addr="[::1]:1").check()
    ServeConfig(addr="0.0.0.0:0", insecure=True, advertise_host="db.example").check()
    ServeConfig(addr="192.0.2.1:1", tls=TLS(cert="c", key="k")).check()


def test_a_free_port_where_none_was_asked_for_and_the_default_is_taken(monkeypatch):
    async def body(rt):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            for name in ("_PD_PORT", "_STORE_PORT", "_STATUS_PORT"):
                monkeypatch.setattr(f"pytikv.server.serve.{name}", number)
            server = Server(rt, ServeConfig())
            await server.start()
            assert len({number, server.pd_port, server.port, server.status_port}) == 4
            assert server.url == f"tikv://127.0.0.1:{server.pd_port}"
            await server.stop()
            for option in ("addr", "pd_addr", "status_addr"):
                busy = Server(rt, any_ports(**{option: f"127.0.0.1:{number}"}))
                with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{number}"):
                    await busy.start()
                assert busy.engine is None

    run(body)


def test_identity_and_timestamps_over_restarts(tmp_path):
    path = str(tmp_path / "data")

    async def body(rt):
        seen, last = set(), 0
        for _ in range(3):
            server = Server(rt, any_ports(path=path))
            await server.start()
            pd = server.pd
            seen.add((pd.cluster_id, pd.stores.all()[0].meta.id, pd.regions.search(b"").meta.id))
            assert pd.stores.all()[0].meta.address == f"127.0.0.1:{server.port}"
            ts = pd.get_ts()
            assert ts > last
            last = ts
            await server.stop()
            await server.stop()
        assert len(seen) == 1

    run(body)


def test_one_server_a_directory(tmp_path):
    async def body(rt):
        first = Server(rt, any_ports(path=str(tmp_path)))
        await first.start()
        second = Server(rt, any_ports(path=str(tmp_path)))
        with pytest.raises(StorageError, match=f"in use by (this process|process {os.getpid()})"):
            await second.start()
        await first.stop()
        await second.start()
        await second.stop()

    run(body)


def test_a_path_keeps_its_api_version(tmp_path):
    async def body(rt):
        first = Server(rt, any_ports(path=str(tmp_path), api_version="2"))
        await first.start()
        await first.stop()
        other = Server(rt, any_ports(path=str(tmp_path), api_version="1"))
        with pytest.raises(ConfigError, match="api_version"):
            await other.start()

    run(body)


def test_nothing_is_served_before_it_is_ready(monkeypatch):
    async def body(rt):
        server = Server(rt, any_ports())
        open_pd = server._open_pd
        seen = []

        def look(engine):
            with socket.create_connection(("127.0.0.1", server.pd_port), 10) as early:
                early.settimeout(10)
                try:
                    seen.append(early.recv(1))
                except ConnectionError:
                    seen.append(b"")
            return open_pd(engine)

        monkeypatch.setattr(server, "_open_pd", look)
        await server.start()
        assert seen == [b""]
        await server.stop()

    run(body)


def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(ports, "MAX_CONNECTIONS", 3)

    async def body(rt):
        server = Server(rt, any_ports())
        await server.start()
        connections = [await asyncio.open_connection("127.0.0.1", server.pd_port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.pd_port)
        with contextlib.suppress(ConnectionError):  # cut with a reset: as good
            assert await reader.read() == b""
        writer.close()
        connections[0][1].close()
        for _ in range(100):
            channel = ClientChannel(rt, address="pd")
            try:
                await channel.connect("127.0.0.1", server.pd_port, rt.now() + 10)
                await channel.unary("/pdpb.PD/GetMembers", b"", deadline=rt.now() + 10)
                break
            except RpcError:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("the place that was given up was never had")
        await channel.close()
        for _, writer in connections:
            writer.close()
        await server.stop()

    run(body)


def test_a_stop_ends_streams_and_refuses_what_comes_later(tmp_path):
    async def body(rt):
        server = Server(rt, any_ports(path=str(tmp_path)))
        await server.start()
        port = server.pd_port
        channel = ClientChannel(rt, address="pd")
        await channel.connect("127.0.0.1", port, rt.now() + 10)
        stream = channel.stream("/pdpb.PD/Tso", deadline=None)
        header = pdpb.RequestHeader(cluster_id=server.pd.cluster_id)
        stream.send(pdpb.TsoRequest(header=header, count=1).SerializeToString())
        await stream.recv(rt.now() + 10)
        _, writer = await asyncio.open_connection("127.0.0.1", port)  # says nothing, ever
        before = rt.now()
        await server.stop()
        assert rt.now() - before < 4, "an idle stream and a silent connection must not use the stop's patience up"
        with pytest.raises(RpcError):
            await stream.recv(rt.now() + 10)
        writer.close()
        late = ClientChannel(rt, address="pd")
        with pytest.raises(ConnectFailed):
            await late.connect("127.0.0.1", port, rt.now() + 10)
        await channel.close()

    run(body)
