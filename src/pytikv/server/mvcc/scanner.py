"""Scanning a range at a timestamp, upwards and downwards, on one snapshot.

Two streams are merged by key: the *versions*, which come from the write family with one answer a key, and the *locks*.
A key whose lock is in the way yields an error in its place, and the scan goes on; a lock of a committed transaction
yields the value that it holds.

Versions are walked, and sought only after some walking within one key (`SEEK_BOUND` records), since a step is cheaper
than a seek: so a scan costs little more than its result as long as keys have few versions, and does not grow with the
number of versions where they have many. To seek is to begin another walk. Upwards the versions of a key come newest
first; downwards oldest first, so that the last one at or below the timestamp is the answer.

Source: TiKV src/storage/mvcc/reader/scanner/{forward,backward}.rs, src/storage/txn/store.rs (Scanner::scan).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Final, NamedTuple

from pytikv.server.engine.interface import CF_LOCK, CF_WRITE, Snapshot
from pytikv.server.mvcc.errors import KeyIsLocked, WriteConflictError
from pytikv.server.mvcc.keys import TS_BYTES, TS_MAX, data_key, encode_ts
from pytikv.server.mvcc.read_rules import SNAPSHOT, ReadRules, check_ts_conflict, newer_version
from pytikv.server.mvcc.reader import SEEK_BOUND, MvccReader
from pytikv.server.mvcc.records import Write, short_put_value

__all__ = ["Entry", "Scanner"]

_BEHIND: Final = b"\xff" * TS_BYTES + b"\x00"
"""Behind a key: just above its oldest version."""

_Found = tuple[bytes, bytes, bytes]
"""What the write family says of one key: the encoded key, the encoded commit_ts, and the PUT record. An empty record:
the version is above the timestamp, and the rules refuse that."""


class Entry(NamedTuple):
    """One key of a scan's result."""

    key: bytes
    """The encoded key."""
    value: bytes
    """Empty where only keys were asked for."""
    error: KeyIsLocked | None = None
    """The key could not be read: a lock is in the way."""


