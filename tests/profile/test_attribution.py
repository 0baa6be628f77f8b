"""Dividing time among what was under way: the parts are those of the rule, and add up to the whole."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.observe.attribution import Call, Part, Slot, attribute, attribute_call, move_cpu
from pytikv.observe.telemetry import CallRecord, Step, Telemetry
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

NUMBERS = itertools.count()
TELEMETRY = Telemetry(lambda: 0.0, lambda: 0.0)


def call(began: float, ended: float | None, *steps: Step, method: str = "raw_get", parent: Call | None = None) -> Call:
    record = CallRecord(TELEMETRY, method, began, None, None)
    record.ended = ended
    record.steps = list(steps)
    return Call.of(record, next(NUMBERS), None if parent is None else parent.number)


def rpc(began: float, ended: float, store: str = "s1", answer: bytes | None = None, name: str = "RawGet") -> Step:
    return Step("rpc", name, began, ended, "ok", store, (b"", answer))


def by_part(shares: dict[Slot, float]) -> dict[Part, float]:
    found: defaultdict[Part, float] = defaultdict(float)
    for slot, seconds in shares.items():
        found[slot.part] += seconds
    return {part: round(seconds, 9) for part, seconds in found.items() if seconds}


def answer(**times_ns: Any) -> bytes:
    found = kvrpcpb.PessimisticLockResponse()
    lock_ns = times_ns.pop("lock", 0)
    found.exec_details_v2.write_detail.pessimistic_lock_wait_nanos = lock_ns
    for name, value in times_ns.items():
        setattr(found.exec_details_v2.time_detail_v2, name, value)
    return found.SerializeToString()


def test_what_no_step_covers_is_the_clients_and_what_no_call_covers_the_applications() -> None:
    shares = attribute([call(1.0, 3.0, rpc(1.5, 2.5))], 0.0, 4.0)
    assert shares == {
        Slot("raw_get", Part.CLIENT): 1.0,
        Slot("raw_get", Part.NETWORK, "RawGet", "s1"): 1.0,
        Slot("", Part.APPLICATION): 2.0,
    }


def test_steps_at_once_share_their_moments() -> None:
    shares = attribute_call(call(0.0, 4.0, rpc(0.0, 4.0, "s1"), rpc(2.0, 4.0, "s2")))
    assert shares == {
        Slot("raw_get", Part.NETWORK, "RawGet", "s1"): 3.0,
        Slot("raw_get", Part.NETWORK, "RawGet", "s2"): 1.0,
    }


@pytest.mark.parametrize(("outer", "part"), [("lock_wait", Part.LOCK_WAIT), ("region_load", Part.REGION_LOAD)])
def test_a_wait_owns_the_requests_and_pauses_it_is_made_of(outer: str, part: Part) -> None:
    record = call(0.0, 5.0, Step(outer, "read", 1.0, 4.0), rpc(1.0, 2.0), Step("backoff", "txnLock", 2.0, 3.5))
    assert by_part(attribute_call(record)) == {Part.CLIENT: 2.0, part: 3.0}


def test_a_connection_that_an_rpc_waited_for_is_not_the_networks() -> None:
    record = call(0.0, 3.0, Step("connect", "", 0.0, 1.0, store="s1"), rpc(0.0, 3.0))
    assert by_part(attribute_call(record)) == {Part.CONNECT: 1.0, Part.NETWORK: 2.0}


def test_an_rpc_is_divided_as_the_store_says() -> None:
    said = answer(total_rpc_wall_time_ns=3_000_000_000, wait_wall_time_ns=500_000_000, lock=2_000_000_000)
    record = call(0.0, 4.0, rpc(0.0, 4.0, answer=said, name="KvPessimisticLock"))
    assert by_part(attribute_call(record)) == {
        Part.LOCK_WAIT: 2.0,
        Part.SERVER_QUEUE: 0.5,
        Part.SERVER: 0.5,
        Part.NETWORK: 1.0,
    }


def test_a_store_whose_clock_is_wrong_cannot_have_more_than_the_rpc() -> None:
    said = answer(total_rpc_wall_time_ns=9_000_000_000, wait_wall_time_ns=8_000_000_000)
    record = call(0.0, 4.0, rpc(0.0, 4.0, answer=said, name="KvPessimisticLock"))
    assert by_part(attribute_call(record)) == {Part.SERVER_QUEUE: 4.0}


def test_calls_at_once_share_their_moments_and_inner_calls_stand_for_outer_ones() -> None:
    outer = call(0.0, 4.0, method="client_run")
    calls = [outer, call(1.0, 3.0, rpc(1.0, 3.0), parent=outer), call(2.0, 3.0, method="raw_put")]
    shares = attribute(calls, 0.0, 4.0)
    assert shares == {
        Slot("client_run", Part.CLIENT): 2.0,
        Slot("raw_get", Part.NETWORK, "RawGet", "s1"): 1.5,
        Slot("raw_put", Part.CLIENT): 0.5,
    }


def test_a_call_that_has_not_ended_counts_to_the_end() -> None:
    assert by_part(attribute([call(1.0, None)], 0.0, 3.0)) == {Part.CLIENT: 2.0, Part.APPLICATION: 1.0}


def test_phases_and_hedges_take_no_time() -> None:
    record = call(0.0, 2.0, Step("phase", "prewrite", 0.0, 1.0), Step("hedge", "won", 0.0, 2.0))
    assert by_part(attribute_call(record)) == {Part.CLIENT: 2.0}


times = st.integers(0, 40).map(lambda tick: tick / 8)
spans = st.tuples(times, times).map(lambda pair: (min(pair), max(pair)))
kinds = st.sampled_from(["rpc", "backoff", "tso", "lock_wait", "region_load", "queue", "connect", "phase"])
steps = st.builds(
    lambda kind, span, store: Step(kind, "n", *span, "ok", store), kinds, spans, st.sampled_from(["s1", "s2"])
)


@st.composite
def some_calls(draw: st.DrawFn) -> list[Call]:
    found: list[Call] = []
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from([None, *found]))
        began, ended = draw(spans)
        if parent is not None and parent.ended is not None:  # a call within a call ends before it does
            began, ended = max(began, parent.began), min(ended, parent.ended)
        found.append(call(began, max(began, ended), *draw(st.lists(steps, max_size=5)), parent=parent))
    return found


@given(some_calls(), spans)
def test_the_parts_add_up_to_the_whole(calls: list[Call], span: tuple[float, float]) -> None:
    shares = attribute(calls, *span)
    assert math.isclose(sum(shares.values()), span[1] - span[0], abs_tol=1e-9)
    assert all(seconds >= -1e-9 for seconds in shares.values())


@given(some_calls())
def test_a_call_alone_adds_up_to_its_duration(calls: list[Call]) -> None:
    for record in calls:
        assert record.ended is not None
        assert math.isclose(sum(attribute_call(record).values()), record.ended - record.began, abs_tol=1e-9)


@given(some_calls())
def test_moment_by_moment_it_is_the_rule(calls: list[Call]) -> None:
    """The same by brute force: the rule applied to each eighth of a second."""
    wanted: defaultdict[Part, float] = defaultdict(float)
    for tick in range(40):
        at = (tick + 0.5) / 8
        under_way = [one for one in calls if one.began < at < (one.ended or 0)]
        inner = [one for one in under_way if not any(other.parent == one.number for other in under_way)]
        if not inner:
            wanted[Part.APPLICATION] += 1 / 8
        for one in inner:
            for part, weight in _of_moment(one, at).items():
                wanted[part] += weight / len(inner) / 8
    assert by_part(attribute(calls, 0.0, 5.0)) == pytest.approx({part: s for part, s in wanted.items() if s})


def _of_moment(record: Call, at: float) -> dict[Part, float]:
    ranks = [
        {"lock_wait": Part.LOCK_WAIT},
        {"region_load": Part.REGION_LOAD},
        {"queue": Part.QUEUE, "connect": Part.CONNECT},
        {"rpc": Part.NETWORK, "backoff": Part.BACKOFF, "tso": Part.TSO},
    ]
    active = [step.kind for step in record.steps if step.began < at < step.ended]
    for rank in ranks:
        parts = [rank[kind] for kind in active if kind in rank]
        if parts:
            return {part: parts.count(part) / len(parts) for part in parts}
    return {Part.CLIENT: 1.0}


def test_cpu_time_beyond_the_clients_moments_was_spent_in_requests() -> None:
    shares = {
        Slot("raw_get", Part.CLIENT): 1.0,
        Slot("raw_get", Part.NETWORK, "RawGet", "s1"): 3.0,
        Slot("txn_begin", Part.TSO, "wait"): 1.0,
        Slot("raw_get", Part.BACKOFF, "regionMiss"): 5.0,
        Slot("", Part.APPLICATION): 9.0,
    }
    assert move_cpu(shares, 3.0) == {
        **shares,
        Slot("raw_get", Part.NETWORK, "RawGet", "s1"): 1.5,
        Slot("txn_begin", Part.TSO, "wait"): 0.5,
        Slot("raw_get", Part.CLIENT, "in requests"): 1.5,
        Slot("txn_begin", Part.CLIENT, "in requests"): 0.5,
    }
    assert move_cpu(shares, 1.0) == shares
    assert by_part(move_cpu(shares, 99.0)) == {Part.CLIENT: 5.0, Part.BACKOFF: 5.0, Part.APPLICATION: 9.0}


@given(some_calls(), spans, st.floats(0, 20))
def test_the_parts_still_add_up_to_the_whole(calls: list[Call], span: tuple[float, float], cpu_s: float) -> None:
    shares = move_cpu(attribute(calls, *span), cpu_s)
    assert math.isclose(sum(shares.values()), span[1] - span[0], abs_tol=1e-9)
    assert all(seconds >= -1e-9 for seconds in shares.values())
