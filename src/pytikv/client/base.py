"""What the asynchronous clients have in common: how they come to be, how they end, and the views of one connection.

A client class adds three things: how its backend is opened (`_open_backend`), which options a view may change
(`_VIEW_OPTIONS`), and its operations. Its blocking twin stands on `client.blocking_base`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pytikv.client.handle import Backend, Connection
from pytikv.client.openers import Opener
from pytikv.config import ClientConfig, GatheredConfig, check_config, gather_config
from pytikv.errors import ConfigError
from pytikv.observe.telemetry import Telemetry
from pytikv.rt.interface import Runtime
from pytikv.service_classes import Sla
from pytikv.url import Target, parse_target

if TYPE_CHECKING:
    from pytikv.observe.metrics import MetricsServer

__all__ = ["AsyncBase", "client_config", "gathered_config", "install_metrics", "serve_metrics"]

BackendT = TypeVar("BackendT", bound=Backend)
_Self = TypeVar("_Self", bound="AsyncBase[Any]")


def client_config(target: str | Sequence[str], options: Mapping[str, Any]) -> tuple[Target, ClientConfig]:
    """Return the parsed target and the options of a client. Raises ConfigError, WrongType."""
    place, gathered = gathered_config(target, options)
    return place, gathered.config


def gathered_config(target: str | Sequence[str], options: Mapping[str, Any]) -> tuple[Target, GatheredConfig]:
    """Do as `client_config`, and tell where each option comes from."""
    place = parse_target(target)
    gathered = gather_config(options, place.query)
    if place.keyspace is not None:
        if gathered.config.keyspace not in (None, place.keyspace):
            raise ConfigError("the keyspace in the URL's path and the option keyspace differ: leave out one of the two")
        config = gathered.config.replace(keyspace=place.keyspace)
        gathered = GatheredConfig(config, {**gathered.sources, "keyspace": "URL path"})
    return place, gathered


def install_metrics() -> None:
    """Count what clients do from now on, in prometheus_client's own registry. Raises ConfigError without it."""
    from pytikv.observe import metrics  # here: it needs prometheus_client

    metrics.install()


def install_tracing() -> None:
    """Trace what clients do from now on. Raises ConfigError without OpenTelemetry's API."""
    from pytikv.observe import tracing  # here: it needs opentelemetry-api

    tracing.enable()


def serve_metrics(port: int, host: str) -> MetricsServer:
    """Serve what `install_metrics` counts. Raises ConfigError."""
    from pytikv.observe import metrics

    return metrics.serve(port, host)


class AsyncBase(Generic[BackendT]):
    """Made by `connect`; closed by `close` or `async with`."""

    __slots__ = ("__weakref__", "_backend", "_connection", "is_owner")

    _VIEW_OPTIONS: ClassVar[frozenset[str]]
    _open_backend: ClassVar[Opener[Any]]

    def __init__(self, connection: Connection, backend: BackendT, *, is_owner: bool) -> None:
        """Use `connect` instead: this is for the library itself."""
        self._connection = connection
        self._backend = backend
        self.is_owner = is_owner
        connection.add(self)

    @classmethod
    async def connect(cls: type[_Self], target: str | Sequence[str], **options: Any) -> _Self:
        """Connect to `target`, a URL or a list of PD endpoints. Options are the fields of `ClientConfig`.

        Raises ConfigError, ConnectionFailed, DeadlineExceeded; StorageError where an embedded store cannot be opened.
        """
        from pytikv.rt.aio import AioRuntime  # here, so that blocking programs do not load asyncio

        rt = AioRuntime()
        try:
            return await cls._open(rt, target, options, close_runtime=rt.close)
        except BaseException:
            await rt.close()
            raise

    @classmethod
    async def _open(
        cls: type[_Self],
        rt: Runtime,
        target: str | Sequence[str],
        options: Mapping[str, Any],
        *,
        close_runtime: Callable[[], Awaitable[None]] | None = None,
        drop_runtime: Callable[[], None] | None = None,
    ) -> _Self:
        place, config = client_config(target, options)
        if config.metrics:
            install_metrics()
        if config.tracing:
            install_tracing()
        backend = await cls._open_backend(rt, place, config)
        connection = Connection(rt, backend, target=str(place), close_runtime=close_runtime, drop_runtime=drop_runtime)
        client = cls(connection, backend, is_owner=True)
        client._begin_work(backend)
        return client

    async def close(self) -> None:
        """Close the client and what `connect` opened; of a client made by `with_options`, only itself. Idempotent."""
        if self.is_owner:
            self._connection.rt.check_loop()
            await self._connection.close(self._finish)
        else:
            self._connection.end(self)

    def serve_metrics(self, port: int = 0, host: str = "127.0.0.1") -> MetricsServer:
        """Count what the clients of this process do, and serve it to Prometheus at `http://HOST:PORT/metrics`.

        Port 0: any that is free; the server's `port` and `url` tell. It goes on until its `close`, also when this
        client is closed, and serves what prometheus_client's own registry has (`pytikv.metrics` for web applications
        and other registries). Raises ConfigError where the port is in use, and without prometheus_client.
        """
        return serve_metrics(port, host)

    def _observe(self, telemetry: Telemetry | None) -> None:
        """Have calls report to `telemetry`; None: to nobody. See `client.observed`."""

    def _begin_work(self, backend: Any) -> None:
        """Begin what goes on beyond calls until `_finish`; once for all views."""

    async def _finish(self, backend: Any) -> None:
        """End, within the option `timeout`, what goes on beyond calls; nothing new begins by then."""

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def config(self) -> ClientConfig:
        """The options in force; `api_version` is settled."""
        return self._backend.config

    @property
    def sla(self) -> Sla:
        """Seconds that calls of each service class may take; a change holds in all views, for calls yet to begin."""
        return self._backend.config.sla

    def _view(self: _Self, options: Mapping[str, Any]) -> _Self:
        """Return a client with other options; None leaves one as it is."""
        changes = {name: value for name, value in options.items() if value is not None}
        fixed = [name for name in changes if name not in self._VIEW_OPTIONS]
        if "timeout" in changes:
            changes.setdefault("service_class", None)  # who asks for a time wants that one
        config = self._backend.config.replace(**changes)  # names an unknown option before the next check does
        if fixed:
            raise ConfigError(f"option {fixed[0]!r} is fixed by connect; open another client for it")
        return type(self)(self._connection, self._backend.with_config(check_config(config)), is_owner=False)
