"""Removing from the disk what nobody can see any more: expired keys, and replaced or deleted versions of API v2.

A *round* goes over the whole store in steps of some thousand entries, each off the loop; between rounds it rests. What
is cleaned up is decided by the raw commands (`cleanup_step`); versions are kept for `VERSIONS_KEPT_S` after they were
replaced, which is TiKV's GC life time. A step that fails ends the round; the next one begins anew.
"""

from __future__ import annotations

import logging
from typing import Final

from pytikv.errors import TikvError
from pytikv.rt.interface import Runtime
from pytikv.server.metrics.store import StoreMetrics
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import Store
from pytikv.types import Timestamp

__all__ = ["Cleaner"]

ROUND_S: Final = 600.0
VERSIONS_KEPT_S: Final = 600
_STEP_ENTRIES: Final = 1000
_STEPS_AT_ONCE: Final = 20
_log = logging.getLogger("pytikv.server.cleanup")


class Cleaner:
    """Call `step` about once a second; it works only while a round is under way."""

    def __init__(self, rt: Runtime, store: Store, metrics: StoreMetrics | None = None) -> None:
        """`metrics` counts the steps."""
        self._rt = rt
        self._metrics = metrics or StoreMetrics()
        self._store = store
        self._position = b""
        self._next_round = rt.now() + ROUND_S

    async def step(self) -> None:
        """Clean up some thousand entries, when a round is due."""
        if not self._store.api_version.has_ttl or self._rt.now() < self._next_round:
            return
        try:
            for _ in range(_STEPS_AT_ONCE):
                position = await self._rt.run_blocking(self._clean)
                self._metrics.worker_tasks["ttl-checker"] += 1
                if position is None:
                    self._rest()
                    return
                self._position = position
        except TikvError as error:
            _log.warning("cleaning up store %d: %s", self._store.id, error)
            self._rest()

    def _clean(self) -> bytes | None:
        safe_point = 0
        if self._store.api_version is ApiVersion.V2:
            safe_point = Timestamp.compose(max(0, int(self._rt.time()) - VERSIONS_KEPT_S) * 1000)
        return self._store.raw.cleanup_step(self._position, limit=_STEP_ENTRIES, safe_point=safe_point)

    def _rest(self) -> None:
        self._position = b""
        self._next_round = self._rt.now() + ROUND_S
