"""From bytes to a request and back; what is refused before a command sees it.

Bytes that are no request are INTERNAL, another cluster's id INVALID_ARGUMENT, as with TiKV; both travel as RpcError,
and nothing was carried out. Source: TiKV src/server/service/kv.rs.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.wire.errors import RpcError, Status

__all__ = ["check_cluster", "decode", "encode"]

M = TypeVar("M", bound=Message)


def decode(message_type: type[M], data: bytes) -> M:
    """Decode a request. Raises RpcError."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        name = message_type.DESCRIPTOR.name
        raise RpcError(Status.INTERNAL, f"the request is not a {name}", not_processed=True) from None


def encode(message: Message) -> bytes:
    """Serialize an answer."""
    data: bytes = message.SerializeToString()
    return data


def check_cluster(cluster_id: int, context: kvrpcpb.Context) -> None:
    """Refuse a request for another cluster; one that names none is taken. Raises RpcError."""
    if context.cluster_id and context.cluster_id != cluster_id:
        text = "the cluster id of the request does not match the TiKV cluster"
        raise RpcError(Status.INVALID_ARGUMENT, text, not_processed=True)
