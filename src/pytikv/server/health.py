"""gRPC's health service, for PD's port and the store's alike.

The service named ``""`` is the whole server; others are unknown. A watch gets the present status and then stays open:
the status changes only when the server stops, which ends the call. That the client has half-closed ends nothing: it has
no more to say, and goes on listening.
Source: grpc/grpc-proto grpc/health/v1/health.proto.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from pytikv.proto import health_pb2 as health
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import CallInfo, Route, ServerStream, StreamHandler, Streaming, Unary

__all__ = ["health_routes"]


def health_routes() -> dict[bytes, Route]:
    """Return the routes of the health service."""
    return {b"/grpc.health.v1.Health/Check": Unary(_check), b"/grpc.health.v1.Health/Watch": Streaming(_Watch)}


def _check(request: bytes, info: CallInfo) -> bytes:
    if _service(request):
        raise RpcError(Status.NOT_FOUND, "unknown service")
    return health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING).SerializeToString()


def _service(request: bytes) -> str:
    try:
        return health.HealthCheckRequest.FromString(request).service
    except DecodeError:
        raise RpcError(Status.INTERNAL, "the request is not a HealthCheckRequest") from None


class _Watch(StreamHandler):
    def __init__(self, stream: ServerStream) -> None:
        self._stream = stream

    def on_message(self, message: bytes) -> None:
        known = not _service(message)
        status = health.HealthCheckResponse.SERVING if known else health.HealthCheckResponse.SERVICE_UNKNOWN
        self._stream.send(health.HealthCheckResponse(status=status).SerializeToString())
