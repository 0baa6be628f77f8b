"""Functions of the application around every RPC to a store: `connect(..., interceptors=(first, second))`.

    async def audit(rpc: pytikv.RpcInfo, proceed: pytikv.Proceed) -> bytes:
        answer = await proceed(rpc)
        log.info("%s at %s: %d bytes", rpc.name, rpc.address, len(answer))
        return answer

They stand around each other like the skins of an onion: the first one given is entered first and left last, and the
innermost `proceed` is the RPC itself, a connection to the store included. Each try of a call is an RPC of its own. An
interceptor may wait, change the request (`rpc.with_request`), answer in the RPC's place by not calling `proceed`, or
raise. One that is no `async def`, or returns no bytes, fails the call (WrongType). `proceed` may be awaited more than
once; that is on the interceptor's head.

Requests and answers are serialized messages of the RPC's type (kvproto's kvrpcpb), as on the wire. RPCs to PD are not
intercepted. What an interceptor raises ends the call as it is, but for the connection's own errors, which are retried
as ever; of a write that had been sent it never says that it was not applied.

No I/O in here. Source of the idea: client-go tikvrpc/interceptor/interceptor.go.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Interceptor", "Proceed", "RpcInfo", "region_of"]

_CONTEXT = 0x0A  # field 1 of every request to a store: its kvrpcpb.Context
_REGION_ID = 0x08  # field 1 in there, which is written first


class RpcInfo:
    """One RPC to a store, about to be sent. Immutable."""

    __slots__ = ("address", "deadline", "is_write", "name", "request")

    def __init__(self, name: str, address: str, *, is_write: bool, deadline: float, request: bytes) -> None:
        self.name = name
        """As in kvproto's service, such as ``KvGet`` or ``RawPut``."""
        self.address = address
        """`host:port` of the store."""
        self.is_write = is_write
        """Whether the RPC may change data."""
        self.deadline = deadline
        """When the RPC must be over, by the client's monotonic clock (`time.monotonic`)."""
        self.request = request
        """The serialized request, its context included. May hold keys and values."""

    @property
    def region_id(self) -> int:
        """The region asked for; 0 where the request is for the store as a whole. Read from the request when asked."""
        return region_of(self.request)

    def with_request(self, request: bytes) -> RpcInfo:
        """Return the same RPC with another serialized request, to `proceed` with."""
        return RpcInfo(self.name, self.address, is_write=self.is_write, deadline=self.deadline, request=request)

    def __repr__(self) -> str:
        return f"RpcInfo({self.name!r}, {self.address!r}, is_write={self.is_write}, {len(self.request)} bytes)"


Proceed = Callable[[RpcInfo], Coroutine[Any, Any, bytes]]
"""Goes on with an RPC and returns the serialized answer."""

Interceptor = Callable[[RpcInfo, Proceed], Coroutine[Any, Any, bytes]]
"""What `interceptors` takes: `async def (rpc, proceed) -> bytes`."""


def region_of(request: bytes) -> int:
    """Return the region's id from a request's context, which comes first in it; 0 where there is none.

    >>> region_of(bytes([0x0A, 0x03, 0x08, 0xAC, 0x02]))
    300
    """
    if not request or request[0] != _CONTEXT:
        return 0
    at = 1
    while at < len(request) and request[at] & 0x80:
        at += 1  # the context's length
    at += 1
    if at >= len(request) or request[at] != _REGION_ID:
        return 0
    value = shift = 0
    for byte in request[at + 1 : at + 11]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    return 0
