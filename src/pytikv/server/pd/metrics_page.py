"""The metrics of PD: what it counted, and what it knows of the cluster when somebody asks.

Names, labels and units are PD's, for what this PD truly does: it schedules nothing and runs no etcd, so the metrics of
those are left out. A store's state follows from its last heartbeat as in `pd.http_api`.

Sources: PD server/metrics.go, pkg/statistics/{metrics,store_collection,region_collection}.go, pkg/tso/metrics.go,
pkg/mcs/resourcemanager/server/metrics.go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.server.metrics.model import NO_LABELS, Family, Labels, counter, gauge, histogram
from pytikv.server.metrics.pd import PdMetrics
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.http_api import store_state
from pytikv.server.pd.members import VERSION
from pytikv.server.pd.regions import RegionInfo
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.stores import StoreInfo

__all__ = ["pd_families"]

_GROUP = {"group": "0"}
_STATES = {
    "Up": "store_up_count",
    "Disconnected": "store_disconnected_count",
    "Down": "store_down_count",
    "Offline": "store_offline_count",
    "Tombstone": "store_tombstone_count",
}


def pd_families(pd: PdServer, metrics: PdMetrics) -> Callable[[], Iterator[Family]]:
    """Return what makes the families of PD's page."""

    def families() -> Iterator[Family]:
        regions = list(pd.regions)
        yield gauge(
            "pd_server_info",
            "When the server started (Unix seconds), by its version.",
            [({"version": f"v{VERSION}", "hash": "None"}, pd.started_at_s)],
        )
        yield gauge("pd_cluster_id", "The cluster's id.", [(NO_LABELS, pd.cluster_id)])
        yield gauge(
            "pd_cluster_metadata",
            "Ids given out.",
            [({"type": f"cluster{pd.cluster_id}"}, 0), ({"type": "id"}, pd.last_id)],
        )
        yield gauge("pd_cluster_health_status", "Whether a member is healthy.", [({"name": pd.config.name}, 1)])
        yield gauge("service_member_role", "Whether the member leads.", [({"service": "PD"}, 1)])
        yield from _tso(pd, metrics)
        yield from _cluster(pd, regions)
        yield from _resource_groups(pd)
        yield from _calls(metrics)

    return families


def _tso(pd: PdServer, metrics: PdMetrics) -> Iterator[Family]:
    oracle = pd.oracle
    yield counter("pd_tso_events", "What the oracle did.", [({"type": "save", **_GROUP}, oracle.saves)])
    yield gauge("pd_tso_role", "Whether this member gives out timestamps.", [(_GROUP, 1)])
    yield gauge(
        "pd_cluster_tso", "The physical part of the last timestamp.", [({"type": "tso", **_GROUP}, oracle.physical_ms)]
    )
    yield histogram(
        "pd_server_handle_tso_duration_seconds",
        "Time from a request for timestamps until its answer.",
        [(NO_LABELS, metrics.tso_durations)],
    )
    yield histogram("pd_server_handle_tso_batch_size", "Timestamps of a request.", [(NO_LABELS, metrics.tso_batches)])


def _cluster(pd: PdServer, regions: list[RegionInfo]) -> Iterator[Family]:
    of_store = Counter(peer.store_id for region in regions for peer in region.meta.peers)
    leaders = Counter(region.leader.store_id for region in regions if region.leader is not None)
    cluster: list[tuple[Labels, float]] = []
    stores: list[tuple[Labels, float]] = []
    heartbeats: list[tuple[Labels, float]] = []
    for store in pd.stores.all():
        ident, stats = store.meta.id, store.stats
        used, capacity = (0, 0) if stats is None else (stats.used_size, stats.capacity)
        cluster += _of_cluster(pd, store, of_store[ident], leaders[ident], used, capacity)
        labels = {"address": store.meta.address, "store": str(ident)}
        known = {
            "region_count": of_store[ident],
            "leader_count": leaders[ident],
            "store_available": 0 if stats is None else stats.available,
            "store_used": used,
            "store_capacity": capacity,
        }
        stores += [({**labels, "type": name}, value) for name, value in known.items()]
        heartbeats.append(({**labels, "type": "report", "status": "ok"}, pd.region_heartbeats[ident]))
    yield gauge("pd_cluster_status", "Stores by their state, and what they hold.", cluster)
    yield gauge("pd_scheduler_store_status", "What a store holds.", stores)
    yield counter("pd_scheduler_region_heartbeat", "Reports of regions.", heartbeats)
    yield gauge("pd_regions_status", "Regions in a state.", [({"type": n}, v) for n, v in _states_of(pd, regions)])
    limits = {"max-replicas": pd.config.max_replicas, "leader-schedule-limit": 0, "region-schedule-limit": 0}
    yield gauge("pd_config_status", "PD's configuration.", [({"type": n}, v) for n, v in limits.items()])


