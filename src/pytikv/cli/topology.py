"""`regions` and `stores`: what PD knows of the cluster. An embedded store shows itself and its regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command
from pytikv.transfer.escape import escape, unescape

if TYPE_CHECKING:
    from pytikv.types import Region, Store

__all__ = ["register"]

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
    found = _ask(url, lambda view: view.stores())
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


# --- asking PD --------------------------------------------------------------------------------------------------------


def _ask(url: str, question: Callable[[_View], Any]) -> Any:
    """Connect to the cluster, ask, and close."""
    import asyncio

    return asyncio.run(_ask_async(url, question))


async def _ask_async(url: str, question: Callable[[_View], Any]) -> Any:
    from pytikv.client.cluster import connect_cluster
    from pytikv.config import load_config
    from pytikv.rt.aio import AioRuntime
    from pytikv.url import parse_target

    target = parse_target(url)
    config = load_config({}, target.query)
    rt = AioRuntime()
    cluster, _ = await connect_cluster(rt, target, config)
    try:
        return await question(_View(cluster, rt.now() + config.timeout))
    finally:
        await cluster.close()


class _View:
    """A cluster as the commands see it, until a deadline."""

    def __init__(self, cluster: Any, deadline: float) -> None:
        self._pd = cluster.pd
        self._deadline = deadline

    async def stores(self) -> list[Store]:
        found: list[Store] = await self._pd.get_all_stores(self._deadline)
        return found

    async def regions(self, start: bytes, limit: int) -> list[Region]:
        """Return up to `limit` regions (0: all) from the one that holds `start`."""
        found: list[Region] = []
        while not limit or len(found) < limit:
            page: list[Region] = await self._pd.scan_regions(start, b"", min(_PAGE, limit or _PAGE), self._deadline)
            found += page
            if not page or not page[-1].end_key:
                break
            start = page[-1].end_key
        return found[: limit or None]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "Cluster"
    add_command(app, regions, "pytikv regions", r"pytikv regions --key 'user\x00' --json", panel=panel)
    add_command(app, stores, "pytikv stores --url tikv://127.0.0.1:2379", panel=panel)
