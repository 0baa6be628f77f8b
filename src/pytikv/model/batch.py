"""A batch writer for records of any tables: collects, writes in transactions of many, and gives an account.

    with batch(db) as writer:
        writer.put(users, user)
        writer.delete(flights, ("LH", 400))
    writer.result         # BatchResult(written=2, ...)

What has gathered is written when it reaches `max_bytes` (of keys and values, entries included) or `max_items`, and at
the end: sorted, so that neighbours of one region go together, and cut into transactions that fit into one prewrite
each, which commits them by itself (1PC) where all lies in one region; `concurrency` of them run at once. A transaction
that is refused for one of its records (UniqueViolation, RowError) is halved until the record stands alone, so the
account names it and all others are written. Each transaction is repeated as `db.run` does; one whose commit is
undetermined is repeated too, which is safe for puts and deletes of whole rows.

Rows are first expected to be *new*: then nothing is read, rows and unique entries are inserted, and the store itself
refuses a key that is there. What is refused so is made anew as a put, and so is all of its tables from there on: for
the rest of the flush, and later, as long as the connection lasts (a writer of `bulk`: after `_KNOWN` such flushes).

What ends a flush early (KeyboardInterrupt, cancellation, a client that is closed) is in the account too: whatever had
been handed over and has no answer yet is noted as unprocessed, its outcome undetermined.

Not one transaction: readers may see some records before the others. Whoever needs all or none writes them in a
transaction of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar, overload

from pytikv.client.arguments import check_count
from pytikv.client.batch_result import MAX_BYTES, BatchResult, unanswered
from pytikv.client.by_region import run_bounded
from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.plan import batches
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import CommitUndetermined, InvalidArgument, KeyExists, TikvError, TransactionTooLarge, WrongType
from pytikv.model.drive import AsyncReader, BlockingReader, in_transaction
from pytikv.model.rows import NewRow
from pytikv.model.table import Table
from pytikv.rt.caller import CallerRuntime

__all__ = ["AsyncBatchWriter", "BatchWriter", "Item", "batch", "multi_get"]

R = TypeVar("R")

_ATTEMPTS: Final = 20
_LOST_COMMITS: Final = 5
_CONCURRENCY: Final = 8
_ROOM: Final = 0.75  # of a prewrite, for what the encoding of keys adds
_KNOWN: Final = 3
_SHARED: Final = "model.batch"
_REFUSALS: Final = (KeyExists, InvalidArgument, TransactionTooLarge)

Item = tuple[str, Any]
"""A table's name and a row's key."""

_Place = tuple[bytes, str, bytes]
_Home = tuple[bytes, str]


@dataclasses.dataclass(frozen=True, slots=True)
class _Operation:
    table: Table[Any]
    encoded_key: bytes
    key: Any
    size: int
    row: NewRow[Any] | None = None
    """None: a deletion."""
    puts: Mapping[bytes, bytes] = dataclasses.field(default_factory=dict)
    """What is written where there is no such row yet."""
    exclusive: frozenset[bytes] = frozenset()
    """Those of it that must not be there: the row itself, and its unique entries."""

    @property
    def item(self) -> Item:
        return (self.table.name, self.key)

    @property
    def home(self) -> _Home:
        """Names the table."""
        return (self.table.schema.prefix, self.table.name)

    @property
    def place(self) -> _Place:
        """Names the row; sorts as rows lie."""
        return (self.table.schema.prefix, self.table.name, self.encoded_key)


def _size_of(operation: _Operation) -> int:
    return operation.size


class AsyncBatchWriter:
    """See the module's docstring. Belongs to one task at a time."""

    def __init__(
        self,
        db: AsyncTransactionClient,
        *,
        max_items: int | None,
        max_bytes: int,
        concurrency: int,
        expect_new: bool = False,
    ) -> None:
        if max_items is not None:
            check_count("max_items", max_items, low=1)
        check_count("max_bytes", max_bytes, low=1)
        check_count("concurrency", concurrency, low=1, high=1024)
        self._db = db
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._concurrency = concurrency
        self._waiting: dict[_Place, _Operation] = {}
        self._sent: dict[_Place, _Operation] = {}  # and without an answer yet
        self._bytes = 0
        # How many flushes have met rows that were there, by table; and the tables of which this one has.
        shared: dict[_Home, int] = db._backend.shared.setdefault(_SHARED, {})
        self._known = {} if expect_new else shared
        self._known_most = _KNOWN if expect_new else 1
        self._met: set[_Home] = set()
        self._is_closed = False
        self.result: BatchResult[Item] = BatchResult()
        """What has been done so far; complete after the block."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have gathered and are not sent."""
        return self._bytes

    async def put(self, table: Table[R], record: R) -> Item:
        """Add a record, to be written in the place of the row with its key. Writes the batch if it is full now.

        Returns the item by which the account calls it. Raises RowError for a record that does not fit its table.
        """
        item = self.add(table, record)
        if self.is_full:
            await self.flush()
        return item

    def add(self, table: Table[R], record: R) -> Item:
        """Add a record as `put` does, and write nothing."""
        rows = table.rows
        row = rows.new_row(record)
        row.fresh = changes = rows.differ.put(None, row.record, row.encoded_key, row.key, row.entries)
        exclusive = frozenset((row.row_key, *(entry.key for entry in changes.exclusive)))
        size = sum(map(len, changes.puts)) + sum(map(len, changes.puts.values()))
        key = row.key[0] if len(row.key) == 1 else row.key
        return self._add(_Operation(table, row.encoded_key, key, size, row, changes.puts, exclusive))

    async def delete(self, table: Table[Any], key: Any) -> Item:
        """Add a deletion. Writes the batch if it is full now. Returns the item by which the account calls it."""
        item = self.add_delete(table, key)
        if self.is_full:
            await self.flush()
        return item

    def add_delete(self, table: Table[Any], key: Any) -> Item:
        """Add a deletion as `delete` does, and write nothing."""
        encoded = table.rows.encoded(key)
        return self._add(_Operation(table, encoded, key, len(encoded)))

    def _add(self, operation: _Operation) -> Item:
        if self._is_closed:
            raise InvalidArgument("the batch has ended: begin another")
        self._waiting[operation.place] = operation
        self._bytes += operation.size
        return operation.item

    @property
    def is_full(self) -> bool:
        """Whether what has gathered is enough to be written."""
        return self._bytes >= self._max_bytes or (self._max_items is not None and len(self._waiting) >= self._max_items)

    async def flush(self) -> BatchResult[Item]:
        """Write what has gathered, and return the account so far."""
        self._sent, self._waiting, self._bytes = self._waiting, {}, 0
        operations = [self._sent[place] for place in sorted(self._sent)]
        pieces = batches(operations, _size_of, int(self._db._backend.prewrite_bytes * _ROOM)) if operations else []
        if pieces:
            try:
                await run_bounded(self._db._backend.rt, [self._job(piece) for piece in pieces], self._concurrency)
            finally:
                for operation in self._sent.values():
                    self.result.note(operation.item, unanswered())
                self._sent = {}
                for home in self._met:
                    self._known[home] = self._known.get(home, 0) + 1
                self._met.clear()
        return self.result

    def _job(self, operations: Sequence[_Operation]) -> Callable[[], Coroutine[Any, Any, None]]:
        return lambda: self._write(operations)

    async def _write(self, operations: Sequence[_Operation]) -> None:
        """Write a piece in one transaction, or halve it where one of its records is refused."""
        try:
            await self._commit(operations)
        except TikvError as error:
            if len(operations) == 1 or not isinstance(error, _REFUSALS):
                for operation in operations:
                    del self._sent[operation.place]
                    self.result.note(operation.item, error)
                return
            middle = len(operations) // 2
            await self._write(operations[:middle])
            await self._write(operations[middle:])
        else:
            for operation in operations:
                del self._sent[operation.place]
            self.result.written += len(operations)

    async def _commit(self, operations: Sequence[_Operation]) -> None:
        homes = {operation.home for operation in operations}
        if not any(home in self._met or self._known.get(home, 0) >= self._known_most for home in homes):
            try:
                await self._run(_insert, operations)
                return
            except KeyExists:
                self._met |= homes
        await self._run(_apply, operations)

    async def _run(self, work: Callable[..., Coroutine[Any, Any, None]], operations: Sequence[_Operation]) -> None:
        for lost in range(_LOST_COMMITS):
            try:
                await self._db.run(work, operations, attempts=_ATTEMPTS)
                return
            except CommitUndetermined:
                if lost == _LOST_COMMITS - 1:
                    raise

    async def __aenter__(self) -> AsyncBatchWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.flush()
        self._is_closed = True


