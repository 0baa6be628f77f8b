"""Breaker, limits and hedging at work: a real client, simulated stores and PD in trouble, virtual time."""

from __future__ import annotations

import pytest

import pytikv
from pytikv import (
    BreakerPolicy,
    BulkheadPolicy,
    CircuitOpen,
    ConnectionFailed,
    DeadlineExceeded,
    LimitPolicy,
    Outcome,
    Overloaded,
    RetryBudgetPolicy,
    RetryPolicy,
)
from pytikv.observe import telemetry
from pytikv.testing.capacity import Capacity

QUICK = BreakerPolicy(window_s=5.0, min_calls=5, slow_s=0.5, open_s=1.0, open_cap_s=8.0, probes=2)


def kinds(results):
    return {type(value) for value, _ in results}


async def trip(scene, client, key=b"a", calls=10):
    """Make calls until the breaker of the key's store is open."""
    await scene.together(calls, lambda: client.get(key))
    assert scene.guards(client)["store-1"].breaker == "open"


# --- the breaker ------------------------------------------------------------------------------------------------------


def test_a_black_hole_costs_a_few_calls_their_time_and_the_next_ones_nothing(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=1.0, rpc_timeout=0.3)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        await trip(scene, client)
        results = await scene.together(20, lambda: client.get(b"a"))
        assert kinds(results) == {CircuitOpen}
        assert max(seconds for _, seconds in results) < 0.05  # PD was asked for another leader, once
        error = results[0][0]
        assert error.outcome is Outcome.NOT_APPLIED
        assert error.retryable
        assert error.address == "store-1:20160"
        assert 0 < error.retry_in_s <= 1.2
        assert "store-1:20160: the circuit breaker is open (" in str(error)
        others = await scene.together(20, lambda: client.get(b"k"))
        assert kinds(others) == {type(None)}
        assert max(seconds for _, seconds in others) < 0.01

    play(script)


def test_it_recovers_by_probes_when_the_store_does(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=1.0, rpc_timeout=0.3)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        await trip(scene, client)
        scene.fleet.heal()
        began = scene.now
        while (await scene.attempt(client.get(b"a")))[0] != b"1":
            await scene.rt.sleep(0.05)
        assert scene.now - began < 3.0
        assert await client.get(b"a") == b"1"
        state = scene.guards(client)["store-1"]
        assert state.breaker == "closed"
        assert state.transitions["closed"] >= 1
        assert state.rejected["open"] > 0

    play(script)


def test_a_black_hole_stays_open_and_is_probed_ever_more_seldom(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=1.0, rpc_timeout=0.3)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        await trip(scene, client)
        arrived = len(scene.fleet.tallies[1].arrivals)
        end = scene.now + 60.0
        while scene.now < end:
            await scene.attempt(client.get(b"a"))
            await scene.rt.sleep(0.05)
        state = scene.guards(client)["store-1"]
        assert 7 <= state.transitions["open"] <= 14  # 1, 2, 4, then each 8 s, and what the probes took
        assert len(scene.fleet.tallies[1].arrivals) - arrived <= 2 * state.transitions["open"] + 10

    play(script)


def test_a_flapping_store_is_left_alone_longer_and_longer(play):
    waited = {}

    async def flap(scene, client):
        trouble = scene.fleet.trouble(1)
        values = []
        for half in range(60):  # a second well, a second silent, and so on
            trouble.is_silent = half % 2 == 1
            for _ in range(10):
                values += await scene.together(10, lambda: client.get(b"a"))
                await scene.rt.sleep(max(0.0, 0.1 - values[-1][1]))
        return sum(seconds > 0.19 for _, seconds in values), sum(value == b"1" for value, _ in values)

    async def script(scene):
        policy = BreakerPolicy(window_s=1.0, min_calls=5, open_s=0.2, open_cap_s=8.0, probes=2)
        for breaker in (None, policy):
            client = await scene.connect(breaker=breaker, timeout=0.4, rpc_timeout=0.2)
            scene.fleet.heal()
            await client.with_options(timeout=10.0).put(b"a", b"1")
            waited[breaker], good = await flap(scene, client)
            assert good > 500
        assert scene.guards(client)["store-1"].transitions["open"] >= 5

    play(script)
    without, with_breaker = waited.values()
    assert with_breaker < without / 2


def test_a_slow_store_opens_it_though_every_call_is_answered(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).delay_seconds = 2.0
        await trip(scene, client)
        assert "took 0.5 s or failed" in scene.guards(client)["store-1"].reason
        value, seconds = await scene.attempt(client.get(b"a"))
        assert isinstance(value, CircuitOpen)
        assert seconds < 0.05

    play(script)


