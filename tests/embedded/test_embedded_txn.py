"""Transactions in the embedded store through the public clients: sharing, waiting, durability, the end."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pytikv
from pytikv import Outcome


@pytest.fixture(params=["memory", "disk"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"embedded://:memory:{uuid.uuid4().hex}" if request.param == "memory" else f"embedded://{tmp_path}/db"


@pytest.fixture
def db(target: str) -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect(target) as client:
        yield client
        assert client.check_consistency().problems == ()


def commit(db: pytikv.TransactionClient, **pairs: bytes) -> pytikv.Transaction:
    with db.begin() as txn:
        for key, value in pairs.items():
            txn.put(key.encode(), value)
    return txn


# --- one transaction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"one_pc": False},
        {"one_pc": False, "async_commit": False},
        {"causal": True},
        {"pessimistic": True},
        {"pessimistic": True, "one_pc": False, "async_commit": False},
        {"pessimistic": True, "isolation": "RC"},
        {"pipelined": True},
    ],
    ids=str,
)
def test_every_way_to_commit(db: pytikv.TransactionClient, options: dict[str, Any]) -> None:
    commit(db, old=b"1", gone=b"2")
    with db.begin(**options) as txn:
        assert txn.get(b"old") == b"1"
        txn.put(b"old", b"new")
        txn.put(b"long", b"x" * 10_000)
        txn.delete(b"gone")
        txn.insert(b"fresh", b"3")
        assert txn.get(b"old") == b"new"
    assert txn.outcome is Outcome.APPLIED
    assert txn.commit_ts is not None
    assert txn.commit_ts > txn.start_ts
    found = dict(db.snapshot().scan())
    assert found == {b"old": b"new", b"long": b"x" * 10_000, b"fresh": b"3"}
    assert dict(db.snapshot(txn.commit_ts - 1).scan()) == {b"old": b"1", b"gone": b"2"}


def test_an_exception_rolls_back(db: pytikv.TransactionClient) -> None:
    txn = db.begin(pessimistic=True)
    with contextlib.suppress(ZeroDivisionError), txn:
        txn.put(b"k", b"v")
        raise ZeroDivisionError
    assert not txn.is_open
    assert txn.outcome is Outcome.NOT_APPLIED
    assert db.snapshot().get(b"k") is None
    assert db.list_locks() == []


def test_many_keys_go_off_the_loop_and_come_back(target: str) -> None:
    async def body() -> None:
        async with await pytikv.AsyncTransactionClient.connect(target) as db:
            async with db.begin() as txn:
                for number in range(3000):
                    await txn.put(b"key%05d" % number, b"%d" % number)
            snapshot = await db.snapshot()
            assert len([pair async for pair in snapshot.scan(batch_size=1000)]) == 3000
            keys = [b"key%05d" % number for number in range(0, 6000, 2)]
            assert len(await snapshot.batch_get(keys)) == 1500

    asyncio.run(body())


# --- together ---------------------------------------------------------------------------------------------------------


def test_raw_and_transactional_data_lie_side_by_side(target: str) -> None:
    with pytikv.RawClient.connect(target) as kv, pytikv.TransactionClient.connect(target) as db:
        kv.put(b"k", b"raw")
        commit(db, k=b"txn", long=b"y" * 1000)
        assert kv.get(b"k") == b"raw"
        assert db.snapshot().get(b"k") == b"txn"
        assert list(kv.scan()) == [(b"k", b"raw")]
        store = kv._core._backend._store
        store.clean()  # raw garbage goes, transactions keep theirs
        assert dict(db.snapshot().scan()) == {b"k": b"txn", b"long": b"y" * 1000}
        kv.delete_range(None, None)
        assert db.snapshot().get(b"k") == b"txn"


def test_keyspaces_are_apart(tmp_path: Path) -> None:
    target = f"embedded://{tmp_path}/db"
    with (
        pytikv.TransactionClient.connect(target) as default,
        pytikv.TransactionClient.connect(target, keyspace="shop") as shop,
    ):
        commit(default, k=b"1")
        commit(shop, k=b"2")
        assert (default.snapshot().get(b"k"), shop.snapshot().get(b"k")) == (b"1", b"2")
        shop.unsafe_destroy_range(None, None)
        assert (default.snapshot().get(b"k"), shop.snapshot().get(b"k")) == (b"1", None)


def test_api_version_1(tmp_path: Path) -> None:
    with pytikv.TransactionClient.connect(f"embedded://{tmp_path}/v1", api_version=1) as db:
        commit(db, a=b"1", b=b"2")
        assert list(db.snapshot().scan()) == [(b"a", b"1"), (b"b", b"2")]
        assert list(db.snapshot().scan(reverse=True)) == [(b"b", b"2"), (b"a", b"1")]
        with pytest.raises(pytikv.InvalidArgument, match="needs an end"):
            db.delete_range(None, None)
        db.delete_range(b"a", b"b")
        assert list(db.snapshot().scan()) == [(b"b", b"2")]
    with pytest.raises(pytikv.ConfigError, match="ttl"):
        pytikv.TransactionClient.connect(f"embedded://{tmp_path}/ttl", api_version=1, ttl=True)
    with pytikv.RawClient.connect(f"embedded://{tmp_path}/ttl") as kv:  # the refusal has let go of the store
        assert kv.config.ttl


def test_timestamps_grow_across_lives(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        with pytikv.TransactionClient.connect(f"embedded://{tmp_path}/db") as db:
            seen += [db.current_timestamp(), db.current_timestamp()]
            seen.append(commit(db, k=b"v").commit_ts or 0)
    assert seen == sorted(set(seen))


# --- waiting for locks ------------------------------------------------------------------------------------------------


def until(condition: Any, seconds: float = 20.0) -> None:
    """Look until it is so; for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def waiters(db: pytikv.TransactionClient) -> int:
    return len(db._core._backend._store.txn.runner.queues.waits())


