"""The runtimes under one roof: `harness` runs a scenario, an `async def` that takes the runtime, on each of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.interface import Runtime, StreamProtocol, Transport
from pytikv.rt.tls import TLS, TlsContext
from pytikv.testing.sim import World

Scenario = Callable[..., Awaitable[Any]]


class Echo:
    """A server's protocol: sends back what it gets; `b"bye"` makes it close, `b"abort"` reset."""

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-8:]
        if self.tail.endswith(b"bye"):
            self.transport.close()
        elif self.tail.endswith(b"abort"):
            self.transport.abort()
        else:
            self.transport.write(data)

    def connection_lost(self, error: BaseException | None) -> None:
        pass

    def writable(self) -> None:
        pass


class Collector:
    """A client's protocol: keeps what comes, and lets one waiter wait for so many bytes or for the end."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self.data = bytearray()
        self.made = 0
        self.lost: list[BaseException | None] = []
        self.writables = 0
        self._waiter: Any = None
        self._wanted = 0

    def connection_made(self, transport: Transport) -> None:
        self.made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.made == 1
        assert not self.lost
        self.data += data
        self._look()

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)
        self._look()

    def writable(self) -> None:
        self.writables += 1
        self._look()

    def _look(self) -> None:
        if self._waiter is not None and not self._waiter.done() and self._satisfied():
            self._waiter.set_result(None)

    def _satisfied(self) -> bool:
        return bool(self.lost) or len(self.data) >= self._wanted

    async def receive(self, size: int, seconds: float = 10.0) -> bytes:
        """Wait for `size` bytes and take them; fewer when the connection ended."""
        self._wanted = size
        if not self._satisfied():
            self._waiter = self.rt.create_future()
            await self.rt.wait(self._waiter, self.rt.now() + seconds)
        taken = bytes(self.data[:size])
        del self.data[:size]
        return taken

    async def end(self) -> BaseException | None:
        """Wait for the end of the connection."""
        await self.receive(1 << 40)
        assert len(self.lost) == 1
        return self.lost[0]


class LoopThread:
    """An asyncio loop in a thread, with a runtime on it: servers for blocking clients."""

    def __init__(self) -> None:
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="test loop")
        self._thread.start()
        self._ready.result(10)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rt = AioRuntime()
        self._stop = asyncio.Event()
        self._ready.set_result(None)
        await self._stop.wait()
        await self.rt.close()
        # Connections end in later turns of the loop than the one that aborts them.
        for _ in range(3):
            await asyncio.sleep(0)

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


class Tracked:
    """A server protocol's wrapper that lets a test close what a client left open."""

    def __init__(self, inner: StreamProtocol, all_of_them: list[Transport], stopped: threading.Event) -> None:
        self._inner = inner
        self._stopped = stopped
        self._all = all_of_them
        self.data_received = inner.data_received
        self.connection_lost = inner.connection_lost
        self.writable = inner.writable

    def connection_made(self, transport: Transport) -> None:
        self._all.append(transport)
        self._inner.connection_made(transport)
        if self._stopped.is_set():
            transport.abort()


class Harness:
    """One kind of runtime."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(
        self, scenario: Scenario, *, server: Callable[[], StreamProtocol] | None = None, tls: TlsContext | None = None
    ) -> Any:
        """Run `scenario(rt)`, or with a server `scenario(rt, host, port)`."""
        if self.kind == "sim":
            return self._run_sim(scenario, server)
        if server is None:
            return self._run_real(lambda rt: scenario(rt))
        with serving(server, tls) as port:
            return self._run_real(lambda rt: scenario(rt, "127.0.0.1", port))

    def _run_real(self, scenario: Scenario) -> Any:
        if self.kind == "caller":
            with contextlib.closing(CallerRuntime()) as rt:
                return rt.run(scenario(rt))
        factory = None
        if self.kind == "uvloop":
            factory = pytest.importorskip("uvloop").new_event_loop

        async def main() -> Any:
            rt = AioRuntime()
            try:
                return await scenario(rt)
            finally:
                await rt.close()
                await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    def _run_sim(self, scenario: Scenario, server: Callable[[], StreamProtocol] | None) -> Any:
        with World(7) as world:
            rt = world.process("main")
            if server is None:
                return world.run(scenario(rt))
            there = world.process("server")
            factory = server

            async def main() -> Any:
                listener = await there.listen("server", 0, factory)
                return await scenario(rt, "server", listener.port)

            return world.run(main())


@contextlib.contextmanager
def serving(server: Callable[[], StreamProtocol], tls: TlsContext | None = None) -> Iterator[int]:
    """Serve in a thread; gives the port."""
    thread = LoopThread()
    transports: list[Transport] = []
    stopped = threading.Event()
    try:
        listener = thread.call(
            lambda: thread.rt.listen("127.0.0.1", 0, lambda: Tracked(server(), transports, stopped), tls=tls)
        )
        yield listener.port

        async def stop() -> None:
            for _ in range(10):  # asyncio leaks a connection that is accepted in the turn in which the listener closes
                await asyncio.sleep(0)
            await listener.close()
            stopped.set()  # what was accepted but not yet made ends as soon as it is
            for transport in transports:
                transport.abort()
            for _ in range(10):
                await asyncio.sleep(0)

        thread.call(stop)
    finally:
        thread.close()


@pytest.fixture(params=["aio", "uvloop", "caller", "sim"])
def harness(request: pytest.FixtureRequest) -> Harness:
    return Harness(request.param)


@pytest.fixture(params=["aio", "uvloop", "caller"])
def real_harness(request: pytest.FixtureRequest) -> Harness:
    return Harness(request.param)


@pytest.fixture
def caller() -> Iterator[CallerRuntime]:
    with contextlib.closing(CallerRuntime()) as rt:
        yield rt


@pytest.fixture
def echo_port() -> Iterator[int]:
    with serving(Echo) as port:
        yield port


@pytest.fixture
def kit() -> type:
    """The helpers, as attributes: test modules cannot import a conftest."""

    class Kit:
        Collector = Collector
        Echo = Echo
        LoopThread = LoopThread
        serving = staticmethod(serving)

    return Kit


class Authority:
    """A certificate authority that signs what a test needs."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"test {name}")])
        certificate = self._build(self._name, self._key.public_key(), [], is_ca=True)
        self.ca = str(folder / f"{name}.pem")
        Path(self.ca).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, file_name: str, *names: str, expired: bool = False) -> TLS:
        """Write a certificate for `names` (of hosts) and its key; `ca` is this authority's."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, file_name)])
        certificate = self._build(subject, key.public_key(), list(names), expired=expired)
        cert_path, key_path = self.folder / f"{file_name}.pem", self.folder / f"{file_name}.key"
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TLS(ca=self.ca, cert=str(cert_path), key=str(key_path))

    def _build(
        self, subject: x509.Name, public_key: Any, names: list[str], *, is_ca: bool = False, expired: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=-1 if expired else 3))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")
