"""Whole ranges removed at once, past all transactions.

`delete_range` removes every version of every key, region by region, through the regions' logs. `unsafe_destroy_range`
goes to each store and removes the files, at once and beneath the regions. Neither leaves tombstones for snapshots to
see: reads at any timestamp find nothing, or a part, and locks in the range are gone with it. Both are for data that
nobody uses any more, and cannot be undone. When one fails, a part may have been done; do it again.

In API v1 the whole of a store has no borders to name, and the stores take no empty one: an end is asked for, and by
`unsafe_destroy_range` a start.

Sources: client-go txnkv/rangetask/delete_range.go, tikv/gc.go.
"""

from __future__ import annotations

from typing import Final

from pytikv.ambient import effective
from pytikv.client.request_sender import Call
from pytikv.client.rpcs import KV_DELETE_RANGE, UNSAFE_DESTROY_RANGE
from pytikv.client.store_errors import raw_error
from pytikv.client.txn.admin.range_task import OnProgress, RangeTask
from pytikv.client.txn.backend import TxnBackend, TxnPiece
from pytikv.errors import InvalidArgument, Outcome, ServerError, TikvError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["DESTROY_TIMEOUT_S", "delete_range", "unsafe_destroy_range"]

DESTROY_TIMEOUT_S: Final = 300.0
"""A store removes files while the call waits."""


def _wire_range(backend: TxnBackend, start: bytes, end: bytes) -> tuple[bytes, bytes]:
    low, high = backend.codec.encode_range(start, end)
    if not high:
        raise InvalidArgument("a range that is removed needs an end in API v1: give a key above all that it holds")
    return low, high


async def delete_range(backend: TxnBackend, start: bytes, end: bytes, *, on_progress: OnProgress | None = None) -> None:
    """Remove a range of user keys, region by region."""
    low, high = _wire_range(backend, start, end)

    async def step(piece: TxnPiece, call: Call) -> tuple[int, bytes | None]:
        request = kvrpcpb.DeleteRangeRequest(start_key=piece.start_key, end_key=piece.end_key)
        response = await backend.send(KV_DELETE_RANGE, piece.region, request, call)
        if response.error:
            raise raw_error(response.error)
        return 0, None

    await RangeTask(backend, low, high, step, on_progress=on_progress).run()


async def unsafe_destroy_range(backend: TxnBackend, start: bytes, end: bytes) -> None:
    """Remove a range of user keys from the disks of all stores. Raises ServerError, which names those that failed."""
    low, high = _wire_range(backend, start, end)
    if not low:
        raise InvalidArgument("a range that is destroyed needs a start in API v1: give the smallest key that it holds")
    if low >= high:
        return
    request = kvrpcpb.UnsafeDestroyRangeRequest(start_key=low, end_key=high)
    call = backend.call(effective(backend.rt.now(), max(DESTROY_TIMEOUT_S, backend.config.timeout)))
    answers = await backend.send_to_all_stores(UNSAFE_DESTROY_RANGE, request, call)
    failed = [f"{address}: {reason}" for address, answer in answers if (reason := _failure(answer))]
    if failed:
        raise ServerError(
            f"{len(failed)} of {len(answers)} stores failed to remove the range, part of which may be gone: try again "
            f"({'; '.join(failed)})",
            outcome=Outcome.UNDETERMINED,
            retryable=True,
        )


def _failure(answer: object) -> str:
    if isinstance(answer, TikvError):
        return str(answer)
    error: str = getattr(answer, "error", "")
    return error
