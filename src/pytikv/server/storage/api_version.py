"""The three API modes of a store, and which requests each of them takes.

A store is of one mode for life. A request claims one of kvrpcpb's versions: V1 or V2 (claiming V1TTL is always wrong;
clients of a V1TTL store claim V1). In API v2 the first byte of a key tells its mode, `r` raw or `x` transactional,
and requests must stay within theirs; the keyspace behind it is not compared.

A V1TTL store has no transactions. A V2 store takes transactional requests that claim V1 as well, on keys of TiDB (`m`
and `t`) only. Checked are the requests that bring new keys: reads, prewrites, flushes, locks, deleting a range; not
those that end a transaction, ask for its status, or go over the locks of a region.

Source: TiKV src/storage/mod.rs, check_api_version and check_api_version_ranges.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final

from pytikv.server.storage.errors import ApiVersionNotMatched, InvalidKeyMode, InvalidKeyRangeMode

__all__ = ["ApiVersion", "check_raw_keys", "check_raw_ranges", "check_txn_keys", "check_txn_range"]

_RAW_PREFIX: Final = b"r"
_RAW_PREFIX_END: Final = b"s"
_TXN_PREFIXES: Final = (b"x",)
_TIDB_PREFIXES: Final = (b"m", b"t")
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


def _txn_prefixes(store: ApiVersion, request: int, command: str) -> tuple[bytes, ...] | None:
    """Return the first bytes that keys of a transactional request may have; None: any."""
    if store is ApiVersion.V1 and request == _REQUEST_V1:
        return None
    if store is ApiVersion.V2 and request in (_REQUEST_V1, _REQUEST_V2):
        return _TXN_PREFIXES if request == _REQUEST_V2 else _TIDB_PREFIXES
    claimed = _REQUEST_NAMES.get(request, f"Unknown({request})")
    raise ApiVersionNotMatched(command, store.tikv_name, claimed)


def check_txn_keys(store: ApiVersion, request: int, command: str, keys: Iterable[bytes]) -> None:
    """Check that a transactional request claiming kvrpcpb version `request` may touch `keys`.

    Raises ApiVersionNotMatched and InvalidKeyMode.
    """
    prefixes = _txn_prefixes(store, request, command)
    if prefixes is not None:
        for key in keys:
            if key[:1] not in prefixes:
                raise InvalidKeyMode(command, store.tikv_name, key)


def check_txn_range(store: ApiVersion, request: int, command: str, start: bytes, end: bytes) -> None:
    """As `check_txn_keys`, for a range; in API v2 both sides must be given and begin with the same byte.

    Raises ApiVersionNotMatched and InvalidKeyRangeMode.
    """
    prefixes = _txn_prefixes(store, request, command)
    if prefixes is not None and (start[:1] not in prefixes or end[:1] != start[:1]):
        raise InvalidKeyRangeMode(command, store.tikv_name, start, end)
