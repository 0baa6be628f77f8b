"""Tuples as bytes that sort as the tuples do: the form of all keys of tables.

A tuple is the concatenation of its parts. A part is a type code and a body, and no part's bytes begin another's, so
that tuples compare part by part, and a tuple sorts before those that it begins:

| code | type | body |
|---|---|---|
| 00 | None | nothing; within a nested tuple `00 ff`, since a bare `00` ends it |
| 01 | bytes | the bytes with `00` as `00 ff`, then `00` |
| 02 | str | UTF-8, likewise |
| 05 | tuple | the parts, then `00` |
| 0a | int below -(2**2040 - 1) | number of bytes in 4 bytes, inverted; the magnitude's ones' complement |
| 0b | int of 9 to 255 bytes, negative | number of bytes in 1 byte, inverted; the magnitude's ones' complement |
| 0c-13 | int of 8 to 1 bytes, negative | the magnitude's ones' complement, big-endian |
| 14 | 0 | nothing |
| 15-1c | int of 1 to 8 bytes | big-endian |
| 1d | int of 9 to 255 bytes | number of bytes in 1 byte; big-endian |
| 1e | a larger int | number of bytes in 4 bytes; big-endian |
| 21 | float | IEEE 754 big-endian; sign bit flipped for positive ones, all bits for negative ones |
| 26, 27 | False, True | nothing |
| 30 | UUID | its 16 bytes |
| 40 | datetime | microseconds since 1970 in UTC, 8 bytes, sign bit flipped |
| 41 | date | days since 1970, 4 bytes, sign bit flipped |
| 42 | Decimal | see `_encode_decimal` |

Codes below 40 are those of FoundationDB's tuple layer, whose libraries of other languages read such keys.

A part in *descending* order (`Desc`) begins with fe less its code, which is 80 or more and so is known again; its body
has all bytes inverted. Before that, what ends with `00` above (bytes, str, tuples; not Decimals) ends with `00 01`:
inverted, a bare `00` followed by a part None would be read as an escaped zero. For the same reason no part begins with
ff, and a tuple's extensions are the range from its bytes to its bytes and ff.

Values that are equal have equal bytes: -0.0 is 0.0, `Decimal("1.0")` is `Decimal("1")`, a datetime is its instant (and
comes back in UTC). An Enum is its value. NaN and datetimes without a zone have no place in an order: InvalidArgument.
Different types do not mix: 1, 1.0 and True are three keys.

Source: FoundationDB design/tuple.md, for the codes below 40.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import struct
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

from pytikv.errors import InvalidArgument, WrongType

__all__ = ["Desc", "decode", "encode", "prefix_range"]

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_EPOCH_DAY: Final = datetime.date(1970, 1, 1).toordinal()
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_INVERT: Final = bytes(range(255, -1, -1))
_BYTES, _STR, _NESTED, _ZERO, _FLOAT, _UUID, _DATETIME, _DATE, _DECIMAL = 1, 2, 5, 0x14, 0x21, 0x30, 0x40, 0x41, 0x42
_SMALL: Final = tuple(b"\x14" if n == 0 else b"\x15" + bytes((n,)) for n in range(256))
_LONGEST: Final = 255
_MAX_DEPTH: Final = 32
_DESCENDING: Final = 0xFE
_float: Final = struct.Struct(">d")
_int64: Final = struct.Struct(">Q")


class Desc:
    """A part of a key that sorts in descending order: `encode((Desc(5), "x"))`."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Desc) and self.value == other.value

    def __hash__(self) -> int:
        return hash((Desc, self.value))

    def __repr__(self) -> str:
        return f"Desc({self.value!r})"


# --- encoding ---------------------------------------------------------------------------------------------------------


def encode(parts: Iterable[Any]) -> bytes:
    """Return the bytes of a tuple. Raises WrongType, InvalidArgument for what has no place in an order.

    >>> encode((1, "a")).hex()
    '1501026100'
    >>> encode((1, "a")) < encode((1, "b")) < encode((2,)) < encode((Desc(2),)) < encode((Desc(1),))
    True
    """
    out = []
    for part in parts:
        kind = type(part)
        if kind is int:  # the two common kinds, without a look-up
            out.append(_SMALL[part] if 0 <= part < 256 else _encode_int(part))
        elif kind is str:
            out.append(_encode_text(part, b"\0"))
        else:
            out.append(_encode_part(part, 0))
    return b"".join(out)


