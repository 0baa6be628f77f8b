"""Locks of crashed and of living clients, met by readers, writers and garbage collection."""

from __future__ import annotations

from typing import Any

import pytest

from pytikv.client.txn.background import Background
from pytikv.client.txn.lock_resolver import TOGETHER
from pytikv.errors import ConnectionFailed, KeyLocked, Outcome, ServerError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP

PESSIMISTIC = {"lock_type": kvrpcpb.PessimisticLock, "value": None}


async def settled(store: Any) -> None:
    """Wait for what goes on in the background."""
    assert await Background.of(store).drain(store.rt.now() + 60)


def test_expired_before_the_primary_was_written(world: Any, store: Any) -> None:
    """The primary is not there: it is rolled back for good, and the late prewrite of it with it."""

    async def body() -> None:
        old = store.now_ts(ago_ms=10_000)
        lock = store.lock(b"k", old)
        found = await store.resolver().resolve_for_read([lock], store.now_ts(), store.call())
        assert found == ((old,), (), 0)
        assert store.records[b"p", old] == 0
        checks = store.requests("KvCheckTxnStatus")
        assert [check.rollback_if_not_exist for check in checks] == [False, True]
        assert all(check.verify_is_primary for check in checks)
        await settled(store)
        assert not store.locks

    world.run(body())


def test_a_primary_on_its_way_is_waited_for(world: Any, store: Any) -> None:
    async def body() -> None:
        start_ts = store.now_ts()
        lock = store.lock(b"k", start_ts)

        def fault(name: str, request: Any, place: Any) -> None:
            if len(store.requests("KvCheckTxnStatus")) == 4 and b"p" not in store.locks:
                store.lock(b"p", start_ts)

        store.fault = fault
        reader_ts, began = store.now_ts(), store.rt.now()
        found = await store.resolver().resolve_for_read([lock], reader_ts, store.call())
        assert found == ((start_ts,), (), 0)
        assert store.locks[b"p"].info.min_commit_ts > reader_ts, "pushed"
        assert store.rt.now() - began < 0.1

    world.run(body())


def test_one_that_never_comes_is_ended_when_the_time_is_over(world: Any, store: Any) -> None:
    async def body() -> None:
        start_ts = store.now_ts()
        lock = store.lock(b"k", start_ts, lock_ttl=700)
        began = store.rt.now()
        assert await store.resolver().resolve_for_write([lock], 0, store.call()) == 0
        assert 0.7 <= store.rt.now() - began < 0.75
        assert not store.locks

    world.run(body())


def test_alive(world: Any, store: Any) -> None:
    """A reader pushes min_commit_ts and passes; a writer is told how long to wait."""

    async def body() -> None:
        start_ts = store.now_ts(ago_ms=1000)
        lock = store.lock(b"p", start_ts)
        assert await store.resolver().resolve_for_read([lock], store.now_ts(), store.call()) == ((start_ts,), (), 0)
        wait_ms = await store.resolver().resolve_for_write([lock], 0, store.call())
        assert 1950 <= wait_ms <= 2001
        assert b"p" in store.locks
        large = store.lock(b"q", store.now_ts(), primary=b"q", min_commit_ts=0)
        found = await store.resolver().resolve_for_read([large], store.now_ts(), store.call())
        assert found.ignore == ()
        assert 2900 < found.wait_ms <= 3001
        assert len(store.resolver().statuses) == 0, "nothing that may change is remembered"

    world.run(body())


@pytest.mark.parametrize("txn_size", [3, 600])
@pytest.mark.parametrize("is_before", [True, False])
def test_committed_primary(world: Any, store: Any, txn_size: int, is_before: bool) -> None:
    """Readers before the commit pass the lock, later ones look behind it; the locks go in the background, by region."""

    async def body() -> None:
        store.split(b"g", b"n")
        start_ts, early, commit_ts, late = (store.now_ts() for _ in range(4))
        store.apply(b"p", start_ts, commit_ts, b"new")
        locks = [store.lock(key, start_ts, txn_size=txn_size) for key in (b"a", b"b", b"h", b"z")]
        not_met = store.lock(b"c", start_ts, txn_size=txn_size)
        found = await store.resolver().resolve_for_read(locks, early if is_before else late, store.call())
        assert found == (((start_ts,), (), 0) if is_before else ((), (start_ts,), 0))
        await settled(store)
        assert len(store.requests("KvCheckTxnStatus")) == 1
        resolves = store.requests("KvResolveLock")
        assert len(resolves) == 3, "one for each region"
        assert all((one.start_version, one.commit_version) == (start_ts, commit_ts) for one in resolves)
        if txn_size == 600:
            assert not any(one.keys for one in resolves)
            assert not store.locks
        else:
            assert sorted(key for one in resolves for key in one.keys) == [b"a", b"b", b"h", b"z"]
            assert list(store.locks) == [not_met.key]
        # The next who meets one need not ask.
        await store.resolver().resolve_for_read([not_met], late, store.call())
        assert len(store.requests("KvCheckTxnStatus")) == 1
        await settled(store)
        assert not store.locks

    world.run(body())


