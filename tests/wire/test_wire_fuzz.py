"""Random frames and bytes against a whole server connection and a whole channel: nothing escapes, nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.codec import envelope
from pytikv.rt.aio import AioRuntime
from pytikv.wire.channel import ClientChannel
from pytikv.wire.errors import RpcError
from pytikv.wire.grpc import message_frame
from pytikv.wire.http2 import frames
from pytikv.wire.http2.headers import encode_headers
from pytikv.wire.server import ServerConfig, ServerConnection, ServerStream, StreamHandler, Streaming, Unary


class Transport:
    peer_name = "peer:1"
    alpn: str | None = None

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.lost = False
        self.sent = 0

    def write(self, data: bytes) -> bool:
        self.sent += len(data)
        return True

    def close(self) -> None:
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self.owner.connection_lost, None)

    abort = close

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Echo(StreamHandler):
    def __init__(self, stream: ServerStream) -> None:
        self.stream = stream

    def on_message(self, message: bytes) -> None:
        self.stream.send(message)

    def on_half_close(self) -> None:
        self.stream.finish()


def request(stream_id: int, path: bytes, end: bool) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b"content-type", b"application/grpc")]
    return frames.headers_frames(stream_id, encode_headers(fields), end, 16_384)


ids = st.sampled_from([1, 3, 5, 7, 9])
payloads = st.binary(max_size=30) | st.builds(message_frame, st.binary(max_size=20))
calls = st.builds(request, ids, st.sampled_from([b"/t/echo", b"/t/slow", b"/t/stream", b"/none"]), st.booleans())
data = st.builds(frames.data_frame, ids, payloads, st.booleans())
control = st.one_of(
    st.builds(frames.rst_stream_frame, ids, st.integers(0, 20)),
    st.builds(frames.window_update_frame, ids | st.just(0), st.integers(0, (1 << 31) - 1)),
    st.builds(lambda size: frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: size}), st.integers(0, 200)),
    st.builds(frames.frame, st.integers(0, 12), st.integers(0, 255), ids | st.just(0), st.binary(max_size=20)),
    st.builds(frames.goaway_frame, st.integers(0, 9), st.integers(0, 13)),
)
streams = st.lists(calls | data | data | control | st.binary(max_size=12), max_size=30)


async def slow(message: bytes, info: Any) -> bytes:
    await asyncio.sleep(0)
    return message * 2


ROUTES = {b"/t/echo": Unary(lambda message, info: message), b"/t/slow": Unary(slow), b"/t/stream": Streaming(Echo)}


@settings(max_examples=200, deadline=None)
@given(streams, st.integers(1, 80))
def test_a_server_survives_anything(parts: list[bytes], chunk: int) -> None:
    async def main() -> None:
        rt = AioRuntime()
        closed: list[ServerConnection] = []
        config = ServerConfig(max_queued_bytes=200, max_queued_bytes_per_stream=50, max_buffered_bytes=300)
        connection = ServerConnection(rt, ROUTES, config, on_close=closed.append)
        transport = Transport(connection)
        connection.connection_made(transport)
        everything = frames.PREFACE + frames.settings_frame({}) + b"".join(parts)
        for at in range(0, len(everything), chunk):
            if transport.lost:
                break
            connection.data_received(everything[at : at + chunk])
            if at % 3 == 0:
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert connection.buffered_bytes <= 300 + 80 + 64
        assert connection.engine.queued_bytes <= 200 + 100
        transport.close()
        for _ in range(4):
            await asyncio.sleep(0)
        assert closed == [connection]
        assert connection.buffered_bytes == 0
        assert connection.engine.queued_bytes == 0 or connection.engine.closed
        assert not connection.engine.streams
        assert not connection._parked
        assert not connection._timed
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await rt.close()

    asyncio.run(main())


HEAD = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
OK = encode_headers([(b"grpc-status", b"0")])
blocks = st.sampled_from([HEAD, OK, HEAD + OK, encode_headers([(b":status", b"404")]), encode_headers([(b"x", b"y")])])
answers = st.builds(lambda sid, block, end: frames.headers_frames(sid, block, end, 16_384), ids, blocks, st.booleans())
batches = st.builds(
    lambda sid, slot, ident: frames.data_frame(sid, message_frame(envelope.encode_one(slot, b"v", ident)), False),
    ids,
    st.sampled_from([0, 13, 15]),
    st.integers(127, 131),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(answers | batches | data | control | st.binary(max_size=12), max_size=30), st.integers(1, 200))
def test_a_channel_survives_anything(parts: list[bytes], chunk: int) -> None:
    async def main() -> None:
        rt = AioRuntime()
        channel = ClientChannel(rt, address="x")
        transport = Transport(channel)

        async def connect(*args: Any, **kwargs: Any) -> Any:
            channel.connection_made(transport)
            return transport

        rt.connect = connect  # type: ignore[method-assign]
        soon = rt.now() + 5
        await channel.connect("x", 1, soon)
        stream = channel.stream("/t/stream", deadline=None)
        waits = [channel.batch(13, b"k", soon) for _ in range(3)]
        waits += [channel.unary("/t/echo", b"k", deadline=soon) for _ in range(2)]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        tasks.append(asyncio.ensure_future(stream.recv(soon)))
        await asyncio.sleep(0)
        everything = frames.settings_frame({}) + b"".join(parts)
        for at in range(0, len(everything), chunk):
            if transport.lost:
                break
            channel.data_received(everything[at : at + chunk])
            if at % 3 == 0:
                await asyncio.sleep(0)
        channel.abort("the test is over")
        with contextlib.suppress(RpcError):
            stream.send(b"more")
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, (bytes, RpcError))
        assert channel.in_flight == 0
        assert not channel.usable
        assert channel._timer.when == float("inf")
        await asyncio.sleep(0)
        await rt.close()

    asyncio.run(main())
