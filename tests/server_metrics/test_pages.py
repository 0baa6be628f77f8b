"""The pages of metrics: names and types are the real servers', and each value follows the work that was done."""

from __future__ import annotations

import asyncio
import sys

import pytest
from metric_pages import real_names

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.errors import ConfigError, WriteConflict
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.server.gc_worker import GcWorker
from pytikv.server.metrics.exposition import REMEDY, MetricsPage
from pytikv.server.metrics.model import Histogram, counter, exponential, gauge, histogram
from pytikv.wire.channel import ClientChannel
from pytikv.wire.errors import RpcError

SLOT_RAW_GET = 13

# --- the pure part ----------------------------------------------------------------------------------------------------


def test_a_histogram_counts_bounds_as_below():
    one = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 4.0, 9.0):
        one.observe(value)
    one.observe(3.0, 10)
    assert (one.counts, one.sum, one.count) == ([2, 1, 11, 1], 46.0, 15)


def test_buckets_are_cumulative_and_end_with_all():
    one = Histogram(exponential(1, 2, 3))
    for value in (1, 2, 100):
        one.observe(value)
    family = histogram("h", "help", [({"a": "b"}, one)])
    shown = [(s.suffix, s.labels.get("le"), s.value) for s in family.samples]
    assert shown == [
        ("_bucket", "1", 1),
        ("_bucket", "2", 2),
        ("_bucket", "4", 2),
        ("_bucket", "+Inf", 3),
        ("_sum", None, 103),
        ("_count", None, 3),
    ]


