"""RawGet and RawPut taken apart and put together by hand: the two that a store answers by the ten thousand.

The decoders know the layout that every client sends: fields in order, the context first. For anything else (no context,
fields of a later version, malformed bytes) they return None, and protobuf has the word. They never misread: a request
is either taken whole or not at all.
"""

from __future__ import annotations

from pytikv.codec.envelope import varint

__all__ = ["NOT_FOUND", "encode_value", "split_get", "split_put"]

NOT_FOUND = b"\x20\x01"
"""The RawGetResponse for a missing key."""

_CONTEXT = 0x0A
_KEY = 0x12
_FIELD_3 = 0x1A
_FIELD_4 = 0x22


def encode_value(value: bytes) -> bytes:
    """Return the RawGetResponse for a value."""
    return b"\x1a" + varint(len(value)) + value if value else b""


def _length(data: bytes, pos: int) -> tuple[int, int]:
    """Read a varint; return it and where it ends. Raises IndexError for what is no length within `data`."""
    number = shift = 0
    while True:
        byte = data[pos]
        pos += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, pos
        shift += 7
        if shift > 28:
            raise IndexError


def split_get(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return context, key and column family of a RawGetRequest."""
    try:
        if data[0] != _CONTEXT:
            return None
        size, pos = data[1], 2
        if size > 127:
            size, pos = _length(data, 1)
        end = pos + size
        context = data[pos:end]
        if data[end] != _KEY:
            return None
        size, pos = data[end + 1], end + 2
        if size > 127:
            size, pos = _length(data, end + 1)
        end = pos + size
        key = data[pos:end]
        if end == len(data):
            return context, key, b""
        if data[end] != _FIELD_3:
            return None
        size, pos = _length(data, end + 1)
        return (context, key, data[pos:]) if pos + size == len(data) else None
    except IndexError:
        return None


def split_put(data: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Return context, key, value and column family of a RawPutRequest without TTL and `for_cas`."""
    try:
        if data[0] != _CONTEXT:
            return None
        size, pos = _length(data, 1)
        end = pos + size
        context = data[pos:end]
        if data[end] != _KEY:
            return None
        size, pos = _length(data, end + 1)
        end = pos + size
        key = data[pos:end]
        if end == len(data):
            return context, key, b"", b""
        value = b""
        if data[end] == _FIELD_3:
            size, pos = _length(data, end + 1)
            end = pos + size
            value = data[pos:end]
            if end == len(data):
                return context, key, value, b""
        if data[end] != _FIELD_4:
            return None
        size, pos = _length(data, end + 1)
        return (context, key, value, data[pos:]) if pos + size == len(data) else None
    except IndexError:
        return None
