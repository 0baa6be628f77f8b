"""Rows into the tables of the demonstration, and out again what an earlier run has left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytikv.model import RowError, Table, bulk
from pytikv.transfer.collector import fewer_collections

if TYPE_CHECKING:
    from pytikv import TransactionClient

__all__ = ["clear", "load"]

R = TypeVar("R")
_ROWS_A_TRANSACTION: Final = 2048


def clear(db: TransactionClient, table: Table[Any], step: Callable[[int], None]) -> None:
    """Delete all rows of a table with their index entries. `step` is called with the number of rows so far."""
    table.truncate(db, batch=_ROWS_A_TRANSACTION, on_progress=lambda progress: step(progress.rows))


def load(
    db: TransactionClient, table: Table[R], records: Iterable[R], *, jobs: int, step: Callable[[int], None]
) -> int:
    """Write records in bulk, `jobs` transactions at once; return how many were written.

    `step` is called with the number of records so far. Raises the error of the store, or RowError for a record that
    the table refuses: then the data is not as expected.
    """
    with fewer_collections():
        report = bulk.load(db, table, records, concurrency=jobs, on_progress=lambda report: step(report.rows))
    if report.error is not None:
        raise report.error
    for refused in report.errors:
        raise RowError(f"row {refused.line} of table {table.name!r} was refused: {refused.reason}", table=table.name)
    return report.rows
