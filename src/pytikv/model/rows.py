"""Rows in a transaction or a snapshot: read, written with their index entries, deleted. The one core, asynchronous.

A row that is written is read first, in the same request as the unique entries that it will have, so that entries which
are to go are known and values which are taken are noticed: one round trip, and none for a table without indexes and
groups. In a pessimistic transaction that reading locks.

What a call writes is worked out wholly before anything is written: a record that is refused leaves the transaction as
it was, but for the locks of a pessimistic one.

Two writers of one unique value cannot both commit. Both write the same entry's key: an optimistic transaction that
found it free at its start_ts meets the other's write at prewrite (WriteConflict, and its repetition finds the value
taken); a pessimistic one waits for the other's lock and then reads what it left.

While a unique index is being built, rows of before may share a value; its entry is of one of them. Such an entry is
left alone by changes of the others.

Nothing is kept between calls, so any number of tasks and threads may use one table; what belongs to one transaction is
used by one of them at a time, as ever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pytikv.client.txn.buffer import MAX_KEY_BYTES
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType
from pytikv.model.catalog import Catalog
from pytikv.model.changes import Changes, Differ
from pytikv.model.codecs import RowCodec
from pytikv.model.errors import RowError, RowExists, UniqueViolation, shown
from pytikv.model.layout import Entry, Layout
from pytikv.model.records import Records
from pytikv.model.schema import IndexSchema, TableSchema

__all__ = ["NewRow", "Reader", "Rows"]

R = TypeVar("R")

_LONGEST: Final = MAX_KEY_BYTES - 256
"""Of stored keys; leaves room for a group's name and the shard."""

Reader = AsyncTransaction | AsyncSnapshot
"""Whatever rows can be read from."""


@dataclasses.dataclass(slots=True)
class NewRow(Generic[R]):
    """A row to be written, and its entries by their keys."""

    record: R
    key: tuple[Any, ...]
    encoded_key: bytes
    row_key: bytes
    entries: dict[bytes, Entry]
    fresh: Changes | None = None
    """What it changes where there is no such row yet, if that is known already."""


class _Place(NamedTuple):
    """Where a row lies."""

    key: tuple[Any, ...]
    encoded_key: bytes


