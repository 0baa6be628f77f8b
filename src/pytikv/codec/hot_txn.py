"""The hot reads of transactions, put together by hand, and the short way to read their answers.

As `codec.hot_raw`, for KvGet and KvBatchGet. A store appends to an answer what it cost (`exec_details_v2`, at most
`_DETAILS_MAX` bytes): these are passed over, everything else that is not plain is `UNUSUAL` and left to protobuf.
Field numbers: kvproto's GetRequest, GetResponse, BatchGetRequest, BatchGetResponse.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from pytikv.codec import hot_raw
from pytikv.codec.hot_raw import KEY_HEADS, UNUSUAL, Unusual, varint

__all__ = ["decode_get", "decode_pairs", "encode_get"]

_VALUE: Final = 0x1A  # field 3, bytes
_NOT_FOUND: Final = b"\x20\x01"  # field 4, true
_GET_DETAILS: Final = 0x32  # field 6, a message
_BATCH_GET_DETAILS: Final = 0x22  # field 4, a message
_NEED_COMMIT_TS: Final = b"\x20\x01"  # field 4, true
_DETAILS_MAX: Final = 4096


@lru_cache(maxsize=256)
def _version(version: int) -> bytes:
    return b"\x18" + varint(version) if version else b""  # a transaction asks for the same version again and again


def encode_get(key: bytes, version: int, need_commit_ts: bool = False) -> bytes:
    """Return a GetRequest without its context."""
    size = len(key)
    head = KEY_HEADS[size] if size < 512 else b"\x12" + varint(size)
    body = head + key + _version(version)
    return body + _NEED_COMMIT_TS if need_commit_ts else body


def decode_get(data: bytes) -> bytes | Unusual | None:
    """Read a GetResponse: the value, None when there is no such key, or UNUSUAL."""
    size = len(data)
    if size > 1 and data[0] == _VALUE and data[1] < 0x80:  # a short value, often with nothing behind it
        stop = data[1] + 2
        rest = size - stop
        if not rest or (2 < rest < 130 and data[stop] == _GET_DETAILS and data[stop + 1] == rest - 2):
            return data[2:stop]
        if _is_details(data, stop, _GET_DETAILS):
            return data[2:stop]
        return UNUSUAL
    return _decode_get(data)


def _decode_get(data: bytes) -> bytes | Unusual | None:
    value: bytes | None = b""  # where there is neither a value nor not_found, the value is empty
    stop = 0
    if data.startswith(_NOT_FOUND):
        value, stop = None, 2
    elif data and data[0] == _VALUE:
        length, start = _varint(data, 1)
        stop = start + length
        value = data[start:stop]
    if stop == len(data) or _is_details(data, stop, _GET_DETAILS):
        return value
    return UNUSUAL


def decode_pairs(data: bytes) -> tuple[list[bytes], list[bytes]] | Unusual:
    """Read a BatchGetResponse: keys and values in its order, or UNUSUAL. See `hot_raw.decode_pairs`."""
    if len(data) < 8 or data[0] != 0x12:
        return UNUSUAL
    size, start = _varint(data, 1)
    size += start  # of the first pair; all are of this size, or `hot_raw.decode_pairs` declines
    end = len(data) - len(data) % size if size <= len(data) else 0
    last = max(0, end - _DETAILS_MAX)
    while end > last and not _is_details(data, end, _BATCH_GET_DETAILS):
        end -= size
    return hot_raw.decode_pairs(data[:end] if end > last else data)


def _is_details(data: bytes, pos: int, tag: int) -> bool:
    """Tell whether the rest of an answer, from `pos`, is the message `tag` and nothing else."""
    if len(data) - pos > _DETAILS_MAX or pos >= len(data) or data[pos] != tag:
        return False
    length, start = _varint(data, pos + 1)
    return start + length == len(data)


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    """Read a number, and where it ends. One that is cut short or too long is read as more than any answer's size."""
    number = shift = 0
    for at in range(pos, min(pos + 5, len(data))):
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7
    return 1 << 64, pos
