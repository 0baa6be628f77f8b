"""From pdpb and metapb messages to the values of `types`, and the headers between: no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.types import Peer, Region, Store

__all__ = ["HasRegion", "peer_from", "region_from", "regions_from_scan", "store_from"]


class HasRegion(Protocol):
    """What GetRegionResponse, pdpb.Region and RegionResponse have in common."""

    @property
    def region(self) -> metapb.Region:
        """Range, epoch and peers."""
        ...

    @property
    def leader(self) -> metapb.Peer:
        """The leader; empty where there is none."""
        ...

    @property
    def down_peers(self) -> Iterable[pdpb.PeerStats]:
        """Peers that do not answer their leader."""
        ...

    @property
    def pending_peers(self) -> Iterable[metapb.Peer]:
        """Peers that lag behind."""
        ...


def peer_from(peer: metapb.Peer) -> Peer:
    """Convert a peer."""
    return Peer(peer.id, peer.store_id, peer.role, peer.is_witness)


def _region(
    meta: metapb.Region,
    leader: metapb.Peer | None,
    down: frozenset[int] = frozenset(),
    pending: frozenset[int] = frozenset(),
) -> Region:
    peers = tuple(peer_from(peer) for peer in meta.peers)
    # An empty peer stands for "no leader": PD fills the field all the same.
    led_by = peer_from(leader) if leader is not None and leader.id else None
    epoch = meta.region_epoch
    return Region(meta.id, meta.start_key, meta.end_key, epoch.conf_ver, epoch.version, peers, led_by, down, pending)


def region_from(found: HasRegion) -> Region | None:
    """Convert an answer of PD about one region; None where it holds none (no such region)."""
    if not found.region.id:
        return None
    down = frozenset(stats.peer.id for stats in found.down_peers)
    pending = frozenset(peer.id for peer in found.pending_peers)
    return _region(found.region, found.leader, down, pending)


def regions_from_scan(response: pdpb.ScanRegionsResponse) -> list[Region]:
    """Convert the answer to ScanRegions, also that of a PD that fills the two old lists only."""
    if response.regions:
        return [region for found in response.regions if (region := region_from(found)) is not None]
    leaders: list[metapb.Peer | None] = list(response.leaders)
    leaders.extend([None] * (len(response.region_metas) - len(leaders)))
    return [_region(meta, leader) for meta, leader in zip(response.region_metas, leaders, strict=False)]


def store_from(store: metapb.Store) -> Store:
    """Convert a store."""
    labels = tuple((label.key, label.value) for label in store.labels)
    return Store(store.id, store.address, store.status_address, labels, store.state, store.version)
