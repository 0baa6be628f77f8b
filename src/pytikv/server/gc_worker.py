"""Removing from the disk the versions that lie below PD's GC safe point.

Clients decide how far GC goes: they raise the transaction safe point, resolve the locks below it, then raise the GC
safe point. When the worker sees that it has moved, a *round* goes over all write records in steps of some thousand,
each off the loop. A safe point that moves on during a round is taken up by the next call already; what lies behind is
left to the next round. A step that fails ends the round; the next call begins anew.

What is removed is decided by `mvcc.gc`. After a restart the first round goes over everything once.

Source: TiKV src/server/gc_worker/gc_manager.rs.
"""

from __future__ import annotations

import logging
from typing import Final

from pytikv.errors import TikvError
from pytikv.rt.interface import Runtime
from pytikv.server.metrics.store import StoreMetrics
from pytikv.server.store import Store

__all__ = ["GcWorker"]

_STEPS_AT_ONCE: Final = 20
_log = logging.getLogger("pytikv.server.gc")


class GcWorker:
    """Call `step` about once a second; it works only while a round is under way."""

    def __init__(self, rt: Runtime, store: Store, metrics: StoreMetrics | None = None) -> None:
        """`metrics` counts the steps."""
        self._rt = rt
        self._metrics = metrics or StoreMetrics()
        self._store = store
        self._position = b""
        self._round_began_at = 0
        """The safe point when the round under way began; 0: none is."""
        self.done_up_to = 0
        """Everything below this timestamp is collected."""

    async def step(self) -> None:
        """Collect from some ten thousand records, when there is something to collect."""
        safe_point = self._store.pd.gc_safe_point
        if not self._round_began_at:
            if safe_point <= self.done_up_to:
                return
            self._round_began_at, self._position = safe_point, b""
            self._metrics.is_collecting = True
        try:
            for _ in range(_STEPS_AT_ONCE):
                began = self._rt.now()
                position = await self._rt.run_blocking(self._store.txn.gc_step, safe_point, self._position)
                self._metrics.gc_steps.observe(self._rt.now() - began)
                if position is None:
                    self.done_up_to, self._round_began_at = self._round_began_at, 0
                    self._metrics.is_collecting = False
                    return
                self._position = position
        except TikvError as error:
            _log.warning("collecting garbage of store %d: %s", self._store.id, error)
            self._metrics.failed_gc_steps += 1
            self._metrics.is_collecting = False
            self._round_began_at = 0
