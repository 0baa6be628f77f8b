"""Locks taken while a pessimistic transaction runs, so that its commit meets no conflict.

A call locks its keys at one `for_update_ts`. The store grants a lock if nothing newer was committed; so what it returns
is the newest value there is, and stays so while the lock is held. The first try uses the last for_update_ts known (at
first start_ts), which saves asking PD wherever nobody else writes. A store that saw a newer version answers a conflict:
a fresh for_update_ts is taken and the keys still missing are asked for again, all inside the call.

*Waiting.* The store queues the request for a second at most (and for less than `rpc_timeout`, so that its answer is in
time); the call sends it again until its own time is over. Before it does, locks whose owner shows no sign of life are
resolved (one that was touched within `_ALIVE_MS` is left alone). A store names the lock only when the wait is over, so
until a call has met one that lives it has itself queued for `_FIRST_WAIT_S` only: nearly all locks go within that time,
and those that the dead left are found by then. Queues are in the order of start_ts: who comes back has lost no place.
`wait_s` 0: KeyLocked at once, unless the lock is a dead one. Time over: LockTimeout.

*A key that is locked already* is not asked for again: its value is read as of its lock.

*A failed call* leaves the transaction as it was: what the call had locked is released in the background, up to the
for_update_ts in use, and the next call takes a higher one, which that release cannot reach. An error about the
transaction itself (rolled back by others) is final.

*Fair locking* (force-lock mode, single keys): the store grants the lock in spite of a newer version and tells its
timestamp, which becomes the for_update_ts; no second round trip, and waiters are served in turn. The prewrite then
states which for_update_ts each such lock must have.

*The primary* is the smallest key of the first call that locked something. Every lock points to it, its heartbeat keeps
all of them alive, so it is locked before the others of its call. A shared lock cannot be one.

Sources: client-go txnkv/transaction/pessimistic.go, txn.go (LockKeys); TiKV src/storage/txn/actions/
acquire_pessimistic_lock.rs. Belongs to one task at a time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NoReturn

from pytikv.client import backoff
from pytikv.client.by_region import run_bounded
from pytikv.client.contexts import rpc_timeout_s
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import KV_PESSIMISTIC_LOCK
from pytikv.client.txn.backend import TxnBackend
from pytikv.client.txn.background import Background
from pytikv.client.txn.buffer import LOCKED, LOCKED_ABSENT, LOCKED_EXISTS, LOCKED_SHARED, Kind, WriteBuffer
from pytikv.client.txn.cleanup import release_locks
from pytikv.client.txn.heartbeat import Beat, HeartBeats
from pytikv.client.txn.key_batches import COMMITTER_CONCURRENCY
from pytikv.client.txn.key_errors import key_error, locks_met, refused_entry
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.plan import MANAGED_TTL_MS, batches
from pytikv.client.txn.snapshot_reader import SnapshotReader
from pytikv.errors import (
    InvalidArgument,
    KeyExists,
    KeyLocked,
    LockTimeout,
    Outcome,
    ServerError,
    TikvError,
    TransactionAborted,
    format_key,
)
from pytikv.observe.telemetry import current_record, status_of
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["Found", "LockWish", "PessimisticLocks"]

_ALIVE_MS: Final = 300
_FIRST_WAIT_S: Final = 0.1
_QUICK_S: Final = 0.02
_NO_WAIT: Final = -1
_MARGIN_S: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class LockWish:
    """How keys are to be locked. `wait_s` None: as long as the call may take."""

    wait_s: float | None = None
    returns_values: bool = False
    checks_existence: bool = False
    only_if_exists: bool = False
    is_shared: bool = False
    must_not_exist: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What locking a key told: whether it exists, and its value where that was asked for."""

    exists: bool
    value: bytes = b""


class _NewerVersion(Exception):
    """Somebody committed above the for_update_ts: take a new one. Internal."""


