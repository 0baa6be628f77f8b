"""All that a store holds of a key: its lock and its versions, for people who want to see what happened.

A version joins what TiKV keeps apart: the write record (what was done, by the transaction that began at `start_ts`, at
`commit_ts`) and the value that belongs to it, short ones in the record, long ones beside it. What has no write record
yet belongs to the lock. Newest first. Of a lock, MvccGetByKey tells little; the rest is asked for by ScanLock, and is 0
where that does not show the lock.

Source: TiKV src/storage/mvcc/reader (collect_mvcc_info), src/server/debug.
"""

from __future__ import annotations

import dataclasses

from pytikv.client.request_sender import Call
from pytikv.client.rpcs import MVCC_GET_BY_KEY, MVCC_GET_BY_START_TS
from pytikv.client.store_errors import raw_error
from pytikv.client.txn.admin.locks import LockInfo, list_locks
from pytikv.client.txn.admin.range_task import RangeTask
from pytikv.client.txn.backend import TxnBackend, TxnPiece, send_to_key
from pytikv.client.txn.key_errors import user_key
from pytikv.codec.api import KeyCodec
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Timestamp

__all__ = ["MvccInfo", "MvccLock", "MvccVersion", "mvcc_by_key", "mvcc_by_start_ts"]


@dataclasses.dataclass(frozen=True, slots=True)
class MvccLock:
    """The lock on a key."""

    kind: str
    """What it is for: `Put`, `Del`, `Lock`, `PessimisticLock`."""
    start_ts: Timestamp
    """The transaction that holds it."""
    primary: bytes
    ttl_ms: int
    value: bytes | None
    """What the transaction wants to write; None where that is nothing."""
    for_update_ts: Timestamp
    min_commit_ts: Timestamp
    txn_size: int
    use_async_commit: bool
    secondaries: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class MvccVersion:
    """One write record of a key."""

    kind: str
    """What was done: `Put`, `Del`, `Lock` (locked, nothing written), `Rollback`."""
    start_ts: Timestamp
    commit_ts: Timestamp
    value: bytes | None
    """Of a `Put`; None for the others, and where the value is missing."""
    has_overlapped_rollback: bool
    """Whether another transaction was rolled back on this key at `commit_ts`."""
    gc_fence: Timestamp | None
    """Where another version lies that ends the life of this one; None: nowhere."""


@dataclasses.dataclass(frozen=True, slots=True)
class MvccInfo:
    """What a store holds of a key: the lock, and all versions, newest first."""

    key: bytes
    lock: MvccLock | None
    versions: tuple[MvccVersion, ...]
    orphans: tuple[Timestamp, ...]
    """start_ts of values that belong to no record and no lock: there should be none."""


def _lock(lock: kvrpcpb.MvccLock, values: dict[int, bytes], details: LockInfo | None, codec: KeyCodec) -> MvccLock:
    kind = kvrpcpb.Op.Name(lock.type)
    value = lock.short_value or values.pop(lock.start_ts, b"") if kind == "Put" else None
    return MvccLock(
        kind=kind,
        start_ts=Timestamp(lock.start_ts),
        primary=user_key(lock.primary, codec),
        ttl_ms=details.ttl_ms if details else 0,
        value=value,
        for_update_ts=details.for_update_ts if details else Timestamp(0),
        min_commit_ts=details.min_commit_ts if details else Timestamp(0),
        txn_size=details.txn_size if details else 0,
        use_async_commit=details.use_async_commit if details else False,
        secondaries=details.secondaries if details else (),
    )


def _version(write: kvrpcpb.MvccWrite, values: dict[int, bytes]) -> MvccVersion:
    kind = kvrpcpb.Op.Name(write.type)
    value: bytes | None = None
    if kind == "Put":  # a value that is not beside the record is in it, the empty one included
        value = values.pop(write.start_ts, None)
        value = write.short_value if value is None else value
    return MvccVersion(
        kind=kind,
        start_ts=Timestamp(write.start_ts),
        commit_ts=Timestamp(write.commit_ts),
        value=value,
        has_overlapped_rollback=write.has_overlapped_rollback,
        gc_fence=Timestamp(write.gc_fence) if write.has_gc_fence else None,
    )


async def _describe(backend: TxnBackend, key: bytes, info: kvrpcpb.MvccInfo) -> MvccInfo:
    """Return a store's answer about a wire key as users see it."""
    codec = backend.codec
    details = None
    if info.HasField("lock"):
        locks = await list_locks(backend, key, key + b"\x00", None, None)
        details = next((lock for lock in locks if lock.start_ts == info.lock.start_ts), None)
    values = {value.start_ts: value.value for value in info.values}
    lock = _lock(info.lock, values, details, codec) if info.HasField("lock") else None
    versions = sorted((_version(write, values) for write in info.writes), key=lambda one: -one.commit_ts)
    orphans = tuple(Timestamp(ts) for ts in sorted(values, reverse=True))
    return MvccInfo(user_key(key, codec), lock, tuple(versions), orphans)


async def mvcc_by_key(backend: TxnBackend, key: bytes) -> MvccInfo:
    """Return all that the store holds of a user key."""
    wire = backend.codec.encode_key(key)
    request = kvrpcpb.MvccGetByKeyRequest(key=wire)
    response = await send_to_key(backend, MVCC_GET_BY_KEY, wire, request, backend.call())
    if response.error:
        raise raw_error(response.error)
    return await _describe(backend, wire, response.info)


async def mvcc_by_start_ts(backend: TxnBackend, start_ts: int) -> list[MvccInfo]:
    """Return what the stores hold of the first key in each region that the transaction `start_ts` wrote or locked."""
    found: list[tuple[bytes, kvrpcpb.MvccInfo]] = []

    async def step(piece: TxnPiece, call: Call) -> tuple[int, bytes | None]:
        request = kvrpcpb.MvccGetByStartTsRequest(start_ts=start_ts)
        response = await backend.send(MVCC_GET_BY_START_TS, piece.region, request, call)
        if response.error:
            raise raw_error(response.error)
        if response.key:
            found.append((response.key, response.info))
        return bool(response.key), None

    await RangeTask(backend, *backend.codec.encode_range(b"", b""), step).run()
    found.sort(key=lambda one: one[0])
    return [await _describe(backend, key, info) for key, info in found]
