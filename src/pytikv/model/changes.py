"""What a change of a row writes: the difference between what was stored for it and what will be.

Pure. An index entry that stays as it is is not written again. `Changes.exclusive` are the unique entries that are new
to the row: whoever applies the changes makes sure first that they are free.

What was stored need not be a whole record: the fields that no group holds are enough to know its entries.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

from pytikv.model.codecs import RowCodec
from pytikv.model.layout import Entry, Layout
from pytikv.model.records import Records

__all__ = ["Changes", "Differ"]

R = TypeVar("R")


@dataclasses.dataclass(slots=True)
class Changes:
    """Keys to write and to delete."""

    puts: dict[bytes, bytes]
    deletes: list[bytes]
    exclusive: list[Entry]


class Differ(Generic[R]):
    """Finds the changes of one table's rows. Immutable."""

    def __init__(self, layout: Layout, records: Records[R], codec: RowCodec[R]) -> None:
        self._layout = layout
        self._records = records
        self._codec = codec
        self._schema = layout.schema

    def stored(self, record: R, encoded_key: bytes) -> dict[bytes, bytes]:
        """Return the values of a row: the main one, and one for each group."""
        schema = self._schema
        main = schema.main_fields if schema.groups else None
        values = {self._layout.row_key(encoded_key): self._codec.encode(record, main)}
        for group, fields in schema.groups.items():
            values[self._layout.group_key(encoded_key, group)] = self._codec.encode(record, fields, is_group=True)
        return values

    def entries(self, record: Any, encoded_key: bytes, key: tuple[Any, ...]) -> dict[bytes, Entry]:
        """Return all index entries of a row, by their keys."""
        return {entry.key: entry for entry in self._layout.entries(record, encoded_key, key)}

    def put(
        self, old: Any, new: R, encoded_key: bytes, key: tuple[Any, ...], after: dict[bytes, Entry] | None = None
    ) -> Changes:
        """Return what writing `new` in the place of `old` (None: there is none) changes.

        `after`: the entries of `new`, where they are known already.
        """
        if after is None:
            after = self.entries(new, encoded_key, key)
        puts = self.stored(new, encoded_key)
        if old is None:
            puts.update((entry.key, entry.value) for entry in after.values())
            return Changes(puts, [], [entry for entry in after.values() if entry.is_exclusive])
        before = self.entries(old, encoded_key, key)
        for entry in after.values():
            known = before.get(entry.key)
            if known is None or known.value != entry.value:
                puts[entry.key] = entry.value
        exclusive = [entry for entry in after.values() if entry.is_exclusive and entry.key not in before]
        return Changes(puts, [entry_key for entry_key in before if entry_key not in after], exclusive)

    def delete(self, old: Any, encoded_key: bytes, key: tuple[Any, ...]) -> Changes:
        """Return what deleting a row changes."""
        keys = [self._layout.row_key(encoded_key)]
        keys += [self._layout.group_key(encoded_key, group) for group in self._schema.groups]
        return Changes({}, [*keys, *self.entries(old, encoded_key, key)], [])
