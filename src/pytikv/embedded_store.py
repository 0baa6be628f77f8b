"""A store inside the process, and what every client of it needs: the place, the version, the waits, the end.

The client half and the server half meet here. `open_embedded` opens a *store* (engine, PD's timestamps and keyspaces,
the raw and the transactional commands) or joins the one that this process has open at that place. Clients of one path,
and of one ``:memory:NAME``, share the store, raw and transactional ones alike; the last one to close closes it.
``:memory:`` is private to its client. Another process is refused by the engine, which names the holder.

*Version*: a new store is made with `api_version` (2 unless said otherwise; 1 with the option `ttl=True` is v1ttl); an
existing one keeps what it was made with, and asking for another is a ConfigError. Only API v2 keeps raw and
transactional keys apart; in a store of version 1 they lie in one space, as in TiKV, and one kind is to be used.

*Waiting*: reads and writes run in the calling thread, or on the loop, and take microseconds; what walks over many keys
goes off the loop. A write is applied first and then waits for the disk: threads join in the engine's group commit, and
the tasks of a loop in one `Combiner`, whose leader flushes off the loop for all. With `sync=off`, and in memory, there
is nothing to wait for. A deadline that passes while waiting leaves the write UNDETERMINED: it is there, but a crash of
the machine may undo it.

*Cleaning* of raw data: expired values, and in API v2 replaced versions, are removed as writes go on: every
`_CLEAN_EVERY` writes a step over twice as many entries is taken in the background, from where the last one ended. So
garbage is bounded by the live data, and an idle store does nothing. Versions of transactions go by `gc` alone.

*Fork*: a child must not touch the engine. The hook of `client.handle` closes its clients; the store is kept alive
there, for ever, because its destructor would wait for threads that stayed in the parent.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pytikv.ambient import end_of_call
from pytikv.codec import api
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig, check_config
from pytikv.errors import ConfigError, DeadlineExceeded, Outcome, StorageError
from pytikv.observe.state import ClusterStats
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import Combiner
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta, check_format, stored_api_version
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.server import PdServer
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.causal_ts import CausalTs
from pytikv.server.storage.raw import open_raw as open_raw_storage
from pytikv.types import MAX_TIMESTAMP
from pytikv.url import Target

if TYPE_CHECKING:
    from pytikv.server.storage.txn_storage import TxnStorage

__all__ = ["EmbeddedStore", "EmbeddedView", "Opened", "open_embedded", "open_store"]

T = TypeVar("T")

_TIMESTAMPS_TAKEN: Final = 1 << 17
_CLEAN_EVERY: Final = 8192
INLINE_KEYS: Final = 512
"""Above this number of keys, work happens off the loop."""


class EmbeddedStore:
    """What clients of one place share. Made by `open_store`; each user calls `release` once."""

    def __init__(
        self, engine: Engine, version: ApiVersion, time: Callable[[], float], bits: Callable[[int], int]
    ) -> None:
        check_format(engine, version.value)
        self.engine = engine
        self.api_version = version
        self.pd = PdServer(EngineMeta(engine), time=time, getrandbits=bits)
        self.raw = open_raw_storage(engine, version, now_s=time, causal_ts=CausalTs(self.pd.get_ts, _TIMESTAMPS_TAKEN))
        self._time = time
        self._txn: TxnStorage | None = None
        self.clean_at = engine.ticket + _CLEAN_EVERY if version is not ApiVersion.V1 else float("inf")
        self._clean_from = b""
        self._is_cleaning = False
        self.users = 1
        self.key: str | None = None

    @property
    def txn(self) -> TxnStorage:
        """The transactional commands, made when they are first asked for: programs of raw data do without."""
        if self._txn is None:
            from pytikv.server.storage.txn_storage import TxnStorage

            with _guard:
                if self._txn is None:
                    self._txn = TxnStorage(self.engine, self.api_version, now_s=self._time, current_ts=self.pd.get_ts)
        return self._txn

    def keyspace_id(self, name: str | None) -> int:
        """Return the id of a keyspace, making it where it is missing. Raises ConfigError for a bad name."""
        if name is None:
            return api.DEFAULT_KEYSPACE_ID
        known = next((meta for meta in self.pd.keyspaces.all() if meta.name == name), None)
        try:
            return (known or self.pd.create_keyspace(name)).id
        except PdError as error:
            raise ConfigError(f"keyspace: {error}") from error

    def begin_cleaning(self) -> bool:
        """Tell the caller to run `clean` in the background; called when a write passed `clean_at`."""
        with _guard:
            if self._is_cleaning:
                return False
            self._is_cleaning = True
            self.clean_at = self.engine.ticket + _CLEAN_EVERY
            return True

    def clean(self) -> None:
        """Take one step of cleaning."""
        try:
            # Every replaced version can go: raw reads see the newest one only, and a scan keeps its own moment.
            rest = self.raw.cleanup_step(self._clean_from, limit=2 * _CLEAN_EVERY, safe_point=MAX_TIMESTAMP)
            self._clean_from = rest or b""
        except StorageError:
            if self.users:  # else the last user has left meanwhile, and the engine is closed
                raise
        finally:
            self._is_cleaning = False

    def release(self) -> None:
        """Give up one use; the last one closes the engine."""
        with _guard:
            self.users -= 1
            if self.users:
                return
            if self.key is not None and _stores.get(self.key) is self:
                del _stores[self.key]
            self.engine.close()


_guard = mutex()
_stores: dict[str, EmbeddedStore] = {}


def open_store(target: Target, config: ClientConfig, rt: Runtime) -> EmbeddedStore:
    """Open the store at `target`, or join it. Blocks on the disk.

    Raises StorageError (in use by another process, damaged, not writable) and ConfigError (another API version).
    """
    key = _place(target)
    with _guard:
        store = _stores.get(key) if key is not None else None
        if store is None:
            store = _make(target, config, rt)
            store.key = key
            if key is not None:
                _stores[key] = store
        else:
            _check_version(str(target), store.api_version, config)
            store.users += 1
        return store


def _place(target: Target) -> str | None:
    if target.path is not None:
        return os.path.realpath(target.path)
    return None if target.name is None else f":memory:{target.name}"


def _make(target: Target, config: ClientConfig, rt: Runtime) -> EmbeddedStore:
    engine = MemoryEngine() if target.path is None else _open_rocks(target.path)
    try:
        stored = stored_api_version(engine)
        version = ApiVersion(stored) if stored is not None else _wanted(config)
        _check_version(str(target), version, config)
        return EmbeddedStore(engine, version, rt.time, rt.rng.getrandbits)
    except BaseException:
        engine.close()
        raise


def _open_rocks(path: str) -> Engine:
    try:
        from pytikv.server.engine.rocks import RocksEngine  # only stores on disk need the package
    except ImportError:
        raise ConfigError("a store on disk needs the package rocksdict: pip install 'pytikv[server]'") from None
    return RocksEngine(path)


def _wanted(config: ClientConfig) -> ApiVersion:
    if config.api_version == 1:
        return ApiVersion.V1TTL if config.ttl else ApiVersion.V1
    return ApiVersion.V2


def _check_version(place: str, version: ApiVersion, config: ClientConfig) -> None:
    present = 2 if version is ApiVersion.V2 else 1
    if config.api_version not in (None, present):
        raise ConfigError(
            f"{place} was made with api_version {version.value} and cannot be opened with api_version="
            f"{config.api_version}: leave the option out, or choose another place"
        )
    if config.ttl is not None and config.ttl is not version.has_ttl:
        raise ConfigError(f"{place} was made with api_version {version.value}: leave out the option ttl={config.ttl}")


Flushes = Combiner[int, None]


class EmbeddedView:
    """A backend on a store, for one set of options; `EmbeddedRaw` and `EmbeddedTxn` add the operations."""

    def __init__(
        self, rt: Runtime, store: EmbeddedStore, config: ClientConfig, codec: KeyCodec, flushes: Flushes
    ) -> None:
        self.rt = rt
        self.config = config
        self.codec = codec
        self._store = store
        self._engine = store.engine
        self._flushes = flushes
        self._is_durable = config.sync and bool(store.engine.path)

    def observe(self, is_observed: bool) -> None:
        """Nothing is sent anywhere."""

    def stats(self, target: str) -> ClusterStats:
        """Return what the client holds at present: nothing of what clusters have."""
        return ClusterStats(target)

    async def close(self) -> None:
        """Give up the store."""
        await self.rt.run_blocking(self._store.release)

    def abandon(self, *, forked: bool) -> None:
        """Give up the store at once; in a forked child, forget it."""
        if forked:
            # Not even at the interpreter's end may RocksDB's destructor run here: see the module's docstring.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._store))
            _stores.clear()
        else:
            self._store.release()

    def _check_time(self) -> None:
        now = self.rt.now()
        if now >= end_of_call(now, self.config):
            raise DeadlineExceeded("the time for the call had run out before it began")

    async def _read(self, count: int, function: Callable[..., T], *args: object) -> T:
        """Work here when it is a matter of microseconds, else off the loop."""
        return function(*args) if count <= INLINE_KEYS else await self.rt.run_blocking(function, *args)

    async def _wait_durable(self, ticket: int, deadline: float | None = None) -> None:
        """Wait until the change is on the disk."""
        rt = self.rt
        if rt.exclusive_connections:  # the thread is the caller's own: it may lead or join the engine's group itself
            self._engine.flush(ticket)
            return
        try:
            await self._flushes.submit(ticket, end_of_call(rt.now(), self.config) if deadline is None else deadline)
        except TimeoutError:
            text = "the write is applied, but the disk did not confirm it in time"
            raise DeadlineExceeded(text, outcome=Outcome.UNDETERMINED) from None


class Opened(NamedTuple):
    """What `open_embedded` found or made."""

    store: EmbeddedStore
    config: ClientConfig
    codec: KeyCodec
    flushes: Flushes


async def open_embedded(rt: Runtime, target: Target, config: ClientConfig, *, is_raw: bool) -> Opened:
    """Open the store at `target`, or join it. Raises as `open_store` does."""
    store = await rt.run_blocking(open_store, target, config, rt)
    try:
        version = 2 if store.api_version is ApiVersion.V2 else 1
        config = check_config(config.replace(api_version=version, ttl=store.api_version.has_ttl))
        keyspace_id = await rt.run_blocking(store.keyspace_id, config.keyspace)
        v1 = api.raw_v1() if is_raw else api.txn_v1()
        codec = api.v2(keyspace_id, is_raw=is_raw) if version == 2 else v1
    except BaseException:
        store.release()
        raise

    async def flush(tickets: list[int]) -> list[None]:
        await rt.run_blocking(store.engine.flush, max(tickets))
        return [None] * len(tickets)

    return Opened(store, config, codec, Combiner(rt, flush, max_batch=1 << 16))
