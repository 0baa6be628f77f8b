"""Calls as a server sees them: the engine's sinks that read requests, run handlers and send answers and trailers.

A call passes through: messages arrive (`on_data`), the client's end (`on_half_close`), and exactly one finish: with an
answer, with an error (`finish_with`), by the client's reset, or by its deadline (`expire`). After it nothing is sent or
given to the handler. While too much of its answers waits, messages are kept in `_kept`, and the stream's window stays
as it is, until `resume`.

If the client has not ended its side when the call finishes, RST_STREAM(NO_ERROR) follows the trailers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from pytikv.rt.interface import Runtime, Task
from pytikv.wire import grpc
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.http2.connection import Connection
from pytikv.wire.http2.frames import ErrorCode, StreamError
from pytikv.wire.http2.headers import Header, encode_headers
from pytikv.wire.http2.streams import State, Stream
from pytikv.wire.server_config import ServerConfig

__all__ = [
    "CallInfo",
    "Page",
    "PlainRequest",
    "Route",
    "ServerCall",
    "ServerCallOwner",
    "ServerStream",
    "StreamHandler",
    "Streaming",
    "Unary",
    "UnaryServerCall",
]

_log = logging.getLogger("pytikv.wire.server")

_HEAD: Final = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,gzip"),
)
_HEAD_BLOCK: Final = encode_headers(_HEAD)
_MESSAGE_COST: Final = 64
"""What a kept message takes beside its bytes, so that many empty ones count too."""
_OK_BLOCK: Final = encode_headers(((b"grpc-status", b"0"),))


@dataclasses.dataclass(frozen=True, slots=True)
class CallInfo:
    """What a handler may know: the path, the request's headers, the deadline by `rt.now()`, the client's address."""

    path: bytes
    metadata: list[Header]
    deadline: float | None
    peer: str


class Page(NamedTuple):
    """A plain HTTP answer: the status in digits, the content type, the whole body."""

    status: bytes
    content_type: bytes
    body: bytes


UnaryHandler = Callable[[bytes, CallInfo], "bytes | Awaitable[bytes]"]


@dataclasses.dataclass(frozen=True, slots=True)
class Unary:
    """A route that answers one message with one. The handler returns bytes or an awaitable, or raises RpcError."""

    handler: UnaryHandler


class StreamHandler:
    """What a streaming route does with a call; override what is needed. May raise RpcError, which finishes the call.

    Called from the connection's loop; `on_message` and the others do not overlap.
    """

    def on_message(self, message: bytes) -> None:
        """Take a message of the client's."""

    def on_half_close(self) -> None:
        """The client will send no more. The call must be finished some time."""

    def on_cancel(self) -> None:
        """The call is over before it was finished: reset, deadline passed, or connection lost. Nothing follows."""

    def on_shutdown(self) -> None:
        """The server is about to stop: finish soon. By default the call ends at once with UNAVAILABLE."""
        raise RpcError(Status.UNAVAILABLE, "the server is shutting down")


@dataclasses.dataclass(frozen=True, slots=True)
class Streaming:
    """A route of any streaming kind. The factory makes the handler of one call, and may use its stream at once."""

    factory: Callable[[ServerStream], StreamHandler]


Route = Unary | Streaming


class ServerCallOwner(Protocol):
    """What a call needs of its connection."""

    rt: Runtime
    engine: Connection
    config: ServerConfig
    buffered_bytes: int

    def may_work(self, stream: Stream) -> bool:
        """Tell whether the handler of the call on `stream` may be given more to do."""
        ...

    def park(self, call: ServerCall) -> None:
        """Let `call` go on when the gate opens."""

    def watch(self, call: ServerCall) -> None:
        """Keep the deadline of a call that is under way."""

    def call_done(self, call: ServerCall) -> None:
        """Forget a call."""

    def flush(self) -> None:
        """Send what is queued, together with the rest of the turn."""


