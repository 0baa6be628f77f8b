"""Locks that transactions have left: listed, or settled whatever their time to live.

Both walk over a range region by region, `PAGE` locks at a time. `max_version` is the largest start_ts that counts; it
is never above the present, because a store takes one from the future for a broken clock, and may end its process.

Settling asks for each transaction's end at its primary, as any reader that meets a lock does, but does not wait: a
transaction that is still under way below `max_version` is rolled back. That is what GC needs; for everyday life readers
resolve what they meet.

Source: client-go tikv/gc.go.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from pytikv.client.request_sender import Call
from pytikv.client.rpcs import KV_SCAN_LOCK
from pytikv.client.txn.admin.range_task import CONCURRENCY, OnProgress, Progress, RangeTask
from pytikv.client.txn.backend import TxnBackend, TxnPiece
from pytikv.client.txn.key_errors import key_error, user_key
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.codec.api import KeyCodec
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Timestamp

__all__ = ["PAGE", "LockInfo", "list_locks", "resolve_locks"]

PAGE: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class LockInfo:
    """A lock that a transaction holds on a key. Keys are users' keys."""

    key: bytes
    primary: bytes
    """The key whose lock decides about the whole transaction."""
    start_ts: Timestamp
    """The transaction."""
    kind: str
    """What it is for: `Put`, `Del`, `Lock`, `PessimisticLock`, ..."""
    ttl_ms: int
    """How long it lives without a sign of its owner, from `start_ts` on."""
    for_update_ts: Timestamp
    min_commit_ts: Timestamp
    txn_size: int
    """How many keys of this region the transaction locks, as far as it knew."""
    use_async_commit: bool
    secondaries: tuple[bytes, ...]
    """Of an async commit's primary: the transaction's other keys."""


def lock_info(lock: kvrpcpb.LockInfo, codec: KeyCodec) -> LockInfo:
    """Return a lock as users see it."""
    return LockInfo(
        key=user_key(lock.key, codec),
        primary=user_key(lock.primary_lock, codec),
        start_ts=Timestamp(lock.lock_version),
        kind=kvrpcpb.Op.Name(lock.lock_type),
        ttl_ms=lock.lock_ttl,
        for_update_ts=Timestamp(lock.lock_for_update_ts),
        min_commit_ts=Timestamp(lock.min_commit_ts),
        txn_size=lock.txn_size,
        use_async_commit=lock.use_async_commit,
        secondaries=tuple(user_key(key, codec) for key in lock.secondaries),
    )


async def scan_page(backend: TxnBackend, piece: TxnPiece, max_version: int, call: Call) -> Any:
    """Return the first locks of a region's part, at most PAGE, and where to go on. Raises RegionStale, TikvError."""
    request = kvrpcpb.ScanLockRequest(
        max_version=max_version, start_key=piece.start_key, end_key=piece.end_key, limit=PAGE
    )
    response = await backend.send(KV_SCAN_LOCK, piece.region, request, call)
    if response.HasField("error"):
        raise key_error(response.error, backend.codec, max_version)
    locks = list(response.locks)
    return locks, locks[-1].key + b"\x00" if len(locks) >= PAGE else None


async def _until_now(backend: TxnBackend, max_version: int | None) -> int:
    now = await backend.timestamp(backend.call().backoffer.deadline)
    return now if max_version is None else min(max_version, now)


async def list_locks(
    backend: TxnBackend, start_key: bytes, end_key: bytes, max_version: int | None, limit: int | None
) -> list[LockInfo]:
    """Return the locks of a range of wire keys in key order, at most `limit`."""
    version = await _until_now(backend, max_version)
    found: list[LockInfo] = []

    async def step(piece: TxnPiece, call: Call) -> tuple[int, bytes | None]:
        locks, rest = await scan_page(backend, piece, version, call)
        found.extend(lock_info(lock, backend.codec) for lock in locks)
        return len(locks), None if limit is not None and len(found) >= limit else rest

    await RangeTask(backend, start_key, end_key, step).run()
    found.sort(key=lambda lock: lock.key)
    return found[:limit]


async def resolve_locks(
    backend: TxnBackend,
    start_key: bytes,
    end_key: bytes,
    max_version: int | None,
    *,
    concurrency: int = CONCURRENCY,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Settle all locks of a range of wire keys; `items` of the answer are the locks met."""
    version = await _until_now(backend, max_version)
    resolver = LockResolver.of(backend)

    async def step(piece: TxnPiece, call: Call) -> tuple[int, bytes | None]:
        locks, rest = await scan_page(backend, piece, version, call)
        await resolver.resolve_for_gc(locks, piece.region, call)
        return len(locks), rest

    task = RangeTask(backend, start_key, end_key, step, concurrency=concurrency, on_progress=on_progress)
    return await task.run()
