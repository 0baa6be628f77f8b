"""Tables: typed records in a transaction or a snapshot, blocking or asyncio.

    @dataclass
    class User:
        id: int
        email: str
        age: int

    users = Table("user", User, key="id", unique=["email"], index=["age"])

    with db.begin() as txn:
        users.put(txn, User(1001, "a@b", 30))
        users.get(txn, 1001)                     # User | None
        users.by(txn, email="a@b")

A table is a declaration and holds no data and no connection: make it once, beside its class. Every method takes the
transaction or snapshot first. With a blocking one it returns its answer, with an asynchronous one a coroutine (or an
asynchronous iterator) of it; type checkers know both. Nothing is written before the transaction commits.
"""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

from pytikv.client.arguments import check_count
from pytikv.client.txn.blocking import Snapshot, Transaction, TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.model.codecs import RowCodec
from pytikv.model.cursor import open_cursor, seal_cursor
from pytikv.model.drive import AsyncReader, BlockingReader, in_client, in_transaction, in_writer, no_transaction
from pytikv.model.errors import SchemaError
from pytikv.model.layout import Layout
from pytikv.model.maintain import CheckReport, Maintenance
from pytikv.model.planner import Plan, check_limit, held_by_entries, plan_query
from pytikv.model.query import RowPages, Wish, iterate_rows
from pytikv.model.records import records_of
from pytikv.model.rows import Rows
from pytikv.model.schema import Index, KeySpec, TableSchema, table_schema
from pytikv.model.text_keys import TextLayout, check_text, overlap
from pytikv.model.walk import BATCH, OnProgress, Progress

__all__ = ["AsyncReader", "BlockingReader", "Page", "Table"]

R = TypeVar("R")
T = TypeVar("T")


class _Place:
    """Where tables of one name and prefix lie; kept by each of them, so that it is known while one of them is there."""

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema


_places: Final[weakref.WeakValueDictionary[tuple[bytes, str], _Place]] = weakref.WeakValueDictionary()


