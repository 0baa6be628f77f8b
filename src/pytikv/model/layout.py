"""Where rows and index entries lie: the bytes of their keys, and what entries hold.

    row             (table, 0[, shard], *key)              the fields that no group holds (codecs)
    field group     (table, 1[, shard], *key, group)       the fields of the group
    unique entry    (table, index[, shard], *values)       the row's key [, and covered fields]
    other entries   (table, index[, shard], *values, *key) nothing [, or covered fields]

all as tuples (`tuples.encode`) behind the table's `prefix`. Parts that descend are `Desc`. A unique index has an entry
of the other form for values with a None among them, which any number of rows may share. The value of an entry is 01,
since an empty value is none to some clients, and a tuple: `(key,)`, of the other form `(None,)`, with the covered
fields as the codec's bytes (`RowCodec.encode_covered`) for a second part.

The shard of a row is 256 plus crc32 of its key's bytes modulo `shards`. A unique entry's is that of its values, by
which it must be found.

Pure. With text keys, `text_keys.TextLayout` takes this one's place.
"""

from __future__ import annotations

import types
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from pytikv.errors import InvalidArgument
from pytikv.model.codecs import RowCodec
from pytikv.model.errors import RowError, shown
from pytikv.model.records import Records
from pytikv.model.schema import IndexSchema, Part, TableSchema
from pytikv.model.tuples import Desc, decode, encode, prefix_range

__all__ = ["Entry", "Layout", "Range", "Span"]

_ROWS: Final = 0
_GROUPS: Final = 1
_CATALOG: Final = 2
_FIRST_SHARD: Final = 256  # so that all take the same number of bytes
_ENTRY_HEAD: Final = b"\x01"
_BARE: Final = _ENTRY_HEAD + encode((None,))


class Span(NamedTuple):
    """A range of stored keys, half-open, behind a common `head`; what follows it is what rows and entries sort by."""

    head: bytes
    start: bytes
    end: bytes

    def holds(self, key: bytes) -> bool:
        """Tell whether a stored key lies in it."""
        return key.startswith(self.head) and self.start <= key[len(self.head) :] < self.end


Range = tuple[bytes, bytes]
"""Half-open, of keys or of what follows their head."""


class Entry(NamedTuple):
    """An index entry of a row. `is_exclusive`: no other row may have it."""

    key: bytes
    value: bytes
    index_name: str
    values: tuple[Any, ...]
    is_exclusive: bool


