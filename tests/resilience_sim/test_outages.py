"""One of three stores in trouble, and the storm of retries after it: what users notice, with guards and without."""

from __future__ import annotations

from typing import Any

import pytest

from pytikv.errors import TikvError
from pytikv.testing.capacity import Capacity
from pytikv.testing.load import LoadRun
from pytikv.testing.outages import Hurt, Outage, OutageOptions, Phases, run_outage, run_storm

USUAL_P99_S = 0.012
"""What reads take where nothing is amiss: a round trip of 4 ms at most, 4 ms of work, a short queue."""


def assert_unchanged(others: Phases) -> None:
    """The other regions' reads do not notice: P99 stays within a tenth, or the half of a millisecond."""
    for phase in (others.during, others.after):
        assert phase.good_share == 1.0
        assert phase.p99 <= max(1.1 * others.before.p99, others.before.p99 + 0.0005)


@pytest.mark.parametrize("hurt", [Hurt.SLOW, Hurt.SILENT, Hurt.DEAD, Hurt.FLAPPING])
def test_without_guards_only_its_own_regions_suffer(hurt: Hurt) -> None:
    outage = run_outage(1, hurt)
    assert_unchanged(outage.others)
    assert outage.own.before.p99 < USUAL_P99_S
    assert outage.own.during.p99 >= 2.0
    assert outage.own.after.good_share == 1.0


@pytest.mark.parametrize("hurt", [Hurt.SLOW, Hurt.SILENT, Hurt.DEAD, Hurt.FLAPPING])
@pytest.mark.parametrize("after", [20.0, "p95"])
def test_hedging_bounds_the_reads_of_its_regions(hurt: Hurt, after: float | str) -> None:
    """The delay, and a usual read at a replica. A store that is late every time is left alone but for a try now and
    then, so that ten second tries for a hundred reads, the default, are enough for a third of all regions."""
    outage = run_outage(1, hurt, {"hedge_after_ms": after})
    assert outage.own.during.good_share == 1.0
    assert outage.own.during.p99 <= 0.020 + USUAL_P99_S
    assert outage.attempts < 12  # of fifty reads a second
    assert outage.own.after.p99 <= USUAL_P99_S + 0.005
    assert_unchanged(outage.others)


FREQUENT = OutageOptions(
    clients=1,
    per_second=450,
    trouble_at=3,
    healed_at=13,
    seconds=19,
    settle_seconds=4,
    capacity=Capacity(workers=8, service_seconds=0.004),
)
BREAKER = {"window_s": 2.0, "min_calls": 20, "open_s": 2.0, "open_cap_s": 2.0}


def broken(hurt: Hurt, **options: Any) -> Outage:
    return run_outage(1, hurt, {"breaker": BREAKER} | options, FREQUENT)


@pytest.mark.parametrize("hurt", [Hurt.SLOW, Hurt.SILENT, Hurt.DEAD])
def test_a_breaker_fails_fast(hurt: Hurt) -> None:
    """All but the probes, three in some seconds, are refused at once; after the trouble all is as it was."""
    outage = broken(hurt)
    during = outage.own.during
    assert during.errors["CircuitOpen"] > 0.9 * during.calls
    assert during.p99 < 0.05
    assert outage.attempts < 3
    assert outage.own.after.good_share == 1.0
    assert_unchanged(outage.others)


def test_a_breaker_sends_reads_to_replicas() -> None:
    """Where replicas may serve, nobody is refused."""
    outage = broken(Hurt.SLOW, replica_read="prefer_leader")
    assert outage.own.during.good_share == 1.0
    assert outage.own.during.p99 < 2 * USUAL_P99_S
    assert_unchanged(outage.others)


def test_a_store_that_flaps_costs_what_it_is_down() -> None:
    """It is silent for two fifths of the time. With a short rpc_timeout and a breaker calls fail or succeed soon."""
    options = {"timeout": 1.0, "rpc_timeout": 0.2, "breaker": True}
    outage = run_outage(1, Hurt.FLAPPING, options)
    assert outage.own.during.p99 <= 1.0
    assert outage.own.during.good_share > 0.3
    assert outage.own.after.good_share == 1.0
    assert_unchanged(outage.others)


def test_a_crowd_that_meets_half_open_breakers() -> None:
    """Two hundred calls come at the moment when the wait is over, time after time: three go through, while the store
    is silent; when it is well again, their answers close the breaker for all."""
    arrived: list[int] = []
    good: list[int] = []

    async def crowd(run: LoadRun) -> None:
        client, rt = run.clients["client-0"], run.world.process("client-0")
        results: list[bool] = []

        async def call() -> None:
            try:
                await client.get(b"a1")
                results.append(True)
            except TikvError:
                results.append(False)

        before = len(run.arrivals(1))
        for _ in range(200):
            rt.spawn(call(), name="call")
        while len(results) < 200:
            await rt.sleep(0.01)
        arrived.append(len(run.arrivals(1)) - before)
        good.append(sum(results))

    async def script(run: LoadRun) -> None:
        await run.within("client-0", run.clients["client-0"].get(b"a1"))
        run.fleet.trouble(1).is_silent = True
        await run.within("client-0", crowd(run))
        for _ in range(5):
            await run.until(run.now + 2.0)
            await run.within("client-0", crowd(run))
        run.fleet.heal()
        for _ in range(2):
            await run.until(run.now + 2.0)
            await run.within("client-0", crowd(run))

    breaker = {"min_calls": 20, "open_s": 1.0, "open_cap_s": 1.0}
    options = {"timeout": 0.5, "rpc_timeout": 0.5, "breaker": breaker}
    LoadRun(1, clients=1, per_second=0.001, seconds=0.001, options=options).play(script)
    first, *probing, closing, closed = arrived
    assert first >= 200
    assert probing == [3] * 5
    assert closing == good[6] >= 3  # those that were looking for a leader meanwhile are let through as well
    assert closed == good[7] == 200
    assert good[:6] == [0] * 6


def test_outages_replay_exactly() -> None:
    assert run_outage(4, Hurt.SLOW, {"breaker": True}) == run_outage(4, Hurt.SLOW, {"breaker": True})


# --- the storm ---

CALLS_A_SECOND = 70


def test_a_thousand_clients_with_a_budget_for_retries() -> None:
    """Each makes a call in fourteen seconds, so a small budget is theirs: they ask no more than twice for each call."""
    storm = run_storm(1, {"retry_budget": {"burst": 2}})
    assert storm.amplification < 2.0
    assert storm.recovered_after is not None
    assert storm.recovered_after <= 2.0
    assert storm.good[-2:] == storm.offered[-2:]


def test_a_thousand_clients_without_one() -> None:
    """The store was silent for three seconds. It never comes back, though it could carry out all that is new."""
    storm = run_storm(1)
    assert storm.good[:3] == storm.offered[:3]
    assert storm.amplification > 2.0
    assert storm.recovered_after is None
    assert sum(storm.good[-2:]) == 0
    assert min(storm.attempts[-2:]) > 1.4 * CALLS_A_SECOND  # its capacity is 100