class Table(Generic[R]):
    """A table of records of one class. Immutable; safe for any number of threads and tasks.

    name: of the table, a letter and up to 63 letters, digits, `_`, `-`, `.`. Rows lie under it.
    cls: a dataclass, a msgspec Struct, a pydantic model, or a generated protobuf message.
    key: the field, or the tuple of fields, that name a row; `Desc("field")` sorts downward.
    unique, index: lists of indexes: a field, a tuple of fields, or an `Index`.
    codec: how values are stored: "protobuf", "msgpack" or "json". None: protobuf for messages, else json.
    groups: large fields to keep apart, as `{"photo": ["photo"]}`: `get(..., fields=[...])` reads no group unasked.
    shards: number of parts (2 to 4096) among which rows are spread by a hash before their keys, against hot spots where
        keys ascend; scans merge them. 0: none.
    keys: "tuple", or "text" for keys such as `user_1001` and `idx_email_a@b`, with plain values, as other programs have
        them; `text_keys` says what that cannot hold and which ranges it has not.
    version: of the class, written with each value (see `migrate`).
    renamed: fields that were stored under another name, old to new.
    compress: whether values are compressed by zstd.
    prefix: bytes before all keys of the table, to keep programs in one key space apart.
    secret: signs the cursors of pages; without one they are safe from mistakes only (see `cursor`).

    Raises SchemaError for a declaration that contradicts itself or another table of the name, ConfigError for a library
    that is not installed.
    """

    def __init__(
        self,
        name: str,
        cls: type[R],
        *,
        key: KeySpec,
        unique: Iterable[KeySpec | Index] = (),
        index: Iterable[KeySpec | Index] = (),
        codec: str | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        shards: int = 0,
        keys: str = "tuple",
        version: int = 0,
        renamed: Mapping[str, str] | None = None,
        compress: bool = False,
        prefix: bytes = b"",
        secret: bytes = b"",
    ) -> None:
        records = records_of(cls, name)
        self.schema: TableSchema = table_schema(
            name, records, key=key, unique=unique, index=index, groups=groups, shards=shards, keys=keys, prefix=prefix
        )
        self.cls = cls
        chosen = records.default_codec if codec is None else codec
        row_codec = RowCodec(
            records, chosen, version=version, renamed=renamed, compress=compress, plain=self.schema.is_text
        )
        layout = Layout
        if self.schema.is_text:
            check_text(self.schema, records)
            layout = TextLayout
        self.rows = Rows(self.schema, records, row_codec, layout(self.schema, records, row_codec))
        self.version = version
        self._maintenance = Maintenance(self.rows, self.rows.catalog)
        self._cursor_key = hashlib.sha256(self.schema.fingerprint.encode() + b"/" + secret).digest()
        self._register()

    def _register(self) -> None:
        """Refuse a second table of the name that lies elsewhere: one would not see the other's entries."""
        place = (self.schema.prefix, self.schema.name)
        found = _places.get(place)
        if found is not None and found.schema.fingerprint != self.schema.fingerprint:
            found = None
            gc.collect()  # it may be one that nobody has any more, but an old traceback
            found = _places.get(place)
        if found is not None and found.schema.fingerprint != self.schema.fingerprint:
            raise SchemaError(
                f"there is another table {self.schema.name!r} in this program, with other keys or indexes: give this "
                "one another name or prefix, or use that one"
            )
        if self.schema.is_text:
            self._check_names()
        self._place = _places.setdefault(place, _Place(self.schema))

    def _check_names(self) -> None:
        """Refuse indexes whose entries would lie among those of another table with text keys and the same prefix."""
        for (prefix, name), other in list(_places.items()):
            if prefix != self.schema.prefix or name == self.schema.name or not other.schema.is_text:
                continue
            for index in self.schema.indexes:
                for taken in other.schema.indexes:
                    if overlap(index, taken):
                        raise SchemaError(
                            f"index {index!r} of table {self.schema.name!r} would lie among the entries of index "
                            f"{taken!r} of table {name!r}: with text keys give it another name, as "
                            f"Index(..., name='{self.schema.name}_{index}'), or the table a prefix"
                        )

    @property
    def name(self) -> str:
        """The table's name."""
        return self.schema.name

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {self.cls.__name__}, key={self.schema.key_fields!r})"

    # --- reading ------------------------------------------------------------------------------------------------------

    @overload
    def get(self, txn: BlockingReader, key: Any) -> R | None: ...
    @overload
    def get(self, txn: AsyncReader, key: Any) -> Coroutine[Any, Any, R | None]: ...
    @overload
    def get(self, txn: BlockingReader, key: Any, *, fields: Sequence[str]) -> dict[str, Any] | None: ...
    @overload
    def get(
        self, txn: AsyncReader, key: Any, *, fields: Sequence[str]
    ) -> Coroutine[Any, Any, dict[str, Any] | None]: ...
    def get(self, txn: Any, key: Any, *, fields: Sequence[str] | None = None) -> Any:
        """Return the row with a key; None where there is none. A key of several fields is a tuple.

        With `fields`, a dict of these alone; field groups that are not needed are not read.
        """
        if fields is None:
            return in_transaction(txn, self.rows.get, key)
        return in_transaction(txn, self._get_fields, key, tuple(fields))

    async def _get_fields(self, txn: AsyncReader, key: Any, fields: Sequence[str]) -> dict[str, Any] | None:
        return (await self.rows.get_fields(txn, [key], fields))[0]

    @overload
    def get_many(self, txn: BlockingReader, keys: Iterable[Any]) -> list[R | None]: ...
    @overload
    def get_many(self, txn: AsyncReader, keys: Iterable[Any]) -> Coroutine[Any, Any, list[R | None]]: ...
    @overload
    def get_many(
        self, txn: BlockingReader, keys: Iterable[Any], *, fields: Sequence[str]
    ) -> list[dict[str, Any] | None]: ...
    @overload
    def get_many(
        self, txn: AsyncReader, keys: Iterable[Any], *, fields: Sequence[str]
    ) -> Coroutine[Any, Any, list[dict[str, Any] | None]]: ...
    def get_many(self, txn: Any, keys: Iterable[Any], *, fields: Sequence[str] | None = None) -> Any:
        """Return the rows of any number of keys, in the order asked, None for each that is not there.

        All are read at once, region by region in parallel. `fields`: as for `get`.
        """
        if fields is None:
            return in_transaction(txn, self.rows.get_many, list(keys))
        return in_transaction(txn, self.rows.get_fields, list(keys), tuple(fields))

    @overload
    def get_for_update(self, txn: Transaction, key: Any) -> R | None: ...
    @overload
    def get_for_update(self, txn: AsyncTransaction, key: Any) -> Coroutine[Any, Any, R | None]: ...
    def get_for_update(self, txn: Any, key: Any) -> Any:
        """Return a row that this transaction means to change; None where there is none.

        In a pessimistic transaction it is locked and read as it is now: `get` reads it as of the transaction's begin,
        and what is written upon that may undo another's write. In an optimistic one the commit fails
        (WriteConflict) if somebody changes the row meanwhile, also where this transaction does not write it.
        """
        return in_writer(txn, self._get_for_update, key)

    async def _get_for_update(self, txn: AsyncTransaction, key: Any) -> R | None:
        return (await self.rows.get_for_update(txn, (key,)))[0]

    @overload
    def exists(self, txn: BlockingReader, key: Any) -> bool: ...
    @overload
    def exists(self, txn: AsyncReader, key: Any) -> Coroutine[Any, Any, bool]: ...
    def exists(self, txn: Any, key: Any) -> Any:
        """Tell whether there is a row with a key."""
        return in_transaction(txn, self.rows.exists, key)

    @overload
    def by(self, txn: BlockingReader, **fields: Any) -> R | None: ...
    @overload
    def by(self, txn: AsyncReader, **fields: Any) -> Coroutine[Any, Any, R | None]: ...
    def by(self, txn: Any, **fields: Any) -> Any:
        """Return the row with these values in a unique index, `users.by(txn, email="a@b")`; None where there is none.

        The fields of the key do as well. Raises RowError where no unique index is over exactly these fields.
        """
        return in_transaction(txn, self.rows.by, fields)

    # --- queries ------------------------------------------------------------------------------------------------------

    @overload
    def query(
        self,
        txn: BlockingReader,
        *,
        fields: Sequence[str],
        index: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Iterator[dict[str, Any]]: ...
    @overload
    def query(
        self,
        txn: AsyncReader,
        *,
        fields: Sequence[str],
        index: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> AsyncIterator[dict[str, Any]]: ...
    @overload
    def query(
        self,
        txn: BlockingReader,
        *,
        index: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Iterator[R]: ...
    @overload
    def query(
        self,
        txn: AsyncReader,
        *,
        index: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> AsyncIterator[R]: ...
    def query(
        self,
        txn: Any,
        *,
        fields: Sequence[str] | None = None,
        index: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Any:
        """Iterate over the rows that meet all conditions, in the order of the key or index that serves them.

        Conditions are fields: `age=30`, `age=(18, 30)` (half-open, None: unbounded), `city=["Rome", "Oslo"]`,
        `email=Prefix("a")`. Without any, all rows by key. Lazy: rows are fetched in pages as the iteration comes to
        them.

        index: the index to go by; needed for a partial one. reverse: from the other end. limit: how many rows, None:
        all. where: a further condition, a function of a row. scan: whether to read the whole table where no key or
        index begins with a field that is asked for; RowError otherwise, which says so. fields: dicts of these alone in
        place of records; where the index covers them (and the conditions, and there is no `where`) no rows are read,
        and no field groups otherwise that are not needed.

        `explain` tells how a query is answered. Raises SchemaError for an index that is not built.
        """
        plan = self._plan(conditions, index=index, reverse=reverse, scan=scan)
        check_limit(limit)
        return _iterate(txn, self.rows, plan, Wish(limit=limit, where=where, fields=fields))

    def _plan(
        self, conditions: Mapping[str, Any], *, index: str | None = None, reverse: bool = False, scan: bool = False
    ) -> Plan:
        rows = self.rows
        return plan_query(
            self.schema, rows.records, rows.layout, conditions, index=index, reverse=bool(reverse), scan=bool(scan)
        )

    def explain(self, *, fields: Sequence[str] | None = None, **query: Any) -> str:
        """Say how a query is answered, as "1 range of index 'age', filtered by city": what `query` takes, but no txn.

        Nothing is read.
        """
        where = query.pop("where", None)
        query.pop("limit", None)
        plan = self._planned(query)
        text = plan.describe() + (", filtered by a function" if where is not None else "")
        if plan.index is None:
            return text
        held = held_by_entries(self.schema, self.rows.records, plan.index)
        is_covered = fields is not None and where is None and held.issuperset((*fields, *plan.filters))
        return f"{text}; {'entries alone' if is_covered else 'rows'} are read"

    @overload
    def first(
        self,
        txn: BlockingReader,
        *,
        fields: Sequence[str],
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> dict[str, Any] | None: ...
    @overload
    def first(
        self,
        txn: AsyncReader,
        *,
        fields: Sequence[str],
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Coroutine[Any, Any, dict[str, Any] | None]: ...
    @overload
    def first(
        self,
        txn: BlockingReader,
        *,
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> R | None: ...
    @overload
    def first(
        self,
        txn: AsyncReader,
        *,
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Coroutine[Any, Any, R | None]: ...
    def first(self, txn: Any, **query: Any) -> Any:
        """Return the first row of a query, None where it has none. Takes what `query` takes, but for limit."""
        return in_transaction(txn, self._first, query)

    async def _first(self, txn: AsyncReader, query: dict[str, Any]) -> Any:
        wish = Wish(limit=1, where=query.pop("where", None), fields=query.pop("fields", None))
        found = await RowPages(txn, self.rows, self._planned(query), wish).next_page()
        return found[0] if found else None

    def _planned(self, query: dict[str, Any]) -> Plan:
        """Return the plan of what callers give to `query`."""
        options = {name: query.pop(name) for name in ("index", "reverse", "scan") if name in query}
        return self._plan(query, **options)

    @overload
    def count(self, txn: BlockingReader, **query: Any) -> int: ...
    @overload
    def count(self, txn: AsyncReader, **query: Any) -> Coroutine[Any, Any, int]: ...
    def count(self, txn: Any, **query: Any) -> Any:
        """Return how many rows a query has; takes what `query` takes, but for fields.

        Rows themselves are read only where a filter must see them.
        """
        return in_transaction(txn, self._count, query)

    async def _count(self, txn: AsyncReader, query: dict[str, Any]) -> int:
        where, limit = query.pop("where", None), query.pop("limit", None)
        check_limit(limit)
        plan = self._planned(query)
        needs_values = plan.filters or where is not None or (plan.index is not None and plan.index.each is not None)
        wish = Wish(limit=limit, where=where, fields=(), keys_only=not needs_values)
        return await RowPages(txn, self.rows, plan, wish).count()

    @overload
    def page(
        self,
        txn: BlockingReader,
        *,
        limit: int,
        cursor: str | None = None,
        fields: Sequence[str],
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Page[dict[str, Any]]: ...
    @overload
    def page(
        self,
        txn: AsyncReader,
        *,
        limit: int,
        cursor: str | None = None,
        fields: Sequence[str],
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Coroutine[Any, Any, Page[dict[str, Any]]]: ...
    @overload
    def page(
        self,
        txn: BlockingReader,
        *,
        limit: int,
        cursor: str | None = None,
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Page[R]: ...
    @overload
    def page(
        self,
        txn: AsyncReader,
        *,
        limit: int,
        cursor: str | None = None,
        index: str | None = None,
        reverse: bool = False,
        where: Callable[[R], bool] | None = None,
        scan: bool = False,
        **conditions: Any,
    ) -> Coroutine[Any, Any, Page[R]]: ...
    def page(self, txn: Any, *, limit: int, cursor: str | None = None, **query: Any) -> Any:
        """Return up to `limit` rows of a query, and the cursor of what follows (None: nothing does).

        `cursor`: of the page before, for the same query; None: from the beginning. It is a text that can travel through
        a browser, and is refused (CursorError) when it was changed or comes from another query; `limit`, `fields` and
        `where` may differ. Pages may be read in different transactions and processes; rows that come or go meanwhile
        are seen or not, each row at most once unless its place in the order changes.
        """
        check_count("limit", limit, low=1)
        return in_transaction(txn, self._page, limit, cursor, query)

    async def _page(self, txn: AsyncReader, limit: int, cursor: str | None, query: dict[str, Any]) -> Page[Any]:
        where, fields = query.pop("where", None), query.pop("fields", None)
        plan = self._planned(query)
        text = plan.identity()
        after = None if cursor is None else open_cursor(self._cursor_key, text, cursor)
        rows, position = await RowPages(txn, self.rows, plan, Wish(after=after, where=where, fields=fields)).take(limit)
        return Page(rows, None if position is None else seal_cursor(self._cursor_key, text, position))

    # --- writing ------------------------------------------------------------------------------------------------------

    @overload
    def put(self, txn: Transaction, record: R) -> None: ...
    @overload
    def put(self, txn: AsyncTransaction, record: R) -> Coroutine[Any, Any, None]: ...
    def put(self, txn: Any, record: R) -> Any:
        """Write a row, in the place of the one with its key if there is one. Its index entries follow.

        Raises UniqueViolation where another row has its values in a unique index, RowError for a record that does not
        fit; nothing is written then, and the transaction stays usable.
        """
        return in_writer(txn, self._put, (record,), False)

    @overload
    def put_many(self, txn: Transaction, records: Iterable[R]) -> None: ...
    @overload
    def put_many(self, txn: AsyncTransaction, records: Iterable[R]) -> Coroutine[Any, Any, None]: ...
    def put_many(self, txn: Any, records: Iterable[R]) -> Any:
        """Write rows as `put` does, reading what that takes all at once. Those before a refused one are written."""
        return in_writer(txn, self._put, tuple(records), False)

    @overload
    def insert(self, txn: Transaction, record: R) -> None: ...
    @overload
    def insert(self, txn: AsyncTransaction, record: R) -> Coroutine[Any, Any, None]: ...
    def insert(self, txn: Any, record: R) -> Any:
        """Write a new row. Raises RowExists where there is one with its key; otherwise as `put`."""
        return in_writer(txn, self._put, (record,), True)

    @overload
    def insert_many(self, txn: Transaction, records: Iterable[R]) -> None: ...
    @overload
    def insert_many(self, txn: AsyncTransaction, records: Iterable[R]) -> Coroutine[Any, Any, None]: ...
    def insert_many(self, txn: Any, records: Iterable[R]) -> Any:
        """Write new rows as `insert` does, reading what that takes all at once."""
        return in_writer(txn, self._put, tuple(records), True)

    async def _put(self, txn: AsyncTransaction, records: Sequence[R], must_be_new: bool) -> None:
        await self.rows.put(txn, records, must_be_new=must_be_new)

    @overload
    def update(self, txn: Transaction, key: Any, **changes: Any) -> R | None: ...
    @overload
    def update(self, txn: AsyncTransaction, key: Any, **changes: Any) -> Coroutine[Any, Any, R | None]: ...
    def update(self, txn: Any, key: Any, **changes: Any) -> Any:
        """Change fields of a row; return it as it is now, None where there is none.

        Raises RowError for an unknown field, a value that does not fit, and a change of the key; UniqueViolation.
        """
        return in_writer(txn, self.rows.update, key, changes)

    @overload
    def delete(self, txn: Transaction, key: Any) -> bool: ...
    @overload
    def delete(self, txn: AsyncTransaction, key: Any) -> Coroutine[Any, Any, bool]: ...
    def delete(self, txn: Any, key: Any) -> Any:
        """Delete a row with its index entries. False: there was none."""
        return in_writer(txn, self._delete_one, key)

    async def _delete_one(self, txn: AsyncTransaction, key: Any) -> bool:
        return await self.rows.delete(txn, (key,)) == 1

    @overload
    def delete_many(self, txn: Transaction, keys: Iterable[Any]) -> int: ...
    @overload
    def delete_many(self, txn: AsyncTransaction, keys: Iterable[Any]) -> Coroutine[Any, Any, int]: ...
    def delete_many(self, txn: Any, keys: Iterable[Any]) -> Any:
        """Delete rows; return how many there were."""
        return in_writer(txn, self.rows.delete, tuple(keys))

    # --- work on the whole table --------------------------------------------------------------------------------------

    @overload
    def build_index(
        self, db: TransactionClient, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Progress: ...
    @overload
    def build_index(
        self, db: AsyncTransactionClient, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Coroutine[Any, Any, Progress]: ...
    def build_index(self, db: Any, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None) -> Any:
        """Build an index of a table in use, in transactions of `batch` rows; begun again, it goes on where it was.

        Every program that writes the table must know of the index by then. Queries may use it when this has returned.
        `on_progress` is called after each batch. Raises UniqueViolation where two rows have one value.
        """
        return in_client(db, self._maintenance.build_index, name, batch=batch, on_progress=on_progress)

    @overload
    def check(
        self,
        db: TransactionClient,
        *,
        repair: bool = False,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> CheckReport: ...
    @overload
    def check(
        self,
        db: AsyncTransactionClient,
        *,
        repair: bool = False,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> Coroutine[Any, Any, CheckReport]: ...
    def check(self, db: Any, *, repair: bool = False, batch: int = BATCH, on_progress: OnProgress | None = None) -> Any:
        """Compare the rows with the entries of all indexes, both ways; with `repair`, mend what does not agree.

        Rows are right by definition. The table may be in use. The report counts and shows what was found; indexes that
        are not built are left out.
        """
        return in_client(db, self._maintenance.check, repair=repair, batch=batch, on_progress=on_progress)

    @overload
    def migrate(
        self,
        db: TransactionClient,
        *,
        convert: Callable[[R], R] | None = None,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> Progress: ...
    @overload
    def migrate(
        self,
        db: AsyncTransactionClient,
        *,
        convert: Callable[[R], R] | None = None,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> Coroutine[Any, Any, Progress]: ...
    def migrate(
        self,
        db: Any,
        *,
        convert: Callable[[R], R] | None = None,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """Write anew every row that was written by another `version` of the table; begun again, it goes on.

        `convert` may change each on its way, but not its key (RowError). The table may be in use; each row is
        converted once, unless it is written by another version again.
        """
        return in_client(
            db, self._maintenance.migrate, version=self.version, convert=convert, batch=batch, on_progress=on_progress
        )

    @overload
    def truncate(
        self, db: TransactionClient, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Progress: ...
    @overload
    def truncate(
        self, db: AsyncTransactionClient, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Coroutine[Any, Any, Progress]: ...
    def truncate(self, db: Any, *, batch: int = BATCH, on_progress: OnProgress | None = None) -> Any:
        """Delete all rows with their index entries, in transactions of `batch` rows; the progress counts them.

        The table may be in use, and rows that are written meanwhile may stay.
        """
        return in_client(db, self._maintenance.truncate, batch=batch, on_progress=on_progress)

    @overload
    def drop_index(
        self, db: TransactionClient, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Progress: ...
    @overload
    def drop_index(
        self, db: AsyncTransactionClient, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Coroutine[Any, Any, Progress]: ...
    def drop_index(self, db: Any, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None) -> Any:
        """Delete what an index has left that this table, in all programs, declares no more.

        Do so before an index of that name is declared again: its entries would be out of date. Raises InvalidArgument
        for an index that is declared.
        """
        return in_client(db, self._maintenance.drop_index, name, batch=batch, on_progress=on_progress)

    @overload
    def index_states(self, db: TransactionClient) -> dict[str, str]: ...
    @overload
    def index_states(self, db: AsyncTransactionClient) -> Coroutine[Any, Any, dict[str, str]]: ...
    def index_states(self, db: Any) -> Any:
        """Return the state of each index: "ready", "building", or "missing" (to be built by `build_index`)."""
        return in_client(db, self._index_states)

    async def _index_states(self, db: AsyncTransactionClient) -> dict[str, str]:
        return await self.rows.catalog.states(db._backend)


class Page(NamedTuple, Generic[R]):
    """Rows of one page of a query, and the cursor for the next one; None: this was the last."""

    rows: list[R]
    cursor: str | None


def _iterate(txn: Any, rows: Rows[Any], plan: Plan, wish: Wish) -> Any:
    if isinstance(txn, (Transaction, Snapshot)):
        return _iterate_blocking(txn, RowPages(txn._core, rows, plan, wish))
    if isinstance(txn, (AsyncTransaction, AsyncSnapshot)):
        return iterate_rows(RowPages(txn, rows, plan, wish))
    raise no_transaction(txn)


def _iterate_blocking(txn: BlockingReader, pages: RowPages[Any]) -> Iterator[Any]:
    while page := txn._rt.run(pages.next_page()):
        yield from page
