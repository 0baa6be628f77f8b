"""What follows from a lock that was met, and from what the store says about its transaction: decisions without I/O.

*Status* of a transaction, from an answer to CheckTxnStatus:

    commit_version > 0                                          COMMITTED    final
    lock_ttl = 0; nothing, rolled back, rolled back by expiry   ROLLED_BACK  final
    lock_ttl = 0; pessimistic lock expired, or did nothing      LOCK_GONE    the transaction may go on elsewhere
    lock_ttl > 0; min_commit_ts pushed                          PUSHED       it will commit after the reader
    lock_ttl > 0                                                ALIVE

Only final statuses may be remembered. A reader passes over a lock whose transaction is PUSHED, was rolled back, or
committed after the reader's timestamp (IGNORE); it takes the value that waits behind the lock of one that committed
before (ACCESS); and it waits for the others, as a writer does for all that live.

*Expiry* is reckoned with the oracle's time alone. A lock lives up to and including the millisecond `start + ttl`.

*Async commit*: a transaction whose primary says so is committed as soon as all its keys are locked. `SecondaryCheck`
gathers what stores say of the secondaries: a lock missing anywhere settles it (committed at the timestamp that is
named, or rolled back for none), all present settle it too (committed at the greatest min_commit_ts), and one without
the mark says that the transaction went on as ordinary two-phase commit (`FellBack`).

Source of the rules: client-go txnkv/txnlock/lock_resolver.go; TiKV src/storage/txn/actions/check_txn_status.rs.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import Final

from pytikv.errors import ServerError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Timestamp

__all__ = [
    "LITE_BELOW_KEYS",
    "Fate",
    "FellBack",
    "LockGroup",
    "ReadVerdict",
    "SecondaryCheck",
    "TxnStatus",
    "expires_in_ms",
    "group_locks",
    "read_verdict",
    "status_of",
]

LITE_BELOW_KEYS: Final = 512
"""Transactions with fewer keys in the region are resolved key by key; for others the store looks through the region."""
_PESSIMISTIC: Final = frozenset({kvrpcpb.PessimisticLock, kvrpcpb.SharedPessimisticLock})
_ROLLED_BACK: Final = frozenset({kvrpcpb.NoAction, kvrpcpb.LockNotExistRollback, kvrpcpb.TTLExpireRollback})


class Fate(enum.Enum):
    """What became of a transaction."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    LOCK_GONE = "lock gone"
    PUSHED = "pushed"
    ALIVE = "alive"


@dataclasses.dataclass(frozen=True, slots=True)
class TxnStatus:
    """The status of a transaction; `primary` is the lock on its primary key, where one was found."""

    fate: Fate
    commit_ts: int = 0
    ttl_ms: int = 0
    primary: kvrpcpb.LockInfo | None = None

    @property
    def is_final(self) -> bool:
        """Whether it will never change again."""
        return self.fate is Fate.COMMITTED or self.fate is Fate.ROLLED_BACK

    @property
    def is_alive(self) -> bool:
        """Whether its lock stands."""
        return self.fate is Fate.ALIVE or self.fate is Fate.PUSHED

    @property
    def is_async_commit(self) -> bool:
        """Whether it may be committed already although its primary is locked."""
        return self.is_alive and self.primary is not None and self.primary.use_async_commit

    @classmethod
    def final(cls, commit_ts: int) -> TxnStatus:
        """Return the status of a transaction that committed at `commit_ts`; 0: was rolled back."""
        return cls(Fate.COMMITTED, commit_ts) if commit_ts else cls(Fate.ROLLED_BACK)


def status_of(answer: kvrpcpb.CheckTxnStatusResponse) -> TxnStatus:
    """Read an answer without an error."""
    primary = answer.lock_info if answer.HasField("lock_info") else None
    if answer.commit_version:
        return TxnStatus(Fate.COMMITTED, answer.commit_version)
    if answer.lock_ttl:
        fate = Fate.PUSHED if answer.action == kvrpcpb.MinCommitTSPushed else Fate.ALIVE
        return TxnStatus(fate, ttl_ms=answer.lock_ttl, primary=primary)
    return TxnStatus(Fate.ROLLED_BACK if answer.action in _ROLLED_BACK else Fate.LOCK_GONE)


class ReadVerdict(enum.Enum):
    """What a reader does about a lock."""

    IGNORE = "ignore"
    ACCESS = "access"
    WAIT = "wait"


