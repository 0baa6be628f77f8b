"""What surrounds a call, as the servers see it: fields, metadata, times, and ends. In virtual time."""

from __future__ import annotations

from typing import Any

import pytest

import pytikv
from pytikv import Outcome
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.testing.sim import Link

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def fast_paths(client: Any) -> int:
    """Return how many contexts the routes of a client keep."""
    return max(
        len(route.contexts) for region in client._backend._cluster.regions._by_id.values() for route in region.routes
    )


# --- what requests say ------------------------------------------------------------------------------------------------


def test_fields_of_a_context_are_in_every_request(run, fleet) -> None:
    async def body(client: Any) -> None:
        with pytikv.context(
            trace_id=TRACE, request_source="shop", resource_group="gold", priority="high", tenant_id="acme"
        ):
            await client.put(b"a", b"1")
            assert await client.get(b"a") == b"1"
            await client.batch_get([b"a", b"z"])
            await client.compare_and_swap(b"a", b"1", b"2")
            assert await client.scan_list(b"a", b"b") == [(b"a", b"2")] if hasattr(client, "scan_list") else True
        await client.get(b"a")

    run(body, request_source="etl", resource_group="silver")
    inside = [fleet.of("RawPut"), fleet.of("RawBatchGet"), fleet.of("RawCompareAndSwap")]
    first, last = fleet.of("RawGet")
    for seen in (*(one for found in inside for one in found), first):
        context = seen.context
        assert context.trace_id == bytes.fromhex(TRACE)
        assert context.request_source == "shop"
        assert context.resource_control_context.resource_group_name == "gold"
        assert context.priority == kvrpcpb.High
    assert last.context.trace_id == b""
    assert last.context.request_source == "etl"
    assert last.context.resource_control_context.resource_group_name == "silver"
    assert last.context.priority == kvrpcpb.Normal


def test_a_context_may_say_normal(run, fleet) -> None:
    async def body(client: Any) -> None:
        with pytikv.context(priority="normal"):
            await client.get(b"a")

    run(body, priority="low")
    assert fleet.of("RawGet")[0].context.priority == kvrpcpb.Normal


def test_what_a_transaction_was_told_comes_first(run, fleet) -> None:
    async def body(client: Any) -> None:
        with pytikv.context(trace_id=TRACE, request_source="shop", priority="low"):
            async with client.begin(priority="high") as txn:
                await txn.get(b"a")
                await txn.put(b"a", b"1")

    run(body, pytikv.AsyncTransactionClient)
    for seen in (*fleet.of("Get"), *fleet.of("Prewrite")):
        assert seen.context.trace_id == bytes.fromhex(TRACE)
        assert seen.context.request_source == "shop"
        assert seen.context.priority == kvrpcpb.High


def test_each_background_piece_is_its_own_callers(run, fleet) -> None:
    """The secondaries of commits go out after their calls, by workers that serve many."""

    async def body(client: Any) -> None:
        for trace in ("a" * 32, None, "b" * 32):
            with pytikv.context(trace_id=trace):
                async with client.begin(async_commit=False, one_pc=False) as txn:
                    await txn.put(b"a", b"1")
                    await txn.put(b"z", b"1")

    run(body, pytikv.AsyncTransactionClient)
    commits = [seen.context.trace_id.hex() for seen in fleet.of("Commit")]
    assert sorted(commits) == ["", "", "a" * 32, "a" * 32, "b" * 32, "b" * 32]


def test_heartbeats_are_their_transactions(run, fleet) -> None:
    async def body(client: Any) -> None:
        rt = client._connection.rt
        with pytikv.context(trace_id=TRACE), pytikv.deadline(1.0):
            first = await client.begin(pessimistic=True)
            await first.put(b"a", b"1")
        second = await client.begin(pessimistic=True)
        await second.put(b"z", b"1")
        await rt.sleep(15.0)
        await first.commit()
        await second.commit()

    run(body, pytikv.AsyncTransactionClient)
    beats = fleet.of("TxnHeartBeat")
    assert sorted(seen.context.trace_id.hex() for seen in beats) == ["", TRACE]


