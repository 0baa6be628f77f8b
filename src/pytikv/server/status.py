"""A store's status port: ``/status`` (empty, 200: the store lives) and ``/config``, in TiKV's shape.

`/config` is how a client learns a store's API version and whether it keeps TTLs (`storage.api-version`,
`storage.enable-ttl`), before it sends what the store cannot do; the field `pytikv` there says whose store it is. Sizes
are TiKV's strings. ``/metrics`` answers 404 with the reason until the store has metrics. Source: TiKV
src/server/status_server and a store's own answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pytikv._version import __version__
from pytikv.server.http import HttpRequest, HttpResponse, json_response, text_response

__all__ = ["StoreSettings", "status_handler"]


@dataclasses.dataclass(frozen=True, slots=True)
class StoreSettings:
    """What a store's `/config` tells. `api_version` 1 or 2; addresses are `host:port`; sizes are bytes."""

    api_version: int
    enable_ttl: bool
    addr: str
    status_addr: str
    data_dir: str
    sync: bool
    region_split_size_bytes: int
    region_split_keys: int
    max_key_size_bytes: int = 8192
    pd_endpoints: tuple[str, ...] = ()


def status_handler(settings: StoreSettings) -> Callable[[HttpRequest], HttpResponse]:
    """Return the handler for a store's status port."""

    def handle(request: HttpRequest) -> HttpResponse:
        if request.segments == (b"status",):
            return HttpResponse(200, b"")
        if request.segments == (b"config",):
            return json_response(_config(settings))
        if request.segments == (b"metrics",):
            return text_response("this store has no metrics page", 404)
        return text_response("path not found", 404)

    return handle


def _size(number: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number % factor == 0 and number:
            return f"{number // factor}{unit}"
    return f"{number}B"


def _config(settings: StoreSettings) -> dict[str, Any]:
    return {
        "pytikv": __version__,
        "log-level": "info",
        "server": {
            "addr": settings.addr,
            "advertise-addr": settings.addr,
            "status-addr": settings.status_addr,
            "advertise-status-addr": settings.status_addr,
        },
        "storage": {
            "data-dir": settings.data_dir,
            "engine": "raft-kv",
            "api-version": settings.api_version,
            "enable-ttl": settings.enable_ttl,
            "max-key-size": settings.max_key_size_bytes,
        },
        "pd": {"endpoints": list(settings.pd_endpoints)},
        "raftstore": {"sync-log": settings.sync},
        "coprocessor": {
            "region-split-size": _size(settings.region_split_size_bytes),
            "region-split-keys": settings.region_split_keys,
        },
    }
