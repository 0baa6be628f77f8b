"""Lock and write records, byte for byte as TiKV writes them.

A *lock* says that a transaction is about to change a key; a *write* says that a transaction has changed it (PUT,
DELETE), has locked it (LOCK) or was rolled back there (ROLLBACK). Both begin with a type and fixed fields; optional
ones follow, each behind a tag byte, in one order. A tag that is not known ends the reading without an error: newer
software may have written it, and it writes its fields last.

*Short values*, up to 255 bytes, travel inside of the records; longer ones lie in ``default`` at the start_ts.

*Last change* is a pair: (0, 0) unknown; (0, 1) there is no older PUT or the latest change is a DELETE; (ts, n) the
latest change older than this record is at `ts`, about n versions down.

*Shared locks*: the record of type SHARED is a container, whose `members` are LOCK or PESSIMISTIC locks of different
transactions. Its own primary and timestamps are empty. Members are kept and written in the order of their start_ts
(TiKV: in no order), so that equal containers are equal bytes.

Limits: decoding checks structure only, never the sense of timestamps: that is `mvcc.consistency`.

Sources: TiKV components/txn_types/src/{lock,write,types}.rs.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Final

from pytikv.errors import StorageError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.keys import TS_MAX, data_key, split_data_key
from pytikv.server.mvcc.varints import Damage, Parser, compact_bytes, fixed, varint

__all__ = [
    "LOCK_OPS",
    "SHORT_VALUE_MAX",
    "TS_MAX",
    "Lock",
    "LockType",
    "Write",
    "WriteType",
    "data_key",
    "decode_lock",
    "decode_write",
    "short_put_value",
    "split_data_key",
]

SHORT_VALUE_MAX: Final = 255
_PROTECTED: Final = b"p"
_SHRINK_ONLY: Final = 1


class LockType(enum.IntEnum):
    """What a lock is for; the value is the first byte of its record."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    PESSIMISTIC = ord("S")
    SHARED = ord("H")


class WriteType(enum.IntEnum):
    """What a write record says; the value is its first byte."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    ROLLBACK = ord("R")


# Looked up by the byte: the call of an enum class costs four times as much.
_LOCK_TYPES: Final = {int(kind): kind for kind in LockType}
_WRITE_TYPES: Final = {int(kind): kind for kind in WriteType}
_WRITE_OF_LOCK: Final = {
    LockType.PUT: WriteType.PUT,
    LockType.DELETE: WriteType.DELETE,
    LockType.LOCK: WriteType.LOCK,
}
LOCK_OPS: Final = {
    LockType.PUT: kvrpcpb.Op.Put,
    LockType.DELETE: kvrpcpb.Op.Del,
    LockType.LOCK: kvrpcpb.Op.Lock,
    LockType.PESSIMISTIC: kvrpcpb.Op.PessimisticLock,
    LockType.SHARED: kvrpcpb.Op.SharedLock,
}
"""What a lock's type is called on the wire."""


def _short_value(value: bytes) -> bytes:
    if len(value) > SHORT_VALUE_MAX:
        raise ValueError(f"a short value has at most {SHORT_VALUE_MAX} bytes, not {len(value)}")
    return b"v" + bytes((len(value),)) + value


def _last_change(ts: int, versions: int) -> bytes:
    return b"l" + fixed(ts) + varint(versions) if ts or versions else b""


def _parse_last_change(parser: Parser) -> tuple[int, int]:
    ts, versions = parser.fixed(), parser.varint()
    if ts and not versions:
        raise Damage("its last change is no version away")
    return ts, versions if ts else min(versions, 1)


