"""The wait-for graph: transcripts, and against a twin that searches all ways."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytikv.proto import deadlock_pb2 as deadlockpb
from pytikv.server.storage.deadlock import Deadlock, Detector


def wait(txn: int, holder: int, key: int = 0) -> deadlockpb.WaitForEntry:
    number = key or holder
    return deadlockpb.WaitForEntry(txn=txn, wait_for_txn=holder, key_hash=number, key=b"%d" % number)


def edges(deadlock: Deadlock | None) -> list[tuple[int, int]]:
    assert deadlock is not None
    return [(entry.txn, entry.wait_for_txn) for entry in deadlock.wait_chain]


def test_two_in_a_circle() -> None:
    detector = Detector(1.0)
    assert detector.detect(wait(1, 2, key=22), 0.0) is None
    deadlock = detector.detect(wait(2, 1, key=11), 0.0)
    assert edges(deadlock) == [(1, 2), (2, 1)]
    assert deadlock is not None
    assert (deadlock.lock_ts, deadlock.lock_key, deadlock.deadlock_key_hash) == (1, b"11", 22)
    assert len(detector) == 1, "the closing edge is not kept"


def test_the_chain_leads_from_the_holder_to_the_victim() -> None:
    detector = Detector(1.0)
    for txn, holder in ((1, 2), (1, 9), (2, 8), (2, 3), (3, 4)):
        assert detector.detect(wait(txn, holder), 0.0) is None
    deadlock = detector.detect(wait(4, 1), 0.0)
    assert edges(deadlock) == [(1, 2), (2, 3), (3, 4), (4, 1)]
    assert deadlock is not None
    assert deadlock.deadlock_key_hash == 4


def test_a_wait_that_ended_closes_nothing() -> None:
    detector = Detector(1.0)
    detector.detect(wait(1, 2, key=5), 0.0)
    detector.detect(wait(1, 2, key=6), 0.0)
    detector.remove(1, 2, 5)
    assert detector.detect(wait(2, 1), 0.0) is not None, "it waits at another key yet"
    detector.remove(1, 2, 6)
    assert len(detector) == 0
    assert detector.detect(wait(2, 1), 0.0) is None
    detector.remove(7, 8, 9)  # never heard of


def test_an_edge_dies_of_age_unless_it_is_asked_again() -> None:
    detector = Detector(1.0)
    detector.detect(wait(1, 2), 0.0)
    detector.detect(wait(1, 2), 0.9)
    assert detector.detect(wait(2, 1), 1.8) is not None
    assert detector.detect(wait(2, 1), 2.0) is None
    assert len(detector) == 1


txns = st.integers(1, 6)


@given(st.lists(st.tuples(st.booleans(), txns, txns), max_size=40))
def test_it_finds_exactly_the_circles(steps: list[tuple[bool, int, int]]) -> None:
    detector = Detector(1e9)
    graph: set[tuple[int, int]] = set()

    def reaches(start: int, goal: int, seen: frozenset[int] = frozenset()) -> bool:
        ends = [b for a, b in graph if a == start and b not in seen]
        return goal in ends or any(reaches(end, goal, seen | {start}) for end in ends)

    for is_removal, txn, holder in steps:
        if txn == holder:
            continue
        if is_removal:
            detector.remove(txn, holder, holder)
            graph.discard((txn, holder))
            continue
        deadlock = detector.detect(wait(txn, holder), 0.0)
        if (txn, holder) in graph:
            assert deadlock is None
        elif reaches(holder, txn):
            chain = edges(deadlock)
            assert chain[-1] == (txn, holder)
            assert set(chain[:-1]) <= graph
            stations = [holder, *(end for _, end in chain[:-1])]
            assert stations == [start for start, _ in chain[:-1]] + [txn]
        else:
            assert deadlock is None
            graph.add((txn, holder))
        assert len(detector) == len(graph)
