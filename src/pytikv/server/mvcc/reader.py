"""Reading locks, versions and values of one moment: what actions decide by.

A reader stands on a snapshot (or, in tests and tools, on an engine) and is used by one thread for one command. Keys are
encoded keys. The records of one key lie newest first in ``write``; `seek_write` finds the newest at or below a
timestamp by one seek, and when the next question is about an older record of the same key it walks a few records
before it seeks again, since walking is cheaper. A cursor costs more to open than the first question about a key by the
engine's `seeker`; who has one at hand gives it, and a cursor is opened only when a key has more to tell.

Damage (bytes that no encoder wrote, a value that is missing) raises StorageError naming the key.

Sources: TiKV src/storage/mvcc/reader/{reader,mod}.rs.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, cast

from pytikv.errors import StorageError, format_key
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Cursor, Engine, Reader
from pytikv.server.mvcc.keys import TS_BYTES, TS_MAX, data_key, wire_key
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType, decode_lock, decode_write

__all__ = ["SEEK_BOUND", "CommitKind", "CommitRecord", "MvccReader", "OverlappedWrite"]

SEEK_BOUND: Final = 8
"""Records walked over before a seek is tried, and the number of versions from which a last change is jumped to."""

First = Callable[[bytes], tuple[bytes, bytes] | None]
"""See `Engine.seeker`."""


class CommitKind(enum.Enum):
    """What became of a transaction on a key."""

    NONE = "none"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    OVERLAPPED_ROLLBACK = "overlapped rollback"


class OverlappedWrite(NamedTuple):
    """Another transaction's record that lies where a rollback of the transaction asked for would be written."""

    write: Write
    gc_fence: int
    """The commit_ts of the next newer PUT or DELETE, 0 when there is none: for the record when it is rewritten."""


@dataclasses.dataclass(slots=True)
class CommitRecord:
    """The answer of `MvccReader.txn_commit_record`."""

    kind: CommitKind
    commit_ts: int = 0
    """Where the record lies; of a rollback, its start_ts."""
    write: Write | None = None
    """The record, of COMMITTED and ROLLED_BACK."""
    overlapped: OverlappedWrite | None = None
    """Of NONE: the record at exactly start_ts, when there is one."""

    @property
    def is_rollback(self) -> bool:
        """Whether the transaction was rolled back on this key."""
        return self.kind in (CommitKind.ROLLED_BACK, CommitKind.OVERLAPPED_ROLLBACK)


