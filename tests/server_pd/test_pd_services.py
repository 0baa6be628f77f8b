"""PD's calls over a real connection: answers, header errors, streams, wrong clusters, malformed requests."""

from __future__ import annotations

import asyncio

import pytest

from pytikv.proto import etcdserverpb_pb2 as etcdserverpb
from pytikv.proto import health_pb2 as health
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.wire.errors import RpcError, Status

PD_UNARY = [
    *("GetRegion", "GetPrevRegion", "GetRegionByID", "ScanRegions", "BatchScanRegions", "GetStore", "GetAllStores"),
    *("AllocID", "IsBootstrapped", "GetClusterConfig", "GetGCSafePoint", "UpdateGCSafePoint"),
    *("UpdateServiceGCSafePoint", "GetGCState", "ScatterRegion", "GetOperator"),
]


def request_type(name: str):
    return getattr(pdpb, {"GetPrevRegion": "GetRegion"}.get(name, name) + "Request")


async def split_at_m(calls) -> None:
    first = calls.server.pd.regions.search(b"")
    right = metapb.Region.FromString(first.meta.SerializeToString())
    right.start_key, right.region_epoch.version = b"m", 2
    left = metapb.Region.FromString(right.SerializeToString())
    left.id, left.start_key, left.end_key = 1000, b"", b"m"
    for region in (left, right):
        calls.server.pd.region_heartbeat(region, region.peers[0])


def test_members_and_info(with_server):
    async def body(calls):
        members = await calls.call("/pdpb.PD/GetMembers", pdpb.GetMembersRequest(), pdpb.GetMembersResponse)
        assert members.header.cluster_id == calls.server.pd.cluster_id != 0
        assert members.leader == members.etcd_leader == members.members[0]
        assert list(members.leader.client_urls) == [f"http://127.0.0.1:{calls.server.pd_port}"]
        data = await calls.channel.unary("/pdpb.PD/GetClusterInfo", b"", deadline=calls.deadline)
        info = pdpb.GetClusterInfoResponse.FromString(data)
        assert list(info.serviceModes) == [pdpb.PD_SVC_MODE]
        assert not info.tso_urls
        assert (await calls.pd("IsBootstrapped", pdpb.IsBootstrappedRequest())).bootstrapped
        config = await calls.pd("GetClusterConfig", pdpb.GetClusterConfigRequest())
        assert config.cluster.id == calls.server.pd.cluster_id

    with_server(body)


def test_regions(with_server):
    async def body(calls):
        await split_at_m(calls)
        found = await calls.pd("GetRegion", pdpb.GetRegionRequest(region_key=b"\xff" * 5))
        assert found.region.start_key == b"m"
        assert found.region.end_key == b""
        assert found.leader == found.region.peers[0]
        found = await calls.pd("GetPrevRegion", pdpb.GetRegionRequest(region_key=b"x"))
        assert found.region.id == 1000
        for name, request in (
            ("GetPrevRegion", pdpb.GetRegionRequest(region_key=b"a")),
            ("GetRegionByID", pdpb.GetRegionByIDRequest(region_id=987654321)),
            ("GetRegionByID", pdpb.GetRegionByIDRequest()),
        ):
            empty = await calls.pd(name, request)
            assert not empty.HasField("region")
            assert not empty.header.HasField("error")
        scanned = await calls.pd("ScanRegions", pdpb.ScanRegionsRequest(start_key=b"a", limit=10))
        assert [r.region.id for r in scanned.regions] == [r.id for r in scanned.region_metas]
        assert [r.leader for r in scanned.regions] == list(scanned.leaders)
        assert len(scanned.regions) == 2
        ranges = [pdpb.KeyRange(start_key=b"m", end_key=b"p"), pdpb.KeyRange(start_key=b"a", end_key=b"c")]
        refused = await calls.pd("BatchScanRegions", pdpb.BatchScanRegionsRequest(ranges=ranges, limit=5))
        assert refused.header.error.type == pdpb.UNKNOWN
        found = await calls.pd("BatchScanRegions", pdpb.BatchScanRegionsRequest(ranges=reversed(ranges), limit=5))
        assert len(found.regions) == 2

    with_server(body)


