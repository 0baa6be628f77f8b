"""Recording rules and alerts for programs that use this library, and for the servers behind them.

Recorded names follow `level:metric:operations`. Alerts read recorded series where they can, so that an alert and a
dashboard that shows it agree, and a rule that breaks is seen.

The error budget. A call *fails* when it ends with one of `FAILURES`: the way to the data was the trouble, not the
caller's data or arguments. `OBJECTIVE` of the calls of a month are to succeed. Burn rates are looked at over two
windows at once (the long one shows that it matters, the short one that it still goes on): 14.4 times too fast over
1 h and 5 min spends 2 % of the month's budget in an hour and pages; 6 times over 6 h and 30 min pages as well; once
over 3 days opens a ticket. Source: Google's SRE workbook, chapter 5.

Each alert says what is so (`summary`), what that means with its figures (`description`), and what to look at first
(`advice`). Severity: `page` wakes somebody, `ticket` waits for the morning. Limits: an alert needs the series it reads;
`TikvClientGone` and `TikvClientDown` are for their absence.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal

from pytikv.monitoring import yaml

__all__ = ["ALERTS", "FAILURES", "OBJECTIVE", "RECORDINGS", "Alert", "Recording", "alert_rules_yaml", "recording_yaml"]

OBJECTIVE: Final = 0.999
_BUDGET: Final = f"{1 - OBJECTIVE:.3f}"
FAILURES: Final = (
    "ConnectionFailed|DeadlineExceeded|Overloaded|CircuitOpen|RegionUnavailable|ServerError|CommitUndetermined"
    "|StorageError|error"
)
"""A regular expression of the statuses that spend the error budget."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes ahead: `name`, from `expr`."""

    name: str
    expr: str


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """What to be told of. `hold`: how long it must be so (Prometheus' ``for``); texts may use its templates."""

    name: str
    expr: str
    hold: str
    severity: Literal["page", "ticket"]
    summary: str
    description: str
    advice: str


# --- recording rules --------------------------------------------------------------------------------------------------

_COUNT: Final = "tikv_request_duration_seconds_count"


def _failed(window: str) -> Recording:
    # `or 0 * ...`: a job without failures has the ratio 0, not no ratio.
    rates = f"sum by (job) (rate({_COUNT}[{window}]))"
    failures = f'sum by (job) (rate({_COUNT}{{status=~"{FAILURES}"}}[{window}]))'
    return Recording(f"job:tikv_request_failures:ratio_rate{window}", f"({failures} or 0 * {rates}) / ({rates} > 0)")


def _quantile(q: float, metric: str, *labels: str) -> Recording:
    by = ", ".join(("le", "job", *labels))
    name = f"{'_'.join(('job', *labels))}:{metric}:p{round(q * 100)}_5m"
    return Recording(name, f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket[5m])))")


_LATENCY: Final = "tikv_request_duration_seconds"
_TXNS: Final = "sum by (job) (rate(tikv_txn_total[5m]))"

RECORDINGS: Final[tuple[Recording, ...]] = (
    Recording("job_method:tikv_requests:rate5m", f"sum by (job, method) (rate({_COUNT}[5m]))"),
    Recording("job:tikv_requests:rate5m", "sum by (job) (job_method:tikv_requests:rate5m)"),
    *(_failed(window) for window in ("5m", "30m", "1h", "6h", "3d")),
    *(_quantile(q, _LATENCY, "method") for q in (0.5, 0.95, 0.99)),
    _quantile(0.99, _LATENCY),
    _quantile(0.99, "tikv_rpc_duration_seconds", "store"),
    _quantile(0.99, "tikv_tso_wait_seconds"),
    Recording(
        "job:tikv_retries_per_request:ratio_rate5m",
        "sum by (job) (rate(tikv_retries_total[5m])) / (job:tikv_requests:rate5m > 0)",
    ),
    Recording(
        "job:tikv_txn_conflicts:ratio_rate5m",
        f'(sum by (job) (rate(tikv_txn_total{{result="conflict"}}[5m])) or 0 * {_TXNS}) / ({_TXNS} > 0)',
    ),
    Recording(
        "job:tikv_pool_connections:use_ratio",
        "sum by (job) (tikv_pool_connections) / (sum by (job) (tikv_pool_connections_max) > 0)",
    ),
)

# --- alerts -----------------------------------------------------------------------------------------------------------


def _burn(factor: str, long: str, short: str) -> str:
    ratios = (f"job:tikv_request_failures:ratio_rate{window} > {factor} * {_BUDGET}" for window in (long, short))
    return " and on (job) ".join(ratios)


