"""The life of a client and of the views made from it by `with_options`.

Views share what `connect` opened, and the client that `connect` returned owns it. Closing the owner closes all views;
closing a view closes that view alone. A closed client has its backend replaced by one that raises ClientClosed from
every method, so an open one pays nothing for the check.

After a fork the child's copies of all clients are closed likewise, from a hook that runs in the child before anything
else does: sockets and threads belong to the parent, and two processes on one connection would read each other's
answers. An owner that is forgotten without `close` warns (ResourceWarning) and lets go of its connections at once,
without waiting for anything.
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
from pytikv.rt.interface import Runtime

__all__ = ["Backend", "Connection", "closed_backend"]


class Backend(Protocol):
    """What the life of a client needs of its backend (`client.raw_backend`, `client.txn.backend`)."""

    @property
    def config(self) -> ClientConfig:
        """The options in force."""
        ...

    def with_config(self, config: ClientConfig) -> Any:
        """Return a view of the same data with other options."""
        ...

    async def close(self) -> None:
        """End the connection."""

    def abandon(self, *, forked: bool) -> None:
        """As `close`, without waiting, from any thread."""


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
        close_runtime: Callable[[], Awaitable[None]] | None = None,
        drop_runtime: Callable[[], None] | None = None,
    ) -> None:
        self.rt = rt
        self._close_runtime = close_runtime
        self._drop_runtime = drop_runtime
        self._backend: Backend | None = backend
        self._views: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        _open.add(self)

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called yet."""
        return self._backend is not None

    def add(self, view: Any) -> None:
        """Count a client among those to be closed with this; its attribute `_backend` is what is replaced."""
        with self._lock:
            self._views.add(view)

    async def close(self, finish: Callable[[Backend], Awaitable[None]]) -> None:
        """Close all clients, let what is under way `finish`, and end the connection. Idempotent."""
        backend = self._take("the client was closed")
        if backend is not None:
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
            if self._drop_runtime is not None and not forked:
                self._drop_runtime()

    def _take(self, message: str) -> Backend | None:
        with self._lock:
            backend, self._backend = self._backend, None
            views = list(self._views)
        for view in views:
            view._backend = closed_backend(message)
        _open.discard(self)
        return backend

    def __del__(self) -> None:
        # Reached when the owner and all views are gone. At interpreter exit the OS closes what is open.
        if self.__dict__.get("_backend") is not None and warnings is not None:
            warnings.warn("a pytikv client was not closed", ResourceWarning, source=self, stacklevel=2)
            self.abandon("the client was closed")


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_open):
        connection._lock = threading.Lock()  # its holder, if any, stayed in the parent
        connection.abandon(
            "this client belongs to the process that this one was forked from: connect again", forked=True
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
