"""Which locks stand in the way of a read.

*SI* (snapshot isolation): a lock of a transaction that may commit at or below the read's timestamp. That is: it began
at or below it, will change the value (PUT, DELETE), and its min_commit_ts is not above it. A read at the greatest
timestamp, "the latest", passes the lock on a transaction's own primary key: whether that one is committed is decided
right there, and it is not yet; but an async commit or 1PC may be committed already.
*RC* (read committed): none. *RCCheckTS*: any lock that will change the value, as a write conflict and not as a lock:
the reader hopes to be alone and starts again with a new timestamp when it is not.

`resolved_locks` are transactions that the client knows to be rolled back, or to commit later: their locks are passed.
`committed_locks` are known to be committed at or below the timestamp: the value is read through the lock. Both are
start timestamps.

Source: TiKV components/txn_types/src/lock.rs (check_ts_conflict).
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import KeyIsLocked, WriteConflictError
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.records import Lock, LockType

__all__ = ["SNAPSHOT", "ReadRules", "check_ts_conflict", "newer_version"]

_SI: Final = kvrpcpb.IsolationLevel.SI
_RC: Final = kvrpcpb.IsolationLevel.RC
_RC_CHECK_TS: Final = kvrpcpb.IsolationLevel.RCCheckTS
_RC_REASON: Final = kvrpcpb.WriteConflict.Reason.RcCheckTs
_NONE: Final[frozenset[int]] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class ReadRules:
    """How a read treats locks; the same for all keys of a request."""

    isolation: kvrpcpb.IsolationLevel = _SI
    resolved_locks: frozenset[int] = _NONE
    committed_locks: frozenset[int] = _NONE

    @classmethod
    def of(cls, context: kvrpcpb.Context) -> ReadRules:
        """Return the rules that a request's context asks for."""
        if not (context.isolation_level or context.resolved_locks or context.committed_locks):
            return SNAPSHOT
        return cls(context.isolation_level, frozenset(context.resolved_locks), frozenset(context.committed_locks))

    @property
    def looks_at_locks(self) -> bool:
        """Whether locks matter at all."""
        return self.isolation != _RC

    @property
    def refuses_newer_versions(self) -> bool:
        """Whether a version above the timestamp fails the read."""
        return self.isolation == _RC_CHECK_TS


SNAPSHOT: Final = ReadRules()
"""Snapshot isolation, no lock known to the reader."""


def check_ts_conflict(lock: Lock, key: bytes, ts: int, rules: ReadRules) -> None:
    """Raise KeyIsLocked or WriteConflictError when `lock` on the encoded `key` is in the way of a read at `ts`."""
    if lock.lock_type is not LockType.PUT and lock.lock_type is not LockType.DELETE:
        return
    if rules.isolation == _RC or lock.start_ts in rules.resolved_locks:
        return
    if rules.isolation == _RC_CHECK_TS:
        raise WriteConflictError(ts, lock.start_ts, 0, wire_key(key), lock.primary, _RC_REASON)
    if lock.start_ts > ts or lock.min_commit_ts > ts:
        return
    locked = wire_key(key)
    if ts == TS_MAX and locked == lock.primary and not lock.use_async_commit and not lock.use_one_pc:
        return
    raise KeyIsLocked(lock.info(locked))


def newer_version(key: bytes, ts: int, commit_ts: int) -> WriteConflictError:
    """Return the refusal of a RCCheckTS read at `ts` that met a version of `key` at `commit_ts`, above it."""
    return WriteConflictError(ts, 0, commit_ts, wire_key(key), b"", _RC_REASON)
