"""Work on a range that is done region by region: many regions at once, a bounded number of them.

The range is divided as the work goes on, `REGIONS_AHEAD` regions at a time, so that memory is bounded, and regions that
split or merge meanwhile are met as they are by then. A region that changes under its handler (`RegionStale`) is divided
anew, and its part handled again in pieces: a handler must bear being called twice for the same keys.

Each step has a time of its own, the option `timeout`, within the ambient deadline; the whole takes as long as it takes.
The first failure cancels the others and is raised, with a note that says where it happened. `progress` is true at any
time, also after a failure: whoever goes on later begins at its `position`.

Source: client-go txnkv/rangetask/range_task.go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import TxnBackend, TxnPiece
from pytikv.client.txn.key_errors import user_key
from pytikv.errors import TikvError, format_key

__all__ = ["CONCURRENCY", "REGIONS_AHEAD", "Handler", "OnProgress", "Progress", "RangeTask"]

CONCURRENCY: Final = 8
REGIONS_AHEAD: Final = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far work on a range has come."""

    regions: int
    """Regions that are done."""
    items: int
    """What was dealt with in them: locks resolved, say."""
    position: bytes | None
    """Key up to which everything is done; None: the whole range is."""


Handler = Callable[[TxnPiece, Call], Awaitable[tuple[int, bytes | None]]]
"""Takes a step in one region's part of the range: returns how many items it dealt with, and the key to go on from
(None: the part is done). May raise RegionStale at any time."""
OnProgress = Callable[[Progress], None]


class RangeTask:
    """One run over a range of wire keys; `run` it once."""

    def __init__(
        self,
        backend: TxnBackend,
        start_key: bytes,
        end_key: bytes,
        handler: Handler,
        *,
        concurrency: int = CONCURRENCY,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._backend = backend
        self._handler = handler
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._end_key = end_key
        self._position: bytes | None = start_key if not end_key or start_key < end_key else None
        self._regions = 0
        self._items = 0

    @property
    def progress(self) -> Progress:
        """How far it is."""
        position = self._position
        return Progress(self._regions, self._items, position and user_key(position, self._backend.codec))

    async def run(self) -> Progress:
        """Do it. Raises the TikvError of the region that failed first."""
        while self._position is not None:
            pieces, rest = await self._next_pieces(self._position)
            jobs = [partial(self._handle, piece) for piece in pieces]
            await run_bounded(self._backend.rt, jobs, self._concurrency)
            self._position = rest
            self._tell()
        return self.progress

    async def _next_pieces(self, start_key: bytes) -> tuple[list[TxnPiece], bytes | None]:
        """Return the next regions' parts, and where the rest of the range begins (None: there is none)."""
        pieces: list[TxnPiece] = []
        while len(pieces) < REGIONS_AHEAD:
            piece = await self._backend.first_piece(start_key, self._end_key, self._backend.call())
            pieces.append(piece)
            if not piece.end_key or piece.end_key == self._end_key:
                return pieces, None
            start_key = piece.end_key
        return pieces, start_key

    async def _handle(self, piece: TxnPiece) -> None:
        left = [piece]
        call = self._backend.call()
        try:
            while left:
                part = left.pop()
                try:
                    items, rest = await self._handler(part, call)
                except RegionStale:
                    left += reversed(await self._backend.pieces(part.start_key, part.end_key, call))
                    continue
                call = self._backend.call()  # it got somewhere: time begins anew
                self._items += items
                if rest is None:
                    self._regions += 1
                else:
                    left.append(dataclasses.replace(part, start_key=rest))
        except TikvError as error:
            start, end = (self._shown(key) for key in (piece.start_key, piece.end_key))
            error.add_note(f"while working on the keys from {start} to {end}")
            raise
        self._tell()

    def _shown(self, key: bytes) -> str:
        return format_key(user_key(key, self._backend.codec)) if key else "the end"

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress)