def _of_cluster(
    pd: PdServer, store: StoreInfo, regions: int, leaders: int, used: int, capacity: int
) -> list[tuple[Labels, float]]:
    state = _STATES[store_state(store, pd.now_s())]
    numbers = {name: int(name == state) for name in _STATES.values()}
    numbers |= {"region_count": regions, "leader_count": leaders, "storage_size": used, "storage_capacity": capacity}
    labels = {"engine": "tikv", "store": str(store.meta.id)}
    return [({"type": name, **labels}, value) for name, value in numbers.items()]


def _states_of(pd: PdServer, regions: list[RegionInfo]) -> list[tuple[str, int]]:
    wanted = pd.config.max_replicas
    return [
        ("miss-peer-region-count", sum(len(region.meta.peers) < wanted for region in regions)),
        ("extra-peer-region-count", sum(len(region.meta.peers) > wanted for region in regions)),
        ("down-peer-region-count", sum(bool(region.down_peers) for region in regions)),
        ("pending-peer-region-count", sum(bool(region.pending_peers) for region in regions)),
    ]


_CONSUMED = (
    ("resource_unit_read_request_unit_sum", "Request units of reads.", "r_r_u"),
    ("resource_unit_write_request_unit_sum", "Request units of writes.", "w_r_u"),
    ("resource_read_byte_sum", "Bytes read.", "read_bytes"),
    ("resource_write_byte_sum", "Bytes written.", "write_bytes"),
    ("resource_kv_cpu_time_ms_sum", "Time of stores' processors, in milliseconds.", "total_cpu_time_ms"),
)


def _resource_groups(pd: PdServer) -> Iterator[Family]:
    groups = [
        ({"resource_group": name, "keyspace_name": _keyspace_name(pd, keyspace_id)}, group)
        for keyspace_id, name, group in pd.resource_groups
    ]
    settings: list[tuple[Labels, float]] = []
    for labels, group in groups:
        limits = group.r_u_settings.r_u.settings
        known = {"priority": group.priority, "ru_per_sec": limits.fill_rate, "ru_capacity": limits.burst_limit}
        settings += [({**labels, "type": name}, value) for name, value in known.items()]
    yield gauge("resource_manager_server_group_config", "Settings of resource groups.", settings)
    named = [({**labels, "name": labels["resource_group"]}, group) for labels, group in groups]
    yield gauge(
        "resource_manager_resource_unit_available_ru",
        "Request units that a group's bucket holds; below 0: that it has lent.",
        [(labels, group.r_u_settings.r_u.tokens) for labels, group in named],
    )
    for name, help, field in _CONSUMED:
        values = [({**labels, "type": "tp"}, getattr(group.RUStats, field)) for labels, group in named]
        yield counter(f"resource_manager_{name}", help, values)
    yield counter(
        "resource_manager_resource_request_count",
        "Requests of resource groups.",
        [
            ({**labels, "type": kind}, getattr(group.RUStats, f"kv_{kind}_rpc_count"))
            for labels, group in named
            for kind in ("read", "write")
        ],
    )


def _keyspace_name(pd: PdServer, keyspace_id: int) -> str:
    try:
        return "" if keyspace_id == NULL_KEYSPACE_ID else str(pd.keyspaces.by_id(keyspace_id).name)
    except PdError:
        return str(keyspace_id)


def _calls(metrics: PdMetrics) -> Iterator[Family]:
    unary = {"grpc_type": "unary"}
    stream = {"grpc_type": "bidi_stream", "grpc_service": "pdpb.PD", "grpc_method": "Tso"}
    started = [
        ({**unary, "grpc_service": service, "grpc_method": method}, count)
        for (service, method), count in sorted(metrics.started.items())
    ]
    handled = [
        ({**unary, "grpc_service": service, "grpc_method": method, "grpc_code": code}, count)
        for (service, method, code), count in sorted(metrics.handled.items())
    ]
    timestamps = (stream, metrics.tso_batches.count)
    yield counter("grpc_server_started_total", "Calls begun.", [*started, (stream, metrics.tso_streams)])
    yield counter("grpc_server_handled_total", "Calls ended.", handled)
    yield counter("grpc_server_msg_received_total", "Messages received.", [*started, timestamps])
    yield counter(
        "grpc_server_msg_sent_total", "Messages sent.", [*_sent(metrics), (stream, metrics.tso_durations.count)]
    )
    yield histogram(
        "grpc_server_handling_seconds",
        "Time to answer a call.",
        [
            ({**unary, "grpc_service": service, "grpc_method": method}, each)
            for (service, method), each in sorted(metrics.durations.items())
        ],
    )


def _sent(metrics: PdMetrics) -> list[tuple[Labels, float]]:
    return [
        ({"grpc_type": "unary", "grpc_service": service, "grpc_method": method}, count)
        for (service, method, code), count in sorted(metrics.handled.items())
        if code == "OK"
    ]
