"""PD's HTTP API under ``/pd/api/v1``: stores, regions, members, health, version, configuration. Read only.

On the same port, outside of that path: ``/metrics``.

The fields and their shapes are PD's own, as it answers a fresh cluster; values that PD computes for scheduling, which
does not happen here, are its neutral ones. Keys are shown in upper-case hex. Errors are a JSON string, as PD's are.
Unknown paths answer 404. Sources: PD server/api (router.go, store.go, region.go, hot_status.go) and recorded answers of
a real PD.

``hotspot/...`` has the shape, and the answer of an idle cluster: no region stands out, all rates 0. Reports carry no
flow by region here (`RegionInfo`): to count bytes and keys for each would cost every request, and PD needs them to move
hot regions between stores, which does not happen here. So these zeros mean *not counted*.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any, Final

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.http import HttpRequest, HttpResponse, json_response, text_response
from pytikv.server.metrics.exposition import MetricsPage
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.http_config import pd_config
from pytikv.server.pd.members import VERSION, member
from pytikv.server.pd.regions import RegionInfo
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.stores import StoreInfo

__all__ = ["pd_http_handler", "store_state"]

_PREFIX: Final = (b"pd", b"api", b"v1")
_DISCONNECTED_S: Final = 20
_DOWN_S: Final = 30 * 60
_MAX_U64: Final = (1 << 64) - 1

Page = Callable[[PdServer], Any]
PageOf = Callable[[PdServer, bytes], Any]


class _Failure(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def pd_http_handler(pd: PdServer, metrics: MetricsPage | None = None) -> Callable[[HttpRequest], HttpResponse]:
    """Return the handler for PD's port. `metrics`: the page ``/metrics``, where there is one."""

    def handle(request: HttpRequest) -> HttpResponse:
        if metrics is not None and request.segments == (b"metrics",):
            return metrics.answer(request.accept)
        if request.segments[:3] != _PREFIX:
            return text_response("404 page not found", 404)
        path = request.segments[3:]
        try:
            page = _PAGES.get(path)
            if page is not None:
                return json_response(page(pd))
            page_of = _PAGES_OF.get(path[:-1])
            if page_of is None:
                return text_response("404 page not found", 404)
            return json_response(page_of(pd, path[-1]))
        except _Failure as failure:
            return json_response(failure.text, failure.status)

    return handle


def _number(segment: bytes) -> int:
    if not segment.isdigit() or len(segment) > 20 or int(segment) > _MAX_U64:
        raise _Failure(400, "the id must be a number")
    return int(segment)


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out empty fields, as PD's `omitempty` does."""
    return {name: value for name, value in fields.items() if value}


# --- regions ----------------------------------------------------------------------------------------------------------


def _peer(peer: metapb.Peer) -> dict[str, Any]:
    role = metapb.PeerRole.Name(peer.role)
    shown = {"role_name": role, "id": peer.id, "store_id": peer.store_id}
    return {"role": peer.role, **shown, "is_learner": True} if peer.role == metapb.Learner else shown


def _region(region: RegionInfo) -> dict[str, Any]:
    meta = region.meta
    epoch = meta.region_epoch
    shown: dict[str, Any] = {
        "id": meta.id,
        "start_key": meta.start_key.hex().upper(),
        "end_key": meta.end_key.hex().upper(),
        "epoch": {"conf_ver": epoch.conf_ver, "version": epoch.version},
        "peers": [_peer(peer) for peer in meta.peers],
        "leader": _peer(region.leader) if region.leader is not None else {"role_name": "Voter"},
    }
    if region.down_peers:
        shown["down_peers"] = [
            {"down_seconds": stats.down_seconds, "peer": _peer(stats.peer)} for stats in region.down_peers
        ]
    if region.pending_peers:
        shown["pending_peers"] = [_peer(peer) for peer in region.pending_peers]
    return {
        **shown,
        "cpu_usage": 0,
        "written_bytes": 0,
        "read_bytes": 0,
        "written_keys": 0,
        "read_keys": 0,
        "approximate_size": region.approximate_size_mib,
        "approximate_keys": region.approximate_keys,
        "approximate_kv_size": 0,
        "approximate_columnar_kv_size": 0,
    }


def _regions(found: Iterable[RegionInfo]) -> dict[str, Any]:
    shown = [_region(region) for region in found]
    return {"count": len(shown), "regions": shown}


