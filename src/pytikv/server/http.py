"""A small, strict HTTP/1.1 server for read-only pages, and the sniffing that lets it share a port with gRPC.

It takes GET and HEAD without a body, and hands the decoded path to a handler. Everything else is refused with a 4xx or
5xx answer and the end of the connection, so that nothing can be smuggled behind a request that was misread: bodies,
Transfer-Encoding, Expect, repeated Host, folded or malformed header lines, targets that are not absolute paths, paths
with ``//``, ``.`` or ``..`` segments or control characters after decoding. No file is ever served.

States of a connection: reading a head -> answering -> reading the next head (keep-alive) -> closed. Requests that are
sent without waiting (pipelining) are answered in order, one by one; reading pauses while answers pile up. Limits:
MAX_HEAD bytes a head, MAX_HEADERS lines, HEAD_TIMEOUT_S for a head to be complete, IDLE_TIMEOUT_S between requests.

`SniffingProtocol` looks at the first bytes of a connection: HTTP/2's preface means gRPC, a TLS hello on a port without
TLS is cut off, anything else is HTTP/1. With TLS the agreed protocol (ALPN) decides. Sources: RFC 9112, RFC 9113 3.4.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from pytikv.rt.interface import Runtime, StreamProtocol, Timer, Transport
from pytikv.server.ports import Connection
from pytikv.wire.server_calls import Page

__all__ = [
    "HttpProtocol",
    "HttpRequest",
    "HttpResponse",
    "SniffingProtocol",
    "http2_pages",
    "json_response",
    "text_response",
]

MAX_HEAD: Final = 16 * 1024
MAX_HEADERS: Final = 64
HEAD_TIMEOUT_S: Final = 10.0
IDLE_TIMEOUT_S: Final = 60.0

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_TLS_HANDSHAKE: Final = b"\x16\x03"
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}


@dataclasses.dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: method (GET or HEAD), the segments of its path as bytes, decoded, and the query as it was sent."""

    method: str
    segments: tuple[bytes, ...]
    query: bytes = b""
    accept: str = ""
    """What the client's `Accept` says; empty where it says nothing, and for pages that gRPC's port shows by HTTP/2."""


@dataclasses.dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer with its whole body."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


_log = logging.getLogger("pytikv.server")

Handler = Callable[[HttpRequest], HttpResponse]


def json_response(value: Any, status: int = 200) -> HttpResponse:
    """Return `value` as JSON, indented as PD does."""
    body = json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
    return HttpResponse(status, body, "application/json; charset=UTF-8")


def text_response(text: str, status: int = 200) -> HttpResponse:
    """Return a line of text."""
    return HttpResponse(status, text.encode() + b"\n")


