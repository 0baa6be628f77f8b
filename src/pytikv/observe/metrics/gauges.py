"""What clients hold at the moment of a scrape: connections, queues, breakers, regions.

In one process nothing is kept: each scrape takes a look (`observe.state.look`), so that what a closed client held is
gone from the next one on. Clients of the process are summed; of a state (a breaker, a store's standing) the worst is
told. Breakers' transitions and refusals are counted where they happen, and read here.

With several processes a scrape reaches one of them, and the others are known by their files alone. So there the same
figures are written to prometheus_client's gauges while calls end (`SharedGauges`), at most once in `REFRESH_S`; what
has gone is written as 0, and prometheus_client forgets a process that has ended once it is told so
(``mark_process_dead``, in gunicorn's child_exit hook).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from prometheus_client import Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from pytikv.observe.state import ClusterStats, look

__all__ = ["REFRESH_S", "SharedGauges", "families_of_state"]

REFRESH_S: Final = 1.0
_BREAKER: Final = {"closed": 0, "half_open": 1, "open": 2}

Labels = tuple[str, ...]
Mode = Literal["livesum", "livemax"]


class _Figure(NamedTuple):
    """One metric: its name, help, labels, how processes (and clients) are joined, and whether it only rises."""

    name: str
    text: str
    labels: Labels = ()
    mode: Mode = "livesum"
    is_counter: bool = False


IN_FLIGHT: Final = _Figure("tikv_requests_in_flight", "Calls under way.")
STORE_IN_FLIGHT: Final = _Figure("tikv_store_in_flight", "Requests without an answer yet.", ("store",))
POOL: Final = _Figure("tikv_pool_connections", "Open connections, by what they do.", ("store", "state"))
POOL_MAX: Final = _Figure("tikv_pool_connections_max", "Connections that may be open at once.")
POOL_WAITING: Final = _Figure("tikv_pool_waiting", "Calls that wait for a connection.")
REGIONS: Final = _Figure("tikv_region_cache_regions", "Regions in the cache.")
STORE_AVOIDED: Final = _Figure(
    "tikv_store_avoided", "1 while other replicas are preferred to a store's: it is unreachable or slow.", ("store",),
    "livemax",
)  # fmt: skip
BREAKER: Final = _Figure(
    "tikv_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open.", ("store",), "livemax"
)  # fmt: skip
TRANSITIONS: Final = _Figure(
    "tikv_breaker_transitions", "How often a breaker became what it is.", ("store", "to"), is_counter=True
)
REJECTED: Final = _Figure(
    "tikv_rejected", "Requests that were not sent, by what refused them.", ("store", "reason"), is_counter=True
)
LIMIT: Final = _Figure("tikv_concurrency_limit", "Requests that may be under way at once.", ("store",))
QUEUE: Final = _Figure("tikv_store_queue", "Requests that wait for a place.", ("store",))
TOKENS: Final = _Figure("tikv_retry_budget_tokens", "Retries that the budget still allows.")

_ALL: Final = (
    *(IN_FLIGHT, STORE_IN_FLIGHT, POOL, POOL_MAX, POOL_WAITING, REGIONS, STORE_AVOIDED),
    *(BREAKER, TRANSITIONS, REJECTED, LIMIT, QUEUE, TOKENS),
)

Values = dict[_Figure, dict[Labels, float]]


def values_of(in_flight: int, looks: Iterable[ClusterStats]) -> Values:
    """Return every figure of some clients together, by its labels' values."""
    values: Values = {figure: {} for figure in _ALL}

    def add(figure: _Figure, value: float, *labels: str) -> None:
        before = values[figure].get(labels, 0.0)
        values[figure][labels] = max(before, value) if figure.mode == "livemax" else before + value

    add(IN_FLIGHT, in_flight)
    for cluster in looks:
        if cluster.max_connections:
            add(POOL_MAX, cluster.max_connections)
            add(POOL_WAITING, cluster.waiting)
            add(REGIONS, cluster.regions)
        for one in cluster.connections:
            add(STORE_IN_FLIGHT, one.in_flight, one.address)
            add(POOL, one.in_use, one.address, "in_use")
            add(POOL, one.idle, one.address, "idle")
        for store in cluster.stores:
            if store.address:
                add(STORE_AVOIDED, store.is_avoided, store.address)
        for guard in cluster.guards:
            add(BREAKER, _BREAKER[guard.breaker], guard.address)
            add(QUEUE, guard.queued, guard.address)
            if guard.limit is not None:
                add(LIMIT, guard.limit, guard.address)
            for to, times in guard.transitions.items():
                add(TRANSITIONS, times, guard.address, to)
            for reason, times in guard.rejected.items():
                add(REJECTED, times, guard.address, reason)
        if cluster.retry_tokens is not None:
            add(TOKENS, cluster.retry_tokens)
    return values


def families_of_state(in_flight: int) -> Iterator[Metric]:
    """Return the figures of this process as they are now."""
    for figure, values in values_of(in_flight, look()).items():
        make = CounterMetricFamily if figure.is_counter else GaugeMetricFamily
        family = make(figure.name, figure.text, labels=figure.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        yield family


class SharedGauges:
    """The figures of this process for those who ask another one."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """`in_flight`: tells how many calls are under way."""
        self._in_flight = in_flight
        self._is_due = False
        self._gauges = {
            figure: Gauge(figure.name, figure.text, figure.labels, registry=None, multiprocess_mode=figure.mode)
            for figure in _ALL
            if not figure.is_counter
        }
        self._counters = {
            figure: Counter(figure.name, figure.text, figure.labels, registry=None)
            for figure in _ALL
            if figure.is_counter
        }
        self._told: Values = {figure: {} for figure in _ALL}
        self._lock = threading.Lock()

    def on_end(self) -> None:
        """See to it that what has changed is written, in a moment: what has ended leaves its traces until then."""
        if not self._is_due:
            self._is_due = True
            timer = threading.Timer(REFRESH_S, self._refresh)
            timer.daemon = True
            with contextlib.suppress(RuntimeError):  # the interpreter ends: there will be no further scrape
                timer.start()

    def _refresh(self) -> None:
        self._is_due = False
        self.write()

    def write(self) -> None:
        """Write what has changed since the last time."""
        with self._lock:
            for figure, values in values_of(self._in_flight(), look()).items():
                told = self._told[figure]
                for labels in told.keys() | values.keys():
                    value, before = values.get(labels, 0.0), told.get(labels, 0.0)
                    if value != before or labels not in told:
                        self._write(figure, labels, value, before)
                        told[labels] = value

    def _write(self, figure: _Figure, labels: Labels, value: float, before: float) -> None:
        if not figure.is_counter:
            gauge = self._gauges[figure]
            (gauge.labels(*labels) if labels else gauge).set(value)
        elif value > before:
            self._counters[figure].labels(*labels).inc(value - before)

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self._lock = threading.Lock()
        self._told = {figure: {} for figure in _ALL}
        self._is_due = False

    def collect(self) -> Iterator[Metric]:
        """Return the figures of this process."""
        for metric in (*self._gauges.values(), *self._counters.values()):
            yield from metric.collect()
