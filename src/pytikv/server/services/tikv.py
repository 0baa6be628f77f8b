"""The routes of a store's port: tikvpb.Tikv.

What is not here answers UNIMPLEMENTED. Health is `server.health`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from pytikv.errors import StorageError
from pytikv.rt.interface import Future, Runtime
from pytikv.server.services.batch_commands import BatchCommands
from pytikv.server.services.durable import DurableGate
from pytikv.server.services.kv_service import Handler, KvService
from pytikv.server.services.lock_waits import LockWaits
from pytikv.server.services.outcome import Blocking, Durable, Outcome, Waits
from pytikv.wire.errors import RpcError
from pytikv.wire.server import CallInfo, Route, Streaming, Unary

__all__ = ["AsyncKvService", "routes_of", "tikv_routes"]

_SERVICE = b"/tikvpb.Tikv/"


class AsyncKvService:
    """A `KvService` on a loop: `handle` is what the routes call, and what a test calls without a wire."""

    def __init__(self, rt: Runtime, service: KvService) -> None:
        self.rt = rt
        self.service = service
        self.gate = DurableGate(rt, service.engine, service.durable, service.metrics)
        self.waits = LockWaits(rt, service.store.txn)

    def handle(self, rpc: str, request: bytes) -> bytes | Awaitable[bytes]:
        """Carry out an RPC: the answer at once, or what to await for it. Raises RpcError."""
        return self._finish(rpc, self.service.execute(rpc, request))

    def _finish(self, rpc: str, outcome: Outcome) -> bytes | Awaitable[bytes]:
        arrived = self.service.clock.arrived
        if isinstance(outcome, bytes):
            return self.service.measures.leave_one(rpc, outcome, arrived)
        return self._finish_late(rpc, outcome, arrived)

    async def _finish_late(self, rpc: str, outcome: Durable | Blocking | Waits, arrived: float) -> bytes:
        result = outcome if isinstance(outcome, Durable) else await self.complete(outcome)
        if isinstance(result, Durable):
            error = await self._when_durable(result.ticket)
            if error is not None:
                return self.service.not_durable(error)
            result = result.body
        return self.service.measures.leave_one(rpc, result, arrived)

    async def complete(self, outcome: Blocking | Waits) -> bytes | Durable:
        """Run what is to be run off the loop, or wait for what waits for a lock."""
        metrics = self.service.metrics
        metrics.pending += 1
        try:
            if isinstance(outcome, Blocking):
                return await self.rt.run_blocking(outcome.run)
            return outcome.finish(await self.waits.finish(outcome.waiting))
        finally:
            metrics.pending -= 1

    async def _when_durable(self, ticket: int) -> StorageError | None:
        told: Future[StorageError | None] = self.rt.create_future()

        def tell(error: StorageError | None) -> None:
            if not told.done():
                told.set_result(error)

        self.gate.when_durable(ticket, tell)
        return await self.rt.wait(told, None)  # ends with the flush, and the call's own deadline cancels it

    def unary(self, rpc: str, handler: Handler) -> Unary:
        """Return the route of one RPC."""

        def handle(request: bytes, info: CallInfo) -> Any:
            self.service.clock.arrive()
            try:
                return self._finish(rpc, handler(request))
            except RpcError:
                self.service.measures.failed(rpc)
                raise

        return Unary(handle)


def tikv_routes(rt: Runtime, service: KvService) -> dict[bytes, Route]:
    """Return the routes of a store's port, by path."""
    return routes_of(AsyncKvService(rt, service))


def routes_of(on_loop: AsyncKvService) -> dict[bytes, Route]:
    """Return the routes of a service that is on its loop already."""
    routes: dict[bytes, Route] = {
        _SERVICE + name.encode(): on_loop.unary(name, handler) for name, handler in on_loop.service.handlers.items()
    }
    routes[_SERVICE + b"BatchCommands"] = Streaming(lambda stream: BatchCommands(on_loop, stream))
    return routes