_BURN_TEXT: Final = (
    "{{ $value | humanizePercentage }} of the calls of {{ $labels.job }} failed over the last WINDOW; allowed are"
    f" {1 - OBJECTIVE:.1%}."
)
# A counter is born with its first event: `increase` sees nothing of it, so a series that is new counts as well.
_LOST: Final = 'tikv_txn_total{result="undetermined"}'
_BURN_ADVICE: Final = (
    "See 'Errors by code' and 'RPC errors by store' of the clients' dashboard: one store points to that store, all"
    " stores to PD, the network or this program. `pytikv doctor --url URL` checks the cluster from here."
)

ALERTS: Final[tuple[Alert, ...]] = (
    Alert(
        "TikvErrorBudgetBurnsFast",
        _burn("14.4", "1h", "5m"),
        "2m",
        "page",
        "{{ $labels.job }}: calls to TiKV fail",
        _BURN_TEXT.replace("WINDOW", "hour") + " At this rate the budget of a month is gone in two days.",
        _BURN_ADVICE,
    ),
    Alert(
        "TikvErrorBudgetBurns",
        _burn("6", "6h", "30m"),
        "15m",
        "page",
        "{{ $labels.job }}: too many calls to TiKV fail",
        _BURN_TEXT.replace("WINDOW", "6 hours") + " At this rate the budget of a month is gone in five days.",
        _BURN_ADVICE,
    ),
    Alert(
        "TikvErrorBudgetBurnsSlowly",
        _burn("1", "3d", "6h"),
        "1h",
        "ticket",
        "{{ $labels.job }}: calls to TiKV fail a little too often",
        _BURN_TEXT.replace("WINDOW", "3 days"),
        _BURN_ADVICE,
    ),
    Alert(
        "TikvRequestsSlow",
        "job:tikv_request_duration_seconds:p99_5m > 0.5 and on (job) job:tikv_requests:rate5m > 0.1",
        "10m",
        "ticket",
        "{{ $labels.job }}: calls to TiKV are slow",
        "The slowest 1 % of the calls take {{ $value | humanizeDuration }} or longer.",
        "Compare 'P99 by method' with 'RPC P99 by store' and 'TSO wait': the store, PD, or back-off and lock waits in"
        " this program. `pytikv.profile()` shows where a block's time goes.",
    ),
    Alert(
        "TikvBreakerOpen",
        "max by (job, store) (tikv_breaker_state) == 2",
        "1m",
        "page",
        "{{ $labels.job }}: the breaker of store {{ $labels.store }} is open",
        "Calls to {{ $labels.store }} fail at once or go to another replica, since too many failed or were slow.",
        "See whether the store is up (`pytikv stores`), reachable, and slow ('RPC P99 by store', 'RPC errors by"
        " store'). The breaker closes by itself when tries go well.",
    ),
    Alert(
        "TikvBreakerFlaps",
        'sum by (job, store) (increase(tikv_breaker_transitions_total{to="open"}[15m])) > 5',
        "0m",
        "ticket",
        "{{ $labels.job }}: the breaker of store {{ $labels.store }} opens again and again",
        "It opened {{ $value | humanize }} times within 15 minutes: the store comes and goes, or is just too slow.",
        "Look at the store's load and disk ('Tasks that wait' and 'Writes' of the servers' dashboard), and at the"
        " network between. If calls are merely slow, raise the breaker's limit for slow calls.",
    ),
    Alert(
        "TikvPoolExhausted",
        "sum by (job) (tikv_pool_waiting) > 0 and on (job) job:tikv_pool_connections:use_ratio > 0.9",
        "5m",
        "ticket",
        "{{ $labels.job }}: calls wait for a connection",
        "{{ $value }} calls wait, and more than 90 % of max_connections are open.",
        "Raise max_connections, use fewer threads, or find what holds connections for long ('In flight by store').",
    ),
    Alert(
        "TikvCallsRejected",
        'sum by (job, store) (rate(tikv_rejected_total{reason=~"queue_full|queue_timeout"}[5m])) > 1',
        "5m",
        "ticket",
        "{{ $labels.job }}: calls to store {{ $labels.store }} are shed",
        "{{ $value | humanize }} calls a second find no place in the store's queue and end with Overloaded.",
        "More is asked of the store than it does: see 'Concurrency limit and use'. Spread the load (hot regions:"
        " `pytikv doctor`), add stores, or ask less; a longer queue only adds waiting.",
    ),
    Alert(
        "TikvConflictsMany",
        "job:tikv_txn_conflicts:ratio_rate5m > 0.2 and on (job) sum by (job) (rate(tikv_txn_total[5m])) > 1",
        "10m",
        "ticket",
        "{{ $labels.job }}: many transactions conflict",
        "{{ $value | humanizePercentage }} of the transactions ended in a conflict.",
        "Several writers want the same keys: keep transactions short, use pessimistic ones for contended keys, split"
        " counters over several keys. Lock waits by kind are on the clients' dashboard.",
    ),
    Alert(
        "TikvTsoSlow",
        "job:tikv_tso_wait_seconds:p99_5m > 0.1",
        "5m",
        "ticket",
        "{{ $labels.job }}: timestamps come late",
        "1 % of the waits for a timestamp take {{ $value | humanizeDuration }} or longer; a transaction waits twice.",
        "Is PD's leader busy or far away ('Handling of timestamps' of the servers' dashboard)? Does this process have"
        " CPU left ('CPU of the process')?",
    ),
    Alert(
        "TikvRetriesStorm",
        "job:tikv_retries_per_request:ratio_rate5m > 1 and on (job) job:tikv_requests:rate5m > 1",
        "5m",
        "page",
        "{{ $labels.job }}: more retries than calls",
        "{{ $value | humanize }} tries are made again for each call: the trouble is being amplified.",
        "See 'Retries by kind'. tikvServerBusy: ask less, set retry_budget. tikvRPC: a store is gone or unreachable."
        " regionMiss for long: PD and stores disagree.",
    ),
    Alert(
        "TikvLockWaitsLong",
        "histogram_quantile(0.99, sum by (le, job, kind) (rate(tikv_lock_wait_seconds_bucket[5m]))) > 5",
        "5m",
        "ticket",
        "{{ $labels.job }}: waits for locks are long ({{ $labels.kind }})",
        "1 % of the waits take {{ $value | humanizeDuration }} or longer.",
        "`pytikv doctor --url URL` names the oldest locks and who holds them: a long transaction, or one whose process"
        " died (its locks go when their TTL is over).",
    ),
    Alert(
        "TikvCommitsUndetermined",
        f"sum by (job) (({_LOST} unless {_LOST} offset 10m) or increase({_LOST}[10m])) > 0",
        "0m",
        "ticket",
        "{{ $labels.job }}: the outcome of commits is unknown",
        "{{ $value | humanize }} commits within 10 minutes lost their answer: they may or may not have taken effect.",
        "Programs must read before they repeat such a write. Find the cause in 'RPC errors by store' and the logs"
        " (CommitUndetermined, with start_ts).",
    ),
    Alert(
        "TikvClientDown",
        'up{role="client"} == 0',
        "5m",
        "ticket",
        "{{ $labels.job }}: {{ $labels.instance }} is not scraped",
        "Prometheus gets no metrics from {{ $labels.instance }}.",
        "Is the program up, does it call serve_metrics() there, and does the address in targets/clients.json fit?",
    ),
    Alert(
        "TikvClientSilent",
        "job:tikv_requests:rate5m == 0 and on (job) max_over_time(job:tikv_requests:rate5m[1h]) > 0",
        "10m",
        "ticket",
        "{{ $labels.job }}: no calls any more",
        "There were calls within the last hour and there are none now, though metrics come.",
        "Calls that hang are in 'In flight'. Else ask what feeds this program.",
    ),
    Alert(
        "TikvClientGone",
        "absent(pytikv_build_info)",
        "10m",
        "ticket",
        "no program reports the metrics of pytikv",
        "Not one series of pytikv_build_info is there.",
        "See Prometheus' page of targets: are there any with role=client, and are they up?",
    ),
    Alert(
        "TikvServerDown",
        'up{role=~"tikv|pd"} == 0',
        "1m",
        "page",
        "{{ $labels.role }} {{ $labels.instance }} is not scraped",
        "Prometheus gets no metrics from the {{ $labels.role }} at {{ $labels.instance }}.",
        "Is the process up and its status port open? `pytikv doctor --url URL` tells how clients see it.",
    ),
    Alert(
        "TikvServerSlow",
        "histogram_quantile(0.99, sum by (le, instance, type) (rate(tikv_grpc_msg_duration_seconds_bucket[5m]))) > 0.5",
        "10m",
        "ticket",
        "{{ $labels.instance }}: {{ $labels.type }} is slow in the store",
        "1 % of these requests take {{ $value | humanizeDuration }} or longer inside the store.",
        "See 'Writes, P99' and 'Latches' of the servers' dashboard: the disk, contended keys, or too many requests.",
    ),
)


def _group(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"groups": [{"name": name, "rules": rules}]}


def recording_yaml(head: str = "") -> str:
    """Return the file of the recording rules. They stand in the order in which one reads another."""
    rules = [{"record": rule.name, "expr": rule.expr} for rule in RECORDINGS]
    return yaml.dump(_group("pytikv-recording", rules), head=head)


def alert_rules_yaml(head: str = "") -> str:
    """Return the file of the alerts; `severity` is a label, the texts are annotations."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.hold,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "advice": alert.advice,
            },
        }
        for alert in ALERTS
    ]
    return yaml.dump(_group("pytikv-alerts", rules), head=head)
