"""The raw commands of a store: `open_raw` picks those of its API mode. See `raw_commands` for what they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytikv.server.engine.interface import Engine
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.raw_commands import RawStorage
from pytikv.server.storage.raw_v1 import RawStorageV1, RawStorageV1Ttl
from pytikv.server.storage.raw_v2 import RawStorageV2

__all__ = ["RawStorage", "open_raw"]

_KINDS: Final[dict[ApiVersion, type[RawStorage]]] = {
    ApiVersion.V1: RawStorageV1,
    ApiVersion.V1TTL: RawStorageV1Ttl,
    ApiVersion.V2: RawStorageV2,
}


def open_raw(
    engine: Engine, api_version: ApiVersion, *, now_s: Callable[[], float], causal_ts: Callable[[], int]
) -> RawStorage:
    """Return the raw commands for a store of that mode.

    `now_s()` is the wall clock in Unix seconds, against which TTLs count. `causal_ts()` (API v2 only) must give a
    larger number at every call, also after a restart; PD's timestamps do.
    """
    return _KINDS[api_version](engine, now_s, causal_ts)
