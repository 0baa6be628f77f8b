"""The transactional client, asynchronous: begins transactions and snapshots, tries again what may be tried again.

What a transaction is and does: `transaction`. When it is tried again: `attempts`. A client may be used by any number of
tasks of its event loop at once; a transaction belongs to one. Options of a client hold for one view; `with_options`
makes another one, and transactions begun earlier keep theirs.

`close` lets the background work of committed transactions end (their secondaries), within the option `timeout`;
transactions that are still open can do nothing any more, and the locks that they hold expire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from pytikv.client.arguments import check_count
from pytikv.client.batch_result import MAX_BYTES
from pytikv.client.observed import recorded
from pytikv.client.txn.admin.facade import AsyncAdministration
from pytikv.client.txn.admin.gc import BackgroundGc
from pytikv.client.txn.attempts import Attempts
from pytikv.client.txn.backend import TELEMETRY, TxnBackend, open_txn_backend
from pytikv.client.txn.background import Background
from pytikv.client.txn.heartbeat import HeartBeats
from pytikv.client.txn.makes import PLAIN, Makes
from pytikv.client.txn.options import TxnOptions, read_options, txn_options
from pytikv.client.txn.record_batches import AsyncRecordBatch, async_record_batch
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType
from pytikv.observe.telemetry import Telemetry
from pytikv.types import MAX_TIMESTAMP, Timestamp

__all__ = ["AsyncAttempts", "AsyncTransactionClient"]

T = TypeVar("T")
_Self = TypeVar("_Self", bound="AsyncTransactionClient")

_GC: Final = "background gc"
_VIEW_OPTIONS: Final = frozenset(
    {
        "timeout",
        "service_class",
        "rpc_timeout",
        "replica_read",
        "match_labels",
        "priority",
        "request_source",
        "resource_group",
        "resource_group_tag",
        "batch_concurrency",
        "sync",
    }
)


class AsyncTransactionClient(AsyncAdministration):
    """Transactions over all keys. Made by `connect`; closed by `close` or `async with`.

    Keys and values are bytes, ranges half-open `[start, end)` with None or `b""` unbounded. A transaction reads one
    moment and writes all or nothing. Keys of transactions and of `AsyncRawClient` are two worlds in API v2.
    """

    __slots__ = ("_makes",)
    _makes: Makes
    _VIEW_OPTIONS = _VIEW_OPTIONS
    _open_backend = staticmethod(open_txn_backend)

    # --- life ---------------------------------------------------------------------------------------------------------

    def _observe(self, telemetry: Telemetry | None) -> None:
        if telemetry is None:
            self._makes = PLAIN
        else:
            from pytikv.client.txn.observed import OBSERVED  # here: most programs never need it

            self._backend.shared[TELEMETRY] = telemetry
            self._makes = OBSERVED

    def _begin_work(self, backend: TxnBackend) -> None:
        config = backend.config
        if config.gc_interval is not None:
            work = backend.shared[_GC] = BackgroundGc(backend, config.gc_interval, config.gc_life_time)
            work.start()

    async def _finish(self, backend: TxnBackend) -> None:
        collecting: BackgroundGc | None = backend.shared.pop(_GC, None)
        if collecting is not None:
            collecting.stop()
        HeartBeats.of(backend).close()
        await Background.of(backend).drain(backend.rt.now() + backend.config.timeout)

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
        return self._view({"timeout": timeout, "replica_read": replica_read, "priority": priority, **options})

    # --- transactions -------------------------------------------------------------------------------------------------

    def begin(self, pessimistic: bool = False, **options: Any) -> AsyncTransaction:
        """Return a transaction, for `async with`, which commits at its end and rolls back on an exception.

        Or await it, and call its `commit` or `rollback`. Options are the fields of `TxnOptions`. Raises WrongType,
        InvalidArgument; its start_ts is fetched when it is entered or awaited.
        """
        return self._makes.transaction(self._backend, _options(pessimistic, options))

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        attempts: int = 10,
        pessimistic: bool = False,
        **options: Any,
    ) -> T:
        """Await `fn(txn, *args)` in a transaction, commit, and return its answer.

        Tried again, in a new transaction after a wait that grows, when an error says that this is useful and safe
        (`retryable`, and not applied), at most `attempts` times in all; then the last error is raised. `fn` may run
        several times: it must do nothing else that cannot be repeated. A commit whose answer was lost is never tried
        again: CommitUndetermined. Options are the fields of `TxnOptions`.
        """
        if not callable(fn):
            raise WrongType(f"run needs an async function, fn(txn, *args), not {type(fn).__name__}")
        backend, wanted = self._backend, _options(pessimistic, options)
        tries = Attempts(backend.rt, attempts)
        while True:
            tries.begin()
            txn = self._makes.transaction(backend, wanted)
            try:
                async with txn:
                    answer = fn(txn, *args)
                    if not isinstance(answer, Awaitable):
                        raise WrongType("run needs an async function here: async def fn(txn, ...)")
                    return await answer
            except Exception as error:
                if not tries.failed(error, txn.outcome):
                    raise
            await backend.rt.sleep(tries.wait_s)

    def attempts(self, attempts: int = 10, *, pessimistic: bool = False, **options: Any) -> AsyncAttempts:
        """Return a loop of at most `attempts` transactions that ends with the first success: `run` for a block.

            async for txn in db.attempts(10):
                async with txn:
                    ...

        The block must be all that the loop's body does. A failed commit is tried again only when the block is left at
        its end or by `continue`: a `return` or `break` in it raises the error instead, since Python would leave the
        loop as if the commit had succeeded. Otherwise as `run`.
        """
        return AsyncAttempts(self._backend, _options(pessimistic, options), attempts, self._makes.attempt)

    def snapshot(self, ts: int | None = None, **options: Any) -> AsyncSnapshot:
        """Return the data as it was at the timestamp `ts`, to be read only. Options are the fields of `ReadOptions`.

        None: the present, which is the moment of the first read, or of `await db.snapshot()`. `2**64 - 1`: the newest
        of each key, without a timestamp, for single keys only. Raises WrongType, InvalidArgument; reads raise
        InvalidArgument for a timestamp of the future and SnapshotTooOld for one below the GC safe point.
        """
        if ts is not None:
            check_count("ts", ts, high=MAX_TIMESTAMP)
        return self._makes.snapshot(self._backend, ts, read_options(options))

    def batch(
        self, *, max_items: int | None = None, max_bytes: int = MAX_BYTES, concurrency: int = 8
    ) -> AsyncRecordBatch:
        """Return a batch writer for records of tables (`pytikv.model.batch`), for a with-statement.

        max_items: records after which a batch is written; None: bytes alone decide. max_bytes: of keys and values,
        about. concurrency: transactions under way at once.
        """
        return async_record_batch(self, max_items=max_items, max_bytes=max_bytes, concurrency=concurrency)

    @recorded
    async def current_timestamp(self) -> Timestamp:
        """Return a new timestamp of PD's oracle, larger than all before it."""
        return await self._backend.timestamp(self._deadline())


def _options(pessimistic: bool, options: Mapping[str, Any]) -> TxnOptions:
    return txn_options(options if pessimistic is False else {"pessimistic": pessimistic, **options})


class AsyncAttempts:
    """The loop of `AsyncTransactionClient.attempts`; serves one `async for`."""

    __slots__ = ("_attempts", "_backend", "_make", "_options")

    def __init__(
        self, backend: TxnBackend, options: TxnOptions, attempts: int, make: Callable[..., AsyncTransaction]
    ) -> None:
        self._make = make
        self._backend = backend
        self._options = options
        self._attempts = Attempts(backend.rt, attempts)

    def __aiter__(self) -> AsyncAttempts:
        return self

    async def __anext__(self) -> AsyncTransaction:
        if not self._attempts.begin():
            raise StopAsyncIteration
        if self._attempts.wait_s:
            await self._backend.rt.sleep(self._attempts.wait_s)
        return self._make(self._backend, self._options, self._attempts)
