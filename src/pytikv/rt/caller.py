"""The blocking API's runtime: a coroutine is driven in the thread that called, with no loop thread in between.

`CallerRuntime.run(coroutine)` makes the first step at once; a coroutine that never waits is done there and then. One
that waits is driven by the thread's `CallLoop`: ready tasks, timers, and the sockets that the call has leased. The loop
object is kept for the thread's next call.

A *call* is one `run`. What it attaches or connects is its own until it ends; then the callbacks of `at_call_end` run
and its transports go back to nobody, watched by the housekeeper (see there), also when it ends by an error.

* Nesting: a `run` inside a `run` of the same runtime and thread is refused. Beside a running asyncio loop `run` works
  as everywhere, and blocks that loop meanwhile, as any blocking call does: use the asynchronous client there.
* Ctrl-C: the coroutine and its children are cancelled and get a second to clean up, then KeyboardInterrupt is raised.
  Where it struck decides what is still sound. In `poll`: everything. In a direct receive: bytes may have been taken and
  lost, so that one transport is aborted. In the midst of Python code: every transport of the call is aborted. A second
  Ctrl-C ends the grace.
* Fork: in the child every use raises ClientClosed, since the sockets and the housekeeper are the parent's.
* Threads: any number may call at once; each has its own loop, and they share the idle transports.
"""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar, cast

from pytikv.errors import ClientClosed, InvalidArgument
from pytikv.rt.connecting import open_connection
from pytikv.rt.housekeeper import BackgroundTask, CallScope, Housekeeper
from pytikv.rt.interface import Future, SharedFutureLike, StreamProtocol
from pytikv.rt.polling import SocketLoop
from pytikv.rt.sockets import SocketTransport
from pytikv.rt.tasks import Cancelled, LoopFuture, LoopTask, LoopTimer, gather, with_deadline
from pytikv.rt.tls import TlsContext

__all__ = ["CallerRuntime"]

T = TypeVar("T")

_GRACE_S: Final = 1.0
_LOOK_AFTER_S: Final = 0.1
_FORKED: Final = "the client belongs to the process that this one was forked from; make a new one"
_monotonic: Final = time.monotonic


class CallLoop(SocketLoop):
    """One thread's loop, reused by all of its calls."""

    def __init__(self, housekeeper: Housekeeper) -> None:
        super().__init__()
        self.running = False
        self.scope = CallScope()
        self._housekeeper = housekeeper
        self._root: LoopTask[Any] = LoopTask(self, None, name="call", context=None)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Drive `coroutine` to its end."""
        root = self.root = self.current = self._root
        try:
            self.running = True
            root.take(coroutine)
            try:
                awaited = coroutine.send(None)
            except StopIteration as stop:
                value: T = stop.value
                return value
            self.current = None
            root.started(awaited)
            self._drive()
            value = root.result()
            return value
        except KeyboardInterrupt:
            self._interrupted()
            raise
        finally:
            self._end_call()

    def _drive(self) -> None:
        root = self._root
        while True:
            if self.ready:
                self.run_ready()
            if root.finished:
                return
            self.wait_once()

    def _interrupted(self) -> None:
        """Ctrl-C: drop what is in doubt, cancel, and give the coroutine a moment to clean up."""
        in_poll, receiving = self.sleeping, self.receiving
        self.sleeping, self.receiving = False, None
        if isinstance(receiving, SocketTransport):
            receiving.abort()
        elif not in_poll:
            for pollable in list(self.attached):
                if isinstance(pollable, SocketTransport):
                    pollable.abort()
        if self._root.begun and self._root.cancel():
            self.call_at(_monotonic() + _GRACE_S, self._root.close)
            try:
                self._drive()
            except KeyboardInterrupt:
                self._root.close()

    def _end_call(self) -> None:
        """Give everything back. A Ctrl-C in the midst of it is raised when it is done."""
        self.current = None
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                if self.scope.callbacks or self.scope.data:
                    self.scope.end()
                if self.ready:
                    self.run_ready()
                while self.attached:
                    pollable = next(iter(self.attached))
                    if isinstance(pollable, SocketTransport):
                        self._housekeeper.give_back(pollable)
                    else:
                        self.drop(pollable)
                if self.timers:
                    self.timers.clear()
                    self._cancelled_timers = 0
                break
            except KeyboardInterrupt as again:
                interrupted = again
        root = self._root
        if root.begun:
            root.close()  # a loop that failed, or a Ctrl-C between two steps, leaves it suspended
            root.reset()
        self.root = None
        self.running = False
        if interrupted is not None:
            raise interrupted


class _PerThread(threading.local):
    """The present thread's loop."""

    loop: SocketLoop | None = None


