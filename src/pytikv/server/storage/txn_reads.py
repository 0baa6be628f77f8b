"""The reading commands of transactions: requests in, responses out.

Each raises max_ts to the read's timestamp first, then looks for memory locks, then reads the engine: in this order a
snapshot that was read can never change (`storage.concurrency`). A memory lock in the way of any key fails the whole
request; a stored lock fails its key.

Where errors go: KvGet and KvScanLock answer one `error`. KvBatchGet and KvScan answer an error pair for each locked
key; what fails the whole request is in `error` and once more in `pairs[0].error`, for old clients.

What is read: one key, and the keys of a batch, each from the present state, which is safe (`mvcc.point_getter`); a
scan, and a batch that asks for "the latest" (2**64 - 1), from one snapshot of the engine.

Regions, API versions and key modes have been checked by the caller. `within` clips ranges to a region; its bounds are
encoded keys. Raised: InvalidMaxTsUpdate for a timestamp far above PD's, StorageError on damage; all else is in the
response. Safe for threads.

Sources: TiKV src/storage/mod.rs (get_entry, batch_get, scan, scan_lock, buffer_batch_get), src/server/service/kv.rs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import Engine
from pytikv.server.mvcc.errors import KeyIsLocked, MvccError
from pytikv.server.mvcc.info import find_key_by_start_ts, mvcc_info
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.point_getter import PointGetter, Version, read_version
from pytikv.server.mvcc.read_rules import SNAPSHOT, ReadRules, check_ts_conflict
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, LockType
from pytikv.server.mvcc.scanner import Entry, Scanner
from pytikv.server.storage.concurrency import ConcurrencyManager
from pytikv.server.storage.spent import Spent
from pytikv.types import EVERYTHING, KeyRange

__all__ = ["TxnReads"]

_encode = memcomparable.encode


class TxnReads:
    """The commands, on one engine. Keys and bounds in requests are wire keys."""

    def __init__(self, engine: Engine, concurrency: ConcurrencyManager) -> None:
        self._engine = engine
        self._concurrency = concurrency
        self._points = PointGetter(engine)

    # --- single keys --------------------------------------------------------------------------------------------------

    def get(self, key: bytes, version: int) -> bytes | None:
        """Return the value of a wire key at `version` under snapshot isolation. Raises KeyIsLocked."""
        concurrency = self._concurrency
        concurrency.update_max_ts(version)
        encoded = _encode(key)
        lock = concurrency.lock_of(encoded)
        if lock is not None:
            check_ts_conflict(lock, encoded, version, SNAPSHOT)
        return self._points.get(encoded, version)

    def kv_get(self, request: kvrpcpb.GetRequest, spent: Spent | None = None) -> kvrpcpb.GetResponse:
        """Answer KvGet. `spent` is told what was looked at, here as in the others."""
        response = kvrpcpb.GetResponse()
        try:
            rules = ReadRules.of(request.context)
            if rules is SNAPSHOT and not request.need_commit_ts:
                value = self.get(request.key, request.version)
            else:
                key = _encode(request.key)
                self._begin([key], request.version, rules)
                found = self._points.read(key, request.version, rules, need_commit_ts=request.need_commit_ts)
                value = None if found is None else found.value
                if found is not None and request.need_commit_ts:
                    response.commit_ts = found.commit_ts
        except MvccError as error:
            response.error.CopyFrom(error.key_error())
            return response
        if value is None:
            response.not_found = True
        else:
            response.value = value
        if spent is not None:
            size_bytes = 0 if value is None else len(_encode(request.key)) + len(value)
            spent.scanned = 1, int(value is not None), size_bytes
        return response

    def kv_batch_get(self, request: kvrpcpb.BatchGetRequest, spent: Spent | None = None) -> kvrpcpb.BatchGetResponse:
        """Answer KvBatchGet: found pairs and errors in the order of the keys asked for; the missing are left out."""
        response = kvrpcpb.BatchGetResponse()
        rules = ReadRules.of(request.context)
        keys = [_encode(key) for key in request.keys]
        try:
            self._begin(keys, request.version, rules)
        except MvccError as error:
            _fail(response, error)
            return response
        read = _BatchRead(self._engine, self._points, request.version, rules, need_commit_ts=request.need_commit_ts)
        processed = size_bytes = 0
        for wire, key in zip(request.keys, keys, strict=True):
            try:
                found = read.get(key)
            except MvccError as error:
                response.pairs.add(error=error.key_error())
                continue
            if found is not None:
                response.pairs.add(key=wire, value=found.value, commit_ts=found.commit_ts)
                processed += 1
                size_bytes += len(key) + len(found.value)
        if spent is not None:
            spent.scanned = len(keys), processed, size_bytes
        return response

    def kv_buffer_batch_get(
        self, request: kvrpcpb.BufferBatchGetRequest, spent: Spent | None = None
    ) -> kvrpcpb.BufferBatchGetResponse:
        """Answer KvBufferBatchGet: what the transaction `version` has flushed, in the order of the keys.

        A deletion is a pair with an empty value; each key is answered once.
        """
        response = kvrpcpb.BufferBatchGetResponse()
        keys = sorted({_encode(key) for key in request.keys})
        try:
            self._begin(keys, request.version, SNAPSHOT)
        except MvccError as error:
            response.error.CopyFrom(error.key_error())
            return response
        snapshot = self._engine.snapshot()
        reader = MvccReader(snapshot)
        size_bytes = 0
        for key in keys:
            lock = reader.load_lock(key)
            if lock is None or lock.start_ts != request.version:
                continue
            if lock.lock_type is LockType.DELETE:
                value = b""
            elif lock.lock_type is LockType.PUT:
                value = reader.locked_value(key, lock) or b""
            else:
                continue
            response.pairs.add(key=wire_key(key), value=value)
            size_bytes += len(key) + len(value)
        snapshot.close()
        if spent is not None:
            spent.scanned = len(request.keys), len(response.pairs), size_bytes
        return response

    def _begin(self, keys: Sequence[bytes], version: int, rules: ReadRules) -> None:
        """Raise max_ts and look for memory locks."""
        self._concurrency.update_max_ts(version)
        for key in keys:
            lock = self._concurrency.lock_of(key)
            if lock is not None:
                check_ts_conflict(lock, key, version, rules)

    # --- ranges -------------------------------------------------------------------------------------------------------

    def scan(
        self,
        start: bytes,
        end: bytes,
        version: int,
        limit: int,
        *,
        rules: ReadRules = SNAPSHOT,
        key_only: bool = False,
        reverse: bool = False,
        sample_step: int = 0,
        within: KeyRange = EVERYTHING,
    ) -> list[Entry]:
        """Return up to `limit` entries of the wire range `[start, end)`, in either direction. Their keys are encoded.

        Raises KeyIsLocked for a memory lock in the range, WriteConflictError (RCCheckTS).
        """
        lower, upper = _clip(start, end, within)
        self._concurrency.update_max_ts(version)
        for key, lock in self._concurrency.locks_in(lower, upper):
            check_ts_conflict(lock, key, version, rules)
        if limit <= 0 or (upper and lower >= upper):
            return []
        snapshot = self._engine.snapshot()
        scanner = Scanner(snapshot, lower, upper, version, rules, key_only=key_only, reverse=reverse)
        found = scanner.scan(limit, sample_step)
        snapshot.close()
        return found

    def kv_scan(self, request: kvrpcpb.ScanRequest, within: KeyRange = EVERYTHING) -> kvrpcpb.ScanResponse:
        """Answer KvScan. Of a reverse scan, `start_key` is the upper bound; the empty one lies below every key."""
        response = kvrpcpb.ScanResponse()
        start, end = request.start_key, request.end_key
        if request.reverse:
            if not start:
                return response
            start, end = end, start
        try:
            entries = self.scan(
                start,
                end,
                request.version,
                request.limit,
                rules=ReadRules.of(request.context),
                key_only=request.key_only,
                reverse=request.reverse,
                sample_step=request.sample_step,
                within=within,
            )
        except MvccError as error:
            _fail(response, error)
            return response
        add = response.pairs.add
        for key, value, failure in entries:
            if failure is None:
                add(key=wire_key(key), value=value)
            else:
                add(error=failure.key_error())
        return response

    def kv_scan_lock(self, request: kvrpcpb.ScanLockRequest, within: KeyRange = EVERYTHING) -> kvrpcpb.ScanLockResponse:
        """Answer KvScanLock: locks of transactions that began at or below max_version, up to `limit` (0: all)."""
        response = kvrpcpb.ScanLockResponse()
        lower, upper = _clip(request.start_key, request.end_key, within)
        limit, max_version = request.limit, request.max_version
        self._concurrency.update_max_ts(max_version)
        for key, lock in self._concurrency.locks_in(lower, upper):
            if lock.start_ts <= max_version:
                response.error.CopyFrom(KeyIsLocked(lock.info(wire_key(key))).key_error())
                return response
        snapshot = self._engine.snapshot()
        found, _ = MvccReader(snapshot).scan_locks(lower, upper, lambda _, one: one.start_ts <= max_version, limit)
        snapshot.close()
        response.locks.extend(lock.info(wire_key(key)) for key, lock in _cut(found, limit))
        return response

    # --- for people ---------------------------------------------------------------------------------------------------

    def mvcc_get_by_key(self, request: kvrpcpb.MvccGetByKeyRequest) -> kvrpcpb.MvccGetByKeyResponse:
        """Answer MvccGetByKey: lock, versions and values of one key."""
        snapshot = self._engine.snapshot()
        info = mvcc_info(snapshot, _encode(request.key)).to_proto()
        snapshot.close()
        return kvrpcpb.MvccGetByKeyResponse(info=info)

    def mvcc_get_by_start_ts(
        self, request: kvrpcpb.MvccGetByStartTsRequest, within: KeyRange = EVERYTHING
    ) -> kvrpcpb.MvccGetByStartTsResponse:
        """Answer MvccGetByStartTs: the first key of the region that the transaction wrote. Reads the whole region."""
        snapshot = self._engine.snapshot()
        key = find_key_by_start_ts(snapshot, within.start_key, within.end_key, request.start_ts)
        if key is None:
            return kvrpcpb.MvccGetByStartTsResponse(info=kvrpcpb.MvccInfo())
        info = mvcc_info(snapshot, key).to_proto()
        snapshot.close()
        return kvrpcpb.MvccGetByStartTsResponse(key=wire_key(key), info=info)


class _BatchRead:
    """Reads the keys of one batch: each from the present state, or all from one snapshot where that matters."""

    def __init__(
        self, engine: Engine, points: PointGetter, version: int, rules: ReadRules, *, need_commit_ts: bool
    ) -> None:
        self._points = points
        self._version = version
        self._rules = rules
        self._need_commit_ts = need_commit_ts
        self._is_plain = rules is SNAPSHOT and not need_commit_ts and version != TS_MAX
        self._reader = None if self._is_plain else MvccReader(engine.snapshot())

    def get(self, key: bytes) -> Version | None:
        if self._reader is None:
            value = self._points.get(key, self._version)
            return None if value is None else Version(value, 0)
        found = read_version(self._reader, key, self._version, self._rules, need_commit_ts=self._need_commit_ts)
        return found if found is None or self._need_commit_ts else found._replace(commit_ts=0)


def _fail(response: kvrpcpb.BatchGetResponse | kvrpcpb.ScanResponse, error: MvccError) -> None:
    response.error.CopyFrom(error.key_error())
    response.pairs.add(error=response.error)


def _clip(start: bytes, end: bytes, within: KeyRange) -> tuple[bytes, bytes]:
    """Encode a wire range and clip it to a region."""
    lower = max(_encode(start) if start else b"", within.start_key)
    upper = _encode(end) if end else b""
    if within.end_key:
        upper = min(upper, within.end_key) if upper else within.end_key
    return lower, upper


def _cut(found: Iterable[tuple[bytes, Lock]], limit: int) -> Iterable[tuple[bytes, Lock]]:
    """Cut the container of shared locks that goes beyond `limit`: each of its members counts."""
    left = limit
    for key, lock in found:
        if limit and len(lock.members) > left:
            lock = dataclasses.replace(lock, members=lock.members[:left])
        left -= len(lock.members) or 1
        yield key, lock