def test_a_primary_that_was_met_needs_no_resolving(world: Any, store: Any) -> None:
    async def body() -> None:
        lock = store.lock(b"p", store.now_ts(ago_ms=5000))
        assert await store.resolver().resolve_for_write([lock], 0, store.call()) == 0
        assert store.names() == ["KvCheckTxnStatus"]
        assert not store.locks

    world.run(body())


def test_a_lock_without_time_is_decided_now(world: Any, store: Any) -> None:
    async def body() -> None:
        lock = store.lock(b"k", store.now_ts(), lock_ttl=0)
        assert await store.resolver().resolve_for_write([lock], 0, store.call()) == 0
        assert all(check.current_ts == MAX_TIMESTAMP for check in store.requests("KvCheckTxnStatus"))
        assert not store.locks

    world.run(body())


# --- pessimistic locks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region_wide", [True, False])
def test_expired_pessimistic_locks_are_rolled_back_each(world: Any, store: Any, region_wide: bool) -> None:
    async def body() -> None:
        old = store.now_ts(ago_ms=60_000)
        locks = [
            store.lock(b"p", old, lock_for_update_ts=old, **PESSIMISTIC),
            store.lock(b"a", old, lock_for_update_ts=old + 1, **PESSIMISTIC),
            store.lock(b"b", old, lock_for_update_ts=0, **PESSIMISTIC),
        ]
        store.lock(b"c", old, lock_for_update_ts=old, **PESSIMISTIC)
        wait_ms = await store.resolver().resolve_for_write(
            locks, 0, store.call(), resolve_pessimistic_region=region_wide
        )
        assert wait_ms == 0
        assert "KvResolveLock" not in store.names()
        sent = store.requests("KVPessimisticRollback")
        assert [one.for_update_ts for one in sent] == [old + 1, MAX_TIMESTAMP]
        assert [list(one.keys) for one in sent] == ([[], []] if region_wide else [[b"a"], [b"b"]])
        assert list(store.locks) == ([] if region_wide else [b"c"])
        assert len(store.resolver().statuses) == 0, "the transaction may go on"

    world.run(body())


def test_a_living_pessimistic_lock_is_waited_for(world: Any, store: Any) -> None:
    """Also where its primary is not to be found: it may have been moved to another key."""

    async def body() -> None:
        lock = store.lock(b"a", store.now_ts(), lock_ttl=20_000, **PESSIMISTIC)
        wait_ms = await store.resolver().resolve_for_write([lock], 0, store.call())
        assert 19_900 < wait_ms <= 20_001
        assert store.names() == ["KvCheckTxnStatus"]

    world.run(body())


def test_primary_mismatch(world: Any, store: Any) -> None:
    """Legal for a pessimistic lock, which is rolled back alone; else it is an error."""

    async def body() -> None:
        start_ts = store.now_ts()
        store.lock(b"p", start_ts, primary=b"other")
        lock = store.lock(b"a", start_ts, **PESSIMISTIC)
        assert await store.resolver().resolve_for_write([lock], 0, store.call()) == 0
        assert list(store.locks) == [b"p"]
        with pytest.raises(Exception, match="another primary"):
            await store.resolver().resolve_for_write([store.lock(b"b", start_ts)], 0, store.call())

    world.run(body())


# --- async commit -----------------------------------------------------------------------------------------------------


def async_commit(store: Any, start_ts: int, keys: tuple[bytes, ...]) -> list[Any]:
    """Leave the locks of an async commit on `p` (min_commit_ts start + 1) and `keys` (start + 2, 3, ...)."""
    store.lock(
        b"p", start_ts, use_async_commit=True, secondaries=[store.wire(key) for key in keys], min_commit_ts=start_ts + 1
    )
    return [
        store.lock(key, start_ts, use_async_commit=True, min_commit_ts=start_ts + 2 + n) for n, key in enumerate(keys)
    ]


