"""The metrics of a store: what it counted, and what is read from it when somebody asks.

Names, labels and units are TiKV's, for what this store truly has: a value that TiKV would give for a part that does not
exist here (Raft, the coprocessor, snapshots to other stores) is left out rather than made up. Labels with one value
(`db="kv"`) are kept, because dashboards select by them. RocksDB's own numbers come with a store on disk only.

Reading the engine takes some hundred microseconds and no lock of the hot path. Sources: TiKV src/server/metrics.rs,
src/storage/metrics.rs, components/engine_rocks/src/rocks_metrics.rs, components/pd_client/src/metrics.rs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from pytikv.errors import StorageError
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_RAFT, CF_WRITE
from pytikv.server.metrics.model import NO_LABELS, Family, Histogram, Labels, counter, gauge, histogram
from pytikv.server.metrics.store import StoreMetrics, command_of
from pytikv.server.store import Store

__all__ = ["store_families", "store_stats"]

_DATA_CFS = (CF_DEFAULT, CF_LOCK, CF_WRITE, CF_RAFT)


def store_stats(store: Store) -> pdpb.StoreStats:
    """Return what a store reports to PD: its size, the disk's, and how many regions it has. Raises StorageError."""
    engine, capacity, available = store.engine, 0, 0
    if engine.path:
        disk = os.statvfs(engine.path)
        capacity, available = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    return pdpb.StoreStats(
        store_id=store.id,
        capacity=capacity,
        available=available,
        used_size=sum(engine.approximate_size(cf) for cf in (CF_DEFAULT, CF_LOCK, CF_WRITE)),
        region_count=len(store.regions),
        slow_score=1,
    )


def store_families(
    store: Store, metrics: StoreMetrics, version: str, started_at_s: float
) -> Callable[[], Iterator[Family]]:
    """Return what makes the families of a store's page."""

    def families() -> Iterator[Family]:
        yield gauge(
            "tikv_server_info",
            "When the server started (Unix seconds), by its version.",
            [({"version": version, "hash": "None"}, started_at_s)],
        )
        yield gauge("tikv_server_cpu_cores_quota", "Processors that the server may use.", _plain(_cpus()))
        yield from _messages(metrics)
        yield from _storage(metrics)
        yield from _scheduler(store, metrics)
        yield from _locks(store, metrics)
        yield from _background(metrics, store)
        try:
            yield from _sizes(store)
        except StorageError:
            return  # the engine is being closed
        yield from _rocksdb(store)

    return families


def _plain(value: float) -> list[tuple[Labels, float]]:
    return [(NO_LABELS, value)]


def _by(label: str, values: Mapping[str, float]) -> list[tuple[Labels, float]]:
    return [({label: name}, value) for name, value in sorted(values.items())]


def _histograms(label: str, values: Mapping[str, Histogram]) -> list[tuple[Labels, Histogram]]:
    return [({label: name}, values[name]) for name in sorted(values) if values[name].count]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _messages(metrics: StoreMetrics) -> Iterator[Family]:
    times = _histograms("type", metrics.messages)
    yield histogram(
        "tikv_grpc_msg_duration_seconds",
        "Time from a message's arrival until its answer left.",
        [({**labels, "priority": "unknown"}, each) for labels, each in times],
    )
    yield counter("tikv_grpc_msg_fail_total", "Calls that ended without an answer.", _by("type", metrics.failures))
    yield histogram(
        "tikv_server_grpc_req_batch_size",
        "Commands of the messages that bring several.",
        [(NO_LABELS, metrics.requests_in_batch)],
    )
    yield histogram(
        "tikv_server_grpc_resp_batch_size",
        "Answers of the messages that bring several.",
        [(NO_LABELS, metrics.answers_in_batch)],
    )
    yield histogram(
        "tikv_status_server_request_duration_seconds",
        "Time to answer a request of the status port.",
        [({"method": m, "path": p}, each) for (m, p), each in sorted(metrics.status_requests.items())],
    )


