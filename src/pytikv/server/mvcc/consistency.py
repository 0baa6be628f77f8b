"""Do the three families of a store agree with each other? A check of all that transactions have left there.

The families are read once, side by side, in the order of keys; the rules of one key are in `mvcc.key_rules`. Values are
not read, timestamps are remembered for one key at a time: the check needs memory for the versions of one key and for
the problems, of which it keeps the first `PROBLEMS_MAX` and counts the rest.

*Damage* breaks reads or promises. *Leftovers* cost space only. An expired lock is neither: it is how a crash looks, and
the next reader resolves it.

*Raw data* shares the default family: see `RawData`.

Read a snapshot: with an engine that is written to at the same time the families are not of one moment.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import Final

from pytikv.errors import StorageError, format_key
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Reader
from pytikv.server.mvcc.key_rules import Grade, KeyCheck
from pytikv.server.mvcc.keys import split_data_key, wire_key
from pytikv.server.mvcc.records import decode_lock, decode_write

__all__ = ["PROBLEMS_MAX", "ConsistencyReport", "Grade", "Problem", "RawData", "check_consistency"]

PROBLEMS_MAX: Final = 1000
_RAW_PREFIX: Final = b"r"


class RawData(enum.Enum):
    """Where raw keys may lie in the default family."""

    NOWHERE = "nowhere"
    PREFIXED = "prefixed"
    """API v2: under the mode byte ``r``. They are passed over."""
    ANYWHERE = "anywhere"
    """API v1: keys that are no version of an encoded key are taken for raw ones and passed over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    grade: Grade
    key: bytes
    """The wire key; as it is stored, where it is no encoded key."""
    text: str

    def __str__(self) -> str:
        return f"{self.grade.value}: key {format_key(self.key)}: {self.text}"


@dataclasses.dataclass
class ConsistencyReport:
    """What `check_consistency` found. Its text is made for people."""

    keys: int = 0
    locks: int = 0
    writes: int = 0
    values: int = 0
    raw: int = 0
    """Raw entries of the default family, which were passed over."""
    damage: int = 0
    leftovers: int = 0
    problems: list[Problem] = dataclasses.field(default_factory=list)
    """The first `PROBLEMS_MAX`."""

    @property
    def is_sound(self) -> bool:
        """Whether there is no damage."""
        return not self.damage

    def __str__(self) -> str:
        looked_at = f"{self.keys} keys with {self.locks} locks, {self.writes} records, {self.values} long values"
        head = f"{looked_at}: {self.damage} damaged, {self.leftovers} leftovers"
        hidden = self.damage + self.leftovers - len(self.problems)
        tail = [f"... and {hidden} more"] if hidden else []
        return "\n".join([head, *map(str, self.problems), *tail])

    def raise_for_damage(self) -> None:
        """Raise StorageError with the report as its text when there is damage."""
        if self.damage:
            raise StorageError(f"the store contradicts itself: {self}")

    def tell(self, grade: Grade, key: bytes, text: str) -> None:
        """Take a problem down."""
        if grade is Grade.DAMAGE:
            self.damage += 1
        else:
            self.leftovers += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(grade, key, text))


def check_consistency(
    reader: Reader, start: bytes = b"", end: bytes = b"", *, raw: RawData = RawData.NOWHERE
) -> ConsistencyReport:
    """Check `[start, end)` (encoded keys) of the families default, lock and write.

    Reads everything there. Raises StorageError only when the engine itself cannot be read.
    """
    report = ConsistencyReport()
    locks = _Stream(_locks(reader, start, end, report))
    writes = _Stream(_writes(reader, start, end, report))
    values = _Stream(_values(reader, start, end, raw, report))
    while heads := [stream.head[0] for stream in (locks, writes, values) if stream.head is not None]:
        key = min(heads)
        report.keys += 1
        _check_key(key, report, locks, writes, values)
    return report


_Item = tuple[bytes, int, bytes]
"""Encoded key, timestamp (0 for a lock), record."""


class _Stream:
    """Items, of which the next one can be looked at."""

    def __init__(self, items: Iterator[_Item]) -> None:
        self._items = items
        self.head: _Item | None = next(items, None)

    def of(self, key: bytes) -> Iterator[_Item]:
        """Take the items of one key."""
        while (head := self.head) is not None and head[0] == key:
            yield head
            self.head = next(self._items, None)


def _check_key(key: bytes, report: ConsistencyReport, locks: _Stream, writes: _Stream, values: _Stream) -> None:
    def tell(grade: Grade, text: str) -> None:
        report.tell(grade, wire_key(key), text)

    check = KeyCheck(tell)
    for _, _, record in locks.of(key):
        try:
            check.lock(decode_lock(record))
        except StorageError as error:
            tell(Grade.DAMAGE, str(error))
    for _, commit_ts, record in writes.of(key):
        try:
            check.write(commit_ts, decode_write(record))
        except StorageError as error:
            tell(Grade.DAMAGE, f"{error}, at commit_ts {commit_ts}")
    for _, start_ts, _ in values.of(key):
        check.value(start_ts)
    check.finish()


def _locks(reader: Reader, start: bytes, end: bytes, report: ConsistencyReport) -> Iterator[_Item]:
    for key, record in reader.scan(CF_LOCK, start, end):
        report.locks += 1
        try:
            wire_key(key)
        except StorageError as error:
            report.tell(Grade.DAMAGE, key, f"{error}, in the lock family")
            continue
        yield key, 0, record


def _writes(reader: Reader, start: bytes, end: bytes, report: ConsistencyReport) -> Iterator[_Item]:
    sound = b""
    for stored, record in reader.scan(CF_WRITE, start, end):
        report.writes += 1
        try:
            key, commit_ts = split_data_key(stored)
            if key != sound:
                wire_key(key)
                sound = key
        except StorageError as error:
            report.tell(Grade.DAMAGE, stored, f"{error}, in the write family")
            continue
        yield key, commit_ts, record


def _values(reader: Reader, start: bytes, end: bytes, raw: RawData, report: ConsistencyReport) -> Iterator[_Item]:
    cursor = reader.cursor(CF_DEFAULT, start, end)  # not a scan: that would read the values, too
    found = cursor.seek_to_first()
    while found:
        stored = cursor.key()
        if raw is RawData.PREFIXED and stored.startswith(_RAW_PREFIX):
            report.raw += 1
        else:
            try:
                key, start_ts = split_data_key(stored)
                wire_key(key)
            except StorageError as error:
                if raw is RawData.ANYWHERE:
                    report.raw += 1
                else:
                    report.tell(Grade.DAMAGE, stored, f"{error}, in the default family")
            else:
                report.values += 1
                yield key, start_ts, b""
        found = cursor.next()
