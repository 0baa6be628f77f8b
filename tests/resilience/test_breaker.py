"""The breaker against a twin that keeps every call in a list, and the races of its states one by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.client.resilience.breaker import REFUSED, Breaker
from pytikv.policies import BreakerPolicy

POLICY = BreakerPolicy(
    window_s=10.0, min_calls=4, error_rate=0.5, slow_s=1.0, slow_rate=0.75, open_s=1.0, open_cap_s=8.0, probes=2
)


def new(policy: BreakerPolicy = POLICY, seed: int = 1) -> Breaker:
    return Breaker(policy, random.Random(seed))


def fail(breaker: Breaker, now: float, count: int = 1) -> None:
    for _ in range(count):
        breaker.on_failure(breaker.admit(now), now)


def opened(at: float = 100.0) -> Breaker:
    breaker = new()
    fail(breaker, at, 4)
    assert breaker.state == "open"
    return breaker


class Twin:
    """What the window says, from the list of all calls since the last closing. Bucket borders as documented."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, bool, bool]] = []

    def add(self, now: float, failed: bool, slow: bool) -> bool:
        """Take in a call; True when the breaker must open with it."""
        self.calls.append((now, failed, slow or failed))
        if not (failed or slow):
            return False
        width = POLICY.window_s / 10
        kept = [call for call in self.calls if int(now // width) - int(call[0] // width) < 10]
        fails, slows = sum(call[1] for call in kept), sum(call[2] for call in kept)
        if len(kept) < POLICY.min_calls:
            return False
        recent = [call for call in kept if int(now // width) - int(call[0] // width) < 2]
        has_stopped = len(recent) >= 4 and all(call[2] for call in recent)
        return has_stopped or fails >= POLICY.error_rate * len(kept) or slows >= POLICY.slow_rate * len(kept)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 4.0), st.sampled_from(["good", "good", "good", "slow", "bad"])),
        min_size=1,
        max_size=60,
    )
)
def test_the_window_is_that_of_a_list_of_all_calls(steps: list[tuple[float, str]]) -> None:
    breaker, twin, now = new(), Twin(), 50.0
    for pause, what in steps:
        now += pause
        ticket = breaker.admit(now)
        assert ticket != REFUSED
        if what == "bad":
            breaker.on_failure(ticket, now)
        else:
            breaker.on_success(ticket, now, 2.0 if what == "slow" else 0.01)
        must_open = twin.add(now, what == "bad", what == "slow")
        assert (breaker.state == "open") is must_open
        if must_open:
            return


def test_a_store_that_stops_is_not_covered_by_what_it_did_before() -> None:
    breaker = Breaker(BreakerPolicy(), random.Random(1))
    for number in range(1000):
        now = 100 + number / 200
        breaker.on_success(breaker.admit(now), now, 0.001)
    for number in range(5):
        assert breaker.state == "closed"
        fail(breaker, 110 + number / 100)
    assert breaker.state == "open"
    assert "last 2 s" in breaker.reason


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_happens_the_promises_hold(data: st.DataObject) -> None:
    """Any order of asking, answering, losing and clock jumps: never more probes than allowed, never stuck."""
    breaker, now = new(), 0.0
    out: list[tuple[int, int]] = []  # tickets under way, with the epoch they were given in
    for _ in range(data.draw(st.integers(1, 80))):
        now += data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, 40.0, 3600.0, -0.001, -30.0]))
        what = data.draw(st.sampled_from(["ask", "ask", "good", "slow", "bad", "lost"]))
        if what == "ask":
            before = breaker.state
            ticket = breaker.admit(now)
            if ticket == REFUSED:
                assert before != "closed"
            else:
                out.append((ticket, breaker.epoch))
        elif out:
            ticket, epoch = out.pop(data.draw(st.integers(0, len(out) - 1)))
            before, was_late = breaker.state, epoch != breaker.epoch
            if what == "bad":
                breaker.on_failure(ticket, now)
            elif what == "lost":
                breaker.on_unknown(ticket)
            else:
                breaker.on_success(ticket, now, 2.0 if what == "slow" else 0.01)
            if was_late or what == "lost":
                assert breaker.state == before, "an answer of another time turned the breaker"
        assert len(breaker._probes) <= POLICY.probes
        breaker.is_refusing(now)  # a clock that went back is put right when asked
        assert breaker.retry_in_s(now) <= POLICY.open_cap_s * 1.2 + 1e-6
    # From whatever state: good answers bring it back to closed within the longest wait and a probe's life.
    now += POLICY.open_cap_s * 1.2 + 31
    for _ in range(POLICY.probes):
        if breaker.state != "closed":
            ticket = breaker.admit(now)
            assert ticket != REFUSED
            breaker.on_success(ticket, now, 0.01)
    assert breaker.state == "closed"


def test_few_calls_conclude_nothing() -> None:
    breaker = new()
    fail(breaker, 1.0, 3)
    assert breaker.state == "closed"
    fail(breaker, 1.0)
    assert breaker.state == "open"
    assert breaker.reason == "4 of 4 requests failed in 10 s"


