"""Client side of BatchCommands: many commands, of many callers, on one stream of a channel.

Commands and answers are joined into messages as the peers like; what ties an answer to its command is an id, unique
on the stream and never used twice, so that a late answer finds nobody. Ids are kept in their encoded form: an answer's
id is then found by a slice of the message, with nothing to decode.

Two paths lead through here. The general one: `submit` queues, `flush` encodes what the turn brought, the engine cuts
what arrives into frames, `on_data` deframes and decodes. The short one, for a single command in flight on a connection
that one caller has for itself: `send_now` builds envelope, gRPC prefix and DATA header in one go and writes it, and
`receive_short` takes a chunk that is exactly one DATA frame with one message with one answer. It takes nothing else,
changes nothing before it is certain, and keeps the engine's windows right; so the two can alternate freely.

Invariants: a future is in `pending` until it is answered, failed or forgotten; a command that was forgotten before
`flush` is never sent; everything in `_queued` was not sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from pytikv.codec import envelope
from pytikv.rt.interface import Future
from pytikv.wire import grpc
from pytikv.wire.calls import CallOwner, ResponseHead, reset_error
from pytikv.wire.errors import ConnectionLost, RpcError, Status
from pytikv.wire.http2.frames import ErrorCode, StreamError
from pytikv.wire.http2.headers import Header
from pytikv.wire.http2.streams import State, Stream

__all__ = ["BATCH_COMMANDS_PATH", "BatchStream", "watch_frames"]

BATCH_COMMANDS_PATH: Final = b"/tikvpb.Tikv/BatchCommands"

# Length (24 bits), type and flags, stream id, compressed flag, message length: a DATA frame that opens a gRPC message.
_SHORT: Final = struct.Struct(">HBHIBI")
_SHORT_LEN: Final = _SHORT.size
_LOW: Final = tuple(bytes((low | 128,)) for low in range(128))
_IDS_OPENING: Final = tuple(b"\x12" + bytes((size,)) for size in range(16))
_SEND_TIME_TAG: Final = 5 << 3
_SEND_TIME_LEN: Final = 10

Pending = tuple[Future[bytes], bytes, float]
"""Future, the tag of the slot that must answer, deadline."""


_on_frame: Callable[[int], None] | None = None


def watch_frames(watcher: Callable[[int], None] | None) -> None:
    """Tell `watcher` of each message that any stream sends how many commands are in it; None: nobody."""
    global _on_frame
    _on_frame = watcher


class BatchStream:
    """One BatchCommands stream. Made by `ClientChannel`, which opens the HTTP/2 stream and sets `stream`."""

    __slots__ = (
        "_deframer",
        "_engine",
        "_feedback",
        "_head_seen",
        "_high",
        "_max_bytes",
        "_max_requests",
        "_next",
        "_owner",
        "_queued",
        "_write",
        "closed",
        "pending",
        "stream",
    )

    stream: Stream

    def __init__(
        self,
        owner: CallOwner,
        write: Callable[[bytes], bool],
        *,
        max_message_bytes: int,
        max_requests: int,
        max_bytes: int,
        on_feedback: Callable[[bytes], None] | None,
    ) -> None:
        self._owner = owner
        self._engine = owner.engine
        self._write = write
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._feedback = on_feedback
        self._deframer = grpc.Deframer(max_message_bytes)
        self._head_seen = False
        # Ids begin at 128, so that each is a low byte with the continuation bit and a high part that seldom changes.
        self._next = 128
        self._high = b"\x01"
        self._queued: list[tuple[bytes, bytes, bytes]] = []
        self.pending: dict[bytes, Pending] = {}
        self.closed = False

    # --- sending ----------------------------------------------------------------------------------------------------

    def submit(self, slot: int, request: bytes, future: Future[bytes], deadline: float) -> bytes:
        """Queue a command for the next `flush`; return its id."""
        number = self._next
        self._next = number + 1
        if not number & 127:
            self._high = envelope.varint(number >> 7)
        ident = _LOW[number & 127] + self._high
        tag = envelope.slot_tag(slot)
        self.pending[ident] = (future, tag, deadline)
        self._queued.append((tag, request, ident))
        return ident

    @property
    def has_queued(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._queued)

    def flush(self) -> None:
        """Encode the commands queued, in messages within the limits, and hand them to the engine."""
        queued, self._queued = self._queued, []
        if self.closed:
            return
        varint = envelope.varint
        pending = self.pending
        parts: list[bytes] = []
        idents: list[bytes] = []
        size = 0
        for tag, request, ident in queued:
            if ident not in pending:
                continue
            length = len(request)
            if idents and (len(idents) >= self._max_requests or size + length > self._max_bytes):
                self._send(parts, idents)
                parts, idents, size = [], [], 0
            opening = tag + varint(length)
            parts += (b"\x0a", varint(length + len(opening)), opening, request)
            idents.append(ident)
            size += length + 16
        if idents:
            self._send(parts, idents)

    def _send(self, parts: list[bytes], idents: list[bytes]) -> None:
        if _on_frame is not None:
            _on_frame(len(idents))
        packed = b"".join(idents)
        parts += (b"\x12", envelope.varint(len(packed)), packed)
        try:
            self._engine.send_data(self.stream, grpc.message_frame(b"".join(parts)))
        except StreamError as error:
            for ident in idents:
                entry = self.pending.pop(ident, None)
                if entry is not None and not entry[0].done():
                    entry[0].set_exception(ConnectionLost(str(error), not_processed=True))

    def send_now(self, slot: int, request: bytes, future: Future[bytes], deadline: float) -> bytes:
        """Send a command at once, by itself; return its id. The caller has seen to it that nothing else waits."""
        number = self._next
        self._next = number + 1
        if not number & 127:
            self._high = envelope.varint(number >> 7)
        ident = _LOW[number & 127] + self._high
        varint = envelope.varint
        tag = envelope.slot_tag(slot)
        self.pending[ident] = (future, tag, deadline)
        size = len(request)
        opening = tag + varint(size)
        size += len(opening)
        entry_len = varint(size)
        size += 3 + len(entry_len) + len(ident)
        frame_size = size + 5
        engine = self._engine
        stream = self.stream
        if (
            frame_size > stream.send_window
            or frame_size > engine.send_window
            or frame_size > engine.peer_max_frame_size
            or stream.queue
            or engine.out
        ):
            self._queued.append((tag, request, ident))
            self.flush()
            self._owner.flush()
            return ident
        if _on_frame is not None:
            _on_frame(1)
        stream.send_window -= frame_size
        engine.send_window -= frame_size
        self._write(
            b"".join(
                (
                    _SHORT.pack(frame_size >> 8, frame_size & 255, 0, stream.id, 0, size),
                    b"\x0a",
                    entry_len,
                    opening,
                    request,
                    _IDS_OPENING[len(ident)],
                    ident,
                )
            )
        )
        return ident

    def forget(self, ident: bytes) -> bool:
        """Drop a command whose caller has gone; its answer will find nobody. True when it was never sent."""
        self.pending.pop(ident, None)
        return any(queued[2] == ident for queued in self._queued)

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive_short(self, data: bytes) -> bool:
        """Take `data` if it is one DATA frame with one message with one expected answer. False: nothing was done."""
        size = len(data)
        engine = self._engine
        if size < 20 or engine.rest or self._deframer.buffered or engine.block_stream or not self._head_seen:
            return False
        high, low, kind_and_flags, stream_id, compressed, message_len = _SHORT.unpack_from(data)
        stream = self.stream
        frame_size = high << 8 | low
        if (
            kind_and_flags
            or stream_id != stream.id
            or compressed
            or message_len != size - _SHORT_LEN
            or frame_size != size - 9
            or data[14] != 10
            or frame_size > engine.config.max_frame_size
        ):
            return False
        # The one entry: its length, then the slot's tag, the body's length, the body.
        length = data[15]
        pos = 16
        if length > 127:
            if data[16] > 127:
                return False
            length = length & 127 | data[16] << 7
            pos = 17
        stop = pos + length
        if stop + 2 > size or data[stop] != 18:
            return False
        ident_end = stop + 2 + data[stop + 1]
        ident = data[stop + 2 : ident_end]
        entry = self.pending.get(ident)
        if entry is None or ident_end > size:
            return False
        future, tag, _ = entry
        if not data.startswith(tag, pos):
            return False
        pos += len(tag)
        length = data[pos]
        pos += 1
        if length > 127:
            if data[pos] > 127:
                return False
            length = length & 127 | data[pos] << 7
            pos += 1
        if pos + length != stop:
            return False
        if ident_end != size and not (size - ident_end == _SEND_TIME_LEN and data[ident_end] == _SEND_TIME_TAG):
            return False
        if engine.recv_left - frame_size <= engine.recv_low or stream.recv_left - frame_size <= stream.recv_low:
            return False
        engine.recv_left -= frame_size
        stream.recv_left -= frame_size
        del self.pending[ident]
        if not future.done():
            future.set_result(data[pos:stop])
        return True

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Take a payload of the stream."""
        try:
            for message in self._deframer.feed(data):
                self._on_message(message)
        except RpcError as error:
            self._break(error)
        except envelope.EnvelopeError as error:
            self._break(RpcError(Status.INTERNAL, f"an ill-formed BatchCommandsResponse: {error}"))
        if end_stream:
            self._break(RpcError(Status.INTERNAL, "the stream ended without a grpc-status"))

    def _on_message(self, message: bytes) -> None:
        pending = self.pending
        varint = envelope.varint
        for slot, body, number in envelope.decode(message):
            entry = pending.pop(varint(number), None)
            if entry is None:
                continue
            future = entry[0]
            if future.done():
                continue
            if slot and envelope.slot_tag(slot) == entry[1]:
                future.set_result(body)
            elif slot:
                future.set_exception(RpcError(Status.INTERNAL, "the answer is that of another command"))
            else:
                text = "the server does not know this command"
                future.set_exception(RpcError(Status.UNIMPLEMENTED, text, not_processed=True))
        if self._feedback is not None:
            feedback = envelope.decode_feedback(message)
            if feedback is not None:
                self._feedback(feedback)

    def on_headers(self, headers: list[Header], end_stream: bool) -> None:
        """Take the response's head, or its trailers: the end of the stream."""
        if not self._head_seen:
            self._head_seen = True
            head = ResponseHead(headers)
            self._deframer.encoding = head.encoding
            if head.error is not None and not (end_stream and grpc.status_from_trailers(headers)):
                self._break(head.error)
                return
        if end_stream:
            status, text = grpc.status_from_trailers(headers) or (Status.INTERNAL, "no grpc-status")
            proof = status == Status.UNIMPLEMENTED
            if status == Status.OK:
                status, text = Status.UNAVAILABLE, "the server ended the BatchCommands stream"
            self._break(RpcError(status, text, not_processed=proof))

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        """The stream is gone."""
        self.fail_all(reset_error(code, not_processed, reason))

    def on_drained(self) -> None:
        """Nothing waits for window any more."""

    # --- the end ----------------------------------------------------------------------------------------------------

    def _break(self, error: RpcError) -> None:
        if self.stream.state is not State.CLOSED:
            self._engine.reset(self.stream, ErrorCode.CANCEL)
        self.fail_all(error)

    def end(self) -> None:
        """Give up the stream, on which nothing is awaited."""
        self._break(RpcError(Status.CANCELLED, "the stream is not needed any more"))

    def fail_all(self, error: RpcError) -> None:
        """End the stream's life: every command fails, those never sent as not processed."""
        self.closed = True
        unsent = {ident for _, _, ident in self._queued}
        pending, self.pending = self.pending, {}
        for ident, (future, _, _) in pending.items():
            if not future.done():
                # One exception object a future: a shared one would gather everybody's traceback.
                sure = error.not_processed or ident in unsent
                kind = ConnectionLost if isinstance(error, ConnectionLost) else None
                own = (
                    kind(error.details, not_processed=sure)
                    if kind
                    else RpcError(error.status, error.details, not_processed=sure)
                )
                future.set_exception(own)

    def expire(self, now: float) -> float | None:
        """Fail the commands whose deadline has passed; return the next deadline, None if nothing is pending."""
        following: float | None = None
        for ident, (future, _, deadline) in list(self.pending.items()):
            if deadline <= now:
                unsent = self.forget(ident)
                if not future.done():
                    text = "no answer within the deadline"
                    future.set_exception(RpcError(Status.DEADLINE_EXCEEDED, text, not_processed=unsent))
            elif following is None or deadline < following:
                following = deadline
        return following
