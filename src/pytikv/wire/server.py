"""A server's side of one connection: gRPC calls dispatched to routes.

`ServerConnection` is the protocol of an accepted transport. A route is `Unary` (a function, plain or async) or
`Streaming` (a factory of `StreamHandler`s, callbacks). Plain handlers run inside `data_received`, and all that one
chunk brings is answered in one write; async ones run as tasks and are cancelled with their call.

Backpressure and bounds. While the socket takes no more, or more than `max_queued_bytes` wait for the peer's windows (or
`max_queued_bytes_per_stream` for that of one stream), no further message is given to a handler: what arrives stays with
its call, and its window stays closed. So a peer that asks for much and reads nothing holds at most that bound, one
answer more, and a window a stream; and one slow stream does not hold up the others. Messages that are not
whole yet may hold `max_buffered_bytes` together. Streams, headers, frames and rates: `Http2Config`.

Order of an ending: `shutdown` sends GOAWAY and lets calls finish until its deadline; a fault of the peer's queues
GOAWAY and closes; deadlines of calls (grpc-timeout) are kept by one lazily armed timer.

A client of HTTP/1 gets a 400 in words, a TLS handshake on a plaintext port a closed connection. Non-gRPC requests get
405 or 415 (GET and HEAD a page, where the server has `pages`), unknown paths UNIMPLEMENTED. An exception of a handler
that is no RpcError is logged and becomes INTERNAL without its text, which might hold data.

Source: grpc, doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from pytikv.rt.interface import Future, Runtime, Transport
from pytikv.wire import grpc
from pytikv.wire.diagnose import is_http1_request
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.http2.connection import Connection
from pytikv.wire.http2.frames import ErrorCode, ProtocolError
from pytikv.wire.http2.headers import Header
from pytikv.wire.http2.streams import Stream, StreamSink
from pytikv.wire.server_calls import (
    CallInfo,
    Page,
    PlainRequest,
    Route,
    ServerCall,
    ServerStream,
    StreamHandler,
    Streaming,
    Unary,
    UnaryServerCall,
)
from pytikv.wire.server_config import ServerConfig
from pytikv.wire.timers import LazyTimer

__all__ = [
    "CallInfo",
    "Route",
    "ServerConfig",
    "ServerConnection",
    "ServerStream",
    "StreamHandler",
    "Streaming",
    "Unary",
]

_log = logging.getLogger("pytikv.wire.server")

_NOT_GRPC_TEXT: Final = b"This port speaks gRPC: POST with content-type application/grpc.\n"
_HTTP1_TEXT: Final = b"This port speaks gRPC (HTTP/2), not HTTP/1.\n"
_HTTP1_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_HTTP1_TEXT), _HTTP1_TEXT)
)
_PING: Final = b"pytikv\x00\x02"


class ServerConnection:
    """See the module's docstring. Make one for each accepted connection; all belongs to the listener's loop.

    `on_close` is told, once, when the connection is gone. `pages` answers GET and HEAD for a path (with its query).
    """

    def __init__(
        self,
        rt: Runtime,
        routes: Mapping[bytes, Route],
        config: ServerConfig | None = None,
        *,
        on_close: Callable[[ServerConnection], None] | None = None,
        pages: Callable[[bytes], Page] | None = None,
    ) -> None:
        self.rt = rt
        self.routes = routes
        self.config = config or ServerConfig()
        self.engine = Connection(client=False, handler=self, config=self.config.http2)
        self.transport: Transport | None = None
        self.peer = ""
        self.buffered_bytes = 0
        self._on_close = on_close
        self._pages = pages
        self._started = False
        self._blocked = False
        self._receiving = False
        self._flush_queued = False
        self._closing = False
        self._timed: dict[ServerCall, None] = {}  # in order: what happens must not hang on addresses
        self._parked: dict[ServerCall, None] = {}
        self._timer = LazyTimer(rt, self._tick)
        self._heard = rt.now()
        self._pinged: float | None = None
        self._drained: Future[None] | None = None

    # --- the transport's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:
        """Called by the transport."""
        self.transport = transport
        self.peer = transport.peer_name
        if self.config.require_alpn and transport.alpn != "h2":
            _log.info("%s did not agree on HTTP/2 in the TLS handshake (ALPN h2)", self.peer)
            transport.abort()
            return
        self._heard = self.rt.now()
        self._timer.want(self._heard + self.config.handshake_timeout)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._heard = now = self.rt.now()
        self._receiving = True
        try:
            self.engine.receive_data(data, now)
        except ProtocolError as error:
            self._protocol_error(error)
            return
        finally:
            self._receiving = False
        if not self._started and self.engine.settings_seen:
            self._started = True
            self._start()
        if self._parked:
            self._release()
        self._write_out()

    def connection_lost(self, error: BaseException | None) -> None:
        """Called by the transport."""
        self.engine.closed = True
        self._closing = True
        self._timer.cancel()
        self._parked.clear()
        for stream in list(self.engine.streams.values()):
            stream.sink.on_reset(ErrorCode.CANCEL, False, "the connection was lost")
        self.engine.streams.clear()
        self._check_drained()
        if self._on_close is not None:
            self._on_close(self)

    def writable(self) -> None:
        """Called by the transport."""
        self._blocked = False
        if self.transport is not None:
            self.transport.resume_reading()
        self._release()
        self._write_out()

    def _start(self) -> None:
        # Our own SETTINGS must be the first frame; what the first chunk already caused stands behind them.
        caused, self.engine.out = self.engine.out, []
        self.engine.start()
        self.engine.out += caused
        self._timer.want(self._heard + self.config.keepalive)

    def _protocol_error(self, error: ProtocolError) -> None:
        transport = self.transport
        if transport is None:
            return
        if not self._started:
            self.engine.data_to_send()
            if is_http1_request(self.engine.rest):
                transport.write(_HTTP1_ANSWER)
        else:
            self._write_out()
        _log.info("%s broke the protocol: %s", self.peer, error)
        self._closing = True
        for stream in list(self.engine.streams.values()):
            stream.sink.on_reset(ErrorCode.CANCEL, False, "the connection was lost")
        self.engine.streams.clear()
        if self._blocked:
            transport.abort()
        else:
            transport.close()

    # --- the engine's side ------------------------------------------------------------------------------------------

    def on_request(self, stream: Stream, headers: list[Header], end_stream: bool) -> StreamSink:
        """Find the route and make the call."""
        stream.auto_window = False
        method = content_type = path = encoding = b""
        timeout: bytes | None = None
        for name, value in headers:
            if name == b":method":
                method = value
            elif name == b":path":
                path = value
            elif name == b"content-type":
                content_type = value
            elif name == b"grpc-timeout":
                timeout = value
            elif name == b"grpc-encoding":
                encoding = value
        if method != b"POST" or not grpc.is_grpc_content_type(content_type):
            stream.auto_window = True
            page = self._plain_answer(stream, method, path)
            return PlainRequest(self, stream, page, end_stream=end_stream, with_body=method != b"HEAD")
        deadline = None
        if timeout is not None:
            try:
                deadline = self.rt.now() + grpc.parse_timeout(timeout)
            except ValueError as error:
                return self._refuse(stream, RpcError(Status.INTERNAL, str(error)))
        if encoding not in (b"", b"identity", b"gzip"):
            return self._refuse(stream, RpcError(Status.UNIMPLEMENTED, "an unknown grpc-encoding"))
        route = self.routes.get(path)
        if route is None:
            shown = path[:200].decode("ascii", "replace")
            return self._refuse(stream, RpcError(Status.UNIMPLEMENTED, f"unknown method {shown}"))
        info = CallInfo(path, headers, deadline, self.peer)
        call: ServerCall
        if isinstance(route, Unary):
            call = UnaryServerCall(self, stream, info, encoding or b"identity", route.handler)
            if end_stream:
                call.on_half_close()
            return call
        call = ServerStream(self, stream, info, encoding or b"identity")
        call.open(route.factory)
        if deadline is not None:
            self.watch(call)
        if end_stream:
            call.on_half_close()
        return call

    def _plain_answer(self, stream: Stream, method: bytes, path: bytes) -> Page:
        """Answer a request that is not gRPC: a page where there are pages, else what is wrong with it."""
        if self._pages is not None and method in (b"GET", b"HEAD"):
            if not self.may_work(stream):
                return Page(b"503", b"text/plain", b"read the other answers first\n")
            return self._pages(path)
        return Page(b"405" if method != b"POST" else b"415", b"text/plain", _NOT_GRPC_TEXT)

    def _refuse(self, stream: Stream, error: RpcError) -> StreamSink:
        call = ServerCall(self, stream, None, b"identity")
        call.finish_with(error)
        return call

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """The client will open no more streams; it closes when it is done."""

    def on_pong(self, opaque: bytes) -> None:
        """Being heard is all that matters."""

    def on_settings(self) -> None:
        """The client's windows may have grown."""

    # --- what calls need --------------------------------------------------------------------------------------------

    def may_work(self, stream: Stream) -> bool:
        """Tell whether the handler of the call on `stream` may be given more to do."""
        config = self.config
        return (
            not self._blocked
            and stream.queued_bytes <= config.max_queued_bytes_per_stream
            and self.engine.queued_bytes <= config.max_queued_bytes
        )

    def park(self, call: ServerCall) -> None:
        """Let `call` go on when the gate opens."""
        self._parked[call] = None

    def watch(self, call: ServerCall) -> None:
        """Keep the deadline of a call that is under way."""
        if call.info is not None and call.info.deadline is not None:
            self._timed[call] = None
            self._timer.want(call.info.deadline)

    def call_done(self, call: ServerCall) -> None:
        """Forget a call."""
        self._timed.pop(call, None)
        self._parked.pop(call, None)
        if self._drained is not None:
            self._check_drained()

    def flush(self) -> None:
        """Send what is queued, together with the rest of the turn."""
        if not self._receiving and not self._flush_queued:
            self._flush_queued = True
            self.rt.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_queued = False
        self._write_out()

    def _write_out(self) -> None:
        if self._drained is not None:
            self._check_drained()
        if self._blocked or self.transport is None or not self.engine.out:
            return
        if not self.transport.write(self.engine.data_to_send()):
            self._blocked = True
            self.transport.pause_reading()

    def _release(self) -> None:
        self._receiving = True
        try:
            for call in list(self._parked):
                if self._blocked or self.engine.queued_bytes > self.config.max_queued_bytes:
                    break
                if self.may_work(call.stream):
                    self._parked.pop(call, None)
                    call.resume()
        finally:
            self._receiving = False

    # --- time and the end -------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> float | None:
        if not self._started:
            if self.transport is not None:
                self.transport.abort()
            return None
        following = self._check_alive(now)
        for call in list(self._timed):
            deadline = call.info.deadline if call.info is not None else None
            if deadline is None:
                continue
            if deadline <= now:
                call.expire()
            else:
                following = min(following, deadline)
        self._write_out()
        return None if self._closing else following

    def _check_alive(self, now: float) -> float:
        config = self.config
        if self._pinged is not None and self._heard < self._pinged:
            if now >= self._pinged + config.keepalive_timeout and self.transport is not None:
                _log.info("%s did not answer a keepalive ping", self.peer)
                self._closing = True
                self.transport.abort()
            return self._pinged + config.keepalive_timeout
        self._pinged = None
        if now < self._heard + config.keepalive:
            return self._heard + config.keepalive
        self._pinged = now
        self.engine.ping(_PING)
        return now + config.keepalive_timeout

    async def shutdown(self, deadline: float) -> None:
        """Take no more calls, let those under way finish until `deadline`, close. Stream handlers are told."""
        transport = self.transport
        if transport is None or self._closing:
            return
        self._drained = self.rt.create_future()
        self.engine.goaway()
        for stream in list(self.engine.streams.values()):
            if isinstance(stream.sink, ServerStream):
                stream.sink.on_shutdown()
        self._write_out()
        self._check_drained()
        try:
            await self.rt.wait(self._drained, deadline)
        except TimeoutError:
            _log.info("%s: %d calls were cut off by the shutdown", self.peer, len(self.engine.streams))
        self._closing = True
        transport.close()

    def _check_drained(self) -> None:
        waiter = self._drained
        if waiter is not None and not waiter.done() and not self.engine.streams:
            waiter.set_result(None)
