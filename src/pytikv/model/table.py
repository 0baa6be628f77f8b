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

import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, overload

from pytikv.client.txn.blocking import Snapshot, Transaction
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType
from pytikv.model.codecs import RowCodec
from pytikv.model.errors import SchemaError
from pytikv.model.layout import Layout
from pytikv.model.records import records_of
from pytikv.model.rows import Rows
from pytikv.model.schema import Index, KeySpec, TableSchema, table_schema

__all__ = ["AsyncReader", "BlockingReader", "Table"]

R = TypeVar("R")
T = TypeVar("T")

BlockingReader = Transaction | Snapshot
AsyncReader = AsyncTransaction | AsyncSnapshot

_tables: Final[weakref.WeakValueDictionary[tuple[bytes, str], Table[Any]]] = weakref.WeakValueDictionary()


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
    keys: "tuple", or "text" for keys such as `user_1001` and `idx_email_a@b`.
    version: of the class, written with each value (see `migrate`).
    renamed: fields that were stored under another name, old to new.
    compress: whether values are compressed by zstd.
    prefix: bytes before all keys of the table, to keep programs in one key space apart.

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
        self.rows = Rows(self.schema, records, row_codec, Layout(self.schema, records, row_codec))
        self._register()

    def _register(self) -> None:
        """Refuse a second table of the name that lies elsewhere: one would not see the other's entries."""
        place = (self.schema.prefix, self.schema.name)
        other = _tables.get(place)
        if other is not None and other.schema.fingerprint != self.schema.fingerprint:
            raise SchemaError(
                f"there is another table {self.schema.name!r} in this program, with other keys or indexes: give this "
                "one another name or prefix, or use that one"
            )
        _tables[place] = self

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
            return _drive(txn, self.rows.get, key)
        return _drive(txn, self._get_fields, key, tuple(fields))

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
            return _drive(txn, self.rows.get_many, list(keys))
        return _drive(txn, self.rows.get_fields, list(keys), tuple(fields))

    @overload
    def exists(self, txn: BlockingReader, key: Any) -> bool: ...
    @overload
    def exists(self, txn: AsyncReader, key: Any) -> Coroutine[Any, Any, bool]: ...
    def exists(self, txn: Any, key: Any) -> Any:
        """Tell whether there is a row with a key."""
        return _drive(txn, self.rows.exists, key)

    @overload
    def by(self, txn: BlockingReader, **fields: Any) -> R | None: ...
    @overload
    def by(self, txn: AsyncReader, **fields: Any) -> Coroutine[Any, Any, R | None]: ...
    def by(self, txn: Any, **fields: Any) -> Any:
        """Return the row with these values in a unique index, `users.by(txn, email="a@b")`; None where there is none.

        Raises RowError where no unique index is over exactly these fields.
        """
        return _drive(txn, self.rows.by, fields)

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
        return _drive_write(txn, self._put, (record,), False)

    @overload
    def put_many(self, txn: Transaction, records: Iterable[R]) -> None: ...
    @overload
    def put_many(self, txn: AsyncTransaction, records: Iterable[R]) -> Coroutine[Any, Any, None]: ...
    def put_many(self, txn: Any, records: Iterable[R]) -> Any:
        """Write rows as `put` does, reading what that takes all at once. Those before a refused one are written."""
        return _drive_write(txn, self._put, tuple(records), False)

    @overload
    def insert(self, txn: Transaction, record: R) -> None: ...
    @overload
    def insert(self, txn: AsyncTransaction, record: R) -> Coroutine[Any, Any, None]: ...
    def insert(self, txn: Any, record: R) -> Any:
        """Write a new row. Raises RowExists where there is one with its key; otherwise as `put`."""
        return _drive_write(txn, self._put, (record,), True)

    @overload
    def insert_many(self, txn: Transaction, records: Iterable[R]) -> None: ...
    @overload
    def insert_many(self, txn: AsyncTransaction, records: Iterable[R]) -> Coroutine[Any, Any, None]: ...
    def insert_many(self, txn: Any, records: Iterable[R]) -> Any:
        """Write new rows as `insert` does, reading what that takes all at once."""
        return _drive_write(txn, self._put, tuple(records), True)

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
        return _drive_write(txn, self.rows.update, key, changes)

    @overload
    def delete(self, txn: Transaction, key: Any) -> bool: ...
    @overload
    def delete(self, txn: AsyncTransaction, key: Any) -> Coroutine[Any, Any, bool]: ...
    def delete(self, txn: Any, key: Any) -> Any:
        """Delete a row with its index entries. False: there was none."""
        return _drive_write(txn, self._delete_one, key)

    async def _delete_one(self, txn: AsyncTransaction, key: Any) -> bool:
        return await self.rows.delete(txn, (key,)) == 1

    @overload
    def delete_many(self, txn: Transaction, keys: Iterable[Any]) -> int: ...
    @overload
    def delete_many(self, txn: AsyncTransaction, keys: Iterable[Any]) -> Coroutine[Any, Any, int]: ...
    def delete_many(self, txn: Any, keys: Iterable[Any]) -> Any:
        """Delete rows; return how many there were."""
        return _drive_write(txn, self.rows.delete, tuple(keys))


def _drive(txn: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
    """Do work in a transaction or snapshot: in the calling thread where it is blocking, else as a coroutine."""
    if isinstance(txn, (Transaction, Snapshot)):
        return txn._rt.run(work(txn._core, *args))
    if isinstance(txn, (AsyncTransaction, AsyncSnapshot)):
        return work(txn, *args)
    raise WrongType(f"the first argument is a transaction or a snapshot, not {type(txn).__name__}")


def _drive_write(txn: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
    if isinstance(txn, (Snapshot, AsyncSnapshot)):
        raise WrongType("a snapshot is read only: write in a transaction, as with db.begin() as txn")
    return _drive(txn, work, *args)
