"""Blocking and asyncio clients with everything switched on, against a real server behind a proxy."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import pytikv
from pytikv import BreakerPolicy, BulkheadPolicy, CircuitOpen, Overloaded
from pytikv.testing.proxy import FaultProxy
from pytikv.testing.server import ServerProcess

QUICK = BreakerPolicy(min_calls=4, slow_s=0.5, open_s=0.3, probes=1)


@pytest.fixture(scope="module")
def server():
    with ServerProcess() as server:
        yield server


def through(client, proxy):
    """Send a client's requests to the store through a proxy."""
    cluster = client._backend._cluster
    for store in cluster.stores.entries():
        store.address = proxy.address
    cluster.stores.put = lambda meta: cluster.stores.entry(meta.id)  # the address stays the proxy's


@pytest.fixture
def proxy(server):
    host, port = store_address(server)
    with FaultProxy(host, port) as proxy:
        yield proxy


def store_address(server):
    with server.client() as kv:
        [store] = kv._core._backend._cluster.stores.entries()
        host, _, port = store.address.rpartition(":")
        return host, int(port)


def test_threads_share_the_places_of_a_store(server, proxy):
    policy = BulkheadPolicy(max_in_flight=2, max_queue=2, max_queue_s=0.05)
    with server.client(bulkhead=policy, breaker=True, retry_budget=True, adaptive_limit=True) as kv:
        through(kv._core, proxy)
        kv.put(b"k", b"v")
        proxy.delay(0.2)
        results = []

        def work():
            try:
                results.append(kv.get(b"k"))
            except pytikv.TikvError as error:
                results.append(error)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count(b"v") >= 2
        assert all(result == b"v" or type(result) is Overloaded for result in results)
        assert sum(type(result) is Overloaded for result in results) >= 8
        [state] = [one for one in kv._core._backend._cluster.guards.snapshot() if one.address == proxy.address]
        assert (state.in_flight, state.queued) == (0, 0)


def test_a_breaker_opens_and_closes_for_a_blocking_client(server, proxy):
    with server.client(breaker=QUICK, timeout=0.6, rpc_timeout=0.2) as kv:
        through(kv._core, proxy)
        kv.put(b"k", b"v")
        proxy.stall()
        error = None
        for _ in range(20):
            with pytest.raises(pytikv.TikvError) as failed:
                kv.get(b"k")
            error = failed.value
            if isinstance(error, CircuitOpen):
                break
        assert isinstance(error, CircuitOpen)
        began = time.monotonic()
        with pytest.raises(CircuitOpen):
            kv.get(b"k")
        assert time.monotonic() - began < 0.2
        proxy.heal()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                assert kv.get(b"k") == b"v"
                break
            except pytikv.TikvError:
                assert time.monotonic() < until
        assert kv.get(b"k") == b"v"


def test_a_lone_store_is_hedged_over_another_connection(server, proxy):
    with server.client(hedge_after_ms=30, hedge_ratio=1.0, timeout=5.0) as kv:
        through(kv._core, proxy)
        kv.put(b"k", b"v")
        assert kv.get(b"k") == b"v"
        pool = kv._core._backend._cluster.connections
        before, open_before = proxy.connections, pool.open_connections
        proxy.delay(0.1)
        for _ in range(3):
            assert kv.get(b"k") == b"v"
        assert before < proxy.connections <= before + 3  # each second try has one; the loser's is kept and used again
        assert pool.open_connections == open_before
        proxy.heal()
        assert kv.get(b"k") == b"v"
        kv.put(b"k", b"w")
        assert kv.get(b"k") == b"w"


def test_everything_on_in_asyncio(server):
    async def main():
        client = await pytikv.AsyncRawClient.connect(
            server.url,
            breaker=True,
            bulkhead=BulkheadPolicy(max_in_flight=64, max_queue_s=30.0),
            adaptive_limit=True,
            retry_budget=0.1,
            hedge_after_ms="p95",
            interceptors=(passing,),
        )
        async with client:
            await client.batch_put({b"%03d" % n: b"v" for n in range(300)})
            values = await asyncio.gather(*(client.get(b"%03d" % n) for n in range(300)))
            assert set(values) <= {b"v"}
            assert [key async for key, _ in client.scan(b"0", b"1")][:3] == [b"000", b"001", b"002"]

    async def passing(rpc, proceed):
        names.add(rpc.name)
        return await proceed(rpc)

    names = set()
    asyncio.run(main())
    assert {"RawBatchPut", "RawGet", "RawScan"} <= names


def test_transactions_with_everything_on(server):
    options = {"breaker": True, "bulkhead": 64, "adaptive_limit": True, "retry_budget": 0.1, "hedge_after_ms": 50}
    with pytikv.TransactionClient.connect(server.url, **options) as db:
        for number in range(20):
            with db.begin() as txn:
                txn.put(b"t%d" % number, b"v")
        snapshot = db.snapshot()
        assert {snapshot.get(b"t%d" % number) for number in range(20)} == {b"v"}
        assert len(snapshot.batch_get([b"t%d" % number for number in range(20)])) == 20