@dataclasses.dataclass(slots=True)
class Lock:
    """One lock record, or the container of shared locks. Treat it as a value: copy it to change a published one."""

    lock_type: LockType
    primary: bytes
    """The key that decides the transaction, as the client sent it."""
    start_ts: int
    ttl_ms: int = 0
    short_value: bytes | None = None
    for_update_ts: int = 0
    """Not 0: the transaction is pessimistic."""
    txn_size: int = 0
    min_commit_ts: int = 0
    use_async_commit: bool = False
    secondaries: tuple[bytes, ...] = ()
    """As the client sent them; only in the primary's lock of an async commit."""
    rollback_ts: tuple[int, ...] = ()
    """Transactions whose protected rollback this lock's commit could overwrite."""
    last_change_ts: int = 0
    versions_to_last_change: int = 0
    txn_source: int = 0
    is_locked_with_conflict: bool = False
    generation: int = 0
    """Not 0: flushed by a pipelined transaction."""
    use_one_pc: bool = False
    """Of locks in memory only; not stored."""
    members: tuple[Lock, ...] = ()
    """Of a SHARED container: the locks in it, by start_ts."""
    shrink_only: bool = False
    """Of a SHARED container: no member may join any more."""

    @property
    def is_shared(self) -> bool:
        """Whether this is a container of shared locks."""
        return self.lock_type is LockType.SHARED

    @property
    def is_pessimistic_lock(self) -> bool:
        """Whether the lock was taken before its mutation is known."""
        return self.lock_type is LockType.PESSIMISTIC

    @property
    def is_pessimistic_txn(self) -> bool:
        """Whether the lock's transaction is a pessimistic one."""
        return self.for_update_ts != 0

    @property
    def write_type(self) -> WriteType | None:
        """What committing the lock writes; None for pessimistic locks and containers."""
        return _WRITE_OF_LOCK.get(self.lock_type)

    def member(self, start_ts: int) -> Lock | None:
        """Return the lock of one transaction in a container."""
        return next((lock for lock in self.members if lock.start_ts == start_ts), None)

    def with_member(self, lock: Lock) -> Lock:
        """Return the container with `lock` in it, instead of the one of the same transaction where there is one."""
        if lock.lock_type not in (LockType.LOCK, LockType.PESSIMISTIC):
            raise ValueError(f"a shared lock is LOCK or PESSIMISTIC, not {lock.lock_type.name}")
        others = [one for one in self.members if one.start_ts != lock.start_ts]
        return dataclasses.replace(self, members=tuple(sorted([*others, lock], key=_start_ts)))

    def without_member(self, start_ts: int) -> Lock:
        """Return the container without the lock of one transaction."""
        return dataclasses.replace(self, members=tuple(one for one in self.members if one.start_ts != start_ts))

    def encode(self) -> bytes:
        """Return the record."""
        if self.is_shared:
            return self._encode_shared()
        parts = [bytes((self.lock_type,)), compact_bytes(self.primary), varint(self.start_ts), varint(self.ttl_ms)]
        if self.short_value is not None:
            parts.append(_short_value(self.short_value))
        for tag, number in ((b"f", self.for_update_ts), (b"t", self.txn_size), (b"c", self.min_commit_ts)):
            if number:
                parts.append(tag + fixed(number))
        if self.use_async_commit:
            parts.append(b"a" + varint(len(self.secondaries)))
            parts.extend(map(compact_bytes, self.secondaries))
        if self.rollback_ts:
            parts.append(b"r" + varint(len(self.rollback_ts)))
            parts.extend(map(fixed, self.rollback_ts))
        parts.append(_last_change(self.last_change_ts, self.versions_to_last_change))
        if self.txn_source:
            parts.append(b"s" + varint(self.txn_source))
        if self.is_locked_with_conflict:
            parts.append(b"F")
        if self.generation:
            parts.append(b"g" + fixed(self.generation))
        return b"".join(parts)

    def _encode_shared(self) -> bytes:
        flags = b"i" + bytes((_SHRINK_ONLY,)) if self.shrink_only else b""
        members = [compact_bytes(lock.encode()) for lock in self.members]
        return b"H" + flags + b"h" + varint(len(members)) + b"".join(members)

    def info(self, wire_key: bytes) -> kvrpcpb.LockInfo:
        """Return what clients decide on. `wire_key`: the locked key as clients know it."""
        if self.is_shared:
            return kvrpcpb.LockInfo(
                key=wire_key,
                lock_type=kvrpcpb.Op.SharedLock,
                shared_lock_infos=[lock.info(wire_key) for lock in self.members],
            )
        return kvrpcpb.LockInfo(
            primary_lock=self.primary,
            lock_version=self.start_ts,
            key=wire_key,
            lock_ttl=self.ttl_ms,
            txn_size=self.txn_size,
            lock_type=LOCK_OPS[self.lock_type],
            lock_for_update_ts=self.for_update_ts,
            use_async_commit=self.use_async_commit,
            min_commit_ts=self.min_commit_ts,
            secondaries=self.secondaries,
        )


