"""A transaction's life and what it refuses: states, turns, arguments, limits, reads of own writes, savepoints."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from txn_world import Node, Store, error_of

from pytikv.errors import (
    InvalidArgument,
    KeyExists,
    Outcome,
    TransactionTooLarge,
    WriteConflict,
    WrongType,
)

OPERATIONS = {
    "get": lambda txn: txn.get(b"a"),
    "batch_get": lambda txn: txn.batch_get([b"a"]),
    "scan": lambda txn: anext(txn.scan()),
    "put": lambda txn: txn.put(b"a", b"1"),
    "insert": lambda txn: txn.insert(b"a", b"1"),
    "delete": lambda txn: txn.delete(b"a"),
    "lock_keys": lambda txn: txn.lock_keys([b"a"]),
    "get_for_update": lambda txn: txn.get_for_update(b"a"),
    "exists_for_update": lambda txn: txn.exists_for_update(b"a"),
    "commit": lambda txn: txn.commit(),
}


async def items(scan: Any) -> list[Any]:
    return [pair async for pair in scan]


async def ended(node: Node, how: str) -> Any:
    txn = await node.begin()
    if how == "failed":
        await txn.put(b"f", b"1")
        async with node.begin() as other:
            await other.put(b"f", b"2")
        assert isinstance(await error_of(txn.commit()), WriteConflict)
    elif how != "new":
        await getattr(txn, how)()
    return txn


# --- life -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("commit", "has been committed"),
        ("rollback", "has been rolled back"),
        ("failed", "ended with a failed commit"),
        ("new", "has not begun"),
    ],
)
def test_nothing_is_done_before_the_beginning_and_after_the_end(
    store: Store, operation: str, how: str, text: str
) -> None:
    node = store.node()

    async def run() -> None:
        txn = node.begin() if how == "new" else await ended(node, how)
        sent = len(node.steps)
        with pytest.raises(InvalidArgument, match=text):
            await OPERATIONS[operation](txn)
        with pytest.raises(InvalidArgument, match=text):
            txn.savepoint()
        assert len(node.steps) == sent
        await txn.rollback()  # harmless, whatever came before
        await txn.rollback()

    store.run(run(), node)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("options", [{}, {"pessimistic": True}], ids=str)
def test_two_tasks_at_once_are_refused(store: Store, operation: str, options: dict[str, Any]) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(**options)
        task = node.rt.spawn(txn.get(b"other"), name="first")
        await node.rt.sleep(0.0002)
        assert not task.done()
        with pytest.raises(InvalidArgument, match="one task or thread at a time"):
            await OPERATIONS[operation](txn)
        with pytest.raises(InvalidArgument, match="one task or thread at a time"):
            await txn.rollback()
        await node.rt.sleep(0.01)
        assert task.done()
        await txn.put(b"a", b"1")  # the first one was not disturbed, and the next one has its turn
        await txn.commit()
        assert await node.read(b"a") == [b"1"]

    store.run(run(), node)


def test_the_block_commits_or_rolls_back(store: Store) -> None:
    node = store.node()

    async def fail() -> None:
        async with node.begin() as txn:
            await txn.put(b"a", b"2")
            raise ZeroDivisionError

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"a", b"1")
            assert txn.is_open
            assert txn.outcome is Outcome.NOT_APPLIED
        assert not txn.is_open
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await node.read(b"a") == [b"1"]
        async with node.begin() as early:
            await early.put(b"a", b"3")
            await early.commit()
        async with await node.begin() as awaited:
            await awaited.put(b"a", b"4")
            await awaited.rollback()
        assert await node.read(b"a") == [b"3"]
        with pytest.raises(InvalidArgument, match="begun already"):
            await early

    store.run(run(), node)


def test_who_asked_is_told_of_the_end_once(store: Store) -> None:
    node = store.node()
    told: list[Any] = []

    async def run() -> None:
        from pytikv.client.txn.options import TxnOptions
        from pytikv.client.txn.transaction import AsyncTransaction

        for end in ("commit", "rollback"):
            txn = await AsyncTransaction(node, TxnOptions(), on_done=told.append)
            await getattr(txn, end)()
            await txn.rollback()
            assert told.pop() is txn
            assert told == []

    store.run(run(), node)


def test_a_forgotten_transaction_warns(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        held = [await node.begin(pessimistic=True)]
        await held[0].put(b"a", b"1")
        with pytest.warns(ResourceWarning, match="neither committed nor rolled back"):
            held.clear()
        reader = await node.begin()
        await reader.get(b"b")
        del reader  # nothing was to be lost
        gc.collect()
        new = node.begin()
        del new

    store.run(run(), node)


# --- arguments and limits ---------------------------------------------------------------------------------------------


def test_arguments_of_the_wrong_type_are_refused(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn: Any = await node.begin()
        calls = [
            lambda: txn.get("a"),
            lambda: txn.put(b"a", "text"),
            lambda: txn.put(bytearray(b"a"), b"1"),
            lambda: txn.insert(b"a", None),
            lambda: txn.delete(1),
            lambda: txn.batch_get(b"a"),
            lambda: txn.lock_keys([1]),
            lambda: txn.lock_keys([b"a"], wait="1"),
            lambda: items(txn.scan(limit="1")),
            lambda: items(txn.scan_prefix("a")),
        ]
        for call in calls:
            with pytest.raises(WrongType):
                await call()
        for call in (lambda: txn.lock_keys([b"a"], wait=-1), lambda: items(txn.scan(limit=-1))):
            with pytest.raises(InvalidArgument):
                await call()
        await txn.commit()
        assert node.names() == ["timestamp"]

    store.run(run(), node)


@pytest.mark.parametrize("options", [{}, {"pessimistic": True}], ids=str)
def test_what_is_too_large_is_refused_and_the_rest_committed(store: Store, options: dict[str, Any]) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin(max_entry_bytes=100, max_txn_bytes=150, **options) as txn:
            await txn.put(b"a", b"1" * 90)
            with pytest.raises(TransactionTooLarge, match="max_entry_bytes"):
                await txn.put(b"b", b"1" * 100)
            with pytest.raises(TransactionTooLarge, match="max_txn_bytes"):
                await txn.put(b"c", b"1" * 90)
            with pytest.raises(InvalidArgument, match="65535"):
                await txn.put(b"k" * 65_536, b"")
            await txn.put(b"a", b"2" * 95)
        assert await node.read(b"a", b"b", b"c") == [b"2" * 95, None, None]
        assert store.locks() == 0

    store.run(run(), node)


def test_an_empty_value_and_an_empty_key_are_what_they_are(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"", b"root")
            await txn.put(b"a", b"")
            assert await txn.get(b"a") == b""
        async with node.begin(pessimistic=True) as txn:
            assert await txn.get_for_update(b"a") == b""
            assert await txn.get(b"") == b"root"
            assert await items(txn.scan()) == [(b"", b"root"), (b"a", b"")]
            assert await items(txn.scan(reverse=True)) == [(b"a", b""), (b"", b"root")]
            with pytest.raises(KeyExists):
                await txn.insert(b"a", b"1")

    store.run(run(), node)


# --- reads of own writes ----------------------------------------------------------------------------------------------


def test_reads_see_own_writes_over_the_snapshot(store: Store) -> None:
    store.split(b"c")
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            for key in (b"a", b"b", b"c", b"d"):
                await txn.put(key, b"old")
        txn = await node.begin()
        async with node.begin() as other:
            await other.put(b"e", b"later")
        await txn.put(b"b", b"new")
        await txn.delete(b"c")
        await txn.insert(b"bb", b"own")
        await txn.lock_keys([b"d"])
        assert await txn.get(b"b") == b"new"
        assert await txn.get(b"c") is None
        assert await txn.get(b"d") == b"old"
        assert await txn.get(b"e") is None
        wanted = [(b"a", b"old"), (b"b", b"new"), (b"bb", b"own"), (b"d", b"old")]
        assert await items(txn.scan()) == wanted
        assert await items(txn.scan(reverse=True)) == wanted[::-1]
        assert await items(txn.scan(b"b", b"d")) == wanted[1:3]
        assert await items(txn.scan(limit=2, batch_size=1)) == wanted[:2]
        assert await items(txn.scan_prefix(b"b", keys_only=True)) == [(b"b", b""), (b"bb", b"")]
        assert list((await txn.batch_get([b"d", b"c", b"b", b"x"])).items()) == [(b"d", b"old"), (b"b", b"new")]
        await txn.rollback()

    store.run(run(), node)


def test_a_loop_that_writes_what_it_scans_ends(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            for number in range(10):
                await txn.put(b"k%d" % number, b"1")
        async with node.begin() as txn:
            await txn.put(b"k5x", b"own")
            async for key, value in txn.scan(batch_size=3):
                await txn.put(key + b"+", value)
                await txn.delete(key)
            await txn.put(b"z", b"")
        found = await items((await node.begin()).scan(keys_only=True))
        assert [key for key, _ in found] == sorted([b"k%d+" % n for n in range(10)] + [b"k5x+", b"z"])

    store.run(run(), node)


def test_read_committed_sees_what_was_committed_meanwhile(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(isolation="RC")
        assert await txn.get(b"a") is None
        async with node.begin() as other:
            await other.put(b"a", b"1")
        assert await txn.get(b"a") == b"1"
        assert await txn.batch_get([b"a"]) == {b"a": b"1"}
        assert await items(txn.scan()) == [(b"a", b"1")]
        await txn.put(b"a", b"2")
        assert await txn.get(b"a") == b"2"
        assert isinstance(await error_of(txn.commit()), WriteConflict)  # reading late does not make the write late

    store.run(run(), node)


# --- savepoints -------------------------------------------------------------------------------------------------------


def test_savepoints_nest_and_undo(store: Store) -> None:
    node = store.node()

    async def inner(txn: Any) -> None:
        async with txn.savepoint():
            await txn.put(b"b", b"inner")
            await txn.delete(b"a")
            assert await items(txn.scan()) == [(b"b", b"inner")]
            raise ZeroDivisionError

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"a", b"1")
            async with txn.savepoint():
                await txn.put(b"b", b"2")
                with pytest.raises(ZeroDivisionError):
                    await inner(txn)
                assert await items(txn.scan()) == [(b"a", b"1"), (b"b", b"2")]
            with txn.savepoint() as block:
                await txn.put(b"c", b"3")
                block.rollback()
                assert await txn.get(b"c") is None
                await txn.put(b"d", b"4")
        assert await node.read(b"a", b"b", b"c", b"d") == [b"1", b"2", None, b"4"]

    store.run(run(), node)


def test_an_insert_that_was_undone_is_none(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            await txn.put(b"a", b"1")
        async with node.begin() as txn:
            with txn.savepoint() as block:
                await txn.insert(b"a", b"2")
                block.rollback()
            await txn.put(b"a", b"3")
        assert await node.read(b"a") == [b"3"]

    store.run(run(), node)


def test_a_savepoint_serves_one_block(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            block = txn.savepoint()
            with block:
                await txn.put(b"a", b"1")
            with pytest.raises(InvalidArgument, match="one block"):
                block.__enter__()
            with pytest.raises(InvalidArgument, match="closed"):
                block.rollback()

    store.run(run(), node)
