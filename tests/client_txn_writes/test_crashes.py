"""A client killed at every step of every kind of commit: the next reader sees all or nothing, and goes on seeing it."""

from __future__ import annotations

from typing import Any

import pytest
from txn_world import Fault, Node, Store

from pytikv.errors import Outcome
from pytikv.testing.sim import World

KEYS = [b"a", b"b", b"c", b"d"]
TWO_PC = {"async_commit": False, "one_pc": False}
KINDS: dict[str, dict[str, Any]] = {
    "2PC": TWO_PC,
    "async commit": {"one_pc": False},
    "1PC": {},
    "pessimistic 2PC": {"pessimistic": True, **TWO_PC},
    "pessimistic async commit": {"pessimistic": True, "one_pc": False},
    "pessimistic 1PC": {"pessimistic": True},
    "pipelined": {"pipelined": True, "flush_keys": 2, "flush_bytes": 1},
}


async def write(node: Node, value: bytes, **options: Any) -> Any:
    async with node.begin(**options) as txn:
        for key in KEYS:
            await txn.put(key, value)
    return txn


def fresh(world: World, borders: tuple[bytes, ...]) -> Store:
    store = Store(world)
    store.split(*borders)
    return store


def steps_of(options: dict[str, Any], borders: tuple[bytes, ...]) -> list[tuple[str, int]]:
    """The requests of a run without faults, secondaries and all, each with its number among those of its name."""
    with World(1) as world:
        node = fresh(world, borders).node()

        async def run() -> None:
            await write(node, b"new", **options)
            await node.rt.sleep(5)

        world.run(run(), process=node.name)
        names = node.names()
    return [(name, names[:at].count(name)) for at, name in enumerate(names)]


CASES = [
    pytest.param(options, borders, step, when, id=f"{kind}, {len(borders) + 1} regions, {when} {step[0]} {step[1]}")
    for kind, options in KINDS.items()
    for borders in ((), (b"b", b"d"))
    for step in steps_of(options, borders)
    for when in ("die before", "die after")
]


@pytest.mark.parametrize(("options", "borders", "step", "when"), CASES)
def test_the_next_reader_sees_all_or_nothing(
    world: World, options: dict[str, Any], borders: tuple[bytes, ...], step: tuple[str, int], when: str
) -> None:
    store = fresh(world, borders)
    before, victim = store.node(), store.node()
    reader, writer = store.node(timeout=30), store.node(timeout=30)
    victim.faults = [Fault(step[0], when, step[1])]
    told: list[Outcome] = []

    async def die() -> None:
        told.append((await write(victim, b"new", **options)).outcome)

    async def run() -> None:
        await before.do(write(before, b"old"))
        victim.rt.spawn(die(), name="victim")
        await reader.rt.sleep(1)
        assert victim.rt.dead
        began = reader.rt.now()
        seen = await reader.read(*KEYS)
        # Managed locks live for 20 s after the last sign of life, others for 3 s; no reader waits for longer.
        assert reader.rt.now() - began < (21 if "pessimistic" in options or "pipelined" in options else 4)
        assert seen in ([b"old"] * 4, [b"new"] * 4)
        if told == [Outcome.APPLIED]:
            assert seen == [b"new"] * 4
        assert await reader.read(*KEYS) == seen
        assert [(await reader.read(key))[0] for key in reversed(KEYS)] == list(reversed(seen))
        await writer.do(write(writer, b"after"))
        assert await reader.read(*KEYS) == [b"after"] * 4
        await reader.rt.sleep(30)
        assert store.locks() == 0

    store.run(run(), reader)


def test_cases_cover_every_step() -> None:
    """The matrix is made of a run's own requests; were it to shrink, it would no longer show much."""
    assert len(CASES) >= 100
    names = {case.values[2][0] for case in CASES}  # type: ignore[index]
    assert names >= {"timestamp", "KvPrewrite", "KvCommit", "KvPessimisticLock", "KvFlush", "KvResolveLock"}
