"""The one thread beside the callers': background tasks, and connections that no call uses.

It is started by the first transport that a call gives back or the first `spawn`, sleeps in `poll` without a timeout
when nothing is due, and ends with its runtime. What it does:

* *Background tasks* (`spawn`). Each is a call of its own: it has a scope, leases connections, and
  gives them back at its end.
* *Idle transports.* A call that ends puts its transports into `idle`, a dictionary that any thread pops from: who pops
  a transport owns it, so that giving back and taking again within a second costs no lock. While there are idle ones the
  housekeeper looks once a second; what sat longer is *parked*: polled here, so that a PING is answered and the peer's
  GOAWAY or end is noticed. A lease takes a parked transport back under the lock that dispatching holds.

Whoever attaches a transport must hold no lock that its protocol's callbacks take: it may have to wait for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final

from pytikv.rt.polling import Pollable, SocketLoop
from pytikv.rt.sockets import SocketTransport
from pytikv.rt.tasks import Cancelled, LoopTask

__all__ = ["BackgroundTask", "CallScope", "Housekeeper"]

logger: Final = logging.getLogger("pytikv")

PARK_AFTER_S: Final = 1.0
_GRACE_S: Final = 1.0
_monotonic: Final = time.monotonic


class CallScope:
    """What one call keeps until it ends: values by key, callbacks, and the transports it leased."""

    __slots__ = ("callbacks", "data", "transports")

    def __init__(self) -> None:
        self.data: dict[Any, Any] = {}
        self.callbacks: list[Callable[[], None]] = []
        self.transports: dict[SocketTransport, None] = {}

    def end(self) -> None:
        """Run the callbacks, last first. One that raises is logged, the others run all the same."""
        while self.callbacks:
            callback = self.callbacks.pop()
            try:
                callback()
            except Exception:
                logger.exception("a callback at the end of a call raised")
        self.data.clear()


class BackgroundTask:
    """A spawned coroutine, seen from any thread."""

    def __init__(self, housekeeper: Housekeeper, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self._housekeeper = housekeeper
        self._coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self._context: Context = copy_context()
        self._task: LoopTask[Any] | None = None
        self._name = name
        self._done = False
        self._cancelled = False

    def done(self) -> bool:
        """Tell whether the coroutine has ended."""
        return self._done

    def cancel(self) -> bool:
        """Cancel it, from any thread; True when it had not ended."""
        if self._done:
            return False
        self._cancelled = True
        self._housekeeper.loop.post(self.cancel_here)
        return True

    def cancel_here(self) -> None:
        """Cancel it, from the housekeeper's thread."""
        if self._task is not None:
            self._task.cancel()

    def start(self) -> None:
        """Begin; on the housekeeper's thread."""
        coroutine, self._coroutine = self._coroutine, None
        assert coroutine is not None
        loop = self._housekeeper.loop
        self._task = LoopTask(loop, coroutine, name=self._name, context=self._context, scope=CallScope())
        self._task.on_done = self._ended
        if self._cancelled:
            self._task.cancel()
        self._housekeeper.tasks.add(self)
        loop.ready.append(self._task.run)

    def drop(self) -> None:
        """Give up, started or not."""
        if self._coroutine is not None:
            self._coroutine.close()
            self._done = True
        elif self._task is not None:
            self._task.close()

    def _ended(self, task: LoopTask[Any]) -> None:
        self._done = True
        self._housekeeper.tasks.discard(self)
        if task.error is not None and not isinstance(task.error, Cancelled):
            logger.error("background task %s failed", self._name, exc_info=task.error)
        scope: CallScope = task.scope
        scope.end()
        for transport in list(scope.transports):
            self._housekeeper.give_back(transport)


