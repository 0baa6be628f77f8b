"""Each kind of KeyError as the error that users see, with its facts."""

from __future__ import annotations

from typing import Any

import pytest

import pytikv
from pytikv.client.txn.key_errors import key_error
from pytikv.codec import api
from pytikv.errors import Outcome, format_key, redact_keys
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

CODEC = api.v2(1, is_raw=False)
WIRE = CODEC.encode_key(b"seat")
KeyError_ = kvrpcpb.KeyError


@pytest.mark.parametrize(
    ("error", "kind", "facts", "retryable"),
    [
        (
            KeyError_(
                retryable="WriteConflict...",
                conflict=kvrpcpb.WriteConflict(
                    start_ts=5, conflict_ts=6, conflict_commit_ts=7, key=WIRE, reason="Optimistic"
                ),
            ),
            pytikv.WriteConflict,
            {"start_ts": 5, "conflict_start_ts": 6, "conflict_commit_ts": 7, "key": b"seat", "reason": "Optimistic"},
            True,
        ),
        (KeyError_(already_exist={"key": WIRE}), pytikv.KeyExists, {"key": b"seat"}, False),
        (KeyError_(locked={"key": WIRE, "lock_version": 3}), pytikv.KeyLocked, {"key": b"seat", "lock_ts": 3}, True),
        (
            KeyError_(
                deadlock={"lock_key": WIRE, "lock_ts": 4, "wait_chain": [{"txn": 5, "wait_for_txn": 4, "key": WIRE}]}
            ),
            pytikv.Deadlock,
            {"key": b"seat", "lock_ts": 4, "wait_chain": (pytikv.errors.WaitForEntry(5, 4, b"seat"),)},
            True,
        ),
        (
            KeyError_(assertion_failed={"key": WIRE, "start_ts": 5, "existing_commit_ts": 2, "assertion": "Exist"}),
            pytikv.AssertionFailed,
            {"key": b"seat", "start_ts": 5, "existing_commit_ts": 2},
            False,
        ),
        (KeyError_(txn_lock_not_found={"key": WIRE}, retryable="x"), pytikv.TransactionAborted, {"key": b"seat"}, True),
        (KeyError_(txn_not_found={"start_ts": 5}), pytikv.TransactionAborted, {"key": None}, True),
        (KeyError_(commit_ts_expired={"key": WIRE}), pytikv.TransactionAborted, {"key": b"seat"}, True),
        (KeyError_(commit_ts_too_large={"commit_ts": 9}), pytikv.TransactionAborted, {}, True),
        (KeyError_(primary_mismatch={}), pytikv.TransactionAborted, {}, True),
        (KeyError_(lock_upgrade_conflict={"key": WIRE}), pytikv.TransactionAborted, {"key": b"seat"}, True),
        (KeyError_(shared_lock_lost={"key": WIRE}), pytikv.TransactionAborted, {"key": b"seat"}, True),
        (KeyError_(retryable="Error(Txn(...))"), pytikv.TransactionAborted, {}, True),
        (KeyError_(abort="Error(KeyTooLarge { size: 9036, limit: 8192 })"), pytikv.InvalidArgument, {}, False),
        (KeyError_(abort="Error(InvalidKeyMode { cmd: get })"), pytikv.ConfigError, {}, False),
        (
            KeyError_(abort="Error(Txn(Error(Mvcc(Error(PessimisticLockRolledBack { })))))"),
            pytikv.TransactionAborted,
            {},
            True,
        ),
        (KeyError_(abort="Error(Txn(Error(Other(...))))"), pytikv.ServerError, {}, False),
        (KeyError_(), pytikv.ServerError, {}, False),
    ],
)
def test_kinds(error: Any, kind: type, facts: dict[str, Any], retryable: bool) -> None:
    found = key_error(error, CODEC, 5)
    assert type(found) is kind
    assert {name: getattr(found, name) for name in facts} == facts
    assert found.retryable is retryable
    assert found.outcome is Outcome.NOT_APPLIED
    assert str(found)
    if facts.get("key"):
        assert format_key(b"seat") in str(found)
        assert repr(WIRE)[2:-1] not in str(found), "keys as users know them"


def test_a_key_of_another_keyspace_is_shown_as_it_came() -> None:
    foreign = api.v2(2, is_raw=False).encode_key(b"seat")
    assert key_error(KeyError_(already_exist={"key": foreign}), CODEC, 5).key == foreign  # type: ignore[attr-defined]


def test_redacted_keys() -> None:
    redact_keys(True)
    try:
        for error in (
            KeyError_(locked={"key": WIRE, "lock_version": 3}),
            KeyError_(retryable="key: seat"),
            KeyError_(abort="key: seat"),
        ):
            assert "seat" not in str(key_error(error, CODEC, 5))
    finally:
        redact_keys(False)
