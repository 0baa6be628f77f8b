"""Keys and ranges divided by the regions that hold them, and requests to many regions at once.

Keys here are in wire form, region borders are brought into it (codec.api); comparing wire keys with wire borders orders
them as the regions are. Whoever sends learns from `RegionStale` that a division is outdated; then only the part
concerned is divided and sent anew, with the same account of waits, so that every way ends at the call's deadline.

`Batches` runs a batch: divided by region, cut by bytes and number of keys, all parts under way at once up to
`concurrency`. Each part's failure is noted for its keys and the others go on. A part that the store refuses for one of
its keys is halved until the key stands alone, so that a report names the keys that are at fault and no others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from pytikv.client.region_cache import CachedRegion, RegionCache
from pytikv.client.request_sender import Call, RegionStale, RequestSender
from pytikv.client.rpcs import Rpc
from pytikv.codec.api import KeyCodec
from pytikv.errors import ConfigError, InvalidArgument, TikvError
from pytikv.rt.interface import Runtime

__all__ = ["Batch", "Batches", "Locator", "Piece", "RegionMap", "over_range", "run_bounded"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_BORDERS_KEPT: Final = 1024
_CUT_OTHERWISE: Final = "the cluster's regions have borders of another API version: check api_version"
_CUT_FOR_RAW: Final = (
    "the cluster's regions were cut between keys of raw data, which transactions cannot stand beside in API v1: "
    "give them a cluster of their own, or use one of API v2 for both"
)


KeyOf = Callable[[Any], bytes] | None
"""How to take the wire key out of an item; None: the item is the key."""


class Locator(Protocol):
    """Whoever finds regions, from the cache or from PD."""

    async def locate(self, key: bytes, deadline: float, until: bytes | None = None) -> CachedRegion:
        """Return the region that holds `key` (region form); `until`: how far the caller goes on from there."""
        ...

    async def locate_end(self, key: bytes, deadline: float) -> CachedRegion:
        """Return the region that holds the keys just below `key` (region form; `b""`: the very last)."""
        ...


class Piece(NamedTuple):
    """A part of a range within one region, in wire form; an empty `end_key` is unbounded."""

    region: CachedRegion
    start_key: bytes
    end_key: bytes


class RegionMap:
    """Regions by wire keys, in one mode of keys."""

    def __init__(self, rt: Runtime, codec: KeyCodec, regions: RegionCache, locator: Locator) -> None:
        self._rt = rt
        self._codec = codec
        self._regions = regions
        self._locator = locator
        self._wire_border = lru_cache(_BORDERS_KEPT)(codec.wire_border)

    async def find(self, wire_key: bytes, call: Call, until: bytes | None = None) -> CachedRegion:
        """Return the region that holds a key; `until`: how far the caller goes on from there, in wire form."""
        region = self._cached(wire_key)
        if region is not None:
            return region
        until = None if until is None else self._codec.region_border(until)
        return await self._locator.locate(self._codec.region_key(wire_key), call.backoffer.deadline, until)

    def _cached(self, wire_key: bytes) -> CachedRegion | None:
        return self._regions.locate(self._codec.region_key(wire_key), self._rt.now())

    async def find_below(self, wire_key: bytes, call: Call) -> CachedRegion:
        """Return the region that holds the keys just below `wire_key` (`b""`: the last one)."""
        key = self._codec.region_border(wire_key)
        region = self._regions.locate_end(key, self._rt.now())
        return region if region is not None else await self._locator.locate_end(key, call.backoffer.deadline)

    def border(self, border: bytes) -> bytes:
        """Return a region's border in wire form; empty stays empty."""
        try:
            return self._wire_border(border)
        except ValueError:
            raise ConfigError(_CUT_OTHERWISE if self._codec.prefix else _CUT_FOR_RAW) from None

    async def group(self, items: Sequence[Any], key_of: KeyOf, call: Call) -> list[tuple[CachedRegion, Sequence[Any]]]:
        """Divide items with distinct keys, at least one, by region; within one they may be ordered anew."""
        if len(items) == 1:
            key = items[0] if key_of is None else key_of(items[0])
            return [(self._cached(key) or await self.find(key, call), items)]
        first, last = min(items, key=key_of), max(items, key=key_of)
        if key_of is not None:
            first, last = key_of(first), key_of(last)
        region = self._cached(first) or await self.find(first, call, last + b"\x00")
        end = self.border(region.end_key)
        if not end or last < end:
            return [(region, items)]
        ordered = sorted(items, key=key_of)
        groups: list[tuple[CachedRegion, Sequence[Any]]] = []
        low = 0
        while True:
            high = max(low + 1, bisect_left(ordered, end, lo=low, key=key_of)) if end else len(ordered)
            groups.append((region, ordered[low:high]))
            if high == len(ordered):
                return groups
            low = high
            first = ordered[low] if key_of is None else key_of(ordered[low])
            region = self._cached(first) or await self.find(first, call, last + b"\x00")
            end = self.border(region.end_key)

    async def pieces(self, start_key: bytes, end_key: bytes, call: Call) -> list[Piece]:
        """Divide a range that is not empty by region, in key order."""
        found = []
        while True:
            region = await self.find(start_key, call, end_key)
            border = self.border(region.end_key)
            if not border or (end_key and end_key <= border):
                found.append(Piece(region, start_key, end_key))
                return found
            found.append(Piece(region, start_key, border))
            start_key = border


