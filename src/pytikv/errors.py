"""Every error of pytikv: one root, and on each error what a caller must know before acting on it.

Three facts ride on every error:

* `code`: a stable short name for logs and metrics, such as ``"DeadlineExceeded"``.
* `retryable`: whether doing the same thing again, later, can succeed.
* `outcome`: what became of the write. `Outcome.NOT_APPLIED`: nothing was changed. `Outcome.APPLIED`: the change is
  there. `Outcome.UNDETERMINED`: the request may or may not have taken effect; read before acting.

`outcome` answers whether a retry is *safe*, `retryable` whether it is *useful*. Reads always carry NOT_APPLIED.

Invariants: every class below `TikvError` can be pickled, and its `str` never contains a value; keys are shown
escaped, or not at all after `redact_keys(True)`. The public tree is a contract; add to it, never rename.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

__all__ = [
    "AssertionFailed",
    "BatchError",
    "CircuitOpen",
    "ClientClosed",
    "CommitUndetermined",
    "ConfigError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Deadlock",
    "InvalidArgument",
    "KeyExists",
    "KeyLocked",
    "LockTimeout",
    "Outcome",
    "Overloaded",
    "RegionUnavailable",
    "ServerError",
    "SnapshotTooOld",
    "StorageError",
    "TikvError",
    "TransactionAborted",
    "TransactionError",
    "TransactionTooLarge",
    "UnsupportedByServer",
    "WaitForEntry",
    "WriteConflict",
    "WrongType",
    "format_key",
    "redact_keys",
]


class Outcome(enum.Enum):
    """What happened to the write that an error reports on."""

    NOT_APPLIED = "not_applied"
    APPLIED = "applied"
    UNDETERMINED = "undetermined"


_redact = False


def redact_keys(on: bool) -> None:
    """Hide keys in the text of errors and logs made from now on, process-wide; values are never shown at all."""
    global _redact
    _redact = on


def format_key(key: bytes, limit: int = 64) -> str:
    """Return `key` readable for a message: escaped and cut after `limit` bytes, or ``?`` when keys are redacted.

    >>> format_key(b"user_1")
    "b'user_1'"
    """
    if _redact:
        return "?"
    return repr(key) if len(key) <= limit else f"{key[:limit]!r}... ({len(key)} bytes)"


class TikvError(Exception):
    """Root of all errors of pytikv."""

    code: str = "TikvError"
    retryable: bool = False
    outcome: Outcome = Outcome.NOT_APPLIED

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            cls.code = cls.__name__

    def __init__(self, message: str = "", *, outcome: Outcome | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        if outcome is not None:
            self.outcome = outcome
        if retryable is not None:
            self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with `args`, which loses keyword-only fields: restore the dict instead.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[TikvError], args: tuple[Any, ...], state: dict[str, Any]) -> TikvError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# --- misuse -----------------------------------------------------------------------------------------------------------


class InvalidArgument(TikvError, ValueError):
    """An argument is out of range or ill-formed; nothing was sent."""


class WrongType(InvalidArgument, TypeError):
    """An argument has the wrong type; nothing was sent. Caught as InvalidArgument, ValueError or TypeError."""

    code = "InvalidArgument"


class ClientClosed(TikvError):
    """The client was closed, or belongs to the process that this one was forked from."""


class UnsupportedByServer(TikvError):
    """The store does not have what was asked for, or has it switched off."""


class ConfigError(TikvError):
    """The configuration contradicts itself or the cluster: the message names the option and the remedy."""


# --- the way to the data ----------------------------------------------------------------------------------------------


class ConnectionFailed(TikvError, ConnectionError):
    """No connection could be made, or it broke. The message names the address and the reason."""

    retryable = True


class DeadlineExceeded(TikvError, TimeoutError):
    """The time for the call ran out. The message holds the last causes met on the way."""

    retryable = True


class Overloaded(TikvError):
    """The store, or a limit of this client, refused more work for now."""

    retryable = True


class CircuitOpen(Overloaded):
    """The circuit breaker of a store or of PD is open: too many requests there failed or were slow. Nothing was sent.

    `address`: `host:port`. `retry_in_s`: seconds until probes are let through again; 0 where they are under way.
    """

    def __init__(self, message: str = "", *, address: str = "", retry_in_s: float = 0.0) -> None:
        super().__init__(message)
        self.address = address
        self.retry_in_s = retry_in_s


class RegionUnavailable(TikvError):
    """No replica of the key's region could serve the request within the budget."""

    retryable = True


class ServerError(TikvError):
    """The server answered with an error that has no class of its own; its text is the message."""


