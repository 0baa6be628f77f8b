"""What a server allows each of its connections."""

from __future__ import annotations

import dataclasses

from pytikv.wire.grpc import DEFAULT_MAX_MESSAGE_BYTES
from pytikv.wire.http2.limits import Http2Config

__all__ = ["ServerConfig"]


@dataclasses.dataclass(frozen=True, slots=True)
class ServerConfig:
    """Limits of one accepted connection. Sizes in bytes, times in seconds.

    `keepalive`: silence after which the peer is pinged, `keepalive_timeout`: silence after the ping that ends the
    connection (TiKV's defaults). `require_alpn`: set where the listener speaks TLS.
    """

    http2: Http2Config = dataclasses.field(
        default_factory=lambda: Http2Config(
            stream_window=1 << 20, connection_window=16 << 20, max_header_list_size=32 << 10
        )
    )
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_queued_bytes: int = 16 << 20
    max_queued_bytes_per_stream: int = 1 << 20
    max_buffered_bytes: int = 128 << 20
    handshake_timeout: float = 10.0
    keepalive: float = 10.0
    keepalive_timeout: float = 3.0
    require_alpn: bool = False
