"""What the blocking clients have in common: the asynchronous twin, and the thread-bound runtime that drives it.

There is no loop thread in between (`rt.caller`): each method drives the coroutine of its twin in the calling thread.
Signatures and docstrings are the twin's; tests hold the classes together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pytikv.client.base import AsyncBase, serve_metrics
from pytikv.client.pages import Pages, Pair
from pytikv.config import ClientConfig
from pytikv.errors import ClientClosed
from pytikv.rt.caller import CallerRuntime
from pytikv.service_classes import Sla

if TYPE_CHECKING:
    from pytikv.observe.metrics import MetricsServer

__all__ = ["BlockingBase", "iterate"]

CoreT = TypeVar("CoreT", bound=AsyncBase[Any])
_Self = TypeVar("_Self", bound="BlockingBase[Any]")


def iterate(rt: CallerRuntime, pages: Pages) -> Iterator[Pair]:
    """Iterate over the pairs of a scan, fetching each page in the calling thread when the one before is used up."""
    while page := rt.run(pages.next_page()):
        yield from page


class BlockingBase(Generic[CoreT]):
    """Made by `connect`; closed by `close` or `with`."""

    __slots__ = ("__weakref__", "_core", "_rt")

    _CORE: ClassVar[type[AsyncBase[Any]]]

    def __init__(self, core: CoreT, rt: CallerRuntime) -> None:
        """Use `connect` instead: this is for the library itself."""
        self._core = core
        self._rt = rt

    @classmethod
    def connect(cls: type[_Self], target: str | Sequence[str], **options: Any) -> _Self:
        """Connect to `target`, a URL or a list of PD endpoints. Options are the fields of `ClientConfig`.

        Raises ConfigError, ConnectionFailed, DeadlineExceeded; StorageError where an embedded store cannot be opened.
        """
        rt = CallerRuntime()
        try:
            return cls(rt.run(cls._CORE._open(rt, target, options, drop_runtime=rt.close)), rt)
        except BaseException:
            rt.close()
            raise

    def close(self) -> None:
        """Close the client and what `connect` opened; of a client made by `with_options`, only itself. Idempotent."""
        with contextlib.suppress(ClientClosed):  # a second time, or in a forked child: there is nothing left to do
            self._rt.run(self._core.close())
        if self._core.is_owner:
            self._rt.close()

    def serve_metrics(self, port: int = 0, host: str = "127.0.0.1") -> MetricsServer:
        """Count what the clients of this process do, and serve it to Prometheus at `http://HOST:PORT/metrics`.

        Port 0: any that is free; the server's `port` and `url` tell. It goes on until its `close`, also when this
        client is closed, and serves what prometheus_client's own registry has (`pytikv.metrics` for web applications
        and other registries). Raises ConfigError where the port is in use, and without prometheus_client.
        """
        return serve_metrics(port, host)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def config(self) -> ClientConfig:
        """The options in force; `api_version` is settled."""
        return self._core.config

    @property
    def sla(self) -> Sla:
        """Seconds that calls of each service class may take; a change holds in all views, for calls yet to begin."""
        return self._core.config.sla
