"""The client's channel against a scripted server in memory, on asyncio: joining, outcomes, deadlines, the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytikv.codec import envelope
from pytikv.rt.aio import AioRuntime
from pytikv.wire.batch_commands import BATCH_COMMANDS_PATH
from pytikv.wire.channel import ChannelConfig, ClientChannel
from pytikv.wire.errors import ConnectFailed, ConnectionLost, RpcError, Status
from pytikv.wire.grpc import Deframer, message_frame
from pytikv.wire.http2 import frames
from pytikv.wire.http2.frames import ErrorCode
from pytikv.wire.http2.headers import encode_headers

HEAD = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
OK = encode_headers([(b"grpc-status", b"0")])


class Wire:
    """The transport of the channel; the other end is `server`, an engine in the server's role."""

    peer_name = "test:1"
    alpn: str | None = "h2"

    def __init__(self, channel: ClientChannel, server: Any) -> None:
        self.channel = channel
        self.server = server
        self.writes: list[bytes] = []
        self.full = False
        self.lost = False

    def write(self, data: bytes) -> bool:
        if not self.lost:
            self.writes.append(data)
        return not self.full

    def close(self) -> None:
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self.channel.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        raise AssertionError("a client never stops reading")

    def resume_reading(self) -> None:
        raise AssertionError("a client never stops reading")

    def deliver(self) -> None:
        """Give the server what was written."""
        for data in self.writes:
            self.server.feed(data)
        self.writes.clear()

    def answer(self) -> None:
        """Give the channel what the server queued."""
        data = self.server.engine.data_to_send()
        if data:
            self.channel.data_received(data)


