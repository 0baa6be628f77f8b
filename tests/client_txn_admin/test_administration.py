"""Garbage collection, locks, ranges, regions and versions, embedded and over the wire."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import pytikv
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

Place = Any  # of this directory's conftest
LeaveLocks = Callable[..., int]


def put(db: pytikv.TransactionClient, pairs: dict[bytes, bytes | None]) -> pytikv.Timestamp:
    with db.begin() as txn:
        for key, value in pairs.items():
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)
    assert txn.commit_ts is not None
    return txn.commit_ts


def versions(db: pytikv.TransactionClient, key: bytes) -> list[bytes | None]:
    return [version.value for version in db.mvcc(key).versions]


# --- garbage ----------------------------------------------------------------------------------------------------------


def test_gc_removes_what_was_replaced(db: pytikv.TransactionClient, place: Place) -> None:
    for number in range(3):
        put(db, {b"k": b"%d" % number, b"long": b"%d" % number * 1000})
    put(db, {b"gone": b"x"})
    last = put(db, {b"gone": None})
    before = db.current_timestamp()
    report = db.gc(0)
    assert last <= before < report.safe_point == report.target
    assert report.blocker == ""
    state = db.gc_state()
    assert state.txn_safe_point == state.gc_safe_point == report.safe_point
    assert db.snapshot().get(b"k") == b"2"
    if not place.has_regions:  # a server removes in its own time
        assert versions(db, b"k") == [b"2"]
        assert versions(db, b"long") == [b"2" * 1000]
        assert versions(db, b"gone") == []
        assert db.check_consistency().problems == ()


def test_gc_leaves_what_is_younger(db: pytikv.TransactionClient) -> None:
    for number in range(3):
        put(db, {b"k": b"%d" % number})
    report = db.gc(600)
    assert report.safe_point.physical_ms == pytest.approx(db.current_timestamp().physical_ms - 600_000, abs=10_000)
    assert versions(db, b"k") == [b"2", b"1", b"0"]


def test_gc_settles_locks_first(db: pytikv.TransactionClient, leave_locks: LeaveLocks) -> None:
    put(db, {b"a": b"1", b"b": b"1"})
    leave_locks(db, [b"a", b"b"])
    later = db.begin(pessimistic=True)
    report = db.gc(0)
    assert report.resolved_locks == 2
    assert report.regions == 1
    assert db.list_locks() == []
    assert db.snapshot().batch_get([b"a", b"b"]) == {b"a": b"1", b"b": b"1"}
    later.rollback()


def test_an_older_reader_is_told(db: pytikv.TransactionClient, place: Place) -> None:
    put(db, {b"k": b"1"})
    old = db.snapshot(db.current_timestamp())
    older = db.begin()
    put(db, {b"k": b"2"})
    db.gc(0)
    with pytest.raises(pytikv.SnapshotTooOld):
        old.get(b"k")
    with pytest.raises(pytikv.SnapshotTooOld):
        older.get(b"k")
    assert db.snapshot().get(b"k") == b"2"
    if not place.has_regions:  # another client has to ask PD, and does so every now and then; here it is at hand
        with place.connect() as other, pytest.raises(pytikv.SnapshotTooOld):
            other.snapshot(old.ts).get(b"k")


def test_a_barrier_holds_gc_back(db: pytikv.TransactionClient) -> None:
    put(db, {b"k": b"1"})
    moment = db.current_timestamp()
    put(db, {b"k": b"2"})
    db.set_gc_barrier("backup", moment, 60)
    report = db.gc(0)
    assert report.safe_point == moment < report.target
    assert "backup" in report.blocker
    assert db.snapshot(moment).get(b"k") == b"1"
    db.delete_gc_barrier("backup")
    db.delete_gc_barrier("backup")
    report = db.gc(0)
    assert report.safe_point == report.target > moment
    with pytest.raises(pytikv.InvalidArgument, match="safe point"):
        db.set_gc_barrier("late", moment, 60)


def test_the_safe_point_never_goes_back(db: pytikv.TransactionClient) -> None:
    first = db.gc(0)
    second = db.gc(600)
    assert second.safe_point == first.safe_point > second.target


@pytest.mark.parametrize("life_time", [-1, float("nan"), "600", None, True, 1e12])
def test_bad_life_times(db: pytikv.TransactionClient, life_time: Any) -> None:
    with pytest.raises(pytikv.InvalidArgument, match="life_time"):
        db.gc(life_time)


@pytest.mark.parametrize(
    ("name", "ts", "ttl"), [("", 1, 1), ("gc_worker", 1, 1), (b"x", 1, 1), ("x", 0, 1), ("x", 1, 0), ("x", 1, 1.5)]
)
def test_bad_barriers(db: pytikv.TransactionClient, name: Any, ts: Any, ttl: Any) -> None:
    with pytest.raises(pytikv.InvalidArgument):
        db.set_gc_barrier(name, ts, ttl)


def test_gc_in_the_background(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytikv.client.txn.admin import gc

    seen: list[gc.GcReport] = []
    twice = threading.Event()

    async def collect(*arguments: Any) -> gc.GcReport:
        try:
            if not seen:
                raise pytikv.Overloaded("not now")
            return await real(*arguments)
        finally:
            seen.append(arguments)
            if len(seen) == 3:
                twice.set()

    real = gc.collect_garbage
    monkeypatch.setattr(gc, "collect_garbage", collect)
    monkeypatch.setattr(gc.BackgroundGc, "_pause", lambda self: self._backend.rt.sleep(0.01))
    with place.connect(gc_interval=60, gc_life_time=5) as client:
        put(client, {b"k": b"1"})
        assert twice.wait(20)
        work = client._core._backend.shared["background gc"]
    assert work.last is not None
    assert work.last.target < put_ts(place)
    ended = len(seen)
    threading.Event().wait(0.05)
    assert len(seen) == ended


def put_ts(place: Place) -> int:
    with place.connect() as client:
        return put(client, {b"k": b"2"})


# --- locks ------------------------------------------------------------------------------------------------------------


def test_locks_are_listed_and_settled(db: pytikv.TransactionClient, leave_locks: LeaveLocks) -> None:
    first = leave_locks(db, [b"a", b"b", b"c"])
    second = leave_locks(db, [b"d"])
    locks = db.list_locks()
    assert [(lock.key, lock.start_ts, lock.primary, lock.kind) for lock in locks] == [
        (b"a", first, b"a", "Put"),
        (b"b", first, b"a", "Put"),
        (b"c", first, b"a", "Put"),
        (b"d", second, b"d", "Put"),
    ]
    assert (locks[0].ttl_ms, locks[0].txn_size) == (60_000, 3)
    assert [lock.key for lock in db.list_locks(b"b", b"d")] == [b"b", b"c"]
    assert [lock.key for lock in db.list_locks(max_ts=first)] == [b"a", b"b", b"c"]
    assert [lock.key for lock in db.list_locks(limit=2)] == [b"a", b"b"]
    assert db.resolve_locks(max_ts=first).items == 3
    assert [lock.key for lock in db.list_locks()] == [b"d"]
    assert db.resolve_locks(b"z", None).items == 0
    assert db.resolve_locks().items == 1
    assert db.list_locks() == []


def test_many_locks_take_many_pages(
    db: pytikv.TransactionClient, monkeypatch: pytest.MonkeyPatch, leave_locks: LeaveLocks
) -> None:
    monkeypatch.setattr("pytikv.client.txn.admin.locks.PAGE", 7)
    keys = [b"%04d" % number for number in range(50)]
    leave_locks(db, keys)
    assert [lock.key for lock in db.list_locks()] == keys
    assert db.resolve_locks().items >= 7  # the first page is of one transaction, which ends with all its locks there
    assert db.list_locks() == []


# --- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["delete_range", "unsafe_destroy_range"])
def test_ranges_go_with_all_their_versions(db: pytikv.TransactionClient, method: str) -> None:
    put(db, {b"a": b"1", b"b": b"1", b"c": b"1" * 1000, b"d": b"1"})
    moment = put(db, {b"b": b"2", b"c": b"2"})
    remove = getattr(db, method)
    remove(b"b", b"b")
    remove(b"c", b"b")
    remove(b"b", b"d")
    assert list(db.snapshot().scan()) == [(b"a", b"1"), (b"d", b"1")]
    assert list(db.snapshot(moment).scan()) == [(b"a", b"1"), (b"d", b"1")]
    assert versions(db, b"c") == []
    with pytest.raises(pytikv.WrongType):
        remove("a", b"b")


def test_unbounded_ranges_end_with_the_keyspace(db: pytikv.TransactionClient) -> None:
    put(db, {b"a": b"1", b"\xff": b"1"})
    if db.config.api_version == 1:
        with pytest.raises(pytikv.InvalidArgument, match="needs an end"):
            db.delete_range(None, None)
        with pytest.raises(pytikv.InvalidArgument, match="needs an end"):
            db.unsafe_destroy_range(None, b"")
        return
    db.delete_range(None, None)
    assert list(db.snapshot().scan()) == []


# --- regions ----------------------------------------------------------------------------------------------------------


def test_regions_are_split_where_they_are_not_yet(
    db: pytikv.TransactionClient, place: Place, leave_locks: LeaveLocks
) -> None:
    made = db.split([b"m", b"c", b"m"])
    assert len(made) == (2 if place.has_regions else 0)
    again = db.split([b"c", b"m", b"x", b""])
    assert len(again) == (1 if place.has_regions else 0)
    assert not set(made) & set(again)
    db.scatter(made, wait=True)
    assert db.split([b"y"], scatter=True, wait=True) != [] or not place.has_regions
    assert db.split([]) == []
    regions = 5 if place.has_regions else 1
    seen: list[pytikv.Progress] = []
    leave_locks(db, [b"a", b"d", b"n", b"x1", b"y1"])
    done = db.resolve_locks(on_progress=seen.append)
    assert (done.regions, done.items, done.position) == (regions, 5, None)
    assert seen[-1] == done
    assert len(seen) >= regions


def test_work_on_a_range_meets_splits(db: pytikv.TransactionClient, place: Place) -> None:
    if not place.has_regions:
        assert db.split([b"k"]) == []
        return
    put(db, {b"%02d" % number: b"v" for number in range(50)})
    with place.connect() as other:  # splits behind the first client's back
        assert other.split([b"%02d" % number for number in range(1, 50, 5)])
    db.delete_range(b"10", b"40")
    assert len(list(db.snapshot().scan())) == 20


# --- a look inside ----------------------------------------------------------------------------------------------------


def test_all_versions_of_a_key(db: pytikv.TransactionClient) -> None:
    first = put(db, {b"k": b"short"})
    second = put(db, {b"k": b"long" * 100})
    third = put(db, {b"k": None})
    fourth = put(db, {b"k": b""})
    info = db.mvcc(b"k")
    assert info.key == b"k"
    assert info.lock is None
    assert info.orphans == ()
    assert [(one.kind, one.commit_ts, one.value) for one in info.versions] == [
        ("Put", fourth, b""),
        ("Del", third, None),
        ("Put", second, b"long" * 100),
        ("Put", first, b"short"),
    ]
    assert all(one.start_ts < one.commit_ts for one in info.versions)
    assert db.mvcc(b"nobody") == pytikv.MvccInfo(b"nobody", None, (), ())
    with pytest.raises(pytikv.WrongType):
        db.mvcc("k")  # type: ignore[arg-type]


def test_a_lock_is_shown_with_what_it_wants(db: pytikv.TransactionClient, leave_locks: LeaveLocks) -> None:
    put(db, {b"k": b"old"})
    db.current_timestamp()  # a commit may have the very next one, and share a record with the roll-back then
    ts = leave_locks(db, [b"k", b"l"])
    lock = db.mvcc(b"l").lock
    assert lock is not None
    assert (lock.kind, lock.start_ts, lock.primary, lock.value) == ("Put", ts, b"k", b"left")
    assert lock.ttl_ms == 60_000
    db.resolve_locks()
    info = db.mvcc(b"k")
    assert info.lock is None
    assert [one.kind for one in info.versions] == ["Rollback", "Put"]


def test_what_a_transaction_wrote(db: pytikv.TransactionClient) -> None:
    put(db, {b"a": b"0"})
    with db.begin() as txn:
        txn.put(b"b", b"1")
    found = db.mvcc_by_start_ts(txn.start_ts)
    assert [info.key for info in found] == [b"b"]
    assert found[0].versions[0].commit_ts == txn.commit_ts
    assert db.mvcc_by_start_ts(db.current_timestamp()) == []


def test_consistency_is_checked_where_the_store_is(db: pytikv.TransactionClient, place: Place) -> None:
    put(db, {b"a": b"1", b"b": b"2" * 1000})
    if place.has_regions:
        with pytest.raises(pytikv.UnsupportedByServer, match="embedded"):
            db.check_consistency()
        return
    found = db.check_consistency()
    assert found.is_sound
    assert (found.keys, found.locks, found.writes, found.values) == (2, 0, 2, 1)
    assert str(found) == "2 keys with 0 locks, 2 records, 1 long values: 0 damaged, 0 leftovers"
    engine = db._core._backend._engine
    for key, _ in list(engine.scan("default", b"x")):
        engine.delete("default", key)
    found = db.check_consistency()
    assert not found.is_sound
    assert found.damage == len(found.problems) == 1
    assert "b'x\\x00\\x00\\x00b'" in found.problems[0]


def test_requests_are_safe_for_a_real_store() -> None:
    """ScanLock above PD's clock ends the process of a TiKV: the largest `max_ts` is cut to the present."""
    sent: list[Any] = []
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        backend = db._core._backend
        execute = backend._commands.execute

        def watch(name: str, request: Any) -> Any:
            if isinstance(request, kvrpcpb.ScanLockRequest):
                sent.append(request.max_version)
            return execute(name, request)

        backend._commands.execute = watch
        db.list_locks(max_ts=(1 << 64) - 1)
        db.resolve_locks(max_ts=(1 << 64) - 1)
        db.gc(0)
        assert len(sent) == 3
        assert max(sent) <= db.current_timestamp()
