"""What a store does by itself: splitting what has grown, cleaning up what nobody can see, telling PD of its regions.

One task, woken once a second; it works in bounded steps off the loop and leaves the loop between them. Cleaning goes
round the whole store, a step at a time, and rests `CLEANUP_ROUND_S` after each round.
"""

from __future__ import annotations

import logging
from typing import Final

from pytikv.errors import TikvError
from pytikv.rt.interface import Runtime
from pytikv.server.regions import RegionError
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import SplitChecker, Store

__all__ = ["run_upkeep"]

TICK_S: Final = 1.0
REPORT_S: Final = 60.0  # as TiKV's pd-heartbeat-tick-interval
CLEANUP_ROUND_S: Final = 600.0
_VERSIONS_KEPT_S: Final = 600  # how long replaced versions of API v2 are kept, as TiKV's GC life time
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
                await rt.run_blocking(checker.step)
            await cleaner.step()
            if rt.now() >= reported + REPORT_S:
                reported = rt.now()
                await rt.run_blocking(store.regions.report_all, store.pd)
        except (TikvError, RegionError) as error:
            _log.warning("upkeep of store %d: %s", store.id, error)


class _Cleaner:
    def __init__(self, rt: Runtime, store: Store) -> None:
        self._rt = rt
        self._store = store
        self._position: bytes | None = b""
        self._next_round = rt.now() + CLEANUP_ROUND_S

    async def step(self) -> None:
        """Clean up one step, when a round is under way or due."""
        rt = self._rt
        if not self._store.api_version.has_ttl or rt.now() < self._next_round:
            return
        is_v2 = self._store.api_version is ApiVersion.V2
        safe_point = (int(rt.time()) - _VERSIONS_KEPT_S) * 1000 << 18 if is_v2 else 0

        def clean() -> bytes | None:
            return self._store.raw.cleanup_step(self._position or b"", safe_point=safe_point)

        self._position = await rt.run_blocking(clean)
        if self._position is None:
            self._next_round = rt.now() + CLEANUP_ROUND_S
