"""Commits as a program sees them, and the requests they take: 2PC, async commit, 1PC, their fallbacks, conflicts."""

from __future__ import annotations

from typing import Any

import pytest
from txn_world import Fault, Node, Store, error_of

from pytikv.errors import (
    AssertionFailed,
    InvalidArgument,
    KeyExists,
    Outcome,
    TransactionAborted,
    WriteConflict,
)
from pytikv.types import Timestamp

TWO_PC = {"async_commit": False, "one_pc": False}
ASYNC = {"one_pc": False}
PROTOCOLS: list[dict[str, Any]] = [TWO_PC, ASYNC, {}, {"pessimistic": True}, {"pessimistic": True, **TWO_PC}]


async def write(node: Node, pairs: dict[bytes, bytes | None], **options: Any) -> Any:
    async with node.begin(**options) as txn:
        for key, value in pairs.items():
            await (txn.delete(key) if value is None else txn.put(key, value))
    return txn


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
@pytest.mark.parametrize("borders", [(), (b"b", b"c")], ids=["one region", "three regions"])
def test_a_commit_is_seen_whole_and_at_its_timestamp(
    store: Store, options: dict[str, Any], borders: tuple[bytes, ...]
) -> None:
    store.split(*borders)
    node, other = store.node(), store.node()

    async def run() -> None:
        await write(node, {b"a": b"0", b"b": b"0"})
        txn = await write(node, {b"a": b"1", b"b": None, b"c": b"3"}, **options)
        assert txn.outcome is Outcome.APPLIED
        assert txn.commit_ts > txn.start_ts
        assert await other.read(b"a", b"b", b"c") == [b"1", None, b"3"]
        before = node.begin(start_ts=txn.commit_ts - 1)
        at = node.begin(start_ts=int(txn.commit_ts))
        assert [await (await t).get(b"a") for t in (before, at)] == [b"0", b"1"]
        await node.rt.sleep(1)
        assert store.locks() == 0  # the secondaries follow in the background

    store.run(run(), node)


@pytest.mark.parametrize(
    ("options", "borders", "names"),
    [
        (TWO_PC, (b"b",), ["timestamp", "KvPrewrite", "KvPrewrite", "timestamp", "KvCommit"]),
        (ASYNC, (b"b",), ["timestamp", "timestamp", "KvPrewrite", "KvPrewrite"]),
        ({"causal": True}, (b"b",), ["timestamp", "KvPrewrite", "KvPrewrite"]),
        ({}, (), ["timestamp", "timestamp", "KvPrewrite"]),
        ({"causal": True}, (), ["timestamp", "KvPrewrite"]),
    ],
    ids=["2PC", "async commit", "async commit, causal", "1PC", "1PC, causal"],
)
def test_round_trips(store: Store, options: dict[str, Any], borders: tuple[bytes, ...], names: list[str]) -> None:
    """Requests until the caller has its answer; the prewrites of two regions are under way at once."""
    store.split(*borders)
    node = store.node()

    async def run() -> float:
        began = node.rt.now()
        await write(node, {b"a": b"1", b"b": b"2"}, **options)
        took: float = node.rt.now() - began
        sent = node.names()
        assert sent[: len(names)] == names
        assert set(sent[len(names) :]) <= {"KvCommit"}  # behind the caller's answer
        return took

    took = store.run(run(), node)
    trips = len(names) - names.count("KvPrewrite") + 1
    assert took == pytest.approx(trips * 0.001, rel=0.01)


def test_a_transaction_that_wrote_nothing_sends_nothing(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as txn:
            assert await txn.get(b"a") is None
        assert txn.outcome is Outcome.APPLIED
        assert txn.commit_ts is None
        assert node.names() == ["timestamp", "KvGet"]

    store.run(run(), node)


@pytest.mark.parametrize("options", PROTOCOLS[:3], ids=str)
def test_the_second_writer_conflicts_and_changes_nothing(store: Store, options: dict[str, Any]) -> None:
    store.split(b"b")
    node = store.node()

    async def run() -> None:
        late = await node.begin(**options)
        await late.put(b"a", b"late")
        await late.put(b"z", b"late")
        first = await write(node, {b"a": b"first"}, **options)
        error = await error_of(late.commit())
        assert isinstance(error, WriteConflict)
        assert error.key == b"a"
        assert error.conflict_commit_ts == first.commit_ts
        assert late.outcome is Outcome.NOT_APPLIED is error.outcome
        assert error.retryable
        await node.rt.sleep(1)
        assert store.locks() == 0  # what was prewritten is rolled back behind the error
        assert await node.read(b"a", b"z") == [b"first", None]

    store.run(run(), node)


def test_a_lock_that_was_noted_conflicts_as_a_write_does(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin() as first:
            await first.lock_keys([b"a"])
            await first.put(b"b", b"1")
        txn = await node.begin()
        await txn.get_for_update(b"a")
        await txn.put(b"c", b"1")
        await write(node, {b"a": b"2"})
        assert isinstance(await error_of(txn.commit()), WriteConflict)

    store.run(run(), node)


@pytest.mark.parametrize("options", PROTOCOLS[:3], ids=str)
def test_an_older_writer_waits_for_a_younger_lock_never(store: Store, options: dict[str, Any]) -> None:
    node, stuck = store.node(), store.node()
    stuck.faults = [Fault("KvCommit", "die before")]

    async def run() -> None:
        old = await node.begin(**options)
        await old.put(b"a", b"old")
        stuck.rt.spawn(write(stuck, {b"a": b"young"}, **TWO_PC), name="young")
        await node.rt.sleep(0.1)
        began = node.rt.now()
        error = await error_of(old.commit())
        assert isinstance(error, WriteConflict)
        assert node.rt.now() - began < 0.01

    store.run(run(), node)


@pytest.mark.parametrize("options", [TWO_PC, ASYNC, {}], ids=str)
def test_a_younger_writer_resolves_what_a_dead_client_left(store: Store, options: dict[str, Any]) -> None:
    node, dead = store.node(), store.node()
    dead.faults = [Fault("KvCommit", "die before")]

    async def run() -> None:
        dead.rt.spawn(write(dead, {b"a": b"dead", b"b": b"dead"}, **TWO_PC), name="dead")
        await node.rt.sleep(0.1)
        assert store.locks() == 2
        began = node.rt.now()
        txn = await write(node, {b"a": b"alive"}, **options)
        assert txn.outcome is Outcome.APPLIED
        assert 2.5 < node.rt.now() - began < 4.5  # the TTL of a small transaction, and no more
        assert await node.read(b"a", b"b") == [b"alive", None]

    store.run(run(), node)


# --- insert, checks, assertions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
def test_an_insert_meets_a_key(store: Store, options: dict[str, Any]) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, {b"a": b"1"})
        txn = await node.begin(**options)

        async def insert() -> None:
            await txn.insert(b"a", b"2")
            await txn.commit()

        error = await error_of(insert())
        assert isinstance(error, KeyExists)
        assert error.key == b"a"
        assert not error.retryable
        assert txn.outcome is Outcome.NOT_APPLIED
        assert txn.is_open is bool(options.get("pessimistic"))  # at once, and it stays usable; else at the commit
        await txn.rollback()
        assert await node.read(b"a") == [b"1"]

    store.run(run(), node)


def test_inserts_against_own_writes(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, {b"there": b"1"})
        async with node.begin() as txn:
            await txn.put(b"new", b"1")
            with pytest.raises(KeyExists):
                await txn.insert(b"new", b"2")
            await txn.delete(b"there")
            await txn.insert(b"there", b"2")  # gone in this transaction's eyes
        assert await node.read(b"new", b"there") == [b"1", b"2"]

    store.run(run(), node)


@pytest.mark.parametrize("options", [TWO_PC, ASYNC, {}, {"pessimistic": True}], ids=str)
def test_an_insert_that_was_deleted_again(store: Store, options: dict[str, Any]) -> None:
    node = store.node()

    async def run() -> None:
        async with node.begin(**options) as txn:
            await txn.insert(b"a", b"1")
            await txn.delete(b"a")
        assert txn.outcome is Outcome.APPLIED
        await node.rt.sleep(1)
        assert store.locks() == 0
        await write(node, {b"a": b"0"})
        if not options.get("pessimistic"):
            txn = await node.begin(**options)
            await txn.insert(b"a", b"1")
            await txn.delete(b"a")
            assert isinstance(await error_of(txn.commit()), KeyExists)  # it was there: the insert was wrong

    store.run(run(), node)


@pytest.mark.parametrize("options", [{}, {"pessimistic": True}], ids=str)
def test_assertions(store: Store, options: dict[str, Any]) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, {b"a": b"1"})
        async with node.begin(assertions="strict", **options) as txn:
            await txn.put(b"a", b"2")
            txn.assert_exists(b"a")
            await txn.put(b"b", b"2")
            txn.assert_not_exists(b"b")
        wrong = await node.begin(assertions="strict", **options)
        await wrong.put(b"b", b"3")
        wrong.assert_not_exists(b"b")
        error = await error_of(wrong.commit())
        assert isinstance(error, AssertionFailed)
        assert wrong.outcome is Outcome.NOT_APPLIED
        assert await node.read(b"a", b"b") == [b"2", b"2"]
        await node.rt.sleep(1)
        assert store.locks() == 0
        plain = await node.begin()
        with pytest.raises(InvalidArgument, match="assertions are off"):
            plain.assert_exists(b"a")
        strict = await node.begin(assertions="strict")
        with pytest.raises(InvalidArgument, match="was not written"):
            strict.assert_exists(b"a")

    store.run(run(), node)


