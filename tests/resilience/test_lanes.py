"""Lanes: put in and taken out while a client is at work, and what they report."""

from __future__ import annotations

from pytikv.client.lanes import LanePool
from pytikv.client.pool import ConnectionPool
from pytikv.observe import telemetry
from pytikv.observe.telemetry import Sink


class Listener(Sink):
    def __init__(self):
        self.steps = []

    def on_begin(self, record):
        pass

    def on_step(self, record, step):
        self.steps.append((record.method, step))

    def on_end(self, record):
        pass


def test_the_pool_is_plain_until_somebody_listens_and_again_after(play):
    async def script(scene):
        client = await scene.connect()
        cluster = client._backend._cluster
        other = client.with_options(timeout=5.0)
        await client.put(b"a", b"1")
        assert type(cluster.pool) is ConnectionPool
        listener = Listener()
        telemetry.install(listener)
        try:
            assert type(cluster.pool) is LanePool
            for view in (client, other, client.with_options(timeout=3.0)):
                assert await view.get(b"a") == b"1"
        finally:
            telemetry.remove(listener)
        assert type(cluster.pool) is ConnectionPool
        assert cluster.pool is cluster.connections
        rpcs = [step for _, step in listener.steps if step.kind == "rpc"]
        assert [(step.name, step.store, step.status) for step in rpcs] == [("RawGet", "store-1:20160", "ok")] * 3
        assert all(step.ended > step.began for step in rpcs)
        assert all(step.detail[1].endswith(b"1") for step in rpcs)
        assert await other.get(b"a") == b"1"
        assert len([step for _, step in listener.steps if step.kind == "rpc"]) == 3

    play(script)


def test_lanes_stay_while_a_guard_needs_them(play):
    async def script(scene):
        client = await scene.connect(breaker=True)
        cluster = client._backend._cluster
        assert type(cluster.pool) is LanePool
        listener = Listener()
        telemetry.install(listener)
        telemetry.remove(listener)
        assert type(cluster.pool) is LanePool
        await client.put(b"a", b"1")
        assert scene.guards(client)["store-1"].breaker == "closed"

    play(script)


def test_failures_region_errors_and_waits_in_the_queue_are_steps(play):
    async def script(scene):
        client = await scene.connect(bulkhead=1, rpc_timeout=0.3, timeout=2.0)
        await client.put(b"a", b"1")
        listener = Listener()
        telemetry.install(listener)
        try:
            scene.fleet.lead(b"a", 2)
            assert await client.get(b"a") == b"1"
            scene.fleet.trouble(2).delay_seconds = 0.05
            await scene.together(2, lambda: client.get(b"a"))
            scene.fleet.trouble(2).is_silent = True
            await scene.attempt(client.get(b"a"))
        finally:
            telemetry.remove(listener)
        seen = {(step.kind, step.name, step.store.partition(":")[0], step.status) for _, step in listener.steps}
        assert ("rpc", "RawGet", "store-1", "region_error") in seen
        assert ("rpc", "RawGet", "store-2", "ok") in seen
        assert ("rpc", "RawGet", "store-2", "DEADLINE_EXCEEDED") in seen
        assert ("queue", "bulkhead", "store-2", "ok") in seen

    play(script)


def test_the_second_try_at_a_lone_store_passes_its_lane_too(play):
    names = []

    async def interceptor(rpc, proceed):
        names.append(rpc.name)
        return await proceed(rpc)

    async def script(scene):
        client = await scene.connect(
            hedge_after_ms=20, hedge_ratio=1.0, bulkhead=8, interceptors=(interceptor,), timeout=2.0
        )
        await client.put(b"a", b"1")
        for number in (2, 3):  # the others are known to be dead
            scene.fleet.crash(number)
            client._backend._cluster.stores.mark_unreachable(number, scene.now + 1000.0)
        cluster = client._backend._cluster
        before = cluster.connections.open_connections
        scene.fleet.trouble(1).delay_seconds = 0.1
        names.clear()
        assert await client.get(b"a") == b"1"
        assert names == ["RawGet", "RawGet"]
        await scene.rt.sleep(1.0)
        assert cluster.connections.open_connections <= before
        assert scene.guards(client)["store-1"].in_flight == 0

    play(script)
