"""Anomalies that are cycles: found by strongly connected components, shown by a shortest cycle, named by its edges.

Whether there is a forbidden cycle is decided exactly and in linear time: a cycle without two rw edges in a row is a
cycle of the graph whose nodes are pairs (transaction, whether the last edge was rw), where an rw edge may be taken only
after another kind. Tarjan's algorithm (1972) finds its components; when none has more than one node there is nothing to
look for. Otherwise each anomaly is searched for by the edges that may make it up:

    G0                ww                                     G1c        ww, wr, with a wr
    G-single          one rw, else ww, wr                    G-nonadjacent   several rw, never two in a row
    G2-item           any, with two rw in a row
    real time broken  one of the first four that needs an rt edge

For each kind, each component shows one cycle: the shortest through any of its first `_TRIED` edges of the kind needed.
Of transactions with a snapshot and locks, cycles that come about only by taking both for one node are no violation
(`Anomaly.LOCKED_SKEW`, or G2-item), since TiKV promises no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, TypeVar

from pytikv.testing.isolation.dependencies import RT, RW, START, WR, WW, Edge, Graph
from pytikv.testing.isolation.txns import Anomaly, Finding

__all__ = ["components", "find_cycles"]

NodeT = TypeVar("NodeT", bound=Hashable)

_TRIED: Final = 200

_FLOW: Final = frozenset({WW, WR, START})
_State = tuple[int, bool]


def components(nodes: Iterable[NodeT], successors: Callable[[NodeT], Iterable[NodeT]]) -> list[list[NodeT]]:
    """Return the strongly connected components of more than one node (Tarjan, without recursion)."""
    index: dict[NodeT, int] = {}
    low: dict[NodeT, int] = {}
    stack: list[NodeT] = []
    on_stack: set[NodeT] = set()
    found: list[list[NodeT]] = []
    for root in nodes:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        work: list[tuple[NodeT, Iterator[NodeT]]] = [(root, iter(successors(root)))]
        while work:
            node, rest = work[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(successors(target))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = _pop_component(node, stack, on_stack)
                    if len(component) > 1:
                        found.append(component)
    return found


def _pop_component(node: NodeT, stack: list[NodeT], on_stack: set[NodeT]) -> list[NodeT]:
    component = []
    while True:
        top = stack.pop()
        on_stack.discard(top)
        component.append(top)
        if top == node:
            return component


def find_cycles(graph: Graph) -> list[Finding]:
    """Return what the cycles of the graph amount to; nothing when the history is serializable (in real time)."""
    found: list[Finding] = []
    if _has_forbidden(graph):
        plain = _Search(graph, _FLOW)
        found += plain.through(WW, Anomaly.G0, kinds={WW})
        found += plain.through(WR, Anomaly.G1C)
        found += plain.skews(Anomaly.G_SINGLE, Anomaly.G_NONADJACENT)
        timed = _Search(graph, _FLOW | {RT})
        found += timed.through(RT, Anomaly.REAL_TIME)
        found += timed.skews(Anomaly.REAL_TIME, Anomaly.REAL_TIME, need=RT)
    found += _Search(graph.merged(), _FLOW | {RW}).write_skews()
    return found


def _has_forbidden(graph: Graph) -> bool:
    edges = graph.edges

    def successors(state: _State) -> list[_State]:
        node, after_rw = state
        return [(e.target, e.kind == RW) for e in edges.get(node, ()) if not (after_rw and e.kind == RW)]

    return bool(components([(node, False) for node in edges], successors))


class _Search:
    """The search for cycles over edges of some kinds."""

    def __init__(self, graph: Graph, kinds: frozenset[str]) -> None:
        self._graph = graph
        self._kinds = kinds

    def through(self, need: str, anomaly: Anomaly, *, kinds: set[str] | None = None) -> Iterator[Finding]:
        """Find cycles over `kinds` that contain an edge of kind `need`."""
        allowed = frozenset(kinds or self._kinds)
        for inside in self._components(allowed):
            ways = (self._close(edge, allowed, inside) for edge in self._edges(inside, need))
            yield from self._shortest(anomaly, ways)

    def skews(self, single: Anomaly, several: Anomaly, *, need: str | None = None) -> Iterator[Finding]:
        """Find cycles with rw edges, never two in a row; with `need`, only those that contain such an edge."""
        for inside in self._components(self._kinds | {RW}):
            ways = []
            for edge in self._edges(inside, RW):
                cycle = self._close(edge, self._kinds, inside) or self._close_apart(edge, inside)
                if cycle is not None and (need is None or any(step.kind == need for step in cycle)):
                    ways.append(cycle)
            singles = [cycle for cycle in ways if sum(step.kind == RW for step in cycle) == 1]
            yield from self._shortest(single, singles) if singles else self._shortest(several, ways)

    def write_skews(self) -> Iterator[Finding]:
        """Find cycles of any edges that the searches for forbidden ones do not find."""
        for inside in self._components(self._kinds):
            ways = [self._close(edge, self._kinds, inside) for edge in self._edges(inside, RW)]
            skews = [cycle for cycle in ways if cycle is not None and _has_two_in_a_row(cycle)]
            if skews:
                yield from self._shortest(Anomaly.G2_ITEM, skews)
                continue
            locked = [cycle for cycle in ways if cycle is not None and any(e.kind == RW for e in cycle)]
            if locked and any(self._graph.txn(e.source).pessimistic for cycle in locked for e in cycle):
                yield from self._shortest(Anomaly.LOCKED_SKEW, locked)

    # --- ways ---------------------------------------------------------------------------------------------------------

    def _components(self, kinds: frozenset[str]) -> list[set[int]]:
        edges = self._graph.edges
        found = components(edges, lambda node: [e.target for e in edges.get(node, ()) if e.kind in kinds])
        return [set(component) for component in found]

    def _edges(self, inside: set[int], kind: str) -> Iterator[Edge]:
        count = 0
        for node in sorted(inside):
            for edge in self._graph.edges.get(node, ()):
                if edge.kind == kind and edge.target in inside:
                    yield edge
                    count += 1
                    if count == _TRIED:
                        return

    def _close(self, edge: Edge, kinds: frozenset[str], inside: set[int]) -> list[Edge] | None:
        """Return the shortest cycle that begins with `edge` and goes on by edges of `kinds`."""
        came: dict[int, Edge] = {}
        queue = deque([edge.target])
        while queue:
            node = queue.popleft()
            if node == edge.source:
                return [edge, *_walk_back(came, edge.target, node)]
            for step in self._graph.edges.get(node, ()):
                if step.kind in kinds and step.target in inside and step.target not in came:
                    came[step.target] = step
                    queue.append(step.target)
        return None

    def _close_apart(self, edge: Edge, inside: set[int]) -> list[Edge] | None:
        """Return the shortest cycle that begins with the rw `edge` and never has two rw edges in a row."""
        came: dict[_State, tuple[_State, Edge]] = {}
        start, goal = (edge.target, True), (edge.source, False)
        queue: deque[_State] = deque([start])
        while queue:
            state = queue.popleft()
            if state == goal:
                way = []
                while state != start:
                    state, step = came[state]
                    way.append(step)
                return [edge, *reversed(way)]
            for step in self._graph.edges.get(state[0], ()):
                is_rw = step.kind == RW
                fits = (is_rw and not state[1]) or step.kind in self._kinds
                following = step.target, is_rw
                if fits and step.target in inside and following not in came:
                    came[following] = state, step
                    queue.append(following)
        return None

    def _shortest(self, anomaly: Anomaly, ways: Iterable[list[Edge] | None]) -> Iterator[Finding]:
        best = min((way for way in ways if way), key=len, default=None)
        if best is not None:
            txns = tuple(dict.fromkeys(self._graph.txn(edge.source) for edge in best))
            steps = tuple(self._graph.describe(edge) for edge in best)
            yield Finding(anomaly, " -> ".join([*(txn.name for txn in txns), txns[0].name]), txns, steps)


def _walk_back(came: dict[int, Edge], start: int, node: int) -> list[Edge]:
    way: list[Edge] = []
    while node != start or not way:
        if node == start:
            break
        step = came[node]
        way.append(step)
        node = step.source
    return way[::-1]


def _has_two_in_a_row(cycle: list[Edge]) -> bool:
    following = [*cycle[1:], cycle[0]]
    return any(a.kind == RW and b.kind == RW for a, b in zip(cycle, following, strict=True))
