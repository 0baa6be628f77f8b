"""Lock and write records: TiKV's bytes, round trips, damage.

The vectors are written by hand from the layout of components/txn_types/src/{lock,write}.rs and the cases of its tests.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mvcc_strategies import locks, short_values, timestamps, wire_keys, writes

from pytikv.codec import memcomparable
from pytikv.errors import StorageError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.records import (
    Lock,
    LockType,
    Write,
    WriteType,
    data_key,
    decode_lock,
    decode_write,
    short_put_value,
    split_data_key,
)

BIG_TS = 421397468076048385  # 0x05d91ac3b9ec0001

WRITES = [
    (Write(WriteType.PUT, 0, b"short_value"), b"P\x00v\x0bshort_value"),
    (Write(WriteType.DELETE, 1 << 20), b"D\x80\x80\x40"),
    (Write.rollback(1 << 40, protected=True), b"R\x80\x80\x80\x80\x80\x20v\x01p"),
    (Write.rollback(1 << 41, protected=False), b"R\x80\x80\x80\x80\x80\x40"),
    (Write(WriteType.PUT, 123, has_overlapped_rollback=True), b"P\x7bR"),
    (
        Write(WriteType.PUT, 123, has_overlapped_rollback=True, gc_fence=1234567),
        b"P\x7bRF\x00\x00\x00\x00\x00\x12\xd6\x87",
    ),
    (
        Write(WriteType.PUT, 456, b"short_value", has_overlapped_rollback=True, gc_fence=0),
        b"P\xc8\x03v\x0bshort_valueRF" + bytes(8),
    ),
    (
        Write(WriteType.PUT, 456, b"v", has_overlapped_rollback=True, gc_fence=BIG_TS),
        b"P\xc8\x03v\x01vRF\x05\xd9\x1a\xc3\xb9\xec\x00\x01",
    ),
    (
        Write(WriteType.LOCK, 456, last_change_ts=345, versions_to_last_change=11),
        b"L\xc8\x03l\x00\x00\x00\x00\x00\x00\x01\x59\x0b",
    ),
    (Write(WriteType.LOCK, 456, versions_to_last_change=1), b"L\xc8\x03l" + bytes(8) + b"\x01"),
    (Write(WriteType.LOCK, 456, txn_source=1), b"L\xc8\x03S\x01"),
    (Write(WriteType.PUT, 2**64 - 1, b""), b"P\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01v\x00"),
]

LOCKS = [
    (Lock(LockType.PUT, b"pk", 1, 10), b"P\x04pk\x01\x0a"),
    (Lock(LockType.DELETE, b"pk", 1, 10, b"short_value"), b"D\x04pk\x01\x0av\x0bshort_value"),
    (Lock(LockType.PUT, b"pk", 1, 10, for_update_ts=10), b"P\x04pk\x01\x0af" + bytes(7) + b"\x0a"),
    (
        Lock(LockType.PESSIMISTIC, b"pk", 1, 10, for_update_ts=6, txn_size=16, min_commit_ts=7),
        b"S\x04pk\x01\x0af" + bytes(7) + b"\x06t" + bytes(7) + b"\x10c" + bytes(7) + b"\x07",
    ),
    (Lock(LockType.PUT, b"pk", 111, 222, use_async_commit=True), b"P\x04pk\x6f\xde\x01a\x00"),
    (
        Lock(LockType.PUT, b"pk", 1, 0, use_async_commit=True, secondaries=(b"k", b"", b"k" * 70)),
        b"P\x04pk\x01\x00a\x03\x02k\x00\x8c\x01" + b"k" * 70,
    ),
    (
        Lock(LockType.LOCK, b"", 1, 10, rollback_ts=(12, 24)),
        b"L\x00\x01\x0ar\x02" + bytes(7) + b"\x0c" + bytes(7) + b"\x18",
    ),
    (
        Lock(LockType.LOCK, b"pk", 1, 10, last_change_ts=4, versions_to_last_change=2, txn_source=200),
        b"L\x04pk\x01\x0al" + bytes(7) + b"\x04\x02s\xc8\x01",
    ),
    (
        Lock(LockType.PESSIMISTIC, b"pk", 1, 10, is_locked_with_conflict=True, generation=3),
        b"S\x04pk\x01\x0aFg" + bytes(7) + b"\x03",
    ),
    (
        Lock(
            LockType.SHARED, b"", 0, members=(Lock(LockType.LOCK, b"a", 5, 9), Lock(LockType.PESSIMISTIC, b"b", 6, 9))
        ),
        b"Hh\x02\x0aL\x02a\x05\x09\x0aS\x02b\x06\x09",
    ),
    (Lock(LockType.SHARED, b"", 0, shrink_only=True), b"Hi\x01h\x00"),
]


@pytest.mark.parametrize(("write", "data"), WRITES, ids=range(len(WRITES)))
def test_write_records_are_tikvs_bytes(write: Write, data: bytes) -> None:
    assert write.encode() == data
    assert decode_write(data) == write
    assert decode_write(data + b"unknown") == write


@pytest.mark.parametrize(("lock", "data"), LOCKS, ids=range(len(LOCKS)))
def test_lock_records_are_tikvs_bytes(lock: Lock, data: bytes) -> None:
    assert lock.encode() == data
    assert decode_lock(data) == lock
    assert decode_lock(data + b"unknown") == lock


@given(writes())
def test_write_records_come_back(write: Write) -> None:
    assert decode_write(write.encode()) == write


@given(st.integers(1 << 56, (1 << 63) - 1), short_values)
@example((1 << 63) - 1, b"")
@example(0x7F01_8040_2010_0804, b"v")
def test_the_common_record_of_nine_bytes_of_start_ts(start_ts: int, value: bytes) -> None:
    write = Write(WriteType.PUT, start_ts, value)
    assert decode_write(write.encode()) == write
    assert short_put_value(write.encode()) == value


@given(locks())
def test_lock_records_come_back(lock: Lock) -> None:
    assert decode_lock(lock.encode()) == lock


@given(writes(), st.data())
def test_a_torn_write_record_is_damage_or_a_shorter_record(write: Write, data: st.DataObject) -> None:
    encoded = write.encode()
    torn = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    try:
        assert decode_write(torn).write_type is write.write_type
    except StorageError as error:
        assert "damaged write record" in str(error)  # noqa: PT017


@given(st.binary(max_size=60))
@example(b"P\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")
@example(b"P\x01v\x05abc")
@example(b"H\x00")
@example(b"Hh\x01\x04H\x00")
def test_any_bytes_are_a_record_or_damage(data: bytes) -> None:
    for decode in (decode_write, decode_lock):
        try:
            decoded = decode(data)
        except StorageError:
            continue
        assert decode(decoded.encode()) == decoded


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends too early"),
        (b"X\x01", "type is unknown"),
        (b"P", "ends too early"),
        (b"P\x01v\x05abc", "ends too early"),
        (b"P\x01F\x00", "ends too early"),
        (b"P\x01l" + bytes(7) + b"\x05\x00", "no version away"),
        (b"P" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    ],
)
def test_damaged_write_records_say_how(data: bytes, reason: str) -> None:
    with pytest.raises(StorageError, match=f"damaged write record: .*{reason}"):
        decode_write(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends too early"),
        (b"R\x00\x01", "type is unknown"),
        (b"P\x01\x01", "length in it is negative"),
        (b"P\x04p", "ends too early"),
        (b"Hi\x02", "flags are unknown"),
        (b"Hh\x01\x06H\x00\x01", "member's type"),
    ],
)
def test_damaged_lock_records_say_how(data: bytes, reason: str) -> None:
    with pytest.raises(StorageError, match=f"damaged lock record: .*{reason}"):
        decode_lock(data)


def test_a_lock_without_ttl_is_read_as_old_ones_were_written() -> None:
    assert decode_lock(b"P\x04pk\x01") == Lock(LockType.PUT, b"pk", 1)


def test_a_short_value_has_at_most_255_bytes() -> None:
    assert Write(WriteType.PUT, 1, b"x" * 255).encode()[2:4] == b"v\xff"
    with pytest.raises(ValueError, match="at most 255"):
        Write(WriteType.PUT, 1, b"x" * 256).encode()


def test_protected_rollbacks() -> None:
    assert Write.rollback(1, protected=True).is_protected
    assert not Write.rollback(2, protected=False).is_protected
    assert not Write(WriteType.PUT, 3, b"p").is_protected


@pytest.mark.parametrize(
    ("gc_fence", "read_ts", "fenced"),
    [
        (None, 10, False),
        (None, TS_MAX, False),
        (0, 100, False),
        (0, TS_MAX, False),
        (100, 50, False),
        (100, 100, True),
        (100, 150, True),
        (100, TS_MAX, True),
    ],
)
def test_gc_fence(gc_fence: int | None, read_ts: int, fenced: bool) -> None:
    write = Write(WriteType.PUT, 5, has_overlapped_rollback=True, gc_fence=gc_fence)
    assert write.is_fenced_at(read_ts) is fenced


def test_lock_info_tells_all_that_clients_decide_by() -> None:
    lock = Lock(LockType.DELETE, b"pk", 7, 3000, None, 9, 4, 11, use_async_commit=True, secondaries=(b"a", b"b"))
    assert lock.info(b"k") == kvrpcpb.LockInfo(
        primary_lock=b"pk",
        lock_version=7,
        key=b"k",
        lock_ttl=3000,
        txn_size=4,
        lock_type=kvrpcpb.Op.Del,
        lock_for_update_ts=9,
        use_async_commit=True,
        min_commit_ts=11,
        secondaries=[b"a", b"b"],
    )
    kinds = [Lock(kind, b"", 1).info(b"k").lock_type for kind in LockType]
    op = kvrpcpb.Op
    assert kinds == [op.Put, op.Del, op.Lock, op.PessimisticLock, op.SharedLock]


def test_shared_locks_join_and_leave() -> None:
    container = Lock(LockType.SHARED, b"", 0)
    for start_ts in (9, 5, 9):
        container = container.with_member(Lock(LockType.PESSIMISTIC, b"p%d" % start_ts, start_ts, for_update_ts=9))
    assert [lock.start_ts for lock in container.members] == [5, 9]
    info = container.info(b"k")
    assert info.lock_type == kvrpcpb.Op.SharedLock
    assert [one.lock_version for one in info.shared_lock_infos] == [5, 9]
    assert all(one.key == b"k" for one in info.shared_lock_infos)
    assert container.member(5) == Lock(LockType.PESSIMISTIC, b"p5", 5, for_update_ts=9)
    assert container.without_member(5).member(5) is None
    with pytest.raises(ValueError, match="LOCK or PESSIMISTIC"):
        container.with_member(Lock(LockType.PUT, b"p", 1))


def test_what_a_lock_becomes() -> None:
    became = {kind: Lock(kind, b"", 1).write_type for kind in LockType}
    assert became == {
        LockType.PUT: WriteType.PUT,
        LockType.DELETE: WriteType.DELETE,
        LockType.LOCK: WriteType.LOCK,
        LockType.PESSIMISTIC: None,
        LockType.SHARED: None,
    }


@given(wire_keys, timestamps, wire_keys, timestamps)
def test_versions_sort_by_key_then_newest_first(one: bytes, one_ts: int, other: bytes, other_ts: int) -> None:
    first = data_key(memcomparable.encode(one), one_ts)
    second = data_key(memcomparable.encode(other), other_ts)
    assert (first < second) == ((one, -one_ts) < (other, -other_ts))
    assert split_data_key(first) == (memcomparable.encode(one), one_ts)
    assert wire_key(split_data_key(first)[0]) == one


def test_keys_that_are_none() -> None:
    with pytest.raises(StorageError, match="too short"):
        split_data_key(b"short")
    with pytest.raises(StorageError, match="inside a group"):
        wire_key(b"abc")
    with pytest.raises(StorageError, match="1 bytes behind"):
        wire_key(memcomparable.encode(b"abc") + b"x")