def test_unique_fields_leave_the_kept_contexts_alone(run, fleet) -> None:
    async def body(client: Any) -> int:
        await client.get(b"a")
        for number in range(1, 100):
            with pytikv.context(trace_id=f"{number:032x}"), pytikv.deadline(1.0 + number / 100):
                await client.get(b"a")
        return fast_paths(client)

    assert run(body) <= 2
    assert len({seen.context.trace_id for seen in fleet.of("RawGet")}) == 100


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_of_unary_calls(run, fleet) -> None:
    async def body(client: Any) -> None:
        with pytikv.context(trace_id=TRACE, span_id=SPAN, tenant_id="Ünique", baggage={"user": "a b"}):
            await client.get(b"z")  # looks the region up at PD first
            await client.compare_and_swap(b"a", None, b"1")

    run(body)
    for seen in (*fleet.of("GetRegion"), *fleet.of("RawCompareAndSwap")):
        assert seen.headers["traceparent"] == f"00-{TRACE}-{SPAN}-01"
        assert seen.headers["tenant-id"] == "%C3%9Cnique"
        assert seen.headers["baggage"] == "user=a%20b"
        assert "authorization" not in seen.headers


def test_a_users_token_goes_with_its_own_calls_only(run, fleet) -> None:
    async def body(client: Any) -> None:
        await client.put(b"a", b"0")
        with pytikv.context(user_token="of-alice"):
            await client.put(b"a", b"1")
            assert await client.get(b"a") == b"1"
            await client.batch_get([b"a", b"z"])
        await client.get(b"a")

    run(body)
    shared, alone = fleet.of("RawPut")
    assert ("authorization" in shared.headers, shared.left_s) == (False, None)
    assert (alone.headers["authorization"], alone.left_s is not None) == ("Bearer of-alice", True)
    first, second = fleet.of("RawGet")
    assert (first.headers.get("authorization"), second.headers.get("authorization")) == ("Bearer of-alice", None)
    assert {seen.headers["authorization"] for seen in fleet.of("RawBatchGet")} == {"Bearer of-alice"}
    assert all("authorization" not in seen.headers for seen in fleet.of("BatchCommands"))


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_time_left_reaches_the_servers(run, fleet) -> None:
    async def body(client: Any) -> None:
        await client.put(b"a", b"1")
        with pytikv.deadline(0.25, reserve=0.05):
            await client.get(b"a")
            await client.get(b"z")  # PD's part, and then what is left
            await client.compare_and_swap(b"a", b"1", b"2")

    run(body)
    near, far = fleet.of("RawGet")
    assert near.context.max_execution_duration_ms in (199, 200)
    assert far.context.max_execution_duration_ms < near.context.max_execution_duration_ms
    [swap] = fleet.of("RawCompareAndSwap")
    assert 0 < swap.left_s <= 0.2
    assert swap.context.max_execution_duration_ms == pytest.approx(swap.left_s * 1000, abs=2)


def test_an_inbound_deadline_goes_on(run, fleet) -> None:
    async def body(client: Any) -> None:
        headers = [(b"TraceParent", f"00-{TRACE}-{SPAN}-00".encode()), (b"grpc-timeout", b"300m")]
        with pytikv.context.from_headers(headers):
            await client.compare_and_swap(b"a", None, b"1")

    run(body)
    [swap] = fleet.of("RawCompareAndSwap")
    assert swap.headers["traceparent"] == f"00-{TRACE}-{SPAN}-00"
    assert 0.25 < swap.left_s <= 0.3
    assert swap.context.trace_id == bytes.fromhex(TRACE)