class _Taking:
    """One call's state."""

    def __init__(self, keys: Sequence[bytes], wish: LockWish, call: Call, wait_until: float) -> None:
        self.keys = keys
        self.wish = wish
        self.call = call
        self.wait_until = wait_until
        self.patience_s = _FIRST_WAIT_S
        self.missing = dict.fromkeys(keys)
        self.found: dict[bytes, Found] = {}
        self.waits = 0
        """How often a lock of another transaction was met."""


class PessimisticLocks:
    """The locks of one transaction; see the module. Keys are wire keys inside, users' keys in `lock` and the buffer."""

    def __init__(
        self, backend: TxnBackend, options: TxnOptions, start_ts: int, begun_s: float, buffer: WriteBuffer
    ) -> None:
        self._backend = backend
        self._options = options
        self._context = options.write_context()
        self._start_ts = start_ts
        self._begun_s = begun_s
        self._buffer = buffer
        self._needs_new_ts = False
        self.primary: bytes | None = None
        self.for_update_ts = start_ts
        self.expected: dict[bytes, int] = {}
        """By user key, the for_update_ts of locks that were taken in spite of a newer version."""
        self._locked_at: dict[bytes, int] = {}
        """By user key, the timestamp at which its lock was granted: no version is newer while it is held."""
        self.beat: Beat | None = None

    # --- locking ------------------------------------------------------------------------------------------------------

    async def lock(self, keys: Sequence[bytes], wish: LockWish, call: Call) -> dict[bytes, Found]:
        """Lock distinct user keys; returns what was asked for, by user key.

        Raises KeyLocked, LockTimeout, KeyExists, Deadlock, which leave the transaction usable; TransactionAborted.
        """
        self._check(keys, wish)
        wanted = [key for key in keys if self._is_wanted(key, wish)]
        if len(wanted) < len(keys) and wish.returns_values:
            return await self._read_held(keys) | (await self.lock(wanted, wish, call) if wanted else {})
        if not wanted:
            return {}
        if wish.only_if_exists and self.primary is None and len(wanted) > 1:
            found = await self._lock_some(wanted[:1], wish, call)
            return found | await self.lock(wanted[1:], wish, call)
        return await self._lock_some(wanted, wish, call)

    def _check(self, keys: Sequence[bytes], wish: LockWish) -> None:
        if self.beat is not None and self.beat.failure is not None:
            raise TransactionAborted(f"the locks were lost: {self.beat.failure}") from self.beat.failure
        for key in keys:
            flags = self._buffer.flags(key)
            if flags & LOCKED_SHARED and not wish.is_shared:
                raise InvalidArgument(
                    f"key {format_key(key)} is locked shared by this transaction and cannot be locked exclusively: "
                    "lock it exclusively from the first"
                )
            if wish.must_not_exist and flags & LOCKED_EXISTS:
                raise KeyExists(f"key {format_key(key)} exists; nothing was written", key=key)
        if wish.is_shared and self.primary is None:
            raise InvalidArgument("a transaction's first lock cannot be shared: lock or write another key before")

    def _is_wanted(self, key: bytes, wish: LockWish) -> bool:
        flags = self._buffer.flags(key)
        if not flags & LOCKED:
            return True
        wants_existence = wish.checks_existence or wish.must_not_exist
        return wants_existence and not flags & (LOCKED_EXISTS | LOCKED_ABSENT)

    async def _read_held(self, keys: Sequence[bytes]) -> dict[bytes, Found]:
        """Read those of `keys` that are locked and were not written here, each as of its lock.

        They are not locked again: a lock that was lost meanwhile would be granted anew, above what others wrote in
        between, and this transaction, which knows the older value, would undo that. So the loss shows at the commit.
        """
        by_ts: dict[int, list[bytes]] = {}
        for key in keys:
            entry = self._buffer.get(key)
            if self._buffer.flags(key) & LOCKED and (entry is None or entry.kind is Kind.NONE):
                by_ts.setdefault(self._locked_at[key], []).append(key)
        options = dataclasses.replace(self._options.read_options(), isolation="SI")
        found: dict[bytes, Found] = {}
        for ts, held in by_ts.items():
            values = await SnapshotReader(self._backend, ts, options).batch_get(held)
            found |= {key: Found(key in values, values.get(key, b"")) for key in held}
        return found

    async def _lock_some(self, keys: Sequence[bytes], wish: LockWish, call: Call) -> dict[bytes, Found]:
        codec = self._backend.codec
        taking = _Taking([codec.encode_key(key) for key in keys], wish, call, self._wait_until(wish, call))
        is_first = self.primary is None
        if is_first:
            self.primary = min(taking.keys)
        try:
            await self._take_all(taking)
            found = {codec.decode_key(key): what for key, what in taking.found.items()}
            self._check_absent(found, wish)
        except BaseException as error:
            await self._give_back(keys, is_first=is_first)
            if isinstance(error, TikvError):
                error.outcome = Outcome.NOT_APPLIED  # locks are no writes
            raise
        for key in keys:
            self._note(key, found.get(key), wish)
        if is_first and not self._buffer.flags(codec.decode_key(self.primary or b"")) & LOCKED:
            self._forget_primary()
        return found

    def _wait_until(self, wish: LockWish, call: Call) -> float:
        deadline = call.backoffer.deadline
        now = self._backend.rt.now()
        until = deadline - min(_MARGIN_S, (deadline - now) / 4)  # time left to say why
        return until if wish.wait_s is None else min(until, now + wish.wait_s)

    def _check_absent(self, found: dict[bytes, Found], wish: LockWish) -> None:
        if wish.must_not_exist:
            for key, what in found.items():
                if what.exists:
                    raise KeyExists(f"key {format_key(key)} exists; nothing was written", key=key)

    def _note(self, key: bytes, found: Found | None, wish: LockWish) -> None:
        flags = LOCKED | (LOCKED_SHARED if wish.is_shared else 0)
        if found is not None:
            if wish.only_if_exists and not found.exists:
                return
            flags |= LOCKED_EXISTS if found.exists else LOCKED_ABSENT
        elif wish.must_not_exist:
            flags |= LOCKED_ABSENT
        self._buffer.mark(key, add=flags)

    # --- one call -----------------------------------------------------------------------------------------------------

    async def _take_all(self, taking: _Taking) -> None:
        while True:
            if self._needs_new_ts:
                now_ts = await self._backend.timestamp(taking.call.backoffer.deadline)
                self.for_update_ts = max(self.for_update_ts, now_ts)
                self._needs_new_ts = False
            try:
                await self._take_missing(taking)
            except _NewerVersion:
                self._needs_new_ts = True
                if taking.wish.wait_s != 0 and self._backend.rt.now() >= taking.wait_until:
                    raise LockTimeout("the keys kept being written by others for the time given") from None
                continue
            return

    async def _take_missing(self, taking: _Taking) -> None:
        if self.primary in taking.missing and self.beat is None:
            assert self.primary is not None
            region = await self._backend.find(self.primary, taking.call)
            await self._take_batch(region, [self.primary], taking, taking.call)
            self.beat = Beat(self.primary, self._start_ts)
            HeartBeats.of(self._backend).begin(self.beat)
        if taking.missing:
            await self._take_keys(list(taking.missing), taking, taking.call)

    async def _take_keys(self, keys: Sequence[bytes], taking: _Taking, call: Call) -> None:
        groups = await self._backend.group(keys, None, call)
        parts = [(region, batch) for region, group in groups for batch in batches(group, len)]
        jobs = [partial(self._take_batch, region, batch, taking, call.fork()) for region, batch in parts]
        await run_bounded(self._backend.rt, jobs, COMMITTER_CONCURRENCY)

    async def _take_batch(self, region: Any, batch: Sequence[bytes], taking: _Taking, call: Call) -> None:
        """Lock keys of one region; one that the store let wait, as far as can be told, has waited for a lock."""
        began, waited, status = self._backend.rt.now(), taking.waits, "ok"
        try:
            await self._insist(region, batch, taking, call)
        except BaseException as error:
            status = status_of(error)
            raise
        finally:
            record = current_record()
            if record is not None:
                ended = self._backend.rt.now()
                if taking.waits > waited or ended - began >= _QUICK_S:
                    record.step("lock_wait", "pessimistic", began, ended, status)

    async def _insist(self, region: Any, batch: Sequence[bytes], taking: _Taking, call: Call) -> None:
        while True:
            request = self._request(batch, taking)
            sent_at = self._backend.rt.now()
            try:
                response = await self._backend.send(KV_PESSIMISTIC_LOCK, region, request, call, self._context)
                if not response.errors:
                    self._read(request, response, taking)
                    return
                await self._on_errors(response.errors, taking, call, sent_at)
            except RegionStale:
                break
            except InvalidArgument as error:
                raise refused_entry(error, [(key, len(key)) for key in batch], self._backend.codec) from error
        await self._take_keys(batch, taking, call)

    def _request(self, batch: Sequence[bytes], taking: _Taking) -> kvrpcpb.PessimisticLockRequest:
        wish, now = taking.wish, self._backend.rt.now()
        is_fair = self._options.fair_locking and len(taking.keys) == 1
        is_fair = is_fair and not (wish.is_shared or wish.only_if_exists or wish.must_not_exist)
        elapsed_ms = int((now - self._begun_s) * 1000)
        request = kvrpcpb.PessimisticLockRequest(
            primary_lock=self.primary or b"",
            start_version=self._start_ts,
            lock_ttl=(self._options.lock_ttl_ms or MANAGED_TTL_MS) + elapsed_ms,
            for_update_ts=self.for_update_ts,
            is_first_lock=len(taking.keys) == 1 and self.beat is None,
            wait_timeout=_NO_WAIT if wish.wait_s == 0 else self._patience_ms(taking, now),
            return_values=wish.returns_values or wish.only_if_exists,
            min_commit_ts=self.for_update_ts + 1,
            check_existence=wish.checks_existence,
            lock_only_if_exists=wish.only_if_exists,
            wake_up_mode=kvrpcpb.WakeUpModeForceLock if is_fair else kvrpcpb.WakeUpModeNormal,
        )
        op = kvrpcpb.SharedPessimisticLock if wish.is_shared else kvrpcpb.PessimisticLock
        assertion = kvrpcpb.NotExist if wish.must_not_exist else kvrpcpb.Assertion.Value("None")
        for key in batch:
            request.mutations.add(op=op, key=key, assertion=assertion)
        return request

    def _patience_ms(self, taking: _Taking, now: float) -> int:
        """How long the store may queue the request: its answer, which tells the lock, must come before the RPC ends."""
        most_s = min(taking.patience_s, rpc_timeout_s(self._backend.config) / 2)
        return max(1, int(min(taking.wait_until - now, most_s) * 1000))

    def _read(
        self, request: kvrpcpb.PessimisticLockRequest, response: kvrpcpb.PessimisticLockResponse, taking: _Taking
    ) -> None:
        keys = [mutation.key for mutation in request.mutations]
        if request.wake_up_mode == kvrpcpb.WakeUpModeForceLock:
            if len(response.results) != 1:
                raise ServerError(f"the store answered {len(response.results)} results for one lock")
            self._read_result(keys[0], response.results[0], taking)
        elif request.return_values or request.check_existence:
            values = response.values if request.return_values else [b""] * len(keys)
            if not len(keys) == len(values) == len(response.not_founds):
                raise ServerError("the store's answer to a lock request does not fit the request")
            for key, value, is_absent in zip(keys, values, response.not_founds, strict=True):
                taking.found[key] = Found(not is_absent, value)
        for key in keys:
            taking.missing.pop(key, None)
            user_key = self._backend.codec.decode_key(key)
            self._locked_at[user_key] = max(request.for_update_ts, self.expected.get(user_key, 0))

    def _read_result(self, key: bytes, result: kvrpcpb.PessimisticLockKeyResult, taking: _Taking) -> None:
        conflict_ts = result.locked_with_conflict_ts
        if result.type == kvrpcpb.LockResultLockedWithConflict:
            self.for_update_ts = max(self.for_update_ts, conflict_ts)
            self.expected[self._backend.codec.decode_key(key)] = conflict_ts
        if taking.wish.returns_values or taking.wish.checks_existence or conflict_ts:
            taking.found[key] = Found(result.existence, result.value)

    # --- what stands in the way ---------------------------------------------------------------------------------------

    async def _on_errors(self, errors: Sequence[kvrpcpb.KeyError], taking: _Taking, call: Call, sent_at: float) -> None:
        """Resolve the locks met, or raise: _NewerVersion, KeyLocked, LockTimeout, what else the store says."""
        for error in errors:
            if error.HasField("conflict") and error.conflict.reason == kvrpcpb.WriteConflict.PessimisticRetry:
                raise _NewerVersion
            if not error.HasField("locked"):
                raise key_error(error, self._backend.codec, self._start_ts)
        locks = locks_met(errors)
        taking.waits += 1
        silent = [lock for lock in locks if not 0 < lock.duration_to_last_update_ms < _ALIVE_MS]
        wait_ms = 1 if len(silent) < len(locks) else 0
        if silent:
            resolver = LockResolver.of(self._backend)
            wait_ms = max(wait_ms, await resolver.resolve_for_write(silent, 0, call, resolve_pessimistic_region=True))
        if wait_ms == 0:
            return
        taking.patience_s = math.inf
        now = self._backend.rt.now()
        if now >= taking.wait_until:
            self._raise_locked(locks[0], taking.wish)
        if now - sent_at < _QUICK_S:  # the store did not queue the request: wait here
            left_s = min(wait_ms / 1000, taking.wait_until - now)
            await call.backoffer.backoff(backoff.TXN_LOCK, f"locked by {locks[0].lock_version}", at_most_s=left_s)

    def _raise_locked(self, lock: kvrpcpb.LockInfo, wish: LockWish) -> NoReturn:
        key = self._backend.codec.decode_key(lock.key)
        holder = f"key {format_key(key)} is locked by transaction {lock.lock_version}"
        if wish.wait_s == 0:
            raise KeyLocked(f"{holder}, and the call was told not to wait", key=key, lock_ts=lock.lock_version)
        raise LockTimeout(f"{holder}, which kept it for the time given", key=key, lock_ts=lock.lock_version)

    # --- giving back --------------------------------------------------------------------------------------------------

    async def _give_back(self, keys: Sequence[bytes], *, is_first: bool) -> None:
        """Release what a failed call may have locked, beside what was locked before."""
        self._needs_new_ts = True
        backend, codec = self._backend, self._backend.codec
        for_update_ts = self.for_update_ts
        taken = [key for key in keys if not self._buffer.flags(key) & LOCKED]
        for key in taken:
            self.expected.pop(key, None)
        wire_keys = [codec.encode_key(key) for key in taken]
        if is_first:
            self._forget_primary()
        if wire_keys:
            await Background.of(backend).submit(
                lambda: release_locks(backend, wire_keys, self._start_ts, for_update_ts, self._context),
                "release of pessimistic locks",
            )

    def _forget_primary(self) -> None:
        self.primary = None
        self.end_beat()

    def end_beat(self) -> None:
        """Stop the heartbeat."""
        if self.beat is not None:
            HeartBeats.of(self._backend).end(self.beat)
            self.beat = None

    def exists(self, key: bytes) -> bool:
        """Whether a key exists, as locking it told; the user key must be locked, with that asked for."""
        return bool(self._buffer.flags(key) & LOCKED_EXISTS)

    def held(self) -> list[bytes]:
        """Return the locked keys, in wire form."""
        encode = self._backend.codec.encode_key
        return [encode(key) for key, entry in self._buffer.items() if entry.flags & LOCKED]

    async def release(self, call: Call | None) -> None:
        """Release all locks. Raises the first failure: the others are left to expire."""
        self.end_beat()
        keys = self.held()
        if keys:
            await release_locks(self._backend, keys, self._start_ts, self.for_update_ts, self._context, call)
