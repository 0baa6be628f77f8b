"""A scan over the snapshot and the transaction's own writes as one sequence, in either direction.

    snapshot pages   a     c  d     f        (from the stores, page by page)
    own writes          b  c- d'       g     (a `BufferView`: put b, delete c, put d, put g)
    the scan         a  b     d'    f  g

On a key that both have, the own write counts. Nothing is read ahead: a page of the snapshot is asked for when the own
entries below its first key are not enough to fill the present page of the scan.

A scan sees the transaction as it was when the scan began: snapshot and view are both fixed then. What the transaction
writes while it iterates, also ahead of the present place, shows in the next scan. `limit` counts what is returned.
"""

from __future__ import annotations

from typing import Final

from pytikv.client.pages import Pages, Pair
from pytikv.client.txn.buffer import BufferView, Entry, Kind

__all__ = ["UnionScan"]

_OWN_CHUNK: Final = 256


class UnionScan:
    """The scan; belongs to one consumer. `own` None: there are no own writes in the range."""

    __slots__ = (
        "_at",
        "_ended",
        "_keys_only",
        "_left",
        "_own",
        "_own_at",
        "_own_view",
        "_page",
        "_reverse",
        "_size",
        "_theirs",
    )

    def __init__(
        self,
        theirs: Pages,
        own: BufferView | None,
        *,
        reverse: bool,
        keys_only: bool,
        limit: int | None,
        page_size: int,
    ) -> None:
        self._theirs = theirs
        self._own_view = own
        self._reverse = reverse
        self._keys_only = keys_only
        self._left = limit
        self._size = page_size
        self._page: list[Pair] = []
        self._at = 0
        self._ended = False
        self._own: list[tuple[bytes, Entry]] = []
        self._own_at = 0

    async def next_page(self) -> list[Pair]:
        """Return the next pairs; an empty list at the end. After an error the scan may be gone on with."""
        if self._left == 0:
            return []
        size = self._size if self._left is None else min(self._size, self._left)
        found: list[Pair] = []
        while len(found) < size:
            if self._at == len(self._page) and not self._ended:
                if found:
                    break  # what is there first, before the stores are asked again
                await self._fetch()
                continue
            own = self._peek_own()
            if own is None:
                taken = self._page[self._at : self._at + size - len(found)]
                if not taken:
                    break
                self._at += len(taken)
                found += taken
            else:
                self._merge_one(own, found)
        if self._left is not None:
            self._left -= len(found)
        return found

    async def _fetch(self) -> None:
        self._page = await self._theirs.next_page()
        self._at = 0
        self._ended = not self._page

    def _peek_own(self) -> tuple[bytes, Entry] | None:
        if self._own_at == len(self._own):
            if self._own_view is None:
                return None
            self._own = self._own_view.chunk(_OWN_CHUNK)
            self._own_at = 0
            if not self._own:
                self._own_view = None
                return None
        return self._own[self._own_at]

    def _merge_one(self, own: tuple[bytes, Entry], found: list[Pair]) -> None:
        """Take the next key of the two sequences."""
        key, entry = own
        if self._at < len(self._page):
            pair = self._page[self._at]
            if pair[0] == key:
                self._at += 1
            elif (pair[0] < key) is not self._reverse:
                self._at += 1
                found.append(pair)
                return
        self._own_at += 1
        if entry.kind is Kind.PUT:
            found.append((key, b"" if self._keys_only else entry.value))
