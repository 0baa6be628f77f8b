"""What the commands of transactions refuse or report, each with the kvrpcpb.KeyError that tells a client.

A client decides by the field that is set: `locked` is resolved and waited for, `conflict` restarts the transaction,
`commit_ts_expired` asks for a new timestamp, `abort` gives up. So each error here fills the fields that TiKV fills;
a write conflict and a lost lock of a commit also fill `retryable`, a text that old clients look at.

Texts are Rust's debug form of the error, nested as the layers of TiKV nest them (storage, transaction, versions):
libraries have been seen to search them. They are made only when they are asked for.

Keys in errors are wire keys. An error that is raised by an action has no effect: the command's changes are dropped.

Sources: TiKV src/storage/mvcc/mod.rs (the errors), src/storage/errors.rs (extract_key_error).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from pytikv.proto import deadlock_pb2 as deadlock
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = [
    "AlreadyExistError",
    "AssertionFailedError",
    "CommitTsExpiredError",
    "CommittedError",
    "DeadlockError",
    "GenerationOutOfOrderError",
    "InvalidCommandError",
    "InvalidTxnTsoError",
    "KeyIsLocked",
    "LockIfExistsFailedError",
    "LockLost",
    "LockTypeNotMatchError",
    "MvccError",
    "PessimisticLockNotFoundError",
    "PessimisticLockRolledBackError",
    "PrimaryMismatchError",
    "TxnLockNotFoundError",
    "TxnNotFoundError",
    "WriteConflictError",
]


def _bytes(data: bytes) -> str:
    return f"[{', '.join(map(str, data))}]"


def _ts(ts: int) -> str:
    return f"TimeStamp({ts})"


def _text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _struct(name: str, **fields: str) -> str:
    return f"{name} {{ {', '.join(f'{field}: {value}' for field, value in fields.items())} }}"


class MvccError(Exception):
    """Root of what an action raises. Without a better field the client gets the text as `abort`: it gives up."""

    def key_error(self) -> kvrpcpb.KeyError:
        """Return what a client is told."""
        return self._key_error()

    def debug(self) -> str:
        """Return the text of the error as TiKV writes it into `abort` and `retryable`."""
        return f"Error(Txn(Error({self._txn_layer()})))"

    def _key_error(self) -> kvrpcpb.KeyError:
        return kvrpcpb.KeyError(abort=self.debug())

    def _txn_layer(self) -> str:
        return f"Mvcc(Error({self._inner()}))"

    def _inner(self) -> str:
        return f"Other({_text(str(self))})"


class InvalidCommandError(MvccError):
    """A request that no correct client sends; `str(error)` says what is wrong with it."""

    def _txn_layer(self) -> str:
        return self._inner()


class InvalidTxnTsoError(MvccError):
    """A commit timestamp that is not above the start timestamp."""

    def __init__(self, start_ts: int, commit_ts: int) -> None:
        super().__init__(f"commit_ts {commit_ts} is not above start_ts {start_ts}")
        self.start_ts = start_ts
        self.commit_ts = commit_ts

    def _txn_layer(self) -> str:
        return _struct("InvalidTxnTso", start_ts=_ts(self.start_ts), commit_ts=_ts(self.commit_ts))


class KeyIsLocked(MvccError):
    """Another transaction's lock is in the way; `lock_info` is all that a client needs to resolve it."""

    def __init__(self, lock_info: kvrpcpb.LockInfo) -> None:
        super().__init__(f"key is locked by the transaction {lock_info.lock_version}")
        self.lock_info = lock_info

    def _key_error(self) -> kvrpcpb.KeyError:
        return kvrpcpb.KeyError(locked=self.lock_info)

    def _inner(self) -> str:
        info = self.lock_info
        return f"KeyIsLocked(primary_lock: {_bytes(info.primary_lock)} lock_version: {info.lock_version})"


class WriteConflictError(MvccError):
    """A record of another transaction, or a rollback of this one, that the write must not ignore.

    `reason` is a kvrpcpb.WriteConflict.Reason.
    """

    def __init__(
        self,
        start_ts: int,
        conflict_start_ts: int,
        conflict_commit_ts: int,
        key: bytes,
        primary: bytes,
        reason: kvrpcpb.WriteConflict.Reason,
    ) -> None:
        super().__init__(f"write conflict of {start_ts} with {conflict_start_ts}, committed at {conflict_commit_ts}")
        self.start_ts = start_ts
        self.conflict_start_ts = conflict_start_ts
        self.conflict_commit_ts = conflict_commit_ts
        self.key = key
        self.primary = primary
        self.reason = reason

    def _key_error(self) -> kvrpcpb.KeyError:
        conflict = kvrpcpb.WriteConflict(
            start_ts=self.start_ts,
            conflict_ts=self.conflict_start_ts,
            conflict_commit_ts=self.conflict_commit_ts,
            key=self.key,
            primary=self.primary,
            reason=self.reason,
        )
        return kvrpcpb.KeyError(conflict=conflict, retryable=self.debug())

    def _inner(self) -> str:
        return _struct(
            "WriteConflict",
            start_ts=_ts(self.start_ts),
            conflict_start_ts=_ts(self.conflict_start_ts),
            conflict_commit_ts=_ts(self.conflict_commit_ts),
            key=_bytes(self.key),
            primary=_bytes(self.primary),
            reason=kvrpcpb.WriteConflict.Reason.Name(self.reason),
        )


