"""Request units: what requests cost, how tokens flow, and the talk of a group with PD. No clock, no wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.client.resource_control.bucket import Bucket
from pytikv.client.resource_control.costs import Consumption, Costs, read_of_answer, write_bytes
from pytikv.client.resource_control.group import REPORT_S, Group
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import resource_manager_pb2 as rmpb

# --- costs ------------------------------------------------------------------------------------------------------------


def test_a_read_costs_its_base_then_what_it_read() -> None:
    costs = Costs()
    assert costs.before(None).rru == pytest.approx(0.125 + 0.35)
    assert costs.after(64 * 1024, 3.0, is_write=False).rru == pytest.approx(2.0)


def test_a_write_costs_by_bytes_and_replicas() -> None:
    one = Costs().before(1024)
    assert one.wru == pytest.approx(1 + 0.7 + 1)
    assert Costs().before(1024, replicas=3).wru == pytest.approx(3 * one.wru)
    assert Costs().after(0, 50.0, is_write=True).total == 0


def test_bytes_of_requests_and_answers() -> None:
    prewrite = kvrpcpb.PrewriteRequest(primary_lock=b"p", secondaries=[b"ss"])
    prewrite.mutations.add(key=b"key", value=b"value")
    assert write_bytes("KvPrewrite", prewrite.SerializeToString()) == 3 + 5 + 1 + 2
    assert write_bytes("KvCommit", kvrpcpb.CommitRequest(keys=[b"a", b"bc"]).SerializeToString()) == 3
    answer = kvrpcpb.GetResponse()
    answer.exec_details_v2.scan_detail_v2.processed_versions_size = 700
    answer.exec_details_v2.time_detail_v2.process_wall_time_ns = 2_000_000
    assert read_of_answer("KvGet", answer.SerializeToString()) == (700, 2.0)
    assert read_of_answer("RawGet", b"\xff\xff") == (0, 0.0)
    assert read_of_answer("KvGet", b"\xff\xff") == (0, 0.0)


# --- the bucket -------------------------------------------------------------------------------------------------------


def test_waits_for_tokens_that_flow_in() -> None:
    bucket = Bucket(0.0, 10.0, fill_rate=5.0)
    assert bucket.reserve(0.0, 10.0, 1.0) == 0.0
    assert bucket.reserve(0.0, 5.0, 1.0) == 1.0
    assert bucket.reserve(0.0, 5.0, 1.9) is None  # two seconds from now, and nothing is taken
    assert bucket.reserve(1.0, 5.0, 1.0) == 1.0


def test_without_a_flow_nobody_waits_in_vain() -> None:
    bucket = Bucket(0.0, 1.0)
    assert bucket.reserve(0.0, 2.0, 1e9) is None
    assert bucket.is_low


@given(
    st.floats(0.1, 1000.0),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.01, 50.0)), min_size=1, max_size=40),
)
def test_never_more_is_had_than_flowed_in(rate: float, asks: list[tuple[float, float]]) -> None:
    bucket = Bucket(0.0, 7.0, fill_rate=rate)
    now = had = 0.0
    for pause, amount in asks:
        now += pause
        wait = bucket.reserve(now, amount, 3.0)
        if wait is not None:
            had += amount
            assert 0.0 <= wait <= 3.0
            assert had <= 7.0 + rate * (now + wait) + 1e-6


def test_a_burst_bounds_what_gathers_and_a_clock_that_goes_back_adds_nothing() -> None:
    bucket = Bucket(100.0, 0.0, fill_rate=10.0, burst=20)
    assert bucket.tokens(200.0) == 20.0
    bucket.spend(200.0, 20.0)
    assert bucket.tokens(50.0) == 0.0
    assert bucket.tokens(200.0) == 0.0


def test_a_negative_burst_is_no_limit() -> None:
    bucket = Bucket(0.0, 0.0, burst=-1)
    assert bucket.reserve(0.0, 1e9, 0.0) == 0.0


# --- a group's talk with PD -------------------------------------------------------------------------------------------


def meta(fill_rate: int = 100, burst: int = 0) -> rmpb.ResourceGroup:
    group = rmpb.ResourceGroup(name="rg", mode=rmpb.RUMode, priority=8)
    group.r_u_settings.r_u.settings.fill_rate = fill_rate
    group.r_u_settings.r_u.settings.burst_limit = burst
    return group


def grant(tokens: float, *, fill_rate: int = 0, trickle_ms: int = 0, burst: int = 0) -> rmpb.TokenBucketResponse:
    answer = rmpb.TokenBucketResponse(resource_group_name="rg")
    one = answer.granted_r_u_tokens.add(trickle_time_ms=trickle_ms)
    one.granted_tokens.tokens = tokens
    one.granted_tokens.settings.fill_rate = fill_rate
    one.granted_tokens.settings.burst_limit = burst
    return answer


def test_a_new_group_makes_itself_known_then_reports_what_it_used() -> None:
    group = Group(meta(), 0.0)
    assert group.wants_to_ask(0.0)
    first = group.ask(0.0)
    assert first.consumption_since_last_request.r_r_u == 0
    assert not group.wants_to_ask(0.0)  # one question at a time
    group.grant(grant(1000.0), 0.1)
    group.consumed.add(Consumption(rru=150.0, reads=300))
    assert not group.wants_to_ask(REPORT_S - 1)
    assert group.wants_to_ask(REPORT_S)
    report = group.ask(REPORT_S)
    assert (report.consumption_since_last_request.r_r_u, report.consumption_since_last_request.kv_read_rpc_count) == (
        150.0,
        300.0,
    )
    # 150 in 5 s, averaged with nothing before; for 5 s and a tenth; 1000 tokens are there still.
    assert report.ru_items.request_r_u[0].value == 0.0


def test_little_is_reported_late() -> None:
    group = Group(meta(), 0.0)
    group.ask(0.0)
    group.grant(grant(1000.0), 0.0)
    group.consumed.add(Consumption(rru=1.0))
    assert not group.wants_to_ask(4 * REPORT_S - 0.1)
    assert group.wants_to_ask(4 * REPORT_S)


def test_a_trickle_flows_in_over_its_time_and_its_rest_is_kept() -> None:
    group = Group(meta(), 0.0)
    group.ask(0.0)
    group.bucket.spend(0.0, 100.0)
    group.grant(grant(50.0, trickle_ms=5000), 0.0)
    assert group.bucket.tokens(1.0) == pytest.approx(10.0)
    group.ask(1.0)
    group.grant(grant(50.0, trickle_ms=5000), 1.0)  # 40 had not flowed in yet
    assert group.bucket.tokens(6.0) == pytest.approx(10.0 + 90.0)


def test_low_tokens_are_asked_for_but_not_without_a_pause() -> None:
    group = Group(meta(), 0.0)
    group.ask(0.0)
    group.grant(grant(0.0), 0.0)
    group.bucket.spend(0.0, 100.0)
    assert group.bucket.reserve(0.0, 1.0, 0.0) is None
    assert not group.wants_to_ask(0.1)
    assert group.wants_to_ask(0.3)


def test_an_unanswered_report_is_made_again_and_the_group_goes_on() -> None:
    group = Group(meta(fill_rate=100), 0.0)
    group.ask(0.0)
    group.grant(grant(0.0), 0.0)
    group.bucket.spend(0.0, 100.0)
    group.consumed.add(Consumption(wru=100.0))
    assert group.bucket.reserve(0.0, 1.0, 0.0) is None
    assert group.ask(1.0).consumption_since_last_request.w_r_u == 100.0
    group.unanswered(2.0)
    assert group.bucket.reserve(2.0, 1.0, 1.0) == pytest.approx(0.01)  # at its own fill rate
    assert group.ask(3.0).consumption_since_last_request.w_r_u == 100.0


def test_a_group_without_a_limit_asks_only_to_report() -> None:
    group = Group(meta(burst=-1), 0.0)
    group.ask(0.0)
    group.grant(grant(0.0, burst=-1), 0.0)
    assert group.is_unlimited
    assert group.bucket.reserve(0.0, 1e6, 0.0) == 0.0
    assert not group.wants_to_ask(1.0)
