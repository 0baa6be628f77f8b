"""Batch writers for raw pairs: what is sent when, what is sent again, and the account of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

import pytikv
from pytikv.client.batch_result import BatchResult, unanswered
from pytikv.client.raw_batch_writer import AsyncRawBatchWriter
from pytikv.errors import ConnectionFailed, InvalidArgument, Outcome, TikvError
from pytikv.testing.sim import World


class Store:
    """A store that takes a pair when `refuses(key, attempt)` does not return an error."""

    def __init__(self, refuses: Callable[[bytes, int], TikvError | None] = lambda key, attempt: None) -> None:
        self.pairs: dict[bytes, bytes] = {}
        self.attempts: dict[bytes, int] = {}
        self.requests: list[int] = []
        self.at_once = self.most_at_once = 0
        self.refuses = refuses
        self.rt: Any = None

    async def _do(self, keys: Sequence[bytes], apply: Callable[[bytes], None]) -> dict[bytes, TikvError]:
        self.requests.append(len(keys))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.rt.sleep(0.01)
        self.at_once -= 1
        failed = {}
        for key in keys:
            self.attempts[key] = self.attempts.get(key, 0) + 1
            error = self.refuses(key, self.attempts[key])
            if error is None:
                apply(key)
            else:
                failed[key] = error
        return failed

    async def batch_put(self, writes: Sequence[tuple[bytes, bytes, int]]) -> dict[bytes, TikvError]:
        values = {key: value for key, value, _ in writes}
        return await self._do(list(values), lambda key: self.pairs.update({key: values[key]}))

    async def batch_delete(self, keys: Sequence[bytes]) -> dict[bytes, TikvError]:
        return await self._do(keys, lambda key: self.pairs.pop(key, None) and None)


def simulated(
    store: Store, work: Callable[[AsyncRawBatchWriter], Awaitable[None]], **options: Any
) -> tuple[BatchResult[bytes], float]:
    """Write in virtual time; returns the account and how long it took."""
    with World(3) as world:
        store.rt = world.process("main")
        backend: Any = store
        writer = AsyncRawBatchWriter(store.rt, lambda: backend, **{"max_items": None, "max_bytes": 1 << 20, **options})

        async def run() -> None:
            async with writer:
                await work(writer)

        world.run(run(), 60)
        return writer.result, world.now


async def put_all(writer: AsyncRawBatchWriter, keys: Sequence[bytes]) -> None:
    for key in keys:
        await writer.put(key, b"v" + key)


KEYS = [b"%03d" % n for n in range(100)]
ALL = functools.partial(put_all, keys=KEYS)


def test_bytes_cut_batches_and_items_do_where_asked() -> None:
    for options, sizes in (
        ({}, [100]),
        ({"max_bytes": 70}, [10] * 10),
        ({"max_items": 25, "max_bytes": 16 << 20}, [25] * 4),
    ):
        store = Store()
        assert simulated(store, ALL, **options)[0] == BatchResult(100, [], {})
        assert store.requests == sizes


def test_puts_and_deletes_go_side_by_side_and_the_last_of_a_key_counts() -> None:
    async def work(writer: AsyncRawBatchWriter) -> None:
        await put_all(writer, KEYS)
        await writer.delete(KEYS[1])
        await writer.delete(b"other")
        await writer.put(KEYS[2], b"new")
        await writer.put(b"other", b"back")
        await writer.put(b"other", b"again")

    store = Store()
    result, _ = simulated(store, work)
    assert result.written == 101
    assert sorted(store.requests) == [1, 100]
    assert store.most_at_once == 2
    assert KEYS[1] not in store.pairs
    assert store.pairs[KEYS[2]] == b"new"
    assert store.pairs[b"other"] == b"again"


def test_what_was_not_taken_is_sent_again_with_growing_waits() -> None:
    store = Store(lambda key, attempt: ConnectionFailed("busy", retryable=True) if attempt < 4 else None)
    result, seconds = simulated(store, ALL)
    assert result == BatchResult(100, [], {})
    assert store.requests == [100] * 4
    assert 0.3 < seconds < 1.5


def test_what_is_never_taken_is_unprocessed() -> None:
    busy = {KEYS[5], KEYS[50]}
    store = Store(lambda key, attempt: ConnectionFailed("busy", retryable=True) if key in busy else None)
    result, _ = simulated(store, ALL)
    assert store.requests == [100, 2, 2, 2]
    assert (result.written, set(result.unprocessed), set(result.errors)) == (98, busy, busy)
    assert not result.is_complete
    assert {error.outcome for error in result.errors.values()} == {Outcome.NOT_APPLIED}


def test_what_can_never_be_taken_is_not_sent_again() -> None:
    def refuses(key: bytes, attempt: int) -> TikvError | None:
        if key == KEYS[7]:
            return InvalidArgument("too large")
        return ConnectionFailed("lost", outcome=Outcome.UNDETERMINED, retryable=True) if attempt == 1 else None

    store = Store(refuses)
    result, _ = simulated(store, ALL)
    assert store.requests == [100, 99]
    assert (result.written, result.unprocessed, list(result.errors)) == (99, [], [KEYS[7]])


def test_an_error_of_the_whole_request_is_each_ones() -> None:
    class Closed(Store):
        async def batch_put(self, writes: Any) -> Any:
            raise pytikv.ClientClosed("closed")

    result, _ = simulated(Closed(), ALL)
    assert (result.written, len(result.errors), result.unprocessed) == (0, 100, [])


def test_a_flush_that_is_cut_off_is_in_the_account() -> None:
    class Cut(Store):
        async def batch_put(self, writes: Any) -> Any:
            failed = await super().batch_put(writes)
            if len(self.requests) == 2:
                raise asyncio.CancelledError
            return failed

    store = Cut(lambda key, attempt: ConnectionFailed("busy", retryable=True) if key > KEYS[59] else None)
    with World(3) as world:
        store.rt = world.process("main")
        writer = AsyncRawBatchWriter(store.rt, lambda: store, max_items=None, max_bytes=1 << 20)  # type: ignore[arg-type, return-value]

        async def run() -> None:
            await put_all(writer, KEYS)
            with pytest.raises(asyncio.CancelledError):
                await writer.flush()

        world.run(run(), 60)
    result = writer.result
    assert (result.written, len(result.unprocessed)) == (60, 40)
    assert {error.outcome for error in result.errors.values()} == {Outcome.UNDETERMINED}
    assert str(next(iter(result.errors.values()))) == str(unanswered())


def test_memory_is_bounded() -> None:
    most = 0

    async def work(writer: AsyncRawBatchWriter) -> None:
        nonlocal most
        for n in range(10_000):
            await writer.put(b"%05d" % n, b"x" * 95)
            most = max(most, len(writer._waiting))

    assert simulated(Store(), work, max_bytes=10_000)[0].written == 10_000
    assert most < 100


def test_an_exception_sends_nothing_more(tikv: pytikv.RawClient) -> None:
    batch = tikv.batch(max_items=2)
    for key in KEYS[:3]:
        batch.put(key, b"v")
    batch.__exit__(RuntimeError, RuntimeError(), None)
    assert tikv.batch_get(KEYS) == dict.fromkeys(KEYS[:2], b"v")
    assert batch.result == BatchResult(2, [], {})
    with pytest.raises(InvalidArgument, match="has ended"):
        batch.put(b"k", b"v")
    with pytest.raises(InvalidArgument):
        tikv.batch(max_items=0)
    with pytest.raises(InvalidArgument):
        tikv.batch(max_bytes=0)


def test_over_regions_blocking_and_asyncio(tikv_server: Any) -> None:
    tikv_server.clear()
    with pytikv.RawClient.connect(tikv_server.url) as kv:
        with kv.batch(concurrency=4) as batch:
            for key in KEYS:
                batch.put(key, b"v", ttl=None)
            batch.delete(KEYS[0])
        assert batch.result == BatchResult(100, [], {})
        assert len(kv.batch_get(KEYS)) == 99

    async def again() -> None:
        async with await pytikv.AsyncRawClient.connect(tikv_server.url) as kv:
            async with kv.batch() as batch:
                for key in KEYS:
                    await batch.put(key, b"w")
            assert batch.result.written == 100
            assert set((await kv.batch_get(KEYS)).values()) == {b"w"}

    asyncio.run(again())
