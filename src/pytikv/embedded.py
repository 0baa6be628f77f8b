"""A store inside the process: the same client classes straight on the storage's commands, without sockets or protobuf.

The client half and the server half meet here. `open_raw` is the opener for `embedded://` targets: it opens a *store*
(engine, PD's timestamps and keyspaces, raw commands) or joins the one that this process has open at that place, and
returns a backend on it. Clients of one path, and of one ``:memory:NAME``, share the store, raw and transactional ones
alike; the last one to close closes it. ``:memory:`` is private to its client. Another process is refused by the engine,
which names the holder.

*Version*: a new store is made with `api_version` (2 unless said otherwise; 1 with the option `ttl=True` is v1ttl); an
existing one keeps what it was made with, and asking for another is a ConfigError.

*Waiting*: reads and writes run in the calling thread, or on the loop, and take microseconds; what walks over many keys
goes off the loop. A write is applied first and then waits for the disk: threads join in the engine's group commit, and
the tasks of a loop in one `Combiner`, whose leader flushes off the loop for all. With `sync=off`, and in memory, there
is nothing to wait for. A deadline that passes while waiting leaves the write UNDETERMINED: it is there, but a crash of
the machine may undo it.

*Cleaning*: expired values, and in API v2 replaced versions, are removed as writes go on: every `_CLEAN_EVERY` writes a
step over twice as many entries is taken in the background, from where the last one ended. So garbage is bounded by the
live data, and an idle store does nothing.

*Fork*: a child must not touch the engine. The hook of `client.handle` closes its clients; the store is kept alive
there, for ever, because its destructor would wait for threads that stayed in the parent.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from pytikv.client.deadline import current_deadline, effective
from pytikv.client.raw_backend import RawPage, Span, Write, check_config
from pytikv.codec import api
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig
from pytikv.errors import ConfigError, DeadlineExceeded, InvalidArgument, Outcome, TikvError, UnsupportedByServer
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import Combiner
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta, check_format, stored_api_version
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.server import PdServer
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.raw import open_raw as open_raw_storage
from pytikv.types import MAX_TIMESTAMP, Checksum, CompareAndSwap, KeyRange
from pytikv.url import Target

__all__ = ["EmbeddedRaw", "EmbeddedStore", "open_raw", "open_store"]

ItemT = TypeVar("ItemT")
T = TypeVar("T")

_TIMESTAMPS_TAKEN: Final = 1 << 17
_CLEAN_EVERY: Final = 8192
_INLINE_KEYS: Final = 512  # above this, reading happens off the loop
_BATCH_BYTES: Final = 1 << 20
_BATCH_KEYS: Final = 8192


class CausalTimestamps:
    """Ever larger numbers for the versions of API v2, taken from PD. Safe for threads.

    Blocks are large, and the first is taken at once, because taking one may write the disk, and a loop may be waiting.
    """

    def __init__(self, take: Callable[[int], int]) -> None:
        self._take = take
        self._lock = mutex()
        self._block = self._next_block()

    def _next_block(self) -> Iterator[int]:
        last = self._take(_TIMESTAMPS_TAKEN)
        return iter(range(last - _TIMESTAMPS_TAKEN + 1, last + 1))

    def __call__(self) -> int:
        """Return the next one."""
        while True:
            block = self._block
            for timestamp in block:  # taking from an iterator is one step: no two threads get the same
                return timestamp
            with self._lock:
                if block is self._block:
                    self._block = self._next_block()


class EmbeddedStore:
    """What clients of one place share. Made by `open_store`; each user calls `release` once."""

    def __init__(
        self, engine: Engine, version: ApiVersion, time: Callable[[], float], bits: Callable[[int], int]
    ) -> None:
        check_format(engine, version.value)
        self.engine = engine
        self.api_version = version
        self.pd = PdServer(EngineMeta(engine), time=time, getrandbits=bits)
        self.raw = open_raw_storage(engine, version, now_s=time, causal_ts=CausalTimestamps(self.pd.get_ts))
        self.clean_at = engine.ticket + _CLEAN_EVERY if version is not ApiVersion.V1 else float("inf")
        self._clean_from = b""
        self._is_cleaning = False
        self.users = 1
        self.key: str | None = None

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


class EmbeddedRaw:
    """`RawBackend` on a store in the process."""

    def __init__(
        self, rt: Runtime, store: EmbeddedStore, config: ClientConfig, codec: KeyCodec, flushes: Combiner[int, None]
    ) -> None:
        self.config = config
        self._rt = rt
        self._store = store
        self._codec = codec
        self._flushes = flushes
        self._raw = store.raw
        self._engine = store.engine
        self._prefix = codec.prefix
        self._prefix_size = len(codec.prefix)
        self._cf = config.cf
        self._atomic = config.atomic
        self._is_durable = config.sync and bool(store.engine.path)
        # What single keys need, one attribute deep.
        self._get = store.raw.get
        self._put = store.raw.put

    def with_config(self, config: ClientConfig) -> EmbeddedRaw:
        """Return a view with other options."""
        return EmbeddedRaw(self._rt, self._store, config, self._codec, self._flushes)

    async def close(self) -> None:
        """Give up the store."""
        await self._rt.run_blocking(self._store.release)

    def abandon(self, *, forked: bool) -> None:
        """Give up the store at once; in a forked child, forget it."""
        if forked:
            # Not even at the interpreter's end may RocksDB's destructor run here: see the module's docstring.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._store))
            _stores.clear()
        else:
            self._store.release()

    # --- single keys --------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """See `RawBackend`."""
        if current_deadline() is not None:
            self._check_time()
        return self._get(self._prefix + key, self._cf)

    async def put(self, key: bytes, value: bytes, ttl: int) -> None:
        """See `RawBackend`."""
        if current_deadline() is not None:
            self._check_time()
        ticket = self._put(self._prefix + key, value, ttl, cf=self._cf, for_cas=self._atomic)
        if self._is_durable:
            await self._wait_durable(ticket)
        if ticket >= self._store.clean_at:
            self._clean()

    async def delete(self, key: bytes) -> None:
        """See `RawBackend`."""
        self._check_time()
        await self._finish(self._raw.delete(self._prefix + key, cf=self._cf, for_cas=self._atomic))

    async def get_ttl(self, key: bytes) -> int | None:
        """See `RawBackend`."""
        self._check_time()
        return self._raw.get_ttl(self._prefix + key, self._cf) or None

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int
    ) -> CompareAndSwap:
        """See `RawBackend`."""
        self._check_time()
        done, ticket = self._raw.compare_and_swap(self._prefix + key, expected, value, ttl, cf=self._cf)
        if done.swapped:
            await self._finish(ticket)
        return done

    # --- batches ------------------------------------------------------------------------------------------------------

    async def batch_get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `RawBackend`."""
        self._check_time()
        prefix, size = self._prefix, self._prefix_size
        wire = [prefix + key for key in keys] if size else keys
        pairs = await self._read(len(keys), self._raw.batch_get, wire, self._cf)
        return {key[size:]: value for key, value in pairs} if size else dict(pairs)

    async def batch_put(self, writes: Sequence[Write]) -> dict[bytes, TikvError]:
        """See `RawBackend`. Parts of 1 MiB, each applied whole or not at all; one flush for all."""
        prefix, cf, atomic = self._prefix, self._cf, self._atomic

        def apply(part: Sequence[Write]) -> int:
            pairs = [(prefix + key, value) for key, value, _ in part]
            return self._raw.batch_put(pairs, [ttl for _, _, ttl in part], cf=cf, for_cas=atomic)

        return await self._write_all(list(_cut(writes)), apply, lambda write: write[0])

    async def batch_delete(self, keys: Sequence[bytes]) -> dict[bytes, TikvError]:
        """See `RawBackend`."""
        prefix, cf, atomic = self._prefix, self._cf, self._atomic

        def apply(part: Sequence[bytes]) -> int:
            return self._raw.batch_delete([prefix + key for key in part], cf=cf, for_cas=atomic)

        parts = [keys[start : start + _BATCH_KEYS] for start in range(0, len(keys), _BATCH_KEYS)]
        return await self._write_all(parts, apply, lambda key: key)

    async def _write_all(
        self,
        parts: Sequence[Sequence[ItemT]],
        apply: Callable[[Sequence[ItemT]], int],
        key_of: Callable[[ItemT], bytes],
    ) -> dict[bytes, TikvError]:
        """Apply parts and wait once. A part refused for one of its keys is halved until that key stands alone."""
        self._check_time()
        failed: dict[bytes, TikvError] = {}
        done: list[bytes] = []
        ticket = 0
        waiting = list(reversed(parts))
        while waiting:
            part = waiting.pop()
            try:
                ticket = apply(part)
                done += [key_of(item) for item in part]
            except InvalidArgument as error:
                if len(part) == 1:
                    failed[key_of(part[0])] = error
                else:
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
            except TikvError as error:
                failed.update((key_of(item), error) for item in part)
        try:
            if ticket:
                await self._finish(ticket)
        except TikvError as error:
            failed.update((key, error) for key in done)
        return failed

    # --- ranges -------------------------------------------------------------------------------------------------------

    def span(self, start: bytes, end: bytes) -> Span:
        """See `RawBackend`. A span is a range of wire keys."""
        return self._codec.encode_range(start, end)

    async def scan_page(self, span: Span, limit: int, *, reverse: bool, keys_only: bool) -> RawPage:
        """See `RawBackend`."""
        self._check_time()
        low, high = span

        def scan() -> list[tuple[bytes, bytes]]:
            return self._raw.scan(low, high, limit, key_only=keys_only, reverse=reverse, cf=self._cf)

        found = await self._read(limit, scan)
        size = self._prefix_size
        pairs = [(key[size:], value) for key, value in found] if size else found
        if len(found) < limit:
            return RawPage(pairs, None)
        last = found[-1][0]
        return RawPage(pairs, (low, last) if reverse else (last + b"\x00", high))

    async def delete_range(self, start: bytes, end: bytes) -> None:
        """See `RawBackend`."""
        self._check_time()
        low, high = self._codec.encode_range(start, end)
        await self._finish(await self._rt.run_blocking(lambda: self._raw.delete_range(low, high, cf=self._cf)))

    async def checksum(self, start: bytes, end: bytes) -> Checksum:
        """See `RawBackend`."""
        self._check_time()
        return await self._rt.run_blocking(self._raw.checksum, [self._codec.encode_range(start, end)])

    async def coprocessor(
        self, name: str, version: str, ranges: Sequence[KeyRange], data: bytes
    ) -> list[tuple[list[KeyRange], bytes]]:
        """See `RawBackend`."""
        raise UnsupportedByServer("the embedded store has no coprocessor plugins")

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _check_time(self) -> None:
        ambient = current_deadline()
        if ambient is not None and self._rt.now() >= ambient:
            raise DeadlineExceeded("the time for the call had run out before it began")

    async def _read(self, count: int, function: Callable[..., T], *args: object) -> T:
        """Read here when it is a matter of microseconds, else off the loop."""
        return function(*args) if count <= _INLINE_KEYS else await self._rt.run_blocking(function, *args)

    async def _finish(self, ticket: int) -> None:
        if self._is_durable:
            await self._wait_durable(ticket)
        if ticket >= self._store.clean_at:
            self._clean()

    async def _wait_durable(self, ticket: int) -> None:
        """Wait until the change is on the disk."""
        rt = self._rt
        if rt.exclusive_connections:  # the thread is the caller's own: it may lead or join the engine's group itself
            self._engine.flush(ticket)
            return
        try:
            await self._flushes.submit(ticket, effective(rt.now(), self.config.timeout))
        except TimeoutError:
            text = "the write is applied, but the disk did not confirm it in time"
            raise DeadlineExceeded(text, outcome=Outcome.UNDETERMINED) from None

    def _clean(self) -> None:
        if self._store.begin_cleaning():
            self._rt.spawn(self._rt.run_blocking(self._store.clean), name="clean the embedded store")


def _cut(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    start = size = 0
    for position, (key, value, _) in enumerate(writes):
        size += len(key) + len(value)
        if size >= _BATCH_BYTES or position + 1 - start >= _BATCH_KEYS:
            yield writes[start : position + 1]
            start, size = position + 1, 0
    if start < len(writes):
        yield writes[start:] if start else writes


async def open_raw(rt: Runtime, target: Target, config: ClientConfig) -> EmbeddedRaw:
    """Open the store at `target`; the opener that `raw_backend.open_backend` calls."""
    store = await rt.run_blocking(open_store, target, config, rt)
    try:
        version = 2 if store.api_version is ApiVersion.V2 else 1
        config = check_config(config.replace(api_version=version, ttl=store.api_version.has_ttl))
        keyspace_id = await rt.run_blocking(store.keyspace_id, config.keyspace)
        codec = api.v2(keyspace_id, is_raw=True) if version == 2 else api.raw_v1()
    except BaseException:
        store.release()
        raise

    async def flush(tickets: list[int]) -> list[None]:
        await rt.run_blocking(store.engine.flush, max(tickets))
        return [None] * len(tickets)

    return EmbeddedRaw(rt, store, config, codec, Combiner(rt, flush, max_batch=1 << 16))