def read_verdict(status: TxnStatus, read_ts: int) -> ReadVerdict:
    """Decide for a reader at `read_ts`."""
    if status.fate is Fate.COMMITTED:
        return ReadVerdict.ACCESS if status.commit_ts <= read_ts else ReadVerdict.IGNORE
    if status.fate is Fate.ROLLED_BACK or status.fate is Fate.PUSHED:
        return ReadVerdict.IGNORE
    return ReadVerdict.WAIT


def expires_in_ms(start_ts: int, ttl_ms: int, now_ts: int) -> int:
    """Return the milliseconds until a lock may be taken for abandoned; 0: it may."""
    return max(0, Timestamp(start_ts).physical_ms + ttl_ms + 1 - Timestamp(now_ts).physical_ms)


@dataclasses.dataclass(slots=True)
class LockGroup:
    """Locks of one transaction that are settled by one look at one primary. `keys` in wire form, each once."""

    start_ts: int
    primary: bytes
    is_pessimistic: bool
    locks: dict[bytes, kvrpcpb.LockInfo] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> kvrpcpb.LockInfo:
        """Any one of the locks."""
        return next(iter(self.locks.values()))

    @property
    def is_large(self) -> bool:
        """Whether the locks are resolved by region and not by key."""
        return any(lock.txn_size >= LITE_BELOW_KEYS for lock in self.locks.values())

    @property
    def is_small(self) -> bool:
        """Whether the locks, when the transaction has ended, are resolved by key, or together with others."""
        return not self.is_pessimistic and not self.is_large

    def by_for_update_ts(self) -> dict[int, list[bytes]]:
        """Return the keys by the for_update_ts up to which their pessimistic locks may be rolled back."""
        found: dict[int, list[bytes]] = {}
        for key, lock in self.locks.items():
            if key != self.primary:  # the look at the primary has rolled that one back
                found.setdefault(lock.lock_for_update_ts, []).append(key)
        return found


def group_locks(locks: Iterable[kvrpcpb.LockInfo]) -> list[LockGroup]:
    """Group locks by transaction, primary and kind; a shared lock counts as those of all its holders."""
    groups: dict[tuple[int, bytes, bool], LockGroup] = {}
    for wrapper in locks:
        for lock in wrapper.shared_lock_infos or (wrapper,):
            start_ts, primary, is_pessimistic = lock.lock_version, lock.primary_lock, lock.lock_type in _PESSIMISTIC
            group = groups.get((start_ts, primary, is_pessimistic))
            if group is None:
                group = groups[start_ts, primary, is_pessimistic] = LockGroup(start_ts, primary, is_pessimistic)
            group.locks[lock.key or wrapper.key] = lock
    return list(groups.values())


class FellBack(Exception):
    """A secondary is locked without async commit: the transaction went on as an ordinary one. Internal."""


class SecondaryCheck:
    """Gathers what stores say of the secondaries of one async commit; see the module's docstring."""

    def __init__(self, start_ts: int, min_commit_ts: int) -> None:
        self._start_ts = start_ts
        self._is_missing = False
        self.commit_ts = min_commit_ts
        """When all was taken: the transaction's commit timestamp; 0: it was rolled back."""
        self.keys: list[bytes] = []
        """The secondaries that are locked."""

    def take(self, locks: Sequence[kvrpcpb.LockInfo], asked: int, commit_ts: int) -> None:
        """Take an answer about `asked` keys. Raises FellBack; ServerError where stores contradict each other."""
        for lock in locks:
            if lock.lock_version != self._start_ts:
                raise ServerError(
                    f"asked for locks of transaction {self._start_ts}, the store told {lock.lock_version}"
                )
        if len(locks) < asked:
            self._settle(commit_ts)
            self.keys += [lock.key for lock in locks]
            return
        for lock in locks:
            if not lock.use_async_commit:
                raise FellBack
            if not self._is_missing:
                self.commit_ts = max(self.commit_ts, lock.min_commit_ts)
            self.keys.append(lock.key)

    def _settle(self, commit_ts: int) -> None:
        is_early = commit_ts != 0 and not self._is_missing and commit_ts < self.commit_ts
        if is_early or (self._is_missing and commit_ts != self.commit_ts):
            text = f"{commit_ts} and {self.commit_ts}"
            raise ServerError(f"stores tell two commit timestamps of transaction {self._start_ts}: {text}")
        self._is_missing = True
        self.commit_ts = commit_ts
