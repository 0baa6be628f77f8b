"""Single keys: the short way, the long way, and that neither grows with the number of versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytikv.codec import memcomparable
from pytikv.errors import StorageError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Engine, Snapshot, WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.mvcc.errors import KeyIsLocked, WriteConflictError
from pytikv.server.mvcc.keys import TS_MAX, data_key
from pytikv.server.mvcc.point_getter import PointGetter, Version
from pytikv.server.mvcc.read_rules import ReadRules
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType, short_put_value

K = memcomparable.encode(b"k")
T = 1 << 58
"""Timestamps of our age take nine bytes in a record."""


class Counted:
    """An engine that counts what is asked of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def getter(self, cf: str) -> Callable[[bytes], bytes | None]:
        get = self._engine.getter(cf)

        def counted(key: bytes) -> bytes | None:
            self.asked.append(f"get {cf}")
            return get(key)

        return counted

    def seeker(self, cf: str) -> Callable[[bytes], tuple[bytes, bytes] | None]:
        first = self._engine.seeker(cf)

        def counted(key: bytes) -> tuple[bytes, bytes] | None:
            self.asked.append(f"seek {cf}")
            return first(key)

        return counted

    def snapshot(self) -> Snapshot:
        self.asked.append("snapshot")
        return self._engine.snapshot()


def put(engine: Engine, commit_ts: int, write: Write) -> None:
    engine.put(CF_WRITE, data_key(K, commit_ts), write.encode())


def points(engine: Engine) -> tuple[PointGetter, list[str]]:
    counted = Counted(engine)
    return PointGetter(counted), counted.asked  # type: ignore[arg-type]


def test_the_short_way_asks_two_questions(engine: Engine) -> None:
    put(engine, T + 10, Write(WriteType.PUT, T, b"value"))
    getter, asked = points(engine)
    assert getter.get(K, T + 10) == b"value"
    assert asked == ["get lock", "seek write"]
    assert getter.get(K, T + 9) is None
    assert getter.get(memcomparable.encode(b"j"), TS_MAX) is None
    assert getter.get(memcomparable.encode(b"kk"), TS_MAX) is None
    assert "snapshot" not in asked


def test_a_long_value_is_a_third_question_and_a_delete_is_none(engine: Engine) -> None:
    put(engine, T + 10, Write(WriteType.PUT, T))
    engine.put(CF_DEFAULT, data_key(K, T), b"long")
    put(engine, T + 20, Write(WriteType.DELETE, T + 15))
    put(engine, 9, Write(WriteType.PUT, 8, b"from a small timestamp"))
    getter, asked = points(engine)
    assert getter.get(K, T + 10) == b"long"
    assert asked == ["get lock", "seek write", "get default"]
    assert getter.get(K, T + 20) is None
    assert getter.get(K, T) == b"from a small timestamp"
    assert "snapshot" not in asked


