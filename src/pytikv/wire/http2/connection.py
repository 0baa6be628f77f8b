"""The engine of one HTTP/2 connection, client or server: bytes in, calls on sinks out. No socket, no clock, no thread.

The owner feeds `receive_data(data, now)`; what arrives on a stream goes straight to the stream's sink, what concerns
the connection to the `handler`. No event objects are made. Methods queue frames; the owner sends `data_to_send()`
after each call or turn, as it likes. `now` is any clock that does not go back; it only feeds the rate limits.

Faults. What the peer does wrong to the connection queues a GOAWAY and raises ProtocolError, after which the engine is
`closed` and ignores all input: the owner sends what is queued, closes the transport, and tells the sinks left in
`streams`. What the peer does wrong to one stream resets that stream and tells its sink. Misuse by this side raises
StreamError and changes nothing.

Choices. This side's SETTINGS are in force from the first byte, and nothing waits for their acknowledgement: a real TiKV
sends none until it next writes. PUSH_PROMISE is refused, PRIORITY and unknown frames are ignored. The connection's
receive window is opened again as data arrives, a stream's as its owner consumes (`auto_window` False, `consume`) or as
data arrives; both lazily, at half. Late frames on streams that this side has reset are dropped.

Bounds: see `limits.Http2Config`. Not bounded here, since only the owner can stop the source: what this side sends; see
`output`.

Source: RFC 9113 sections 3.4, 5.1, 5.2, 6; CVE-2019-9512 ... 9518, CVE-2023-44487, CVE-2024-27316, CVE-2025-8671.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from pytikv.wire.http2 import frames
from pytikv.wire.http2.frames import ErrorCode, Flag, FrameType, ProtocolError, Setting, StreamError
from pytikv.wire.http2.headers import (
    Header,
    HeaderDecoder,
    content_length,
    request_problem,
    response_problem,
    trailers_problem,
)
from pytikv.wire.http2.limits import Bucket, Http2Config
from pytikv.wire.http2.output import Output
from pytikv.wire.http2.streams import MAY_RECEIVE, IllegalMove, Move, State, Stream, StreamSink

__all__ = ["Connection", "ConnectionHandler"]

_HEADER: Final = struct.Struct(">HBBBI")
_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")


class ConnectionHandler(Protocol):
    """Who is told what concerns the whole connection. Called from `receive_data`; must not raise."""

    def on_request(self, stream: Stream, headers: list[Header], end_stream: bool) -> StreamSink:
        """Server: a new stream with a well-formed header list. Return its sink; answering at once is fine."""
        ...

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """The peer takes no more streams. Sinks of streams it will not act on have been told already."""

    def on_pong(self, opaque: bytes) -> None:
        """An answer to `ping`."""

    def on_settings(self) -> None:
        """The peer's SETTINGS arrived: `max_streams` may have changed."""


