"""A class seen as fields: dataclasses, msgspec structs, pydantic models and generated protobuf messages alike.

`records_of(cls, table)` returns the view of a class. It says which fields there are and what they may hold, takes a
record apart, checks it, and changes fields of it. How records become bytes is `codecs`' business.

What is checked before anything is written: that the record is of the table's class, and that each field holds a value
of its declared type. Where all types are plain classes or unions of such, a look at the values' classes does. Other
classes are *deep* (containers, Any, literals, nested records, constraints; all pydantic models, whose fields
may have been assigned unchecked): the codec then reads back what it has encoded, before it is written. Protobuf
messages check themselves.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import re
import types
import typing
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pytikv.model.errors import RowError, SchemaError, explained, shown

__all__ = ["Field", "Records", "field_of", "names_of", "records_of"]

R = TypeVar("R")

_KINDS: Final = "a dataclass, a msgspec Struct, a pydantic model or a generated protobuf message"


class Field(NamedTuple):
    """One field of a class.

    `classes`: what its values are instances of; None where that cannot be told. `default`: makes the value of a field
    that was not stored; None where there must be one.
    """

    name: str
    hint: Any
    classes: tuple[type, ...] | None
    default: Callable[[], Any] | None


_FLAT: Final = frozenset(
    {
        *(type(None), bool, int, float, str, bytes, uuid.UUID, decimal.Decimal),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
    }
)


class Records(ABC, Generic[R]):
    """The view of one class, for one table, whose name its errors say. Immutable."""

    kind: str
    default_codec = "json"

    def __init__(self, cls: type[R], table: str, fields: tuple[Field, ...]) -> None:
        self.cls = cls
        self.table = table
        self.fields = {field.name: field for field in fields}
        self._exact = [(one.name, frozenset(one.classes or ())) for one in fields]
        self._floats = {one.name for one in fields if one.classes is not None and float in one.classes}

    @property
    def is_deep(self) -> bool:
        """Whether types go further than `check` sees."""
        return any(not _is_flat(field.hint) for field in self.fields.values())

    def check(self, record: R) -> None:
        """Raise RowError for a record that is none of this class, or holds a value of another type than declared."""
        if type(record) is not self.cls and not isinstance(record, self.cls):
            raise self.error(f"takes records of class {self.cls.__name__}, not {type(record).__name__}")
        for name, exact in self._exact:
            value = getattr(record, name, _MISSING)
            if type(value) not in exact:
                self._check_value(name, value)

    def _check_value(self, name: str, value: Any) -> None:
        if value is _MISSING:
            raise self.error("is missing", name)
        classes = self.fields[name].classes
        if classes is not None and not _fits(value, classes):
            raise self.error(f"must be {names_of(classes)}, not {type(value).__name__}: {shown(value)}", name)

    def error(self, text: str, field: str = "") -> RowError:
        """Return an error about this table, or about a field of it."""
        place = f"field {field!r} of table {self.table!r}" if field else f"table {self.table!r}"
        return RowError(f"{place} {text}", table=self.table, field=field)

    def get(self, record: R, name: str) -> Any:
        """Return a field's value."""
        return getattr(record, name)

    def key_part(self, name: str, value: Any) -> Any:
        """Return a field's value as keys hold it: an int in a field of floats sorts among them. Raises RowError."""
        if type(value) is not int or name not in self._floats:
            return value
        try:
            return float(value)
        except OverflowError:
            raise self.error(f"is a float, which cannot hold {shown(value)}", name) from None

    def asked_part(self, name: str, value: Any) -> Any:
        """Return a value that somebody asks for in a field, as keys hold it. Raises RowError for another type."""
        classes = self.fields[name].classes
        if classes is not None and type(value) not in classes and not _fits(value, classes):
            for one in classes:  # an enum's member may be asked for by its value, as keys give it back
                if issubclass(one, enum.Enum) and value in [member.value for member in one]:
                    return value
            raise self.error(f"is {names_of(classes)}, and is asked for {type(value).__name__}: {shown(value)}", name)
        return self.key_part(name, value)

    @abstractmethod
    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        """Return fields by name, as the codecs take them."""

    def converted(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return fields that were read one by one, as a whole record has them. Raises RowError."""
        return found

    @abstractmethod
    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        """Return a copy with other values in some fields. Raises RowError for a value or name that does not fit."""

    def _plain_values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        """Return fields as they will be read: an int in a field of floats is a float."""
        values = {name: getattr(record, name) for name in names}
        for name in self._floats & values.keys():
            values[name] = self.key_part(name, values[name])
        return values

    def _refuse_unknown(self, changes: Mapping[str, Any]) -> None:
        for name in changes:
            if name not in self.fields:
                raise self.error(f"has no field {name!r}; it has {', '.join(self.fields)}")


_MISSING: Final = object()


def _fits(value: Any, classes: tuple[type, ...]) -> bool:
    """Tell whether a value is of some classes; those that codecs and keys tell apart are not taken for one another."""
    if not isinstance(value, classes):
        return False
    if isinstance(value, bool):
        return bool in classes or int not in classes
    if isinstance(value, datetime.datetime):
        return datetime.datetime in classes or datetime.date not in classes
    return True


def names_of(classes: Iterable[type]) -> str:
    """Return the names of classes for a message."""
    return " or ".join("None" if one is type(None) else one.__name__ for one in dict.fromkeys(classes))


class _Dataclass(Records[R]):
    kind = "dataclass"

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        return self._plain_values(record, names)

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        self._refuse_unknown(changes)
        try:
            return dataclasses.replace(record, **changes)  # type: ignore[type-var]
        except (TypeError, ValueError) as error:
            raise self.error(f"refuses the change: {explained(error)}") from error


class _Struct(Records[R]):
    kind = "struct"

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        return self._plain_values(record, names)

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        import msgspec

        self._refuse_unknown(changes)
        try:
            return msgspec.structs.replace(record, **changes)  # type: ignore[type-var]
        except (TypeError, ValueError) as error:
            raise self.error(f"refuses the change: {explained(error)}") from error


class _Pydantic(Records[R]):
    kind = "pydantic"

    def __init__(self, cls: type[R], table: str, fields: tuple[Field, ...]) -> None:
        super().__init__(cls, table, fields)
        self._exact = []  # types of pydantic's own need not be classes of their values
        self._adapters: dict[str, Any] = {}

    @property
    def is_deep(self) -> bool:
        return True

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        if not isinstance(record, self.cls):  # the main fields of a stored row, by themselves
            return {name: getattr(record, name) for name in names}
        dumped: dict[str, Any] = typing.cast("Any", record).model_dump(
            mode="python", include=set(names), warnings=False
        )
        return dumped

    def converted(self, found: dict[str, Any]) -> dict[str, Any]:
        import pydantic

        for name, value in found.items():
            if name not in self._adapters:
                self._adapters[name] = pydantic.TypeAdapter(self.fields[name].hint)
            try:
                found[name] = self._adapters[name].validate_python(value)
            except ValueError as error:
                raise self.error(f"cannot be read from a stored row: {explained(error)}", name) from error
        return found

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        self._refuse_unknown(changes)
        found: Any = self.cls
        values = {**{name: getattr(record, name) for name in self.fields}, **changes}
        try:
            return typing.cast("R", found.model_validate(values, by_name=True, by_alias=False))
        except ValueError as error:
            place = field_of(error)
            raise self.error(
                f"refuses the change: {explained(error)}", place if place in self.fields else ""
            ) from error


class _Protobuf(Records[R]):
    kind = "protobuf"
    default_codec = "protobuf"

    def __init__(self, cls: type[R], table: str, fields: tuple[Field, ...]) -> None:
        super().__init__(cls, table, fields)
        self._exact = []

    @property
    def is_deep(self) -> bool:
        return False

    def get(self, record: R, name: str) -> Any:
        message: Any = record
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.has_presence and not message.HasField(name):
            return None
        return getattr(message, name)

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        return {name: self.get(record, name) for name in names}

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        self._refuse_unknown(changes)
        message: Any = record
        changed = type(message)()
        changed.CopyFrom(message)
        for name, value in changes.items():
            changed.ClearField(name)
            if value is None:
                continue
            try:
                changed.MergeFrom(type(message)(**{name: value}))
            except (TypeError, ValueError) as error:
                raise self.error(f"cannot hold {shown(value)}: {explained(error)}", name) from error
        return typing.cast("R", changed)


# --- finding the view of a class --------------------------------------------------------------------------------------


def records_of(cls: type[R], table: str) -> Records[R]:
    """Return the view of a class. Raises SchemaError for one that is none of the four kinds."""
    found: Any = cls
    if not isinstance(cls, type):
        raise SchemaError(f"table {table!r}: a table holds records of a class, {_KINDS}; {shown(cls)} is no class")
    if dataclasses.is_dataclass(cls):
        return _Dataclass(cls, table, _dataclass_fields(cls))
    if hasattr(cls, "__struct_fields__"):
        if found.__struct_config__.array_like:
            raise SchemaError(f"table {table!r}: {cls.__name__} is array_like; a table stores fields by their names")
        return _Struct(cls, table, _struct_fields(cls))
    if hasattr(cls, "model_fields") and hasattr(cls, "model_validate"):
        fields = tuple(
            Field(name, info.annotation, _classes(info.annotation), _pydantic_default(info))
            for name, info in found.model_fields.items()
        )
        return _Pydantic(cls, table, fields)
    if hasattr(cls, "DESCRIPTOR") and hasattr(cls, "SerializeToString"):
        return _Protobuf(
            cls,
            table,
            tuple(Field(one.name, None, _message_classes(one), lambda: None) for one in found.DESCRIPTOR.fields),
        )
    raise SchemaError(f"table {table!r}: {cls.__name__} is not {_KINDS}")


def _message_classes(field: Any) -> tuple[type, ...] | None:
    """Return what values of a message's field are instances of; None for repeated ones and messages."""
    kinds = {field.CPPTYPE_STRING: bytes if field.type == field.TYPE_BYTES else str, field.CPPTYPE_BOOL: bool}
    kinds |= dict.fromkeys((field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT), float)
    is_repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    if is_repeated or field.cpp_type == field.CPPTYPE_MESSAGE:
        return None
    kind = kinds.get(field.cpp_type, int)
    classes = (float, int) if kind is float else (kind,)
    return (*classes, type(None)) if field.has_presence else classes


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise SchemaError(f"class {cls.__name__}: its types cannot be read: {error}") from error


def _dataclass_fields(cls: type) -> tuple[Field, ...]:
    hints = _hints(cls)
    return tuple(
        Field(one.name, hints[one.name], _classes(hints[one.name]), _dataclass_default(one))
        for one in dataclasses.fields(cls)
        if one.init
    )


def _dataclass_default(field: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    value = field.default
    return None if value is dataclasses.MISSING else lambda: value


def _struct_fields(cls: Any) -> tuple[Field, ...]:
    import msgspec

    hints = _hints(cls)
    found = []
    for one in msgspec.structs.fields(cls):
        default: Callable[[], Any] | None = None
        if one.default_factory is not msgspec.NODEFAULT:
            default = one.default_factory
        elif one.default is not msgspec.NODEFAULT:
            default = functools.partial(lambda value: value, one.default)
        found.append(Field(one.name, hints[one.name], _classes(hints[one.name]), default))
    return tuple(found)


def _pydantic_default(field: Any) -> Callable[[], Any] | None:
    return None if field.is_required() else functools.partial(field.get_default, call_default_factory=True)


def _classes(hint: Any) -> tuple[type, ...] | None:
    """Return what values of a type are instances of; None where that cannot be told."""
    if hint is None:
        return (type(None),)
    if hint is float:
        return (float, int)
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        is_open = hint in (Any, object) or typing.is_typeddict(hint) or getattr(hint, "_is_protocol", False)
        return None if is_open else (hint,)
    alias = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)  # NewType; a `type` statement
    if alias is not None:
        return _classes(alias)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _classes(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        parts = [_classes(part) for part in typing.get_args(hint)]
        return None if any(part is None for part in parts) else tuple(one for part in parts if part for one in part)
    if origin is typing.Literal:
        return tuple({value.__class__ for value in typing.get_args(hint)})
    return (origin,) if isinstance(origin, type) else None


def _is_flat(hint: Any) -> bool:
    """Tell whether the class of a value tells all about it: plain classes, enums, and unions of such."""
    if hint is None:
        return True
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return hint in _FLAT or issubclass(hint, enum.Enum)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(_is_flat(part) for part in typing.get_args(hint))
    return False


def field_of(error: Exception) -> str:
    """Return the field that an error of msgspec or pydantic is about, by its stored name; empty: none is told."""
    listed = getattr(error, "errors", None)
    if listed is not None:
        place = listed(include_url=False, include_input=False)[0]["loc"]
        return str(place[0]) if place else ""
    found = _PLACE.search(str(error))
    return found.group(1) if found else ""


_PLACE: Final = re.compile(r"(?:missing required field `|unknown field `|at `\$\.)(\w+)")