@pytest.mark.parametrize("flavour", ["read", "write", "gc"])
def test_async_commit_with_all_keys_locked_is_a_commit(world: Any, store: Any, flavour: str) -> None:
    async def body() -> None:
        store.split(b"g", b"n")
        old = store.now_ts(ago_ms=10_000)
        lock, *_ = async_commit(store, old, (b"a", b"h", b"z"))
        resolver, call = store.resolver(), store.call()
        if flavour == "read":
            assert await resolver.resolve_for_read([lock], store.now_ts(), call) == ((), (old,), 0)
        elif flavour == "write":
            assert await resolver.resolve_for_write([lock], 0, call) == 0
        else:
            for place in list(store.places):
                await resolver.resolve_for_gc([lock], place, call)
        await settled(store)
        assert not store.locks
        assert {store.records[key, old] for key in (b"a", b"h", b"p", b"z")} == {old + 4}
        assert len(store.requests("KvCheckSecondaryLocks")) == 3, "one for each region"

    world.run(body())


@pytest.mark.parametrize("missing", [b"a", b"z"])
def test_async_commit_with_a_key_missing_is_rolled_back(world: Any, store: Any, missing: bytes) -> None:
    async def body() -> None:
        store.split(b"m")
        old = store.now_ts(ago_ms=10_000)
        async_commit(store, old, (b"a", b"h", b"z"))
        del store.locks[missing]
        found = await store.resolver().resolve_for_read([store.locks[b"h"].info], store.now_ts(), store.call())
        assert found == ((old,), (), 0)
        await settled(store)
        assert not store.locks
        assert {store.records[key, old] for key in (b"a", b"h", b"p", b"z")} == {0}

    world.run(body())


def test_async_commit_with_a_secondary_committed(world: Any, store: Any) -> None:
    async def body() -> None:
        old = store.now_ts(ago_ms=10_000)
        async_commit(store, old, (b"a", b"h"))
        del store.locks[b"a"]
        store.apply(b"a", old, old + 9, b"new")
        assert await store.resolver().resolve_for_write([store.locks[b"h"].info], 0, store.call()) == 0
        assert {store.records[key, old] for key in (b"a", b"h", b"p")} == {old + 9}

    world.run(body())


def test_a_living_async_commit_is_left_alone(world: Any, store: Any) -> None:
    async def body() -> None:
        locks = async_commit(store, store.now_ts(), (b"a",))
        assert await store.resolver().resolve_for_write(locks, 0, store.call()) > 2900
        assert store.names() == ["KvCheckTxnStatus"]

    world.run(body())


def test_async_commit_that_fell_back_to_two_phases(world: Any, store: Any) -> None:
    async def body() -> None:
        old = store.now_ts(ago_ms=10_000)
        async_commit(store, old, (b"a", b"h"))
        lock = store.lock(b"h", old)
        assert await store.resolver().resolve_for_write([lock], 0, store.call()) == 0
        assert [one.force_sync_commit for one in store.requests("KvCheckTxnStatus")] == [False, True]
        assert store.records[b"p", old] == 0
        assert list(store.locks) == [b"a"], "of that transaction, but not met"

    world.run(body())


# --- many, at once, and faults ----------------------------------------------------------------------------------------


def test_identical_questions_are_one(world: Any, store: Any) -> None:
    async def body() -> None:
        start_ts = store.now_ts()
        commit_ts = store.now_ts()
        store.apply(b"p", start_ts, commit_ts, b"new")
        locks = [store.lock(b"k%02d" % n, start_ts, txn_size=5000) for n in range(50)]
        late = store.now_ts()
        resolver = store.resolver()
        await store.rt.gather(*(resolver.resolve_for_read([lock], late, store.call()) for lock in locks))
        assert len(store.requests("KvCheckTxnStatus")) == 1
        await settled(store)
        assert not store.locks
        assert len(store.requests("KvResolveLock")) < 20

    world.run(body())


def test_ten_thousand_locks_of_one_transaction(world: Any, store: Any) -> None:
    async def body() -> None:
        store.split(*(b"k%05d" % n for n in range(1000, 10_000, 1000)))
        start_ts = store.now_ts(ago_ms=10_000)
        locks = [store.lock(b"k%05d" % n, start_ts, txn_size=1000) for n in range(10_000)]
        began = store.rt.now()
        assert await store.resolver().resolve_for_write(locks, 0, store.call()) == 0
        assert not store.locks
        assert len(store.calls) == 12
        assert store.rt.now() - began < 0.01, "all regions at once"

    world.run(body())


