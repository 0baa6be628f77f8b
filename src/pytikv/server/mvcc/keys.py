"""The keys of the three families: an encoded key alone (``lock``) or with a timestamp behind (``write``, ``default``).

An *encoded key* is the memcomparable form of the key as it travels on the wire. Behind it, a timestamp is stored as
eight bytes, big-endian, of its complement: of two versions of one key the newer sorts first, so that one seek to
`data_key(key, ts)` finds the newest version at or below `ts`. No encoded key is a prefix of another, so what precedes
the last eight bytes is the whole key. TiKV puts the byte ``z`` before each key on disk, which no protocol shows; here
it is left out.

Source: TiKV components/txn_types/src/types.rs (Key).
"""

from __future__ import annotations

import struct
from typing import Final

from pytikv.codec import memcomparable
from pytikv.errors import StorageError, format_key

__all__ = ["TS_BYTES", "TS_MAX", "data_key", "encode_ts", "split_data_key", "wire_key"]

TS_MAX: Final = (1 << 64) - 1
TS_BYTES: Final = 8
_pack = struct.Struct(">Q").pack


def encode_ts(ts: int) -> bytes:
    """Return the eight bytes that sort `ts` downwards."""
    return _pack(TS_MAX - ts)


def data_key(key: bytes, ts: int) -> bytes:
    """Return the key of one version: in ``write`` by commit_ts, in ``default`` by start_ts."""
    return key + _pack(TS_MAX - ts)


def split_data_key(stored: bytes) -> tuple[bytes, int]:
    """Take a version's key apart: the encoded key and the timestamp. Raises StorageError when it is too short."""
    if len(stored) < TS_BYTES:
        raise StorageError(f"damaged key {format_key(stored)}: too short to hold a timestamp")
    return stored[:-TS_BYTES], TS_MAX - int.from_bytes(stored[-TS_BYTES:], "big")


def wire_key(key: bytes) -> bytes:
    """Return the wire key that was encoded as `key`. Raises StorageError when it is no encoded key."""
    try:
        decoded, rest = memcomparable.decode(key)
    except ValueError as error:
        raise StorageError(f"damaged key {format_key(key)}: {error}") from error
    if rest:
        raise StorageError(f"damaged key {format_key(key)}: {len(rest)} bytes behind its end")
    return decoded
