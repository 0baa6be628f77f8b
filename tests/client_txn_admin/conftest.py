"""Places to administer: an embedded store, and servers on real sockets with regions that can be split."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pytikv
from pytikv.client.rpcs import KV_PREWRITE
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.aio import AioRuntime
from pytikv.server.serve import ServeConfig, Server


class Serving:
    """A server in a thread of its own, with its own event loop."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True, name="server")

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        rt = AioRuntime()
        free = "127.0.0.1:0"
        server = Server(rt, ServeConfig(api_version=self._mode, addr=free, pd_addr=free, status_addr=free))
        await server.start()
        self.url = server.url
        self._ready.set()
        await self._stop.wait()
        await server.stop()
        await rt.close()

    def __enter__(self) -> Serving:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@dataclasses.dataclass
class Place:
    """Where the data is: a URL and the options to connect with."""

    kind: str
    url: str
    options: dict[str, Any]

    @property
    def has_regions(self) -> bool:
        return self.kind != "embedded"

    def connect(self, **options: Any) -> pytikv.TransactionClient:
        return pytikv.TransactionClient.connect(self.url, **self.options, **options)


@pytest.fixture(params=["embedded", "served v1", "served v2"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kind = request.param
    if kind == "embedded":
        url = f"embedded://:memory:{uuid.uuid4().hex}"
        with pytikv.TransactionClient.connect(url):  # keeps the store alive
            yield Place(kind, url, {})
        return
    version = int(kind[-1])
    with Serving(str(version)) as server:
        yield Place(kind, server.url, {"api_version": version})


@pytest.fixture
def db(place: Place) -> Iterator[pytikv.TransactionClient]:
    with place.connect() as client:
        yield client


@pytest.fixture(scope="session")
def leave_locks() -> Callable[..., int]:
    return _leave_locks


def _leave_locks(db: pytikv.TransactionClient, keys: list[bytes], *, start_ts: int | None = None) -> int:
    """Prewrite keys and vanish: what a client leaves that is killed before its commit. Returns the start_ts."""
    backend = db._core._backend
    ts = start_ts or db.current_timestamp()
    wire = [backend.codec.encode_key(key) for key in keys]

    async def prewrite() -> None:
        call = backend.call()
        for region, part in await backend.group(wire, None, call):
            mutations = [kvrpcpb.Mutation(op=kvrpcpb.Put, key=key, value=b"left") for key in part]
            request = kvrpcpb.PrewriteRequest(
                mutations=mutations,
                primary_lock=wire[0],
                start_version=ts,
                lock_ttl=60_000,
                txn_size=len(keys),
                min_commit_ts=ts + 1,
            )
            response = await backend.send(KV_PREWRITE, region, request, call)
            assert not response.errors

    db._rt.run(prewrite())
    return ts
