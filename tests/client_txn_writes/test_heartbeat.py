"""Signs of life: locks live with their transaction, in the oracle's time, and no longer."""

from __future__ import annotations

from typing import Any

import pytest
from txn_world import Fault, Store, error_of

from pytikv.client.txn.heartbeat import HeartBeats
from pytikv.errors import LockTimeout, Outcome, TransactionAborted
from pytikv.testing.sim import World


async def wait_for(txn: Any, key: bytes, seconds: float) -> Any:
    return await error_of(txn.lock_keys([key], wait=seconds))


@pytest.mark.parametrize("skew_s", [0, 3600, -3600], ids=["right clock", "an hour ahead", "an hour behind"])
def test_a_silent_transaction_keeps_its_locks(world: World, skew_s: float) -> None:
    """However wrong the client's clock is: age and TTL are counted in the oracle's time."""
    store = Store(world)
    world.process("client 1", clock_skew=skew_s)
    node, other = store.node(), store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        await txn.put(b"a", b"1")
        await node.rt.sleep(100)
        beats = node.requests("KvTxnHeartBeat")
        assert len(beats) == 9
        assert [round(beat.advise_lock_ttl / 1000) for beat in beats] == list(range(30, 120, 10))

        async def fight() -> None:
            rival = await other.begin(pessimistic=True)
            assert isinstance(await wait_for(rival, b"a", 3), LockTimeout)
            await rival.rollback()

        await other.do(fight())
        sent = len(node.requests("KvTxnHeartBeat"))
        await txn.commit()
        assert txn.outcome is Outcome.APPLIED
        await node.rt.sleep(60)
        assert len(node.requests("KvTxnHeartBeat")) == sent  # none after the end
        assert await other.read(b"a") == [b"1"]

    store.run(run(), node)


def test_optimistic_commits_do_not_depend_on_the_client_s_clock(world: World) -> None:
    store = Store(world)
    world.process("client 1", clock_skew=-3600)
    node = store.node()

    async def run() -> None:
        for options in ({"async_commit": False, "one_pc": False}, {"one_pc": False}, {}):
            async with node.begin(**options) as txn:
                await txn.put(b"a", b"1")
            assert txn.outcome is Outcome.APPLIED
        assert {request.lock_ttl for request in node.requests("KvPrewrite")} == {3000}

    store.run(run(), node)


@pytest.mark.parametrize("what", ["drop request", "drop answer", "fail"])
def test_a_lost_heartbeat_is_made_up_for(store: Store, what: str) -> None:
    node, other = store.node(), store.node()
    node.faults = [Fault("KvTxnHeartBeat", what, n) for n in range(3)]

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        await txn.put(b"a", b"1")
        await node.rt.sleep(30)
        await other.read(b"a")
        await txn.commit()
        assert txn.outcome is Outcome.APPLIED

    store.run(run(), node)


@pytest.mark.parametrize("name", ["KvTxnHeartBeat", "timestamp"])
def test_without_signs_of_life_the_locks_go_to_others(store: Store, name: str) -> None:
    node, other = store.node(), store.node(timeout=60)

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        await txn.put(b"a", b"1")
        node.faults = [Fault(name, "drop request")]

        async def take() -> None:
            rival = await other.begin(pessimistic=True)
            await rival.put(b"a", b"2")
            await rival.commit()

        await other.do(take())
        assert node.rt.now() > 0
        node.faults = []
        await node.rt.sleep(15)  # the next heartbeat finds nothing
        error = await error_of(txn.put(b"b", b"1"))
        assert isinstance(error, TransactionAborted)
        error = await error_of(txn.commit())
        assert isinstance(error, TransactionAborted)
        assert txn.outcome is Outcome.NOT_APPLIED
        assert await other.read(b"a", b"b") == [b"2", None]

    store.run(run(), node)


def test_a_transaction_of_an_hour_is_let_go(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        await txn.put(b"a", b"1")
        await node.rt.sleep(4000)
        sent = len(node.requests("KvTxnHeartBeat"))
        await node.rt.sleep(1000)
        assert len(node.requests("KvTxnHeartBeat")) == sent < 362
        assert isinstance(await error_of(txn.lock_keys([b"b"])), TransactionAborted)
        await txn.rollback()

    store.run(run(), node)


def test_short_transactions_cost_no_heartbeat_and_one_keeper_serves_many(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        for number in range(50):
            async with node.begin(pessimistic=True) as txn:
                await txn.put(b"k%d" % number, b"1")
        long = [await node.begin(pessimistic=True) for _ in range(20)]
        for number, txn in enumerate(long):
            await txn.put(b"l%d" % number, b"1")
        await node.rt.sleep(15)
        assert len(node.requests("KvTxnHeartBeat")) == 20
        for txn in long:
            await txn.rollback()
        await node.rt.sleep(30)
        assert len(node.requests("KvTxnHeartBeat")) == 20

    store.run(run(), node)


def _writes_b(request: Any) -> bool:
    return any(mutation.key.endswith(b"b") for mutation in request.mutations)


def test_a_large_optimistic_write_is_kept_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytikv.client.txn.committer.HEARTBEAT_BYTES", 100)
    store.split(b"b")
    node = store.node(timeout=60)
    node.faults = [Fault("KvPrewrite", "drop request", n, _writes_b) for n in range(16)]

    async def run() -> None:
        async with node.begin(async_commit=False, one_pc=False, lock_ttl_ms=15_000) as txn:
            await txn.put(b"a", b"1" * 100)
            await txn.put(b"b", b"1" * 100)
        assert txn.outcome is Outcome.APPLIED
        assert node.requests("KvTxnHeartBeat")

    store.run(run(), node)


def test_closing_ends_all_heartbeats(store: Store) -> None:
    node = store.node()

    async def run() -> None:
        txn = await node.begin(pessimistic=True)
        await txn.put(b"a", b"1")
        HeartBeats.of(node).close()
        await node.rt.sleep(30)
        assert node.requests("KvTxnHeartBeat") == []
        await txn.rollback()

    store.run(run(), node)
