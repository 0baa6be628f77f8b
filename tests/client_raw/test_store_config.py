"""What stores say at their status address: read, checked, kept; and all that can come instead."""

from __future__ import annotations

import asyncio
import json

import pytest

from pytikv.client.store_config import StoreConfig, StoreConfigs
from pytikv.errors import ConfigError, UnsupportedByServer
from pytikv.rt.aio import AioRuntime
from pytikv.types import Store


def config_json(version: int = 1, ttl: bool = False, **more: object) -> bytes:
    return json.dumps({"storage": {"api-version": version, "enable-ttl": ttl}, **more}).encode()


def plain(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def chunked(body: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 20]), body[i : i + 20]) for i in range(0, len(body), 20))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


def to_the_end(body: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\n\r\n" + body


class Source:
    def __init__(self, address: str) -> None:
        self.address = address
        self.asked = 0

    async def get_store(self, store_id: int, deadline: float) -> Store | None:
        self.asked += 1
        return None if store_id == 9 else Store(store_id, "x:1", self.address)

    async def get_all_stores(self, deadline: float) -> list[Store]:
        return []


def with_status(answer: bytes, body) -> None:
    """Run `body(configs, source, deadline)` against a status port that answers `answer`."""

    async def main() -> None:
        requests: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        rt = AioRuntime()
        source = Source(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            await body(StoreConfigs(rt, source, None), source, rt.now() + 5)
        finally:
            server.close()
            await server.wait_closed()
            await rt.close()
        assert all(request.startswith(b"GET /config HTTP/1.1\r\n") for request in requests)

    asyncio.run(main())


@pytest.mark.parametrize("form", [plain, chunked, to_the_end])
@pytest.mark.parametrize(("version", "ttl"), [(1, False), (1, True), (2, True)])
def test_answers_are_read_once(form, version: int, ttl: bool) -> None:
    async def body(configs, source, deadline) -> None:
        for _ in range(2):
            if ttl:
                await configs.require_ttl([1], None, deadline)
            else:
                with pytest.raises(UnsupportedByServer):
                    await configs.require_ttl([1], None, deadline)
            assert not await configs.know_cas_delete([1], deadline)
        assert source.asked == 1
        await configs.check_version([Store(1, "x:1", source.address)], version, deadline)
        with pytest.raises(ConfigError, match=f"api_version={version}"):
            await configs.check_version([Store(1, "x:1", source.address)], 3 - version, deadline)

    with_status(form(config_json(version, ttl)), body)


def test_our_own_stores_are_known() -> None:
    async def body(configs, source, deadline) -> None:
        assert await configs.know_cas_delete([1, 2], deadline)
        assert not await configs.know_cas_delete([1, 9], deadline)

    with_status(plain(config_json(pytikv="1.0")), body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage",
        plain(b"not found", b"404 Not Found"),
        plain(b"[]"),
        plain(b"{"),
        plain(b'{"storage": 7}'),
        chunked(b"x").replace(b"1\r\n", b"zz\r\n"),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (5 << 20),
    ],
)
def test_other_answers_are_no_answer(answer: bytes) -> None:
    async def body(configs, source, deadline) -> None:
        with pytest.raises(ConfigError, match="ttl=True"):
            await configs.require_ttl([1], None, deadline)
        await configs.check_version([Store(1, "x:1", source.address)], 1, deadline)

    with_status(answer, body)


def test_declared_or_unreachable() -> None:
    async def body(configs, source, deadline) -> None:
        source.address = "127.0.0.1:1"
        await configs.require_ttl([1], True, deadline)
        with pytest.raises(UnsupportedByServer):
            await configs.require_ttl([1], False, deadline)
        with pytest.raises(ConfigError, match="does not answer"):
            await configs.require_ttl([1], None, deadline)
        with pytest.raises(ConfigError, match="no status address"):
            await configs.require_ttl([9], None, deadline)
        await configs.check_version([Store(1, "x:1", "127.0.0.1:1"), Store(2, "y:1")], 2, deadline)
        assert source.asked == 2  # declarations ask nobody

    with_status(b"", body)


def test_values() -> None:
    assert StoreConfig(2, True) == StoreConfig(2, True, False)
