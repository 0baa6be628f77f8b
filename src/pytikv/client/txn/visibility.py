"""Whether what a snapshot read is still all there: the transaction safe point, as far as this client knows it.

Garbage collection drops versions that no timestamp from the safe point on can see, and tells nobody. So a reader
compares its timestamp with PD's safe point *after* it has read: what is at or above that was complete.

The safe point is asked for in the background, at most every `REFRESH_S` while there are reads; an idle client asks for
nothing. It may thus be older than what counts by then, which is why garbage collection resolves locks in between and
takes its time. Past `STALE_S` without word from PD it serves no more: then a reader asks PD itself, unless its
timestamp is `YOUNG_S` old at most by the oracle's own time: no collection is through so soon.

One for all views of a connect. Source of the periods: client-go tikv/kv.go.
"""

from __future__ import annotations

from typing import Final

from pytikv.client.flights import Flights
from pytikv.client.txn.backend import TxnBackend, one_for_all
from pytikv.errors import SnapshotTooOld, TikvError
from pytikv.rt.locks import mutex
from pytikv.types import MAX_TIMESTAMP, Timestamp

__all__ = ["NAME", "REFRESH_S", "STALE_S", "YOUNG_S", "Visibility"]

REFRESH_S: Final = 10.0
STALE_S: Final = 90.0
YOUNG_S: Final = 2.0
NAME: Final = "visibility"
"""Its place in `TxnBackend.shared`; a backend that knows better puts one of its own there."""


class Visibility:
    """The cached safe point. Safe for many threads and tasks."""

    def __init__(self, backend: TxnBackend) -> None:
        self._backend = backend
        self._rt = backend.rt
        self._flights = Flights(backend.rt)
        self._lock = mutex()
        self._refreshing = False
        self._refresh_at = float("-inf")
        self._stale_at = float("-inf")
        self.safe_point = 0
        """The transaction safe point, as it was when PD was last asked."""

    @classmethod
    def of(cls, backend: TxnBackend) -> Visibility:
        """Return the one of this connect, made when it is first asked for."""
        return one_for_all(backend, NAME, cls)

    def allows(self, read_ts: int) -> bool:
        """Tell at a glance whether what was read at `read_ts` counts; False: `ensure` must say."""
        now = self._rt.now()
        if now >= self._refresh_at:
            self._refresh_soon(now)
        return read_ts >= self.safe_point and now < self._stale_at

    async def ensure(self, read_ts: int, deadline: float) -> None:
        """Raise SnapshotTooOld when `read_ts` lies below the safe point; what asking PD raises where that must be."""
        if read_ts == MAX_TIMESTAMP:
            return  # the latest versions are never collected
        if read_ts >= self.safe_point and self._rt.now() >= self._stale_at:
            newest = await self._backend.low_resolution_timestamp(YOUNG_S, deadline)
            if Timestamp(newest).physical_ms - Timestamp(read_ts).physical_ms < YOUNG_S * 1000:
                return
            await self._ask(deadline)
        if read_ts < self.safe_point:
            raise SnapshotTooOld(
                f"the timestamp {read_ts} lies below the transaction safe point {self.safe_point}: what it read may be "
                "collected already. Read at a newer timestamp, or keep garbage for longer"
            )

    def tell(self, safe_point: int) -> None:
        """Take note of a safe point that this client has published itself."""
        with self._lock:
            self.safe_point = max(self.safe_point, safe_point)

    async def _ask(self, deadline: float) -> None:
        await self._flights.run("safe point", lambda: self._load(deadline), deadline)

    async def _load(self, deadline: float) -> None:
        state = await self._backend.gc_state(deadline)
        now = self._rt.now()
        with self._lock:
            self.safe_point = max(self.safe_point, state.txn_safe_point)
            self._refresh_at = now + REFRESH_S
            self._stale_at = now + STALE_S

    def _refresh_soon(self, now: float) -> None:
        with self._lock:
            if self._refreshing:
                return
            self._refreshing = True
            self._refresh_at = now + REFRESH_S
        try:
            self._rt.spawn(self._refresh(), name="refresh the GC safe point")
        except BaseException:
            self._refreshing = False
            raise

    async def _refresh(self) -> None:
        try:
            await self._ask(self._rt.now() + REFRESH_S)
        except TikvError:
            pass  # asked again in a while; who needs it sooner asks in his own time
        finally:
            self._refreshing = False
