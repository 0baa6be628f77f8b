"""The value of one key at a timestamp.

`PointGetter.get` is the hottest read of the store, so it has two ways. The *short way* asks the engine three questions
at most: is there a lock, which is the first record at or below the timestamp, and, for a long value, what is it. When
there is no lock and the record is a plain PUT or DELETE, which is nearly always, that is the answer. Anything else (a
lock, a LOCK or ROLLBACK record to pass over, a record with more to it, a value that is missing, rules other than plain
snapshot isolation) goes the *long way*: a snapshot of the engine, and the whole algorithm from the start.

The short way needs no snapshot. The caller has raised max_ts to the timestamp, then has looked for memory locks
(`storage.concurrency`); here the lock family is read before the write family. A transaction that commits in between
either had its lock seen, or began to write after max_ts was raised and gets a commit_ts above the timestamp; a
version that has become visible is newer. What garbage collection takes away in between sends the read the long way.

Both ways seek: the cost does not grow with the number of versions.

Sources: TiKV src/storage/mvcc/reader/point_getter.rs, src/storage/mod.rs (get, the order of the checks).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pytikv.errors import StorageError
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Engine
from pytikv.server.mvcc.errors import KeyIsLocked, WriteConflictError
from pytikv.server.mvcc.keys import TS_MAX, data_key
from pytikv.server.mvcc.read_rules import SNAPSHOT, ReadRules, check_ts_conflict, newer_version
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Write, WriteType, decode_write, short_put_value

__all__ = ["PointGetter", "Version", "read_version"]

_pack = struct.Struct(">Q").pack


class Version(NamedTuple):
    """What a read found."""

    value: bytes
    commit_ts: int
    """0: read through the lock of a committed transaction."""


class PointGetter:
    """Reads single keys of an engine; one for all threads."""

    __slots__ = ("_default", "_engine", "_first", "_lock")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = engine.getter(CF_LOCK)
        self._first = engine.seeker(CF_WRITE)
        self._default = engine.getter(CF_DEFAULT)

    def get(self, key: bytes, ts: int) -> bytes | None:
        """Return the value of the encoded `key` at `ts`, under snapshot isolation.

        Raises KeyIsLocked, and StorageError on damage. To be called after max_ts was raised to `ts` and memory locks
        were looked at.
        """
        try:
            if self._lock(key) is None:
                found = self._first(key + _pack(TS_MAX - ts))
                if found is None or not found[0].startswith(key):
                    return None
                value = short_put_value(found[1])
                if value is not None:
                    return value
                write = _settled(found[1])
                if write is not None:
                    if write.write_type is WriteType.DELETE or write.short_value is not None:
                        return write.short_value
                    value = self._default(data_key(key, write.start_ts))
                    if value is not None:
                        return value
        except Exception as error:
            raise self._engine.error(error) from error
        version = self.read(key, ts, SNAPSHOT)
        return None if version is None else version.value

    def read(self, key: bytes, ts: int, rules: ReadRules, *, need_commit_ts: bool = False) -> Version | None:
        """Return the version of the encoded `key` that is visible at `ts` under `rules`; as `read_version`."""
        snapshot = self._engine.snapshot()
        try:
            return read_version(MvccReader(snapshot), key, ts, rules, need_commit_ts=need_commit_ts)
        finally:
            snapshot.close()


def _settled(record: bytes) -> Write | None:
    """Return the decoded record when it is an answer by itself."""
    try:
        write = decode_write(record)
    except StorageError:
        return None  # the long way says which key is damaged
    return write if write.write_type in (WriteType.PUT, WriteType.DELETE) and write.gc_fence is None else None


def read_version(
    reader: MvccReader, key: bytes, ts: int, rules: ReadRules, *, need_commit_ts: bool = False
) -> Version | None:
    """Return the version of the encoded `key` that is visible at `ts` under `rules`.

    `need_commit_ts`: the lock of a committed transaction does not say when it was committed, so it is reported instead
    of read through. Raises KeyIsLocked, WriteConflictError (RCCheckTS), and StorageError on damage.
    """
    lock = reader.load_lock(key) if rules.looks_at_locks else None
    if lock is not None:
        try:
            check_ts_conflict(lock, key, ts, rules)
        except (KeyIsLocked, WriteConflictError):
            if need_commit_ts or lock.start_ts not in rules.committed_locks:
                raise
            value = reader.locked_value(key, lock)
            return None if value is None else Version(value, 0)
    if rules.refuses_newer_versions:
        newest = reader.seek_write(key, TS_MAX)
        if newest is not None and newest[0] > ts:
            raise newer_version(key, ts, newest[0])
    found = reader.get_write(key, ts, ts)
    return None if found is None else Version(reader.load_value(key, found[1]), found[0])
