"""Metrics over HTTP: an application for WSGI, one for ASGI, and a small server for programs that have neither.

All three answer any path with the metrics of a registry, in the format that the scraper's Accept header asks for:
OpenMetrics (with exemplars) or Prometheus's text, compressed where it takes that. Where several processes count into
``PROMETHEUS_MULTIPROC_DIR``, the answer is the sum over all of them, whichever is asked.

The server runs in a thread of its own and handles each request in another; `close` ends it and frees the port. It
listens on the loopback interface unless told otherwise: metrics tell addresses and loads, and whoever asks gets them.
A connection that says nothing is dropped after some seconds. In a forked child the server is closed without a word: the
port is the parent's.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_asgi_app, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from pytikv.errors import ConfigError, WrongType
from pytikv.observe.metrics.buckets import IS_MULTIPROCESS
from pytikv.observe.metrics.sink import install

__all__ = ["MetricsServer", "asgi_app", "serve", "wsgi_app"]

_POLL_S: Final = 0.05
_SILENCE_S: Final = 3.0

logger: Final = logging.getLogger("pytikv")


def _scraped(registry: CollectorRegistry | None) -> CollectorRegistry:
    """Install the metrics, and return the registry that a scrape is answered from."""
    install(registry)
    if registry is not None:
        return registry
    if not IS_MULTIPROCESS:
        return REGISTRY
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return together


def wsgi_app(registry: CollectorRegistry | None = None) -> Callable[..., Any]:
    """Install the metrics and return a WSGI application that serves them. `registry`: as for `install`."""
    app: Callable[..., Any] = make_wsgi_app(_scraped(registry))
    return app


def asgi_app(registry: CollectorRegistry | None = None) -> Callable[..., Any]:
    """Install the metrics and return an ASGI application that serves them. `registry`: as for `install`."""
    app: Callable[..., Any] = make_asgi_app(_scraped(registry))
    return app


class _Handler(WSGIRequestHandler):
    """Writes no line for each scrape."""

    timeout = _SILENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = False  # `server_close` waits for them: nothing is left behind

    def server_bind(self) -> None:
        """Bind without asking the name service what the host is called, as HTTPServer does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note that a scraper went away, or never said anything."""
        logger.debug("a scrape of the metrics failed", exc_info=True)


class _SixServer(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """A running server of metrics; made by `client.serve_metrics` or `serve`. Close it, or use it in a with statement.

    It is the process's and not a client's: it goes on when clients are closed.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1", registry: CollectorRegistry | None = None) -> None:
        """Use `client.serve_metrics` or `serve` instead."""
        if isinstance(port, bool) or not isinstance(port, int):
            raise WrongType(f"port is a number between 0 and 65535, not {port!r}")
        if not isinstance(host, str):
            raise WrongType(f"host is a string, not {type(host).__name__}")
        app = wsgi_app(registry)
        kind = _SixServer if ":" in host else _Server
        try:
            self._server = make_server(host, port, app, kind, _Handler)
        except (OSError, OverflowError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"metrics cannot be served at {host}:{port}: {text}") from error
        self.host = host
        self.port: int = self._server.server_port
        """The port listened on."""
        self._thread: threading.Thread | None = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name=f"pytikv metrics {self.port}", daemon=True
        )
        self._thread.start()
        _open.add(self)

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """End the server and free the port. Requests under way are answered first. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
            _open.discard(self)

    def _forget(self) -> None:
        """Close the forked child's copy of the socket; the thread stayed in the parent."""
        self._thread = None
        self._server.socket.close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(port: int = 0, host: str = "127.0.0.1", registry: CollectorRegistry | None = None) -> MetricsServer:
    """Install the metrics and serve them at `http://HOST:PORT/metrics`; port 0: any that is free (`.port` tells).

    Raises ConfigError where the port is in use or the host is not this machine's, WrongType for what is neither.
    """
    return MetricsServer(port, host, registry)


_open: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_open):
        server._forget()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
