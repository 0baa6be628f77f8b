"""A server: PD and one store in one process, on three ports.

* PD's port speaks gRPC and HTTP/1.1, told apart by a connection's first bytes, or by ALPN under TLS;
* the store's port speaks gRPC;
* the status port speaks HTTP/1.1.

Order of a start: check the configuration, open the engine (which claims the directory), take the three ports, tell PD
who and where the store is, then serve. Until then connections are cut at once, so that nobody sees half a server.
Order of a stop: no new connections, running requests finish within `stop_timeout`, heartbeats end, the engine is
flushed and closed. A kill at any moment loses nothing that was answered (with `sync`).

States: new -> started -> stopped; a failed start is stopped. One server belongs to one loop.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Final

from pytikv.errors import ConfigError, TikvError
from pytikv.proto import metapb_pb2 as metapb
from pytikv.rt.interface import Future, Runtime
from pytikv.rt.main import StopRequest, run_main
from pytikv.rt.tls import load_server_tls
from pytikv.server.cleanup import ROUND_S, Cleaner
from pytikv.server.config import ServeConfig
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.gc_worker import GcWorker
from pytikv.server.health import health_routes
from pytikv.server.http import HttpProtocol, HttpRequest, HttpResponse, SniffingProtocol, http2_pages
from pytikv.server.metrics.exposition import MetricsPage
from pytikv.server.metrics.pd import PdMetrics
from pytikv.server.metrics.store import StoreMetrics
from pytikv.server.metrics.store_pages import store_families, store_stats
from pytikv.server.pd.http_api import pd_http_handler
from pytikv.server.pd.members import VERSION
from pytikv.server.pd.metrics_page import pd_families
from pytikv.server.pd.server import PdConfig, PdServer
from pytikv.server.pd.services import pd_routes
from pytikv.server.ports import Port, split_address
from pytikv.server.regions import RegionError
from pytikv.server.services.kv_service import KvService
from pytikv.server.services.tikv import tikv_routes
from pytikv.server.status import StoreSettings, status_handler, timed
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import SplitChecker, SplitLimits, Store, open_store
from pytikv.wire.server import ServerConnection

__all__ = ["ServeConfig", "Server", "main_serve"]

_HOST: Final = "127.0.0.1"
_PD_PORT: Final = 2379
_STORE_PORT: Final = 20160
_STATUS_PORT: Final = 20180
_HEARTBEAT_S: Final = 10.0  # as TiKV's pd-store-heartbeat-tick-interval
_BACKGROUND_S: Final = 1.0  # how often background work is thought of
_log = logging.getLogger("pytikv.server")


class Server:
    """PD and a store. `await start()`, then `url` is what clients connect to, until `await stop()`."""

    def __init__(self, rt: Runtime, config: ServeConfig | None = None, *, engine: Engine | None = None) -> None:
        """Make a server; nothing is opened yet. `engine`: on this one, not on one at `config.path` (simulations)."""
        self.rt = rt
        self._given_engine = engine
        self.config = config or ServeConfig()
        self.pd: PdServer | None = None
        self.engine: Engine | None = None
        self._ports: dict[str, Port] = {}
        self.store: Store | None = None
        self.metrics = StoreMetrics()
        self._stopping: Future[None] = rt.create_future()
        self._background: Future[None] | None = None

    # --- addresses ----------------------------------------------------------------------------------------------------

    @property
    def pd_port(self) -> int:
        """PD's port."""
        return self._ports["pd"].port

    @property
    def port(self) -> int:
        """The store's port."""
        return self._ports["store"].port

    @property
    def status_port(self) -> int:
        """The port of the store's status pages."""
        return self._ports["status"].port

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"tikv://{self._advertised('pd')}"

    def _advertised(self, name: str) -> str:
        port = self._ports[name]
        host = self.config.advertise_host or port.host
        return f"[{host}]:{port.port}" if ":" in host else f"{host}:{port.port}"

    # --- start --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything and serve. After an error nothing is left open.

        Raises ConfigError, StorageError, OSError (a port that is taken or not allowed) and ssl.SSLError.
        """
        self.config.check()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, rt = self.config, self.rt
        self.engine = self._given_engine or await rt.run_blocking(_open_engine, config.path)
        self._ports["pd"] = await self._open_port(config.pd_addr, _PD_PORT)
        self._ports["store"] = await self._open_port(config.addr, _STORE_PORT)
        self._ports["status"] = await self._open_port(config.status_addr, _STATUS_PORT)
        self.pd = await rt.run_blocking(self._open_pd, self.engine)
        self.store = await rt.run_blocking(self._open_store, self.engine, self.pd)
        await self._beat(self.pd, self.store)
        self._serve(self.pd, self.store)
        self._background = rt.create_future()
        rt.spawn(self._run_background(self.pd, self.store, self._background), name="server")
        where = self._advertised("pd"), self._advertised("store"), self._advertised("status")
        _log.info("PD on %s, store on %s, status on %s, data in %s", *where, config.path or "memory")

    async def _open_port(self, address: str | None, default: int) -> Port:
        host, port = (_HOST, default) if address is None else split_address(address)
        files = self.config.tls
        tls = None if files is None else load_server_tls(files, require_client_cert=files.ca is not None)
        try:
            return await Port.open(self.rt, host, port, or_any=address is None, tls=tls)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}") from error

    def _open_pd(self, engine: Engine) -> PdServer:
        scheme = "http" if self.config.tls is None else "https"
        url = f"{scheme}://{self._advertised('pd')}"
        config = PdConfig(
            client_urls=(url,), peer_urls=(url,), data_dir=self.config.path or "", keyspaces=self.config.keyspaces
        )
        return PdServer(EngineMeta(engine), config, time=self.rt.time, getrandbits=self.rt.rng.getrandbits)

    def _open_store(self, engine: Engine, pd: PdServer) -> Store:
        limits = SplitLimits(self.config.region_split_size_bytes, self.config.region_split_keys)
        return open_store(
            engine,
            pd,
            ApiVersion(self.config.api_version),
            meta=self._store_meta,
            now_s=self.rt.time,
            split_limits=limits,
        )

    def _store_meta(self, store_id: int) -> metapb.Store:
        address = self._advertised("store")
        return metapb.Store(
            id=store_id,
            address=address,
            peer_address=address,
            status_address=self._advertised("status"),
            version=VERSION,
            start_timestamp=int(self.rt.time()),
        )

    def _serve(self, pd: PdServer, store: Store) -> None:
        rt, counts = self.rt, PdMetrics(self.rt.now)
        for_pd = pd_routes(rt, pd, counts)
        pd_pages = pd_http_handler(pd, MetricsPage(pd_families(pd, counts)))
        service = KvService(store, sync=self.config.sync, now=rt.now, metrics=self.metrics)
        for_store = {**tikv_routes(rt, service), **health_routes()}
        status_pages = self._status_pages(store)
        http2 = http2_pages(pd_pages)
        self._ports["pd"].serve(
            lambda: SniffingProtocol(
                rt, lambda: ServerConnection(rt, for_pd, pages=http2), lambda: HttpProtocol(rt, pd_pages)
            )
        )
        self._ports["store"].serve(lambda: ServerConnection(rt, for_store))
        self._ports["status"].serve(lambda: HttpProtocol(rt, status_pages))

    def _status_pages(self, store: Store) -> Callable[[HttpRequest], HttpResponse]:
        families = store_families(store, self.metrics, VERSION, self.rt.time())
        return timed(status_handler(self._settings(), MetricsPage(families)), self.metrics, self.rt.now)

    def _settings(self) -> StoreSettings:
        config = self.config
        return StoreSettings(
            api_version=2 if config.api_version == "2" else 1,
            enable_ttl=config.api_version != "1",
            addr=self._advertised("store"),
            status_addr=self._advertised("status"),
            data_dir=config.path or "",
            sync=config.sync,
            region_split_size_bytes=config.region_split_size_bytes,
            region_split_keys=config.region_split_keys,
            heartbeat_s=_HEARTBEAT_S,
            ttl_round_s=ROUND_S,
            tls=config.tls is not None,
            pd_endpoints=(self._advertised("pd"),),
        )

    # --- while it runs ------------------------------------------------------------------------------------------------

    async def _run_background(self, pd: PdServer, store: Store, done: Future[None]) -> None:
        """Report to PD, split what has grown and clean up what nobody can see, until the server stops."""
        try:
            checker, metrics = SplitChecker(store), self.metrics
            cleaner, collector = Cleaner(self.rt, store, metrics), GcWorker(self.rt, store, metrics)
            next_beat = self.rt.now() + _HEARTBEAT_S
            while not await self._stops_within(_BACKGROUND_S):
                if self.rt.now() >= next_beat:
                    await self._beat(pd, store)
                    next_beat = self.rt.now() + _HEARTBEAT_S
                await self._split(checker)
                await cleaner.step()
                await collector.step()
        finally:
            done.set_result(None)

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await self.rt.wait(self._stopping, self.rt.now() + seconds)
        except TimeoutError:
            return False
        return True

    async def _split(self, checker: SplitChecker) -> None:
        """Split regions that have grown, in steps, so that requests get their turn; a failed step comes again later."""
        try:
            while checker.due() and not self._stopping.done():
                self.metrics.worker_tasks["split-check"] += 1
                parts = await self.rt.run_blocking(checker.step)
                if parts:
                    _log.info("a region was split in %d", len(parts))
        except (TikvError, RegionError) as error:
            _log.warning("a region that has grown was not split: %s", error)

    async def _beat(self, pd: PdServer, store: Store) -> None:
        try:
            pd.store_heartbeat(await self.rt.run_blocking(store_stats, store))
            self.metrics.heartbeats += 1
        except (TikvError, OSError) as error:  # a full or failing disk: the next report may succeed
            _log.warning("the store's statistics could not be taken: %s", error)

    # --- stop ---------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Finish running requests within `stop_timeout`, close everything. Idempotent."""
        ports, self._ports = self._ports, {}
        deadline = self.rt.now() + self.config.stop_timeout
        if not self._stopping.done():
            self._stopping.set_result(None)
        await self.rt.gather(*(port.close(self.rt, deadline) for port in ports.values()))
        background, self._background = self._background, None
        if background is not None:
            # One step over some thousand keys at most; whatever it still does, the engine refuses it once closed.
            with contextlib.suppress(TimeoutError):
                await self.rt.wait(background, self.rt.now() + self.config.stop_timeout)
        engine, self.engine = self.engine, None
        if engine is not None:
            await self.rt.run_blocking(engine.close)


def _open_engine(path: str | None) -> Engine:
    if path is None:
        return MemoryEngine()
    try:
        from pytikv.server.engine.rocks import RocksEngine
    except ImportError:
        raise ConfigError("a store on disk needs the package rocksdict: pip install 'pytikv[server]'") from None
    return RocksEngine(path)


def main_serve(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code: 0 after a clean stop, 1 when it could not start.

    Prints one flushed line, ``ready tikv://HOST:PORT``, when clients may come; everything else goes to standard error.
    """

    async def serve(rt: Runtime, stop: StopRequest) -> int:
        server = Server(rt, config)
        try:
            await server.start()
        except (TikvError, OSError) as error:
            sys.stderr.write(f"pytikv serve: {error}\n")
            return 1
        sys.stdout.write(f"ready {server.url}\n")
        sys.stdout.flush()
        await stop.wait()
        await server.stop()
        return 0

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return run_main(serve)
