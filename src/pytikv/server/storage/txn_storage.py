"""The transactional commands of a store, on an engine: what services and the embedded store call.

`execute` carries out one request by the name of its RPC and returns the answer, or, for a lock request that must wait,
a `Waiting`. Errors that a client's transaction decides on are in the answer, as TiKV puts them (`error`, `errors`,
error pairs). What concerns the request as such is raised: StorageRefusal (a key or a write over the limits, bounds that
are missing), InvalidMaxTsUpdate (a timestamp far above PD's), StorageError with its outcome.

Nothing waits for the disk to sync: `Done.ticket` is the ticket of what was written, and whoever must answer durably
flushes it first.

Regions, API versions and key modes are the caller's to check. `within` clips what is not given by keys to a region:
scans, ScanLock, the region-wide ResolveLock and PessimisticRollback. Its bounds are encoded keys. Commands that have no
keys run in steps of some hundred, each under its own latches, and may take long.

Where the parts are: `txn_reads` (reads), `txn_writes` (changes of named keys), `txn_waits` (pessimistic locks),
`txn_ranges` (ranges), `txn_runner` (what is around each change), `actions` (what a change is).

Safe for threads. Source: TiKV src/storage/mod.rs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import Message

from pytikv.codec import memcomparable
from pytikv.errors import UnsupportedByServer
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import Engine
from pytikv.server.mvcc.consistency import ConsistencyReport, RawData, check_consistency
from pytikv.server.mvcc.errors import InvalidCommandError, MvccError
from pytikv.server.mvcc.gc import gc_step
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.concurrency import ConcurrencyManager
from pytikv.server.storage.errors import KeyTooLarge
from pytikv.server.storage.limits import MAX_KEY_BYTES
from pytikv.server.storage.spent import Spent
from pytikv.server.storage.txn_ranges import TxnRanges
from pytikv.server.storage.txn_reads import TxnReads
from pytikv.server.storage.txn_runner import CallLater, TxnRunner
from pytikv.server.storage.txn_waits import Done, Waiting, acquire_pessimistic_lock
from pytikv.server.storage.txn_writes import WRITES, WriteCommand, keys_of
from pytikv.types import EVERYTHING, KeyRange

__all__ = ["GC_STEP_RECORDS", "Done", "TxnStorage", "Waiting"]

GC_STEP_RECORDS: Final = 8192

_encode = memcomparable.encode
_Execute = Callable[[Any, KeyRange, Spent | None], Done | Waiting]


class TxnStorage:
    """The commands. `now_s()` is a clock in seconds for waits; `current_ts()` takes a timestamp from PD."""

    def __init__(
        self,
        engine: Engine,
        api_version: ApiVersion,
        *,
        now_s: Callable[[], float],
        current_ts: Callable[[], int],
    ) -> None:
        self.engine = engine
        self.api_version = api_version
        self.concurrency = ConcurrencyManager(current_ts)
        self.reads = TxnReads(engine, self.concurrency)
        self.runner = TxnRunner(engine, self.concurrency, now_s)
        self.ranges = TxnRanges(self.runner, current_ts)
        self.get = self.reads.get
        """`get(wire key, version)`: the value under snapshot isolation, or None. Raises KeyIsLocked (an MvccError)."""
        self._commands = self._make_commands()

    def _make_commands(self) -> dict[str, _Execute]:
        reads, ranges = self.reads, self.ranges
        commands: dict[str, _Execute] = {
            "KvGet": lambda request, _, spent: Done(reads.kv_get(request, spent)),
            "KvBatchGet": lambda request, _, spent: Done(reads.kv_batch_get(request, spent)),
            "KvBufferBatchGet": lambda request, _, spent: Done(reads.kv_buffer_batch_get(request, spent)),
            "KvScan": lambda request, within, _: Done(reads.kv_scan(request, within)),
            "KvScanLock": lambda request, within, _: Done(reads.kv_scan_lock(request, within)),
            "MvccGetByKey": lambda request, *_: Done(reads.mvcc_get_by_key(request)),
            "MvccGetByStartTs": lambda request, within, _: Done(reads.mvcc_get_by_start_ts(request, within)),
            "KvPessimisticLock": self._pessimistic_lock,
            "KvDeleteRange": lambda request, *_: ranges.delete_range(request),
            "UnsafeDestroyRange": lambda request, *_: ranges.unsafe_destroy_range(request),
            "BroadcastTxnStatus": self._broadcast_txn_status,
            "GetLockWaitInfo": self._get_lock_wait_info,
        }
        for name, command in WRITES.items():
            commands[name] = self._writing(command)
        by_keys = {name: commands[name] for name in ("KvResolveLock", "KVPessimisticRollback")}
        by_scan: dict[str, _Execute] = {
            "KvResolveLock": lambda request, within, _: ranges.resolve_lock(request, within),
            "KVPessimisticRollback": lambda request, within, _: ranges.pessimistic_rollback(request, within),
        }
        for name in by_keys:
            commands[name] = _by_keys_or_by_scan(by_keys[name], by_scan[name])
        return commands

    def use_timers(self, call_later: CallLater) -> None:
        """See `TxnRunner.use_timers`."""
        self.runner.use_timers(call_later)

    def execute(
        self, name: str, request: Message, within: KeyRange = EVERYTHING, spent: Spent | None = None
    ) -> Done | Waiting:
        """Carry out the request of the RPC `name` ("KvPrewrite"). Blocks for latches and the engine only.

        `spent` is told what a change took, and refuses one that comes too late (DeadlineExceeded).
        Raises UnsupportedByServer for an unknown name, and see the module's docstring.
        """
        command = self._commands.get(name)
        if command is None:
            raise UnsupportedByServer(f"{name} is no transactional command of this store")
        return command(request, within, spent)

    # --- the store as a whole -----------------------------------------------------------------------------------------

    def gc_step(self, safe_point: int, start: bytes = b"", *, limit: int = GC_STEP_RECORDS) -> bytes | None:
        """Remove versions below `safe_point` that no read at or above it can need, among up to `limit` records.

        `start` is an encoded key. Returns where to go on, None at the end. Locks at or below the safe point must have
        been resolved. Takes no latches.
        """
        step = gc_step(self.engine, start, limit, safe_point)
        if step.batch:
            self.engine.write(step.batch)
        return step.next_start

    def check_consistency(self) -> ConsistencyReport:
        """Check that locks, versions and values of the whole store agree with each other. Reads all of them."""
        raw = RawData.PREFIXED if self.api_version is ApiVersion.V2 else RawData.ANYWHERE
        with contextlib.closing(self.engine.snapshot()) as snapshot:
            return check_consistency(snapshot, raw=raw)

    # --- changes ------------------------------------------------------------------------------------------------------

    def _writing(self, command: WriteCommand) -> _Execute:
        run, make_response = command.run, command.response
        is_list = "errors" in make_response.DESCRIPTOR.fields_by_name

        def execute(request: Any, within: KeyRange, spent: Spent | None) -> Done:
            response: Any = make_response()
            keys = [_encode(key) for key in command.keys(request)]
            if command.limits_keys:
                _check_keys(keys)
            try:
                if not keys:
                    raise InvalidCommandError("a request without keys")
                start_ts = command.start_ts(request)
                _, ticket = self.runner.run(keys, start_ts, lambda work: run(work, keys, request, response), spent)
            except MvccError as error:
                response = make_response()
                if is_list:
                    response.errors.append(error.key_error())
                else:
                    response.error.CopyFrom(error.key_error())
                return Done(response)
            return Done(response, ticket)

        return execute

    def _pessimistic_lock(
        self, request: kvrpcpb.PessimisticLockRequest, within: KeyRange, spent: Spent | None
    ) -> Done | Waiting:
        _check_keys([_encode(key) for key in keys_of(request)])
        return acquire_pessimistic_lock(self.runner, request, spent)

    def _broadcast_txn_status(
        self, request: kvrpcpb.BroadcastTxnStatusRequest, within: KeyRange, spent: Spent | None
    ) -> Done:
        for status in request.txn_status:
            self.runner.statuses.tell(status)
        return Done(kvrpcpb.BroadcastTxnStatusResponse())

    def _get_lock_wait_info(
        self, request: kvrpcpb.GetLockWaitInfoRequest, within: KeyRange, spent: Spent | None
    ) -> Done:
        return Done(kvrpcpb.GetLockWaitInfoResponse(entries=self.runner.queues.waits()))


def _check_keys(encoded: list[bytes]) -> None:
    for key in encoded:
        if len(key) > MAX_KEY_BYTES:
            raise KeyTooLarge(len(key), MAX_KEY_BYTES)


def _by_keys_or_by_scan(by_keys: _Execute, by_scan: _Execute) -> _Execute:
    return lambda request, within, spent: (by_keys if request.keys else by_scan)(request, within, spent)
