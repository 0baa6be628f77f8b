"""The runtime on asyncio and uvloop: thin, since both offer what the interface asks.

What differs from asyncio's own tools is small and on purpose. `gather` waits until all have ended and raises the first
plain failure (no ExceptionGroup). `wait` leaves the future alone when its deadline passes, and a value that is there
wins over a deadline or not at all. Clock values are `time.monotonic()`, which both loops count on.

A runtime belongs to the loop that first uses it; using it from another raises InvalidArgument where it would connect,
listen or spawn. Bounds: `run_blocking` has at most `blocking_threads` threads, started at need.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import socket
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar, cast

from pytikv.errors import InvalidArgument
from pytikv.rt.interface import Future, SharedFutureLike, StreamProtocol
from pytikv.rt.tls import TlsContext

__all__ = ["AioListener", "AioRuntime", "AioTransport"]

T = TypeVar("T")

logger: Final = logging.getLogger("pytikv")

_BLOCKING_THREADS: Final = 16
_HIGH_WATER_BYTES: Final = 1 << 20
_BACKLOG: Final = 1024
_HANDSHAKE_TIMEOUT_S: Final = 10.0
_ACCEPT_PAUSE_S: Final = 0.1
_CLOSING_TURNS: Final = 10


class AioTransport(asyncio.BaseProtocol):
    """Both sides of one connection: asyncio's protocol, and our transport over asyncio's."""

    def __init__(self, protocol: StreamProtocol) -> None:
        self._protocol = protocol
        self._full = False
        self._lost = False
        self._transport: asyncio.Transport | None = None
        # Bound once: asyncio and uvloop fetch it from the instance and call straight into our protocol.
        self.data_received = protocol.data_received

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, or never came."""
        return self._lost or self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's side: the connection (and its TLS) stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._write = self._transport.write
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._protocol.connection_made(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Asyncio's side: the connection is gone."""
        self._lost = True
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool:
        """Asyncio's side: the peer will send no more; half-open streams have no use here."""
        return False

    def pause_writing(self) -> None:
        """Asyncio's side: over the high-water mark."""
        self._full = True

    def resume_writing(self) -> None:
        """Asyncio's side: below the low-water mark."""
        self._full = False
        self._protocol.writable()

    def write(self, data: bytes) -> bool:
        """See `Transport.write`."""
        if not self._lost:
            self._write(data)
        return not self._full

    def close(self) -> None:
        """See `Transport.close`."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """See `Transport.abort`."""
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: the socket goes with the object
                self._transport.abort()

    def pause_reading(self) -> None:
        """See `Transport.pause_reading`."""
        if self._transport is not None and not self._lost and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def peer_name(self) -> str:
        """See `Transport.peer_name`."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return format_address(name)

    @property
    def alpn(self) -> str | None:
        """See `Transport.alpn`."""
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return None if tls is None else cast("str | None", tls.selected_alpn_protocol())


class AioListener:
    """A listening socket: asyncio's server, or with TLS an accepting task, so that each connection gets fresh files."""

    def __init__(self, port: int, server: asyncio.Server | None, task: asyncio.Task[None] | None) -> None:
        self._port = port
        self._server = server
        self._task = task

    @property
    def port(self) -> int:
        """The port bound to."""
        return self._port

    async def close(self) -> None:
        """Stop accepting; open connections are left to their owners."""
        if self._server is not None:
            self._server.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class AioRuntime:
    """`Runtime` on the running asyncio loop (or `loop`). Not for more than one loop, not for threads."""

    exclusive_connections = False
    Cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None = None, *, blocking_threads: int = _BLOCKING_THREADS
    ) -> None:
        self.rng = random.Random()
        self.now = time.monotonic
        self.time = time.time
        # Both are replaced by the loop's own at first use, which spares a call in each request.
        self.create_future: Callable[[], asyncio.Future[Any]] = self._create_first_future
        self.call_soon: Callable[[Callable[[], None]], object] = self._call_soon_first
        self._own_loop = loop
        self._spawned: set[asyncio.Task[Any]] = set()
        self._blocking_threads = blocking_threads
        self._executor: ThreadPoolExecutor | None = None
        self._connected: weakref.WeakSet[AioTransport] = weakref.WeakSet()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._own_loop is None:
            self._own_loop = asyncio.get_running_loop()
            self.create_future = self._own_loop.create_future
            self.call_soon = self._own_loop.call_soon
        return self._own_loop

    def _running(self) -> asyncio.AbstractEventLoop:
        running = asyncio.get_running_loop()
        if self._loop is not running:
            state = "has been closed" if self._loop.is_closed() else "is another one than the one running here"
            raise InvalidArgument(
                f"an asyncio client belongs to the event loop that first used it, and that {state}: "
                "connect inside each loop (asyncio.run makes a new one), or keep to one loop"
            )
        return running

    def check_loop(self) -> None:
        """See `Runtime.check_loop`."""
        self._running()

    def _create_first_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()

    def _call_soon_first(self, callback: Callable[[], None]) -> object:
        return self._loop.call_soon(callback)

    async def wait(self, awaitable: Future[T] | SharedFutureLike[T], deadline: float | None) -> T:
        """See `Runtime.wait`. When cancelled, a future of this loop is cancelled with its waiter."""
        if awaitable.done():
            return awaitable.result()
        try:
            if isinstance(awaitable, asyncio.Future):
                if deadline is None:
                    return cast("T", await awaitable)
                return await self._wait_until(awaitable, deadline)
            return await self._wait_shared(cast("SharedFutureLike[T]", awaitable), deadline)
        except RuntimeError:
            self.check_loop()
            raise

    async def _wait_until(self, future: asyncio.Future[T], deadline: float) -> T:
        waiter: asyncio.Future[None] = self._loop.create_future()

        def wake(_: object = None) -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = self.call_at(deadline, wake)
        future.add_done_callback(wake)
        try:
            await waiter
        finally:
            timer.cancel()
            future.remove_done_callback(wake)
        if future.done():
            return future.result()
        raise TimeoutError

    async def _wait_shared(self, shared: SharedFutureLike[T], deadline: float | None) -> T:
        loop = self._loop
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake_from_anywhere() -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:  # the loop was closed: nobody waits any more
                logger.debug("a waiter's loop is closed")

        timer = None if deadline is None else self.call_at(deadline, wake)
        try:
            if shared.add_waker(wake_from_anywhere):
                await waiter
        finally:
            shared.remove_waker(wake_from_anywhere)
            if timer is not None:
                timer.cancel()
        if shared.done():
            return shared.result()
        raise TimeoutError

    async def sleep(self, seconds: float) -> None:
        """See `Runtime.sleep`."""
        await asyncio.sleep(seconds)

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """See `Runtime.gather`."""
        loop = self._loop
        tasks = [loop.create_task(coroutine) for coroutine in coroutines]
        ended: list[asyncio.Task[T]] = []  # in order of time
        for task in tasks:
            task.add_done_callback(ended.append)
        outer: BaseException | None = None
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION) if tasks else None
        except asyncio.CancelledError as error:
            outer = error
        outer = await self._cancel_rest(tasks, outer)
        for task in tasks:  # not `ended`, which has not heard yet of one that failed as the cancellation came
            if not task.cancelled():
                task.exception()  # seen: asyncio complains of errors that nobody looks at
        try:
            if outer is not None:
                raise outer
            for task in ended:
                task.result()
            return [task.result() for task in tasks]
        finally:
            del tasks, ended, outer  # an error holds this frame: without its way back there is no cycle

    async def _cancel_rest(self, tasks: list[asyncio.Task[Any]], outer: BaseException | None) -> BaseException | None:
        """Cancel what has not ended and wait for it; a cancellation that comes meanwhile is passed on to them."""
        left = {task for task in tasks if not task.done()}
        for task in left:
            task.cancel()
        while left:
            try:
                _, left = await asyncio.wait(left)
            except asyncio.CancelledError as error:
                outer = outer or error
                for task in left:
                    task.cancel()
        return outer

    async def with_deadline(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        """See `Runtime.with_deadline`."""
        async with asyncio.timeout(max(0.0, deadline - self.now())):
            return await coroutine

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """See `Runtime.spawn`."""
        task = self._running().create_task(coroutine, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned_done)
        return task

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task %s failed", task.get_name(), exc_info=error)

    def is_alone(self) -> bool:
        """See `Runtime.is_alone`."""
        return False

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """See `Runtime.call_at`."""
        return self._loop.call_later(max(0.0, when - self.now()), callback)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """See `Runtime.run_blocking`."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._blocking_threads, thread_name_prefix="pytikv-blocking")
        context = contextvars.copy_context()
        return await self._loop.run_in_executor(self._executor, partial(context.run, function, *args))

    async def connect(
        self, host: str, port: int, protocol: StreamProtocol, *, deadline: float, tls: TlsContext | None = None
    ) -> AioTransport:
        """See `Runtime.connect`."""
        loop = self._running()
        left_s = deadline - self.now()
        if left_s <= 0:
            raise TimeoutError
        options: dict[str, Any] = {}
        if tls is not None:
            options = {
                "ssl": tls.context(),
                "server_hostname": tls.server_name or host,
                "ssl_handshake_timeout": left_s,
            }
        adaptor = AioTransport(protocol)
        async with asyncio.timeout(left_s):
            await loop.create_connection(lambda: adaptor, host, port, **options)
        self._connected.add(adaptor)
        return adaptor

    async def listen(
        self, host: str, port: int, factory: Callable[[], StreamProtocol], *, tls: TlsContext | None = None
    ) -> AioListener:
        """See `Runtime.listen`. With port 0 and a name of several addresses, the first address's port is told."""
        loop = self._running()
        if tls is None:
            server = await loop.create_server(lambda: AioTransport(factory()), host, port, backlog=_BACKLOG)
            return AioListener(server.sockets[0].getsockname()[1], server, None)
        tls.context()
        listening = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
        listening.setblocking(False)
        task = self.spawn(self._accept_tls(listening, factory, tls), name=f"accept on port {port}")
        return AioListener(listening.getsockname()[1], None, task)

    async def _accept_tls(
        self, listening: socket.socket, factory: Callable[[], StreamProtocol], tls: TlsContext
    ) -> None:
        with listening:
            while True:
                try:
                    connection, _ = await self._loop.sock_accept(listening)
                except OSError as error:  # out of descriptors: what is open goes on, the next try comes later
                    logger.warning("cannot accept a connection: %s", error)
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self.spawn(self._shake_hands(connection, factory, tls), name="TLS handshake")

    async def _shake_hands(
        self, connection: socket.socket, factory: Callable[[], StreamProtocol], tls: TlsContext
    ) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: AioTransport(factory()),
                connection,
                ssl=tls.context(),
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
            )
        except (OSError, EOFError) as error:  # SSLError and TimeoutError are OSErrors
            connection.close()
            logger.info("a TLS handshake failed: %s", error)

    def attach(self, transport: object) -> None:
        """Nothing: connections are shared here."""

    def detach(self, transport: object) -> None:
        """Nothing: connections are shared here."""

    def call_scope(self) -> dict[Any, Any] | None:
        """None: nothing ends with a call here."""
        return None

    def at_call_end(self, callback: Callable[[], None]) -> None:
        """Refused: there is no call whose end could be waited for."""
        raise NotImplementedError("only the blocking runtime has calls that end")

    async def close(self) -> None:
        """Cancel what was spawned, wait for its end, and let the threads of `run_blocking` go. Idempotent.

        Connections that were made here end too: a loop that is closed at once would leave those half closed that take
        some turns for it, as TLS does.
        """
        spawned = [task for task in self._spawned if task is not asyncio.current_task()]
        for task in spawned:
            task.cancel()
        if spawned:
            await asyncio.wait(spawned)
        await self._end_connections()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    async def _end_connections(self) -> None:
        for _ in range(_CLOSING_TURNS):
            await asyncio.sleep(0)
            open_ones = [transport for transport in self._connected if not transport.is_lost]
            if not open_ones:
                return
            for transport in open_ones:
                transport.abort()


def format_address(name: object) -> str:
    """Return `host:port` of a socket's address, for messages."""
    if isinstance(name, tuple) and len(name) >= 2:
        host = f"[{name[0]}]" if ":" in str(name[0]) else name[0]
        return f"{host}:{name[1]}"
    return str(name) if name else "?"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
