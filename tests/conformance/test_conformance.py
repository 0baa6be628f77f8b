"""Every scenario, in process on both engines, and over the wire both ways."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from conformance_clusters import InProcess, ShiftedRuntime, served
from conformance_format import Tree
from conformance_runner import Runner, load

from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.rocks import RocksEngine
from pytikv.server.storage.api_version import ApiVersion

VERSIONS = {"v1": ApiVersion.V1, "v1ttl": ApiVersion.V1TTL, "v2": ApiVersion.V2}


ALL = [scenario for _, scenario in load()]
each_scenario = pytest.mark.parametrize("scenario", ALL, ids=[scenario["name"] for scenario in ALL])


def test_all_scenarios_are_there() -> None:
    assert len(ALL) == 308


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
