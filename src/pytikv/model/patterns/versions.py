"""Compare-and-set by a version field: changes that span requests, as an HTTP ETag or a form that a person fills in.

The row is read in one transaction, shown, and written back in another; in between anybody may have changed it. A field
of the record counts its versions; `put_version` writes a record only where the stored row has the version that the
record was read with, and counts it up.

Guarantees: of several writers who read the same version exactly one succeeds, the others get StaleRow; a version names
one content. Works in optimistic and pessimistic transactions alike.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar, overload

from pytikv.client.txn.blocking import Transaction
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.model.drive import in_transaction
from pytikv.model.errors import RowError, shown
from pytikv.model.table import Table

__all__ = ["StaleRow", "put_version"]

R = TypeVar("R")


class StaleRow(RowError):
    """The row has been changed, or deleted, since it was read. `stored`: the version that is there; None: no row."""

    def __init__(self, message: str = "", *, table: str = "", field: str = "", stored: Any = None) -> None:
        super().__init__(message, table=table, field=field)
        self.stored = stored


@overload
def put_version(txn: Transaction, table: Table[R], record: R, *, field: str = "version") -> R: ...
@overload
def put_version(
    txn: AsyncTransaction, table: Table[R], record: R, *, field: str = "version"
) -> Coroutine[Any, Any, R]: ...
def put_version(txn: Any, table: Table[R], record: R, *, field: str = "version") -> Any:
    """Write `record` where the stored row has its version, counted up by one; returns the record as it was written.

    `field` is an int; a record with version 0 must be new. Raises StaleRow, and what `Table.put` raises. With an
    asynchronous transaction a coroutine.
    """
    return in_transaction(txn, _put_version, table, record, field)


async def _put_version(txn: AsyncTransaction, table: Table[R], record: R, field: str) -> R:
    rows = table.rows
    records = rows.records
    records.check(record)
    version = records.get(record, field)
    if isinstance(version, bool) or not isinstance(version, int):
        raise records.error(f"must be an int to count versions, not {shown(version)}", field)
    row_key = rows.layout.row_key(rows.encoded_of(record))
    value = await txn.get_for_update(row_key) if txn.is_pessimistic else await txn.get(row_key)
    stored = None if value is None else rows.codec.decode_fields((value,), (field,))[field]
    if (stored or 0) != version:
        what = "has gone" if stored is None else f"has version {shown(stored)}"
        raise StaleRow(
            f"the row of table {table.name!r} {what}, the record was read with version {version}: read it again",
            table=table.name,
            field=field,
            stored=stored,
        )
    written = records.replace(record, {field: version + 1})
    await rows.put(txn, [written])
    return written