def test_threads_wait_for_each_other(db: pytikv.TransactionClient) -> None:
    commit(db, k=b"0")

    def add(_: int) -> None:
        def once(txn: pytikv.Transaction) -> None:
            txn.put(b"k", b"%d" % (int(txn.get_for_update(b"k") or b"0") + 1))

        db.run(once, pessimistic=True, attempts=100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(80)))
    assert db.snapshot().get(b"k") == b"80"


def test_a_loop_waits_for_a_thread(target: str, db: pytikv.TransactionClient) -> None:
    holder = db.begin(pessimistic=True)
    holder.put(b"k", b"held")

    async def body() -> bytes | None:
        async with await pytikv.AsyncTransactionClient.connect(target) as other, other.begin(pessimistic=True) as txn:
            waiting = asyncio.ensure_future(txn.get_for_update(b"k"))
            await asyncio.to_thread(until, lambda: waiters(db))
            holder.commit()
            return await waiting

    assert asyncio.run(body()) == b"held"


def test_waiting_has_an_end(db: pytikv.TransactionClient) -> None:
    holder = db.begin(pessimistic=True)
    holder.lock_keys([b"k"])
    with db.begin(pessimistic=True) as txn:
        with pytest.raises(pytikv.KeyLocked):
            txn.lock_keys([b"k"], wait=0)
        begun = time.monotonic()
        with pytest.raises(pytikv.LockTimeout):
            txn.lock_keys([b"k"], wait=0.1)
        assert 0.1 <= time.monotonic() - begun < 5
        txn.put(b"other", b"still usable")
    holder.rollback()
    assert db.snapshot().get(b"other") == b"still usable"
    assert waiters(db) == 0


def test_a_cancelled_waiter_leaves_the_queue(target: str, db: pytikv.TransactionClient) -> None:
    holder = db.begin(pessimistic=True)
    holder.lock_keys([b"k"])

    async def body() -> None:
        async with await pytikv.AsyncTransactionClient.connect(target) as other:
            txn = await other.begin(pessimistic=True)
            waiting = asyncio.ensure_future(txn.lock_keys([b"k"]))
            await asyncio.to_thread(until, lambda: waiters(db))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert waiters(db) == 0
            await txn.rollback()

    asyncio.run(body())
    holder.rollback()


