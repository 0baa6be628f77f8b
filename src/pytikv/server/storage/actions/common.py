"""Small questions that several actions ask.

*Last change*: a pair as in `mvcc.records`: (0, 0) unknown, (0, 1) none, else the timestamp of the latest PUT or DELETE
and how many records away it is. LOCK records carry it so that a reader jumps over rows of them.

Sources: TiKV src/storage/txn/actions/{common,check_data_constraint}.rs.
"""

from __future__ import annotations

from typing import Final

from pytikv.codec import memcomparable
from pytikv.server.mvcc.errors import AlreadyExistError
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import CommitKind, MvccReader
from pytikv.server.mvcc.records import Lock, Write, WriteType
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.types import LOGICAL_BITS

__all__ = [
    "NOT_EXIST",
    "UNKNOWN",
    "check_data_constraint",
    "committed_at",
    "is_expired",
    "is_fenced",
    "is_primary",
    "lock_of",
    "next_last_change",
    "present_lock",
    "remove_lock",
]

UNKNOWN: Final = (0, 0)
NOT_EXIST: Final = (0, 1)
_DATA: Final = (WriteType.PUT, WriteType.DELETE)


def is_primary(key: bytes, primary: bytes) -> bool:
    """Tell whether the encoded `key` is the wire key `primary`."""
    return key == memcomparable.encode(primary)


def is_expired(lock: Lock, current_ts: int) -> bool:
    """Tell whether the lock's time is over. It lives up to and including its last millisecond."""
    return (lock.start_ts >> LOGICAL_BITS) + lock.ttl_ms < current_ts >> LOGICAL_BITS


def is_fenced(write: Write) -> bool:
    """Tell whether a key's newest record is one that was collected and came back: see `Write.gc_fence`."""
    return bool(write.gc_fence)


def committed_at(reader: MvccReader, key: bytes, start_ts: int) -> int:
    """Return the commit_ts of the transaction on this key, 0 when it is not committed."""
    record = reader.txn_commit_record(key, start_ts)
    return record.commit_ts if record.kind is CommitKind.COMMITTED else 0


def check_data_constraint(
    reader: MvccReader, key: bytes, newest: tuple[int, Write], start_ts: int, *, should_not_exist: bool
) -> None:
    """Raise AlreadyExistError when the key must have no value but has one. `newest`: its newest record."""
    commit_ts, write = newest
    if not should_not_exist or write.write_type is WriteType.DELETE or is_fenced(write):
        return
    if write.write_type is not WriteType.PUT:
        older = reader.get_write(key, commit_ts - 1, start_ts)
        if older is None:
            return
        write = older[1]
    raise AlreadyExistError(wire_key(key), write.start_ts)


def next_last_change(reader: MvccReader, key: bytes, newest: tuple[int, Write], start_ts: int) -> tuple[int, int]:
    """Return the last change of a record that will lie right above `newest`."""
    found: tuple[int, Write] | None = newest
    versions = 0
    while found is not None:
        commit_ts, write = found
        versions += 1
        if write.write_type in _DATA:
            gone = versions > 1 and (write.write_type is WriteType.DELETE or write.is_fenced_at(start_ts))
            return NOT_EXIST if gone else (commit_ts, versions)
        if write.last_change_ts:
            return write.last_change_ts, write.versions_to_last_change + versions
        if write.versions_to_last_change or not commit_ts:
            return NOT_EXIST
        found = reader.seek_write(key, commit_ts - 1)
    return NOT_EXIST


def present_lock(txn: MvccTxn, reader: MvccReader, key: bytes) -> Lock | None:
    """Return the lock of `key` as this command leaves it: members of one container may be dealt with in turn."""
    changed, lock = txn.pending_lock(key)
    return lock if changed else reader.load_lock(key)


def lock_of(start_ts: int, found: Lock | None) -> tuple[Lock | None, Lock | None]:
    """Return the lock that a transaction has to do with on a key, and the container that it is a member of.

    Of shared locks that is its own member, else what was `found`, whosever it is.
    """
    if found is None or not found.is_shared:
        return found, None
    return found.member(start_ts), found


def remove_lock(txn: MvccTxn, key: bytes, lock: Lock, container: Lock | None, *, commit_ts: int = 0) -> None:
    """Remove a lock, or a member from its container. Waiters are told once the key has no lock at all."""
    rest = None if container is None else container.without_member(lock.start_ts)
    if rest is not None and rest.members:
        txn.put_lock(key, rest, is_new=False)
    else:
        txn.unlock(key, lock, commit_ts=commit_ts)
