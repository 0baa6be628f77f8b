"""The routes of resource groups: resource_manager.ResourceManager.

A refusal is a failed call with status UNKNOWN and PD's text, as PD's own. On the stream of token requests, a request
for a group that does not exist is left out of the answer. Background work is counted and gets no tokens.

Source: PD pkg/mcs/resourcemanager/server/grpc_service.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.rt.interface import Runtime
from pytikv.server.pd.edge import decode
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.resource_groups import ResourceGroups, keyspace_of
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import CallInfo, Route, ServerStream, StreamHandler, Streaming, Unary

__all__ = ["resource_routes"]

M = TypeVar("M", bound=Message)
_SERVICE = b"/resource_manager.ResourceManager/"
_DONE = "Success!"


def resource_routes(rt: Runtime, groups: ResourceGroups) -> dict[bytes, Route]:
    """Return the routes by path."""

    def list_(request: rmpb.ListResourceGroupsRequest) -> Message:
        found = groups.in_keyspace(_keyspace(request), with_stats=request.with_ru_stats)
        return rmpb.ListResourceGroupsResponse(groups=found)

    def get(request: rmpb.GetResourceGroupRequest) -> Message:
        found = groups.get(_keyspace(request), request.resource_group_name, with_stats=request.with_ru_stats)
        return rmpb.GetResourceGroupResponse(group=found)

    def add(request: rmpb.PutResourceGroupRequest) -> Message:
        groups.add(request.group)
        return rmpb.PutResourceGroupResponse(body=_DONE)

    def modify(request: rmpb.PutResourceGroupRequest) -> Message:
        groups.modify(request.group)
        return rmpb.PutResourceGroupResponse(body=_DONE)

    def delete(request: rmpb.DeleteResourceGroupRequest) -> Message:
        groups.delete(_keyspace(request), request.resource_group_name)
        return rmpb.DeleteResourceGroupResponse(body=_DONE)

    return {
        _SERVICE + b"ListResourceGroups": _unary(rt, rmpb.ListResourceGroupsRequest, list_),
        _SERVICE + b"GetResourceGroup": _unary(rt, rmpb.GetResourceGroupRequest, get),
        _SERVICE + b"AddResourceGroup": _unary(rt, rmpb.PutResourceGroupRequest, add, writes=True),
        _SERVICE + b"ModifyResourceGroup": _unary(rt, rmpb.PutResourceGroupRequest, modify, writes=True),
        _SERVICE + b"DeleteResourceGroup": _unary(rt, rmpb.DeleteResourceGroupRequest, delete, writes=True),
        _SERVICE + b"AcquireTokenBuckets": Streaming(lambda stream: _TokenStream(groups, stream)),
    }


def _keyspace(request: Any) -> int:
    return int(request.keyspace_id.value) if request.HasField("keyspace_id") else NULL_KEYSPACE_ID


def _unary(rt: Runtime, request_type: type[M], serve: Callable[[M], Message], *, writes: bool = False) -> Unary:
    def answer(request: M) -> bytes:
        try:
            data: bytes = serve(request).SerializeToString()
        except PdError as error:
            raise RpcError(Status.UNKNOWN, error.message) from None
        return data

    def handle(data: bytes, info: CallInfo) -> bytes | Awaitable[bytes]:
        request = decode(request_type, data)
        return rt.run_blocking(answer, request) if writes else answer(request)

    return Unary(handle)


class _TokenStream(StreamHandler):
    """Token requests, answered in order, each message at once."""

    def __init__(self, groups: ResourceGroups, stream: ServerStream) -> None:
        self._groups = groups
        self._stream = stream

    def on_message(self, message: bytes) -> None:
        asked = decode(rmpb.TokenBucketsRequest, message)
        answer = rmpb.TokenBucketsResponse()
        for request in asked.requests:
            granted = self._serve(request, asked.target_request_period_ms / 1000, asked.client_unique_id)
            if granted is not None:
                answer.responses.append(granted)
        self._stream.send(answer.SerializeToString())

    def on_half_close(self) -> None:
        self._stream.finish()

    def _serve(self, request: rmpb.TokenBucketRequest, period_s: float, client: int) -> rmpb.TokenBucketResponse | None:
        keyspace_id, name = keyspace_of(request), request.resource_group_name
        if request.is_background and request.is_tiflash:
            raise RpcError(Status.UNKNOWN, "background and tiflash cannot be true at the same time")
        try:
            self._groups.consume(keyspace_id, name, request.consumption_since_last_request)
            if request.is_background:
                return None
            response = rmpb.TokenBucketResponse(resource_group_name=name)
            response.keyspace_id.value = keyspace_id
            for item in request.ru_items.request_r_u:
                grant = self._groups.request(keyspace_id, name, item.value, period_s, client)
                response.granted_r_u_tokens.add(
                    type=item.type,
                    granted_tokens=rmpb.TokenBucket(
                        settings=rmpb.TokenLimitSettings(burst_limit=grant.burst_limit), tokens=grant.tokens
                    ),
                    trickle_time_ms=grant.trickle_ms,
                )
        except PdError:
            return None
        return response
