"""The graph of dependencies between transactions: who had to come before whom, and why.

Edges (Adya 1999): *ww*, the target's version follows the source's; *wr*, the target read the source's version; *rw*
(anti-dependency), the source read a version and the target wrote the next one; *rt*, the source had ended before the
target began, as the recorder's moments say.

A pessimistic transaction has two nodes, its *snapshot* (plain reads, as of start_ts) and its *end* (locking reads and
writes, as of commit_ts, since locks are held until then), with a *start* edge in between: TiKV promises each of the two
by itself, and that one is before the other. All other transactions are one node.

Transactions that did not take effect read a snapshot nevertheless: their plain reads stay in the graph, as a node that
wrote nothing. Their locking reads are left out, for a lock may have been lost in between, which is why they ended.

In terms of timestamps, an edge that is not rw says that the source's commit is not after the target's start; an rw edge
that the source's start is before the target's commit. So under snapshot isolation there is no cycle without two rw
edges in a row (Cerone and Gotsman 2018), which is what `cycles` looks for.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from typing import Any, Final

from pytikv.testing.isolation.observations import INITIAL, KeyVersions, Observations, Seen
from pytikv.testing.isolation.txns import Txn, TxnHistory

__all__ = ["RT", "RW", "START", "WR", "WW", "Edge", "Graph", "build_graph"]

WW: Final = "ww"
WR: Final = "wr"
RW: Final = "rw"
RT: Final = "rt"
START: Final = "start"


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """One dependency between two nodes; `read` and `wrote` are the versions it is about."""

    kind: str
    source: int
    target: int
    key: bytes = b""
    read: Any = None
    wrote: Any = None


class Graph:
    """Nodes are numbers: 2n is the snapshot of transaction n, 2n + 1 its end; of most only the latter is used."""

    def __init__(self, history: TxnHistory, seen: Observations) -> None:
        self.txns = {txn.number: txn for txn in history}
        self.edges: dict[int, list[Edge]] = {}
        self._visible = seen.visible
        self._split = {txn.number for txn in history if txn.pessimistic and txn.number in seen.visible}
        for number in sorted(self._split):
            self.add(Edge(START, 2 * number, 2 * number + 1))

    def add(self, edge: Edge) -> None:
        """Add an edge, unless it is from a node to itself."""
        if edge.source != edge.target:
            self.edges.setdefault(edge.source, []).append(edge)

    def first(self, txn: Txn) -> int:
        """The node of plain reads."""
        return 2 * txn.number if txn.number in self._split else 2 * txn.number + 1

    def end(self, txn: Txn) -> int:
        """The node of writes and locking reads."""
        return 2 * txn.number + 1

    def reader(self, seen: Seen) -> int | None:
        """The node of a read; None when it promises nothing."""
        if not seen.locked:
            return self.first(seen.txn)
        return self.end(seen.txn) if seen.txn.number in self._visible else None

    def txn(self, node: int) -> Txn:
        """The transaction of a node."""
        return self.txns[node // 2]

    def merged(self) -> Graph:
        """Return the graph in which every transaction is one node."""
        twin = Graph.__new__(Graph)
        twin.txns, twin.edges, twin._visible, twin._split = self.txns, {}, self._visible, set()
        for edges in self.edges.values():
            for edge in edges:
                twin.add(dataclasses.replace(edge, source=edge.source | 1, target=edge.target | 1))
        return twin

    def describe(self, edge: Edge) -> str:
        """Return an edge in words."""
        source, target = self.txn(edge.source), self.txn(edge.target)
        names = f"{source.name} -{edge.kind}-> {target.name}"
        if edge.kind == START:
            return f"{names}: its snapshot is older than its locks"
        if edge.kind == RT:
            return f"{names}: {source.name} ended at {source.ended}, {target.name} began at {target.begun}"
        if edge.kind == WR:
            return f"{names}: {target.name} read {_value(edge.read)} of {edge.key!r}, which {source.name} wrote"
        if edge.kind == WW:
            follows = f"{_value(edge.wrote)} of {target.name} follows {_value(edge.read)} of {source.name}"
            return f"{names}: on {edge.key!r}, {follows}"
        missed = f"not yet {_value(edge.wrote)}, which {target.name} wrote after it"
        return f"{names}: {source.name} read {_value(edge.read)} of {edge.key!r} and {missed}"


def _value(version: Any) -> str:
    if version == INITIAL:
        return "the initial version"
    return "the deletion" if isinstance(version, tuple) else repr(version)


def build_graph(history: TxnHistory, seen: Observations, *, real_time: bool = False) -> Graph:
    """Build the graph; with `real_time` also the edges between transactions of which one ended before the other began.

    Real-time edges are reduced: only those that do not follow from two others, so that there are few.
    """
    graph = Graph(history, seen)
    for versions in seen.keys:
        _add_key(graph, versions)
    if real_time:
        _add_real_time(graph, history, seen)
    return graph


def _add_key(graph: Graph, versions: KeyVersions) -> None:
    key, writer, after = versions.key, versions.writer, versions.after
    for earlier, following in after.items():
        source = writer.get(earlier)
        if source is not None:
            for later in following:
                graph.add(Edge(WW, graph.end(source), graph.end(writer[later]), key, earlier, later))
    for read, version in versions.reads:
        node = graph.reader(read)
        if node is None:
            continue
        source = writer.get(version)
        if source is not None and source is not read.txn:
            graph.add(Edge(WR, graph.end(source), node, key, version))
        for later in after.get(version, ()):
            if writer[later] is not read.txn:
                graph.add(Edge(RW, node, graph.end(writer[later]), key, version, later))


def _add_real_time(graph: Graph, history: TxnHistory, seen: Observations) -> None:
    """Add edges from what had ended to what then began, leaving out those that pass through a third in between."""
    ended = sorted(((t.ended, t) for t in history if t.ended is not None and not t.causal), key=lambda pair: pair[0])
    moments = [moment for moment, _ in ended]
    latest_begun: list[int] = []  # of the first n that ended, the latest moment at which one had begun
    for _, txn in ended:
        begun = -1 if txn.stale else txn.begun  # what looks back orders nothing before itself
        latest_begun.append(max(begun, latest_begun[-1]) if latest_begun else begun)
    for txn in history:
        if txn.stale:
            continue
        position = bisect_left(moments, txn.begun) - 1
        barrier = latest_begun[position] if position >= 0 else 0
        while position >= 0 and moments[position] >= barrier:
            source = ended[position][1]
            node = graph.end(source) if source.number in seen.visible else graph.first(source)
            graph.add(Edge(RT, node, graph.first(txn)))
            position -= 1
