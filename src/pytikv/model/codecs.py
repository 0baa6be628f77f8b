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

JSON and MessagePack are msgspec's work (extra `model`), also for dataclasses and pydantic models; times are ISO 8601,
UUIDs and Decimals text, in JSON bytes are base64. Compression needs zstandard (extra `zstd`); a body that it does not
make smaller stays as it is. At most `MAX_VALUE_BYTES` are unpacked from one value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from pytikv.errors import ConfigError
from pytikv.model.errors import SchemaError
from pytikv.model.records import Records

__all__ = ["CODECS", "MAX_VALUE_BYTES", "RowCodec"]

R = TypeVar("R")

CODECS: Final = {"json": 1, "msgpack": 2, "protobuf": 3}
MAX_VALUE_BYTES: Final = 256 << 20
_NAMES: Final = {number: name for name, number in CODECS.items()}
_COMPRESSED: Final = 0x80
_WORTH_COMPRESSING: Final = 128


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
        self._records = records
        self._body: _Body[R] = _ProtobufBody(records) if codec == "protobuf" else _MapBody(records, codec)
        self._renamed = dict(renamed or {})
        self._compress = _zstd().compress if compress else None
        self._plain = plain
        self._codec = codec
        self._head = bytes((CODECS[codec],)) + _varint(version)
        self._packed_head = bytes((CODECS[codec] | _COMPRESSED,)) + self._head[1:]

    def encode(self, record: Any, names: Iterable[str] | None = None) -> bytes:
        """Return the value of a record, or of a group of its fields. Raises RowError for what the codec cannot take."""
        try:
            body: bytes = self._body.encode(record, names)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._records.error(f"cannot be stored by the codec {self._codec}: {error}") from error
        if self._plain:
            return body
        if self._compress is not None and len(body) >= _WORTH_COMPRESSING:
            packed: bytes = self._compress(body)
            if len(packed) < len(body):
                return self._packed_head + packed
        return self._head + body

    def decode(self, values: Iterable[bytes]) -> R:
        """Return the record of its values, in any order. Raises RowError."""
        bodies = [self._open(value) for value in values]
        try:
            return self._body.decode(bodies, self._renamed)
        except (ValueError, TypeError, DecodeError) as error:
            raise self._records.error(
                f"holds a row that cannot be read as {self._records.cls.__name__}: {error}"
            ) from error

    def decode_fields(self, values: Iterable[bytes], names: Collection[str]) -> dict[str, Any]:
        """Return some fields of a record from the values that hold them. What was not stored has its default."""
        bodies = [self._open(value) for value in values]
        try:
            found = self._body.decode_fields(bodies, self._renamed, names)
        except (ValueError, TypeError, DecodeError) as error:
            raise self._records.error(f"holds a row that cannot be read: {error}") from error
        for name in names:
            if name not in found:
                default = self._records.fields[name].default
                if default is None:
                    raise self._records.error("is not in a stored row, and has no default", name)
                found[name] = default()
        return found

    def version_of(self, value: bytes) -> int:
        """Return the version of the schema that a value was written with; 0 for a plain one."""
        return 0 if self._plain else _read_varint(value, 1)[0]

    def _open(self, value: bytes) -> bytes:
        """Return the body of a value."""
        if self._plain or value.startswith(self._head):
            return value[0 if self._plain else len(self._head) :]
        try:
            number = value[0] & ~_COMPRESSED
            _, at = _read_varint(value, 1)
        except IndexError:
            raise self._records.error("holds a row that is no value of a table: it is cut short") from None
        if _NAMES.get(number) != self._codec:
            raise self._records.error(
                f"holds a row written by the codec {_NAMES.get(number, f'number {number}')!r}, and is declared with "
                f"{self._codec!r}"
            )
        body = value[at:]
        return _decompress(body, self._records) if value[0] & _COMPRESSED else body


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


@functools.cache
def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise ConfigError('compressed tables need zstandard: pip install "pytikv[zstd]"') from None
    return zstandard


def _decompress(body: bytes, records: Records[Any]) -> bytes:
    try:
        return cast("bytes", _zstd().ZstdDecompressor().decompress(body, max_output_size=MAX_VALUE_BYTES))
    except _zstd().ZstdError as error:
        raise records.error(f"holds a row whose compressed bytes are damaged: {error}") from error


