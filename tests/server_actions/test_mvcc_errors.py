"""What clients are told of each error: the field of KeyError, and the texts that old clients search."""

from __future__ import annotations

import pytest

from pytikv.proto import deadlock_pb2 as deadlock
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import (
    AlreadyExistError,
    AssertionFailedError,
    CommittedError,
    CommitTsExpiredError,
    DeadlockError,
    InvalidCommandError,
    InvalidTxnTsoError,
    KeyIsLocked,
    LockIfExistsFailedError,
    LockLost,
    LockTypeNotMatchError,
    MvccError,
    PessimisticLockNotFoundError,
    PessimisticLockRolledBackError,
    PrimaryMismatchError,
    TxnLockNotFoundError,
    TxnNotFoundError,
    WriteConflictError,
)

INFO = kvrpcpb.LockInfo(primary_lock=b"p", lock_version=7, key=b"k")
OPTIMISTIC = kvrpcpb.WriteConflict.Reason.Optimistic

FIELDS: list[tuple[MvccError, dict[str, object]]] = [
    (KeyIsLocked(INFO), {"locked": INFO}),
    (AlreadyExistError(b"k", 5), {"already_exist": kvrpcpb.AlreadyExist(key=b"k")}),
    (
        CommitTsExpiredError(1, 2, b"k", 3),
        {"commit_ts_expired": kvrpcpb.CommitTsExpired(start_ts=1, attempted_commit_ts=2, key=b"k", min_commit_ts=3)},
    ),
    (TxnNotFoundError(1, b"k"), {"txn_not_found": kvrpcpb.TxnNotFound(start_ts=1, primary_key=b"k")}),
    (PrimaryMismatchError(INFO), {"primary_mismatch": kvrpcpb.PrimaryMismatch(lock_info=INFO)}),
    (
        AssertionFailedError(1, b"k", kvrpcpb.Assertion.NotExist, 5, 6),
        {
            "assertion_failed": kvrpcpb.AssertionFailed(
                start_ts=1, key=b"k", assertion="NotExist", existing_start_ts=5, existing_commit_ts=6
            )
        },
    ),
    (
        DeadlockError(1, 2, b"k", 77, [deadlock.WaitForEntry(txn=1, wait_for_txn=2)]),
        {
            "deadlock": kvrpcpb.Deadlock(
                lock_ts=2,
                lock_key=b"k",
                deadlock_key_hash=77,
                wait_chain=[deadlock.WaitForEntry(txn=1, wait_for_txn=2)],
            )
        },
    ),
    (
        WriteConflictError(1, 2, 3, b"k", b"p", OPTIMISTIC),
        {
            "conflict": kvrpcpb.WriteConflict(
                start_ts=1, conflict_ts=2, conflict_commit_ts=3, key=b"k", primary=b"p", reason=OPTIMISTIC
            ),
            "retryable": (
                "Error(Txn(Error(Mvcc(Error(WriteConflict { start_ts: TimeStamp(1), conflict_start_ts: TimeStamp(2), "
                "conflict_commit_ts: TimeStamp(3), key: [107], primary: [112], reason: Optimistic })))))"
            ),
        },
    ),
    (
        TxnLockNotFoundError(1, 2, b"kk"),
        {
            "txn_lock_not_found": kvrpcpb.TxnLockNotFound(key=b"kk"),
            "retryable": (
                "Error(Txn(Error(Mvcc(Error(TxnLockNotFound { start_ts: TimeStamp(1), commit_ts: TimeStamp(2), "
                "key: [107, 107], mvcc_info: None })))))"
            ),
        },
    ),
]


@pytest.mark.parametrize(("error", "fields"), FIELDS, ids=lambda one: type(one).__name__)
def test_fields(error: MvccError, fields: dict[str, object]) -> None:
    told = error.key_error()
    assert {field.name: value for field, value in told.ListFields()} == fields


MVCC = "Error(Txn(Error(Mvcc(Error({})))))"
ABORTS = [
    (
        CommittedError(1, 2, b"k"),
        MVCC.format("Committed { start_ts: TimeStamp(1), commit_ts: TimeStamp(2), key: [107] }"),
    ),
    (
        PessimisticLockRolledBackError(1, b"k"),
        MVCC.format("PessimisticLockRolledBack { start_ts: TimeStamp(1), key: [107] }"),
    ),
    (
        PessimisticLockNotFoundError(1, b"k", LockLost.LOCK_FOR_UPDATE_TS_MISMATCH),
        MVCC.format("PessimisticLockNotFound { start_ts: TimeStamp(1), key: [107], reason: LockForUpdateTsMismatch }"),
    ),
    (
        LockTypeNotMatchError(1, b"k", pessimistic=True),
        MVCC.format("LockTypeNotMatch { start_ts: TimeStamp(1), key: [107], pessimistic: true }"),
    ),
    (
        LockIfExistsFailedError(1, b"k"),
        MVCC.format("LockIfExistsFailed { start_ts: TimeStamp(1), key: [107] }"),
    ),
    (MvccError('no "such" thing'), MVCC.format('Other("no \\"such\\" thing")')),
    (InvalidCommandError("no keys"), 'Error(Txn(Error(Other("no keys"))))'),
    (
        InvalidTxnTsoError(2, 1),
        "Error(Txn(Error(InvalidTxnTso { start_ts: TimeStamp(2), commit_ts: TimeStamp(1) })))",
    ),
]


@pytest.mark.parametrize(("error", "text"), ABORTS, ids=lambda one: type(one).__name__)
def test_aborts(error: MvccError, text: str) -> None:
    assert error.key_error() == kvrpcpb.KeyError(abort=text)