def test_a_deadline_shorter_than_a_round_trip_says_nothing_of_the_store(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK)
        await client.put(b"a", b"1")
        hurried = client.with_options(timeout=0.001)
        results = await scene.together(50, lambda: hurried.get(b"a"))
        assert kinds(results) <= {DeadlineExceeded, ConnectionFailed}
        state = scene.guards(client)["store-1"]
        assert state.breaker == "closed"
        assert await client.get(b"a") == b"1"

    play(script)


def test_calls_given_up_by_their_callers_count_once_they_were_slow(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True

        async def given_up(after_s):
            await scene.rt.with_deadline(client.get(b"a"), scene.now + after_s)

        await scene.together(20, lambda: given_up(0.1))
        assert scene.guards(client)["store-1"].breaker == "closed"
        await scene.together(20, lambda: given_up(0.6))
        assert scene.guards(client)["store-1"].breaker == "open"

    play(script)


def test_other_replicas_serve_reads_where_the_policy_lets_them(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, replica_read="prefer_leader", timeout=1.0, rpc_timeout=0.3)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        await trip(scene, client.with_options(replica_read="leader"))
        results = await scene.together(20, lambda: client.get(b"a"))
        assert kinds(results) == {bytes}
        assert max(seconds for _, seconds in results) < 0.05
        error, _ = await scene.attempt(client.put(b"a", b"2"))
        assert isinstance(error, CircuitOpen)  # a write is the leader's
        assert await client.get(b"a") == b"1"

    play(script)


def test_a_leader_that_moved_away_from_the_store_is_found(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=1.0, rpc_timeout=0.3)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        await trip(scene, client)
        scene.fleet.lead(b"a", 2)
        await scene.rt.sleep(1.0)  # PD is asked once a second at most
        assert await client.get(b"a") == b"1"
        await client.put(b"a", b"2")
        assert await client.get(b"a") == b"2"

    play(script)


def test_a_dead_store_opens_it_too(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=0.5)
        await client.put(b"a", b"1")
        scene.fleet.crash(1)
        for _ in range(5):
            results = await scene.together(10, lambda: client.get(b"a"))
            assert kinds(results) <= {ConnectionFailed, CircuitOpen, DeadlineExceeded, pytikv.RegionUnavailable}
        assert scene.guards(client)["store-1"].breaker == "open"
        scene.fleet.revive(1)
        await scene.rt.sleep(10.0)
        assert (await scene.attempt(client.get(b"a")))[0] == b"1"

    play(script)


# --- PD ---------------------------------------------------------------------------------------------------------------


def test_with_pd_silent_calls_that_need_it_fail_at_once_and_recover(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=1.0, pd_timeout=0.5)
        await client.put(b"a", b"1")
        pd = client._backend._cluster.pd
        scene.fleet.pd_trouble.is_silent = True
        for _ in range(4):
            await scene.together(5, lambda: pd.get_region(b"a%d" % scene.rt.rng.randrange(1000), scene.now + 1.0))
        assert scene.guards(client)["pd"].breaker == "open"
        error, seconds = await scene.attempt(pd.get_region(b"zz", scene.now + 10.0))
        assert isinstance(error, CircuitOpen)
        assert error.address == "pd:2379"
        assert seconds < 0.01
        assert await client.get(b"a") == b"1"  # what is in the cache needs no PD
        scene.fleet.heal_pd()
        await scene.rt.sleep(10.0)
        for _ in range(5):
            value, _ = await scene.attempt(pd.get_region(b"zz", scene.now + 1.0))
        assert value.id > 0
        assert scene.guards(client)["pd"].breaker == "closed"

    play(script)


def test_timestamps_pass_the_guard_of_pds_leader(play):
    async def script(scene):
        client = await scene.connect(breaker=QUICK, timeout=1.0)
        tso = client._backend._cluster.pd.tso
        await tso.get(scene.now + 1.0)
        scene.world.pause("pd")
        for _ in range(8):
            await scene.attempt(tso.get(scene.now + 0.4))
        assert scene.guards(client)["pd"].breaker == "open"
        error, seconds = await scene.attempt(tso.get(scene.now + 10.0))
        assert isinstance(error, CircuitOpen)
        assert seconds < 0.01
        scene.world.resume("pd")
        await scene.rt.sleep(10.0)
        for _ in range(4):
            value, _ = await scene.attempt(tso.get(scene.now + 1.0))
        assert value > 0

    play(script)


# --- places and limits ------------------------------------------------------------------------------------------------


def test_a_bulkhead_sheds_what_is_too_much_and_names_the_store_and_the_limit(play):
    async def script(scene):
        policy = BulkheadPolicy(max_in_flight=4, max_queue=8, max_queue_s=0.05)
        client = await scene.connect(bulkhead=policy)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).delay_seconds = 0.2
        results = await scene.together(30, lambda: client.get(b"a"))
        good = [seconds for value, seconds in results if value == b"1"]
        shed = [(value, seconds) for value, seconds in results if isinstance(value, Overloaded)]
        assert len(good) == 4
        assert len(shed) == 26
        assert sum(seconds < 0.01 for _, seconds in shed) == 18  # the queue was full
        assert all(0.049 <= seconds < 0.06 for _, seconds in shed if seconds >= 0.01)
        assert {type(value) for value, _ in shed} == {Overloaded}
        assert all(value.outcome is Outcome.NOT_APPLIED and value.retryable for value, _ in shed)
        assert any("store-1:20160: all 4 places are taken and the queue is full" in str(v) for v, _ in shed)
        state = scene.guards(client)["store-1"]
        assert (state.in_flight, state.queued, state.limit) == (0, 0, 4)
        assert state.rejected == {"open": 0, "queue_full": 18, "queue_timeout": 8}
        assert kinds(await scene.together(4, lambda: client.get(b"k"))) == {type(None)}

    play(script)


