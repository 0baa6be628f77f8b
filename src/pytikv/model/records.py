"""A class seen as fields: dataclasses, msgspec structs, pydantic models and generated protobuf messages alike.

`records_of(cls, table)` returns the view of a class. It says which fields there are and what they may hold, takes a
record apart, checks it, and changes fields of it. How records become bytes is `codecs`' business.

What is checked before anything is written: that the record is of the table's class, and that each field holds a value
of its declared type, as far as that is a plain class or a union of such (elements of containers are left to the
codec). Pydantic models and protobuf messages check themselves as they are made.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pytikv.model.errors import RowError, SchemaError, shown

__all__ = ["Field", "Records", "records_of"]

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


class Records(ABC, Generic[R]):
    """The view of one class, for one table, whose name its errors say."""

    kind: str
    default_codec = "json"
    checks = True

    def __init__(self, cls: type[R], table: str, fields: tuple[Field, ...]) -> None:
        self.cls = cls
        self.table = table
        self.fields = {field.name: field for field in fields}
        self._checked = [(one.name, one.classes) for one in fields if one.classes is not None] if self.checks else []
        self._floats = {one.name for one in fields if one.classes is not None and float in one.classes}

    def check(self, record: R) -> None:
        """Raise RowError for a record that is none of this class, or holds a value of another type than declared."""
        if not isinstance(record, self.cls):
            raise self.error(f"takes records of class {self.cls.__name__}, not {type(record).__name__}")
        for name, classes in self._checked:
            value = getattr(record, name, _MISSING)
            if value is _MISSING:
                raise self.error("is missing", name)
            if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes and int in classes):
                wanted = " or ".join("None" if one is type(None) else one.__name__ for one in classes)
                raise self.error(f"must be {wanted}, not {type(value).__name__}: {shown(value)}", name)

    def error(self, text: str, field: str = "") -> RowError:
        """Return an error about this table, or about a field of it."""
        place = f"field {field!r} of table {self.table!r}" if field else f"table {self.table!r}"
        return RowError(f"{place} {text}", table=self.table, field=field)

    def get(self, record: R, name: str) -> Any:
        """Return a field's value."""
        return getattr(record, name)

    def key_part(self, name: str, value: Any) -> Any:
        """Return a field's value as keys hold it: an int in a field of floats sorts among them."""
        return float(value) if name in self._floats and type(value) is int else value

    @abstractmethod
    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        """Return fields by name, as the codecs take them."""

    @abstractmethod
    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        """Return a copy with other values in some fields. Raises RowError for a value or name that does not fit."""

    def _refuse_unknown(self, changes: Mapping[str, Any]) -> None:
        for name in changes:
            if name not in self.fields:
                raise self.error(f"has no field {name!r}; it has {', '.join(self.fields)}")


_MISSING: Final = object()


class _Dataclass(Records[R]):
    kind = "dataclass"

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        return {name: getattr(record, name) for name in names}

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        self._refuse_unknown(changes)
        changed: R = dataclasses.replace(record, **changes)  # type: ignore[type-var]
        self.check(changed)
        return changed


class _Struct(Records[R]):
    kind = "struct"

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        return {name: getattr(record, name) for name in names}

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        import msgspec

        self._refuse_unknown(changes)
        changed: R = msgspec.structs.replace(record, **changes)  # type: ignore[type-var]
        self.check(changed)
        return changed


class _Pydantic(Records[R]):
    kind = "pydantic"
    checks = False

    def values(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        if not isinstance(record, self.cls):  # the main fields of a stored row, by themselves
            return {name: getattr(record, name) for name in names}
        dumped: dict[str, Any] = record.model_dump(mode="python", include=set(names))  # type: ignore[attr-defined]
        return dumped

    def replace(self, record: R, changes: Mapping[str, Any]) -> R:
        self._refuse_unknown(changes)
        try:
            values = {**{name: getattr(record, name) for name in self.fields}, **changes}
            return self.cls.model_validate(values, by_name=True, by_alias=False)  # type: ignore[attr-defined, no-any-return]
        except ValueError as error:
            raise self.error(f"refuses the change: {error}") from error


class _Protobuf(Records[R]):
    kind = "protobuf"
    checks = False
    default_codec = "protobuf"

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
                raise self.error(f"cannot hold {shown(value)}: {error}", name) from error
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
            Field(name, info.annotation, _classes(info.annotation), info.is_required())
            for name, info in found.model_fields.items()
        )
        return _Pydantic(cls, table, fields)
    if hasattr(cls, "DESCRIPTOR") and hasattr(cls, "SerializeToString"):
        return _Protobuf(
            cls, table, tuple(Field(one.name, None, None, lambda: None) for one in found.DESCRIPTOR.fields)
        )
    raise SchemaError(f"table {table!r}: {cls.__name__} is not {_KINDS}")


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
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
        return None if hint is object or typing.is_typeddict(hint) or getattr(hint, "_is_protocol", False) else (hint,)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _classes(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        parts = [_classes(part) for part in typing.get_args(hint)]
        return None if any(part is None for part in parts) else tuple(one for part in parts if part for one in part)
    if origin is typing.Literal:
        return tuple({value.__class__ for value in typing.get_args(hint)})
    return (origin,) if isinstance(origin, type) else None
