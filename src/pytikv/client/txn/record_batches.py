"""What a client says of the batch writers for records of tables, which are made in `pytikv.model`, above this room."""

from __future__ import annotations

import importlib
from types import TracebackType
from typing import Any, Protocol, TypeVar

from pytikv.client.batch_result import BatchResult

__all__ = ["AsyncRecordBatch", "RecordBatch", "TableLike", "async_record_batch", "record_batch"]

R = TypeVar("R")

Item = tuple[str, Any]
"""A table's name and a row's key."""


class TableLike(Protocol[R]):
    """A `pytikv.model.Table` of records of class R."""

    cls: type[R]


class RecordBatch(Protocol):
    """A batch writer for records, for `with`; see `pytikv.model.batch.BatchWriter`."""

    @property
    def result(self) -> BatchResult[Item]:
        """What has been done so far; complete after the block."""
        ...

    def put(self, table: TableLike[R], record: R) -> Item:
        """Add a record, to be written in the place of the row with its key. Raises RowError."""
        ...

    def delete(self, table: TableLike[Any], key: Any) -> Item:
        """Add a deletion."""
        ...

    def flush(self) -> BatchResult[Item]:
        """Write what has gathered, and return the account so far."""
        ...

    def __enter__(self) -> RecordBatch: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class AsyncRecordBatch(Protocol):
    """A batch writer for records, for `async with`; see `pytikv.model.batch.AsyncBatchWriter`."""

    @property
    def result(self) -> BatchResult[Item]:
        """What has been done so far; complete after the block."""
        ...

    async def put(self, table: TableLike[R], record: R) -> Item:
        """Add a record, to be written in the place of the row with its key. Raises RowError."""
        ...

    async def delete(self, table: TableLike[Any], key: Any) -> Item:
        """Add a deletion."""
        ...

    async def flush(self) -> BatchResult[Item]:
        """Write what has gathered, and return the account so far."""
        ...

    async def __aenter__(self) -> AsyncRecordBatch: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def record_batch(db: Any, **options: Any) -> RecordBatch:
    """Return a batch writer of a blocking client."""
    made: RecordBatch = _make(db, options)
    return made


def async_record_batch(db: Any, **options: Any) -> AsyncRecordBatch:
    """Return a batch writer of an asynchronous client."""
    made: AsyncRecordBatch = _make(db, options)
    return made


def _make(db: Any, options: dict[str, Any]) -> Any:
    """Make it by the name of its module, which is loaded when it is wanted."""
    return importlib.import_module("pytikv.model.batch").batch(db, **options)
