"""The rows of a table in parts, one a region (and shard), for several processes to read side by side at one timestamp.

    parts = regions(db, users)                       # in one process
    for user in scan_part(db, users, part): ...      # in others, each with a client and parts of its own

Together the parts hold every row once, as of `TablePart.ts`; in their order, rows come by key within a shard. A part is
small and can be pickled. It may be read as long as garbage collection has not passed its timestamp (SnapshotTooOld):
`db.set_gc_barrier` holds that up. Regions that split or merge later do not matter.

An embedded store has no regions: one part a shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar, overload

from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import InvalidArgument
from pytikv.model.drive import in_client
from pytikv.model.layout import Span
from pytikv.model.query import RowPages, Wish, iterate_rows
from pytikv.model.table import Table

__all__ = ["TablePart", "part_pages", "regions", "scan_part", "table_parts"]

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class TablePart:
    """A part of a table's rows as of `ts`. What it holds besides is for `scan_part`."""

    table: str
    fingerprint: str
    ts: int
    head: bytes
    start: bytes
    end: bytes


@overload
def regions(db: TransactionClient, table: Table[Any], *, ts: int | None = None) -> list[TablePart]: ...
@overload
def regions(
    db: AsyncTransactionClient, table: Table[Any], *, ts: int | None = None
) -> Coroutine[Any, Any, list[TablePart]]: ...
def regions(db: Any, table: Table[Any], *, ts: int | None = None) -> Any:
    """Return the parts of a table, in key order within a shard. `ts`: as of when; None: the present."""
    return in_client(db, table_parts, table, ts)


async def table_parts(db: AsyncTransactionClient, table: Table[Any], ts: int | None) -> list[TablePart]:
    """See `regions`."""
    backend = db._backend
    call = backend.call()
    if ts is None:
        ts = await backend.timestamp(call.backoffer.deadline)
    codec = backend.codec
    found = []
    for span in _row_spans(table):
        low, high = span.head + span.start, span.head + span.end
        pieces = await backend.pieces(codec.encode_key(low), codec.encode_key(high), call)
        for piece in pieces:
            start, end = codec.decode_key(piece.start_key), codec.decode_key(piece.end_key)
            size = len(span.head)
            found.append(TablePart(table.name, table.schema.fingerprint, int(ts), span.head, start[size:], end[size:]))
    return found


@overload
def scan_part(
    db: TransactionClient, table: Table[R], part: TablePart, *, where: Callable[[R], bool] | None = None
) -> Iterator[R]: ...
@overload
def scan_part(
    db: AsyncTransactionClient, table: Table[R], part: TablePart, *, where: Callable[[R], bool] | None = None
) -> AsyncIterator[R]: ...
def scan_part(
    db: Any, table: Table[R], part: TablePart, *, where: Callable[[R], bool] | None = None
) -> Iterator[R] | AsyncIterator[R]:
    """Iterate over the rows of a part, lazily, as of its timestamp. Raises SnapshotTooOld where that is collected.

    Raises InvalidArgument for a part of another table, or of one that was declared otherwise.
    """
    if isinstance(db, TransactionClient):
        return _scan_blocking(db, part_pages(db._core, table, part, where))
    return iterate_rows(part_pages(db, table, part, where))


def _scan_blocking(db: TransactionClient, pages: RowPages[R]) -> Iterator[R]:
    while page := db._rt.run(pages.next_page()):
        yield from page


def part_pages(
    db: AsyncTransactionClient, table: Table[R], part: TablePart, where: Callable[[R], bool] | None = None
) -> RowPages[R]:
    """Return the pages of a part's rows. Raises InvalidArgument."""
    if (part.table, part.fingerprint) != (table.name, table.schema.fingerprint):
        raise InvalidArgument(
            f"this part is of table {part.table!r}, declared otherwise than table {table.name!r} here"
        )
    plan = dataclasses.replace(table._plan({}), spans=[[Span(part.head, part.start, part.end)]])
    return RowPages(db.snapshot(part.ts), table.rows, plan, Wish(where=where))


def _row_spans(table: Table[Any]) -> list[Span]:
    return [span for group in table._plan({}).spans for span in group]
