"""Asking for evidence: one coroutine a check, given the site and until when. Nothing here judges.

Bounds, so that examining a large and busy cluster costs it little: `_REGION_PAGES` pages of regions, `_PROBES` reads of
one key a store. What is cut short says so in its evidence.

Sources of the pages: PD server/api/router.go (stores, hotspot, version); kvproto for the rest.
"""

from __future__ import annotations

import re
import ssl
import sys
import threading
import time
from collections import Counter
from typing import Any, Final

from pytikv._version import __version__
from pytikv.client.cluster import Cluster
from pytikv.client.lanes import AnyPool
from pytikv.client.pd_discovery import ask_members
from pytikv.client.pool import ConnectionPool
from pytikv.client.request_sender import RegionStale
from pytikv.client.rpcs import KV_GET
from pytikv.client.txn.backend import TxnBackend, TxnPiece
from pytikv.doctor import evidence as ev
from pytikv.doctor.site import EMBEDDED, CannotCheck, Site
from pytikv.doctor.sockets import get_json, peer_certificate
from pytikv.errors import TikvError
from pytikv.observe import state
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.rt.tls import load_client_tls
from pytikv.types import Region, Store, Timestamp
from pytikv.url import split_endpoint
from pytikv.wire.errors import RpcError

__all__ = [
    "balance",
    "certificates",
    "clocks",
    "collection",
    "endpoints",
    "groups",
    "hotspots",
    "latencies",
    "process",
    "stores",
    "versions",
]

_REGION_PAGES: Final = 16
_PAGE: Final = 1024
_PROBES: Final = 20
_HTTP_S: Final = 2.0
_MARGIN_S: Final = 0.2  # so that what does not answer is told by what asked, not by the check's end
_DELAYS: Final = 100
_TICK_S: Final = 0.001
_UNITS: Final = {unit: 1 << (10 * power) for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}
_STATES: Final = {0: "Up", 1: "Offline", 2: "Tombstone"}


# --- ways to the servers ----------------------------------------------------------------------------------------------


async def endpoints(site: Site, deadline: float) -> ev.Endpoints:
    """Ask every PD for its members, and every store whether it serves."""
    if site.is_embedded:
        raise CannotCheck(EMBEDDED)
    if site.cluster is None:
        return await _endpoints_alone(site, deadline)
    cluster = site.cluster
    known = list(dict.fromkeys([*site.target.endpoints, *cluster.pd.endpoints]))
    pds = await site.rt.gather(*(_try_pd(site, cluster.pool, address, deadline) for address in known))
    metas = await cluster.pd.get_all_stores(deadline)
    found = await site.rt.gather(*(_try_store(site, cluster, meta, deadline) for meta in metas))
    return ev.Endpoints((*pds, *found))


async def _endpoints_alone(site: Site, deadline: float) -> ev.Endpoints:
    """Ask the PDs that were named, since no client could connect."""
    tls = site.config.tls
    context = None if tls is None else load_client_tls(tls, server_name=site.config.tls_server_name)
    pool = ConnectionPool(site.rt, tls=context)
    try:
        found = await site.rt.gather(*(_try_pd(site, pool, address, deadline) for address in site.target.endpoints))
    finally:
        await pool.close()
    return ev.Endpoints(tuple(found), site.raw_error or site.txn_error)


async def _try_pd(site: Site, pool: AnyPool, address: str, deadline: float) -> ev.Endpoint:
    began = site.rt.now()
    until = min(deadline - _MARGIN_S, began + _HTTP_S)
    answers = await ask_members(site.rt, pool, [address], until, timeout_s=_HTTP_S, grace_s=0.0)
    took_s = site.rt.now() - began
    if not answers.answers:
        return ev.Endpoint("pd", address, took_s, answers.reasons() or "no answer")
    return ev.Endpoint("pd", address, took_s, is_leader=answers.leader is not None)


