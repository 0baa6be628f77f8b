"""How raw pairs lie on the disk, for each API mode, byte for byte as TiKV lays them out.

| mode | key | value |
|---|---|---|
| V1 | as it is | as it is |
| V1TTL | as it is | value, then the second at which it expires as u64 big-endian (0: never) |
| V2 | memcomparable key, complement of the causal timestamp as u64 big-endian | value, [expiry as u64], flags |

V2's flags: bit 0, an expiry precedes; bit 1, the key is deleted. Newer versions of a V2 key sort first. An entry whose
second has come is expired: it lies there until it is cleaned up, and no reader sees it.

Source: TiKV components/api_version/src/api_v1ttl.rs, api_v2.rs. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pytikv.codec import memcomparable
from pytikv.errors import StorageError, format_key

__all__ = [
    "TOMBSTONE",
    "RawValue",
    "decode_v1ttl",
    "decode_v2",
    "encode_v1ttl",
    "encode_v2",
    "v2_data_key",
    "v2_user_key",
]

_MAX: Final = 0xFFFFFFFFFFFFFFFF
_HAS_EXPIRY: Final = 1
_IS_DELETED: Final = 2
TOMBSTONE: Final = bytes([_IS_DELETED])
"""The value of a deleted key in API v2."""


class RawValue(NamedTuple):
    """A decoded value. `expire_s` is a Unix second, 0 when it never expires."""

    value: bytes
    expire_s: int
    is_deleted: bool


def expire_second(ttl_s: int, now_s: int) -> int:
    """Return when something with `ttl_s` (0: never) written at `now_s` expires, as a Unix second (0: never)."""
    return min(now_s + ttl_s, _MAX) if ttl_s else 0


def encode_v1ttl(value: bytes, expire_s: int) -> bytes:
    """Return the stored form of a value in V1TTL."""
    return value + expire_s.to_bytes(8, "big")


def decode_v1ttl(stored: bytes) -> RawValue:
    """Decode a stored value of V1TTL. Raises StorageError."""
    if len(stored) < 8:
        raise StorageError("a value of the store is too short for its TTL")
    return RawValue(stored[:-8], int.from_bytes(stored[-8:], "big"), False)


def encode_v2(value: bytes, expire_s: int) -> bytes:
    """Return the stored form of a value in V2."""
    if expire_s:
        return value + expire_s.to_bytes(8, "big") + b"\x01"
    return value + b"\x00"


def decode_v2(stored: bytes) -> RawValue:
    """Decode a stored value of V2. Raises StorageError."""
    if not stored:
        raise StorageError("a value of the store has no flags")
    flags = stored[-1]
    if not flags & _HAS_EXPIRY:
        return RawValue(stored[:-1], 0, bool(flags & _IS_DELETED))
    if len(stored) < 9:
        raise StorageError("a value of the store is too short for its TTL")
    return RawValue(stored[:-9], int.from_bytes(stored[-9:-1], "big"), bool(flags & _IS_DELETED))


def v2_data_key(key: bytes, ts: int) -> bytes:
    """Return the stored key of the version written at causal timestamp `ts`."""
    return memcomparable.encode(key) + (_MAX - ts).to_bytes(8, "big")


def v2_user_key(data_key: bytes) -> bytes:
    """Return the wire key of a stored key. Raises StorageError."""
    try:
        key, ts = memcomparable.decode(data_key)
        if len(ts) == 8:
            return key
    except ValueError:
        pass
    raise StorageError(f"a key of the store is malformed: {format_key(data_key)}")