class MvccReader:
    """Reads through one snapshot. See the module's docstring."""

    __slots__ = ("_asked", "_at_key", "_at_ts", "_first", "_reader", "_write_cursor")

    def __init__(self, reader: Reader, first: First | None = None) -> None:
        """`first`: the seeker of ``write`` of the engine that `reader` is; the keys asked for must stand still."""
        self._reader = reader
        self._first = first
        self._asked = b""
        self._write_cursor: Cursor | None = None
        # Where the write cursor stands after a seek that found a record; an empty key: nowhere.
        self._at_key = b""
        self._at_ts = 0

    # --- locks --------------------------------------------------------------------------------------------------------

    def load_lock(self, key: bytes) -> Lock | None:
        """Return the lock of `key`, the container when the locks are shared."""
        data = self._reader.get(CF_LOCK, key)
        return None if data is None else self.decode_lock(key, data)

    def scan_locks(
        self, start: bytes, end: bytes, matches: Callable[[bytes, Lock], bool], limit: int = 0
    ) -> tuple[list[tuple[bytes, Lock]], bytes | None]:
        """Return the locks in `[start, end)` that match, up to `limit` (0: all), and where to go on (None: no more).

        Shared locks are matched one by one and count each; their container is returned with those that match. A
        container is never cut, so that the locks may be more than `limit` by the members of the last one.
        """
        found: list[tuple[bytes, Lock]] = []
        count = 0
        for key, data in self._reader.scan(CF_LOCK, start, end):
            lock = self.decode_lock(key, data)
            if lock.is_shared:
                members = tuple([member for member in lock.members if matches(key, member)])
                if members:
                    found.append((key, dataclasses.replace(lock, members=members)))
                    count += len(members)
            elif matches(key, lock):
                found.append((key, lock))
                count += 1
            if 0 < limit <= count:
                return found, key + b"\x00"
        return found, None

    def decode_lock(self, key: bytes, data: bytes) -> Lock:
        """Decode the lock record of `key`. Raises StorageError naming the key."""
        try:
            return decode_lock(data)
        except StorageError as error:
            raise StorageError(f"{error}, of key {_show(key)}") from error

    # --- versions -----------------------------------------------------------------------------------------------------

    def seek_write(self, key: bytes, ts: int) -> tuple[int, Write] | None:
        """Return the newest record with commit_ts at or below `ts`, and its commit_ts."""
        if self._first is not None and key != self._asked:
            return self._first_write(self._first, key, ts)
        found = self._seek(key, ts)
        if found is None:
            return None
        return found, self.decode_write(key, found, self._cursor().value())

    def _first_write(self, first: First, key: bytes, ts: int) -> tuple[int, Write] | None:
        """Answer the first question about a key."""
        self._asked = key
        try:
            found = first(data_key(key, ts))
        except Exception as error:
            raise cast("Engine", self._reader).error(error) from error
        if found is None or (commit_ts := _commit_ts(found[0], key)) is None:
            return None
        return commit_ts, self.decode_write(key, commit_ts, found[1])

    def get_write(self, key: bytes, ts: int, gc_fence_limit: int | None = None) -> tuple[int, Write] | None:
        """Return the PUT that is visible at `ts` and its commit_ts; None when there is none, or a DELETE.

        LOCK and ROLLBACK records are passed over. `gc_fence_limit`: the timestamp of the transaction that asks, for
        `Write.is_fenced_at`; None when the caller is no transactional read. No PUT or DELETE may lie between `ts` and
        the limit. Locks are not looked at.
        """
        found = self.seek_write(key, ts)
        while found is not None:
            commit_ts, write = found
            if gc_fence_limit is not None and write.is_fenced_at(gc_fence_limit):
                return None
            if write.write_type is WriteType.PUT:
                return found
            if write.write_type is WriteType.DELETE or commit_ts == 0:
                return None
            found = self._older_change(key, commit_ts, write)
        return None

    def _older_change(self, key: bytes, commit_ts: int, write: Write) -> tuple[int, Write] | None:
        """Return the next record below a LOCK or ROLLBACK, or the last change right away where it is known and far."""
        if write.versions_to_last_change and not write.last_change_ts:
            return None
        if write.versions_to_last_change < SEEK_BOUND:
            return self.seek_write(key, commit_ts - 1)
        change_ts = write.last_change_ts
        data = self._reader.get(CF_WRITE, data_key(key, change_ts))
        if data is None:
            return None  # collected
        change = self.decode_write(key, change_ts, data)
        if change.write_type not in (WriteType.PUT, WriteType.DELETE):
            raise StorageError(f"damaged write record of key {_show(key)}: last_change_ts {change_ts} is no change")
        return change_ts, change

    def load_value(self, key: bytes, write: Write) -> bytes:
        """Return the value that a PUT record is about. Raises StorageError when it is not there."""
        if write.short_value is not None:
            return write.short_value
        value = self.load_long_value(key, write.start_ts)
        if value is None:
            raise StorageError(f"the value of key {_show(key)} at start_ts {write.start_ts} is missing")
        return value

    def locked_value(self, key: bytes, lock: Lock) -> bytes | None:
        """Return the value that `lock` will commit; None: it deletes, or changes nothing. Raises as `load_value`."""
        if lock.lock_type is not LockType.PUT:
            return None
        return self.load_value(key, Write(WriteType.PUT, lock.start_ts, lock.short_value))

    def load_long_value(self, key: bytes, start_ts: int) -> bytes | None:
        """Return what ``default`` holds for one transaction's write of `key`."""
        return self._reader.get(CF_DEFAULT, data_key(key, start_ts))

    def get(self, key: bytes, ts: int, gc_fence_limit: int | None = None) -> bytes | None:
        """Return the value that is visible at `ts`. As `get_write`, then `load_value`."""
        found = self.get_write(key, ts, gc_fence_limit)
        return None if found is None else self.load_value(key, found[1])

    def txn_commit_record(self, key: bytes, start_ts: int) -> CommitRecord:
        """Find what became of the transaction `start_ts` on `key`: its commit or rollback record.

        Walks from the newest record down to start_ts: a commit_ts says nothing about the order of start_ts.
        """
        gc_fence = 0
        for commit_ts, write in self.writes(key, TS_MAX):
            if write.start_ts == start_ts:
                kind = CommitKind.ROLLED_BACK if write.write_type is WriteType.ROLLBACK else CommitKind.COMMITTED
                return CommitRecord(kind, commit_ts, write)
            if commit_ts == start_ts:
                if write.has_overlapped_rollback:
                    return CommitRecord(CommitKind.OVERLAPPED_ROLLBACK, commit_ts)
                return CommitRecord(CommitKind.NONE, overlapped=OverlappedWrite(write, gc_fence))
            if write.write_type in (WriteType.PUT, WriteType.DELETE):
                gc_fence = commit_ts
            if commit_ts < start_ts:
                break
        return CommitRecord(CommitKind.NONE)

    def writes(self, key: bytes, ts: int = TS_MAX) -> Iterator[tuple[int, Write]]:
        """Iterate over the records of `key` from the newest at or below `ts` to the oldest."""
        found = self.seek_write(key, ts)
        while found is not None:
            yield found
            found = self.older_write(key, found[0])

    def older_write(self, key: bytes, commit_ts: int) -> tuple[int, Write] | None:
        """Return the next record of `key` below the one at `commit_ts`."""
        return self.seek_write(key, commit_ts - 1) if commit_ts else None

    def has_records(self, start: bytes, end: bytes) -> bool:
        """Tell whether ``write`` holds any record in `[start, end)`, both with or without timestamps."""
        return next(iter(self._reader.scan(CF_WRITE, start, end)), None) is not None

    # --- the cursor ---------------------------------------------------------------------------------------------------

    def _cursor(self) -> Cursor:
        if self._write_cursor is None:
            self._write_cursor = self._reader.cursor(CF_WRITE)
        return self._write_cursor

    def _seek(self, key: bytes, ts: int) -> int | None:
        """Place the cursor at the newest record at or below `ts`; return its commit_ts, None when there is none."""
        cursor = self._cursor()
        if self._at_key == key and ts < self._at_ts:
            for _ in range(SEEK_BOUND):
                if not cursor.next():
                    self._at_key = b""
                    return None
                commit_ts = self._arrived(cursor, key)
                if commit_ts is None or commit_ts <= ts:
                    return commit_ts
        if not cursor.seek(data_key(key, ts)):
            self._at_key = b""
            return None
        return self._arrived(cursor, key)

    def _arrived(self, cursor: Cursor, key: bytes) -> int | None:
        commit_ts = _commit_ts(cursor.key(), key)
        if commit_ts is None:
            self._at_key = b""
            return None
        self._at_key = key
        self._at_ts = commit_ts
        return commit_ts

    def decode_write(self, key: bytes, commit_ts: int, data: bytes) -> Write:
        """Decode a write record of `key`. Raises StorageError naming the key."""
        try:
            return decode_write(data)
        except StorageError as error:
            raise StorageError(f"{error}, of key {_show(key)} at commit_ts {commit_ts}") from error


def _commit_ts(stored: bytes, key: bytes) -> int | None:
    """Return the commit_ts in a key of ``write``, None when it is another key's."""
    if len(stored) != len(key) + TS_BYTES or not stored.startswith(key):
        return None
    return TS_MAX - int.from_bytes(stored[-TS_BYTES:], "big")


def _show(key: bytes) -> str:
    try:
        return format_key(wire_key(key))
    except StorageError:
        return format_key(key)