async def _try_store(site: Site, cluster: Cluster, meta: Store, deadline: float) -> ev.Endpoint:
    began = site.rt.now()
    until = min(deadline - _MARGIN_S, began + _HTTP_S)
    error = ""
    try:
        await cluster.pool.channel(meta.address, until)  # for the reason; what the service says comes next
        if not await cluster.pool.is_alive(meta.address, until):
            error = f"it does not say that it serves (asked for {site.rt.now() - began:.1f} s)"
    except (TikvError, RpcError) as failure:
        error = str(failure)
    return ev.Endpoint("store", meta.address, site.rt.now() - began, error, store_id=meta.id)


async def certificates(site: Site, deadline: float) -> ev.Certificates:
    """Look at the certificate of every server; without TLS, at who is spoken to in the clear.

    Where a certificate kept the client from connecting, those of the PDs that were named are looked at.
    """
    addresses = list(site.target.endpoints)
    if site.cluster is not None or site.config.tls is None:
        cluster = site.need_cluster()
        metas = await cluster.pd.get_all_stores(deadline)
        addresses = list(dict.fromkeys([*cluster.pd.endpoints, *(meta.address for meta in metas)]))
    if site.config.tls is None:
        hosts = [address for address in addresses if not _is_loopback(address)]
        return ev.Certificates(False, site.rt.time(), plaintext_hosts=tuple(hosts))
    asked = await site.rt.gather(*(_certificate(site, address, deadline) for address in addresses))
    found = tuple(one for one in asked if one is not None)
    if not found:
        raise CannotCheck("no server was reached")
    return ev.Certificates(True, site.rt.time(), found)


async def _certificate(site: Site, address: str, deadline: float) -> ev.Certificate | None:
    """Return what an address shows; None where it was not reached, which says nothing about its certificate."""
    tls = site.config.tls
    assert tls is not None
    timeout_s = min(_HTTP_S, deadline - site.rt.now())
    try:
        expires_at, names = await site.rt.run_blocking(
            peer_certificate, address, tls, site.config.tls_server_name, timeout_s
        )
    except ssl.SSLCertVerificationError as error:
        return ev.Certificate(address, error=str(error))
    except OSError:  # also where the port speaks no TLS, or wants a certificate of ours: it showed none to judge
        return None
    return ev.Certificate(address, expires_at, tuple(names))


