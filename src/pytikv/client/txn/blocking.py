"""The transactional client, blocking: each method drives the coroutine of its asynchronous twin in the calling thread.

There is no loop thread in between (`rt.caller`). Any number of threads may use one client and one snapshot at once; a
transaction serves one thread at a time, and a scan belongs to the thread that iterates. Signatures and docstrings are
the twins'; a test holds the classes together. `run` and `attempts` call back into the program, so they cannot be driven
and are written out, on the same rules (`attempts`). A `put` that has nothing to wait for is carried out directly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from pytikv.client.arguments import check_bytes, prefix_end
from pytikv.client.batch_result import MAX_BYTES
from pytikv.client.blocking_base import iterate
from pytikv.client.pages import Pair
from pytikv.client.txn.admin.blocking import Administration
from pytikv.client.txn.attempts import Attempts
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.read_only import ReadOnly
from pytikv.client.txn.record_batches import RecordBatch, record_batch
from pytikv.client.txn.savepoint import Savepoint
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import ClientClosed, Outcome, WrongType
from pytikv.rt.caller import CallerRuntime
from pytikv.types import Timestamp, Versioned

__all__ = ["Snapshot", "Transaction", "TransactionAttempts", "TransactionClient"]

T = TypeVar("T")
_Self = TypeVar("_Self", bound="TransactionClient")
_Txn = TypeVar("_Txn", bound="Transaction")


class Transaction:
    """A transaction; made by `TransactionClient.begin`. See `AsyncTransaction` for its life and its errors.

    Keys and values are bytes, ranges half-open `[start, end)` with None or `b""` unbounded. For one thread at a time.
    """

    __slots__ = ("__weakref__", "_core", "_rt")

    def __init__(self, core: AsyncTransaction, rt: CallerRuntime) -> None:
        """Use `begin` of a client instead: this is for the library itself."""
        self._core = core
        self._rt = rt

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self: _Txn) -> _Txn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._rt.run(self._core.__aexit__(kind, error, traceback))
        except ClientClosed:
            self._core._let_go()
            if error is None:
                raise

    @property
    def start_ts(self) -> Timestamp:
        """The timestamp that it reads at and that names it. Raises InvalidArgument before it has begun."""
        return self._core.start_ts

    @property
    def commit_ts(self) -> Timestamp | None:
        """The timestamp of its writes; None before the commit, after a failed one, and where nothing was written."""
        return self._core.commit_ts

    @property
    def outcome(self) -> Outcome:
        """What became of its writes, so far as is known: NOT_APPLIED until it is committed."""
        return self._core.outcome

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not ended."""
        return self._core.is_open

    @property
    def is_pessimistic(self) -> bool:
        """Whether it locks keys as it writes them."""
        return self._core.is_pessimistic

    @property
    def is_pipelined(self) -> bool:
        """Whether writes are sent to the stores as they come."""
        return self._core.is_pipelined

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key` as this transaction sees it, None where there is none."""
        return self._rt.run(self._core.get(key))

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the pairs whose keys are there, in the order asked; a key asked twice is answered once."""
        return self._rt.run(self._core.batch_get(keys))

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

        Lazy: pages of `batch_size` (1 to 10240) pairs are fetched as the iteration reaches them. What this transaction
        wrote before the first pair is asked for is in it, what it writes later is not. `limit` bounds the number of
        pairs (None: all); with `keys_only` every value is `b""`. Not for pipelined transactions that have flushed.
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

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """Write a pair. Pessimistic: locks the key first, unless it is locked, and raises as `lock_keys` does.

        Raises TransactionTooLarge. An empty value is a value (other clients may read it as no value at all), except in
        a pipelined transaction, which refuses it.
        """
        core = self._core
        if self._rt.is_closed or not core._put_at_once(key, value):
            self._rt.run(core.put(key, value))

    def insert(self, key: bytes, value: bytes) -> None:
        """Write a pair whose key must not exist. Raises KeyExists: at once where this transaction knows of the key, or
        is pessimistic, else at the commit. Otherwise as `put`."""
        self._rt.run(self._core.insert(key, value))

    def delete(self, key: bytes) -> None:
        """Delete a key; one that is not there is no error. Locks as `put` does."""
        self._rt.run(self._core.delete(key))

    def savepoint(self) -> Savepoint:
        """Return a block, for `with` or `async with`, whose writes are undone when an exception leaves it.

        `.rollback()` of the block undoes them by hand. Keys locked in it stay locked. Not for pipelined transactions.
        """
        return self._core.savepoint()

    def assert_exists(self, key: bytes) -> None:
        """Have the store check at the commit that a key written here existed before; AssertionFailed if not.

        Raises InvalidArgument for a key that was not written, and where the option `assertions` is off.
        """
        self._core.assert_exists(key)

    def assert_not_exists(self, key: bytes) -> None:
        """As `assert_exists`, that it did not exist. Unlike `insert`, a breach means that the data is not sound."""
        self._core.assert_not_exists(key)

    # --- locking ------------------------------------------------------------------------------------------------------

    def lock_keys(self, keys: Iterable[bytes], *, wait: float | None = None, shared: bool = False) -> None:
        """Lock keys against writes of others until the end of the transaction.

        Optimistic: nothing is sent; the commit raises WriteConflict where one of them was written meanwhile.
        Pessimistic: they are locked now. `wait` (seconds) bounds how long others are waited for; None: as long as the
        call may take; 0: KeyLocked at once. `shared`: others may lock them shared, too (not as the first lock).
        Raises KeyLocked, LockTimeout (the transaction stays usable), Deadlock, TransactionAborted.
        """
        self._rt.run(self._core.lock_keys(keys, wait=wait, shared=shared))

    def get_for_update(self, key: bytes, *, wait: float | None = None, only_if_exists: bool = False) -> bytes | None:
        """Lock a key and return its value: the newest one in a pessimistic transaction, else that at `start_ts`.

        `only_if_exists`: leave a key unlocked that does not exist (pessimistic only). Otherwise as `lock_keys`.
        """
        return self._rt.run(self._core.get_for_update(key, wait=wait, only_if_exists=only_if_exists))

    def batch_get_for_update(
        self, keys: Iterable[bytes], *, wait: float | None = None, only_if_exists: bool = False
    ) -> dict[bytes, bytes]:
        """As `get_for_update` for many keys; returns the pairs whose keys are there, in the order asked."""
        return self._rt.run(self._core.batch_get_for_update(keys, wait=wait, only_if_exists=only_if_exists))

    def exists_for_update(self, key: bytes, *, wait: float | None = None) -> bool:
        """Lock a key and tell whether it exists, without its value being sent. Otherwise as `get_for_update`."""
        return self._rt.run(self._core.exists_for_update(key, wait=wait))

    # --- the end ------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make the writes visible, all at once, at `commit_ts`. A transaction that wrote nothing sends nothing.

        Raises WriteConflict, KeyExists, KeyLocked, TransactionAborted, AssertionFailed, TransactionTooLarge: not
        applied; CommitUndetermined: unknown, read before acting. Either way the transaction has ended.
        """
        self._rt.run(self._core.commit())

    def rollback(self) -> None:
        """Give up the writes and release the locks. Harmless when the transaction has ended or never begun, or its
        client was closed (its locks then expire)."""
        try:
            self._rt.run(self._core.rollback())
        except ClientClosed:
            self._core._let_go()


class Snapshot(ReadOnly):
    """The data as it was at one timestamp; read only. Made by `TransactionClient.snapshot`.

    Any number of threads may read from one snapshot at once. Methods raise, beside what their docstrings say:
    SnapshotTooOld when the timestamp fell below the GC safe point, and as `RawClient` does for arguments, connections
    and deadlines. A read that meets a lock of another transaction passes it over where the timestamp allows; otherwise
    it waits, and raises KeyLocked when the time is up.
    """

    __slots__ = ("_core", "_rt")

    def __init__(self, core: AsyncSnapshot, rt: CallerRuntime) -> None:
        """Use `TransactionClient.snapshot` instead: this is for the library itself."""
        self._core = core
        self._rt = rt

    @property
    def ts(self) -> Timestamp:
        """The timestamp."""
        ts = self._core.ts
        assert ts is not None  # `snapshot` has fetched it
        return ts

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None where there is no such key."""
        return self._rt.run(self._core._get(key))

    def get_with_commit_ts(self, key: bytes) -> Versioned | None:
        """Return the value of `key` and the timestamp at which it was committed, None where there is no such key."""
        return self._rt.run(self._core.get_with_commit_ts(key))

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the pairs of those keys that are there, in the order asked."""
        return self._rt.run(self._core.batch_get(keys))

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

        Lazy: pages, at first of `batch_size` (1 to 10240) pairs and then of more, are fetched as the iteration reaches
        them, each within the `timeout`. `limit` bounds the number of pairs (None: all); with `keys_only` every value
        is `b""`.
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


class TransactionClient(Administration[AsyncTransactionClient]):
    """Transactions over all keys. Made by `connect`; closed by `close` or `with`. Any number of threads may share it.

    Keys and values are bytes, ranges half-open `[start, end)` with None or `b""` unbounded. A transaction reads one
    moment and writes all or nothing. Keys of transactions and of `RawClient` are two worlds in API v2.
    """

    __slots__ = ()
    _CORE = AsyncTransactionClient

    # --- life ---------------------------------------------------------------------------------------------------------

    def with_options(
        self: _Self,
        *,
        timeout: float | None = None,
        replica_read: str | None = None,
        priority: str | None = None,
        **options: Any,
    ) -> _Self:
        """Return a client with other options that shares the connections; cheap. None leaves an option as it is.

        Further options: service_class (in place of timeout), rpc_timeout, match_labels, request_source, resource_group,
        resource_group_tag, batch_concurrency, sync. Raises ConfigError.
        """
        core = self._core.with_options(timeout=timeout, replica_read=replica_read, priority=priority, **options)
        return type(self)(core, self._rt)

    # --- transactions -------------------------------------------------------------------------------------------------

    def begin(self, pessimistic: bool = False, **options: Any) -> Transaction:
        """Return a transaction, for `with`, which commits at its end and rolls back on an exception.

        Or call its `commit` or `rollback`. Options are the fields of `TxnOptions`. Raises WrongType, InvalidArgument,
        and what fetching its start_ts may raise: ConnectionFailed, DeadlineExceeded, ServerError.
        """
        core = self._core.begin(pessimistic, **options)
        self._rt.run(core._begin())
        return Transaction(core, self._rt)

    def run(
        self,
        fn: Callable[..., T],
        *args: Any,
        attempts: int = 10,
        pessimistic: bool = False,
        **options: Any,
    ) -> T:
        """Call `fn(txn, *args)` in a transaction, commit, and return its answer.

        Tried again, in a new transaction after a wait that grows, when an error says that this is useful and safe
        (`retryable`, and not applied), at most `attempts` times in all; then the last error is raised. `fn` may run
        several times: it must do nothing else that cannot be repeated. A commit whose answer was lost is never tried
        again: CommitUndetermined. Options are the fields of `TxnOptions`.
        """
        if not callable(fn):
            raise WrongType(f"run needs a function, fn(txn, *args), not {type(fn).__name__}")
        rt = self._rt
        tries = Attempts(rt, attempts)
        while True:
            tries.begin()
            core = self._core.begin(pessimistic, **options)
            try:
                rt.run(core._begin())
                with Transaction(core, rt) as txn:
                    answer = fn(txn, *args)
                    if isinstance(answer, Coroutine):
                        answer.close()
                        raise WrongType("run needs a plain function here; an async one is for AsyncTransactionClient")
                    return answer
            except Exception as error:
                if not tries.failed(error, core.outcome):
                    raise
            rt.run(rt.sleep(tries.wait_s))

    def attempts(self, attempts: int = 10, *, pessimistic: bool = False, **options: Any) -> TransactionAttempts:
        """Return a loop of at most `attempts` transactions that ends with the first success: `run` for a block.

            for txn in db.attempts(10):
                with txn:
                    ...

        The block must be all that the loop's body does. A failed commit is tried again only when the block is left at
        its end or by `continue`: a `return` or `break` in it raises the error instead, since Python would leave the
        loop as if the commit had succeeded. Otherwise as `run`.
        """
        return TransactionAttempts(self._core, self._rt, attempts, {"pessimistic": pessimistic, **options})

    def snapshot(self, ts: int | None = None, **options: Any) -> Snapshot:
        """Return the data as it was at the timestamp `ts`, to be read only. Options are the fields of `ReadOptions`.

        None: the present. `2**64 - 1`: the newest of each key, without a timestamp, for single keys only. Raises
        WrongType, InvalidArgument (also for a timestamp of the future); reads raise SnapshotTooOld for one below the GC
        safe point.
        """
        core = self._core.snapshot(ts, **options)
        self._rt.run(core._begin())
        return Snapshot(core, self._rt)

    def batch(self, *, max_items: int | None = None, max_bytes: int = MAX_BYTES, concurrency: int = 8) -> RecordBatch:
        """Return a batch writer for records of tables (`pytikv.model.batch`), for a with-statement.

        max_items: records after which a batch is written; None: bytes alone decide. max_bytes: of keys and values,
        about. concurrency: transactions under way at once.
        """
        return record_batch(self, max_items=max_items, max_bytes=max_bytes, concurrency=concurrency)

    def current_timestamp(self) -> Timestamp:
        """Return a new timestamp of PD's oracle, larger than all before it."""
        return self._rt.run(self._core.current_timestamp())


class _Attempt(Transaction):
    """One try: its end swallows what is to be tried again."""

    __slots__ = ("_attempts",)

    def __init__(self, core: AsyncTransaction, rt: CallerRuntime, attempts: Attempts) -> None:
        super().__init__(core, rt)
        self._attempts = attempts

    def __exit__(  # type: ignore[override]  # a transaction by itself swallows nothing
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            super().__exit__(kind, error, traceback)
        except BaseException as failure:
            if error is None and self._attempts.commit_failed(failure, self.outcome, sys._getframe(1)):
                return True
            raise
        if error is not None:
            return self._attempts.failed(error, self.outcome)
        self._attempts.end()
        return False


class TransactionAttempts:
    """The loop of `TransactionClient.attempts`; serves one `for`."""

    __slots__ = ("_attempts", "_core", "_options", "_rt")

    def __init__(self, core: AsyncTransactionClient, rt: CallerRuntime, attempts: int, options: dict[str, Any]) -> None:
        self._attempts = Attempts(rt, attempts)
        self._core = core
        self._options = options
        self._rt = rt

    def __iter__(self) -> TransactionAttempts:
        return self

    def __next__(self) -> Transaction:
        if not self._attempts.begin():
            raise StopIteration
        if self._attempts.wait_s:
            self._rt.run(self._rt.sleep(self._attempts.wait_s))
        core = self._core.begin(**self._options)
        self._rt.run(core._begin())
        return _Attempt(core, self._rt, self._attempts)
