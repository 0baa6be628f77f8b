"""The declaration of a table, parsed and checked once. No I/O, no records.

    Table("user", User, key="id", unique=["email"], index=["age", ("city", Desc("age"))])

A key or an index is one field, or a tuple of fields; `Desc` marks one that sorts downward. What is fixed here decides
where rows lie: key, indexes, groups, shards and style belong to the data, and `fingerprint` names them. Another class,
another codec or version may read the same rows.

Rules, each a SchemaError: fields exist and can stand in a key; names are distinct; fields of the key and of indexes are
not in a group, so that the main value of a row is all that keeping the indexes needs; text keys (see `text_keys`) have
no descending parts, no shards and no covered fields.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from pytikv.model.errors import SchemaError
from pytikv.model.records import Records
from pytikv.model.tuples import Desc

__all__ = ["MAX_SHARDS", "FieldSpec", "Index", "IndexSchema", "KeySpec", "Part", "TableSchema", "table_schema"]

FieldSpec = str | Desc
KeySpec = FieldSpec | tuple[FieldSpec, ...]
"""A field, or a tuple of fields, each possibly marked with `Desc`."""

MAX_SHARDS: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_KEY_CLASSES: Final = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    tuple,
    uuid.UUID,
    datetime.date,
    decimal.Decimal,
    Enum,
)


class Part(NamedTuple):
    """One field in a key or an index."""

    field: str
    is_descending: bool = False


class Index:
    """An index with more to say than its fields; to stand in the list `index` or `unique` of a table.

    parts: the fields, in order.
    unique: whether no two rows may have the same values; rows with a None among them are left out of that.
    covering: further fields kept with the entries, so that a query which needs only those reads no rows.
    where: a function of a record; rows for which it is false have no entry (a partial index). The same record must
        always give the same answer. In a table with field groups it sees the fields that no group holds, and no more.
    each: the part, a field that holds a collection, of whose distinct elements each has an entry.
    name: of the index; the fields' names joined by `_` where none is given. Entries lie under it.
    """

    __slots__ = ("covering", "each", "name", "parts", "unique", "where")

    def __init__(
        self,
        *parts: FieldSpec,
        unique: bool = False,
        covering: Sequence[str] = (),
        where: Callable[[Any], bool] | None = None,
        each: str | None = None,
        name: str | None = None,
    ) -> None:
        self.parts = parts
        self.unique = unique
        self.covering = tuple(covering)
        self.where = where
        self.each = each
        self.name = name


@dataclasses.dataclass(frozen=True, slots=True)
class IndexSchema:
    """An index, checked."""

    name: str
    parts: tuple[Part, ...]
    is_unique: bool = False
    covering: tuple[str, ...] = ()
    where: Callable[[Any], bool] | None = None
    each: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its parts."""
        return tuple(part.field for part in self.parts)


@dataclasses.dataclass(frozen=True, slots=True)
class TableSchema:
    """A table, checked."""

    name: str
    key: tuple[Part, ...]
    indexes: Mapping[str, IndexSchema]
    groups: Mapping[str, tuple[str, ...]]
    main_fields: tuple[str, ...]
    """The fields that no group holds."""
    shards: int
    is_text: bool
    prefix: bytes

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The names of the key's parts."""
        return tuple(part.field for part in self.key)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name where the rows and entries of this table lie."""
        indexes = [(one.name, one.parts, one.is_unique, one.covering, one.each) for one in self.indexes.values()]
        laid = (self.name, self.key, indexes, sorted(self.groups.items()), self.shards, self.is_text, self.prefix)
        return hashlib.sha256(repr(laid).encode()).hexdigest()[:16]


def table_schema(
    name: str,
    records: Records[Any],
    *,
    key: KeySpec,
    unique: Iterable[KeySpec | Index] = (),
    index: Iterable[KeySpec | Index] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    shards: int = 0,
    keys: str = "tuple",
    prefix: bytes = b"",
) -> TableSchema:
    """Return a declaration, checked. Raises SchemaError, which names what contradicts what."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SchemaError(f"{name!r} is no name for a table: a letter, then up to 63 letters, digits, '_', '-' or '.'")
    checker = _Checker(name, records)
    if keys not in ("tuple", "text"):
        raise SchemaError(f"table {name!r}: keys is 'tuple' or 'text', not {keys!r}")
    if isinstance(shards, bool) or not isinstance(shards, int) or not (shards == 0 or 2 <= shards <= MAX_SHARDS):
        raise SchemaError(f"table {name!r}: shards is 0 (none) or 2 to {MAX_SHARDS}, not {shards!r}")
    if not isinstance(prefix, bytes):
        raise SchemaError(f"table {name!r}: prefix is bytes, not {type(prefix).__name__}")
    key_parts = checker.parts(key, "the key")
    indexes = checker.indexes([(one, True) for one in _listed(unique)] + [(one, False) for one in _listed(index)])
    kept = checker.groups(groups or {}, key_parts, indexes)
    grouped = {field for fields in kept.values() for field in fields}
    main = tuple(field for field in records.fields if field not in grouped)
    return TableSchema(name, key_parts, indexes, kept, main, shards, keys == "text", prefix)


