"""What is examined: a target that was connected to as far as that was possible.

Raw and transactional data are connected to apart, since a cluster may refuse either (API v1 with TTL has no
transactions); each that failed leaves its reason. Where the options name no API version, version 2 is tried after
version 1 was refused, and `adapted` says so. `close` ends it all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from pytikv.client.cluster import Cluster, cluster_config, connect_cluster
from pytikv.client.raw_backend import RawBackend, open_backend
from pytikv.client.raw_remote import RemoteRaw
from pytikv.client.txn.backend import TxnBackend, open_txn_backend
from pytikv.client.txn.remote import RemoteTxn
from pytikv.config import ClientConfig
from pytikv.errors import ConfigError, TikvError
from pytikv.rt.interface import Runtime
from pytikv.url import Target

__all__ = ["EMBEDDED", "CannotCheck", "Site", "open_site"]

EMBEDDED: Final = "an embedded store has none"


class CannotCheck(Exception):
    """Raised by what gathers evidence: why a check cannot be made here."""


@dataclasses.dataclass(slots=True)
class Site:
    """See the module's docstring. `cluster` is None for an embedded store, and where nothing could be connected to."""

    rt: Runtime
    target: Target
    config: ClientConfig
    cluster: Cluster | None = None
    txn: TxnBackend | None = None
    raw: RawBackend | None = None
    txn_error: str = ""
    raw_error: str = ""
    adapted: str = ""

    @property
    def is_embedded(self) -> bool:
        """Whether the store is in this process."""
        return self.target.scheme == "embedded"

    def need_cluster(self) -> Cluster:
        """Return the cluster. Raises CannotCheck."""
        if self.is_embedded:
            raise CannotCheck(EMBEDDED)
        if self.cluster is None:
            raise CannotCheck("there is no connection")
        return self.cluster

    def need_txn(self) -> TxnBackend:
        """Return the transactional data. Raises CannotCheck."""
        if self.txn is None:
            raise CannotCheck(
                self.txn_error if self.cluster is not None or self.is_embedded else "there is no connection"
            )
        return self.txn

    async def close(self) -> None:
        """End all connections."""
        for backend in (self.txn, self.raw):
            if backend is not None:
                await backend.close()


async def open_site(rt: Runtime, target: Target, config: ClientConfig) -> Site:
    """Connect as far as possible; never raises for what servers do or lack."""
    site = Site(rt, target, config)
    opener = _open_embedded if site.is_embedded else _open_remote
    await opener(site, config)
    may_adapt = config.api_version is None and config.keyspace is None and not site.is_embedded
    if site.raw is None and may_adapt and "api_version=2" in site.raw_error:
        first = site.raw_error
        await opener(site, config.replace(api_version=2))
        if site.raw is not None or site.txn is not None:
            site.adapted = first
    return site


async def _open_remote(site: Site, config: ClientConfig) -> None:
    async def raw() -> None:
        settled = cluster_config(config)
        cluster, codec = await connect_cluster(site.rt, site.target, settled)
        site.cluster, site.raw = cluster, RemoteRaw(cluster, settled, codec)

    async def txn() -> None:
        settled = cluster_config(config)
        cluster, codec = await connect_cluster(site.rt, site.target, settled, is_raw=False)
        site.cluster, site.txn = cluster, cast("TxnBackend", RemoteTxn(cluster, settled, codec, {}))

    site.raw_error = await _reason(raw)
    site.txn_error = site.raw_error if _is_hopeless(site) else await _reason(txn)


def _is_hopeless(site: Site) -> bool:
    """Whether a second try would only wait for the same silence."""
    return site.raw is None and "storage." not in site.raw_error


async def _open_embedded(site: Site, config: ClientConfig) -> None:
    async def raw() -> None:
        site.raw = await open_backend(site.rt, site.target, config)

    async def txn() -> None:
        site.txn = await open_txn_backend(site.rt, site.target, config)

    site.raw_error, site.txn_error = await _reason(raw), await _reason(txn)


async def _reason(connect: Callable[[], Awaitable[Any]]) -> str:
    """Return why connecting failed; empty when it did not."""
    try:
        await connect()
    except (TikvError, ConfigError, OSError) as error:
        return " ".join(str(error).split())
    return ""
