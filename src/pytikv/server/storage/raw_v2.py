"""The raw commands of API v2: every write is a version of its key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytikv.codec import memcomparable
from pytikv.server.engine.interface import CF_DEFAULT, WriteBatch
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.errors import CfDeprecated
from pytikv.server.storage.raw_codec import (
    TOMBSTONE,
    decode_v2,
    encode_v2,
    expire_second,
    v2_data_key,
    v2_user_key,
)
from pytikv.server.storage.raw_commands import RawStorage, seconds_left

__all__ = ["RawStorageV2"]

_MAX: Final = 0xFFFFFFFFFFFFFFFF


class RawStorageV2(RawStorage):
    """API v2: every write is a new version under a causal timestamp; deletions are versions, too."""

    api_version = ApiVersion.V2
    _cleaned = (b"r", b"s")  # values of transactions lie beside it, and are versions of another kind

    def _cf(self, cf: str) -> str:
        if cf:
            raise CfDeprecated(cf)
        return CF_DEFAULT

    def _newest(self, key: bytes) -> bytes | None:
        """Return the stored value of the newest version: the first entry at or behind the key's encoding."""
        encoded = memcomparable.encode(key)
        found = self.engine.first(CF_DEFAULT, encoded)
        if found is None or not found[0].startswith(encoded):
            return None
        return found[1]

    def _decode(self, stored: bytes | None) -> bytes | None:
        if stored is None:
            return None
        value, expire_s, is_deleted = decode_v2(stored)
        return None if is_deleted or (expire_s and expire_s <= self._now_s()) else value

    def get(self, key: bytes, cf: str = "") -> bytes | None:
        """Return the value of `key`."""
        if cf:
            raise CfDeprecated(cf)
        stored = self._newest(key)
        if stored is not None and stored[-1:] == b"\x00":  # the common case: neither expiry nor deletion
            return stored[:-1]
        return self._decode(stored)

    def batch_get(self, keys: Sequence[bytes], cf: str = "") -> list[tuple[bytes, bytes]]:
        """Return the pairs that are there."""
        self._cf(cf)
        cursor = self.engine.cursor(CF_DEFAULT)
        pairs = []
        for key in keys:
            encoded = memcomparable.encode(key)
            if cursor.seek(encoded) and cursor.key().startswith(encoded):
                value = self._decode(cursor.value())
                if value is not None:
                    pairs.append((key, value))
        return pairs

    def get_ttl(self, key: bytes, cf: str = "") -> int | None:
        """Return the seconds left."""
        self._cf(cf)
        stored = self._newest(key)
        return None if stored is None else seconds_left(decode_v2(stored).expire_s, self._now_s())

    def _encode(self, value: bytes, ttl_s: int) -> bytes:
        return encode_v2(value, expire_second(ttl_s, int(self._now_s())) if ttl_s else 0)

    def _data_key(self, key: bytes) -> bytes:
        return v2_data_key(key, self._causal_ts())

    def _border(self, key: bytes) -> bytes:
        return memcomparable.encode_border(key)

    def _delete_one(self, family: str, key: bytes) -> int:
        return self.engine.put(family, self._data_key(key), TOMBSTONE)

    def _add_delete(self, batch: WriteBatch, family: str, key: bytes) -> None:
        batch.put(family, self._data_key(key), TOMBSTONE)

    def _visible(
        self, family: str, bounds: tuple[bytes, bytes], reverse: bool, key_only: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        pairs = self.engine.scan(family, *bounds, reverse=reverse)
        for data_key, stored in _newest_from_below(pairs) if reverse else _newest_from_above(pairs):
            value = self._decode(stored)
            if value is not None:
                yield v2_user_key(data_key), b"" if key_only else value

    def _garbage(self, entries: list[tuple[bytes, bytes]], safe_point: int, is_end: bool) -> Iterator[bytes]:
        """Iterate over what to remove.

        A deletion (or expired value) that is a key's newest version goes only together with all the older ones: alone
        it would bring them back. So it stays when the key may go on behind the entries; the next round removes it.
        """
        now_s = self._now_s()
        replaced = b""  # the key whose versions from here on nobody can see
        newest = b""  # the stored key of its newest version, if that can go, too
        for data_key, stored in entries:
            encoded, ts = data_key[:-8], _MAX - int.from_bytes(data_key[-8:], "big")
            if encoded == replaced:
                yield data_key
                continue
            if newest:
                yield newest
                newest = b""
            if ts <= safe_point:
                replaced = encoded
                _, expire_s, is_deleted = decode_v2(stored)
                if is_deleted or (expire_s and expire_s <= now_s):
                    newest = data_key
        if newest and is_end:
            yield newest


def _newest_from_above(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Of each key's versions, upwards, the newest comes first."""
    seen = None
    for data_key, stored in pairs:
        encoded = data_key[:-8]
        if encoded != seen:
            seen = encoded
            yield data_key, stored


def _newest_from_below(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Of each key's versions, downwards, the newest comes last."""
    last = None
    for pair in pairs:
        if last is not None and last[0][:-8] != pair[0][:-8]:
            yield last
        last = pair
    if last is not None:
        yield last
