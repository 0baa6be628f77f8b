"""The dashboard of the servers: `pytikv serve`, and real TiKV and PD, which name their metrics alike.

Rows: the store's requests, its writes and locks, its data, then PD, and the processes. It shows what both have; TiKV's
own dashboards show the rest of a real cluster. `$job` holds the stores' and PD's jobs together.

Sources: names and labels are TiKV's (src/server/metrics.rs, src/storage/metrics.rs, src/server/lock_manager/metrics.rs,
components/engine_rocks/src/rocks_metrics.rs) and PD's (pkg/tso/metrics.go, server/metrics.go,
pkg/statistics/metrics.go), as a real cluster showed them.
"""

from __future__ import annotations

from typing import Final

from pytikv.monitoring.board import Board, Panel, Query, Row, mean, per_second, quantile, quantiles, value

__all__ = ["SERVER_BOARD"]

_MESSAGES: Final = "tikv_grpc_msg_duration_seconds"

_REQUESTS: Final = Row(
    "Requests to stores",
    (
        Panel(
            "Requests by type",
            "Requests that stores answered in a second.",
            (Query(per_second(f"{_MESSAGES}_count", "type"), "{{type}}"),),
            unit="reqps",
        ),
        Panel(
            "P99 by type",
            "Time of a request inside the store: 99 of 100 were quicker. What clients see on top of it is the network"
            " and waiting on their side.",
            (Query(quantile(0.99, _MESSAGES, "type"), "{{type}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Requests by store",
            "A store that gets far more than the others holds hot regions.",
            (Query(per_second(f"{_MESSAGES}_count", "instance"), "{{instance}}"),),
            unit="reqps",
        ),
        Panel(
            "Failures by type",
            "Requests that ended without an answer.",
            (Query(per_second("tikv_grpc_msg_fail_total", "type"), "{{type}}"),),
            unit="reqps",
        ),
        Panel(
            "Commands by type",
            "Commands that the storage carried out in a second.",
            (Query(per_second("tikv_storage_command_total", "type"), "{{type}}"),),
            unit="ops",
        ),
        Panel(
            "Commands a message",
            "Mean number of commands that came together, and of answers that left together.",
            (
                Query(mean("tikv_server_grpc_req_batch_size"), "commands"),
                Query(mean("tikv_server_grpc_resp_batch_size"), "answers"),
            ),
        ),
    ),
)

_WRITES: Final = Row(
    "Writes and locks",
    (
        Panel(
            "Commands, P99",
            "Time of the commands of transactions in the scheduler, latches included.",
            (Query(quantile(0.99, "tikv_scheduler_command_duration_seconds", "type"), "{{type}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Latches, P99",
            "Wait for other commands on the same keys. High: contended keys.",
            (Query(quantile(0.99, "tikv_scheduler_latch_wait_duration_seconds", "type"), "{{type}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Writes, P99",
            "From a change until it is durable: the disk, and with replicas the slowest of a majority.",
            (Query(quantile(0.99, "tikv_storage_engine_async_request_duration_seconds", "type"), "{{type}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Tasks that wait",
            "Commands under way in the scheduler. A rise without more requests: writes are slow.",
            (Query(value("tikv_scheduler_contex_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Conflicts",
            "Conflicts that stores found, in a second.",
            (Query(per_second("tikv_storage_mvcc_conflict_counter", "type"), "{{type}}"),),
            unit="ops",
        ),
        Panel(
            "Waits for locks",
            "Pessimistic lock requests that wait, and the keys they wait for.",
            (Query(value("tikv_lock_wait_queue_entries_gauge_vec", "type"), "{{type}}"),),
        ),
        Panel(
            "Waits for locks, time",
            "How long such requests waited.",
            quantiles("tikv_lock_manager_waiter_lifetime_duration"),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Keys a write",
            "Mean number of keys of a command that changes data.",
            (Query(mean("tikv_scheduler_kv_command_key_write", "type"), "{{type}}"),),
        ),
        Panel(
            "Deadlocks",
            "Waits refused in a second, since they would have waited in a circle.",
            (Query(per_second("tikv_lock_manager_error_counter", "type"), "{{type}}"),),
            unit="ops",
        ),
    ),
)

_DATA: Final = Row(
    "Data",
    (
        Panel(
            "Room",
            "Capacity, what is available, what the data takes, of all stores.",
            (Query(value("tikv_store_size_bytes", "type"), "{{type}}"),),
            unit="bytes",
        ),
        Panel(
            "Column families",
            "Bytes of each: default holds large values, write the versions, lock the locks under way.",
            (Query(value("tikv_engine_size_bytes", "type"), "{{type}}"),),
            unit="bytes",
        ),
        Panel(
            "Regions and leaders",
            "By store; leaders do the work.",
            (Query(value("tikv_raftstore_region_count", "instance", "type"), "{{instance}} {{type}}"),),
        ),
        Panel(
            "Compaction",
            "Bytes that wait to be compacted. A steady rise ends in stalled writes.",
            (Query(value("tikv_engine_pending_compaction_bytes", "cf"), "{{cf}}"),),
            unit="bytes",
        ),
        Panel(
            "Memory of the engine",
            "Mem-tables by column family.",
            (Query(value("tikv_engine_memory_bytes", "cf", where='type="mem-tables-all"'), "{{cf}}"),),
            unit="bytes",
        ),
        Panel(
            "Garbage collection",
            "Steps in a second, by task, and those that failed.",
            (
                Query(per_second("tikv_gcworker_gc_tasks_vec", "task"), "{{task}}"),
                Query(per_second("tikv_gcworker_gc_task_fail_vec", "task"), "{{task}} failed"),
            ),
            unit="ops",
        ),
    ),
)

_PD: Final = Row(
    "PD",
    (
        Panel(
            "Handling of timestamps",
            "From a request for timestamps until its answer, in PD.",
            quantiles("pd_server_handle_tso_duration_seconds"),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Timestamps a request",
            "Mean number of timestamps that a request asked for.",
            (Query(mean("pd_server_handle_tso_batch_size"), "timestamps"),),
        ),
        Panel(
            "Events of the oracle",
            "Saves of the time, and what else happened.",
            (Query(per_second("pd_tso_events", "type"), "{{type}}"),),
            unit="ops",
        ),
        Panel(
            "Calls by method",
            "Calls that PD ended, in a second.",
            (Query(per_second("grpc_server_handled_total", "grpc_method"), "{{grpc_method}}"),),
            unit="reqps",
        ),
        Panel(
            "Stores by state",
            "How many stores are up, disconnected, down, on their way out.",
            (
                Query(
                    value(
                        "pd_cluster_status",
                        "type",
                        where='type=~"store_.*_count"',
                    ),
                    "{{type}}",
                ),
            ),
        ),
        Panel(
            "Leaders by store",
            "As PD counts them. Far apart: something keeps leaders from moving.",
            (Query(value("pd_scheduler_store_status", "address", where='type="leader_count"'), "{{address}}"),),
        ),
        Panel(
            "Regions in trouble",
            "Regions with too few, down or pending replicas.",
            (Query(value("pd_regions_status", "type"), "{{type}}"),),
            width=12,
        ),
        Panel(
            "Reports of regions",
            "Heartbeats that PD got in a second, by store.",
            (Query(per_second("pd_scheduler_region_heartbeat", "address"), "{{address}}"),),
            unit="ops",
            width=12,
        ),
    ),
)

_PROCESSES: Final = Row(
    "Processes",
    (
        Panel(
            "CPU",
            "Cores that each process uses.",
            (Query(per_second("process_cpu_seconds_total", "instance"), "{{instance}}"),),
            width=12,
        ),
        Panel(
            "Memory",
            "Resident bytes.",
            (Query(value("process_resident_memory_bytes", "instance"), "{{instance}}"),),
            unit="bytes",
            width=12,
        ),
    ),
)

SERVER_BOARD: Final = Board(
    uid="pytikv-server",
    title="pytikv / servers",
    description="pytikv serve, TiKV and PD: requests, writes, locks, data, timestamps, regions.",
    tags=("pytikv", "tikv"),
    known_by=("tikv_server_info", "pd_server_info"),
    rows=(_REQUESTS, _WRITES, _DATA, _PD, _PROCESSES),
)
