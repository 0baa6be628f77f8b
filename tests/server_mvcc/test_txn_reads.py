"""The reading commands: answers as a real store gives them, memory locks, max_ts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Engine
from pytikv.server.mvcc.errors import KeyIsLocked
from pytikv.server.mvcc.keys import TS_MAX, data_key
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType
from pytikv.server.storage.concurrency import ConcurrencyManager, InvalidMaxTsUpdate
from pytikv.server.storage.txn_reads import TxnReads
from pytikv.types import KeyRange

NOW = 1000
FAR = NOW + (120_000 << 18)


class Store:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.concurrency = ConcurrencyManager(lambda: NOW)
        self.reads = TxnReads(engine, self.concurrency)

    def commit(self, key: bytes, start_ts: int, commit_ts: int, value: bytes | None) -> None:
        encoded = memcomparable.encode(key)
        write = Write(WriteType.DELETE, start_ts) if value is None else Write(WriteType.PUT, start_ts)
        if value is not None and len(value) > 255:
            self.engine.put(CF_DEFAULT, data_key(encoded, start_ts), value)
        else:
            write.short_value = value
        self.engine.put(CF_WRITE, data_key(encoded, commit_ts), write.encode())

    def lock(self, key: bytes, lock: Lock) -> None:
        self.engine.put(CF_LOCK, memcomparable.encode(key), lock.encode())

    def publish(self, key: bytes, lock: Lock) -> None:
        self.concurrency.publish(memcomparable.encode(key), lock)


@pytest.fixture
def store(engine: Engine) -> Iterator[Store]:
    made = Store(engine)
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"c", b"x" * 300), (b"d", None), (b"e", b"")):
        made.commit(key, 100, 110, value)
    return made


def put_lock(start_ts: int = 120, **fields: object) -> Lock:
    return Lock(LockType.PUT, b"p", start_ts, 3000, b"new", **fields)  # type: ignore[arg-type]


def locked(key: bytes, lock: Lock) -> kvrpcpb.KeyError:
    return KeyIsLocked(lock.info(key)).key_error()


def pair(key: bytes, value: bytes = b"") -> kvrpcpb.KvPair:
    return kvrpcpb.KvPair(key=key, value=value)


def scan(store: Store, within: KeyRange = KeyRange(b"", b""), **fields: object) -> kvrpcpb.ScanResponse:  # noqa: B008
    asked = {"version": 130, "limit": 10, **fields}
    return store.reads.kv_scan(kvrpcpb.ScanRequest(**asked), within)  # type: ignore[arg-type]


def test_get(store: Store) -> None:
    reads = store.reads
    assert reads.kv_get(kvrpcpb.GetRequest(key=b"a", version=130)) == kvrpcpb.GetResponse(value=b"1")
    assert reads.kv_get(kvrpcpb.GetRequest(key=b"e", version=130)) == kvrpcpb.GetResponse(value=b"")
    for key, version in ((b"a", 109), (b"d", 130), (b"", 130), (b"a", 0)):
        assert reads.kv_get(kvrpcpb.GetRequest(key=key, version=version)).not_found
    found = reads.kv_get(kvrpcpb.GetRequest(key=b"c", version=TS_MAX, need_commit_ts=True))
    assert found == kvrpcpb.GetResponse(value=b"x" * 300, commit_ts=110)


def test_get_meets_a_lock(store: Store) -> None:
    store.lock(b"a", put_lock())
    request = kvrpcpb.GetRequest(key=b"a", version=130)
    assert store.reads.kv_get(request) == kvrpcpb.GetResponse(error=locked(b"a", put_lock()))
    with pytest.raises(KeyIsLocked):
        store.reads.get(b"a", 130)
    request.context.committed_locks.append(120)
    assert store.reads.kv_get(request).value == b"new"
    request.need_commit_ts = True
    assert store.reads.kv_get(request).error == locked(b"a", put_lock())
    request.context.resolved_locks.append(120)
    assert store.reads.kv_get(request) == kvrpcpb.GetResponse(value=b"1", commit_ts=110)


def test_get_meets_a_lock_in_memory(store: Store) -> None:
    store.publish(b"a", put_lock(use_async_commit=True))
    below = kvrpcpb.GetRequest(key=b"a", version=NOW)
    assert store.reads.kv_get(below).value == b"1"  # it got a min_commit_ts above max_ts
    error = store.reads.kv_get(kvrpcpb.GetRequest(key=b"a", version=NOW + 1)).error
    assert (error.locked.key, error.locked.min_commit_ts) == (b"a", NOW + 1)
    with pytest.raises(KeyIsLocked):
        store.reads.get(b"a", NOW + 1)


def test_every_read_raises_max_ts_first(store: Store) -> None:
    reads, concurrency = store.reads, store.concurrency
    calls = [
        lambda ts: reads.kv_get(kvrpcpb.GetRequest(key=b"a", version=ts)),
        lambda ts: reads.kv_batch_get(kvrpcpb.BatchGetRequest(keys=[b"a"], version=ts)),
        lambda ts: reads.kv_scan(kvrpcpb.ScanRequest(version=ts, limit=1)),
        lambda ts: reads.kv_scan_lock(kvrpcpb.ScanLockRequest(max_version=ts)),
        lambda ts: reads.kv_buffer_batch_get(kvrpcpb.BufferBatchGetRequest(keys=[b"a"], version=ts)),
    ]
    for n, call in enumerate(calls, 1):
        call(NOW + n)
        assert concurrency.max_ts == NOW + n
        call(TS_MAX)
        assert concurrency.max_ts == NOW + n
        with pytest.raises(InvalidMaxTsUpdate):
            call(FAR)


@pytest.mark.parametrize("version", [130, TS_MAX])
def test_batch_get(store: Store, version: int) -> None:
    store.lock(b"b", put_lock())
    keys = [b"c", b"x", b"b", b"a", b"d", b"a"]
    response = store.reads.kv_batch_get(kvrpcpb.BatchGetRequest(keys=keys, version=version))
    failed = kvrpcpb.KvPair(error=locked(b"b", put_lock()))
    expected = [pair(b"c", b"x" * 300), failed, pair(b"a", b"1"), pair(b"a", b"1")]
    assert response == kvrpcpb.BatchGetResponse(pairs=expected)
    timed = store.reads.kv_batch_get(kvrpcpb.BatchGetRequest(keys=[b"a"], version=version, need_commit_ts=True))
    assert list(timed.pairs) == [kvrpcpb.KvPair(key=b"a", value=b"1", commit_ts=110)]


def test_a_lock_in_memory_fails_the_whole_batch_or_scan(store: Store) -> None:
    store.publish(b"b", put_lock())
    at = NOW + 1
    response = store.reads.kv_batch_get(kvrpcpb.BatchGetRequest(keys=[b"a", b"b"], version=at))
    assert response.error.locked.key == b"b"
    assert list(response.pairs) == [kvrpcpb.KvPair(error=response.error)]
    scanned = scan(store, version=at, limit=1)
    assert scanned.error.locked.key == b"b"
    assert list(scanned.pairs) == [kvrpcpb.KvPair(error=scanned.error)]
    assert list(scan(store, version=at, end_key=b"b").pairs) == [pair(b"a", b"1")]
    buffered = store.reads.kv_buffer_batch_get(kvrpcpb.BufferBatchGetRequest(keys=[b"b"], version=at))
    assert buffered.error.locked.key == b"b"


def test_scan(store: Store) -> None:
    everything = [pair(b"a", b"1"), pair(b"b", b"2"), pair(b"c", b"x" * 300), pair(b"e")]
    assert list(scan(store).pairs) == everything
    assert list(scan(store, limit=2).pairs) == everything[:2]
    assert list(scan(store, limit=0).pairs) == []
    assert list(scan(store, start_key=b"b", end_key=b"c\x00").pairs) == everything[1:3]
    assert list(scan(store, start_key=b"c", end_key=b"b").pairs) == []
    assert list(scan(store, key_only=True).pairs) == [pair(one.key) for one in everything]
    assert list(scan(store, sample_step=2).pairs) == everything[::2]
    assert list(scan(store, version=109).pairs) == []


def test_scan_downwards(store: Store) -> None:
    down = {"reverse": True, "start_key": b"z"}
    assert [one.key for one in scan(store, **down).pairs] == [b"e", b"c", b"b", b"a"]
    assert [one.key for one in scan(store, **down, end_key=b"b", limit=2).pairs] == [b"e", b"c"]
    assert [one.key for one in scan(store, reverse=True, start_key=b"c", end_key=b"a").pairs] == [b"b", b"a"]
    assert list(scan(store, reverse=True).pairs) == []  # the empty key as the upper bound


def test_scan_within_a_region(store: Store) -> None:
    within = KeyRange(memcomparable.encode(b"b"), memcomparable.encode(b"d"))
    assert [one.key for one in scan(store, within).pairs] == [b"b", b"c"]
    assert [one.key for one in scan(store, within, start_key=b"c", end_key=b"z").pairs] == [b"c"]
    assert [one.key for one in scan(store, within, start_key=b"z", reverse=True).pairs] == [b"c", b"b"]


def test_scan_meets_locks(store: Store) -> None:
    store.lock(b"b", put_lock())
    store.lock(b"bb", Lock(LockType.DELETE, b"p", 121))
    failed = [
        kvrpcpb.KvPair(error=locked(b"b", put_lock())),
        kvrpcpb.KvPair(error=locked(b"bb", Lock(LockType.DELETE, b"p", 121))),
    ]
    assert list(scan(store, limit=3).pairs) == [pair(b"a", b"1"), *failed]
    assert list(scan(store, limit=2, start_key=b"c", reverse=True).pairs) == failed[::-1]
    context = kvrpcpb.Context(committed_locks=[120, 121])
    assert [one.value for one in scan(store, context=context, limit=2).pairs] == [b"1", b"new"]
    conflict = scan(store, context=kvrpcpb.Context(isolation_level=kvrpcpb.IsolationLevel.RCCheckTS))
    assert conflict.error.conflict.conflict_ts == 120
    assert list(conflict.pairs) == [kvrpcpb.KvPair(error=conflict.error)]


def test_scan_lock(store: Store) -> None:
    shared = Lock(LockType.SHARED, b"", 0)
    for start_ts in (115, 120, 125):
        shared = shared.with_member(Lock(LockType.LOCK, b"p", start_ts))
    locks = {b"a": put_lock(), b"b": Lock(LockType.PESSIMISTIC, b"p", 122, for_update_ts=123), b"c": shared}
    for key, lock in locks.items():
        store.lock(key, lock)

    def found(within: KeyRange = KeyRange(b"", b""), **fields: object) -> list[kvrpcpb.LockInfo]:  # noqa: B008
        asked = {"max_version": 130, **fields}
        response = store.reads.kv_scan_lock(kvrpcpb.ScanLockRequest(**asked), within)  # type: ignore[arg-type]
        assert not response.HasField("error")
        return list(response.locks)

    everything = [lock.info(key) for key, lock in locks.items()]
    assert found() == everything
    assert found(limit=2) == everything[:2]
    assert found(limit=3)[2] == shared.without_member(120).without_member(125).info(b"c")
    assert found(max_version=120) == [everything[0], shared.without_member(125).info(b"c")]
    assert found(start_key=b"b", end_key=b"c") == [everything[1]]
    assert found(KeyRange(memcomparable.encode(b"b"), memcomparable.encode(b"c"))) == [everything[1]]
    store.publish(b"e", Lock(LockType.LOCK, b"p", 129))
    response = store.reads.kv_scan_lock(kvrpcpb.ScanLockRequest(max_version=129))
    assert response.error.locked.key == b"e"
    assert not response.locks
    assert len(found(max_version=128)) == 3


def test_buffer_batch_get_answers_what_the_transaction_flushed(store: Store) -> None:
    store.lock(b"b", put_lock(generation=1))
    store.lock(b"a", Lock(LockType.DELETE, b"p", 120, generation=1))
    store.lock(b"c", Lock(LockType.PUT, b"p", 120, generation=1))
    store.engine.put(CF_DEFAULT, data_key(memcomparable.encode(b"c"), 120), b"y" * 300)
    store.lock(b"e", put_lock(121))
    keys = [b"e", b"c", b"b", b"a", b"b", b"x"]
    response = store.reads.kv_buffer_batch_get(kvrpcpb.BufferBatchGetRequest(keys=keys, version=120))
    expected = [pair(b"a"), pair(b"b", b"new"), pair(b"c", b"y" * 300)]
    assert response == kvrpcpb.BufferBatchGetResponse(pairs=expected)


def test_mvcc_by_key_and_by_start_ts(store: Store) -> None:
    store.commit(b"c", 120, 125, None)
    store.lock(b"c", Lock(LockType.PUT, b"p", 130, 3000, b"v"))
    op = kvrpcpb.Op
    info = kvrpcpb.MvccInfo(
        lock=kvrpcpb.MvccLock(type=op.Put, start_ts=130, primary=b"p", short_value=b"v"),
        writes=[
            kvrpcpb.MvccWrite(type=op.Del, start_ts=120, commit_ts=125),
            kvrpcpb.MvccWrite(type=op.Put, start_ts=100, commit_ts=110),
        ],
        values=[kvrpcpb.MvccValue(start_ts=100, value=b"x" * 300)],
    )
    reads = store.reads
    by_key = reads.mvcc_get_by_key(kvrpcpb.MvccGetByKeyRequest(key=b"c"))
    assert by_key == kvrpcpb.MvccGetByKeyResponse(info=info)
    by_start_ts = reads.mvcc_get_by_start_ts(kvrpcpb.MvccGetByStartTsRequest(start_ts=120))
    assert by_start_ts == kvrpcpb.MvccGetByStartTsResponse(key=b"c", info=info)
    within = KeyRange(b"", memcomparable.encode(b"c"))
    nothing = kvrpcpb.MvccGetByStartTsResponse(info=kvrpcpb.MvccInfo())
    assert reads.mvcc_get_by_start_ts(kvrpcpb.MvccGetByStartTsRequest(start_ts=120), within) == nothing
    shared = Lock(LockType.SHARED, b"", 0)
    for start_ts in (6, 5):
        shared = shared.with_member(Lock(LockType.PESSIMISTIC, b"p", start_ts))
    store.lock(b"x", shared)
    first = reads.mvcc_get_by_key(kvrpcpb.MvccGetByKeyRequest(key=b"x")).info.lock
    assert (first.type, first.start_ts) == (op.PessimisticLock, 5)
