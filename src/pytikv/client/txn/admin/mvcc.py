"""All that a store holds of a key: its lock and its versions, for people who want to see what happened.

A version joins what TiKV keeps apart: the write record (what was done, by the transaction that began at `start_ts`, at
`commit_ts`) and the value that belongs to it, short ones in the record, long ones beside it. What has no write record
yet belongs to the lock. Newest first.

Source: TiKV src/storage/mvcc/reader (collect_mvcc_info), src/server/debug.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import MVCC_GET_BY_KEY, MVCC_GET_BY_START_TS
from pytikv.client.store_errors import raw_error
from pytikv.client.txn.admin.range_task import RangeTask
from pytikv.client.txn.backend import TxnBackend, TxnPiece
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
    txn_size: int
    use_async_commit: bool
    secondaries: tuple[bytes, ...]
    rollback_ts: tuple[Timestamp, ...]
    """Transactions that were rolled back on this key while it was locked."""


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


def _lock(lock: Any, values: dict[int, bytes], codec: KeyCodec) -> MvccLock:
    kind = kvrpcpb.Op.Name(lock.type)
    value = lock.short_value or values.pop(lock.start_ts, b"") if kind == "Put" else None
    return MvccLock(
        kind=kind,
        start_ts=Timestamp(lock.start_ts),
        primary=user_key(lock.primary, codec),
        ttl_ms=lock.ttl,
        value=value,
        for_update_ts=Timestamp(lock.for_update_ts),
        txn_size=lock.txn_size,
        use_async_commit=lock.use_async_commit,
        secondaries=tuple(user_key(key, codec) for key in lock.secondaries),
        rollback_ts=tuple(Timestamp(ts) for ts in lock.rollback_ts),
    )


def _version(write: Any, values: dict[int, bytes]) -> MvccVersion:
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


def mvcc_info(key: bytes, info: Any, codec: KeyCodec) -> MvccInfo:
    """Return a store's answer (kvrpcpb.MvccInfo) about a wire key as users see it."""
    values = {value.start_ts: value.value for value in info.values}
    lock = _lock(info.lock, values, codec) if info.HasField("lock") else None
    versions = sorted((_version(write, values) for write in info.writes), key=lambda one: -one.commit_ts)
    orphans = tuple(Timestamp(ts) for ts in sorted(values, reverse=True))
    return MvccInfo(user_key(key, codec), lock, tuple(versions), orphans)


async def mvcc_by_key(backend: TxnBackend, key: bytes) -> MvccInfo:
    """Return all that the store holds of a user key."""
    wire = backend.codec.encode_key(key)
    call = backend.call()
    while True:
        region = await backend.find(wire, call)
        try:
            response = await backend.send(MVCC_GET_BY_KEY, region, kvrpcpb.MvccGetByKeyRequest(key=wire), call)
        except RegionStale:
            continue
        if response.error:
            raise raw_error(response.error)
        return mvcc_info(wire, response.info, backend.codec)


async def mvcc_by_start_ts(backend: TxnBackend, start_ts: int) -> list[MvccInfo]:
    """Return what the stores hold of the first key in each region that the transaction `start_ts` wrote or locked."""
    found: list[MvccInfo] = []

    async def step(piece: TxnPiece, call: Call) -> tuple[int, bytes | None]:
        request = kvrpcpb.MvccGetByStartTsRequest(start_ts=start_ts)
        response = await backend.send(MVCC_GET_BY_START_TS, piece.region, request, call)
        if response.error:
            raise raw_error(response.error)
        if response.key:
            found.append(mvcc_info(response.key, response.info, backend.codec))
        return bool(response.key), None

    await RangeTask(backend, *backend.codec.encode_range(b"", b""), step).run()
    return sorted(found, key=lambda info: info.key)
