"""Every scenario that needs no transaction, in process on both engines, and over the wire both ways."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from conformance_clusters import InProcess, ShiftedRuntime, served
from conformance_format import Tree
from conformance_runner import Runner, load, rpcs

from pytikv.proto import metapb_pb2 as metapb
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.engine.rocks import RocksEngine
from pytikv.server.pd.server import PdServer
from pytikv.server.services.kv_service import KvService
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import open_store

VERSIONS = {"v1": ApiVersion.V1, "v1ttl": ApiVersion.V1TTL, "v2": ApiVersion.V2}


# What the transactions bring. An RPC that is served leaves this list, and its scenarios run.
WAITING_RPCS = {
    "CheckLockObserver",
    "GetLockWaitInfo",
    "KVPessimisticRollback",
    "KvBatchGet",
    "KvBatchRollback",
    "KvBufferBatchGet",
    "KvCheckSecondaryLocks",
    "KvCheckTxnStatus",
    "KvCleanup",
    "KvCommit",
    "KvDeleteRange",
    "KvFlush",
    "KvGC",
    "KvGet",
    "KvPessimisticLock",
    "KvPrewrite",
    "KvResolveLock",
    "KvScan",
    "KvScanLock",
    "KvTxnHeartBeat",
    "MvccGetByKey",
    "MvccGetByStartTs",
    "RemoveLockObserver",
}
ALL = load()
SERVED = [scenario for _, scenario in ALL if not rpcs(scenario) & WAITING_RPCS]
# The scenarios of the request's context are made of steps that do not build on each other: those that need no
# transaction run already.
CONTEXTS = [
    {**scenario, "steps": [step for step in scenario["steps"] if step["rpc"] not in WAITING_RPCS]}
    for area, scenario in ALL
    if area == "context" and rpcs(scenario) & WAITING_RPCS and rpcs(scenario) - WAITING_RPCS
]
each_scenario = pytest.mark.parametrize("scenario", SERVED, ids=[scenario["name"] for scenario in SERVED])


def test_every_scenario_runs_or_waits_for_transactions() -> None:
    assert len(ALL) == 308
    assert len(SERVED) == 103
    engine = MemoryEngine()
    store = open_store(
        engine,
        PdServer(EngineMeta(engine), time=lambda: 1.0, getrandbits=random.getrandbits),
        ApiVersion.V1,
        meta=lambda id: metapb.Store(id=id, address="x:1"),
        now_s=lambda: 1.0,
    )
    assert not set(KvService(store).handlers) & WAITING_RPCS, "these are served now: take them off the list"


async def play(rt: ShiftedRuntime, scenario: Tree, transport: str, engine: Engine | None) -> list[str]:
    version = VERSIONS[scenario["api"]]
    if engine is not None:
        return await Runner(InProcess(rt, engine, version)).play(scenario)
    async with served(rt, version.value, batch=transport == "batch") as cluster:
        return await Runner(cluster).play(scenario)


def run(scenario: Tree, transport: str, engine: Engine | None = None) -> None:
    async def main() -> list[str]:
        rt = ShiftedRuntime()
        try:
            return await play(rt, scenario, transport, engine)
        finally:
            await rt.close()

    assert asyncio.run(asyncio.wait_for(main(), 30)) == []


@each_scenario
def test_in_memory(scenario: Tree) -> None:
    run(scenario, "none", MemoryEngine())


@each_scenario
def test_on_rocksdb(scenario: Tree, tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    try:
        run(scenario, "none", engine)
    finally:
        engine.close()


@each_scenario
def test_by_unary_calls(scenario: Tree) -> None:
    run(scenario, "unary")


@each_scenario
def test_by_batch_commands(scenario: Tree) -> None:
    run(scenario, "batch")


@pytest.mark.parametrize("scenario", CONTEXTS, ids=[scenario["name"] for scenario in CONTEXTS])
@pytest.mark.parametrize("transport", ["none", "unary", "batch"])
def test_raw_steps_of_context_scenarios(scenario: Tree, transport: str) -> None:
    run(scenario, transport, MemoryEngine() if transport == "none" else None)
