"""Deadlines shorter than a round trip, and clocks that jump: what happens at which virtual moment."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

import pytikv
from pytikv.errors import DeadlineExceeded, Outcome
from pytikv.testing.fleet import PD, store_name
from pytikv.testing.load import LoadRun, errors_of
from pytikv.testing.sim import Link

RTT_S = 0.1
SLOW_LINK = Link(min_delay=RTT_S / 2, max_delay=RTT_S / 2)


async def cut_short(run: LoadRun, work: Awaitable[object], seconds: float) -> tuple[Outcome, float]:
    """Do `work` under a deadline that it cannot meet; returns the outcome and how long it took."""
    began = run.now
    with pytest.raises(DeadlineExceeded) as caught, pytikv.deadline(seconds):
        await work
    return caught.value.outcome, run.now - began


def alone(seed: int = 1, **options: object) -> LoadRun:
    """A fleet with one client that does nothing of itself."""
    return LoadRun(seed, clients=1, per_second=0.001, seconds=0.001, link=SLOW_LINK, options=options)


def test_a_deadline_shorter_than_a_round_trip() -> None:
    """It ends at its very moment; a write that was on its way is undetermined, and takes effect here."""
    seen: dict[str, object] = {}

    async def script(run: LoadRun) -> None:
        client = run.clients["client-0"]
        await client.put(b"a", b"old")  # the region is known, the connection there
        seen["get"] = await cut_short(run, client.get(b"a"), RTT_S * 0.8)
        seen["put"] = await cut_short(run, client.put(b"a", b"new"), RTT_S * 0.8)
        seen["cas"] = await cut_short(run, client.compare_and_swap(b"b", None, b"1"), RTT_S * 0.8)
        began = run.now
        with pytikv.deadline(RTT_S * 1.1):
            seen["value"] = await client.get(b"a")
        seen["took"] = run.now - began

    alone().play(lambda run: run.within("client-0", script(run)))
    outcomes = {name: seen[name] for name in ("get", "put", "cas")}
    assert {name: outcome for name, (outcome, _) in outcomes.items()} == {  # type: ignore[misc]
        "get": Outcome.NOT_APPLIED,
        "put": Outcome.UNDETERMINED,
        "cas": Outcome.UNDETERMINED,
    }
    for _, took in outcomes.values():  # type: ignore[misc]
        assert took == pytest.approx(RTT_S * 0.8, abs=1e-6)
    assert seen["value"] == b"new"
    assert seen["took"] == pytest.approx(RTT_S, abs=1e-6)


def test_a_deadline_that_is_over_sends_nothing() -> None:
    seen: list[tuple[Outcome, float]] = []

    async def script(run: LoadRun) -> None:
        client = run.clients["client-0"]
        await client.put(b"a", b"old")
        before = len(run.arrivals(1))
        seen.append(await cut_short(run, client.put(b"a", b"new"), 0.0))
        await run.world.process("client-0").sleep(1)
        assert len(run.arrivals(1)) == before
        assert await client.get(b"a") == b"old"

    alone().play(lambda run: run.within("client-0", script(run)))
    assert seen == [(Outcome.NOT_APPLIED, pytest.approx(0.0, abs=1e-6))]


def test_a_clock_that_jumps_changes_nothing() -> None:
    """Wall clocks of client, stores and PD jump by hours, there and back: every call fares as if they had not."""

    async def jump(run: LoadRun) -> None:
        for moment, hours in ((1, 5), (2, -5), (3, 1)):
            await run.until(moment)
            for name in ("client-0", "client-1", PD, *map(store_name, run.fleet.numbers)):
                run.world.process(name).clock_skew += hours * 3600

    async def wait(run: LoadRun) -> None:
        for moment in (1, 2, 3):
            await run.until(moment)

    calm, jumpy = (LoadRun(3, clients=2, per_second=100, seconds=4).play(script) for script in (wait, jump))
    assert errors_of(jumpy.answers) == {}
    assert calm.answers == jumpy.answers