def _encode_part(part: Any, depth: int, end: bytes = b"\0") -> bytes:
    """Encode a part; `end` is what ends a text or a tuple."""
    kind = type(part)
    if kind is str or kind is bytes:
        return _encode_text(part, end)
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(part)
    if isinstance(part, Desc):
        if isinstance(part.value, Desc):
            raise InvalidArgument("a part of a key can be descending once: Desc(Desc(x)) is x")
        inner = _encode_part(part.value, depth, b"\0\x01")
        return bytes((_DESCENDING - inner[0],)) + inner[1:].translate(_INVERT)
    if isinstance(part, enum.Enum):
        return _encode_part(part.value, depth, end)
    if isinstance(part, tuple):
        return _encode_nested(part, depth + 1, end)
    if isinstance(part, (str, bytes)):
        return _encode_text(part, end)
    for kind, encoder in _ENCODERS.items():  # subclasses, as IntEnum's members or a pandas Timestamp
        if isinstance(part, kind):
            return encoder(part)
    raise WrongType(
        f"a key cannot hold a value of type {type(part).__name__}; it can hold None, bool, int, float, str, bytes, "
        "UUID, date, datetime with a zone, Decimal, Enum, and tuples of these"
    )


def _encode_nested(part: tuple[Any, ...], depth: int, end: bytes) -> bytes:
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"a key can hold tuples in tuples {_MAX_DEPTH} deep at most")
    inner = b"".join(b"\0\xff" if one is None else _encode_part(one, depth, end) for one in part)
    return b"\x05" + inner + end


def _encode_text(part: str | bytes, end: bytes) -> bytes:
    if isinstance(part, bytes):
        return b"\x01" + part.replace(b"\0", b"\0\xff") + end
    try:
        return b"\x02" + part.encode().replace(b"\0", b"\0\xff") + end
    except UnicodeEncodeError:
        raise InvalidArgument("a key cannot hold a str with lone surrogates") from None


def _encode_int(part: int) -> bytes:
    if part == 0:
        return b"\x14"
    size = (part.bit_length() + 7) // 8
    if part > 0:
        body = part.to_bytes(size, "big")
        if size <= 8:
            return bytes((_ZERO + size,)) + body
        return (b"\x1d" + bytes((size,)) if size <= _LONGEST else b"\x1e" + size.to_bytes(4, "big")) + body
    body = (part + (1 << 8 * size) - 1).to_bytes(size, "big")
    if size <= 8:
        return bytes((_ZERO - size,)) + body
    head = b"\x0b" + bytes((size ^ 0xFF,)) if size <= _LONGEST else b"\x0a" + (size ^ 0xFFFFFFFF).to_bytes(4, "big")
    return head + body


def _encode_float(part: float) -> bytes:
    if part != part:
        raise InvalidArgument("a key cannot hold NaN: it has no place in an order")
    bits = int.from_bytes(_float.pack(part + 0.0), "big")
    return b"\x21" + _int64.pack(bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63))


def _encode_datetime(part: datetime.datetime) -> bytes:
    if part.tzinfo is None or part.utcoffset() is None:
        raise InvalidArgument("a key cannot hold a datetime without a zone: say which instant it is, as tzinfo=UTC")
    return b"\x40" + _int64.pack((part - _EPOCH) // _MICROSECOND + (1 << 63))


def _encode_date(part: datetime.date) -> bytes:
    return b"\x41" + (part.toordinal() - _EPOCH_DAY + (1 << 31)).to_bytes(4, "big")


def _encode_decimal(part: decimal.Decimal) -> bytes:
    """Return sign, exponent and digits of a number.

    The sign is 00 for minus infinity, 01 negative, 02 zero, 03 positive, 04 infinity. A number 0.d1d2d3... * 10**e goes
    on with `e` as an int part and its digits, each as a byte of its value and one, ended by 00; trailing zeros are left
    out. Of a negative number all this is inverted.
    """
    if part.is_nan():
        raise InvalidArgument("a key cannot hold NaN: it has no place in an order")
    if part.is_infinite():
        return b"\x42\x00" if part < 0 else b"\x42\x04"
    if not part:
        return b"\x42\x02"
    sign, digits, exponent = part.as_tuple()
    assert isinstance(exponent, int)
    kept = bytes(digits).lstrip(b"\0")
    exponent += len(kept)
    body = _encode_int(exponent) + bytes(digit + 1 for digit in kept.rstrip(b"\0")) + b"\0"
    return b"\x42\x01" + body.translate(_INVERT) if sign else b"\x42\x03" + body


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"\0",
    bool: lambda part: b"\x27" if part else b"\x26",
    int: _encode_int,
    float: _encode_float,
    uuid.UUID: lambda part: b"\x30" + part.bytes,
    datetime.datetime: _encode_datetime,  # before date, whose subclass it is
    datetime.date: _encode_date,
    decimal.Decimal: _encode_decimal,
}


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> tuple[Any, ...]:
    """Return the tuple of some bytes; parts in descending order come as `Desc`. Raises InvalidArgument.

    >>> decode(encode((1, "a", None, (b"x", Desc(2.5)))))
    (1, 'a', None, (b'x', Desc(2.5)))
    """
    parts = []
    at = 0
    try:
        while at < len(data):
            part, at = _decode_part(data, at, 0)
            parts.append(part)
    except (IndexError, struct.error, ArithmeticError, ValueError) as error:
        raise InvalidArgument(f"these bytes are no tuple, from byte {at} on") from error
    return tuple(parts)


