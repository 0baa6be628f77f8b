"""Profile, slow-call log and spans of a real client against simulated stores: what they say is what the stores took.

Time is virtual, so durations are exact: a request takes one round trip, and one store is slow by a second.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pytikv
from pytikv.client.raw import AsyncRawClient
from pytikv.observe import telemetry, tracing
from pytikv.observe.attribution import Part
from pytikv.testing.fleet import URL, Fleet
from pytikv.testing.sim import Link, World
from pytikv.testing.simulated import debris_ignored

RTT_S = 0.01
SLOW_S = 1.0
SLOW = "store-2:20160"


def play(script: Any) -> None:
    """Run `script(client, fleet, rt)` in a client's process; region 1 ends at "j", region 2 at "q"."""
    world = World(1, link=Link(min_delay=RTT_S / 2, max_delay=RTT_S / 2))
    fleet = Fleet(world, borders=(b"j", b"q"))
    rt = world.process("client")
    came_to: list[BaseException | None] = []

    async def client() -> None:
        try:
            found = await AsyncRawClient._open(rt, URL, {"slow_log": 0.5})
            try:
                await found.batch_put({b"a": b"1", b"k": b"2", b"z": b"3"})
                await script(found, fleet, rt)
            finally:
                await found.close()
        except BaseException as error:
            came_to.append(error)
            raise
        came_to.append(None)

    async def main() -> None:
        rt.spawn(client(), name="script")
        while not came_to:
            await world.process("main").sleep(0.05)

    with debris_ignored(world), world:
        fleet.start()
        world.run(main())
    if came_to[0] is not None:
        raise came_to[0]


def test_a_profile_finds_the_slow_store() -> None:
    async def script(client: AsyncRawClient, fleet: Fleet, rt: Any) -> None:
        fleet.trouble(2).delay_seconds = SLOW_S
        with pytikv.profile() as report:
            await client.get(b"a")
            await rt.sleep(0.25)
            await client.get(b"k")
            found = await client.batch_get([b"a", b"k", b"z"])
        assert len(found) == 3
        assert report.seconds == pytest.approx(RTT_S + 0.25 + 2 * (SLOW_S + RTT_S))
        assert report.parts[Part.APPLICATION] == pytest.approx(0.25)
        assert sum(report.parts.values()) == pytest.approx(report.seconds)
        by_store = {store: stats.max_seconds for store, stats in report.stores.items()}
        assert by_store == {
            "store-1:20160": pytest.approx(RTT_S),
            SLOW: pytest.approx(SLOW_S + RTT_S),
            "store-3:20160": pytest.approx(RTT_S),
        }
        # The batch's three requests share their round trip; the second beyond it is the slow one's alone.
        slow = sum(seconds for slot, seconds in report.shares.items() if slot.store == SLOW)
        assert slow == pytest.approx(SLOW_S + RTT_S + SLOW_S + RTT_S / 3)

    play(script)


def test_slow_calls_are_logged_and_fast_ones_are_not() -> None:
    stream = io.StringIO()

    async def script(client: AsyncRawClient, fleet: Fleet, rt: Any) -> None:
        fleet.trouble(2).delay_seconds = SLOW_S
        for key in (b"a", b"k", b"z"):
            await client.get(key)

    with pytikv.logging.json(stream):
        play(script)
    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert (line["method"], line["store"]) == ("raw_get", SLOW)
    assert line["duration_ms"] == pytest.approx((SLOW_S + RTT_S) * 1e3)
    assert line["phases"] == {f"network {SLOW}": pytest.approx((SLOW_S + RTT_S) * 1e3)}
    assert telemetry.sinks() == ()


def test_spans_have_the_times_of_the_requests_and_retries_show() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def script(client: AsyncRawClient, fleet: Fleet, rt: Any) -> None:
        with tracing.enable(provider):
            fleet.trouble(2).delay_seconds = SLOW_S
            await client.get(b"k")
            fleet.lead(b"a", 3)  # the client asks the old leader first
            await client.get(b"a")

    play(script)
    provider.shutdown()
    slow, moved = [span for span in exporter.get_finished_spans() if span.name == "raw_get"]
    assert (slow.end_time or 0) - (slow.start_time or 0) == pytest.approx((SLOW_S + RTT_S) * 1e9, abs=1000)
    rpcs = [
        span for span in exporter.get_finished_spans() if span.parent and span.parent.span_id == moved.context.span_id
    ]
    codes = [(span.attributes or {}).get("rpc.response.status_code") for span in rpcs if "RawGet" in span.name]
    assert codes == ["region_error", "OK"]
    assert (moved.attributes or {})["tikv.stores"] == ("store-1:20160", "store-3:20160")
