"""What PD counts while it works. `pd_pages` shows it. Belongs to the loop.

Calls are counted around their routes, as go-grpc-prometheus does it; of the stream of timestamps each request counts
as a message, and as a request handled.

Sources: PD server/metrics.go, server/grpc_service.go; go-grpc-prometheus for ``grpc_server_*``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from pytikv.server.metrics.model import Histogram, exponential
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import CallInfo, Route, Unary

__all__ = ["CallKey", "PdMetrics"]

_TSO: Final = exponential(0.0005, 2, 13)
_TSO_BATCH: Final = exponential(1, 2, 13)
_DEFAULT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CallKey = tuple[str, str]
"""Service and method."""


class PdMetrics:
    """The counts of one PD. `now`: a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.tso_durations = Histogram(_TSO)
        self.tso_batches = Histogram(_TSO_BATCH)
        self.tso_streams = 0
        self.started: defaultdict[CallKey, int] = defaultdict(int)
        self.handled: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """By service, method and the name of the status in Go's spelling."""
        self.durations: defaultdict[CallKey, Histogram] = defaultdict(lambda: Histogram(_DEFAULT))

    def counted(self, routes: dict[bytes, Route]) -> dict[bytes, Route]:
        """Return the routes with their unary ones counted."""
        return {
            path: Unary(self._counted(_key(path), route.handler)) if isinstance(route, Unary) else route
            for path, route in routes.items()
        }

    def _counted(
        self, key: CallKey, handler: Callable[[bytes, CallInfo], bytes | Awaitable[bytes]]
    ) -> Callable[[bytes, CallInfo], bytes | Awaitable[bytes]]:
        def handle(request: bytes, info: CallInfo) -> bytes | Awaitable[bytes]:
            began = self.now()
            self.started[key] += 1
            try:
                answer = handler(request, info)
            except RpcError as error:
                self._done(key, began, error.status)
                raise
            if isinstance(answer, bytes):
                self._done(key, began, Status.OK)
                return answer
            return self._await(key, began, answer)

        return handle

    async def _await(self, key: CallKey, began: float, answer: Awaitable[bytes]) -> bytes:
        status: int = Status.CANCELLED
        try:
            body = await answer
            status = Status.OK
        except RpcError as error:
            status = error.status
            raise
        finally:
            self._done(key, began, status)
        return body

    def _done(self, key: CallKey, began: float, status: int) -> None:
        self.handled[*key, _go_name(status)] += 1
        self.durations[key].observe(self.now() - began)


def _key(path: bytes) -> CallKey:
    service, _, method = path[1:].decode().partition("/")
    return service, method


def _go_name(status: int) -> str:
    name = Status(status).name
    return name if status == Status.OK else "".join(word.capitalize() for word in name.split("_"))
