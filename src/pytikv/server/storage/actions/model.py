"""What the actions are asked to do: one mutation of one key, and what all mutations of a request share.

Keys are encoded keys (memcomparable, no timestamp), the primary and the secondaries are wire keys, timestamps are ints.
A transaction is pessimistic when its request has a for_update_ts.

*publish* is how a prewrite of async commit or 1PC learns its commit timestamp. It is called with a key and its lock,
whose `min_commit_ts` is the least that the transaction itself allows; it must make the lock visible to readers first,
then read the largest timestamp that the store has served a read at, and return one above it, or the lock's
min_commit_ts when that is larger. In this order every reader either meets the lock or is below the answer. Afterwards
the action sets `min_commit_ts` in this very object, or makes it an ordinary lock when the answer is above
max_commit_ts; whoever has published takes all locks of a command back once its batch is written, or dropped.

Sources: TiKV src/storage/txn/actions/prewrite.rs, components/txn_types/src/types.rs (Mutation).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import InvalidCommandError
from pytikv.server.mvcc.records import Lock, LockType

__all__ = [
    "DO_CONSTRAINT_CHECK",
    "DO_PESSIMISTIC_CHECK",
    "NO_ASSERTION",
    "SKIP_PESSIMISTIC_CHECK",
    "CommitKind",
    "Mutation",
    "Publish",
    "TransactionProperties",
]

SKIP_PESSIMISTIC_CHECK: Final = kvrpcpb.PrewriteRequest.PessimisticAction.SKIP_PESSIMISTIC_CHECK
DO_PESSIMISTIC_CHECK: Final = kvrpcpb.PrewriteRequest.PessimisticAction.DO_PESSIMISTIC_CHECK
DO_CONSTRAINT_CHECK: Final = kvrpcpb.PrewriteRequest.PessimisticAction.DO_CONSTRAINT_CHECK

# Looked up once: an enum of protobuf searches its names at every access.
_CHECK_NOT_EXISTS: Final = kvrpcpb.Op.CheckNotExists
_INSERT: Final = kvrpcpb.Op.Insert
_SHARED_LOCK: Final = kvrpcpb.Op.SharedLock
NO_ASSERTION: Final = kvrpcpb.Mutation().assertion

_LOCK_TYPES: Final[dict[int, LockType | None]] = {
    kvrpcpb.Op.Put: LockType.PUT,
    _INSERT: LockType.PUT,
    kvrpcpb.Op.Del: LockType.DELETE,
    kvrpcpb.Op.Lock: LockType.LOCK,
    _SHARED_LOCK: LockType.LOCK,
    _CHECK_NOT_EXISTS: None,
}

Publish = Callable[[bytes, Lock], int]
"""See the module's docstring."""


@dataclasses.dataclass(slots=True)
class Mutation:
    """What a transaction is about to do to one key. Raises InvalidCommandError for an `op` that is no mutation."""

    op: kvrpcpb.Op
    key: bytes
    value: bytes | None = None
    """Of Put and Insert; empty is a value."""
    assertion: kvrpcpb.Assertion = NO_ASSERTION
    pessimistic_action: kvrpcpb.PrewriteRequest.PessimisticAction = SKIP_PESSIMISTIC_CHECK
    expected_for_update_ts: int | None = None
    """Of a lock taken in force-lock mode: what the client knows of it. Another one in the lock means it was lost."""
    lock_type: LockType | None = dataclasses.field(init=False)
    """None: only checked, nothing is written."""

    def __post_init__(self) -> None:
        try:
            self.lock_type = _LOCK_TYPES[self.op]
        except KeyError:
            raise InvalidCommandError(f"{kvrpcpb.Op.Name(self.op)} is no mutation of a prewrite") from None

    @property
    def should_not_exist(self) -> bool:
        """Whether the key must have no value."""
        return self.op in (_INSERT, _CHECK_NOT_EXISTS)

    @property
    def is_shared(self) -> bool:
        """Whether the lock is one of a container of shared locks."""
        return self.op == _SHARED_LOCK


class CommitKind(enum.Enum):
    """How the transaction means to commit, as far as a prewrite is concerned."""

    TWO_PC = "two phases"
    ASYNC = "async commit"
    ONE_PC = "one phase"


@dataclasses.dataclass(slots=True)  # not frozen, which would make it seven times as dear
class TransactionProperties:
    """What the mutations of one prewrite have in common. Treat it as a value."""

    start_ts: int
    primary: bytes
    for_update_ts: int = 0
    """Not 0: the transaction is pessimistic."""
    commit_kind: CommitKind = CommitKind.TWO_PC
    max_commit_ts: int = 0
    """A computed min_commit_ts above it makes the prewrite fall back to two phases; 0: no limit."""
    lock_ttl_ms: int = 0
    txn_size: int = 0
    min_commit_ts: int = 0
    skip_constraint_check: bool = False
    """Of optimistic transactions: no look at newer records."""
    is_retry_request: bool = False
    """The request may have been executed before; also when the transaction is known to be committed."""
    assertion_level: kvrpcpb.AssertionLevel = kvrpcpb.AssertionLevel.Off
    txn_source: int = 0

    @property
    def is_pessimistic(self) -> bool:
        """Whether the transaction took pessimistic locks before."""
        return self.for_update_ts != 0

    @property
    def computes_commit_ts(self) -> bool:
        """Whether the store says the commit_ts, or the least it may be."""
        return self.commit_kind is not CommitKind.TWO_PC
