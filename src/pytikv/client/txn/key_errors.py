"""What a store says about a key in a transaction (kvrpcpb.KeyError), as the errors that users see.

Only what is left when the protocol has done what it can: callers look at `locked`, `commit_ts_expired` and the like
themselves first. Where a message holds several kinds, the telling one counts: a conflict also fills `retryable`, a text
for clients of old.

Keys come in wire form and are shown as users know them; one of another keyspace is shown as it came. The outcome is
NOT_APPLIED, which holds for the request that was answered; who knows more about the transaction says so.

Source: TiKV src/storage/errors.rs, extract_key_error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pytikv.client.store_errors import raw_error
from pytikv.codec.api import KeyCodec
from pytikv.errors import (
    AssertionFailed,
    Deadlock,
    InvalidArgument,
    KeyExists,
    KeyLocked,
    ServerError,
    TikvError,
    TransactionAborted,
    TransactionTooLarge,
    WaitForEntry,
    WriteConflict,
    format_key,
)
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["key_error", "locks_met", "refused_entry", "user_key"]


def user_key(key: bytes, codec: KeyCodec) -> bytes:
    """Return a wire key as the user knows it; as it came where it is none of this keyspace."""
    try:
        return codec.decode_key(key)
    except ValueError:
        return key


def key_error(error: kvrpcpb.KeyError, codec: KeyCodec, start_ts: int) -> TikvError:
    """Return the error for what a store answered to the transaction `start_ts`."""
    for field, build in _KINDS:
        if error.HasField(field):
            return build(getattr(error, field), codec, start_ts)
    if error.retryable:
        return TransactionAborted(f"the transaction {start_ts} must be run again: {_shown(error.retryable)}")
    if error.abort:
        return raw_error(error.abort)
    return ServerError(f"the store refused a request of transaction {start_ts} and did not say why")


def locks_met(errors: Sequence[kvrpcpb.KeyError]) -> list[kvrpcpb.LockInfo]:
    """Return the locks in key errors; of a key with shared locks, each holder's."""
    found: list[kvrpcpb.LockInfo] = []
    for error in errors:
        if error.HasField("locked"):
            found += error.locked.shared_lock_infos or [error.locked]
    return found


def refused_entry(error: InvalidArgument, entries: Iterable[tuple[bytes, int]], codec: KeyCodec) -> TikvError:
    """Say which entry a store refused for its size, where that is what it says; else return the error as it is.

    `entries`: wire keys of the request, each with the bytes of key and value; the largest one is meant.
    """
    text = str(error)
    if "raft-entry-max-size" in text or "raft entry is too large" in text:
        key, size = max(entries, key=lambda entry: entry[1])
        key = user_key(key, codec)
        return TransactionTooLarge(
            f"key {format_key(key)} and its value have {size} bytes, which no store takes at once: {text}", key=key
        )
    if "max-key-size" in text or "max key size" in text:
        key = user_key(max((key for key, _ in entries), key=len), codec)
        return InvalidArgument(
            f"key {format_key(key)} ({len(key)} bytes) is too long for the store, whose limit storage.max-key-size "
            "(8 KiB unless set) holds for the key as it is kept: nine bytes for every eight"
        )
    return error


def _shown(text: str) -> str:
    return text if format_key(b"") != "?" else "(hidden: keys are redacted)"


def _conflict(found: kvrpcpb.WriteConflict, codec: KeyCodec, start_ts: int) -> TikvError:
    key = user_key(found.key, codec)
    reason = kvrpcpb.WriteConflict.Reason.Name(found.reason)
    other = found.conflict_commit_ts or found.conflict_ts
    return WriteConflict(
        f"key {format_key(key)} was changed at {other}, after transaction {start_ts} began ({reason})",
        key=key,
        start_ts=found.start_ts or start_ts,
        conflict_start_ts=found.conflict_ts,
        conflict_commit_ts=found.conflict_commit_ts,
        reason=reason,
    )


def _exists(found: kvrpcpb.AlreadyExist, codec: KeyCodec, start_ts: int) -> TikvError:
    key = user_key(found.key, codec)
    return KeyExists(f"key {format_key(key)} exists already", key=key)


def _locked(found: kvrpcpb.LockInfo, codec: KeyCodec, start_ts: int) -> TikvError:
    key = user_key(found.key, codec)
    text = f"key {format_key(key)} is locked by transaction {found.lock_version}"
    return KeyLocked(text, key=key, lock_ts=found.lock_version)


def _deadlock(found: kvrpcpb.Deadlock, codec: KeyCodec, start_ts: int) -> TikvError:
    key = user_key(found.lock_key, codec)
    chain = tuple(
        WaitForEntry(edge.txn, edge.wait_for_txn, user_key(edge.key, codec), edge.resource_group_tag)
        for edge in found.wait_chain
    )
    text = f"transaction {start_ts} waits for key {format_key(key)}, whose holder {found.lock_ts} waits for it in turn"
    return Deadlock(text, key=key, lock_ts=found.lock_ts, wait_chain=chain)


def _assertion(found: kvrpcpb.AssertionFailed, codec: KeyCodec, start_ts: int) -> TikvError:
    key = user_key(found.key, codec)
    asserted = "exists" if found.assertion == kvrpcpb.Exist else "does not exist"
    return AssertionFailed(
        f"key {format_key(key)} was asserted to be one that {asserted}, which is not so",
        key=key,
        start_ts=found.start_ts or start_ts,
        existing_start_ts=found.existing_start_ts,
        existing_commit_ts=found.existing_commit_ts,
    )


def _aborted(why: str) -> Callable[[Any, KeyCodec, int], TikvError]:
    def build(found: Any, codec: KeyCodec, start_ts: int) -> TikvError:
        key = user_key(found.key, codec) if getattr(found, "key", b"") else None
        at = f" (key {format_key(key)})" if key is not None else ""
        return TransactionAborted(f"transaction {start_ts} {why}{at}: run it again", key=key)

    return build


_KINDS: Final[tuple[tuple[Any, Callable[[Any, KeyCodec, int], TikvError]], ...]] = (
    ("locked", _locked),
    ("conflict", _conflict),
    ("already_exist", _exists),
    ("deadlock", _deadlock),
    ("assertion_failed", _assertion),
    ("txn_lock_not_found", _aborted("was rolled back by another, who found its locks expired")),
    ("txn_not_found", _aborted("is not known any more: it was rolled back, or its locks expired")),
    ("commit_ts_expired", _aborted("committed too late: readers were promised not to see it")),
    ("commit_ts_too_large", _aborted("could not be committed in the time that it allowed")),
    ("primary_mismatch", _aborted("has another primary than its locks say")),
    ("lock_upgrade_conflict", _aborted("could not turn its shared lock into an exclusive one")),
    ("shared_lock_lost", _aborted("has lost a shared lock")),
)
"""In the order in which a message that holds several is read."""