class AlreadyExistError(MvccError):
    """An insert of a key that has a value, written by the transaction that began at `existing_start_ts`."""

    def __init__(self, key: bytes, existing_start_ts: int) -> None:
        super().__init__(f"the key exists since the transaction {existing_start_ts}")
        self.key = key
        self.existing_start_ts = existing_start_ts

    def _key_error(self) -> kvrpcpb.KeyError:
        return kvrpcpb.KeyError(already_exist=kvrpcpb.AlreadyExist(key=self.key))


class CommitTsExpiredError(MvccError):
    """A commit below the lock's min_commit_ts: some reader has been promised that this commit comes later."""

    def __init__(self, start_ts: int, commit_ts: int, key: bytes, min_commit_ts: int) -> None:
        super().__init__(f"commit_ts {commit_ts} is below min_commit_ts {min_commit_ts}")
        self.start_ts = start_ts
        self.commit_ts = commit_ts
        self.key = key
        self.min_commit_ts = min_commit_ts

    def _key_error(self) -> kvrpcpb.KeyError:
        expired = kvrpcpb.CommitTsExpired(
            start_ts=self.start_ts,
            attempted_commit_ts=self.commit_ts,
            key=self.key,
            min_commit_ts=self.min_commit_ts,
        )
        return kvrpcpb.KeyError(commit_ts_expired=expired)


class TxnLockNotFoundError(MvccError):
    """A commit found neither the transaction's lock nor its commit: it has been rolled back."""

    def __init__(self, start_ts: int, commit_ts: int, key: bytes) -> None:
        super().__init__(f"the lock of the transaction {start_ts} is not there")
        self.start_ts = start_ts
        self.commit_ts = commit_ts
        self.key = key

    def _key_error(self) -> kvrpcpb.KeyError:
        lost = kvrpcpb.TxnLockNotFound(key=self.key)
        return kvrpcpb.KeyError(txn_lock_not_found=lost, retryable=self.debug())

    def _inner(self) -> str:
        return _struct(
            "TxnLockNotFound",
            start_ts=_ts(self.start_ts),
            commit_ts=_ts(self.commit_ts),
            key=_bytes(self.key),
            mvcc_info="None",
        )


class TxnNotFoundError(MvccError):
    """No trace of the transaction on its primary key; or no lock, for a heartbeat."""

    def __init__(self, start_ts: int, key: bytes) -> None:
        super().__init__(f"no trace of the transaction {start_ts} on the key")
        self.start_ts = start_ts
        self.key = key

    def _key_error(self) -> kvrpcpb.KeyError:
        missing = kvrpcpb.TxnNotFound(start_ts=self.start_ts, primary_key=self.key)
        return kvrpcpb.KeyError(txn_not_found=missing)


class AssertionFailedError(MvccError):
    """The key's previous version is not what the client was sure of: its index and its data disagree.

    `assertion` is a kvrpcpb.Assertion; the two timestamps are 0 when there is no version.
    """

    def __init__(
        self,
        start_ts: int,
        key: bytes,
        assertion: kvrpcpb.Assertion,
        existing_start_ts: int = 0,
        existing_commit_ts: int = 0,
    ) -> None:
        super().__init__(f"assertion {kvrpcpb.Assertion.Name(assertion)} failed")
        self.start_ts = start_ts
        self.key = key
        self.assertion = assertion
        self.existing_start_ts = existing_start_ts
        self.existing_commit_ts = existing_commit_ts

    def _key_error(self) -> kvrpcpb.KeyError:
        failed = kvrpcpb.AssertionFailed(
            start_ts=self.start_ts,
            key=self.key,
            assertion=self.assertion,
            existing_start_ts=self.existing_start_ts,
            existing_commit_ts=self.existing_commit_ts,
        )
        return kvrpcpb.KeyError(assertion_failed=failed)


class PrimaryMismatchError(MvccError):
    """The status of a transaction was asked at a key that is not its primary; the lock names the true one."""

    def __init__(self, lock_info: kvrpcpb.LockInfo) -> None:
        super().__init__("the key is not the primary of its lock")
        self.lock_info = lock_info

    def _key_error(self) -> kvrpcpb.KeyError:
        return kvrpcpb.KeyError(primary_mismatch=kvrpcpb.PrimaryMismatch(lock_info=self.lock_info))


