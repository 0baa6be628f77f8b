"""A client's channel: one connection to one address, with unary calls, streams, and BatchCommands over it.

A channel lives once: `connect`, calls, then the end, by `close`, by the peer, or by a fault. It never reconnects; the
pool above makes another. `usable` says whether new calls may begin; calls under way when it turns False go on as far
as the peer lets them. After GOAWAY the calls above the peer's last stream fail as not processed, the others go on, and
when the last one has ended the channel closes itself.

On a shared runtime (asyncio, simulation) requests of one turn of the loop leave in one write, commands among them in
one BatchCommands message, and deadlines and keepalive hang on one lazily armed timer. On an exclusive runtime (the
blocking API) the caller's own wait carries the deadline, and a lone command takes the short path of `batch_commands`.

Metadata of a call is encoded anew each time; the block before it is kept for each path. What `authorize` is given goes
with every stream from then on. A BatchCommands stream that began with something else is *retired*: its commands are
answered there, new ones go on another stream.

Keepalive: while calls are in flight and nothing arrived for `keepalive` seconds, a PING is sent; without any sign of
life within `keepalive_timeout` seconds the connection is dropped. Nothing waits for the peer's SETTINGS, nor for its
acknowledgement of ours.

Errors are RpcError and its kinds only. Limits: `ChannelConfig`.

Source: grpc, doc/PROTOCOL-HTTP2.md; client-go config/client.go (keepalive, batch sizes).
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from pytikv._version import __version__
from pytikv.rt.interface import Future, Runtime, Transport
from pytikv.rt.tls import TlsContext
from pytikv.wire import grpc
from pytikv.wire.batch_commands import BATCH_COMMANDS_PATH, BatchStream
from pytikv.wire.calls import Call, ClientStream, UnaryCall
from pytikv.wire.diagnose import explain_connect_error, may_be_http2, what_speaks
from pytikv.wire.errors import ConnectFailed, ConnectionLost, RpcError, Status
from pytikv.wire.http2.connection import Connection
from pytikv.wire.http2.frames import ErrorCode, ProtocolError
from pytikv.wire.http2.headers import Header, encode_headers
from pytikv.wire.http2.limits import Http2Config
from pytikv.wire.http2.streams import Stream, StreamSink
from pytikv.wire.timers import LazyTimer

__all__ = ["ChannelConfig", "ClientChannel", "Metadata"]

Metadata = tuple[tuple[str, str | bytes], ...]

_BLOCKS_KEPT: Final = 256
_AUTHORIZATION: Final = "authorization"
_PONG_MARK: Final = b"pytikv\x00\x01"


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelConfig:
    """Limits and habits of a channel. Sizes in bytes, times in seconds.

    `max_in_flight` commands on the BatchCommands stream, and as many unary calls waiting for a stream; over it, and
    over `max_queued_bytes` waiting to be sent, calls fail with RESOURCE_EXHAUSTED (not processed).
    """

    http2: Http2Config = dataclasses.field(default_factory=Http2Config)
    max_message_bytes: int = grpc.DEFAULT_MAX_MESSAGE_BYTES
    keepalive: float = 10.0
    keepalive_timeout: float = 3.0
    keepalive_without_calls: bool = False
    max_in_flight: int = 65_536
    max_queued_bytes: int = 256 << 20
    batch_max_requests: int = 128
    batch_max_bytes: int = 1 << 20
    user_agent: str = f"pytikv/{__version__}"
    on_health_feedback: Callable[[bytes], None] | None = None


class ClientChannel:
    """See the module's docstring. All methods belong to the loop that `connect` ran in.

    `address` is what errors and the `:authority` name. `idle_since`: when the channel was last seen at work.
    """

    def __init__(self, rt: Runtime, *, address: str, config: ChannelConfig | None = None) -> None:
        self.rt = rt
        self.address = address
        self.config = config or ChannelConfig()
        self.engine = Connection(client=True, handler=self, config=self.config.http2)
        self.transport: Transport | None = None
        self.goaway: tuple[int, str] | None = None
        self._exclusive = rt.exclusive_connections
        self._keepalive = self.config.keepalive
        self._error: ConnectionLost | None = None
        self._secure = False
        self._blocked = False
        self._flush_queued = False
        self._receiving = False
        self._batch: BatchStream | None = None
        self._retired: list[BatchStream] = []
        self._authorization: Metadata = ()
        self._calls: dict[Call, None] = {}  # in order: what happens must not hang on addresses
        self._waiting: deque[tuple[UnaryCall, bytes, bytes]] = deque()
        self._blocks: dict[bytes, bytes] = {}
        self._timer = LazyTimer(rt, self._tick)
        self._heard = rt.now()
        self._used = self._heard
        self._pinged: float | None = None
        self._closed_waiter: Future[None] | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    async def connect(self, host: str, port: int, deadline: float, tls: TlsContext | None = None) -> None:
        """Connect and send the preface. Returns without waiting for the peer to speak.

        Raises ConnectFailed, whose text names the address, the side at fault and the remedy.
        """
        self._secure = tls is not None
        try:
            transport = await self.rt.connect(host, port, self, deadline=deadline, tls=tls)
        except (OSError, EOFError) as error:
            raise explain_connect_error(self.address, error, self._secure) from error
        self.transport = transport
        if tls is not None and transport.alpn != "h2":
            self.abort("no agreement on HTTP/2")
            text = f"{self.address}: the server did not agree on HTTP/2 in the TLS handshake (ALPN h2)"
            raise ConnectFailed(text, reason="protocol")
        if self._error is not None:
            raise ConnectFailed(self._error.details, reason="protocol")
        self.engine.start()
        self._write_out()
        if self.config.keepalive_without_calls and not self._exclusive:
            self._arm(math.inf)

    @property
    def usable(self) -> bool:
        """Whether new calls may begin."""
        return self.transport is not None and self._error is None and not self.engine.exhausted()

    @property
    def in_flight(self) -> int:
        """Calls and commands that wait for their answer or their end."""
        batch = self._batch
        count = len(self._calls) + (len(batch.pending) if batch is not None else 0)
        return count if not self._retired else count + sum(len(old.pending) for old in self._retired)

    @property
    def idle_since(self) -> float:
        """When something was last begun or heard, by `rt.now()`."""
        return max(self._used, self._heard)

    async def close(self) -> None:
        """Say goodbye and close; calls in flight fail. Idempotent."""
        transport = self.transport
        if transport is None or self._error is not None:
            return
        self.engine.goaway()
        self._write_out()
        self._end(ConnectionLost(f"{self.address}: the channel was closed"))
        transport.close()

    def abort(self, reason: str) -> None:
        """Drop the connection at once; calls in flight fail with `reason`. Idempotent."""
        self._end(ConnectionLost(f"{self.address}: {reason}"))
        if self.transport is not None:
            self.transport.abort()

    def check_idle(self) -> bool:
        """Lease the connection to the present call and take in what came while it sat idle. Return `usable`.

        A TiKV pings an idle connection and closes it when no answer comes, so this must precede its use.
        """
        if self.transport is not None and self._error is None:
            self.rt.attach(self.transport)
        return self.usable

    def authorize(self, metadata: Metadata) -> None:
        """Begin streams with `metadata` (the entry ``authorization``, or nothing) from now on."""
        if metadata == self._authorization:
            return
        self._authorization = metadata
        batch, self._batch = self._batch, None
        if batch is not None and not batch.closed:
            batch.flush()
            self._retired.append(batch)
        self._end_retired()

    def _end_retired(self) -> None:
        """End the retired streams on which nothing is awaited any more."""
        waiting = [old for old in self._retired if old.pending and not old.closed]
        for old in self._retired:
            if not old.pending and not old.closed and self._error is None:
                old.end()
                self.flush()
        self._retired = waiting

    # --- calls ------------------------------------------------------------------------------------------------------

    async def batch(self, slot: int, request: bytes, deadline: float) -> bytes:
        """Send one command over BatchCommands; return the serialized answer.

        `slot` is the field number in the `oneof` of BatchCommandsRequest, `request` the serialized command. Raises
        RpcError: DEADLINE_EXCEEDED at `deadline`, UNIMPLEMENTED (not processed) for an answer without a command.
        Cancelling forgets the command: the server may still act on it.
        """
        batch = self._batch
        if batch is None or batch.closed:
            batch = self._open_batch()
        if len(batch.pending) >= self.config.max_in_flight:
            raise RpcError(Status.RESOURCE_EXHAUSTED, "too many commands in flight", not_processed=True)
        self._used = now = self.rt.now()
        if deadline <= now:
            raise RpcError(Status.DEADLINE_EXCEEDED, "no time left to send the command", not_processed=True)
        future: Future[bytes] = self.rt.create_future()
        if self._exclusive and not batch.pending and not self._blocked and self.rt.is_alone():
            ident = batch.send_now(slot, request, future, deadline)
        else:
            engine = self.engine
            if engine.queued_bytes + engine.unsent_bytes > self.config.max_queued_bytes:
                self.check_room()
            ident = batch.submit(slot, request, future, deadline)
            if not self._flush_queued:
                try:
                    self.rt.call_soon(self._flush_turn)
                except RuntimeError:
                    batch.forget(ident)
                    self.rt.check_loop()
                    raise
                self._flush_queued = True
        try:
            if self._exclusive:
                if deadline - now <= self._keepalive:
                    return await self.rt.wait(future, deadline)
                return await self._wait_long(future, deadline)
            if deadline < self._timer.when:
                self._arm(deadline)
            return await future
        except TimeoutError:
            unsent = batch.forget(ident)
            text = f"{self.address}: no answer within the deadline"
            raise RpcError(Status.DEADLINE_EXCEEDED, text, not_processed=unsent) from None
        except BaseException as error:
            batch.forget(ident)
            if isinstance(error, RuntimeError):
                self.rt.check_loop()
            raise

    async def unary(self, path: bytes | str, request: bytes, *, deadline: float, metadata: Metadata = ()) -> bytes:
        """Make a unary call; return the serialized answer. Raises RpcError. Cancelling tells the peer (RST_STREAM)."""
        self.rt.check_loop()
        self._check_usable()
        self.check_room()
        self._used = now = self.rt.now()
        if deadline <= now:
            raise RpcError(Status.DEADLINE_EXCEEDED, "no time left to send the request", not_processed=True)
        call = UnaryCall(self, deadline, self.config.max_message_bytes)
        block = self._block(path, metadata, deadline - now)
        data = grpc.message_frame(request)
        self._calls[call] = None
        if self.engine.can_open():
            self._begin(call, block, data)
        elif len(self._waiting) >= self.config.max_in_flight and not self._purge_waiting():
            self._calls.pop(call, None)
            raise RpcError(Status.RESOURCE_EXHAUSTED, "too many calls wait for a stream", not_processed=True)
        else:
            self._waiting.append((call, block, data))
        return await self._answer(call, deadline, now)

    async def _answer(self, call: UnaryCall, deadline: float, now: float) -> bytes:
        try:
            if not self._exclusive:
                if deadline < self._timer.when:
                    self._arm(deadline)
                return await call.future
            if deadline - now <= self._keepalive:
                return await self.rt.wait(call.future, deadline)
            return await self._wait_long(call.future, deadline)
        except TimeoutError:
            error = RpcError(
                Status.DEADLINE_EXCEEDED,
                f"{self.address}: no answer within the deadline",
                not_processed=call.stream is None,
            )
            call.fail(error)
            raise error from None
        except BaseException:
            call.fail(RpcError(Status.CANCELLED, "cancelled by the caller"))
            raise

    def stream(self, path: bytes | str, *, deadline: float | None, metadata: Metadata = ()) -> ClientStream:
        """Begin a streaming call, of any kind. `deadline` bounds the whole stream, None: it may last.

        Raises RpcError: the channel is not usable, or has no stream free (RESOURCE_EXHAUSTED).
        """
        self.rt.check_loop()
        self._check_usable()
        self._used = now = self.rt.now()
        if deadline is not None and deadline <= now:
            raise RpcError(Status.DEADLINE_EXCEEDED, "no time left to begin the stream", not_processed=True)
        block = self._block(path, metadata, None if deadline is None else deadline - now)
        if not self.engine.can_open():
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{self.address}: no stream is free", not_processed=True)
        call = ClientStream(self, deadline, self.config.max_message_bytes)
        call.stream = self.engine.open_stream(call, block)
        call.stream.auto_window = False
        self._calls[call] = None
        # Alone, the headers wait for the first message: one write instead of two.
        if not self._exclusive:
            self.flush()
            self._arm(math.inf if deadline is None else deadline)
        return call

    def _begin(self, call: UnaryCall, block: bytes, data: bytes) -> None:
        call.stream = self.engine.open_stream(call, block)
        self.engine.send_data(call.stream, data, end_stream=True)
        self.flush()

    def _begin_waiting(self) -> None:
        while self._waiting and self.engine.can_open():
            call, block, data = self._waiting.popleft()
            if not call.done:
                self._begin(call, block, data)

    def _purge_waiting(self) -> bool:
        """Drop the calls that gave up waiting; tell whether there is room now."""
        self._waiting = deque(entry for entry in self._waiting if not entry[0].done)
        return len(self._waiting) < self.config.max_in_flight

    def _open_batch(self) -> BatchStream:
        self._check_usable()
        if not self.engine.can_open():
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{self.address}: no stream is free", not_processed=True)
        config = self.config
        batch = BatchStream(
            self,
            self._write,
            max_message_bytes=config.max_message_bytes,
            max_requests=config.batch_max_requests,
            max_bytes=config.batch_max_bytes,
            on_feedback=config.on_health_feedback,
        )
        batch.stream = self.engine.open_stream(batch, self._block(BATCH_COMMANDS_PATH, ()))
        self._batch = batch
        return batch

    def _block(self, path: bytes | str, metadata: Metadata, timeout_s: float | None = None) -> bytes:
        """Return the header block of a call. The caller's own authorization comes before the channel's."""
        block = self._path_block(path.encode("ascii") if isinstance(path, str) else path)
        if metadata:
            block += encode_headers(_encode_metadata(metadata))
        if self._authorization and not any(name == _AUTHORIZATION for name, _ in metadata):
            block += encode_headers(_encode_metadata(self._authorization))
        if timeout_s is not None:
            block += encode_headers(((b"grpc-timeout", grpc.encode_timeout(timeout_s)),))
        return block

    def _path_block(self, key: bytes) -> bytes:
        block = self._blocks.get(key)
        if block is None:
            if len(self._blocks) >= _BLOCKS_KEPT:
                self._blocks.clear()
            headers: list[Header] = [
                (b":method", b"POST"),
                (b":scheme", b"https" if self._secure else b"http"),
                (b":path", key),
                (b":authority", self.address.encode("idna" if not self.address.isascii() else "ascii")),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"user-agent", self.config.user_agent.encode()),
                (b"grpc-accept-encoding", b"identity,gzip"),
            ]
            block = self._blocks[key] = encode_headers(headers)
        return block

    # --- what calls need of their owner -----------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._error is not None:
            raise ConnectionLost(self._error.details, not_processed=True)
        if self.transport is None:
            raise ConnectionLost(f"{self.address}: not connected", not_processed=True)
        if self.engine.exhausted():
            raise ConnectionLost(f"{self.address}: the connection takes no new calls", not_processed=True)

    def check_room(self) -> None:
        """Raise RpcError RESOURCE_EXHAUSTED while more than `max_queued_bytes` wait to be sent."""
        if self.engine.queued_bytes + self.engine.unsent_bytes > self.config.max_queued_bytes:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{self.address}: too much waits to be sent", not_processed=True)

    def call_done(self, call: Call) -> None:
        """Let another call have the stream that `call` had."""
        self._calls.pop(call, None)
        if self._waiting:
            self._begin_waiting()
        if self.goaway is not None and not self._receiving:
            self._close_if_drained()

    def flush(self) -> None:
        """Send what is queued: now on an exclusive runtime, else together with the rest of the turn."""
        if self._exclusive:
            if not self._receiving:
                self._write_out()
        elif not self._flush_queued:
            self.rt.call_soon(self._flush_turn)
            self._flush_queued = True

    def _flush_turn(self) -> None:
        self._flush_queued = False
        batch = self._batch
        if batch is not None and batch.has_queued:
            batch.flush()
        self._write_out()

    def _write_out(self) -> None:
        if not self._blocked and self.transport is not None:
            data = self.engine.data_to_send()
            if data and not self.transport.write(data):
                self._blocked = True

    def _write(self, data: bytes) -> bool:
        if self.transport is not None and not self.transport.write(data):
            self._blocked = True
        return not self._blocked

    # --- the transport's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:
        """Called by the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        batch = self._batch
        if batch is not None and batch.receive_short(data):
            if not self._exclusive:
                self._heard = self.rt.now()
            return
        self._heard = now = self.rt.now()
        self._receiving = True
        try:
            self.engine.receive_data(data, now)
        except ProtocolError as error:
            self._protocol_error(error, data)
            return
        finally:
            self._receiving = False
        if self.engine.out:
            self._write_out()
        if self.goaway is not None:
            self._close_if_drained()

    def connection_lost(self, error: BaseException | None) -> None:
        """Called by the transport."""
        if not self.engine.settings_seen and not may_be_http2(self.engine.rest):
            reason = what_speaks(self.engine.rest, self._secure)
            self._end(ConnectFailed(f"{self.address}: {reason}", reason="protocol"))
            return
        if not self.engine.settings_seen:
            reason = what_speaks(b"", self._secure)
        elif error is not None:
            reason = f"the connection broke: {error or type(error).__name__}"
        else:
            reason = "the server closed the connection"
        self._end(ConnectionLost(f"{self.address}: {reason}"))

    def writable(self) -> None:
        """Called by the transport."""
        self._blocked = False
        self._write_out()

    def _protocol_error(self, error: ProtocolError, data: bytes) -> None:
        self._write_out()
        if self.engine.settings_seen:
            self._end(ConnectionLost(f"{self.address}: the server broke the protocol: {error}"))
        else:  # it never understood a word of ours
            reason = what_speaks(self.engine.rest + data, self._secure)
            self._end(ConnectFailed(f"{self.address}: {reason}", reason="protocol"))
        if self.transport is not None:
            self.transport.close()

    def _end(self, error: ConnectionLost) -> None:
        """End everything with `error`; what was never sent fails as not processed."""
        if self._error is not None:
            return
        self._error = error
        self.engine.closed = True
        self._timer.cancel()
        self._waiting.clear()
        for batch in (*self._retired, self._batch):
            if batch is not None:
                batch.fail_all(error)
        for call in list(self._calls):
            if isinstance(error, ConnectFailed):
                call.fail(ConnectFailed(error.details, reason=error.reason))
            else:
                call.fail(ConnectionLost(error.details, not_processed=call.stream is None))

    # --- the engine's side ------------------------------------------------------------------------------------------

    def on_request(self, stream: Stream, headers: list[Header], end_stream: bool) -> StreamSink:
        """Clients get no requests: the engine refuses PUSH_PROMISE."""
        raise AssertionError("a request on the client's side")

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """The peer takes no more calls."""
        self.goaway = (code, debug[:256].decode("utf-8", "replace"))
        waiting, self._waiting = self._waiting, deque()
        text = f"{self.address}: the server goes away ({ErrorCode.name_of(code)})"
        for call, _, _ in waiting:
            call.fail(ConnectionLost(text, not_processed=True))

    def on_pong(self, opaque: bytes) -> None:
        """Being heard is all that matters, see `data_received`."""

    def on_settings(self) -> None:
        """The number of streams may have grown."""
        if self._waiting:
            self._begin_waiting()

    def _close_if_drained(self) -> None:
        if not self.in_flight and self._error is None and self.transport is not None:
            self._end(ConnectionLost(f"{self.address}: the server went away", not_processed=True))
            self.transport.close()

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self, deadline: float) -> None:
        now = self.rt.now()
        if self._timer.when == math.inf:
            # Nothing was in flight: silence counts from here.
            self._heard = max(self._heard, now)
            self._pinged = None
        self._timer.want(min(deadline, now + self._keepalive))

    def _tick(self, now: float) -> float | None:
        following: list[float] = []
        if self._batch is not None:
            next_deadline = self._batch.expire(now)
            if next_deadline is not None:
                following.append(next_deadline)
        if self._retired:
            expiries = [batch.expire(now) for batch in self._retired]
            following += [at for at in expiries if at is not None]
            self._end_retired()
        for call in list(self._calls):
            if call.deadline is None:
                continue
            if call.deadline <= now:
                text = f"{self.address}: no answer within the deadline"
                call.fail(RpcError(Status.DEADLINE_EXCEEDED, text, not_processed=call.stream is None))
            else:
                following.append(call.deadline)
        if (self.in_flight or self.config.keepalive_without_calls) and self._error is None:
            following.append(self._check_alive(now))
        return min(following) if following and self._error is None else None

    def _check_alive(self, now: float) -> float:
        """Ping a silent peer, drop one that does not answer; return when to look again."""
        if self._pinged is not None and self._heard < self._pinged:
            if now >= self._pinged + self.config.keepalive_timeout:
                self.abort("no answer to a keepalive ping: the server or the way to it is dead")
            return self._pinged + self.config.keepalive_timeout
        self._pinged = None
        if now < self._heard + self._keepalive:
            return self._heard + self._keepalive
        self._pinged = now
        self.engine.ping(_PONG_MARK)
        self._write_out()
        return now + self.config.keepalive_timeout

    async def _wait_long(self, future: Future[bytes], deadline: float) -> bytes:
        """Wait on an exclusive runtime past the keepalive time."""
        rt = self.rt
        self._heard = max(self._heard, rt.now())
        self._pinged = None
        look = self._heard + self._keepalive
        while look < deadline:
            try:
                return await rt.wait(future, look)
            except TimeoutError:
                if not future.done():
                    look = self._check_alive(rt.now())
        return await rt.wait(future, deadline)


def _encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[Header]:
    headers: list[Header] = []
    for key, value in metadata:
        name = key.lower().encode("ascii")
        raw = value.encode("ascii") if isinstance(value, str) else value
        if name.endswith(b"-bin"):
            raw = base64.b64encode(raw).rstrip(b"=")
        elif any(byte < 0x20 or byte > 0x7E for byte in raw):
            raise ValueError(f"metadata {key!r} holds bytes that are not printable ASCII")
        if not name or name.startswith((b":", b"grpc-")) or any(byte <= 0x20 or byte >= 0x7F for byte in name):
            raise ValueError(f"{key!r} cannot be the name of metadata")
        headers.append((name, raw))
    return headers
