"""The routes of PD's port: pdpb.PD, keyspacepb.Keyspace, resource groups, gRPC health and two calls of etcd.

What is not here answers UNIMPLEMENTED, on which clients fall back (client-go: GetGCState to etcd's Range,
BatchScanRegions to ScanRegions). Scattering does nothing, as there is nowhere to scatter to, and is always finished.
GC is in `gc_service`, regions are in `region_service`. Sources: PD server/grpc_service.go, keyspace_service.go.
"""

from __future__ import annotations

from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.server.health import health_routes
from pytikv.server.metrics.pd import PdMetrics
from pytikv.server.pd.edge import Edge
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.gc_service import gc_routes
from pytikv.server.pd.members import etcd_routes, members
from pytikv.server.pd.region_service import region_routes
from pytikv.server.pd.resource_service import resource_routes
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.tso_service import TsoService
from pytikv.wire.server import Route, Streaming

__all__ = ["pd_routes"]

_MAX_IDS = 1_000_000
"""Most ids of one AllocID."""


def pd_routes(rt: Runtime, pd: PdServer, metrics: PdMetrics | None = None) -> dict[bytes, Route]:
    """Return all routes of PD's port, by path. `metrics` counts the calls."""
    edge = Edge(rt, pd)
    metrics = metrics or PdMetrics(rt.now)
    routes = {
        b"/pdpb.PD/Tso": Streaming(TsoService(rt, pd, metrics).open),
        **_cluster_routes(edge, pd),
        **region_routes(edge, pd),
        **gc_routes(edge, pd),
        **_keyspace_routes(edge, pd),
        **resource_routes(rt, pd.resource_groups),
        **etcd_routes(pd),
        **health_routes(),
    }
    return metrics.counted(routes)


def _cluster_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    def get_members(request: pdpb.GetMembersRequest) -> pdpb.GetMembersResponse:
        return members(pd)

    def get_cluster_info(request: pdpb.GetClusterInfoRequest) -> pdpb.GetClusterInfoResponse:
        return pdpb.GetClusterInfoResponse(serviceModes=[pdpb.PD_SVC_MODE])

    def is_bootstrapped(request: pdpb.IsBootstrappedRequest) -> pdpb.IsBootstrappedResponse:
        return pdpb.IsBootstrappedResponse(bootstrapped=pd.is_bootstrapped)

    def get_cluster_config(request: pdpb.GetClusterConfigRequest) -> pdpb.GetClusterConfigResponse:
        cluster = metapb.Cluster(id=pd.cluster_id, max_peer_count=pd.config.max_replicas)
        return pdpb.GetClusterConfigResponse(cluster=cluster)

    def get_store(request: pdpb.GetStoreRequest) -> pdpb.GetStoreResponse:
        store = pd.stores.get(request.store_id)
        return pdpb.GetStoreResponse(store=store.meta, stats=store.stats)

    def get_all_stores(request: pdpb.GetAllStoresRequest) -> pdpb.GetAllStoresResponse:
        stores = pd.stores.all(exclude_tombstones=request.exclude_tombstone_stores)
        return pdpb.GetAllStoresResponse(stores=[store.meta for store in stores])

    def alloc_id(request: pdpb.AllocIDRequest) -> pdpb.AllocIDResponse:
        count = request.count or 1
        if count > _MAX_IDS:
            raise PdError(f"more than {_MAX_IDS} ids asked for", type=pdpb.INVALID_VALUE)
        return pdpb.AllocIDResponse(id=pd.alloc_id(count), count=count if count > 1 else 0)

    unary = edge.unary
    return {
        b"/pdpb.PD/GetMembers": unary(
            pdpb.GetMembersRequest, pdpb.GetMembersResponse, get_members, is_checked=False, needs_bootstrap=False
        ),
        b"/pdpb.PD/GetClusterInfo": unary(
            pdpb.GetClusterInfoRequest,
            pdpb.GetClusterInfoResponse,
            get_cluster_info,
            is_checked=False,
            needs_bootstrap=False,
        ),
        b"/pdpb.PD/IsBootstrapped": unary(
            pdpb.IsBootstrappedRequest, pdpb.IsBootstrappedResponse, is_bootstrapped, needs_bootstrap=False
        ),
        b"/pdpb.PD/AllocID": unary(
            pdpb.AllocIDRequest, pdpb.AllocIDResponse, alloc_id, needs_bootstrap=False, writes=True
        ),
        b"/pdpb.PD/GetClusterConfig": unary(
            pdpb.GetClusterConfigRequest, pdpb.GetClusterConfigResponse, get_cluster_config
        ),
        b"/pdpb.PD/GetStore": unary(pdpb.GetStoreRequest, pdpb.GetStoreResponse, get_store),
        b"/pdpb.PD/GetAllStores": unary(pdpb.GetAllStoresRequest, pdpb.GetAllStoresResponse, get_all_stores),
        **_scatter_routes(edge, pd),
    }


def _scatter_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    def scatter_region(request: pdpb.ScatterRegionRequest) -> pdpb.ScatterRegionResponse:
        is_known = request.regions_id or request.HasField("region") or pd.regions.get(request.region_id)
        if not is_known:
            raise PdError(f"region {request.region_id} not found", type=pdpb.REGION_NOT_FOUND)
        return pdpb.ScatterRegionResponse(finished_percentage=100)

    def get_operator(request: pdpb.GetOperatorRequest) -> pdpb.GetOperatorResponse:
        if pd.regions.get(request.region_id) is None:
            raise PdError("Not Found", type=pdpb.REGION_NOT_FOUND)
        return pdpb.GetOperatorResponse(region_id=request.region_id, desc=b"scatter-region", status=pdpb.SUCCESS)

    return {
        b"/pdpb.PD/ScatterRegion": edge.unary(pdpb.ScatterRegionRequest, pdpb.ScatterRegionResponse, scatter_region),
        b"/pdpb.PD/GetOperator": edge.unary(pdpb.GetOperatorRequest, pdpb.GetOperatorResponse, get_operator),
    }


def _keyspace_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    def load(request: keyspacepb.LoadKeyspaceRequest) -> keyspacepb.LoadKeyspaceResponse:
        return keyspacepb.LoadKeyspaceResponse(keyspace=pd.keyspaces.by_name(request.name))

    def load_by_id(request: keyspacepb.LoadKeyspaceByIDRequest) -> keyspacepb.LoadKeyspaceResponse:
        return keyspacepb.LoadKeyspaceResponse(keyspace=pd.keyspaces.by_id(request.id))

    response = keyspacepb.LoadKeyspaceResponse
    return {
        b"/keyspacepb.Keyspace/LoadKeyspace": edge.unary(keyspacepb.LoadKeyspaceRequest, response, load),
        b"/keyspacepb.Keyspace/LoadKeyspaceByID": edge.unary(keyspacepb.LoadKeyspaceByIDRequest, response, load_by_id),
    }
