"""The routes of PD's port: pdpb.PD, keyspacepb.Keyspace, gRPC health and the two calls of etcd.

What is not here answers UNIMPLEMENTED, on which clients fall back (client-go: GetGCState to etcd's Range,
BatchScanRegions to ScanRegions). Scattering does nothing, as there is nowhere to scatter to, and is always finished.
Sources: PD server/grpc_service.go, gc_service.go, keyspace_service.go.
"""

from __future__ import annotations

from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.server.health import health_routes
from pytikv.server.pd.edge import Edge
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.members import etcd_routes, members
from pytikv.server.pd.region_service import region_routes
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.tso_service import TsoService
from pytikv.wire.server import Route, Streaming

__all__ = ["pd_routes"]

_MAX_IDS = 1_000_000
"""Most ids of one AllocID."""


def pd_routes(rt: Runtime, pd: PdServer) -> dict[bytes, Route]:
    """Return all routes of PD's port, by path."""
    edge = Edge(rt, pd)
    return {
        b"/pdpb.PD/Tso": Streaming(TsoService(rt, pd).open),
        **_cluster_routes(edge, pd),
        **region_routes(edge, pd),
        **_gc_routes(edge, pd),
        **_keyspace_routes(edge, pd),
        **etcd_routes(pd),
        **health_routes(),
    }


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


def _gc_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    def get_gc_safe_point(request: pdpb.GetGCSafePointRequest) -> pdpb.GetGCSafePointResponse:
        return pdpb.GetGCSafePointResponse(safe_point=pd.gc_states.gc_safe_point)

    def update_gc_safe_point(request: pdpb.UpdateGCSafePointRequest) -> pdpb.UpdateGCSafePointResponse:
        return pdpb.UpdateGCSafePointResponse(new_safe_point=pd.update_gc_safe_point(request.safe_point))

    def update_service(
        request: pdpb.UpdateServiceGCSafePointRequest,
    ) -> pdpb.UpdateServiceGCSafePointResponse:
        service_id = request.service_id.decode("utf-8", "surrogateescape")
        lowest = pd.update_service_gc_safe_point(service_id, request.TTL, request.safe_point)
        return pdpb.UpdateServiceGCSafePointResponse(
            service_id=lowest.service_id.encode("utf-8", "surrogateescape"),
            TTL=lowest.ttl_s,
            min_safe_point=lowest.safe_point,
        )

    def get_gc_state(request: pdpb.GetGCStateRequest) -> pdpb.GetGCStateResponse:
        return _gc_state(pd, request)

    unary = edge.unary
    return {
        b"/pdpb.PD/GetGCSafePoint": unary(pdpb.GetGCSafePointRequest, pdpb.GetGCSafePointResponse, get_gc_safe_point),
        b"/pdpb.PD/UpdateGCSafePoint": unary(
            pdpb.UpdateGCSafePointRequest, pdpb.UpdateGCSafePointResponse, update_gc_safe_point, writes=True
        ),
        b"/pdpb.PD/UpdateServiceGCSafePoint": unary(
            pdpb.UpdateServiceGCSafePointRequest, pdpb.UpdateServiceGCSafePointResponse, update_service, writes=True
        ),
        b"/pdpb.PD/GetGCState": unary(pdpb.GetGCStateRequest, pdpb.GetGCStateResponse, get_gc_state),
    }


def _gc_state(pd: PdServer, request: pdpb.GetGCStateRequest) -> pdpb.GetGCStateResponse:
    """Answer with the one state that all keyspaces share; PD names the null keyspace as its scope."""
    states, now_s = pd.gc_states, int(pd.now_s())
    barriers = [] if request.exclude_gc_barriers else states.barriers(now_s)
    response = pdpb.GetGCStateResponse(
        gc_state=pdpb.GCState(
            keyspace_scope=pdpb.KeyspaceScope(keyspace_id=0xFFFFFFFF),
            txn_safe_point=states.txn_safe_point,
            gc_safe_point=states.gc_safe_point,
            gc_barriers=[
                pdpb.GCBarrierInfo(barrier_id=b.service_id, barrier_ts=b.ts, ttl_seconds=b.expires_at_s - now_s)
                for b in barriers
            ],
        )
    )
    if request.include_global_gc_barriers:
        response.global_gc_barriers.SetInParent()
    return response


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
