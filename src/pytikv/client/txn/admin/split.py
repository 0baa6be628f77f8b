"""Regions split at chosen keys, and moved apart.

A region is split by its leader, which gets the keys that lie in it, at most `KEYS_A_REQUEST` at a time; keys that are
borders already are left out, since a store cannot split there. PD can then be asked to scatter the new regions over the
stores, which it does in its own time, and `wait_scattered` waits for. In the embedded store there are no regions, and
nothing happens.

Source: client-go tikv/split_region.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import SPLIT_REGION
from pytikv.client.txn.admin.range_task import CONCURRENCY
from pytikv.client.txn.backend import TxnBackend
from pytikv.errors import DeadlineExceeded
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["KEYS_A_REQUEST", "scatter", "split", "wait_scattered"]

KEYS_A_REQUEST: Final = 2048
_LOOK_EVERY_S: Final = 0.1


async def split(backend: TxnBackend, keys: Sequence[bytes]) -> list[int]:
    """Split regions at wire keys, distinct and sorted; returns the ids of the regions that came to be."""
    made: list[int] = []
    call = backend.call()
    await _split(backend, keys, call, made)
    return sorted(made)


async def _split(backend: TxnBackend, keys: Sequence[bytes], call: Call, made: list[int]) -> None:
    keys = [key for key in keys if key and not await _is_border(backend, key, call)]
    if not keys:
        return
    jobs = [
        partial(_split_region, backend, region, group[first : first + KEYS_A_REQUEST], call.fork(), made)
        for region, group in await backend.group(keys, None, call)
        for first in range(0, len(group), KEYS_A_REQUEST)
    ]
    await run_bounded(backend.rt, jobs, CONCURRENCY)


async def _split_region(backend: TxnBackend, region: Any, keys: Sequence[bytes], call: Call, made: list[int]) -> None:
    try:
        response = await backend.send(SPLIT_REGION, region, kvrpcpb.SplitRegionRequest(split_keys=keys), call)
    except RegionStale:
        await _split(backend, keys, call, made)
        return
    # The parts come in key order; the last one keeps the id of the region that was split.
    made += [part.id for part in response.regions[:-1]]


async def _is_border(backend: TxnBackend, key: bytes, call: Call) -> bool:
    """Tell whether a region begins at `key`: then the last region of what ends just behind it does."""
    low, _ = backend.codec.encode_range(b"", b"")
    piece = await backend.first_piece(low, key + b"\x00", call, reverse=True)
    return piece.start_key == key


async def scatter(backend: TxnBackend, region_ids: Sequence[int]) -> None:
    """Ask PD to spread regions over the stores."""
    deadline = backend.call().backoffer.deadline
    jobs = [partial(backend.scatter_region, region_id, deadline) for region_id in region_ids]
    await run_bounded(backend.rt, jobs, CONCURRENCY)


async def wait_scattered(backend: TxnBackend, region_ids: Sequence[int]) -> None:
    """Wait until PD has finished with all of the regions. Raises DeadlineExceeded after the time of a call."""
    deadline = backend.call().backoffer.deadline
    left = list(region_ids)
    while left:
        left = [region_id for region_id in left if not await backend.is_scattered(region_id, deadline)]
        if left and backend.rt.now() + _LOOK_EVERY_S >= deadline:
            raise DeadlineExceeded(f"{len(left)} of {len(region_ids)} regions are still being scattered")
        if left:
            await backend.rt.sleep(_LOOK_EVERY_S)
