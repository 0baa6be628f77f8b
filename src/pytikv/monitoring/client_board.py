"""The dashboard of programs that use this library: is it well, where does the time go, and what stands in the way.

The rows go from the outside inwards: what callers see (rate, errors, latency), what the request path did about trouble
(retries, back-off, breakers, limits), transactions, timestamps and regions, then stores and connections. An error is
everything whose status is not ``ok``; which of them spend the error budget is in `rules`.
"""

from __future__ import annotations

from typing import Final

from pytikv.monitoring.board import (
    Board,
    Panel,
    Query,
    Row,
    Threshold,
    mean,
    per_second,
    quantile,
    quantiles,
    ratio,
    value,
)
from pytikv.monitoring.rules import FAILURES

__all__ = ["CLIENT_BOARD"]

_REQUESTS: Final = "tikv_request_duration_seconds"
_RPC: Final = "tikv_rpc_duration_seconds"
_FAILED: Final = f'status=~"{FAILURES}"'

_NOW: Final = Row(
    "Now",
    (
        Panel(
            "Requests a second",
            "Calls of the API that ended, of all methods.",
            (Query(per_second(f"{_REQUESTS}_count"), "requests"),),
            unit="reqps",
            kind="stat",
            width=4,
        ),
        Panel(
            "Failed",
            "Share of the calls that spent the error budget: no connection, no time left, overload, no region, server"
            " errors, unknown outcome. Conflicts and wrong arguments are not among them.",
            (
                Query(
                    f"({per_second(f'{_REQUESTS}_count', where=_FAILED)} or vector(0))"
                    f" / ({per_second(f'{_REQUESTS}_count')} > 0)",
                    "failed",
                ),
            ),
            unit="percentunit",
            kind="stat",
            thresholds=(Threshold(None, "green"), Threshold(0.001, "yellow"), Threshold(0.01, "red")),
            width=4,
        ),
        Panel(
            "P99",
            "Of all methods together: 99 of 100 calls were quicker.",
            (Query(quantile(0.99, _REQUESTS), "P99"),),
            unit="s",
            kind="stat",
            thresholds=(Threshold(None, "green"), Threshold(0.1, "yellow"), Threshold(1, "red")),
            width=4,
        ),
        Panel(
            "In flight",
            "Calls that have begun and not ended.",
            (Query(value("tikv_requests_in_flight"), "in flight"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Breakers not closed",
            "Stores that are kept away from at present, or tried again with care.",
            (Query(f"{value('tikv_breaker_state', aggregate='count', above='0')} or vector(0)", "breakers"),),
            kind="stat",
            thresholds=(Threshold(None, "green"), Threshold(1, "red")),
            width=4,
        ),
        Panel(
            "Versions",
            "Processes that report, by the version of the library.",
            (Query(value("pytikv_build_info", "version", aggregate="count"), "{{version}}"),),
            kind="stat",
            width=4,
        ),
    ),
)

_CALLS: Final = Row(
    "Calls",
    (
        Panel(
            "Requests by method",
            "Calls that ended in a second, whatever their outcome.",
            (Query(per_second(f"{_REQUESTS}_count", "method"), "{{method}}"),),
            unit="reqps",
        ),
        Panel(
            "Errors by code",
            "Calls that did not end well, by the error's code. WriteConflict and KeyLocked belong to contended data;"
            " ConnectionFailed, DeadlineExceeded, Overloaded and RegionUnavailable point to the cluster.",
            (Query(per_second(f"{_REQUESTS}_count", "status", where='status!="ok"'), "{{status}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "In flight",
            "Calls under way, by process. A rise without a rise in requests is waiting.",
            (Query(value("tikv_requests_in_flight", "instance"), "{{instance}}"),),
        ),
        Panel(
            "P50 by method",
            "Half of the calls were quicker.",
            (Query(quantile(0.5, _REQUESTS, "method"), "{{method}}", exemplar=True),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "P95 by method",
            "95 of 100 calls were quicker.",
            (Query(quantile(0.95, _REQUESTS, "method"), "{{method}}", exemplar=True),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "P99 by method",
            "99 of 100 calls were quicker. Points are exemplars: they lead to a trace.",
            (Query(quantile(0.99, _REQUESTS, "method"), "{{method}}", exemplar=True),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Keys a batch",
            "Mean number of keys in a call that takes many.",
            (Query(mean("tikv_batch_keys", "method"), "{{method}}"),),
            width=12,
        ),
        Panel(
            "Commands a frame",
            "Mean number of commands that left together. More under load means that frames are shared as they should.",
            (Query(mean("tikv_batch_commands_size"), "commands"),),
            width=12,
        ),
    ),
)

_TROUBLE: Final = Row(
    "Retries, breakers, limits",
    (
        Panel(
            "Retries by kind",
            "Tries made again in a second. regionMiss: regions moved; tikvRPC: a store was not reached;"
            " tikvServerBusy: a store is overloaded; txnLock: locks in the way.",
            (Query(per_second("tikv_retries_total", "kind"), "{{kind}}"),),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Back-off by kind",
            "Seconds that calls slept before another try, in each second: 1 is one caller sleeping all the time.",
            (Query(per_second("tikv_backoff_seconds_total", "kind"), "{{kind}}"),),
            unit="s",
            stacked=True,
        ),
        Panel(
            "Retries a request",
            "Above 0.1 for long is a storm in the making: see which kind.",
            (
                Query(
                    ratio(per_second("tikv_retries_total"), per_second(f"{_REQUESTS}_count")),
                    "retries a request",
                ),
            ),
        ),
        Panel(
            "Breaker of each store",
            "Closed: calls pass. Open: calls fail at once or go to another replica. Half open: a few calls try.",
            (Query(value("tikv_breaker_state", "store", aggregate="max"), "{{store}}"),),
            kind="state",
            states=((0, "closed", "green"), (1, "half open", "yellow"), (2, "open", "red")),
        ),
        Panel(
            "Breaker changes",
            "Changes of state in a second, by store and the state entered. Many are a store that comes and goes.",
            (Query(per_second("tikv_breaker_transitions_total", "store", "to"), "{{store}} to {{to}}"),),
            unit="ops",
        ),
        Panel(
            "Rejected",
            "Calls refused here before they were sent, by reason: breaker open, queue full, waited too long in it.",
            (Query(per_second("tikv_rejected_total", "store", "reason"), "{{store}} {{reason}}"),),
            unit="reqps",
        ),
        Panel(
            "Concurrency limit and use",
            "How many calls a store may have in flight, how many it has, and how many wait for a place.",
            (
                Query(value("tikv_concurrency_limit", "store"), "{{store}} limit"),
                Query(value("tikv_store_in_flight", "store"), "{{store}} in flight"),
                Query(value("tikv_store_queue", "store"), "{{store}} queue"),
            ),
        ),
        Panel(
            "Hedged reads",
            "Second tries of slow reads. Mostly won: a replica is slow. Mostly lost: hedge_after_ms is too short.",
            (Query(per_second("tikv_hedges_total", "result"), "{{result}}"),),
            unit="ops",
        ),
        Panel(
            "Retry budget",
            "Retries that the budget still allows, in the process that has the least. At zero, calls end at their first"
            " trouble instead of adding to it.",
            (Query(value("tikv_retry_budget_tokens", aggregate="min"), "tokens"),),
        ),
    ),
)

_TRANSACTIONS: Final = Row(
    "Transactions",
    (
        Panel(
            "Transactions by result",
            "How transactions ended, in a second. undetermined: the answer to the commit was lost.",
            (Query(per_second("tikv_txn_total", "result", "mode"), "{{result}} {{mode}}"),),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Conflicts",
            "Conflicts in a second, by kind. Contended keys: shorter transactions, or pessimistic ones.",
            (Query(per_second("tikv_txn_conflicts_total", "kind"), "{{kind}}"),),
            unit="ops",
        ),
        Panel(
            "Phases, P99",
            "Where a commit's time goes: 99 of 100 phases were shorter.",
            (Query(quantile(0.99, "tikv_txn_phase_duration_seconds", "phase"), "{{phase}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Lock waits a second",
            "Waits for other transactions' locks: reads that met one, writes (prewrite), pessimistic lock requests.",
            (Query(per_second("tikv_lock_wait_seconds_count", "kind"), "{{kind}}"),),
            unit="ops",
            width=12,
        ),
        Panel(
            "Lock waits, P99",
            "How long they lasted. Near lock_ttl_ms: somebody died with locks held.",
            (Query(quantile(0.99, "tikv_lock_wait_seconds", "kind"), "{{kind}}"),),
            unit="s",
            log_scale=True,
            width=12,
        ),
    ),
)

_PLACEMENT: Final = Row(
    "Timestamps and regions",
    (
        Panel(
            "TSO wait",
            "How long calls waited for a timestamp, the round trip to PD included. Much above the round trip:"
            " PD is busy or this process lacks CPU.",
            quantiles("tikv_tso_wait_seconds"),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "Timestamps a request",
            "Mean number of timestamps that one request to PD fetched for all who waited.",
            (Query(mean("tikv_tso_batch_size"), "timestamps"),),
        ),
        Panel(
            "Region cache hits",
            "Share of look-ups that the cache answered. Low after a start; low for long: regions split or move.",
            (
                Query(
                    ratio(
                        per_second("tikv_region_cache_lookups_total", where='result="hit"'),
                        per_second("tikv_region_cache_lookups_total"),
                    ),
                    "hits",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Region reloads",
            "Look-ups at PD in a second.",
            (Query(per_second("tikv_region_cache_reloads_total"), "reloads"),),
            unit="ops",
            width=12,
        ),
        Panel(
            "Regions cached",
            "Regions that processes know of.",
            (Query(value("tikv_region_cache_regions", "instance"), "{{instance}}"),),
            width=12,
        ),
    ),
)

_STORES: Final = Row(
    "Stores and connections",
    (
        Panel(
            "RPCs by store",
            "Calls to each store in a second.",
            (Query(per_second(f"{_RPC}_count", "store"), "{{store}}"),),
            unit="reqps",
        ),
        Panel(
            "RPC P99 by store",
            "One store above the others is slow or far away; all of them together: the network or this process.",
            (Query(quantile(0.99, _RPC, "store"), "{{store}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "RPC P99 by method",
            "Time of an RPC from the moment it is sent, queueing in this process not included.",
            (Query(quantile(0.99, _RPC, "rpc"), "{{rpc}}"),),
            unit="s",
            log_scale=True,
        ),
        Panel(
            "RPC errors by store",
            "RPCs that did not end with an answer, by gRPC status.",
            (Query(per_second(f"{_RPC}_count", "store", "status", where='status!="ok"'), "{{store}} {{status}}"),),
            unit="reqps",
        ),
        Panel(
            "In flight by store",
            "RPCs under way. A store that is slow gathers them.",
            (Query(value("tikv_store_in_flight", "store"), "{{store}}"),),
        ),
        Panel(
            "Connections",
            "Connections in use and idle, and calls that wait for one.",
            (
                Query(value("tikv_pool_connections", "state"), "{{state}}"),
                Query(value("tikv_pool_waiting"), "waiting"),
            ),
        ),
        Panel(
            "Use of the pool",
            "Open connections as a share of max_connections. Near 100 %: calls will wait for connections.",
            (
                Query(
                    ratio(
                        value("tikv_pool_connections", "instance"),
                        value("tikv_pool_connections_max", "instance"),
                    ),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "CPU of the process",
            "Cores that the process uses. Near 1 without threads that compute elsewhere: the interpreter is the limit.",
            (Query(per_second("process_cpu_seconds_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Memory of the process",
            "Resident bytes.",
            (Query(value("process_resident_memory_bytes", "instance"), "{{instance}}"),),
            unit="bytes",
        ),
    ),
)

CLIENT_BOARD: Final = Board(
    uid="pytikv-client",
    title="pytikv / clients",
    description="Programs that use TiKV through pytikv: rate, errors, latency, retries, transactions, stores.",
    tags=("pytikv", "tikv"),
    known_by=("pytikv_build_info",),
    rows=(_NOW, _CALLS, _TROUBLE, _TRANSACTIONS, _PLACEMENT, _STORES),
)
