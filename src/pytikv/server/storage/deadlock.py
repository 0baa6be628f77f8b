"""Which transaction waits for which, and whether one more wait would close a circle.

The graph has an edge `waiter -> holder` for every wait, with the keys waited for. `detect` is asked before a wait
begins: when `holder` already waits, over whatever stations, for `waiter`, the new edge would close a circle; it is not
added, and the answer is the chain of edges from `holder` to `waiter` with the closing edge last. The victim is always
the newcomer. Its `deadlock_key_hash` names the key of the chain's last edge but one: the one that the victim holds.

An edge lives for `ttl_s` unless the same wait is asked again, since a waiter never waits longer than that for one lock;
`remove` takes it away when the wait ends. Invariant: the edges that have not expired form no circle.

Pure: times come in. Not safe for threads (its owner, `lock_waiting`, is). Limit: as many edges as there are waiters.
Source: TiKV src/server/lock_manager/deadlock.rs; the order of the chain as a real one answers it.
"""

from __future__ import annotations

import dataclasses

from pytikv.proto import deadlock_pb2 as deadlockpb

__all__ = ["Deadlock", "Detector"]


@dataclasses.dataclass(frozen=True, slots=True)
class Deadlock:
    """The circle that a wait would close. `lock_ts` and `lock_key`: what the victim wanted, and of whom."""

    lock_ts: int
    lock_key: bytes
    deadlock_key_hash: int
    wait_chain: tuple[deadlockpb.WaitForEntry, ...]


@dataclasses.dataclass(slots=True)
class _Edge:
    """Why one transaction waits for another: the keys, by hash, in the order asked."""

    entries: dict[int, deadlockpb.WaitForEntry]
    seen_s: float


class Detector:
    """The wait-for graph of one store."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._edges: dict[int, dict[int, _Edge]] = {}

    def __len__(self) -> int:
        return sum(len(edges) for edges in self._edges.values())

    def detect(self, wait: deadlockpb.WaitForEntry, now_s: float) -> Deadlock | None:
        """Note that `wait.txn` is to wait for `wait.wait_for_txn`; or return the circle and note nothing."""
        waiter, holder = wait.txn, wait.wait_for_txn
        edge = self._edges.get(waiter, {}).get(holder)
        if edge is None or self._is_over(edge, now_s):
            chain = self._path(holder, waiter, now_s)
            if chain:
                return Deadlock(holder, wait.key, chain[-1].key_hash, (*chain, wait))
            edge = self._edges.setdefault(waiter, {})[holder] = _Edge({}, now_s)
        edge.entries.setdefault(wait.key_hash, wait)
        edge.seen_s = now_s
        return None

    def remove(self, waiter: int, holder: int, key_hash: int) -> None:
        """Forget one key of one wait; unknown ones are ignored."""
        edges = self._edges.get(waiter, {})
        edge = edges.get(holder)
        if edge is None:
            return
        edge.entries.pop(key_hash, None)
        if not edge.entries:
            del edges[holder]
        if not edges:
            del self._edges[waiter]

    def _is_over(self, edge: _Edge, now_s: float) -> bool:
        return now_s - edge.seen_s >= self._ttl_s

    def _path(self, start: int, goal: int, now_s: float) -> list[deadlockpb.WaitForEntry]:
        """Return the edges of a way from `start` to `goal`, none if there is no way."""
        came_from: dict[int, int] = {start: start}
        stack = [start]
        while stack:
            waiter = stack.pop()
            edges = self._edges.get(waiter, {})
            for holder in [holder for holder, edge in edges.items() if self._is_over(edge, now_s)]:
                del edges[holder]
            for holder in edges:
                if holder not in came_from:
                    came_from[holder] = waiter
                    stack.append(holder)
            if goal in edges:
                came_from[goal] = waiter
                return self._walk_back(start, goal, came_from)
            if not edges:
                self._edges.pop(waiter, None)
        return []

    def _walk_back(self, start: int, goal: int, came_from: dict[int, int]) -> list[deadlockpb.WaitForEntry]:
        chain = []
        holder = goal
        while True:
            waiter = came_from[holder]
            chain.append(next(iter(self._edges[waiter][holder].entries.values())))
            if waiter == start:
                chain.reverse()
                return chain
            holder = waiter
