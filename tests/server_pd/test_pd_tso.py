"""The timestamp oracle: always upwards, whatever the clock, crashes and restarts do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.server.pd.tso import MAX_COUNT, WINDOW_MS, BoundReached, TsoAllocator


def test_nothing_before_a_bound_is_saved():
    tso = TsoAllocator()
    with pytest.raises(BoundReached):
        tso.allocate(1, 1_000)
    bound = tso.next_bound(1_000)
    assert bound == 1_000 + WINDOW_MS
    tso.bound_saved(bound)
    assert tso.allocate(1, 1_000) == (1_000, 1)
    assert tso.allocate(10, 1_000) == (1_000, 11)
    assert tso.next_bound(1_000) is None
    assert tso.next_bound(1_000 + WINDOW_MS) == 1_000 + 2 * WINDOW_MS


def test_the_counter_overflows_into_the_next_millisecond():
    tso = TsoAllocator()
    tso.bound_saved(10_000)
    assert tso.allocate(MAX_COUNT, 5_000) == (5_000, MAX_COUNT)
    assert tso.allocate(1, 5_000) == (5_001, 1)
    assert tso.allocate(MAX_COUNT - 1, 5_000) == (5_001, MAX_COUNT)
    assert tso.allocate(2, 5_000) == (5_002, 2)


def test_overflow_at_the_bound_waits_for_a_save():
    tso = TsoAllocator()
    tso.bound_saved(5_001)
    tso.allocate(MAX_COUNT, 5_000)
    with pytest.raises(BoundReached):
        tso.allocate(1, 5_000)
    bound = tso.next_bound(5_000)
    assert bound is not None
    tso.bound_saved(bound)
    assert tso.allocate(1, 5_000) == (5_001, 1)


@pytest.mark.parametrize("count", [0, -1, MAX_COUNT + 1, 1 << 32])
def test_counts_that_are_not_served(count):
    tso = TsoAllocator()
    tso.bound_saved(10_000)
    with pytest.raises(ValueError, match="tso count"):
        tso.allocate(count, 5_000)


def test_a_bound_never_falls():
    tso = TsoAllocator(7_000)
    tso.bound_saved(6_000)
    assert tso.bound_ms == 7_000


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, MAX_COUNT)),
        st.tuples(st.just("clock"), st.integers(-10_000_000, 10_000_000)),
        st.tuples(st.just("tick"), st.integers(0, 5_000)),
        st.tuples(st.just("save"), st.just(0)),
        st.tuples(st.just("save unfinished"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS)
def test_strictly_increasing_over_crashes_and_clock_jumps(steps):
    disk, now_ms, last = 0, 1_700_000_000_000, -1
    tso = TsoAllocator(disk)
    for action, number in steps:
        if action == "clock":
            now_ms = max(1, now_ms + number)
        elif action == "tick":
            now_ms += number
        elif action == "crash":
            tso = TsoAllocator(disk)
        elif action in ("save", "save unfinished"):
            bound = tso.next_bound(now_ms)
            if bound is not None:
                disk = bound  # reached the disk, whether or not the oracle hears of it
                if action == "save":
                    tso.bound_saved(bound)
        else:
            try:
                physical, logical = tso.allocate(number, now_ms)
            except BoundReached:
                bound = tso.next_bound(now_ms)
                assert bound is not None, "an oracle that cannot go on must name what to save"
                disk = bound
                tso.bound_saved(bound)
                physical, logical = tso.allocate(number, now_ms)
            assert physical < disk, "given out beyond what a restart would know"
            assert 0 < logical - number + 1 <= logical <= MAX_COUNT
            first = (physical << 18) + logical - number + 1
            assert first > last
            last = (physical << 18) + logical
