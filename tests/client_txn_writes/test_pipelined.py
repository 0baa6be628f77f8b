"""Pipelined transactions: flushes by generation, reads through them, commit and rollback by range, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from txn_world import Fault, Store, error_of

from pytikv.client.txn.background import Background
from pytikv.errors import InvalidArgument, KeyExists, Outcome, TransactionAborted, WriteConflict

SMALL: dict[str, Any] = {"pipelined": True, "flush_keys": 4, "flush_bytes": 8}


def test_a_transaction_larger_than_its_buffer(store: Store) -> None:
    store.split(b"k030", b"k060")
    node, reader = store.node(), store.node()
    written = {b"k%03d" % (number * 37 % 100): b"v%d" % number for number in range(300)}

    async def run() -> None:
        async with node.begin(**SMALL) as txn:
            for number in range(300):
                await txn.put(b"k%03d" % (number * 37 % 100), b"v%d" % number)  # each key in three generations
            assert await reader.read(b"k000") == [None]
        assert txn.outcome is Outcome.APPLIED
        assert txn.commit_ts is not None
        generations = [request.generation for request in node.requests("KvFlush")]
        assert generations == sorted(generations)
        assert generations[-1] == 75
        assert await reader.read(*written) == list(written.values())
        commits = node.requests("KvCommit")
        assert [len(request.keys) for request in commits] == [1]  # the primary; the rest by range
        await Background.of(node).drain(node.rt.now() + 10)
        assert store.locks() == 0
        assert {request.commit_version for request in node.requests("KvResolveLock")} == {txn.commit_ts}

    store.run(run(), node)


def test_one_that_never_fills_its_buffer_is_committed_like_any_other(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin(pipelined=True) as txn:
            await txn.put(b"a", b"1")
        assert node.names() == ["timestamp", "timestamp", "KvPrewrite"]
        assert txn.outcome is Outcome.APPLIED

    store.run(run(), node)


def test_reads_go_through_buffer_flushed_locks_and_snapshot(store: Store) -> None:
    store.split(b"f")
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            for key in (b"a", b"c", b"e", b"g", b"zz"):
                await txn.put(key, b"old")
        txn = await node.begin(**SMALL)
        await txn.put(b"a", b"new")
        await txn.delete(b"c")
        await txn.put(b"g", b"newer")
        await txn.put(b"h", b"1234")
        assert node.requests("KvFlush")
        await txn.put(b"a", b"buffered")
        assert [await txn.get(key) for key in (b"a", b"c", b"e", b"g", b"h", b"zz")] == [
            b"buffered",
            None,
            b"old",
            b"newer",
            b"1234",
            b"old",
        ]
        found = await txn.batch_get([b"zz", b"g", b"e", b"c", b"a", b"none"])
        assert list(found.items()) == [(b"zz", b"old"), (b"g", b"newer"), (b"e", b"old"), (b"a", b"buffered")]
        asked = len(node.requests("KvBufferBatchGet"))
        assert await txn.get(b"zzz") is None  # above all that was flushed: the stores' locks need not be asked
        assert len(node.requests("KvBufferBatchGet")) == asked
        await txn.commit()
        assert await node.read(b"a", b"c", b"g") == [b"buffered", None, b"newer"]

    store.run(run(), node)


def test_inserts_and_conflicts_show_at_the_flush(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"c", b"there")
        txn = await node.begin(**SMALL)

        async def insert() -> None:
            for key in (b"a", b"b", b"c", b"d", b"e"):
                await txn.insert(key, b"123")

        error = await error_of(insert())
        assert isinstance(error, KeyExists)
        assert error.key == b"c"
        for operation in (txn.put(b"x", b"1"), txn.commit()):
            assert isinstance(await error_of(operation), TransactionAborted)  # it has ended with the flush
        assert txn.outcome is Outcome.NOT_APPLIED
        await Background.of(node).drain(node.rt.now() + 10)
        assert store.locks() == 0
        late = await node.begin(**SMALL)
        async with node.begin() as other:
            await other.put(b"b", b"2")

        async def write() -> None:
            for key in (b"a", b"b", b"c", b"d"):
                await late.put(key, b"123")

        assert isinstance(await error_of(write()), WriteConflict)
        await late.rollback()
        await Background.of(node).drain(node.rt.now() + 10)
        assert store.locks() == 0
        assert await node.read(b"a", b"b", b"c") == [None, b"2", b"there"]

    store.run(run(), node)


def test_inserting_over_flushed_writes(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"c", b"there")
        async with node.begin(**SMALL) as txn:
            await txn.put(b"a", b"123")
            await txn.put(b"b", b"123")
            await txn.delete(b"c")
            await txn.put(b"d", b"123")
            assert node.requests("KvFlush")
            with pytest.raises(KeyExists):
                await txn.insert(b"a", b"2")
            await txn.insert(b"c", b"again")
        assert await node.read(b"a", b"c") == [b"123", b"again"]

    store.run(run(), node)


def test_rollback_takes_the_flushed_locks_back(store: Store) -> None:
    store.split(b"c")
    node = store.node()

    async def run() -> None:
        txn = await node.begin(**SMALL)
        for key in (b"a", b"b", b"c", b"d", b"e"):
            await txn.put(key, b"123")
        assert store.locks() == 4
        await txn.rollback()
        await Background.of(node).drain(node.rt.now() + 10)
        assert store.locks() == 0
        assert await node.read(b"a", b"d") == [None, None]
        await node.rt.sleep(60)
        assert node.requests("KvTxnHeartBeat") == []

    store.run(run(), node)


def test_heartbeats_keep_the_primary_and_let_readers_pass(store: Store) -> None:
    node, reader = store.node(), store.node()

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"a", b"old")
        txn = await node.begin(**SMALL)
        for key in (b"a", b"b", b"c", b"d"):
            await txn.put(key, b"123")
        await node.rt.sleep(35)
        beats = node.requests("KvTxnHeartBeat")
        assert len(beats) == 3
        assert all(beat.min_commit_ts > txn.start_ts for beat in beats)
        began = node.rt.now()
        assert await reader.read(b"a", b"b") == [b"old", None]
        assert node.rt.now() - began < 0.1
        await txn.commit()
        assert await reader.read(b"a", b"b") == [b"123", b"123"]

    store.run(run(), node)


def test_a_lost_heartbeat_ends_it(store: Store) -> None:
    node, other = store.node(), store.node(timeout=60)

    async def run() -> None:
        txn = await node.begin(**SMALL)
        for key in (b"a", b"b", b"c", b"d"):
            await txn.put(key, b"123")
        node.faults = [Fault("KvTxnHeartBeat", "drop request")]

        async def take() -> None:
            async with other.begin(pessimistic=True) as rival:
                await rival.put(b"a", b"rival")

        await other.do(take())
        node.faults = []
        await node.rt.sleep(15)
        assert isinstance(await error_of(txn.put(b"x", b"1")), TransactionAborted)
        assert isinstance(await error_of(txn.commit()), TransactionAborted)
        assert await other.read(b"a", b"b") == [b"rival", None]

    store.run(run(), node)


def test_reads_behind_a_lost_lock_are_refused(store: Store) -> None:
    """Others rolled the transaction back: what lies beneath its lost locks is not what it wrote."""
    node, other = store.node(), store.node(timeout=60)

    async def run() -> None:
        async with node.begin() as first:
            await first.put(b"a", b"old")
        txn = await node.begin(**SMALL)
        for key in (b"a", b"b", b"d", b"e"):
            await txn.put(key, b"123")
        assert await txn.get(b"c") is None  # never flushed, and the primary lives
        node.faults = [Fault("KvTxnHeartBeat", "drop request")]

        async def take() -> None:
            async with other.begin(pessimistic=True) as rival:
                await rival.lock_keys([b"a"])

        await other.do(take())
        node.faults = []
        for key in (b"a", b"c"):
            assert isinstance(await error_of(txn.get(key)), TransactionAborted), key
        await txn.rollback()

    store.run(run(), node)


def test_regions_that_split_under_way(store: Store) -> None:
    node = store.node()
    node.faults = [
        Fault("KvFlush", lambda: store.split(b"b"), 1),
        Fault("KvBufferBatchGet", lambda: store.split(b"c"), 0),
        Fault("KvCommit", lambda: store.split(b"d"), 0),
        Fault("KvResolveLock", lambda: store.split(b"a", b"e"), 0),
    ]

    async def run() -> None:
        async with node.begin(**SMALL) as txn:
            for key in (b"a", b"b", b"c", b"d", b"e"):
                await txn.put(key, b"123")
            assert await txn.get(b"b") == b"123"
        assert await node.read(b"a", b"b", b"c", b"d", b"e") == [b"123"] * 5
        await Background.of(node).drain(node.rt.now() + 10)
        assert store.locks() == 0

    store.run(run(), node)


def test_what_it_refuses(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(**SMALL)
        with pytest.raises(InvalidArgument, match="savepoints"):
            txn.savepoint()
        with pytest.raises(InvalidArgument, match="lock"):
            await txn.lock_keys([b"a"])
        with pytest.raises(InvalidArgument, match="empty value"):
            await txn.put(b"a", b"")
        assert [pair async for pair in txn.scan()] == []  # nothing was flushed yet
        for key in (b"a", b"b", b"c", b"d"):
            await txn.put(key, b"123")
        with pytest.raises(InvalidArgument, match="scan"):
            await anext(txn.scan())
        await txn.rollback()

    store.run(run(), node)
