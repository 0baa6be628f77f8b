"""What the bytes of requests and answers tell, also when they are not what they should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.client import rpcs
from pytikv.observe.rpc_facts import ServerTime, is_store_rpc, region_of_step, server_time, server_time_of_step
from pytikv.observe.telemetry import Step
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import pdpb_pb2 as pdpb

WITH_DETAILS = [
    one for one in vars(rpcs).values() if isinstance(one, rpcs.Rpc) and hasattr(one.response(), "exec_details_v2")
]


def rpc(name: str, request: bytes = b"", answer: bytes | None = None) -> Step:
    return Step("rpc", name, 0.0, 1.0, "ok", "s1:20160", (request, answer))


@given(st.integers(1, (1 << 64) - 1), st.binary(max_size=300))
def test_the_region_of_a_request(region: int, key: bytes) -> None:
    request = kvrpcpb.RawGetRequest(context=kvrpcpb.Context(region_id=region, cluster_id=3), key=key)
    assert region_of_step(rpc("RawGet", request.SerializeToString())) == region


def test_pds_requests_have_no_region() -> None:
    request = pdpb.GetRegionRequest(header=pdpb.RequestHeader(cluster_id=77), region_key=b"k").SerializeToString()
    assert region_of_step(rpc("GetRegion", request)) == 0
    assert not is_store_rpc(rpc("GetRegion", request))


@pytest.mark.parametrize("one", WITH_DETAILS, ids=lambda one: one.name)
def test_every_answer_with_details_is_read(one: rpcs.Rpc) -> None:
    answer = one.response()
    detail = answer.exec_details_v2.time_detail_v2
    detail.total_rpc_wall_time_ns, detail.wait_wall_time_ns = 3_000_000, 1_000_000
    detail.process_suspend_wall_time_ns = 500_000
    answer.exec_details_v2.write_detail.pessimistic_lock_wait_nanos = 250_000
    found = server_time(one.name, answer.SerializeToString())
    assert found == pytest.approx(ServerTime(0.003, 0.0015, 0.00025))


def test_an_older_store_says_it_in_milliseconds() -> None:
    answer = kvrpcpb.GetResponse(value=b"v")
    answer.exec_details_v2.time_detail.wait_wall_time_ms = 2
    answer.exec_details_v2.time_detail.process_wall_time_ms = 3
    assert server_time("KvGet", answer.SerializeToString()) == pytest.approx(ServerTime(0.005, 0.002, 0.0))


def test_details_behind_many_pairs_are_found() -> None:
    answer = kvrpcpb.BatchGetResponse(pairs=[kvrpcpb.KvPair(key=b"k%d" % i, value=b"v" * 200) for i in range(1000)])
    answer.exec_details_v2.time_detail_v2.total_rpc_wall_time_ns = 1_000_000
    assert server_time("KvBatchGet", answer.SerializeToString()) == pytest.approx(ServerTime(0.001, 0.0, 0.0))


@pytest.mark.parametrize("answer", [b"", kvrpcpb.GetResponse(value=b"v").SerializeToString()])
def test_a_store_that_says_nothing(answer: bytes) -> None:
    assert server_time("KvGet", answer) is None
    assert server_time("RawGet", answer) is None
    assert server_time("NoSuchRpc", answer) is None


@given(st.binary(max_size=200), st.sampled_from(["KvGet", "RawGet", "KvPrewrite", "Nothing", "GetRegion"]))
def test_strange_bytes_tell_nothing_and_raise_nothing(data: bytes, name: str) -> None:
    assert region_of_step(rpc(name, data)) >= 0
    found = server_time_of_step(rpc(name, data, data))
    assert found is None or found.total >= 0


@given(st.integers(0, 2000))
def test_an_answer_that_is_cut_tells_nothing_or_the_same(at: int) -> None:
    answer = kvrpcpb.GetResponse(value=b"v" * 100)
    answer.exec_details_v2.time_detail_v2.total_rpc_wall_time_ns = 1_000_000
    data = answer.SerializeToString()
    assert server_time("KvGet", data[:at]) in (None, server_time("KvGet", data))


@pytest.mark.parametrize("detail", [None, "text", 5, (b"",), (None, None), (1, 2)])
def test_a_step_without_its_bytes(detail: object) -> None:
    step = Step("rpc", "KvGet", 0.0, 1.0, detail=detail)
    assert region_of_step(step) == 0
    assert server_time_of_step(step) is None
