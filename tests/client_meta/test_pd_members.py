"""Endpoints, members and leaders: tables, no I/O."""

from __future__ import annotations

import pytest

from pytikv.client.pd_members import Answer, Members, parse_endpoint, read_answer
from pytikv.errors import ConfigError
from pytikv.proto import pdpb_pb2 as pdpb


@pytest.mark.parametrize(
    ("endpoint", "tls", "address"),
    [
        ("h:1", False, "h:1"),
        ("h", False, "h:2379"),
        ("http://h:1", False, "h:1"),
        ("http://h:1/", False, "h:1"),
        (" https://h ", True, "h:2379"),
        ("h:1", True, "h:1"),
        ("[::1]:5", False, "[::1]:5"),
        ("[::1]", False, "[::1]:2379"),
        ("pd-0.pd-peer.tikv.svc:2379", False, "pd-0.pd-peer.tikv.svc:2379"),
    ],
)
def test_endpoints(endpoint, tls, address) -> None:
    assert parse_endpoint(endpoint, uses_tls=tls) == address


@pytest.mark.parametrize(
    ("endpoint", "tls", "match"),
    [
        ("", False, "host:port"),
        ("h:", False, "host:port"),
        ("h:x", False, "host:port"),
        ("h:0", False, "host:port"),
        ("h:70000", False, "host:port"),
        ("::1:5", False, "host:port"),
        ("http://", False, "host:port"),
        ("h:1/path", False, "path"),
        ("user:secret@h:1", False, "credentials"),
        ("unix://x", False, "scheme"),
        ("tikv://h:1", False, "scheme"),
        ("https://h:1", False, "TLS"),
        ("http://h:1", True, "plaintext"),
    ],
)
def test_what_is_no_endpoint(endpoint, tls, match) -> None:
    with pytest.raises(ConfigError, match=match) as refused:
        parse_endpoint(endpoint, uses_tls=tls)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("endpoints", [[], (), "h:1"])
def test_endpoints_are_a_list(endpoints) -> None:
    with pytest.raises(ConfigError):
        Members(endpoints, uses_tls=False)


def response(*urls: str, leader: int = 0, cluster_id: int = 7) -> pdpb.GetMembersResponse:
    members = [pdpb.Member(member_id=i + 1, client_urls=[url]) for i, url in enumerate(urls)]
    answer = pdpb.GetMembersResponse(header=pdpb.ResponseHeader(cluster_id=cluster_id), members=members)
    if leader >= 0:
        answer.leader.CopyFrom(members[leader])
    return answer


def test_reading_an_answer() -> None:
    answer = read_answer("a:1", response("http://a:1", "http://b:1", leader=1), uses_tls=False)
    assert answer == Answer("a:1", 7, ("a:1", "b:1"), "b:1")


def test_no_leader() -> None:
    answer = read_answer("a:1", response("http://a:1", "http://b:1", leader=-1), uses_tls=False)
    assert answer.leader is None
    assert "no leader" in answer.note


def test_there_is_no_falling_back_to_plaintext() -> None:
    answer = read_answer("a:1", response("http://a:1", "https://b:1", leader=0), uses_tls=True)
    assert answer.members == ("b:1",)
    assert answer.leader is None
    assert "plaintext" in answer.note


def test_a_single_member_is_where_it_answered() -> None:
    answer = read_answer("forward:1", response("http://pd-0:2379"), uses_tls=False)
    assert (answer.leader, answer.members) == ("forward:1", ("forward:1",))


def test_an_error_in_the_header() -> None:
    wrong = response("http://a:1", "http://b:1")
    wrong.header.error.type = pdpb.UNKNOWN
    wrong.header.error.message = "starting"
    answer = read_answer("a:1", wrong, uses_tls=False)
    assert answer.leader is None
    assert "starting" in answer.note


def test_the_order_of_asking() -> None:
    members = Members(["seed:1", "http://seed:1", "b:1"], uses_tls=False)
    assert members.candidates() == ["seed:1", "b:1"]
    members.take(Answer("seed:1", 7, ("a:1", "b:1", "c:1"), "c:1"))
    assert members.candidates() == ["c:1", "a:1", "b:1", "seed:1"]
    members.leader_failed("a:1")
    assert members.leader == "c:1"
    members.leader_failed("c:1")
    assert members.leader is None
    assert members.candidates()[0] == "c:1"


def test_another_cluster() -> None:
    members = Members(["a:1"], uses_tls=False)
    members.take(Answer("a:1", 7, ("a:1",), "a:1"))
    with pytest.raises(ConfigError, match="belongs to cluster 8"):
        members.take(Answer("b:1", 8, ("b:1",), "b:1"))
    assert members.leader == "a:1"
    with pytest.raises(ConfigError, match="different clusters"):
        Members.check_same([Answer("a:1", 7, (), None), Answer("b:1", 8, (), None)])
