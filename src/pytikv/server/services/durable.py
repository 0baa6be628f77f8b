"""Lets answers go when what they say is durable: one flush for all that a turn of the loop has brought.

The first answer of a turn starts the flusher; it runs after the turn, so that the flush covers everything the turn
wrote. What comes while a flush is under way goes with the next one. A failed flush fails all that wait for it, and,
because the engine is read-only from then on, all that come later.
"""

from __future__ import annotations

from collections.abc import Callable

from pytikv.errors import StorageError
from pytikv.rt.interface import Runtime
from pytikv.server.engine.interface import Engine
from pytikv.server.metrics.store import StoreMetrics

__all__ = ["DurableGate"]


class DurableGate:
    """One for each store; belongs to its loop. What waits is bounded by what the connections let in."""

    def __init__(self, rt: Runtime, engine: Engine, on_durable: Callable[[int], None], metrics: StoreMetrics) -> None:
        """`on_durable(ticket)` is told what is durable before any answer goes."""
        self._metrics = metrics
        self._rt = rt
        self._engine = engine
        self._on_durable = on_durable
        self._waiting: list[tuple[int, float, Callable[[StorageError | None], None]]] = []
        self._is_flushing = False

    def when_durable(self, ticket: int, tell: Callable[[StorageError | None], None]) -> None:
        """Call `tell(None)` when the change with `ticket` is durable, or `tell(error)`. Never before this returns."""
        self._waiting.append((ticket, self._rt.now(), tell))
        if not self._is_flushing:
            self._is_flushing = True
            self._rt.spawn(self._flush_all(), name="durable-gate")

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                error = await self._flush(max(ticket for ticket, _, _ in waiting))
                now = self._rt.now()
                writes = self._metrics.writes
                for _, since, tell in waiting:
                    if error is None:
                        writes.observe(now - since)
                    else:
                        self._metrics.failed_writes += 1
                    tell(error)
        finally:
            self._is_flushing = False

    async def _flush(self, ticket: int) -> StorageError | None:
        if self._engine.durable_ticket < ticket:
            try:
                await self._rt.run_blocking(self._engine.flush)
            except StorageError as error:
                return error
        self._on_durable(self._engine.durable_ticket)
        return None
