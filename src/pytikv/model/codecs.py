"""Records as the bytes of values.

    byte 0: the codec (1 JSON, 2 MessagePack, 3 protobuf), plus 80 hex when the body is compressed (zstd)
    the version of the table's schema, a varint
    the body: JSON and MessagePack hold a map by field name, protobuf the message

`plain` values have no such head: the body alone, uncompressed, as programs write it that know nothing of tables.

A record may lie in several values, one for each group of fields; they are parts of one map (or of one message, whose
parts may be joined), read together or alone.

Schema evolution. Read are values of any version: a field that has come since takes its default, one that has gone is
ignored, one that was renamed is found by its old name (`renamed`, old to new; protobuf has numbers for that). What
cannot be read, because a field without default is missing or a type does not fit, is a RowError that names the field.

Nothing is written that could not be read again. What the class of a value does not tell (see `records`) is encoded and
read back before, by `settled`; and JSON has no infinite numbers and no NaN: it would keep them as null.

JSON and MessagePack are msgspec's work (extra `model`), also for dataclasses and pydantic models; times are ISO 8601,
UUIDs and Decimals text, in JSON bytes are base64. Compression needs zstandard (extra `zstd`); a body that it does not
make smaller stays as it is. At most `MAX_VALUE_BYTES` are unpacked from one value.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from google.protobuf.message import DecodeError, EncodeError, Message

from pytikv.codec.hot_raw import varint
from pytikv.errors import ConfigError
from pytikv.model.errors import RowError, SchemaError, explained, shown
from pytikv.model.records import Records, field_of

__all__ = ["CODECS", "MAX_VALUE_BYTES", "RowCodec"]

R = TypeVar("R")

CODECS: Final = {"json": 1, "msgpack": 2, "protobuf": 3}
MAX_VALUE_BYTES: Final = 256 << 20
_NAMES: Final = {number: name for name, number in CODECS.items()}
_COMPRESSED: Final = 0x80
_WORTH_COMPRESSING: Final = 128
_MAX_PARTS: Final = 64
_MAX_VERSION: Final = 2**32 - 1
_REFUSALS: Final = (TypeError, ValueError, OverflowError, RecursionError, EncodeError, DecodeError)
"""What codecs raise for values and bytes that they cannot take; msgspec.EncodeError is turned into ValueError."""


class RowCodec(Generic[R]):
    """The codec of one table. Safe for many threads.

    codec: ``json``, ``msgpack`` or ``protobuf``. version: of the schema, 0 to 2**32 - 1. Raises SchemaError where codec
    and class do not fit, ConfigError where a library is missing.
    """

    def __init__(
        self,
        records: Records[R],
        codec: str,
        *,
        version: int = 0,
        renamed: Mapping[str, str] | None = None,
        compress: bool = False,
        plain: bool = False,
    ) -> None:
        if codec not in CODECS:
            raise SchemaError(f"table {records.table!r}: codec is one of {', '.join(CODECS)}, not {codec!r}")
        if (codec == "protobuf") is not (records.kind == "protobuf"):
            raise SchemaError(
                f"table {records.table!r}: the codec {codec!r} does not fit {records.cls.__name__}: protobuf messages "
                "are stored by the codec protobuf, and nothing else is"
            )
        if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= _MAX_VERSION:
            raise SchemaError(f"table {records.table!r}: version is 0 to {_MAX_VERSION}, not {version!r}")
        self._records = records
        self._renamed = _checked_renames(records, renamed or {})
        self._body: _Body[R] = _ProtobufBody(records) if codec == "protobuf" else _MapBody(records, codec)
        self._whole = self._body.typed if not self._renamed and not plain else None
        self._compress = _zstd().compress if compress else None
        self._is_deep = records.is_deep
        self._plain = plain
        self._codec = codec
        self._head = bytes((CODECS[codec],)) + varint(version)
        self._covered_head = bytes((CODECS[codec], 0))
        self._packed_head = bytes((CODECS[codec] | _COMPRESSED,)) + self._head[1:]

    def settled(self, record: R) -> R:
        """Return a record as it will be read: itself, or what comes back from its bytes. Raises RowError."""
        if not self._is_deep:
            return record
        body = self._encoded(record, None, False)
        try:
            return self._body.decode([body], {})
        except _REFUSALS as error:
            name = self._field_of(error)
            value = f": {shown(getattr(record, name, None))}" if name else ""
            raise self._records.error(f"does not hold what is declared{value} ({explained(error)})", name) from error

    def encode(self, record: Any, names: Iterable[str] | None = None, *, is_group: bool = False) -> bytes:
        """Return the value of a record, or of some of its fields. Raises RowError for what the codec cannot take.

        `is_group`: these are fields of a group, so that what the class does not know (unknown fields of a message) is
        not theirs.
        """
        body = self._encoded(record, names, is_group)
        if self._plain:
            return body
        if self._compress is not None and len(body) >= _WORTH_COMPRESSING:
            packed: bytes = self._compress(body)
            if len(packed) < len(body):
                return self._packed_head + packed
        return self._head + body

    def encode_covered(self, record: Any, names: Iterable[str]) -> bytes:
        """Return fields as index entries hold them: a value of version 0, never compressed, so that what covers the
        same fields has the same bytes, whoever wrote it."""
        return self._covered_head + self._encoded(record, names, True)

    def _encoded(self, record: Any, names: Iterable[str] | None, is_group: bool) -> bytes:
        try:
            return self._body.encode(record, names, is_group)
        except _REFUSALS as error:
            name, value = self._culprit(record, names)
            held = f" {shown(value)}" if name else ""
            text = f"cannot be stored by the codec {self._codec}{held}: {explained(error)}"
            raise self._records.error(text, name) from error

    def _culprit(self, record: Any, names: Iterable[str] | None) -> tuple[str, Any]:
        """Return the first field, and its value, that cannot be encoded by itself; an empty name: none."""
        for name in self._records.fields if names is None else names:
            try:
                self._body.encode(record, (name,), True)
            except _REFUSALS:
                return name, getattr(record, name, None)
        return "", None

    def _field_of(self, error: Exception) -> str:
        name = field_of(error)
        name = self._body.present_name(name)
        return name if name in self._records.fields else ""

    def decode_one(self, value: bytes) -> R:
        """Return the record of its only value. Raises RowError."""
        if self._whole is not None and value.startswith(self._head):
            try:
                return self._whole(value[len(self._head) :])
            except _REFUSALS:
                pass  # `decode` says what is wrong, or finds a way
        return self.decode((value,))

    def decode(self, values: Iterable[bytes]) -> R:
        """Return the record of its values, in any order. Raises RowError."""
        bodies = [self._open(value) for value in values]
        try:
            return self._body.decode(bodies, self._renamed)
        except _REFUSALS as error:
            text = f"cannot be read from a stored row as {self._records.cls.__name__} has it: {explained(error)}"
            raise self._records.error(text, self._field_of(error)) from error

    def decode_fields(self, values: Iterable[bytes], names: Collection[str]) -> dict[str, Any]:
        """Return some fields of a record from the values that hold them. What was not stored has its default."""
        bodies = [self._open(value) for value in values]
        try:
            found = self._body.decode_fields(bodies, self._renamed, names)
        except RowError:
            raise
        except _REFUSALS as error:
            raise self._records.error(f"holds a row that cannot be read: {explained(error)}") from error
        if len(found) == len(names):
            return found
        for name in names:
            if name not in found:
                default = self._records.fields[name].default
                if default is None:
                    raise self._records.error("is not in a stored row, and has no default", name)
                found[name] = default()
        return found

    def version_of(self, value: bytes) -> int:
        """Return the version of the schema that a value was written with; 0 for a plain one. Raises RowError."""
        if self._plain:
            return 0
        try:
            return _read_varint(value, 1)[0]
        except (IndexError, ValueError):
            raise self._records.error("holds a row that is no value of a table: it is cut short") from None

    def _open(self, value: bytes) -> bytes:
        """Return the body of a value."""
        if self._plain or value.startswith(self._head):
            return value[0 if self._plain else len(self._head) :]
        try:
            number = value[0] & ~_COMPRESSED
            _, at = _read_varint(value, 1)
        except (IndexError, ValueError):
            raise self._records.error("holds a row that is no value of a table: it is cut short") from None
        if _NAMES.get(number) != self._codec:
            raise self._records.error(
                f"holds a row written by the codec {_NAMES.get(number, f'number {number}')!r}, and is declared with "
                f"{self._codec!r}"
            )
        body = value[at:]
        return _decompress(body, self._records) if value[0] & _COMPRESSED else body


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends. Raises IndexError, ValueError for one of more than five bytes."""
    number = 0
    for shift in range(0, 35, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("the number does not end")


def _checked_renames(records: Records[Any], renamed: Mapping[str, str]) -> dict[str, str]:
    """Return the old names to the new ones. Raises SchemaError."""
    if renamed and records.kind == "protobuf":
        raise SchemaError(f"table {records.table!r}: fields of messages are known by number: leave out renamed")
    for old, new in renamed.items():
        if new not in records.fields:
            raise SchemaError(f"table {records.table!r}: renamed={{{old!r}: {new!r}}} names no field of the class")
        if old in records.fields:
            raise SchemaError(f"table {records.table!r}: renamed names {old!r}, which is a field still")
    return dict(renamed)


@functools.cache
def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise ConfigError('compressed tables need zstandard: pip install "pytikv[zstd]"') from None
    return zstandard


def _decompress(body: bytes, records: Records[Any]) -> bytes:
    library = _zstd()
    try:
        size = library.frame_content_size(body)
        if size > MAX_VALUE_BYTES:
            raise records.error(f"holds a row of {size} bytes when unpacked, more than {MAX_VALUE_BYTES}")
        return cast("bytes", library.ZstdDecompressor().decompress(body, max_output_size=MAX_VALUE_BYTES))
    except library.ZstdError as error:
        raise records.error(f"holds a row whose compressed bytes are damaged: {error}") from error


# --- bodies -----------------------------------------------------------------------------------------------------------


class _Body(ABC, Generic[R]):
    """The form of the bodies of one codec. Methods raise `_REFUSALS`.

    `typed` reads a record from a body that was written for the class as it is.
    """

    typed: Callable[[bytes], R] | None = None

    @abstractmethod
    def encode(self, record: Any, names: Iterable[str] | None, is_group: bool) -> bytes: ...

    @abstractmethod
    def decode(self, bodies: list[bytes], renamed: Mapping[str, str]) -> R: ...

    @abstractmethod
    def decode_fields(self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
        """Return those of some fields that were stored."""

    def present_name(self, stored: str) -> str:
        """Return the name of the field that is stored under a name."""
        return stored


class _MapBody(_Body[R]):
    """Maps by field name, in JSON or MessagePack."""

    def __init__(self, records: Records[R], codec: str) -> None:
        try:
            import msgspec
        except ImportError:
            raise ConfigError(f'tables with the codec {codec} need msgspec: pip install "pytikv[model]"') from None
        library = msgspec.json if codec == "json" else msgspec.msgpack
        self._records = records
        self._msgspec_error = msgspec.EncodeError
        self._unset = msgspec.UNSET
        self._has_nulls = codec == "json"
        self._decoder = library.Decoder
        self._defstruct = msgspec.defstruct
        self._asdict: Callable[[Any], dict[str, Any]] = msgspec.structs.asdict
        self._parts: dict[tuple[str, ...], Callable[[bytes], Any]] = {}
        # Sorted, sets and maps have one form, so that entries which cover them can be compared.
        self._encode: Callable[[Any], bytes] = library.Encoder(enc_hook=_to_builtin, order="deterministic").encode
        self._raw: Callable[[bytes], dict[str, Any]] = library.Decoder(dict[str, msgspec.Raw]).decode
        self._plain_decode: Callable[[bytes], Any] = library.Decoder().decode
        stored = getattr(records.cls, "__struct_encode_fields__", ())
        self._wire_names = {name: wire for name, wire in zip(records.fields, stored, strict=False) if name != wire}
        self._stored_names = {self._wire_names.get(name, name): name for name in records.fields}
        try:
            self._field_decoders = self._decoders(library)
            self._typed = self.typed = self._typed_decoder(library)
        except TypeError as error:
            raise SchemaError(
                f"table {records.table!r}: the codec {codec} cannot hold {records.cls.__name__}: {error}"
            ) from error
        self._is_whole = records.kind == "struct" or (
            records.kind == "dataclass" and len(records.fields) == len(dataclasses.fields(cast("Any", records.cls)))
        )

    def _decoders(self, library: Any) -> dict[str, Callable[[bytes], Any]]:
        """Return what reads single fields. A pydantic model gets what JSON has, but bytes, which only msgspec knows."""
        fields = self._records.fields
        if self._records.kind != "pydantic":
            return {name: library.Decoder(field.hint).decode for name, field in fields.items()}
        hints = {name: field.hint for name, field in fields.items() if self._has_nulls and _holds_bytes(field.hint)}
        return {name: library.Decoder(hint).decode for name, hint in hints.items()}

    def _part_decoder(self, names: tuple[str, ...]) -> Callable[[bytes], Any]:
        """Return what reads some fields of a body in one step; those that were not stored are unset."""
        # The class is not told that a field may be unset: msgspec does not look at defaults.
        fields = [(name, self._records.fields[name].hint, self._unset) for name in dict.fromkeys(names)]
        decode: Callable[[bytes], Any] = self._decoder(self._defstruct("Part", fields, rename=self._wire_names)).decode
        if len(self._parts) >= _MAX_PARTS:
            self._parts.clear()
        self._parts[names] = decode
        return decode

    def _typed_decoder(self, library: Any) -> Callable[[bytes], R]:
        cls: Any = self._records.cls
        if self._records.kind != "pydantic":
            return cast("Callable[[bytes], R]", library.Decoder(cls).decode)
        special = self._field_decoders

        def validate(body: bytes) -> R:
            found = self._plain_decode(body)
            if special:
                raw = self._raw(body)
                found.update((name, decode(raw[name])) for name, decode in special.items() if name in raw)
            return cast("R", cls.model_validate(found, by_name=True, by_alias=False))

        return validate

    def encode(self, record: Any, names: Iterable[str] | None, is_group: bool) -> bytes:
        try:
            if names is None and self._is_whole and type(record) is self._records.cls:
                body = self._encode(record)
            else:
                wire = self._wire_names
                chosen = self._records.values(record, self._records.fields if names is None else names)
                body = self._encode(
                    {wire.get(name, name): value for name, value in chosen.items() if value is not self._unset}
                )
        except self._msgspec_error as error:
            raise ValueError(str(error)) from error
        except AttributeError as error:
            raise ValueError(f"a field is missing: {error}") from error
        if self._has_nulls and b"null" in body:
            values = self._records.values(record, self._records.fields if names is None else names)
            if not _is_finite(values):
                raise ValueError("JSON has no NaN and no infinite numbers; msgpack has")
        return body

    def decode(self, bodies: list[bytes], renamed: Mapping[str, str]) -> R:
        if len(bodies) == 1 and not renamed:
            try:
                return self._typed(bodies[0])
            except ValueError:
                pass  # perhaps a field that has gone, in a class that forbids unknown ones: without those, then
        merged = {
            name: raw
            for name, raw in self._merge(bodies, renamed).items()
            if self.present_name(name) in self._records.fields
        }
        return self._typed(self._encode(merged))

    def present_name(self, stored: str) -> str:
        return self._stored_names.get(stored, stored)

    def _merge(self, bodies: list[bytes], renamed: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of all bodies, undecoded, by the names that they are stored under now."""
        merged: dict[str, Any] = {}
        for body in bodies:
            merged.update(self._raw(body))
        for old, new in renamed.items():
            if old in merged:
                merged.setdefault(self._wire_names.get(new, new), merged.pop(old))  # the present name wins
        return merged

    def decode_fields(self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
        if len(bodies) == 1 and not renamed and self._records.kind != "pydantic":
            names = tuple(names)
            try:
                decode = self._parts.get(names) or self._part_decoder(names)
                part = self._asdict(decode(bodies[0]))
            except _REFUSALS:
                pass  # one by one, to say which it is
            else:
                if self._unset not in part.values():
                    return part
                return {name: value for name, value in part.items() if value is not self._unset}
        return self._fields_one_by_one(bodies, renamed, names)

    def _fields_one_by_one(
        self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]
    ) -> dict[str, Any]:
        merged = self._merge(bodies, renamed)
        found = {}
        for name in names:
            raw = merged.get(self._wire_names.get(name, name))
            if raw is None:
                continue
            try:
                found[name] = self._field_decoders.get(name, self._plain_decode)(bytes(raw))
            except _REFUSALS as error:
                raise self._records.error(f"cannot be read from a stored row: {explained(error)}", name) from error
        return self._records.converted(found)


def _to_builtin(value: Any) -> Any:
    """Return what msgspec can write in place of a value that it cannot: pydantic models within other records."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="python", warnings=False)
    raise TypeError(f"a value of type {type(value).__name__} has no form")


def _is_finite(value: Any) -> bool:
    """Tell whether there is neither NaN nor an infinite number in a value, however deep."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_is_finite(one) for one in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_finite(one) for one in value)
    if hasattr(value, "__struct_fields__"):
        return all(_is_finite(getattr(value, name)) for name in value.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return all(_is_finite(getattr(value, one.name, None)) for one in dataclasses.fields(value))
    return True


def _holds_bytes(hint: Any) -> bool:
    """Tell whether a type is bytes, or a container or union with bytes in it."""
    return hint is bytes or any(_holds_bytes(part) for part in typing.get_args(hint))


class _ProtobufBody(_Body[R]):
    """Messages; parts of one may be joined."""

    def __init__(self, records: Records[R]) -> None:
        self._records = records
        self._cls = cast("type[Message]", records.cls)

    def encode(self, record: Any, names: Iterable[str] | None, is_group: bool) -> bytes:
        message = cast("Message", record)
        if names is None:
            return message.SerializeToString(deterministic=True)
        if is_group:
            held = {field.name: value for field, value in message.ListFields()}
            part = self._cls(**{name: held[name] for name in names if name in held})
        else:
            part = self._cls()
            part.CopyFrom(message)
            for name in set(self._records.fields) - set(names):
                part.ClearField(name)
        return part.SerializePartialToString(deterministic=True)

    def decode(self, bodies: list[bytes], renamed: Mapping[str, str]) -> R:
        return cast("R", self._cls.FromString(b"".join(bodies)))

    def decode_fields(self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
        record = self.decode(bodies, renamed)
        return {name: self._records.get(record, name) for name in names}
