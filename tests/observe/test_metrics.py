"""Metrics as a scraper reads them: every figure is parsed by prometheus_client and compared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

import pytikv
from pytikv.errors import ConfigError, WrongType
from pytikv.observe import metrics, telemetry
from pytikv.observe.metrics.histogram import FULL
from pytikv.testing.server import ServerProcess

from .scraping import counts, samples

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """A registry with the metrics installed; nothing listens after the test."""
    registry = CollectorRegistry()
    metrics.install(registry)
    yield registry
    metrics.uninstall(registry)
    assert telemetry.sinks() == ()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


def test_three_gets_and_a_failed_put(registry: CollectorRegistry) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        for _ in range(3):
            client.get(b"k")
        with pytest.raises(pytikv.InvalidArgument):
            client.put(b"x" * 70_000, b"v")
    assert counts(registry, "tikv_request_duration_seconds") == {("raw_get", "ok"): 3, ("raw_put", "KeyTooLarge"): 1}
    buckets = samples(registry, "tikv_request_duration_seconds_bucket")
    bounds = [le for le, method, _ in buckets if method == "raw_get"]
    assert bounds == [
        *("0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5"),
        *("1.0", "2.5", "5.0", "10.0", "+Inf"),
    ]
    assert buckets["+Inf", "raw_get", "ok"] == 3
    assert 0 < samples(registry, "tikv_request_duration_seconds_sum")["raw_get", "ok"] < 1
    assert samples(registry, "tikv_requests_in_flight") == {(): 0}
    assert samples(registry, "pytikv_build_info") == {(pytikv.__version__,): 1}


def test_more_values_than_a_cell_keeps(registry: CollectorRegistry) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        for _ in range(2 * FULL + 7):
            client.get(b"k")
    assert counts(registry, "tikv_request_duration_seconds") == {("raw_get", "ok"): 2 * FULL + 7}


def test_threads_lose_no_count(registry: CollectorRegistry) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:

        def work() -> None:
            for _ in range(2000):
                client.get(b"k")

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            generate_latest(registry)
        for worker in workers:
            worker.join()
    assert counts(registry, "tikv_request_duration_seconds") == {("raw_get", "ok"): 8000}


def test_values_fall_into_their_buckets() -> None:
    from pytikv.observe.metrics.histogram import Cell

    cell = Cell((0.1, 0.5, 1.0))
    for value in (0.05, 0.1, 0.100001, 0.5, 0.7, 1.0, 1.5, 30.0):
        cell.append(value)
    found, total = cell.buckets()
    assert [(bound, count) for bound, count, _ in found] == [("0.1", 2), ("0.5", 4), ("1.0", 6), ("+Inf", 8)]
    assert total == pytest.approx(33.950001)
    cell.append(0.2)
    assert [count for _, count, _ in cell.buckets()[0]] == [2, 5, 7, 9]


def test_requests_to_stores(registry: CollectorRegistry, server: ServerProcess) -> None:
    with server.client() as client:
        client.put(b"a", b"1")
        for _ in range(3):
            assert client.get(b"a") == b"1"
        client.batch_get([b"a", b"b", b"c"])
        ((store,),) = samples(registry, "tikv_store_avoided")
        assert samples(registry, "tikv_pool_connections")["idle", store] >= 1
        assert samples(registry, "tikv_pool_connections_max") == {(): 256}
        assert samples(registry, "tikv_region_cache_regions") == {(): 1}
        assert samples(registry, "tikv_store_avoided") == {(store,): 0}
    rpcs = counts(registry, "tikv_rpc_duration_seconds")
    assert {(rpc, status): count for (rpc, status, at), count in rpcs.items() if at == store} == {
        ("RawPut", "ok"): 1,
        ("RawGet", "ok"): 3,
        ("RawBatchGet", "ok"): 1,
    }
    assert samples(registry, "tikv_region_cache_lookups_total") == {("hit",): 4, ("miss",): 1}
    assert samples(registry, "tikv_region_cache_reloads_total") == {(): 0}
    assert samples(registry, "tikv_batch_commands_size_bucket")["1.0",] == 5  # a blocking client sends one by one
    assert samples(registry, "tikv_batch_keys_sum") == {("raw_batch_get",): 3}


def test_a_closed_client_has_no_gauges(registry: CollectorRegistry, server: ServerProcess) -> None:
    with server.client() as client:
        client.get(b"a")
        assert samples(registry, "tikv_pool_connections") != {}
    for name in (
        "tikv_pool_connections",
        "tikv_pool_connections_max",
        "tikv_region_cache_regions",
        "tikv_pool_waiting",
    ):
        assert samples(registry, name) == {}
    with server.client() as one, server.client() as other:  # and two are told together
        one.get(b"a")
        other.get(b"a")
        assert samples(registry, "tikv_pool_connections_max") == {(): 512}
        assert samples(registry, "tikv_region_cache_regions") == {(): 2}
    assert counts(registry, "tikv_request_duration_seconds") == {("raw_get", "ok"): 3}


def test_transactions(registry: CollectorRegistry, server: ServerProcess) -> None:
    with pytikv.TransactionClient.connect(server.url) as db:
        with db.begin() as txn:
            txn.put(b"ta", b"1")
        with db.begin(pessimistic=True) as txn:
            txn.put(b"ta", b"2")
            txn.rollback()
        first, second = db.begin(), db.begin()
        for one in (first, second):
            one.put(b"ta", b"3")
        first.commit()
        with pytest.raises(pytikv.WriteConflict):
            second.commit()
    assert samples(registry, "tikv_txn_total") == {
        ("optimistic", "committed"): 2,
        ("pessimistic", "rolled_back"): 1,
        ("optimistic", "conflict"): 1,
    }
    assert samples(registry, "tikv_txn_conflicts_total") == {("WriteConflict",): 1}
    phases = counts(registry, "tikv_txn_phase_duration_seconds")
    assert phases["prewrite",] == 3
    assert phases["rollback",] >= 1
    assert counts(registry, "tikv_tso_wait_seconds")[()] >= 4
    assert counts(registry, "tikv_tso_batch_size") == samples(registry, "tikv_tso_batch_size_sum")
    calls = counts(registry, "tikv_request_duration_seconds")
    assert calls["txn_begin", "ok"] == 4
    assert calls["txn_commit", "ok"] == 2
    assert calls["txn_commit", "WriteConflict"] == 1


def test_a_lock_in_the_way_of_a_read(registry: CollectorRegistry) -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db, db.begin(pessimistic=True) as holder:
        holder.put(b"k", b"v")
        with db.begin(pessimistic=True) as other, pytest.raises(pytikv.KeyLocked):
            other.get_for_update(b"k", wait=0)
    assert counts(registry, "tikv_lock_wait_seconds") == {("pessimistic",): 1}
    assert samples(registry, "tikv_txn_conflicts_total") == {("KeyLocked",): 1}


def test_asynchronous_calls_under_way(registry: CollectorRegistry, server: ServerProcess) -> None:
    async def use() -> None:
        async with await pytikv.AsyncRawClient.connect(server.url) as client:
            await client.get(b"k")
            tasks = [asyncio.ensure_future(client.get(b"k")) for _ in range(5)]
            await asyncio.sleep(0)
            assert samples(registry, "tikv_requests_in_flight") == {(): 5}
            await asyncio.gather(*tasks)
            assert samples(registry, "tikv_requests_in_flight") == {(): 0}

    asyncio.run(use())
    assert counts(registry, "tikv_request_duration_seconds") == {("raw_get", "ok"): 6}
    assert counts(registry, "tikv_batch_commands_size") == {(): 2}
    assert samples(registry, "tikv_batch_commands_size_sum") == {(): 6}


def test_exemplars_name_the_trace(registry: CollectorRegistry) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        client.get(b"k")
        with pytikv.context(trace_id=TRACE):
            client.get(b"k")
    families = parse_openmetrics(generate_openmetrics(registry).decode())
    family = next(family for family in families if family.name == "tikv_request_duration_seconds")
    exemplars = [sample.exemplar for sample in family.samples if sample.exemplar is not None]
    assert [exemplar.labels for exemplar in exemplars] == [{"trace_id": TRACE}]
    assert 0 < exemplars[0].value < 10


# --- installing -------------------------------------------------------------------------------------------------------


def test_a_registry_has_its_metrics_once(registry: CollectorRegistry) -> None:
    again = metrics.install(registry)
    assert metrics.install(registry, buckets=metrics.DEFAULT_BUCKETS) is again
    assert telemetry.sinks() == (again,)
    with pytest.raises(ConfigError, match="set them once"):
        metrics.install(registry, buckets=(1, 2))


def test_own_buckets() -> None:
    registry = CollectorRegistry()
    metrics.install(registry, buckets=(0.01, 1))
    try:
        with pytikv.RawClient.connect("embedded://:memory:") as client:
            client.get(b"k")
        assert [le for le, *_ in samples(registry, "tikv_request_duration_seconds_bucket")] == ["0.01", "1.0", "+Inf"]
    finally:
        metrics.uninstall(registry)
    assert generate_latest(registry) == b""


@pytest.mark.parametrize("buckets", [(), (0.1, 0.05), (0.1, 0.1), (0, 1), (-1, 1), ("1",), "0.1", 5, (float("nan"),)])
def test_buckets_that_are_none(buckets: object) -> None:
    with pytest.raises(ConfigError, match="buckets"):
        metrics.install(CollectorRegistry(), buckets=buckets)  # type: ignore[arg-type]
    assert telemetry.sinks() == ()


def test_names_that_are_taken() -> None:
    registry = CollectorRegistry()
    Counter("tikv_retries", "Somebody else's.", registry=registry)
    with pytest.raises(ConfigError, match="somebody else"):
        metrics.install(registry)
    with pytest.raises(WrongType, match="CollectorRegistry"):
        metrics.install("default")  # type: ignore[arg-type]
    assert telemetry.sinks() == ()


def test_two_registries_hear_of_all(registry: CollectorRegistry) -> None:
    second = CollectorRegistry()
    metrics.install(second)
    try:
        with pytikv.RawClient.connect("embedded://:memory:") as client:
            client.get(b"k")
    finally:
        metrics.uninstall(second)
    assert counts(registry, "tikv_request_duration_seconds") == {("raw_get", "ok"): 1}


def test_the_option_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client import REGISTRY

    try:
        pytikv.RawClient.connect("embedded://:memory:").close()
        assert telemetry.sinks() == ()
        with pytikv.RawClient.connect("embedded://:memory:", metrics=True) as client:
            client.get(b"k")
        assert counts(REGISTRY, "tikv_request_duration_seconds")["raw_get", "ok"] == 1
        metrics.uninstall()
        monkeypatch.setenv("PYTIKV_METRICS", "1")
        with pytikv.TransactionClient.connect("embedded://:memory:") as db:
            db.current_timestamp()
        assert counts(REGISTRY, "tikv_request_duration_seconds")["client_current_timestamp", "ok"] == 1
    finally:
        metrics.uninstall()
    assert telemetry.sinks() == ()


def test_every_name_of_the_contract(registry: CollectorRegistry) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        client.get(b"k")
    names = {family.name for family in registry.collect()}
    histograms = "request_duration_seconds rpc_duration_seconds tso_wait_seconds tso_batch_size lock_wait_seconds"
    histograms += " txn_phase_duration_seconds batch_keys batch_commands_size"
    counters = "retries backoff_seconds region_cache_lookups region_cache_reloads txn txn_conflicts hedges rejected"
    gauges = (
        "requests_in_flight store_in_flight region_cache_regions pool_connections pool_connections_max pool_waiting"
    )
    gauges += " breaker_state breaker_transitions concurrency_limit store_queue retry_budget_tokens"
    assert {f"tikv_{name}" for name in f"{histograms} {counters} {gauges}".split()} <= names
    assert "pytikv_build_info" in names
