"""PD browns out: calls to known regions go on as if nothing were, others end by their deadline, and all comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytikv.errors import TikvError
from pytikv.testing.fleet import Fleet
from pytikv.testing.load import LoadRun, between, errors_of, percentile

TIMEOUT_S = 1.0
BROWN_AT, HEALED_AT, END = 2.0, 8.0, 16.0


def slow(fleet: Fleet) -> None:
    fleet.pd_trouble.delay_seconds = 5.0


def silent(fleet: Fleet) -> None:
    fleet.pd_trouble.is_silent = True


def refusing(fleet: Fleet) -> None:
    fleet.pd_refuses = True


def brown_out(hurt: Callable[[Fleet], None], **options: Any) -> tuple[LoadRun, list[tuple[float, str]], LoadRun]:
    """Load region 1, whose place is known, and ask for keys of region 2 meanwhile; returns the run and these calls."""
    found: list[tuple[float, str]] = []

    async def ask(run: LoadRun) -> None:
        began, error = run.now, ""
        try:
            await run.clients["client-0"].get(b"j1")
        except TikvError as failure:
            error = type(failure).__name__
        found.append((run.now - began, error))

    async def script(run: LoadRun) -> None:
        await run.until(BROWN_AT)
        hurt(run.fleet)
        while run.now < HEALED_AT - TIMEOUT_S:
            await run.within("client-0", ask(run))
            await run.until(run.now + 0.05)
        await run.until(HEALED_AT)
        run.fleet.heal()
        await run.until(END - 4)
        await run.within("client-0", ask(run))

    options = {"timeout": TIMEOUT_S, "rpc_timeout": TIMEOUT_S, "pd_timeout": 0.5, **options}
    run = LoadRun(1, clients=2, per_second=60, seconds=END, regions=(b"a",), options=options)
    calm = LoadRun(1, clients=2, per_second=60, seconds=END, regions=(b"a",), options=options).play()
    return run.play(script), found, calm


@pytest.mark.parametrize("hurt", [slow, silent, refusing])
def test_calls_to_known_regions_go_on(hurt: Callable[[Fleet], None]) -> None:
    run, found, calm = brown_out(hurt)
    assert errors_of(run.answers) == {}
    during = between(run.answers, BROWN_AT, HEALED_AT)
    usual = between(calm.answers, BROWN_AT, HEALED_AT)
    assert percentile(during, 0.99) == pytest.approx(percentile(usual, 0.99), abs=0.001)
    *unknown, last = found
    assert len(unknown) >= 4
    assert all(error for _, error in unknown)
    assert max(seconds for seconds, _ in unknown) <= TIMEOUT_S + 0.001
    assert last[1] == ""
    assert last[0] < 0.05


@pytest.mark.parametrize("hurt", [slow, silent, refusing])
def test_pds_breaker_fails_fast_and_closes_again(hurt: Callable[[Fleet], None]) -> None:
    run, found, _ = brown_out(hurt, breaker={"min_calls": 4, "open_s": 1.0, "open_cap_s": 2.0})
    *unknown, last = found
    refused = sorted(seconds for seconds, error in unknown if error == "CircuitOpen")
    assert len(refused) > 0.8 * len(unknown)
    assert refused[len(refused) * 9 // 10] < 0.001  # the others were asking when it opened
    assert errors_of(run.answers) == {}
    assert last[1] == ""
