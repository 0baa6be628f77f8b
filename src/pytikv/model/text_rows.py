"""Records as lines of JSON and as fields of CSV, and back. No I/O.

JSON: an object by field name, in msgspec's forms (times ISO 8601, UUIDs and Decimals text, bytes base64); protobuf
messages in the form of protobuf's own JSON with the fields' own names.

CSV: a text a field. Numbers, bools, times and the like as in JSON without quotes, a str as it is, bytes base64,
anything else (lists, nested records) as JSON. The text `null`, empty by default, stands for None where the field may be
None, and for the empty text otherwise.

What is read is converted to the types that the class declares; columns that the class has not are passed over, fields
that are missing take their defaults. What does not fit is a RowError that names the field.
"""

from __future__ import annotations

import base64
import enum
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pytikv.errors import ConfigError, InvalidArgument
from pytikv.model.errors import RowError, shown
from pytikv.model.records import Records

__all__ = ["TextRows"]

R = TypeVar("R")


def _msgspec() -> Any:
    try:
        import msgspec
    except ImportError:
        raise ConfigError('rows as text need msgspec: pip install "pytikv[model]"') from None
    return msgspec


class TextRows(Generic[R]):
    """The texts of one class's records. Safe for any number of threads."""

    def __init__(self, records: Records[R], *, null: str = "") -> None:
        self._records = records
        self._null = null
        self._library = _msgspec()
        self._encode: Callable[[Any], bytes] = self._library.json.Encoder(enc_hook=_to_builtin).encode
        self.fields = tuple(records.fields)
        self._converters = {name: self._converter(name) for name in self.fields}
        cls: Any = records.cls
        self._from_json: Callable[[str], R] = (
            cls.model_validate_json if records.kind == "pydantic" else self._protobuf_json
        )
        if records.kind not in ("pydantic", "protobuf"):
            self._from_json = self._library.json.Decoder(cls).decode

    # --- reading ------------------------------------------------------------------------------------------------------

    def from_json(self, line: str | bytes) -> R:
        """Return the record of a JSON object's text. Raises RowError."""
        try:
            return self._from_json(line)  # type: ignore[arg-type]  # either
        except (ValueError, TypeError, RecursionError) as error:
            raise self._refused(error) from None

    def from_mapping(self, row: Mapping[str, Any]) -> R:
        """Return the record of a mapping by field name, of values or of what JSON makes of them. Raises RowError."""
        try:
            if self._records.kind == "pydantic":
                return self._records.cls.model_validate(row, by_name=True, by_alias=False)  # type: ignore[attr-defined, no-any-return]
            if self._records.kind == "protobuf":
                return self._protobuf_json(json.dumps(dict(row)))
            return self._library.convert(dict(row), self._records.cls)  # type: ignore[no-any-return]
        except (ValueError, TypeError) as error:
            raise self._refused(error) from None

    def columns(self, names: Sequence[str]) -> Callable[[Sequence[str]], R]:
        """Return the function from the texts of these columns to a record. Raises InvalidArgument.

        That is for columns among which a field without default is missing. The function raises RowError.
        """
        missing = [name for name, field in self._records.fields.items() if name not in names and field.default is None]
        if missing:
            raise InvalidArgument(
                f"table {self._records.table!r} needs the column {missing[0]!r}, which is none of {', '.join(names)}"
            )
        taken = [(at, name, self._converters[name]) for at, name in enumerate(names) if name in self._converters]
        make = self._make

        def record(texts: Sequence[str]) -> R:
            values = {}
            for at, name, convert in taken:
                try:
                    values[name] = convert(texts[at])
                except (ValueError, TypeError) as error:
                    raise self._records.error(f"cannot hold {shown(texts[at])}: {error}", name) from None
            return make(values)

        return record

    def value(self, name: str, text: str) -> Any:
        """Return a field's value from its text, as in CSV. Raises RowError."""
        if name not in self._converters:
            raise self._records.error(f"has no field {name!r}; it has {', '.join(self.fields)}")
        try:
            return self._converters[name](text)
        except (ValueError, TypeError) as error:
            raise self._records.error(f"cannot hold {shown(text)}: {error}", name) from None

    def element(self, name: str, text: str) -> Any:
        """Return a value of what a field of a collection holds, from its text. Raises RowError."""
        field = self._records.fields[name]
        hint = next((one for one in typing.get_args(field.hint) if one not in (type(None), ...)), str)
        if typing.get_args(hint):  # list[str] | None
            hint = typing.get_args(hint)[0]
        try:
            return text if hint is str else self._library.convert(text, hint, strict=False)
        except (ValueError, TypeError) as error:
            raise self._records.error(f"cannot hold {shown(text)}: {error}", name) from None

    def _make(self, values: dict[str, Any]) -> R:
        cls: Any = self._records.cls
        try:
            if self._records.kind == "pydantic":
                return cls.model_validate(values, by_name=True, by_alias=False)  # type: ignore[no-any-return]
            if self._records.kind == "protobuf":
                values = {name: value for name, value in values.items() if value is not None}
            return cls(**values)  # type: ignore[no-any-return]
        except (ValueError, TypeError) as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> RowError:
        return self._records.error(f"cannot take the row: {' '.join(str(error).split())}")

    def _protobuf_json(self, line: str | bytes) -> R:
        from google.protobuf import json_format

        try:
            message: Any = self._records.cls()
            json_format.Parse(line, message, ignore_unknown_fields=True)
            return message  # type: ignore[no-any-return]
        except json_format.ParseError as error:
            raise ValueError(str(error)) from None

    # --- the text of one field ----------------------------------------------------------------------------------------

    def _converter(self, name: str) -> Callable[[str], Any]:
        if self._records.kind == "protobuf":
            return self._nullable(_protobuf_converter(self._records.cls, name))
        field = self._records.fields[name]
        classes = field.classes or ()
        if str in classes:
            plain: Callable[[str], Any] = str
        elif self._records.kind == "pydantic":
            plain = _loosely
        elif field.classes is None or any(not _is_scalar(one) for one in classes):
            plain = self._library.json.Decoder(field.hint).decode
        else:
            convert, hint = self._library.convert, field.hint
            plain = {int: int, float: float}.get(hint) or (lambda text: convert(text, hint, strict=False))
        return self._nullable(plain) if type(None) in classes else self._never_null(plain, str in classes)

    def _nullable(self, convert: Callable[[str], Any]) -> Callable[[str], Any]:
        null = self._null
        return lambda text: None if text == null else convert(text)

    def _never_null(self, convert: Callable[[str], Any], is_text: bool) -> Callable[[str], Any]:
        null = self._null
        return (lambda text: "" if text == null else text) if is_text and null else convert

    # --- writing ------------------------------------------------------------------------------------------------------

    def to_json(self, record: R) -> bytes:
        """Return a record as one line of JSON, without its end. Raises RowError."""
        if self._records.kind == "protobuf":
            from google.protobuf import json_format

            found = json_format.MessageToDict(record, preserving_proto_field_name=True)  # type: ignore[arg-type]
            return json.dumps(found, ensure_ascii=False).encode()
        try:
            return self._encode(self._records.values(record, self.fields))
        except (ValueError, TypeError) as error:
            raise self._records.error(f"holds a row that has no JSON form: {error}") from None

    def to_builtins(self, record: R) -> dict[str, Any]:
        """Return a record as JSON has it, by field name."""
        found: dict[str, Any] = json.loads(self.to_json(record))
        return found

    def to_texts(self, record: R) -> list[str]:
        """Return the texts of a record's fields, in the order of `fields`."""
        held = self.to_builtins(record)
        return [self._text(held.get(name)) for name in self.fields]

    def _text(self, value: Any) -> str:
        if value is None:
            return self._null
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _is_scalar(one: type) -> bool:
    import datetime
    import decimal
    import uuid

    scalars = (int, float, bytes, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)
    return one is type(None) or issubclass(one, (*scalars, enum.Enum))


def _to_builtin(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a value of type {type(value).__name__} has no form")


def _loosely(text: str) -> Any:
    """Return what pydantic converts by itself: the text, or what its JSON holds."""
    return json.loads(text) if text[:1] in ("[", "{") else text


def _protobuf_converter(cls: Any, name: str) -> Callable[[str], Any]:
    field = cls.DESCRIPTOR.fields_by_name[name]
    is_repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    if is_repeated or field.message_type is not None:
        return lambda text: _protobuf_part(cls, name, text)
    if field.enum_type is not None:
        numbers = {value.name: value.number for value in field.enum_type.values}
        return lambda text: numbers[text] if text in numbers else int(text)
    if field.cpp_type == field.CPPTYPE_STRING:
        return base64.b64decode if field.type == field.TYPE_BYTES else str
    if field.cpp_type == field.CPPTYPE_BOOL:
        return lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    return float if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE) else int


def _protobuf_part(cls: Any, name: str, text: str) -> Any:
    from google.protobuf import json_format

    return getattr(json_format.Parse(f'{{"{name}": {text}}}', cls()), name)