def _start_ts(lock: Lock) -> int:
    return lock.start_ts


def decode_lock(data: bytes) -> Lock:
    """Decode a lock record. Raises StorageError on bytes that no encoder wrote."""
    try:
        parser = Parser(data)
        kind = _LOCK_TYPES.get(parser.byte())
        if kind is None:
            raise Damage("its type is unknown")
        return _parse_shared(parser) if kind is LockType.SHARED else _parse_lock(kind, parser)
    except Damage as error:
        raise StorageError(f"damaged lock record: {error}") from error


def _parse_lock(kind: LockType, parser: Parser) -> Lock:
    lock = Lock(kind, parser.compact_bytes(), parser.varint())
    if parser.more:
        lock.ttl_ms = parser.varint()
    while parser.more:
        tag = parser.byte()
        if tag == 0x76:  # v
            lock.short_value = parser.take(parser.byte())
        elif tag == 0x66:  # f
            lock.for_update_ts = parser.fixed()
        elif tag == 0x74:  # t
            lock.txn_size = parser.fixed()
        elif tag == 0x63:  # c
            lock.min_commit_ts = parser.fixed()
        elif tag == 0x61:  # a
            lock.use_async_commit = True
            lock.secondaries = tuple([parser.compact_bytes() for _ in range(parser.varint())])
        elif tag == 0x72:  # r
            lock.rollback_ts = tuple([parser.fixed() for _ in range(parser.varint())])
        elif tag == 0x6C:  # l
            lock.last_change_ts, lock.versions_to_last_change = _parse_last_change(parser)
        elif tag == 0x73:  # s
            lock.txn_source = parser.varint()
        elif tag == 0x46:  # F
            lock.is_locked_with_conflict = True
        elif tag == 0x67:  # g
            lock.generation = parser.fixed()
        else:
            break
    return lock


def _parse_shared(parser: Parser) -> Lock:
    container = Lock(LockType.SHARED, b"", 0)
    members: dict[int, Lock] = {}
    while parser.more:
        tag = parser.byte()
        if tag == 0x69:  # i
            flags = parser.byte()
            if flags & ~_SHRINK_ONLY:
                raise Damage("its flags are unknown")
            container.shrink_only = bool(flags)
        elif tag == 0x68:  # h
            for _ in range(parser.varint()):
                inner = Parser(parser.compact_bytes())
                kind = _LOCK_TYPES.get(inner.byte())
                if kind is None or kind is LockType.SHARED:
                    raise Damage("a member's type is unknown")
                lock = _parse_lock(kind, inner)
                members[lock.start_ts] = lock
        else:
            break
    container.members = tuple(sorted(members.values(), key=_start_ts))
    return container


