"""The sending half of a connection: frames to go out, the peer's windows, and what waits for them.

`out` holds frames that may leave now, in order; `data_to_send` joins them. DATA that finds no window waits in its
stream's queue and leaves when WINDOW_UPDATE or SETTINGS open it, streams taking turns frame by frame. Headers and
trailers never overtake the stream's queued DATA. `unsent_bytes` (in `out`) and `queued_bytes` (waiting for window) tell
the owner when to stop producing: the engine itself never refuses to queue.

Invariants: a stream is in `_blocked` exactly while it has a queue or a queued end; `queued_bytes` is the sum over
them; a stream leaves `streams` in the moment its state becomes CLOSED.
"""

from __future__ import annotations

from pytikv.wire.http2 import frames
from pytikv.wire.http2.frames import ErrorCode, Flag, FrameType, StreamError
from pytikv.wire.http2.limits import Http2Config
from pytikv.wire.http2.streams import MAY_SEND, IllegalMove, Move, State, Stream

__all__ = ["Output"]


class Output:
    """What `Connection` sends with. See the module's docstring."""

    def __init__(self, config: Http2Config) -> None:
        self.config = config
        self.streams: dict[int, Stream] = {}
        self.out: list[bytes | memoryview] = []
        self.unsent_bytes = 0
        self.queued_bytes = 0
        self.send_window = frames.DEFAULT_WINDOW
        self.peer_max_frame_size = frames.DEFAULT_MAX_FRAME_SIZE
        self.peer_stream_window = frames.DEFAULT_WINDOW
        self.closed = False
        self._blocked: dict[int, Stream] = {}
        self._unsent_replies = 0
        self._reset_ids: dict[int, None] = {}
        self._block_prefix = b""

    def data_to_send(self) -> bytes:
        """Return, and forget, all that may be sent now."""
        out = self.out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        self.unsent_bytes = 0
        self._unsent_replies = 0
        return data

    # --- headers and data -----------------------------------------------------------------------------------------

    def send_headers(self, stream: Stream, block: bytes, end_stream: bool = False) -> None:
        """Send an encoded header block (`headers.encode_headers`): a response's, or trailers with `end_stream`.

        Raises StreamError when the stream may not send any more.
        """
        self._check_may_send(stream)
        if stream.queue:
            if not end_stream:
                raise StreamError(ErrorCode.INTERNAL_ERROR, "headers after data without END_STREAM")
            stream.end_queued = block
            return
        self._put_headers(stream, block, end_stream)

    def send_data(self, stream: Stream, data: bytes, end_stream: bool = False) -> None:
        """Send `data` now as far as the windows allow, and the rest later. Raises StreamError as `send_headers`."""
        self._check_may_send(stream)
        size = len(data)
        fits = size <= stream.send_window and size <= self.send_window and size <= self.peer_max_frame_size
        # A window may be below zero after SETTINGS; an empty frame needs none.
        if not stream.queue and (fits or not size):
            if end_stream:
                self._move(stream, Move.SEND_END)
            elif not size:
                return
            stream.send_window -= size
            self.send_window -= size
            self.unsent_bytes += size
            self.out.append(frames.data_frame(stream.id, data, end_stream))
            return
        if size:
            stream.queue.append(memoryview(data))
            stream.queued_bytes += size
            self.queued_bytes += size
        if end_stream:
            stream.end_queued = True
        self._blocked[stream.id] = stream
        self._pump(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End the stream at once with RST_STREAM; its sink hears nothing more. No effect on a closed stream."""
        if stream.state is State.CLOSED:
            return
        self._move(stream, Move.SEND_RESET)
        self._put_reset(stream.id, code)

    def _check_may_send(self, stream: Stream) -> None:
        if stream.state not in MAY_SEND or stream.end_queued or self.closed:
            raise StreamError(ErrorCode.STREAM_CLOSED, f"stream {stream.id} is {stream.state.name} for sending")

    def _put_headers(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        if end_stream:
            self._move(stream, Move.SEND_END)
        if self._block_prefix:
            block = self._block_prefix + block
            self._block_prefix = b""
        data = frames.headers_frames(stream.id, block, end_stream, self.peer_max_frame_size)
        self.unsent_bytes += len(data)
        self.out.append(data)

    def _put_reset(self, stream_id: int, code: int) -> None:
        self.out.append(frames.rst_stream_frame(stream_id, code))
        remembered = self._reset_ids
        if len(remembered) >= self.config.remembered_resets:
            del remembered[next(iter(remembered))]
        remembered[stream_id] = None

    def _move(self, stream: Stream, move: Move) -> None:
        """Move a stream of which this side is the mover, and forget it when that closes it."""
        try:
            stream.move(move)
        except IllegalMove as error:
            raise StreamError(ErrorCode.STREAM_CLOSED, f"stream {stream.id}: {error}") from None
        if stream.state is State.CLOSED:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        if self._blocked.pop(stream.id, None) is not None:
            self.queued_bytes -= stream.queued_bytes
            stream.queued_bytes = 0
            stream.queue.clear()

    # --- what waits for window ------------------------------------------------------------------------------------

    def _pump(self, stream: Stream) -> None:
        while self._pump_frame(stream):
            pass

    def _pump_all(self) -> None:
        turn = list(self._blocked.values())
        while turn and self.send_window > 0:
            turn = [stream for stream in turn if self._pump_frame(stream)]

    def _pump_frame(self, stream: Stream) -> bool:
        """Send one frame of the stream's queue. False: nothing more can be sent on it now."""
        if not stream.queue:
            return False
        room = min(stream.send_window, self.send_window, self.peer_max_frame_size)
        if room <= 0:
            return False
        chunk = stream.queue[0]
        if len(chunk) > room:
            stream.queue[0] = chunk[room:]
            chunk = chunk[:room]
        else:
            stream.queue.popleft()
        size = len(chunk)
        stream.send_window -= size
        self.send_window -= size
        stream.queued_bytes -= size
        self.queued_bytes -= size
        self.unsent_bytes += size
        last = not stream.queue
        flags = Flag.END_STREAM if last and stream.end_queued is True else 0
        self.out.append(frames.frame_header(size, FrameType.DATA, flags, stream.id))
        self.out.append(chunk)
        if last:
            self._drained(stream)
        return not last

    def _drained(self, stream: Stream) -> None:
        self._blocked.pop(stream.id, None)
        end = stream.end_queued
        stream.end_queued = False
        if isinstance(end, bytes):
            self._put_headers(stream, end, True)
        elif end:
            self._move(stream, Move.SEND_END)
        if stream.state is not State.CLOSED:
            stream.sink.on_drained()
