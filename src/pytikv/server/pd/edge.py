"""Between the wire and PD's logic: decoding, the check of the cluster id, and how refusals are shown.

PD shows a refusal as an error in the header of a normal answer, or as a failed call; `PdError` says which. What every
call but GetMembers and GetClusterInfo checks first is the cluster id. Source: PD server/grpc_service.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.server import PdServer
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import CallInfo, Unary

__all__ = ["Edge", "check_cluster", "decode"]

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)


def decode(message_type: type[M], data: bytes) -> M:
    """Decode a request. Raises RpcError INTERNAL, as gRPC servers do, for bytes that are no such message."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise RpcError(Status.INTERNAL, f"the request is not a {message_type.DESCRIPTOR.name}") from None


def check_cluster(pd: PdServer, header: pdpb.RequestHeader) -> None:
    """Raise RpcError FAILED_PRECONDITION for a request meant for another cluster."""
    if header.cluster_id != pd.cluster_id:
        text = f"mismatch cluster id, need {pd.cluster_id} but got {header.cluster_id}"
        raise RpcError(Status.FAILED_PRECONDITION, text)


class Edge:
    """Makes unary routes of plain functions from request to response message."""

    def __init__(self, rt: Runtime, pd: PdServer) -> None:
        self._rt = rt
        self._pd = pd

    def unary(
        self,
        request_type: type[M],
        response_type: type[R],
        serve: Callable[[M], R],
        *,
        is_checked: bool = True,
        needs_bootstrap: bool = True,
        writes: bool = False,
    ) -> Unary:
        """Return a route. `writes`: `serve` touches the disk and runs off the loop."""

        def answer(request: M) -> bytes:
            response: Any
            try:
                if needs_bootstrap and not self._pd.is_bootstrapped:
                    raise PdError("cluster is not bootstrapped", type=pdpb.NOT_BOOTSTRAPPED)
                response = serve(request)
            except PdError as error:
                if error.type is None:
                    raise RpcError(Status.UNKNOWN, error.message) from None
                response = response_type()
                response.header.error.type = error.type
                response.header.error.message = error.message
            response.header.cluster_id = self._pd.cluster_id
            data: bytes = response.SerializeToString()
            return data

        def handle(data: bytes, info: CallInfo) -> bytes | Awaitable[bytes]:
            request: Any = decode(request_type, data)
            if is_checked:
                check_cluster(self._pd, request.header)
            return self._rt.run_blocking(answer, request) if writes else answer(request)

        return Unary(handle)
