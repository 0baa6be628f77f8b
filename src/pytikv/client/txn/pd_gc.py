"""PD's part in garbage collection and in moving regions about.

Two safe points: no transaction begins, reads or writes below `txn_safe_point`; data below `gc_safe_point` may be gone.
The first is raised as far as barriers allow, then the locks below it are resolved, then the second follows. PD speaks
of both since 8.5.2 or so. An older one, which refuses the calls as unimplemented, is asked in its own words, for good:
the transaction safe point is what UpdateServiceGCSafePoint allows the service `gc_worker`, a barrier is another
service's safe point. Such a PD does not tell the transaction safe point by itself; the GC safe point stands for it.

Keyspaces have safe points of their own only where PD says so (`is_keyspace_level_gc`); all others share those of the
cluster. A client of API v2 asks once.

Sources: pd server/gc_service.go, pkg/gc/gc_state_manager.go; client-go tikv/gc.go, tikv/split_region.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from pytikv.client.txn.backend import GcState
from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.errors import InvalidArgument, ServerError, UnsupportedByServer
from pytikv.proto import pdpb_pb2 as pdpb

__all__ = ["PdGc"]

_PD: Final = "/pdpb.PD/"
_GC_WORKER: Final = b"gc_worker"
_FOREVER_S: Final = (1 << 63) - 1
_SCATTER: Final = b"scatter-region"


class Caller(Protocol):
    """What is used of `PdClient`."""

    async def call(self, path: str, request: Any, response: Callable[[bytes], Any], deadline: float) -> Any:
        """Send a request to the leader until it is answered."""
        ...


class PdGc:
    """The safe points of one keyspace. Safe for many threads and tasks. Errors: those of `PdClient`."""

    def __init__(self, pd: Caller, keyspace_id: int) -> None:
        self._pd = pd
        self._keyspace_id = keyspace_id
        self._is_own: bool | None = False if keyspace_id == NULL_KEYSPACE_ID else None
        self._is_old = False

    async def _call(self, method: str, request: Any, deadline: float) -> Any:
        response = getattr(pdpb, f"{method}Response")
        return await self._pd.call(_PD + method, request, response.FromString, deadline)

    async def state(self, deadline: float) -> GcState:
        """Return both safe points."""
        if not self._is_old:
            try:
                answer = await self._call("GetGCState", self._state_request(), deadline)
            except UnsupportedByServer:
                self._is_old = True
            else:
                state = answer.gc_state
                self._is_own = self._is_own is not False and state.is_keyspace_level_gc
                return GcState(state.txn_safe_point, state.gc_safe_point)
        answer = await self._call("GetGCSafePoint", pdpb.GetGCSafePointRequest(), deadline)
        return GcState(answer.safe_point, answer.safe_point)

    def _state_request(self) -> pdpb.GetGCStateRequest:
        request = pdpb.GetGCStateRequest(exclude_gc_barriers=True)
        if self._is_own is not False:
            request.keyspace_scope.keyspace_id = self._keyspace_id
        return request

    async def _scoped(self, request: Any, deadline: float) -> Any:
        """Name the keyspace in a request, where it has safe points of its own."""
        if self._is_own is None:
            await self.state(deadline)
        if self._is_own:
            request.keyspace_scope.keyspace_id = self._keyspace_id
        return request

    async def advance_txn_safe_point(self, target: int, deadline: float) -> GcState:
        """Raise the transaction safe point as far as barriers allow; one that is there already stays where it is."""
        try:
            return await self._advance_txn(target, deadline)
        except ServerError:
            state = await self.state(deadline)
            if state.txn_safe_point < target:
                raise
            return state

    async def _advance_txn(self, target: int, deadline: float) -> GcState:
        if not self._is_old:
            try:
                request = await self._scoped(pdpb.AdvanceTxnSafePointRequest(target=target), deadline)
                answer = await self._call("AdvanceTxnSafePoint", request, deadline)
            except UnsupportedByServer:
                self._is_old = True
            else:
                state = await self.state(deadline)
                return GcState(answer.new_txn_safe_point, state.gc_safe_point, answer.blocker_description)
        lowest = await self._update_service(_GC_WORKER, target, _FOREVER_S, deadline)
        state = await self.state(deadline)
        blocker = f"service safe point {lowest}" if lowest < target else ""
        return GcState(min(target, lowest), state.gc_safe_point, blocker)

    async def advance_gc_safe_point(self, target: int, deadline: float) -> GcState:
        """Raise the GC safe point; PD refuses one above the transaction safe point."""
        try:
            return await self._advance_gc(target, deadline)
        except ServerError:
            state = await self.state(deadline)
            if state.gc_safe_point < target:
                raise
            return state

    async def _advance_gc(self, target: int, deadline: float) -> GcState:
        if not self._is_old:
            try:
                request = await self._scoped(pdpb.AdvanceGCSafePointRequest(target=target), deadline)
                answer = await self._call("AdvanceGCSafePoint", request, deadline)
            except UnsupportedByServer:
                self._is_old = True
            else:
                state = await self.state(deadline)
                return GcState(state.txn_safe_point, answer.new_gc_safe_point)
        answer = await self._call("UpdateGCSafePoint", pdpb.UpdateGCSafePointRequest(safe_point=target), deadline)
        return GcState(answer.new_safe_point, answer.new_safe_point)

    async def set_barrier(self, barrier_id: str, barrier_ts: int, ttl_s: int, deadline: float) -> None:
        """Hold the transaction safe point at `barrier_ts`. Raises InvalidArgument where it is past that already."""
        if not self._is_old:
            fields = pdpb.SetGCBarrierRequest(barrier_id=barrier_id, barrier_ts=barrier_ts, ttl_seconds=ttl_s)
            try:
                await self._call("SetGCBarrier", await self._scoped(fields, deadline), deadline)
                return
            except UnsupportedByServer:
                self._is_old = True
            except ServerError as error:
                state = await self.state(deadline)
                if state.txn_safe_point <= barrier_ts:
                    raise
                raise InvalidArgument(_behind(barrier_ts, state.txn_safe_point)) from error
        lowest = await self._update_service(barrier_id.encode(), barrier_ts, ttl_s, deadline)
        if lowest > barrier_ts:
            raise InvalidArgument(_behind(barrier_ts, lowest))

    async def delete_barrier(self, barrier_id: str, deadline: float) -> None:
        """Remove a barrier; one that is not there is no error."""
        if not self._is_old:
            try:
                request = await self._scoped(pdpb.DeleteGCBarrierRequest(barrier_id=barrier_id), deadline)
                await self._call("DeleteGCBarrier", request, deadline)
                return
            except UnsupportedByServer:
                self._is_old = True
        await self._update_service(barrier_id.encode(), 0, 0, deadline)  # without time to live it is removed

    async def _update_service(self, service_id: bytes, safe_point: int, ttl_s: int, deadline: float) -> int:
        """Set a service's safe point; returns the lowest of all."""
        request = pdpb.UpdateServiceGCSafePointRequest(service_id=service_id, TTL=ttl_s, safe_point=safe_point)
        answer = await self._call("UpdateServiceGCSafePoint", request, deadline)
        lowest: int = answer.min_safe_point
        return lowest

    async def scatter_region(self, region_id: int, deadline: float) -> None:
        """Ask for a region's peers to be spread over the stores; PD does so in its own time."""
        request = pdpb.ScatterRegionRequest(regions_id=[region_id], region_id=region_id)  # in both words, new and old
        await self._call("ScatterRegion", request, deadline)

    async def is_scattered(self, region_id: int, deadline: float) -> bool:
        """Tell whether a region has no scattering under way."""
        answer = await self._call("GetOperator", pdpb.GetOperatorRequest(region_id=region_id), deadline)
        return bool(answer.desc != _SCATTER or answer.status != pdpb.RUNNING)


def _behind(barrier_ts: int, safe_point: int) -> str:
    return f"a GC barrier at {barrier_ts} comes too late: the transaction safe point is at {safe_point}"
