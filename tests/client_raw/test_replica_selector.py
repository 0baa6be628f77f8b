"""Which replica is asked next: rules over health, policy, labels and what was tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.client.replica_selector import MAX_ATTEMPTS, Choice, Health, ReplicaSelector, StoreView
from pytikv.types import Peer, Region

A, B, C, LEARNER, WITNESS = Peer(1, 1), Peer(2, 2), Peer(3, 3), Peer(4, 4, role=1), Peer(5, 5, is_witness=True)


def region(*peers: Peer, down: frozenset[int] = frozenset()) -> Region:
    return Region(7, b"", b"", 1, 1, peers or (A, B, C), peers[0] if peers else A, down_peer_ids=down)


def selector(
    policy="leader", peers=(A, B, C), health=None, labels=None, want=(), leader=A, rotation=0, down=frozenset()
):
    def view(store_id: int) -> StoreView:
        return StoreView((health or {}).get(store_id, Health.GOOD), (labels or {}).get(store_id, ()))

    return ReplicaSelector(region(*peers, down=down), leader, view, policy=policy, labels=want, rotation=rotation)


def ask(s: ReplicaSelector) -> int | None:
    choice = s.next()
    return None if choice is None else choice.peer.id


def test_leader_is_asked_as_leader() -> None:
    assert selector().next() == Choice(A, True, False)


def test_a_leader_asked_before_anything_was_chosen_counts() -> None:
    s = selector()
    assert s.asked(A) == Choice(A, True, False)
    assert s.attempts(A) == 1
    s.on_not_leader(A)
    assert ask(s) == 2


@pytest.mark.parametrize("engine", ["tiflash", "tiflash_compute"])
@pytest.mark.parametrize("policy", ["leader", "follower", "mixed", "prefer_leader"])
def test_tiflash_is_never_asked(engine: str, policy: str) -> None:
    # Not even where it matches best and all others fail.
    labels = {4: (("zone", "z1"), ("engine", engine))}
    for rotation in range(4):
        s = selector(policy, (A, B, LEARNER), labels=labels, want=(("zone", "z1"),), rotation=rotation)
        seen = set()
        while (choice := s.next()) is not None:
            seen.add(choice.peer.id)
            s.on_refused(choice.peer)
        assert seen == {1, 2}


def test_other_engines_are_asked() -> None:
    s = selector("follower", (A, LEARNER), labels={4: (("engine", "tikv"), ("tiflash", "engine"))})
    assert ask(s) == 4


def test_leader_named_by_another() -> None:
    s = selector()
    assert ask(s) == 1
    assert s.on_leader(Peer(3, 3))
    assert s.next() == Choice(C, True, False)
    assert not s.on_leader(Peer(9, 9))


def test_denial_without_a_name_asks_the_other_voters_once_each() -> None:
    s = selector(peers=(A, B, C, LEARNER, WITNESS))
    seen = []
    while (choice := s.next()) is not None:
        seen.append(choice.peer.id)
        assert choice.is_leader
        assert not choice.is_replica_read
        s.on_not_leader(choice.peer)
    assert seen == [1, 2, 3]


def test_unreachable_leader_is_passed_over_and_comes_last() -> None:
    s = selector(health={1: Health.UNREACHABLE, 2: Health.SLOW})
    assert [ask(s), ask(s), ask(s)] == [3, 2, 1]


def test_lone_replica_is_tried_until_the_limit() -> None:
    s = selector(peers=(A,), health={1: Health.UNREACHABLE})
    assert [ask(s) for _ in range(MAX_ATTEMPTS + 1)] == [1] * MAX_ATTEMPTS + [None]


def test_leader_busy_twice_is_doubted() -> None:
    s = selector()
    assert ask(s) == 1
    assert not s.on_busy(A)
    assert ask(s) == 1
    s.on_busy(A)
    assert ask(s) == 2
    assert s.on_leader(Peer(1, 1))  # the other confirms it
    assert ask(s) == 1


def test_followers() -> None:
    s = selector("follower")
    first = s.next()
    assert first == Choice(B, False, True)
    assert {ask(s), ask(s)} == {3, 1}
    assert selector("follower", peers=(A,)).next() == Choice(A, True, False)
    assert ask(selector("follower", peers=(A, LEARNER))) == 4


def test_followers_share_the_load() -> None:
    assert {ask(selector("follower", rotation=n)) for n in range(6)} == {2, 3}
    assert {ask(selector("mixed", rotation=n)) for n in range(6)} == {1, 2, 3}


def test_prefer_leader_unless_it_is_slow() -> None:
    assert selector("prefer_leader").next() == Choice(A, True, False)
    choice = selector("prefer_leader", health={1: Health.SLOW}).next()
    assert choice is not None
    assert choice.is_replica_read


def test_labels_decide_among_equals() -> None:
    labels = {2: (("zone", "a"), ("host", "x")), 3: (("zone", "b"),)}
    want = (("zone", "b"),)
    assert {ask(selector("mixed", labels=labels, want=want, rotation=n)) for n in range(6)} == {3}
    assert ask(selector("mixed", labels=labels, want=want, health={3: Health.SLOW})) in (1, 2)
    assert ask(selector("mixed", labels=labels, want=(("zone", "a"), ("host", "x")))) == 2


def test_down_gone_and_witness_peers_serve_no_reads() -> None:
    assert ask(selector("follower", down=frozenset({2}))) == 3
    assert ask(selector("follower", health={2: Health.GONE})) == 3
    assert ask(selector("follower", peers=(A, WITNESS))) == 1
    assert selector(peers=(WITNESS,), leader=WITNESS).next() is None
    assert selector(peers=(A,), health={1: Health.GONE}).next() is None


def test_busy_replica_gives_way_to_another() -> None:
    s = selector("follower", peers=(A, B))
    assert ask(s) == 2
    assert s.on_busy(B)
    assert ask(s) == 1
    assert not s.on_busy(A)
    s.on_waited()
    assert ask(s) in (1, 2)


def test_read_at_leader() -> None:
    s = selector("follower")
    assert ask(s) != 1
    s.read_at_leader()
    assert s.next() == Choice(A, True, False)


@given(
    st.sampled_from(["leader", "follower", "mixed", "prefer_leader"]),
    st.lists(
        st.sampled_from(["refused", "not_leader", "busy", "leader1", "leader3", "waited", "at_leader"]), max_size=80
    ),
    st.dictionaries(st.integers(1, 5), st.sampled_from(list(Health))),
)
def test_it_always_ends_and_never_asks_the_unfit(policy: str, events: list[str], health: dict[int, Health]) -> None:
    s = selector(policy, peers=(A, B, C, LEARNER, WITNESS), health=health)
    asked: dict[int, int] = {}
    for event in [*events, *["none"] * (5 * MAX_ATTEMPTS + 1)]:
        choice = s.next()
        if choice is None:
            return
        peer = choice.peer
        asked[peer.id] = asked.get(peer.id, 0) + 1
        assert asked[peer.id] <= MAX_ATTEMPTS
        assert not peer.is_witness
        assert health.get(peer.store_id) is not Health.GONE
        assert not (choice.is_leader and choice.is_replica_read)
        if event == "refused":
            s.on_refused(peer)
        elif event == "not_leader":
            s.on_not_leader(peer)
        elif event == "busy":
            s.on_busy(peer)
        elif event == "waited":
            s.on_waited()
        elif event == "at_leader":
            s.read_at_leader()
        elif event.startswith("leader"):
            s.on_leader(Peer(int(event[-1]), int(event[-1])))
    pytest.fail("the choices did not end")
