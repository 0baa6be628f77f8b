"""The runtime on asyncio (and uvloop): the asynchronous clients, and every server of ours.

Thin on purpose: futures and timers are asyncio's own, transports wrap asyncio's. What is added is what the interface
promises and asyncio does not: a `gather` that cancels in order and raises the first failure itself (not a group), waits
that end at a value of `now()`, shared futures, and writers that learn when to stop.

States of a runtime: open, closed. `close` cancels what `spawn` started and waits for it. Threads: one loop, its own; only
what `SharedFuture` wakes comes from elsewhere. Limits: `BLOCKING_THREADS` threads for blocking work, `HIGH_WATER_BYTES` queued on a
transport before `write` says stop.

Source of the write limits: asyncio's own defaults are 64 KiB; ours are larger because one BatchCommands message may be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

from pytikv.rt.interface import Listener, SharedFutureLike, StreamProtocol, Timer, Transport
from pytikv.rt.tls import TlsContext

__all__ = ["AioRuntime", "run_main"]

T = TypeVar("T")

BLOCKING_THREADS: Final = 8
HIGH_WATER_BYTES: Final = 1 << 20
_log = logging.getLogger("pytikv")


class AioTransport(asyncio.Protocol):
    """An asyncio transport as the interface has it, and the asyncio protocol that feeds it."""

    def __init__(self, owner: StreamProtocol) -> None:
        self._owner = owner
        self._is_full = False
        self._is_lost = False
        self.peer_name = "?"
        self.alpn: str | None = None
        # Bound here, not in connection_made: uvloop looks it up once, when it takes the protocol. One call less a chunk.
        self.data_received = owner.data_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take asyncio's transport (called by asyncio)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple) and len(peer) >= 2:
            self.peer_name = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.alpn = tls.selected_alpn_protocol()
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner (called by asyncio)."""
        self._is_lost = True
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Over the high-water mark (called by asyncio)."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Below the low-water mark (called by asyncio)."""
        self._is_full = False
        self._owner.writable()

    def write(self, data: bytes) -> bool:
        """Queue `data`; False: over the high-water mark."""
        if not self._is_lost:
            self._transport.write(data)
        return not self._is_full

    def close(self) -> None:
        """Flush, then close."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stop reading."""
        if not self._is_lost and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._is_lost and not self._transport.is_closing():
            self._transport.resume_reading()


class AioListener:
    """A listening socket."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop accepting."""
        self._server.close()