class ServerCall:
    """What all calls have in common. As it stands it takes no messages: the sink of a call refused at once."""

    __slots__ = (
        "_deframer",
        "_ended",
        "_head_sent",
        "_held",
        "_kept",
        "_uncredited",
        "done",
        "info",
        "owner",
        "stream",
    )

    def __init__(self, owner: ServerCallOwner, stream: Stream, info: CallInfo | None, encoding: bytes) -> None:
        self.owner = owner
        self.stream = stream
        self.info = info
        self.done = False
        self._deframer = grpc.Deframer(owner.config.max_message_bytes, encoding)
        self._held = 0
        self._uncredited = 0
        self._kept: deque[bytes] = deque()
        self._ended = False
        self._head_sent = False

    # --- for subclasses ---------------------------------------------------------------------------------------------

    def _message(self, message: bytes) -> None:
        """Take a message."""

    def _half_closed(self) -> None:
        """The client has ended its side, and all its messages have been taken."""

    def _cancelled(self) -> None:
        """The call ended from outside."""

    # --- input ------------------------------------------------------------------------------------------------------

    def on_headers(self, headers: list[Header], end_stream: bool) -> None:
        """Take trailers of a client, which gRPC does not use."""
        self.on_half_close()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Take a payload."""
        if self.done:
            return
        self._ended = end_stream
        try:
            messages = self._deframer.feed(data)
        except RpcError as error:
            self.finish_with(error)
            return
        if self._kept:
            self._kept.extend(messages)
        else:
            self._take(messages)
        self._uncredited += len(data)
        self._settle()
        if end_stream:
            self._check_end()

    def on_half_close(self) -> None:
        """The client has ended its side."""
        self._ended = True
        self._check_end()

    def _check_end(self) -> None:
        if self.done or self._kept:
            return
        if not self.owner.may_work(self.stream):
            self.owner.park(self)
        elif self._deframer.buffered:
            self.finish_with(RpcError(Status.INTERNAL, "the request ended within a message"))
        else:
            self._guard(self._half_closed)

    def resume(self) -> None:
        """Go on with what was kept."""
        kept, self._kept = self._kept, deque()
        self._take(kept)
        self._settle()
        if self._ended:
            self._check_end()

    def _take(self, messages: Iterable[bytes]) -> None:
        owner = self.owner
        for message in messages:
            if self.done:
                return
            if self._kept or not owner.may_work(self.stream):
                self._kept.append(message)
            else:
                self._message(message)

    def _settle(self) -> None:
        """Open the stream's window again, or park; count what is held here."""
        owner = self.owner
        if self.done:
            return
        if not (self._deframer.buffered or self._kept or self._held):
            owner.engine.consume(self.stream, self._uncredited)
            self._uncredited = 0
            return
        held = self._deframer.buffered + sum(map(len, self._kept)) + _MESSAGE_COST * len(self._kept)
        if held != self._held:
            owner.buffered_bytes += held - self._held
            grown = held > self._held
            self._held = held
            if grown and owner.buffered_bytes > owner.config.max_buffered_bytes:
                self.finish_with(RpcError(Status.RESOURCE_EXHAUSTED, "too much of unfinished requests"))
                return
        if self._kept:
            owner.park(self)
        else:
            owner.engine.consume(self.stream, self._uncredited)
            self._uncredited = 0

    def _guard(self, step: Callable[[], None]) -> None:
        """Run a handler's step; its errors finish the call."""
        try:
            step()
        except RpcError as error:
            self.finish_with(error)
        except Exception as error:
            self.finish_with(self._internal(error))

    def _internal(self, error: Exception) -> RpcError:
        path = self.info.path.decode("ascii", "replace") if self.info is not None else ""
        # Not the exception's text: it may quote keys or values.
        _log.error("a handler of %s failed: %s", path, type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG))
        return RpcError(Status.INTERNAL, f"internal error ({type(error).__name__})")

    # --- output -----------------------------------------------------------------------------------------------------

    def send_head(self) -> None:
        """Send the response's head, unless it was sent before."""
        if not self._head_sent:
            self._head_sent = True
            self.owner.engine.send_headers(self.stream, _HEAD_BLOCK)

    def finish_with(self, error: RpcError | None) -> None:
        """Finish with a status: OK for None. No effect on a finished call."""
        if self.done:
            return
        if error is None:
            block = _OK_BLOCK
        else:
            text = grpc.encode_grpc_message(error.details[:2048])
            block = encode_headers(((b"grpc-status", b"%d" % error.status), (b"grpc-message", text)))
        if not self._head_sent:
            block = _HEAD_BLOCK + block
        # The connection may be gone, or the stream with it: then nobody is left to be told.
        with contextlib.suppress(StreamError):
            self.owner.engine.send_headers(self.stream, block, end_stream=True)
        self._done()

    def _done(self) -> None:
        self.done = True
        self._kept.clear()
        owner = self.owner
        owner.buffered_bytes -= self._held
        self._held = 0
        stream = self.stream
        if stream.state is State.HALF_CLOSED_LOCAL:
            owner.engine.reset(stream, ErrorCode.NO_ERROR)
        owner.flush()
        owner.call_done(self)

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        """The client gave the call up, or is gone."""
        if not self.done:
            self._done()
            self._cancelled()

    def on_drained(self) -> None:
        """Nothing of the call waits for window any more."""
        if self.done and self.stream.state is State.HALF_CLOSED_LOCAL:
            self.owner.engine.reset(self.stream, ErrorCode.NO_ERROR)

    def expire(self) -> None:
        """The call's deadline has passed."""
        if not self.done:
            self.finish_with(RpcError(Status.DEADLINE_EXCEEDED, "the deadline passed"))
            self._cancelled()


