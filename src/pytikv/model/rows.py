"""Rows in a transaction or a snapshot: read, written with their index entries, deleted. The one core, asynchronous.

A row that is written is read first, in the same request as the unique entries that it will have, so that entries which
are to go are known and values which are taken are noticed: one round trip, and none for a table without indexes and
groups. In a pessimistic transaction that reading locks.

Two writers of one unique value cannot both commit. Both write the same entry's key: an optimistic transaction that
found it free at its start_ts meets the other's write at prewrite (WriteConflict, and its repetition finds the value
taken); a pessimistic one waits for the other's lock and then reads what it left.

Nothing is kept between calls, so any number of tasks and threads may use one table; what belongs to one transaction is
used by one of them at a time, as ever.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.model.catalog import Catalog
from pytikv.model.changes import Changes, Differ
from pytikv.model.codecs import RowCodec
from pytikv.model.errors import RowExists, UniqueViolation, shown
from pytikv.model.layout import Entry, Layout
from pytikv.model.records import Records
from pytikv.model.schema import IndexSchema, TableSchema

__all__ = ["Reader", "Rows"]

R = TypeVar("R")

Reader = AsyncTransaction | AsyncSnapshot
"""Whatever rows can be read from."""


class Rows(Generic[R]):
    """The rows of one table. See the module's docstring."""

    def __init__(self, schema: TableSchema, records: Records[R], codec: RowCodec[R], layout: Layout) -> None:
        self.catalog = Catalog(schema, layout)
        self.schema = schema
        self.records = records
        self.codec = codec
        self.layout = layout
        self.differ = Differ(layout, records, codec)

    # --- reading ------------------------------------------------------------------------------------------------------

    def encoded(self, key: Any) -> bytes:
        """Return the bytes of a key that a caller gave. Raises RowError."""
        return self.layout.encoded_key(self.layout.key_from(key))

    def _places(self, encoded_key: bytes) -> list[bytes]:
        """Return where the values of a row lie, the main one first."""
        layout = self.layout
        return [layout.row_key(encoded_key), *(layout.group_key(encoded_key, one) for one in self.schema.groups)]

    async def get(self, txn: Reader, key: Any) -> R | None:
        """Return a row; None where there is none."""
        encoded = self.encoded(key)
        if not self.schema.groups:
            value = await txn.get(self.layout.row_key(encoded))
            return None if value is None else self.codec.decode((value,))
        return (await self.load(txn, [encoded]))[0]

    async def get_many(self, txn: Reader, keys: Iterable[Any]) -> list[R | None]:
        """Return the rows of some keys in the order asked, None for each that is not there."""
        return await self.load(txn, [self.encoded(key) for key in keys])

    async def load(self, txn: Reader, encoded_keys: Sequence[bytes]) -> list[R | None]:
        """Return the rows of encoded keys, None for each that is not there."""
        if not encoded_keys:
            return []
        places = [self._places(key) for key in encoded_keys]
        found = await txn.batch_get([place for row in places for place in row])
        decode = self.codec.decode
        return [
            decode([found[place] for place in row if place in found]) if row[0] in found else None for row in places
        ]

    async def get_for_update(self, txn: AsyncTransaction, keys: Sequence[Any]) -> list[R | None]:
        """Return rows of a transaction that means to change them, None for each that is not there.

        Pessimistic: locked, and as they are now. Optimistic: the commit fails if one of them changes meanwhile.
        """
        encoded = [self.encoded(key) for key in keys]
        if not txn.is_pessimistic:
            rows = await self.load(txn, encoded)
            await txn.lock_keys([self.layout.row_key(key) for key in encoded])
            return rows
        places = [self._places(key) for key in encoded]
        found = await txn.batch_get_for_update([place for row in places for place in row])
        values = [[found[place] for place in row if place in found] if row[0] in found else None for row in places]
        return [None if row is None else self.codec.decode(row) for row in values]

    async def get_fields(self, txn: Reader, keys: Sequence[Any], fields: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return some fields of rows, reading only the values that hold them."""
        groups = self._groups_of(fields)
        places = [self._places_of(self.encoded(key), groups) for key in keys]
        found = await txn.batch_get([place for row in places for place in row]) if places else {}
        rows: list[dict[str, Any] | None] = []
        for row in places:
            values = [found[place] for place in row if place in found]
            rows.append(self.codec.decode_fields(values, fields) if values else None)
        return rows

    def _groups_of(self, fields: Sequence[str]) -> list[str | None]:
        """Return which groups hold some fields; None stands for the main value."""
        owner = {field: group for group, listed in self.schema.groups.items() for field in listed}
        for field in fields:
            if field not in self.records.fields:
                raise self.records.error(f"has no field {field!r}; it has {', '.join(self.records.fields)}")
        return list(dict.fromkeys(owner.get(field) for field in fields)) or [None]

    def _places_of(self, encoded_key: bytes, groups: Sequence[str | None]) -> list[bytes]:
        layout = self.layout
        return [
            layout.row_key(encoded_key) if group is None else layout.group_key(encoded_key, group) for group in groups
        ]

    async def exists(self, txn: Reader, key: Any) -> bool:
        """Tell whether a row is there."""
        return await txn.get(self.layout.row_key(self.encoded(key))) is not None

    def unique_index(self, fields: Mapping[str, Any]) -> IndexSchema:
        """Return the unique index over exactly these fields. Raises RowError."""
        for index in self.schema.indexes.values():
            if index.is_unique and set(index.fields) == set(fields):
                return index
        unique = [" and ".join(one.fields) for one in self.schema.indexes.values() if one.is_unique]
        known = f"it has {'; '.join(unique)}" if unique else "it has none"
        raise self.records.error(f"has no unique index over {', '.join(fields) or 'nothing'}; {known}")

    async def by(self, txn: Reader, fields: Mapping[str, Any]) -> R | None:
        """Return the row with these values in a unique index."""
        index = self.unique_index(fields)
        values = [self.records.key_part(part.field, fields[part.field]) for part in index.parts]
        if None in values:
            raise self.records.error(f"has any number of rows with None in index {index.name!r}: use query")
        await self.catalog.require(txn, index.name)
        entry_key = self.layout.unique_key(index, values)
        value = await txn.get(entry_key)
        if value is None:
            return None
        key, _ = self.layout.read_entry(index, entry_key, value)
        return (await self.load(txn, [self.layout.encoded_key(key)]))[0]

    # --- writing ------------------------------------------------------------------------------------------------------

    async def put(self, txn: AsyncTransaction, records: Sequence[R], *, must_be_new: bool = False) -> None:
        """Write rows, in the place of those with the same keys. Raises UniqueViolation, RowError, RowExists.

        Where one of several rows is refused, those before it are written all the same.
        """
        rows = []
        for record in records:
            self.records.check(record)
            key = self.layout.key_of(record)
            rows.append((record, key, self.layout.encoded_key(key)))
        if not self.schema.indexes and not must_be_new:
            for record, _, encoded in rows:
                for place, value in self.differ.stored(record, encoded).items():
                    await txn.put(place, value)
            return
        await self.catalog.require(txn)
        wanted: list[bytes] = []
        entries = []
        for record, key, encoded in rows:
            found = self.differ.entries(record, encoded, key)
            entries.append(found)
            wanted.append(self.layout.row_key(encoded))
            wanted += [one.key for one in found.values() if one.is_exclusive]
        seen = await self._read_to_write(txn, wanted)
        for (record, key, encoded), found in zip(rows, entries, strict=True):
            stored = seen.get(self.layout.row_key(encoded))
            if stored is not None and must_be_new:
                row_key = self.layout.row_key(encoded)
                text = f"table {self.schema.name!r} has a row with the key {shown(self._shown_key(key))} already"
                raise RowExists(text, table=self.schema.name, key=row_key)
            changes = self.differ.put(self.old(stored), record, encoded, key, found)
            self._check_unique(changes.exclusive, seen)
            await self._apply(txn, changes, seen)

    @staticmethod
    def _shown_key(key: tuple[Any, ...]) -> Any:
        return key[0] if len(key) == 1 else key

    async def update(self, txn: AsyncTransaction, key: Any, changes: Mapping[str, Any]) -> R | None:
        """Change fields of a row; returns it as it is now, None where there is none. Raises as `put`.

        Raises RowError for a change of the key: that is another row.
        """
        encoded = self.encoded(key)
        found = await self._read_to_write(txn, self._places(encoded))
        places = self._places(encoded)
        if places[0] not in found:
            return None
        old = self.codec.decode([found[place] for place in places if place in found])
        new = self.records.replace(old, changes)
        if self.encoded_of(new) != encoded:
            raise self.records.error(
                f"cannot change the key of a row ({', '.join(self.schema.key_fields)}): delete it and insert another"
            )
        await self.put(txn, [new])
        return new

    def encoded_of(self, record: R) -> bytes:
        """Return the bytes of a record's key."""
        return self.layout.encoded_key(self.layout.key_of(record))

    async def delete(self, txn: AsyncTransaction, keys: Sequence[Any]) -> int:
        """Delete rows with their entries; returns how many there were."""
        encoded_keys = list(dict.fromkeys(self.encoded(key) for key in keys))
        row_keys = [self.layout.row_key(encoded) for encoded in encoded_keys]
        seen = await self._read_to_write(txn, row_keys) if row_keys else {}
        count = 0
        for encoded, row_key in zip(encoded_keys, row_keys, strict=True):
            stored = seen.get(row_key)
            if stored is not None:
                key = self.layout.key_of_row(row_key)
                await self._apply(txn, self.differ.delete(self.old(stored), encoded, key), seen)
                count += 1
        return count

    async def _read_to_write(self, txn: AsyncTransaction, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Read what a change depends on; a pessimistic transaction locks it."""
        if txn.is_pessimistic:
            return dict(await txn.batch_get_for_update(keys))
        return dict(await txn.batch_get(keys))

    def old(self, stored: bytes | None) -> Any:
        """Return what is known of a row by its main value: a record, or its main fields."""
        if stored is None:
            return None
        if not self.schema.groups or self.records.kind == "protobuf":
            return self.codec.decode((stored,))
        return types.SimpleNamespace(**self.codec.decode_fields((stored,), self.schema.main_fields))

    def _check_unique(self, entries: Iterable[Entry], seen: Mapping[bytes, bytes]) -> None:
        for entry in entries:
            if entry.key in seen:
                raise self.violation(entry)

    def violation(self, entry: Entry) -> UniqueViolation:
        """Return the error about an entry that another row has."""
        value = entry.values[0] if len(entry.values) == 1 else entry.values
        return UniqueViolation(
            f"table {self.schema.name!r} has another row with {shown(value)} in its unique index {entry.index_name!r}",
            table=self.schema.name,
            index=entry.index_name,
            value=entry.values,
            key=entry.key,
        )

    @staticmethod
    async def _apply(txn: AsyncTransaction, changes: Changes, seen: dict[bytes, bytes]) -> None:
        """Write changes, and remember them for the rows of the same call that follow."""
        for key in changes.deletes:
            await txn.delete(key)
            seen.pop(key, None)
        for key, value in changes.puts.items():
            await txn.put(key, value)
            seen[key] = value
