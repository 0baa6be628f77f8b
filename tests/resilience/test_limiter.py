"""The adaptive limit on a model of a server: so many workers, each request a time, a queue before them."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.client.resilience.limiter import Limiter
from pytikv.policies import LimitPolicy


def serve(limiter: Limiter, now: float, seconds: float, *, workers: int, service_s: float) -> float:
    """Use the whole limit for a while: latency is the service time, or what the queue makes of it (Little's law)."""
    until = now + seconds
    while now < until:
        took_s = service_s * max(1.0, limiter.limit / workers)
        for _ in range(10):
            limiter.on_sample(now, took_s, limiter.limit)
        now += max(took_s, 0.02)
    return now


def test_it_grows_to_what_the_server_bears_and_not_far_beyond() -> None:
    limiter = Limiter(LimitPolicy(initial=8, min=4, max=1000))
    serve(limiter, 0.0, 120.0, workers=50, service_s=0.01)
    assert 50 <= limiter.limit <= 150  # a tolerance of 2 allows a queue as long as the work itself


def test_it_shrinks_when_the_server_loses_workers() -> None:
    limiter = Limiter(LimitPolicy(initial=8, min=4, max=1000))
    now = serve(limiter, 0.0, 60.0, workers=100, service_s=0.01)
    before = limiter.limit
    serve(limiter, now, 20.0, workers=10, service_s=0.01)
    assert limiter.limit < before / 3


def test_a_server_that_became_slower_for_good_is_not_throttled_for_ever() -> None:
    limiter = Limiter(LimitPolicy(initial=8, min=4, max=1000))
    now = serve(limiter, 0.0, 60.0, workers=100, service_s=0.01)
    serve(limiter, now, 300.0, workers=100, service_s=0.05)
    assert limiter.limit >= 80


def test_latency_does_not_creep() -> None:
    limiter = Limiter(LimitPolicy(initial=8, min=4, max=10_000))
    serve(limiter, 0.0, 3000.0, workers=50, service_s=0.01)
    assert limiter.limit <= 150


def test_what_tells_of_overload_takes_its_share_of_the_limit() -> None:
    limiter = Limiter(LimitPolicy(initial=100, min=4, max=1000))
    for _ in range(8):
        limiter.on_sample(1.0, 0.01, 10)
    limiter.on_overload(1.0)
    assert limiter.on_overload(1.1)
    assert limiter.limit == 80
    for _ in range(1000):
        limiter.on_overload(1.15)  # the window of a tenth of a second is not over
    assert limiter.limit == 80
    limiter.on_overload(1.25)
    assert limiter.limit == 40  # half of it at most
    limiter.on_overload(2.3)
    assert limiter.limit == 36  # one alone is little evidence


def test_an_idle_client_does_not_grow_it() -> None:
    limiter = Limiter(LimitPolicy(initial=32, min=4, max=1000))
    for step in range(10_000):
        limiter.on_sample(step * 0.01, 0.001, 2)
    assert limiter.limit == 32


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-10.0, 100.0),
            st.floats(0.0, 1e6, allow_nan=False),
            st.integers(0, 5000),
            st.booleans(),
        ),
        max_size=200,
    )
)
def test_it_stays_within_its_bounds_whatever_comes(steps: list[tuple[float, float, int, bool]]) -> None:
    limiter, now = Limiter(LimitPolicy(initial=10, min=5, max=50)), 0.0
    for pause, took_s, in_flight, is_overload in steps:
        now += pause
        before = limiter.limit
        changed = limiter.on_overload(now) if is_overload else limiter.on_sample(now, took_s, in_flight)
        assert changed is (limiter.limit != before)
        assert 5 <= limiter.limit <= 50
        assert math.isfinite(limiter._estimate)