def _decode_part(data: bytes, at: int, depth: int, end: bytes = b"\0") -> tuple[Any, int]:
    """Return the part that begins at `at`, and where it ends."""
    code = data[at]
    at += 1
    if code >= 0x80:
        # Turned round, the rest reads as an ascending part does, but for how texts and tuples end.
        turned = bytes((_DESCENDING - code,)) + data[at:].translate(_INVERT)
        value, size = _decode_part(turned, 0, depth, b"\0\x01")
        return Desc(value), at - 1 + size
    if 0x0A <= code <= 0x1E:
        return _decode_int(code, data, at)
    if code in (_BYTES, _STR):
        body, at = _take_text(data, at, end)
        return (body if code == _BYTES else body.decode()), at
    if code == _NESTED:
        return _decode_nested(data, at, depth + 1, end)
    if code == _DECIMAL:
        return _decode_decimal(data, at)
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    if code not in _FIXED:
        raise ValueError(f"unknown type code {code:02x}")
    size, decoder = _FIXED[code]
    return decoder(_take(data, at, size)), at + size


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise IndexError
    return data[at : at + size]


def _take_text(data: bytes, at: int, end: bytes) -> tuple[bytes, int]:
    stop = data.index(b"\0", at)
    while data[stop + 1 : stop + 2] == b"\xff":
        stop = data.index(b"\0", stop + 2)
    return data[at:stop].replace(b"\0\xff", b"\0"), _past(data, stop, end)


def _past(data: bytes, at: int, end: bytes) -> int:
    if not data.startswith(end, at):
        raise ValueError("a text or tuple without its end")
    return at + len(end)


def _decode_nested(data: bytes, at: int, depth: int, end: bytes) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise ValueError("tuples in tuples, too deep")
    parts: list[Any] = []
    while True:
        if data[at] == 0:
            if data[at + 1 : at + 2] != b"\xff":
                return tuple(parts), _past(data, at, end)
            parts.append(None)
            at += 2
            continue
        part, at = _decode_part(data, at, depth, end)
        parts.append(part)


def _decode_int(code: int, data: bytes, at: int) -> tuple[int, int]:
    if code in (0x0A, 0x1E):
        size, at = int.from_bytes(_take(data, at, 4), "big") ^ (0xFFFFFFFF if code == 0x0A else 0), at + 4
    elif code in (0x0B, 0x1D):
        size, at = data[at] ^ (0xFF if code == 0x0B else 0), at + 1
    else:
        size = abs(code - _ZERO)
    number = int.from_bytes(_take(data, at, size), "big")
    return (number if code >= _ZERO else number - (1 << 8 * size) + 1), at + size


def _decode_float(body: bytes) -> float:
    bits = int.from_bytes(body, "big")
    bits ^= 1 << 63 if bits >> 63 else 0xFFFFFFFFFFFFFFFF
    return float(_float.unpack(_int64.pack(bits))[0])


def _decode_decimal(data: bytes, at: int) -> tuple[decimal.Decimal, int]:
    sign = data[at]
    at += 1
    if sign in _DECIMAL_CONSTANTS:
        return _DECIMAL_CONSTANTS[sign], at
    if sign not in (1, 3):
        raise ValueError("a Decimal with an unknown sign")
    body = data[at:].translate(_INVERT) if sign == 1 else data[at:]
    exponent, start = _decode_int(body[0], body, 1)
    end = body.index(b"\0", start)
    digits = tuple(byte - 1 for byte in body[start:end])
    return decimal.Decimal((int(sign == 1), digits, exponent - len(digits))), at + end + 1


_CONSTANTS: Final = {0x00: None, 0x26: False, 0x27: True}
_DECIMAL_CONSTANTS: Final = {
    0: decimal.Decimal("-Infinity"),
    2: decimal.Decimal(0),
    4: decimal.Decimal("Infinity"),
}
_FIXED: Final[dict[int, tuple[int, Callable[[bytes], Any]]]] = {
    _FLOAT: (8, _decode_float),
    _UUID: (16, lambda body: uuid.UUID(bytes=body)),
    _DATETIME: (8, lambda body: _EPOCH + (int.from_bytes(body, "big") - (1 << 63)) * _MICROSECOND),
    _DATE: (4, lambda body: datetime.date.fromordinal(int.from_bytes(body, "big") - (1 << 31) + _EPOCH_DAY)),
}


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the range of all tuples that begin with the parts encoded in `prefix`, that tuple itself included."""
    return prefix, prefix + b"\xff"
