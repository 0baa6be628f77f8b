"""What a store does by itself: splitting what has grown, cleaning up what nobody can see, telling PD of its regions.

One task, woken once a second; it works in bounded steps off the loop and leaves the loop between them. Cleaning goes
round the whole store, a step at a time, and rests `CLEANUP_ROUND_S` after each round.
"""

from __future__ import annotations

import logging
from typing import Final

from pytikv.errors import TikvError
from pytikv.rt.interface import Runtime
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import SplitChecker, Store
from pytikv.types import Timestamp

__all__ = ["run_upkeep"]

TICK_S: Final = 1.0
REPORT_S: Final = 60.0  # as TiKV's pd-heartbeat-tick-interval
CLEANUP_ROUND_S: Final = 600.0
_VERSIONS_KEPT_S: Final = 600  # how long replaced versions of API v2 are kept, as TiKV's GC life time
_STEP_ENTRIES: Final = 1000
_STEPS_A_TICK: Final = 20
_log = logging.getLogger("pytikv.server.upkeep")


async def run_upkeep(rt: Runtime, store: Store) -> None:
    """Run until cancelled. A failed step is logged and tried again at the next tick."""
    checker = SplitChecker(store)
    cleaner = _Cleaner(rt, store)
    reported = rt.now()
    while True:
        await rt.sleep(TICK_S)
        try:
            while checker.due():
                parts = await rt.run_blocking(checker.step)
                if parts:
                    _log.info("a region was split in %d", len(parts))
            await cleaner.step()
            if rt.now() >= reported + REPORT_S:
                reported = rt.now()
                await rt.run_blocking(store.regions.report_all, store.pd)
        except TikvError as error:
            _log.warning("upkeep of store %d: %s", store.id, error)


class _Cleaner:
    """A round over the whole store in steps; what is cleaned up, the raw commands decide (`cleanup_step`)."""

    def __init__(self, rt: Runtime, store: Store) -> None:
        self._rt = rt
        self._store = store
        self._position = b""
        self._next_round = rt.now() + CLEANUP_ROUND_S

    async def step(self) -> None:
        """Clean up some thousand entries, when a round is due."""
        if not self._store.api_version.has_ttl or self._rt.now() < self._next_round:
            return
        for _ in range(_STEPS_A_TICK):
            position = await self._rt.run_blocking(self._clean)
            if position is None:
                self._position = b""
                self._next_round = self._rt.now() + CLEANUP_ROUND_S
                return
            self._position = position

    def _clean(self) -> bytes | None:
        safe_point = 0
        if self._store.api_version is ApiVersion.V2:
            safe_point = Timestamp.compose(max(0, int(self._rt.time()) - _VERSIONS_KEPT_S) * 1000)
        return self._store.raw.cleanup_step(self._position, limit=_STEP_ENTRIES, safe_point=safe_point)