class AioRuntime:
    """The interface of `rt.interface.Runtime` on the running loop, or on `loop`."""

    exclusive_connections = False
    Cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self.rng = random.Random()
        self.now = time.monotonic
        self.time = time.time
        self.call_soon = self._loop.call_soon
        self.create_future: Callable[[], asyncio.Future[Any]] = self._loop.create_future
        self._tasks: set[asyncio.Task[Any]] = set()
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        # uvloop counts from its own origin: timers are set by difference.
        self._is_monotonic = abs(self._loop.time() - time.monotonic()) < 0.5

    def _when(self, deadline: float) -> float:
        return deadline if self._is_monotonic else self._loop.time() + (deadline - time.monotonic())

    async def wait(self, awaitable: Any, deadline: float | None) -> Any:
        """Wait for a future of this loop or a shared one; TimeoutError at `deadline`, the future stays valid."""
        if hasattr(awaitable, "add_waker"):
            return await self._wait_shared(awaitable, deadline)
        if awaitable.done() or deadline is None:
            return await awaitable
        # A second future takes the blow: cancelling a task that awaits a future cancels the future with it.
        waiter: asyncio.Future[None] = self._loop.create_future()
        awaitable.add_done_callback(functools.partial(_settle, waiter))
        timer = self._loop.call_at(self._when(deadline), _settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
        if not awaitable.done():
            raise TimeoutError
        return awaitable.result()

    async def _wait_shared(self, shared: SharedFutureLike[T], deadline: float | None) -> T:
        waiter: asyncio.Future[None] = self._loop.create_future()
        waker = functools.partial(self._wake_from_anywhere, waiter)
        if not shared.add_waker(waker):
            return shared.result()
        timer = None if deadline is None else self._loop.call_at(self._when(deadline), _settle, waiter)
        try:
            await waiter
        finally:
            shared.remove_waker(waker)
            if timer is not None:
                timer.cancel()
        if not shared.done():
            raise TimeoutError
        return shared.result()

    def _wake_from_anywhere(self, waiter: asyncio.Future[None]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, waiter)
        except RuntimeError:  # the loop of this waiter is closed: nobody waits there any more
            _log.debug("a waiter's loop was closed before its value came")

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all at once; the first failure cancels the others in order, waits for them and is raised."""
        if len(coroutines) == 1:
            return [await coroutines[0]]
        tasks = [self._loop.create_task(c) for c in coroutines]
        failures: list[BaseException] = []
        everything: asyncio.Future[None] = self._loop.create_future()
        pending = len(tasks)

        def finished(task: asyncio.Task[T]) -> None:
            nonlocal pending
            pending -= 1
            if not task.cancelled() and (error := task.exception()) is not None:
                failures.append(error)
            if (pending == 0 or failures) and not everything.done():
                everything.set_result(None)

        for task in tasks:
            task.add_done_callback(finished)
        try:
            if tasks:
                await everything
        finally:
            await _cancel_all(tasks)
        if failures:
            raise failures[0]
        return [task.result() for task in tasks]

    async def with_deadline(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        """Run `coroutine`, cancelling it at `deadline`."""
        async with asyncio.timeout_at(self._when(deadline)):
            return await coroutine

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run in the background until done or the runtime closes; errors are logged."""
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)
        return task

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background task %s failed", task.get_name(), exc_info=error)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` at `when`."""
        return self._loop.call_at(self._when(when), callback)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking function on one of a few threads."""
        if self._executor is None:
            self._executor = concurrent.futures.ThreadPoolExecutor(BLOCKING_THREADS, "pytikv-blocking")
        return await self._loop.run_in_executor(self._executor, functools.partial(function, *args))

    async def connect(
        self, host: str, port: int, protocol: StreamProtocol, *, deadline: float, tls: TlsContext | None = None
    ) -> Transport:
        """Connect, with TLS when `tls` is given. Raises OSError, ssl.SSLError or TimeoutError."""
        options: dict[str, Any] = {}
        if tls is not None:
            left = max(0.001, deadline - time.monotonic())
            options = {"ssl": tls.context(), "server_hostname": tls.server_name or host, "ssl_handshake_timeout": left}
        async with asyncio.timeout_at(self._when(deadline)):
            _, transport = await self._loop.create_connection(lambda: AioTransport(protocol), host, port, **options)
        return transport

    async def listen(
        self, host: str, port: int, factory: Callable[[], StreamProtocol], *, tls: TlsContext | None = None
    ) -> Listener:
        """Listen on `host:port`; port 0 takes any free one."""
        context = None if tls is None else tls.context()
        server = await self._loop.create_server(
            lambda: AioTransport(factory()), host, port, ssl=context, reuse_address=True, backlog=1024
        )
        return AioListener(server)

    def attach(self, transport: Transport) -> None:
        """Nothing: connections are shared."""

    def detach(self, transport: Transport) -> None:
        """Nothing: connections are shared."""

    def call_scope(self) -> dict[Any, Any] | None:
        """None: no call ends here."""
        return None

    def at_call_end(self, callback: Callable[[], None]) -> None:
        """Refuse: no call ends here."""
        raise RuntimeError("only a blocking call has an end to wait for")

    async def close(self) -> None:
        """Cancel what `spawn` started, wait for it, and end the threads."""
        current = asyncio.current_task()
        await _cancel_all([t for t in self._tasks if t is not current])
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None


def _settle(waiter: asyncio.Future[None], _done: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    unfinished = [task for task in tasks if not task.done()]
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished)


def run_main(main: Callable[[AioRuntime, asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run a program until it returns its exit code; SIGINT and SIGTERM set the event that tells it to stop.

    Uses uvloop where it is installed.
    """

    async def body() -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        rt = AioRuntime(loop)
        try:
            return await main(rt, stop)
        finally:
            await rt.close()

    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(body())
