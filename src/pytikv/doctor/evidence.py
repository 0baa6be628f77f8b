"""What the doctor may know, as plain values: one type for each check. Times in seconds unless the name says otherwise.

Gathered by `gather`, judged by `judges`; tests of judges write them by hand.
"""

from __future__ import annotations

import dataclasses

from pytikv.types import Timestamp

__all__ = [
    "Balance",
    "Certificate",
    "Certificates",
    "ClockSample",
    "Clocks",
    "Collection",
    "Endpoint",
    "Endpoints",
    "Groups",
    "HotRegion",
    "Hotspots",
    "Latencies",
    "Lock",
    "Locks",
    "Process",
    "StoreLatency",
    "StoreState",
    "Stores",
    "Value",
    "Values",
    "Versions",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that was tried. `role`: pd or store; `error`: why it was of no use, empty when it answered."""

    role: str
    address: str
    took_s: float = 0.0
    error: str = ""
    is_leader: bool = False
    store_id: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoints:
    """All addresses: those given, those that PD knows, and the stores. `connect_error`: why a client cannot connect."""

    endpoints: tuple[Endpoint, ...]
    connect_error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """What an address showed. `expires_at`: Unix seconds; `error`: why the handshake failed."""

    address: str
    expires_at: float = 0.0
    names: tuple[str, ...] = ()
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """`uses_tls`: whether this client is configured to; `now`: Unix seconds."""

    uses_tls: bool
    now: float
    certificates: tuple[Certificate, ...] = ()
    plaintext_hosts: tuple[str, ...] = ()
    """Hosts spoken to in the clear that are not this machine."""


@dataclasses.dataclass(frozen=True, slots=True)
class Versions:
    """Versions as servers state them; `stores` by address. `api_version`: what the client uses."""

    client: str
    pd: str
    stores: dict[str, str]
    api_version: int
    keyspace: str
    adapted: str = ""
    """What had to be changed about the client's options to connect at all."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClockSample:
    """A timestamp of the oracle, and this machine's clock before and after, all in Unix milliseconds."""

    before_ms: float
    oracle_ms: float
    after_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Clocks:
    """Several samples."""

    samples: tuple[ClockSample, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class StoreLatency:
    """Probes of one store. `totals_s` as this client saw them; the rest as the store said, empty where it did not."""

    store_id: int
    address: str
    totals_s: tuple[float, ...] = ()
    server_s: tuple[float, ...] = ()
    """In the store, queues included."""
    queued_s: tuple[float, ...] = ()
    """In the store's queues."""
    error: str = ""
    what: str = "KvGet"


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """All stores."""

    stores: tuple[StoreLatency, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class StoreState:
    """A store as PD sees it. Sizes in bytes, 0 where unknown; `silent_s`: since its last heartbeat, -1 unknown."""

    store_id: int
    address: str
    state: str = "Up"
    silent_s: float = -1.0
    capacity: int = 0
    available: int = 0
    slow_score: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Stores:
    """All stores but tombstones."""

    stores: tuple[StoreState, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Balance:
    """How leaders and peers are spread over the stores (by id). `complete`: whether all regions were looked at."""

    leaders: dict[int, int]
    peers: dict[int, int]
    regions: int
    without_leader: tuple[int, ...] = ()
    with_down_peers: tuple[int, ...] = ()
    complete: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class HotRegion:
    """A region with much traffic. `kind`: read or write; rates a second; `share` of the traffic of all hot regions."""

    kind: str
    region_id: int
    store_id: int
    bytes_rate: float
    query_rate: float
    share: float


@dataclasses.dataclass(frozen=True, slots=True)
class Hotspots:
    """The hottest first."""

    regions: tuple[HotRegion, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Lock:
    """A lock, its keys as users write them (escaped)."""

    key: str
    primary: str
    start_ts: Timestamp
    kind: str
    ttl_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Locks:
    """Locks that were met at `now` (the oracle's). `complete`: whether the whole range was looked at."""

    now: Timestamp
    locks: tuple[Lock, ...]
    regions: int
    complete: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """A large value. `kind`: raw or txn."""

    kind: str
    key: str
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """The largest of the values that were sampled, largest first."""

    sampled: int
    sampled_bytes: int
    largest: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Collection:
    """How far garbage collection is: PD's safe points, 0 where it never ran."""

    now: Timestamp
    txn_safe_point: Timestamp
    gc_safe_point: Timestamp
    blocker: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """This process. `delays_s`: how late a thread woke that asked for a millisecond's sleep."""

    delays_s: tuple[float, ...]
    threads: int
    switch_interval_s: float
    connections_open: int = 0
    connections_max: int = 0
    connections_waiting: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Groups:
    """Resource groups: name to (request units a second, whether it may burst). `wanted`: the client's option."""

    groups: dict[str, tuple[int, bool]]
    wanted: str = ""