def _storage(metrics: StoreMetrics) -> Iterator[Family]:
    commands: dict[str, float] = {}
    for kind, each in list(metrics.messages.items()):
        if each.count and kind != "invalid":
            commands[command_of(kind)] = each.count
    yield counter("tikv_storage_command_total", "Commands carried out.", _by("type", commands))
    writes, failed = metrics.writes.count, metrics.failed_writes
    yield counter(
        "tikv_storage_engine_async_request_total",
        "Changes handed to the engine.",
        [({"type": "write", "status": status}, value) for status, value in _statuses(writes, failed)],
    )
    yield histogram(
        "tikv_storage_engine_async_request_duration_seconds",
        "Time from a change until it was durable.",
        [({"type": "write"}, metrics.writes)],
    )
    yield counter(
        "tikv_storage_mvcc_conflict_counter", "Conflicts of transactions.", _by("type", dict(metrics.conflicts))
    )


def _statuses(succeeded: int, failed: int) -> list[tuple[str, float]]:
    return [("all", succeeded + failed), ("success", succeeded), ("err_other", failed)]


def _scheduler(store: Store, metrics: StoreMetrics) -> Iterator[Family]:
    yield histogram(
        "tikv_scheduler_command_duration_seconds",
        "Time to carry a command out.",
        _histograms("type", metrics.commands),
    )
    yield histogram(
        "tikv_scheduler_latch_wait_duration_seconds",
        "Time that a command waited for its latches.",
        _histograms("type", metrics.latch_waits),
    )
    yield histogram(
        "tikv_scheduler_kv_command_key_write",
        "Keys of a command that changes data.",
        _histograms("type", metrics.keys_written),
    )
    late = [({"type": name, "stage": "error"}, value) for name, value in sorted(metrics.too_late.items())]
    done = [({"type": name, "stage": "process"}, each.count) for name, each in sorted(metrics.commands.items())]
    yield counter("tikv_scheduler_stage_total", "Commands by what became of them.", [*done, *late])
    yield gauge("tikv_scheduler_contex_total", "Commands under way: off the loop, or waiting.", _plain(metrics.pending))
    statuses = store.txn.runner.statuses
    yield gauge(
        "tikv_scheduler_txn_status_cache_size", "Transactions whose end is known.", [({"type": "used"}, len(statuses))]
    )
    concurrency = store.txn.concurrency
    yield gauge("tikv_concurrency_manager_max_ts", "The largest timestamp read at.", _plain(concurrency.max_ts))
    yield gauge("tikv_concurrency_manager_max_ts_limit", "What max_ts may rise to.", _plain(concurrency.limit))


def _locks(store: Store, metrics: StoreMetrics) -> Iterator[Family]:
    queues = store.txn.runner.queues
    waiters, keys = len(queues), queues.keys
    yield gauge(
        "tikv_lock_wait_queue_entries_gauge_vec",
        "Requests that wait for locks, and the keys they wait for.",
        _by("type", {"waiters": waiters, "keys": keys}),
    )
    yield histogram(
        "tikv_lock_manager_waiter_lifetime_duration", "How long requests waited.", [(NO_LABELS, metrics.waits)]
    )
    yield counter(
        "tikv_lock_manager_task_counter",
        "Waits that have ended.",
        _by("type", {"wait_for": metrics.waits.count + waiters}),
    )
    yield counter("tikv_lock_manager_error_counter", "Waits refused.", _by("type", {"deadlock": metrics.deadlocks}))