# --- bodies -----------------------------------------------------------------------------------------------------------


class _Body(Generic[R]):
    """The form of the bodies of one codec."""

    def encode(self, record: Any, names: Iterable[str] | None) -> bytes:
        raise TypeError("no codec")

    def decode(self, bodies: list[bytes], renamed: Mapping[str, str]) -> R:
        raise TypeError("no codec")

    def decode_fields(self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
        raise TypeError("no codec")


class _MapBody(_Body[R]):
    """Maps by field name, in JSON or MessagePack."""

    def __init__(self, records: Records[R], codec: str) -> None:
        try:
            import msgspec
        except ImportError:
            raise ConfigError(f'tables with the codec {codec} need msgspec: pip install "pytikv[model]"') from None
        library = msgspec.json if codec == "json" else msgspec.msgpack
        self._records = records
        self._encode: Callable[[Any], bytes] = library.Encoder(enc_hook=_to_builtin).encode
        self._raw: Callable[[bytes], dict[str, Any]] = library.Decoder(dict[str, msgspec.Raw]).decode
        self._plain_decode: Callable[[bytes], Any] = library.Decoder().decode
        self._wire_names = dict(zip(records.fields, getattr(records.cls, "__struct_encode_fields__", ()), strict=False))
        self._typed = self._typed_decoder(library)
        self._field_decoders = {
            name: library.Decoder(field.hint).decode
            for name, field in records.fields.items()
            if records.kind != "pydantic"
        }

    def _typed_decoder(self, library: Any) -> Callable[[bytes], R]:
        cls: Any = self._records.cls
        if self._records.kind != "pydantic":
            return cast("Callable[[bytes], R]", library.Decoder(cls).decode)

        def validate(body: bytes) -> R:
            return cast("R", cls.model_validate(self._plain_decode(body), by_name=True, by_alias=False))

        return validate

    def encode(self, record: Any, names: Iterable[str] | None) -> bytes:
        chosen = self._records.values(record, self._records.fields if names is None else names)
        wire = self._wire_names
        return self._encode({wire.get(name, name): value for name, value in chosen.items()} if wire else chosen)

    def decode(self, bodies: list[bytes], renamed: Mapping[str, str]) -> R:
        if len(bodies) == 1 and not renamed:
            try:
                return self._typed(bodies[0])
            except ValueError:
                pass  # perhaps a field that has gone, in a class that forbids unknown ones: only known ones, then
        known = {self._wire_names.get(name, name) for name in self._records.fields}
        merged = {name: raw for name, raw in self._merge(bodies, renamed).items() if name in known}
        return self._typed(self._encode(merged))

    def _merge(self, bodies: list[bytes], renamed: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of all bodies, undecoded, by their present names. The present name wins over an old one."""
        merged: dict[str, Any] = {}
        for body in bodies:
            merged.update(self._raw(body))
        for old, new in renamed.items():
            if old in merged:
                merged.setdefault(new, merged.pop(old))
        return merged

    def decode_fields(self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
        merged = self._merge(bodies, renamed)
        found = {}
        for name in names:
            raw = merged.get(self._wire_names.get(name, name))
            if raw is not None:
                found[name] = self._field_decoders.get(name, self._plain_decode)(bytes(raw))
        return found


def _to_builtin(value: Any) -> Any:
    """Return what msgspec can write in place of a value that it cannot: pydantic models within other records."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="python")
    raise TypeError(f"a value of type {type(value).__name__} has no form")


class _ProtobufBody(_Body[R]):
    """Messages; parts of one may be joined."""

    def __init__(self, records: Records[R]) -> None:
        self._records = records
        self._cls = cast("type[Message]", records.cls)

    def encode(self, record: Any, names: Iterable[str] | None) -> bytes:
        message = cast("Message", record)
        if names is not None:
            part = self._cls()
            part.CopyFrom(message)
            for name in set(self._records.fields) - set(names):
                part.ClearField(name)
            message = part
        return message.SerializeToString(deterministic=True)

    def decode(self, bodies: list[bytes], renamed: Mapping[str, str]) -> R:
        return cast("R", self._cls.FromString(b"".join(bodies)))

    def decode_fields(self, bodies: list[bytes], renamed: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
        record = self.decode(bodies, renamed)
        return {name: self._records.get(record, name) for name in names}