def test_classes_of_service(run, fleet) -> None:
    async def body(client: Any) -> None:
        core = client.with_options(service_class="core")
        for view in (client, core):
            await view.get(b"a")
        with pytikv.context(service_class="background"):
            await client.get(b"a")
            await core.get(b"a")
        client.sla["core"] = 0.08
        await core.get(b"a")
        core.sla["core"] = 30.0  # longer than `timeout`, and bounded by rpc_timeout
        await core.get(b"a")
        with pytikv.deadline(0.01):
            await core.get(b"a")
        await core.with_options(timeout=0.5).get(b"a")
        assert client.sla == {"core": 30.0, "background": 0.2}

    run(body, sla={"core": 0.05, "background": 0.2}, timeout=2.0, rpc_timeout=5.0)
    said = [seen.context.max_execution_duration_ms for seen in fleet.of("RawGet")]
    assert said[0] <= 2000
    assert said[1:] == [pytest.approx(ms, abs=1) for ms in (50, 200, 200, 80, 5000, 10, 500)]


def test_a_class_that_is_not_there(run, fleet) -> None:
    async def body(client: Any) -> None:
        with pytikv.context(service_class="cure"), pytest.raises(pytikv.InvalidArgument, match=r"'cure'.*'core'"):
            await client.get(b"a")
        with pytest.raises(pytikv.ConfigError, match=r"service_class.*'core'"):
            client.with_options(service_class="cure")
        with pytest.raises(pytikv.ConfigError, match="'sla' is fixed"):
            client.with_options(sla={"x": 1})

    run(body, sla={"core": 0.05})


# --- ends -------------------------------------------------------------------------------------------------------------


def in_flight(client: Any) -> int:
    pool = client._backend._cluster.connections
    return sum(channel.in_flight for state in pool._addresses.values() for channel in state.channels)


def test_the_deadline_ends_a_fan_out_wholly(run, fleet, world) -> None:
    async def body(client: Any) -> None:
        rt = client._connection.rt
        keys = [b"a", b"h", b"q"]
        await client.batch_get(keys)
        fleet.trouble(2).is_silent = True
        began = rt.now()
        with pytikv.deadline(0.2), pytest.raises(pytikv.DeadlineExceeded):
            await client.batch_get(keys)
        assert rt.now() - began == pytest.approx(0.2, abs=0.001)
        assert in_flight(client) == 0
        fleet.seen.clear()
        await rt.sleep(5.0)
        assert [seen.method for seen in fleet.seen if seen.method.startswith("Raw")] == []

    run(body)


def test_the_deadline_ends_a_unary_call_at_the_server(run, fleet) -> None:
    async def body(client: Any) -> None:
        await client.get(b"a")
        fleet.trouble(1).is_silent = True
        with pytikv.deadline(0.2), pytest.raises(pytikv.DeadlineExceeded) as caught:
            await client.compare_and_swap(b"a", None, b"1")
        assert caught.value.outcome is Outcome.UNDETERMINED
        await client._connection.rt.sleep(0.1)
        assert in_flight(client) == 0

    run(body)
    assert [seen.ended for seen in fleet.of("RawCompareAndSwap")] == ["cancelled"]


@pytest.mark.parametrize("silent", ["store", "pd"])
def test_cancelling_ends_what_was_sent(run, fleet, silent) -> None:
    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        fleet.trouble(1).is_silent = silent == "store"
        fleet.pd_trouble.is_silent = silent == "pd"

        async def swap() -> None:
            await client.compare_and_swap(b"a" if silent == "store" else b"z", None, b"1")

        async def get() -> None:
            await client.get(b"a" if silent == "store" else b"z")

        tasks = [rt.spawn(work(), name="doomed") for work in (swap, get)]
        await rt.sleep(0.05)
        assert in_flight(client)
        for task in tasks:
            task.cancel()
        await rt.sleep(0.05)
        assert all(task.done() for task in tasks)
        assert in_flight(client) == 0
        fleet.seen = [seen for seen in fleet.seen if seen.ended == "cancelled"]
        fleet.trouble(1).is_silent = fleet.pd_trouble.is_silent = False
        await client.get(b"z")

    run(body)
    [seen, *_] = [seen for seen in fleet.seen if seen.ended == "cancelled"]
    assert seen.method == ("RawCompareAndSwap" if silent == "store" else "GetRegion")


