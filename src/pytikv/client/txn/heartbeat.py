"""Signs of life: the primary's lock is told to live on while its transaction does.

One keeper per connect (`HeartBeats.of`) serves all transactions of a client. It sleeps until the first one is due,
every `PERIOD_S`, so a transaction shorter than that costs an entry in a dictionary and no request. One that failed is
sent again `_AGAIN_S` later, well before the TTL is over. The new TTL is the transaction's age plus `MANAGED_TTL_MS`;
the age is counted in the oracle's time, never by this machine's clock.

A heartbeat ends with its transaction (`end`), when the store no longer knows the lock, after `_FAILURES_MAX` failures
in a row, or at a ripe age: an hour, a day for a pipelined transaction. From then on the locks expire, and `failure`
tells the transaction so.

Flushed locks (pipelined) carry a min_commit_ts too, which lets readers pass; each beat moves it to the present.

Source: client-go txnkv/transaction/2pc.go (ttlManager). Safe for threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from pytikv.ambient import forget_ambient, on_behalf
from pytikv.client.by_region import run_bounded
from pytikv.client.rpcs import KV_TXN_HEART_BEAT
from pytikv.client.txn.backend import TxnBackend, as_call, one_for_all, send_to_key
from pytikv.client.txn.key_errors import key_error
from pytikv.client.txn.plan import MANAGED_TTL_MS
from pytikv.errors import TikvError, TransactionAborted
from pytikv.observe.telemetry import forget_record
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Task
from pytikv.rt.locks import mutex
from pytikv.types import Timestamp

__all__ = ["PERIOD_S", "Beat", "HeartBeats"]

PERIOD_S: Final = MANAGED_TTL_MS / 2 / 1000
_AGAIN_S: Final = 2.0
_CALL_S: Final = 5.0
_FAILURES_MAX: Final = 30
_AGE_MAX_MS: Final = 3_600_000
_PIPELINED_AGE_MAX_MS: Final = 24 * 3_600_000
_NAME: Final = "heartbeats"

logger: Final = logging.getLogger("pytikv")


class Beat:
    """One transaction's heartbeat. `failure`: why it ended before its transaction; None while all is well."""

    __slots__ = ("due_s", "failed", "failure", "is_pipelined", "primary", "start_ts", "work")

    work: Callable[[], Coroutine[Any, Any, None]]
    """Sends one, on behalf of whoever began it."""

    def __init__(self, primary: bytes, start_ts: int, *, is_pipelined: bool = False) -> None:
        self.primary = primary
        self.start_ts = start_ts
        self.is_pipelined = is_pipelined
        self.due_s = 0.0
        self.failed = 0
        self.failure: TikvError | None = None


class HeartBeats:
    """The keeper; see the module."""

    def __init__(self, backend: TxnBackend) -> None:
        self._backend = backend
        self._lock = mutex()
        self._beats: dict[Beat, None] = {}
        self._keeper: Task[None] | None = None

    @classmethod
    def of(cls, backend: TxnBackend) -> HeartBeats:
        """Return the one of this connect, made when it is first asked for."""
        return one_for_all(backend, _NAME, cls)

    def begin(self, beat: Beat) -> None:
        """Keep a transaction's primary lock alive from now on."""
        beat.due_s = self._backend.rt.now() + PERIOD_S
        beat.work = on_behalf(partial(self._one, beat))
        with self._lock:
            self._beats[beat] = None
            if self._keeper is None:
                self._keeper = self._backend.rt.spawn(self._keep(), name="heartbeats")

    def end(self, beat: Beat) -> None:
        """Stop; idempotent. A request under way may still arrive, which does no harm."""
        with self._lock:
            self._beats.pop(beat, None)

    def close(self) -> None:
        """Stop all: the client is closing, and what it left locked may expire."""
        with self._lock:
            self._beats.clear()
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()

    async def _keep(self) -> None:
        forget_ambient()
        forget_record()
        try:
            while (due_s := self._first_due()) is not None:
                await self._backend.rt.sleep(max(0.0, due_s - self._backend.rt.now()))
                await self._beat_due()
        except BaseException:  # cancelled, or a fault: the next transaction starts a new keeper
            with self._lock:
                self._keeper = None
            raise

    def _first_due(self) -> float | None:
        """Return when the next one is due; None, and the keeper has ended, when there is none left."""
        with self._lock:
            if not self._beats:
                self._keeper = None
                return None
            return min(beat.due_s for beat in self._beats)

    async def _beat_due(self) -> None:
        now_s = self._backend.rt.now()
        with self._lock:
            due = [beat for beat in self._beats if beat.due_s <= now_s]
        for beat in due:
            beat.due_s = now_s + PERIOD_S
        if due:
            await run_bounded(
                self._backend.rt,
                [beat.work for beat in due],
                self._backend.config.background_worker_size,
            )

    async def _one(self, beat: Beat) -> None:
        try:
            await as_call(self._backend, "txn_heartbeat", self._send(beat))
        except TikvError as error:
            beat.failed += 1
            beat.due_s = self._backend.rt.now() + _AGAIN_S
            logger.info("heartbeat %d of transaction %d failed: %s", beat.failed, beat.start_ts, error)
            if beat.failed > _FAILURES_MAX:
                self._give_up(beat, error)

    def _give_up(self, beat: Beat, error: TikvError) -> None:
        beat.failure = error
        self.end(beat)

    async def _send(self, beat: Beat) -> None:
        backend = self._backend
        call = backend.call(backend.rt.now() + _CALL_S)
        now_ts = await backend.timestamp(call.backoffer.deadline)
        age_ms = now_ts.physical_ms - Timestamp(beat.start_ts).physical_ms
        if age_ms > (_PIPELINED_AGE_MAX_MS if beat.is_pipelined else _AGE_MAX_MS):
            text = f"transaction {beat.start_ts} is {age_ms // 60_000} minutes old: its locks are no longer kept alive"
            self._give_up(beat, TransactionAborted(text))
            return
        request = kvrpcpb.TxnHeartBeatRequest(
            primary_lock=beat.primary,
            start_version=beat.start_ts,
            advise_lock_ttl=age_ms + MANAGED_TTL_MS,
            min_commit_ts=now_ts if beat.is_pipelined else 0,
        )
        response = await send_to_key(backend, KV_TXN_HEART_BEAT, beat.primary, request, call)
        if response.HasField("error"):
            self._give_up(beat, key_error(response.error, backend.codec, beat.start_ts))
        else:
            beat.failed = 0
