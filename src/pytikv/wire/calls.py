"""Calls of a client on streams of their own: unary, and streaming in either or both directions.

A call is the engine's sink for its stream. `Call` reads what every gRPC response has: the head (HTTP status, content
type, encoding), messages, and the trailers with the status. Exactly one of `_finished(None)` or `_finished(error)` is
called, once; nothing of a late frame comes through after it.

An error's `not_processed` is True where the peer proved it: REFUSED_STREAM, a GOAWAY below the stream, and
UNIMPLEMENTED before any message.

Source: grpc, doc/PROTOCOL-HTTP2.md (Responses, Errors).
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from pytikv.rt.interface import Future, Runtime
from pytikv.wire import grpc
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.http2.connection import Connection
from pytikv.wire.http2.frames import ErrorCode, StreamError
from pytikv.wire.http2.headers import Header
from pytikv.wire.http2.streams import State, Stream

__all__ = ["Call", "CallOwner", "ClientStream", "ResponseHead", "UnaryCall", "reset_error"]

_RESET_STATUS: Final = {
    ErrorCode.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCode.CANCEL: Status.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}


_MESSAGE_COST: Final = 64
"""What a waiting message takes beside its bytes, so that many empty ones count too."""


class CallOwner(Protocol):
    """What a call needs of its channel."""

    rt: Runtime
    engine: Connection

    def flush(self) -> None:
        """Send what is queued, now or at the end of the turn."""

    def call_done(self, call: Call) -> None:
        """The call has finished."""

    def check_room(self) -> None:
        """Raise RpcError RESOURCE_EXHAUSTED while too much waits to be sent."""


def reset_error(code: int, not_processed: bool, reason: str) -> RpcError:
    """Return the error of a call whose stream was reset."""
    if not_processed:
        return RpcError(Status.UNAVAILABLE, reason, not_processed=True)
    status = _RESET_STATUS[ErrorCode(code)] if code in _RESET_STATUS else Status.INTERNAL
    return RpcError(status, f"the stream was reset: {reason}")


class ResponseHead:
    """The head of a response, judged. `error`: why it is none of gRPC; `encoding`: of compressed messages."""

    __slots__ = ("encoding", "error")

    def __init__(self, headers: list[Header]) -> None:
        status = content_type = b""
        self.encoding = b"identity"
        for name, value in headers:
            if name == b":status":
                status = value
            elif name == b"content-type":
                content_type = value
            elif name == b"grpc-encoding":
                self.encoding = value
        self.error: RpcError | None = None
        if status != b"200":
            text = f"HTTP status {status.decode('ascii', 'replace')} in place of an answer"
            self.error = RpcError(grpc.status_from_http(status), text)
        elif not grpc.is_grpc_content_type(content_type):
            shown = content_type[:80].decode("ascii", "replace")
            self.error = RpcError(Status.UNKNOWN, f"the answer is not gRPC: content type {shown!r}")


class Call:
    """One call on a stream of its own. Subclasses take the messages and the end."""

    __slots__ = ("_deframer", "_got_message", "_head_seen", "deadline", "done", "owner", "stream")

    def __init__(self, owner: CallOwner, deadline: float | None, max_message_bytes: int) -> None:
        self.owner = owner
        self.deadline = deadline
        self.stream: Stream | None = None
        self.done = False
        self._head_seen = False
        self._got_message = False
        self._deframer = grpc.Deframer(max_message_bytes)

    # --- for subclasses ---------------------------------------------------------------------------------------------

    def _messages(self, messages: list[bytes], size: int) -> None:
        raise NotImplementedError

    def _finished(self, error: RpcError | None) -> None:
        raise NotImplementedError

    # --- the engine's side ------------------------------------------------------------------------------------------

    def on_headers(self, headers: list[Header], end_stream: bool) -> None:
        """Take the response's head or its trailers; one list may be both."""
        if self.done:
            return
        if not self._head_seen:
            self._head_seen = True
            head = ResponseHead(headers)
            self._deframer.encoding = head.encoding
            if head.error is not None and not (end_stream and grpc.status_from_trailers(headers)):
                self.fail(head.error)
                return
        if end_stream:
            self._end(headers)

    def _end(self, trailers: list[Header]) -> None:
        found = grpc.status_from_trailers(trailers)
        if found is None:
            self.fail(RpcError(Status.INTERNAL, "the answer ended without a grpc-status"))
        elif found[0] != Status.OK:
            proof = found[0] == Status.UNIMPLEMENTED and not self._got_message
            self.fail(RpcError(*found, not_processed=proof))
        elif self._deframer.buffered:
            self.fail(RpcError(Status.INTERNAL, "the answer ended within a message"))
        else:
            self._finish(None)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Take a payload of the response."""
        if self.done:
            return
        try:
            messages = self._deframer.feed(data)
        except RpcError as error:
            self.fail(error)
            return
        if messages:
            self._got_message = True
        self._messages(messages, len(data))
        if end_stream and not self.done:
            self.fail(RpcError(Status.INTERNAL, "the answer ended without a grpc-status"))

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        """The stream is gone."""
        self.fail(reset_error(code, not_processed, reason))

    def on_drained(self) -> None:
        """Nothing waits for window any more."""

    # --- the owner's side -------------------------------------------------------------------------------------------

    def fail(self, error: RpcError) -> None:
        """End the call with `error`; resets the stream if it is still there. No effect on a finished call."""
        if not self.done:
            self._finish(error)

    def _finish(self, error: RpcError | None) -> None:
        self.done = True
        stream = self.stream
        if stream is not None and stream.state is not State.CLOSED and not self.owner.engine.closed:
            # An answer may come before the request's end; the rest of the request is of no use then.
            self.owner.engine.reset(stream, ErrorCode.CANCEL if error else ErrorCode.NO_ERROR)
            self.owner.flush()
        self._finished(error)
        self.owner.call_done(self)


class UnaryCall(Call):
    """One request, one answer: `future` gets the answer's bytes or an RpcError."""

    __slots__ = ("_answer", "future")

    def __init__(self, owner: CallOwner, deadline: float | None, max_message_bytes: int) -> None:
        super().__init__(owner, deadline, max_message_bytes)
        self.future: Future[bytes] = owner.rt.create_future()
        self._answer: bytes | None = None

    def _messages(self, messages: list[bytes], size: int) -> None:
        for message in messages:
            if self._answer is not None:
                self.fail(RpcError(Status.INTERNAL, "more than one message in answer to a unary call"))
                return
            self._answer = message

    def _finished(self, error: RpcError | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self._answer is None:
            self.future.set_exception(RpcError(Status.INTERNAL, "no message in answer to a unary call"))
        else:
            self.future.set_result(self._answer)


class ClientStream(Call):
    """A streaming call, as `ClientChannel.stream` returns it. One task receives; sending is synchronous.

    What arrives waits here until `recv` takes it; over half of the stream's window the peer is held back.
    """

    __slots__ = ("_arrived", "_drain_waiter", "_error", "_recv_waiter", "_sent_end", "_uncredited", "_waiting_bytes")

    def __init__(self, owner: CallOwner, deadline: float | None, max_message_bytes: int) -> None:
        super().__init__(owner, deadline, max_message_bytes)
        self._arrived: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._uncredited = 0
        self._error: RpcError | None = None
        self._recv_waiter: Future[None] | None = None
        self._drain_waiter: Future[None] | None = None
        self._sent_end = False

    def send(self, message: bytes) -> None:
        """Queue a message. Raises the call's RpcError when it has failed, RESOURCE_EXHAUSTED when too much waits."""
        self._send(grpc.message_frame(message), False)

    def end(self) -> None:
        """Say that no more messages follow. Idempotent, also after the call's end."""
        if not self._sent_end and not self.done:
            self._send(b"", True)

    def _send(self, data: bytes, end_stream: bool) -> None:
        if self._error is not None:
            raise self._error
        if self.done or self._sent_end or self.stream is None:
            raise RpcError(Status.FAILED_PRECONDITION, "the stream takes no more messages", not_processed=True)
        if not end_stream:
            self.owner.check_room()
        self._sent_end = end_stream
        try:
            self.owner.engine.send_data(self.stream, data, end_stream)
        except StreamError as error:
            raise RpcError(Status.UNAVAILABLE, str(error), not_processed=True) from None
        self.owner.flush()

    async def drain(self, deadline: float | None) -> None:
        """Wait until nothing of this stream waits for the peer's window. Raises RpcError as `recv`."""
        while self.stream is not None and self.stream.queue and not self.done:
            self._drain_waiter = self._drain_waiter or self.owner.rt.create_future()
            await self._wait(self._drain_waiter, deadline)

    async def recv(self, deadline: float | None) -> bytes | None:
        """Return the next message; None at the orderly end.

        Raises RpcError: the call's own error, or DEADLINE_EXCEEDED at `deadline`, after which the stream goes on.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self.done:
                return None
            if self._recv_waiter is None or self._recv_waiter.done():
                self._recv_waiter = self.owner.rt.create_future()
            await self._wait(self._recv_waiter, deadline)
        message = self._arrived.popleft()
        self._waiting_bytes -= len(message) + _MESSAGE_COST
        if self._uncredited and self.stream is not None and not self._is_full(self.stream):
            self.owner.engine.consume(self.stream, self._uncredited)
            self._uncredited = 0
            self.owner.flush()
        return message

    def cancel(self) -> None:
        """End the call now, telling the peer."""
        self.fail(RpcError(Status.CANCELLED, "cancelled by the caller"))

    async def _wait(self, future: Future[None], deadline: float | None) -> None:
        own = self.deadline
        until = deadline if own is None else own if deadline is None else min(deadline, own)
        try:
            await self.owner.rt.wait(future, until)
        except TimeoutError:
            error = RpcError(Status.DEADLINE_EXCEEDED, "no message within the deadline")
            if own is not None and until == own:
                self.fail(error)
            raise error from None

    def _is_full(self, stream: Stream) -> bool:
        return self._waiting_bytes * 2 > stream.recv_window

    def _messages(self, messages: list[bytes], size: int) -> None:
        self._arrived.extend(messages)
        self._waiting_bytes += sum(map(len, messages)) + _MESSAGE_COST * len(messages)
        stream = self.stream
        if stream is not None:
            if self._is_full(stream):
                self._uncredited += size
            else:
                self.owner.engine.consume(stream, size)
        if messages:
            self._wake()

    def _finished(self, error: RpcError | None) -> None:
        self._error = error
        self._wake()
        self.on_drained()

    def _wake(self) -> None:
        waiter, self._recv_waiter = self._recv_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def on_drained(self) -> None:
        """Nothing waits for window any more."""
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