class Connection(Output):
    """One connection. See the module's docstring.

    `max_streams` (client): streams the peer lets this side have open. `highest_id`: the peer's highest stream so far.
    """

    def __init__(self, *, client: bool, handler: ConnectionHandler, config: Http2Config | None = None) -> None:
        super().__init__(config or Http2Config())
        config = self.config
        self.client = client
        self.handler = handler
        self.max_streams = config.assumed_max_streams
        self.highest_id = 0
        self.next_id = 1
        self.settings_seen = False
        self.goaway_sent: int | None = None
        self.goaway_received: int | None = None
        self.recv_window = config.connection_window
        self.recv_left = config.connection_window
        self.recv_low = config.connection_window // 2
        self.rest = b""
        self._preface_left = b"" if client else frames.PREFACE
        self._decoder = HeaderDecoder(config.max_header_list_size)
        self._cheap = Bucket(config.cheap_frames_burst, config.cheap_frames_per_second)
        self._resets = Bucket(config.resets_burst, config.resets_per_second)
        self._recv_left_then = self.recv_left
        self._now = 0.0
        self.block_stream = 0
        self._block_end_stream = False
        self._block: list[bytes] = []
        self._block_size = 0
        self._handlers: dict[int, Callable[[bytes, int, int], None]] = {
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_rst_stream,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_push_promise,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }

    # --- what the owner does ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Queue the preface and SETTINGS. Requests may follow at once."""
        config = self.config
        settings = {
            Setting.INITIAL_WINDOW_SIZE: config.stream_window,
            Setting.MAX_FRAME_SIZE: config.max_frame_size,
            Setting.MAX_HEADER_LIST_SIZE: config.max_header_list_size,
        }
        if self.client:
            self.out.append(frames.PREFACE)
            settings[Setting.ENABLE_PUSH] = 0
        else:
            settings[Setting.MAX_CONCURRENT_STREAMS] = config.max_concurrent_streams
        self.out.append(frames.settings_frame(settings))
        more = config.connection_window - frames.DEFAULT_WINDOW
        if more:
            self.out.append(frames.window_update_frame(0, more))

    def can_open(self) -> bool:
        """Tell whether `open_stream` would work now (client)."""
        return (
            not self.closed
            and self.goaway_received is None
            and self.goaway_sent is None
            and len(self.streams) < self.max_streams
            and self.next_id <= frames.MAX_STREAM_ID
        )

    def exhausted(self) -> bool:
        """Tell whether no stream can ever be opened again on this connection (client)."""
        gone = self.goaway_received is not None or self.goaway_sent is not None
        return self.closed or gone or self.next_id > frames.MAX_STREAM_ID

    def open_stream(self, sink: StreamSink, block: bytes, end_stream: bool = False) -> Stream:
        """Open a stream with a request's encoded headers (client). Raises StreamError unless `can_open`."""
        if not self.can_open():
            raise StreamError(ErrorCode.REFUSED_STREAM, "the connection takes no new stream now")
        stream = Stream(self.next_id, sink, self.peer_stream_window, self.config.stream_window)
        self.next_id += 2
        self.streams[stream.id] = stream
        stream.move(Move.SEND_HEADERS)
        self._put_headers(stream, block, end_stream)
        return stream

    def consume(self, stream: Stream, size: int) -> None:
        """Say that `size` bytes received on a stream with `auto_window` False have been used up."""
        stream.consumed += size
        if stream.consumed * 2 >= stream.recv_window and stream.state in MAY_RECEIVE:
            self.out.append(frames.window_update_frame(stream.id, stream.consumed))
            stream.recv_left += stream.consumed
            stream.consumed = 0

    def replenish(self, stream: Stream | None = None) -> None:
        """Open the receive window of a stream (None: the connection) fully again. For owners that count themselves."""
        if stream is None:
            self.out.append(frames.window_update_frame(0, self.recv_window - self.recv_left))
            self.recv_left = self.recv_window
        elif stream.state in MAY_RECEIVE:
            self.out.append(frames.window_update_frame(stream.id, stream.recv_window - stream.recv_left))
            stream.recv_left = stream.recv_window

    def ping(self, opaque: bytes) -> None:
        """Queue a PING with eight bytes that the pong will carry."""
        self.out.append(frames.ping_frame(opaque))

    def goaway(self, code: ErrorCode = ErrorCode.NO_ERROR, debug: bytes = b"") -> None:
        """Say that streams of the peer above `highest_id` will not be acted on. Streams that are open go on."""
        if self.goaway_sent is None and not self.closed:
            self.goaway_sent = self.highest_id
            self.out.append(frames.goaway_frame(self.highest_id, code, debug))

    # --- input ------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Take what arrived, in pieces of any size. Raises ProtocolError (a GOAWAY is queued, `closed` is True)."""
        if self.closed:
            return
        self._now = now
        try:
            self._receive(data)
        except ProtocolError as error:
            self._fail(error)
            raise

    def _receive(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
            self.rest = b""
        if self._preface_left:
            data = self._take_preface(data)
        pos = 0
        end = len(data)
        while end - pos >= 9:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(data, pos)
            size = high << 8 | low
            stream_id &= 0x7FFFFFFF
            stop = pos + 9 + size
            if size > self.config.max_frame_size or not self.settings_seen:
                self._check_frame(size, kind, flags, stream_id)
            if stop > end:
                break
            if self.block_stream and (kind != FrameType.CONTINUATION or stream_id != self.block_stream):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
            if kind == 0:
                self._on_data(data, pos + 9, stop, flags, stream_id)
            else:
                handler = self._handlers.get(kind)
                if handler is not None:
                    handler(data[pos + 9 : stop], flags, stream_id)
                else:
                    self._take_cheap()
            if self.closed:
                return
            pos = stop
        if pos < end:
            self.rest = data[pos:] if pos else data

    def _take_preface(self, data: bytes) -> bytes:
        wanted = self._preface_left
        have = min(len(data), len(wanted))
        if data[:have] != wanted[:have]:
            self.rest = data[:64]
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the peer did not send HTTP/2's preface")
        self._preface_left = wanted[have:]
        return data[have:]

    def _check_frame(self, size: int, kind: int, flags: int, stream_id: int) -> None:
        if not self.settings_seen and (kind != FrameType.SETTINGS or flags & Flag.ACK or stream_id or size > 16_384):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the peer did not begin with SETTINGS")
        if size > self.config.max_frame_size:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")

    def _fail(self, error: ProtocolError) -> None:
        self.closed = True
        self.out.append(frames.goaway_frame(self.highest_id, error.code, error.reason.encode()))

    def _take_cheap(self) -> None:
        if self.recv_left != self._recv_left_then:
            # Data came since the last cheap frame, perhaps past this engine (an owner's short cut): useful work.
            self._recv_left_then = self.recv_left
            self._cheap.give()
        if not self._cheap.take(self._now):
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _take_reset(self) -> None:
        if not self._resets.take(self._now):
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many streams ended early")

    def _count_reply(self) -> None:
        self._unsent_replies += 1
        if self._unsent_replies > self.config.max_unsent_replies:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the peer asks for answers and does not read them")

    def _is_idle(self, stream_id: int) -> bool:
        """Tell whether nobody has opened the stream yet."""
        if self.client:
            return not stream_id & 1 or stream_id >= self.next_id
        return not stream_id & 1 or stream_id > self.highest_id

    def _fault(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        """The peer broke a rule of one stream: reset it and tell its sink."""
        self._take_reset()
        self._count_reply()
        stream = self.streams.get(stream_id)
        if stream is None:
            self._put_reset(stream_id, code)
            return
        self.reset(stream, code)
        stream.sink.on_reset(code, False, reason)

    # --- DATA -------------------------------------------------------------------------------------------------------

    def _on_data(self, data: bytes, pos: int, stop: int, flags: int, stream_id: int) -> None:
        size = stop - pos
        self.recv_left -= size
        if self.recv_left <= self.recv_low:
            if self.recv_left < 0:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
            self.replenish()
        if flags & Flag.PADDED:
            if pos >= stop or data[pos] >= size:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
            stop -= data[pos]
            pos += 1
        end_stream = bool(flags & Flag.END_STREAM)
        if pos == stop and not end_stream:
            self._take_cheap()
        stream = self.streams.get(stream_id)
        if stream is None or stream.state not in MAY_RECEIVE:
            self._data_on_closed(stream_id)
        elif not stream.received_headers:
            self._fault(stream_id, ErrorCode.PROTOCOL_ERROR, "data before headers")
        elif self._count_data(stream, size, stop - pos, end_stream):
            if end_stream:
                self._received_end(stream)
            stream.sink.on_data(data[pos:stop], end_stream)

    def _count_data(self, stream: Stream, size: int, payload_size: int, end_stream: bool) -> bool:
        """Count a DATA frame against the stream's window and announced length; False when it broke them."""
        stream.recv_left -= size
        if stream.recv_left < 0:
            self._fault(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
            return False
        if stream.body_left is not None:
            stream.body_left -= payload_size
            if stream.body_left < 0 or (end_stream and stream.body_left):
                self._fault(stream.id, ErrorCode.PROTOCOL_ERROR, "data and content-length differ")
                return False
        if stream.auto_window:
            if stream.recv_left <= stream.recv_low and not end_stream:
                self.replenish(stream)
        elif size != payload_size:
            self.consume(stream, size - payload_size)
        return True

    def _data_on_closed(self, stream_id: int) -> None:
        if not stream_id or self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is not open")
        if stream_id in self._reset_ids or self._is_refused(stream_id):
            self._take_cheap()
            return
        self._fault(stream_id, ErrorCode.STREAM_CLOSED, "data after the end of the stream")

    def _is_refused(self, stream_id: int) -> bool:
        return not self.client and self.goaway_sent is not None and stream_id > self.goaway_sent

    def _received_end(self, stream: Stream) -> None:
        try:
            stream.move(Move.RECV_END)
        except IllegalMove as error:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, f"stream {stream.id}: {error}") from None
        if stream.state is State.CLOSED:
            self._forget(stream)

    # --- HEADERS and CONTINUATION -----------------------------------------------------------------------------------

    def _on_headers(self, payload: bytes, flags: int, stream_id: int) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (Flag.PADDED | Flag.PRIORITY):
            payload = _strip(payload, flags, stream_id)
        end_stream = bool(flags & Flag.END_STREAM)
        if flags & Flag.END_HEADERS:
            self._on_block(stream_id, payload, end_stream)
            return
        self.block_stream = stream_id
        self._block_end_stream = end_stream
        self._block = [payload]
        self._block_size = len(payload)

    def _on_continuation(self, payload: bytes, flags: int, stream_id: int) -> None:
        if not self.block_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block.append(payload)
        self._block_size += len(payload)
        config = self.config
        if self._block_size > config.max_header_block_size or len(self._block) > config.max_continuation_frames + 1:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header block is over the limit")
        if flags & Flag.END_HEADERS:
            block = b"".join(self._block)
            self.block_stream = 0
            self._block = []
            self._on_block(stream_id, block, self._block_end_stream)

    def _on_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        # Decoded in any case: the compression state belongs to the connection.
        headers = self._decoder.decode(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.client or not stream_id & 1 or stream_id <= self.highest_id:
                self._headers_on_closed(stream_id)
            else:
                self._new_request(stream_id, headers, end_stream)
        elif stream.state not in MAY_RECEIVE:
            self._fault(stream_id, ErrorCode.STREAM_CLOSED, "headers after the end of the stream")
        elif stream.received_headers:
            self._on_trailers(stream, headers, end_stream)
        else:
            self._on_response(stream, headers, end_stream)

    def _headers_on_closed(self, stream_id: int) -> None:
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which cannot be opened")
        if self.client or stream_id in self._reset_ids or self._is_refused(stream_id):
            self._take_cheap()
            return
        raise ProtocolError(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")

    def _new_request(self, stream_id: int, headers: list[Header], end_stream: bool) -> None:
        self.highest_id = stream_id
        if self.goaway_sent is not None:
            return
        if len(self.streams) >= self.config.max_concurrent_streams:
            self._fault(stream_id, ErrorCode.REFUSED_STREAM, "too many streams")
            return
        length = content_length(headers)
        problem = request_problem(headers)
        if problem or length == -1 or (end_stream and length):
            self._fault(stream_id, ErrorCode.PROTOCOL_ERROR, problem or "an ill-formed content-length")
            return
        stream = Stream(stream_id, _NOBODY, self.peer_stream_window, self.config.stream_window)
        stream.received_headers = True
        stream.body_left = length
        stream.move(Move.RECV_HEADERS)
        if end_stream:
            stream.move(Move.RECV_END)
        self.streams[stream_id] = stream
        stream.sink = self.handler.on_request(stream, headers, end_stream)

    def _on_response(self, stream: Stream, headers: list[Header], end_stream: bool) -> None:
        problem = response_problem(headers)
        length = content_length(headers)
        if problem or length == -1:
            self._fault(stream.id, ErrorCode.PROTOCOL_ERROR, problem or "an ill-formed content-length")
            return
        if headers[0][1][:1] == b"1":
            if end_stream:
                self._fault(stream.id, ErrorCode.PROTOCOL_ERROR, "an informational response ends the stream")
            else:
                self._take_cheap()
            return
        stream.received_headers = True
        stream.body_left = length
        if end_stream:
            self._received_end(stream)
        stream.sink.on_headers(headers, end_stream)

    def _on_trailers(self, stream: Stream, headers: list[Header], end_stream: bool) -> None:
        problem = trailers_problem(headers)
        if problem or not end_stream or stream.body_left:
            self._fault(stream.id, ErrorCode.PROTOCOL_ERROR, problem or "trailers without END_STREAM, or a short body")
            return
        self._received_end(stream)
        stream.sink.on_headers(headers, True)

    # --- the other frames -------------------------------------------------------------------------------------------

    def _on_priority(self, payload: bytes, _flags: int, stream_id: int) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        _check_dependency(payload, stream_id)
        self._take_cheap()

    def _on_rst_stream(self, payload: bytes, _flags: int, stream_id: int) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which is idle")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._take_cheap()
            return
        code = _U32.unpack(payload)[0]
        stream.move(Move.RECV_RESET)
        self._forget(stream)
        stream.sink.on_reset(code, code == ErrorCode.REFUSED_STREAM, f"reset by the peer: {ErrorCode.name_of(code)}")
        if not self.client:
            self._take_reset()

    def _on_settings(self, payload: bytes, flags: int, stream_id: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & Flag.ACK and payload):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._take_cheap()
        if flags & Flag.ACK:
            return
        first = not self.settings_seen
        self.settings_seen = True
        if first and self.client:
            # The default is "no limit"; what was assumed until now was this side's own caution.
            self.max_streams = frames.MAX_STREAM_ID
        for key, value in _SETTING.iter_unpack(payload):
            self._apply_setting(key, value)
        self._count_reply()
        self.out.append(frames.SETTINGS_ACK)
        self._pump_all()
        self.handler.on_settings()

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            self._apply_stream_window(value)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME_SIZE <= value <= frames.LARGEST_MAX_FRAME_SIZE:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "an illegal MAX_FRAME_SIZE")
            self.peer_max_frame_size = value
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif key == Setting.ENABLE_PUSH:
            if value > (0 if self.client else 1):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "an illegal ENABLE_PUSH")
        elif key == Setting.HEADER_TABLE_SIZE and value < 4096:
            # This side uses no dynamic table, but a decoder that has shrunk its own waits to be told so.
            self._block_prefix = b"\x20"

    def _apply_stream_window(self, value: int) -> None:
        if value > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "an illegal INITIAL_WINDOW_SIZE")
        change = value - self.peer_stream_window
        self.peer_stream_window = value
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE overflows a window")

    def _on_push_promise(self, _payload: bytes, _flags: int, _stream_id: int) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which was switched off")

    def _on_ping(self, payload: bytes, flags: int, stream_id: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")
        self._take_cheap()
        if flags & Flag.ACK:
            self.handler.on_pong(payload)
            return
        self._count_reply()
        self.out.append(frames.ping_frame(payload, ack=True))

    def _on_goaway(self, payload: bytes, _flags: int, stream_id: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        last, code = (int(value) for value in struct.unpack_from(">II", payload))
        last &= 0x7FFFFFFF
        if self.goaway_received is not None:
            self._take_cheap()
            last = min(last, self.goaway_received)
        self.goaway_received = last
        if self.client:
            for stream in [stream for stream in self.streams.values() if stream.id > last]:
                stream.move(Move.RECV_RESET)
                self._forget(stream)
                stream.sink.on_reset(code, True, "the peer goes away and did not act on it")
        self.handler.on_goaway(last, code, payload[8:])

    def _on_window_update(self, payload: bytes, _flags: int, stream_id: int) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = _U32.unpack(payload)[0] & 0x7FFFFFFF
        if not stream_id:
            if not increment:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by zero")
            self.send_window += increment
            if self.send_window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
            if self._blocked:
                self._pump_all()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream_id}, which is idle")
            self._take_cheap()
        elif not increment:
            self._fault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by zero")
        elif stream.send_window + increment > frames.MAX_WINDOW:
            self._fault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows")
        else:
            stream.send_window += increment
            if stream.queue:
                self._pump(stream)


def _strip(payload: bytes, flags: int, stream_id: int) -> bytes:
    """Take padding and priority off a HEADERS frame."""
    start, stop = 0, len(payload)
    if flags & Flag.PADDED:
        if not payload:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without a length")
        start = 1
        stop -= payload[0]
    if flags & Flag.PRIORITY:
        if start + 5 > stop:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "no room for the priority")
        _check_dependency(payload[start:], stream_id)
        start += 5
    if start > stop:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[start:stop]


def _check_dependency(payload: bytes, stream_id: int) -> None:
    if _U32.unpack_from(payload)[0] & 0x7FFFFFFF == stream_id:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")


class _Nobody:
    """The sink of a stream before its owner has named one."""

    def on_headers(self, headers: list[Header], end_stream: bool) -> None:
        pass

    def on_data(self, data: bytes, end_stream: bool) -> None:
        pass

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        pass

    def on_drained(self) -> None:
        pass


_NOBODY: Final = _Nobody()
