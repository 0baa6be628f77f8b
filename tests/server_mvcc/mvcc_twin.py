"""A dict of versions that says what reads must find: the rules once more, without any cleverness."""

from __future__ import annotations

from pytikv.codec import memcomparable
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, WriteBatch
from pytikv.server.mvcc.keys import TS_MAX, data_key
from pytikv.server.mvcc.read_rules import ReadRules
from pytikv.server.mvcc.records import SHORT_VALUE_MAX, Lock, LockType, Write, WriteType

Answer = bytes | str | None
"""A value; "locked" or "conflict"; None: nothing there."""


class Twin:
    """Locks and records of wire keys, and the changes that bring an engine to the same state."""

    def __init__(self) -> None:
        self.writes: dict[bytes, dict[int, tuple[Write, bytes]]] = {}
        self.locks: dict[bytes, tuple[Lock, bytes]] = {}

    def write(self, key: bytes, commit_ts: int, write: Write, value: bytes = b"") -> WriteBatch:
        """Note a record; of a PUT, `value` goes where it belongs by its length."""
        batch = WriteBatch()
        encoded = memcomparable.encode(key)
        if write.write_type is WriteType.PUT:
            if len(value) <= SHORT_VALUE_MAX:
                write.short_value = value
            else:
                batch.put(CF_DEFAULT, data_key(encoded, write.start_ts), value)
        batch.put(CF_WRITE, data_key(encoded, commit_ts), write.encode())
        self.writes.setdefault(key, {})[commit_ts] = (write, value)
        return batch

    def lock(self, key: bytes, lock: Lock, value: bytes = b"") -> WriteBatch:
        batch = WriteBatch()
        encoded = memcomparable.encode(key)
        if lock.lock_type is LockType.PUT:
            if len(value) <= SHORT_VALUE_MAX:
                lock.short_value = value
            else:
                batch.put(CF_DEFAULT, data_key(encoded, lock.start_ts), value)
        batch.put(CF_LOCK, encoded, lock.encode())
        self.locks[key] = (lock, value)
        return batch

    def unlock(self, key: bytes) -> WriteBatch:
        self.locks.pop(key, None)
        batch = WriteBatch()
        batch.delete(CF_LOCK, memcomparable.encode(key))
        return batch

    def keys(self) -> list[bytes]:
        return sorted({*self.writes, *self.locks})

    def read(self, key: bytes, ts: int, rules: ReadRules) -> Answer:
        if key in self.locks and rules.isolation != 1:
            lock, value = self.locks[key]
            if self.is_in_the_way(key, lock, ts, rules):
                if lock.start_ts in rules.committed_locks:
                    return value if lock.lock_type is LockType.PUT else None
                return "conflict" if rules.isolation == 2 else "locked"
        versions = self.writes.get(key, {})
        if rules.isolation == 2 and any(commit_ts > ts for commit_ts in versions):
            return "conflict"
        return self.version(key, ts)

    @staticmethod
    def is_in_the_way(key: bytes, lock: Lock, ts: int, rules: ReadRules) -> bool:
        if lock.lock_type not in (LockType.PUT, LockType.DELETE) or lock.start_ts in rules.resolved_locks:
            return False
        if rules.isolation == 2:
            return True
        if lock.start_ts > ts or lock.min_commit_ts > ts:
            return False
        return not (ts == TS_MAX and key == lock.primary and not lock.use_async_commit)

    def version(self, key: bytes, ts: int) -> bytes | None:
        for commit_ts in sorted(self.writes.get(key, {}), reverse=True):
            write, value = self.writes[key][commit_ts]
            if commit_ts > ts:
                continue
            if write.gc_fence and write.gc_fence <= ts:
                return None
            if write.write_type is WriteType.PUT:
                return value
            if write.write_type is WriteType.DELETE:
                return None
        return None

    def scan(
        self, start: bytes, end: bytes, ts: int, rules: ReadRules, *, reverse: bool = False
    ) -> list[tuple[bytes, Answer]]:
        """All pairs and errors; ends with a conflict where there is one."""
        found: list[tuple[bytes, Answer]] = []
        for key in sorted(self.keys(), reverse=reverse):
            if key < start or (end and key >= end):
                continue
            answer = self.read(key, ts, rules)
            if answer is not None:
                found.append((key, answer))
            if answer == "conflict":
                break
        return found
