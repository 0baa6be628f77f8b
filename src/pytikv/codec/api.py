"""How a user's key becomes the key on the wire and the key that regions are looked up by, for each API version.

Three forms of one key:

* *user*: what the caller passes.
* *wire*: what goes into a request. API v1: the user key. API v2: a mode byte (`r` raw, `x` transactional), the
  keyspace id in three bytes, then the user key.
* *region*: what region borders are compared with, in PD and in metapb.Region. Raw v1 and v1ttl: the wire key.
  Everything else: its memcomparable form. The empty border means infinity in every mode and is never encoded.

API v1ttl has no codec of its own: requests carry version V1 and the store decides (client-go does the same).

Source: client-go internal/apicodec/codec_v1.go and codec_v2.go.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pytikv.codec import memcomparable

__all__ = [
    "ABOVE_ALL",
    "DEFAULT_KEYSPACE_ID",
    "MAX_KEYSPACE_ID",
    "MAX_KEY_SIZE",
    "NULL_KEYSPACE_ID",
    "KeyCodec",
    "raw_v1",
    "txn_v1",
    "v2",
]

MAX_KEY_SIZE: Final = 8192  # TiKV's default storage.max-key-size
ABOVE_ALL: Final = b"\xff" * (MAX_KEY_SIZE + 1)
"""A key above all that TiKV accepts: the upper end of a range in API v1, where the wire has no word for "unbounded"."""

DEFAULT_KEYSPACE_ID: Final = 0
MAX_KEYSPACE_ID: Final = 0xFFFFFF
NULL_KEYSPACE_ID: Final = 0xFFFFFFFF  # kvrpcpb.Context.keyspace_id of a request without a keyspace
_V1: Final = 0  # kvrpcpb.APIVersion
_V2: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class KeyCodec:
    """The encoding of one mode. Make one with `raw_v1`, `txn_v1` or `v2`."""

    api_version: int
    keyspace_id: int
    prefix: bytes
    end: bytes
    is_memcomparable: bool

    def encode_key(self, key: bytes) -> bytes:
        """Return the wire form of a user key."""
        return self.prefix + key if self.prefix else key

    def decode_key(self, key: bytes) -> bytes:
        """Return the user form of a wire key. Raises ValueError for a key of another mode or keyspace."""
        if not self.prefix:
            return key
        if not key.startswith(self.prefix):
            raise ValueError(f"key lies outside of keyspace {self.keyspace_id}")
        return key[len(self.prefix) :]

    def encode_range(self, start_key: bytes, end_key: bytes) -> tuple[bytes, bytes]:
        """Return the wire form of a user range; unbounded sides become the keyspace's own borders in v2."""
        if not self.prefix:
            return start_key, end_key
        return self.prefix + start_key, self.prefix + end_key if end_key else self.end

    def region_key(self, wire_key: bytes) -> bytes:
        """Return the form of a wire key that region borders are compared with."""
        return memcomparable.encode(wire_key) if self.is_memcomparable else wire_key

    def region_border(self, wire_key: bytes) -> bytes:
        """As `region_key`, for a range's side: empty stays empty."""
        return self.region_key(wire_key) if wire_key else b""

    def wire_border(self, border: bytes) -> bytes:
        """Return the wire form of a region border; empty stays empty. Raises ValueError on a malformed border."""
        return memcomparable.decode_border(border) if self.is_memcomparable else border


def raw_v1() -> KeyCodec:
    """Raw keys of API v1 and v1ttl: plain everywhere."""
    return KeyCodec(_V1, NULL_KEYSPACE_ID, b"", b"", False)


def txn_v1() -> KeyCodec:
    """Transactional keys of API v1: plain on the wire, memcomparable at region borders."""
    return KeyCodec(_V1, NULL_KEYSPACE_ID, b"", b"", True)


def v2(keyspace_id: int, *, is_raw: bool) -> KeyCodec:
    """Keys of API v2 in the keyspace `keyspace_id` (0 to 0xFFFFFF).

    >>> v2(1, is_raw=True).encode_key(b"k")
    b'r\\x00\\x00\\x01k'
    """
    if not 0 <= keyspace_id <= MAX_KEYSPACE_ID:
        raise ValueError(f"keyspace id {keyspace_id} is not within 0 and {MAX_KEYSPACE_ID}")
    number = ((b"r" if is_raw else b"x")[0] << 24) | keyspace_id
    return KeyCodec(_V2, keyspace_id, number.to_bytes(4, "big"), (number + 1).to_bytes(4, "big"), True)
