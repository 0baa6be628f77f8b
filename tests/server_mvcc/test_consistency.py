"""The check of the three families: sound data passes, and each kind of damage is found where it was planted."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytikv.codec import memcomparable
from pytikv.errors import StorageError
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Engine
from pytikv.server.mvcc import consistency
from pytikv.server.mvcc.consistency import Grade, RawData, check_consistency
from pytikv.server.mvcc.keys import data_key
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType

K = memcomparable.encode(b"k")
PUT, DELETE, LOCK, ROLLBACK = WriteType.PUT, WriteType.DELETE, WriteType.LOCK, WriteType.ROLLBACK


def plant_write(engine: Engine, commit_ts: int, write: Write, key: bytes = K) -> None:
    engine.put(CF_WRITE, data_key(key, commit_ts), write.encode())


def plant_lock(engine: Engine, lock: Lock, key: bytes = K) -> None:
    engine.put(CF_LOCK, key, lock.encode())


def plant_value(engine: Engine, start_ts: int, key: bytes = K) -> None:
    engine.put(CF_DEFAULT, data_key(key, start_ts), b"long")


def sound(engine: Engine) -> None:
    """Fill the engine with one of everything that is right."""
    for name in (b"", b"a", b"k", b"\xff" * 20):
        key = memcomparable.encode(name)
        plant_write(engine, 20, Write(PUT, 10, b"short"), key)
        plant_write(engine, 30, Write(PUT, 25, has_overlapped_rollback=True, gc_fence=70), key)
        plant_value(engine, 25, key)
        plant_write(engine, 40, Write(LOCK, 35, last_change_ts=30, versions_to_last_change=1), key)
        plant_write(engine, 45, Write.rollback(45, protected=True), key)
        plant_write(engine, 46, Write.rollback(46, protected=False), key)
        plant_write(engine, 70, Write(DELETE, 65), key)
        plant_write(engine, 80, Write(LOCK, 75, None, True, 90, versions_to_last_change=1), key)
    plant_lock(engine, Lock(LockType.PUT, b"p", 100), memcomparable.encode(b"a"))
    plant_value(engine, 100, memcomparable.encode(b"a"))
    plant_lock(engine, Lock(LockType.PESSIMISTIC, b"p", 65, for_update_ts=80), memcomparable.encode(b"\xff" * 20))
    plant_lock(engine, Lock(LockType.LOCK, b"p", 60, for_update_ts=70), memcomparable.encode(b""))
    shared = Lock(LockType.SHARED, b"", 0).with_member(Lock(LockType.LOCK, b"p", 61))
    plant_lock(engine, shared, memcomparable.encode(b"s"))
    # A LOCK record whose last change has been collected, with all that was older.
    collected = memcomparable.encode(b"c")
    plant_write(engine, 50, Write(LOCK, 45, last_change_ts=30, versions_to_last_change=9), collected)


def test_sound_data_passes(engine: Engine) -> None:
    sound(engine)
    report = check_consistency(engine.snapshot())
    assert str(report) == "6 keys with 4 locks, 29 records, 5 long values: 0 damaged, 0 leftovers"
    assert report.is_sound
    report.raise_for_damage()


Plant = Callable[[Engine], object]
DAMAGES: dict[str, tuple[Plant, str]] = {
    "lock record": (lambda e: e.put(CF_LOCK, K, b"?"), "damaged lock record"),
    "write record": (
        lambda e: e.put(CF_WRITE, data_key(K, 90), b"") and None,
        "damaged write record.* at commit_ts 90",
    ),
    "lock key": (lambda e: e.put(CF_LOCK, b"bad", b""), "damaged key.*in the lock family"),
    "write key": (lambda e: e.put(CF_WRITE, b"bad key, too short", b""), "damaged key.*in the write family"),
    "default key": (lambda e: e.put(CF_DEFAULT, b"bad", b""), "damaged key.*in the default family"),
    "value of a record": (
        lambda e: e.delete(CF_DEFAULT, data_key(K, 25)) and None,
        "the PUT record at 30 misses its value of start_ts 25",
    ),
    "value of a lock": (
        lambda e: plant_lock(e, Lock(LockType.PUT, b"k", 100)),
        "the PUT lock of transaction 100 misses its value",
    ),
    "two records": (
        lambda e: plant_write(e, 90, Write(DELETE, 10)),
        "transaction 10 has the DELETE record at 90 and the PUT record at 20",
    ),
    "committed and rolled back": (
        lambda e: plant_write(e, 10, Write.rollback(10, protected=True)),
        "transaction 10 has the PUT record at 20 and the ROLLBACK record at 10",
    ),
    "committed and rollback noted": (
        lambda e: plant_write(e, 90, Write(DELETE, 30)),
        "transaction 30 has the DELETE record at 90 and a rollback noted in the PUT record at 30",
    ),
    "committed and locked": (
        lambda e: plant_lock(e, Lock(LockType.LOCK, b"k", 65, for_update_ts=99)),
        "transaction 65 has the LOCK lock of transaction 65 and the DELETE record at 70",
    ),
    "commit below start": (lambda e: plant_write(e, 90, Write(PUT, 90, b"")), "at 90 is not above its start_ts 90"),
    "rollback elsewhere": (lambda e: plant_write(e, 90, Write(ROLLBACK, 89)), "the ROLLBACK record at 90 is of .* 89"),
    "rollback with a value": (lambda e: plant_write(e, 90, Write(ROLLBACK, 90, b"v")), "ROLLBACK .* has a value"),
    "rollback with marks": (
        lambda e: plant_write(e, 90, Write(ROLLBACK, 90, has_overlapped_rollback=True)),
        "ROLLBACK .* marks of a commit",
    ),
    "delete with a value": (
        lambda e: plant_write(e, 90, Write(DELETE, 89, b"v")),
        "the DELETE record at 90 has a value",
    ),
    "lock with a value": (
        lambda e: plant_lock(e, Lock(LockType.DELETE, b"k", 100, short_value=b"v")),
        "the DELETE lock of transaction 100 has a value",
    ),
    "lock without a start": (lambda e: plant_lock(e, Lock(LockType.LOCK, b"k", 0, for_update_ts=1)), "no start_ts"),
    "empty container": (lambda e: plant_lock(e, Lock(LockType.SHARED, b"", 0)), "container of shared locks is empty"),
    "conflict missed by an optimistic lock": (
        lambda e: plant_lock(e, Lock(LockType.DELETE, b"k", 76)),
        "the commit at 80 is above start_ts 76 of the optimistic lock",
    ),
    "conflict missed by a pessimistic lock": (
        lambda e: plant_lock(e, Lock(LockType.PESSIMISTIC, b"k", 60, for_update_ts=79)),
        "the commit at 80 is above for_update_ts 79",
    ),
    "fence below its record": (
        lambda e: plant_write(e, 90, Write(PUT, 89, b"", has_overlapped_rollback=True, gc_fence=90)),
        "gc_fence 90, which makes no sense",
    ),
    "fence without a rollback": (lambda e: plant_write(e, 90, Write(PUT, 89, b"", gc_fence=0)), "gc_fence 0, which"),
    "stale last change": (
        lambda e: plant_write(e, 90, Write(LOCK, 89, last_change_ts=30, versions_to_last_change=2)),
        "the last change before 90 is at 70, not at 30",
    ),
    "last change that is none": (
        lambda e: plant_write(e, 90, Write(LOCK, 89, last_change_ts=80, versions_to_last_change=1)),
        "the last change before 90 is at 70, not at 80",
    ),
    "denied value": (
        lambda e: plant_write(e, 35, Write(LOCK, 34, versions_to_last_change=1)),
        "the record at 35 knows of no value, but there is one of 30",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(engine: Engine, name: str) -> None:
    plant, text = DAMAGES[name]
    sound(engine)
    plant(engine)
    report = check_consistency(engine.snapshot())
    assert not report.is_sound
    found = [problem for problem in report.problems if problem.grade is Grade.DAMAGE]
    assert len(found) == report.damage == 1, str(report)
    assert re.search(text, found[0].text), found[0]
    assert found[0].key == b"k" or "key" in name
    with pytest.raises(StorageError, match="contradicts itself"):
        report.raise_for_damage()


@pytest.mark.parametrize(
    ("start_ts", "text"),
    [
        (1, "a long value of transaction 1, which nothing refers to"),
        (10, "which the PUT record at 20 has no use for"),
        (65, "which the DELETE record at 70 has no use for"),
    ],
)
def test_leftovers_are_no_damage(engine: Engine, start_ts: int, text: str) -> None:
    sound(engine)
    plant_value(engine, start_ts)
    report = check_consistency(engine.snapshot())
    assert report.is_sound
    assert [(one.grade, one.key) for one in report.problems] == [(Grade.LEFTOVER, b"k")]
    assert str(report).endswith(f"0 damaged, 1 leftovers\nleftover: key b'k': {report.problems[0].text}")
    assert text in report.problems[0].text


def test_raw_data_is_passed_over(engine: Engine) -> None:
    sound(engine)
    engine.put(CF_DEFAULT, b"raw key of any form", b"")
    engine.put(CF_DEFAULT, data_key(memcomparable.encode(b"r\x00\x00\x00k"), 7), b"")
    assert check_consistency(engine).damage == 1
    anywhere = check_consistency(engine, raw=RawData.ANYWHERE)
    assert (anywhere.raw, anywhere.damage, anywhere.leftovers) == (1, 0, 1)
    prefixed = check_consistency(engine, raw=RawData.PREFIXED)
    assert (prefixed.raw, prefixed.damage, prefixed.leftovers) == (2, 0, 0)


def test_a_range_is_checked_alone(engine: Engine) -> None:
    sound(engine)
    plant_write(engine, 90, Write(DELETE, 10))
    plant_value(engine, 1, memcomparable.encode(b"a"))
    assert check_consistency(engine, K, memcomparable.encode(b"l")).damage == 1
    report = check_consistency(engine, b"", K)
    assert (report.keys, report.damage, report.leftovers) == (3, 0, 1)


def test_problems_are_kept_up_to_a_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "PROBLEMS_MAX", 3)
    for ts in range(1, 11):
        plant_value(engine, ts)
    report = check_consistency(engine)
    assert (report.leftovers, len(report.problems)) == (10, 3)
    assert str(report).endswith("... and 7 more")
