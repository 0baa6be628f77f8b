"""Histories against the store's own records: what clients were told and what was done."""

from __future__ import annotations

import pytest

from pytikv.codec import memcomparable
from pytikv.server.engine.interface import CF_WRITE, WriteBatch
from pytikv.server.mvcc.records import Write, WriteType, data_key
from pytikv.testing.isolation import Txn, TxnHistory, TxnStatus
from pytikv.testing.store_records import RecordingEngine, commit_records, settle

X, Y = b"x", b"y"


def put_record(
    engine: RecordingEngine, key: bytes, start_ts: int, commit_ts: int, kind: WriteType = WriteType.PUT
) -> bytes:
    record_key = data_key(memcomparable.encode(key), commit_ts)
    batch = WriteBatch()
    batch.put(CF_WRITE, record_key, Write(kind, start_ts).encode())
    engine.write(batch)
    return record_key


def recorded(status: TxnStatus, *, commit_ts: int | None = None) -> tuple[TxnHistory, Txn]:
    history = TxnHistory()
    txn = history.begin(0, start_ts=5)
    txn.write(X, 1)
    txn.write(Y, 2)
    txn.status, txn.commit_ts = status, commit_ts
    return history, txn


def test_committed_and_there() -> None:
    engine = RecordingEngine()
    put_record(engine, X, 5, 7)
    put_record(engine, Y, 5, 7)
    put_record(engine, Y, 9, 9, WriteType.ROLLBACK)
    history, _ = recorded(TxnStatus.COMMITTED, commit_ts=7)
    assert commit_records(engine, bytes) == {5: {X: 7, Y: 7}}
    assert settle(history, commit_records(engine, bytes)) == []


@pytest.mark.parametrize(
    ("status", "commit_ts", "stamps", "text"),
    [
        (TxnStatus.COMMITTED, 7, {X: 7}, r"no record of it on \[b'y'\]"),
        (TxnStatus.COMMITTED, 7, {X: 8, Y: 8}, r"committed at 7, but the store has it at \[8\]"),
        (TxnStatus.COMMITTED, 7, {X: 7, Y: 7, b"z": 7}, r"never wrote \[b'z'\]"),
        (TxnStatus.ABORTED, None, {X: 7}, r"was not committed, but the store has it at \[7\]"),
        (TxnStatus.UNDETERMINED, None, {X: 7}, r"no record of it on \[b'y'\]"),
        (TxnStatus.UNDETERMINED, None, {X: 7, Y: 8}, r"committed at 7, but the store has it at \[7, 8\]"),
    ],
)
def test_what_does_not_fit_is_found(
    status: TxnStatus, commit_ts: int | None, stamps: dict[bytes, int], text: str
) -> None:
    engine = RecordingEngine()
    for key, stamp in stamps.items():
        put_record(engine, key, 5, stamp)
    history, _ = recorded(status, commit_ts=commit_ts)
    found = settle(history, commit_records(engine, bytes))
    assert len(found) == 1
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(found[0].text)


def test_undetermined_transactions_are_settled() -> None:
    engine = RecordingEngine()
    history, txn = recorded(TxnStatus.UNDETERMINED)
    assert settle(history, commit_records(engine, bytes)) == []
    assert txn.status is TxnStatus.ABORTED
    put_record(engine, X, 5, 7)
    put_record(engine, Y, 5, 7)
    txn.status = TxnStatus.UNDETERMINED
    assert settle(history, commit_records(engine, bytes)) == []
    assert (txn.status, txn.commit_ts) == (TxnStatus.COMMITTED, 7)


def test_deleted_records_are_remembered_beyond_a_crash() -> None:
    engine = RecordingEngine()
    first, second = put_record(engine, X, 5, 7), put_record(engine, Y, 5, 7)
    engine.flush()
    batch = WriteBatch()
    batch.delete(CF_WRITE, first)
    engine.write(batch)
    engine.delete(CF_WRITE, second)
    engine.flush()
    survivor = engine.after_crash()
    assert list(survivor.scan(CF_WRITE)) == []
    assert commit_records(survivor, bytes) == {5: {X: 7, Y: 7}}
