"""`regions` and `stores`: what PD knows of the cluster. An embedded store shows itself, as one region."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from pytikv._version import __version__
from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command
from pytikv.cli.session import raw_client
from pytikv.transfer.escape import escape, unescape

if TYPE_CHECKING:
    from pytikv.client.pd import PdClient
    from pytikv.config import ClientConfig
    from pytikv.types import Region, Store
    from pytikv.url import Target

__all__ = ["find_stores", "register"]

T = TypeVar("T")

_STATES = {0: "Up", 1: "Offline", 2: "Tombstone"}
_PAGE = 1024


def regions(
    key: Annotated[str | None, typer.Option(help="Only the region of this key (escaped, as PD has it).")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most regions to print; 0: all.")] = 0,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List the regions in the order of their keys, which are shown as PD has them (encoded in API v2)."""
    start = unescape(key) if key is not None else b""
    found = _ask(url, lambda view: view.regions(start, 1 if key is not None else limit))
    if as_json:
        for region in found:
            output.print_json(_region_record(region))
        return
    rows = [
        [
            region.id,
            escape(region.start_key) or "-inf",
            escape(region.end_key) or "+inf",
            region.leader.store_id if region.leader else "none",
            ",".join(str(peer.store_id) for peer in region.peers),
            f"{region.conf_ver}.{region.version}",
        ]
        for region in found
    ]
    output.table(["region", "start key", "end key", "leader", "stores", "epoch"], rows)


def _region_record(region: Region) -> dict[str, Any]:
    return {
        "id": region.id,
        "start_key": escape(region.start_key),
        "end_key": escape(region.end_key),
        "leader_store_id": region.leader.store_id if region.leader else None,
        "peers": [{"id": peer.id, "store_id": peer.store_id, "role": peer.role} for peer in region.peers],
        "epoch": {"conf_ver": region.conf_ver, "version": region.version},
    }


def stores(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List the stores."""
    found = find_stores(url)
    if as_json:
        for store in found:
            output.print_json(_store_record(store))
        return
    rows = [
        [
            store.id,
            store.address,
            _STATES.get(store.state, store.state),
            store.version,
            store.status_address,
            ",".join(f"{name}={text}" for name, text in store.labels),
        ]
        for store in found
    ]
    output.table(["store", "address", "state", "version", "status address", "labels"], rows)


def _store_record(store: Store) -> dict[str, Any]:
    return {
        "id": store.id,
        "address": store.address,
        "state": _STATES.get(store.state, store.state),
        "version": store.version,
        "status_address": store.status_address,
        "labels": dict(store.labels),
    }


# --- asking ---


def find_stores(url: str) -> list[Store]:
    """Return the stores of the cluster at `url`, of an embedded store itself."""
    return _ask(url, lambda view: view.stores())


class _View(Protocol):
    """A cluster as the commands see it."""

    async def stores(self) -> list[Store]: ...

    async def regions(self, start: bytes, limit: int) -> list[Region]: ...


def _ask(url: str, question: Callable[[_View], Coroutine[Any, Any, T]]) -> T:
    """Connect, ask, and close."""
    import asyncio

    from pytikv.client.base import client_config

    target, config = client_config(url, {})
    if target.scheme == "embedded":
        with raw_client(url):  # there is a store, and it is sound
            return asyncio.run(question(_Embedded(str(target))))
    return asyncio.run(_ask_cluster(target, config, question))


async def _ask_cluster(target: Target, config: ClientConfig, question: Callable[[_View], Coroutine[Any, Any, T]]) -> T:
    from pytikv.client.cluster import cluster_config, connect_cluster
    from pytikv.rt.aio import AioRuntime

    rt = AioRuntime()
    try:
        cluster, _ = await connect_cluster(rt, target, cluster_config(config))
        try:
            return await question(_Cluster(cluster.pd, rt.now() + config.timeout))
        finally:
            await cluster.close()
    finally:
        await rt.close()


class _Cluster:
    """What PD says, until a deadline."""

    def __init__(self, pd: PdClient, deadline: float) -> None:
        self._pd = pd
        self._deadline = deadline

    async def stores(self) -> list[Store]:
        return await self._pd.get_all_stores(self._deadline)

    async def regions(self, start: bytes, limit: int) -> list[Region]:
        """Return up to `limit` regions (0: all) from the one that holds `start`."""
        found: list[Region] = []
        while not limit or len(found) < limit:
            page = await self._pd.scan_regions(start, b"", min(_PAGE, limit or _PAGE), self._deadline)
            found += page
            if not page or not page[-1].end_key:
                break
            start = page[-1].end_key
        return found[: limit or None]


class _Embedded:
    """An embedded store: it is one store and one region."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def stores(self) -> list[Store]:
        from pytikv.types import Store

        return [Store(1, self._name, version=f"pytikv {__version__}")]

    async def regions(self, start: bytes, limit: int) -> list[Region]:
        from pytikv.types import Peer, Region

        peer = Peer(1, 1)
        return [Region(1, b"", b"", conf_ver=1, version=1, peers=(peer,), leader=peer)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "Cluster"
    add_command(app, regions, "pytikv regions", r"pytikv regions --key 'user\x00' --json", panel=panel)
    add_command(app, stores, "pytikv stores --url tikv://127.0.0.1:2379", panel=panel)
