"""The steps that calls tell of: over the wire, in transactions, and in a simulated cluster that is hurt."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

import pytikv
from pytikv.observe import metrics, telemetry
from pytikv.observe.telemetry import CallRecord
from pytikv.testing.fleet import URL
from pytikv.testing.load import LoadRun
from pytikv.testing.server import ServerProcess

from .conftest import Ear
from .scraping import counts, samples


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


def kinds(record: CallRecord) -> list[tuple[str, str]]:
    return [(step.kind, step.name) for step in record.steps]


def test_the_first_get_and_the_next(ear: Ear, server: ServerProcess) -> None:
    with server.client() as client:
        client.get(b"k")
        client.get(b"k")
    first, second = ear.ended
    assert kinds(first) == [("rpc", "GetRegion"), ("region_load", "miss"), ("connect", "tcp"), ("rpc", "RawGet")]
    assert kinds(second) == [("rpc", "RawGet")]
    assert all(step.status == "ok" for step in first.steps)
    load, connect, get = first.steps[1:]
    assert load.ended <= connect.began <= connect.ended <= get.ended
    assert connect.store == get.store != first.steps[0].store
    assert [step for _, step in ear.steps] == [*first.steps, *second.steps]


def test_a_transaction(ear: Ear, server: ServerProcess) -> None:
    with pytikv.TransactionClient.connect(server.url) as db:
        with db.begin(async_commit=False, one_pc=False) as txn:
            txn.put(b"sa", b"1")
            txn.put(b"sb", b"2")
        ear.clear()
        with db.begin(async_commit=False, one_pc=False) as txn:
            txn.put(b"sa", b"1")
            txn.put(b"sb", b"2")
    begin, commit = ear.ended
    assert kinds(begin) == [("tso", "request"), ("tso", "wait")]
    assert begin.steps[0].detail == 1
    assert kinds(commit) == [
        ("rpc", "KvPrewrite"),
        ("phase", "prewrite"),
        ("tso", "request"),
        ("tso", "wait"),
        ("rpc", "KvCommit"),
        ("phase", "commit"),
    ]


def test_what_outlives_a_commit_is_told_of_it(ear: Ear, server: ServerProcess) -> None:
    async def use() -> None:
        db = await pytikv.AsyncTransactionClient.connect(server.url)
        async with db, db.begin(one_pc=False, async_commit=True) as txn:
            await txn.put(b"sa", b"1")
            await txn.put(b"sb", b"2")

    asyncio.run(use())
    commit = next(record for record in ear.ended if record.method == "txn_commit")
    behind = [step for step in commit.steps if step.name == "secondaries"]
    assert [step.kind for step in behind] == ["phase"]
    assert commit.ended is not None
    assert behind[0].ended >= commit.ended
    assert ("rpc", "KvCommit") in kinds(commit)


def test_a_read_that_meets_a_lock(ear: Ear, server: ServerProcess) -> None:
    with pytikv.TransactionClient.connect(server.url) as db:
        holder = db.begin(pessimistic=True)
        holder.put(b"sl", b"1")
        with db.begin(pessimistic=True) as other, pytest.raises(pytikv.LockTimeout):
            other.get_for_update(b"sl", wait=0.05)
        holder.rollback()
    lock = next(record for record in ear.ended if record.status == "LockTimeout")
    waits = [step for step in lock.steps if step.kind == "lock_wait"]
    assert [(step.name, step.status) for step in waits] == [("pessimistic", "LockTimeout")]
    assert waits[0].ended - waits[0].began >= 0.04


def test_those_who_wait_for_one_timestamp(ear: Ear, server: ServerProcess) -> None:
    async def use() -> None:
        async with await pytikv.AsyncTransactionClient.connect(server.url) as db:
            await db.current_timestamp()
            ear.clear()
            await asyncio.gather(*(db.current_timestamp() for _ in range(20)))

    asyncio.run(use())
    steps = [step for record in ear.ended for step in record.steps if step.kind == "tso"]
    assert Counter(step.name for step in steps)["wait"] == 20
    assert sum(step.detail for step in steps if step.name == "request") == 20


# --- in a simulated cluster -------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    metrics.install(registry)
    yield registry
    metrics.uninstall(registry)
    assert telemetry.sinks() == ()


def test_a_store_that_dies_shows_in_retries_and_breaker(registry: CollectorRegistry) -> None:
    states: list[dict[tuple[str, ...], float]] = []

    async def script(run: LoadRun) -> None:
        await run.until(2)
        run.fleet.crash(1)
        await run.until(6)
        states.append(samples(registry, "tikv_breaker_state"))
        run.fleet.revive(1)
        await run.until(14)
        states.append(samples(registry, "tikv_breaker_state"))
        states.append(samples(registry, "tikv_breaker_transitions_total"))
        states.append(samples(registry, "tikv_rejected_total"))

    options = {"timeout": 0.5, "breaker": pytikv.BreakerPolicy(min_calls=5, window_s=2.0)}
    run = LoadRun(3, clients=2, per_second=60, seconds=15, options=options).play(script)
    broken, mended, transitions, rejected = states
    store = "store-1:20160"
    assert broken[store,] > 0
    assert {state for address, state in broken.items() if address != (store,)} == {0}
    assert mended[store,] == 0
    assert transitions[store, "open"] >= 1
    assert transitions[store, "closed"] >= 1
    assert rejected["open", store] > 0
    calls = counts(registry, "tikv_request_duration_seconds")
    assert calls["raw_get", "ok"] == sum(answer.is_good for answer in run.answers)
    assert sum(calls.values()) == len(run.answers)
    retries = samples(registry, "tikv_retries_total")
    assert retries["tikvRPC",] > 0
    assert samples(registry, "tikv_backoff_seconds_total")["tikvRPC",] > 0
    rpcs = counts(registry, "tikv_rpc_duration_seconds")
    assert (
        sum(count for (rpc, status, _), count in rpcs.items() if (rpc, status) == ("RawGet", "ok"))
        == calls["raw_get", "ok"]
    )


def test_a_region_that_is_looked_for_is_a_reload(registry: CollectorRegistry) -> None:
    async def script(run: LoadRun) -> None:
        await run.until(1)
        run.fleet.crash(1)
        await run.until(2)
        run.fleet.lead(b"a", 2)

    run = LoadRun(4, clients=1, per_second=50, seconds=5, regions=(b"a",), options={"timeout": 0.5}).play(script)
    lookups = samples(registry, "tikv_region_cache_lookups_total")
    reloads = samples(registry, "tikv_region_cache_reloads_total")[()]
    assert 1 <= reloads == lookups["miss",] - 1
    rpcs = counts(registry, "tikv_rpc_duration_seconds")
    assert lookups["hit",] + lookups["miss",] == sum(n for (rpc, _, _), n in rpcs.items() if rpc == "RawGet")
    assert sum(n for (_, status, _), n in rpcs.items() if status == "region_error") > 0
    assert rpcs["RawGet", "ok", "store-2:20160"] > 100
    assert (
        sum(answer.is_good for answer in run.answers)
        == counts(registry, "tikv_request_duration_seconds")["raw_get", "ok"]
    )


def test_heartbeats_are_calls_of_their_own(ear: Ear) -> None:
    async def hold(run: LoadRun) -> None:
        db = await pytikv.AsyncTransactionClient._open(run.world.process("client-0"), URL, {})
        async with db, db.begin(pessimistic=True) as txn:
            await txn.put(b"a", b"v")
            await run.world.process("client-0").sleep(25)

    LoadRun(5, clients=1, per_second=1, seconds=0.001).play(lambda run: run.within("client-0", hold(run)))
    beats = [record for record in ear.ended if record.method == "txn_heartbeat"]
    assert len(beats) >= 2
    assert all(record.parent is None and ("rpc", "KvTxnHeartBeat") in kinds(record) for record in beats)
    lock = next(record for record in ear.ended if record.method == "txn_lock")
    assert lock.ended is not None
    assert all(step.ended <= lock.ended for step in lock.steps)