@pytest.mark.parametrize("versions", [1, 1000])
def test_the_questions_do_not_grow_with_the_versions(engine: Engine, versions: int) -> None:
    for n in range(versions):
        put(engine, T + 10 * n, Write(WriteType.PUT, T + 10 * n - 5, b"%d" % n))
    getter, asked = points(engine)
    for n in {0, versions // 2, versions - 1}:
        asked.clear()
        assert getter.get(K, T + 10 * n + 3) == b"%d" % n
        assert asked == ["get lock", "seek write"]


def test_anything_else_goes_the_long_way(engine: Engine) -> None:
    put(engine, T + 10, Write(WriteType.PUT, T, b"value"))
    put(engine, T + 20, Write.rollback(T + 20, protected=True))
    getter, asked = points(engine)
    assert getter.get(K, T + 20) == b"value"
    assert asked[-1] == "snapshot"
    put(engine, T + 10, Write(WriteType.PUT, T, b"value", has_overlapped_rollback=True, gc_fence=T + 15))
    assert getter.get(K, T + 14) == b"value"
    assert getter.get(K, T + 15) is None


def test_what_is_collected_between_two_questions_is_read_again() -> None:
    engine = MemoryEngine()
    put(engine, T + 10, Write(WriteType.PUT, T))
    engine.put(CF_DEFAULT, data_key(K, T), b"old")

    class Racing(Counted):
        def seeker(self, cf: str) -> Callable[[bytes], tuple[bytes, bytes] | None]:
            first = engine.seeker(cf)

            def raced(key: bytes) -> tuple[bytes, bytes] | None:
                found = first(key)
                put(engine, T + 20, Write(WriteType.PUT, T + 15, b"new"))
                engine.delete(CF_WRITE, data_key(K, T + 10))
                engine.delete(CF_DEFAULT, data_key(K, T))
                return found

            return raced

    assert PointGetter(Racing(engine)).get(K, TS_MAX) == b"new"  # type: ignore[arg-type]


def test_a_commit_between_two_questions_is_not_missed() -> None:
    # Locked before the read, committed at or below its timestamp after the first question: locks must be asked first.
    engine = MemoryEngine()
    put(engine, T + 10, Write(WriteType.PUT, T, b"old"))
    lock = Lock(LockType.PUT, b"p", T + 20, short_value=b"new")
    engine.put(CF_LOCK, K, lock.encode())
    counted = Counted(engine)

    def after_the_first(ask: Callable[[bytes], object]) -> Callable[[bytes], object]:
        def asked(key: bytes) -> object:
            answer = ask(key)
            if len(counted.asked) == 1:
                batch = WriteBatch()
                batch.delete(CF_LOCK, K)
                batch.put(CF_WRITE, data_key(K, T + 30), Write(WriteType.PUT, T + 20, b"new").encode())
                engine.write(batch)
            return answer

        return asked

    getter = PointGetter(counted)  # type: ignore[arg-type]
    getter._lock = after_the_first(getter._lock)  # type: ignore[assignment]
    getter._first = after_the_first(getter._first)  # type: ignore[assignment]
    assert getter.get(K, T + 30) == b"new"


def test_damage_is_an_error_that_names_the_key(engine: Engine) -> None:
    getter = PointGetter(engine)
    put(engine, T + 10, Write(WriteType.PUT, T))
    with pytest.raises(StorageError, match=rf"value of key b'k' at start_ts {T} is missing"):
        getter.get(K, T + 10)
    engine.put(CF_WRITE, data_key(K, T + 20), b"P")
    with pytest.raises(StorageError, match=r"damaged write record.*of key b'k'"):
        getter.get(K, T + 20)
    engine.put(CF_LOCK, K, b"?")
    with pytest.raises(StorageError, match=r"damaged lock record.*of key b'k'"):
        getter.get(K, T + 20)
    engine.close()
    with pytest.raises(StorageError, match="closed"):
        getter.get(K, T + 20)


def test_locks_in_the_way(engine: Engine) -> None:
    put(engine, T + 10, Write(WriteType.PUT, T, b"old"))
    lock = Lock(LockType.PUT, b"k", T + 20, ttl_ms=3000, short_value=b"new", min_commit_ts=T + 30)
    engine.put(CF_LOCK, K, lock.encode())
    getter = PointGetter(engine)
    assert getter.get(K, T + 19) == getter.get(K, T + 29) == b"old"
    with pytest.raises(KeyIsLocked) as locked:
        getter.get(K, T + 30)
    assert locked.value.lock_info == lock.info(b"k")
    assert getter.get(K, TS_MAX) == b"old"  # its own primary
    resolved = ReadRules(resolved_locks=frozenset([T + 20]))
    assert getter.read(K, T + 30, resolved) == Version(b"old", T + 10)
    committed = ReadRules(committed_locks=frozenset([T + 20]))
    assert getter.read(K, T + 30, committed) == Version(b"new", 0)
    with pytest.raises(KeyIsLocked):
        getter.read(K, T + 30, committed, need_commit_ts=True)
    read_committed = ReadRules(kvrpcpb.IsolationLevel.RC)
    assert getter.read(K, T + 30, read_committed) == Version(b"old", T + 10)


def test_rc_check_ts_is_refused_by_locks_and_newer_versions(engine: Engine) -> None:
    rules = ReadRules(kvrpcpb.IsolationLevel.RCCheckTS)
    getter = PointGetter(engine)
    put(engine, T + 10, Write(WriteType.PUT, T, b"old"))
    put(engine, T + 20, Write(WriteType.LOCK, T + 15))
    assert getter.read(K, T + 20, rules) == Version(b"old", T + 10)
    with pytest.raises(WriteConflictError) as newer:
        getter.read(K, T + 19, rules)
    conflict = newer.value.key_error().conflict
    assert (conflict.start_ts, conflict.conflict_ts, conflict.conflict_commit_ts) == (T + 19, 0, T + 20)
    assert (conflict.key, conflict.reason) == (b"k", kvrpcpb.WriteConflict.Reason.RcCheckTs)
    engine.put(CF_LOCK, K, Lock(LockType.DELETE, b"p", T + 50).encode())
    with pytest.raises(WriteConflictError) as locked:
        getter.read(K, T + 20, rules)
    conflict = locked.value.key_error().conflict
    assert (conflict.conflict_ts, conflict.conflict_commit_ts, conflict.primary) == (T + 50, 0, b"p")


@pytest.mark.parametrize(
    "write",
    [
        Write(WriteType.DELETE, T),
        Write(WriteType.PUT, T),
        Write(WriteType.PUT, T, b"v", has_overlapped_rollback=True),
        Write(WriteType.PUT, T, b"v", txn_source=1),
        Write(WriteType.PUT, 1, b"v"),
        Write(WriteType.PUT, 1, b"\x80\x80\x80\x80\x80\x80\x80\x05v\x00"),
        Write(WriteType.PUT, TS_MAX, b"v"),
        Write(WriteType.LOCK, T, b"v"),
    ],
)
def test_only_the_common_record_is_read_fast(write: Write) -> None:
    assert short_put_value(write.encode()) is None
    assert short_put_value(Write(WriteType.PUT, T, b"v").encode()) == b"v"
    assert short_put_value(Write(WriteType.PUT, T, b"").encode()) == b""
    assert short_put_value(Write(WriteType.PUT, T, b"v").encode() + b"unknown") is None
