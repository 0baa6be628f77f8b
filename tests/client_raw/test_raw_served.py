"""Both raw clients against a server on real sockets: splits under load, broken connections, threads, tasks, forks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import subprocess
import sys
import threading
import warnings

import pytest

import pytikv
from pytikv import ConfigError, ConnectionFailed, DeadlineExceeded, Outcome, UnsupportedByServer
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.server.pd.region_service import _QueryRegionStream
from pytikv.testing.proxy import FaultProxy
from pytikv.wire.server_calls import ServerStream

MODES = ["1", "1ttl", "2"]


@pytest.mark.parametrize("mode", MODES)
def test_splits_while_reading_and_writing(serving, mode: str) -> None:
    keys = [b"%04d" % n for n in range(600)]
    failures: list[BaseException] = []
    with serving(mode) as server, server.connect() as kv:
        kv.batch_put({key: b"v" + key for key in keys})
        stop = threading.Event()

        def work(seed: int) -> None:
            rng = random.Random(seed)
            try:
                while not stop.is_set():
                    key = rng.choice(keys)
                    assert kv.get(key) == b"v" + key
                    low, high = sorted(rng.choices(range(600), k=2))
                    reverse = rng.random() < 0.5
                    found = [k for k, _ in kv.scan(keys[low], keys[high], reverse=reverse, batch_size=37)]
                    assert found == (keys[low:high][::-1] if reverse else keys[low:high])
                    sample = rng.sample(keys, 20)
                    assert list(kv.batch_get(sample)) == sample
                    kv.put(b"w%d" % seed, b"x")
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for worker in workers:
            worker.start()
        for key in random.Random(1).sample(keys, 40):
            server.split(key)
        stop.set()
        for worker in workers:
            worker.join(60)
        assert not failures
        assert [k for k, _ in kv.scan(b"0", b"9")] == keys
        assert kv.checksum(b"0", b"9").total_kvs == 600
        kv.batch_delete(keys[:300])
        kv.delete_range(b"0400", b"0500")
        assert [k for k, _ in kv.scan(b"0", b"9")] == keys[300:400] + keys[500:]


@pytest.mark.parametrize("mode", MODES)
def test_asyncio_with_many_in_flight(serving, mode: str) -> None:
    async def body(url: str, version: int) -> None:
        async with await pytikv.AsyncRawClient.connect(url, api_version=version) as kv:

            async def one(n: int) -> None:
                key = b"%05d" % n
                await kv.put(key, b"v%d" % n)
                assert await kv.get(key) == b"v%d" % n

            await asyncio.gather(*(one(n) for n in range(500)))
            found = [key async for key, _ in kv.scan(batch_size=64)]
            assert found == [b"%05d" % n for n in range(500)]
            assert [k async for k, _ in kv.scan(limit=2, reverse=True)] == [b"00499", b"00498"]
            assert (await kv.compare_and_swap(b"c", None, b"1")).swapped
            await kv.delete_prefix(b"0")
            assert [key async for key, _ in kv.scan_prefix(b"0")] == []

    with serving(mode) as server:
        asyncio.run(body(server.url, server.api_version))


def test_keyspaces(serving) -> None:
    with serving("2", keyspaces=("shop",)) as server:
        with pytikv.RawClient.connect(f"{server.url}/shop") as shop, server.connect() as default:
            shop.put(b"k", b"1")
            assert default.get(b"k") is None
            assert list(shop.scan()) == [(b"k", b"1")]
            assert list(shop.scan(reverse=True)) == [(b"k", b"1")]
        with pytest.raises(ConfigError, match="nope"):
            pytikv.RawClient.connect(f"{server.url}/nope")


@pytest.mark.parametrize("use_query_region", [True, False])
def test_region_lookups_on_a_stream(serving, monkeypatch, use_query_region: bool) -> None:
    streamed: list[int] = []  # look-ups by key in each message
    answer = _QueryRegionStream._answer

    def watched(stream, request):
        streamed.append(len(request.keys))
        return answer(stream, request)

    async def read(url: str) -> None:
        async with await pytikv.AsyncRawClient.connect(url, use_query_region=use_query_region) as kv:
            found = await asyncio.gather(*(kv.get(b"%02d" % n) for n in range(20)))
            assert found == [b"v%02d" % n for n in range(20)]

    monkeypatch.setattr(_QueryRegionStream, "_answer", watched)
    with serving("1") as server:
        with server.connect(use_query_region=use_query_region) as kv:
            for n in range(20):
                kv.put(b"%02d" % n, b"v%02d" % n)
        assert bool(streamed) is use_query_region
        for n in range(1, 20):
            server.split(b"%02d" % n)
        streamed.clear()
        asyncio.run(read(server.url))
    assert (max(streamed, default=0) > 1) is use_query_region


@pytest.mark.parametrize(("score", "is_avoided"), [(100, True), (1, False)])
def test_a_store_that_says_it_is_slow_is_avoided(serving, monkeypatch, score: int, is_avoided: bool) -> None:
    with serving("1") as server, server.connect() as kv:
        store_id = server.server.store.id
        feedback = kvrpcpb.HealthFeedback(store_id=store_id, slow_score=score)
        tail = tikvpb.BatchCommandsResponse(health_feedback=feedback).SerializeToString()

        send = ServerStream.send

        def send_and_tell(stream, message):
            send(stream, message + tail if stream.info.path.endswith(b"/BatchCommands") else message)

        monkeypatch.setattr(ServerStream, "send", send_and_tell)
        cluster = kv._core._backend._cluster
        kv.put(b"k", b"v")
        assert cluster.stores.is_avoided(store_id, cluster.rt.now()) is is_avoided
        assert kv.get(b"k") == b"v"


def test_a_wrong_version_is_named(serving) -> None:
    with serving("2") as server, pytest.raises(ConfigError, match="api_version=2"):
        pytikv.RawClient.connect(server.url)
    with serving("1") as server, pytest.raises(ConfigError, match="api_version=1"):
        pytikv.RawClient.connect(server.url, api_version=2)


def test_ttl_is_not_asked_of_a_store_without_it(serving) -> None:
    with serving("1") as server:
        with server.connect() as kv, pytest.raises(UnsupportedByServer, match="TTL"):
            kv.get_ttl(b"k")
        with server.connect(ttl=False) as kv, pytest.raises(UnsupportedByServer):
            kv.get_ttl(b"k")
        with server.connect() as kv:
            configs = kv._core._backend._cluster.store_configs
            configs._known.clear()

            async def unreachable(store, deadline):
                raise OSError("connection refused")

            configs._ask = unreachable
            with pytest.raises(ConfigError, match="ttl=True"):
                kv.get_ttl(b"k")


def test_swap_to_nothing_is_known_of_our_own_store(serving) -> None:
    with serving("1") as server, server.connect() as kv:
        kv.put(b"k", b"v")
        assert kv.compare_and_swap(b"k", b"v", None).swapped
        assert kv.get(b"k") is None


def test_nobody_there() -> None:
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
        pytikv.RawClient.connect("tikv://127.0.0.1:1", timeout=0.5)


# --- connections that break: a proxy stands before the store ----------------------------------------------------------


@pytest.fixture
def proxied(serving):
    """A client that reaches the store through a proxy, and the proxy."""
    with (
        serving("1") as server,
        FaultProxy("127.0.0.1", server.server.port) as proxy,
        server.connect(timeout=5.0, rpc_timeout=0.5) as kv,
    ):
        cluster = kv._core._backend._cluster
        for store in cluster.stores.entries():
            store.address = proxy.address
        cluster.stores.put = lambda meta: cluster.stores.entry(meta.id)  # the address stays the proxy's
        kv.put(b"warm", b"v")
        yield kv, proxy


def test_a_cut_connection_is_replaced(proxied) -> None:
    kv, proxy = proxied
    for n in range(5):
        proxy.cut()
        kv.put(b"k", b"%d" % n)
        proxy.cut()
        assert kv.get(b"k") == b"%d" % n


def test_a_lost_answer_is_undetermined_where_that_is_wanted(proxied) -> None:
    kv, proxy = proxied
    careful = kv.with_options(retry_lost_writes=False)
    for operation in (
        lambda: careful.put(b"k", b"v"),
        lambda: careful.delete(b"k"),
        lambda: careful.batch_put({b"k": b"v"}),
        lambda: kv.compare_and_swap(b"k", None, b"v"),
        lambda: kv.put_if_absent(b"k", b"v"),
    ):
        proxy.drop("down")
        with pytest.raises((ConnectionFailed, DeadlineExceeded, pytikv.BatchError)) as caught:
            operation()
        assert caught.value.outcome is Outcome.UNDETERMINED
        proxy.heal()
        proxy.cut()
        kv.delete(b"k")


def test_a_lost_put_is_sent_again(proxied) -> None:
    kv, proxy = proxied
    proxy.drop("down")
    threading.Timer(0.7, lambda: (proxy.heal(), proxy.cut())).start()
    kv.put(b"k", b"v")
    assert kv.get(b"k") == b"v"


def test_a_silent_store_ends_in_time(proxied) -> None:
    kv, proxy = proxied
    proxy.stall()
    with pytikv.deadline(0.3), pytest.raises((DeadlineExceeded, ConnectionFailed)) as caught:
        kv.get(b"k")
    assert caught.value.outcome is Outcome.NOT_APPLIED
    with pytikv.deadline(0.3), pytest.raises((DeadlineExceeded, ConnectionFailed)) as caught:
        kv.put(b"k", b"v")
    assert caught.value.outcome is Outcome.UNDETERMINED
    proxy.heal()
    proxy.cut()
    kv.put(b"k", b"v")


def test_cancelled_tasks_leave_the_client_sound(serving) -> None:
    async def body(url: str) -> None:
        async with await pytikv.AsyncRawClient.connect(url) as kv:
            await kv.put(b"k", b"v")
            tasks = [asyncio.create_task(kv.get(b"k")) for _ in range(200)]
            await asyncio.sleep(0)
            for task in itertools.islice(tasks, 0, None, 2):
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert {answer for answer in answers if isinstance(answer, bytes)} == {b"v"}
            assert await kv.get(b"k") == b"v"

    with serving("1") as server:
        asyncio.run(body(server.url))


# --- life -------------------------------------------------------------------------------------------------------------


def test_use_after_close(serving) -> None:
    with serving("1") as server:
        kv = server.connect()
        view = kv.with_options(timeout=1.0)
        kv.close()
        kv.close()
        for client in (kv, view):
            with pytest.raises(pytikv.ClientClosed):
                client.get(b"k")

        async def body() -> None:
            client = await pytikv.AsyncRawClient.connect(server.url)
            await client.close()
            await client.close()
            with pytest.raises(pytikv.ClientClosed):
                await client.get(b"k")

        asyncio.run(body())


def test_a_forgotten_client_warns_and_does_not_hang(serving) -> None:
    with serving("1") as server:
        kv = server.connect()
        kv.put(b"k", b"v")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del kv
            gc.collect()
        assert any("not closed" in str(warning.message) for warning in caught)


def test_a_forked_child_gets_an_error_and_the_parent_goes_on(serving) -> None:
    code = """
import os, sys, pytikv
kv = pytikv.RawClient.connect(sys.argv[1])
kv.put(b"k", b"v")
pid = os.fork()
if pid == 0:
    try:
        kv.get(b"k")
    except pytikv.ClientClosed as error:
        assert "fork" in str(error), error
        kv.close()
    with pytikv.RawClient.connect(sys.argv[1]) as own:
        assert own.get(b"k") == b"v"
    raise SystemExit(0)
assert os.waitpid(pid, 0)[1] == 0
assert kv.get(b"k") == b"v"
kv.close()
print("done")
"""
    with serving("1") as server:
        command = [sys.executable, "-W", "error", "-c", code, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr
