"""Pessimistic locks as a program meets them: values, waits, conflicts, deadlocks, fairness, giving back."""

from __future__ import annotations

from typing import Any

import pytest
from txn_world import Fault, Node, Store, error_of

from pytikv.client.txn.background import Background
from pytikv.errors import (
    Deadlock,
    InvalidArgument,
    KeyExists,
    KeyLocked,
    LockTimeout,
    Outcome,
    TransactionAborted,
)
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb


async def write(node: Node, **pairs: bytes) -> Any:
    async with node.begin() as txn:
        for name, value in pairs.items():
            await txn.put(name.encode(), value)
    return txn


async def holder(node: Node, *keys: bytes) -> Any:
    """A transaction that holds locks."""
    txn = await node.begin(pessimistic=True)
    await txn.lock_keys(keys)
    return txn


# --- values and conflicts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
def test_locking_returns_the_newest_value(store: Store, fair: bool) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, a=b"1")
        txn = await node.begin(pessimistic=True, fair_locking=fair)
        await write(node, a=b"2")
        assert await txn.get(b"a") == b"1"  # the snapshot
        assert await txn.get_for_update(b"a") == b"2"
        assert await txn.get_for_update(b"none") is None
        await txn.put(b"a", b"3")
        assert await txn.get_for_update(b"a") == b"3"  # its own write
        await txn.commit()
        assert await node.read(b"a", b"none") == [b"3", None]
        locks = node.requests("KvPessimisticLock")
        again = [request for request in locks if request.mutations[0].key.endswith(b"a") and request.for_update_ts]
        assert len(again) == (1 if fair else 2)  # plain: refused, then at a new timestamp; its own write: not asked

    store.run(run(), node)


def test_fair_locks_tell_the_prewrite_what_they_rest_on(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True, fair_locking=True)
        other = await write(node, a=b"2")
        assert await txn.get_for_update(b"a") == b"2"
        await txn.put(b"a", b"3")
        await txn.put(b"b", b"3")
        await txn.commit()
        (prewrite,) = [request for request in node.requests("KvPrewrite") if request.for_update_ts]
        assert prewrite.for_update_ts >= other.commit_ts
        assert [(c.index, c.expected_for_update_ts) for c in prewrite.for_update_ts_constraints] == [
            (0, other.commit_ts)
        ]

    store.run(run(), node)


def test_a_key_that_nobody_else_writes_costs_one_request(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        assert await txn.get_for_update(b"a") is None
        await txn.put(b"a", b"1")
        assert node.names() == ["timestamp", "KvPessimisticLock"]
        await txn.commit()
        assert node.names() == ["timestamp", "KvPessimisticLock", "timestamp", "KvPrewrite"]

    store.run(run(), node)


def test_many_keys_over_regions_come_back_in_order(store: Store) -> None:
    store.split(b"b", b"c")
    node = store.node()

    async def run() -> None:
        await write(node, a=b"1", b=b"2", d=b"4")
        async with node.begin(pessimistic=True) as txn:
            found = await txn.batch_get_for_update([b"d", b"c", b"b", b"a", b"d"])
            assert list(found.items()) == [(b"d", b"4"), (b"b", b"2"), (b"a", b"1")]
            await txn.delete(b"b")
            assert await txn.batch_get_for_update([b"b", b"a"]) == {b"a": b"1"}
        first = node.requests("KvPessimisticLock")[0]
        assert [m.key for m in first.mutations] == [store.codec.encode_key(b"a")]  # the primary before the others
        assert await node.read(b"a", b"b", b"d") == [b"1", None, b"4"]

    store.run(run(), node)


def test_existence_without_values(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, a=b"1" * 100)
        async with node.begin(pessimistic=True) as txn:
            assert await txn.exists_for_update(b"a")
            assert not await txn.exists_for_update(b"b")
            assert await txn.exists_for_update(b"a")  # known from before
            await txn.delete(b"a")
            assert not await txn.exists_for_update(b"a")
        assert not any(request.return_values for request in node.requests("KvPessimisticLock"))
        async with node.begin() as optimistic:
            assert not await optimistic.exists_for_update(b"a")

    store.run(run(), node)


def test_keys_that_do_not_exist_can_be_left_unlocked(store: Store) -> None:
    node, other = store.node(), store.node()

    async def run() -> None:
        await write(node, b=b"2", d=b"4")
        txn = await node.begin(pessimistic=True)
        found = await txn.batch_get_for_update([b"a", b"b", b"c", b"d"], only_if_exists=True)
        assert found == {b"b": b"2", b"d": b"4"}
        assert store.locks() == 2
        await other.do(write(other, a=b"1", c=b"3"))  # nobody holds them
        await txn.put(b"b", b"5")
        await txn.commit()
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 0
        assert await node.read(b"a", b"b", b"c", b"d") == [b"1", b"5", b"3", b"4"]
        alone = await node.begin(pessimistic=True)
        assert await alone.get_for_update(b"none", only_if_exists=True) is None
        assert await alone.get_for_update(b"b") == b"5"  # becomes the primary instead
        await alone.rollback()
        assert store.locks() == 0

    store.run(run(), node)


def test_inserts_know_at_once(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, a=b"1")
        txn = await node.begin(pessimistic=True)
        with pytest.raises(KeyExists):
            await txn.insert(b"a", b"2")
        await txn.insert(b"b", b"2")
        assert await txn.get_for_update(b"a") == b"1"
        with pytest.raises(KeyExists):
            await txn.insert(b"a", b"2")  # locked by now, and known to exist
        await txn.lock_keys([b"c"])
        await txn.insert(b"c", b"3")  # locked without a look: asked for
        await txn.commit()
        assert await node.read(b"a", b"b", b"c") == [b"1", b"2", b"3"]

    store.run(run(), node)


def test_counting_under_locks_loses_nothing(store: Store) -> None:
    node = store.node()

    async def add(txn: Any) -> None:
        found = await txn.get_for_update(b"n")
        await txn.put(b"n", b"%d" % (int(found or b"0") + 1))
        await txn.commit()

    async def run() -> None:
        counters = [await node.begin(pessimistic=True) for _ in range(8)]
        await node.rt.gather(*map(add, counters))
        assert await node.read(b"n") == [b"8"]

    store.run(run(), node)


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
def test_waits(store: Store, fair: bool) -> None:
    node, other = store.node(), store.node()

    async def run() -> None:
        held = await node.begin(pessimistic=True)
        await held.put(b"a", b"1")
        txn = await node.begin(pessimistic=True, fair_locking=fair)
        await txn.put(b"own", b"1")
        began = node.rt.now()
        error = await error_of(txn.lock_keys([b"a"], wait=0))
        assert isinstance(error, KeyLocked)
        assert (error.key, error.lock_ts) == (b"a", held.start_ts)
        assert node.rt.now() - began < 0.02
        for seconds in (0.3, 2.5, 12.0):  # within the store's one second, beyond it, beyond the client's usual timeout
            began = node.rt.now()
            error = await error_of(txn.get_for_update(b"a", wait=seconds))
            assert isinstance(error, LockTimeout)
            assert (error.key, error.lock_ts) == (b"a", held.start_ts)
            assert error.outcome is Outcome.NOT_APPLIED
            assert node.rt.now() - began == pytest.approx(seconds, abs=0.1)
        began = node.rt.now()
        error = await error_of(txn.put(b"a", b"2"))
        assert isinstance(error, LockTimeout)
        assert node.rt.now() - began == pytest.approx(10, abs=0.3)  # as long as a call may take
        await held.commit()
        assert await txn.get_for_update(b"a") == b"1"  # it stayed usable
        await txn.put(b"a", b"2")
        await txn.commit()
        assert await other.read(b"a", b"own") == [b"2", b"1"]

    store.run(run(), node)


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_waiter_goes_on_when_the_lock_is_released(store: Store, fair: bool, end: str) -> None:
    node = store.node()

    async def run() -> None:
        await write(node, a=b"0")
        held = await node.begin(pessimistic=True)
        await held.put(b"a", b"1")
        txn = await node.begin(pessimistic=True, fair_locking=fair)
        found: list[bytes | None] = []

        async def wait() -> None:
            found.append(await txn.get_for_update(b"a"))

        task = node.rt.spawn(wait(), name="waiter")
        await node.rt.sleep(2.2)
        assert not task.done()
        began = node.rt.now()
        await getattr(held, end)()
        while not task.done():
            await node.rt.sleep(0.001)
        assert node.rt.now() - began < 0.1
        assert found == [b"1" if end == "commit" else b"0"]
        await txn.rollback()

    store.run(run(), node)


@pytest.mark.filterwarnings("ignore:transaction .* was neither:ResourceWarning")
def test_a_dead_holder_is_not_waited_for_longer_than_its_ttl(store: Store) -> None:
    dead, node = store.node(), store.node(timeout=60)

    async def run() -> None:
        left = await dead.do(holder(dead, b"a"))
        assert left.is_open
        store.world.crash(dead.name)
        began = node.rt.now()
        txn = await node.begin(pessimistic=True)
        await txn.lock_keys([b"a"])
        assert 18 < node.rt.now() - began < 22
        await txn.rollback()

    store.run(run(), node)


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
@pytest.mark.filterwarnings("ignore:transaction .* was neither:ResourceWarning")
def test_locks_of_the_dead_are_found_soon(store: Store, fair: bool) -> None:
    """A store names one lock at a time, and only when the wait for it is over: no second for each of them."""
    dead, node = store.node(), store.node()

    async def run() -> None:
        keys = [b"%d" % n for n in range(5)]
        left = [await dead.do(holder(dead, key)) for key in keys]
        assert all(one.is_open for one in left)
        store.world.crash(dead.name)
        await node.rt.sleep(25)
        async with node.begin(pessimistic=True, fair_locking=fair) as txn:
            for alike in (keys[:1], keys[1:]):
                began = node.rt.now()
                await txn.lock_keys(alike)
                assert node.rt.now() - began < 0.15 * len(alike)
        live = await node.begin(pessimistic=True)
        await live.put(b"live", b"1")
        asked = len(node.requests("KvPessimisticLock"))
        waiting = await node.begin(pessimistic=True, fair_locking=fair)
        assert isinstance(await error_of(waiting.lock_keys([b"live"], wait=3.05)), LockTimeout)
        assert len(node.requests("KvPessimisticLock")) - asked == 4  # 0.1 s, then by the store's seconds
        await live.rollback()
        await waiting.rollback()

    store.run(run(), node)


def test_a_lock_whose_answer_was_lost(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        node.faults = [Fault("KvPessimisticLock", "drop answer", 0), Fault("KvPessimisticLock", "drop request", 2)]
        async with node.begin(pessimistic=True) as txn:
            await txn.put(b"a", b"1")
            await txn.put(b"b", b"2")
        assert await node.read(b"a", b"b") == [b"1", b"2"]

    store.run(run(), node)


def test_locks_that_never_answer_leave_no_doubt_and_no_locks(store: Store) -> None:
    node = store.node(timeout=1)

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        node.faults = [Fault("KvPessimisticLock", "drop answer")]
        error = await error_of(txn.put(b"a", b"1"))
        assert error.outcome is Outcome.NOT_APPLIED  # a lock is no write
        node.faults = []
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 0
        await txn.put(b"a", b"2")
        await txn.commit()
        assert await node.read(b"a") == [b"2"]

    store.run(run(), node)


# --- deadlocks --------------------------------------------------------------------------------------------------------


def test_a_deadlock_tells_the_circle_and_is_broken(store: Store) -> None:
    node, other = store.node(), store.node()

    async def run() -> None:
        first, second = await holder(node, b"a"), await holder(node, b"b")
        ends: dict[str, Any] = {}

        async def want(name: str, txn: Any, key: bytes) -> None:
            try:
                await txn.put(key, name.encode())
                await txn.commit()
                ends[name] = "committed"
            except Deadlock as error:
                ends[name] = error
                await txn.rollback()

        tasks = [
            node.rt.spawn(want("first", first, b"b"), name="first"),
            node.rt.spawn(want("second", second, b"a"), name="second"),
        ]
        while not all(task.done() for task in tasks):
            await node.rt.sleep(0.01)
        assert node.rt.now() > 0
        victims = [error for error in ends.values() if error != "committed"]
        assert len(victims) == 1
        (error,) = victims
        assert error.retryable
        assert error.outcome is Outcome.NOT_APPLIED
        edges = [(entry.txn, entry.wait_for_txn, entry.key) for entry in error.wait_chain]
        circle = {(int(first.start_ts), int(second.start_ts), b"b"), (int(second.start_ts), int(first.start_ts), b"a")}
        assert set(edges) == circle
        assert list(ends.values()).count("committed") == 1
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 0
        assert await other.read(b"a", b"b") in ([None, b"first"], [b"second", None])

    store.run(run(), node)


# --- giving back ------------------------------------------------------------------------------------------------------


def test_a_call_that_fails_gives_back_what_it_had_locked(store: Store) -> None:
    store.split(b"b", b"c")
    node, other = store.node(), store.node()

    async def run() -> None:
        held = await holder(node, b"b")
        txn = await node.begin(pessimistic=True)
        await txn.lock_keys([b"mine"])
        assert isinstance(await error_of(txn.lock_keys([b"a", b"b", b"c"], wait=0)), KeyLocked)
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 2  # the holder's, and the one from before
        await other.do(write(other, a=b"1", c=b"3"))
        await held.rollback()
        found = await txn.batch_get_for_update([b"a", b"b", b"c"])
        assert found == {b"a": b"1", b"c": b"3"}
        await txn.put(b"b", b"2")
        await txn.commit()
        assert await other.read(b"a", b"b", b"c") == [b"1", b"2", b"3"]

    store.run(run(), node)


def test_a_late_release_does_not_reach_a_lock_that_was_taken_again(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        held = await holder(node, b"b")
        node.faults = [Fault("KVPessimisticRollback", "drop request", n) for n in range(3)]
        txn = await node.begin(pessimistic=True)
        assert isinstance(await error_of(txn.lock_keys([b"a", b"b"], wait=0)), KeyLocked)
        await txn.put(b"a", b"1")  # while the release of the failed call is still on its way
        await Background.of(node).drain(node.rt.now() + 10)
        assert "KVPessimisticRollback" in node.names()
        assert store.locks() == 2
        await txn.commit()
        assert await node.read(b"a") == [b"1"]
        await held.rollback()

    store.run(run(), node)


def test_rollback_releases_all_and_savepoints_keep_their_locks(store: Store) -> None:
    store.split(b"b")
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        with txn.savepoint() as block:
            await txn.put(b"a", b"1")
            await txn.put(b"b", b"1")
            block.rollback()
        assert await txn.get(b"a") is None
        assert store.locks() == 2
        await txn.rollback()
        assert store.locks() == 0
        async with node.begin(pessimistic=True) as again:
            with again.savepoint() as block:
                await again.put(b"a", b"1")
                block.rollback()
            await again.put(b"c", b"1")
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 0
        assert await node.read(b"a", b"c") == [None, b"1"]

    store.run(run(), node)


def test_a_cancelled_block_releases_behind(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        async def body() -> None:
            async with node.begin(pessimistic=True) as txn:
                await txn.put(b"a", b"1")
                await node.rt.sleep(100)

        task = node.rt.spawn(body(), name="body")
        await node.rt.sleep(1)
        assert store.locks() == 1
        task.cancel()
        await node.rt.sleep(0.1)
        assert task.done()
        assert store.locks() == 0

    store.run(run(), node)


@pytest.mark.parametrize("served", [False, True])
def test_a_cancelled_rollback_goes_on_behind(store: Store, served: bool) -> None:
    node = store.node()
    tasks: list[Any] = []

    def cancel() -> None:
        tasks[0].cancel()

    async def run() -> None:
        async def body() -> None:
            async with node.begin(pessimistic=True) as txn:
                await txn.put(b"a", b"1")
                raise KeyError("the block failed")

        node.faults = [Fault("KVPessimisticRollback", ("after", cancel) if served else cancel, 0)]
        tasks.append(node.rt.spawn(body(), name="body"))
        await node.rt.sleep(1)
        assert node.names().count("KVPessimisticRollback") == 2
        assert store.locks() == 0

    store.run(run(), node)


def test_locks_that_were_lost_end_the_transaction(store: Store) -> None:
    """Somebody rolled the primary back; a later lock may still be had, the commit may not."""
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        await txn.put(b"a", b"1")
        key = store.codec.encode_key(b"a")
        store.storage.execute(
            "KvCheckTxnStatus",
            kvrpcpb.CheckTxnStatusRequest(
                primary_key=key, lock_ts=txn.start_ts, current_ts=(1 << 64) - 1, rollback_if_not_exist=True
            ),
        )
        error = await error_of(txn.commit())
        assert isinstance(error, TransactionAborted)
        assert txn.outcome is Outcome.NOT_APPLIED
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 0
        assert await node.read(b"a") == [None]

    store.run(run(), node)


# --- shared locks -----------------------------------------------------------------------------------------------------


def test_shared_locks_let_each_other_pass_and_keep_writers_out(store: Store) -> None:
    node, other = store.node(), store.node()

    async def run() -> None:
        await write(node, parent=b"1")
        one, two = await node.begin(pessimistic=True), await node.begin(pessimistic=True)
        for txn, child in ((one, b"child 1"), (two, b"child 2")):
            with pytest.raises(InvalidArgument, match="first lock cannot be shared"):
                await txn.lock_keys([b"parent"], shared=True)
            await txn.put(child, b"1")
            await txn.lock_keys([b"parent"], shared=True)
            await txn.lock_keys([b"parent"], shared=True)  # again: nothing to do
            with pytest.raises(InvalidArgument, match="shared"):
                await txn.put(b"parent", b"2")
        writer = await node.begin(pessimistic=True)
        assert isinstance(await error_of(writer.lock_keys([b"parent"], wait=0)), KeyLocked)
        await one.commit()
        assert isinstance(await error_of(writer.lock_keys([b"parent"], wait=0.2)), LockTimeout)
        await two.commit()
        await writer.put(b"parent", b"3")
        await writer.commit()
        assert await other.read(b"parent", b"child 1", b"child 2") == [b"3", b"1", b"1"]
        await Background.of(node).drain(node.rt.now() + 5)
        assert store.locks() == 0

    store.run(run(), node)


def test_shared_locks_need_a_pessimistic_transaction(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin()
        with pytest.raises(InvalidArgument, match="pessimistic"):
            await txn.lock_keys([b"a"], shared=True)
        with pytest.raises(InvalidArgument, match="pessimistic"):
            await txn.get_for_update(b"a", only_if_exists=True)

    store.run(run(), node)


def test_a_region_splits_while_keys_are_locked(store: Store) -> None:
    node = store.node()
    node.faults = [Fault("KvPessimisticLock", lambda: store.split(b"b", b"c"), 1)]

    async def run() -> None:
        await write(node, a=b"1", b=b"2", c=b"3")
        async with node.begin(pessimistic=True) as txn:
            found = await txn.batch_get_for_update([b"a", b"b", b"c"])
            assert found == {b"a": b"1", b"b": b"2", b"c": b"3"}
            await txn.delete(b"b")
        assert await node.read(b"a", b"b", b"c") == [b"1", None, b"3"]

    store.run(run(), node)
