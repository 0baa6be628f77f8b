"""The hot raw requests, put together by hand, and the short way to read their answers.

A request on the wire is the serialized `Context` as field 1, which callers keep ready (`context_field`), followed by
the rest of the message, which the functions here make; bytes equal those of protobuf. Field numbers: kvproto's
RawGetRequest, RawPutRequest, RawDeleteRequest, RawBatchPutRequest, KvPair, and the responses.

The pairs of a batch go through loops that run in C. Pairs of an answer are read so when all have keys of one size and
values of one size, which many tables have; protobuf, with an object for each pair, takes twice as long.

Decoders know the answers that a healthy store gives. Everything else (a region error, an error text, fields of a later
version, another order of fields) is `UNUSUAL`: the caller then parses the message with protobuf. They never raise and
never misread: an answer is either taken whole or is UNUSUAL.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

__all__ = [
    "KEY_HEADS",
    "UNUSUAL",
    "Unusual",
    "context_field",
    "decode_get",
    "decode_pairs",
    "encode_delete",
    "encode_get",
    "encode_pairs",
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
_BLOCK = 20  # pairs read by one call


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
KEY_HEADS = [b""] + [b"\x12" + varint(size) for size in range(1, 512)]
_VALUE_HEAD = [b""] + [b"\x1a" + varint(size) for size in range(1, 512)]


def _head(table: list[bytes], tag: bytes, size: int) -> bytes:
    return table[size] if size < 512 else tag + varint(size)


def context_field(context: bytes) -> bytes:
    """Return a serialized `Context` as the first field of a request."""
    return b"\x0a" + varint(len(context)) + context


def encode_get(key: bytes, cf: bytes = b"") -> bytes:
    """Return a RawGetRequest without its context."""
    size = len(key)
    body = (KEY_HEADS[size] if size < 512 else _head(KEY_HEADS, b"\x12", size)) + key
    return body + b"\x1a" + varint(len(cf)) + cf if cf else body


def encode_put(key: bytes, value: bytes, ttl: int = 0, for_cas: bool = False, cf: bytes = b"") -> bytes:
    """Return a RawPutRequest without its context. `ttl` in seconds, 0: no expiry."""
    body = _head(KEY_HEADS, b"\x12", len(key)) + key + _head(_VALUE_HEAD, b"\x1a", len(value)) + value
    if cf:
        body += b"\x22" + varint(len(cf)) + cf
    if ttl:
        body += b"\x28" + varint(ttl)
    return body + b"\x30\x01" if for_cas else body


def encode_delete(key: bytes, for_cas: bool = False, cf: bytes = b"") -> bytes:
    """Return a RawDeleteRequest without its context."""
    body = _head(KEY_HEADS, b"\x12", len(key)) + key
    if cf:
        body += b"\x1a" + varint(len(cf)) + cf
    return body + b"\x20\x01" if for_cas else body


@lru_cache(maxsize=1024)
def _pair_head(key_size: int, value_size: int) -> bytes:
    """Return what stands before the key of a pair in a list of pairs (field 2)."""
    key_head, value_head = _head(KEY_HEADS, b"\x12", key_size), _value_head(value_size)
    return b"\x12" + varint(len(key_head) + key_size + len(value_head) + value_size) + key_head


@lru_cache(maxsize=1024)
def _value_head(size: int) -> bytes:
    return _head(_VALUE_HEAD, b"\x1a", size)


def encode_pairs(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """Return the pairs of a RawBatchPutRequest, without its other fields. As many values as keys."""
    key_sizes, value_sizes = list(map(len, keys)), list(map(len, values))
    heads = map(_pair_head, key_sizes, value_sizes)
    return b"".join(chain.from_iterable(zip(heads, keys, map(_value_head, value_sizes), values, strict=True)))


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


def decode_pairs(data: bytes) -> tuple[list[bytes], list[bytes]] | Unusual:
    """Read a RawBatchGetResponse: keys and values in its order, or UNUSUAL.

    Read are pairs of one layout: each takes up as many bytes as the first, and what is not key or value equals that of
    the first, byte for byte.
    """
    layout = _layout(data)
    if layout is None:
        return UNUSUAL
    head, key_size, middle, value_size = layout
    size = head + key_size + middle + value_size
    count = len(data) // size
    value_head = head + key_size
    for column in (*range(head), *range(value_head, value_head + middle)):
        if data[column::size] != data[column : column + 1] * count:
            return UNUSUAL
    block, single = _readers(head, key_size, middle, value_size)
    view = memoryview(data)
    whole = len(data) - len(data) % block.size
    flat = [*chain.from_iterable(block.iter_unpack(view[:whole]))]
    flat += chain.from_iterable(single.iter_unpack(view[whole:]))
    return flat[::2], flat[1::2]


@lru_cache(maxsize=64)
def _readers(head: int, key_size: int, middle: int, value_size: int) -> tuple[struct.Struct, struct.Struct]:
    """Return what reads many pairs of a layout at once, and one pair."""
    pair = f"{head}x{key_size}s{middle}x{value_size}s"
    return struct.Struct(pair * _BLOCK), struct.Struct(pair)


def _layout(data: bytes) -> tuple[int, int, int, int] | None:
    """Return the sizes of the first pair's parts: head, key, head of the value, value. None unless all pairs fit."""
    if len(data) < 8:
        return None
    pair_size, pos = _short_varint(data, 1)
    stop = pos + pair_size
    if data[0] != 0x12 or len(data) % stop or data[pos] != 0x12:
        return None
    key_size, head = _short_varint(data, pos + 1)
    pos = head + key_size
    if pos + 3 > stop or data[pos] != _VALUE:
        return None
    value_size, value = _short_varint(data, pos + 1)
    if value + value_size != stop or not key_size or not value_size:
        return None
    return head, key_size, value - pos, value_size


def _short_varint(data: bytes, pos: int) -> tuple[int, int]:
    """Read a number of up to two bytes, and where it ends; a longer one is read as more than any answer's size."""
    number = data[pos]
    if number < 0x80:
        return number, pos + 1
    second = data[pos + 1]
    return (number & 0x7F | second << 7 if second < 0x80 else 1 << 64), pos + 2
