"""The guard: what counts against an address, and what it tells of itself."""

from __future__ import annotations

import logging
import pickle
import random

import pytest

from pytikv import BreakerPolicy, BulkheadPolicy, CircuitOpen, ClientClosed, ConnectionFailed, LimitPolicy, Overloaded
from pytikv.client.resilience.guard import Guard, Guards, Refused
from pytikv.policies import RetryBudgetPolicy
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.wire.errors import ConnectionLost, RpcError, Status

POLICY = BreakerPolicy(min_calls=4, slow_s=1.0, open_s=1.0)
BUSY = kvrpcpb.ScanResponse(region_error=errorpb.Error(server_is_busy=errorpb.ServerIsBusy())).SerializeToString()
NOT_LEADER = kvrpcpb.RawGetResponse(region_error=errorpb.Error(not_leader=errorpb.NotLeader())).SerializeToString()
PD_ANSWER = pdpb.GetRegionResponse(
    header=pdpb.ResponseHeader(cluster_id=7), leader={"id": 1, "store_id": 6}
).SerializeToString()


class Still:
    """As much of a runtime as a guard needs that waits for nothing."""

    def __init__(self):
        self.rng = random.Random(1)

    def now(self):
        return 100.0


@pytest.fixture
def guard():
    return Guard(Still(), "s:1", breaker=POLICY)


def state_after(guard, error=None, *, count=10, took_s=0.1, given_s=5.0, answer=b""):
    """Let calls end in a way; returns the breaker's state then."""
    for _ in range(count):
        try:
            ticket = guard.admit(100.0)
        except Refused:
            break
        if error is None:
            guard.done(ticket, 100.0, took_s, answer)
        else:
            guard.failed(ticket, 100.0, took_s, given_s, error)
    return guard.snapshot().breaker


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("refused"),
        ConnectionLost("reset"),
        RpcError(Status.UNAVAILABLE),
        RpcError(Status.RESOURCE_EXHAUSTED),
        RpcError(Status.INTERNAL),
        RpcError(Status.UNKNOWN),
        RpcError(Status.DEADLINE_EXCEEDED),
    ],
)
def test_trouble_opens_it(guard, error):
    assert state_after(guard, error) == "open"


@pytest.mark.parametrize(
    "error",
    [
        RpcError(Status.UNIMPLEMENTED),
        RpcError(Status.INVALID_ARGUMENT),
        RpcError(Status.PERMISSION_DENIED),
        RpcError(Status.UNAUTHENTICATED),
        RpcError(Status.CANCELLED),
        Overloaded("the pool is full"),
        ClientClosed("closed"),
        ValueError("an interceptor's own"),
        KeyboardInterrupt(),
    ],
)
def test_what_does_not_speak_against_the_address(guard, error):
    assert state_after(guard, error, count=100) == "closed"


@pytest.mark.parametrize(("answer", "state"), [(BUSY, "open"), (NOT_LEADER, "closed"), (PD_ANSWER, "closed")])
def test_a_busy_store_counts_as_failed_other_region_errors_are_answers(guard, answer, state):
    assert state_after(guard, answer=answer) == state


def test_a_timeout_counts_if_there_was_a_fair_time(guard):
    late = RpcError(Status.DEADLINE_EXCEEDED)
    state_after(guard, took_s=0.08, count=3)  # a round trip takes 80 ms
    assert state_after(guard, late, given_s=0.05, count=100) == "closed"
    assert state_after(guard, late, given_s=0.2, count=100) == "closed"
    assert state_after(guard, late, given_s=0.25) == "open"


def test_where_nothing_was_heard_a_quarter_of_a_second_is_fair(guard):
    late = RpcError(Status.DEADLINE_EXCEEDED)
    assert state_after(guard, late, given_s=0.2, count=100) == "closed"
    assert state_after(guard, late, given_s=0.3) == "open"