class UnaryServerCall(ServerCall):
    """A call of a `Unary` route."""

    __slots__ = ("_handler", "_request", "_task")

    info: CallInfo

    def __init__(
        self, owner: ServerCallOwner, stream: Stream, info: CallInfo, encoding: bytes, handler: UnaryHandler
    ) -> None:
        super().__init__(owner, stream, info, encoding)
        self._handler = handler
        self._request: bytes | None = None
        self._task: Task[Any] | None = None

    def _message(self, message: bytes) -> None:
        if self._request is not None:
            self.finish_with(RpcError(Status.INTERNAL, "more than one message in a unary call"))
        else:
            self._request = message

    def _half_closed(self) -> None:
        request, self._request = self._request, None
        if request is None:
            raise RpcError(Status.INTERNAL, "no message in a unary call")
        if self.info.deadline is not None and self.info.deadline <= self.owner.rt.now():
            raise RpcError(Status.DEADLINE_EXCEEDED, "the deadline passed")
        answer = self._handler(request, self.info)
        if isinstance(answer, bytes):
            self._answer(answer)
        else:
            self.owner.watch(self)
            self._task = self.owner.rt.spawn(self._run(answer), name="unary call")

    async def _run(self, answer: Awaitable[bytes]) -> None:
        try:
            message = await answer
        except RpcError as error:
            self.finish_with(error)
        except Exception as error:
            self.finish_with(self._internal(error))
        else:
            if not self.done:
                self._answer(message)
        finally:
            self._task = None

    def _answer(self, message: bytes) -> None:
        if len(message) > self.owner.config.max_message_bytes:
            self.finish_with(RpcError(Status.RESOURCE_EXHAUSTED, f"an answer of {len(message)} bytes"))
            return
        self.send_head()
        self.owner.engine.send_data(self.stream, grpc.message_frame(message))
        self.finish_with(None)

    def _cancelled(self) -> None:
        if self._task is not None:
            self._task.cancel()


class ServerStream(ServerCall):
    """A call of a `Streaming` route, as its handler sees it.

    Beside the methods: `metadata`, `deadline`, `done`, and `waiting_bytes`, by which a handler that produces much on
    its own accord should pace itself.
    """

    __slots__ = ("_handler",)

    info: CallInfo

    def __init__(self, owner: ServerCallOwner, stream: Stream, info: CallInfo, encoding: bytes) -> None:
        super().__init__(owner, stream, info, encoding)
        self._handler = StreamHandler()

    @property
    def metadata(self) -> list[Header]:
        """The request's headers."""
        return self.info.metadata

    @property
    def deadline(self) -> float | None:
        """When the client stops to wait, by `rt.now()`; None: never."""
        return self.info.deadline

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the whole connection that were sent by handlers and are not with the socket yet."""
        return self.owner.engine.queued_bytes + self.owner.engine.unsent_bytes

    def open(self, factory: Callable[[ServerStream], StreamHandler]) -> None:
        """Make the handler, and let the client know that the call is accepted."""

        def make() -> None:
            self._handler = factory(self)

        self._guard(make)
        if not self.done:
            self.send_head()

    def send(self, message: bytes) -> None:
        """Send a message. No effect once the call is over: the handler learns that by `on_cancel`."""
        if self.done:
            return
        if not self._head_sent:
            self.send_head()
        self.owner.engine.send_data(self.stream, grpc.message_frame(message))
        self.owner.flush()

    def finish(self, status: int = 0, message: str = "") -> None:
        """Finish the call with a status. No effect on a finished one."""
        self.finish_with(RpcError(status, message) if status else None)

    def on_shutdown(self) -> None:
        """The server is about to stop."""
        if not self.done:
            self._guard(self._handler.on_shutdown)

    def _message(self, message: bytes) -> None:
        try:
            self._handler.on_message(message)
        except RpcError as error:
            self.finish_with(error)
        except Exception as error:
            self.finish_with(self._internal(error))

    def _half_closed(self) -> None:
        self._handler.on_half_close()

    def _cancelled(self) -> None:
        self._guard(self._handler.on_cancel)


class PlainRequest:
    """The sink of a request that is not gRPC: waits for its end, then answers with a page."""

    __slots__ = ("_owner", "_page", "_stream", "_with_body")

    def __init__(
        self, owner: ServerCallOwner, stream: Stream, page: Page, *, end_stream: bool, with_body: bool
    ) -> None:
        self._owner = owner
        self._stream = stream
        self._page = page
        self._with_body = with_body
        if end_stream:
            self._answer()

    def _answer(self) -> None:
        page = self._page
        size = b"%d" % len(page.body)
        headers = ((b":status", page.status), (b"content-type", page.content_type), (b"content-length", size))
        has_body = self._with_body and bool(page.body)
        self._owner.engine.send_headers(self._stream, encode_headers(headers), end_stream=not has_body)
        if has_body:
            self._owner.engine.send_data(self._stream, page.body, end_stream=True)
        self._owner.flush()

    def on_headers(self, headers: list[Header], end_stream: bool) -> None:
        """Take trailers."""
        self._answer()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Drop the body."""
        if end_stream:
            self._answer()

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        """The client gave up."""

    def on_drained(self) -> None:
        """Nothing waits."""