@pytest.mark.parametrize("call", ["get", "put", "batch_get", "batch_put", "delete", "compare_and_swap"])
@pytest.mark.parametrize("known", [False, True], ids=["at_pd", "at_store"])
def test_less_than_one_round_trip(run, fleet, world, call, known) -> None:
    """The error is DeadlineExceeded, comes in time, and says of a write that was sent that it may be applied."""
    world.network.set_link(Link(min_delay=0.02, max_delay=0.02))

    async def body(client: Any) -> Any:
        rt = client._connection.rt
        if known:
            await client.batch_put({b"a": b"1", b"z": b"1"})
        arguments: dict[str, Any] = {
            "put": (b"a", b"2"),
            "batch_get": ([b"a", b"z"],),
            "batch_put": ({b"a": b"2", b"z": b"2"},),
            "compare_and_swap": (b"a", b"1", b"2"),
        }
        began = rt.now()
        with pytikv.deadline(0.01), pytest.raises(pytikv.TikvError) as caught:
            await getattr(client, call)(*arguments.get(call, (b"a",)))
        assert rt.now() - began < 0.0101
        error = caught.value
        return next(iter(error.failed.values())) if isinstance(error, pytikv.BatchError) else error

    error = run(body)
    assert isinstance(error, pytikv.DeadlineExceeded)
    was_sent = known and call not in ("get", "batch_get")
    assert error.outcome is (Outcome.UNDETERMINED if was_sent else Outcome.NOT_APPLIED)


@pytest.mark.parametrize("left", [0.0, 0.0001])
def test_no_time_at_all(run, fleet, left) -> None:
    async def body(client: Any) -> None:
        await client.put(b"a", b"1")
        fleet.seen.clear()
        with pytikv.deadline(left, reserve=0.001):
            for call in (client.get(b"a"), client.put(b"a", b"2"), client.batch_get([b"a", b"z"]), client.get(b"z")):
                with pytest.raises(pytikv.DeadlineExceeded) as caught:
                    await call
                assert caught.value.outcome is Outcome.NOT_APPLIED

    run(body)
    assert fleet.seen == []


def test_time_that_runs_out_at_pd(run, fleet) -> None:
    async def body(client: Any) -> None:
        await client.put(b"a", b"1")
        fleet.pd_trouble.is_silent = True
        for seconds in (0.04, 0.5, 2.0):
            with pytikv.deadline(seconds), pytest.raises(pytikv.DeadlineExceeded):
                await client.get(b"z")
        with pytest.raises(pytikv.ConnectionFailed):  # after a time that is fair to PD, it is PD that is missing
            await client.get(b"z")

    run(body, timeout=10.0, pd_timeout=3.0)


def test_a_short_deadline_does_not_accuse_a_leader_of_pd(run, fleet) -> None:
    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        fleet.pd_trouble.delay_seconds = 0.05
        for _ in range(3):
            with pytikv.deadline(0.02), pytest.raises(pytikv.DeadlineExceeded):
                await client.get(b"z")
        assert fleet.of("GetMembers") == []
        await rt.sleep(1.0)
        with pytikv.deadline(0.02), pytest.raises(pytikv.DeadlineExceeded):
            await client.get(b"z")
        await rt.sleep(0.1)
        assert len(fleet.of("GetMembers")) == 1

    run(body)


def test_time_that_runs_out_at_the_oracle(run, fleet) -> None:
    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.current_timestamp()
        fleet.world.pause("pd")
        began = rt.now()
        with pytikv.deadline(0.04), pytest.raises(pytikv.DeadlineExceeded):
            await client.current_timestamp()
        assert rt.now() - began < 0.0401
        fleet.world.resume("pd")

    run(body, pytikv.AsyncTransactionClient)
