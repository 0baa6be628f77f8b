"""The raw commands, on an engine, in the three API modes.

Every command takes *wire keys* (API v2: with mode byte and keyspace, see codec.api) and plain Python values. Commands
run in the calling thread and never wait for the disk to sync: those that write return the engine's *ticket*, and
whoever must answer durably calls `engine.flush(ticket)` first. That is what lets many answers share one flush.

* Expired keys are invisible everywhere, a compare-and-swap included. `cleanup_step` removes them from the disk.
* `compare_and_swap` and writes with `for_cas` exclude each other key by key (latches); plain writes take no latch and
  race with a compare-and-swap, as in TiKV.
* A batch is applied whole or not at all. Batch reads and scans see one moment.
* Limits: keys of `put`, `batch_put`, `delete`, `batch_delete` and `delete_range` up to 8 KiB (`for_cas` and
  compare-and-swap: unchecked, as in TiKV); one write up to 8 MiB (TiKV's largest Raft entry).

Ranges are `[lower, upper)` also when scanned in reverse. `within` clips a range to a region; its bounds are region
keys.

Sources: TiKV src/storage/mod.rs (raw_*), src/storage/raw/raw_mvcc.rs. The clock (Unix seconds) and the source of causal
timestamps come from the owner. Safe for threads as far as the engine is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from pytikv.server.engine.interface import CF_DEFAULT, Engine, WriteBatch
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.crc64 import crc64
from pytikv.server.storage.errors import (
    EmptyRequest,
    KeyTooLarge,
    RaftEntryTooLarge,
    TtlLenNotEqualsToPairs,
)
from pytikv.server.storage.latches import Latches
from pytikv.server.storage.limits import (
    CHANGE_OVERHEAD_BYTES,
    ENTRY_OVERHEAD_BYTES,
    MAX_ENTRY_BYTES,
    MAX_KEY_BYTES,
    check_entry,
)
from pytikv.types import EVERYTHING, Checksum, CompareAndSwap, KeyRange

__all__ = ["MAX_ENTRY_BYTES", "MAX_KEY_BYTES", "RawStorage", "seconds_left"]

_ROOM_BYTES: Final = MAX_ENTRY_BYTES - ENTRY_OVERHEAD_BYTES - CHANGE_OVERHEAD_BYTES


class RawStorage:
    """The commands; what differs between the modes is in the subclasses, below. Make one with `raw.open_raw`."""

    api_version: ApiVersion
    _cleaned: tuple[bytes, bytes] = (b"", b"")
    """The range of the default family that cleaning may touch: what belongs to raw keys."""

    def __init__(self, engine: Engine, now_s: Callable[[], float], causal_ts: Callable[[], int]) -> None:
        self.engine = engine
        self._now_s = now_s
        self._causal_ts = causal_ts
        self._latches = Latches()

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: bytes, cf: str = "") -> bytes | None:
        """Return the value of `key`, None when there is none. Raises InvalidCf, CfDeprecated, StorageError."""
        raise NotImplementedError

    def batch_get(self, keys: Sequence[bytes], cf: str = "") -> list[tuple[bytes, bytes]]:
        """Return the pairs that are there, in the order asked; a key asked twice is answered twice."""
        raise NotImplementedError

    def get_ttl(self, key: bytes, cf: str = "") -> int | None:
        """Return the seconds until `key` expires, 0 when it never does, None when there is no such key.

        A deleted key of API v2 answers 0 until it is cleaned up, as in TiKV. Raises TtlNotEnabled in API v1.
        """
        raise NotImplementedError

    def scan(
        self,
        lower: bytes,
        upper: bytes,
        limit: int,
        *,
        key_only: bool = False,
        reverse: bool = False,
        cf: str = "",
        within: KeyRange = EVERYTHING,
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` pairs of `[lower, upper)`, downwards with `reverse`; `key_only`: with empty values."""
        pairs: list[tuple[bytes, bytes]] = []
        if limit <= 0:
            return pairs
        for pair in self._visible(self._cf(cf), self._clip(lower, upper, within), reverse, key_only):
            pairs.append(pair)
            if len(pairs) >= limit:
                break
        return pairs

    def checksum(self, ranges: Iterable[tuple[bytes, bytes]], *, within: KeyRange = EVERYTHING) -> Checksum:
        """Return the xor of the CRC-64 of each pair's key and value, with how many pairs and bytes there were."""
        total_crc = total_kvs = total_bytes = 0
        for lower, upper in ranges:
            for key, value in self._visible(CF_DEFAULT, self._clip(lower, upper, within), False, False):
                total_crc ^= crc64(key + value)
                total_kvs += 1
                total_bytes += len(key) + len(value)
        return Checksum(total_crc, total_kvs, total_bytes)

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, ttl_s: int = 0, *, cf: str = "", for_cas: bool = False) -> int:
        """Set `key`; with `ttl_s` it expires that many seconds from now. Returns the ticket.

        Raises InvalidCf, CfDeprecated, KeyTooLarge, RaftEntryTooLarge, TtlNotEnabled, StorageError.
        """
        family = self._cf(cf)
        if len(key) > MAX_KEY_BYTES and not for_cas:
            raise KeyTooLarge(len(key), MAX_KEY_BYTES)
        if len(value) + len(key) > _ROOM_BYTES:
            raise RaftEntryTooLarge(len(value) + len(key), MAX_ENTRY_BYTES)
        stored = self._encode(value, ttl_s)
        if for_cas:
            with self._latches.hold((key,)):
                return self.engine.put(family, self._data_key(key), stored)
        return self.engine.put(family, self._data_key(key), stored)

    def batch_put(
        self, pairs: Sequence[tuple[bytes, bytes]], ttls_s: Sequence[int] = (), *, cf: str = "", for_cas: bool = False
    ) -> int:
        """Set all pairs at once. `ttls_s`: none, one for all, or one for each. Returns the ticket.

        Raises as `put`, and EmptyRequest, TtlLenNotEqualsToPairs.
        """
        family = self._cf(cf)
        if not pairs:
            raise EmptyRequest
        ttls_s = self._spread_ttls(ttls_s, len(pairs))
        batch = WriteBatch()
        encode, data_key = self._encode, self._data_key
        for (key, value), ttl_s in zip(pairs, ttls_s, strict=True):
            if len(key) > MAX_KEY_BYTES and not for_cas:
                raise KeyTooLarge(len(key), MAX_KEY_BYTES)
            batch.put(family, data_key(key), encode(value, ttl_s))
        with self._latches.hold([key for key, _ in pairs] if for_cas else ()):
            return self._write(batch)

    def delete(self, key: bytes, *, cf: str = "", for_cas: bool = False) -> int:
        """Remove `key`, if it is there. Returns the ticket. Raises as `put`."""
        family = self._cf(cf)
        if len(key) > MAX_KEY_BYTES and not for_cas:
            raise KeyTooLarge(len(key), MAX_KEY_BYTES)
        with self._latches.hold((key,) if for_cas else ()):
            return self._delete_one(family, key)

    def batch_delete(self, keys: Sequence[bytes], *, cf: str = "", for_cas: bool = False) -> int:
        """Remove all `keys` at once. Returns the ticket. Raises as `put`, and EmptyRequest."""
        family = self._cf(cf)
        if not keys:
            raise EmptyRequest
        batch = WriteBatch()
        for key in keys:
            if len(key) > MAX_KEY_BYTES and not for_cas:
                raise KeyTooLarge(len(key), MAX_KEY_BYTES)
            self._add_delete(batch, family, key)
        with self._latches.hold(keys if for_cas else ()):
            return self._write(batch)

    def delete_range(self, lower: bytes, upper: bytes, *, cf: str = "", within: KeyRange = EVERYTHING) -> int:
        """Remove every key of `[lower, upper)`, physically in every mode. Returns the ticket. Raises as `put`."""
        family = self._cf(cf)
        for key in (lower, upper):
            if len(key) > MAX_KEY_BYTES:
                raise KeyTooLarge(len(key), MAX_KEY_BYTES)
        batch = WriteBatch()
        batch.delete_range(family, *self._clip(lower, upper, within))
        return self.engine.write(batch)

    def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl_s: int = 0, *, cf: str = ""
    ) -> tuple[CompareAndSwap, int]:
        """Set `key` to `value` (None: remove it) if its present value is `expected` (None: if it is not there).

        Returns what was found and the ticket (0 when nothing was written). A swap without TTL drops the one that was.
        Raises as `put`; the key's length is not checked.
        """
        family = self._cf(cf)
        stored = None if value is None else self._encode(value, ttl_s)
        size_bytes = len(key) + len(stored or b"")
        if size_bytes > _ROOM_BYTES:
            raise RaftEntryTooLarge(size_bytes, MAX_ENTRY_BYTES)
        with self._latches.hold((key,)):
            previous = self.get(key, cf)
            if previous != expected:
                return CompareAndSwap(False, previous), 0
            if stored is None:
                return CompareAndSwap(True, previous), self._delete_one(family, key)
            return CompareAndSwap(True, previous), self.engine.put(family, self._data_key(key), stored)

    def cleanup_step(self, start: bytes = b"", *, limit: int = 1000, safe_point: int = 0) -> bytes | None:
        """Remove what nobody can see any more from up to `limit` entries of the default family, from `start` on.

        Expired entries; in API v2 also versions that a version at or below `safe_point` has replaced, and deletions at
        or below it. Returns where to go on, None at the end. Bounded work, for a background task to repeat.
        """
        batch = WriteBatch()
        with self.engine.exclusive():  # an entry found expired must not be renewed before it is removed
            entries, next_start = self._take(start, limit)
            for data_key in self._garbage(entries, safe_point, next_start is None):
                batch.delete(CF_DEFAULT, data_key)
            if batch:
                self.engine.write(batch)
        return next_start

    # --- what the modes share -----------------------------------------------------------------------------------------

    def _write(self, batch: WriteBatch) -> int:
        check_entry(batch)
        return self.engine.write(batch)

    def _clip(self, lower: bytes, upper: bytes, within: KeyRange) -> tuple[bytes, bytes]:
        """Return the range of data keys: the one asked for, cut to the region's."""
        start, end = self._border(lower), self._border(upper)
        if within.end_key and (not end or end > within.end_key):
            end = within.end_key
        return max(start, within.start_key), end

    def _take(self, start: bytes, limit: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        entries: list[tuple[bytes, bytes]] = []
        low, high = self._cleaned
        for data_key, stored in self.engine.scan(CF_DEFAULT, max(start, low), high):
            if len(entries) >= limit:
                return entries, data_key
            entries.append((data_key, stored))
        return entries, None

    # --- what differs between the modes -------------------------------------------------------------------------------

    def _cf(self, cf: str) -> str:
        """Return the engine's column family of that name. Raises InvalidCf or CfDeprecated."""
        raise NotImplementedError

    def _encode(self, value: bytes, ttl_s: int) -> bytes:
        raise NotImplementedError

    def _spread_ttls(self, ttls_s: Sequence[int], count: int) -> Sequence[int]:
        if len(ttls_s) == count:
            return ttls_s
        if len(ttls_s) > 1:
            raise TtlLenNotEqualsToPairs
        return list(ttls_s or (0,)) * count

    def _data_key(self, key: bytes) -> bytes:
        """Return the stored key to write `key` under."""
        return key

    def _border(self, key: bytes) -> bytes:
        """Return the border of stored keys that belongs to a border of wire keys; empty stays empty."""
        return key

    def _delete_one(self, family: str, key: bytes) -> int:
        return self.engine.delete(family, key)

    def _add_delete(self, batch: WriteBatch, family: str, key: bytes) -> None:
        batch.delete(family, key)

    def _visible(
        self, family: str, bounds: tuple[bytes, bytes], reverse: bool, key_only: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over wire keys and values that can be seen."""
        raise NotImplementedError

    def _garbage(self, entries: list[tuple[bytes, bytes]], safe_point: int, is_end: bool) -> Iterator[bytes]:
        """Iterate over the stored keys to remove; `is_end`: nothing follows the entries."""
        return iter(())


def seconds_left(expire_s: int, now_s: float) -> int | None:
    """Return what `get_ttl` answers for something that expires at `expire_s` (0: never)."""
    if not expire_s:
        return 0
    left = expire_s - int(now_s)
    return left if left > 0 else None
