"""The channel on the blocking runtime, its short path, and what both runtimes say to peers that speak otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytikv.codec import envelope
from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.tls import TLS, FileTlsContext, load_client_tls, load_server_tls
from pytikv.wire.channel import ChannelConfig, ClientChannel
from pytikv.wire.errors import ConnectFailed, ConnectionLost, RpcError, Status
from pytikv.wire.grpc import message_frame
from pytikv.wire.http2 import frames
from pytikv.wire.http2.headers import encode_headers
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
        self.stream.send(message)

    def on_half_close(self) -> None:
        self.stream.finish()


class Batch(Echo):
    """Answers with the body turned round; never answers b"never"."""

    def on_message(self, message: bytes) -> None:
        commands = [(c.slot, c.body[::-1], c.id) for c in envelope.decode(message) if c.body != b"never"]
        if commands:
            self.stream.send(envelope.encode(commands))


async def never(request: bytes, info: CallInfo) -> bytes:
    await asyncio.sleep(60)
    return request


ROUTES = {
    b"/t/echo": Unary(lambda request, info: request),
    b"/t/never": Unary(never),
    b"/t/stream": Streaming(Echo),
    b"/tikvpb.Tikv/BatchCommands": Streaming(Batch),
}


class Noise:
    """A server that answers the first bytes with `first` and, if `close`, closes; it says nothing more."""

    def __init__(self, first: bytes, close: bool) -> None:
        self.first, self.close = first, close

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.first)
        self.first = b""
        if self.close:
            self.transport.close()

    def connection_lost(self, error: BaseException | None) -> None:
        pass

    def writable(self) -> None:
        pass


class ServerThread:
    """A server on an asyncio loop of its own thread."""

    def __init__(self, factory: Callable[[AioRuntime], Any], tls: Any) -> None:
        self.connections: list[Any] = []
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(factory, tls)))
        self._thread.start()
        self._ready.result(10)

    async def _main(self, factory: Callable[[AioRuntime], Any], tls: Any) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        rt = AioRuntime()

        def make() -> Any:
            self.connections.append(factory(rt))
            return self.connections[-1]

        listener = await rt.listen("127.0.0.1", 0, make, tls=tls)
        self.port = listener.port
        self._ready.set_result(None)
        await self._stop.wait()
        await listener.close()
        for connection in self.connections:
            if getattr(connection, "transport", None) is not None:
                connection.transport.abort()
        await rt.close()
        for _ in range(3):
            await asyncio.sleep(0)

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@contextlib.contextmanager
def serving(factory: Callable[[AioRuntime], Any] | None = None, tls: Any = None) -> Iterator[ServerThread]:
    config = ServerConfig(require_alpn=tls is not None)
    server = ServerThread(factory or (lambda rt: ServerConnection(rt, ROUTES, config)), tls)
    try:
        yield server
    finally:
        server.close()


Body = Callable[[Any, ClientChannel], Coroutine[Any, Any, Any]]


def run_on(kind: str, port: int, body: Body, tls: Any = None, config: ChannelConfig | None = None) -> Any:
    """Run `body(rt, channel)` with a channel that is still to be connected."""

    async def scenario(rt: Any) -> Any:
        channel = ClientChannel(rt, address=f"127.0.0.1:{port}", config=config)
        try:
            await channel.connect("127.0.0.1", port, rt.now() + 2, tls)
            return await body(rt, channel)
        finally:
            channel.abort("the test is over")

    if kind == "caller":
        with contextlib.closing(CallerRuntime()) as rt:
            return rt.run(scenario(rt))

    async def main() -> Any:
        rt = AioRuntime()
        try:
            return await scenario(rt)
        finally:
            await rt.close()
            await asyncio.sleep(0.01)

    return asyncio.run(main())


async def error_of(awaitable: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await awaitable
    return caught.value


both = pytest.mark.parametrize("kind", ["aio", "caller"])


@both
def test_all_kinds_of_calls(kind: str) -> None:
    async def body(rt: Any, channel: ClientChannel) -> None:
        soon = rt.now() + 10
        for size in (0, 1, 100, 200, 20_000, 3_000_000):
            assert await channel.batch(13, b"ab" * size, soon) == b"ba" * size
            assert await channel.unary("/t/echo", bytes(size), deadline=soon) == bytes(size)
        got = await rt.gather(*(channel.batch(17, b"%d." % n, soon) for n in range(300)))
        assert got == [(b"%d." % n)[::-1] for n in range(300)]
        got = await rt.gather(*(channel.unary("/t/echo", b"%d" % n, deadline=soon) for n in range(300)))
        assert got == [b"%d" % n for n in range(300)]
        stream = channel.stream("/t/stream", deadline=None)
        stream.send(b"one")
        stream.send(b"two" * 100_000)
        assert await stream.recv(soon) == b"one"
        stream.end()
        assert await stream.recv(soon) == b"two" * 100_000
        assert await stream.recv(soon) is None
        for call in (
            lambda deadline: channel.batch(13, b"never", deadline),
            lambda deadline: channel.unary("/t/never", b"", deadline=deadline),
        ):
            error = await error_of(call(rt.now() + 0.05))
            assert (error.status, error.not_processed) == (Status.DEADLINE_EXCEEDED, False)
        assert channel.check_idle()
        assert channel.in_flight == 0
        assert await channel.batch(13, b"still", soon) == b"llits"

    with serving() as server:
        run_on(kind, server.port, body)


def test_parts_of_one_blocking_call_are_written_at_once() -> None:
    async def body(rt: Any, channel: ClientChannel) -> None:
        written: list[bytes] = []
        assert await channel.batch(13, b"open", rt.now() + 5) == b"nepo"
        transport: Any = channel.transport
        write = transport.write
        channel._batch._write = transport.write = lambda data: written.append(data) or write(data)
        assert await channel.batch(13, b"one", rt.now() + 5) == b"eno"
        assert len(written) == 1
        parts = [channel.batch(13, b"part %d" % n, rt.now() + 5) for n in range(3)]
        assert await rt.gather(*parts) == [b"0 trap", b"1 trap", b"2 trap"]
        assert len(written) == 2

    with serving() as server:
        run_on("caller", server.port, body)


def test_a_leased_connection_learns_of_goaway_before_it_is_used() -> None:
    with serving() as server, contextlib.closing(CallerRuntime()) as rt:
        channel = ClientChannel(rt, address="store")
        rt.run(channel.connect("127.0.0.1", server.port, rt.now() + 5))

        async def get() -> bytes:
            assert channel.check_idle()
            return await channel.batch(13, b"abc", rt.now() + 5)

        assert [rt.run(get()) for _ in range(3)] == [b"cba"] * 3
        server.call(lambda: server.connections[0].shutdown(server.connections[0].rt.now() + 5))

        async def look() -> bool:
            return channel.check_idle()

        until = rt.now() + 5
        while rt.run(look()):
            assert rt.now() < until
            rt.run(rt.sleep(0.11))  # a connection in constant use is not looked at
        assert not channel.usable


def test_keepalive_on_the_blocking_runtime() -> None:
    async def body(rt: Any, channel: ClientChannel) -> None:
        began = rt.now()
        error = await error_of(channel.batch(13, b"x", began + 30))
        assert isinstance(error, ConnectionLost)
        assert "keepalive" in error.details
        assert rt.now() - began < 5

    first = frames.settings_frame({})
    with serving(lambda rt: Noise(first, close=False)) as server:
        run_on("caller", server.port, body, config=ChannelConfig(keepalive=0.05, keepalive_timeout=0.05))


def test_keepalive_leaves_a_slow_but_living_server_alone() -> None:
    async def body(rt: Any, channel: ClientChannel) -> None:
        error = await error_of(channel.batch(13, b"never", rt.now() + 0.3))
        assert error.status == Status.DEADLINE_EXCEEDED
        assert channel.usable

    with serving() as server:
        run_on("caller", server.port, body, config=ChannelConfig(keepalive=0.03, keepalive_timeout=2.0))


# --- what the peer speaks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TLS]:
    """Self-signed certificates for 127.0.0.1 by name; each is its own authority."""
    folder = tmp_path_factory.mktemp("pem")

    def make(name: str) -> TLS:
        cert_path, key_path = Path(folder, f"{name}.pem"), Path(folder, f"{name}.key")
        if not cert_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
            now = datetime.datetime.now(datetime.UTC)
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
            builder = builder.add_extension(names, False).add_extension(x509.BasicConstraints(True, None), True)
            pem_of = serialization.Encoding.PEM
            cert_path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem_of))
            no_password = serialization.NoEncryption()
            key_path.write_bytes(key.private_bytes(pem_of, serialization.PrivateFormat.PKCS8, no_password))
        return TLS(ca=str(cert_path), cert=str(cert_path), key=str(key_path))

    return make


async def one_call(rt: Any, channel: ClientChannel) -> bytes:
    return await channel.batch(13, b"abc", rt.now() + 2)


def refusal(kind: str, port: int, tls: Any = None) -> RpcError:
    with pytest.raises(RpcError) as caught:
        run_on(kind, port, one_call, tls)
    assert caught.value.status == Status.UNAVAILABLE
    assert f"127.0.0.1:{port}" in caught.value.details
    return caught.value


@both
def test_calls_over_tls(kind: str, pem: Callable[[str], TLS]) -> None:
    files = pem("a")
    with serving(tls=load_server_tls(files, require_client_cert=True)) as server:
        assert run_on(kind, server.port, one_call, load_client_tls(files)) == b"cba"


@both
def test_plaintext_to_a_tls_port(kind: str, pem: Callable[[str], TLS]) -> None:
    with serving(tls=load_server_tls(pem("a"))) as server:
        assert "TLS" in refusal(kind, server.port).details


@both
def test_tls_to_a_plaintext_port(kind: str, pem: Callable[[str], TLS]) -> None:
    with serving() as server:
        error = refusal(kind, server.port, load_client_tls(TLS(ca=pem("a").ca)))
        assert isinstance(error, ConnectFailed)
        assert error.reason == "tls"
        assert "plaintext port" in error.details


@both
def test_tls_to_an_http1_port(kind: str, pem: Callable[[str], TLS]) -> None:
    with serving(lambda rt: Noise(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=True)) as server:
        error = refusal(kind, server.port, load_client_tls(TLS(ca=pem("a").ca)))
        assert "plaintext port" in error.details


@both
def test_a_foreign_certificate(kind: str, pem: Callable[[str], TLS]) -> None:
    with serving(tls=load_server_tls(pem("a"))) as server:
        error = refusal(kind, server.port, load_client_tls(TLS(ca=pem("b").ca)))
        assert isinstance(error, ConnectFailed)
        assert error.reason == "tls"
        assert "certificate" in error.details


@both
def test_a_client_certificate_is_wanted(kind: str, pem: Callable[[str], TLS]) -> None:
    with serving(tls=load_server_tls(pem("a"), require_client_cert=True)) as server:
        error = refusal(kind, server.port, load_client_tls(TLS(ca=pem("a").ca)))
        assert "certificate" in error.details.lower()


class NoAlpn:
    """A server context that agrees on no protocol."""

    server_name = None

    def __init__(self, files: TLS) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(str(files.cert), files.key)

    def context(self) -> ssl.SSLContext:
        return self._context


@both
def test_tls_without_agreement_on_h2(kind: str, pem: Callable[[str], TLS]) -> None:
    files = pem("a")
    client: FileTlsContext = load_client_tls(TLS(ca=files.ca))
    with serving(lambda rt: Noise(b"", close=False), tls=NoAlpn(files)) as server:
        error = refusal(kind, server.port, client)
        assert isinstance(error, ConnectFailed)
        assert error.reason == "protocol"
        assert "ALPN" in error.details


@both
@pytest.mark.parametrize(
    ("first", "word"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP/2"),
        (b"", "before it spoke HTTP/2"),
    ],
    ids=["http1", "tls", "ssh", "nothing"],
)
def test_peers_that_speak_something_else(kind: str, first: bytes, word: str) -> None:
    with serving(lambda rt: Noise(first, close=True)) as server:
        assert word in refusal(kind, server.port).details


@both
def test_a_peer_that_says_nothing_costs_no_more_than_the_deadline(kind: str) -> None:
    async def body(rt: Any, channel: ClientChannel) -> None:
        error = await error_of(channel.batch(13, b"x", rt.now() + 0.05))
        assert error.status == Status.DEADLINE_EXCEEDED

    with serving(lambda rt: Noise(b"", close=False)) as server:
        run_on(kind, server.port, body)


# --- the short path against the long one ------------------------------------------------------------------------------


class Now:
    """A runtime of which only futures and the clock are asked for."""

    exclusive_connections = True

    class Future:
        def __init__(self) -> None:
            self.value: Any = None

        def done(self) -> bool:
            return self.value is not None

        def set_result(self, value: bytes) -> None:
            self.value = ("answer", value)

        def set_exception(self, error: RpcError) -> None:
            self.value = ("error", error.status, error.not_processed)

    create_future = Future

    def now(self) -> float:
        return 0.0


class Sink:
    """A transport that counts what is written."""

    peer_name = "test"
    alpn = None

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> bool:
        self.sent += data
        return True

    def close(self) -> None:
        pass

    abort = close


HEAD = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])


def exchange(pieces: list[bytes], mangle: Callable[[list[bytes]], list[bytes]]) -> tuple[Any, ...]:
    """Send a command, feed the answer as `mangle` cuts it; return what became of the command and of the windows."""
    channel = ClientChannel(Now(), address="x")  # type: ignore[arg-type]
    sink = Sink()
    channel.connection_made(sink)  # type: ignore[arg-type]
    channel.engine.start()
    batch = channel._open_batch()
    future = Now.Future()
    batch.send_now(13, b"request", future, 9.0)  # type: ignore[arg-type]
    channel.data_received(frames.settings_frame({}) + frames.headers_frames(1, HEAD, False, 16_384))
    for data in mangle(pieces):
        channel.data_received(data)
    engine = channel.engine
    streams = [(s.id, s.recv_left, s.state) for s in engine.streams.values()]
    return future.value, len(batch.pending), engine.recv_left, streams, engine.closed


def data_frame(message: bytes) -> bytes:
    framed = message_frame(message)
    return b"".join(frames.data_frame(1, framed[at : at + 16_384], False) for at in range(0, len(framed), 16_384))


IDENT = 128
answers = st.one_of(
    st.builds(lambda body: envelope.encode_one(13, body, IDENT), st.binary(max_size=300)),
    st.builds(
        lambda size: envelope.encode_one(13, bytes(size), IDENT), st.sampled_from([120, 130, 16_300, 17_000, 70_000])
    ),
    st.builds(lambda body: envelope.encode_one(13, body, 300), st.binary(max_size=30)),
    st.builds(lambda body: envelope.encode_one(255, body, IDENT), st.binary(max_size=30)),
    st.just(envelope.encode([(0, b"", IDENT)])),
    st.builds(lambda body: envelope.encode([(13, body, 7), (13, b"mine", IDENT)]), st.binary(max_size=9)),
    st.builds(
        lambda body: envelope.encode_one(13, body, IDENT) + b"\x28" + b"\x81" * 8 + b"\x01", st.binary(max_size=9)
    ),
    st.builds(lambda body: envelope.encode_one(13, body, IDENT) + b"\x18\x05\x28\x01", st.binary(max_size=9)),
    st.builds(lambda body, cut: envelope.encode_one(13, body, IDENT)[:-cut], st.binary(max_size=99), st.integers(1, 9)),
    st.binary(min_size=1, max_size=40),
    st.builds(
        lambda body, at, byte: bytes(
            byte if n == at else old for n, old in enumerate(envelope.encode_one(13, body, IDENT))
        ),
        st.binary(min_size=9, max_size=30),
        st.integers(0, 25),
        st.integers(0, 255),
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(answers, min_size=1, max_size=3))
def test_the_short_path_gives_what_the_long_one_gives(messages: list[bytes]) -> None:
    pieces = [data_frame(message) for message in messages]
    whole = exchange(pieces, lambda pieces: pieces)
    in_bytes = exchange(pieces, lambda pieces: [piece[:5] for piece in pieces[:1]] + [b"".join(pieces)[5:]])
    assert whole == in_bytes


def test_the_short_path_is_taken() -> None:
    channel = ClientChannel(Now(), address="x")  # type: ignore[arg-type]
    sink = Sink()
    channel.connection_made(sink)  # type: ignore[arg-type]
    channel.engine.start()
    batch = channel._open_batch()
    first, second = Now.Future(), Now.Future()
    batch.send_now(13, b"one", first, 9.0)  # type: ignore[arg-type]
    channel.data_received(frames.settings_frame({}) + frames.headers_frames(1, HEAD, False, 16_384))
    channel.data_received(data_frame(envelope.encode_one(13, b"1", 128)))
    assert first.value == ("answer", b"1")
    sink.sent = b""
    batch.send_now(13, b"two", second, 9.0)  # type: ignore[arg-type]
    want = message_frame(envelope.encode_one(13, b"two", 129))
    assert sink.sent == frames.data_frame(1, want, False)
    channel.engine.receive_data = None  # type: ignore[assignment, method-assign]
    channel.data_received(data_frame(envelope.encode_one(13, b"2", 129)))
    assert second.value == ("answer", b"2")


def test_ids_never_repeat_and_are_canonical() -> None:
    channel = ClientChannel(Now(), address="x")  # type: ignore[arg-type]
    channel.connection_made(Sink())  # type: ignore[arg-type]
    batch = channel._open_batch()
    ids = [batch.submit(13, b"", Now.Future(), 9.0) for _ in range(20_000)]  # type: ignore[arg-type]
    assert len(set(ids)) == len(ids)
    assert all(ident == envelope.varint(128 + n) for n, ident in enumerate(ids))
    assert struct.calcsize(">HBHIBI") == 14
