"""gRPC over HTTP/2, the parts without state of a connection: message framing, timeouts, status, content types.

A message on the wire is five bytes (compressed flag, length) and its bytes; messages and DATA frames do not align.
`Deframer` takes the payloads of one stream in order and gives whole messages. It holds what has arrived and no more:
a length of 4 GiB reserves nothing, and is refused when it is over the limit before any of it is kept. The gzip of a
peer is undone with the same limit on what comes out.

Source: grpc, doc/PROTOCOL-HTTP2.md, doc/http-grpc-status-mapping.md, doc/compression.md.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from pytikv.wire.errors import RpcError, Status
from pytikv.wire.http2.headers import Header

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "Deframer",
    "decode_grpc_message",
    "encode_grpc_message",
    "encode_timeout",
    "is_grpc_content_type",
    "message_frame",
    "parse_timeout",
    "status_from_http",
    "status_from_trailers",
]

DEFAULT_MAX_MESSAGE_BYTES: Final = 64 << 20

_PREFIX: Final = struct.Struct(">BI")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_HTTP_STATUS: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}


def message_frame(message: bytes) -> bytes:
    """Put gRPC's prefix before an uncompressed message."""
    return _PREFIX.pack(0, len(message)) + message


class Deframer:
    """Cuts the payloads of one stream into messages.

    `encoding`: what the peer's headers name for compressed messages (b"identity" or b"gzip"). `buffered`: bytes held
    of a message that is not whole yet.
    """

    __slots__ = ("_max_bytes", "_need", "_rest", "buffered", "encoding")

    def __init__(self, max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES, encoding: bytes = b"identity") -> None:
        self._max_bytes = max_bytes
        # One buffer, not a list of pieces: a peer that sends a byte a frame must not cost an object a byte.
        self._rest = bytearray()
        self._need = 5
        self.buffered = 0
        self.encoding = encoding

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next payload; return the messages that became whole.

        Raises RpcError: RESOURCE_EXHAUSTED over the limit, INTERNAL for a broken prefix or compression.
        """
        size = len(data)
        if not self.buffered:
            if size >= 5:
                compressed, length = _PREFIX.unpack_from(data)
                if not compressed and size == length + 5 and length <= self._max_bytes:
                    return [data[5:]]
            return self._cut(data)
        self._rest += data
        self.buffered += size
        if self.buffered < self._need:
            return []
        whole, self._rest = self._rest, bytearray()
        return self._cut(whole)

    def _cut(self, data: bytes | bytearray) -> list[bytes]:
        messages: list[bytes] = []
        pos = 0
        size = len(data)
        self._need = 5
        view = memoryview(data)
        while size - pos >= 5:
            compressed, length = _PREFIX.unpack_from(data, pos)
            if compressed > 1:
                raise RpcError(Status.INTERNAL, "a message with an unknown compressed flag")
            if length > self._max_bytes:
                text = f"a message of {length} bytes, the limit is {self._max_bytes}"
                raise RpcError(Status.RESOURCE_EXHAUSTED, text)
            stop = pos + 5 + length
            if stop > size:
                self._need = 5 + length
                break
            message = bytes(view[pos + 5 : stop])
            messages.append(self._decompress(message) if compressed else message)
            pos = stop
        self._rest = bytearray(view[pos:])
        self.buffered = size - pos
        return messages

    def _decompress(self, message: bytes) -> bytes:
        if self.encoding != b"gzip":
            raise RpcError(Status.INTERNAL, "a compressed message, but no encoding that this side knows was named")
        engine = zlib.decompressobj(wbits=31)
        try:
            plain = engine.decompress(message, self._max_bytes + 1)
        except zlib.error:
            raise RpcError(Status.INTERNAL, "a compressed message cannot be decompressed") from None
        if len(plain) > self._max_bytes:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"a message over {self._max_bytes} bytes when decompressed")
        if not engine.eof:
            raise RpcError(Status.INTERNAL, "a compressed message is cut short")
        return plain


def encode_timeout(seconds: float) -> bytes:
    """Encode a grpc-timeout: milliseconds, rounded up, so that close deadlines give the same header.

    >>> encode_timeout(0.25), encode_timeout(200_000)
    (b'250m', b'200000S')
    """
    milliseconds = max(1, -int(-seconds * 1000 // 1))
    if milliseconds < 100_000_000:
        return b"%dm" % milliseconds
    return b"%dS" % min(99_999_999, -(-milliseconds // 1000))


def parse_timeout(value: bytes) -> float:
    """Parse a grpc-timeout into seconds. Raises ValueError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError("an ill-formed grpc-timeout")
    return int(match[1]) * _UNITS[match[2]]


def encode_grpc_message(text: str) -> bytes:
    """Percent-encode a status text for the grpc-message trailer.

    >>> encode_grpc_message("50% \\u00e4")
    b'50%25 %C3%A4'
    """
    raw = text.encode("utf-8", "replace")
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)


def decode_grpc_message(value: bytes) -> str:
    """Undo `encode_grpc_message`; what is not well encoded stays as it is, nothing is ever refused."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def is_grpc_content_type(value: bytes) -> bool:
    """Tell whether a content type is gRPC's: application/grpc, with +proto, +anything or ;parameters."""
    return value.startswith(b"application/grpc") and value[16:17] in (b"", b"+", b";")


def status_from_http(status: bytes) -> Status:
    """Map the HTTP status of a response that is not gRPC to a status code."""
    return _HTTP_STATUS.get(int(status), Status.UNKNOWN)


def status_from_trailers(headers: Iterable[Header]) -> tuple[int, str] | None:
    """Return code and text of the trailers; None when they hold no grpc-status.

    A status that is no number, or unknown to gRPC, or given twice with different values, counts as UNKNOWN.
    """
    status: int | None = None
    text = ""
    for name, value in headers:
        if name == b"grpc-status":
            code = int(value) if value.isdigit() and len(value) < 4 else int(Status.UNKNOWN)
            code = code if code <= Status.UNAUTHENTICATED else int(Status.UNKNOWN)
            status = code if status is None or status == code else int(Status.UNKNOWN)
        elif name == b"grpc-message":
            text = decode_grpc_message(value)
    return None if status is None else (status, text)