class Scanner:
    """Scans `[start, end)` (encoded keys) of one snapshot at one timestamp. For one thread."""

    def __init__(
        self,
        snapshot: Snapshot,
        start: bytes,
        end: bytes,
        ts: int,
        rules: ReadRules = SNAPSHOT,
        *,
        key_only: bool = False,
        reverse: bool = False,
    ) -> None:
        self._snapshot = snapshot
        self._reader = MvccReader(snapshot)
        self._start = start
        self._end = end
        self._ts = ts
        self._ts_suffix = encode_ts(ts)
        self._rules = rules
        self._key_only = key_only
        self._reverse = reverse

    def scan(self, limit: int, sample_step: int = 0) -> list[Entry]:
        """Return up to `limit` entries; with `sample_step`, of the readable ones the first of every so many.

        Raises WriteConflictError (RCCheckTS), and StorageError on damage.
        """
        found: list[Entry] = []
        if limit <= 0:
            return found
        readable = 0
        for entry in self.entries():
            if sample_step and entry.error is None:
                readable += 1
                if (readable - 1) % sample_step:
                    continue
            found.append(entry)
            if len(found) >= limit:
                break
        return found

    def entries(self) -> Iterator[Entry]:
        """Iterate over all entries; errors as `scan`."""
        locks = self._locks()
        lock = next(locks, None)
        is_before = operator.gt if self._reverse else operator.lt
        for key, suffix, record in self._versions():
            while lock is not None and is_before(lock[0], key):
                yield from self._instead(*lock) or ()
                lock = next(locks, None)
            if lock is not None and lock[0] == key:
                instead = self._instead(*lock)
                lock = next(locks, None)
                if instead is not None:
                    yield from instead
                    continue
            entry = self._entry(key, suffix, record)
            if entry is not None:
                yield entry
        while lock is not None:
            yield from self._instead(*lock) or ()
            lock = next(locks, None)

    # --- locks --------------------------------------------------------------------------------------------------------

    def _locks(self) -> Iterator[tuple[bytes, bytes]]:
        if not self._rules.looks_at_locks:
            return iter(())
        return self._snapshot.scan(CF_LOCK, self._start, self._end, reverse=self._reverse)

    def _instead(self, key: bytes, data: bytes) -> tuple[Entry, ...] | None:
        """Return what to answer for a key by its lock, None when the lock is not in the way."""
        lock = self._reader.decode_lock(key, data)
        try:
            check_ts_conflict(lock, key, self._ts, self._rules)
        except (KeyIsLocked, WriteConflictError) as error:
            if lock.start_ts in self._rules.committed_locks:
                value = self._reader.locked_value(key, lock)
                return () if value is None else (Entry(key, b"" if self._key_only else value),)
            if not isinstance(error, KeyIsLocked):
                raise
            return (Entry(key, b"", error),)
        return None

    # --- versions -----------------------------------------------------------------------------------------------------

    def _entry(self, key: bytes, suffix: bytes, record: bytes) -> Entry | None:
        value = short_put_value(record)
        if value is not None:
            return Entry(key, b"" if self._key_only else value)
        if not record:
            raise newer_version(key, self._ts, TS_MAX - int.from_bytes(suffix, "big"))
        write = self._decode(key, suffix, record)
        if write.is_fenced_at(self._ts):
            return None
        return Entry(key, b"" if self._key_only else self._reader.load_value(key, write))

    def _decode(self, key: bytes, suffix: bytes, record: bytes) -> Write:
        return self._reader.decode_write(key, TS_MAX - int.from_bytes(suffix, "big"), record)

    def _versions(self) -> Iterator[_Found]:
        return self._downwards() if self._reverse else self._upwards(self._start, self._end)

    def _upwards(self, start: bytes, end: bytes) -> Iterator[_Found]:
        at, walked, is_done = b"", 0, False  # the key that the walk is in, and whether its answer is known
        while True:
            for stored, record in self._snapshot.scan(CF_WRITE, start, end):
                key = stored[:-TS_BYTES]
                if key != at:
                    at, walked, is_done = key, 0, False
                walked += 1
                if is_done:
                    if walked < SEEK_BOUND:
                        continue
                    start = key + _BEHIND
                    break
                suffix = stored[-TS_BYTES:]
                if suffix < self._ts_suffix:  # too new
                    if self._rules.refuses_newer_versions:
                        yield key, suffix, b""
                        return
                    if walked < SEEK_BOUND:
                        continue
                    start = key + self._ts_suffix
                    break
                kind = record[:1]
                if kind == b"P":
                    yield key, suffix, record
                    walked, is_done = 0, True
                elif kind == b"D":
                    walked, is_done = 0, True
                else:
                    jump = self._older(key, suffix, record)
                    is_done = jump == b""
                    if jump:
                        start = jump
                        break
            else:
                return

    def _older(self, key: bytes, suffix: bytes, record: bytes) -> bytes | None:
        """Say where to look below a LOCK or ROLLBACK: None: the next record, empty: nowhere, else: from that key on."""
        write = self._decode(key, suffix, record)
        if write.versions_to_last_change and not write.last_change_ts:
            return b""
        if write.versions_to_last_change < SEEK_BOUND:
            return None
        return data_key(key, write.last_change_ts)

    def _downwards(self) -> Iterator[_Found]:
        end = self._end
        at, walked, is_done = b"", 0, False
        best: _Found | None = None  # the newest change of `at` so far that is not too new
        while True:
            for stored, record in self._snapshot.scan(CF_WRITE, self._start, end, reverse=True):
                key = stored[:-TS_BYTES]
                if key != at:
                    if best is not None:
                        yield best
                    at, walked, is_done, best = key, 0, False, None
                walked += 1
                suffix = stored[-TS_BYTES:]
                if not is_done and suffix < self._ts_suffix:
                    if self._rules.refuses_newer_versions:
                        yield key, suffix, b""
                        return
                    if best is not None:
                        yield best
                    walked, is_done, best = 0, True, None
                elif not is_done and walked > SEEK_BOUND:
                    yield from self._upwards(self._newest_wanted(key), key + _BEHIND)
                    best = None
                    break
                elif is_done:
                    if walked >= SEEK_BOUND:
                        break
                elif record[:1] == b"P":
                    best = (key, suffix, record)
                elif record[:1] == b"D":
                    best = None
                else:
                    self._decode(key, suffix, record)  # nothing to learn from it, but damage must not pass
            else:
                if best is not None:
                    yield best
                return
            end = at

    def _newest_wanted(self, key: bytes) -> bytes:
        return key if self._rules.refuses_newer_versions else key + self._ts_suffix
