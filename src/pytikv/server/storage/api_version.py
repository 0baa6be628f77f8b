"""The three API modes of a store, and which requests each of them takes.

A store is of one mode for life. A request claims one of kvrpcpb's versions: V1 or V2 (claiming V1TTL is always wrong;
clients of a V1TTL store claim V1). In API v2 the first byte of a key tells its mode, `r` raw or `x` transactional,
and requests must stay within theirs; the keyspace behind it is not compared.

Source: TiKV src/storage/mod.rs, check_api_version and check_api_version_ranges.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final

from pytikv.server.storage.errors import ApiVersionNotMatched, InvalidKeyMode, InvalidKeyRangeMode

__all__ = ["ApiVersion", "check_raw_keys", "check_raw_ranges"]

_RAW_PREFIX: Final = b"r"
_RAW_PREFIX_END: Final = b"s"
_REQUEST_V1: Final = 0  # kvrpcpb.APIVersion
_REQUEST_V2: Final = 2
_REQUEST_NAMES: Final = {0: "V1", 1: "V1ttl", 2: "V2"}


class ApiVersion(enum.Enum):
    """The mode of a store. The value is what options and configuration call it."""

    V1 = "1"
    V1TTL = "1ttl"
    V2 = "2"

    @property
    def tikv_name(self) -> str:
        """The name in TiKV's messages."""
        return {"1": "V1", "1ttl": "V1ttl", "2": "V2"}[self.value]

    @property
    def has_ttl(self) -> bool:
        """Whether keys can expire."""
        return self is not ApiVersion.V1


def _check_claim(store: ApiVersion, request: int, command: str) -> None:
    wanted = _REQUEST_V2 if store is ApiVersion.V2 else _REQUEST_V1
    if request != wanted:
        claimed = _REQUEST_NAMES.get(request, f"Unknown({request})")
        raise ApiVersionNotMatched(command, store.tikv_name, claimed)


def check_raw_keys(store: ApiVersion, request: int, command: str, keys: Iterable[bytes]) -> None:
    """Check that a raw request claiming kvrpcpb version `request` may touch `keys`.

    Raises ApiVersionNotMatched and InvalidKeyMode.
    """
    _check_claim(store, request, command)
    if store is ApiVersion.V2:
        for key in keys:
            if key[:1] != _RAW_PREFIX:
                raise InvalidKeyMode(command, store.tikv_name, key)


def check_raw_ranges(store: ApiVersion, request: int, command: str, ranges: Sequence[tuple[bytes, bytes]]) -> None:
    """As `check_raw_keys`, for ranges `(lower, upper)`; in API v2 both sides must be given and lie in ``r`` to ``s``.

    Raises ApiVersionNotMatched and InvalidKeyRangeMode.
    """
    _check_claim(store, request, command)
    if store is ApiVersion.V2:
        for lower, upper in ranges:
            if not lower or lower < _RAW_PREFIX or not upper or upper > _RAW_PREFIX_END:
                raise InvalidKeyRangeMode(command, store.tikv_name, lower, upper)
