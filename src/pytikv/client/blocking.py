"""The raw client, blocking: each method drives the coroutine of its asynchronous twin in the calling thread.

There is no loop thread in between (`rt.caller`). Any number of threads may use one client at once; a scan belongs to
the thread that iterates, and keeps nothing between two pages. Signatures and docstrings are the twin's; a test holds
the two classes together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pytikv.client.arguments import check_bytes, prefix_end
from pytikv.client.batch_result import MAX_BYTES
from pytikv.client.blocking_base import BlockingBase, iterate
from pytikv.client.pages import Pair
from pytikv.client.raw import AsyncRawClient, PairsArgument
from pytikv.client.raw_batch_writer import RawBatchWriter
from pytikv.types import Checksum, CompareAndSwap, Keep, KeyRange

__all__ = ["RawClient"]

_Self = TypeVar("_Self", bound="RawClient")


class RawClient(BlockingBase[AsyncRawClient]):
    """Raw key-value access: single keys and ranges, no transactions. Made by `connect`; closed by `close` or `with`.

    Keys and values are bytes, ranges half-open `[start, end)` with None or `b""` unbounded, TTLs whole seconds.
    Reads see every write that was acknowledged before they began. Any number of threads may share a client.
    """

    __slots__ = ()
    _CORE = AsyncRawClient

    # --- life ---------------------------------------------------------------------------------------------------------

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
        core = self._core.with_options(
            cf=cf, timeout=timeout, replica_read=replica_read, atomic=atomic, priority=priority, **options
        )
        return type(self)(core, self._rt)

    # --- single keys --------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None where there is none. An empty value is `b""`."""
        return self._rt.run(self._core.get(key))

    def put(self, key: bytes, value: bytes, ttl: int | None = None) -> None:
        """Write a pair, with a life of `ttl` seconds (None or 0: no expiry). A TTL that was there is replaced.

        Raises UnsupportedByServer for a TTL where the store has none. A put whose answer was lost is sent again unless
        `retry_lost_writes` is off; then, or when the time runs out, its error is UNDETERMINED.
        """
        self._rt.run(self._core.put(key, value, ttl))

    def delete(self, key: bytes) -> None:
        """Delete `key`; deleting one that is not there is no error. Lost answers: as for `put`."""
        self._rt.run(self._core.delete(key))

    def exists(self, key: bytes) -> bool:
        """Tell whether `key` is there, without reading its value."""
        return self._rt.run(self._core.exists(key))

    def get_ttl(self, key: bytes) -> int | None:
        """Return the seconds that `key` has to live; None without such a key or without expiry (`exists` tells).

        Raises UnsupportedByServer where the store has no TTL, and ConfigError where that cannot be found out: its
        status address is asked, because the question itself would end the process of a TiKV without TTL.
        """
        return self._rt.run(self._core.get_ttl(key))

    def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int | Keep | None = None
    ) -> CompareAndSwap:
        """Write `value` if the value of `key` is `expected`, in one step. Returns whether, and the value before.

        `expected` None: the key must be absent. `value` None: delete the key; raises UnsupportedByServer where the
        store is not known to have that (option cas_delete). `ttl` None: no expiry, as the store has it: a TTL that was
        there is cleared; `pytikv.KEEP` reads the present TTL first, which is not part of the one step.

        Plain writes race it unless their client has `atomic=True`. A lost answer is UNDETERMINED, never sent again.
        """
        return self._rt.run(self._core.compare_and_swap(key, expected, value, ttl))

    def put_if_absent(self, key: bytes, value: bytes, ttl: int | None = None) -> bytes | None:
        """Write a pair if `key` is absent, in one step. Returns None when written, else the value that is there.

        Races and lost answers: as for `compare_and_swap`.
        """
        return self._rt.run(self._core.put_if_absent(key, value, ttl))

    # --- batches ------------------------------------------------------------------------------------------------------

    def batch(
        self, *, max_items: int | None = None, max_bytes: int = MAX_BYTES, concurrency: int | None = None
    ) -> RawBatchWriter:
        """Return a batch writer, for a with-statement: puts and deletes are collected, sent when enough have gathered,
        and accounted for in its `result`.

        max_items: operations after which a batch is sent; None: bytes alone decide. max_bytes: of keys and values.
        concurrency: requests under way at once; None: the option batch_concurrency.
        """
        core = self._core.batch(max_items=max_items, max_bytes=max_bytes, concurrency=concurrency)
        return RawBatchWriter(core, self._rt)

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the pairs whose keys are there, in the order asked; a key asked twice is answered once."""
        return self._rt.run(self._core.batch_get(keys))

    def batch_put(self, pairs: PairsArgument, ttl: int | None = None) -> None:
        """Write pairs, given as a mapping or an iterable of (key, value[, ttl]). Not atomic as a whole.

        `ttl` holds for all pairs without one of their own; give one or the other. Of a key that stands twice the last
        pair counts. Raises BatchError when part of it could not be done: `failed` maps those keys to their errors, and
        every other key was written.
        """
        self._rt.run(self._core.batch_put(pairs, ttl))

    def batch_delete(self, keys: Iterable[bytes]) -> None:
        """Delete keys; those that are not there are no error. Raises BatchError as `batch_put` does."""
        self._rt.run(self._core.batch_delete(keys))

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
    ) -> Iterator[Pair]:
        """Iterate over the pairs of `[start, end)` in key order, or from its end down with `reverse`.

        Lazy: pages of `batch_size` (1 to 10240) pairs are fetched as the iteration reaches them, each within the
        `timeout`. Not a snapshot: writes behind the present page are not seen. `limit` bounds the number of pairs
        (None: all); with `keys_only` every value is `b""`.
        """
        return iterate(self._rt, self._core._scan(start, end, limit, reverse, keys_only, batch_size))

    def scan_prefix(
        self,
        prefix: bytes,
        *,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        batch_size: int = 256,
    ) -> Iterator[Pair]:
        """Iterate over the pairs whose keys begin with `prefix`; otherwise as `scan`."""
        check_bytes("prefix", prefix)
        end = prefix_end(prefix)
        return iterate(self._rt, self._core._scan(prefix, end, limit, reverse, keys_only, batch_size))

    def batch_scan(
        self,
        ranges: Iterable[tuple[bytes | None, bytes | None]],
        *,
        each_limit: int,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> list[list[Pair]]:
        """Scan several ranges at once; returns, for each in turn, up to `each_limit` pairs. Ranges may overlap."""
        return self._rt.run(self._core.batch_scan(ranges, each_limit=each_limit, reverse=reverse, keys_only=keys_only))

    def delete_range(self, start: bytes | None, end: bytes | None) -> None:
        """Delete all keys of `[start, end)`. Not atomic as a whole; when it fails, part of it may have been done."""
        self._rt.run(self._core.delete_range(start, end))

    def delete_prefix(self, prefix: bytes) -> None:
        """Delete all keys that begin with `prefix`, which must not be empty; otherwise as `delete_range`."""
        self._rt.run(self._core.delete_prefix(prefix))

    def checksum(self, start: bytes | None = None, end: bytes | None = None) -> Checksum:
        """Return the xor of the CRC-64 of every pair of `[start, end)`, their number and bytes, computed by the stores.

        Keys count as the store knows them: in API v2 with the keyspace's prefix.
        """
        return self._rt.run(self._core.checksum(start, end))

    def coprocessor(
        self, name: str, version: str, ranges: Iterable[tuple[bytes | None, bytes | None]], data: bytes
    ) -> list[tuple[list[KeyRange], bytes]]:
        """Call a coprocessor plugin once in every region of `ranges`; returns the ranges served and each answer.

        `version`: the plugin's version requirement, such as `^1.0`. Raises UnsupportedByServer without plugins. A lost
        answer is UNDETERMINED, since a plugin may write.
        """
        return self._rt.run(self._core.coprocessor(name, version, ranges, data))
