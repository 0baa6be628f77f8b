"""A transaction as programs use it: reads, buffered writes, locks, commit. Asynchronous; the blocking one drives this
one.

Writes stay in memory (`buffer`) until the commit; reads see them over the snapshot at `start_ts` (`union`). What
differs between the kinds of transactions is decided here and done elsewhere:

    optimistic     a write or lock only notes; the commit finds conflicts               (`committer`)
    pessimistic    a write first locks its key, and so do locks; the commit finds none  (`pessimistic`)
    pipelined      writes are sent to the stores as they come                           (`pipelined`)

With isolation `RC` each read takes a timestamp of its own, so it sees what is committed by then.

*Life.* `start_ts` is fetched by `await txn` or at the beginning of `async with txn`, whose end commits, or rolls back
on an exception. An operation on a transaction that is not open, or while another one is under way, is InvalidArgument.
The end is reached once; `rollback` is harmless afterwards. A transaction that is forgotten while it holds locks warns
(ResourceWarning) and leaves them to expire.

*What became of it* is in `outcome` and `commit_ts`, whatever was raised, CancelledError and KeyboardInterrupt included.

Errors of every method, beside those it names: WrongType and InvalidArgument before anything is done, ClientClosed, and
the ways to the data that do not lead there: ConnectionFailed, DeadlineExceeded, Overloaded, RegionUnavailable,
ServerError. Reading may raise SnapshotTooOld, KeyLocked.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Generator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

from pytikv.ambient import end_of_call
from pytikv.client.arguments import (
    MAX_SCAN_PAGE,
    check_bytes,
    check_count,
    check_key,
    check_keys,
    check_range,
    check_seconds,
    check_value,
    prefix_end,
)
from pytikv.client.pages import Pages, Pair, iterate
from pytikv.client.request_sender import Call
from pytikv.client.txn.backend import TxnBackend
from pytikv.client.txn.background import Background
from pytikv.client.txn.buffer import (
    ASSERT_EXIST,
    ASSERT_NOT_EXIST,
    LOCKED,
    MUST_NOT_EXIST,
    WriteBuffer,
)
from pytikv.client.txn.committer import Committer
from pytikv.client.txn.lifecycle import Lifecycle, State
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.pessimistic import Found, LockWish, PessimisticLocks
from pytikv.client.txn.pipelined import Pipeline
from pytikv.client.txn.plan import (
    Terms,
    broken_assertion,
    choose_primary,
    lock_ttl_ms,
    plan_mutations,
    write_size,
)
from pytikv.client.txn.savepoint import Savepoint
from pytikv.client.txn.snapshot_reader import SnapshotReader
from pytikv.client.txn.union import UnionScan
from pytikv.errors import AssertionFailed, ClientClosed, InvalidArgument, KeyExists, Outcome, TikvError, format_key
from pytikv.observe.telemetry import as_step
from pytikv.types import Timestamp

__all__ = ["AsyncTransaction"]

_PAGE: Final = 256
_LEVELS: Final = {"off": 0, "fast": 1, "strict": 2}
_Self = TypeVar("_Self", bound="AsyncTransaction")

logger: Final = logging.getLogger("pytikv")


class AsyncTransaction:
    """A transaction; made by `AsyncTransactionClient.begin`. See the module for its life and its errors.

    Keys and values are bytes, ranges half-open `[start, end)` with None or `b""` unbounded. For one task at a time.
    """

    __slots__ = (
        "__weakref__",
        "_backend",
        "_begun_s",
        "_buffer",
        "_commit_ts",
        "_life",
        "_locks",
        "_on_done",
        "_options",
        "_outcome",
        "_pipeline",
        "_reader",
        "_start_ts",
    )

    def __init__(
        self,
        backend: TxnBackend,
        options: TxnOptions,
        *,
        on_done: Callable[[AsyncTransaction], None] | None = None,
    ) -> None:
        """Use `begin` of a client instead: this is for the library itself. `on_done` is called once it has ended."""
        self._backend = backend
        self._options = options
        self._on_done = on_done
        self._life = Lifecycle()
        self._buffer = WriteBuffer(
            max_entry_bytes=options.max_entry_bytes, max_bytes=None if options.pipelined else options.max_txn_bytes
        )
        self._start_ts: Timestamp | None = None
        self._commit_ts: Timestamp | None = None
        self._outcome = Outcome.NOT_APPLIED
        self._begun_s = 0.0
        self._reader: SnapshotReader | None = None
        self._locks: PessimisticLocks | None = None
        self._pipeline: Pipeline | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def __await__(self: _Self) -> Generator[Any, Any, _Self]:
        return self._begin().__await__()

    async def _begin(self: _Self) -> _Self:
        """Fetch start_ts. Raises InvalidArgument for a transaction that has begun."""
        if self._life.state is not State.NEW:
            raise InvalidArgument("the transaction has begun already")
        self._life.enter()
        try:
            backend, options = self._backend, self._options
            given = options.start_ts
            self._begun_s = backend.rt.now()
            if given is not None:
                await backend.validate_read_ts(given, self._deadline())
            ts = Timestamp(given) if given is not None else await backend.timestamp(self._deadline())
            self._start_ts = ts
            if options.pessimistic:
                self._locks = PessimisticLocks(backend, options, ts, self._begun_s, self._buffer)
            if options.pipelined:
                level = _LEVELS[options.assertions]
                self._pipeline = Pipeline(backend, options, ts, self._begun_s, self._buffer, level)
            self._life.state = State.OPEN
        finally:
            self._life.leave()
        return self

    async def __aenter__(self: _Self) -> _Self:
        return await self._begin() if self._life.state is State.NEW else self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._life.state is not State.OPEN:
            return
        if error is None:
            await self.commit()
        else:
            await self._abandon(waits=isinstance(error, Exception))

    def __del__(self) -> None:
        life = getattr(self, "_life", None)
        if life is None or life.state is not State.OPEN or warnings is None:
            return
        if self._locks is not None:
            self._locks.end_beat()
        if len(self._buffer) or (self._pipeline is not None and self._pipeline.has_flushed):
            text = f"transaction {self._start_ts} was neither committed nor rolled back"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    @property
    def start_ts(self) -> Timestamp:
        """The timestamp that it reads at and that names it. Raises InvalidArgument before it has begun."""
        if self._start_ts is None:
            raise InvalidArgument(f"the transaction {State.NEW.value}")
        return self._start_ts

    @property
    def commit_ts(self) -> Timestamp | None:
        """The timestamp of its writes; None before the commit, after a failed one, and where nothing was written."""
        return self._commit_ts

    @property
    def outcome(self) -> Outcome:
        """What became of its writes, so far as is known: NOT_APPLIED until it is committed."""
        return self._outcome

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not ended."""
        return self._life.state is State.OPEN

    @property
    def is_pessimistic(self) -> bool:
        """Whether it locks keys as it writes them."""
        return self._options.pessimistic

    @property
    def is_pipelined(self) -> bool:
        """Whether writes are sent to the stores as they come."""
        return self._options.pipelined

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """Return the value of `key` as this transaction sees it, None where there is none."""
        check_key(key)
        with self._life:
            entry = self._buffer.written(key)
            if entry is not None:
                return entry.found
            if self._pipeline is not None:
                flushed = await self._read_flushed([key])
                if key in flushed:
                    return flushed[key]
            reader = self._reader or await self._new_reader()
            return await reader.get(key)

    async def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the pairs whose keys are there, in the order asked; a key asked twice is answered once."""
        wanted = check_keys(keys)
        with self._life:
            written = self._buffer.written
            own = {key: entry.found for key in wanted if (entry := written(key)) is not None}
            rest = [key for key in wanted if key not in own] if own else wanted
            if self._pipeline is not None and rest:
                own |= await self._read_flushed(rest)
                rest = [key for key in rest if key not in own]
            reader = self._reader or await self._new_reader()
            found = await reader.batch_get(rest) if rest else {}
            if not own:
                return found
            merged = {key: own[key] if key in own else found.get(key) for key in wanted}
            return {key: value for key, value in merged.items() if value is not None}

    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        batch_size: int = _PAGE,
    ) -> AsyncIterator[Pair]:
        """Iterate over the pairs of `[start, end)` in key order, or from its end down with `reverse`.

        Lazy: pages of `batch_size` (1 to 10240) pairs are fetched as the iteration reaches them. What this transaction
        wrote before the first pair is asked for is in it, what it writes later is not. `limit` bounds the number of
        pairs (None: all); with `keys_only` every value is `b""`. Not for pipelined transactions that have flushed.
        """
        return iterate(self._scan(start, end, limit, reverse, keys_only, batch_size))

    def scan_prefix(
        self,
        prefix: bytes,
        *,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        batch_size: int = _PAGE,
    ) -> AsyncIterator[Pair]:
        """Iterate over the pairs whose keys begin with `prefix`; otherwise as `scan`."""
        check_bytes("prefix", prefix)
        return iterate(self._scan(prefix, prefix_end(prefix), limit, reverse, keys_only, batch_size))

    def _scan(
        self,
        start: bytes | None,
        end: bytes | None,
        limit: int | None,
        reverse: bool,
        keys_only: bool,
        batch_size: int,
    ) -> Pages:
        low, high = check_range(start, end)
        if limit is not None:
            check_count("limit", limit, low=0)
        check_count("batch_size", batch_size, high=MAX_SCAN_PAGE)
        begin = partial(self._union, low, high, limit, bool(reverse), bool(keys_only), batch_size)
        return _OwnScan(self._life, begin)

    async def _union(
        self, low: bytes, high: bytes, limit: int | None, reverse: bool, keys_only: bool, batch_size: int
    ) -> UnionScan:
        if self._pipeline is not None and self._pipeline.has_flushed:
            raise InvalidArgument("a pipelined transaction that has sent writes to the stores cannot scan")
        reader = self._reader or await self._new_reader()
        page = batch_size if limit is None else max(1, min(batch_size, limit))
        theirs = reader.scan(low, high, reverse=reverse, keys_only=keys_only, batch_size=page)
        own = self._buffer.view(low, high, reverse=reverse) if len(self._buffer) else None
        return UnionScan(theirs, own, reverse=reverse, keys_only=keys_only, limit=limit, page_size=batch_size)

    async def _new_reader(self) -> SnapshotReader:
        """Return a reader: the transaction's own, made with its first read, or under isolation RC one for this read."""
        options = self._options
        if options.isolation == "RC":
            ts = await self._backend.timestamp(self._deadline())
            return SnapshotReader(self._backend, ts, options.read_options())
        self._reader = SnapshotReader(self._backend, self.start_ts, options.read_options())
        return self._reader

    async def _read_flushed(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        assert self._pipeline is not None
        if not self._pipeline.has_flushed:
            return {}
        return await self._pipeline.read(keys, self._backend.call(self._deadline()))

    # --- writing ------------------------------------------------------------------------------------------------------

    async def put(self, key: bytes, value: bytes) -> None:
        """Write a pair. Pessimistic: locks the key first, unless it is locked, and raises as `lock_keys` does.

        Raises TransactionTooLarge. An empty value is a value (other clients may read it as no value at all), except in
        a pipelined transaction, which refuses it.
        """
        check_key(key)
        check_value(value)
        with self._life:
            await self._write(key, value)

    async def insert(self, key: bytes, value: bytes) -> None:
        """Write a pair whose key must not exist. Raises KeyExists: at once where this transaction knows of the key, or
        is pessimistic, else at the commit. Otherwise as `put`."""
        check_key(key)
        check_value(value)
        with self._life:
            entry = self._buffer.written(key)
            if entry is not None and entry.found is not None:
                raise self._exists(key)
            is_deleted = entry is not None
            if self._pipeline is not None and not is_deleted:
                flushed = await self._read_flushed([key])
                if flushed.get(key) is not None:
                    raise self._exists(key)
                is_deleted = key in flushed
            await self._write(key, value, must_not_exist=not is_deleted)

    async def delete(self, key: bytes) -> None:
        """Delete a key; one that is not there is no error. Locks as `put` does."""
        check_key(key)
        with self._life:
            await self._write(key, None)

    def _put_at_once(self, key: bytes, value: bytes) -> bool:
        """As `put`, where nothing can be to wait for, neither a lock nor a flush; else do nothing and return False."""
        if self._locks is not None or self._pipeline is not None:
            return False
        check_key(key)
        check_value(value)
        with self._life:
            self._buffer.put(key, value)
        return True

    def _write_at_once(self, writes: Mapping[bytes, bytes | None], new: Container[bytes] = ()) -> bool:
        """Write many, all or none, as `put`, `delete` (of None) and `insert` (of those in `new`) do, where there can be
        nothing to wait for, neither a lock nor a flush; else do nothing and return False. Keys and values are bytes."""
        if self._locks is not None or self._pipeline is not None:
            return False
        buffer = self._buffer
        with self._life, Savepoint(buffer):
            for key, value in writes.items():
                if value is None:
                    buffer.delete(key)
                elif key in new:
                    entry = buffer.written(key)
                    if entry is not None and entry.found is not None:
                        raise self._exists(key)
                    buffer.put(key, value, add_flags=MUST_NOT_EXIST if entry is None else 0)
                else:
                    buffer.put(key, value)
        return True

    async def _write(self, key: bytes, value: bytes | None, *, must_not_exist: bool = False) -> None:
        buffer = self._buffer
        if self._pipeline is not None and value == b"":
            raise InvalidArgument("a pipelined transaction cannot write an empty value: delete the key")
        if self._locks is not None:
            buffer.check(key, value or b"")  # before the key is locked; without a lock, `put` checks early enough
            await self._lock([key], LockWish(must_not_exist=must_not_exist))
        if value is None:
            buffer.delete(key)
        else:
            buffer.put(key, value, add_flags=MUST_NOT_EXIST if must_not_exist else 0)
        if self._pipeline is not None:
            self._pipeline.check()
            if self._pipeline.is_due():
                await self._flush()

    async def _flush(self) -> None:
        assert self._pipeline is not None
        await self._pipeline.flush(self._backend.call(self._deadline()))

    @staticmethod
    def _exists(key: bytes) -> KeyExists:
        return KeyExists(f"key {format_key(key)} exists: this transaction has written it", key=key)

    def savepoint(self) -> Savepoint:
        """Return a block, for `with` or `async with`, whose writes are undone when an exception leaves it.

        `.rollback()` of the block undoes them by hand. Keys locked in it stay locked. Not for pipelined transactions.
        """
        if self._life.state is not State.OPEN:
            raise InvalidArgument(f"the transaction {self._life.state.value}")
        if self._pipeline is not None:
            raise InvalidArgument("a pipelined transaction has no savepoints: what is sent cannot be undone by parts")
        return Savepoint(self._buffer)

    def assert_exists(self, key: bytes) -> None:
        """Have the store check at the commit that a key written here existed before; AssertionFailed if not.

        Raises InvalidArgument for a key that was not written, and where the option `assertions` is off.
        """
        self._assert(key, ASSERT_EXIST, ASSERT_NOT_EXIST)

    def assert_not_exists(self, key: bytes) -> None:
        """As `assert_exists`, that it did not exist. Unlike `insert`, a breach means that the data is not sound."""
        self._assert(key, ASSERT_NOT_EXIST, ASSERT_EXIST)

    def _assert(self, key: bytes, flag: int, other: int) -> None:
        check_key(key)
        with self._life:
            if self._options.assertions == "off":
                raise InvalidArgument("assertions are off: begin the transaction with assertions='fast' or 'strict'")
            if self._buffer.written(key) is None:
                raise InvalidArgument(f"key {format_key(key)} was not written: assert after the write")
            self._buffer.mark(key, add=flag, drop=other)

    # --- locking ------------------------------------------------------------------------------------------------------

    async def lock_keys(self, keys: Iterable[bytes], *, wait: float | None = None, shared: bool = False) -> None:
        """Lock keys against writes of others until the end of the transaction.

        Optimistic: nothing is sent; the commit raises WriteConflict where one of them was written meanwhile.
        Pessimistic: they are locked now. `wait` (seconds) bounds how long others are waited for; None: as long as the
        call may take; 0: KeyLocked at once. `shared`: others may lock them shared, too (not as the first lock).
        Raises KeyLocked, LockTimeout (the transaction stays usable), Deadlock, TransactionAborted.
        """
        wanted = check_keys(keys)
        wait_s = None if wait is None else check_seconds("wait", wait)
        with self._life:
            await self._lock(wanted, LockWish(wait_s=wait_s, is_shared=bool(shared)))

    async def get_for_update(
        self, key: bytes, *, wait: float | None = None, only_if_exists: bool = False
    ) -> bytes | None:
        """Lock a key and return its value: the newest one in a pessimistic transaction, else that at `start_ts`.

        `only_if_exists`: leave a key unlocked that does not exist (pessimistic only). Otherwise as `lock_keys`.
        """
        found = await self.batch_get_for_update([key], wait=wait, only_if_exists=only_if_exists)
        return found.get(key)

    async def batch_get_for_update(
        self, keys: Iterable[bytes], *, wait: float | None = None, only_if_exists: bool = False
    ) -> dict[bytes, bytes]:
        """As `get_for_update` for many keys; returns the pairs whose keys are there, in the order asked."""
        wanted = check_keys(keys)
        wait_s = None if wait is None else check_seconds("wait", wait)
        with self._life:
            wish = LockWish(wait_s=wait_s, returns_values=True, only_if_exists=bool(only_if_exists))
            found = await self._lock(wanted, wish)
        if self._locks is None:
            return await self.batch_get(wanted)
        result = {}
        for key in wanted:
            entry = self._buffer.written(key)
            if entry is None:
                if key in found and found[key].exists:
                    result[key] = found[key].value
            elif entry.found is not None:
                result[key] = entry.found
        return result

    async def exists_for_update(self, key: bytes, *, wait: float | None = None) -> bool:
        """Lock a key and tell whether it exists, without its value being sent. Otherwise as `get_for_update`."""
        check_key(key)
        wait_s = None if wait is None else check_seconds("wait", wait)
        if self._locks is None:
            return await self.get_for_update(key, wait=wait) is not None
        with self._life:
            found = await self._lock([key], LockWish(wait_s=wait_s, checks_existence=True))
            entry = self._buffer.written(key)
            if entry is not None:
                return entry.found is not None
            return found[key].exists if key in found else self._locks.exists(key)

    async def _lock(self, keys: Sequence[bytes], wish: LockWish) -> dict[bytes, Found]:
        if self._pipeline is not None:
            raise InvalidArgument("a pipelined transaction cannot lock keys")
        for key in keys:
            self._buffer.check(key, b"")
        if self._locks is not None:
            if not keys:
                return {}
            # A wait that the caller asked for comes on top of what a call may take.
            end = end_of_call(self._backend.rt.now(), self._backend.config, wish.wait_s or 0.0)
            return await self._locks.lock(keys, wish, self._backend.call(end))
        if wish.is_shared or wish.only_if_exists:
            raise InvalidArgument("shared locks and only_if_exists need a pessimistic transaction")
        for key in keys:
            self._buffer.mark(key, add=LOCKED)
        return {}

    # --- the end ------------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Make the writes visible, all at once, at `commit_ts`. A transaction that wrote nothing sends nothing.

        Raises WriteConflict, KeyExists, KeyLocked, TransactionAborted, AssertionFailed, TransactionTooLarge: not
        applied; CommitUndetermined: unknown, read before acting. Either way the transaction has ended.
        """
        with self._life:
            try:
                await self._commit()
            except BaseException:
                self._end(State.FAILED)
                raise
            self._end(State.COMMITTED)

    async def _commit(self) -> None:
        call = self._backend.call(self._deadline())
        committer = await self._committer(call)
        if committer is None:
            self._outcome = Outcome.APPLIED
            return
        try:
            await committer.run(call)
        finally:
            self._outcome, self._commit_ts = committer.outcome, committer.commit_ts

    async def _committer(self, call: Call) -> Committer | None:
        """Return what commits this transaction; None where there is nothing to commit."""
        pipeline = self._pipeline
        if pipeline is None or not pipeline.has_flushed:
            return self._committer_of_buffer()
        try:
            await pipeline.flush(call)
            pipeline.check()
        except BaseException:
            await pipeline.roll_back()
            raise
        return pipeline.committer()

    def _committer_of_buffer(self) -> Committer | None:
        locks = self._locks
        expected = locks.expected if locks is not None else None
        mutations = plan_mutations(
            self._buffer.items(), self._backend.codec.encode_key, is_pessimistic=locks is not None, expected=expected
        )
        if not mutations:
            return None
        elapsed_ms = int((self._backend.rt.now() - self._begun_s) * 1000)
        size = sum(map(write_size, mutations))
        terms = Terms(
            choose_primary(mutations, locks.primary if locks is not None else None),
            self.start_ts,
            lock_ttl_ms(size, elapsed_ms, self._options.lock_ttl_ms),
            for_update_ts=locks.for_update_ts if locks is not None else 0,
            assertion_level=_LEVELS[self._options.assertions],
        )
        return Committer(
            self._backend,
            self._options,
            terms,
            mutations,
            begun_s=self._begun_s,
            beat=locks.beat if locks is not None else None,
            broken=self._broken_assertion() if locks is not None else None,
        )

    def _broken_assertion(self) -> AssertionFailed | None:
        broken = broken_assertion(self._buffer.items())
        if broken is None:
            return None
        key, flag = broken
        claim = (
            "exists, and locking it showed that it does not" if flag == ASSERT_EXIST else "does not exist, and it does"
        )
        text = f"the transaction asserted that key {format_key(key)} {claim}"
        return AssertionFailed(text, key=key, start_ts=self.start_ts)

    async def rollback(self) -> None:
        """Give up the writes and release the locks. Harmless when the transaction has ended or never begun, or its
        client was closed (its locks then expire)."""
        if self._life.state in (State.NEW, State.OPEN):
            await self._abandon(waits=True)

    async def _abandon(self, *, waits: bool) -> None:
        """Roll back; `waits`: until the locks are released, else they are in the background."""
        self._life.enter()
        try:
            self._end(State.ROLLED_BACK)
            if self._pipeline is not None:
                await self._pipeline.roll_back()
            if self._locks is not None:
                await self._release(self._locks, waits=waits)
        except ClientClosed:
            logger.info("the client was closed: locks of transaction %s are left to expire", self._start_ts)
        finally:
            self._life.leave()

    def _let_go(self) -> None:
        """End, where the client is closed and nothing can be sent any more."""
        if self._life.state in (State.NEW, State.OPEN):
            self._end(State.ROLLED_BACK)

    async def _release(self, locks: PessimisticLocks, *, waits: bool) -> None:
        if waits:
            try:
                release = locks.release(self._backend.call(self._deadline()))
                await as_step(self._backend.rt.now, "phase", "rollback", release)
                return
            except ClientClosed:
                raise
            except TikvError as error:  # as a rule the caller's time is over: others should not wait for a TTL
                logger.info("locks of transaction %s are released in the background: %s", self._start_ts, error)
            except BaseException:  # cancelled in the middle of it
                with contextlib.suppress(ClientClosed):
                    await self._release_behind(locks)
                raise
        await self._release_behind(locks)

    async def _release_behind(self, locks: PessimisticLocks) -> None:
        locks.end_beat()
        await Background.of(self._backend).submit(lambda: locks.release(None), "rollback")

    def _end(self, state: State) -> None:
        self._life.state = state
        if self._locks is not None:
            self._locks.end_beat()
        if self._on_done is not None:
            done, self._on_done = self._on_done, None
            done(self)

    def _deadline(self) -> float:
        return end_of_call(self._backend.rt.now(), self._backend.config)


class _OwnScan:
    """A scan under way: each page is an operation of the transaction, for its turn and state."""

    __slots__ = ("_begin", "_life", "_scan")

    def __init__(self, life: Lifecycle, begin: Callable[[], Awaitable[UnionScan]]) -> None:
        self._life = life
        self._begin = begin
        self._scan: UnionScan | None = None

    async def next_page(self) -> list[Pair]:
        """Return the next pairs; an empty list at the end."""
        with self._life:
            if self._scan is None:
                self._scan = await self._begin()
            return await self._scan.next_page()