def test_slow_calls_open_it_too() -> None:
    breaker = new()
    for _ in range(4):
        breaker.on_success(breaker.admit(1.0), 1.0, 1.0)
    assert breaker.state == "open"
    assert "took 1 s or failed" in breaker.reason


def test_open_refuses_until_the_wait_is_over() -> None:
    breaker = opened(100.0)
    assert breaker.admit(100.7) == REFUSED
    assert 0.8 <= breaker.retry_in_s(100.0) <= 1.2
    assert breaker.admit(101.3) != REFUSED
    assert breaker.state == "half_open"


def test_half_open_lets_no_more_probes_through_than_it_says() -> None:
    breaker = opened()
    probes = [breaker.admit(102.0) for _ in range(5)]
    assert sum(ticket != REFUSED for ticket in probes) == 2
    breaker.on_success(probes[0], 102.1, 0.01)
    assert breaker.admit(102.1) == REFUSED  # one is good, one is under way
    breaker.on_success(probes[1], 102.2, 0.01)
    assert breaker.state == "closed"
    assert breaker.transitions == {"closed": 1, "half_open": 1, "open": 1}


def test_a_late_answer_neither_closes_nor_opens() -> None:
    breaker = new()
    early = [breaker.admit(100.0) for _ in range(6)]
    fail(breaker, 100.0, 4)
    for ticket in early[:3]:
        breaker.on_success(ticket, 101.0, 0.01)
    assert breaker.state == "open"
    probe = breaker.admit(102.0)
    for ticket in early[3:5]:
        breaker.on_success(ticket, 102.0, 0.01)
    assert breaker.state == "half_open"
    breaker.on_failure(early[5], 102.0)
    assert breaker.state == "half_open"  # the failure is of another time
    breaker.on_success(probe, 102.1, 0.01)
    breaker.on_success(breaker.admit(102.1), 102.2, 0.01)
    assert breaker.state == "closed"
    breaker.on_failure(probe, 102.3)  # reported twice: without effect
    assert breaker.state == "closed"


def test_a_probe_of_the_round_before_does_not_count_in_this_one() -> None:
    breaker = opened()
    slow, bad = breaker.admit(102.0), breaker.admit(102.0)
    breaker.on_failure(bad, 102.1)
    assert breaker.state == "open"
    now = 102.1 + 3.0
    assert breaker.admit(now) != REFUSED
    breaker.on_success(slow, now, 0.5)
    assert breaker._probes_good == 0
    breaker.on_failure(slow, now)
    assert breaker.state == "half_open"


def test_a_lost_probe_frees_its_place() -> None:
    breaker = opened()
    given_up, silent = breaker.admit(102.0), breaker.admit(102.0)
    assert breaker.admit(102.0) == REFUSED
    breaker.on_unknown(given_up)
    assert breaker.admit(102.0) != REFUSED
    assert breaker.admit(102.0) == REFUSED
    assert breaker.admit(133.0) != REFUSED  # the silent one is not waited for any longer
    breaker.on_success(silent, 134.0, 0.1)
    assert breaker.state == "half_open"


def test_a_flapping_store_is_left_alone_for_longer_each_time() -> None:
    breaker, now, waits = new(), 100.0, []
    for _ in range(6):
        while breaker.state != "open":
            fail(breaker, now)
        waits.append(breaker.retry_in_s(now))
        now += waits[-1] + 0.01
        for _ in range(2):
            breaker.on_success(breaker.admit(now), now, 0.01)
        assert breaker.state == "closed"
    for planned, wait in zip((1, 2, 4, 8, 8, 8), waits, strict=True):
        assert 0.8 * planned <= wait <= 1.2 * planned
    now += 11.0  # a whole window of calm
    fail(breaker, now, 4)
    assert breaker.retry_in_s(now) <= 1.2


@pytest.mark.parametrize("jump", [3600.0, 86_400.0 * 365, -3600.0, -5.0])
def test_the_clock_jumps(jump: float) -> None:
    breaker = opened(10_000.0)
    now = 10_000.0 + jump
    if jump > 0:
        assert breaker.admit(now) != REFUSED
    else:
        assert breaker.admit(now) == REFUSED
        assert breaker.admit(now + 1.3) != REFUSED  # the wait is as long as it was
    closed = new()
    fail(closed, 10_000.0, 3)
    fail(closed, now, 1)
    if abs(jump) > 10:
        assert closed.state == "closed"  # what was before the jump is of another window
    fail(closed, now, 3)
    assert closed.state == "open"


def test_many_breakers_do_not_come_back_at_once() -> None:
    waits = set()
    for seed in range(50):
        breaker = new(seed=seed)
        fail(breaker, 1.0, 4)
        waits.add(round(breaker.retry_in_s(1.0), 3))
    assert len(waits) > 40
    assert max(waits) - min(waits) > 0.3
