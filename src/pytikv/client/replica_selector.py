"""Which replica of a region to ask next: pure decisions over what is known and what was tried.

A `ReplicaSelector` lives as long as one request to one region. It is given the region, the leader as far as known, a
view of each store's health, the policy for reads, and it remembers its attempts. `next()` answers a `Choice` or None:
no replica is left, look the region up again.

Rules, in the order in which they decide:

1. Witnesses never serve. Peers that PD reports as down serve no reads. Nobody is asked more than `MAX_ATTEMPTS` times.
2. Writes, and reads of policy `leader`, go to the leader. A leader that cannot be reached, gave no answer or denied
   being the leader is passed over: the other voters are asked in turn, each once, as if they were the leader. The one
   that is says so by answering; the others name it (`on_not_leader`).
3. Replica reads prefer, in this order: stores that work well, untried peers, matching labels, then the policy's kind
   of peer (`follower`: followers; `prefer_leader`: the leader as long as its store works well; `mixed`: any;
   `closest`: a replica with matching labels, else the leader).
   Ties are broken by `rotation`, a number that the caller draws, so that load spreads. Learners count as followers.
   When nobody else is left, the leader serves.
   A stale read is a replica read of any policy that says so to whoever it asks, the leader included; once a replica
   could not serve it, it is a usual read at the leader.
4. A store that is gone (tombstone, unknown) is never asked, nor is one of TiFlash: its peers are learners like others
   in a region's list, and only the store's label `engine` tells that it keeps columns and serves none of our requests.
5. A leader that is busy twice in a row is doubted: it may have lost its office without knowing. Another voter is asked,
   once, and names the one that leads (client-go#2028: a half-dead store that only ever said "busy" kept its callers).

No I/O, clock or dice in here. Sources of the facts: client-go internal/locate/replica_selector.go, and
tikvrpc/endpoint.go for TiFlash's labels.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final, NamedTuple

from pytikv.config import Labels, ReplicaRead
from pytikv.types import Peer, Region

__all__ = ["MAX_ATTEMPTS", "Choice", "Health", "ReplicaSelector", "StoreView", "is_tiflash"]

MAX_ATTEMPTS: Final = 10
_BUSY_BEFORE_DOUBT: Final = 2
_LEARNER: Final = 1
_TIFLASH: Final = frozenset({("engine", "tiflash"), ("engine", "tiflash_compute")})


class Health(enum.IntEnum):
    """How a store works, best first."""

    GOOD = 0
    SLOW = 1
    UNREACHABLE = 2
    GONE = 3


class StoreView(NamedTuple):
    """What the selector needs to know of a store."""

    health: Health = Health.GOOD
    labels: Labels = ()


def is_tiflash(labels: Labels) -> bool:
    """Tell by its labels whether a store is TiFlash's, which serves none of the requests made here."""
    return not _TIFLASH.isdisjoint(labels)


class Choice(NamedTuple):
    """The replica to ask, and what the request must say: that a follower may serve it, that old data will do."""

    peer: Peer
    is_leader: bool
    is_replica_read: bool
    is_stale_read: bool = False


@dataclasses.dataclass(slots=True)
class _Tried:
    """What happened with one peer during this request."""

    attempts: int = 0
    is_passed_over: bool = False  # unreachable, no answer, denied being the leader, or refused otherwise
    is_busy: bool = False