def test_query_region_stream(with_server):
    async def body(calls):
        await split_at_m(calls)
        stream = calls.channel.stream("/pdpb.PD/QueryRegion", deadline=calls.deadline)
        right = calls.server.pd.regions.search(b"z").meta.id
        request = pdpb.QueryRegionRequest(
            header=calls.header(), keys=[b"z", b"a"], prev_keys=[b"a", b"z"], ids=[1000, 5000]
        )
        for _ in range(3):
            stream.send(request.SerializeToString())
        for _ in range(3):
            answer = pdpb.QueryRegionResponse.FromString(await stream.recv(calls.deadline))
            assert list(answer.key_id_map) == [right, 1000]
            assert list(answer.prev_key_id_map) == [0, 1000]
            assert sorted(answer.regions_by_id) == sorted([right, 1000])
            assert answer.regions_by_id[1000].region.end_key == b"m"
        stream.end()
        assert await stream.recv(calls.deadline) is None

    with_server(body)


def test_stores_and_ids(with_server):
    async def body(calls):
        stores = (await calls.pd("GetAllStores", pdpb.GetAllStoresRequest())).stores
        assert [store.address for store in stores] == [f"127.0.0.1:{calls.server.port}"]
        assert stores[0].status_address == f"127.0.0.1:{calls.server.status_port}"
        one = await calls.pd("GetStore", pdpb.GetStoreRequest(store_id=stores[0].id))
        assert one.store == stores[0]
        for store_id in (0, 987654):
            none = await calls.pd("GetStore", pdpb.GetStoreRequest(store_id=store_id))
            assert none.header.error.type == pdpb.UNKNOWN
            assert none.header.error.message == f"invalid store ID {store_id}, not found"
        first = await calls.pd("AllocID", pdpb.AllocIDRequest())
        block = await calls.pd("AllocID", pdpb.AllocIDRequest(count=5))
        assert (first.count, block.count, block.id) == (0, 5, first.id + 5)
        refused = await calls.pd("AllocID", pdpb.AllocIDRequest(count=(1 << 32) - 1))
        assert refused.header.error.type == pdpb.INVALID_VALUE

    with_server(body)


def test_scatter_and_operator(with_server):
    async def body(calls):
        region_id = calls.server.pd.regions.search(b"").meta.id
        done = await calls.pd("ScatterRegion", pdpb.ScatterRegionRequest(region_id=region_id))
        assert done.finished_percentage == 100
        assert (await calls.pd("ScatterRegion", pdpb.ScatterRegionRequest(regions_id=[region_id]))).finished_percentage
        operator = await calls.pd("GetOperator", pdpb.GetOperatorRequest(region_id=region_id))
        assert (operator.desc, operator.status) == (b"scatter-region", pdpb.SUCCESS)
        for name, request in (
            ("ScatterRegion", pdpb.ScatterRegionRequest(region_id=987654321)),
            ("GetOperator", pdpb.GetOperatorRequest(region_id=987654321)),
        ):
            assert (await calls.pd(name, request)).header.error.type == pdpb.REGION_NOT_FOUND

    with_server(body)


def test_safe_points(with_server):
    async def body(calls):
        async def service(name, ttl, point):
            request = pdpb.UpdateServiceGCSafePointRequest(service_id=name, TTL=ttl, safe_point=point)
            return await calls.pd("UpdateServiceGCSafePoint", request)

        async def update(point):
            return await calls.pd("UpdateGCSafePoint", pdpb.UpdateGCSafePointRequest(safe_point=point))

        assert (await service(b"gc_worker", (1 << 63) - 1, 7)).min_safe_point == 7
        lowest = await service(b"br", 100, 9)
        assert (lowest.service_id, lowest.min_safe_point) == (b"gc_worker", 7)
        assert (await update(5)).new_safe_point == 5
        assert (await update(3)).new_safe_point == 5
        assert (await calls.pd("GetGCSafePoint", pdpb.GetGCSafePointRequest())).safe_point == 5
        with pytest.raises(RpcError) as refused:
            await update(8)
        assert refused.value.status == Status.UNKNOWN
        assert "ErrGCSafePointExceedsTxnSafePoint" in refused.value.details
        request = pdpb.GetGCStateRequest(include_global_gc_barriers=True)
        state = await calls.pd("GetGCState", request)
        assert (state.gc_state.txn_safe_point, state.gc_state.gc_safe_point) == (7, 5)
        assert [b.barrier_id for b in state.gc_state.gc_barriers] == ["br"]
        assert state.HasField("global_gc_barriers")

    with_server(body)


