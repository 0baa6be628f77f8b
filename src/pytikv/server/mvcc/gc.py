"""Garbage collection: which versions no read at or above the safe point can need, and the step that removes them.

Of each key the records above the safe point stay. From the safe point down: LOCK and ROLLBACK records go; the first PUT
stays, since it is what is visible at the safe point; below it everything goes. When the first change is a DELETE it
goes as well, but last: as long as anything older is left, the DELETE must hide it. A PUT takes its long value along.

The caller makes sure that no lock of a transaction at or below the safe point is left (clients resolve them first).
Then nothing at or below the safe point is written any more, but for a rollback noted on an old record, which the
record's gc_fence makes harmless. So a step may read a snapshot and write afterwards, without latches.

A record that cannot be decoded keeps its key from being collected further; it is counted, and what to do about it is
the business of `mvcc.consistency`.

Source: TiKV src/storage/txn/actions/gc.rs, src/server/gc_worker/gc_worker.rs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pytikv.errors import StorageError
from pytikv.server.engine.interface import CF_DEFAULT, CF_WRITE, Reader, WriteBatch
from pytikv.server.mvcc.keys import TS_BYTES, data_key, split_data_key
from pytikv.server.mvcc.records import Write, WriteType, decode_write

__all__ = ["GcStep", "collectable", "gc_step"]


def collectable(versions: Iterable[tuple[int, Write]], safe_point: int) -> Iterator[tuple[int, Write]]:
    """Yield those of one key's (commit_ts, record) pairs, newest first, that can go: in the order to remove them."""
    key = _Key(safe_point)
    for commit_ts, write in versions:
        if key.can_go(commit_ts, write):
            yield commit_ts, write
    if key.delete is not None:
        yield key.delete


class _Key:
    """How far down one key's records the collection is."""

    __slots__ = ("_change_met", "_safe_point", "delete")

    def __init__(self, safe_point: int) -> None:
        self._safe_point = safe_point
        self._change_met = False
        self.delete: tuple[int, Write] | None = None
        """A DELETE that goes after all that is older."""

    def can_go(self, commit_ts: int, write: Write) -> bool:
        """Take the next older record; tell whether it can go at once."""
        if commit_ts > self._safe_point:
            return False
        if self._change_met or write.write_type in (WriteType.LOCK, WriteType.ROLLBACK):
            return True
        self._change_met = True
        if write.write_type is WriteType.DELETE:
            self.delete = commit_ts, write
        return False


class GcStep(NamedTuple):
    """What `gc_step` found."""

    batch: WriteBatch
    """The removals; empty when there is nothing to remove."""
    next_start: bytes | None
    """Where the next step begins; None: the range is done."""
    found_versions: int
    deleted_versions: int
    damaged_keys: int
    """Keys that were left alone because of a record that cannot be decoded."""


def gc_step(reader: Reader, start: bytes, limit: int, safe_point: int, end: bytes = b"") -> GcStep:
    """Look at up to `limit` (at least 2) write records from `start` to `end`, and say what to remove of them.

    `start` and `end` are encoded keys; `start` may be an earlier step's `next_start`, which can lie within a key. The
    batch holds at most two removals a record. Apply it before the next step is made: a key with more records than
    `limit` is collected from its oldest ones up by several steps.
    """
    if limit < 2:
        raise ValueError("a step looks at two records at least, or it could get nowhere")
    walk = _Walk(safe_point)
    for stored, record in reader.scan(CF_WRITE, start, end):
        if walk.found == limit:
            return walk.result(walk.resume_at(stored))
        walk.take(stored, record)
    walk.finish_key()
    return walk.result(None)


class _Walk:
    """One step's way over the records."""

    def __init__(self, safe_point: int) -> None:
        self._safe_point = safe_point
        self._batch = WriteBatch()
        self._at = b""
        self._key: _Key | None = None  # None: nothing of the key may go (any more)
        self.found = self._deleted = self._damaged = 0

    def take(self, stored: bytes, record: bytes) -> None:
        self.found += 1
        try:
            key, commit_ts = split_data_key(stored)
            if key != self._at:
                self.finish_key()
                self._at, self._key = key, _Key(self._safe_point)
            if self._key is not None:
                write = decode_write(record)
                if self._key.can_go(commit_ts, write):
                    self._remove(commit_ts, write)
        except StorageError:
            self._key = None
            self._damaged += 1

    def finish_key(self) -> None:
        if self._key is not None and self._key.delete is not None:
            self._remove(*self._key.delete)
        self._key = None

    def resume_at(self, stored: bytes) -> bytes:
        """Say where to go on, the record `stored` being the first that was not looked at.

        Within a key, below the safe point, that is the safe point again: what the key's first change is must be known.
        """
        if stored[:-TS_BYTES] != self._at:
            self.finish_key()
            return stored
        if self._key is None:
            return self._at + b"\xff" * TS_BYTES + b"\x00"
        return min(stored, data_key(self._at, self._safe_point))

    def _remove(self, commit_ts: int, write: Write) -> None:
        self._batch.delete(CF_WRITE, data_key(self._at, commit_ts))
        if write.write_type is WriteType.PUT and write.short_value is None:
            self._batch.delete(CF_DEFAULT, data_key(self._at, write.start_ts))
        self._deleted += 1

    def result(self, next_start: bytes | None) -> GcStep:
        return GcStep(self._batch, next_start, self.found, self._deleted, self._damaged)
