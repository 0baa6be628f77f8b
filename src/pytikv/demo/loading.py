"""Rows into the tables of the demonstration, and out again what an earlier run has left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytikv.model import Table

if TYPE_CHECKING:
    from pytikv import TransactionClient

__all__ = ["clear", "load"]

R = TypeVar("R")
_KEYS_A_TRANSACTION: Final = 4096
_BATCH_BYTES: Final = 2 << 20
_STEP: Final = 512


def clear(db: TransactionClient, table: Table[Any]) -> int:
    """Delete all that a table has stored, rows and entries, in transactions of some thousand; return how many keys."""
    count = 0
    for start, end in table.rows.layout.everything():
        found = db.snapshot().scan(start, end, keys_only=True)
        while keys := [key for key, _ in islice(found, _KEYS_A_TRANSACTION)]:
            with db.begin() as txn:
                for key in keys:
                    txn.delete(key)
            count += len(keys)
    return count


def load(
    db: TransactionClient, table: Table[R], records: Iterable[R], *, jobs: int, step: Callable[[int], None]
) -> int:
    """Write records by the batch writer, `jobs` transactions at once; return how many were written.

    `step` is called with the number of records so far. Raises the first error of a record that was not written.
    """
    with db.batch(max_bytes=_BATCH_BYTES, concurrency=jobs) as writer:
        for record in _watched(records, step):
            writer.put(table, record)
    for error in writer.result.errors.values():
        raise error
    written: int = writer.result.written
    return written


def _watched(records: Iterable[R], step: Callable[[int], None]) -> Iterator[R]:
    for number, record in enumerate(records):
        if number % _STEP == 0:
            step(number)
        yield record
