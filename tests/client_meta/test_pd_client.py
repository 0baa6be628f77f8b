"""PdClient against fake PDs on sockets, on asyncio and in the calling thread: members, failover, look-ups, errors."""

from __future__ import annotations

import socket
import time

import pytest

from pytikv.client.pool import PoolSettings
from pytikv.errors import ConfigError, ConnectionFailed, RegionUnavailable
from pytikv.proto import metapb_pb2 as metapb
from pytikv.types import KeyRange


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_connects_and_learns_the_members(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)
    cluster.leader = 2

    async def main(pd, rt):
        assert pd.cluster_id == 7
        assert pd.header.cluster_id == 7
        assert pd.endpoints[0] == cluster.members[2].address
        assert sorted(pd.endpoints) == sorted(cluster.endpoints)

    with_pd([cluster.endpoints[0]], main)


@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/"])
def test_endpoint_forms(fakes, with_pd, form) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        assert pd.cluster_id == 7

    with_pd([form.format(cluster.endpoints[0])], main)


def test_region_lookups(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    cluster.regions = [fakes.region(1, b"", b"m"), fakes.region(2, b"m", b"", leader=3)]

    async def main(pd, rt):
        until = rt.now() + 5
        region = await pd.get_region(b"x", until)
        assert (region.id, region.start_key, region.end_key, region.leader.store_id) == (2, b"m", b"", 3)
        assert (region.version, region.conf_ver, len(region.peers)) == (1, 1, 3)
        assert (await pd.get_prev_region(b"x", until)).id == 1
        assert await pd.get_prev_region(b"a", until) is None
        assert (await pd.get_region_by_id(1, until)).end_key == b"m"
        assert await pd.get_region_by_id(9, until) is None
        assert [r.id for r in await pd.scan_regions(b"", b"", 10, until)] == [1, 2]
        assert [r.id for r in await pd.scan_regions(b"", b"m", 10, until)] == [1]

    with_pd(cluster.endpoints, main)


@pytest.mark.parametrize("has_query_region", [True, False])
def test_region_lookups_joined_on_a_stream(fakes, with_pd, has_query_region) -> None:
    cluster = fakes.cluster(2)
    cluster.has_query_region = has_query_region
    cluster.regions = [fakes.region(1, b"", b"m"), fakes.region(2, b"m", b"", leader=3)]

    async def main(pd, rt):
        until = rt.now() + 5
        for _ in range(2):
            found = await rt.gather(
                *(pd.get_region(b"%d" % i, until) for i in range(50)),
                pd.get_region(b"x", until),
                pd.get_prev_region(b"x", until),
                pd.get_prev_region(b"a", until),
                pd.get_region_by_id(2, until),
                pd.get_region_by_id(9, until),
            )
            assert [one and one.id for one in found] == [1] * 50 + [2, 1, None, 2, None]
            assert found[50].leader.store_id == 3
        if has_query_region:
            assert cluster.count("GetRegion") == 0
            assert cluster.count("QueryRegion") <= 6
        cluster.leader = 1
        assert (await pd.get_region(b"x", until)).id == 2
        assert (await pd.get_region(b"y", until)).id == 2

    with_pd(cluster.endpoints, main, use_query_region=True)


def test_unknown_region_is_none(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        assert await pd.get_region(b"x", rt.now() + 5) is None

    with_pd(cluster.endpoints, main)


@pytest.mark.parametrize("has_batch_scan", [True, False])
def test_batch_scan_falls_back_for_good(fakes, with_pd, has_batch_scan) -> None:
    cluster = fakes.cluster()
    cluster.has_batch_scan = has_batch_scan
    cluster.regions = [fakes.region(i + 1, b"%d" % i if i else b"", b"%d" % (i + 1)) for i in range(9)]

    async def main(pd, rt):
        ranges = [KeyRange(b"1", b"2"), KeyRange(b"21", b"22"), KeyRange(b"23", b"41"), KeyRange(b"7", b"8")]
        for _ in range(2):
            found = await pd.batch_scan_regions(ranges, 100, rt.now() + 5)
            assert [r.id for r in found] == [2, 3, 4, 5, 8]
        assert cluster.count("BatchScanRegions") == (2 if has_batch_scan else 1)
        assert [r.id for r in await pd.batch_scan_regions(ranges, 3, rt.now() + 5)] == [2, 3, 4]

    with_pd(cluster.endpoints, main)


def test_stores(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    label = metapb.StoreLabel(key="zone", value="z1")
    cluster.stores = {
        1: metapb.Store(id=1, address="h1:1", labels=[label], version="8.5.0", status_address="h1:2"),
        2: metapb.Store(id=2, address="h2:1", state=metapb.Tombstone),
    }

    async def main(pd, rt):
        until = rt.now() + 5
        store = await pd.get_store(1, until)
        assert (store.address, store.status_address, store.labels) == ("h1:1", "h1:2", (("zone", "z1"),))
        assert (await pd.get_store(2, until)).state == 2
        assert await pd.get_store(3, until) is None
        assert [s.id for s in await pd.get_all_stores(until)] == [1]
        assert [s.id for s in await pd.get_all_stores(until, with_tombstones=True)] == [1, 2]

    with_pd(cluster.endpoints, main)


def test_keyspaces(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        assert await pd.load_keyspace("app", rt.now() + 5) == 42
        with pytest.raises(ConfigError, match="'nope'"):
            await pd.load_keyspace("nope", rt.now() + 5)
        with pytest.raises(ConfigError, match="archived"):
            await pd.load_keyspace("gone", rt.now() + 5)

    with_pd(cluster.endpoints, main)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_follows_a_leader_switch(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        for leader in (1, 2, 0, 1):
            cluster.leader = leader
            assert (await pd.get_region(b"k", rt.now() + 5)).id == 1
            assert pd.endpoints[0] == cluster.members[leader].address

    with_pd(cluster.endpoints, main)


def test_survives_the_death_of_the_leader(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        cluster.members[0].stop()
        cluster.leader = 1
        start = rt.now()
        assert (await pd.get_region(b"k", start + 5)).id == 1
        assert rt.now() - start < 1

    with_pd(cluster.endpoints, main)


def test_one_of_three_dead_at_connect(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)
    cluster.leader = 2
    cluster.members[0].stop()

    async def main(pd, rt):
        assert pd.endpoints[0] == cluster.members[2].address

    with_pd(cluster.endpoints, main)


def test_a_leader_that_hangs_is_left(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        cluster.members[0].hangs = True
        cluster.leader = 1
        assert (await pd.get_region(b"k", rt.now() + 5)).id == 1

    with_pd(cluster.endpoints, main, timeout_s=0.2)


def test_an_election_is_waited_out(fakes, with_pd) -> None:
    cluster = fakes.cluster(2)
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        cluster.leader = -1
        asked = len(cluster.calls)

        def elect(member, method) -> None:
            if len(cluster.calls) - asked > 12:
                cluster.leader = 1

        cluster.before_answer = elect
        assert (await pd.get_region(b"k", rt.now() + 10)).id == 1

    with_pd(cluster.endpoints, main)


def test_a_redirect_loop_ends_with_the_deadline(fakes, with_pd) -> None:
    cluster = fakes.cluster(2)

    async def main(pd, rt):
        for member in cluster.members:
            member.fails = {"GetRegion"}
        start = rt.now()
        with pytest.raises(ConnectionFailed, match="PD could not be reached"):
            await pd.get_region(b"k", start + 0.4)
        assert rt.now() - start < 1
        assert cluster.count("GetRegion") < 30

    with_pd(cluster.endpoints, main)


def test_nobody_there(with_pd) -> None:
    ports = [free_port(), free_port()]

    async def main(pd, rt):
        with pytest.raises(ConnectionFailed) as failed:
            await pd.connect(rt.now() + 0.5)
        for port in ports:
            assert f"127.0.0.1:{port}" in str(failed.value)
        assert "refused" in str(failed.value).lower()

    with_pd([f"127.0.0.1:{port}" for port in ports], main, connect=False)


def test_all_die_later(fakes, with_pd) -> None:
    cluster = fakes.cluster(2)

    async def main(pd, rt):
        for member in cluster.members:
            member.stop()
        start = rt.now()
        with pytest.raises(ConnectionFailed) as failed:
            await pd.get_region(b"k", start + 0.5)
        assert rt.now() - start < 1.5
        assert all(address in str(failed.value) for address in cluster.endpoints)

    with_pd(cluster.endpoints, main)


def test_silence_everywhere(fakes, with_pd) -> None:
    cluster = fakes.cluster(2)
    for member in cluster.members:
        member.hangs = True

    async def main(pd, rt):
        start = rt.now()
        with pytest.raises(ConnectionFailed) as failed:
            await pd.connect(start + 0.5)
        assert rt.now() - start < 1.5
        assert all(address in str(failed.value) for address in cluster.endpoints)

    with_pd(cluster.endpoints, main, connect=False)


def test_a_port_that_speaks_http1_fails_at_once(with_pd) -> None:
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:

        async def main(pd, rt):
            start = rt.now()
            with pytest.raises(ConnectionFailed, match="HTTP/1"):
                await pd.connect(start + 3)
            assert rt.now() - start < 1

        with_pd([f"127.0.0.1:{listener.getsockname()[1]}"], main, connect=False)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# --- the cluster's id -------------------------------------------------------------------------------------------------


def test_endpoints_of_two_clusters(fakes, with_pd) -> None:
    one, other = fakes.cluster(), fakes.cluster(cluster_id=8)

    async def main(pd, rt):
        with pytest.raises(ConfigError, match="different clusters"):
            await pd.connect(rt.now() + 5)

    with_pd(one.endpoints + other.endpoints, main, connect=False)


def test_the_wrong_cluster(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        with pytest.raises(ConfigError, match="belongs to cluster 7"):
            await pd.connect(rt.now() + 5)

    with_pd(cluster.endpoints, main, connect=False, cluster_id=9)


def test_a_cluster_made_anew_on_the_same_address(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        cluster.cluster_id = 99
        with pytest.raises(ConfigError, match="cluster"):
            await pd.get_region(b"k", rt.now() + 5)

    with_pd(cluster.endpoints, main)


def test_an_answer_of_another_cluster_is_not_used(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        cluster.answer_cluster_id = 99
        with pytest.raises(ConfigError, match="99"):
            await pd.get_region(b"k", rt.now() + 5)

    with_pd(cluster.endpoints, main)


def test_not_bootstrapped_is_waited_for(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    cluster.bootstrapped = False

    async def main(pd, rt):
        with pytest.raises(RegionUnavailable, match="not bootstrapped"):
            await pd.get_region(b"k", rt.now() + 0.3)
        assert cluster.count("GetRegion") > 1

    with_pd(cluster.endpoints, main)


def test_a_single_member_is_reached_where_it_answered(fakes, with_pd) -> None:
    """Behind a port forward the announced address leads nowhere."""
    cluster = fakes.cluster()
    cluster.regions = [fakes.region(1, b"", b"")]
    cluster.announce = lambda member: "http://pd-0.pd.svc:2379"

    async def main(pd, rt):
        assert (await pd.get_region(b"k", rt.now() + 5)).id == 1

    with_pd(cluster.endpoints, main)


def test_members_with_dead_names_do_no_harm(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)
    cluster.leader = 1
    dead = f"http://127.0.0.1:{free_port()}"
    cluster.announce = lambda member: dead if member.index == 2 else f"http://{member.address}"

    async def main(pd, rt):
        assert pd.endpoints[0] == cluster.members[1].address
        cluster.leader = 0
        assert await pd.get_region(b"k", rt.now() + 5) is None

    with_pd([cluster.endpoints[0]], main)


def test_identical_lookups_are_one_request(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    cluster.regions = [fakes.region(1, b"", b"")]

    async def main(pd, rt):
        found = await rt.gather(*(pd.get_region(b"k", rt.now() + 5) for _ in range(20)))
        assert {region.id for region in found} == {1}
        assert cluster.count("GetRegion") == 1

    with_pd(cluster.endpoints, main)


def test_identical_lookups_across_threads(fakes) -> None:
    import threading

    from pytikv.client.pd import PdClient
    from pytikv.client.pool import ConnectionPool
    from pytikv.rt.caller import CallerRuntime

    cluster = fakes.cluster()
    cluster.regions = [fakes.region(1, b"", b"")]
    cluster.before_answer = lambda member, method: time.sleep(0.02) if method == "GetRegion" else None
    rt = CallerRuntime()
    pool = ConnectionPool(rt, PoolSettings())
    pd = PdClient(rt, pool, cluster.endpoints)
    rt.run(pd.connect(rt.now() + 5))
    gate = threading.Barrier(8)
    found = []

    def look() -> None:
        gate.wait()
        found.append(rt.run(pd.get_region(b"k", rt.now() + 5)).id)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pd.close()
    rt.run(pool.close())
    rt.close()
    assert found == [1] * 8
    assert cluster.count("GetRegion") < 8
