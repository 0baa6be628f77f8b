"""What the client knows of each store: where it is, whether it lives, whether to keep away from it for now.

One mutable `CachedStore` per store id, made when a region first names the id and shared by every region with a peer
there: a new address or a bad mark is seen by all of them at once, and the hot path reads plain attributes.

* **Address.** Asked from PD when first needed; later uses older than 15 s are asked again in the background, a store
  marked unreachable or `forget_address`ed (StoreNotMatch) in the foreground. A store that PD does not know any more
  counts as a tombstone.
* **Unreachable.** `mark_unreachable` keeps callers away for 0.5 s, doubled each time up to 15 s. When the time is over
  the store is *suspect*: who wants it calls `probe` first (one gRPC health check for all, at most 1 s long), which
  clears or renews the mark; it takes half of the caller's time at most.
* **Slow.** `mark_slow` keeps callers away for some seconds when there is another replica; nothing is probed.

Avoiding is advice: where every replica is avoided, the caller uses one all the same. The cache is bounded by the number
of stores that the cluster ever named (some hundreds at most). Times are values of `rt.now()`.

Sources: client-go internal/locate/store_cache.go for the 15 s and the 1 s.
"""

from __future__ import annotations

from typing import Final, Protocol

from pytikv.client.flights import Flights
from pytikv.errors import RegionUnavailable, TikvError
from pytikv.observe.state import StoreStats
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.types import Store

__all__ = ["CachedStore", "Prober", "StoreCache", "StoreSource"]

RE_RESOLVE_S: Final = 15.0
PROBE_TIMEOUT_S: Final = 1.0
_AVOID_BASE_S: Final = 0.5
_AVOID_CAP_S: Final = 15.0
_TOMBSTONE: Final = 2


class StoreSource(Protocol):
    """Whoever knows the stores: `PdClient`."""

    async def get_store(self, store_id: int, deadline: float) -> Store | None:
        """Return a store, None when it is not known."""
        ...

    async def get_all_stores(self, deadline: float) -> list[Store]:
        """Return all stores that have not left."""
        ...


class Prober(Protocol):
    """Whoever can ask an address whether it serves: `ConnectionPool`. True: it answered."""

    async def is_alive(self, address: str, deadline: float) -> bool:
        """Ask an address."""
        ...


class CachedStore:
    """One store. Attributes are read freely; they are written by `StoreCache` only."""

    __slots__ = ("address", "avoid_until", "failures", "id", "labels", "resolved_at", "slow_until", "state")

    def __init__(self, store_id: int) -> None:
        self.id = store_id
        self.address = ""
        """`host:port`; empty while unknown, and for a tombstone."""
        self.labels: tuple[tuple[str, str], ...] = ()
        self.state = 0
        """As metapb.StoreState: 0 Up, 1 Offline (being emptied, still serving), 2 Tombstone."""
        self.resolved_at = float("-inf")
        self.failures = 0
        """How often in a row it was found unreachable."""
        self.avoid_until = float("-inf")
        self.slow_until = float("-inf")

    @property
    def is_tombstone(self) -> bool:
        """Whether the store has left the cluster."""
        return self.state == _TOMBSTONE

    def is_avoided(self, now: float) -> bool:
        """Tell whether another replica is to be preferred at `now`."""
        return now < self.avoid_until or now < self.slow_until or self.state == _TOMBSTONE

    def is_sound(self, now: float) -> bool:
        """Tell whether the store can be asked without more ado: its address is known and fresh, no call has failed."""
        return not self.failures and now - self.resolved_at < RE_RESOLVE_S and self.address != ""

    def needs_probe(self, now: float) -> bool:
        """Tell whether the store was unreachable, and has not been heard of since its time of avoidance ended."""
        return self.failures > 0 and now >= self.avoid_until

    def __repr__(self) -> str:
        return f"CachedStore({self.id}, {self.address!r}, failures={self.failures})"


