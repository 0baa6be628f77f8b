"""All that a store holds about one key: its lock, its write records, its long values. For people and tools.

Source: TiKV src/storage/txn/actions/mvcc.rs, src/storage/types.rs (MvccInfo).
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_WRITE, Reader
from pytikv.server.mvcc.keys import TS_BYTES, split_data_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import LOCK_OPS, Lock, Write, WriteType

__all__ = ["MvccInfo", "find_key_by_start_ts", "mvcc_info"]

_WRITE_OPS: Final = {
    WriteType.PUT: kvrpcpb.Op.Put,
    WriteType.DELETE: kvrpcpb.Op.Del,
    WriteType.LOCK: kvrpcpb.Op.Lock,
    WriteType.ROLLBACK: kvrpcpb.Op.Rollback,
}


@dataclasses.dataclass
class MvccInfo:
    """What `mvcc_info` found."""

    lock: Lock | None = None
    writes: list[tuple[int, Write]] = dataclasses.field(default_factory=list)
    """(commit_ts, record), newest first."""
    values: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)
    """(start_ts, long value), newest first."""

    def to_proto(self) -> kvrpcpb.MvccInfo:
        """Return it as MvccGetByKey answers it: of a lock, only what TiKV tells. Of shared locks, the oldest."""
        info = kvrpcpb.MvccInfo()
        lock = self.lock
        if lock is not None and lock.is_shared:
            lock = lock.members[0] if lock.members else None
        if lock is not None:
            info.lock.type = LOCK_OPS[lock.lock_type]
            info.lock.start_ts = lock.start_ts
            info.lock.primary = lock.primary
            info.lock.short_value = lock.short_value or b""
            info.lock.last_change_ts = lock.last_change_ts
            info.lock.versions_to_last_change = lock.versions_to_last_change
        for commit_ts, write in self.writes:
            info.writes.add(
                type=_WRITE_OPS[write.write_type],
                start_ts=write.start_ts,
                commit_ts=commit_ts,
                short_value=write.short_value or b"",
                has_overlapped_rollback=write.has_overlapped_rollback,
                has_gc_fence=write.gc_fence is not None,
                gc_fence=write.gc_fence or 0,
                last_change_ts=write.last_change_ts,
                versions_to_last_change=write.versions_to_last_change,
            )
        for start_ts, value in self.values:
            info.values.add(start_ts=start_ts, value=value)
        return info


def mvcc_info(reader: Reader, key: bytes) -> MvccInfo:
    """Collect all of the encoded `key`. Unbounded: as many records as the key has. Raises StorageError on damage."""
    mvcc = MvccReader(reader)
    values = reader.scan(CF_DEFAULT, key, key + b"\xff" * TS_BYTES + b"\x00")
    return MvccInfo(
        mvcc.load_lock(key),
        list(mvcc.writes(key)),
        [(split_data_key(stored)[1], value) for stored, value in values],
    )


def find_key_by_start_ts(reader: Reader, start: bytes, end: bytes, start_ts: int) -> bytes | None:
    """Return the first encoded key in `[start, end)` with a write record of the transaction `start_ts`.

    Reads every record of the range: a tool for a person, not for a program.
    """
    mvcc = MvccReader(reader)
    for stored, record in reader.scan(CF_WRITE, start, end):
        key, commit_ts = split_data_key(stored)
        if mvcc.decode_write(key, commit_ts, record).start_ts == start_ts:
            return key
    return None