@pytest.mark.parametrize("count", [TOGETHER - 1, TOGETHER, 300])
def test_small_transactions_that_were_met_together(world: Any, store: Any, count: int) -> None:
    """Some committed, some rolled back, one alive: many are ended by one request a region, few one by one."""

    async def body() -> None:
        store.split(b"k0005")
        locks = []
        for n in range(count):
            start_ts = store.now_ts(ago_ms=9000)
            primary = b"p%04d" % n
            if n % 2:
                store.apply(primary, start_ts, start_ts + 5, b"new")
            locks += [store.lock(b"k%04d" % (n + at), start_ts, primary=primary) for at in (0, count)]
        alive = store.now_ts()
        locks.append(store.lock(b"z", alive, primary=b"z"))
        assert await store.resolver().resolve_for_write(locks, 0, store.call()) > 2000
        assert list(store.locks) == [b"z"]
        for n, lock in enumerate(locks[:-1]):
            committed = n // 2 % 2
            assert store.records[lock.key, lock.lock_version] == (lock.lock_version + 5 if committed else 0)
        resolves = store.requests("KvResolveLock")
        assert len(resolves) == (2 if count >= TOGETHER else count + 5)
        assert all(bool(one.txn_infos) == (count >= TOGETHER) for one in resolves)

    world.run(body())


def test_many_who_meet_locks_in_one_region_ask_it_together(world: Any, store: Any) -> None:
    """Twenty batches of a write at once, each with locks of transactions of its own: not twenty looks at the region."""

    async def body() -> None:
        batches = []
        for batch in range(20):
            keys = [b"%02d-%02d" % (batch, n) for n in range(TOGETHER)]
            batches.append([store.lock(key, store.now_ts(ago_ms=9000), primary=b"p" + key) for key in keys])
        resolver = store.resolver()
        waits = await store.rt.gather(*(resolver.resolve_for_write(locks, 0, store.call()) for locks in batches))
        assert waits == [0] * 20
        assert not store.locks
        resolves = store.requests("KvResolveLock")
        assert 1 <= len(resolves) <= 3
        assert sum(len(one.txn_infos) for one in resolves) == 20 * TOGETHER
        assert not resolver._joint._last, "nothing is kept"

    world.run(body())


def test_a_joint_request_whose_sender_gives_up_is_sent_by_another(world: Any, store: Any) -> None:
    async def body() -> None:
        batches = []
        for batch in range(3):
            keys = [b"%02d-%02d" % (batch, n) for n in range(TOGETHER)]
            batches.append([store.lock(key, store.now_ts(ago_ms=9000), primary=b"p" + key) for key in keys])
        resolver, rt = store.resolver(), store.rt

        async def resolve(locks: Any) -> None:
            assert await resolver.resolve_for_write(locks, 0, store.call()) == 0

        tasks = [rt.spawn(resolve(locks), name="resolve") for locks in batches]
        while not store.requests("KvResolveLock"):
            await rt.sleep(0.0001)
        tasks[0].cancel()
        while not all(task.done() for task in tasks):
            await rt.sleep(0.0001)
        assert not [key for key in store.locks if not key.startswith(b"00")]
        assert not resolver._joint._last

    world.run(body())


def test_many_transactions_at_once(world: Any, store: Any) -> None:
    async def body() -> None:
        locks = [store.lock(b"k%d" % n, store.now_ts(ago_ms=9000), primary=b"k%d" % n) for n in range(300)]
        began = store.rt.now()
        assert await store.resolver().resolve_for_write(locks, 0, store.call()) == 0
        assert not store.locks
        assert store.rt.now() - began < 0.05

    world.run(body())


def test_regions_split_on_the_way(world: Any, store: Any) -> None:
    async def body() -> None:
        old = store.now_ts(ago_ms=10_000)
        locks = async_commit(store, old, (b"a", b"h", b"z"))

        def fault(name: str, request: Any, place: Any) -> None:
            count = len(store.requests(name))
            if name == "KvCheckTxnStatus" and count == 1:
                store.split(b"p")
            elif name == "KvCheckSecondaryLocks" and count == 1:
                store.split(b"d")
            elif name == "KvResolveLock" and count == 1:
                store.split(b"g")

        store.fault = fault
        assert await store.resolver().resolve_for_write(locks, 0, store.call()) == 0
        assert not store.locks
        assert {store.records[key, old] for key in (b"a", b"h", b"p", b"z")} == {old + 4}

    world.run(body())


