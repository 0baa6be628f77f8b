"""Records, reader, point getter and scanner against a dict of versions, on both engines."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from mvcc_twin import Answer, Twin

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import Engine, WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.rocks import RocksEngine
from pytikv.server.mvcc.errors import KeyIsLocked, WriteConflictError
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.point_getter import PointGetter, read_version
from pytikv.server.mvcc.read_rules import SNAPSHOT, ReadRules
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType
from pytikv.server.mvcc.scanner import Scanner

# Few keys and timestamps, so that they meet; the large ones have the nine bytes that real timestamps have.
KEYS = st.sampled_from([b"", b"a", b"a\x00", b"ab", b"12345678", b"123456789", b"\xff" * 9])
BIG = 1 << 58
TIMESTAMPS = st.integers(1, 40) | st.integers(1, 40).map(lambda n: BIG + n)
READ_TS = TIMESTAMPS | st.sampled_from([0, TS_MAX])
VALUES = st.sampled_from([b"", b"1", b"22", b"x" * 255, b"y" * 256])
RULES = st.builds(
    ReadRules,
    st.sampled_from([kvrpcpb.IsolationLevel.SI, kvrpcpb.IsolationLevel.RC, kvrpcpb.IsolationLevel.RCCheckTS]),
    st.frozensets(TIMESTAMPS, max_size=3),
    st.frozensets(TIMESTAMPS, max_size=3),
) | st.just(SNAPSHOT)
CHANGES = [WriteType.PUT, WriteType.DELETE]


def answer(read: Callable[[], bytes | None]) -> Answer:
    try:
        return read()
    except KeyIsLocked:
        return "locked"
    except WriteConflictError:
        return "conflict"


class MvccMachine(RuleBasedStateMachine):
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.twin = Twin()

    def apply(self, batch: WriteBatch) -> None:
        self.engine.write(batch)

    def write(self, key: bytes, commit_ts: int, write: Write, value: bytes = b"") -> None:
        """Write a record, but not below one that says what lies below it."""
        known = [ts for ts, (one, _) in self.twin.writes.get(key, {}).items() if one.versions_to_last_change]
        if commit_ts > max(known, default=0):
            self.apply(self.twin.write(key, commit_ts, write, value))

    @rule(key=KEYS, start_ts=TIMESTAMPS, after=st.integers(1, 5), value=VALUES, kind=st.sampled_from(CHANGES))
    def commit(self, key: bytes, start_ts: int, after: int, value: bytes, kind: WriteType) -> None:
        self.write(key, start_ts + after, Write(kind, start_ts), value)

    @rule(key=KEYS, first=TIMESTAMPS, count=st.integers(1, 24), kind=st.sampled_from(WriteType), value=VALUES)
    def commit_many(self, key: bytes, first: int, count: int, kind: WriteType, value: bytes) -> None:
        for start_ts in range(first, first + count):
            commit_ts = start_ts if kind is WriteType.ROLLBACK else start_ts + 1
            self.write(key, commit_ts, Write(kind, start_ts), value)

    @rule(key=KEYS, commit_ts=TIMESTAMPS)
    def lock_record_that_knows_the_last_change(self, key: bytes, commit_ts: int) -> None:
        versions = self.twin.writes.get(key, {})
        older = [ts for ts in versions if ts < commit_ts]
        changes = [ts for ts in older if versions[ts][0].write_type in CHANGES]
        write = Write(WriteType.LOCK, commit_ts - 1)
        if changes:
            write.last_change_ts = max(changes)
            write.versions_to_last_change = len([ts for ts in older if ts >= max(changes)])
        else:
            write.versions_to_last_change = 1
        if commit_ts not in versions:
            self.write(key, commit_ts, write)

    @rule(key=KEYS, data=st.data())
    def fence_the_newest(self, key: bytes, data: st.DataObject) -> None:
        # A fence is written on the newest change whose successor is collected already.
        versions = self.twin.writes.get(key, {})
        if versions:
            newest = max(versions)
            write, value = versions[newest]
            if write.write_type in CHANGES:
                write.gc_fence = data.draw(st.sampled_from([0, newest + 1, newest + 3]))
                write.has_overlapped_rollback = True
                self.apply(self.twin.write(key, newest, write, value))

    @rule(
        key=KEYS,
        kind=st.sampled_from([LockType.PUT, LockType.DELETE, LockType.LOCK, LockType.PESSIMISTIC]),
        start_ts=TIMESTAMPS,
        min_commit_ts=st.sampled_from([0, 10, BIG + 10]),
        own_primary=st.booleans(),
        use_async_commit=st.booleans(),
        value=VALUES,
    )
    def lock(
        self,
        key: bytes,
        kind: LockType,
        start_ts: int,
        min_commit_ts: int,
        own_primary: bool,
        use_async_commit: bool,
        value: bytes,
    ) -> None:
        primary = key if own_primary else b"primary"
        lock = Lock(kind, primary, start_ts, min_commit_ts=min_commit_ts, use_async_commit=use_async_commit)
        self.apply(self.twin.lock(key, lock, value))

    @rule(key=KEYS)
    def lock_shared(self, key: bytes) -> None:
        member = Lock(LockType.LOCK, b"p", 5)
        self.apply(self.twin.lock(key, Lock(LockType.SHARED, b"", 0).with_member(member)))

    @rule(key=KEYS)
    def unlock(self, key: bytes) -> None:
        self.apply(self.twin.unlock(key))

    @rule(key=KEYS, ts=READ_TS, rules=RULES)
    def read_a_key(self, key: bytes, ts: int, rules: ReadRules) -> None:
        encoded = memcomparable.encode(key)
        points = PointGetter(self.engine)
        expected = self.twin.read(key, ts, SNAPSHOT)
        assert answer(lambda: points.get(encoded, ts)) == expected

        def value() -> bytes | None:
            found = points.read(encoded, ts, rules)
            return None if found is None else found.value

        assert answer(value) == self.twin.read(key, ts, rules)
        reader = MvccReader(self.engine.snapshot())
        assert reader.get(encoded, ts, ts) == self.twin.version(key, ts)

    @rule(key=KEYS, ts=READ_TS, rules=RULES)
    def read_a_commit_ts(self, key: bytes, ts: int, rules: ReadRules) -> None:
        reader = MvccReader(self.engine.snapshot())
        expected = self.twin.read(key, ts, ReadRules(rules.isolation, rules.resolved_locks))
        try:
            found = read_version(reader, memcomparable.encode(key), ts, rules, need_commit_ts=True)
        except (KeyIsLocked, WriteConflictError):
            assert expected in ("locked", "conflict")
            return
        if found is None:
            assert expected is None
        else:
            assert found.value == expected
            assert self.twin.writes[key][found.commit_ts][1] == expected

    @rule(start=KEYS, end=KEYS, ts=READ_TS, rules=RULES, reverse=st.booleans(), limit=st.integers(0, 8), data=st.data())
    def read_a_range(
        self, start: bytes, end: bytes, ts: int, rules: ReadRules, reverse: bool, limit: int, data: st.DataObject
    ) -> None:
        expected = self.twin.scan(start, end, ts, rules, reverse=reverse)
        lower, upper = memcomparable.encode(start), memcomparable.encode(end) if end else b""
        key_only = data.draw(st.booleans())
        scanner = Scanner(self.engine.snapshot(), lower, upper, ts, rules, key_only=key_only, reverse=reverse)
        conflicts = bool(expected) and expected[-1][1] == "conflict" and len(expected) <= limit
        try:
            entries = scanner.scan(limit)
        except WriteConflictError:
            assert conflicts
            return
        assert not conflicts
        found = [(wire_key(e.key), "locked" if e.error else e.value) for e in entries]
        if key_only:
            expected = [(key, b"" if isinstance(value, bytes) else value) for key, value in expected]
        assert found == expected[:limit]

    @rule(ts=READ_TS, step=st.integers(1, 3), reverse=st.booleans())
    def read_a_sample(self, ts: int, step: int, reverse: bool) -> None:
        everything = self.twin.scan(b"", b"", ts, SNAPSHOT, reverse=reverse)
        expected = []
        readable = 0
        for pair in everything:
            if pair[1] != "locked":
                readable += 1
                if (readable - 1) % step:
                    continue
            expected.append(pair)
        entries = Scanner(self.engine.snapshot(), b"", b"", ts, reverse=reverse).scan(100, step)
        assert [(wire_key(e.key), "locked" if e.error else e.value) for e in entries] == expected


class OnMemory(MvccMachine):
    @initialize()
    def open(self) -> None:
        self.engine = MemoryEngine()


class OnRocks(MvccMachine):
    directory: ClassVar[str] = ""
    shared: ClassVar[Engine]

    @initialize()
    def open(self) -> None:
        # One database for all examples: opening one costs more than an example does.
        if not OnRocks.directory:
            OnRocks.directory = tempfile.mkdtemp(prefix="pytikv-mvcc-")
            atexit.register(shutil.rmtree, OnRocks.directory, ignore_errors=True)
            OnRocks.shared = RocksEngine(OnRocks.directory)
            atexit.register(OnRocks.shared.close)
        self.engine = OnRocks.shared
        batch = WriteBatch()
        for cf in ("default", "lock", "write"):
            for stored, _ in self.engine.scan(cf):
                batch.delete(cf, stored)  # one by one: a range tombstone an example makes every seek slower
        self.engine.write(batch)


OnMemory.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
OnRocks.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestMemory = OnMemory.TestCase
TestRocks = OnRocks.TestCase