class Layout:
    """The layout of one table. Immutable."""

    def __init__(self, schema: TableSchema, records: Records[Any], codec: RowCodec[Any]) -> None:
        self.schema = schema
        self._records = records
        self._codec = codec
        self.catalog_key = schema.prefix + encode((schema.name, _CATALOG))
        self._rows_head = schema.prefix + encode((schema.name, _ROWS))
        self._groups_head = schema.prefix + encode((schema.name, _GROUPS))
        self._index_heads = {name: schema.prefix + encode((schema.name, name)) for name in schema.indexes}
        self._descend = {
            parts
            for parts in (schema.key, *(index.parts for index in schema.indexes.values()))
            if any(part.is_descending for part in parts)
        }
        self._is_key_plain = schema.key not in self._descend
        self._plain_keys = self._kinds_of_plain_keys()
        self._shards = [encode((_FIRST_SHARD + shard,)) for shard in range(schema.shards)]

    def _kinds_of_plain_keys(self) -> frozenset[type]:
        """Return the types of keys that need nothing but to be encoded: whole numbers of a field of such."""
        part = self.schema.key[0]
        is_plain = len(self.schema.key) == 1 and not part.is_descending
        return frozenset({int}) if is_plain and self._records.fields[part.field].classes == (int,) else frozenset()

    # --- rows ---------------------------------------------------------------------------------------------------------

    def key_of(self, record: Any) -> tuple[Any, ...]:
        """Return the key of a record, as values."""
        get, part_of = self._records.get, self._records.key_part
        return tuple([part_of(part.field, get(record, part.field)) for part in self.schema.key])

    def key_from(self, key: Any) -> tuple[Any, ...]:
        """Return a key that a caller gave: one value, or a tuple of as many as the key has parts."""
        parts = self.schema.key
        values = key if isinstance(key, tuple) and len(parts) > 1 else (key,)
        if len(values) != len(parts):
            fields = ", ".join(self.schema.key_fields)
            raise self._records.error(f"has a key of {len(parts)} parts ({fields}), not {shown(key)}")
        return tuple(self._records.asked_part(part.field, value) for part, value in zip(parts, values, strict=True))

    def encoded(self, key: Any) -> bytes:
        """Return the bytes of a key that a caller gave. Raises RowError."""
        if type(key) in self._plain_keys:
            return encode((key,))
        return self.encoded_key(self.key_from(key))

    def encoded_key(self, key: Sequence[Any]) -> bytes:
        """Return the bytes of a row's key, without what stands before it. Raises RowError."""
        return self._encode(self.schema.key, key, "the key")

    def _encode(self, parts: tuple[Part, ...], values: Sequence[Any], what: str) -> bytes:
        try:
            if parts in self._descend:
                values = [
                    Desc(value) if part.is_descending else value for part, value in zip(parts, values, strict=False)
                ]
            return encode(values)
        except InvalidArgument as error:
            raise self._records.error(f"cannot put {shown(tuple(values))} into {what}: {error}") from error

    def row_key(self, encoded_key: bytes) -> bytes:
        """Return where a row lies."""
        return self._rows_head + (self._shard(encoded_key) if self._shards else b"") + encoded_key

    def group_key(self, encoded_key: bytes, group: str) -> bytes:
        """Return where a group of a row's fields lies."""
        return self._groups_head + self._shard(encoded_key) + encoded_key + encode((group,))

    def _shard(self, data: bytes) -> bytes:
        return self._shards[zlib.crc32(data) % len(self._shards)] if self._shards else b""

    def key_of_row(self, row_key: bytes) -> tuple[Any, ...]:
        """Return the key, as values, of a row that lies at `row_key`."""
        return self._plain(decode(row_key[len(self._rows_head) :])[1 if self._shards else 0 :])

    @staticmethod
    def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(value.value if isinstance(value, Desc) else value for value in values)

    def spans(self, index: str | None, start: bytes, end: bytes) -> list[Span]:
        """Return the ranges, one a shard, of rows (index None) or of entries from `start` to `end`, encoded parts."""
        head = self._rows_head if index is None else self._index_heads[index]
        return [Span(head + shard, start, end) for shard in self._shards or [b""]]

    def everything(self) -> list[tuple[bytes, bytes]]:
        """Return the ranges of all that the table has stored."""
        heads = [self._rows_head, self._groups_head, *self._index_heads.values()]
        return [prefix_range(head) for head in heads]

    def index_range(self, name: str) -> tuple[bytes, bytes]:
        """Return the range of all entries of an index, which need not be declared."""
        return prefix_range(self.schema.prefix + encode((self.schema.name, name)))

    # --- index entries ------------------------------------------------------------------------------------------------

    def entries(
        self, record: Any, encoded_key: bytes, key: tuple[Any, ...], names: Iterable[str] | None = None
    ) -> list[Entry]:
        """Return the entries of a record, in all indexes or in some. Raises RowError for values that fit in none."""
        found: list[Entry] = []
        for name in self._index_heads if names is None else names:
            index = self.schema.indexes[name]
            if index.where is None or self._is_wanted(index, record):
                found += [self._entry(index, record, one, encoded_key, key) for one in self._values(index, record)]
        return found

    def _is_wanted(self, index: IndexSchema, record: Any) -> bool:
        """Ask a partial index. With groups it sees what is read to keep indexes right, that is no group's fields."""
        assert index.where is not None
        if self.schema.groups:
            fields = {name: self._records.get(record, name) for name in self.schema.main_fields}
            record = types.SimpleNamespace(**fields)
        try:
            return bool(index.where(record))
        except Exception as error:
            hint = " (it sees no fields of groups, and no methods)" if self.schema.groups else ""
            raise self._records.error(
                f"cannot ask index {index.name!r} about {shown(record)}{hint}: {error!r}"
            ) from error

    def _values(self, index: IndexSchema, record: Any) -> list[tuple[Any, ...]]:
        get, part_of = self._records.get, self._records.key_part
        values = tuple([part_of(part.field, get(record, part.field)) for part in index.parts])
        if index.each is None:
            return [values]
        at = index.fields.index(index.each)
        if values[at] is None:
            return []
        if isinstance(values[at], (str, bytes)) or not isinstance(values[at], Iterable):
            raise self._records.error(f"is indexed by its elements, and holds {shown(values[at])}", index.each)
        try:
            elements = dict.fromkeys(values[at])
        except TypeError:
            raise self._records.error(
                f"is indexed by its elements, and holds {shown(values[at])}", index.each
            ) from None
        return [(*values[:at], element, *values[at + 1 :]) for element in elements]

    def _entry(
        self, index: IndexSchema, record: Any, values: tuple[Any, ...], encoded_key: bytes, key: tuple[Any, ...]
    ) -> Entry:
        encoded = self._encode(index.parts, values, f"index {index.name!r}")
        head = self._index_heads[index.name]
        is_exclusive = index.is_unique and None not in values
        if not is_exclusive and not index.covering:
            shard = self._shard(encoded_key) if self._shards else b""
            return Entry(head + shard + encoded + encoded_key, _BARE, index.name, values, False)
        if not index.covering and self._is_key_plain and None not in key:
            value = _ENTRY_HEAD + b"\x05" + encoded_key + b"\0"  # the tuple's parts are those of the key
            return Entry(
                head + (self._shard(encoded) if self._shards else b"") + encoded, value, index.name, values, True
            )
        held: list[Any] = [key if is_exclusive else None]
        if index.covering:
            held.append(self._codec.encode_covered(record, index.covering))
        where = self._shard(encoded) + encoded if is_exclusive else self._shard(encoded_key) + encoded + encoded_key
        return Entry(head + where, _ENTRY_HEAD + encode(held), index.name, values, is_exclusive)

    def unique_key(self, index: IndexSchema, values: Sequence[Any]) -> bytes:
        """Return where the entry of a unique index for some values lies (none of them None)."""
        encoded = self._encode(index.parts, values, f"index {index.name!r}")
        return self._index_heads[index.name] + self._shard(encoded) + encoded

    # --- ranges, without the heads of their spans ---------------------------------------------------------------------

    def serves_range(self, index: IndexSchema | None, part: Part) -> bool:
        """Tell whether a range of a part's values is a range of keys (index None) or of entries."""
        return True

    def serves_prefix(self, index: IndexSchema | None, part: Part) -> bool:
        """Tell whether texts with a common beginning are a range."""
        return not part.is_descending

    def equals(self, index: IndexSchema | None, parts: tuple[Part, ...], values: Sequence[Any], what: str) -> Range:
        """Return the range of what has some values in its first parts."""
        return prefix_range(self._encode(parts, values, what))

    def between(
        self, index: IndexSchema | None, parts: tuple[Part, ...], before: Sequence[Any], low: Any, high: Any, what: str
    ) -> Range:
        """Return the range of what has the values `before` and then one from `low` up to `high`, without it.

        None: no end on that side. None itself, which sorts first, is in no range with an end.
        """

        def encoded(value: Any) -> bytes:
            return self._encode(parts, [*before, value], what)

        everything = self.equals(index, parts, before, what)
        if low is None and high is None:
            return everything
        if not parts[len(before)].is_descending:
            start = prefix_range(encoded(None))[1] if low is None else encoded(low)
            return start, everything[1] if high is None else encoded(high)
        # Downward, the high end comes first, and is left out with all that begins with it.
        first = everything[0] if high is None else prefix_range(encoded(high))[1]
        return first, encoded(None) if low is None else prefix_range(encoded(low))[1]

    def beginning(
        self, index: IndexSchema | None, parts: tuple[Part, ...], before: Sequence[Any], text: Any, what: str
    ) -> Range:
        """Return the range of what has the values `before` and then a text or bytes that begin with `text`."""
        low = self._encode(parts, [*before, text], what)[:-1]  # without the end of the text
        # What goes on after the beginning: any byte but the end 00, and 00 ff for a zero in the text.
        cut = low.rstrip(b"\xff")
        return low, cut[:-1] + bytes((cut[-1] + 1,)) if cut else b""

    # --- reading entries ----------------------------------------------------------------------------------------------

    def read_entry(
        self, index: IndexSchema, key: bytes, value: bytes, named: tuple[Any, ...] | None = None
    ) -> tuple[tuple[Any, ...], bytes | None]:
        """Return a row's key, and the covered fields as the codec's bytes, from one of its entries. Raises RowError.

        `named`: what `entry_parts` found in the entry's key behind the index's parts, where that was asked already.
        """
        try:
            held = decode(value[len(_ENTRY_HEAD) :])
            row_key = held[0] if held[0] is not None else named
            if row_key is None:
                row_key = self.entry_parts(index, key)[1]
            if not isinstance(row_key, tuple) or len(row_key) != len(self.schema.key):
                raise InvalidArgument("it names no row")
            covered = held[1] if len(held) > 1 else None
            if not isinstance(covered, (bytes, type(None))):
                raise InvalidArgument("what it covers is not bytes")
            return row_key, covered
        except RowError:
            raise
        except (InvalidArgument, IndexError) as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: IndexSchema, error: Exception) -> RowError:
        return self._records.error(f"has an entry in index {index.name!r} that cannot be read: {error}")

    def entry_parts(self, index: IndexSchema, key: bytes) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the values of the index's parts from an entry's key, and what follows: mostly the row's key.

        Raises RowError.
        """
        try:
            parts = self._plain(decode(key[len(self._index_heads[index.name]) :]))
        except InvalidArgument as error:
            raise self._unreadable(index, error) from error
        first = 1 if self._shards else 0
        behind = first + len(index.parts)
        return parts[first:behind], parts[behind:]
