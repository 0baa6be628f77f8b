"""A store's status port, in TiKV's shape: ``/status``, ``/config`` and ``/metrics``.

* ``/status`` (empty, 200): the store lives.
* ``/config``: how a client learns a store's API version and whether it keeps TTLs (`storage.api-version`,
  `storage.enable-ttl`), before it sends what the store cannot do; the field `pytikv` there says whose store it is.
  Sizes and durations are TiKV's strings. What TiKV has and this store has not is missing rather than made up.
* ``/metrics``: Prometheus' text, or OpenMetrics for who asks for it; 501 with the remedy without prometheus_client.

Other paths are 404. GET and HEAD only, as `http` has it. Requests are timed by path; unknown paths count as one, so
that nobody can fill the memory with names. Source: TiKV src/server/status_server and a store's own answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from pytikv._version import __version__
from pytikv.server.http import HttpRequest, HttpResponse, json_response, text_response
from pytikv.server.metrics.exposition import MetricsPage
from pytikv.server.metrics.store import StoreMetrics
from pytikv.server.storage.limits import MAX_ENTRY_BYTES
from pytikv.server.storage.lock_waiting import MAX_WAIT_S, WAKE_UP_DELAY_S

__all__ = ["StoreSettings", "status_handler", "timed"]

_PATHS: Final = frozenset({b"status", b"config", b"metrics"})


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
    heartbeat_s: float
    ttl_round_s: float
    tls: bool = False
    max_key_size_bytes: int = 8192
    pd_endpoints: tuple[str, ...] = ()


def status_handler(settings: StoreSettings, metrics: MetricsPage) -> Callable[[HttpRequest], HttpResponse]:
    """Return the handler for a store's status port."""

    def handle(request: HttpRequest) -> HttpResponse:
        if request.segments == (b"status",):
            return HttpResponse(200, b"")
        if request.segments == (b"config",):
            return json_response(_config(settings))
        if request.segments == (b"metrics",):
            return metrics.answer(request.accept)
        return text_response("path not found", 404)

    return handle


def timed(
    handler: Callable[[HttpRequest], HttpResponse], metrics: StoreMetrics, now: Callable[[], float]
) -> Callable[[HttpRequest], HttpResponse]:
    """Return the handler with its requests counted by method and path."""

    def handle(request: HttpRequest) -> HttpResponse:
        began = now()
        response = handler(request)
        known = len(request.segments) == 1 and request.segments[0] in _PATHS
        path = f"/{request.segments[0].decode()}" if known else "unknown"
        metrics.status_requests[request.method, path].observe(now() - began)
        return response

    return handle


def _size(number: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number % factor == 0 and number:
            return f"{number // factor}{unit}"
    return f"{number}B"


def _duration(seconds: float) -> str:
    """Return a duration as TiKV writes it: whole units, the largest that fits."""
    ms = round(seconds * 1000)
    for unit, factor in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms % factor == 0 and ms:
            return f"{ms // factor}{unit}"
    return f"{ms}ms"


def _config(settings: StoreSettings) -> dict[str, Any]:
    return {
        "pytikv": __version__,
        "log-level": "info",
        "log": {"level": "info", "format": "text"},
        "server": {
            "addr": settings.addr,
            "advertise-addr": settings.addr,
            "status-addr": settings.status_addr,
            "advertise-status-addr": settings.status_addr,
            "grpc-compression-type": "none",
        },
        "storage": {
            "data-dir": settings.data_dir,
            "engine": "raft-kv",
            "api-version": settings.api_version,
            "enable-ttl": settings.enable_ttl,
            "ttl-check-poll-interval": _duration(settings.ttl_round_s),
            "max-key-size": settings.max_key_size_bytes,
        },
        "pd": {"endpoints": list(settings.pd_endpoints)},
        "raftstore": {
            "sync-log": settings.sync,
            "pd-store-heartbeat-tick-interval": _duration(settings.heartbeat_s),
            "raft-entry-max-size": _size(MAX_ENTRY_BYTES),
        },
        "coprocessor": {
            "region-split-size": _size(settings.region_split_size_bytes),
            "region-split-keys": settings.region_split_keys,
        },
        "pessimistic-txn": {
            "wait-for-lock-timeout": _duration(MAX_WAIT_S),
            "wake-up-delay-duration": _duration(WAKE_UP_DELAY_S),
        },
        "security": {"redact-info-log": False, "tls": settings.tls},
    }