def test_a_deadline_ends_the_wait_in_the_queue(play):
    async def script(scene):
        client = await scene.connect(bulkhead=BulkheadPolicy(max_in_flight=1, max_queue_s=10.0))
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).delay_seconds = 1.0
        hurried = client.with_options(timeout=0.1)
        results = await scene.rt.gather(scene.attempt(client.get(b"a")), scene.attempt(hurried.get(b"a")))
        assert results[0][0] == b"1"
        assert isinstance(results[1][0], (Overloaded, DeadlineExceeded))
        assert results[1][1] == pytest.approx(0.1, abs=0.01)

    play(script)


def test_waiters_are_told_when_the_breaker_opens(play):
    async def script(scene):
        places = BulkheadPolicy(max_in_flight=5, max_queue=100, max_queue_s=30.0)
        client = await scene.connect(
            bulkhead=places, breaker=QUICK, rpc_timeout=0.6, timeout=20.0, retry_lost_writes=False
        )
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        first = [scene.rt.spawn(scene.attempt(client.put(b"a", b"2")), name="put") for _ in range(5)]
        await scene.rt.sleep(0.3)
        results = await scene.together(45, lambda: client.put(b"a", b"3"))
        assert all(task.done() for task in first)
        assert sum(isinstance(value, CircuitOpen) for value, _ in results) >= 40
        assert sorted(seconds for _, seconds in results)[39] == pytest.approx(0.3, abs=0.01)

    play(script)


def test_the_adaptive_limit_finds_what_the_store_bears(play):
    async def script(scene):
        policy = LimitPolicy(initial=64, min=2, max=256)
        client = await scene.connect(
            adaptive_limit=policy,
            bulkhead=BulkheadPolicy(max_in_flight=256, max_queue=64, max_queue_s=0.05),
            timeout=1.0,
        )
        await client.put(b"a", b"1")

        async def load(per_s, seconds):
            work = []
            for _ in range(int(per_s * seconds)):
                work.append(scene.rt.spawn(scene.attempt(client.get(b"a")), name="call"))
                await scene.rt.sleep(1 / per_s)
            return work

        await load(800, 10.0)  # four workers of 20 ms can do 200 a second
        state = scene.guards(client)["store-1"]
        assert 2 <= state.limit <= 30
        assert sum(state.rejected.values()) > 3000
        await scene.rt.sleep(2.0)

    play(script, capacity=Capacity(workers=4, service_seconds=0.02))


# --- retries ----------------------------------------------------------------------------------------------------------


def test_a_spent_budget_ends_calls_with_what_they_met(play):
    async def script(scene):
        client = await scene.connect(retry_budget=RetryBudgetPolicy(ratio=0.01, min_per_s=0.0, burst=3.0), timeout=5.0)
        await client.put(b"a", b"1")
        scene.fleet.crash(1)
        results = await scene.together(20, lambda: client.get(b"a"))
        spent = [value for value, _ in results if "the retry budget is spent" in str(value)]
        assert len(spent) >= 15
        assert all(isinstance(value, pytikv.TikvError) and value.retryable for value in spent)
        assert max(seconds for value, seconds in results if value in spent) < 1.0
        assert client._backend._cluster.guards.budget.refused >= 15

    play(script)


