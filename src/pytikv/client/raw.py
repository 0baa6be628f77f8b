"""The raw client, asynchronous: checks arguments, pages scans, reports on batches, and leaves the rest to a backend.

Everything is written once here; the blocking client drives these coroutines in the calling thread, and the two backends
(over the wire, in the process) stand below. Each public method is the contract for both clients.

A client may be used by any number of tasks of its event loop at once. Methods raise, beside what their docstrings say:
`WrongType` and `InvalidArgument` before anything is done, `ClientClosed`, and while trying `ConnectionFailed`,
`DeadlineExceeded`, `Overloaded`, `RegionUnavailable`, `ServerError` and `ConfigError`; each says by `outcome` what
became of a write. Options hold for one client view; `with_options` makes another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, TypeVar

from pytikv.client.arguments import (
    check_bytes,
    check_count,
    check_key,
    check_keys,
    check_pairs,
    check_range,
    check_ttl,
    check_value,
    prefix_end,
)
from pytikv.client.base import AsyncBase
from pytikv.client.batch_result import MAX_BYTES
from pytikv.client.pages import Pair, drain, iterate
from pytikv.client.raw_backend import RawBackend, open_backend
from pytikv.client.raw_batch_writer import AsyncRawBatchWriter
from pytikv.client.raw_scan import RawScan
from pytikv.errors import BatchError, InvalidArgument, TikvError, UnsupportedByServer, WrongType
from pytikv.observe.telemetry import Telemetry
from pytikv.types import KEEP, Checksum, CompareAndSwap, Keep, KeyRange

__all__ = ["AsyncRawClient", "PairsArgument"]

PairsArgument = (
    Mapping[bytes, bytes]
    | Iterable[tuple[bytes, bytes]]
    | Iterable[tuple[bytes, bytes] | tuple[bytes, bytes, int | None]]
)
"""Pairs of a batch_put: a mapping, or an iterable of (key, value) and (key, value, ttl)."""

_VIEW_OPTIONS: Final = frozenset(
    {
        "cf",
        "timeout",
        "service_class",
        "rpc_timeout",
        "replica_read",
        "match_labels",
        "atomic",
        "priority",
        "retry_lost_writes",
        "request_source",
        "resource_group",
        "resource_group_tag",
        "batch_put_bytes",
        "batch_keys",
        "batch_concurrency",
        "sync",
    }
)
_Self = TypeVar("_Self", bound="AsyncRawClient")


class AsyncRawClient(AsyncBase[RawBackend]):
    """Raw key-value access: single keys and ranges, no transactions. Made by `connect`; closed by `close`.

    Keys and values are bytes, ranges half-open `[start, end)` with None or `b""` unbounded, TTLs whole seconds.
    Reads see every write that was acknowledged before they began.
    """

    __slots__ = ()
    _VIEW_OPTIONS = _VIEW_OPTIONS
    _open_backend = staticmethod(open_backend)

    # --- life ---------------------------------------------------------------------------------------------------------

    def _observe(self, telemetry: Telemetry | None) -> None:
        if telemetry is None:
            self._backend = getattr(self._backend, "inner", self._backend)
        else:
            from pytikv.client.observed import ObservedRaw  # here: most programs never need it

            self._backend = ObservedRaw(self._backend, telemetry)

    def with_options(
        self: _Self,
        *,
        cf: str | None = None,
        timeout: float | None = None,
        replica_read: str | None = None,
        atomic: bool | None = None,
        priority: str | None = None,
        **options: Any,
    ) -> _Self:
        """Return a client with other options that shares the connections; cheap. None leaves an option as it is.

        Further options: service_class (in place of timeout), rpc_timeout, match_labels, retry_lost_writes,
        request_source, resource_group, resource_group_tag, batch_put_bytes, batch_keys, batch_concurrency, sync. Raises
        ConfigError.
        """
        named = {"cf": cf, "timeout": timeout, "replica_read": replica_read, "atomic": atomic, "priority": priority}
        return self._view({**named, **options})

    # --- single keys --------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None where there is none. An empty value is `b""`."""
        if not isinstance(key, bytes):
            check_key(key)
        return await self._backend.get(key)

    async def put(self, key: bytes, value: bytes, ttl: int | None = None) -> None:
        """Write a pair, with a life of `ttl` seconds (None or 0: no expiry). A TTL that was there is replaced.

        Raises UnsupportedByServer for a TTL where the store has none. A put whose answer was lost is sent again unless
        `retry_lost_writes` is off; then, or when the time runs out, its error is UNDETERMINED.
        """
        if not isinstance(key, bytes):
            check_key(key)
        if not isinstance(value, bytes):
            check_value(value)
        await self._backend.put(key, value, 0 if ttl is None else check_ttl(ttl))

    async def delete(self, key: bytes) -> None:
        """Delete `key`; deleting one that is not there is no error. Lost answers: as for `put`."""
        if not isinstance(key, bytes):
            check_key(key)
        await self._backend.delete(key)

    async def exists(self, key: bytes) -> bool:
        """Tell whether `key` is there, without reading its value."""
        check_key(key)
        span = self._backend.span(key, key + b"\x00")
        page = await self._backend.scan_page(span, 1, reverse=False, keys_only=True)
        return bool(page.pairs)

    async def get_ttl(self, key: bytes) -> int | None:
        """Return the seconds that `key` has to live; None without such a key or without expiry (`exists` tells).

        Raises UnsupportedByServer where the store has no TTL, and ConfigError where that cannot be found out: its
        status address is asked, because the question itself would end the process of a TiKV without TTL.
        """
        check_key(key)
        return await self._backend.get_ttl(key)

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int | Keep | None = None
    ) -> CompareAndSwap:
        """Write `value` if the value of `key` is `expected`, in one step. Returns whether, and the value before.

        `expected` None: the key must be absent. `value` None: delete the key; raises UnsupportedByServer where the
        store is not known to have that (option cas_delete). `ttl` None: no expiry, as the store has it: a TTL that was
        there is cleared; `pytikv.KEEP` reads the present TTL first, which is not part of the one step.

        Plain writes race it unless their client has `atomic=True`. A lost answer is UNDETERMINED, never sent again.
        """
        check_key(key)
        if expected is not None:
            check_bytes("expected", expected)
        if value is not None:
            check_value(value)
        elif expected is None:
            raise InvalidArgument("expected and value are both None: there is nothing to do for an absent key")
        elif ttl is not None and ttl is not KEEP:
            raise InvalidArgument("a deletion (value None) takes no ttl")
        seconds = await self._present_ttl(key, value) if ttl is KEEP else check_ttl(ttl)
        return await self._backend.compare_and_swap(key, expected, value, seconds)

    async def _present_ttl(self, key: bytes, value: bytes | None) -> int:
        if value is None:
            return 0
        try:
            return await self._backend.get_ttl(key) or 0
        except UnsupportedByServer:  # the store has no TTL: there is none to keep
            return 0

    async def put_if_absent(self, key: bytes, value: bytes, ttl: int | None = None) -> bytes | None:
        """Write a pair if `key` is absent, in one step. Returns None when written, else the value that is there.

        Races and lost answers: as for `compare_and_swap`.
        """
        check_key(key)
        check_value(value)
        done = await self._backend.compare_and_swap(key, None, value, check_ttl(ttl))
        return None if done.swapped else done.previous if done.previous is not None else b""

    def batch(
        self, *, max_items: int | None = None, max_bytes: int = MAX_BYTES, concurrency: int | None = None
    ) -> AsyncRawBatchWriter:
        """Return a batch writer, for a with-statement: puts and deletes are collected, sent when enough have gathered,
        and accounted for in its `result`.

        max_items: operations after which a batch is sent; None: bytes alone decide. max_bytes: of keys and values.
        concurrency: requests under way at once; None: the option batch_concurrency.
        """
        client = self if concurrency is None else self.with_options(batch_concurrency=concurrency)
        return AsyncRawBatchWriter(
            self._connection.rt, lambda: client._backend, max_items=max_items, max_bytes=max_bytes
        )

    # --- batches ------------------------------------------------------------------------------------------------------

    async def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the pairs whose keys are there, in the order asked; a key asked twice is answered once."""
        wanted = check_keys(keys)
        if not wanted:
            return {}
        found = await self._backend.batch_get(wanted)
        if list(found) == wanted:  # stores answer in the order asked, so this is the common case
            return found
        return {key: found[key] for key in wanted if key in found}

    async def batch_put(self, pairs: PairsArgument, ttl: int | None = None) -> None:
        """Write pairs, given as a mapping or an iterable of (key, value[, ttl]). Not atomic as a whole.

        `ttl` holds for all pairs without one of their own; give one or the other. Of a key that stands twice the last
        pair counts. Raises BatchError when part of it could not be done: `failed` maps those keys to their errors, and
        every other key was written.
        """
        writes = check_pairs(pairs, ttl)
        if writes:
            _report("batch_put", len(writes), await self._backend.batch_put(writes))

    async def batch_delete(self, keys: Iterable[bytes]) -> None:
        """Delete keys; those that are not there are no error. Raises BatchError as `batch_put` does."""
        wanted = check_keys(keys)
        if wanted:
            _report("batch_delete", len(wanted), await self._backend.batch_delete(wanted))

    # --- ranges -------------------------------------------------------------------------------------------------------

    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        batch_size: int = 256,
    ) -> AsyncIterator[Pair]:
        """Iterate over the pairs of `[start, end)` in key order, or from its end down with `reverse`.

        Lazy: pages of `batch_size` (1 to 10240) pairs are fetched as the iteration reaches them, each within the
        `timeout`. Not a snapshot: writes behind the present page are not seen. `limit` bounds the number of pairs
        (None: all); with `keys_only` every value is `b""`.
        """
        return iterate(self._scan(start, end, limit, reverse, keys_only, batch_size))

    def scan_prefix(
        self,
        prefix: bytes,
        *,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        batch_size: int = 256,
    ) -> AsyncIterator[Pair]:
        """Iterate over the pairs whose keys begin with `prefix`; otherwise as `scan`."""
        check_bytes("prefix", prefix)
        return iterate(self._scan(prefix, prefix_end(prefix), limit, reverse, keys_only, batch_size))

    def _scan(
        self, start: bytes | None, end: bytes | None, limit: int | None, reverse: bool, keys_only: bool, batch_size: int
    ) -> RawScan:
        return RawScan(
            self._backend, start, end, limit=limit, reverse=reverse, keys_only=keys_only, batch_size=batch_size
        )

    async def batch_scan(
        self,
        ranges: Iterable[tuple[bytes | None, bytes | None]],
        *,
        each_limit: int,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> list[list[Pair]]:
        """Scan several ranges at once; returns, for each in turn, up to `each_limit` pairs. Ranges may overlap."""
        check_count("each_limit", each_limit, low=0)
        scans = [
            self._scan(start, end, each_limit, reverse, keys_only, min(max(each_limit, 1), 1024))
            for start, end in _ranges(ranges)
        ]
        return await self._connection.rt.gather(*map(drain, scans)) if scans else []

    async def delete_range(self, start: bytes | None, end: bytes | None) -> None:
        """Delete all keys of `[start, end)`. Not atomic as a whole; when it fails, part of it may have been done."""
        low, high = check_range(start, end)
        if not high or low < high:
            await self._backend.delete_range(low, high)

    async def delete_prefix(self, prefix: bytes) -> None:
        """Delete all keys that begin with `prefix`, which must not be empty; otherwise as `delete_range`."""
        check_bytes("prefix", prefix)
        if not prefix:
            raise InvalidArgument("the empty prefix would delete everything: use delete_range(None, None) for that")
        await self._backend.delete_range(prefix, prefix_end(prefix))

    async def checksum(self, start: bytes | None = None, end: bytes | None = None) -> Checksum:
        """Return the xor of the CRC-64 of every pair of `[start, end)`, their number and bytes, computed by the stores.

        Keys count as the store knows them: in API v2 with the keyspace's prefix.
        """
        low, high = check_range(start, end)
        return Checksum(0, 0, 0) if high and low >= high else await self._backend.checksum(low, high)

    async def coprocessor(
        self, name: str, version: str, ranges: Iterable[tuple[bytes | None, bytes | None]], data: bytes
    ) -> list[tuple[list[KeyRange], bytes]]:
        """Call a coprocessor plugin once in every region of `ranges`; returns the ranges served and each answer.

        `version`: the plugin's version requirement, such as `^1.0`. Raises UnsupportedByServer without plugins. A lost
        answer is UNDETERMINED, since a plugin may write.
        """
        check_bytes("data", data)
        if not isinstance(name, str) or not isinstance(version, str):
            raise WrongType("name and version of a coprocessor must be strings")
        spans = [KeyRange(*check_range(start, end)) for start, end in _ranges(ranges)]
        return await self._backend.coprocessor(name, version, spans, data)


def _ranges(ranges: Iterable[tuple[bytes | None, bytes | None]]) -> list[tuple[bytes | None, bytes | None]]:
    if isinstance(ranges, (bytes, str)) or not isinstance(ranges, Iterable):
        raise WrongType("ranges must be an iterable of (start, end)")
    found = list(ranges)
    if any(not isinstance(one, (tuple, list)) or len(one) != 2 for one in found):
        raise WrongType("a range must be (start, end)")
    return found


def _report(name: str, count: int, failed: dict[bytes, TikvError]) -> None:
    if failed:
        first = next(iter(failed.values()))
        raise BatchError(
            f"{name}: {len(failed)} of {count} keys failed, the first with: {first}", failed=failed
        ) from first
