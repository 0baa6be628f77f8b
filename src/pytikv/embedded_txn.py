"""Transactional data in a store inside the process: `TxnBackend`'s messages, handed to the commands unserialized.

The protocol of `client.txn` runs here as it does over the wire: locks, lock resolving, heartbeats and fallbacks are
the same code. What differs lies below it:

* *There are no regions*: everything is one, nothing is ever stale, and a split asks for nothing. A prewrite may be
  large, since no connection carries it: transactions of up to `prewrite_bytes` are committed in one phase (1PC).
* *Waiting for a lock*: the command answers with a `Waiting`, whose end may come from any thread, from a transaction of
  another loop or of none. It is waited for through a `SharedFuture`, at most as long as the store allows and the call's
  deadline; then the store is told to answer now. A waiter that is cancelled leaves the queue.
* *Durability*: what the engine keeps after a crash is a prefix of its changes. So only the commit point waits for the
  disk (a commit; a prewrite that may be one, in async commit and 1PC), and with it, whatever came before; locks,
  prewrites of 2PC and rollbacks do not. With `sync=off` nothing does.
* *Time* is PD's oracle in the process. It saves its bound about every 1.5 s of use; on a loop that goes off the loop.
* *Garbage*: raising the GC safe point removes the versions below it at once, in steps off the loop.

Work on more than `INLINE_KEYS` keys, and whatever walks over a range, goes off the loop. After `close`, transactions
that are still held raise ClientClosed, as their client does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from pytikv.ambient import end_of_call
from pytikv.client.backoff import Backoffer, RetryRules
from pytikv.client.request_sender import Call
from pytikv.client.rpcs import KV_BATCH_GET, KV_GET, SPLIT_REGION, Rpc
from pytikv.client.txn.backend import DEFAULT_CONTEXT, GcState, ItemT, RequestContext, TxnBackend, TxnPiece
from pytikv.client.txn.visibility import NAME as VISIBILITY
from pytikv.client.txn.visibility import Visibility
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig
from pytikv.embedded_store import INLINE_KEYS, EmbeddedStore, EmbeddedView, Flushes, open_embedded
from pytikv.errors import ClientClosed, ConfigError, InvalidArgument, TikvError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Runtime
from pytikv.server.mvcc.errors import MvccError
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.tso import BoundReached
from pytikv.server.services.lock_waits import answer_of
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.txn_storage import Done, TxnStorage, Waiting
from pytikv.types import MAX_TIMESTAMP, Consistency, Timestamp
from pytikv.url import Target

__all__ = ["EmbeddedTxn", "open_txn"]

_REGION: Final = "the embedded store"

# Commands that walk over a range, however few keys they name.
_WALKS: Final = frozenset({"KvScanLock", "KvDeleteRange", "UnsafeDestroyRange", "MvccGetByStartTs"})
_ALWAYS_DURABLE: Final = frozenset({"KvCommit", "KvDeleteRange", "UnsafeDestroyRange"})


class _Commands:
    """What all views call; `close` cuts it."""

    __slots__ = ("execute", "get")

    def __init__(self, storage: TxnStorage) -> None:
        self.execute: Callable[[str, Message], Done | Waiting] = storage.execute
        self.get: Callable[[bytes, int], bytes | None] = storage.get

    def cut(self, message: str) -> None:
        def refuse(*_: object) -> Any:
            raise ClientClosed(message)

        self.execute = self.get = refuse


class _Visibility(Visibility):
    """The safe point itself, which is at hand here: neither cached nor asked for."""

    def __init__(self, backend: TxnBackend, pd: PdServer) -> None:
        super().__init__(backend)
        self._pd = pd

    def allows(self, read_ts: int) -> bool:
        """See `Visibility`."""
        return read_ts >= self._pd.gc_states.txn_safe_point

    async def ensure(self, read_ts: int, deadline: float) -> None:
        """See `Visibility`."""
        if not self.allows(read_ts):
            self.tell(self._pd.gc_states.txn_safe_point)
            await super().ensure(read_ts, deadline)


class EmbeddedTxn(EmbeddedView):
    """`TxnBackend` on a store in the process."""

    prewrite_bytes = 1 << 20

    def __init__(
        self,
        rt: Runtime,
        store: EmbeddedStore,
        config: ClientConfig,
        codec: KeyCodec,
        flushes: Flushes,
        commands: _Commands | None = None,
        shared: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(rt, store, config, codec, flushes)
        self.shared: dict[str, Any] = {} if shared is None else shared
        self._commands = commands or _Commands(store.txn)
        self._pd = store.pd
        self._take = store.pd.oracle.try_take_one
        self._rules = RetryRules.of(config.retry, None)

    def with_config(self, config: ClientConfig) -> EmbeddedTxn:
        """Return a view with other options."""
        return EmbeddedTxn(self.rt, self._store, config, self.codec, self._flushes, self._commands, self.shared)

    async def close(self) -> None:
        """Give up the store."""
        self._commands.cut("the client was closed")
        await super().close()

    def abandon(self, *, forked: bool) -> None:
        """Give up the store at once; in a forked child, forget it."""
        self._commands.cut("this client belongs to another process" if forked else "the client was closed")
        super().abandon(forked=forked)

    # --- time ---------------------------------------------------------------------------------------------------------

    async def timestamp(self, deadline: float) -> Timestamp:
        """See `TxnBackend`."""
        try:
            return self._take()
        except BoundReached:  # the disk must be written first
            return await self.rt.run_blocking(self._pd.get_ts)

    async def low_resolution_timestamp(self, max_age_s: float, deadline: float) -> Timestamp:
        """See `TxnBackend`. A new one costs nothing here."""
        return await self.timestamp(deadline)

    async def validate_read_ts(self, read_ts: int, deadline: float) -> None:
        """See `TxnBackend`."""
        if read_ts != MAX_TIMESTAMP and read_ts > (now := await self.timestamp(deadline)):
            raise InvalidArgument(f"read timestamp {read_ts} lies in the future: the present one is {now}")

    # --- the way to the data ------------------------------------------------------------------------------------------

    def call(self, deadline: float | None = None) -> Call:
        """See `TxnBackend`."""
        if deadline is None:
            deadline = end_of_call(self.rt.now(), self.config)
        return Call(Backoffer(self.rt, deadline, self._rules))

    async def find(self, key: bytes, call: Call) -> Any:
        """See `TxnBackend`."""
        return _REGION

    async def group(
        self, items: Sequence[ItemT], key_of: Callable[[ItemT], bytes] | None, call: Call
    ) -> list[tuple[Any, Sequence[ItemT]]]:
        """See `TxnBackend`."""
        return [(_REGION, items)]

    async def pieces(self, start_key: bytes, end_key: bytes, call: Call) -> list[TxnPiece]:
        """See `TxnBackend`."""
        return [TxnPiece(_REGION, start_key, end_key)]

    async def first_piece(self, start_key: bytes, end_key: bytes, call: Call, *, reverse: bool = False) -> TxnPiece:
        """See `TxnBackend`."""
        return TxnPiece(_REGION, start_key, end_key)

    async def get(
        self,
        key: bytes,
        version: int,
        call: Call | None,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        """See `TxnBackend`."""
        self._check_time()
        if context is DEFAULT_CONTEXT and not need_commit_ts:
            try:
                return self._commands.get(key, version)
            except MvccError as error:
                return kvrpcpb.GetResponse(error=error.key_error())
        request = kvrpcpb.GetRequest(key=key, version=version, need_commit_ts=need_commit_ts)
        return await self.send(KV_GET, _REGION, request, call or self.call(), context)

    async def batch_get(
        self,
        region: Any,
        keys: Sequence[bytes],
        version: int,
        call: Call,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        """See `TxnBackend`."""
        request = kvrpcpb.BatchGetRequest(keys=keys, version=version, need_commit_ts=need_commit_ts)
        return await self.send(KV_BATCH_GET, region, request, call, context)

    async def send(
        self, rpc: Rpc, region: Any, request: Message, call: Call, context: RequestContext = DEFAULT_CONTEXT
    ) -> Any:
        """See `TxnBackend`."""
        name = rpc.name
        deadline = call.backoffer.deadline
        if self.rt.now() >= deadline:
            raise call.backoffer.exhausted()
        if context is not DEFAULT_CONTEXT:
            _fill(request, context)
        if rpc is SPLIT_REGION:
            return kvrpcpb.SplitRegionResponse()
        if self.rt.exclusive_connections or not _is_long(name, request):
            done = self._commands.execute(name, request)
        else:
            done = await self.rt.run_blocking(self._commands.execute, name, request)
        if isinstance(done, Waiting):
            done = await answer_of(self.rt, done, min(deadline, self.rt.now() + done.deadline_s))
        if done.ticket and self._is_durable and _is_commit_point(name, request):
            await self._wait_durable(done.ticket, deadline)
        return done.response

    async def send_to_all_stores(self, rpc: Rpc, request: Message, call: Call) -> list[tuple[str, Any]]:
        """See `TxnBackend`."""
        try:
            return [(_REGION, await self.send(rpc, _REGION, request, call))]
        except TikvError as error:
            return [(_REGION, error)]

    # --- PD -----------------------------------------------------------------------------------------------------------

    async def gc_state(self, deadline: float) -> GcState:
        """See `TxnBackend`."""
        states = self._pd.gc_states
        return GcState(states.txn_safe_point, states.gc_safe_point)

    async def advance_txn_safe_point(self, target: int, deadline: float) -> GcState:
        """See `TxnBackend`."""
        if target < self._pd.gc_states.txn_safe_point:
            return await self.gc_state(deadline)
        moved = await self._ask_pd(self._pd.advance_txn_safe_point, target)
        blocker = "" if moved.blocker is None else moved.blocker.service_id
        return GcState(moved.new, self._pd.gc_states.gc_safe_point, blocker)

    async def advance_gc_safe_point(self, target: int, deadline: float) -> GcState:
        """See `TxnBackend`. Returns when the versions are removed."""
        safe_point = await self._ask_pd(self._pd.update_gc_safe_point, target)
        await self._collect(safe_point)
        return await self.gc_state(deadline)

    async def _collect(self, safe_point: int) -> None:
        position: bytes | None = b""
        while position is not None:
            position = await self.rt.run_blocking(self._store.txn.gc_step, safe_point, position)

    async def check_consistency(self) -> Consistency:
        """See `TxnBackend`."""
        return await self.rt.run_blocking(self._check_consistency)

    def _check_consistency(self) -> Consistency:
        found = self._store.txn.check_consistency()
        return Consistency(
            keys=found.keys,
            locks=found.locks,
            writes=found.writes,
            values=found.values,
            damage=found.damage,
            leftovers=found.leftovers,
            problems=tuple(map(str, found.problems)),
        )

    async def set_gc_barrier(self, barrier_id: str, barrier_ts: int, ttl_s: int, deadline: float) -> None:
        """See `TxnBackend`."""
        if barrier_ts < self._pd.gc_states.txn_safe_point:
            raise InvalidArgument(
                f"barrier {barrier_id!r} at {barrier_ts} lies below the transaction safe point, "
                f"{self._pd.gc_states.txn_safe_point}: what it should keep may be gone"
            )
        await self._ask_pd(self._pd.set_gc_barrier, barrier_id, barrier_ts, ttl_s)

    async def delete_gc_barrier(self, barrier_id: str, deadline: float) -> None:
        """See `TxnBackend`."""
        await self._ask_pd(self._pd.delete_gc_barrier, barrier_id)

    async def _ask_pd(self, question: Callable[..., Any], *args: object) -> Any:
        try:
            return await self.rt.run_blocking(question, *args)
        except PdError as error:
            raise InvalidArgument(str(error)) from error

    async def scatter_region(self, region_id: int, deadline: float) -> None:
        """See `TxnBackend`. There is nowhere to go."""

    async def is_scattered(self, region_id: int, deadline: float) -> bool:
        """See `TxnBackend`."""
        return True


def _fill(request: Any, context: RequestContext) -> None:
    """Say in a request's context what the commands heed; priorities and sources are a cluster's."""
    target = request.context
    target.isolation_level = context.isolation
    target.txn_source = context.txn_source
    target.resolved_locks[:] = context.resolved_locks
    target.committed_locks[:] = context.committed_locks


def _is_long(name: str, request: Any) -> bool:
    """Tell whether a command may take more than a moment."""
    if name in ("KvPrewrite", "KvFlush"):
        return len(request.mutations) > INLINE_KEYS
    if name == "KvScan":
        return bool(request.limit > INLINE_KEYS)
    if name == "KvResolveLock":
        return not request.keys  # the whole region
    if name == "KVPessimisticRollback":
        return not request.keys or len(request.keys) > INLINE_KEYS
    return name in _WALKS or len(getattr(request, "keys", ())) > INLINE_KEYS


def _is_commit_point(name: str, request: Any) -> bool:
    """Tell whether what was written must be on the disk before the answer; see the module's docstring."""
    return name in _ALWAYS_DURABLE or (name == "KvPrewrite" and (request.try_one_pc or request.use_async_commit))


async def open_txn(rt: Runtime, target: Target, config: ClientConfig) -> EmbeddedTxn:
    """Open the store at `target`; the opener that `client.txn.backend.open_txn_backend` calls."""
    opened = await open_embedded(rt, target, config, is_raw=False)
    if opened.store.api_version is ApiVersion.V1TTL:
        opened.store.release()
        raise ConfigError(f"{target} was made with ttl=True, for raw data alone: transactions need another place")
    backend = EmbeddedTxn(rt, *opened)
    backend.shared[VISIBILITY] = _Visibility(backend, opened.store.pd)
    return backend
