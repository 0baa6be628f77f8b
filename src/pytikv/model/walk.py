"""Going through all rows of a table in batches, each in a transaction of its own, resumable.

A step reads the next rows in stored order, does its work on them, and writes how far it has come, all in one
transaction. A step must be such that making it again does no harm: one whose commit is undetermined is repeated.
`lock_keys` makes a step that only looks at a row conflict with whoever changes that row meanwhile, so that work based
on it cannot overtake a writer.

Steps that lose such a conflict are repeated with half as many rows, so that a busy row does not hold up its neighbours;
a row by itself is locked first (pessimistic), and so has its turn however busy it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from pytikv.client.arguments import check_count
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import CommitUndetermined, WriteConflict

__all__ = ["BATCH", "Found", "OnProgress", "Progress", "batches", "repeatable", "walk"]

T = TypeVar("T")

BATCH: Final = 256
_ATTEMPTS: Final = 20
_LOST_COMMITS: Final = 20

Found = tuple[bytes, bytes]
"""A stored key and its value."""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a walk has come."""

    rows: int
    """Rows seen by this walk; a resumed one counts from where it was resumed."""
    changed: int
    """Things written: entries, rows. Of a step that was repeated because its commit was undetermined, the last time."""
    position: bytes | None
    """The stored key of the last row done; None: all are."""


OnProgress = Callable[[Progress], None]

Step = Callable[[AsyncTransaction, Sequence[Found], bytes | None], Awaitable[int]]
"""Works on some rows in a transaction, and notes the position (None: the walk is over) in it; returns what it changed,
a number."""


async def walk(
    db: AsyncTransactionClient,
    spans: Sequence[tuple[bytes, bytes]],
    step: Step,
    *,
    after: bytes | None = None,
    batch: int = BATCH,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Work on all pairs of some ranges in order, those up to `after` left out; returns the last progress."""
    check_count("batch", batch, low=1, high=10_240)
    rows = changed = 0
    position = after
    while True:
        taken, wrote, position = await _one(db, spans, step, position, batch)
        rows, changed = rows + taken, changed + wrote
        progress = Progress(rows, changed, position)
        if on_progress is not None:
            on_progress(progress)
        if position is None:
            return progress


async def _one(
    db: AsyncTransactionClient, spans: Sequence[tuple[bytes, bytes]], step: Step, after: bytes | None, batch: int
) -> tuple[int, int, bytes | None]:
    """Make one step. Returns the rows taken, what was changed, and the new position."""
    size = batch

    async def work(txn: AsyncTransaction) -> tuple[int, int, bytes | None]:
        found = await _read(txn, spans, after, size)
        position = found[-1][0] if len(found) == size else None
        if txn.is_pessimistic and found:  # what was read is of the transaction's begin
            newest = await txn.batch_get_for_update([key for key, _ in found])
            found = [(key, newest[key]) for key, _ in found if key in newest]
        return len(found), await step(txn, found, position), position

    while True:
        try:
            return await repeatable(db, work, attempts=_ATTEMPTS if size == 1 else 2, pessimistic=size == 1)
        except WriteConflict:
            if size == 1:
                raise
            size = max(1, size // 2)


async def repeatable(db: AsyncTransactionClient, work: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    """Do as `db.run`, and again where the commit is undetermined, for work that does no harm when it is done twice."""
    for _ in range(_LOST_COMMITS):
        try:
            return await db.run(work, *args, **options)
        except CommitUndetermined:
            continue
    return await db.run(work, *args, **options)


async def batches(
    db: AsyncTransactionClient, spans: Sequence[tuple[bytes, bytes]], batch: int
) -> AsyncIterator[tuple[AsyncSnapshot, list[Found]]]:
    """Iterate over all pairs of some ranges, a batch at a time, each with the snapshot that it was read from."""
    check_count("batch", batch, low=1, high=10_240)
    after: bytes | None = None
    while True:
        snapshot = await db.snapshot()
        found = await _read(snapshot, spans, after, batch)
        yield snapshot, found
        if len(found) < batch:
            return
        after = found[-1][0]


async def _read(
    txn: AsyncTransaction | AsyncSnapshot, spans: Sequence[tuple[bytes, bytes]], after: bytes | None, limit: int
) -> list[Found]:
    found: list[Found] = []
    for low, high in spans:
        start = low if after is None else max(low, after + b"\0")
        if start < high and len(found) < limit:
            found += [
                pair async for pair in txn.scan(start, high, limit=limit - len(found), batch_size=min(limit, 1024))
            ]
    return found