class BatchError(TikvError):
    """Part of a batch could not be done. `failed` maps each key concerned to its error; every other key was done."""

    def __init__(self, message: str = "", *, failed: Mapping[bytes, TikvError]) -> None:
        super().__init__(message)
        self.failed = dict(failed)
        outcomes = {error.outcome for error in self.failed.values()}
        self.outcome = outcomes.pop() if len(outcomes) == 1 else Outcome.UNDETERMINED
        self.retryable = all(error.retryable for error in self.failed.values())


# --- transactions -----------------------------------------------------------------------------------------------------


class TransactionError(TikvError):
    """Root of what can go wrong in a transaction. `key`: the key concerned, as users know it; None where unknown."""

    def __init__(
        self,
        message: str = "",
        *,
        key: bytes | None = None,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, outcome=outcome, retryable=retryable)
        self.key = key


class WriteConflict(TransactionError):
    """Another transaction wrote the key after this one began: run the whole transaction again.

    `start_ts`: of this transaction. `conflict_start_ts` and `conflict_commit_ts`: of the other one; 0 where the store
    did not say. `reason`: the store's word for the kind of conflict, as ``"Optimistic"``; may be empty.
    """

    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        key: bytes | None = None,
        start_ts: int = 0,
        conflict_start_ts: int = 0,
        conflict_commit_ts: int = 0,
        reason: str = "",
    ) -> None:
        super().__init__(message, key=key)
        self.start_ts = start_ts
        self.conflict_start_ts = conflict_start_ts
        self.conflict_commit_ts = conflict_commit_ts
        self.reason = reason


class KeyExists(TransactionError):
    """An insert met a `key` that exists."""


class KeyLocked(TransactionError):
    """Another transaction holds the key and the caller did not want to wait.

    `lock_ts`: start_ts of the holder; 0 where unknown. A pessimistic transaction stays usable.
    """

    retryable = True

    def __init__(self, message: str = "", *, key: bytes | None = None, lock_ts: int = 0) -> None:
        super().__init__(message, key=key)
        self.lock_ts = lock_ts


class LockTimeout(TransactionError):
    """The lock was not had within the time given. The transaction stays usable. `lock_ts`: as for KeyLocked."""

    retryable = True

    def __init__(self, message: str = "", *, key: bytes | None = None, lock_ts: int = 0) -> None:
        super().__init__(message, key=key)
        self.lock_ts = lock_ts


@dataclasses.dataclass(frozen=True, slots=True)
class WaitForEntry:
    """One edge of a deadlock: the transaction `txn` waits for `key`, which `wait_for_txn` has locked.

    Transactions are named by their start_ts; keys are users' keys, `b""` where the store did not say.
    """

    txn: int
    wait_for_txn: int
    key: bytes = b""
    resource_group_tag: bytes = b""


class Deadlock(TransactionError):
    """Transactions wait for each other in a circle; this one was chosen to give way: run it again from its beginning.

    `wait_chain`: the edges of the circle, the one that closed it last. `lock_ts`: start_ts of the transaction that
    holds the wanted `key`.
    """

    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        key: bytes | None = None,
        lock_ts: int = 0,
        wait_chain: tuple[WaitForEntry, ...] = (),
    ) -> None:
        super().__init__(message, key=key)
        self.lock_ts = lock_ts
        self.wait_chain = wait_chain


class TransactionAborted(TransactionError):
    """The transaction was rolled back by someone else, as a rule because its locks outlived their TTL."""

    retryable = True


class AssertionFailed(TransactionError):
    """An assertion about a key's existence did not hold: the data is not what the program believes it to be.

    `start_ts`: of this transaction. `existing_start_ts` and `existing_commit_ts`: of the version met; 0: there is none.
    """

    def __init__(
        self,
        message: str = "",
        *,
        key: bytes | None = None,
        start_ts: int = 0,
        existing_start_ts: int = 0,
        existing_commit_ts: int = 0,
    ) -> None:
        super().__init__(message, key=key)
        self.start_ts = start_ts
        self.existing_start_ts = existing_start_ts
        self.existing_commit_ts = existing_commit_ts


class SnapshotTooOld(TransactionError):
    """The timestamp lies below the GC safe point; its data may be gone. Begin anew, or collect garbage less eagerly."""


class TransactionTooLarge(TransactionError):
    """The transaction, or one entry of it, is over the limit. The write that was too much has not been taken."""


class CommitUndetermined(TransactionError):
    """The answer to a commit was lost: it may have happened. Read before acting; never retried by the library."""

    outcome = Outcome.UNDETERMINED


# --- storage ----------------------------------------------------------------------------------------------------------


class StorageError(TikvError):
    """The embedded store cannot go on: corrupt, full, read-only or already open elsewhere."""
