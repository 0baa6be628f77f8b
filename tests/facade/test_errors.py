"""The errors of transactions: what they carry, that they travel between processes, and which may be retried."""

from __future__ import annotations

import pickle

import pytest

import pytikv
from pytikv import Outcome

RETRYABLE = {"WriteConflict", "Deadlock", "LockTimeout", "KeyLocked", "TransactionAborted"}
FINAL = {"KeyExists", "AssertionFailed", "SnapshotTooOld", "TransactionTooLarge", "CommitUndetermined"}


@pytest.mark.parametrize("name", sorted(RETRYABLE | FINAL))
def test_transaction_errors(name: str) -> None:
    kind = getattr(pytikv, name)
    error = kind("what happened", key=b"k")
    assert isinstance(error, pytikv.TransactionError)
    assert (error.code, error.key, str(error)) == (name, b"k", "what happened")
    assert error.retryable is (name in RETRYABLE)
    assert error.outcome is (Outcome.UNDETERMINED if name == "CommitUndetermined" else Outcome.NOT_APPLIED)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.key, str(again), again.outcome) == (error.key, str(error), error.outcome)
    assert kind().key is None


def test_a_deadlock_keeps_its_circle() -> None:
    chain = (pytikv.WaitForEntry(5, 7, b"a"), pytikv.WaitForEntry(7, 5, b"b"))
    error = pickle.loads(pickle.dumps(pytikv.Deadlock("circle", key=b"b", lock_ts=5, wait_chain=chain)))
    assert error.wait_chain == chain
    assert [(edge.txn, edge.wait_for_txn, edge.key) for edge in error.wait_chain] == [(5, 7, b"a"), (7, 5, b"b")]
    assert error.lock_ts == 5


def test_a_conflict_names_both_sides() -> None:
    error = pytikv.WriteConflict("lost", key=b"k", start_ts=3, conflict_start_ts=4, conflict_commit_ts=5, reason="x")
    again = pickle.loads(pickle.dumps(error))
    assert (again.start_ts, again.conflict_start_ts, again.conflict_commit_ts, again.reason) == (3, 4, 5, "x")
