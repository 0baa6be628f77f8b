"""The options of connections have the effect that they are documented with, through the public clients."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import pytikv
from pytikv.client.contexts import ContextMaker
from pytikv.client.txn.background import Background
from pytikv.codec.api import raw_v1
from pytikv.config import ClientConfig
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.testing.server import ServerProcess


@pytest.fixture(scope="module")
def server() -> Any:
    with ServerProcess() as server:
        yield server


def pool_of(client: Any) -> Any:
    core = getattr(client, "_core", client)
    return core._connection.backend._cluster.connections


def test_max_connections_bounds_the_whole_pool(server: ServerProcess) -> None:
    seen: list[int] = []
    with pytikv.RawClient.connect(server.url, max_connections=2) as kv:
        pool = pool_of(kv)

        def work(number: int) -> None:
            for step in range(20):
                kv.put(b"max/%d/%d" % (number, step), b"v")
                seen.append(pool.open_connections)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 120  # nobody failed
    assert max(seen) <= 2


def test_grpc_concurrency_bounds_the_connections_of_a_loop(server: ServerProcess) -> None:
    async def connections(most: int) -> int:
        async with await pytikv.AsyncRawClient.connect(server.url, grpc_concurrency=most) as kv:
            for _ in range(12):
                await asyncio.gather(*(kv.get(b"g%d" % number) for number in range(1500)))
            states = pool_of(kv)._addresses.values()
            return max(len(state.channels) for state in states)

    assert asyncio.run(connections(1)) == 1
    assert 1 < asyncio.run(connections(3)) <= 3


def test_idle_timeout_closes_what_nobody_uses(server: ServerProcess) -> None:
    with pytikv.RawClient.connect(server.url, idle_timeout=0.05) as kv:
        kv.put(b"idle", b"1")
        pool = pool_of(kv)
        assert pool.open_connections
        until = time.monotonic() + 10
        while pool.open_connections and time.monotonic() < until:
            time.sleep(0.01)
        assert pool.open_connections == 0
        assert kv.get(b"idle") == b"1"


def test_background_worker_size_bounds_what_outlives_calls(server: ServerProcess) -> None:
    with pytikv.TransactionClient.connect(server.url, **{"background-worker-size": 2}) as db:
        background = Background.of(db._core._backend)
        assert background._workers == 2
        rt = db._core._backend.rt
        lock, both, running, most = threading.Lock(), threading.Event(), 0, 0

        async def piece() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            if most == 2:
                both.set()
            await rt.sleep(0.005)
            with lock:
                running -= 1

        async def submit() -> None:
            for _ in range(8):
                await background.submit(piece, "test")

        db._rt.run(submit())  # closing waits for all of it
        assert both.wait(10)
    assert (most, running) == (2, 0)


def test_rpc_timeout_is_what_the_store_is_told() -> None:
    codec = raw_v1()

    def told_ms(**options: Any) -> int:
        maker = ContextMaker(ClientConfig(**options), codec, 1)
        return kvrpcpb.Context.FromString(maker.key).max_execution_duration_ms

    assert told_ms() == 5000
    assert told_ms(rpc_timeout="1500ms") == 1500
    assert told_ms(rpc_timeout=5.0, timeout=2.0) == 2000