class ReplicaSelector:
    """The choices of one request to one region; see the module's docstring for the rules."""

    def __init__(
        self,
        region: Region,
        leader: Peer | None,
        store: Callable[[int], StoreView],
        *,
        policy: ReplicaRead = "leader",
        labels: Labels = (),
        rotation: int = 0,
        is_stale_read: bool = False,
    ) -> None:
        self.region = region
        self.leader = leader
        self._store = store
        self._policy: ReplicaRead = policy
        self._labels = labels
        self._rotation = rotation
        self._is_stale_read = is_stale_read
        self._tried: dict[int, _Tried] = {}

    def next(self) -> Choice | None:
        """Choose the replica to ask and count the attempt; None when none is left."""
        choice = self._next_for_leader() if self._policy == "leader" else self._next_for_replica()
        if choice is not None:
            self._of(choice.peer).attempts += 1
        return choice

    def other(self, peer: Peer) -> Choice | None:
        """Choose a replica in good health to ask for a read beside `peer`, and count the attempt; None without one."""
        peers = [one for one in self._readable() if one.id != peer.id and self._health(one) is Health.GOOD]
        if self._policy == "leader" or not peers:
            return None
        choice = self._best(peers)
        self._of(choice.peer).attempts += 1
        return choice

    @property
    def has_more(self) -> bool:
        """Whether there is a replica that could still be asked."""
        return any(self._can_serve(peer) for peer in self.region.peers)

    def asked(self, peer: Peer) -> Choice:
        """Count an attempt that was made before anything was chosen: `peer` was asked as the leader."""
        self._of(peer).attempts += 1
        return Choice(peer, True, False)

    # --- what happened ------------------------------------------------------------------------------------------------

    def on_leader(self, leader: Peer) -> bool:
        """Take note of the leader that a store named. False when the region has no such peer: look it up again."""
        known = next((p for p in self.region.peers if p.id == leader.id and p.store_id == leader.store_id), None)
        if known is None:
            return False
        self.leader = known
        # Whatever it said before, it is the leader now; its attempts still count against the limit.
        self._of(known).is_passed_over = False
        return True

    def on_not_leader(self, peer: Peer) -> None:
        """`peer` denied being the leader and named nobody."""
        if self.leader is not None and self.leader.id == peer.id:
            self.leader = None
        self._of(peer).is_passed_over = True

    def on_refused(self, peer: Peer) -> None:
        """`peer` gave no answer, or one that asking it again cannot better."""
        self._of(peer).is_passed_over = True

    def on_busy(self, peer: Peer) -> bool:
        """`peer` is busy. True when another replica could serve the request in its place."""
        self._of(peer).is_busy = True
        if self._policy == "leader":
            if self._of(peer).attempts == _BUSY_BEFORE_DOUBT and self._untried_voters():
                self.leader = None
            return False  # others can only say who leads; the wait for the leader is not shortened by them
        return any(not self._of(other).is_busy and self._can_serve(other) for other in self.region.peers)

    def on_waited(self) -> None:
        """The caller has slept: who was busy may be asked again."""
        for tried in self._tried.values():
            tried.is_busy = False

    def read_at_leader(self) -> None:
        """A replica cannot serve this read at present: go on with the leader."""
        self._policy = "leader"

    def attempts(self, peer: Peer) -> int:
        """How often `peer` was chosen."""
        return self._of(peer).attempts

    # --- rules --------------------------------------------------------------------------------------------------------

    def _next_for_leader(self) -> Choice | None:
        leader = self.leader
        if leader is not None and self._can_serve(leader) and self._health(leader) < Health.UNREACHABLE:
            return Choice(leader, True, False)
        # Who does not lead names the leader: each voter is asked once, in good health first.
        others = self._untried_voters()
        if others:
            return Choice(min(others, key=self._health), True, False)
        # All were asked, or all seem unreachable: the leader may be back.
        if leader is not None and self._can_serve(leader):
            return Choice(leader, True, False)
        return None

    def _untried_voters(self) -> list[Peer]:
        return [
            peer
            for peer in self.region.peers
            if peer.role != _LEARNER and self._can_serve(peer) and self._of(peer).attempts == 0
        ]

    def _next_for_replica(self) -> Choice | None:
        peers = self._readable()
        return self._best(peers) if peers else self._next_for_leader()

    def _readable(self) -> list[Peer]:
        """Return the peers that may serve a replica read now."""
        return [
            peer
            for peer in self.region.peers
            if self._can_serve(peer) and peer.id not in self.region.down_peer_ids and not self._of(peer).is_busy
        ]

    def _best(self, peers: list[Peer]) -> Choice:
        count = len(self.region.peers)
        order = {peer.id: (index + self._rotation) % count for index, peer in enumerate(self.region.peers)}
        peer = min(peers, key=lambda one: (*self._preference(one), order[one.id]))
        is_leader = self.leader is not None and peer.id == self.leader.id
        if self._is_stale_read:
            return Choice(peer, is_leader, False, True)
        return Choice(peer, is_leader, not is_leader)

    def _preference(self, peer: Peer) -> tuple[int, ...]:
        """Sort key: the smallest is asked first."""
        is_leader = self.leader is not None and peer.id == self.leader.id
        health, attempts = self._health(peer), self._of(peer).attempts
        foreign = not self._labels_match(peer)
        if self._policy == "follower":
            return (health, attempts, is_leader, foreign)
        if self._policy == "prefer_leader":
            return (health, attempts, not is_leader, foreign)
        if self._policy == "closest":
            return (health, attempts, foreign, foreign and not is_leader)
        return (health, attempts, foreign)

    def _labels_match(self, peer: Peer) -> bool:
        if not self._labels:
            return True
        labels = self._store(peer.store_id).labels
        return all(label in labels for label in self._labels)

    def _can_serve(self, peer: Peer) -> bool:
        tried = self._of(peer)
        if peer.is_witness or tried.is_passed_over or tried.attempts >= MAX_ATTEMPTS:
            return False
        store = self._store(peer.store_id)
        return store.health is not Health.GONE and not is_tiflash(store.labels)

    def _health(self, peer: Peer) -> Health:
        return self._store(peer.store_id).health

    def _of(self, peer: Peer) -> _Tried:
        tried = self._tried.get(peer.id)
        if tried is None:
            tried = self._tried[peer.id] = _Tried()
        return tried