def _all_regions(pd: PdServer) -> Any:
    return _regions(pd.regions.scan(b"", b""))


def _regions_count(pd: PdServer) -> Any:
    return {"count": len(pd.regions), "regions": None}


def _region_by_id(pd: PdServer, segment: bytes) -> Any:
    region = pd.regions.get(_number(segment))
    return None if region is None else _region(region)


def _region_by_key(pd: PdServer, segment: bytes) -> Any:
    region = pd.regions.search(segment)
    return None if region is None else _region(region)


def _regions_of_store(pd: PdServer, segment: bytes) -> Any:
    store_id = _number(segment)
    return _regions(
        region for region in pd.regions.scan(b"", b"") if any(peer.store_id == store_id for peer in region.meta.peers)
    )


# --- stores -----------------------------------------------------------------------------------------------------------


def store_state(store: StoreInfo, now_s: float) -> str:
    """Return the name of a store's state, as PD derives it from the last heartbeat."""
    if store.meta.state != metapb.Up:
        return metapb.StoreState.Name(store.meta.state)
    silent_s = now_s - store.last_heartbeat_ns / 1e9
    if silent_s < _DISCONNECTED_S:
        return "Up"
    return "Disconnected" if silent_s < _DOWN_S else "Down"


def _size(number: int) -> str:
    """Format bytes as PD does: the largest binary unit, two digits at most."""
    value, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.2f}".rstrip("0").rstrip(".") + unit


