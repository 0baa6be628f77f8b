"""When operations begin, in virtual time."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.bench.pacing import Pace, Pacer
from pytikv.bench.report import Recorder, Sample
from pytikv.errors import ConfigError


def play(pace: Pace, workers: int, service_s) -> tuple[Pacer, list[Sample]]:
    """Run workers on virtual time; `service_s(began)` is how long an operation takes that begins then."""
    pacer, samples = Pacer(pace), []
    free = [(0.0, number) for number in range(workers)]
    while free:
        now_s, number = heapq.heappop(free)
        ticket = pacer.take(now_s)
        if ticket is None:
            continue
        began_s = now_s if ticket.intended_s is None else max(now_s, ticket.intended_s)
        ended_s = began_s + service_s(began_s)
        intended_s = began_s if ticket.intended_s is None else ticket.intended_s
        samples.append(Sample("op", began_s, intended_s, ended_s, ticket.is_measured, None, ()))
        heapq.heappush(free, (ended_s, number))
    return pacer, samples


def test_closed_loop_by_operations() -> None:
    pacer, samples = play(Pace(operations=100, warmup_s=1.0), 4, lambda _: 0.1)
    measured = [one for one in samples if one.is_measured]
    assert len(measured) == 100
    assert all(one.began_s >= 1.0 for one in measured)
    assert sum(not one.is_measured for one in samples) >= 40
    assert pacer.missed(100) == 0


def test_closed_loop_by_time() -> None:
    _, samples = play(Pace(duration_s=2.0, warmup_s=0.5), 2, lambda _: 0.1)
    assert all((one.began_s >= 0.5 - 1e-9) == one.is_measured for one in samples)
    assert max(one.began_s for one in samples) < 2.5
    assert len([one for one in samples if one.is_measured]) == pytest.approx(40, abs=2)


def test_open_loop_begins_at_the_intended_times() -> None:
    pacer, samples = play(Pace(duration_s=2.0, rate=50.0, warmup_s=1.0), 3, lambda _: 0.01)
    assert [one.intended_s for one in samples] == [number / 50 for number in range(150)]
    assert all(one.began_s == one.intended_s for one in samples)
    assert sum(one.is_measured for one in samples) == 100
    assert pacer.missed(100) == 0


def test_a_stall_is_in_the_response_and_not_in_the_service() -> None:
    # 100 operations a second of 1 ms each; between 5 s and 6 s the store answers nothing.
    def service_s(began_s: float) -> float:
        return 6.0 - began_s if 5.0 <= began_s < 6.0 else 0.001

    recorder = Recorder(["op"], measured_from_s=0.0, has_rate=True)
    pace = Pace(duration_s=10.0, rate=100.0)
    _, samples = play(pace, 1, service_s)
    recorder.take(samples)
    (one,) = recorder.operations(10.0).values()
    assert one.count == 1000
    assert one.service["p99_us"] == pytest.approx(1000, rel=0.01)  # one operation of a thousand was slow
    assert one.service["max_us"] == pytest.approx(1_000_000, rel=0.01)
    assert one.response["p99_us"] == pytest.approx(900_000, rel=0.02)  # a tenth of them came while it stood still
    assert one.response["p90_us"] > 10_000
    assert one.response["p50_us"] == pytest.approx(1000, rel=0.01)
    waiting = sorted(sample.ended_s - sample.intended_s for sample in samples)[-50:]
    assert waiting[0] > 0.5


def test_a_rate_that_is_too_high_misses_operations() -> None:
    pacer, samples = play(Pace(duration_s=1.0, rate=1000.0, warmup_s=0.1), 1, lambda _: 0.01)
    begun = sum(one.is_measured for one in samples)
    assert begun < 110
    assert pacer.missed(begun) == 1000 - begun


def test_open_loop_by_operations_runs_them_all() -> None:
    pacer, samples = play(Pace(operations=30, rate=1000.0, warmup_s=0.01), 2, lambda _: 0.1)
    assert sum(one.is_measured for one in samples) == 30
    assert pacer.missed(30) == 0


@given(
    st.floats(0.5, 3), st.floats(1, 200), st.floats(0, 1), st.integers(1, 5), st.floats(0.0001, 0.3), st.integers(1, 99)
)
def test_what_holds_for_every_open_loop(
    duration_s: float, rate: float, warmup_s: float, workers: int, seconds: float, operations: int
) -> None:
    pace = Pace(duration_s=duration_s, rate=rate, warmup_s=warmup_s, operations=operations)
    pacer, samples = play(pace, workers, lambda _: seconds)
    assert sorted(one.intended_s for one in samples) == [number / rate for number in range(len(samples))]
    assert all(one.intended_s <= one.began_s for one in samples)
    measured = sum(one.is_measured for one in samples)
    assert measured <= operations
    assert all(one.intended_s < warmup_s + duration_s for one in samples)
    assert measured + pacer.missed(measured) <= operations


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"duration_s": 0.0},
        {"operations": -1},
        {"duration_s": 1.0, "rate": 0.0},
        {"operations": 1, "warmup_s": -1.0},
    ],
)
def test_paces_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"of a run must|needs an end"):
        Pace(**options)  # type: ignore[arg-type]
