"""Plain values that cross module borders: timestamps, results, and the cluster's regions and stores.

All are immutable. Ranges are half-open `[start_key, end_key)`; `b""` is unbounded on either side.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Final, NamedTuple

__all__ = [
    "KEEP",
    "Checksum",
    "CompareAndSwap",
    "Consistency",
    "Keep",
    "KeyRange",
    "Peer",
    "Region",
    "Store",
    "Timestamp",
    "Versioned",
]

LOGICAL_BITS: Final = 18
"""Of a timestamp: the counter within a millisecond."""

MAX_TIMESTAMP: Final = (1 << 64) - 1


class Timestamp(int):
    """A timestamp of the cluster's oracle: 46 bits of Unix milliseconds, 18 bits of counter.

    Source: client-go oracle/oracle.go.

    >>> ts = Timestamp.compose(1_700_000_000_000, 5)
    >>> ts.physical_ms, ts.logical
    (1700000000000, 5)
    """

    __slots__ = ()

    @classmethod
    def compose(cls, physical_ms: int, logical: int = 0) -> Timestamp:
        """Build a timestamp from its parts."""
        return cls((physical_ms << LOGICAL_BITS) + logical)

    @property
    def physical_ms(self) -> int:
        """Unix time in milliseconds."""
        return int(self) >> LOGICAL_BITS

    @property
    def logical(self) -> int:
        """The counter within the millisecond."""
        return int(self) & ((1 << LOGICAL_BITS) - 1)

    @property
    def datetime(self) -> datetime.datetime:
        """The physical part as an aware datetime in UTC."""
        return datetime.datetime.fromtimestamp(self.physical_ms / 1000, datetime.UTC)


class Keep(enum.Enum):
    """The type of `KEEP`."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP
"""As the `ttl` of a compare-and-swap: read the key's present TTL first and set it again (two steps, not atomic)."""


class KeyRange(NamedTuple):
    """A half-open range of keys; `b""` is unbounded."""

    start_key: bytes
    end_key: bytes

    def contains(self, key: bytes) -> bool:
        """Tell whether `key` lies in the range."""
        return self.start_key <= key and (not self.end_key or key < self.end_key)


EVERYTHING: Final = KeyRange(b"", b"")
"""All keys."""


class CompareAndSwap(NamedTuple):
    """Answer of a compare-and-swap: whether it was done, and the value found before (None: no such key)."""

    swapped: bool
    previous: bytes | None


class Versioned(NamedTuple):
    """A value, and the timestamp at which it was committed."""

    value: bytes
    commit_ts: Timestamp


@dataclasses.dataclass(frozen=True, slots=True)
class Consistency:
    """Whether the locks, records and values of a store agree. Its text is made for people."""

    keys: int
    locks: int
    writes: int
    """Write records."""
    values: int
    """Values beside the records: the long ones."""
    damage: int
    """How much is wrong: what breaks reads or promises."""
    leftovers: int
    """How much is in the way of nothing but space."""
    problems: tuple[str, ...]
    """The first of both, each with its key."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong; leftovers are not."""
        return not self.damage

    def __str__(self) -> str:
        head = f"{self.keys} keys with {self.locks} locks, {self.writes} records, {self.values} long values"
        hidden = self.damage + self.leftovers - len(self.problems)
        tail = [f"... and {hidden} more"] if hidden else []
        return "\n".join([f"{head}: {self.damage} damaged, {self.leftovers} leftovers", *self.problems, *tail])


class Checksum(NamedTuple):
    """Checksum of a range: xor of the CRC-64 of every pair, and how many pairs and bytes went in."""

    crc64_xor: int
    total_kvs: int
    total_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A replica of a region on a store. Role as in metapb: 0 voter, 1 learner, 2 incoming, 3 demoting."""

    id: int
    store_id: int
    role: int = 0
    is_witness: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A range of keys with its replicas. Keys are as PD has them (memcomparable for transactions and API v2)."""

    id: int
    start_key: bytes
    end_key: bytes
    conf_ver: int
    version: int
    peers: tuple[Peer, ...]
    leader: Peer | None = None
    down_peer_ids: frozenset[int] = frozenset()
    pending_peer_ids: frozenset[int] = frozenset()

    def contains(self, key: bytes) -> bool:
        """Tell whether `key` (encoded as the bounds are) lies in the region."""
        return self.start_key <= key and (not self.end_key or key < self.end_key)


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """A TiKV process. `state` as metapb.StoreState: 0 Up, 1 Offline, 2 Tombstone."""

    id: int
    address: str
    status_address: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    state: int = 0
    version: str = ""
