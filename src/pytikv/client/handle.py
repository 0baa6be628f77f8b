"""The life of a client and of the views made from it by `with_options`.

Views share what `connect` opened, and the client that `connect` returned owns it. Closing the owner closes all views;
closing a view closes that view alone. A closed client has its backend replaced by one that raises ClientClosed from
every method, so an open one pays nothing for the check.

After a fork the child's copies of all clients are closed likewise, from a hook that runs in the child before anything
else does: sockets and threads belong to the parent, and two processes on one connection would read each other's
answers. An owner that is forgotten without `close` warns (ResourceWarning) and lets go of its connections at once,
without waiting for anything.

Whether calls are observed is switched here for all views of all connections: `observe.telemetry` says when the first
sink comes and the last one goes, and each view then takes what reports, or what does not (`client.observed`).
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pytikv.config import ClientConfig
from pytikv.errors import ClientClosed
from pytikv.observe import state, telemetry
from pytikv.observe.state import ClusterStats
from pytikv.observe.telemetry import Telemetry
from pytikv.rt.interface import Runtime
from pytikv.wire.batch_commands import watch_frames

__all__ = ["Backend", "Connection", "View", "closed_backend", "open_connections"]


class Backend(Protocol):
    """What the life of a client needs of its backend (`client.raw_backend`, `client.txn.backend`)."""

    @property
    def config(self) -> ClientConfig:
        """The options in force."""
        ...

    def with_config(self, config: ClientConfig) -> Any:
        """Return a view of the same data with other options."""
        ...

    def observe(self, is_observed: bool) -> None:
        """Have the requests of all views, present and to come, report to `current_record()`, or no longer."""

    def stats(self, target: str) -> ClusterStats:
        """Return what is held at present. `target`: what was connected to."""
        ...

    async def close(self) -> None:
        """End the connection."""

    def abandon(self, *, forked: bool) -> None:
        """As `close`, without waiting, from any thread."""


class View(Protocol):
    """What a connection needs of the clients that use it."""

    _backend: Any

    def _observe(self, telemetry: Telemetry | None) -> None:
        """Have calls report to `telemetry`; None: to nobody."""


class _Closed:
    """A backend whose every method raises ClientClosed."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        raise ClientClosed(self._message)


def closed_backend(message: str) -> Any:
    """Return a backend that refuses everything."""
    return _Closed(message)


class Connection:
    """What `connect` opened: the runtime, the backend, and the clients that use them."""

    def __init__(
        self,
        rt: Runtime,
        backend: Backend,
        *,
        target: str = "",
        close_runtime: Callable[[], Awaitable[None]] | None = None,
        drop_runtime: Callable[[], None] | None = None,
    ) -> None:
        """`target`: what was connected to, without secrets."""
        self.rt = rt
        self.target = target
        self.telemetry: Telemetry | None = None
        """Where calls report to; None while nobody listens."""
        self._close_runtime = close_runtime
        self._drop_runtime = drop_runtime
        self._backend: Backend | None = backend
        self._views: weakref.WeakSet[View] = weakref.WeakSet()
        self._lock = threading.Lock()
        _open.add(self)
        self._slow_s = backend.config.slow_log
        self._hold_slow_log(self._slow_s is not None)
        self.observe()

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called yet."""
        return self._backend is not None

    @property
    def backend(self) -> Backend | None:
        """What was opened; None after `close`."""
        return self._backend

    def stats(self) -> ClusterStats | None:
        """Return what is held at present; None after `close`."""
        backend = self._backend
        return None if backend is None else backend.stats(self.target)

    def add(self, view: View) -> None:
        """Count a client among those to be closed with this; its attribute `_backend` is what is replaced."""
        with self._lock:
            self._views.add(view)
            view._observe(self.telemetry)

    def end(self, view: View) -> None:
        """Close one view alone."""
        with self._lock:
            view._backend = closed_backend("the client was closed")

    def observe(self) -> None:
        """Have all views report, or no longer, as the present sinks want it."""
        with self._lock:
            is_observed = bool(telemetry.sinks())
            if is_observed is (self.telemetry is not None) or self._backend is None:
                return
            self._backend.observe(is_observed)
            self.telemetry = self._new_telemetry() if is_observed else None
            for view in self._views:
                if not isinstance(view._backend, _Closed):
                    view._observe(self.telemetry)

    def _hold_slow_log(self, is_held: bool) -> None:
        if self._slow_s is not None:
            from pytikv.observe import slow_log  # here: most programs never need it

            (slow_log.hold if is_held else slow_log.release)(self)

    def _new_telemetry(self) -> Telemetry:
        return Telemetry(self.rt.now, self.rt.time, self.target, self._slow_s)

    async def close(self, finish: Callable[[Backend], Awaitable[None]]) -> None:
        """Close all clients, let what is under way `finish`, and end the connection. Idempotent."""
        backend = self._take("the client was closed")
        if backend is not None:
            state.changed()
            try:
                try:
                    await finish(backend)
                finally:
                    await backend.close()
            finally:
                if self._close_runtime is not None:
                    await self._close_runtime()

    def abandon(self, message: str, *, forked: bool = False) -> None:
        """As `close`, without waiting for anything."""
        backend = self._take(message)
        if backend is not None:
            backend.abandon(forked=forked)
            if not forked:
                state.changed()
                if self._drop_runtime is not None:
                    self._drop_runtime()

    def _take(self, message: str) -> Backend | None:
        with self._lock:
            backend, self._backend = self._backend, None
            for view in self._views:
                view._backend = closed_backend(message)
        _open.discard(self)
        self._hold_slow_log(False)
        return backend

    def __del__(self) -> None:
        # Reached when the owner and all views are gone. At interpreter exit the OS closes what is open.
        if self.__dict__.get("_backend") is not None and warnings is not None:
            warnings.warn("a pytikv client was not closed", ResourceWarning, source=self, stacklevel=2)
            self.abandon("the client was closed")


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def open_connections() -> list[Connection]:
    """Return what is open at present."""
    return [connection for connection in list(_open) if connection.is_open]


def _stats() -> list[ClusterStats]:
    looks = [connection.stats() for connection in open_connections()]
    return [look for look in looks if look is not None]


state.provide(_stats)


def _on_sinks(is_observed: bool) -> None:
    watch_frames(telemetry.frame if is_observed else None)
    for connection in open_connections():
        connection.observe()


telemetry.on_change(_on_sinks)
_on_sinks(bool(telemetry.sinks()))  # metrics may have been installed before the first client was thought of


def _after_fork_in_child() -> None:
    for connection in list(_open):
        connection._lock = threading.Lock()  # its holder, if any, stayed in the parent
        connection.abandon(
            "this client belongs to the process that this one was forked from: connect again", forked=True
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
