"""Carrying out a plan, lazily: entries or rows are fetched a page at a time as the reader comes to them.

By the key, a page of values is a page of rows, but for tables with field groups, whose groups are fetched for the page
at once. By an index, a page of entries names rows, which are fetched at once; an entry without its row (a row deleted
by a writer that did not know the index) is passed over. Entries of an index over elements may name a row twice: each
comes once.

Ranges that are to be merged (one a shard) are read side by side and merged by what rows sort by. Pages begin small and
double up to `_PAGE`, so that `first` costs little and long scans few requests.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Generic, TypeVar

from pytikv.client.pages import Pages
from pytikv.model.layout import Span
from pytikv.model.planner import Plan, matches
from pytikv.model.rows import Reader, Rows

__all__ = ["RowPages", "iterate_rows"]

R = TypeVar("R")

_FIRST_PAGE: Final = 32
_PAGE: Final = 512

Found = tuple[bytes, bytes]
"""A stored key and its value."""


class _SpanReader:
    """Reads one range, page by page, from a position on."""

    def __init__(self, txn: Reader, span: Span, reverse: bool, keys_only: bool, page: int) -> None:
        self._pages: Pages = txn._scan(span.head + span.start, span.head + span.end, None, reverse, keys_only, page)
        self.head_size = len(span.head)
        self._waiting: list[Found] = []
        self._is_done = False

    async def peek(self) -> Found | None:
        """Return the next pair without taking it; None at the end."""
        if not self._waiting and not self._is_done:
            self._waiting = list(reversed(await self._pages.next_page()))
            self._is_done = not self._waiting
        return self._waiting[-1] if self._waiting else None

    def take(self) -> Found:
        """Take the pair that `peek` returned."""
        return self._waiting.pop()

    async def rest_of_page(self, most: int) -> list[Found]:
        """Return up to `most` pairs that are there or come with one request; none: the range is at its end."""
        if await self.peek() is None:
            return []
        count = min(most, len(self._waiting))
        taken = self._waiting[-count:]
        del self._waiting[-count:]
        taken.reverse()
        return taken


class RowPages(Generic[R]):
    """The rows of a plan, in pages. Belongs to one task or thread.

    limit: how many rows in all; None: all. after: the position (`position` of another) behind which to begin.
    where: a further condition on records.
    """

    def __init__(
        self,
        txn: Reader,
        rows: Rows[R],
        plan: Plan,
        *,
        limit: int | None = None,
        after: bytes | None = None,
        where: Callable[[R], bool] | None = None,
        keys_only: bool = False,
    ) -> None:
        self._txn = txn
        self._rows = rows
        self._plan = plan
        self._left = limit
        self._where = where
        self._keys_only = keys_only
        self._page = _FIRST_PAGE if limit is None else max(1, min(_FIRST_PAGE, limit))
        self._groups = [group for group in (self._behind(group, after) for group in plan.spans) if group]
        self._readers: list[_SpanReader] | None = None
        self._head_size = len(plan.spans[0][0].head) if plan.spans else 0
        self._seen: set[Any] | None = set() if plan.index is not None and plan.index.each is not None else None
        self.position: bytes | None = after
        """What the last row that was returned, or its entry, sorts by."""

    def _behind(self, group: list[Span], after: bytes | None) -> list[Span]:
        """Return what lies behind a position, of ranges that are merged."""
        if after is None:
            return group
        if self._plan.reverse:
            spans = [span._replace(end=min(span.end, after)) for span in group]
        else:
            spans = [span._replace(start=max(span.start, after + b"\0")) for span in group]
        return [span for span in spans if span.start < span.end]

    async def next_page(self) -> list[R]:
        """Return the next rows, at least one; none: that was all."""
        while self._left is None or self._left > 0:
            found = await self._next_found()
            if not found:
                return []
            rows = await self._rows_of(found)
            kept = [(key, row) for key, row in rows if self._is_wanted(row)]
            if self._left is not None:
                kept = kept[: self._left]
                self._left -= len(kept)
            if kept:
                self.position = kept[-1][0][self._head_size :]
                return [row for _, row in kept]
        return []

    def _is_wanted(self, row: R) -> bool:
        if self._plan.filters and not matches(self._rows.records, row, self._plan.filters):
            return False
        return self._where is None or self._where(row)

    async def _next_found(self) -> list[Found]:
        """Return the next stored pairs, in order; none: that was all. Raises SchemaError for an index not built."""
        if self._readers is None and self._plan.index is not None:
            await self._rows.catalog.require(self._txn, self._plan.index.name)
        while self._readers or self._groups:
            if not self._readers:
                spans = self._groups.pop(0)
                self._readers = [
                    _SpanReader(self._txn, span, self._plan.reverse, self._keys_only, self._page) for span in spans
                ]
            if len(self._readers) == 1:
                found = await self._readers[0].rest_of_page(self._page)
            else:
                found = await self._merged(self._readers, self._page)
            self._page = min(_PAGE, self._page * 2)
            if found:
                return found
            self._readers = None
        return []

    async def _merged(self, readers: list[_SpanReader], most: int) -> list[Found]:
        """Return up to `most` pairs of several ranges, in the order of what rows sort by."""
        reverse = self._plan.reverse
        heads: list[tuple[_Order, int]] = []
        for at, reader in enumerate(readers):
            pair = await reader.peek()
            if pair is not None:
                heads.append((_Order(pair[0][reader.head_size :], reverse), at))
        heapq.heapify(heads)
        found: list[Found] = []
        while heads and len(found) < most:
            _, at = heapq.heappop(heads)
            found.append(readers[at].take())
            pair = await readers[at].peek()
            if pair is not None:
                heapq.heappush(heads, (_Order(pair[0][readers[at].head_size :], reverse), at))
        return found

    async def _rows_of(self, found: list[Found]) -> list[tuple[bytes, R]]:
        """Return the rows of stored pairs, each with its pair's key."""
        rows = self._rows
        layout = rows.layout
        if self._plan.index is None:
            if not rows.schema.groups:
                return [(key, rows.codec.decode((value,))) for key, value in found]
            keys = [layout.key_of_row(key) for key, _ in found]
        else:
            keys = [layout.read_entry(self._plan.index, key, value)[0] for key, value in found]
            if self._seen is not None:
                found, keys = self._unseen(found, keys)
        loaded = await rows.load(self._txn, [layout.encoded_key(key) for key in keys])
        return [(pair[0], row) for pair, row in zip(found, loaded, strict=True) if row is not None]

    def _unseen(self, found: list[Found], keys: list[Any]) -> tuple[list[Found], list[Any]]:
        assert self._seen is not None
        kept: tuple[list[Found], list[Any]] = ([], [])
        for pair, key in zip(found, keys, strict=True):
            if key not in self._seen:
                self._seen.add(key)
                kept[0].append(pair)
                kept[1].append(key)
        return kept

    async def count(self) -> int:
        """Return how many rows are left, reading no rows where entries tell enough."""
        if self._plan.filters or self._where is not None or self._seen is not None:
            total = 0
            while page := await self.next_page():
                total += len(page)
            return total
        total = 0
        while (self._left is None or total < self._left) and (found := await self._next_found()):
            total += len(found)
        return total if self._left is None else min(total, self._left)


class _Order:
    """What pairs sort by, turned round for reverse."""

    __slots__ = ("key", "reverse")

    def __init__(self, key: bytes, reverse: bool) -> None:
        self.key = key
        self.reverse = reverse

    def __lt__(self, other: _Order) -> bool:
        return self.key > other.key if self.reverse else self.key < other.key


async def iterate_rows(pages: RowPages[R]) -> AsyncIterator[R]:
    """Iterate over rows, fetching each page when the one before is used up."""
    while page := await pages.next_page():
        for row in page:
            yield row
