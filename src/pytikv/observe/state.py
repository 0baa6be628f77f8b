"""What clients hold at the moment: connections, regions, stores, guards. Asked for by metrics, `doctor`, profiles.

Unlike records, nothing of this is reported: whoever wants to know takes a look, and each look is a `ClusterStats` of
every open client. The client half makes them and says so by `provide`; nothing in here knows it.

A look is taken from any thread, without stopping anyone: figures of one snapshot may be some microseconds apart.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

__all__ = ["AddressStats", "ClusterStats", "GuardStats", "StoreStats", "changed", "look", "provide", "watch"]


@dataclasses.dataclass(frozen=True, slots=True)
class AddressStats:
    """The connections of one client to one address (a store's, or PD's)."""

    address: str
    in_use: int
    """Leased to a call (blocking), or with requests under way (asyncio)."""
    idle: int
    in_flight: int
    """Requests without an answer yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreStats:
    """A store as one client sees it."""

    store_id: int
    address: str
    state: int
    """As metapb.StoreState: 0 Up, 1 Offline, 2 Tombstone."""
    failures: int
    """How often in a row it was found unreachable."""
    is_avoided: bool
    """Whether other replicas are preferred at present: it was unreachable, or is slow."""


class GuardStats(Protocol):
    """What guards an address (`client.resilience.guard.GuardState`)."""

    @property
    def address(self) -> str:
        """The address guarded."""
        ...

    @property
    def breaker(self) -> str:
        """``closed``, ``half_open`` or ``open``."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests under way, where they are counted."""
        ...

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        ...

    @property
    def limit(self) -> int | None:
        """How many may be under way; None: no limit."""
        ...

    @property
    def rejected(self) -> Mapping[str, int]:
        """Requests refused, by reason."""
        ...

    @property
    def transitions(self) -> Mapping[str, int]:
        """How often the breaker became each state."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterStats:
    """What one `connect` holds. An embedded store has neither connections nor stores."""

    target: str
    """What was connected to, without secrets."""
    connections: tuple[AddressStats, ...] = ()
    max_connections: int = 0
    """How many connections may be open at once; 0 where there are none."""
    waiting: int = 0
    """Calls that wait for a connection."""
    regions: int = 0
    """Regions in the cache."""
    stores: tuple[StoreStats, ...] = ()
    guards: tuple[GuardStats, ...] = ()
    retry_tokens: float | None = None
    """What the budget for retries has left; None without one."""


logger: Final = logging.getLogger("pytikv")

_watchers: list[Callable[[], None]] = []
_source: Callable[[], Iterable[ClusterStats]] = tuple


def provide(source: Callable[[], Iterable[ClusterStats]]) -> None:
    """Say how the stats of all open clients are had; the last word counts."""
    global _source
    _source = source


def look() -> list[ClusterStats]:
    """Return the stats of each open client of this process."""
    return list(_source())


def watch(watcher: Callable[[], None]) -> None:
    """Call `watcher` whenever a client has been closed, for those who keep what they saw."""
    _watchers.append(watcher)


def changed() -> None:
    """Say that a client has been closed."""
    for watcher in _watchers:
        try:
            watcher()
        except Exception as error:  # whoever looks on must not keep a client from closing
            logger.error("what clients hold could not be noted: %s", error, exc_info=error)