def test_a_page_of_its_own_registry():
    families = [
        counter("a_total", "A.", [({}, 3)]),
        counter("b", "B.", [({"x": 'q"\n'}, 1)]),
        gauge("c", "C.", [({}, 0)]),
    ]
    page = MetricsPage(lambda: families)
    text = page.render()[0].decode()
    assert "# TYPE a_total counter\na_total 3.0\n" in text
    assert '# TYPE b untyped\nb{x="q\\"\\n"} 1.0\n' in text
    assert "# TYPE c gauge\nc 0.0\n" in text
    body, content_type = page.render("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    page = MetricsPage(lambda: [])
    with pytest.raises(ConfigError, match="prometheus_client"):
        page.render()
    answer = page.answer()
    assert (answer.status, answer.body.decode()) == (501, REMEDY + "\n")


# --- the store's page -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
def test_names_and_types_are_real(running, tmp_path, on_disk):
    async def body(server):
        raw = await server.raw()
        await raw.put(b"k", b"v")
        await raw.close()
        for page, which in ((await server.store(), "tikv"), (await server.pd(), "pd")):
            real = real_names(which)
            ours = {n: k for n, k in page.types.items() if not n.startswith(("process_", "pytikv_"))}
            assert len(ours) > 15
            assert set(ours) - set(real) == set()
            for name, kind in ours.items():
                # prometheus_client knows no counter without "_total" at the end
                assert kind == ("untyped" if real[name] == "counter" and not name.endswith("_total") else real[name])
        for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"):
            assert page.value(name) > 0

    running(body, path=str(tmp_path / "store") if on_disk else None)


def test_messages_and_commands(running):
    async def body(server):
        raw = await server.raw()
        await raw.put(b"k", b"v")
        before = await server.store()
        for _ in range(3):
            await raw.get(b"k")
        await asyncio.gather(*(raw.get(b"k") for _ in range(20)))
        assert [pair async for pair in raw.scan(b"", b"z", limit=5)] == [(b"k", b"v")]
        after = await server.store()
        await raw.close()

        def grown(name, **labels):
            return after.value(name, **labels) - before.value(name, **labels)

        assert grown("tikv_grpc_msg_duration_seconds_count", type="raw_get") == 23
        assert grown("tikv_grpc_msg_duration_seconds_count", type="raw_scan") == 1
        assert 0 < grown("tikv_grpc_msg_duration_seconds_sum", type="raw_get") < 10
        assert grown("tikv_grpc_msg_duration_seconds_bucket", type="raw_get", le="+Inf") == 23
        assert grown("tikv_storage_command_total", type="raw_get") == 23
        assert grown("tikv_storage_engine_async_request_total", type="write", status="all") == 0
        assert after.value("tikv_storage_engine_async_request_total", type="write", status="success") == 1
        assert after.value("tikv_storage_engine_async_request_duration_seconds_count", type="write") == 1
        assert after.value("tikv_server_grpc_req_batch_size_sum") >= 20
        assert after.value("tikv_server_grpc_resp_batch_size_sum") >= 20
        assert after.value("tikv_status_server_request_duration_seconds_count", method="GET", path="/metrics") == 1

    running(body)


def test_failures(running):
    async def body(server):
        port, deadline = server.server.port, server.rt.now() + 10
        channel = ClientChannel(server.rt, address=f"127.0.0.1:{port}")
        await channel.connect("127.0.0.1", port, deadline)
        request = kvrpcpb.RawGetRequest(context=kvrpcpb.Context(cluster_id=5), key=b"k").SerializeToString()
        with pytest.raises(RpcError, match="cluster id"):
            await channel.unary("/tikvpb.Tikv/RawGet", request, deadline=deadline)
        with pytest.raises(RpcError, match="cluster id"):
            await channel.batch(SLOT_RAW_GET, request, deadline)
        await channel.close()
        page = await server.store()
        assert page.value("tikv_grpc_msg_fail_total", type="raw_get") == 2
        assert page.value("tikv_grpc_msg_duration_seconds_count", type="raw_get") == 0

    running(body)


def test_transactions(running):
    async def body(server):
        db = await server.txn()
        keys = [b"a%d" % i for i in range(5)]
        async with db.begin() as txn:
            for key in keys:
                await txn.put(key, b"v" * 300)
        first, second = db.begin(), db.begin()
        await first.__aenter__()
        await second.__aenter__()
        await first.put(b"a1", b"1")
        await second.put(b"a1", b"2")
        await first.commit()
        with pytest.raises(WriteConflict):
            await second.commit()
        page = await server.store()
        await db.close()
        assert page.value("tikv_scheduler_command_duration_seconds_count", type="prewrite") == 3
        assert page.value("tikv_scheduler_kv_command_key_write_sum", type="prewrite") == 7
        assert page.value("tikv_scheduler_latch_wait_duration_seconds_count", type="prewrite") == 3
        assert page.value("tikv_scheduler_stage_total", type="prewrite", stage="process") == 3
        assert page.value("tikv_storage_mvcc_conflict_counter", type="prewrite_write_conflict") == 1
        assert page.value("tikv_engine_estimate_num_keys", db="kv", cf="write") == 6
        assert page.value("tikv_engine_estimate_num_keys", db="kv", cf="default") == 5
        assert page.value("tikv_engine_estimate_num_keys", db="kv", cf="lock") == 0
        assert page.value("tikv_engine_size_bytes", db="kv", type="default") > 5 * 300
        assert page.value("tikv_concurrency_manager_max_ts") > 0
        assert page.value("tikv_concurrency_manager_max_ts_limit") > page.value("tikv_concurrency_manager_max_ts")
        assert page.value("tikv_scheduler_txn_status_cache_size", type="used") == 2
        assert page.value("tikv_scheduler_contex_total") == 0

    running(body)


def test_lock_waits(running):
    async def body(server):
        db = await server.txn()
        async with db.begin(pessimistic=True) as txn:
            await txn.lock_keys([b"k"])
            other = db.begin(pessimistic=True)
            await other.__aenter__()
            waiting = asyncio.ensure_future(other.lock_keys([b"k"]))
            during = await server.store()
            while not during.value("tikv_lock_wait_queue_entries_gauge_vec", type="waiters"):
                during = await server.store()
        await waiting
        await other.rollback()
        after = await server.store()
        await db.close()
        assert during.value("tikv_lock_wait_queue_entries_gauge_vec", type="waiters") == 1
        assert during.value("tikv_lock_wait_queue_entries_gauge_vec", type="keys") == 1
        assert during.value("tikv_scheduler_contex_total") == 1
        assert after.value("tikv_lock_wait_queue_entries_gauge_vec", type="waiters") == 0
        assert after.value("tikv_lock_manager_waiter_lifetime_duration_count") >= 1
        assert after.value("tikv_lock_manager_task_counter", type="wait_for") >= 1
        assert 0 < after.value("tikv_lock_manager_waiter_lifetime_duration_sum") < 10

    running(body)


def test_regions_sizes_and_background(running, tmp_path):
    async def body(server):
        raw = await server.raw()
        await raw.put(b"k", b"v" * 1000)
        store, pd = server.server.store, server.server.pd
        store.split(store.regions.entries[0], [b"m"])
        pd.advance_txn_safe_point(1000)
        pd.advance_gc_safe_point(1000)
        await GcWorker(server.rt, store, server.server.metrics).step()
        page = await server.store()
        await raw.close()
        assert page.value("tikv_raftstore_region_count", type="region") == 2
        assert page.value("tikv_raftstore_admin_cmd_total", type="batch-split", status="all") == 1
        assert page.value("tikv_raftstore_admin_cmd_total", type="batch-split", status="success") == 1
        assert page.value("tikv_gcworker_gc_tasks_vec", task="gc") >= 1
        assert page.value("tikv_gcworker_gc_task_duration_vec_count", task="gc") >= 1
        assert page.value("tikv_gcworker_autogc_safe_point") == 1000
        assert page.value("tikv_pd_heartbeat_message_total", type="send") >= 1
        capacity = page.value("tikv_store_size_bytes", type="capacity")
        assert capacity > page.value("tikv_store_size_bytes", type="available") > 0
        assert page.value("tikv_store_size_bytes", type="used") > 1000
        assert page.value("tikv_engine_memory_bytes", cf="default", type="mem-tables") > 1000
        assert page.value("tikv_engine_wal_file_synced", db="kv") == store.engine.flushes > 0
        assert page.value("tikv_engine_num_snapshots", db="kv") == 0
        snapshot = store.engine.snapshot()
        assert (await server.store()).value("tikv_engine_num_snapshots", db="kv") > 0
        snapshot.close()

    running(body, path=str(tmp_path / "store"))


# --- PD's page --------------------------------------------------------------------------------------------------------


def test_pd(running):
    async def body(server):
        db = await server.txn()
        before = await server.pd()
        for _ in range(3):
            await db.current_timestamp()
        pd = server.server.pd
        store = server.server.store
        store.split(store.regions.entries[0], [b"m"])
        pd.put_store(metapb.Store(id=99, address="127.0.0.1:1"))
        page = await server.pd()
        await db.close()
        assert (
            page.value("pd_server_handle_tso_batch_size_sum") - before.value("pd_server_handle_tso_batch_size_sum") == 3
        )
        assert page.value("pd_server_handle_tso_duration_seconds_count") == page.value(
            "pd_server_handle_tso_batch_size_count"
        )
        assert page.value("pd_tso_events", type="save", group="0") == pd.oracle.saves >= 1
        assert abs(page.value("pd_cluster_tso", type="tso") / 1000 - server.rt.time()) < 60
        address = f"127.0.0.1:{server.server.port}"
        ident = str(store.id)
        assert page.value("pd_scheduler_store_status", address=address, store=ident, type="region_count") == 2
        assert page.value("pd_scheduler_store_status", address=address, store=ident, type="leader_count") == 2
        assert page.value("pd_cluster_status", store=ident, type="store_up_count") == 1
        assert page.value("pd_cluster_status", store="99", type="store_up_count") == 0
        assert page.value("pd_cluster_status", store="99", type="store_down_count") == 1
        assert page.value("pd_scheduler_region_heartbeat", store=ident, type="report", status="ok") == 3
        assert page.value("pd_regions_status", type="miss-peer-region-count") == 0
        calls = {"grpc_service": "pdpb.PD", "grpc_method": "GetMembers"}
        handled = page.value("grpc_server_handled_total", **calls, grpc_code="OK")
        assert handled == page.value("grpc_server_started_total", **calls) >= 1
        assert page.value("grpc_server_handling_seconds_count", **calls) == handled
        assert page.value("grpc_server_started_total", grpc_service="pdpb.PD", grpc_method="Tso") >= 1
        assert page.value("pd_server_info", hash="None") == pytest.approx(pd.started_at_s)

    running(body)


def test_resource_groups(running):
    async def body(server):
        groups = server.server.pd.resource_groups
        limits = rmpb.TokenLimitSettings(fill_rate=700, burst_limit=200_000)
        units = rmpb.GroupRequestUnitSettings(r_u=rmpb.TokenBucket(settings=limits))
        groups.add(rmpb.ResourceGroup(name="g", mode=rmpb.RUMode, priority=3, r_u_settings=units))
        groups.request(NULL_KEYSPACE_ID, "g", 40_000, 5.0, 1)
        groups.consume(NULL_KEYSPACE_ID, "g", rmpb.Consumption(r_r_u=7.5, w_r_u=2, kv_read_rpc_count=3, read_bytes=99))
        page = await server.pd()
        of = {"resource_group": "g", "keyspace_name": ""}
        assert page.value("resource_manager_server_group_config", type="priority", **of) == 3
        assert page.value("resource_manager_server_group_config", type="ru_per_sec", **of) == 700
        assert page.value("resource_manager_resource_unit_available_ru", **of) == 60_000  # of the first 100 000
        assert page.value("resource_manager_resource_unit_read_request_unit_sum", **of) == 7.5
        assert page.value("resource_manager_resource_unit_write_request_unit_sum", **of) == 2
        assert page.value("resource_manager_resource_read_byte_sum", **of) == 99
        assert page.value("resource_manager_resource_request_count", type="read", **of) == 3

    running(body)


# --- the status port --------------------------------------------------------------------------------------------------


def test_heads_kinds_and_unknown_paths(running, monkeypatch):
    async def body(server):
        port = server.server.status_port
        status, kind, text = await server.fetch(port, "/metrics", method="HEAD")
        assert (status, text) == (200, "")
        assert kind.startswith("text/plain; version=0.0.4")
        _, kind, text = await server.fetch(port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        assert (await server.fetch(port, "/status", method="HEAD"))[0] == 200
        assert (await server.fetch(port, "/none"))[0] == 404
        assert (await server.fetch(port, "/metrics/x"))[0] == 404
        assert (await server.fetch(port, "/metrics", method="DELETE"))[0] == 405
        page = await server.store()
        name = "tikv_status_server_request_duration_seconds_count"
        assert page.value(name, method="GET", path="unknown") == 2
        assert page.value(name, method="HEAD", path="/status") == 1
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        for port in (server.server.status_port, server.server.pd_port):
            status, _, text = await server.fetch(port, "/metrics")
            assert (status, text) == (501, REMEDY + "\n")
        assert (await server.fetch(server.server.status_port, "/status"))[0] == 200

    running(body)
