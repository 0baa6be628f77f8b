"""RawGet, RawPut and KvGet taken apart and put together by hand: those that a store answers by the ten thousand.

The decoders know the layout that every client sends: fields in order, the context first. For anything else (no context,
fields of a later version, malformed bytes) they return None, and protobuf has the word. They never misread: a request
is either taken whole or not at all.
"""

from __future__ import annotations

import functools

from pytikv.codec.envelope import varint

__all__ = ["NOT_FOUND", "encode_value", "split_get", "split_kv_get", "split_put"]

NOT_FOUND = b"\x20\x01"
"""The answer for a missing key, RawGetResponse and GetResponse alike."""

_CONTEXT = 0x0A
_KEY = 0x12
_VERSION = 0x18
_FIELD_3 = 0x1A
_FIELD_4 = 0x22


def encode_value(value: bytes) -> bytes:
    """Return the RawGetResponse, or GetResponse, for a value."""
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


def _context_and_key(data: bytes) -> tuple[bytes, bytes, int]:
    """Return what all requests begin with, and where it ends. Raises IndexError for anything else."""
    if data[0] != _CONTEXT:
        raise IndexError
    size, pos = data[1], 2
    if size > 127:
        size, pos = _length(data, 1)
    end = pos + size
    if data[end] != _KEY:
        raise IndexError
    context = data[pos:end]
    size, pos = data[end + 1], end + 2
    if size > 127:
        size, pos = _length(data, end + 1)
    end = pos + size
    return context, data[pos:end], end


def split_get(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return context, key and column family of a RawGetRequest."""
    try:
        context, key, end = _context_and_key(data)
        if end == len(data):
            return context, key, b""
        if data[end] != _FIELD_3:
            return None
        size, pos = _length(data, end + 1)
        return (context, key, data[pos:]) if pos + size == len(data) else None
    except IndexError:
        return None


def split_kv_get(data: bytes) -> tuple[bytes, bytes, int] | None:
    """Return context, key and version of a GetRequest that does not ask for the commit_ts."""
    try:
        context, key, end = _context_and_key(data)
        if data[end] != _VERSION:
            return None
        version = _whole_varint(data[end + 1 :])
        return None if version is None else (context, key, version)
    except IndexError:
        return None


@functools.lru_cache(maxsize=1024)  # the keys of a snapshot are read with one timestamp
def _whole_varint(data: bytes) -> int | None:
    """Return the number that is all of `data`, None when it is anything else."""
    number = 0
    for i, byte in enumerate(data[:10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number if i + 1 == len(data) and number < 1 << 64 else None
    return None


def split_put(data: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Return context, key, value and column family of a RawPutRequest without TTL and `for_cas`."""
    try:
        context, key, end = _context_and_key(data)
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
