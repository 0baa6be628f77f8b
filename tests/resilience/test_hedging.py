"""When a read is sent a second time, and the race of the two."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv import Overloaded
from pytikv.client.resilience.hedging import Hedger, Percentile, race
from pytikv.testing.sim import World


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.integers(32, 1000))
def test_a_percentile_is_that_of_the_last_values(seed, share, count):
    rng, percentile, values = random.Random(seed), Percentile(share), []
    for _ in range(count - count % 32):
        values.append(rng.expovariate(1.0))
        percentile.add(values[-1])
    last = sorted(values[-256:])
    assert percentile.value == last[min(len(last) - 1, int(share * len(last)))]


def test_nothing_is_hedged_before_enough_was_seen():
    hedger = Hedger("p95", 0.1)
    for number in range(31):
        assert hedger.begin("s:1", "RawGet") is None
        hedger.note("s:1", "RawGet", 0.001 * number, None)
    hedger.note("s:1", "RawGet", 0.031, None)
    assert hedger.begin("s:1", "RawGet") == pytest.approx(0.03)
    assert hedger.begin("s:2", "RawGet") is None
    assert hedger.begin("s:1", "KvScan") is None


def test_second_tries_stay_within_their_share():
    hedger = Hedger(5.0, 0.05)
    made = 0
    for _ in range(10_000):
        assert hedger.begin("s:1", "RawGet") == 0.005
        made += hedger.withdraw()
    assert made == pytest.approx(500, abs=11)


def test_what_is_learnt_is_bounded():
    hedger = Hedger("p99", 0.1)
    for number in range(5000):
        hedger.note(f"s:{number}", "RawGet", 0.001, None)
    assert len(hedger._learnt) <= 1024


def test_a_store_that_is_slow_for_long_does_not_teach_that_slow_is_usual():
    hedger = Hedger("p90", 0.1)
    for _ in range(64):
        hedger.note("well:1", "RawGet", 0.002, None)
        hedger.note("slow:1", "RawGet", 2.0, None)
    assert hedger.begin("slow:1", "RawGet") == pytest.approx(0.02)
    assert hedger.begin("well:1", "RawGet") == pytest.approx(0.002)


def test_reads_that_are_late_one_after_the_other_are_told():
    hedger = Hedger(20.0, 0.1)
    assert [hedger.on_late("s:1") for _ in range(4)] == [False, False, True, True]
    hedger.note("s:1", "RawGet", 0.5, 0.02)  # late itself
    assert hedger.on_late("s:1")
    hedger.note("s:1", "RawGet", 0.01, 0.02)
    assert not hedger.on_late("s:1")


def run(case):
    """Play a case in virtual time: seconds and outcome of both tries; returns what the race says, and its length."""
    world = World(1)
    rt = world.process("main")
    log = []

    async def attempt(name, seconds, outcome):
        log.append(f"{name} began")
        try:
            await rt.sleep(seconds)
        except rt.Cancelled:
            log.append(f"{name} cancelled")
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def main():
        began = rt.now()
        second = case.get("second")
        result = await race(
            rt,
            attempt("first", *case["first"]),
            (lambda: attempt("second", *second)) if second else (lambda: None),
            0.05,
            lambda met: met == "good",
        )
        return result, round(rt.now() - began, 3)

    with world:
        result, seconds = world.run(main())
    return result, seconds, log


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"first": (0.01, "good"), "second": (0.01, "good")}, (("good", False), 0.01, ["first began"])),
        ({"first": (0.01, "bad"), "second": (0.01, "good")}, (("bad", False), 0.01, ["first began"])),
        (
            {"first": (1.0, "good"), "second": (0.01, "good")},
            (("good", True), 0.06, ["first began", "second began", "first cancelled"]),
        ),
        (
            {"first": (0.1, "good"), "second": (1.0, "good")},
            (("good", False), 0.1, ["first began", "second began", "second cancelled"]),
        ),
        ({"first": (0.1, "bad"), "second": (0.2, "good")}, (("good", True), 0.25, ["first began", "second began"])),
        ({"first": (0.3, "good"), "second": (0.1, "bad")}, (("good", False), 0.3, ["first began", "second began"])),
        ({"first": (0.1, "bad"), "second": (0.2, "worse")}, (("bad", False), 0.25, ["first began", "second began"])),
        (
            {"first": (0.3, "good"), "second": (0.1, Overloaded("x"))},
            (("good", False), 0.3, ["first began", "second began"]),
        ),
        ({"first": (0.3, "good")}, (("good", False), 0.3, ["first began"])),
    ],
)
def test_the_first_good_answer_wins(case, expected):
    assert run(case) == expected


def test_what_the_first_raises_is_raised():
    with pytest.raises(Overloaded):
        run({"first": (0.01, Overloaded("x")), "second": (0.1, "good")})