def _is_loopback(address: str) -> bool:
    host = split_endpoint(address)[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


async def versions(site: Site, deadline: float) -> ev.Versions:
    """Ask PD and all stores for their versions."""
    config = next((backend.config for backend in (site.raw, site.txn) if backend is not None), site.config)
    pd, by_address = f"pytikv {__version__} (embedded)", {str(site.target): f"pytikv {__version__}"}
    if not site.is_embedded:
        cluster = site.need_cluster()
        by_address = {meta.address: meta.version for meta in await cluster.pd.get_all_stores(deadline)}
        try:
            pd = str((await _pd_page(site, "/pd/api/v1/version", deadline)).get("version", ""))
        except (OSError, ValueError, AttributeError):
            pd = ""
    return ev.Versions(__version__, pd, by_address, config.api_version or 1, config.keyspace or "", site.adapted)


async def _pd_page(site: Site, path: str, deadline: float) -> Any:
    """Return a page of PD's HTTP API. Raises OSError, ValueError."""
    leader = await site.need_cluster().pd.leader(deadline)
    timeout_s = min(_HTTP_S, deadline - site.rt.now())
    config = site.config
    return await site.rt.run_blocking(get_json, leader, path, config.tls, config.tls_server_name, timeout_s)


# --- time -------------------------------------------------------------------------------------------------------------


async def clocks(site: Site, deadline: float) -> ev.Clocks:
    """Take some timestamps, with this machine's clock before and after."""
    txn = site.txn
    if txn is None and site.cluster is None:
        raise CannotCheck(site.txn_error or "no connection")
    samples = []
    for _ in range(10):
        before = site.rt.time()
        ts = await (txn.timestamp(deadline) if txn is not None else site.need_cluster().pd.tso.get(deadline))
        samples.append(ev.ClockSample(before * 1000, ts.physical_ms, site.rt.time() * 1000))
    return ev.Clocks(tuple(samples))


async def latencies(site: Site, deadline: float) -> ev.Latencies:
    """Read one key from each store some times over; stores that lead no region of ours are asked whether they serve."""
    cluster = site.need_cluster()
    metas = await cluster.pd.get_all_stores(deadline)
    led: dict[int, TxnPiece] = {}
    if site.txn is not None:
        low, high = site.txn.codec.encode_range(b"", b"")
        for piece in await site.txn.pieces(low, high, site.txn.call(deadline)):
            led.setdefault(piece.region.leader.store.id, piece)
    probes = [
        _probe_region(site, site.txn, meta, led[meta.id], deadline)
        if site.txn is not None and meta.id in led
        else _probe_service(site, cluster, meta, deadline)
        for meta in metas
    ]
    return ev.Latencies(tuple(await site.rt.gather(*probes)))


async def _probe_region(site: Site, txn: TxnBackend, meta: Store, piece: TxnPiece, deadline: float) -> ev.StoreLatency:
    totals: list[float] = []
    server: list[float] = []
    queued: list[float] = []
    until, error = min(deadline - _MARGIN_S, site.rt.now() + 2 * _HTTP_S), ""
    try:
        request = kvrpcpb.GetRequest(key=piece.start_key or b"\x00", version=await txn.timestamp(until))
        for number in range(_PROBES + 1):
            began = site.rt.now()
            answer = await txn.send(KV_GET, piece.region, request, txn.call(until))
            if number:  # the first one may have opened the connection
                totals.append(site.rt.now() - began)
                detail = answer.exec_details_v2.time_detail_v2
                if detail.total_rpc_wall_time_ns:
                    server.append(detail.total_rpc_wall_time_ns / 1e9)
                    queued.append(detail.wait_wall_time_ns / 1e9)
    except (TikvError, RegionStale) as failure:
        error = str(failure) or "its region moved meanwhile"
    return ev.StoreLatency(meta.id, meta.address, tuple(totals), tuple(server), tuple(queued), error)


async def _probe_service(site: Site, cluster: Cluster, meta: Store, deadline: float) -> ev.StoreLatency:
    totals: list[float] = []
    until = min(deadline - _MARGIN_S, site.rt.now() + 2 * _HTTP_S)
    for number in range(_PROBES + 1):
        began = site.rt.now()
        if not await cluster.pool.is_alive(meta.address, until):
            return ev.StoreLatency(meta.id, meta.address, tuple(totals), error="no answer that it serves")
        if number:
            totals.append(site.rt.now() - began)
    return ev.StoreLatency(meta.id, meta.address, tuple(totals), what="health check")


# --- what PD knows ----------------------------------------------------------------------------------------------------


async def stores(site: Site, deadline: float) -> ev.Stores:
    """Ask PD's HTTP API for the stores' state; where there is none, by gRPC, which tells less."""
    cluster = site.need_cluster()
    try:
        page = await _pd_page(site, "/pd/api/v1/stores", deadline)
        return ev.Stores(tuple(_store_state(entry, site.rt.time()) for entry in page["stores"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        metas = await cluster.pd.get_all_stores(deadline)
        return ev.Stores(tuple(ev.StoreState(meta.id, meta.address, _STATES.get(meta.state, "?")) for meta in metas))


def _store_state(entry: dict[str, Any], now: float) -> ev.StoreState:
    meta, status = entry["store"], entry.get("status", {})
    beat_ns = int(meta.get("last_heartbeat", 0))
    return ev.StoreState(
        int(meta["id"]),
        str(meta["address"]),
        str(meta.get("state_name", "Up")),
        max(0.0, now - beat_ns / 1e9) if beat_ns > 0 else -1.0,
        _bytes(status.get("capacity", 0)),
        _bytes(status.get("available", 0)),
        float(status.get("slow_score", 0)),
    )


def _bytes(text: Any) -> int:
    """Read PD's sizes, such as 19.75GiB."""
    match = re.fullmatch(r"([0-9.]+)\s*([KMGTP]?i?B)", str(text))
    return int(float(match[1]) * _UNITS.get(match[2], 1)) if match else 0


async def balance(site: Site, deadline: float) -> ev.Balance:
    """Count leaders and peers a store, over all regions or the first of them."""
    cluster = site.need_cluster()
    leaders = {meta.id: 0 for meta in await cluster.pd.get_all_stores(deadline) if meta.state == 0}
    peers = dict(leaders)
    regions: list[Region] = []
    start, complete = b"", False
    for _ in range(_REGION_PAGES):
        page = await cluster.pd.scan_regions(start, b"", _PAGE, deadline)
        regions += page
        if not page or not page[-1].end_key:
            complete = True
            break
        start = page[-1].end_key
    for region in regions:
        if region.leader is not None:
            leaders[region.leader.store_id] = leaders.get(region.leader.store_id, 0) + 1
        for peer in region.peers:
            peers[peer.store_id] = peers.get(peer.store_id, 0) + 1
    lost = tuple(region.id for region in regions if region.leader is None)
    down = tuple(region.id for region in regions if region.down_peer_ids)
    return ev.Balance(leaders, peers, len(regions), lost, down, complete)


async def hotspots(site: Site, deadline: float) -> ev.Hotspots:
    """Ask PD for the regions with the most traffic."""
    site.need_cluster()
    found: list[ev.HotRegion] = []
    for kind in ("read", "write"):
        try:
            page = await _pd_page(site, f"/pd/api/v1/hotspot/regions/{kind}", deadline)
            found += _hot_regions(kind, page)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CannotCheck(f"PD tells no hot regions ({error})") from error
    return ev.Hotspots(tuple(sorted(found, key=lambda one: (one.share, one.bytes_rate), reverse=True)))


def _hot_regions(kind: str, page: dict[str, Any]) -> list[ev.HotRegion]:
    statistics = [
        (int(store_id), entry)
        for store_id, store in (page.get("as_leader") or {}).items()
        for entry in store.get("statistics") or ()
    ]
    total = sum(float(entry.get("flow_bytes", 0)) for _, entry in statistics) or 1.0
    return [
        ev.HotRegion(
            kind,
            int(entry["region_id"]),
            store_id,
            float(entry.get("flow_bytes", 0)),
            float(entry.get("flow_query", 0)),
            float(entry.get("flow_bytes", 0)) / total,
        )
        for store_id, entry in statistics
    ]


async def groups(site: Site, deadline: float) -> ev.Groups:
    """Ask PD's resource manager for the groups."""
    cluster = site.need_cluster()
    leader = await cluster.pd.leader(deadline)
    channel = await cluster.pool.channel(leader, deadline)
    request = rmpb.ListResourceGroupsRequest().SerializeToString()
    try:
        data = await channel.unary(b"/resource_manager.ResourceManager/ListResourceGroups", request, deadline=deadline)
    except (RpcError, TikvError) as error:
        raise CannotCheck(f"PD lists no resource groups ({error})") from error
    limits = {
        group.name: (int(group.r_u_settings.r_u.settings.fill_rate), group.r_u_settings.r_u.settings.burst_limit < 0)
        for group in rmpb.ListResourceGroupsResponse.FromString(data).groups
    }
    return ev.Groups(limits, getattr(site.config, "resource_group", None) or "")


async def collection(site: Site, deadline: float) -> ev.Collection:
    """Ask PD for the safe points."""
    txn = site.need_txn()
    safe_points = await txn.gc_state(deadline)
    now = await txn.timestamp(deadline)
    return ev.Collection(
        now, Timestamp(safe_points.txn_safe_point), Timestamp(safe_points.gc_safe_point), safe_points.blocker
    )


# --- this process -----------------------------------------------------------------------------------------------------


async def process(site: Site, deadline: float) -> ev.Process:
    """Measure how late a thread of this process wakes, and look at the connections of all its clients."""
    delays = await site.rt.run_blocking(_wake_delays)
    looks = state.look()
    used: Counter[str] = Counter()
    for look in looks:
        used["open"] += sum(one.in_use + one.idle for one in look.connections)
        used["max"] += look.max_connections
        used["waiting"] += look.waiting
    return ev.Process(
        tuple(delays), threading.active_count(), sys.getswitchinterval(), used["open"], used["max"], used["waiting"]
    )


def _wake_delays() -> list[float]:
    delays = []
    for _ in range(_DELAYS):
        wanted = time.perf_counter() + _TICK_S
        time.sleep(_TICK_S)
        delays.append(max(0.0, time.perf_counter() - wanted))
    return delays