class DeadlockError(MvccError):
    """To wait would close a cycle. `wait_chain` has every edge of it, the closing one last."""

    def __init__(
        self,
        start_ts: int,
        lock_ts: int,
        lock_key: bytes,
        deadlock_key_hash: int,
        wait_chain: Iterable[deadlock.WaitForEntry],
    ) -> None:
        super().__init__(f"deadlock between the transactions {start_ts} and {lock_ts}")
        self.start_ts = start_ts
        self.lock_ts = lock_ts
        self.lock_key = lock_key
        self.deadlock_key_hash = deadlock_key_hash
        self.wait_chain = tuple(wait_chain)

    def _key_error(self) -> kvrpcpb.KeyError:
        closed = kvrpcpb.Deadlock(
            lock_ts=self.lock_ts,
            lock_key=self.lock_key,
            deadlock_key_hash=self.deadlock_key_hash,
            wait_chain=self.wait_chain,
        )
        return kvrpcpb.KeyError(deadlock=closed)


class CommittedError(MvccError):
    """A rollback of what has been committed."""

    def __init__(self, start_ts: int, commit_ts: int, key: bytes) -> None:
        super().__init__(f"the transaction {start_ts} has been committed at {commit_ts}")
        self.start_ts = start_ts
        self.commit_ts = commit_ts
        self.key = key

    def _inner(self) -> str:
        fields = {"start_ts": _ts(self.start_ts), "commit_ts": _ts(self.commit_ts), "key": _bytes(self.key)}
        return _struct("Committed", **fields)


class PessimisticLockRolledBackError(MvccError):
    """A pessimistic lock for a transaction that has been rolled back on this key."""

    def __init__(self, start_ts: int, key: bytes) -> None:
        super().__init__(f"the transaction {start_ts} has been rolled back")
        self.start_ts = start_ts
        self.key = key

    def _inner(self) -> str:
        return _struct("PessimisticLockRolledBack", start_ts=_ts(self.start_ts), key=_bytes(self.key))


class LockLost(enum.Enum):
    """Why a pessimistic lock counts as lost; the values are TiKV's names."""

    LOCK_TS_MISMATCH = "LockTsMismatch"
    LOCK_MISSING_AMEND_FAIL = "LockMissingAmendFail"
    LOCK_FOR_UPDATE_TS_MISMATCH = "LockForUpdateTsMismatch"
    NON_LOCK_KEY_CONFLICT = "NonLockKeyConflict"


class PessimisticLockNotFoundError(MvccError):
    """A prewrite that stands on a pessimistic lock which is gone, and data may have changed since."""

    def __init__(self, start_ts: int, key: bytes, reason: LockLost) -> None:
        super().__init__(f"the pessimistic lock of the transaction {start_ts} is gone: {reason.value}")
        self.start_ts = start_ts
        self.key = key
        self.reason = reason

    def _inner(self) -> str:
        fields = {"start_ts": _ts(self.start_ts), "key": _bytes(self.key), "reason": self.reason.value}
        return _struct("PessimisticLockNotFound", **fields)


class LockTypeNotMatchError(MvccError):
    """An optimistic prewrite over the own pessimistic lock (`pessimistic`), or a pessimistic lock over a prewrite."""

    def __init__(self, start_ts: int, key: bytes, *, pessimistic: bool) -> None:
        held = "pessimistic" if pessimistic else "prewritten"
        super().__init__(f"the transaction {start_ts} holds a {held} lock on the key")
        self.start_ts = start_ts
        self.key = key
        self.pessimistic = pessimistic

    def _inner(self) -> str:
        fields = {"start_ts": _ts(self.start_ts), "key": _bytes(self.key), "pessimistic": str(self.pessimistic).lower()}
        return _struct("LockTypeNotMatch", **fields)


class LockIfExistsFailedError(MvccError):
    """lock_only_if_exists without return_values: the client could not tell whether it has the lock."""

    def __init__(self, start_ts: int, key: bytes) -> None:
        super().__init__("lock_only_if_exists needs return_values")
        self.start_ts = start_ts
        self.key = key

    def _inner(self) -> str:
        return _struct("LockIfExistsFailed", start_ts=_ts(self.start_ts), key=_bytes(self.key))


class GenerationOutOfOrderError(MvccError):
    """A flush that comes after a later one of the same key. The flush ignores the mutation; no client sees this."""

    def __init__(self, generation: int, lock_generation: int) -> None:
        super().__init__(f"generation {generation} comes after {lock_generation}")
        self.generation = generation
        self.lock_generation = lock_generation
