"""The loop over sockets that a thread drives by hand: polling, direct receives, and being woken by other threads.

A `SocketLoop` waits in one of two ways. When all there is to wait for is one transport that reads, the wait is that
transport's blocking `recv`. Otherwise it is `poll` over what the transports want; the poll object is rebuilt only when
that has changed. The wake-up descriptor is made when first needed and polled only while something outside of this
thread is waited for (`outside` > 0): an ordinary call never pays for it.

Waking: `post` appends to the inbox and writes to the descriptor only when the loop has said that it sleeps; the loop
says so *before* its last look at the inbox, so either side sees the other.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from pytikv.rt.sockets import DIRECT_FROM_S
from pytikv.rt.tasks import Loop, LoopFuture

__all__ = ["Connecting", "Pollable", "SocketLoop", "Waker"]

_monotonic: Final = time.monotonic
_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL
_WRITABLE: Final = select.POLLOUT | select.POLLHUP | select.POLLERR
_FOR_EVER_S: Final = 1e9


class Waker:
    """A descriptor that becomes readable when another thread calls `wake`."""

    def __init__(self) -> None:
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:  # not Linux
            self._sockets = socket.socketpair()
            for end in self._sockets:
                end.setblocking(False)
            self.fd = self._sockets[0].fileno()

    def wake(self) -> None:
        """Make the descriptor readable. From any thread."""
        if self._sockets is None:
            os.eventfd_write(self.fd, 1)
            return
        try:
            self._sockets[1].send(b"\0")
        except BlockingIOError:  # full of wake-ups: that will do
            return

    def clear(self) -> None:
        """Make it unreadable again."""
        try:
            if self._sockets is None:
                os.eventfd_read(self.fd)
            else:
                self._sockets[0].recv(4096)
        except BlockingIOError:
            return

    def __del__(self) -> None:
        # Only when nobody holds it any more, so that `wake` can never hit another file of the same number.
        if self._sockets is not None:
            for end in self._sockets:
                end.close()
        elif hasattr(self, "fd"):
            os.close(self.fd)


class Pollable(Protocol):
    """What a `SocketLoop` waits for: a transport, or a connection being made."""

    fd: int
    closed: bool
    direct: bool
    """Whether waiting for it alone can be a blocking receive."""

    @property
    def wants_read(self) -> bool:
        """Whether to tell when it can be read."""
        ...

    @property
    def wants_write(self) -> bool:
        """Whether to tell when it can be written."""
        ...

    def receive(self) -> bool:
        """It can be read, or has failed."""
        ...

    def receive_blocking(self, timeout: float) -> None:
        """Wait for it, at most about `timeout` seconds; only where `direct`."""
        ...

    def flush(self) -> None:
        """It can be written, or has failed."""
        ...


class Connecting:
    """A socket whose connection is under way; `done` completes when it stands or has failed."""

    closed = False
    wants_read = False
    wants_write = True
    direct = False

    def __init__(self, raw: socket.socket) -> None:
        self.fd = raw.fileno()
        self.done: LoopFuture[None] = LoopFuture()

    def receive(self) -> bool:
        """Nothing to read yet."""
        return False

    def receive_blocking(self, timeout: float) -> None:
        """Never called: a connection under way is not `direct`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Writable: the connection stands, or has failed."""
        if not self.done.done():
            self.done.set_result(None)


class SocketLoop(Loop):
    """Ready callables, timers and sockets of one thread."""

    def __init__(self) -> None:
        super().__init__()
        self.attached: dict[Pollable, None] = {}
        self.outside = 0
        self.receiving: Pollable | None = None
        self.sleeping = False
        self.inbox: deque[Callable[[], None]] = deque()
        self._sole: Pollable | None = None
        self._poller: select.poll | None = None
        self._by_fd: dict[int, Pollable] = {}
        self._stale = True
        self.waker: Waker | None = None

    def now(self) -> float:
        """Monotonic seconds."""
        return _monotonic()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in this turn, after what is running and ready."""
        self.ready.append(callback)

    def adopt(self, pollable: Pollable) -> None:
        """Wait for `pollable` too, from now on."""
        self._sole = None if self.attached else pollable
        self.attached[pollable] = None
        self._stale = True

    def drop(self, pollable: Pollable) -> None:
        """Wait for it no more."""
        attached = self.attached
        attached.pop(pollable, None)
        self._sole = next(iter(attached)) if attached and len(attached) == 1 else None
        self._stale = True

    def interest_changed(self, transport: Pollable) -> None:
        """See `Home`."""
        self._stale = True
        if transport.closed:
            self.drop(transport)

    def post(self, callback: Callable[[], None]) -> None:
        """Run `callback` on this loop. From any thread; the loop must be one that looks (`outside` > 0)."""
        self.inbox.append(callback)
        if self.sleeping and self.waker is not None:
            self.waker.wake()

    def look_outside(self) -> None:
        """Make sure that `post` can wake this loop."""
        self.outside += 1
        if self.waker is None:
            self.waker = Waker()
        self._stale = True

    def stop_looking(self) -> None:
        """Take one `look_outside` back."""
        self.outside -= 1
        self._stale = True

    def wait_once(self) -> None:
        """Wait until a socket, a timer, the root's deadline or another thread has something; queue what follows."""
        when = self.root.expires if self.root is not None else None
        if self.timers:
            due = self.next_timer()
            if due is not None and (when is None or due < when):
                when = due
        timeout = _FOR_EVER_S if when is None else when - _monotonic()
        sole = self._sole
        if sole is not None and timeout > DIRECT_FROM_S and not self.outside and sole.direct:
            self.receiving = sole
            sole.receive_blocking(timeout)
            self.receiving = None
        else:
            self._poll(None if when is None else timeout)
        if when is not None and (now := _monotonic()) >= when:
            self.fire_timers(now)
            root = self.root
            if root is not None and root.expires is not None and root.expires <= now:
                root.expire()

    def _poll(self, timeout: float | None) -> None:
        poller = self._poller
        if poller is None or self._stale:
            poller = self._rebuild()
        if timeout is None and not self._by_fd and not self.outside:
            raise RuntimeError("the call waits for something that nobody will provide")
        self.sleeping = True
        if self.inbox:
            timeout = 0.0
        events = poller.poll(None if timeout is None else max(0.0, timeout * 1000))
        self.sleeping = False
        if self.outside:
            self._take_inbox()
        for fd, event in events:
            self._dispatch(fd, event)

    def _dispatch(self, fd: int, event: int) -> None:
        pollable = self._by_fd.get(fd)
        if pollable is None or pollable not in self.attached:
            self._stale = True
            return
        if event & _WRITABLE and pollable.wants_write:
            pollable.flush()
        if event & _READABLE and pollable.wants_read:
            pollable.receive()

    def _take_inbox(self) -> None:
        if self.waker is not None:
            self.waker.clear()
        inbox = self.inbox
        while inbox:
            self.ready.append(inbox.popleft())

    def _rebuild(self) -> select.poll:
        poller = self._poller = select.poll()
        self._by_fd.clear()
        self._stale = False
        for pollable in self.attached:
            mask = (select.POLLIN if pollable.wants_read else 0) | (select.POLLOUT if pollable.wants_write else 0)
            if mask:
                poller.register(pollable.fd, mask)
                self._by_fd[pollable.fd] = pollable
        if self.outside and self.waker is not None:
            poller.register(self.waker.fd, select.POLLIN)
        return poller
