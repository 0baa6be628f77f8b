"""A snapshot as programs use it: the data of one moment, read only. Asynchronous; the blocking one drives this one.

The moment is a timestamp that was given, or a new one, fetched with the first read or by awaiting the snapshot; once
for all tasks that read at that time. How reading goes: `snapshot_reader`, and for ranges `scan`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator, Iterable
from typing import Any

from pytikv.ambient import end_of_call
from pytikv.client.arguments import check_bytes, check_key, check_keys, prefix_end
from pytikv.client.flights import Flights
from pytikv.client.pages import Pages, Pair, iterate
from pytikv.client.txn.backend import TxnBackend
from pytikv.client.txn.options import ReadOptions
from pytikv.client.txn.read_only import ReadOnly
from pytikv.client.txn.scan import SnapshotScan
from pytikv.client.txn.snapshot_reader import SnapshotReader
from pytikv.types import Timestamp, Versioned

__all__ = ["AsyncSnapshot"]


class AsyncSnapshot(ReadOnly):
    """The data as it was at one timestamp; read only. Made by `AsyncTransactionClient.snapshot`.

    Any number of tasks may read from one snapshot at once. Methods raise, beside what their docstrings say:
    SnapshotTooOld when the timestamp fell below the GC safe point, InvalidArgument for a timestamp of the future, and
    as `AsyncRawClient` does for arguments, connections and deadlines. A read that meets a lock of another transaction
    passes it over where the timestamp allows; otherwise it waits, and raises KeyLocked when the time is up.
    """

    __slots__ = ("_backend", "_flights", "_options", "_reader", "_ts")

    def __init__(self, backend: TxnBackend, ts: int | None, options: ReadOptions) -> None:
        """Use `AsyncTransactionClient.snapshot` instead: this is for the library itself."""
        self._backend = backend
        self._ts = ts
        self._options = options
        self._reader: SnapshotReader | None = None
        self._flights: Flights | None = None

    @property
    def ts(self) -> Timestamp | None:
        """The timestamp; None before the first read of a snapshot that was made without one."""
        reader = self._reader
        if reader is not None:
            return Timestamp(reader.start_ts)
        return None if self._ts is None else Timestamp(self._ts)

    def __await__(self) -> Generator[Any, Any, AsyncSnapshot]:
        """Fix the moment now, instead of at the first read; returns the snapshot."""
        yield from self._begin().__await__()
        return self

    async def _begin(self) -> SnapshotReader:
        """Fetch the timestamp, or check the one that was given; once for all who read at the same time."""
        if self._flights is None:
            self._flights = Flights(self._backend.rt)
        deadline = end_of_call(self._backend.rt.now(), self._backend.config)
        return await self._flights.run("begin", lambda: self._load(deadline), deadline)

    async def _load(self, deadline: float) -> SnapshotReader:
        if self._reader is None:
            if self._ts is None:
                ts: int = await self._backend.timestamp(deadline)
            else:
                ts = self._ts
                await self._backend.validate_read_ts(ts, deadline)
            self._reader = SnapshotReader(self._backend, ts, self._options)
        return self._reader

    async def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None where there is no such key."""
        if type(key) is not bytes:
            check_key(key)
        reader = self._reader or await self._begin()
        return await reader.get(key)

    def _get(self, key: bytes) -> Coroutine[Any, Any, bytes | None]:
        """As `get`, for the blocking twin: a coroutine less, once the timestamp is there."""
        reader = self._reader
        if reader is None or type(key) is not bytes:
            return self.get(key)
        return reader.get(key)

    async def get_with_commit_ts(self, key: bytes) -> Versioned | None:
        """Return the value of `key` and the timestamp at which it was committed, None where there is no such key."""
        check_key(key)
        found = await (self._reader or await self._begin()).get_with_commit_ts(key)
        return None if found is None else Versioned(found[0], Timestamp(found[1]))

    async def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the pairs of those keys that are there, in the order asked."""
        wanted = check_keys(keys)
        if not wanted:
            return {}
        return await (self._reader or await self._begin()).batch_get(wanted)

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

        Lazy: pages, at first of `batch_size` (1 to 10240) pairs and then of more, are fetched as the iteration reaches
        them, each within the `timeout`. `limit` bounds the number of pairs (None: all); with `keys_only` every value
        is `b""`.
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
    ) -> Pages:
        return SnapshotScan(
            self._reader or self._begin,
            start,
            end,
            reverse=reverse,
            keys_only=keys_only or self._options.keys_only,
            batch_size=batch_size,
            limit=limit,
        )