async def run_bounded(rt: Runtime, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]], limit: int) -> None:
    """Run all jobs, at most `limit` at once. The first failure cancels the rest and is raised."""
    if len(jobs) == 1:
        await jobs[0]()
        return
    if len(jobs) <= limit:
        await rt.gather(*(job() for job in jobs))
        return
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job()

    await rt.gather(*(work() for _ in range(limit)))


class Batch(Protocol[ItemT]):
    """One kind of batch: how its items are cut, sent and answered."""

    rpc: Rpc
    key_of: KeyOf

    def cut(self, items: Sequence[ItemT], /) -> Iterable[Sequence[ItemT]]:
        """Cut items of one region into requests."""
        ...

    def encode(self, items: Sequence[ItemT], /) -> bytes:
        """Return the request without its context."""
        ...

    def take(self, data: bytes, /) -> None:
        """Read an answer; raises the TikvError that it holds."""


class Batches(Generic[ItemT]):
    """The run of one batch; see the module's docstring. `failed` maps wire keys to errors."""

    def __init__(self, rt: Runtime, sender: RequestSender, regions: RegionMap, batch: Batch[ItemT], limit: int) -> None:
        self.failed: dict[bytes, TikvError] = {}
        self._rt = rt
        self._sender = sender
        self._regions = regions
        self._batch = batch
        self._limit = limit

    async def run(self, items: Sequence[ItemT], call: Call) -> None:
        """Send all items (at least one); failures are in `failed` afterwards."""
        try:
            groups = await self._regions.group(items, self._batch.key_of, call)
        except TikvError as error:
            self.note(items, error, call)
            return
        parts = [(region, part) for region, group in groups for part in self._batch.cut(group)]
        if len(parts) == 1:
            await self._send(*parts[0], call)
            return

        jobs = [partial(self._send, region, part, call.fork()) for region, part in parts]
        await run_bounded(self._rt, jobs, self._limit)

    async def _send(self, region: CachedRegion, items: Sequence[ItemT], call: Call) -> None:
        try:
            self._batch.take(await self._sender.send(self._batch.rpc, region, self._batch.encode(items), call))
        except RegionStale:
            await self.run(items, call)
        except TikvError as error:
            await self.refused(region, items, error, call)

    async def refused(self, region: CachedRegion, items: Sequence[ItemT], error: TikvError, call: Call) -> None:
        """Take in that a part failed: note it, or halve the part where one of its keys may be at fault."""
        if len(items) == 1 or not isinstance(error, InvalidArgument):
            self.note(items, error, call)
            return
        middle = len(items) // 2
        await self._send(region, items[:middle], call)
        await self._send(region, items[middle:], call)

    def note(self, items: Sequence[ItemT], error: TikvError, call: Call) -> None:
        """Note the error of each item."""
        call.settle(error)
        key_of = self._batch.key_of
        for item in items:
            key: Any = item if key_of is None else key_of(item)
            self.failed[key] = error


async def over_range(
    rt: Runtime,
    regions: RegionMap,
    start_key: bytes,
    end_key: bytes,
    call: Call,
    send: Callable[[Piece, Call], Awaitable[None]],
    limit: int,
) -> None:
    """Do `send` for every region of a range, all at once; pieces whose region is stale are divided anew.

    The first failure is raised, after the pieces under way have ended.
    """
    errors: list[TikvError] = []

    async def one(piece: Piece, own: Call) -> None:
        try:
            await send(piece, own)
        except RegionStale:
            await divide(piece.start_key, piece.end_key, own)
        except TikvError as error:
            own.settle(error)
            errors.append(error)

    async def divide(low: bytes, high: bytes, own: Call) -> None:
        found = await regions.pieces(low, high, own)
        await run_bounded(rt, [partial(one, piece, own.fork()) for piece in found], limit)

    await divide(start_key, end_key, call)
    if errors:
        raise errors[0]