@dataclasses.dataclass(slots=True)
class Write:
    """One write record. Its commit_ts (of a rollback: its start_ts) is in the key."""

    write_type: WriteType
    start_ts: int
    short_value: bytes | None = None
    has_overlapped_rollback: bool = False
    """A protected rollback of the transaction that began at this record's commit_ts lies here as well."""
    gc_fence: int | None = None
    """None: never rewritten. 0: rewritten when it was the newest version. Else: the next version's commit_ts then."""
    last_change_ts: int = 0
    versions_to_last_change: int = 0
    txn_source: int = 0

    @classmethod
    def rollback(cls, start_ts: int, *, protected: bool) -> Write:
        """Return a rollback record; a protected one is never collapsed into a later one."""
        return cls(WriteType.ROLLBACK, start_ts, _PROTECTED if protected else None)

    @property
    def is_protected(self) -> bool:
        """Whether this is a rollback that must be kept."""
        return self.write_type is WriteType.ROLLBACK and self.short_value == _PROTECTED

    def is_fenced_at(self, ts: int) -> bool:
        """Tell whether a reader at `ts`, for whom this is the newest record, must see nothing.

        The version that `gc_fence` names is at or below `ts` and yet not there: it was collected, and this record with
        it, before the record was written again to note a rollback.
        """
        return self.gc_fence is not None and 0 < self.gc_fence <= ts

    def encode(self) -> bytes:
        """Return the record."""
        parts = [bytes((self.write_type,)), varint(self.start_ts)]
        if self.short_value is not None:
            parts.append(_short_value(self.short_value))
        if self.has_overlapped_rollback:
            parts.append(b"R")
        if self.gc_fence is not None:
            parts.append(b"F" + fixed(self.gc_fence))
        parts.append(_last_change(self.last_change_ts, self.versions_to_last_change))
        if self.txn_source:
            parts.append(b"S" + varint(self.txn_source))
        return b"".join(parts)


# The record that nearly all reads meet: a PUT by a timestamp of our age (nine bytes as a varint, each but the last with
# its high bit set), a short value, nothing behind it. One unpacking and a few comparisons tell it.
_opening = struct.Struct("<BQBBB").unpack_from
_CONTINUED: Final = 0x8080808080808080
_OPENING_BYTES: Final = 12


def short_put_value(data: bytes) -> bytes | None:
    """Return the value of a write record that is the common PUT with a short value, else None: then decode it."""
    if len(data) < _OPENING_BYTES:
        return None
    kind, start_ts, last, tag, size = _opening(data)
    if (
        kind == 0x50  # P
        and tag == 0x76  # v
        and size + _OPENING_BYTES == len(data)
        and last < 0x80
        and start_ts & _CONTINUED == _CONTINUED
    ):
        return data[_OPENING_BYTES:]
    return None


def _nine_byte_start_ts(data: bytes) -> int:
    """Return the start_ts of such a record: groups of seven bits moved together, two, four and eight at a time."""
    bits = int.from_bytes(data[1:9], "little")
    bits = (bits & 0x007F007F007F007F) | (bits & 0x7F007F007F007F00) >> 1
    bits = (bits & 0x00003FFF00003FFF) | (bits & 0x3FFF00003FFF0000) >> 2
    return (bits & 0x0FFFFFFF) | (bits >> 4 & 0xFFFFFFF0000000) | data[9] << 56


def decode_write(data: bytes) -> Write:
    """Decode a write record. Raises StorageError on bytes that no encoder wrote."""
    value = short_put_value(data)
    if value is not None:
        return Write(WriteType.PUT, _nine_byte_start_ts(data), value)
    try:
        parser = Parser(data)
        kind = _WRITE_TYPES.get(parser.byte())
        if kind is None:
            raise Damage("its type is unknown")
        write = Write(kind, parser.varint())
        _parse_fields(write, parser)
        return write
    except Damage as error:
        raise StorageError(f"damaged write record: {error}") from error


def _parse_fields(write: Write, parser: Parser) -> None:
    while parser.more:
        tag = parser.byte()
        if tag == 0x76:  # v
            write.short_value = parser.take(parser.byte())
        elif tag == 0x52:  # R
            write.has_overlapped_rollback = True
        elif tag == 0x46:  # F
            write.gc_fence = parser.fixed()
        elif tag == 0x6C:  # l
            write.last_change_ts, write.versions_to_last_change = _parse_last_change(parser)
        elif tag == 0x53:  # S
            write.txn_source = parser.varint()
        else:
            break