class BadRequest(Exception):
    """What is wrong with a request, and the status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def parse_head(head: bytes) -> tuple[HttpRequest, bool]:
    """Parse a request's head (without its empty line); return the request and whether to keep the connection.

    Raises BadRequest.
    """
    lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        if re.fullmatch(rb"[A-Z]+ \S+ HTTP/[2-9](\.\d)?", lines[0]):
            raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        raise BadRequest(400, "malformed request line")
    method, target, minor = match.groups()
    headers = _parse_headers(lines[1:], needs_host=minor == b"1")
    if method not in (b"GET", b"HEAD"):
        raise BadRequest(405, "only GET and HEAD are served")
    connection = {token.strip().lower() for token in headers.get(b"connection", b"").split(b",")}
    keep = b"close" not in connection and (minor == b"1" or b"keep-alive" in connection)
    request = _parse_target(method, target)
    return dataclasses.replace(request, accept=headers.get(b"accept", b"").decode("latin-1")), keep


def http2_pages(handler: Handler) -> Callable[[bytes], Page]:
    """Return `handler` as the pages of a gRPC port: what clients that agreed on HTTP/2 get for GET and HEAD."""

    def page(target: bytes) -> Page:
        try:
            if re.fullmatch(rb"/[!-~]*", target) is None:
                raise BadRequest(400, "malformed path")
            response = _handle(handler, _parse_target(b"GET", target))
        except BadRequest as error:
            response = text_response(error.reason, error.status)
        return Page(b"%d" % response.status, response.content_type.encode(), response.body)

    return page


def _handle(handler: Handler, request: HttpRequest) -> HttpResponse:
    try:
        return handler(request)
    except Exception:  # a bug of ours must not take the connection's loop with it; the text could hold anything
        _log.exception("a page could not be made")
        return text_response("internal error", 500)


def _parse_headers(lines: list[bytes], *, needs_host: bool) -> Mapping[bytes, bytes]:
    if len(lines) > MAX_HEADERS:
        raise BadRequest(431, f"more than {MAX_HEADERS} header lines")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise BadRequest(400, "malformed header line")
        name, value = match.group(1).lower(), match.group(2)
        if name in headers and name in (b"host", b"content-length", b"transfer-encoding"):
            raise BadRequest(400, "repeated header line")
        headers[name] = value
    if needs_host and b"host" not in headers:
        raise BadRequest(400, "the Host header is missing")
    if b"transfer-encoding" in headers:
        raise BadRequest(501, "Transfer-Encoding is not taken")
    if b"expect" in headers:
        raise BadRequest(417, "Expect is not taken")
    if headers.get(b"content-length", b"0") != b"0":
        raise BadRequest(413, "a body is not taken")
    return headers


def _parse_target(method: bytes, target: bytes) -> HttpRequest:
    path, _, query = target.partition(b"?")
    return HttpRequest(method.decode(), _parse_path(path), query)


def _parse_path(path: bytes) -> tuple[bytes, ...]:
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path):
        raise BadRequest(400, "malformed escape in the path")
    segments = path[1:].split(b"/")
    if segments[-1] == b"" and len(segments) > 1:
        segments.pop()  # one slash at the end is allowed
    decoded = tuple(unquote_to_bytes(segment) for segment in segments)
    if any(segment in (b"", b".", b"..") for segment in decoded) and decoded != (b"",):
        raise BadRequest(400, "empty or relative segment in the path")
    return decoded


class HttpProtocol(StreamProtocol):
    """One connection. `handler` is called on the loop and must not block; what it raises becomes a 500."""

    def __init__(self, rt: Runtime, handler: Handler) -> None:
        self._rt = rt
        self._handler = handler
        self._buffer = bytearray()
        self._is_closing = False
        self._is_writable = True
        self._timer: Timer | None = None
        self._transport: Transport | None = None

    def connection_made(self, transport: Transport) -> None:
        """Begin to read."""
        self._transport = transport
        self._arm(HEAD_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        """Take in bytes and answer every request that is complete."""
        if self._is_closing:
            return
        if not self._buffer:
            self._arm(HEAD_TIMEOUT_S)
        self._buffer += data
        self._serve()

    def connection_lost(self, error: BaseException | None) -> None:
        """Forget the connection."""
        self._is_closing = True
        self._disarm()

    def writable(self) -> None:
        """Go on after the peer has read."""
        self._is_writable = True
        if self._transport is not None and not self._is_closing:
            self._transport.resume_reading()
            self._serve()

    async def shutdown(self, deadline: float) -> None:
        """Close after what was answered is sent: every request is answered as soon as it is whole."""
        self._close()

    def _close(self) -> None:
        self._is_closing = True
        self._disarm()
        if self._transport is not None:
            self._transport.close()

    def _serve(self) -> None:
        while self._is_writable and not self._is_closing:
            # Empty lines before a request are let pass, as RFC 9112 2.2 asks.
            while self._buffer.startswith(b"\r\n"):
                del self._buffer[:2]
            end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
            if end < 0:
                if len(self._buffer) > MAX_HEAD:
                    self._refuse(BadRequest(431, f"the head exceeds {MAX_HEAD} bytes"))
                return
            head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            try:
                request, keep = parse_head(head)
            except BadRequest as error:
                self._refuse(error)
                return
            self._answer(request, keep)

    def _answer(self, request: HttpRequest, keep: bool) -> None:
        response = _handle(self._handler, request)
        self._send(response, keep=keep, with_body=request.method != "HEAD")
        if keep:
            self._arm(HEAD_TIMEOUT_S if self._buffer else IDLE_TIMEOUT_S)

    def _refuse(self, error: BadRequest) -> None:
        self._buffer.clear()
        self._send(text_response(error.reason, error.status), keep=False, with_body=True)

    def _send(self, response: HttpResponse, *, keep: bool, with_body: bool) -> None:
        allow = "Allow: GET, HEAD\r\n" if response.status == 405 else ""
        head = (
            f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}\r\n"
            f"Content-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body)}\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            f"{allow}Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        assert self._transport is not None
        self._is_writable = self._transport.write(head.encode() + (response.body if with_body else b""))
        if not keep:
            self._close()
        elif not self._is_writable:
            self._transport.pause_reading()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self._rt.call_at(self._rt.now() + seconds, self._time_out)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if self._buffer and self._is_writable and not self._is_closing:
            self._refuse(BadRequest(408, "the request did not arrive in time"))
        elif self._transport is not None:
            self._is_closing = True
            # A peer that does not read what it asked for would keep a gentle close waiting for ever.
            self._transport.abort()


class SniffingProtocol(StreamProtocol):
    """Decides by a connection's first bytes which of two protocols serves it, and then steps aside."""

    def __init__(
        self,
        rt: Runtime,
        grpc: Callable[[], Connection],
        http: Callable[[], Connection],
    ) -> None:
        self._rt = rt
        self._grpc = grpc
        self._http = http
        self._first = b""
        self._timer: Timer | None = None
        self._transport: Transport | None = None
        self.chosen: Connection | None = None

    def connection_made(self, transport: Transport) -> None:
        """Decide at once where TLS has agreed on a protocol."""
        self._transport = transport
        if transport.alpn == "h2":
            self._choose(self._grpc)
        elif transport.alpn == "http/1.1":
            self._choose(self._http)
        else:
            self._timer = self._rt.call_at(self._rt.now() + HEAD_TIMEOUT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Pass on, or decide first."""
        if self.chosen is not None:
            self.chosen.data_received(data)
            return
        self._first += data
        first = self._first
        if first.startswith(_TLS_HANDSHAKE):
            assert self._transport is not None
            self._transport.abort()  # whoever speaks TLS here reads no text: the cut is the clearest answer
        elif first.startswith(_PREFACE[: len(first)]) or first.startswith(_PREFACE):
            # Three bytes tell ("PRI" is no method of HTTP/1); gRPC's own side checks the rest of the preface.
            if len(first) >= 3:
                self._choose(self._grpc)
        else:
            self._choose(self._http)

    def connection_lost(self, error: BaseException | None) -> None:
        """Pass on."""
        self._stop_timer()
        if self.chosen is not None:
            self.chosen.connection_lost(error)

    def writable(self) -> None:
        """Pass on."""
        if self.chosen is not None:
            self.chosen.writable()

    async def shutdown(self, deadline: float) -> None:
        """Pass on; a connection that has said nothing yet is cut."""
        if self.chosen is not None:
            await self.chosen.shutdown(deadline)
        elif self._transport is not None:
            self._transport.abort()

    def _choose(self, factory: Callable[[], Connection]) -> None:
        self._stop_timer()
        assert self._transport is not None
        self.chosen = factory()
        self.chosen.connection_made(self._transport)
        first, self._first = self._first, b""
        if first:
            self.chosen.data_received(first)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
