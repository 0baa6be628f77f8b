"""What PD tells about itself: its members, and the few answers of etcd that Go clients of TiKV ask PD's port for.

One member, which is its own leader. etcd's Range answers empty: client-go reads the GC safe point there, takes an empty
answer for none, and refuses to read once its last success is about 100 s old. Source: client-go tikv/safepoint.go.
"""

from __future__ import annotations

from pytikv.proto import etcdserverpb_pb2 as etcdserverpb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.pd.server import PdServer
from pytikv.wire.server import CallInfo, Route, Unary

__all__ = ["VERSION", "etcd_routes", "member", "members"]

VERSION = "9.0.0-beta.2"
"""The version of PD and TiKV whose answers are given; clients choose protocol features by it."""


def member(pd: PdServer) -> pdpb.Member:
    """Return this PD as the one member."""
    return pdpb.Member(
        name=pd.config.name,
        member_id=pd.member_id,
        peer_urls=pd.config.peer_urls,
        client_urls=pd.config.client_urls,
        deploy_path="",
        binary_version=f"v{VERSION}",
        git_hash="None",
    )


def members(pd: PdServer) -> pdpb.GetMembersResponse:
    """Answer GetMembers, which needs no cluster id: it is how clients learn it."""
    one = member(pd)
    header = pdpb.ResponseHeader(cluster_id=pd.cluster_id)
    return pdpb.GetMembersResponse(header=header, members=[one], leader=one, etcd_leader=one)


def etcd_routes(pd: PdServer) -> dict[bytes, Route]:
    """Return the routes of etcd's that Go clients call."""

    def header() -> etcdserverpb.ResponseHeader:
        return etcdserverpb.ResponseHeader(cluster_id=pd.cluster_id, member_id=pd.member_id, revision=1, raft_term=1)

    def range_(request: bytes, info: CallInfo) -> bytes:
        etcdserverpb.RangeRequest.FromString(request)
        return etcdserverpb.RangeResponse(header=header()).SerializeToString()

    def member_list(request: bytes, info: CallInfo) -> bytes:
        one = etcdserverpb.Member(
            ID=pd.member_id, name=pd.config.name, peerURLs=pd.config.peer_urls, clientURLs=pd.config.client_urls
        )
        return etcdserverpb.MemberListResponse(header=header(), members=[one]).SerializeToString()

    return {b"/etcdserverpb.KV/Range": Unary(range_), b"/etcdserverpb.Cluster/MemberList": Unary(member_list)}
