"""Carrying out a plan, lazily: entries or rows are fetched a page at a time as the reader comes to them.

By the key, a page of values is a page of rows; field groups are fetched for the page at once, those that are asked for.
By an index, a page of entries names rows, which are fetched at once, or is the rows, where entries hold all fields that
are asked for. An entry without its row (a row deleted by a writer that did not know the index) is passed over. Of a row
with several entries in an index over elements, only the first that the query meets counts: the row itself tells which
that is, so that a query in pages, each perhaps in another process, has each row once as well.

Ranges that are to be merged (one a shard) are read side by side and merged by what rows sort by. Pages begin small and
double up to `_PAGE`, so that `first` costs little and long scans few requests.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pytikv.client.pages import Pages
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.errors import WrongType
from pytikv.model.layout import Span
from pytikv.model.planner import Plan, held_by_entries, matches
from pytikv.model.rows import Reader, Rows

__all__ = ["RowPages", "Wish", "iterate_rows"]

R = TypeVar("R")

_FIRST_PAGE: Final = 32
_PAGE: Final = 512

Found = tuple[bytes, bytes]
"""A stored key and its value."""


class Wish(NamedTuple):
    """What is wanted of the rows of a plan.

    limit: how many in all; None: all. after: the position (of `RowPages.take`) behind which to begin. where: a further
    condition on records. fields: dicts of these in place of records.
    """

    limit: int | None = None
    after: bytes | None = None
    where: Callable[[Any], bool] | None = None
    fields: Sequence[str] | None = None
    keys_only: bool = False


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


_ALL: Final = Wish()


class RowPages(Generic[R]):
    """The rows of a plan, in pages; records of class R, or dicts. Belongs to one task or thread. Raises WrongType."""

    def __init__(self, txn: Reader, rows: Rows[R], plan: Plan, wish: Wish = _ALL) -> None:
        if wish.where is not None and not callable(wish.where):
            raise WrongType(f"where is a function of a record, not {type(wish.where).__name__}")
        self._txn = txn
        self._rows = rows
        self._plan = plan
        self._wish = wish
        self._left = wish.limit
        self._page = _FIRST_PAGE if wish.limit is None else max(1, min(_FIRST_PAGE, wish.limit))
        self._groups = [group for group in (self._behind(group, wish.after) for group in plan.spans) if group]
        self._readers: list[_SpanReader] | None = None
        self._head_size = len(plan.spans[0][0].head) if plan.spans else 0
        self._needed = self._needed_fields()
        self._is_covered = (
            self._needed is not None
            and plan.index is not None
            and held_by_entries(rows.schema, rows.records, plan.index).issuperset(self._needed)
        )

    def _needed_fields(self) -> tuple[str, ...] | None:
        """Return the fields to read; None: whole records."""
        fields = self._wish.fields
        if fields is None:
            return None
        self._rows.check_fields(fields)
        if self._wish.where is not None or self._has_elements:
            return None
        return tuple(dict.fromkeys((*fields, *self._plan.filters)))

    @property
    def _has_elements(self) -> bool:
        return self._plan.index is not None and self._plan.index.each is not None

    def _behind(self, group: list[Span], after: bytes | None) -> list[Span]:
        """Return what lies behind a position, of ranges that are merged."""
        if after is None:
            return group
        if self._plan.reverse:
            spans = [span._replace(end=min(span.end, after)) for span in group]
        else:
            spans = [span._replace(start=max(span.start, after + b"\0")) for span in group]
        return [span for span in spans if span.start < span.end]

    async def next_page(self) -> list[Any]:
        """Return the next rows, at least one; none: that was all."""
        return [item for _, item in await self._next()]

    async def take(self, count: int) -> tuple[list[Any], bytes | None]:
        """Return the next `count` rows, and the position of the last one where there are more behind it."""
        self._left = count + 1
        taken: list[tuple[bytes, Any]] = []
        while len(taken) <= count and (page := await self._next()):
            taken += page
        position = taken[count - 1][0][self._head_size :] if len(taken) > count else None
        return [item for _, item in taken[:count]], position

    async def _next(self) -> list[tuple[bytes, Any]]:
        """Return the next rows, each with the stored key that led to it."""
        while self._left is None or self._left > 0:
            found = await self._next_found()
            if not found:
                return []
            kept = await self._wanted_of(found)
            if self._left is not None:
                kept = kept[: self._left]
                self._left -= len(kept)
            if kept:
                return kept
        return []

    async def _wanted_of(self, found: list[Found]) -> list[tuple[bytes, Any]]:
        """Return the rows of stored pairs that meet all conditions."""
        plan, records, wish = self._plan, self._rows.records, self._wish
        if self._needed is not None:
            partial = await self._dicts_of(found, self._needed)
            asked = wish.fields or ()
            if plan.index is None and not plan.filters and self._needed == tuple(asked):
                return partial  # these fields, and no others
            return [
                (key, {field: values[field] for field in asked})
                for key, values in partial
                if not plan.filters or matches(records, values.__getitem__, plan)
            ]
        kept: list[tuple[bytes, Any]] = []
        for key, row in await self._rows_of(found):
            if plan.filters and not matches(records, lambda field, row=row: records.get(row, field), plan):  # type: ignore[misc]
                continue
            if (wish.where is None or wish.where(row)) and (not self._has_elements or self._is_first(key, row)):
                item = row if wish.fields is None else {field: records.get(row, field) for field in wish.fields}
                kept.append((key, item))
        return kept

    def _is_first(self, key: bytes, row: R) -> bool:
        """Tell whether an entry of an index over elements is the first of its row's that the query meets."""
        layout, index = self._rows.layout, self._plan.index
        assert index is not None
        row_key = layout.key_of(row)
        met = [
            entry.key
            for entry in layout.entries(row, layout.encoded_key(row_key), row_key, (index.name,))
            if any(span.holds(entry.key) for group in self._plan.spans for span in group)
        ]
        order = max if self._plan.reverse else min
        return bool(met) and order(met, key=lambda one: one[self._head_size :]) == key

    async def _next_found(self) -> list[Found]:
        """Return the next stored pairs, in order; none: that was all. Raises SchemaError for an index not built."""
        if self._readers is None and self._plan.index is not None:
            await self._rows.catalog.require(self._txn, self._plan.index.name)
        while self._readers or self._groups:
            if not self._readers:
                spans = self._groups.pop(0)
                self._readers = [
                    _SpanReader(self._txn, span, self._plan.reverse, self._wish.keys_only, self._page) for span in spans
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
        if isinstance(self._txn, AsyncSnapshot):  # which, unlike a transaction, may be read by several at once
            await self._txn._backend.rt.gather(*(reader.peek() for reader in readers))
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
        rows, layout = self._rows, self._rows.layout
        if self._plan.index is None:
            if not rows.schema.groups:
                return [(key, rows.codec.decode((value,))) for key, value in found]
            values = await self._with_groups(found, list(rows.schema.groups))
            return [(pair[0], rows.codec.decode(parts)) for pair, parts in zip(found, values, strict=True)]
        keys = [layout.read_entry(self._plan.index, key, value)[0] for key, value in found]
        loaded = await rows.load(self._txn, [layout.encoded_key(key) for key in keys])
        return [(pair[0], row) for pair, row in zip(found, loaded, strict=True) if row is not None]

    async def _dicts_of(self, found: list[Found], needed: Sequence[str]) -> list[tuple[bytes, dict[str, Any]]]:
        """Return some fields of the rows of stored pairs, reading no more than that takes."""
        rows, index = self._rows, self._plan.index
        if index is None:
            groups = [group for group in rows.groups_of(needed) if group is not None]
            values = await self._with_groups(found, groups)
            return [
                (pair[0], rows.codec.decode_fields(parts, needed)) for pair, parts in zip(found, values, strict=True)
            ]
        if self._is_covered:
            covered = tuple([field for field in needed if field in index.covering])
            return [(key, rows.fields_of_entry(index, key, value, covered)) for key, value in found]
        keys = [rows.layout.read_entry(index, key, value)[0] for key, value in found]
        loaded = await rows.get_fields(self._txn, [one[0] if len(one) == 1 else one for one in keys], needed)
        return [(pair[0], values) for pair, values in zip(found, loaded, strict=True) if values is not None]

    async def _with_groups(self, found: list[Found], groups: Sequence[str]) -> list[list[bytes]]:
        """Return the values of rows: the main one, which is here, and those of some groups."""
        if not groups:
            return [[value] for _, value in found]
        layout = self._rows.layout
        encoded = [layout.encoded_key(layout.key_of_row(key)) for key, _ in found]
        places = [[layout.group_key(key, group) for group in groups] for key in encoded]
        held = await self._txn.batch_get([place for row in places for place in row])
        return [
            [pair[1], *(held[place] for place in row if place in held)] for pair, row in zip(found, places, strict=True)
        ]

    async def count(self) -> int:
        """Return how many rows are left, reading no rows where entries tell enough."""
        if not self._wish.keys_only:
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


async def iterate_rows(pages: RowPages[Any]) -> AsyncIterator[Any]:
    """Iterate over rows, fetching each page when the one before is used up."""
    while page := await pages.next_page():
        for row in page:
            yield row