class CallerRuntime:
    """`Runtime` for blocking callers; see the module. Close it: it may hold a thread and connections."""

    exclusive_connections = True
    Cancelled: type[BaseException] = Cancelled

    def __init__(self) -> None:
        self.rng = random.Random()
        self.now = time.monotonic
        self.time = time.time
        self._dead: str | None = None  # why no call may begin; those under way go on, but for a forked child's
        self._forked = False
        self._pid = os.getpid()
        per_thread = self._thread = _PerThread()
        self._housekeeper = Housekeeper(lambda loop: setattr(per_thread, "loop", loop))
        self._idle = self._housekeeper.idle
        self._finalizer = weakref.finalize(self, self._housekeeper.stop, False)
        self._finalizer.atexit = False  # one hook of ours stops all of them
        _runtimes.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether `run` raises ClientClosed."""
        return self._dead is not None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Drive `coroutine` in this thread and return its value or raise its error.

        Raises ClientClosed after `close` or in a forked child, InvalidArgument inside another `run` of this thread.
        """
        loop = self._thread.loop
        if self._dead is None:
            if type(loop) is CallLoop:
                if not loop.running:
                    return loop.run(coroutine)
            elif loop is None:
                loop = self._thread.loop = CallLoop(self._housekeeper)
                return loop.run(coroutine)
        self._refuse(coroutine)

    def _refuse(self, coroutine: Coroutine[Any, Any, Any]) -> NoReturn:
        coroutine.close()
        if self._dead is not None:
            raise ClientClosed(self._dead)
        raise InvalidArgument("a blocking call cannot be made from inside another one of the same client")

    def _loop(self) -> SocketLoop:
        loop = self._thread.loop
        if self._forked:
            raise ClientClosed(_FORKED)
        if loop is None:
            raise RuntimeError("this belongs inside of CallerRuntime.run")
        return loop

    def create_future(self) -> LoopFuture[Any]:
        """See `Runtime.create_future`."""
        return LoopFuture()

    async def wait(self, awaitable: Future[T] | SharedFutureLike[T], deadline: float | None) -> T:
        """See `Runtime.wait`."""
        if isinstance(awaitable, LoopFuture):
            awaitable.deadline = deadline  # of no account where the value is there
            value: T = await awaitable
            return value
        if awaitable.done():
            return awaitable.result()
        return await self._wait_shared(cast("SharedFutureLike[T]", awaitable), deadline)

    async def _wait_shared(self, shared: SharedFutureLike[T], deadline: float | None) -> T:
        loop = self._loop()
        local: LoopFuture[None] = LoopFuture()

        def wake() -> None:
            if not local.done():
                local.set_result(None)

        def wake_from_anywhere() -> None:
            loop.post(wake)

        loop.look_outside()
        try:
            if shared.add_waker(wake_from_anywhere):
                local.deadline = deadline
                await local
        except TimeoutError:
            if not shared.done():
                raise
        finally:
            shared.remove_waker(wake_from_anywhere)
            loop.stop_looking()
        return shared.result()

    async def sleep(self, seconds: float) -> None:
        """See `Runtime.sleep`."""
        over: LoopFuture[None] = LoopFuture()
        loop = self._loop()
        timer = loop.call_at(_monotonic() + seconds, lambda: over.set_result(None))
        try:
            await over
        finally:
            timer.cancel()

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """See `Runtime.gather`."""
        return await gather(self._loop(), coroutines)

    async def with_deadline(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        """See `Runtime.with_deadline`."""
        return await with_deadline(self._loop(), coroutine, deadline)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> BackgroundTask:
        """See `Runtime.spawn`. Raises ClientClosed after `close` or in a forked child."""
        if self._dead is not None:
            coroutine.close()
            raise ClientClosed(self._dead)
        return self._housekeeper.spawn(coroutine, name)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """See `Runtime.call_soon`."""
        self._loop().ready.append(callback)

    def is_alone(self) -> bool:
        """See `Runtime.is_alone`."""
        return not self._loop().ready

    def check_loop(self) -> None:
        """See `Runtime.check_loop`: calls here are never another loop's."""

    def call_at(self, when: float, callback: Callable[[], None]) -> LoopTimer:
        """See `Runtime.call_at`. In a call, the timer ends with it."""
        return self._loop().call_at(when, callback)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """See `Runtime.run_blocking`: right here."""
        return function(*args)

    async def connect(
        self, host: str, port: int, protocol: StreamProtocol, *, deadline: float, tls: TlsContext | None = None
    ) -> SocketTransport:
        """See `Runtime.connect`. The transport is attached to the present call."""
        loop = self._loop()
        transport = await open_connection(loop, host, port, protocol, deadline, tls)
        self._note_lease(loop, transport)
        return transport

    async def listen(
        self, host: str, port: int, factory: Callable[[], StreamProtocol], *, tls: TlsContext | None = None
    ) -> NoReturn:
        """Refused: a blocking client never serves."""
        raise NotImplementedError("the blocking runtime does not listen")

    def attach(self, transport: Any) -> None:
        """Lease `transport` to the present call; what came while it sat idle is delivered first (PING, GOAWAY, end).

        Hold no lock that its protocol's callbacks take. RuntimeError when another call has it.
        """
        loop = self._thread.loop
        if loop is None or self._forked:
            loop = self._loop()
        if not self._idle.pop(transport, False):
            if transport.home is loop and transport not in self._housekeeper.loop.parked:
                return
            if not self._housekeeper.take(transport) and not transport.closed:
                raise RuntimeError("the connection is leased to another call")
        if transport.closed:
            return
        transport.home = loop
        loop.adopt(transport)
        if type(loop) is not CallLoop:
            self._note_lease(loop, transport)
        if _monotonic() - transport.idle_since > _LOOK_AFTER_S:
            while transport.receive():
                pass

    def _note_lease(self, loop: SocketLoop, transport: SocketTransport) -> None:
        if type(loop) is not CallLoop and loop.current is not None and loop.current.scope is not None:
            loop.current.scope.transports[transport] = None

    def detach(self, transport: Any) -> None:
        """End the lease. Without effect when the transport is not the present call's."""
        if transport.home is self._thread.loop:
            self._housekeeper.give_back(transport)

    def call_scope(self) -> dict[Any, Any] | None:
        """See `Runtime.call_scope`: of the call, or of the background task, that is running."""
        scope = self._scope()
        return None if scope is None else scope.data

    def at_call_end(self, callback: Callable[[], None]) -> None:
        """See `Runtime.at_call_end`: last registered, first run."""
        scope = self._scope()
        if scope is None:
            raise RuntimeError("at_call_end belongs inside of a call")
        scope.callbacks.append(callback)

    def _scope(self) -> CallScope | None:
        loop = self._loop()
        if type(loop) is CallLoop:
            return loop.scope
        return None if loop.current is None else cast("CallScope | None", loop.current.scope)

    def close(self) -> None:
        """Stop the background tasks (a second's grace), close idle connections, end the thread. Idempotent.

        Calls under way in other threads go on to their end and close their connections then. In a forked child this
        closes the descriptors and says nothing to the peers.
        """
        if self._dead is None:
            self._dead = "the client is closed"
        self._finalizer.detach()
        if self._pid == os.getpid():
            self._housekeeper.stop()
        else:
            self._housekeeper.abandon()

    def forget(self) -> None:
        """Called in a forked child: refuse everything from here on."""
        self._dead = _FORKED
        self._forked = True
        self._finalizer.detach()


_runtimes: Final[weakref.WeakSet[CallerRuntime]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for runtime in list(_runtimes):
        runtime.forget()


def _at_exit() -> None:
    for runtime in list(_runtimes):
        if runtime._pid == os.getpid():
            runtime.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