class Script:
    """A channel on a `Wire`, and helpers that act as its server."""

    def __init__(self, make_side: Any, config: ChannelConfig | None) -> None:
        self.rt = AioRuntime()
        self.server = make_side(client=False)
        self.channel = ClientChannel(self.rt, address="store:1", config=config)
        self.wire = Wire(self.channel, self.server)
        self.rt.connect = self._connect  # type: ignore[method-assign, assignment]
        self.soon = self.rt.now() + 5
        self.deframers: dict[int, Deframer] = {}

    async def _connect(self, *args: Any, **kwargs: Any) -> Wire:
        self.channel.connection_made(self.wire)
        return self.wire

    async def turn(self) -> None:
        """Let the channel write, deliver it, and bring back the engine's own answers."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.wire.deliver()
        self.wire.answer()
        await asyncio.sleep(0)

    def commands(self) -> list[list[envelope.Command]]:
        """The BatchCommands messages that arrived since the last call."""
        stream, sink = self.server.requests[-1]
        deframer = self.deframers.setdefault(stream.id, Deframer())
        data, sink.log = sink.body, []
        return [envelope.decode(message) for message in deframer.feed(data)] if data else []

    def start(self, **call: Any) -> asyncio.Task[bytes]:
        return asyncio.ensure_future(self.channel.batch(13, call.get("body", b"x"), call.get("deadline", self.soon)))

    def reply(self, *commands: tuple[int, bytes, int], extra: bytes = b"", head: bool = False) -> None:
        stream, _ = self.server.requests[-1]
        if head:
            self.server.engine.send_headers(stream, HEAD)
        self.server.engine.send_data(stream, message_frame(envelope.encode(commands) + extra))
        self.wire.answer()


@pytest.fixture
def scripted(make_side: Any) -> Callable[..., None]:
    def run(body: Callable[[Script], Coroutine[Any, Any, None]], config: ChannelConfig | None = None) -> None:
        async def main() -> None:
            script = Script(make_side, config)
            await script.channel.connect("h", 1, script.soon)
            await script.turn()
            script.wire.deliver()
            await body(script)
            await script.channel.close()
            assert script.channel.in_flight == 0
            assert script.channel._timer.when == float("inf")
            await script.rt.close()

        asyncio.run(main())

    return run


async def error_of(awaitable: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await awaitable
    return caught.value


def test_commands_of_one_turn_leave_as_one_message_in_one_write(scripted: Any) -> None:
    async def body(s: Script) -> None:
        tasks = [s.start(body=b"%d" % n) for n in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(s.wire.writes) == 1
        await s.turn()
        assert dict(s.server.requests[0][1].log[0][1])[b":path"] == BATCH_COMMANDS_PATH
        (message,) = s.commands()
        assert [c.body for c in message] == [b"0", b"1", b"2", b"3", b"4"]
        s.reply(*((13, b"=" + c.body, c.id) for c in reversed(message)), head=True)
        assert await asyncio.gather(*tasks) == [b"=0", b"=1", b"=2", b"=3", b"=4"]

    scripted(body)


def test_messages_are_split_by_count_and_bytes(scripted: Any) -> None:
    async def body(s: Script) -> None:
        tasks = [s.start(body=bytes(size)) for size in [10] * 9 + [3000, 3000, 9000, 1]]
        for _ in range(4):
            await s.turn()
        assert [len(message) for message in s.commands()] == [4, 4, 2, 1, 1, 1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    scripted(body, ChannelConfig(batch_max_requests=4, batch_max_bytes=5000))


def test_late_answers_find_nobody(scripted: Any) -> None:
    async def body(s: Script) -> None:
        first, second = s.start(body=b"1"), s.start(body=b"2", deadline=s.rt.now() + 0.02)
        await s.turn()
        (message,) = s.commands()
        first.cancel()
        error = await error_of(second)
        assert (error.status, error.not_processed) == (Status.DEADLINE_EXCEEDED, False)
        third = s.start(body=b"3")
        await s.turn()
        ((command,),) = s.commands()
        assert command.id not in [c.id for c in message]
        s.reply(*((13, b"late", c.id) for c in message), (13, b"mine", command.id), (13, b"who?", 1 << 40), head=True)
        assert await third == b"mine"
        assert first.cancelled()

    scripted(body)


def test_commands_cancelled_before_they_left_are_never_sent(scripted: Any) -> None:
    async def body(s: Script) -> None:
        gone, stays = s.start(body=b"gone"), s.start(body=b"stays")
        s.channel.flush = lambda: None  # type: ignore[method-assign]
        await asyncio.sleep(0)
        gone.cancel()
        await s.turn()
        assert [c.body for message in s.commands() for c in message] in ([b"stays"], [b"gone", b"stays"])
        stays.cancel()
        error = await error_of(s.channel.batch(13, b"x", s.rt.now() - 1))
        assert (error.status, error.not_processed) == (Status.DEADLINE_EXCEEDED, True)

    scripted(body)


def test_unknown_commands_and_answers_of_another_kind(scripted: Any) -> None:
    async def body(s: Script) -> None:
        one, two = s.start(), s.start()
        await s.turn()
        ((a, b),) = s.commands()
        s.reply((0, b"", a.id), (15, b"", b.id), head=True)
        error = await error_of(one)
        assert (error.status, error.not_processed) == (Status.UNIMPLEMENTED, True)
        error = await error_of(two)
        assert (error.status, error.not_processed) == (Status.INTERNAL, False)

    scripted(body)


def test_health_feedback_is_handed_over(scripted: Any) -> None:
    seen: list[bytes] = []

    async def body(s: Script) -> None:
        task = s.start()
        await s.turn()
        ((command,),) = s.commands()
        s.reply((13, b"v", command.id), extra=b"\x18\x07\x22\x02\x08\x05\x28\x01", head=True)
        assert await task == b"v"
        for extra in (b"\x22\x02\x08\x06", b"\x28" + b"\x81" * 8 + b"\x01"):
            task = s.start()
            await s.turn()
            ((command,),) = s.commands()
            s.reply((13, b"v", command.id), extra=extra)
            assert await task == b"v"

    scripted(body, ChannelConfig(on_health_feedback=seen.append))
    assert seen == [b"\x08\x05", b"\x08\x06"]


@pytest.mark.parametrize(
    ("act", "status", "not_processed"),
    [
        (lambda s, st: s.server.engine.reset(st, ErrorCode.REFUSED_STREAM), Status.UNAVAILABLE, True),
        (lambda s, st: s.server.engine.reset(st, ErrorCode.INTERNAL_ERROR), Status.INTERNAL, False),
        (lambda s, st: s.server.engine.reset(st, ErrorCode.CANCEL), Status.CANCELLED, False),
        (lambda s, st: s.server.engine.send_headers(st, HEAD + OK, end_stream=True), Status.UNAVAILABLE, False),
        (
            lambda s, st: s.server.engine.send_headers(
                st,
                HEAD + encode_headers([(b"grpc-status", b"3"), (b"grpc-message", b"wrong%20cluster")]),
                end_stream=True,
            ),
            Status.INVALID_ARGUMENT,
            False,
        ),
        (
            lambda s, st: s.server.engine.send_headers(
                st, HEAD + encode_headers([(b"grpc-status", b"12")]), end_stream=True
            ),
            Status.UNIMPLEMENTED,
            True,
        ),
        (
            lambda s, st: s.server.engine.send_headers(st, encode_headers([(b":status", b"503")]), end_stream=True),
            Status.UNAVAILABLE,
            False,
        ),
    ],
    ids=["refused", "internal", "cancel", "ended", "wrong cluster", "unimplemented", "http 503"],
)
def test_the_batch_stream_breaks_and_the_next_command_opens_another(
    scripted: Any, act: Any, status: Status, not_processed: bool
) -> None:
    async def body(s: Script) -> None:
        tasks = [s.start(), s.start()]
        await s.turn()
        act(s, s.server.requests[-1][0])
        s.wire.answer()
        for task in tasks:
            error = await error_of(task)
            assert (error.status, error.not_processed) == (status, not_processed)
        assert s.channel.usable
        task = s.start()
        await s.turn()
        ((command,),) = s.commands()
        s.reply((13, b"again", command.id), head=True)
        assert await task == b"again"

    scripted(body)


def test_connection_lost_says_what_was_never_sent(scripted: Any) -> None:
    async def body(s: Script) -> None:
        sent = s.start()
        await s.turn()
        s.wire.full = True
        unsent = s.start()
        s.channel.flush = lambda: None  # type: ignore[method-assign]
        await asyncio.sleep(0)
        s.channel.connection_lost(ConnectionResetError("reset"))
        error = await error_of(sent)
        assert isinstance(error, ConnectionLost)
        assert not error.not_processed
        assert "store:1" in str(error)
        assert (await error_of(unsent)).not_processed
        assert not s.channel.usable
        assert (await error_of(s.channel.batch(13, b"", s.soon))).not_processed
        assert (await error_of(s.channel.unary("/a/b", b"", deadline=s.soon))).not_processed
        with pytest.raises(ConnectionLost):
            s.channel.stream("/a/b", deadline=None)

    scripted(body)


def test_goaway_cuts_above_and_lets_the_rest_finish(scripted: Any) -> None:
    async def body(s: Script) -> None:
        first = asyncio.ensure_future(s.channel.unary("/a/one", b"1", deadline=s.soon))
        await s.turn()
        second = asyncio.ensure_future(s.channel.unary("/a/two", b"2", deadline=s.soon))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        s.server.engine.goaway(ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")
        s.wire.answer()
        error = await error_of(second)
        assert (error.status, error.not_processed) == (Status.UNAVAILABLE, True)
        assert not s.channel.usable
        assert s.channel.goaway == (ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        assert not s.wire.lost
        s.wire.deliver()
        stream, _ = s.server.requests[0]
        s.server.engine.send_headers(stream, HEAD)
        s.server.engine.send_data(stream, message_frame(b"done"))
        s.server.engine.send_headers(stream, OK, end_stream=True)
        s.wire.answer()
        assert await first == b"done"
        await asyncio.sleep(0)
        assert s.wire.lost

    scripted(body)


def test_goaway_with_an_idle_batch_stream_closes(scripted: Any) -> None:
    async def body(s: Script) -> None:
        task = s.start()
        await s.turn()
        ((command,),) = s.commands()
        s.reply((13, b"v", command.id), head=True)
        assert await task == b"v"
        s.server.engine.goaway()
        s.wire.answer()
        assert s.wire.lost
        assert not s.channel.usable

    scripted(body)


def test_calls_wait_for_a_stream_when_there_are_too_many(scripted: Any, make_side: Any) -> None:
    async def body(s: Script) -> None:
        s.channel.data_received(frames.settings_frame({frames.Setting.MAX_CONCURRENT_STREAMS: 1}))
        tasks = [asyncio.ensure_future(s.channel.unary("/a/b", b"%d" % n, deadline=s.soon)) for n in range(3)]
        short = asyncio.ensure_future(s.channel.unary("/a/b", b"", deadline=s.rt.now() + 0.02))
        error = await error_of(short)
        assert (error.status, error.not_processed) == (Status.DEADLINE_EXCEEDED, True)
        for n in range(3):
            await s.turn()
            assert len(s.server.requests) == n + 1
            stream, _ = s.server.requests[-1]
            s.server.engine.send_headers(stream, HEAD)
            s.server.engine.send_data(stream, message_frame(b"%d" % n))
            s.server.engine.send_headers(stream, OK, end_stream=True)
            s.wire.answer()
            assert await tasks[n] == b"%d" % n

    scripted(body)


UNARY_ANSWERS = {
    "no message": ([(HEAD, False), (OK, True)], Status.INTERNAL),
    "two messages": ([(HEAD, False), message_frame(b"a") * 2, (OK, True)], Status.INTERNAL),
    "half a message": ([(HEAD, False), b"\x00\x00\x00\x00\x09x", (OK, True)], Status.INTERNAL),
    "no status": ([(HEAD, False), message_frame(b"a"), (encode_headers([(b"x", b"y")]), True)], Status.INTERNAL),
    "no trailers": ([(HEAD, False), message_frame(b"a"), None], Status.INTERNAL),
    "strange status": ([(HEAD + encode_headers([(b"grpc-status", b"99")]), True)], Status.UNKNOWN),
    "not a number": ([(HEAD + encode_headers([(b"grpc-status", b"ok")]), True)], Status.UNKNOWN),
    "html": ([(encode_headers([(b":status", b"200"), (b"content-type", b"text/html")]), False)], Status.UNKNOWN),
    "http 502": ([(encode_headers([(b":status", b"502")]), True)], Status.UNAVAILABLE),
    "http 404": ([(encode_headers([(b":status", b"404")]), True)], Status.UNIMPLEMENTED),
    "compressed without encoding": ([(HEAD, False), b"\x01\x00\x00\x00\x01x"], Status.INTERNAL),
    "4 GiB": ([(HEAD, False), b"\x00\xff\xff\xff\xff"], Status.RESOURCE_EXHAUSTED),
    "status after a message": (
        [(HEAD, False), message_frame(b"a"), (encode_headers([(b"grpc-status", b"10")]), True)],
        Status.ABORTED,
    ),
}


@pytest.mark.parametrize("name", UNARY_ANSWERS)
def test_answers_that_are_none(scripted: Any, name: str) -> None:
    parts, status = UNARY_ANSWERS[name]

    async def body(s: Script) -> None:
        task = asyncio.ensure_future(s.channel.unary("/a/b", b"", deadline=s.soon))
        await s.turn()
        stream, _ = s.server.requests[-1]
        for part in parts:
            if part is None:
                s.server.engine.send_data(stream, b"", end_stream=True)
            elif isinstance(part, bytes):
                s.server.engine.send_data(stream, part)
            else:
                s.server.engine.send_headers(stream, part[0], end_stream=part[1])
        s.wire.answer()
        error = await error_of(task)
        assert (error.status, error.not_processed) == (status, False)
        await s.turn()
        assert not s.channel.engine.streams
        assert s.channel.usable

    scripted(body)


def test_a_cancelled_call_tells_the_server(scripted: Any) -> None:
    async def body(s: Script) -> None:
        task = asyncio.ensure_future(s.channel.unary("/a/b", b"", deadline=s.soon))
        await s.turn()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await s.turn()
        assert s.server.requests[0][1].resets == [("reset", ErrorCode.CANCEL, False)]

    scripted(body)


def test_keepalive_finds_a_dead_server_only_while_calls_wait(scripted: Any) -> None:
    async def body(s: Script) -> None:
        await asyncio.sleep(0.1)
        assert not s.wire.writes  # idle: no ping, no timer
        task = s.start()
        began = s.rt.now()
        error = await error_of(task)
        assert isinstance(error, ConnectionLost)
        assert "keepalive" in error.details
        assert not error.not_processed
        assert 0.04 <= s.rt.now() - began < 2
        assert any(data[3:4] == b"\x06" for data in s.wire.writes) or s.wire.lost

    scripted(body, ChannelConfig(keepalive=0.03, keepalive_timeout=0.03))


def test_keepalive_leaves_a_living_server_alone(scripted: Any) -> None:
    async def body(s: Script) -> None:
        task = s.start()
        for _ in range(20):
            await asyncio.sleep(0.01)
            s.wire.deliver()
            s.wire.answer()
        assert not task.done()
        ((command,),) = s.commands()
        s.reply((13, b"slow", command.id), head=True)
        assert await task == b"slow"

    scripted(body, ChannelConfig(keepalive=0.02, keepalive_timeout=0.5))


def test_too_much_is_refused_as_not_processed(scripted: Any) -> None:
    async def body(s: Script) -> None:
        tasks = [s.start() for _ in range(3)]
        await s.turn()
        error = await error_of(s.start())
        assert (error.status, error.not_processed) == (Status.RESOURCE_EXHAUSTED, True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stream = s.channel.stream("/a/b", deadline=None)
        stream.send(bytes(9_000_000))
        await asyncio.sleep(0)
        with pytest.raises(RpcError) as caught:
            stream.send(b"x")
        assert caught.value.status == Status.RESOURCE_EXHAUSTED
        drained = asyncio.ensure_future(stream.drain(s.soon))
        for _ in range(60):
            await s.turn()
        await drained
        stream.send(b"x")
        stream.cancel()

    scripted(body, ChannelConfig(max_in_flight=3, max_queued_bytes=100_000))


FIRST_BYTES = {
    "http/1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1"),
    "tls alert": (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
    "noise": (b"\x00\x00\x05hello world, this is noise", "HTTP/2"),
    "nothing": (b"", "closed the connection before"),
}


@pytest.mark.parametrize("name", FIRST_BYTES)
def test_servers_that_speak_something_else_are_named(name: str) -> None:
    first, word = FIRST_BYTES[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(24)
        writer.write(first)
        writer.close()

    async def main() -> None:
        rt = AioRuntime()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        channel = ClientChannel(rt, address=f"127.0.0.1:{port}")
        await channel.connect("127.0.0.1", port, rt.now() + 5)
        error = await error_of(channel.batch(13, b"x", rt.now() + 5))
        assert error.status == Status.UNAVAILABLE
        assert word in error.details
        assert str(port) in error.details
        server.close()
        await rt.close()

    asyncio.run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        rt = AioRuntime()
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        channel = ClientChannel(rt, address=f"127.0.0.1:{port}")
        with pytest.raises(ConnectFailed) as caught:
            await channel.connect("127.0.0.1", port, rt.now() + 5)
        assert caught.value.not_processed
        assert caught.value.reason == "refused"
        assert not channel.usable
        await rt.close()

    asyncio.run(main())


@pytest.mark.parametrize("metadata", [(("a b", "x"),), ((":path", "x"),), (("grpc-status", "0"),), (("a", "x\ny"),)])
def test_metadata_that_cannot_be_sent(scripted: Any, metadata: Any) -> None:
    async def body(s: Script) -> None:
        with pytest.raises(ValueError, match="metadata"):
            await s.channel.unary("/a/b", b"", deadline=s.soon, metadata=metadata)
        assert s.channel.in_flight == 0

    scripted(body)