def test_a_circle_is_a_deadlock_with_its_edges(db: pytikv.TransactionClient) -> None:
    first, second = db.begin(pessimistic=True), db.begin(pessimistic=True)
    first.lock_keys([b"a"])
    second.lock_keys([b"b"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.lock_keys, [b"b"])
        until(lambda: waiters(db))
        with pytest.raises(pytikv.Deadlock) as caught:
            second.lock_keys([b"a"])
        edges = {(edge.txn, edge.wait_for_txn, edge.key) for edge in caught.value.wait_chain}
        assert edges == {(first.start_ts, second.start_ts, b"b"), (second.start_ts, first.start_ts, b"a")}
        second.rollback()
        waiting.result(20)
    first.commit()


# --- conflicts and retries --------------------------------------------------------------------------------------------


def test_a_conflict_names_key_and_transactions(db: pytikv.TransactionClient) -> None:
    loser = db.begin()
    loser.put(b"k", b"lost")
    winner = commit(db, k=b"won")
    with pytest.raises(pytikv.WriteConflict) as caught:
        loser.commit()
    error = caught.value
    assert (error.key, error.start_ts, error.conflict_commit_ts) == (b"k", loser.start_ts, winner.commit_ts)
    assert error.outcome is loser.outcome is Outcome.NOT_APPLIED
    assert db.snapshot().get(b"k") == b"won"


def test_run_and_attempts_try_again(db: pytikv.TransactionClient) -> None:
    commit(db, k=b"0")
    tries = []

    def add(txn: pytikv.Transaction) -> str:
        value = int(txn.get(b"k") or b"0")
        tries.append(value)
        if len(tries) < 3:
            commit(db, k=b"%d" % (value + 10))
        txn.put(b"k", b"%d" % (value + 1))
        return "done"

    assert db.run(add) == "done"
    assert tries == [0, 10, 20]
    tries.clear()
    for txn in db.attempts(10):
        with txn:
            add(txn)
    assert tries == [21, 31, 41]
    assert db.snapshot().get(b"k") == b"42"


def test_the_last_error_is_raised(db: pytikv.TransactionClient) -> None:
    def always_late(txn: pytikv.Transaction) -> None:
        txn.put(b"k", b"mine")
        commit(db, k=b"theirs")

    with pytest.raises(pytikv.WriteConflict):
        db.run(always_late, attempts=2)

    def loop() -> None:
        for txn in db.attempts(2):
            with txn:
                always_late(txn)

    with pytest.raises(pytikv.WriteConflict):
        loop()
    with pytest.raises(ZeroDivisionError):
        db.run(lambda txn: 1 // 0)


def test_returning_from_the_block_never_hides_a_failed_commit(db: pytikv.TransactionClient) -> None:
    def careless(*, fights: bool) -> str:
        for txn in db.attempts(10):
            with txn:
                txn.put(b"k", b"mine")
                if fights:
                    commit(db, k=b"theirs")
                return "done"
        return "never"

    with pytest.raises(pytikv.WriteConflict) as caught:
        careless(fights=True)
    assert "use `run`" in caught.value.__notes__[0]
    assert careless(fights=False) == "done"
    assert db.snapshot().get(b"k") == b"mine"


def test_the_same_in_asyncio(target: str) -> None:
    async def body() -> None:
        async with await pytikv.AsyncTransactionClient.connect(target) as db:
            seen = []

            async def add(txn: pytikv.AsyncTransaction, step: int) -> int:
                value = int(await txn.get(b"k") or b"0")
                seen.append(value)
                if len(seen) < 3:
                    async with db.begin() as other:
                        await other.put(b"k", b"%d" % (value + 10))
                await txn.put(b"k", b"%d" % (value + step))
                return value

            assert await db.run(add, 1) == 20
            async for txn in db.attempts(10):
                async with txn:
                    assert await add(txn, 1) == 21
            assert await db.snapshot().get(b"k") == b"22"
            with pytest.raises(pytikv.WrongType, match="async function"):
                await db.run(lambda txn: 7)  # type: ignore[arg-type,return-value]

            async def careless() -> str:
                async for txn in db.attempts(10):
                    async with txn:
                        await txn.put(b"k", b"mine")
                        async with db.begin() as other:
                            await other.put(b"k", b"theirs")
                        return "done"
                return "never"

            with pytest.raises(pytikv.WriteConflict):
                await careless()

    asyncio.run(body())


# --- durability -------------------------------------------------------------------------------------------------------


def test_only_the_commit_point_waits_for_the_disk(tmp_path: Path) -> None:
    with pytikv.TransactionClient.connect(f"embedded://{tmp_path}/db") as db:
        engine = db._core._backend._engine
        with db.begin(pessimistic=True, one_pc=False, async_commit=False) as txn:
            before = engine.flushes
            txn.put(b"a", b"1")
            txn.put(b"b", b"2")
            assert engine.flushes == before
        assert engine.flushes == before + 1
        assert engine.durable_ticket >= engine.ticket - 1
        before = engine.flushes
        commit(db, a=b"3")
        assert engine.flushes == before + 1
        commit(db.with_options(sync=False), a=b"4")
        assert engine.flushes == before + 1


def test_transactions_of_one_loop_share_flushes(tmp_path: Path) -> None:
    async def body() -> int:
        async with await pytikv.AsyncTransactionClient.connect(f"embedded://{tmp_path}/db") as db:
            engine = db._backend._engine
            before = engine.flushes

            async def one(number: int) -> None:
                async with db.begin() as txn:
                    await txn.put(b"%d" % number, b"v")

            await asyncio.gather(*(one(number) for number in range(200)))
            return engine.flushes - before

    assert asyncio.run(body()) < 40


def test_a_disk_that_does_not_confirm_leaves_the_commit_open(tmp_path: Path) -> None:
    async def body() -> None:
        async with await pytikv.AsyncTransactionClient.connect(f"embedded://{tmp_path}/db", timeout=0.1) as db:
            engine: Any = db._backend._engine
            release = threading.Event()
            flush, engine.flush = engine.flush, lambda ticket=None: release.wait(30)
            txn = await db.begin()
            await txn.put(b"k", b"v")
            try:
                with pytest.raises(pytikv.CommitUndetermined):
                    await txn.commit()
            finally:
                release.set()
                engine.flush = flush
            assert txn.outcome is Outcome.UNDETERMINED
            assert await db.snapshot().get(b"k") == b"v"

    asyncio.run(body())


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_the_future_is_refused(db: pytikv.TransactionClient) -> None:
    ahead = pytikv.Timestamp.compose(db.current_timestamp().physical_ms + 3_600_000)
    with pytest.raises(pytikv.InvalidArgument, match="future"):
        db.snapshot(ahead)
    for ts in (0, -1, 1 << 64, "1", True):
        with pytest.raises(pytikv.InvalidArgument, match="ts"):
            db.snapshot(ts)  # type: ignore[arg-type]


def test_a_client_that_is_closed_takes_its_transactions_along(target: str) -> None:
    db = pytikv.TransactionClient.connect(target)
    txn, snapshot = db.begin(), db.snapshot()
    txn.put(b"k", b"v")
    db.close()
    db.close()
    for call in (txn.commit, lambda: snapshot.get(b"k"), db.begin, db.current_timestamp, db.gc_state):
        with pytest.raises(pytikv.ClientClosed):
            call()
    with pytest.warns(ResourceWarning, match="neither committed nor rolled back"):
        del txn, call
    with pytikv.TransactionClient.connect(target) as again:
        assert again.snapshot().get(b"k") is None


@pytest.mark.parametrize("options", [{"async_commit": False}, {}], ids=str)
def test_closing_lets_the_secondaries_be_committed(tmp_path: Path, options: dict[str, Any]) -> None:
    keys = [b"%03d" % number for number in range(200)]
    with pytikv.TransactionClient.connect(f"embedded://{tmp_path}/db") as db, db.begin(one_pc=False, **options) as txn:
        for key in keys:
            txn.put(key, b"v" * 1000)  # many requests, of which all but the first commit come after the answer
    assert txn.outcome is Outcome.APPLIED
    with pytikv.TransactionClient.connect(f"embedded://{tmp_path}/db") as db:
        assert db.list_locks() == []
        assert list(db.snapshot().scan(keys_only=True)) == [(key, b"") for key in keys]


def test_a_deadline_that_is_over(db: pytikv.TransactionClient) -> None:
    txn = db.begin()
    txn.put(b"k", b"v")
    with pytikv.deadline(0), pytest.raises(pytikv.DeadlineExceeded):
        txn.commit()
    assert txn.outcome is Outcome.NOT_APPLIED
    with pytikv.deadline(0), pytest.raises(pytikv.DeadlineExceeded):
        db.snapshot().get(b"k")


@pytest.mark.parametrize("option", [{"cf": "write"}, {"atomic": True}, {"keyspace": "x"}, {"gc_interval": 5}])
def test_options_of_views(db: pytikv.TransactionClient, option: dict[str, Any]) -> None:
    with pytest.raises(pytikv.ConfigError):
        db.with_options(**option)
    assert db.with_options(timeout=3.0).config.timeout == 3.0


def test_a_forked_child_gets_an_error_and_no_hang(tmp_path: Path) -> None:
    code = f"""
import os, pytikv
db = pytikv.TransactionClient.connect("embedded://{tmp_path}/db")
with db.begin() as txn:
    txn.put(b"k", b"v")
open_one = db.begin()
open_one.put(b"k", b"w")
pid = os.fork()
if pid == 0:
    for call in (db.begin, open_one.commit):
        try:
            call()
        except pytikv.ClientClosed as error:
            os.write(1, b"closed ")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
open_one.commit()
assert db.snapshot().get(b"k") == b"w"
db.close()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "closed closed done\n", done.stderr


@pytest.mark.parametrize("options", [{}, {"pessimistic": True}, {"pipelined": True}])
def test_puts_keep_their_rules_whether_driven_or_not(options: dict[str, Any]) -> None:
    anything: Any = None
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        txn = db.begin(**options)
        with pytest.raises(pytikv.WrongType, match="key"):
            txn.put(anything, b"v")
        with pytest.raises(pytikv.WrongType, match="value"):
            txn.put(b"k", anything)
        txn.put(b"k", b"v")
        txn.commit()
        with pytest.raises(pytikv.InvalidArgument, match="transaction"):
            txn.put(b"k", b"w")
        assert db.snapshot().get(b"k") == b"v"
        open_txn = db.begin(**options)
    with pytest.raises(pytikv.ClientClosed):
        open_txn.put(b"k", b"w")