async def _insert(txn: AsyncTransaction, operations: Sequence[_Operation]) -> None:
    """Write rows that are not there yet, reading nothing. Raises KeyExists, at the latest at the commit."""
    for table in dict.fromkeys(operation.table for operation in operations):
        await table.rows.catalog.require(txn)
    for operation in operations:  # first, as in `_apply`
        if operation.row is None:
            await operation.table.rows.delete(txn, (operation.key,))
    for operation in operations:
        if txn._write_at_once(operation.puts, operation.exclusive):
            continue
        for key, value in operation.puts.items():
            if key in operation.exclusive:
                await txn.insert(key, value)
            else:
                await txn.put(key, value)


async def _apply(txn: AsyncTransaction, operations: Sequence[_Operation]) -> None:
    by_table: dict[Table[Any], tuple[list[NewRow[Any]], list[Any]]] = {}
    for operation in operations:
        records, keys = by_table.setdefault(operation.table, ([], []))
        if operation.row is None:
            keys.append(operation.key)
        else:
            records.append(operation.row)
    for table, (records, keys) in by_table.items():
        if keys:  # first, so that unique values of rows that go are free for those that come
            await table.rows.delete(txn, keys)
        if records:
            await table.rows.put_rows(txn, records)


class BatchWriter:
    """The blocking twin of `AsyncBatchWriter`. Belongs to one thread at a time."""

    def __init__(self, core: AsyncBatchWriter, rt: CallerRuntime) -> None:
        self._core = core
        self._rt = rt

    @property
    def result(self) -> BatchResult[Item]:
        """What has been done so far; complete after the block."""
        return self._core.result

    def put(self, table: Table[R], record: R) -> Item:
        """Add a record, to be written in the place of the row with its key. Writes the batch if it is full now.

        Returns the item by which the account calls it. Raises RowError for a record that does not fit its table.
        """
        item = self._core.add(table, record)
        if self._core.is_full:
            self.flush()
        return item

    def delete(self, table: Table[Any], key: Any) -> Item:
        """Add a deletion. Writes the batch if it is full now. Returns the item by which the account calls it."""
        item = self._core.add_delete(table, key)
        if self._core.is_full:
            self.flush()
        return item

    def flush(self) -> BatchResult[Item]:
        """Write what has gathered, and return the account so far."""
        return self._rt.run(self._core.flush())

    def __enter__(self) -> BatchWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._rt.run(self._core.__aexit__(kind, error, traceback))


