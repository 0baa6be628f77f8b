"""What a store's own configuration says, asked at its status address: API version and TTL.

Some things must be known before a request goes out. RawGetKeyTTL ends the process of a TiKV without TTL, so
`require_ttl` refuses it unless the store is known to have TTL; and a client of the wrong API version is told so at
connect instead of by a puzzling error of its first call. Both are in ``GET /config`` (`storage.api-version`,
`storage.enable-ttl`), asked for over HTTP/1.1 by hand: one small exchange, its answer bounded (`_MAX_ANSWER_BYTES`).

An answer is kept for as long as the client lives: a store cannot change either without being made anew. A failure is
not kept. A status address that cannot be reached is a normal thing (it may be firewalled): `check_version` then trusts
the client's configuration, `require_ttl` refuses and says how to declare it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Final

from pytikv.client.store_cache import StoreSource
from pytikv.errors import ConfigError, TikvError, UnsupportedByServer
from pytikv.rt.interface import Future, Runtime, Transport
from pytikv.rt.shared import SingleFlight
from pytikv.rt.tls import TlsContext
from pytikv.types import Store
from pytikv.url import split_endpoint

__all__ = ["StoreConfig", "StoreConfigs"]

_MAX_ANSWER_BYTES: Final = 4 << 20
_TIMEOUT_S: Final = 2.0
_CONNECT_CHECK_S: Final = 1.0
_STATUS_PORT: Final = 20_180


@dataclasses.dataclass(frozen=True, slots=True)
class StoreConfig:
    """What matters of a store's configuration."""

    api_version: int
    has_ttl: bool
    is_pytikv: bool = False
    """Whether it is a store of our own: what it can do is known."""


class StoreConfigs:
    """The configurations of all stores of a cluster, asked when needed. Safe for many threads and tasks."""

    def __init__(self, rt: Runtime, source: StoreSource, tls: TlsContext | None) -> None:
        self._rt = rt
        self._source = source
        self._tls = tls
        self._known: dict[int, StoreConfig] = {}
        self._flights = SingleFlight(rt)

    async def require_ttl(self, store_ids: Iterable[int], declared: bool | None, deadline: float) -> None:
        """Return if every store has TTL. `declared`: the option `ttl`, which wins over asking.

        Raises UnsupportedByServer where one has not, ConfigError where that cannot be found out.
        """
        if declared:
            return
        for store_id in store_ids:
            config = None if declared is False else await self._of(store_id, deadline)
            if config is None or not config.has_ttl:
                raise UnsupportedByServer("the store has no TTL (storage.enable-ttl is off): there is none to read")

    async def know_cas_delete(self, store_ids: Iterable[int], deadline: float) -> bool:
        """Tell whether all stores are known to delete by compare-and-swap: stores of our own are, no TiKV says so."""
        try:
            return all([(await self._of(store_id, deadline)).is_pytikv for store_id in store_ids])
        except ConfigError:
            return False

    async def check_version(
        self, stores: Iterable[Store], api_version: int, deadline: float, *, is_raw: bool = True
    ) -> None:
        """Compare `api_version` with what the first store that can be asked says.

        Raises ConfigError on a mismatch, and for transactions on stores of v1ttl, which have none.
        """
        until = min(deadline, self._rt.now() + _CONNECT_CHECK_S)
        store = next((one for one in stores if one.status_address and one.state == 0), None)
        if store is None:
            return
        try:
            config = await self._ask(store, until)
        except (TikvError, OSError, ValueError, TimeoutError):
            return
        self._known[store.id] = config
        if config.api_version != api_version:
            raise ConfigError(
                f"the client was opened with api_version={api_version}, the stores have storage.api-version = "
                f"{config.api_version}: pass api_version={config.api_version}"
            )
        if config.has_ttl and api_version == 1 and not is_raw:
            raise ConfigError(
                "the stores run with storage.enable-ttl in API v1 (v1ttl), for raw data alone: transactions need a "
                "cluster without it, or one of API v2"
            )

    async def _of(self, store_id: int, deadline: float) -> StoreConfig:
        known = self._known.get(store_id)
        if known is not None:
            return known
        until = min(deadline, self._rt.now() + _TIMEOUT_S)
        try:
            config: StoreConfig = await self._flights.run(store_id, lambda: self._load(store_id, until), until)
        except (OSError, ValueError, TimeoutError, TikvError) as error:
            raise ConfigError(
                f"whether store {store_id} has TTL cannot be found out: its status address does not answer "
                f"({error}). If storage.enable-ttl is on, say so with the option ttl=True"
            ) from error
        self._known[store_id] = config
        return config

    async def _load(self, store_id: int, deadline: float) -> StoreConfig:
        store = await self._source.get_store(store_id, deadline)
        if store is None or not store.status_address:
            raise ValueError("no status address is known")
        return await self._ask(store, deadline)

    async def _ask(self, store: Store, deadline: float) -> StoreConfig:
        host, port = split_endpoint(store.status_address, _STATUS_PORT)
        exchange = _Exchange(self._rt)
        transport = await self._rt.connect(host, port, exchange, deadline=deadline, tls=self._tls)
        try:
            request = f"GET /config HTTP/1.1\r\nHost: {store.status_address}\r\nConnection: close\r\n\r\n"
            transport.write(request.encode("ascii"))
            return _read(await self._rt.wait(exchange.done, deadline))
        finally:
            transport.abort()


