"""The three hot raw requests, put together by hand, and the short way to read their answers.

A request on the wire is the serialized `Context` as field 1, which callers keep ready (`context_field`), followed by
the rest of the message, which the functions here make; bytes equal those of protobuf. Field numbers: kvproto's
RawGetRequest, RawPutRequest, RawDeleteRequest and their responses.

Decoders know the answers that a healthy store gives. Everything else (a region error, an error text, fields of a later
version, another order of fields) is `UNUSUAL`: the caller then parses the message with protobuf. They never raise and
never misread: an answer is either taken whole or is UNUSUAL.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "UNUSUAL",
    "Unusual",
    "context_field",
    "decode_get",
    "encode_delete",
    "encode_get",
    "encode_put",
    "varint",
]


class Unusual(enum.Enum):
    """The type of `UNUSUAL`."""

    UNUSUAL = "unusual"


UNUSUAL: Final = Unusual.UNUSUAL
"""Answer of a decoder: not one of the common forms, parse it with protobuf."""

_NOT_FOUND = b"\x20\x01"  # field 4, true
_VALUE = 0x1A  # field 3, bytes


def varint(number: int) -> bytes:
    """Encode a number between 0 and 2^64 - 1 as a protobuf varint."""
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


# The field header of a key (field 2, bytes) for the lengths that fit one byte, and of a short value (field 3).
_KEY_HEAD = [b""] + [b"\x12" + varint(size) for size in range(1, 512)]
_VALUE_HEAD = [b""] + [b"\x1a" + varint(size) for size in range(1, 512)]


def _head(table: list[bytes], tag: bytes, size: int) -> bytes:
    return table[size] if size < 512 else tag + varint(size)


def context_field(context: bytes) -> bytes:
    """Return a serialized `Context` as the first field of a request."""
    return b"\x0a" + varint(len(context)) + context


def encode_get(key: bytes, cf: bytes = b"") -> bytes:
    """Return a RawGetRequest without its context."""
    size = len(key)
    body = (_KEY_HEAD[size] if size < 512 else _head(_KEY_HEAD, b"\x12", size)) + key
    return body + b"\x1a" + varint(len(cf)) + cf if cf else body


def encode_put(key: bytes, value: bytes, ttl: int = 0, for_cas: bool = False, cf: bytes = b"") -> bytes:
    """Return a RawPutRequest without its context. `ttl` in seconds, 0: no expiry."""
    body = _head(_KEY_HEAD, b"\x12", len(key)) + key + _head(_VALUE_HEAD, b"\x1a", len(value)) + value
    if cf:
        body += b"\x22" + varint(len(cf)) + cf
    if ttl:
        body += b"\x28" + varint(ttl)
    return body + b"\x30\x01" if for_cas else body


def encode_delete(key: bytes, for_cas: bool = False, cf: bytes = b"") -> bytes:
    """Return a RawDeleteRequest without its context."""
    body = _head(_KEY_HEAD, b"\x12", len(key)) + key
    if cf:
        body += b"\x1a" + varint(len(cf)) + cf
    return body + b"\x20\x01" if for_cas else body


def decode_get(data: bytes) -> bytes | Unusual | None:
    """Read a RawGetResponse: the value, None when there is no such key, or UNUSUAL."""
    if not data:
        return b""  # neither a value nor not_found: the value is empty
    if data[0] != _VALUE:
        return None if data == _NOT_FOUND else UNUSUAL
    size = len(data)
    if size < 2:
        return UNUSUAL
    length = data[1]
    if length < 0x80:
        return data[2:] if size == length + 2 else UNUSUAL
    return _decode_long(data)


def _decode_long(data: bytes) -> bytes | Unusual:
    length = shift = 0
    for position in range(1, min(len(data), 6)):
        byte = data[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return data[position + 1 :] if len(data) == position + 1 + length else UNUSUAL
        shift += 7
    return UNUSUAL
