"""Resource groups in simulated time: what flows in is what can be spent, by all clients together, PD there or not."""

from __future__ import annotations

from typing import Any

import pytest

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.testing.load import LoadRun, errors_of, goodput

READ_RU = 0.125 + 0.35


def options(group: str, **more: Any) -> dict[str, Any]:
    return {"resource_control": True, "resource_group": group, "timeout": 1.0, "rpc_timeout": 1.0, **more}


def settings(name: str, fill_rate: int, burst: int = 0) -> rmpb.ResourceGroup:
    group = rmpb.ResourceGroup(name=name, mode=rmpb.RUMode, priority=8)
    group.r_u_settings.r_u.settings.fill_rate = fill_rate
    group.r_u_settings.r_u.settings.burst_limit = burst
    return group


def consumed(run: LoadRun, name: str) -> rmpb.Consumption:
    return run.fleet.pd.resource_groups.get(NULL_KEYSPACE_ID, name, with_stats=True).RUStats


def test_what_was_consumed_is_reported() -> None:
    run = LoadRun(3, clients=2, per_second=60, seconds=14, options=options("default")).play()
    assert errors_of(run.answers) == {}
    told = consumed(run, "default")
    # The last period's may be on its way: each client reports every five seconds.
    assert 0.5 * len(run.answers) <= told.kv_read_rpc_count <= len(run.answers) + 10
    assert told.r_r_u == pytest.approx(told.kv_read_rpc_count * READ_RU, rel=0.05)


@pytest.mark.parametrize("clients", [1, 4])
def test_a_group_gets_what_flows_in_and_no_more(clients: int) -> None:
    async def script(run: LoadRun) -> None:
        run.fleet.pd.resource_groups.add(settings("poor", 20))

    run = LoadRun(5, clients=clients, per_second=120, seconds=30, options=options("poor"))
    run.play(script)
    bearable = 20 / READ_RU
    # PD lends at first and takes it back later, so the whole run counts.
    assert 0.6 * bearable <= goodput(run.answers, 0, 30) <= 1.25 * bearable
    assert set(errors_of(run.answers)) <= {"Overloaded", "DeadlineExceeded"}


def test_pd_that_is_away_stops_nobody() -> None:
    async def script(run: LoadRun) -> None:
        run.fleet.pd.resource_groups.add(settings("some", 100))
        await run.until(10)
        run.fleet.pd_trouble.is_silent = True

    run = LoadRun(7, clients=2, per_second=50, seconds=25, options=options("some"))
    run.play(script)
    assert goodput(run.answers, 12, 25) > 40
