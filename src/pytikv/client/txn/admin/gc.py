"""Garbage collection: which versions may go, agreed with PD, and nothing left behind that still needs them.

    now from PD - life time -> txn safe point at PD, as far as barriers allow -> locks below it settled -> GC safe point

The order is what makes it safe. Once the transaction safe point is published, no transaction below it may read; once
the locks below it are settled, no reader has to ask an old primary for its fate; only then may stores remove versions.
Readers learn of it when they ask PD next, every ten seconds, and trust a timestamp
that is less than half a minute old: a life time of a minute is the least that is safe while others read.

The clock of this machine has no part in it. A safe point never goes back: where PD is ahead of the target already,
what it has is gone on with.

One GC of a keyspace at a time is enough, and several do no harm. `BackgroundGc` runs one after the other for a client.

Source: client-go tikv/gc.go; PD pkg/gc/gc_state_manager.go.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Final

from pytikv.ambient import forget_ambient
from pytikv.client.arguments import check_seconds
from pytikv.client.txn.admin.locks import resolve_locks
from pytikv.client.txn.admin.range_task import CONCURRENCY, OnProgress
from pytikv.client.txn.backend import TxnBackend, as_call
from pytikv.client.txn.visibility import Visibility
from pytikv.errors import TikvError
from pytikv.observe.telemetry import forget_record
from pytikv.rt.interface import Task
from pytikv.types import Timestamp

__all__ = ["BackgroundGc", "GcReport", "collect_garbage"]

_MAX_LIFE_S: Final = 10 * 365 * 86_400.0

logger: Final = logging.getLogger("pytikv")


@dataclasses.dataclass(frozen=True, slots=True)
class GcReport:
    """What one garbage collection did."""

    safe_point: Timestamp
    """Versions that a newer one at or below this has replaced may be gone; older snapshots cannot be read."""
    target: Timestamp
    """What was wanted: the present minus the life time."""
    blocker: str
    """What held the safe point below the target, in PD's words; empty when nothing did."""
    regions: int
    """Regions that were searched for locks."""
    resolved_locks: int
    """Locks that were settled."""


async def collect_garbage(
    backend: TxnBackend, life_time: float, *, concurrency: int = CONCURRENCY, on_progress: OnProgress | None = None
) -> GcReport:
    """Run one garbage collection of the keyspace."""
    life_ms = int(check_seconds("life_time", life_time, high=_MAX_LIFE_S) * 1000)

    def deadline() -> float:  # each step has the time of a call
        return backend.call().backoffer.deadline

    now = await backend.timestamp(deadline())
    target = Timestamp.compose(max(0, now.physical_ms - life_ms), now.logical)
    state = await backend.gc_state(deadline())
    if target > state.txn_safe_point:
        state = await backend.advance_txn_safe_point(target, deadline())
    safe_point = Timestamp(state.txn_safe_point)
    Visibility.of(backend).tell(safe_point)  # other clients learn of it when they ask PD next
    blocker = state.blocker if safe_point < target else ""
    start_key, end_key = backend.codec.encode_range(b"", b"")
    done = await resolve_locks(
        backend, start_key, end_key, safe_point, concurrency=concurrency, on_progress=on_progress
    )
    state = await backend.advance_gc_safe_point(safe_point, deadline())
    return GcReport(Timestamp(state.gc_safe_point), target, blocker, done.regions, done.items)


class BackgroundGc:
    """Runs `collect_garbage` every `interval_s` seconds until `stop`. A failure is logged, and the next one tried."""

    def __init__(self, backend: TxnBackend, interval_s: float, life_time_s: float) -> None:
        self._backend = backend
        self._interval_s = interval_s
        self._life_time_s = check_seconds("life_time", life_time_s, high=_MAX_LIFE_S)
        self._task: Task[None] | None = None
        self.last: GcReport | None = None
        """What the last one that succeeded did."""

    def start(self) -> None:
        """Begin; the first one comes after the first interval."""
        if self._task is None:
            self._task = self._backend.rt.spawn(self._run(), name="garbage collection")

    def stop(self) -> None:
        """End it where it waits next. What it has published stays."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        forget_ambient()
        forget_record()
        while True:
            await self._pause()
            try:
                collect = collect_garbage(self._backend, self._life_time_s)
                self.last = await as_call(self._backend, "client_gc", collect)
            except TikvError as error:
                logger.warning("garbage collection failed and will be tried again: %s", error)

    async def _pause(self) -> None:
        await self._backend.rt.sleep(self._interval_s)
