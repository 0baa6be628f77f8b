"""What the raw client stands on: one protocol, two implementations.

`RawBackend` is the data as a client of one set of options sees it. `client.raw_remote` speaks to stores over the wire;
`pytikv.embedded` calls the storage in the process. Arguments are checked, scans paged and reports made once, above it.

Keys are as users pass them, but for scans: a *span* is a range in the backend's own form, `b""` unbounded, so that what
is left of one after a page can lie on borders that no user key has. Backends take their deadline from the context of
the call (`pytikv.deadline`) and raise only `TikvError`s that say what became of a write.

`open_backend` finds the implementation for a target (`openers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from pytikv.client.openers import Opener, opener
from pytikv.client.pages import Pair
from pytikv.config import ClientConfig
from pytikv.errors import TikvError
from pytikv.observe.state import ClusterStats
from pytikv.types import Checksum, CompareAndSwap, KeyRange

__all__ = ["RawBackend", "RawPage", "Span", "Write", "open_backend"]

Span = tuple[bytes, bytes]
Write = tuple[bytes, bytes, int]
"""A key, its value and its TTL in seconds (0: no expiry)."""


class RawPage(NamedTuple):
    """A page of a scan, and what is left of its span (None: nothing)."""

    pairs: list[Pair]
    rest: Span | None


class RawBackend(Protocol):
    """The operations below the raw client; see the module's docstring."""

    @property
    def config(self) -> ClientConfig:
        """The options in force; `api_version` is settled."""
        ...

    def with_config(self, config: ClientConfig) -> RawBackend:
        """Return a view of the same data with other options. Cheap."""
        ...

    async def get(self, key: bytes) -> bytes | None:
        """Return the value, None where there is no such key."""
        ...

    async def put(self, key: bytes, value: bytes, ttl: int) -> None:
        """Write one pair."""

    async def delete(self, key: bytes) -> None:
        """Delete a key; one that is not there is no error."""

    async def batch_get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the pairs that are there, in any order. `keys` are distinct and not empty."""
        ...

    async def batch_put(self, writes: Sequence[Write]) -> dict[bytes, TikvError]:
        """Write pairs; returns what failed. `writes` have distinct keys and are not empty."""
        ...

    async def batch_delete(self, keys: Sequence[bytes]) -> dict[bytes, TikvError]:
        """Delete keys; returns what failed. `keys` are distinct and not empty."""
        ...

    def span(self, start: bytes, end: bytes) -> Span:
        """Return a range of user keys as a span."""
        ...

    async def scan_page(self, span: Span, limit: int, *, reverse: bool, keys_only: bool) -> RawPage:
        """Return up to `limit` pairs (at least 1) from one end of the span. Values are `b""` with `keys_only`."""
        ...

    async def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete all keys of a range that is not empty."""

    async def get_ttl(self, key: bytes) -> int | None:
        """Return the seconds left, None without such a key or expiry. Refused where the store has no TTL."""
        ...

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int
    ) -> CompareAndSwap:
        """Write `value` (None: delete) if the key has the value `expected` (None: is absent)."""
        ...

    async def checksum(self, start: bytes, end: bytes) -> Checksum:
        """Return the checksum of a range that is not empty."""
        ...

    async def coprocessor(
        self, name: str, version: str, ranges: Sequence[KeyRange], data: bytes
    ) -> list[tuple[list[KeyRange], bytes]]:
        """Call a plugin once in each region; returns the ranges served and the answer of each."""
        ...

    def observe(self, is_observed: bool) -> None:
        """Have the requests of all views, present and to come, report to `current_record()`, or no longer."""

    def stats(self, target: str) -> ClusterStats:
        """Return what the client holds at present. `target`: what was connected to."""
        ...

    async def close(self) -> None:
        """End the connection that `open_backend` made; views share it."""

    def abandon(self, *, forked: bool) -> None:
        """As `close`, without waiting, from any thread: the client was forgotten, or lives in a forked child."""


open_backend: Final[Opener[RawBackend]] = opener(
    "open_raw", {"tikv": "pytikv.client.raw_remote", "embedded": "pytikv.embedded"}
)
"""Opens the raw data at a target."""
