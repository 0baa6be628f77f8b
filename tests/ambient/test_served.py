"""The same on real sockets, for both runtimes: metadata, tokens, ends by time and by cancellation, other loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import pytikv
from pytikv import Outcome

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def served(watch, serving) -> Iterator[Any]:
    with serving("1", {}) as server:
        yield server


def on_both(kind: str, url: str, body: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run `body(client, call)`, where `await call(client.get(...))` works for both kinds of clients."""
    if kind == "asyncio":

        async def main() -> Any:
            async with await pytikv.AsyncRawClient.connect(url, **options) as client:
                return await body(client, lambda result: result)

        return asyncio.run(main())

    async def done(result: Any) -> Any:
        return result

    with pytikv.RawClient.connect(url, **options) as client:
        try:
            body(client, done).send(None)
        except StopIteration as stop:
            return stop.value
    raise AssertionError("a blocking client waited")


both = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


def in_flight(client: Any) -> int:
    core = getattr(client, "_core", client)
    pool = core._backend._cluster.connections
    states = pool._addresses.values()
    shared = sum(channel.in_flight for state in states for channel in state.channels)
    return shared + sum(channel.in_flight for state in states for channel, _ in state.idle)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@both
def test_context_and_time_reach_the_server(kind, served, watch) -> None:
    async def body(client: Any, call: Any) -> None:
        with pytikv.context(trace_id=TRACE, tenant_id="acme", user_token="of-alice"), pytikv.deadline(3.0):
            await call(client.put(b"a", b"1"))
            assert await call(client.get(b"a")) == b"1"
        with pytikv.context(trace_id=TRACE, request_source="shop"), pytikv.deadline(3.0):
            assert await call(client.get(b"a")) == b"1"
        assert await call(client.get(b"a")) == b"1"

    on_both(kind, served.url, body)
    alone, batched, plain = watch.of("RawGet")
    assert alone.headers["authorization"] == "Bearer of-alice"
    assert alone.headers["traceparent"] == f"00-{TRACE}-{TRACE[16:]}-01"
    assert alone.headers["tenant-id"] == "acme"
    assert 0 < alone.left_s <= 3.0
    assert 0 < alone.context.max_execution_duration_ms <= 3000
    assert (batched.left_s, batched.context.request_source) == (None, "shop")
    assert batched.context.trace_id == bytes.fromhex(TRACE)
    assert 0 < batched.context.max_execution_duration_ms <= 3000
    assert plain.context.trace_id == b""


@both
def test_the_deadline_ends_what_was_sent(kind, served, watch) -> None:
    async def body(client: Any, call: Any) -> None:
        await call(client.put(b"a", b"1"))
        watch.hold.add("RawCompareAndSwap")
        with pytikv.deadline(0.2), pytest.raises(pytikv.DeadlineExceeded) as caught:
            await call(client.compare_and_swap(b"a", b"1", b"2"))
        assert caught.value.outcome is Outcome.UNDETERMINED
        assert await call(client.get(b"a")) == b"1"
        assert in_flight(client) == 0

    # A blocking call raises where it is written, not where its answer is awaited: the block holds both.
    on_both(kind, served.url, body)
    wait_until(lambda: all(seen.ended == "cancelled" for seen in watch.seen if seen.method == "RawCompareAndSwap"))
    assert len(watch.of("RawCompareAndSwap")) == 1


def test_cancelling_a_task_ends_its_requests(served, watch) -> None:
    async def main() -> None:
        async with await pytikv.AsyncRawClient.connect(served.url) as client:
            await client.put(b"a", b"1")
            watch.hold.add("RawCompareAndSwap")
            task = asyncio.create_task(client.compare_and_swap(b"a", b"1", b"2"))
            await asyncio.to_thread(wait_until, lambda: bool([s for s in watch.seen if s.method in watch.hold]))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert in_flight(client) == 0
            wait = lambda: all(seen.ended == "cancelled" for seen in watch.seen if seen.method in watch.hold)  # noqa: E731
            await asyncio.to_thread(wait_until, wait)
            assert len(asyncio.all_tasks()) == 1
            assert await client.get(b"a") == b"1"

    asyncio.run(main())