def test_an_assertion_that_a_lock_belies(store: Store) -> None:
    """What locking told is held against the assertion, once the store found no better reason to refuse."""
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True, assertions="fast")
        assert await txn.get_for_update(b"a") is None
        await txn.put(b"a", b"1")
        txn.assert_exists(b"a")
        error = await error_of(txn.commit())
        assert isinstance(error, AssertionFailed)
        assert error.key == b"a"
        await node.rt.sleep(1)
        assert store.locks() == 0

    store.run(run(), node)


# --- commit timestamps ------------------------------------------------------------------------------------------------


def test_a_commit_waits_for_the_oracle(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        until = int(store.now_ts()) + Timestamp.compose(300)
        for options in PROTOCOLS[:3]:
            txn = await write(node, {b"a": b"1"}, commit_wait_until=until, **options)
            assert txn.commit_ts > until
        later = int(store.now_ts()) + Timestamp.compose(5000)
        error = await error_of(write(node, {b"a": b"2"}, commit_wait_until=later))
        assert isinstance(error, TransactionAborted)
        assert await node.read(b"a") == [b"1"]

    store.run(run(), node)


def test_a_commit_timestamp_is_shown_before_it_is_used(store: Store) -> None:
    node = store.node()
    seen: list[int] = []

    async def run() -> None:
        txn = await write(node, {b"a": b"1"}, commit_ts_check=lambda ts: not seen.append(ts))
        assert seen == [txn.commit_ts]
        error = await error_of(write(node, {b"a": b"2"}, commit_ts_check=lambda ts: False))
        assert isinstance(error, TransactionAborted)
        assert await node.read(b"a") == [b"1"]
        await node.rt.sleep(1)
        assert store.locks() == 0

    store.run(run(), node)


@pytest.mark.parametrize("options", [ASYNC, {}], ids=str)
def test_a_store_that_cannot_keep_the_window_makes_it_two_phases(store: Store, options: dict[str, Any]) -> None:
    store.split(b"b")
    node = store.node()

    async def run() -> None:
        txn = await node.begin(async_commit_window_ms=0, **options)
        await txn.put(b"a", b"1")
        if options:
            await txn.put(b"b", b"1")
        await node.rt.sleep(0.01)
        store.storage.concurrency.update_max_ts(int(store.now_ts()) + Timestamp.compose(1000))  # a reader ahead
        await txn.commit()
        assert txn.outcome is Outcome.APPLIED
        assert "KvCommit" in node.names()
        assert await node.read(b"a") == [b"1"]

    store.run(run(), node)


def test_a_reader_that_pushed_the_commit_timestamp(store: Store) -> None:
    """The store wants a later one (CommitTsExpired): another is taken, and the reader keeps its view."""
    node, reader = store.node(), store.node()
    node.faults = [Fault("KvCommit", "drop request", 0)]  # time for the reader to come before the commit

    async def run() -> None:
        await write(reader, {b"a": b"0"})
        txn = node.begin(**TWO_PC)

        async def commit() -> None:
            async with txn:
                await txn.put(b"a", b"1")

        task = node.rt.spawn(commit(), name="commit")
        await reader.rt.sleep(0.02)
        assert await reader.read(b"a") == [b"0"]
        while not task.done():
            await reader.rt.sleep(0.01)
        assert txn.outcome is Outcome.APPLIED
        assert len(node.requests("KvCommit")) == 3  # lost, refused, done
        assert await reader.read(b"a") == [b"1"]

    store.run(run(), reader)


def test_a_start_timestamp_from_the_future_is_refused(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        future = int(store.now_ts()) + Timestamp.compose(30_000)
        txn = await node.begin(start_ts=future, **TWO_PC)
        await txn.put(b"a", b"1")
        error = await error_of(txn.commit())
        assert isinstance(error, InvalidArgument)
        assert "future" in str(error)

    store.run(run(), node)


# --- batches and regions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
def test_many_keys_in_many_batches_and_regions(store: Store, options: dict[str, Any]) -> None:
    store.split(b"k0300", b"k0600")
    node = store.node()
    pairs: dict[bytes, bytes | None] = {b"k%04d" % n: b"v" * 100 for n in range(900)}

    async def run() -> None:
        txn = await write(node, pairs, **options)
        assert txn.outcome is Outcome.APPLIED
        prewrites = node.requests("KvPrewrite")
        assert len(prewrites) > 3
        assert sum(len(request.mutations) for request in prewrites) == 900
        assert {request.txn_size for request in prewrites} == {300}
        assert await node.read(*pairs) == list(pairs.values())
        await node.rt.sleep(5)
        assert store.locks() == 0

    store.run(run(), node)


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
@pytest.mark.parametrize("name", ["KvPrewrite", "KvCommit"])
def test_a_region_splits_before_a_step(store: Store, options: dict[str, Any], name: str) -> None:
    store.split(b"m")
    node = store.node()
    node.faults = [Fault(name, lambda: store.split(b"b", b"c", b"n"), 0)]

    async def run() -> None:
        pairs: dict[bytes, bytes | None] = {key: key * 2 for key in (b"a", b"b", b"c", b"m", b"n")}
        txn = await write(node, pairs, **options)
        assert txn.outcome is Outcome.APPLIED
        assert await node.read(*pairs) == list(pairs.values())
        await node.rt.sleep(2)
        assert store.locks() == 0
        if name == "KvPrewrite":
            again = [request for request in node.requests("KvPrewrite") if request.txn_size > 5]
            assert again  # sizes unknown after the split: no lock may be resolved by keys alone

    store.run(run(), node)


def test_a_region_is_split_before_a_very_large_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytikv.client.txn.committer.split_keys", lambda items: [items[len(items) // 2].key])
    node = store.node()

    async def run() -> None:
        pairs: dict[bytes, bytes | None] = {b"k%04d" % n: b"v" for n in range(200)}
        await write(node, pairs, presplit_keys=100)
        assert len(node.requests("SplitRegion")) == 1
        assert node.requests("scatter") == [1, 2]
        assert len(store.places) == 2
        assert await node.read(*pairs) == list(pairs.values())

    store.run(run(), node)
