"""The server's connection: calls, errors, limits, backpressure, shutdown; driven by our channel on asyncio, or raw."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from pytikv.codec import envelope
from pytikv.rt.aio import AioRuntime
from pytikv.wire.channel import ChannelConfig, ClientChannel
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.grpc import message_frame
from pytikv.wire.http2 import frames
from pytikv.wire.http2.headers import HeaderDecoder, encode_headers
from pytikv.wire.http2.limits import Http2Config
from pytikv.wire.server import (
    CallInfo,
    ServerConfig,
    ServerConnection,
    ServerStream,
    StreamHandler,
    Streaming,
    Unary,
)


class Echo(StreamHandler):
    def __init__(self, stream: ServerStream) -> None:
        self.stream = stream

    def on_message(self, message: bytes) -> None:
        if message == b"fail":
            raise RpcError(Status.ABORTED, "as asked")
        if message == b"crash":
            raise KeyError("secret")
        self.stream.send(message)

    def on_half_close(self) -> None:
        self.stream.finish()


class World:
    """A listening server with some routes, and what they saw."""

    def __init__(self, rt: AioRuntime, config: ServerConfig | None = None) -> None:
        self.rt = rt
        self.connections: list[ServerConnection] = []
        self.cancelled: list[str] = []
        self.closed: list[ServerConnection] = []
        self.infos: list[CallInfo] = []
        self.gate = asyncio.Event()
        world = self

        class Watched(Echo):
            def on_cancel(self) -> None:
                world.cancelled.append("stream")

        async def slow(request: bytes, info: CallInfo) -> bytes:
            try:
                await world.gate.wait()
            except asyncio.CancelledError:
                world.cancelled.append("unary")
                raise
            return request

        def echo(request: bytes, info: CallInfo) -> bytes:
            world.infos.append(info)
            return request

        def denied(request: bytes, info: CallInfo) -> bytes:
            raise RpcError(Status.PERMISSION_DENIED, "näh 50%")

        def crash(request: bytes, info: CallInfo) -> bytes:
            raise KeyError("secret")

        self.routes = {
            b"/t/echo": Unary(echo),
            b"/t/slow": Unary(slow),
            b"/t/denied": Unary(denied),
            b"/t/crash": Unary(crash),
            b"/t/big": Unary(lambda request, info: bytes(int(request))),
            b"/t/stream": Streaming(Watched),
        }
        self.config = config

    def make(self) -> ServerConnection:
        connection = ServerConnection(self.rt, self.routes, self.config, on_close=self.closed.append)
        self.connections.append(connection)
        return connection


def with_server(
    body: Callable[[World, ClientChannel], Coroutine[Any, Any, None]],
    config: ServerConfig | None = None,
    client: ChannelConfig | None = None,
) -> None:
    async def main() -> None:
        rt = AioRuntime()
        world = World(rt, config)
        listener = await rt.listen("127.0.0.1", 0, world.make)
        channel = ClientChannel(rt, address=f"127.0.0.1:{listener.port}", config=client)
        await channel.connect("127.0.0.1", listener.port, rt.now() + 5)
        try:
            await body(world, channel)
        finally:
            await channel.close()
            await listener.close()
            await rt.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event to offer
            await asyncio.sleep(0.002)


def fails(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, RpcError]:
    async def run() -> RpcError:
        with pytest.raises(RpcError) as caught:
            await awaitable
        return caught.value

    return run()


def test_unary_calls_and_their_errors(caplog: pytest.LogCaptureFixture) -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        soon = world.rt.now() + 5
        meta = (("x-one", "1"), ("x-raw-bin", b"\x00\xff"))
        assert await channel.unary("/t/echo", b"hello", deadline=soon, metadata=meta) == b"hello"
        assert (b"x-one", b"1") in world.infos[0].metadata
        assert (b"x-raw-bin", b"AP8") in world.infos[0].metadata
        assert world.infos[0].deadline is not None
        assert abs(world.infos[0].deadline - soon) < 0.1
        assert await channel.unary(b"/t/echo", b"", deadline=soon) == b""
        assert await channel.unary(b"/t/big", b"300000", deadline=soon) == bytes(300_000)
        error = await fails(channel.unary(b"/t/denied", b"", deadline=soon))
        assert (error.status, error.details, error.not_processed) == (Status.PERMISSION_DENIED, "näh 50%", False)
        error = await fails(channel.unary(b"/t/crash", b"", deadline=soon))
        assert (error.status, error.details) == (Status.INTERNAL, "internal error (KeyError)")
        error = await fails(channel.unary(b"/t/none", b"", deadline=soon))
        assert (error.status, error.not_processed) == (Status.UNIMPLEMENTED, True)
        assert channel.in_flight == 0

    with_server(body)
    assert "secret" not in caplog.text


def test_deadlines_and_cancellation_reach_the_handler() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        error = await fails(channel.unary(b"/t/slow", b"", deadline=world.rt.now() + 0.05))
        assert (error.status, error.not_processed) == (Status.DEADLINE_EXCEEDED, False)
        task = asyncio.ensure_future(channel.unary(b"/t/slow", b"", deadline=world.rt.now() + 5))
        await channel.unary(b"/t/echo", b"", deadline=world.rt.now() + 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await channel.unary(b"/t/echo", b"", deadline=world.rt.now() + 5)
        assert world.cancelled == ["unary", "unary"]
        assert channel.in_flight == 0
        assert not world.connections[0].engine.streams

    with_server(body)


def test_the_server_keeps_deadlines_by_itself() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        stream = channel.stream(b"/t/slow", deadline=world.rt.now() + 0.05)
        stream.deadline = None  # this client does not look at the clock
        stream.send(b"")
        stream.end()
        error = await fails(stream.recv(world.rt.now() + 5))
        assert (error.status, error.details) == (Status.DEADLINE_EXCEEDED, "the deadline passed")

    with_server(body)


def test_streaming_both_ways() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        soon = world.rt.now() + 5
        stream = channel.stream("/t/stream", deadline=None)
        for message in (b"a", b"", b"c" * 100_000):
            stream.send(message)
        assert [await stream.recv(soon) for _ in range(3)] == [b"a", b"", b"c" * 100_000]
        stream.end()
        assert await stream.recv(soon) is None
        assert await stream.recv(soon) is None
        with pytest.raises(RpcError):
            stream.send(b"late")
        for word, status in ((b"fail", Status.ABORTED), (b"crash", Status.INTERNAL)):
            stream = channel.stream("/t/stream", deadline=soon)
            stream.send(b"x")
            stream.send(word)
            assert await stream.recv(soon) == b"x"
            assert (await fails(stream.recv(soon))).status == status
        stream = channel.stream("/t/stream", deadline=soon)
        stream.send(b"x")
        assert await stream.recv(soon) == b"x"
        error = await fails(stream.recv(world.rt.now() + 0.01))
        assert error.status == Status.DEADLINE_EXCEEDED
        stream.cancel()
        await channel.unary(b"/t/echo", b"", deadline=soon)
        assert world.cancelled == ["stream"]
        assert channel.in_flight == 0

    with_server(body)


def test_a_slow_reader_is_not_flooded() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        soon = world.rt.now() + 20
        stream = channel.stream("/t/stream", deadline=None)
        for _ in range(300):
            stream.send(bytes(10_000))
        for _ in range(20):
            await channel.unary(b"/t/echo", b"", deadline=soon)
        server = world.connections[0]
        assert server.engine.queued_bytes <= 200_000 + 200_000
        assert stream._waiting_bytes <= 300_000
        for _ in range(300):
            assert await stream.recv(soon) == bytes(10_000)
        assert server.buffered_bytes == 0

    window = Http2Config(stream_window=200_000)
    with_server(body, ServerConfig(http2=window, max_queued_bytes_per_stream=200_000), ChannelConfig(http2=window))


def test_too_large_messages_are_refused_on_both_sides() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        soon = world.rt.now() + 5
        for path, request in ((b"/t/echo", bytes(200_001)), (b"/t/big", b"200001"), (b"/t/big", b"150000")):
            error = await fails(channel.unary(path, request, deadline=soon))
            assert error.status == Status.RESOURCE_EXHAUSTED
        assert await channel.unary(b"/t/big", b"1000", deadline=soon) == bytes(1000)

    with_server(body, ServerConfig(max_message_bytes=200_000), ChannelConfig(max_message_bytes=100_000))


def test_unfinished_requests_together_are_bounded() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        soon = world.rt.now() + 5
        streams = [channel.stream(b"/t/echo", deadline=None) for _ in range(4)]
        for stream in streams:
            channel.engine.send_data(stream.stream, message_frame(bytes(50_000))[:40_000])
        await channel.unary(b"/t/echo", b"", deadline=soon)
        failed = [stream for stream in streams if stream.done]
        assert len(failed) == 2
        assert world.connections[0].buffered_bytes <= 100_000
        for stream in streams:
            stream.cancel()
        await channel.unary(b"/t/echo", b"", deadline=soon)
        assert world.connections[0].buffered_bytes == 0

    with_server(body, ServerConfig(max_buffered_bytes=100_000))


def test_shutdown_lets_calls_finish() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        soon = world.rt.now() + 5
        slow = asyncio.ensure_future(channel.unary(b"/t/slow", b"s", deadline=soon))
        stream = channel.stream("/t/stream", deadline=None)
        stream.send(b"x")
        assert await stream.recv(soon) == b"x"
        shutdown = asyncio.ensure_future(world.connections[0].shutdown(soon))
        error = await fails(stream.recv(soon))
        assert (error.status, error.details) == (Status.UNAVAILABLE, "the server is shutting down")
        assert not channel.usable
        error = await fails(channel.unary(b"/t/echo", b"", deadline=soon))
        assert error.not_processed
        assert not shutdown.done()
        world.gate.set()
        assert await slow == b"s"
        await shutdown
        await until(lambda: bool(world.closed))
        assert world.closed == world.connections

    with_server(body)


def test_shutdown_cuts_off_at_its_deadline() -> None:
    async def body(world: World, channel: ClientChannel) -> None:
        slow = asyncio.ensure_future(channel.unary(b"/t/slow", b"s", deadline=world.rt.now() + 5))
        await channel.unary(b"/t/echo", b"", deadline=world.rt.now() + 5)
        await world.connections[0].shutdown(world.rt.now() + 0.02)
        error = await fails(slow)
        assert (error.status, error.not_processed) == (Status.UNAVAILABLE, False)
        assert world.cancelled == ["unary"]

    with_server(body)


class RawTransport:
    """A transport that keeps what is written."""

    peer_name = "test:1"
    alpn: str | None = None

    def __init__(self) -> None:
        self.sent = b""
        self.full = False
        self.paused = False
        self.closed = ""

    def write(self, data: bytes) -> bool:
        self.sent += data
        return not self.full

    def close(self) -> None:
        self.closed = self.closed or "closed"

    def abort(self) -> None:
        self.closed = self.closed or "aborted"

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def raw(config: ServerConfig | None = None) -> tuple[World, ServerConnection, RawTransport]:
    world = World(AioRuntime(), config)
    connection, transport = world.make(), RawTransport()
    connection.connection_made(transport)
    return world, connection, transport


def on_loop(body: Callable[[], None]) -> None:
    async def main() -> None:
        body()

    asyncio.run(main())


def call(stream_id: int, path: bytes, request: bytes | None, **more: bytes) -> bytes:
    fields = {b":method": b"POST", b":scheme": b"http", b":path": path, b"content-type": b"application/grpc"}
    fields |= {key.replace("_", "-").encode(): value for key, value in more.items()}
    if "method" in more:
        fields[b":method"] = fields.pop(b"method")
    head = frames.headers_frames(stream_id, encode_headers(fields.items()), request is None, 16384)
    return head + (b"" if request is None else frames.data_frame(stream_id, message_frame(request), True))


HELLO = frames.PREFACE + frames.settings_frame({})


def answers(sent: bytes) -> list[tuple[int, int, Any]]:
    """Frames of a server, headers decoded."""
    out, pos, decoder = [], 0, HeaderDecoder(65536)
    while pos < len(sent):
        size, kind = int.from_bytes(sent[pos : pos + 3], "big"), sent[pos + 3]
        stream_id = int.from_bytes(sent[pos + 5 : pos + 9], "big")
        payload: Any = sent[pos + 9 : pos + 9 + size]
        out.append((stream_id, kind, dict(decoder.decode(payload)) if kind == 1 else payload))
        pos += 9 + size
    return out


def test_a_turn_is_answered_in_one_write_that_begins_with_settings() -> None:
    def body() -> None:
        _, connection, transport = raw()
        connection.data_received(HELLO + call(1, b"/t/echo", b"a") + call(3, b"/t/echo", b"b"))
        got = answers(transport.sent)
        assert got[0][1] == frames.FrameType.SETTINGS
        assert [payload for stream_id, kind, payload in got if kind == 0] == [message_frame(b"a"), message_frame(b"b")]

    on_loop(body)


def test_a_client_of_http1_is_told_so() -> None:
    def body() -> None:
        _, connection, transport = raw()
        connection.data_received(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert transport.sent.startswith(b"HTTP/1.1 400 ")
        assert b"gRPC" in transport.sent
        assert transport.closed == "closed"

    on_loop(body)


@pytest.mark.parametrize("first", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x00" * 30, b"PRI * HTTP/1.1"])
def test_other_protocols_get_a_closed_connection(first: bytes) -> None:
    def body() -> None:
        _, connection, transport = raw()
        connection.data_received(first)
        assert (transport.sent, transport.closed) == (b"", "closed")

    on_loop(body)


def test_without_agreement_on_h2_there_is_no_connection() -> None:
    def body() -> None:
        _, _, transport = raw(ServerConfig(require_alpn=True))
        assert transport.closed == "aborted"

    on_loop(body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (call(1, b"/t/echo", b"x", method=b"GET"), b"405"),
        (call(1, b"/t/echo", b"x", content_type=b"text/html"), b"415"),
        (call(1, b"/t/echo", None, method=b"GET"), b"405"),
    ],
)
def test_requests_that_are_not_grpc(request_bytes: bytes, status: bytes) -> None:
    def body() -> None:
        _, connection, transport = raw()
        connection.data_received(HELLO + request_bytes)
        assert [payload[b":status"] for _, kind, payload in answers(transport.sent) if kind == 1] == [status]
        assert not connection.engine.streams

    on_loop(body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (call(1, b"/t/echo", None), Status.INTERNAL),
        (call(1, b"/t/echo", b"x", grpc_timeout=b"5x"), Status.INTERNAL),
        (call(1, b"/t/echo", b"x", grpc_timeout=b"0n"), Status.DEADLINE_EXCEEDED),
        (call(1, b"/t/echo", b"x", grpc_encoding=b"snappy"), Status.UNIMPLEMENTED),
        (call(1, b"/t/echo", b"x")[:-1] + b"x" + frames.data_frame(1, b"", True), Status.OK),
        (call(1, b"/t/none", b"x"), Status.UNIMPLEMENTED),
    ],
)
def test_ill_formed_calls(request_bytes: bytes, status: Status) -> None:
    def body() -> None:
        _, connection, transport = raw()
        connection.data_received(HELLO + request_bytes)
        got = [payload for _, kind, payload in answers(transport.sent) if kind == 1 and b"grpc-status" in payload]
        assert int(got[0][b"grpc-status"]) == status
        assert not connection.engine.streams

    on_loop(body)


def test_a_message_cut_short_and_a_second_message() -> None:
    def body() -> None:
        _, connection, transport = raw()
        head = call(1, b"/t/echo", None)[: -0 or None]
        open_head = head[:4] + b"\x04" + head[5:]
        connection.data_received(HELLO + open_head + frames.data_frame(1, b"\x00\x00\x00\x00\x09x", True))
        two = message_frame(b"a") + message_frame(b"b")
        third = open_head[:8] + b"\x03" + open_head[9:]
        connection.data_received(third + frames.data_frame(3, two, True))
        got = [payload for _, kind, payload in answers(transport.sent) if kind == 1 and b"grpc-status" in payload]
        assert [payload[b"grpc-status"] for payload in got] == [b"13", b"13"]

    on_loop(body)


def test_a_full_socket_stops_reading_and_working() -> None:
    def body() -> None:
        world, connection, transport = raw()
        transport.full = True
        connection.data_received(HELLO + call(1, b"/t/echo", b"1"))
        assert transport.paused
        connection.data_received(call(3, b"/t/echo", b"2") + call(5, b"/t/echo", b"3"))
        assert len(world.infos) == 1
        transport.full = False
        connection.writable()
        assert not transport.paused
        assert len(world.infos) == 3

    on_loop(body)


def test_a_peer_without_windows_holds_little() -> None:
    def body() -> None:
        _, connection, transport = raw(ServerConfig(max_queued_bytes=100_000))
        no_window = frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: 0})
        connection.data_received(frames.PREFACE + no_window)
        for stream_id in range(1, 201, 2):
            connection.data_received(call(stream_id, b"/t/big", b"50000"))
        assert connection.engine.queued_bytes <= 150_020
        connection.data_received(frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: 60_000}))
        connection.data_received(frames.window_update_frame(0, 10_000_000))
        ended = [
            stream_id for stream_id, kind, payload in answers(transport.sent) if kind == 1 and b"grpc-status" in payload
        ]
        assert len(ended) == 100
        assert connection.engine.queued_bytes == 0

    on_loop(body)


def test_a_dead_client_is_noticed() -> None:
    async def main() -> None:
        world = World(AioRuntime(), ServerConfig(keepalive=0.02, keepalive_timeout=0.02))
        connection, transport = world.make(), RawTransport()
        connection.connection_made(transport)
        connection.data_received(HELLO)
        await until(lambda: bool(transport.closed))
        assert transport.closed == "aborted"
        assert any(kind == frames.FrameType.PING for _, kind, _ in answers(transport.sent))

    asyncio.run(main())


def test_a_client_that_says_nothing_is_dropped() -> None:
    async def main() -> None:
        world = World(AioRuntime(), ServerConfig(handshake_timeout=0.01))
        connection, transport = world.make(), RawTransport()
        connection.connection_made(transport)
        await until(lambda: bool(transport.closed))

    asyncio.run(main())


def test_batch_commands_over_our_own_server() -> None:
    class Batch(Echo):
        def on_message(self, message: bytes) -> None:
            commands = envelope.decode(message)
            self.stream.send(envelope.encode((c.slot, c.body[::-1], c.id) for c in reversed(commands)))

    async def body(world: World, channel: ClientChannel) -> None:
        world.routes[b"/tikvpb.Tikv/BatchCommands"] = Streaming(Batch)
        soon = world.rt.now() + 5
        got = await asyncio.gather(*(channel.batch(13, b"%d." % n, soon) for n in range(1000)))
        assert got == [(b"%d." % n)[::-1] for n in range(1000)]
        assert await channel.batch(15, bytes(300_000), soon) == bytes(300_000)

    with_server(body)