def test_a_timeout_of_asyncio_ends_a_fan_out(served, watch) -> None:
    async def main() -> None:
        async with await pytikv.AsyncRawClient.connect(served.url) as client:
            keys = [b"%03d" % number for number in range(10)]
            await client.batch_put(dict.fromkeys(keys, b"v"))
            for key in keys[1:]:
                served.split(key)
            await client.batch_get(keys)
            watch.hold.add("RawBatchGet")
            with pytikv.context(user_token="of-alice"), pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.batch_get(keys)
            assert in_flight(client) == 0
            assert len(asyncio.all_tasks()) == 1
            held = [seen for seen in watch.seen if seen.method == "RawBatchGet" and seen.left_s is not None]
            assert len(held) == 10
            await asyncio.to_thread(wait_until, lambda: all(seen.ended == "cancelled" for seen in held))

    asyncio.run(main())


# --- tokens -----------------------------------------------------------------------------------------------------------


@both
def test_a_plain_provider_serves_both(kind, served, watch) -> None:
    threads: list[int] = []

    def provider() -> tuple[str, float]:
        threads.append(threading.get_ident())
        return f"token-{len(threads)}", time.time() + 3600

    async def body(client: Any, call: Any) -> None:
        await call(client.put(b"a", b"1"))
        assert await call(client.get(b"a")) == b"1"

    on_both(kind, served.url, body, token_provider=provider)
    assert len(threads) == 1
    assert (threads[0] == threading.get_ident()) is (kind == "blocking")
    assert {seen.headers.get("authorization") for seen in watch.seen} == {"Bearer token-1"}


def test_a_coroutine_function_serves_asyncio_only(served) -> None:
    async def provider() -> str:
        return "secret"

    async def main() -> None:
        async with await pytikv.AsyncRawClient.connect(served.url, token_provider=provider) as client:
            await client.get(b"a")

    asyncio.run(main())
    with pytest.raises(pytikv.ConfigError, match="asyncio clients only"):
        pytikv.RawClient.connect(served.url, token_provider=provider)


def test_a_new_token_opens_new_streams(served, watch) -> None:
    """For blocking clients, whose timestamps have a connection of their own."""
    token = "token-1"

    with pytikv.TransactionClient.connect(served.url, token_provider=lambda: token) as db:
        db.current_timestamp()
        db.snapshot(cache=False).get(b"a")
        token = "token-2"
        source = db._core._backend._cluster.connections._tokens
        source._ask_at = 0.0  # as if a minute had passed
        for _ in range(3):
            db.current_timestamp()
            db.snapshot(cache=False).get(b"a")
    for method in ("Tso", "BatchCommands"):
        assert [seen.headers["authorization"] for seen in watch.of(method)] == ["Bearer token-1", "Bearer token-2"]


# --- event loops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("was_used", [False, True])
@pytest.mark.parametrize("is_closed", [False, True])
def test_a_client_in_another_loop_is_told_so(served, was_used, is_closed) -> None:
    async def first() -> Any:
        client = await pytikv.AsyncRawClient.connect(served.url)
        db = await pytikv.AsyncTransactionClient.connect(served.url)
        if was_used:
            await client.put(b"a", b"1")
            await db.current_timestamp()
        return client, db

    async def second(client: Any, db: Any) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: client.get(b"a"),
            lambda: client.put(b"a", b"1"),
            lambda: client.batch_get([b"a", b"b"]),
            lambda: client.compare_and_swap(b"a", None, b"1"),
            db.current_timestamp,
            lambda: db.snapshot().get(b"a"),
            client.close,
            db.close,
        ]
        for call in calls:
            with pytest.raises(pytikv.InvalidArgument, match=r"belongs to the event loop.*connect inside each loop"):
                await call()

    loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    client, db = loop.run_until_complete(first())
    if is_closed:
        loop.close()
    other.run_until_complete(second(client, db))
    if not is_closed:
        loop.run_until_complete(client.close())
        loop.run_until_complete(db.close())
        loop.close()
    other.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # what a closed loop left open
        del client, db
        gc.collect()
