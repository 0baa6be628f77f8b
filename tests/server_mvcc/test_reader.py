"""MvccReader and MvccTxn on both engines."""

from __future__ import annotations

import pytest

from pytikv.codec import memcomparable
from pytikv.errors import StorageError
from pytikv.server.engine.interface import CF_LOCK, CF_WRITE, Engine
from pytikv.server.mvcc.keys import TS_MAX, data_key
from pytikv.server.mvcc.reader import CommitKind, MvccReader, OverlappedWrite
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType
from pytikv.server.mvcc.txn import MvccTxn, ReleasedLock

K = memcomparable.encode(b"k")
J = memcomparable.encode(b"j")
L = memcomparable.encode(b"l")


def put(engine: Engine, key: bytes, *versions: tuple[int, Write]) -> MvccReader:
    txn = MvccTxn(0)
    for commit_ts, write in versions:
        txn.put_write(key, commit_ts, write)
    engine.write(txn.batch)
    return MvccReader(engine.snapshot())


def put_locks(engine: Engine, **locks: Lock) -> MvccReader:
    txn = MvccTxn(0)
    for name, lock in locks.items():
        txn.put_lock(memcomparable.encode(name.encode()), lock, is_new=True)
    engine.write(txn.batch)
    return MvccReader(engine.snapshot())