def test_attempts_and_waits_are_bounded_by_the_policy(play):
    async def script(scene):
        for policy, text in (
            (RetryPolicy(max_attempts=2), "all 2 attempts (retry.max_attempts) were made"),
            (RetryPolicy(total_ms=50), "50 ms (retry.total_ms) were waited"),
        ):
            client = await scene.connect(retry=policy, timeout=30.0)
            await client.put(b"a", b"1")
            scene.fleet.crash(1)
            error, seconds = await scene.attempt(client.get(b"a"))
            assert isinstance(error, pytikv.TikvError)
            assert error.retryable
            assert text in str(error)
            assert seconds < 3.0
            scene.fleet.revive(1)
            await scene.rt.sleep(5.0)

    play(script)


# --- hedging ----------------------------------------------------------------------------------------------------------


def test_a_slow_store_costs_reads_the_hedging_delay_only(play):
    async def script(scene):
        client = await scene.connect(hedge_after_ms=20, hedge_ratio=1.0)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).delay_seconds = 2.0
        for _ in range(20):
            value, seconds = await scene.attempt(client.get(b"a"))
            assert value == b"1"
            assert seconds < 0.05
        await client.put(b"a", b"2")  # waits for the leader: a write is never sent twice
        assert await client.get(b"a") == b"2"

    play(script)


def test_hedging_is_bounded_by_its_share(play):
    """A store that is late every time is no longer asked first: a few second tries do for all."""

    async def script(scene):
        client = await scene.connect(hedge_after_ms=20, hedge_ratio=0.1)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).delay_seconds = 0.5
        results = []
        for _ in range(10):
            results += await scene.together(10, lambda: client.get(b"a"))
        assert {value for value, _ in results} == {b"1"}
        asked = sum(len(tally.arrivals) for tally in scene.fleet.tallies.values())
        assert 1 <= asked - 1 - len(results) <= 11  # one in ten, and the one saved at first
        assert sum(seconds < 0.1 for _, seconds in results) >= 80  # the first ten came too late

    play(script)


def test_a_percentile_is_learnt_and_tells_the_rare_slow_read(play):
    async def script(scene):
        client = await scene.connect(hedge_after_ms="p95")
        await client.put(b"a", b"1")
        for _ in range(200):
            await client.get(b"a")
        scene.fleet.trouble(1).delay_seconds = 1.0
        value, seconds = await scene.attempt(client.get(b"a"))
        assert value == b"1"
        assert seconds < 0.05

    play(script)


def test_a_hedge_is_a_step_of_the_call_and_the_loser_costs_no_connection(play):
    steps = []

    class Sink(telemetry.Sink):
        def on_begin(self, record):
            pass

        def on_step(self, record, step):
            steps.append((step.kind, step.name, step.store.partition(":")[0], step.status))

        def on_end(self, record):
            pass

    async def script(scene):
        client = await scene.connect(hedge_after_ms=20, hedge_ratio=1.0)
        await client.put(b"a", b"1")
        await scene.together(20, lambda: client.get(b"a"))
        scene.fleet.trouble(1).delay_seconds = 0.3
        await client.get(b"a")
        sink = Sink()
        telemetry.install(sink)
        try:
            cluster = client._connection._backend._cluster
            before = cluster.connections.open_connections
            for _ in range(5):
                assert await client.get(b"a") == b"1"
            await scene.rt.sleep(1.0)
            assert cluster.connections.open_connections <= before + 1
        finally:
            telemetry.remove(sink)
        assert sum(step[:2] == ("hedge", "won") for step in steps) >= 2  # then the store is no longer asked first
        assert {step[2] for step in steps if step[0] == "hedge"} <= {"store-2", "store-3"}

    play(script)


def test_a_breaker_that_is_open_sends_hedged_reads_to_replicas(play):
    async def script(scene):
        client = await scene.connect(hedge_after_ms=50, hedge_ratio=0.05, breaker=QUICK, timeout=2.0, rpc_timeout=0.6)
        await client.put(b"a", b"1")
        scene.fleet.trouble(1).is_silent = True
        await scene.together(30, lambda: client.get(b"a"))
        assert scene.guards(client)["store-1"].breaker == "open"
        results = await scene.together(50, lambda: client.get(b"a"))
        assert {value for value, _ in results} == {b"1"}
        assert max(seconds for _, seconds in results) < 0.05

    play(script)
