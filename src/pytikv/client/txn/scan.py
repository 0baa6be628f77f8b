"""A scan of a snapshot under way: which range is left, how many pairs may still come. Pages are asked for one by one.

A page lies in one region and asks for no more than what the range and the region have in common. One that comes back
short has met the end of the region, not of the range. Pages grow: each full one doubles the next, up to `GROWTH` times
the first, as long as a page has fewer than `PAGE_BYTES`; many pairs cost few requests, and few pairs cost little.

Locks: all that a page met are settled together; then the pairs before the first one are handed out and the scan goes on
at the locked key. An error of the whole page means that its pairs are not all there: it is asked for again.

Nothing is held between two pages, no connection and no lock: a scan may be left at any point, and gone on with after an
error. In API v1 the wire has no word for "up to the very last key" of a reverse scan: a key above all stands for it.

Source: client-go txnkv/txnsnapshot/scan.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from pytikv.client import rpcs
from pytikv.client.arguments import MAX_SCAN_PAGE, check_count, check_range
from pytikv.client.pages import Pair
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import RequestContext, TxnBackend, TxnPiece
from pytikv.client.txn.options import ReadOptions
from pytikv.codec.api import ABOVE_ALL
from pytikv.errors import InvalidArgument
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP

__all__ = ["GROWTH", "PAGE_BYTES", "PageReader", "SnapshotScan"]

GROWTH: Final = 16
PAGE_BYTES: Final = 1 << 20


class PageReader(Protocol):
    """What a scan needs of `SnapshotReader`."""

    start_ts: int
    options: ReadOptions
    backend: TxnBackend

    @property
    def context(self) -> RequestContext:
        """What requests say."""
        ...

    def lock_in(self, error: kvrpcpb.KeyError) -> kvrpcpb.LockInfo:
        """Return the lock that an error is about; raises the error where it is about anything else."""
        ...

    async def meet(self, locks: Sequence[kvrpcpb.LockInfo], call: Call, context: RequestContext, /) -> RequestContext:
        """Settle locks; returns what to say when reading again."""
        ...

    async def ensure_visible(self, call: Call) -> None:
        """Raise SnapshotTooOld where what was read may not have been all there."""


class SnapshotScan:
    """The state of one scan over a range of user keys; belongs to one consumer."""

    __slots__ = ("_done", "_high", "_keys_only", "_left", "_low", "_most", "_reader", "_reverse", "_size", "_source")

    def __init__(
        self,
        source: PageReader | Callable[[], Awaitable[PageReader]],
        start: bytes | None,
        end: bytes | None,
        *,
        reverse: bool,
        keys_only: bool,
        batch_size: int,
        limit: int | None = None,
    ) -> None:
        """`source`: the reader, or how to get it when the first page is wanted. Raises WrongType, InvalidArgument."""
        self._low, self._high = check_range(start, end)  # users' keys until the reader is there, wire keys then
        self._left = None if limit is None else check_count("limit", limit, low=0)
        self._size = check_count("batch_size", batch_size, high=MAX_SCAN_PAGE)
        self._most = min(MAX_SCAN_PAGE, self._size * GROWTH)
        self._done = self._left == 0 or (self._high != b"" and self._low >= self._high)
        self._reverse = bool(reverse)
        self._keys_only = bool(keys_only)
        self._source = source
        self._reader: PageReader | None = None

    async def next_page(self) -> list[Pair]:
        """Return the next pairs; an empty list at the end."""
        while not self._done:
            reader = self._reader or await self._begin()
            page = await self._fetch(reader)
            if self._left is not None:
                self._left -= len(page)
                self._done = self._done or self._left <= 0
            if page:
                return page
        return []

    async def _begin(self) -> PageReader:
        source = self._source
        reader = await source() if callable(source) else source
        if reader.start_ts == MAX_TIMESTAMP:
            raise InvalidArgument('the timestamp of "the latest" reads single keys: scan at one of the oracle')
        self._low, self._high = reader.backend.codec.encode_range(self._low, self._high)
        self._reader = reader
        return reader

    async def _fetch(self, reader: PageReader) -> list[Pair]:
        """Fetch pairs of one region and move on; the list may be empty."""
        backend = reader.backend
        call = backend.call()
        context = reader.context
        size = self._size if self._left is None else min(self._size, self._left)
        while True:
            piece = await backend.first_piece(self._low, self._high, call, reverse=self._reverse)
            try:
                answer = await backend.send(
                    rpcs.KV_SCAN, piece.region, self._request(piece, size, reader), call, context
                )
            except RegionStale:
                continue
            if answer.HasField("error"):
                context = await reader.meet([reader.lock_in(answer.error)], call, context)
                continue
            locked = [
                (at, reader.lock_in(pair.error)) for at, pair in enumerate(answer.pairs) if pair.HasField("error")
            ]
            if locked:
                context = await reader.meet([lock for _, lock in locked], call, context)
                if locked[0][0] == 0:
                    continue
            page = self._take(answer, piece, size, locked)
            await reader.ensure_visible(call)
            return page

    def _request(self, piece: TxnPiece, size: int, reader: PageReader) -> kvrpcpb.ScanRequest:
        low, high = piece.start_key, piece.end_key
        if self._reverse:
            low, high = high or ABOVE_ALL, low  # on the wire a reverse scan begins at its upper end
        return kvrpcpb.ScanRequest(
            start_key=low,
            end_key=high,
            limit=size,
            version=reader.start_ts,
            key_only=self._keys_only,
            reverse=self._reverse,
            sample_step=reader.options.sample_step,
        )

    def _take(
        self, answer: kvrpcpb.ScanResponse, piece: TxnPiece, size: int, locked: list[tuple[int, kvrpcpb.LockInfo]]
    ) -> list[Pair]:
        """Return the pairs up to the first lock, and move on behind them."""
        assert self._reader is not None
        pairs = answer.pairs[: locked[0][0]] if locked else answer.pairs
        if locked:
            self._go_on_at(answer.pairs[len(pairs)].key or locked[0][1].key)
        elif len(pairs) < size:
            self._go_on_behind(piece)
        else:
            self._go_on_after(pairs[-1].key)
        prefix = len(self._reader.backend.codec.prefix)
        page = [(pair.key[prefix:], pair.value) for pair in pairs] if prefix else [(p.key, p.value) for p in pairs]
        is_full = not locked and len(page) == self._size < self._most
        if is_full and sum([len(key) + len(value) for key, value in page]) < PAGE_BYTES:
            self._size = min(self._most, self._size * 2)
        return [(key, b"") for key, _ in page] if self._keys_only else page

    def _go_on_at(self, key: bytes) -> None:
        """Go on with `key` itself."""
        if self._reverse:
            self._high = key + b"\x00"
        else:
            self._low = key

    def _go_on_after(self, key: bytes) -> None:
        """Go on with what follows `key`."""
        if self._reverse:
            self._high = key
            self._done = key <= self._low
        else:
            self._low = key + b"\x00"
            self._done = self._high != b"" and self._low >= self._high

    def _go_on_behind(self, piece: TxnPiece) -> None:
        """Go on in the next region, if there is one."""
        if self._reverse:
            self._high = piece.start_key
            self._done = piece.start_key <= self._low
        else:
            self._low = piece.end_key
            self._done = not piece.end_key or (self._high != b"" and piece.end_key >= self._high)