class _HousekeeperLoop(SocketLoop):
    """A `SocketLoop` that also polls what is parked, and handles that under the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self.parked: dict[Pollable, None] = {}
        self.look_outside()

    def interest_changed(self, transport: Pollable) -> None:
        """See `Home`; a parked transport that has ended is forgotten."""
        if transport.closed:
            self.parked.pop(transport, None)
        super().interest_changed(transport)

    def _dispatch(self, fd: int, event: int) -> None:
        with self.lock:  # also for what a task attached: the map must not change meanwhile
            super()._dispatch(fd, event)

    def _rebuild(self) -> Any:
        with self.lock:
            return super()._rebuild()


class Housekeeper:
    """See the module. Made with its runtime; the thread starts at need."""

    def __init__(self, enter_thread: Callable[[SocketLoop], None]) -> None:
        """Make one.

        Args:
            enter_thread: called on the new thread with its loop, so that the runtime finds it there.
        """
        self.loop = _HousekeeperLoop()
        self.tasks: set[BackgroundTask] = set()
        self.idle: dict[SocketTransport, bool] = {}
        self._enter_thread: Callable[[SocketLoop], None] | None = enter_thread
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._looking = False
        self._stopping = False
        self._unstarted: set[BackgroundTask] = set()

    # --- from any thread ---

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> BackgroundTask:
        """Run `coroutine` on the housekeeper's thread."""
        task = BackgroundTask(self, coroutine, name)
        self._unstarted.add(task)
        self._ensure_thread()
        self.loop.post(partial(self._begin, task))
        return task

    def give_back(self, transport: SocketTransport) -> None:
        """Take a transport that a call has ended with."""
        home: Any = transport.home  # a `SocketLoop`
        if home is not None:
            home.drop(transport)
            if home is self.loop and self.loop.current is not None:
                self.loop.current.scope.transports.pop(transport, None)
            transport.home = None
        if transport.closed:
            return
        if self._stopping:
            transport.close()
            return
        transport.idle_since = _monotonic()
        self.idle[transport] = True
        if transport.wants_write:  # somebody has to send the rest
            self._ensure_thread()
            self.loop.post(partial(self._park, transport))
            return
        if self._stopping and self.idle.pop(transport, False):  # the runtime was closed between the two looks
            transport.close()
        elif not self._looking:
            self._looking = True
            self._ensure_thread()
            self.loop.post(self._look)

    def take(self, transport: SocketTransport) -> bool:
        """Take a parked transport out; False when it is not here."""
        with self.loop.lock:
            if transport not in self.loop.parked:
                return False
            del self.loop.parked[transport]
            self.loop.drop(transport)
            transport.home = None
            return True

    def stop(self, join: bool = True) -> None:
        """Cancel the tasks, close all transports, end the thread (and wait for its end). Idempotent."""
        with self._start_lock:
            first, self._stopping = not self._stopping, True
            thread = self._thread
        if thread is None:
            if first:
                self._close_all()
            return
        self.loop.post(_nothing)
        if join and thread is not threading.current_thread():
            thread.join()

    def abandon(self) -> None:
        """Close the descriptors and nothing else: what a forked child does with its parent's connections."""
        self._stopping = True
        for transport in [*self.idle, *self.loop.attached]:
            transport.closed = True
            if isinstance(transport, SocketTransport):
                transport.socket.close()
        self.idle.clear()

    # --- on the thread ---

    def _ensure_thread(self) -> None:
        if self._thread is not None:
            return
        with self._start_lock:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._main, name="pytikv-housekeeper", daemon=True)
                self._thread.start()

    def _main(self) -> None:
        assert self._enter_thread is not None
        self._enter_thread(self.loop)
        self._enter_thread = None
        while not self._stopping:
            self.loop.run_ready()
            self.loop.wait_once()
        self._wind_up()

    def _wind_up(self) -> None:
        self.loop.run_ready()
        for task in list(self.tasks):
            task.cancel_here()
        until = self.loop.now() + _GRACE_S
        self.loop.call_at(until, _nothing)
        while self.tasks and self.loop.now() < until:
            self.loop.run_ready()
            if self.tasks:
                self.loop.wait_once()
        self._close_all()

    def _close_all(self) -> None:
        for task in [*self.tasks, *self._unstarted]:
            task.drop()
        for transport in [*self.idle, *self.loop.attached]:
            if isinstance(transport, SocketTransport):
                transport.home = None
                transport.close()
        self.idle.clear()
        self.loop.attached.clear()
        self.loop.parked.clear()

    def _begin(self, task: BackgroundTask) -> None:
        self._unstarted.discard(task)
        task.start()

    def _look(self) -> None:
        """Park what sat idle for long enough, and come back while there is more."""
        now = self.loop.now()
        for transport in list(self.idle):
            if now - transport.idle_since >= PARK_AFTER_S:
                self._park(transport)
        if not self.idle:
            self._looking = False
            if not self.idle:  # one that came before the flag fell saw it up
                return
            self._looking = True
        self.loop.call_at(now + PARK_AFTER_S, self._look)

    def _park(self, transport: SocketTransport) -> None:
        with self.loop.lock:  # who does not find it idle waits for the lock, and then finds it parked
            if not self.idle.pop(transport, False) or transport.closed:
                return
            transport.home = self.loop
            self.loop.parked[transport] = None
            self.loop.adopt(transport)
            while transport.receive():  # what came in the meantime
                pass


def _nothing() -> None:
    """Wake the loop, no more."""
