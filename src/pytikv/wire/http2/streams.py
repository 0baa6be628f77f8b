"""A stream of HTTP/2: its state, its windows, what waits to be sent, and the table of legal moves.

Every change of state goes through `Stream.move` and hence through `TRANSITIONS`: a pair that is not in the table is
illegal. Whose fault that is, the caller knows: the engine turns it into a ProtocolError for what was received, and into
a StreamError for what this side tried to send. PUSH_PROMISE is refused, so the reserved states do not exist here.

DATA does not change the state but by its END_STREAM, so it is only checked against `MAY_RECEIVE` and `MAY_SEND`.

Source: RFC 9113, section 5.1, figure 2.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final, Protocol

from pytikv.wire.http2.headers import Header

__all__ = ["MAY_RECEIVE", "MAY_SEND", "TRANSITIONS", "IllegalMove", "Move", "State", "Stream", "StreamSink"]


class State(enum.IntEnum):
    """States of a stream. "Local" is this side: HALF_CLOSED_LOCAL has sent END_STREAM and still receives."""

    IDLE = 0
    OPEN = 1
    HALF_CLOSED_LOCAL = 2
    HALF_CLOSED_REMOTE = 3
    CLOSED = 4


class Move(enum.IntEnum):
    """What can happen to a stream."""

    SEND_HEADERS = 0
    SEND_END = 1
    SEND_RESET = 2
    RECV_HEADERS = 3
    RECV_END = 4
    RECV_RESET = 5


class IllegalMove(Exception):
    """The move is not in the table."""


TRANSITIONS: Final[dict[tuple[State, Move], State]] = {
    (State.IDLE, Move.SEND_HEADERS): State.OPEN,
    (State.IDLE, Move.RECV_HEADERS): State.OPEN,
    (State.OPEN, Move.SEND_HEADERS): State.OPEN,
    (State.OPEN, Move.SEND_END): State.HALF_CLOSED_LOCAL,
    (State.OPEN, Move.SEND_RESET): State.CLOSED,
    (State.OPEN, Move.RECV_HEADERS): State.OPEN,
    (State.OPEN, Move.RECV_END): State.HALF_CLOSED_REMOTE,
    (State.OPEN, Move.RECV_RESET): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Move.SEND_RESET): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Move.RECV_HEADERS): State.HALF_CLOSED_LOCAL,
    (State.HALF_CLOSED_LOCAL, Move.RECV_END): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Move.RECV_RESET): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Move.SEND_HEADERS): State.HALF_CLOSED_REMOTE,
    (State.HALF_CLOSED_REMOTE, Move.SEND_END): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Move.SEND_RESET): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Move.RECV_RESET): State.CLOSED,
}

MAY_RECEIVE: Final = frozenset((State.OPEN, State.HALF_CLOSED_LOCAL))
MAY_SEND: Final = frozenset((State.OPEN, State.HALF_CLOSED_REMOTE))


class StreamSink(Protocol):
    """Who is told what arrives on one stream. Called from `Connection.receive_data`; may send, must not raise."""

    def on_headers(self, headers: list[Header], end_stream: bool) -> None:
        """A header list: the response's, or trailers. `headers` is shared, not to be changed."""

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Payload of one DATA frame; `data` may be empty with `end_stream`."""

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        """The stream is over before its end: reset by the peer, by this side for a fault of the peer's, or cut off
        by GOAWAY. `not_processed`: the peer proved that it did not act on it. Nothing follows."""

    def on_drained(self) -> None:
        """All that was queued on the stream for want of window has been handed over."""


class Stream:
    """One stream. The engine's, and its owner's only through the engine's methods; reading the fields is free.

    `send_window`: bytes the peer accepts now. `recv_left`: bytes the peer may still send before this side opens the
    window again. `auto_window`: whether received bytes count as consumed at once.
    """

    __slots__ = (
        "auto_window",
        "body_left",
        "consumed",
        "end_queued",
        "id",
        "queue",
        "queued_bytes",
        "received_headers",
        "recv_left",
        "recv_low",
        "recv_window",
        "send_window",
        "sink",
        "state",
    )

    def __init__(self, stream_id: int, sink: StreamSink, send_window: int, recv_window: int) -> None:
        self.id = stream_id
        self.sink = sink
        self.state = State.IDLE
        self.send_window = send_window
        self.recv_window = recv_window
        self.recv_left = recv_window
        self.recv_low = recv_window // 2
        self.auto_window = True
        self.consumed = 0
        self.queue: deque[memoryview] = deque()
        self.queued_bytes = 0
        self.end_queued: bytes | bool = False
        self.received_headers = False
        self.body_left: int | None = None

    def move(self, move: Move) -> None:
        """Change the state as the table says. Raises IllegalMove."""
        try:
            self.state = TRANSITIONS[self.state, move]
        except KeyError:
            raise IllegalMove(f"{move.name} in state {self.state.name}") from None
