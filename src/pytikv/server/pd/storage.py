"""Where PD keeps what must survive: a few keys of the engine's column family "meta" (`engine.meta.EngineMeta`).

Keys begin with ``pd/``, so that PD and a store can share one engine. `write` is atomic; with `sync` it is durable when
it returns. What is written without `sync` (regions: a copy of what the stores know) may be lost in a crash, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

__all__ = ["MetaStorage", "load_number", "u64_key"]

CLUSTER_KEY: Final = b"pd/cluster"
TSO_KEY: Final = b"pd/tso"
ID_KEY: Final = b"pd/alloc_id"
GC_KEY: Final = b"pd/gc"
STORE_PREFIX: Final = b"pd/store/"
REGION_PREFIX: Final = b"pd/region/"
KEYSPACE_PREFIX: Final = b"pd/keyspace/"
RESOURCE_GROUP_PREFIX: Final = b"pd/resource_group/"


class MetaStorage(Protocol):
    """What PD needs of a storage. Callable from any thread."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`."""

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return all pairs whose key begins with `prefix`, in order."""
        ...

    def write(self, changes: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        """Apply all changes at once; None deletes. Raises what the engine raises, with nothing applied."""


def u64_key(prefix: bytes, number: int) -> bytes:
    """Return the key of a numbered thing, ordered by number."""
    return prefix + number.to_bytes(8, "big")


def load_number(data: bytes | None) -> int:
    """Return the number that was stored as 8 bytes; 0 where nothing was."""
    return int.from_bytes(data, "big") if data else 0