def _background(metrics: StoreMetrics, store: Store) -> Iterator[Family]:
    steps = metrics.gc_steps
    yield counter("tikv_gcworker_gc_tasks_vec", "Steps of garbage collection.", _by("task", {"gc": steps.count}))
    yield counter(
        "tikv_gcworker_gc_task_fail_vec",
        "Steps of garbage collection that failed.",
        _by("task", {"gc": metrics.failed_gc_steps}),
    )
    yield histogram("tikv_gcworker_gc_task_duration_vec", "Time of such a step.", [({"task": "gc"}, steps)])
    yield gauge(
        "tikv_gcworker_autogc_safe_point", "PD's GC safe point as the store knows it.", _plain(store.pd.gc_safe_point)
    )
    working = metrics.is_collecting
    yield gauge(
        "tikv_gcworker_autogc_status",
        "What garbage collection does.",
        _by("state", {"working": int(working), "idle": int(not working)}),
    )
    yield counter(
        "tikv_worker_handled_task_total", "Steps of the background workers.", _by("name", dict(metrics.worker_tasks))
    )
    yield counter(
        "tikv_raftstore_admin_cmd_total",
        "Regions split.",
        [
            ({"type": "batch-split", "status": "all"}, store.regions.splits_tried),
            ({"type": "batch-split", "status": "success"}, store.regions.splits_done),
        ],
    )
    yield counter(
        "tikv_pd_heartbeat_message_total",
        "Reports of the store to PD.",
        _by("type", {"send": metrics.heartbeats}),
    )


def _sizes(store: Store) -> Iterator[Family]:
    stats, engine = store_stats(store), store.engine
    yield gauge(
        "tikv_store_size_bytes",
        "Size of the disk and of the data.",
        _by("type", {"capacity": stats.capacity, "available": stats.available, "used": stats.used_size}),
    )
    regions = len(store.regions)
    yield gauge(
        "tikv_raftstore_region_count", "Regions of the store.", _by("type", {"region": regions, "leader": regions})
    )
    yield gauge(
        "tikv_engine_size_bytes",
        "Size of the column families.",
        [({"db": "kv", "type": cf}, engine.approximate_size(cf)) for cf in _DATA_CFS],
    )
    yield gauge(
        "tikv_engine_estimate_num_keys",
        "Keys of the column families.",
        [({"db": "kv", "cf": cf}, engine.approximate_keys(cf)) for cf in _DATA_CFS],
    )


_PER_CF = (
    ("tikv_engine_block_cache_size_bytes", "Use of the block cache.", "rocksdb.block-cache-usage"),
    ("tikv_engine_pending_compaction_bytes", "Bytes to be compacted.", "rocksdb.estimate-pending-compaction-bytes"),
    ("tikv_engine_num_immutable_mem_table", "Full mem-tables not on disk yet.", "rocksdb.num-immutable-mem-table"),
)
_PER_DB = (
    ("tikv_engine_num_running_compactions", "Compactions under way.", "rocksdb.num-running-compactions"),
    ("tikv_engine_num_running_flushes", "Flushes of mem-tables under way.", "rocksdb.num-running-flushes"),
    ("tikv_engine_num_snapshots", "Snapshots that are held.", "rocksdb.num-snapshots"),
)
_MEMORY = {"mem-tables-all": "rocksdb.size-all-mem-tables", "mem-tables": "rocksdb.cur-size-all-mem-tables"}
_LEVELS = 7


def _rocksdb(store: Store) -> Iterator[Family]:
    engine = store.engine
    if engine.number(CF_DEFAULT, _PER_DB[0][2]) is None:
        return  # in memory
    for name, help, key in _PER_CF:
        yield gauge(name, help, [({"db": "kv", "cf": cf}, engine.number(cf, key) or 0) for cf in _DATA_CFS])
    for name, help, key in _PER_DB:
        yield gauge(name, help, [({"db": "kv"}, engine.number(CF_DEFAULT, key) or 0)])
    yield gauge(
        "tikv_engine_memory_bytes",
        "Memory of the column families.",
        [
            ({"db": "kv", "cf": cf, "type": kind}, engine.number(cf, key) or 0)
            for cf in _DATA_CFS
            for kind, key in _MEMORY.items()
        ],
    )
    yield gauge(
        "tikv_engine_num_files_at_level",
        "Files of each level.",
        [
            ({"db": "kv", "cf": cf, "level": str(level)}, engine.number(cf, f"rocksdb.num-files-at-level{level}") or 0)
            for cf in _DATA_CFS
            for level in range(_LEVELS)
        ],
    )
    yield counter("tikv_engine_wal_file_synced", "Syncs of the write-ahead log.", [({"db": "kv"}, engine.flushes)])