def _listed(specs: Iterable[Any]) -> list[Any]:
    """Return the indexes of a list; a lone one may stand without it."""
    return [specs] if isinstance(specs, (str, Desc, Index)) else list(specs)


class _Checker:
    """Checks the parts of one declaration."""

    def __init__(self, table: str, records: Records[Any]) -> None:
        self._table = table
        self._records = records

    def error(self, text: str) -> SchemaError:
        return SchemaError(f"table {self._table!r}: {text}")

    def parts(self, spec: Any, what: str, each: str | None = None) -> tuple[Part, ...]:
        """Return the parts of a key or an index."""
        listed = spec if isinstance(spec, tuple) else (spec,)
        if not listed:
            raise self.error(f"{what} has no field")
        found = tuple(Part(one.value, True) if isinstance(one, Desc) else Part(one) for one in listed)
        for part in found:
            self.field(part.field, what)
            self._check_type(part.field, what, is_each=part.field == each)
        if len({part.field for part in found}) < len(found):
            raise self.error(f"{what} names a field twice")
        return found

    def field(self, name: Any, what: str) -> None:
        if name not in self._records.fields:
            fields = ", ".join(self._records.fields)
            raise self.error(f"{what} names {name!r}, which {self._records.cls.__name__} has not; it has {fields}")

    def _check_type(self, name: str, what: str, *, is_each: bool) -> None:
        classes = self._records.fields[name].classes
        if is_each or classes is None:
            return
        for one in classes:
            if not issubclass(one, _KEY_CLASSES):
                raise self.error(
                    f"{what} cannot hold the field {name!r}: values of {one.__name__} have no order in keys"
                )

    def indexes(self, specs: list[tuple[Any, bool]]) -> dict[str, IndexSchema]:
        found: dict[str, IndexSchema] = {}
        for spec, is_unique in specs:
            one = self._index(spec if isinstance(spec, Index) else _plain(spec), is_unique)
            if one.name in found:
                raise self.error(f"two indexes have the name {one.name!r}")
            found[one.name] = one
        return found

    def _index(self, spec: Index, is_unique: bool) -> IndexSchema:
        fields = [one.value if isinstance(one, Desc) else one for one in spec.parts]
        name = spec.name or "_".join(map(str, fields))
        what = f"index {name!r}"
        if not _NAME.fullmatch(name):
            raise self.error(
                f"{name!r} is no name for an index: a letter, then up to 63 letters, digits, '_', '-' or '.'"
            )
        parts = self.parts(spec.parts, what, spec.each)
        if spec.each is not None and spec.each not in fields:
            raise self.error(f"{what}: each={spec.each!r} is none of its parts")
        for covered in spec.covering:
            self.field(covered, what)
        return IndexSchema(name, parts, spec.unique or is_unique, spec.covering, spec.where, spec.each)

    def groups(
        self, groups: Mapping[str, Sequence[str]], key: tuple[Part, ...], indexes: Mapping[str, IndexSchema]
    ) -> dict[str, tuple[str, ...]]:
        bound = {part.field: "the key" for part in key}
        for one in indexes.values():
            bound.update(dict.fromkeys((*one.fields, *one.covering), f"index {one.name!r}"))
        owner: dict[str, str] = {}
        for group, fields in groups.items():
            if not _NAME.fullmatch(group) or isinstance(fields, str) or not fields:
                raise self.error(f"group {group!r} is not a name with a list of fields")
            for field in fields:
                self.field(field, f"group {group!r}")
                if field in bound:
                    raise self.error(f"group {group!r} cannot hold {field!r}, which {bound[field]} needs")
                if field in owner:
                    raise self.error(f"the field {field!r} is in two groups, {owner[field]!r} and {group!r}")
                owner[field] = group
        return {group: tuple(fields) for group, fields in groups.items()}


def _plain(spec: Any) -> Index:
    return Index(*spec) if isinstance(spec, tuple) else Index(spec)
