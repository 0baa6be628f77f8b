"""Transactions and snapshots that report their calls: what a client makes while a sink is installed.

See `client.observed` for when that is. Recorded are `txn_begin`, `txn_get`, `txn_batch_get`, `txn_scan` (a page each),
`txn_lock` (of pessimistic transactions, whether a write or a lock asked for it), `txn_flush` (pipelined, before the
commit), `txn_commit`, `txn_rollback`; `snapshot_begin`, `snapshot_get`, `snapshot_batch_get`, `snapshot_scan`. Writes
that stay in memory are no calls. Each record notes `start_ts`, those of transactions `mode` (optimistic, pessimistic,
pipelined), and calls on several keys `keys`, their number. A commit notes its `outcome` (not_applied, applied,
undetermined), also when it was cancelled, and `commit_ts`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, Final, TypeVar

from pytikv.client.arguments import check_keys
from pytikv.client.observed import ObservedPages
from pytikv.client.pages import Pages
from pytikv.client.txn.backend import TELEMETRY, TxnBackend
from pytikv.client.txn.makes import AsyncAttempt, Makes
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.pessimistic import Found, LockWish
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.snapshot_reader import SnapshotReader
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.observe.telemetry import Telemetry
from pytikv.types import Versioned

__all__ = ["OBSERVED", "ObservedAttempt", "ObservedSnapshot", "ObservedTransaction", "mode_of"]

T = TypeVar("T")
_Self = TypeVar("_Self", bound="ObservedTransaction")


def mode_of(options: TxnOptions) -> str:
    """Return what kind of transaction options ask for."""
    return "pipelined" if options.pipelined else "pessimistic" if options.pessimistic else "optimistic"


def _telemetry(backend: TxnBackend) -> Telemetry:
    found: Telemetry = backend.shared[TELEMETRY]
    return found


class ObservedTransaction(AsyncTransaction):
    """A transaction whose calls report."""

    __slots__ = ()

    def _facts(self) -> dict[str, Any]:
        return {"start_ts": self._start_ts, "mode": mode_of(self._options)}

    def _record(
        self, method: str, operation: Callable[..., Coroutine[Any, Any, T]], *args: Any, **facts: Any
    ) -> CoroutineType[Any, Any, T]:
        return _telemetry(self._backend).call(method, self._facts() | facts, operation, *args)

    def _begin(self: _Self) -> CoroutineType[Any, Any, _Self]:
        return self._record("txn_begin", super()._begin)

    def get(self, key: bytes) -> CoroutineType[Any, Any, bytes | None]:
        """See `AsyncTransaction`."""
        return self._record("txn_get", super().get, key)

    def batch_get(self, keys: Iterable[bytes]) -> CoroutineType[Any, Any, dict[bytes, bytes]]:
        """See `AsyncTransaction`."""
        wanted = check_keys(keys)
        return self._record("txn_batch_get", super().batch_get, wanted, keys=len(wanted))

    def _scan(self, *arguments: Any, **options: Any) -> Pages:
        return ObservedPages(super()._scan(*arguments, **options), "txn_scan", _telemetry(self._backend), self._facts)

    def _lock(self, keys: Sequence[bytes], wish: LockWish) -> CoroutineType[Any, Any, dict[bytes, Found]]:
        if self._locks is None:
            return super()._lock(keys, wish)  # type: ignore[return-value]  # it is one, whatever the checker calls it
        return self._record("txn_lock", super()._lock, keys, wish, keys=len(keys))

    def _flush(self) -> CoroutineType[Any, Any, None]:
        return self._record("txn_flush", super()._flush)

    def commit(self) -> CoroutineType[Any, Any, None]:
        """See `AsyncTransaction`."""
        facts = self._facts() | {"keys": len(self._buffer)}
        return _telemetry(self._backend).call("txn_commit", facts, self._commit_and_note, facts)

    async def _commit_and_note(self, facts: dict[str, Any]) -> None:
        try:
            await super().commit()
        finally:
            facts["outcome"] = self._outcome.name.lower()
            if self._commit_ts is not None:
                facts["commit_ts"] = self._commit_ts

    def _abandon(self, *, waits: bool) -> CoroutineType[Any, Any, None]:
        return self._record("txn_rollback", partial(super()._abandon, waits=waits))


class ObservedAttempt(ObservedTransaction, AsyncAttempt):
    """A try of `attempts` whose calls report."""

    __slots__ = ()


class ObservedSnapshot(AsyncSnapshot):
    """A snapshot whose calls report."""

    __slots__ = ()

    def _facts(self) -> dict[str, Any]:
        return {"start_ts": self.ts}

    def _record(
        self, method: str, operation: Callable[..., Coroutine[Any, Any, T]], *args: Any, **facts: Any
    ) -> CoroutineType[Any, Any, T]:
        return _telemetry(self._backend).call(method, self._facts() | facts, operation, *args)

    def _begin(self) -> CoroutineType[Any, Any, SnapshotReader]:
        return self._record("snapshot_begin", super()._begin)

    def get(self, key: bytes) -> CoroutineType[Any, Any, bytes | None]:
        """See `AsyncSnapshot`."""
        return self._record("snapshot_get", super().get, key)

    def _get(self, key: bytes) -> CoroutineType[Any, Any, bytes | None]:
        return self.get(key)

    def get_with_commit_ts(self, key: bytes) -> CoroutineType[Any, Any, Versioned | None]:
        """See `AsyncSnapshot`."""
        return self._record("snapshot_get", super().get_with_commit_ts, key)

    def batch_get(self, keys: Iterable[bytes]) -> CoroutineType[Any, Any, dict[bytes, bytes]]:
        """See `AsyncSnapshot`."""
        wanted = check_keys(keys)
        return self._record("snapshot_batch_get", super().batch_get, wanted, keys=len(wanted))

    def _scan(self, *arguments: Any, **options: Any) -> Pages:
        return ObservedPages(
            super()._scan(*arguments, **options), "snapshot_scan", _telemetry(self._backend), self._facts
        )


OBSERVED: Final = Makes(ObservedTransaction, ObservedAttempt, ObservedSnapshot)
