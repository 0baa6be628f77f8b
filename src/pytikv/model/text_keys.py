"""Plain text keys, as programs write them that know nothing of tables. Takes the place of `Layout`.

    row               {table}_{key}                   user_1001
    unique entry      idx_{index}_{values}            idx_email_a@b         the row's key, 1001
    other entries     idx_{index}_{values}_{key}      idx_age_30_1001       the row's key, 1001

all in UTF-8, behind the table's `prefix`. Several parts are joined by `_`. Values of rows are plain, without a head
(`codecs`). Read are also unique entries that hold the whole row key (`user_1001`), where the key is no text itself, and
other entries whatever they hold: there the key is what follows the values.

A part's text: int in decimal, str itself, bool `true` or `false`, UUID and date as usual (`2026-01-31`), datetime
`2026-01-31T12:00:00.000000Z` in UTC, an Enum its value. None has no text: a row with None in an index has no entry in
it, not even by `query`, and no key may hold it.

What would be ambiguous is refused:

* by the declaration (`check_text`, SchemaError): a table's name with `_`; `idx` and `catalog` for a name; an index of
  whose name another's goes on with `_` (`age` and `age_city`: name one of them otherwise), also among tables of one
  prefix; parts of a field that could be of several types, or have no text;
* by a write (RowError): a part with `_` in it that something follows. So a str of a secondary index has none, and that
  of a unique index or key may have it in the last part;
* by a query: a range over a part that does not sort in text as its values do. That is any int, and a str that something
  follows. Dates, datetimes, UUIDs and bool do; so does a str at the end. Other conditions are served as ever, and a
  range that is not can be a filter beside them (or with `scan=True`). Rows come in the order of text.

Two tables of one program with the same prefix share `idx_`: their indexes need different names, as `user_email`.
"""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from pytikv.model.codecs import RowCodec
from pytikv.model.errors import SchemaError, shown
from pytikv.model.layout import Entry, Layout, Range
from pytikv.model.records import Records
from pytikv.model.schema import IndexSchema, Part, TableSchema

__all__ = ["TextLayout", "check_text", "overlap"]

_INDEX: Final = "idx"
_CATALOG: Final = "catalog"
_END: Final = b"\xff"  # above all UTF-8


