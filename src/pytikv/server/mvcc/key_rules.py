"""What must hold between the lock, the write records and the long values of one key.

A `KeyCheck` is fed one key's lock, then its write records from the newest to the oldest, then the start timestamps of
its long values, and tells what is wrong. It remembers timestamps only. The rules are such that no client, however
wrong, can make a sound store break them, but for one: a commit (by ResolveLock) at a timestamp below the start.

* One transaction has at most one record on a key, or a lock; never both. (But a pessimistic lock: a request that comes
  late takes one after the commit. Whoever meets it resolves it.)
* A PUT has its value, in the record or in ``default``. Nothing else has one.
* A commit lies above its start; a rollback at its start.
* A lock of an optimistic transaction lies above every commit on its key; a pessimistic one has a for_update_ts that
  does. Else a conflict was missed, and an update may be lost.
* A record's last change is what the next PUT or DELETE below it is; readers jump there without looking. It may be gone
  when nothing older is left: it has been collected.
* A gc_fence is on a commit that was rewritten for a rollback, and above it.

Sources: TiKV components/txn_types/src/{lock,write}.rs, src/storage/txn/actions.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType

__all__ = ["Grade", "KeyCheck"]


class Grade(enum.Enum):
    """How bad a problem is."""

    DAMAGE = "damage"
    """Reads or promises of transactions are broken."""
    LEFTOVER = "leftover"
    """Costs space and nothing else."""


Tell = Callable[[Grade, str], None]
_CHANGES = (WriteType.PUT, WriteType.DELETE)


class KeyCheck:
    """The check of one key. `tell(grade, text)` is called for each problem."""

    __slots__ = ("_claims", "_lock", "_seen", "_tell", "_wanted")

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock: Lock | None = None
        self._seen: dict[int, str] = {}
        """Transactions with a record or lock, and what."""
        self._wanted: dict[int, str] = {}
        """Transactions whose long value must be there, and for what."""
        self._claims: list[tuple[int, int, int]] = []
        """(commit_ts, last_change_ts, versions) of records above whose next change has not been met yet."""

    def _damage(self, text: str) -> None:
        self._tell(Grade.DAMAGE, text)

    # --- the lock -----------------------------------------------------------------------------------------------------

    def lock(self, lock: Lock) -> None:
        """Take the key's lock."""
        self._lock = lock
        if lock.is_shared and not lock.members:
            self._damage("the container of shared locks is empty")
        for one in lock.members if lock.is_shared else (lock,):
            self._take_lock(one)

    def _take_lock(self, lock: Lock) -> None:
        what = f"the {lock.lock_type.name} lock of transaction {lock.start_ts}"
        if not lock.is_pessimistic_lock:
            self._seen[lock.start_ts] = what
        if not lock.start_ts:
            self._damage("a lock has no start_ts")
        if lock.lock_type is LockType.PUT:
            if lock.short_value is None:
                self._wanted[lock.start_ts] = what
        elif lock.short_value is not None:
            self._damage(f"{what} has a value")

    def _against_lock(self, commit_ts: int, write: Write) -> None:
        """Look for a commit that the lock's transaction should have met as a conflict."""
        lock = self._lock
        if lock is None or lock.is_shared or write.start_ts == lock.start_ts:
            return
        if lock.is_pessimistic_lock:
            if commit_ts > lock.for_update_ts:
                self._damage(f"the commit at {commit_ts} is above for_update_ts {lock.for_update_ts} of the lock")
        elif not lock.is_pessimistic_txn and commit_ts > lock.start_ts:
            self._damage(f"the commit at {commit_ts} is above start_ts {lock.start_ts} of the optimistic lock")

    # --- write records ------------------------------------------------------------------------------------------------

    def write(self, commit_ts: int, write: Write) -> None:
        """Take the next older write record."""
        what = f"the {write.write_type.name} record at {commit_ts}"
        earlier = self._seen.get(write.start_ts)
        if earlier is not None:
            self._damage(f"transaction {write.start_ts} has {earlier} and {what}")
        self._seen[write.start_ts] = what
        if write.write_type is WriteType.ROLLBACK:
            self._rollback(what, commit_ts, write)
        else:
            self._commit(what, commit_ts, write)
        self._last_change(commit_ts, write)

    def _rollback(self, what: str, commit_ts: int, write: Write) -> None:
        if commit_ts != write.start_ts:
            self._damage(f"{what} is of transaction {write.start_ts}")
        if write.short_value is not None and not write.is_protected:
            self._damage(f"{what} has a value")
        if write.has_overlapped_rollback or write.gc_fence is not None:
            self._damage(f"{what} has marks of a commit")

    def _commit(self, what: str, commit_ts: int, write: Write) -> None:
        if commit_ts <= write.start_ts:
            self._damage(f"{what} is not above its start_ts {write.start_ts}")
        if write.write_type is WriteType.PUT:
            if write.short_value is None:
                self._wanted[write.start_ts] = what
        elif write.short_value is not None:
            self._damage(f"{what} has a value")
        if write.has_overlapped_rollback and commit_ts in self._seen:
            self._damage(f"transaction {commit_ts} has {self._seen[commit_ts]} and a rollback noted in {what}")
        if write.gc_fence is not None and (not write.has_overlapped_rollback or 0 < write.gc_fence <= commit_ts):
            self._damage(f"{what} has the gc_fence {write.gc_fence}, which makes no sense there")
        self._against_lock(commit_ts, write)

    def _last_change(self, commit_ts: int, write: Write) -> None:
        if write.write_type not in _CHANGES:
            if write.versions_to_last_change:
                self._claims.append((commit_ts, write.last_change_ts, write.versions_to_last_change))
            return
        for claimant, change_ts, _ in self._claims:
            if change_ts == 0:
                if write.write_type is WriteType.PUT:
                    self._damage(f"the record at {claimant} knows of no value, but there is one of {commit_ts}")
            elif change_ts != commit_ts:
                self._damage(f"the last change before {claimant} is at {commit_ts}, not at {change_ts}")
        self._claims.clear()

    # --- values -------------------------------------------------------------------------------------------------------

    def value(self, start_ts: int) -> None:
        """Take the start_ts of a long value."""
        if self._wanted.pop(start_ts, None) is None:
            owner = self._seen.get(start_ts)
            text = "which nothing refers to" if owner is None else f"which {owner} has no use for"
            self._tell(Grade.LEFTOVER, f"a long value of transaction {start_ts}, {text}")

    def finish(self) -> None:
        """Say what is missing at the end."""
        for start_ts, what in self._wanted.items():
            self._damage(f"{what} misses its value of start_ts {start_ts}")
