"""Garbage collection: what goes, what stays, and that no read at or above the safe point can tell."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mvcc_twin import Twin

from pytikv.codec import memcomparable
from pytikv.server.engine.interface import CF_DEFAULT, CF_WRITE, Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.mvcc.gc import collectable, gc_step
from pytikv.server.mvcc.keys import data_key, split_data_key
from pytikv.server.mvcc.read_rules import SNAPSHOT
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Write, WriteType

PUT, DELETE, LOCK, ROLLBACK = WriteType.PUT, WriteType.DELETE, WriteType.LOCK, WriteType.ROLLBACK


def collect(engine: Engine, safe_point: int, limit: int) -> int:
    start: bytes | None = b""
    deleted = 0
    for steps in itertools.count():
        if start is None:
            return deleted
        assert steps < 200, "it gets nowhere"
        step = gc_step(engine.snapshot(), start, limit, safe_point)
        assert step.found_versions <= limit
        assert len(step.batch) <= 2 * limit
        engine.write(step.batch)
        start = step.next_start
        deleted += step.deleted_versions
    raise AssertionError


@pytest.mark.parametrize(
    ("versions", "safe_point", "gone"),
    [
        ([(60, ROLLBACK), (50, LOCK), (40, PUT), (30, DELETE), (20, PUT), (10, PUT)], 12, []),
        ([(60, ROLLBACK), (50, LOCK), (40, PUT), (30, DELETE), (20, PUT), (10, PUT)], 22, [10]),
        ([(60, ROLLBACK), (50, LOCK), (40, PUT), (30, DELETE), (20, PUT), (10, PUT)], 32, [20, 10, 30]),
        ([(60, ROLLBACK), (50, LOCK), (40, PUT), (30, DELETE), (20, PUT), (10, PUT)], 60, [60, 50, 30, 20, 10]),
        ([(30, DELETE)], 30, [30]),
        ([(30, DELETE)], 29, []),
        ([(30, LOCK)], 30, [30]),
        ([(30, PUT)], 99, []),
    ],
)
def test_what_goes(versions: list[tuple[int, WriteType]], safe_point: int, gone: list[int]) -> None:
    records = [(ts, Write(kind, ts - 1)) for ts, kind in versions]
    assert [ts for ts, _ in collectable(records, safe_point)] == gone


@pytest.mark.parametrize("limit", [2, 3, 100])
def test_a_key_larger_than_a_step(engine: Engine, limit: int) -> None:
    twin = Twin()
    for ts in range(2, 60, 2):
        kind = DELETE if ts in (40, 58) else PUT
        engine.write(twin.write(b"k", ts, Write(kind, ts - 1), b"long" * 100))
    engine.write(twin.write(b"l", 10, Write(PUT, 9), b"short"))
    assert collect(engine, 41, limit) == 20
    left = [split_data_key(stored)[1] for stored, _ in engine.scan(CF_WRITE)]
    assert left == [58, 56, 54, 52, 50, 48, 46, 44, 42, 10]
    assert [split_data_key(stored)[1] for stored, _ in engine.scan(CF_DEFAULT)] == [55, 53, 51, 49, 47, 45, 43, 41]
    collect(engine, 100, limit)
    assert [split_data_key(stored)[1] for stored, _ in engine.scan(CF_WRITE)] == [10]
    assert list(engine.scan(CF_DEFAULT)) == []


def test_a_delete_outlives_what_it_hides() -> None:
    engine = MemoryEngine()
    twin = Twin()
    for ts in (2, 4, 6):
        engine.write(twin.write(b"k", ts, Write(PUT, ts - 1), b"v"))
    engine.write(twin.write(b"k", 8, Write(DELETE, 7)))
    start: bytes | None = b""
    while start is not None:
        step = gc_step(engine.snapshot(), start, 2, 9)
        engine.write(step.batch)
        start = step.next_start
        assert MvccReader(engine).get(memcomparable.encode(b"k"), 9) is None
    assert list(engine.scan(CF_WRITE)) == []


def test_a_damaged_record_saves_its_key_and_no_other(engine: Engine) -> None:
    twin = Twin()
    for ts in range(2, 20, 2):
        engine.write(twin.write(b"k", ts, Write(PUT, ts - 1), b"v"))
        engine.write(twin.write(b"l", ts, Write(PUT, ts - 1), b"v"))
    engine.put(CF_WRITE, data_key(memcomparable.encode(b"k"), 18), b"?")
    engine.put(CF_WRITE, b"short", b"P\x01")
    assert collect(engine, 99, 3) == 8
    step = gc_step(engine.snapshot(), b"", 100, 99)
    assert (step.found_versions, step.deleted_versions, step.damaged_keys) == (11, 0, 2)


def test_a_range_and_a_limit(engine: Engine) -> None:
    twin = Twin()
    for key in (b"a", b"b", b"c"):
        for ts in (2, 4):
            engine.write(twin.write(key, ts, Write(PUT, ts - 1), b"v"))
    step = gc_step(engine.snapshot(), memcomparable.encode(b"b"), 100, 9, memcomparable.encode(b"c"))
    assert [split_data_key(key)[0][:1] for _, _, key, _ in step.batch.modifies] == [b"b"]
    with pytest.raises(ValueError, match="at least"):
        gc_step(engine.snapshot(), b"", 1, 9)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b"]), st.integers(1, 40), st.sampled_from(WriteType), st.sampled_from([1, 300])
        ),
        max_size=40,
    ),
    st.integers(0, 45),
    st.integers(2, 12),
)
def test_no_read_at_or_above_the_safe_point_can_tell(
    records: list[tuple[bytes, int, WriteType, int]], safe_point: int, limit: int
) -> None:
    engine = MemoryEngine()
    twin = Twin()
    for key, ts, kind, size in records:
        engine.write(twin.write(key, ts, Write(kind, ts if kind is ROLLBACK else ts - 1), b"%d" % ts * size))
    collect(engine, safe_point, limit)
    for key in (b"a", b"b"):
        for ts in range(safe_point, 46):
            reader = MvccReader(engine.snapshot())
            assert reader.get(memcomparable.encode(key), ts, ts) == twin.read(key, ts, SNAPSHOT)
    # And nothing is left that could have gone: at most one record a key at or below the safe point, a PUT.
    below = [split_data_key(stored) for stored, _ in engine.scan(CF_WRITE)]
    for key in (b"a", b"b"):
        old = [ts for at, ts in below if at == memcomparable.encode(key) and ts <= safe_point]
        assert len(old) <= 1
        assert all(twin.writes[key][ts][0].write_type is PUT for ts in old)
