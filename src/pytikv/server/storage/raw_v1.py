"""The raw commands of API v1, without and with TTL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, Engine
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.errors import InvalidCf, TtlNotEnabled
from pytikv.server.storage.raw_codec import decode_v1ttl, encode_v1ttl, expire_second
from pytikv.server.storage.raw_commands import RawStorage, seconds_left

__all__ = ["RawStorageV1", "RawStorageV1Ttl"]


class _NamedFamilies(RawStorage):
    """What V1 and V1TTL share: three column families to choose from."""

    _FAMILIES: Final = {"": CF_DEFAULT, CF_DEFAULT: CF_DEFAULT, CF_LOCK: CF_LOCK, CF_WRITE: CF_WRITE}

    def __init__(self, engine: Engine, now_s: Callable[[], float], causal_ts: Callable[[], int]) -> None:
        super().__init__(engine, now_s, causal_ts)
        self._getters = {name: engine.getter(family) for name, family in self._FAMILIES.items()}

    def _cf(self, cf: str) -> str:
        try:
            return self._FAMILIES[cf]
        except KeyError:
            raise InvalidCf(cf) from None

    def _read(self, key: bytes, cf: str) -> bytes | None:
        getter = self._getters.get(cf)
        if getter is None:
            raise InvalidCf(cf)
        try:
            return getter(key)
        except Exception as error:
            raise self.engine.error(error) from error


class RawStorageV1(_NamedFamilies):
    """API v1: keys and values as they are."""

    api_version = ApiVersion.V1

    def get(self, key: bytes, cf: str = "") -> bytes | None:
        """Return the value of `key`. The whole of an embedded get: kept this short on purpose (decision 0006)."""
        try:
            return self._getters[cf](key)
        except Exception as error:
            self._cf(cf)
            raise self.engine.error(error) from error

    def batch_get(self, keys: Sequence[bytes], cf: str = "") -> list[tuple[bytes, bytes]]:
        """Return the pairs that are there."""
        values = self.engine.multi_get(self._cf(cf), keys)
        return [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]

    def get_ttl(self, key: bytes, cf: str = "") -> int | None:
        """Refuse: there are no TTLs. (A real TiKV without TTL dies of this request.)"""
        raise TtlNotEnabled

    def _encode(self, value: bytes, ttl_s: int) -> bytes:
        if ttl_s:
            raise TtlNotEnabled
        return value

    def _spread_ttls(self, ttls_s: Sequence[int], count: int) -> Sequence[int]:
        if any(ttls_s):
            raise TtlNotEnabled
        return (0,) * count  # their number is not checked: TiKV looks no further

    def _visible(
        self, family: str, bounds: tuple[bytes, bytes], reverse: bool, key_only: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        pairs = self.engine.scan(family, *bounds, reverse=reverse)
        return ((key, b"") for key, _ in pairs) if key_only else pairs


class RawStorageV1Ttl(_NamedFamilies):
    """API v1 with TTL: each value ends with the second at which it expires."""

    api_version = ApiVersion.V1TTL

    def _decode(self, stored: bytes | None) -> bytes | None:
        if stored is None:
            return None
        value, expire_s, _ = decode_v1ttl(stored)
        return None if expire_s and expire_s <= self._now_s() else value

    def get(self, key: bytes, cf: str = "") -> bytes | None:
        """Return the value of `key`."""
        return self._decode(self._read(key, cf))

    def batch_get(self, keys: Sequence[bytes], cf: str = "") -> list[tuple[bytes, bytes]]:
        """Return the pairs that are there."""
        values = map(self._decode, self.engine.multi_get(self._cf(cf), keys))
        return [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]

    def get_ttl(self, key: bytes, cf: str = "") -> int | None:
        """Return the seconds left."""
        stored = self._read(key, cf)
        return None if stored is None else seconds_left(decode_v1ttl(stored).expire_s, self._now_s())

    def _encode(self, value: bytes, ttl_s: int) -> bytes:
        return encode_v1ttl(value, expire_second(ttl_s, int(self._now_s())))

    def _visible(
        self, family: str, bounds: tuple[bytes, bytes], reverse: bool, key_only: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        now_s = self._now_s()
        for key, stored in self.engine.scan(family, *bounds, reverse=reverse):
            value, expire_s, _ = decode_v1ttl(stored)
            if not expire_s or expire_s > now_s:
                yield key, b"" if key_only else value

    def _garbage(self, entries: list[tuple[bytes, bytes]], safe_point: int, is_end: bool) -> Iterator[bytes]:
        now_s = self._now_s()
        for key, stored in entries:
            expire_s = decode_v1ttl(stored).expire_s
            if expire_s and expire_s <= now_s:
                yield key