class StoreCache:
    """All stores by id. Safe for many threads; the waiting methods share one request among all who want the same."""

    def __init__(self, rt: Runtime, source: StoreSource, prober: Prober) -> None:
        self._rt = rt
        self._source = source
        self._prober = prober
        self._stores: dict[int, CachedStore] = {}
        self._lock = mutex()
        self._flights = Flights(rt)
        self._refreshing: set[int] = set()

    def entry(self, store_id: int) -> CachedStore:
        """Return the store's object, making an unresolved one at need."""
        store = self._stores.get(store_id)
        return store if store is not None else self._stores.setdefault(store_id, CachedStore(store_id))

    def knows(self, store_id: int) -> bool:
        """Tell whether the store was met before."""
        return store_id in self._stores

    def entries(self) -> list[CachedStore]:
        """Return all stores met so far."""
        return list(self._stores.values())

    def stats(self) -> tuple[StoreStats, ...]:
        """Return how each store met so far stands."""
        now = self._rt.now()
        return tuple(
            StoreStats(store.id, store.address, store.state, store.failures, store.is_avoided(now))
            for store in self.entries()
        )

    def put(self, meta: Store) -> CachedStore:
        """Take over what PD says of a store."""
        store = self.entry(meta.id)
        with self._lock:
            store.labels = meta.labels
            store.state = meta.state
            if meta.address != store.address:
                store.address = meta.address
                store.failures = 0  # another process: what was known of the old one says nothing of it
                store.avoid_until = store.slow_until = float("-inf")
            if meta.state == _TOMBSTONE:
                store.address = ""
            store.resolved_at = self._rt.now()
        return store

    # --- resolving ----------------------------------------------------------------------------------------------------

    async def resolve(self, store_id: int, deadline: float) -> CachedStore:
        """Return the store with its address known, or as a tombstone. Raises what the look-up in PD raises."""
        store = self.entry(store_id)
        age_s = self._rt.now() - store.resolved_at
        if store.address and (age_s < RE_RESOLVE_S or store.failures == 0):
            if age_s >= RE_RESOLVE_S:
                self._refresh_soon(store_id)
            return store
        if store.state == _TOMBSTONE and age_s < RE_RESOLVE_S:
            return store
        await self._flights.run(("store", store_id), lambda: self._ask(store_id, deadline), deadline)
        return store

    async def _ask(self, store_id: int, deadline: float) -> None:
        meta = await self._source.get_store(store_id, deadline)
        self.put(meta if meta is not None else Store(store_id, "", state=_TOMBSTONE))

    def _refresh_soon(self, store_id: int) -> None:
        with self._lock:
            if store_id in self._refreshing:
                return
            self._refreshing.add(store_id)
        self._rt.spawn(self._refresh(store_id), name=f"refresh store {store_id}")

    async def _refresh(self, store_id: int) -> None:
        try:
            await self._ask(store_id, self._rt.now() + RE_RESOLVE_S)
        except TikvError:
            self.entry(store_id).resolved_at = self._rt.now()  # PD is away: the old address serves, asked again in 15 s
        finally:
            self._refreshing.discard(store_id)

    async def refresh_all(self, deadline: float) -> list[CachedStore]:
        """Ask PD for every store there is, and return those that have not left."""
        return [self.put(meta) for meta in await self._source.get_all_stores(deadline) if meta.state != _TOMBSTONE]

    def forget_address(self, store_id: int) -> None:
        """Have the address asked again before the next use (the process there said that it is another store)."""
        store = self.entry(store_id)
        with self._lock:
            store.address = ""
            store.resolved_at = float("-inf")

    # --- health -------------------------------------------------------------------------------------------------------

    def mark_unreachable(self, store_id: int, now: float) -> None:
        """Keep away from the store: 0.5 s the first time, doubled each time, 15 s at most."""
        store = self.entry(store_id)
        with self._lock:
            if now < store.avoid_until:
                return  # calls that failed together count once
            store.avoid_until = now + min(_AVOID_CAP_S, _AVOID_BASE_S * 2.0 ** min(store.failures, 16))
            store.failures += 1

    def mark_slow(self, store_id: int, now: float, seconds: float) -> None:
        """Prefer other replicas for `seconds` (a store that is busy, or says that it is slow)."""
        store = self.entry(store_id)
        with self._lock:
            store.slow_until = max(store.slow_until, now + seconds)

    def mark_alive(self, store_id: int) -> None:
        """Clear the unreachable mark: the store answered something. Free of locks where there is nothing to clear."""
        store = self.entry(store_id)
        if store.failures:
            with self._lock:
                store.failures = 0
                store.avoid_until = float("-inf")

    def is_avoided(self, store_id: int, now: float) -> bool:
        """Tell whether another replica is to be preferred at `now`."""
        return self.entry(store_id).is_avoided(now)

    async def probe(self, store_id: int, deadline: float) -> bool:
        """Ask the store whether it serves, and mark it accordingly. One request for all who ask at once."""
        return await self._flights.run(("probe", store_id), lambda: self._probe(store_id, deadline), deadline)

    async def _probe(self, store_id: int, deadline: float) -> bool:
        now = self._rt.now()
        until = now + min(PROBE_TIMEOUT_S, (deadline - now) / 2)  # what is left may serve to ask another store
        store = await self.resolve(store_id, until)
        if not store.address:
            raise RegionUnavailable(f"store {store_id} has left the cluster")
        alive = await self._prober.is_alive(store.address, until)
        if alive:
            self.mark_alive(store_id)
        else:
            self.mark_unreachable(store_id, self._rt.now())
        return alive
