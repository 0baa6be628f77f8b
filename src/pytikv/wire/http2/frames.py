"""Frames of HTTP/2: the constants of RFC 9113 and the encoders for what this side sends.

Decoding is done in place by `connection.Connection`, without an object per frame: that is the cost this package exists
to avoid. Everything here is a pure function; lengths are in bytes.

Source: RFC 9113, sections 4.1, 6 and 7.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

__all__ = [
    "DEFAULT_MAX_FRAME_SIZE",
    "DEFAULT_WINDOW",
    "FRAME_HEADER_LEN",
    "MAX_STREAM_ID",
    "MAX_WINDOW",
    "PREFACE",
    "SETTINGS_ACK",
    "ErrorCode",
    "Flag",
    "FrameType",
    "Http2Error",
    "ProtocolError",
    "Setting",
    "StreamError",
    "data_frame",
    "frame",
    "frame_header",
    "goaway_frame",
    "headers_frames",
    "ping_frame",
    "rst_stream_frame",
    "settings_frame",
    "window_update_frame",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_LEN: Final = 9
DEFAULT_MAX_FRAME_SIZE: Final = 16_384
LARGEST_MAX_FRAME_SIZE: Final = (1 << 24) - 1
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = (1 << 31) - 1
MAX_STREAM_ID: Final = (1 << 31) - 1

SETTINGS_ACK: Final = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"


class FrameType(enum.IntEnum):
    """Kinds of frames; anything else is ignored (RFC 9113, 4.1)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(enum.IntEnum):
    """Flags; END_STREAM and ACK share a bit on different frames. Joined and tested as numbers, in every frame."""

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(enum.IntEnum):
    """Parameters of SETTINGS."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(enum.IntEnum):
    """Reasons in RST_STREAM and GOAWAY (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13

    @classmethod
    def name_of(cls, code: int) -> str:
        """Return the code's name for a message, also for a code that no RFC knows."""
        try:
            return cls(code).name
        except ValueError:
            return f"error code {code}"


class Http2Error(Exception):
    """Root of what the engine raises. `code` is what the peer is told, `reason` what a person is told."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{reason} ({code.name})")
        self.code = code
        self.reason = reason


class ProtocolError(Http2Error):
    """The peer broke the protocol, or a limit: the connection is over, and a GOAWAY is queued."""


class StreamError(Http2Error):
    """One stream was used wrongly; the connection goes on."""


_HEADER: Final = struct.Struct(">HBBBI")
_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_GOAWAY: Final = struct.Struct(">II")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Encode a frame of any kind; the caller keeps to the peer's maximum size."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def frame_header(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Encode the nine bytes that stand before a payload of `size` bytes."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def data_frame(stream_id: int, payload: bytes, end_stream: bool) -> bytes:
    """Encode DATA without padding."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 0xFF, 0, 1 if end_stream else 0, stream_id) + payload


def headers_frames(stream_id: int, block: bytes, end_stream: bool, max_frame_size: int) -> bytes:
    """Encode a header block as HEADERS and, where it is longer than one frame, CONTINUATION frames."""
    end = Flag.END_STREAM if end_stream else 0
    if len(block) <= max_frame_size:
        return frame(FrameType.HEADERS, end | Flag.END_HEADERS, stream_id, block)
    parts = [frame(FrameType.HEADERS, end, stream_id, block[:max_frame_size])]
    for start in range(max_frame_size, len(block), max_frame_size):
        piece = block[start : start + max_frame_size]
        last = start + max_frame_size >= len(block)
        parts.append(frame(FrameType.CONTINUATION, Flag.END_HEADERS if last else 0, stream_id, piece))
    return b"".join(parts)


def settings_frame(settings: Mapping[Setting, int]) -> bytes:
    """Encode SETTINGS with the parameters given."""
    return frame(FrameType.SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in settings.items()))


def ping_frame(opaque: bytes, ack: bool = False) -> bytes:
    """Encode PING with eight opaque bytes."""
    return frame(FrameType.PING, Flag.ACK if ack else 0, 0, opaque)


def goaway_frame(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """Encode GOAWAY: streams of the peer above `last_stream_id` were not and will not be acted on."""
    return frame(FrameType.GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + debug)


def rst_stream_frame(stream_id: int, code: int) -> bytes:
    """Encode RST_STREAM."""
    return frame(FrameType.RST_STREAM, 0, stream_id, _U32.pack(code))


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """Encode WINDOW_UPDATE; stream 0 is the connection."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))
