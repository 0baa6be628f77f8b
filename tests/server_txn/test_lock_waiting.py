"""Waiting for locks: transcripts, and a random life against what must always hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytikv.codec.farmhash import fingerprint64
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.storage import lock_waiting
from pytikv.server.storage.lock_waiting import (
    Deadlocked,
    Delay,
    Effect,
    Expired,
    LockWaitQueues,
    Resumed,
    Waiter,
    WaiterState,
    Woken,
    wait_limit_s,
)

DELAY_S = lock_waiting.WAKE_UP_DELAY_S


def waiter(start_ts: int, key: bytes = b"k", **fields: Any) -> Waiter:
    return Waiter(key, key, start_ts, **fields)


def held_by(start_ts: int, key: bytes = b"k") -> kvrpcpb.LockInfo:
    return kvrpcpb.LockInfo(lock_version=start_ts, key=key, lock_ttl=3000)


def pushed(queues: LockWaitQueues, *waiters: Waiter, holder: int = 1, now_s: float = 0.0) -> None:
    for one in waiters:
        assert queues.push(one, held_by(holder, one.key), now_s) is None


def delay_of(effects: list[Effect]) -> Delay:
    (delay,) = [effect for effect in effects if isinstance(effect, Delay)]
    return delay


def test_limits_of_a_wait() -> None:
    assert [wait_limit_s(ms) for ms in (-1, 0, 250, 1000, 5000)] == [None, 1.0, 0.25, 1.0, 1.0]


def test_the_oldest_transaction_is_woken_and_never_given_the_lock() -> None:
    queues = LockWaitQueues()
    younger, older, other = waiter(30), waiter(20), waiter(10, b"other")
    pushed(queues, younger, older, other)
    effects = queues.release(b"k", 1, 0)
    assert effects[0] == Woken(older, 1, 0)
    assert older.state is WaiterState.ENDED
    assert younger.state is WaiterState.WAITING
    delay = delay_of(effects)
    assert delay.after_s == DELAY_S
    assert queues.wake_delayed(delay.key, delay.number) == [Woken(younger, 1, 0)]
    assert len(queues) == 1
    assert queues.release(b"nobody waits here", 1, 0) == []


def test_a_delay_counts_from_the_last_release_and_leaves_newcomers_alone() -> None:
    queues = LockWaitQueues()
    old = [waiter(20), waiter(30), waiter(40), waiter(45)]
    pushed(queues, *old)
    first = delay_of(queues.release(b"k", 1, 0))
    effects = queues.release(b"k", 2, 7)
    assert effects[0] == Woken(old[1], 2, 7)
    second = delay_of(effects)
    newcomer = waiter(50)
    pushed(queues, newcomer, holder=3)
    assert queues.wake_delayed(b"k", first.number) == [], "the second release began the delay anew"
    assert queues.wake_delayed(b"k", second.number) == [Woken(old[2], 2, 7), Woken(old[3], 2, 7)]
    assert queues.release(b"k", 3, 0) == [Woken(newcomer, 3, 0)]
    assert queues.wake_delayed(b"k", second.number) == [], "that delay is over"


def test_those_behind_a_newcomer_wait_for_the_next_release() -> None:
    queues = LockWaitQueues()
    pushed(queues, waiter(20), waiter(30))
    delay = delay_of(queues.release(b"k", 1, 0))
    newcomer = waiter(5)
    pushed(queues, newcomer, holder=3)
    assert queues.wake_delayed(b"k", delay.number) == [], "as in TiKV"
    assert queues.release(b"k", 3, 0)[0] == Woken(newcomer, 3, 0)


def test_without_a_delay_all_are_woken_at_once() -> None:
    queues = LockWaitQueues(wake_up_delay_s=0.0)
    waiters = [waiter(20), waiter(30), waiter(40, is_resumable=True), waiter(50)]
    pushed(queues, *waiters)
    assert queues.release(b"k", 1, 9) == [Woken(waiters[0], 1, 9), Woken(waiters[1], 1, 9), Resumed(waiters[2])]
    assert len(queues) == 1


def test_force_lock_waiters_take_turns() -> None:
    queues = LockWaitQueues()
    first, second = waiter(20, is_resumable=True), waiter(30, is_resumable=True)
    pushed(queues, second, first)
    assert queues.release(b"k", 1, 9) == [Resumed(first)]
    assert queues.acquire(b"k", held_by(20), 0.5) == []
    queues.finish(first)
    expired = queues.expire(second, 0.75)
    assert expired is not None
    assert (expired.lock.lock_version, expired.lock.duration_to_last_update_ms) == (20, 250)


def test_a_resumed_waiter_that_meets_a_lock_waits_on_unless_its_time_is_over() -> None:
    queues = LockWaitQueues()
    one = waiter(20, is_resumable=True)
    pushed(queues, one)
    assert queues.release(b"k", 1, 9) == [Resumed(one)]
    pushed(queues, one, holder=15)
    assert queues.release(b"k", 15, 0) == [Resumed(one)]
    assert queues.expire(one, 0.2) is None, "nobody may end it while it is tried"
    assert queues.push(one, held_by(16), 0.3) == Expired(one, held_by(16))
    assert len(queues) == 0


def test_waiters_for_shared_locks_are_woken_together() -> None:
    queues = LockWaitQueues()
    shared = [waiter(20, wants_shared=True), waiter(30, wants_shared=True)]
    exclusive = waiter(40)
    pushed(queues, *shared, exclusive, waiter(50, wants_shared=True))
    effects = queues.release(b"k", 1, 0)
    assert effects[:2] == [Woken(shared[0], 1, 0), Woken(shared[1], 1, 0)]
    assert len(queues) == 2


def test_an_expired_wait_tells_the_lock() -> None:
    queues = LockWaitQueues()
    one = waiter(20)
    pushed(queues, one)
    assert queues.expire(one, 1.0) == Expired(one, held_by(1))
    assert queues.expire(one, 1.0) is None
    assert queues.release(b"k", 1, 0) == []


def test_the_number_of_waiters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_waiting, "MAX_WAITERS", 2)
    queues = LockWaitQueues()
    pushed(queues, waiter(10), waiter(20))
    refused = waiter(30)
    assert queues.push(refused, held_by(1), 0.0) == Expired(refused, held_by(1))


def test_a_circle_ends_the_newcomer_and_its_edges_go_with_the_waits() -> None:
    queues = LockWaitQueues()
    pushed(queues, waiter(100, b"b"), holder=110)
    victim = waiter(110, b"a")
    refused = queues.push(victim, held_by(100, b"a"), 0.0)
    assert isinstance(refused, Deadlocked)
    assert refused.deadlock.deadlock_key_hash == fingerprint64(b"b")
    assert [(e.txn, e.key) for e in refused.deadlock.wait_chain] == [(100, b"b"), (110, b"a")]
    assert queues.release(b"b", 110, 0) != []
    pushed(queues, waiter(110, b"a"), holder=100)


def test_a_first_lock_closes_no_circle() -> None:
    queues = LockWaitQueues()
    pushed(queues, waiter(100, b"b"), holder=110)
    pushed(queues, waiter(110, b"a", is_first_lock=True), holder=100)


def test_edges_follow_the_holder_in_force_lock_mode() -> None:
    queues = LockWaitQueues()
    stays = waiter(30, b"a", is_resumable=True)
    pushed(queues, stays, holder=1)
    pushed(queues, waiter(20, b"b"), holder=30)
    (deadlocked,) = queues.acquire(b"a", held_by(20, b"a"), 0.1)
    assert isinstance(deadlocked, Deadlocked)
    assert deadlocked.waiter is stays
    assert len(queues) == 1


def test_a_container_of_shared_locks_is_an_edge_to_each_member() -> None:
    queues = LockWaitQueues()
    container = kvrpcpb.LockInfo(key=b"a", lock_type=kvrpcpb.Op.SharedLock)
    container.shared_lock_infos.add(lock_version=7)
    container.shared_lock_infos.add(lock_version=8)
    assert queues.push(waiter(20, b"a"), container, 0.0) is None
    assert [(wait.txn, wait.wait_for_txn) for wait in queues.waits()] == [(20, 7), (20, 8)]
    for holder in (7, 8):
        assert isinstance(queues.push(waiter(holder, b"b"), held_by(20, b"b"), 0.0), Deadlocked)


class Life(RuleBasedStateMachine):
    """Any order of events: everybody gets one ending, the oldest first, and nothing is left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = LockWaitQueues()
        self.now_s = 0.0
        self.waiting: list[Waiter] = []
        self.resumed: list[Waiter] = []
        self.endings: Counter[Waiter] = Counter()
        self.begun: set[Waiter] = set()
        self.delays: list[Delay] = []

    def take(self, effects: list[Effect] | Effect | None) -> None:
        for effect in effects if isinstance(effects, list) else [effects] if effects is not None else []:
            if isinstance(effect, Delay):
                assert 0 < effect.after_s <= DELAY_S
                self.delays.append(effect)
                continue
            if effect.waiter in self.waiting:
                self.waiting.remove(effect.waiter)
            if isinstance(effect, Resumed):
                self.resumed.append(effect.waiter)
            else:
                self.endings[effect.waiter] += 1

    def push_one(self, one: Waiter, holder: int) -> None:
        self.begun.add(one)
        refused = self.queues.push(one, held_by(holder, one.key), self.now_s)
        if refused is None:
            self.waiting.append(one)
        self.take(refused)

    keys = st.sampled_from([b"a", b"b", b"c"])
    transactions = st.integers(1, 6)

    @rule(key=keys, start_ts=transactions, holder=transactions, resumable=st.booleans(), first=st.booleans())
    def push(self, key: bytes, start_ts: int, holder: int, resumable: bool, first: bool) -> None:
        if start_ts != holder:
            self.push_one(waiter(start_ts, key, is_resumable=resumable, is_first_lock=first), holder)

    @rule(key=keys, start_ts=transactions)
    def release(self, key: bytes, start_ts: int) -> None:
        oldest = min((one.start_ts for one in self.waiting if one.key == key), default=0)
        effects = self.queues.release(key, start_ts, 0)
        assert bool(effects) is bool(oldest)
        if effects:
            assert isinstance(effects[0], Woken | Resumed)
            assert effects[0].waiter.start_ts == oldest
        self.take(effects)

    @rule(key=keys, start_ts=transactions)
    def acquire(self, key: bytes, start_ts: int) -> None:
        self.take(self.queues.acquire(key, held_by(start_ts, key), self.now_s))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        self.take(self.queues.expire(data.draw(st.sampled_from(self.waiting)), self.now_s))

    @precondition(lambda self: self.resumed)
    @rule(data=st.data(), holder=transactions, outcome=st.sampled_from(["finish", "wait", "expire"]))
    def end_of_resuming(self, data: st.DataObject, holder: int, outcome: str) -> None:
        one = data.draw(st.sampled_from(self.resumed))
        if outcome == "expire":
            assert self.queues.expire(one, self.now_s) is None
            return
        self.resumed.remove(one)
        if outcome == "wait" and holder != one.start_ts:
            self.push_one(one, holder)
        else:
            self.queues.finish(one)
            self.endings[one] += 1

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.02, 0.5]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        delays, self.delays = self.delays, []
        for delay in delays:
            self.take(self.queues.wake_delayed(delay.key, delay.number))

    @invariant()
    def nobody_is_lost(self) -> None:
        assert len(self.queues) == len(self.waiting)
        assert all(one.state is WaiterState.WAITING for one in self.waiting)
        assert all(one.state is WaiterState.RESUMED for one in self.resumed)
        assert all(count == 1 for count in self.endings.values())
        assert self.begun == {*self.waiting, *self.resumed, *self.endings}
        keys = {one.key for one in self.waiting}
        assert set(self.queues._queues) == keys
        if not self.waiting and not self.resumed:
            assert len(self.queues._detector) == 0


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
