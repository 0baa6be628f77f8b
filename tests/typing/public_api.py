"""What type checkers see of the public API. Checked by test_typing.py, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import pytikv


def blocking(kv: pytikv.RawClient) -> None:
    assert_type(pytikv.RawClient.connect("embedded://:memory:"), pytikv.RawClient)
    assert_type(pytikv.RawClient.connect(["pd1:2379", "pd2:2379"], timeout=1.0), pytikv.RawClient)
    with kv as same:
        assert_type(same, pytikv.RawClient)
    assert_type(kv.get(b"k"), bytes | None)
    assert_type(kv.put(b"k", b"v", ttl=60), None)
    assert_type(kv.delete(b"k"), None)
    assert_type(kv.exists(b"k"), bool)
    assert_type(kv.get_ttl(b"k"), int | None)
    assert_type(kv.batch_get([b"a"]), dict[bytes, bytes])
    assert_type(kv.batch_put({b"a": b"1"}, ttl=None), None)
    assert_type(kv.batch_put([(b"a", b"1"), (b"b", b"2", 60)]), None)
    pairs: list[tuple[bytes, bytes]] = [(b"a", b"1")]
    with_ttl: list[tuple[bytes, bytes, int | None]] = [(b"a", b"1", None)]
    kv.batch_put(pairs)
    kv.batch_put(with_ttl)
    kv.batch_put((key, value) for key, value in pairs)
    kv.batch_put(dict(pairs))
    assert_type(kv.batch_delete([b"a"]), None)
    assert_type(kv.scan(b"a", None, limit=3, reverse=True), Iterator[tuple[bytes, bytes]])
    assert_type(kv.scan_prefix(b"a"), Iterator[tuple[bytes, bytes]])
    assert_type(kv.batch_scan([(b"a", None)], each_limit=1), list[list[tuple[bytes, bytes]]])
    assert_type(kv.delete_range(b"a", None), None)
    assert_type(kv.delete_prefix(b"a"), None)
    done = kv.compare_and_swap(b"k", None, b"v", ttl=pytikv.KEEP)
    assert_type(done, pytikv.CompareAndSwap)
    assert_type(done.swapped, bool)
    assert_type(done.previous, bytes | None)
    assert_type(kv.put_if_absent(b"k", b"v"), bytes | None)
    assert_type(kv.checksum(), pytikv.Checksum)
    assert_type(kv.with_options(timeout=1.0, atomic=True), pytikv.RawClient)
    assert_type(kv.config, pytikv.ClientConfig)
    assert_type(kv.close(), None)


async def asynchronous() -> None:
    kv = await pytikv.AsyncRawClient.connect("embedded://:memory:")
    assert_type(kv, pytikv.AsyncRawClient)
    async with kv as same:
        assert_type(same, pytikv.AsyncRawClient)
    assert_type(await kv.get(b"k"), bytes | None)
    assert_type(await kv.batch_get([b"a"]), dict[bytes, bytes])
    assert_type(kv.scan(), AsyncIterator[tuple[bytes, bytes]])
    async for key, value in kv.scan_prefix(b"a"):
        assert_type(key, bytes)
        assert_type(value, bytes)
    assert_type(await kv.compare_and_swap(b"k", b"1", None), pytikv.CompareAndSwap)
    assert_type(kv.with_options(cf="write"), pytikv.AsyncRawClient)
    await kv.close()


def transactions(db: pytikv.TransactionClient) -> None:
    assert_type(pytikv.TransactionClient.connect("embedded://:memory:", gc_interval=60.0), pytikv.TransactionClient)
    with db as same:
        assert_type(same, pytikv.TransactionClient)
    with db.begin(pessimistic=True, causal=True) as txn:
        assert_type(txn, pytikv.Transaction)
        assert_type(txn.get(b"k"), bytes | None)
        assert_type(txn.batch_get([b"k"]), dict[bytes, bytes])
        assert_type(txn.get_for_update(b"k", wait=0.5), bytes | None)
        assert_type(txn.scan(b"a", b"b", limit=1, reverse=True), Iterator[tuple[bytes, bytes]])
        assert_type(txn.put(b"k", b"v"), None)
        assert_type(txn.insert(b"k", b"v"), None)
        assert_type(txn.delete(b"k"), None)
        assert_type(txn.lock_keys([b"k"], wait=0), None)
        with txn.savepoint() as point:
            point.rollback()
    assert_type(txn.start_ts, pytikv.Timestamp)
    assert_type(txn.commit_ts, pytikv.Timestamp | None)
    assert_type(txn.outcome, pytikv.Outcome)
    assert_type(db.run(count, 3, attempts=2), int)
    for attempt in db.attempts(10, pessimistic=True):
        assert_type(attempt, pytikv.Transaction)
        with attempt:
            attempt.put(b"k", b"v")
    snapshot = db.snapshot(db.current_timestamp(), isolation="RC")
    assert_type(snapshot, pytikv.Snapshot)
    assert_type(snapshot.get(b"k"), bytes | None)
    assert_type(snapshot.ts, pytikv.Timestamp)
    assert_type(snapshot.get_with_commit_ts(b"k"), pytikv.Versioned | None)
    assert_type(db.with_options(timeout=1.0), pytikv.TransactionClient)
    assert_type(db.gc(600.0), pytikv.GcReport)
    assert_type(db.gc_state(), pytikv.GcState)
    assert_type(db.list_locks(), list[pytikv.LockInfo])
    assert_type(db.resolve_locks(), pytikv.Progress)
    assert_type(db.split([b"k"], scatter=True), list[int])
    assert_type(db.mvcc(b"k"), pytikv.MvccInfo)
    assert_type(db.check_consistency(), pytikv.Consistency)
    assert_type(db.unsafe_destroy_range(b"a", None), None)


def count(txn: pytikv.Transaction, step: int) -> int:
    return len(txn.get(b"k") or b"") + step


async def asynchronous_transactions() -> None:
    db = await pytikv.AsyncTransactionClient.connect("embedded://:memory:")
    async with db as same, db.begin() as txn:
        assert_type(same, pytikv.AsyncTransactionClient)
        assert_type(txn, pytikv.AsyncTransaction)
        assert_type(await txn.get(b"k"), bytes | None)
        assert_type(txn.scan_prefix(b"a"), AsyncIterator[tuple[bytes, bytes]])
        assert_type(await txn.commit(), None)
    assert_type(await db.begin(), pytikv.AsyncTransaction)
    async for attempt in db.attempts():
        assert_type(attempt, pytikv.AsyncTransaction)
        async with attempt:
            await attempt.put(b"k", b"v")
    assert_type(await db.run(count_async, 3), int)
    assert_type(await db.snapshot(), pytikv.AsyncSnapshot)
    assert_type(await db.snapshot(isolation="SI").get(b"k"), bytes | None)
    assert_type(await db.current_timestamp(), pytikv.Timestamp)
    assert_type(await db.gc(), pytikv.GcReport)


async def count_async(txn: pytikv.AsyncTransaction, step: int) -> int:
    return len(await txn.get(b"k") or b"") + step


def transaction_errors(error: pytikv.WriteConflict, deadlock: pytikv.Deadlock) -> None:
    assert_type(error.key, bytes | None)
    assert_type(error.conflict_commit_ts, int)
    assert_type(deadlock.wait_chain, tuple[pytikv.WaitForEntry, ...])
    pytikv.TxnOptions(isolation="RC", priority="low")
    pytikv.ReadOptions(stale_read=True)


def errors(error: pytikv.TikvError, batch: pytikv.BatchError) -> None:
    assert_type(error.outcome, pytikv.Outcome)
    assert_type(error.retryable, bool)
    assert_type(error.code, str)
    assert_type(batch.failed, dict[bytes, pytikv.TikvError])
    with pytikv.deadline(0.5) as bound:
        assert_type(bound, pytikv.deadline)
    assert_type(pytikv.Timestamp(7).physical_ms, int)
    pytikv.ClientConfig(tls=pytikv.TLS(ca="ca.pem"), replica_read="mixed")


def wrong(kv: pytikv.RawClient) -> None:
    kv.get("k")  # type: ignore[arg-type]
    kv.put(b"k", "v")  # type: ignore[arg-type]
    kv.put(b"k", b"v", ttl=1.5)  # type: ignore[arg-type]
    kv.scan(b"a", b"b", 3)  # type: ignore[call-arg]
    kv.batch_put(["a"])  # type: ignore[list-item]
    pytikv.ClientConfig(replica_read="nearest")  # type: ignore[arg-type]


def wrong_transactions(db: pytikv.TransactionClient, txn: pytikv.Transaction) -> None:
    txn.put("k", b"v")  # type: ignore[arg-type]
    txn.scan(b"a", b"b", 3)  # type: ignore[call-arg]
    db.snapshot().put(b"k", b"v")  # type: ignore[attr-defined]
    pytikv.TxnOptions(isolation="SSI")  # type: ignore[arg-type]