def test_gc_states_and_barriers(with_server):
    async def body(calls):
        barrier = await calls.pd(
            "SetGCBarrier", pdpb.SetGCBarrierRequest(barrier_id="br", barrier_ts=9, ttl_seconds=60)
        )
        assert (barrier.new_barrier_info.barrier_id, barrier.new_barrier_info.barrier_ts) == ("br", 9)
        assert 58 <= barrier.new_barrier_info.ttl_seconds <= 60
        moved = await calls.pd("AdvanceTxnSafePoint", pdpb.AdvanceTxnSafePointRequest(target=12))
        assert (moved.old_txn_safe_point, moved.new_txn_safe_point) == (0, 9)
        assert "br" in moved.blocker_description
        moved = await calls.pd("AdvanceGCSafePoint", pdpb.AdvanceGCSafePointRequest(target=7))
        assert (moved.old_gc_safe_point, moved.new_gc_safe_point) == (0, 7)
        assert (await calls.pd("GetGCSafePoint", pdpb.GetGCSafePointRequest())).safe_point == 7
        deleted = await calls.pd("DeleteGCBarrier", pdpb.DeleteGCBarrierRequest(barrier_id="br"))
        assert deleted.deleted_barrier_info.barrier_ts == 9
        again = await calls.pd("DeleteGCBarrier", pdpb.DeleteGCBarrierRequest(barrier_id="br"))
        assert not again.HasField("deleted_barrier_info")
        for name, request, text in (
            ("AdvanceTxnSafePoint", pdpb.AdvanceTxnSafePointRequest(target=8), "ErrDecreasingTxnSafePoint"),
            ("AdvanceGCSafePoint", pdpb.AdvanceGCSafePointRequest(target=10), "ErrGCSafePointExceedsTxnSafePoint"),
            ("SetGCBarrier", pdpb.SetGCBarrierRequest(barrier_id="b", barrier_ts=8, ttl_seconds=1), "Behind"),
            (
                "AdvanceTxnSafePoint",
                pdpb.AdvanceTxnSafePointRequest(target=99, keyspace_scope=pdpb.KeyspaceScope(keyspace_id=1)),
                "ErrGCOnInvalidKeyspace",
            ),
        ):
            error = (await calls.pd(name, request)).header.error
            assert error.type == pdpb.UNKNOWN
            assert text in error.message

    with_server(body)


def test_keyspaces(with_server):
    async def body(calls):
        async def load(name):
            path, request = "/keyspacepb.Keyspace/LoadKeyspace", keyspacepb.LoadKeyspaceRequest(name=name)
            return await calls.call(path, request, keyspacepb.LoadKeyspaceResponse)

        default = await load("DEFAULT")
        assert (default.keyspace.id, default.keyspace.state) == (0, keyspacepb.ENABLED)
        assert (await load("tenant")).keyspace.id == 1
        assert (await load("no-such")).header.error.type == pdpb.ENTRY_NOT_FOUND
        path, request = "/keyspacepb.Keyspace/LoadKeyspaceByID", keyspacepb.LoadKeyspaceByIDRequest(id=1)
        assert (await calls.call(path, request, keyspacepb.LoadKeyspaceResponse)).keyspace.name == "tenant"

    with_server(body, keyspaces=("tenant",))


def test_health_and_etcd(with_server):
    async def body(calls):
        check = "/grpc.health.v1.Health/Check"
        data = await calls.channel.unary(check, b"", deadline=calls.deadline)
        assert health.HealthCheckResponse.FromString(data).status == health.HealthCheckResponse.SERVING
        other = health.HealthCheckRequest(service="x").SerializeToString()
        with pytest.raises(RpcError) as unknown:
            await calls.channel.unary(check, other, deadline=calls.deadline)
        assert unknown.value.status == Status.NOT_FOUND
        watch = calls.channel.stream("/grpc.health.v1.Health/Watch", deadline=calls.deadline)
        watch.send(b"")
        watch.end()
        data = await watch.recv(calls.deadline)
        assert health.HealthCheckResponse.FromString(data).status == health.HealthCheckResponse.SERVING
        with pytest.raises(RpcError, match="deadline"):
            await watch.recv(calls.rt.now() + 0.05)
        watch.cancel()
        data = await calls.channel.unary("/etcdserverpb.KV/Range", b"", deadline=calls.deadline)
        found = etcdserverpb.RangeResponse.FromString(data)
        assert not found.kvs
        assert found.header.cluster_id == calls.server.pd.cluster_id
        data = await calls.channel.unary("/etcdserverpb.Cluster/MemberList", b"", deadline=calls.deadline)
        assert list(etcdserverpb.MemberListResponse.FromString(data).members[0].clientURLs)

    with_server(body)