_Writes = dict[bytes, bytes | None]
"""What is to be written; None: deleted."""


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
        return self.layout.encoded(key)

    def _places(self, encoded_key: bytes) -> list[bytes]:
        """Return where the values of a row lie, the main one first."""
        layout = self.layout
        return [layout.row_key(encoded_key), *(layout.group_key(encoded_key, one) for one in self.schema.groups)]

    async def get(self, txn: Reader, key: Any) -> R | None:
        """Return a row; None where there is none."""
        encoded = self.layout.encoded(key)
        if not self.schema.groups:
            value = await txn.get(self.layout.row_key(encoded))
            return None if value is None else self.codec.decode_one(value)
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
        groups = self.groups_of(fields)
        places = [self._places_of(self.encoded(key), groups) for key in keys]
        found = await txn.batch_get([place for row in places for place in row]) if places else {}
        bare = [at for at, row in enumerate(places) if not any(place in found for place in row)]
        if bare and None not in groups:
            # Perhaps a row that was written before its fields had a group: then the main value has them, or nothing.
            main = {at: self.layout.row_key(self.encoded(keys[at])) for at in bare}
            found = {**found, **await txn.batch_get(list(main.values()))}
            places = [[main[at]] if at in main else row for at, row in enumerate(places)]
        rows: list[dict[str, Any] | None] = []
        for row in places:
            values = [found[place] for place in row if place in found]
            rows.append(self.codec.decode_fields(values, fields) if values else None)
        return rows

    def check_fields(self, fields: Any) -> None:
        """Refuse fields that the table has not."""
        if isinstance(fields, (str, bytes)) or not isinstance(fields, Iterable):
            raise WrongType(f"fields are a list of names, not {shown(fields)}")
        for field in fields:
            if field not in self.records.fields:
                raise self.records.error(f"has no field {field!r}; it has {', '.join(self.records.fields)}")

    def groups_of(self, fields: Sequence[str]) -> list[str | None]:
        """Return which groups hold some fields; None stands for the main value."""
        self.check_fields(fields)
        owner = {field: group for group, listed in self.schema.groups.items() for field in listed}
        return list(dict.fromkeys(owner.get(field) for field in fields)) or [None]

    def _places_of(self, encoded_key: bytes, groups: Sequence[str | None]) -> list[bytes]:
        layout = self.layout
        return [
            layout.row_key(encoded_key) if group is None else layout.group_key(encoded_key, group) for group in groups
        ]

    def fields_of_entry(
        self, index: IndexSchema, key: bytes, value: bytes, covered_too: Sequence[str]
    ) -> dict[str, Any]:
        """Return fields that an entry holds (`planner.held_by_entries`) from it alone: those of the index and of the
        row's key, and `covered_too` of those that it covers."""
        parts, named = self.layout.entry_parts(index, key)
        row_key, covered = self.layout.read_entry(index, key, value, named)
        held = dict(zip(index.fields, parts, strict=True))
        held.update(zip(self.schema.key_fields, row_key, strict=True))
        if covered_too:
            held.update(self.codec.decode_fields(() if covered is None else (covered,), covered_too))
        return held

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
        """Return the row with these values in a unique index, or in the key."""
        if fields.keys() == set(self.schema.key_fields):
            parts = [fields[name] for name in self.schema.key_fields]
            return await self.get(txn, tuple(parts) if len(parts) > 1 else parts[0])
        index = self.unique_index(fields)
        values = [self.records.asked_part(part.field, fields[part.field]) for part in index.parts]
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
        """Write rows, in the place of those with the same keys: all, or none where one is refused.

        Raises UniqueViolation, RowError, RowExists.
        """
        await self.put_rows(txn, [self.new_row(record) for record in records], must_be_new=must_be_new)

    async def put_rows(self, txn: AsyncTransaction, rows: Sequence[NewRow[R]], *, must_be_new: bool = False) -> None:
        """Write rows that are worked out already, as `put` does."""
        writes: _Writes = {}
        if not self.schema.indexes and not must_be_new:
            for row in rows:
                writes.update(self.differ.stored(row.record, row.encoded_key))
        elif rows:
            await self.catalog.require(txn)
            wanted = [row.row_key for row in rows]
            for row in rows:
                wanted += [one.key for one in row.entries.values() if one.is_exclusive or txn.is_pessimistic]
            seen = await self.read_to_write(txn, wanted)
            shared = await self._shared(txn, [(seen.get(row.row_key), row) for row in rows], seen)
            for row in rows:
                stored = seen.get(row.row_key)
                if stored is not None and must_be_new:
                    raise self._exists(row)
                self._plan(row, self.old(stored), seen, writes, shared)
        await self._write(txn, writes)

    def new_row(self, record: R) -> NewRow[R]:
        """Check a record, and find its place and its entries."""
        self.records.check(record)
        record = self.codec.settled(record)
        key = self.layout.key_of(record)
        encoded = self.layout.encoded_key(key)
        entries = self.differ.entries(record, encoded, key) if self.schema.indexes else {}
        row_key = self.layout.row_key(encoded)
        if len(row_key) > _LONGEST:
            raise self._too_long("its key", self._shown_key(key), len(row_key))
        for entry in entries.values():
            if len(entry.key) > _LONGEST:
                raise self._too_long(f"index {entry.index_name!r}", self._shown_key(entry.values), len(entry.key))
        return NewRow(record, key, encoded, row_key, entries)

    def _too_long(self, what: str, value: Any, size: int) -> RowError:
        text = f"cannot put {shown(value)} into {what}: that makes a stored key of {size} bytes, more than {_LONGEST}"
        return self.records.error(text)

    def _plan(
        self, row: NewRow[R], old: Any, seen: dict[bytes, bytes], writes: _Writes, shared: Mapping[bytes, Entry]
    ) -> None:
        """Add to `writes` what a row changes, and to `seen` what rows that follow it would see."""
        changes = row.fresh if old is None and not shared else None
        if changes is None:
            changes = self.differ.put(old, row.record, row.encoded_key, row.key, row.entries)
        for entry in changes.exclusive:
            if self._is_anothers(entry, row.encoded_key, seen):
                raise self.violation(entry)
        if shared:
            self._leave_others(changes, row.encoded_key, seen, shared)
        for key in changes.deletes:
            writes[key] = None
            seen.pop(key, None)
        writes.update(changes.puts)
        seen.update(changes.puts)

    async def _shared(self, txn: AsyncTransaction, rows: Iterable[Any], seen: dict[bytes, bytes]) -> dict[bytes, Entry]:
        """Return the unique entries of stored rows that may be another row's, since their index is not ready.

        They are read into `seen`. rows: pairs of what is stored and what has its `key` and `encoded_key`.
        """
        names = await self.catalog.unsettled(txn)
        if not names:
            return {}
        found = {
            entry.key: entry
            for stored, row in rows
            if stored is not None
            for entry in self.layout.entries(self.old(stored), row.encoded_key, row.key, names)
            if entry.is_exclusive
        }
        missing = [key for key in found if key not in seen]
        if missing:
            seen.update(await self.read_to_write(txn, missing))
        return found

    def _is_anothers(self, entry: Entry, encoded_key: bytes, seen: Mapping[bytes, bytes]) -> bool:
        """Tell whether a unique entry is there, and of another row."""
        if entry.key not in seen:
            return False
        owner, _ = self.layout.read_entry(self.schema.indexes[entry.index_name], entry.key, seen[entry.key])
        return self.layout.encoded_key(owner) != encoded_key

    def _leave_others(
        self, changes: Changes, encoded_key: bytes, seen: Mapping[bytes, bytes], shared: Mapping[bytes, Entry]
    ) -> None:
        """Take out of changes those of entries that are another row's."""
        others = {key for key, entry in shared.items() if self._is_anothers(entry, encoded_key, seen)}
        changes.deletes = [key for key in changes.deletes if key not in others]
        for key in others:
            changes.puts.pop(key, None)

    async def _write(self, txn: AsyncTransaction, writes: _Writes) -> None:
        """Write all, or nothing where a write is refused (too large, locked by another)."""
        if txn._write_at_once(writes):
            return
        if txn.is_pessimistic and len(writes) > 1:
            await txn.lock_keys(list(writes))  # those that are not yet, in one request
        with contextlib.nullcontext() if txn.is_pipelined or len(writes) == 1 else txn.savepoint():
            for key, value in writes.items():
                if value is None:
                    await txn.delete(key)
                else:
                    await txn.put(key, value)

    def _exists(self, row: NewRow[R]) -> RowExists:
        text = f"table {self.schema.name!r} has a row with the key {shown(self._shown_key(row.key))} already"
        return RowExists(text, table=self.schema.name, key=row.row_key)

    @staticmethod
    def _shown_key(key: tuple[Any, ...]) -> Any:
        return key[0] if len(key) == 1 else key

    async def update(self, txn: AsyncTransaction, key: Any, changes: Mapping[str, Any]) -> R | None:
        """Change fields of a row; returns it as it is now, None where there is none. Raises as `put`.

        Raises RowError for a change of the key: that is another row.
        """
        encoded = self.encoded(key)
        places = self._places(encoded)
        seen = await self.read_to_write(txn, places)
        if places[0] not in seen:
            return None
        old = self.codec.decode([seen[place] for place in places if place in seen])
        row = self.new_row(self.records.replace(old, changes))
        if row.encoded_key != encoded:
            raise self.records.error(self._no_key_change(old, row.record), self._changed_key_field(changes))
        if self.schema.indexes:
            await self.catalog.require(txn)
            before = self.differ.entries(old, encoded, row.key)
            wanted = [one.key for one in row.entries.values() if one.is_exclusive and one.key not in before]
            if wanted:
                seen.update(await self.read_to_write(txn, wanted))
        writes: _Writes = {}
        self._plan(row, old, seen, writes, await self._shared(txn, [(seen[places[0]], row)], seen))
        await self._write(txn, writes)
        return row.record

    def _changed_key_field(self, changes: Mapping[str, Any]) -> str:
        return next((name for name in self.schema.key_fields if name in changes), "")

    def _no_key_change(self, old: R, new: R) -> str:
        was, wish = (shown(self._shown_key(self.layout.key_of(one))) for one in (old, new))
        return f"is part of the key, which cannot change from {was} to {wish}: delete the row and insert another"

    def encoded_of(self, record: R) -> bytes:
        """Return the bytes of a record's key."""
        return self.layout.encoded_key(self.layout.key_of(record))

    async def delete(self, txn: AsyncTransaction, keys: Sequence[Any]) -> int:
        """Delete rows with their entries; returns how many there were."""
        encoded_keys = list(dict.fromkeys(self.encoded(key) for key in keys))
        row_keys = [self.layout.row_key(encoded) for encoded in encoded_keys]
        seen = await self.read_to_write(txn, row_keys) if row_keys else {}
        rows = [
            (seen[row_key], _Place(self.layout.key_of_row(row_key), encoded))
            for encoded, row_key in zip(encoded_keys, row_keys, strict=True)
            if row_key in seen
        ]
        shared = await self._shared(txn, rows, seen) if rows else {}
        writes: _Writes = {}
        for stored, row in rows:
            changes = self.differ.delete(self.old(stored), row.encoded_key, row.key)
            if shared:
                self._leave_others(changes, row.encoded_key, seen, shared)
            writes.update(dict.fromkeys(changes.deletes))
        await self._write(txn, writes)
        return len(rows)

    async def read_to_write(self, txn: AsyncTransaction, keys: Sequence[bytes]) -> dict[bytes, bytes]:
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