def _duration(seconds: float) -> str:
    """Format seconds as Go's time.Duration does."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{rest:.9f}".rstrip("0").rstrip(".") + "s"
    if hours or minutes:
        text = f"{int(minutes)}m{text}"
    return f"{int(hours)}h{text}" if hours else text


def _store(pd: PdServer, store: StoreInfo) -> dict[str, Any]:
    meta, now_s = store.meta, pd.now_s()
    shown = {
        **_present({"id": meta.id, "address": meta.address}),
        **_present({"labels": [{"key": label.key, "value": label.value} for label in meta.labels]}),
        **_present(
            {
                "version": meta.version,
                "peer_address": meta.peer_address,
                "status_address": meta.status_address,
                "git_hash": meta.git_hash,
                "start_timestamp": meta.start_timestamp,
                "deploy_path": meta.deploy_path,
                "last_heartbeat": store.last_heartbeat_ns,
                "node_state": meta.node_state,
            }
        ),
        "state_name": store_state(store, now_s),
    }
    return {"store": shown, "status": _store_status(pd, store, now_s)}


def _store_status(pd: PdServer, store: StoreInfo, now_s: float) -> dict[str, Any]:
    stats = store.stats or pdpb.StoreStats()
    regions = [
        region
        for region in pd.regions.scan(b"", b"")
        if any(peer.store_id == store.meta.id for peer in region.meta.peers)
    ]
    led = [region for region in regions if region.leader is not None and region.leader.store_id == store.meta.id]
    leader_size = sum(region.approximate_size_mib for region in led)
    region_size = sum(region.approximate_size_mib for region in regions)
    status: dict[str, Any] = {
        "capacity": _size(stats.capacity),
        "available": _size(stats.available),
        "used_size": _size(stats.used_size),
        "leader_count": len(led),
        "leader_weight": 1,
        "leader_score": len(led),
        "leader_size": leader_size,
        "region_count": len(regions),
        "region_weight": 1,
        "region_score": region_size,
        "region_size": region_size,
        "slow_score": 1,
        "slow_trend": {"cause_value": 0, "cause_rate": 0, "result_value": 0, "result_rate": 0},
    }
    if store.meta.start_timestamp:
        status["start_ts"] = _time(store.meta.start_timestamp)
    if store.last_heartbeat_ns:
        status["last_heartbeat_ts"] = _time(store.last_heartbeat_ns / 1e9)
        status["uptime"] = _duration(max(0.0, store.last_heartbeat_ns / 1e9 - store.meta.start_timestamp))
    return status


def _stores(pd: PdServer) -> Any:
    shown = [_store(pd, store) for store in pd.stores.all(exclude_tombstones=True)]
    return {"count": len(shown), "stores": shown}


def _store_by_id(pd: PdServer, segment: bytes) -> Any:
    store_id = _number(segment)
    try:
        return _store(pd, pd.stores.get(store_id))
    except PdError:
        raise _Failure(404, f"[PD:core:ErrStoreNotFound]store {store_id} not found") from None


def _stores_limit(pd: PdServer) -> Any:
    return {str(store.meta.id): {"add-peer": 15, "remove-peer": 15} for store in pd.stores.all()}


# --- hot regions: see the module's docstring -------------------------------------------------------------------------


def _hot_regions(pd: PdServer) -> Any:
    names = [f"{of}_{what}" for of in ("store", "total_flow") for what in ("bytes", "keys", "query", "cpu")]
    idle = {**dict.fromkeys(names, 0), "regions_count": 0, "statistics": []}
    stores = {str(store.meta.id): idle for store in pd.stores.all(exclude_tombstones=True)}
    return {"as_peer": stores, "as_leader": stores}


def _hot_stores(pd: PdServer) -> Any:
    names = [f"{what}-{way}-rate" for what in ("bytes", "keys", "query") for way in ("write", "read")]
    stores = {str(store.meta.id): 0 for store in pd.stores.all(exclude_tombstones=True)}
    return dict.fromkeys([*names, "cpu-read-rate"], stores)


# --- the PD itself ----------------------------------------------------------------------------------------------------


def _member(pd: PdServer, *, with_version: bool = True) -> dict[str, Any]:
    one = member(pd)
    shown: dict[str, Any] = {
        "name": one.name,
        "member_id": one.member_id,
        "peer_urls": list(one.peer_urls),
        "client_urls": list(one.client_urls),
    }
    if with_version:
        shown |= _present({"deploy_path": one.deploy_path})
        shown |= {"binary_version": one.binary_version, "git_hash": one.git_hash}
    return shown


def _members(pd: PdServer) -> Any:
    one = _member(pd)
    return {"header": {"cluster_id": pd.cluster_id}, "members": [one], "leader": one, "etcd_leader": one}


def _leader(pd: PdServer) -> Any:
    return _member(pd, with_version=False)


def _health(pd: PdServer) -> Any:
    one = _member(pd)
    return [{"name": one["name"], "member_id": one["member_id"], "client_urls": one["client_urls"], "health": True}]


def _version(pd: PdServer) -> Any:
    return {"version": f"v{VERSION}", "build_time": "", "hash": "", "branch": ""}


def _status(pd: PdServer) -> Any:
    return {
        "build_ts": "None",
        "version": f"v{VERSION}",
        "git_hash": "None",
        "start_timestamp": int(pd.started_at_s),
        "kernel_type": "Classic",
    }


def _cluster(pd: PdServer) -> Any:
    return {"id": pd.cluster_id, "max_peer_count": pd.config.max_replicas}


def _cluster_status(pd: PdServer) -> Any:
    shown: dict[str, Any] = {"is_initialized": pd.is_bootstrapped, "replication_status": ""}
    return {"raft_bootstrap_time": _time(pd.bootstrap_s), **shown} if pd.is_bootstrapped else shown


def _nothing(pd: PdServer) -> Any:
    return []


_PAGES: Final[dict[tuple[bytes, ...], Page]] = {
    (b"stores",): _stores,
    (b"stores", b"limit"): _stores_limit,
    (b"regions",): _all_regions,
    (b"regions", b"key"): _all_regions,
    (b"regions", b"count"): _regions_count,
    (b"members",): _members,
    (b"leader",): _leader,
    (b"health",): _health,
    (b"version",): _version,
    (b"status",): _status,
    (b"config",): pd_config,
    (b"config", b"schedule"): lambda pd: pd_config(pd)["schedule"],
    (b"config", b"replicate"): lambda pd: pd_config(pd)["replication"],
    (b"cluster",): _cluster,
    (b"cluster", b"status"): _cluster_status,
    (b"hotspot", b"regions", b"read"): _hot_regions,
    (b"hotspot", b"regions", b"write"): _hot_regions,
    (b"hotspot", b"stores"): _hot_stores,
    (b"operators",): _nothing,
    (b"schedulers",): _nothing,
}

_PAGES_OF: Final[dict[tuple[bytes, ...], PageOf]] = {
    (b"store",): _store_by_id,
    (b"region", b"id"): _region_by_id,
    (b"region", b"key"): _region_by_key,
    (b"regions", b"store"): _regions_of_store,
}