@pytest.mark.parametrize("where", ["KvCheckTxnStatus", "KvCheckSecondaryLocks", "KvResolveLock"])
def test_a_failure_is_the_writers(world: Any, store: Any, failing: Any, where: str) -> None:
    async def body() -> None:
        locks = async_commit(store, store.now_ts(ago_ms=10_000), (b"a", b"h"))
        store.fault = lambda name, request, place: ConnectionFailed("cut") if name == where else None
        error = await failing(store.resolver().resolve_for_write(locks, 0, store.call()))
        assert isinstance(error, ConnectionFailed)

    world.run(body())


def test_a_failure_in_the_background_is_nobodys(world: Any, store: Any) -> None:
    async def body() -> None:
        start_ts = store.now_ts()
        store.apply(b"p", start_ts, store.now_ts(), b"new")
        lock = store.lock(b"k", start_ts)
        store.fault = lambda name, request, place: ConnectionFailed("cut") if name == "KvResolveLock" else None
        found = await store.resolver().resolve_for_read([lock], store.now_ts(), store.call())
        assert found.access == (start_ts,)
        await settled(store)
        assert list(store.locks) == [b"k"], "left to the next who meets it"

    world.run(body())


@pytest.mark.parametrize("where", ["KvCheckTxnStatus", "KvResolveLock", "KvCheckSecondaryLocks"])
def test_refusals_are_named(world: Any, store: Any, failing: Any, where: str) -> None:
    async def body() -> None:
        locks = async_commit(store, store.now_ts(ago_ms=10_000), (b"a", b"h"))
        answer = getattr(kvrpcpb, where.removeprefix("Kv") + "Response")(error=kvrpcpb.KeyError(abort="no such thing"))
        store.fault = lambda name, request, place: answer if name == where else None
        error = await failing(store.resolver().resolve_for_write(locks, 0, store.call()))
        assert isinstance(error, ServerError)
        assert "no such thing" in str(error)

    world.run(body())


def test_the_end_of_time(world: Any, store: Any, failing: Any) -> None:
    async def body() -> None:
        lock = store.lock(b"k", store.now_ts(), lock_ttl=60_000)
        call = store.call(store.rt.now() + 0.5)
        error = await failing(store.resolver().resolve_for_write([lock], 0, call))
        assert isinstance(error, KeyLocked)
        assert error.outcome is Outcome.NOT_APPLIED
        assert store.rt.now() <= call.backoffer.deadline

    world.run(body())


# --- garbage collection -----------------------------------------------------------------------------------------------


def test_for_gc_everything_ends_now(world: Any, store: Any) -> None:
    async def body() -> None:
        done, alive, held = store.now_ts(), store.now_ts(), store.now_ts()
        store.apply(b"p", done, store.now_ts(), b"new")
        locks = [
            store.lock(b"a", done),
            store.lock(b"b", alive, primary=b"q", lock_ttl=60_000),
            store.lock(b"c", held, primary=b"r", lock_ttl=60_000, **PESSIMISTIC),
        ]
        await store.resolver().resolve_for_gc(locks, store.places[0], store.call())
        assert not store.locks
        assert store.records[b"a", done] > done
        assert store.records[b"b", alive] == 0
        (resolve,) = store.requests("KvResolveLock")
        assert sorted(info.txn for info in resolve.txn_infos) == sorted([done, alive])
        assert all(check.current_ts == MAX_TIMESTAMP for check in store.requests("KvCheckTxnStatus"))
        await store.resolver().resolve_for_gc([], store.places[0], store.call())

    world.run(body())


def test_for_gc_a_region_that_changed_is_the_callers(world: Any, store: Any) -> None:
    from pytikv.client.request_sender import RegionStale

    async def body() -> None:
        lock = store.lock(b"a", store.now_ts(ago_ms=5000))
        place = store.places[0]
        store.split(b"m")
        with pytest.raises(RegionStale):
            await store.resolver().resolve_for_gc([lock], place, store.call())

    world.run(body())


def test_one_resolver_for_a_connect(store: Any) -> None:
    assert store.resolver() is store.resolver()