class _Exchange:
    """Gathers the answer until the other side closes or it is complete."""

    def __init__(self, rt: Runtime) -> None:
        self.done: Future[bytes] = rt.create_future()
        self._data = bytearray()
        self._wanted: int | None = None

    def connection_made(self, transport: Transport) -> None:
        """Called by the transport."""

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._data += data
        if self._wanted is None:
            self._wanted = _answer_size(self._data)
        if len(self._data) > _MAX_ANSWER_BYTES:
            self._finish(ValueError("its answer is too long"))
        elif self._wanted is not None and len(self._data) >= self._wanted:
            self._finish(None)

    def connection_lost(self, error: BaseException | None) -> None:
        """Called by the transport."""
        self._finish(OSError(f"the connection broke: {error}") if error is not None and not self._data else None)

    def writable(self) -> None:
        """Called by the transport; the request is small."""

    def _finish(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(bytes(self._data))


def _answer_size(data: bytearray) -> int | None:
    """Return the size of head and body where Content-Length tells it."""
    head, separator, _ = bytes(data[:65_536]).partition(b"\r\n\r\n")
    if not separator:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(head) + 4 + int(value)
    return None


def _read(answer: bytes) -> StoreConfig:
    """Read an HTTP answer. Raises ValueError for anything but a configuration with the two settings."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if not lines[0].startswith(b"HTTP/1.") or lines[0].split(b" ")[1:2] != [b"200"]:
        raise ValueError("its answer is not a configuration")
    if any(line.lower().replace(b" ", b"") == b"transfer-encoding:chunked" for line in lines[1:]):
        body = _join_chunks(body)
    settings: Any = json.loads(body)
    storage = settings.get("storage") if isinstance(settings, dict) else None
    if not isinstance(storage, dict):
        raise ValueError("its answer is not a configuration")
    version = storage.get("api-version", 1)
    has_ttl = version == 2 or storage.get("enable-ttl") is True
    return StoreConfig(version if version in (1, 2) else 1, has_ttl, "pytikv" in settings)


def _join_chunks(body: bytes) -> bytes:
    parts = []
    while body:
        size_text, _, body = body.partition(b"\r\n")
        size = int(size_text.split(b";")[0], 16)
        if size == 0:
            break
        parts.append(body[:size])
        body = body[size + 2 :]
    return b"".join(parts)