@pytest.mark.parametrize("name", PD_UNARY)
def test_wrong_cluster_and_garbage(with_server, name):
    async def body(calls):
        need = calls.server.pd.cluster_id
        for wrong in (0, need + 1):
            request = request_type(name)(header=pdpb.RequestHeader(cluster_id=wrong))
            with pytest.raises(RpcError) as refused:
                await calls.channel.unary(f"/pdpb.PD/{name}", request.SerializeToString(), deadline=calls.deadline)
            assert refused.value.status == Status.FAILED_PRECONDITION
            assert refused.value.details == f"mismatch cluster id, need {need} but got {wrong}"
        with pytest.raises(RpcError) as refused:
            await calls.channel.unary(f"/pdpb.PD/{name}", b"\xff\xff\xff", deadline=calls.deadline)
        assert refused.value.status == Status.INTERNAL

    with_server(body)


def test_unknown_methods(with_server):
    async def body(calls):
        for path in (
            "/pdpb.PD/SplitRegions",
            "/pdpb.PD/Nothing",
            "/meta_storagepb.MetaStorage/Get",
        ):
            with pytest.raises(RpcError) as refused:
                await calls.channel.unary(path, b"", deadline=calls.deadline)
            assert refused.value.status == Status.UNIMPLEMENTED

    with_server(body)


async def take(calls, stream, count=1) -> tuple[int, int]:
    stream.send(pdpb.TsoRequest(header=calls.header(), count=count).SerializeToString())
    answer = pdpb.TsoResponse.FromString(await stream.recv(calls.deadline))
    assert answer.count == count
    assert answer.header.cluster_id == calls.server.pd.cluster_id
    return answer.timestamp.physical, answer.timestamp.logical


def test_tso_one_by_one_and_pipelined(with_server):
    async def body(calls):
        stream = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
        last = -1
        for count in (1, 1, 10, 1, 1000, 1):
            physical, logical = await take(calls, stream, count)
            assert abs(physical - calls.rt.time() * 1000) < 10_000
            assert (physical << 18) + logical - count >= last
            last = (physical << 18) + logical
        counts = list(range(1, 500))
        for count in counts:
            stream.send(pdpb.TsoRequest(header=calls.header(), count=count).SerializeToString())
        stream.end()
        for count in counts:
            answer = pdpb.TsoResponse.FromString(await stream.recv(calls.deadline))
            assert answer.count == count
            ts = (answer.timestamp.physical << 18) + answer.timestamp.logical
            assert ts - count >= last
            last = ts
        assert await stream.recv(calls.deadline) is None

    with_server(body)


def test_tso_over_many_streams(with_server):
    async def body(calls):
        async def worker():
            stream = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
            taken = [await take(calls, stream) for _ in range(50)]
            assert taken == sorted(taken)
            stream.end()
            assert await stream.recv(calls.deadline) is None
            return taken

        results = await asyncio.gather(*(worker() for _ in range(20)))
        together = [ts for taken in results for ts in taken]
        assert len(set(together)) == len(together) == 1000

    with_server(body)


@pytest.mark.parametrize("count", [0, 1 << 18, (1 << 32) - 1])
def test_tso_counts_that_are_not_served(with_server, count):
    async def body(calls):
        stream = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
        stream.send(pdpb.TsoRequest(header=calls.header(), count=count).SerializeToString())
        with pytest.raises(RpcError) as refused:
            await stream.recv(calls.deadline)
        assert refused.value.status == Status.UNKNOWN
        assert "tso count" in refused.value.details

    with_server(body)


def test_tso_wrong_cluster_and_garbage(with_server):
    async def body(calls):
        for message, status in (
            (pdpb.TsoRequest(header=pdpb.RequestHeader(cluster_id=1), count=1).SerializeToString(), 9),
            (b"\xff", 13),
        ):
            stream = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
            stream.send(message)
            with pytest.raises(RpcError) as refused:
                await stream.recv(calls.deadline)
            assert refused.value.status == status
        fresh = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
        assert (await take(calls, fresh))[0] > 0
        fresh.cancel()

    with_server(body)


def test_tso_fails_its_callers_when_the_disk_does(with_server):
    async def body(calls):
        oracle = calls.server.pd.oracle

        def refuse():
            raise OSError("disk full")

        oracle.save_bound = refuse
        calls.server.pd.oracle._time = lambda: calls.rt.time() + 3600
        stream = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
        stream.send(pdpb.TsoRequest(header=calls.header(), count=1).SerializeToString())
        with pytest.raises(RpcError, match="disk full"):
            await stream.recv(calls.deadline)
        del oracle.save_bound
        again = calls.channel.stream("/pdpb.PD/Tso", deadline=None)
        await take(calls, again)

    with_server(body)