@overload
def batch(
    db: TransactionClient, *, max_items: int | None = None, max_bytes: int = MAX_BYTES, concurrency: int = _CONCURRENCY
) -> BatchWriter: ...
@overload
def batch(
    db: AsyncTransactionClient,
    *,
    max_items: int | None = None,
    max_bytes: int = MAX_BYTES,
    concurrency: int = _CONCURRENCY,
) -> AsyncBatchWriter: ...
def batch(
    db: TransactionClient | AsyncTransactionClient,
    *,
    max_items: int | None = None,
    max_bytes: int = MAX_BYTES,
    concurrency: int = _CONCURRENCY,
) -> Any:
    """Return a batch writer for tables: `BatchWriter`, or `AsyncBatchWriter` for an asynchronous client.

    max_items: records after which a batch is written; None: bytes alone decide. max_bytes: of keys and values, about.
    concurrency: transactions under way at once, 1 to 1024.
    """
    if isinstance(db, TransactionClient):
        core = AsyncBatchWriter(db._core, max_items=max_items, max_bytes=max_bytes, concurrency=concurrency)
        return BatchWriter(core, db._rt)
    if isinstance(db, AsyncTransactionClient):
        return AsyncBatchWriter(db, max_items=max_items, max_bytes=max_bytes, concurrency=concurrency)
    raise WrongType(f"a batch of records is written by a transaction client, not {type(db).__name__}")


@overload
def multi_get(
    txn: BlockingReader,
    wanted: Mapping[Table[Any], Sequence[Any]],
    *,
    fields: Mapping[Table[Any], Sequence[str]] | None = None,
) -> dict[Table[Any], list[Any]]: ...
@overload
def multi_get(
    txn: AsyncReader,
    wanted: Mapping[Table[Any], Sequence[Any]],
    *,
    fields: Mapping[Table[Any], Sequence[str]] | None = None,
) -> Coroutine[Any, Any, dict[Table[Any], list[Any]]]: ...
def multi_get(
    txn: BlockingReader | AsyncReader,
    wanted: Mapping[Table[Any], Sequence[Any]],
    *,
    fields: Mapping[Table[Any], Sequence[str]] | None = None,
) -> Any:
    """Return rows of several tables at once: for each table, those of its keys in the order asked, None where absent.

    `fields`: for some tables the fields wanted, whose rows come as dicts of these alone. All keys of all tables are
    read in one go, region by region in parallel. With an asynchronous transaction a coroutine.
    """
    return in_transaction(txn, _multi_get, wanted, fields or {})


async def _multi_get(
    txn: AsyncReader, wanted: Mapping[Table[Any], Sequence[Any]], fields: Mapping[Table[Any], Sequence[str]]
) -> dict[Table[Any], list[Any]]:
    rt = txn._backend.rt
    jobs = [
        table.rows.get_fields(txn, list(keys), tuple(fields[table]))
        if table in fields
        else table.rows.get_many(txn, keys)
        for table, keys in wanted.items()
    ]
    found: list[Any] = await rt.gather(*jobs)
    return dict(zip(wanted, found, strict=True))