def test_the_shortest_time_is_forgotten_in_a_while(guard):
    for second in range(100, 130):
        took_s = 0.001 if second < 102 else 0.4
        guard.done(guard.admit(float(second)), float(second), took_s)
    for _ in range(30):
        guard.failed(guard.admit(130.0), 130.0, 0.1, 0.1, RpcError(Status.DEADLINE_EXCEEDED))
    assert guard.snapshot().breaker == "closed"


def test_a_connect_cut_short_by_its_caller_says_nothing(guard):
    state_after(guard, took_s=0.01, count=3)
    assert state_after(guard, ConnectionFailed("no time"), took_s=0.02, given_s=0.02, count=100) == "closed"
    assert state_after(guard, ConnectionFailed("refused"), took_s=0.001, given_s=0.02) == "open"


def test_a_cancelled_probe_frees_its_place(guard):
    guard = Guard(Still(), "s:1", breaker=BreakerPolicy(min_calls=4, open_s=0.01, open_cap_s=0.01, probes=1))
    state_after(guard, RpcError(Status.UNAVAILABLE))
    ticket = guard.admit(101.0)
    with pytest.raises(Refused, match="probes are under way"):
        guard.admit(101.0)
    guard.failed(ticket, 101.0, 0.01, 5.0, KeyboardInterrupt())
    ticket = guard.admit(101.0)
    guard.done(ticket, 101.0, 0.01)
    assert guard.snapshot().breaker == "closed"


def test_refused_carries_the_callers_error_and_can_be_pickled(guard):
    state_after(guard, RpcError(Status.UNAVAILABLE))
    with pytest.raises(Refused) as refused:
        guard.admit(100.0)
    assert refused.value.not_processed
    copy = pickle.loads(pickle.dumps(refused.value))
    assert isinstance(copy.error, CircuitOpen)
    assert copy.error.address == "s:1"
    assert copy.error.retry_in_s == refused.value.error.retry_in_s > 0
    assert isinstance(copy.error, Overloaded)


def test_it_says_when_it_turns(guard, caplog):
    caplog.set_level(logging.INFO, logger="pytikv")
    state_after(guard, RpcError(Status.UNAVAILABLE))
    for _ in range(3):
        guard.done(guard.admit(102.0), 102.0, 0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "the circuit breaker of s:1 opened: 4 of 4 requests failed in 10 s",
        "the circuit breaker of s:1 closed",
    ]


def test_everything_of_it_is_optional():
    guard = Guard(Still(), "s:1")
    for _ in range(100):
        guard.failed(guard.admit(1.0), 1.0, 1.0, 1.0, RpcError(Status.UNAVAILABLE))
        guard.done(guard.admit(1.0), 1.0, 1.0, BUSY)
    assert guard.snapshot().limit is None
    assert not guard.is_refusing(1.0)


def test_the_limits_of_bulkhead_and_adaptive_limit_both_hold():
    guard = Guard(Still(), "s:1", bulkhead=BulkheadPolicy(max_in_flight=10), limit=LimitPolicy(initial=20, max=100))
    assert guard.snapshot().limit == 10
    assert [guard.admit(1.0) for _ in range(11)] == [0] * 10 + [-1]
    assert guard.snapshot().in_flight == 10


def test_guards_are_one_an_address_and_share_the_budget():
    guards = Guards(Still(), breaker=POLICY, retry_budget=RetryBudgetPolicy(ratio=0.5, burst=10.0))
    assert guards.of("a:1") is guards.of("a:1")
    assert guards.of("a:1") is not guards.of("b:1")
    assert guards.budget is not None
    guards.budget.saved = 0.0
    for address in ("a:1", "b:1"):
        guards.of(address).done(guards.of(address).admit(1.0), 1.0, 0.01)
    assert guards.budget.tokens == 1.0
    assert [state.address for state in guards.snapshot()] == ["a:1", "b:1"]


def test_pd_is_asked_for_a_region_once_a_second_because_of_an_open_breaker():
    guards = Guards(Still(), breaker=POLICY)
    assert [guards.may_look_up(5, at) for at in (1.0, 1.5, 2.1, 2.2, -50.0)] == [True, False, True, False, True]
    assert guards.may_look_up(6, 1.0)