def _datetime(value: datetime.datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("a datetime without a zone is no instant")
    return value.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _parsed_bool(text: str) -> bool:
    return {"true": True, "false": False}[text]


_Form = tuple[Callable[[Any], str], Callable[[str], Any]]
_FORMS: Final[dict[type, _Form]] = {
    int: (int.__repr__, int),
    str: (str, str),
    bool: (lambda value: "true" if value else "false", _parsed_bool),
    uuid.UUID: (str, uuid.UUID),
    datetime.datetime: (_datetime, datetime.datetime.fromisoformat),
    datetime.date: (datetime.date.isoformat, datetime.date.fromisoformat),
}
_SORTED: Final = (bool, uuid.UUID, datetime.date)


def _text_class(records: Records[Any], field: str, *, is_each: bool = False) -> type | None:
    """Return the one class that a field's values have beside None; None where there is no such, or it has no text.

    Elements of a field are texts.
    """
    if is_each:
        return str
    found = {one for one in records.fields[field].classes or () if one is not type(None)}
    if len(found) != 1:
        return None
    (only,) = found
    if issubclass(only, enum.Enum):
        kinds = {type(member.value) for member in only}
        return only if kinds in ({int}, {str}) else None
    return only if only in _FORMS else None


def overlap(one: str, other: str) -> bool:
    """Tell whether entries of two indexes, or one's and the other's, could be taken for one another."""
    return f"{one}_".startswith(f"{other}_") or f"{other}_".startswith(f"{one}_")


def check_text(schema: TableSchema, records: Records[Any]) -> None:
    """Refuse a declaration whose keys would be ambiguous. Raises SchemaError."""

    def error(text: str) -> SchemaError:
        return SchemaError(f"table {schema.name!r}: {text}")

    if "_" in schema.name or schema.name in (_INDEX, _CATALOG):
        raise error("with text keys a table's name has no '_' and is neither 'idx' nor 'catalog'")
    names = list(schema.indexes)
    for at, name in enumerate(names):
        for other in names[at + 1 :]:
            if overlap(name, other):
                raise error(f"text keys cannot tell index {name!r} from {other!r}: give one Index(..., name=...)")
    places = [("the key", schema.key, None), *((f"index {one.name!r}", one.parts, one.each) for one in
              schema.indexes.values())]  # fmt: skip
    for what, parts, each in places:
        for part in parts:
            if part.is_descending:
                raise error(f"{what} cannot descend: text keys sort as text")
            if _text_class(records, part.field, is_each=part.field == each) is None:
                raise error(
                    f"{what} cannot hold {part.field!r} as text: it must be int, str, bool, UUID, date, datetime or an "
                    "Enum of ints or of strs, one of them"
                )
    if schema.shards:
        raise error("text keys have no shards")
    if schema.groups or any(one.covering for one in schema.indexes.values()):
        raise error("text keys have neither field groups nor covered fields")


class TextLayout(Layout):
    """The layout of a table with text keys. Immutable."""

    def __init__(self, schema: TableSchema, records: Records[Any], codec: RowCodec[Any]) -> None:
        super().__init__(schema, records, codec)
        self._rows_head = schema.prefix + f"{schema.name}_".encode()
        self._index_heads = {name: schema.prefix + f"{_INDEX}_{name}_".encode() for name in schema.indexes}
        self._plain_keys = frozenset()
        self.catalog_key = schema.prefix + f"{_CATALOG}_{schema.name}".encode()

    # --- texts --------------------------------------------------------------------------------------------------------

    def _encode(self, parts: tuple[Part, ...], values: Sequence[Any], what: str) -> bytes:
        return self._joined(parts, values, what, is_end=True)

    def _joined(self, parts: tuple[Part, ...], values: Sequence[Any], what: str, *, is_end: bool) -> bytes:
        """Return the text of values; `is_end`: nothing follows it."""
        texts = [self._text(part, value, what) for part, value in zip(parts, values, strict=False)]
        for part, text in zip(parts, texts if not is_end else texts[:-1], strict=False):
            if "_" in text:
                raise self._records.error(
                    f"cannot put {shown(text)} into {what}: a text key cannot hold '_' in a part that another follows",
                    part.field,
                )
        try:
            return "_".join(texts).encode()
        except UnicodeEncodeError:
            raise self._records.error(f"cannot put {shown(tuple(values))} into {what}: it is no Unicode text") from None

    def _text(self, part: Part, value: Any, what: str) -> str:
        plain = value.value if isinstance(value, enum.Enum) else value
        for kind, (form, _) in _FORMS.items():
            if type(plain) is kind or (kind is not int and isinstance(plain, kind)):
                try:
                    return form(plain)
                except ValueError as error:
                    raise self._records.error(f"cannot put {shown(value)} into {what}: {error}", part.field) from error
        raise self._records.error(f"cannot put {shown(value)} into {what}: it has no text", part.field)

    def _values_of(self, parts: tuple[Part, ...], texts: Sequence[str], each: str | None = None) -> tuple[Any, ...]:
        """Return the values of texts. Raises RowError."""
        if len(texts) != len(parts):
            raise self._records.error(f"has {shown('_'.join(texts))} where {len(parts)} parts should be")
        return tuple(self._value_of(part, text, part.field == each) for part, text in zip(parts, texts, strict=True))

    def _value_of(self, part: Part, text: str, is_each: bool) -> Any:
        kind = _text_class(self._records, part.field, is_each=is_each)
        assert kind is not None  # `check_text` has seen to that
        try:
            if issubclass(kind, enum.Enum):
                return next(member.value for member in kind if str(member.value) == text)
            form, parse = _FORMS[kind]
            value = parse(text)
            if form(value) != text:  # `01` would be another key than `1`
                raise ValueError
        except (ValueError, KeyError, StopIteration):
            raise self._records.error(f"has {shown(text)} in a key, which is no {kind.__name__}", part.field) from None
        return value

    def _split(self, data: bytes, parts: tuple[Part, ...]) -> list[str]:
        try:
            return data.decode().split("_", len(parts) - 1)
        except UnicodeDecodeError:
            raise self._records.error(f"has a key that is no text: {shown(data)}") from None

    # --- rows ---------------------------------------------------------------------------------------------------------

    def key_of_row(self, row_key: bytes) -> tuple[Any, ...]:
        """See `Layout.key_of_row`."""
        return self._key_of_text(row_key[len(self._rows_head) :])

    def _key_of_text(self, text: bytes) -> tuple[Any, ...]:
        return self._values_of(self.schema.key, self._split(text, self.schema.key))

    def everything(self) -> list[tuple[bytes, bytes]]:
        """See `Layout.everything`."""
        return [(head, head + _END) for head in (self._rows_head, *self._index_heads.values())]

    # --- index entries ------------------------------------------------------------------------------------------------

    def _values(self, index: IndexSchema, record: Any) -> list[tuple[Any, ...]]:
        return [values for values in super()._values(index, record) if None not in values]

    def _entry(
        self, index: IndexSchema, record: Any, values: tuple[Any, ...], encoded_key: bytes, key: tuple[Any, ...]
    ) -> Entry:
        text = self._joined(index.parts, values, f"index {index.name!r}", is_end=index.is_unique)
        where = self._index_heads[index.name] + (text if index.is_unique else text + b"_" + encoded_key)
        return Entry(where, encoded_key, index.name, values, index.is_unique)

    def read_entry(
        self, index: IndexSchema, key: bytes, value: bytes, named: tuple[Any, ...] | None = None
    ) -> tuple[tuple[Any, ...], bytes | None]:
        """See `Layout.read_entry`."""
        if not index.is_unique:
            (text,) = self._entry_texts(index, key)[1] if named is None else named
            return self._key_of_text(text.encode()), None
        is_text = _text_class(self._records, self.schema.key[0].field) is str
        return self._key_of_text(value if is_text else value.removeprefix(self._rows_head)), None

    def entry_parts(self, index: IndexSchema, key: bytes) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """See `Layout.entry_parts`."""
        texts, named = self._entry_texts(index, key)
        return self._values_of(index.parts, texts, index.each), named

    def _entry_texts(self, index: IndexSchema, key: bytes) -> tuple[list[str], tuple[str, ...]]:
        parts = index.parts if index.is_unique else (*index.parts, Part("", False))
        texts = self._split(key[len(self._index_heads[index.name]) :], parts)
        return texts[: len(index.parts)], () if index.is_unique else (texts[-1],)

    # --- ranges -------------------------------------------------------------------------------------------------------

    def serves_range(self, index: IndexSchema | None, part: Part) -> bool:
        """See `Layout.serves_range`."""
        kind = _text_class(self._records, part.field, is_each=index is not None and part.field == index.each)
        if kind is str:
            return self._is_last(index, part)
        return kind is not None and issubclass(kind, _SORTED)

    def serves_prefix(self, index: IndexSchema | None, part: Part) -> bool:
        """See `Layout.serves_prefix`."""
        return _text_class(self._records, part.field, is_each=index is not None and part.field == index.each) is str

    def _is_last(self, index: IndexSchema | None, part: Part) -> bool:
        """Tell whether nothing follows a part."""
        return part == (self.schema.key if index is None else index.parts)[-1] and (index is None or index.is_unique)

    def equals(self, index: IndexSchema | None, parts: tuple[Part, ...], values: Sequence[Any], what: str) -> Range:
        """See `Layout.equals`."""
        if not values:
            return b"", _END
        is_end = self._is_last(index, parts[len(values) - 1])
        text = self._joined(parts, values, what, is_end=is_end)
        return (text, text + b"\0") if is_end else (text + b"_", text + b"_" + _END)

    def between(
        self, index: IndexSchema | None, parts: tuple[Part, ...], before: Sequence[Any], low: Any, high: Any, what: str
    ) -> Range:
        """See `Layout.between`."""
        start, end = self.equals(index, parts, before, what)
        if low is not None:
            start = self._joined(parts, [*before, low], what, is_end=True)
        return start, end if high is None else self._joined(parts, [*before, high], what, is_end=True)

    def beginning(
        self, index: IndexSchema | None, parts: tuple[Part, ...], before: Sequence[Any], text: Any, what: str
    ) -> Range:
        """See `Layout.beginning`."""
        head = self._joined(parts, [*before, text], what, is_end=self._is_last(index, parts[len(before)]))
        return head, head + _END
