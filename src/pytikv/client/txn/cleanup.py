"""What is done with the keys of a transaction after its fate is known: commit the rest, or take back the locks.

All of it may be left undone: whoever meets a lock left behind resolves it by its primary. So each step is idempotent,
its failures concern nobody but the log, and it runs in the background, within its own time.

* `commit_keys`: after the commit point. A refusal there would mean that a store lost a committed lock; it is raised.
* `roll_back_keys`: after a commit that failed for good, never after one that may have happened: some of the locks of an
  async commit rolled back while another client, which saw them all, commits the rest, would tear the transaction apart.
* `release_locks`: pessimistic locks up to a for_update_ts, of a transaction that may live on.
* `resolve_range`: all locks of a transaction in a range, region by region, for one that no longer knows its keys.

Sources: client-go txnkv/transaction/cleanup.go, commit.go, pessimistic.go; its time limits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import KV_BATCH_ROLLBACK, KV_COMMIT, KV_PESSIMISTIC_ROLLBACK, KV_RESOLVE_LOCK
from pytikv.client.txn.backend import RequestContext, TxnBackend, TxnPiece
from pytikv.client.txn.key_batches import over_keys
from pytikv.client.txn.key_errors import key_error
from pytikv.errors import TikvError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["commit_keys", "commit_request", "release_locks", "resolve_range", "roll_back_keys"]

_COMMIT_SECONDARIES_S: Final = 41.0
_CLEANUP_S: Final = 20.0
_RESOLVE_CONCURRENCY: Final = 8

logger: Final = logging.getLogger("pytikv")


def commit_request(
    start_ts: int, commit_ts: int, keys: Sequence[bytes], primary: bytes, *, is_primary: bool, is_async_commit: bool
) -> kvrpcpb.CommitRequest:
    """Return the commit of some keys; `is_primary`: the primary is among them."""
    return kvrpcpb.CommitRequest(
        start_version=start_ts,
        commit_version=commit_ts,
        keys=keys,
        primary_key=primary,
        commit_role=kvrpcpb.Primary if is_primary else kvrpcpb.Secondary,
        use_async_commit=is_async_commit,
    )


async def commit_keys(
    backend: TxnBackend,
    keys: Sequence[bytes],
    start_ts: int,
    commit_ts: int,
    primary: bytes,
    context: RequestContext,
    *,
    is_async_commit: bool,
) -> None:
    """Commit keys of a transaction that is committed. Raises the first failure, after all were tried."""

    async def send(region: Any, some: Sequence[bytes], call: Call) -> None:
        request = commit_request(
            start_ts, commit_ts, some, primary, is_primary=primary in some, is_async_commit=is_async_commit
        )
        response = await backend.send(KV_COMMIT, region, request, call, context)
        if response.HasField("error"):
            logger.error("transaction %d is committed, but a store refused some of its keys", start_ts)
            raise key_error(response.error, backend.codec, start_ts)

    await over_keys(backend, keys, backend.call(backend.rt.now() + _COMMIT_SECONDARIES_S), send)


async def roll_back_keys(backend: TxnBackend, keys: Sequence[bytes], start_ts: int, context: RequestContext) -> None:
    """Remove the locks of keys and leave records that keep late prewrites out. Raises the first failure."""

    async def send(region: Any, some: Sequence[bytes], call: Call) -> None:
        request = kvrpcpb.BatchRollbackRequest(start_version=start_ts, keys=some)
        response = await backend.send(KV_BATCH_ROLLBACK, region, request, call, context)
        if response.HasField("error"):
            raise key_error(response.error, backend.codec, start_ts)

    await over_keys(backend, keys, backend.call(backend.rt.now() + _CLEANUP_S), send)


async def release_locks(
    backend: TxnBackend,
    keys: Sequence[bytes],
    start_ts: int,
    for_update_ts: int,
    context: RequestContext,
    call: Call | None = None,
) -> None:
    """Remove pessimistic locks taken at or below `for_update_ts`. Raises the first failure."""

    async def send(region: Any, some: Sequence[bytes], own: Call) -> None:
        request = kvrpcpb.PessimisticRollbackRequest(start_version=start_ts, for_update_ts=for_update_ts, keys=some)
        response = await backend.send(KV_PESSIMISTIC_ROLLBACK, region, request, own, context)
        for error in response.errors:
            raise key_error(error, backend.codec, start_ts)

    await over_keys(backend, keys, call or backend.call(backend.rt.now() + _CLEANUP_S), send)


async def resolve_range(
    backend: TxnBackend, start_key: bytes, end_key: bytes, start_ts: int, commit_ts: int, context: RequestContext
) -> None:
    """Commit (`commit_ts` 0: roll back) a transaction's locks in a range of wire keys. Raises the first failure."""
    errors: list[TikvError] = []

    async def one(piece: TxnPiece) -> None:
        call = backend.call(backend.rt.now() + _COMMIT_SECONDARIES_S)
        request = kvrpcpb.ResolveLockRequest(start_version=start_ts, commit_version=commit_ts)
        try:
            response = await backend.send(KV_RESOLVE_LOCK, piece.region, request, call, context)
            if response.HasField("error"):
                raise key_error(response.error, backend.codec, start_ts)
        except RegionStale:
            await divide(piece.start_key, piece.end_key)
        except TikvError as error:
            errors.append(error)

    async def divide(low: bytes, high: bytes) -> None:
        pieces = await backend.pieces(low, high, backend.call(backend.rt.now() + _COMMIT_SECONDARIES_S))
        await run_bounded(backend.rt, [partial(one, piece) for piece in pieces], _RESOLVE_CONCURRENCY)

    await divide(start_key, end_key)
    if errors:
        raise errors[0]
