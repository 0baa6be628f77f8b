"""The routes of garbage collection, in PD's two languages: service safe points, and GC states with barriers.

Both speak of the same states (`pd.gc`). All keyspaces share one, PD's default: asking for a keyspace's, or setting a
barrier for it, is answered with the shared one, and only the null keyspace's safe points may be advanced. The newer
calls show a refusal in the header, the older ones as a failed call, each as PD does. What is not here (barriers over
all keyspaces, states of all keyspaces, watching) answers UNIMPLEMENTED: with one shared state they say nothing more.

Source: PD server/gc_service.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.pd.edge import Edge
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.gc import FOREVER_S, Barrier
from pytikv.server.pd.server import PdServer
from pytikv.wire.server import Route

__all__ = ["gc_routes"]

T = TypeVar("T")


def gc_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    """Return the routes by path."""
    return {**_old_routes(edge, pd), **_new_routes(edge, pd)}


def _old_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
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

    unary = edge.unary
    return {
        b"/pdpb.PD/GetGCSafePoint": unary(pdpb.GetGCSafePointRequest, pdpb.GetGCSafePointResponse, get_gc_safe_point),
        b"/pdpb.PD/UpdateGCSafePoint": unary(
            pdpb.UpdateGCSafePointRequest, pdpb.UpdateGCSafePointResponse, update_gc_safe_point, writes=True
        ),
        b"/pdpb.PD/UpdateServiceGCSafePoint": unary(
            pdpb.UpdateServiceGCSafePointRequest, pdpb.UpdateServiceGCSafePointResponse, update_service, writes=True
        ),
    }


def _new_routes(edge: Edge, pd: PdServer) -> dict[bytes, Route]:
    def get_gc_state(request: pdpb.GetGCStateRequest) -> pdpb.GetGCStateResponse:
        return _gc_state(pd, request)

    def advance_txn(request: pdpb.AdvanceTxnSafePointRequest) -> pdpb.AdvanceTxnSafePointResponse:
        _check_null_keyspace(request)
        moved = _in_header(lambda: pd.advance_txn_safe_point(request.target))
        return pdpb.AdvanceTxnSafePointResponse(
            old_txn_safe_point=moved.old,
            new_txn_safe_point=moved.new,
            blocker_description="" if moved.blocker is None else _describe(moved.blocker),
        )

    def advance_gc(request: pdpb.AdvanceGCSafePointRequest) -> pdpb.AdvanceGCSafePointResponse:
        _check_null_keyspace(request)
        moved = _in_header(lambda: pd.advance_gc_safe_point(request.target))
        return pdpb.AdvanceGCSafePointResponse(old_gc_safe_point=moved.old, new_gc_safe_point=moved.new)

    def set_barrier(request: pdpb.SetGCBarrierRequest) -> pdpb.SetGCBarrierResponse:
        barrier = _in_header(lambda: pd.set_gc_barrier(request.barrier_id, request.barrier_ts, request.ttl_seconds))
        return pdpb.SetGCBarrierResponse(new_barrier_info=_info(barrier, int(pd.now_s())))

    def delete_barrier(request: pdpb.DeleteGCBarrierRequest) -> pdpb.DeleteGCBarrierResponse:
        barrier = _in_header(lambda: pd.delete_gc_barrier(request.barrier_id))
        return pdpb.DeleteGCBarrierResponse(
            deleted_barrier_info=None if barrier is None else _info(barrier, int(pd.now_s()))
        )

    unary = edge.unary
    return {
        b"/pdpb.PD/GetGCState": unary(pdpb.GetGCStateRequest, pdpb.GetGCStateResponse, get_gc_state),
        b"/pdpb.PD/AdvanceTxnSafePoint": unary(
            pdpb.AdvanceTxnSafePointRequest, pdpb.AdvanceTxnSafePointResponse, advance_txn, writes=True
        ),
        b"/pdpb.PD/AdvanceGCSafePoint": unary(
            pdpb.AdvanceGCSafePointRequest, pdpb.AdvanceGCSafePointResponse, advance_gc, writes=True
        ),
        b"/pdpb.PD/SetGCBarrier": unary(pdpb.SetGCBarrierRequest, pdpb.SetGCBarrierResponse, set_barrier, writes=True),
        b"/pdpb.PD/DeleteGCBarrier": unary(
            pdpb.DeleteGCBarrierRequest, pdpb.DeleteGCBarrierResponse, delete_barrier, writes=True
        ),
    }


def _in_header(change: Callable[[], T]) -> T:
    """Make a refusal one that is shown in the header."""
    try:
        return change()
    except PdError as error:
        raise PdError(error.message, type=pdpb.UNKNOWN) from None


def _check_null_keyspace(request: pdpb.AdvanceTxnSafePointRequest | pdpb.AdvanceGCSafePointRequest) -> None:
    keyspace_id = request.keyspace_scope.keyspace_id
    if request.HasField("keyspace_scope") and keyspace_id != NULL_KEYSPACE_ID:
        text = f"[PD:gc:ErrGCOnInvalidKeyspace]trying to manage GC in keyspace {keyspace_id} where keyspace level GC "
        raise PdError(f"{text}is not enabled", type=pdpb.UNKNOWN)


def _gc_state(pd: PdServer, request: pdpb.GetGCStateRequest) -> pdpb.GetGCStateResponse:
    """Answer with the one state that all keyspaces share; PD names the null keyspace as its scope."""
    states, now_s = pd.gc_states, int(pd.now_s())
    barriers = [] if request.exclude_gc_barriers else states.barriers(now_s)
    response = pdpb.GetGCStateResponse(
        gc_state=pdpb.GCState(
            keyspace_scope=pdpb.KeyspaceScope(keyspace_id=NULL_KEYSPACE_ID),
            txn_safe_point=states.txn_safe_point,
            gc_safe_point=states.gc_safe_point,
            gc_barriers=[_info(barrier, now_s) for barrier in barriers],
        )
    )
    if request.include_global_gc_barriers:
        response.global_gc_barriers.SetInParent()
    return response


def _info(barrier: Barrier, now_s: int) -> pdpb.GCBarrierInfo:
    ttl_s = FOREVER_S if barrier.expires_at_s == FOREVER_S else barrier.expires_at_s - now_s
    return pdpb.GCBarrierInfo(barrier_id=barrier.service_id, barrier_ts=barrier.ts, ttl_seconds=ttl_s)


def _describe(barrier: Barrier) -> str:
    fields = f"BarrierID: {barrier.service_id}, BarrierTS: {barrier.ts}, ExpirationTime: {barrier.expires_at_s}"
    return f"GCBarrier {{ {fields} }}"