def test_seek_write_finds_the_newest_at_or_below(engine: Engine) -> None:
    put(engine, J, (500, Write(WriteType.PUT, 499, b"j")))
    put(engine, L, (500, Write(WriteType.PUT, 499, b"l")))
    reader = put(engine, K, *[(ts, Write(WriteType.PUT, ts - 1, b"%d" % ts)) for ts in range(10, 400, 10)])
    for ts in [TS_MAX, 399, 390, 389, 310, 305, 20, 15, 10, 300, 299, 9, 0, 25]:
        at = min(390, ts // 10 * 10)
        expected = (at, Write(WriteType.PUT, at - 1, b"%d" % at)) if at else None
        assert reader.seek_write(K, ts) == expected
    assert reader.seek_write(J, 499) is None
    assert reader.seek_write(memcomparable.encode(b"kk"), TS_MAX) is None
    assert [ts for ts, _ in reader.writes(K, 45)] == [40, 30, 20, 10]


def test_get_write_passes_over_locks_and_rollbacks(engine: Engine) -> None:
    reader = put(
        engine,
        K,
        (10, Write(WriteType.PUT, 5, b"a")),
        (20, Write(WriteType.LOCK, 15)),
        (30, Write.rollback(30, protected=False)),
        (40, Write(WriteType.DELETE, 35)),
        (50, Write(WriteType.LOCK, 45)),
    )
    assert reader.get(K, 9) is None
    assert [reader.get(K, ts) for ts in (10, 20, 30, 39)] == [b"a"] * 4
    assert reader.get_write(K, 39) == (10, Write(WriteType.PUT, 5, b"a"))
    assert reader.get(K, 40) is reader.get(K, TS_MAX) is None


def test_get_write_jumps_to_the_last_change(engine: Engine) -> None:
    # A record in between would be damage, were it read: the jump is what is seen.
    engine.put(CF_WRITE, data_key(K, 20), b"?")
    reader = put(
        engine,
        K,
        (10, Write(WriteType.PUT, 5, b"a")),
        (30, Write(WriteType.LOCK, 25, last_change_ts=10, versions_to_last_change=8)),
        (40, Write(WriteType.LOCK, 35, versions_to_last_change=1)),
        (50, Write(WriteType.LOCK, 45, last_change_ts=9, versions_to_last_change=8)),
        (60, Write(WriteType.LOCK, 55, last_change_ts=50, versions_to_last_change=8)),
        (70, Write(WriteType.LOCK, 65, last_change_ts=20, versions_to_last_change=7)),
    )
    assert reader.get(K, 30) == b"a"
    assert reader.get(K, 40) is None  # nothing older, it says
    assert reader.get(K, 50) is None  # collected
    with pytest.raises(StorageError, match=r"b'k': last_change_ts 50 is no change"):
        reader.get(K, 60)
    with pytest.raises(StorageError, match="last_change_ts 50"):
        reader.get(K, 70)  # seven are walked over, not jumped


def test_get_write_honours_the_gc_fence(engine: Engine) -> None:
    reader = put(engine, K, (10, Write(WriteType.PUT, 5, b"a", has_overlapped_rollback=True, gc_fence=20)))
    assert reader.get(K, 15, 15) == b"a"
    assert reader.get(K, 20, 20) is None
    assert reader.get(K, 20) == b"a"  # not a transactional read


def test_values(engine: Engine) -> None:
    txn = MvccTxn(5)
    txn.put_value(K, 5, b"long" * 100)
    txn.put_write(K, 10, Write(WriteType.PUT, 5))
    txn.put_write(K, 20, Write(WriteType.PUT, 15))
    engine.write(txn.batch)
    reader = MvccReader(engine.snapshot())
    assert reader.get(K, 19) == b"long" * 100
    with pytest.raises(StorageError, match=r"value of key b'k' at start_ts 15 is missing"):
        reader.get(K, 20)


def test_what_became_of_a_transaction(engine: Engine) -> None:
    overlapped = Write(WriteType.PUT, 40, b"x")
    reader = put(
        engine,
        K,
        (10, Write(WriteType.PUT, 8, b"a")),
        (20, Write(WriteType.PUT, 15, b"b", has_overlapped_rollback=True, gc_fence=0)),
        (30, Write.rollback(30, protected=True)),
        (50, overlapped),
        (60, Write(WriteType.LOCK, 5)),
        (70, Write(WriteType.DELETE, 65)),
    )
    assert reader.txn_commit_record(K, 8).kind is CommitKind.COMMITTED
    late = reader.txn_commit_record(K, 5)
    assert (late.kind, late.commit_ts, late.write) == (CommitKind.COMMITTED, 60, Write(WriteType.LOCK, 5))
    assert reader.txn_commit_record(K, 30).kind is CommitKind.ROLLED_BACK
    assert reader.txn_commit_record(K, 30).is_rollback
    assert reader.txn_commit_record(K, 20).kind is CommitKind.OVERLAPPED_ROLLBACK
    assert reader.txn_commit_record(K, 20).is_rollback
    nothing = reader.txn_commit_record(K, 50)
    assert (nothing.kind, nothing.overlapped) == (CommitKind.NONE, OverlappedWrite(overlapped, 70))
    assert reader.txn_commit_record(K, 70).overlapped == OverlappedWrite(Write(WriteType.DELETE, 65), 0)
    assert reader.txn_commit_record(K, 12).overlapped is None
    assert not reader.txn_commit_record(K, 12).is_rollback


def test_scan_locks_matches_limits_and_goes_on(engine: Engine) -> None:
    shared = Lock(LockType.SHARED, b"", 0)
    for start_ts in (1, 2, 3):
        shared = shared.with_member(Lock(LockType.LOCK, b"p", start_ts))
    reader = put_locks(
        engine, a=Lock(LockType.PUT, b"a", 1), b=shared, c=Lock(LockType.PUT, b"a", 5), d=Lock(LockType.DELETE, b"a", 2)
    )
    assert reader.load_lock(memcomparable.encode(b"b")) == shared

    def old(key: bytes, lock: Lock) -> bool:
        assert not lock.is_shared
        return lock.start_ts <= 2

    found, rest = reader.scan_locks(b"", b"", old)
    assert rest is None
    assert [(key[:1], [m.start_ts for m in lock.members] or lock.start_ts) for key, lock in found] == [
        (b"a", 1),
        (b"b", [1, 2]),
        (b"d", 2),
    ]
    found, rest = reader.scan_locks(b"", b"", old, limit=2)
    assert [key[:1] for key, _ in found] == [b"a", b"b"]
    assert rest is not None
    assert [key[:1] for key, _ in reader.scan_locks(rest, b"", old)[0]] == [b"d"]
    assert reader.scan_locks(rest, memcomparable.encode(b"d"), old) == ([], None)


def test_damage_names_the_key(engine: Engine) -> None:
    engine.put(CF_LOCK, K, b"?")
    engine.put(CF_WRITE, data_key(K, 7), b"P")
    reader = MvccReader(engine.snapshot())
    with pytest.raises(StorageError, match=r"damaged lock record: .* of key b'k'"):
        reader.load_lock(K)
    with pytest.raises(StorageError, match=r"damaged lock record: .* of key b'k'"):
        reader.scan_locks(b"", b"", lambda key, lock: True)
    with pytest.raises(StorageError, match=r"damaged write record: .* of key b'k' at commit_ts 7"):
        reader.seek_write(K, 8)


def test_txn_collects_changes(engine: Engine) -> None:
    txn = MvccTxn(7)
    lock = Lock(LockType.PUT, b"k", 7, for_update_ts=8)
    txn.put_lock(K, lock, is_new=True)
    assert txn.pending_lock(K) == (True, lock)
    assert txn.pending_lock(J) == (False, None)
    assert txn.unlock(K, lock, commit_ts=9) == ReleasedLock(K, 7, 9, True)
    assert txn.pending_lock(K) == (True, None)
    assert txn.released == [ReleasedLock(K, 7, 9, True)]
    assert txn.new_locks == [(K, lock)]
    assert txn.write_size_bytes == 2 * len(K) + len(lock.encode())
    txn.clear()
    assert not txn.batch
    assert not txn.released


@pytest.mark.parametrize(
    ("is_protected", "use_async_commit", "min_commit_ts", "marked"),
    [(True, True, 7, True), (True, True, 8, False), (True, False, 7, False), (False, True, 7, False)],
)
def test_rollbacks_are_noted_where_a_commit_could_overwrite_them(
    is_protected: bool, use_async_commit: bool, min_commit_ts: int, marked: bool
) -> None:
    txn = MvccTxn(7)
    lock = Lock(LockType.PUT, b"k", 5, min_commit_ts=min_commit_ts, use_async_commit=use_async_commit, rollback_ts=(3,))
    txn.mark_rollback_on_mismatching_lock(K, lock, is_protected=is_protected)
    changed, now = txn.pending_lock(K)
    assert changed is marked
    assert now is None or now.rollback_ts == (3, 7)
    assert lock.rollback_ts == (3,)
