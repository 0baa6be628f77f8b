"""The sink that counts: it hears of calls as they end, and of their steps, and adds each to its series.

Made to be cheap: a call costs one look-up in a dict whose key is (method, status), and one `append` to the series found
there (`histogram`); an RPC likewise. What lies off the usual way (facts, other steps, a trace id) costs when it is
there. Calls under way are the records between their begin and their end, so counting them is two dict operations.
Requests whose region was known are not counted one by one: they are the RPCs to stores, less the questions to PD.

`Metrics` is the collector, too: the registry knows this one object, and what it collects are prometheus_client's
metrics, made for no registry. So nothing is registered twice, and a forked child, whose counts begin at zero, only
makes them anew.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pytikv.errors import ConfigError, WrongType
from pytikv.observe import state, telemetry
from pytikv.observe.metrics.buckets import DEFAULT_BUCKETS, IS_MULTIPROCESS, check_buckets
from pytikv.observe.metrics.families import Families
from pytikv.observe.metrics.gauges import SharedGauges, families_of_state
from pytikv.observe.metrics.histogram import FULL, Cell, SharedCell
from pytikv.observe.telemetry import CallRecord, Sink, Step, trace_id_of

__all__ = ["Metrics", "install", "uninstall"]

_CONFLICTS: Final = frozenset(
    {"WriteConflict", "KeyExists", "Deadlock", "KeyLocked", "LockTimeout", "TransactionAborted", "AssertionFailed"}
)
_RESULTS: Final = {"applied": "committed", "undetermined": "undetermined"}

_OF_STORES: Final = ("Raw", "Kv", "KV")
"""How the names of RPCs that are for a region begin."""


class Metrics(Sink, Collector):
    """What one registry is told of all clients of the process. Made by `install`; for any thread."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        """Upper bounds of the durations, in seconds."""
        self._shared = SharedGauges(lambda: len(self._live)) if IS_MULTIPROCESS else None
        if self._shared is not None:
            state.watch(self._on_close)
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._families = families = Families(self.buckets)
        self._live: dict[int, CallRecord] = {}
        self._requests: dict[tuple[str, ...], Cell | SharedCell] = families.requests.cells
        self._rpcs: dict[tuple[str, ...], Cell | SharedCell] = families.rpcs.cells
        self._on_kind: dict[str, Callable[[Step], None]] = {
            "backoff": self._on_backoff,
            "tso": self._on_tso,
            "region_load": self._on_region_load,
            "phase": lambda step: families.phases.labels(step.name).observe(step.ended - step.began),
            "lock_wait": lambda step: families.lock_wait.labels(step.name).observe(step.ended - step.began),
            "hedge": lambda step: families.hedges.labels(step.name).inc(),
            "connect": lambda step: families.connects.labels(step.store, step.status).observe(step.ended - step.began),
            "queue": lambda step: families.queued.labels(step.store).observe(step.ended - step.began),
        }
        self._hit = families.lookups.labels("hit").inc
        self._miss = families.lookups.labels("miss").inc
        self._hits = self._misses = 0
        self._frames = families.frames.cell()

    # --- as a sink ----------------------------------------------------------------------------------------------------

    def on_begin(self, record: CallRecord) -> None:
        """See `Sink`."""
        self._live[id(record)] = record

    def on_step(self, record: CallRecord, step: Step) -> None:
        """See `Sink`."""
        kind, name, began, ended, status, store, _ = step
        if kind != "rpc":
            on_kind = self._on_kind.get(kind)
            if on_kind is not None:
                on_kind(step)
            return
        cell = self._rpcs.get((store, name, status))
        if cell is None:
            cell = self._families.rpcs.cell(store, name, status)
        cell.append(ended - began)
        if len(cell) >= FULL:
            cell.settle()
        if record.context is not None or record.extra is not None:
            _mark(cell, ended - began, record)

    def on_end(self, record: CallRecord) -> None:
        """See `Sink`."""
        self._live.pop(id(record), None)
        method, status = record.method, record.status
        cell = self._requests.get((method, status))
        if cell is None:
            cell = self._families.requests.cell(method, status)
        seconds = (record.ended or record.began) - record.began
        cell.append(seconds)
        if len(cell) >= FULL:
            cell.settle()
        if record.context is not None or record.extra is not None:
            _mark(cell, seconds, record)
        if record.attributes is not None:
            self._on_facts(method, status, record.attributes)
        if self._shared is not None:
            if (hits := _hits(record.steps)) > 0:
                self._hit(hits)
            self._shared.on_end()

    def on_frame(self, size: int) -> None:
        """See `Sink`."""
        self._frames.append(size)
        if len(self._frames) >= FULL:
            self._frames.settle()

    def _on_facts(self, method: str, status: str, facts: dict[str, Any]) -> None:
        """Count what transactions tell of themselves, and numbers of keys."""
        families = self._families
        keys = facts.get("keys")
        if keys is not None:
            families.batch_keys.labels(method).observe(keys)
        mode = facts.get("mode")
        if mode is None:
            return
        if status in _CONFLICTS:
            families.conflicts.labels(status).inc()
        if method == "txn_commit":
            result = "conflict" if status in _CONFLICTS else "failed"
            families.txns.labels(_RESULTS.get(facts.get("outcome", ""), result), mode).inc()
        elif method == "txn_rollback":
            families.txns.labels("rolled_back" if status == "ok" else "failed", mode).inc()

    def _on_close(self) -> None:
        """Tell other processes that a client holds nothing any more."""
        if self._shared is not None and self in telemetry.sinks():
            self._shared.write()

    # --- steps --------------------------------------------------------------------------------------------------------

    def _on_backoff(self, step: Step) -> None:
        self._families.retries.labels(step.name).inc()
        self._families.backoff.labels(step.name).inc(step.ended - step.began)

    def _on_tso(self, step: Step) -> None:
        if step.name == "wait":
            self._families.tso_wait.observe(step.ended - step.began)
        elif step.detail:
            self._families.tso_batch.observe(step.detail)

    def _on_region_load(self, step: Step) -> None:
        self._miss()
        self._misses += 1
        if step.name == "reload":
            self._families.reloads.inc()

    # --- as a collector -----------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Return everything as it is now; called by the registry for a scrape."""
        if self._shared is None:
            self._count_hits()
        for family in self._families.all():
            yield from family.collect()
        if self._shared is None:
            yield from families_of_state(len(self._live))
        else:
            yield from self._shared.collect()

    def describe(self) -> Iterator[Metric]:
        """Return the names, for the registry to check."""
        for family in self._families.all():
            yield from family.describe()
        yield from families_of_state(0)

    def _count_hits(self) -> None:
        """Count the requests to stores since the last time, but for those whose region PD was asked for."""
        cells = list(self._rpcs.items())
        sent = sum(
            cell.total() for (_, name, _), cell in cells if name.startswith(_OF_STORES) and isinstance(cell, Cell)
        )
        news = sent - self._misses - self._hits
        if news > 0:
            self._hit(news)
            self._hits += news

    def in_flight(self) -> list[CallRecord]:
        """Return the calls under way, in the order of their begin."""
        return list(self._live.values())


def _hits(steps: Iterable[Step]) -> int:
    """Return how many of a call's requests to stores went to a region that was known."""
    hits = 0
    for kind, name, *_ in steps:
        if kind == "rpc":
            hits += name.startswith(_OF_STORES)
        elif kind == "region_load":
            hits -= 1
    return hits


def _mark(cell: Cell | SharedCell, seconds: float, record: CallRecord) -> None:
    trace_id = trace_id_of(record)
    if trace_id:
        cell.mark(seconds, trace_id)


# --- which registry has which -----------------------------------------------------------------------------------------

_all: weakref.WeakSet[Metrics] = weakref.WeakSet()
_by_registry: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def install(registry: CollectorRegistry | None = None, *, buckets: Iterable[float] | None = None) -> Metrics:
    """Count what all clients do, from now on, for `registry` (None: prometheus_client's own). Again: the same object.

    `buckets`: upper bounds of durations in seconds, positive and rising; None: `DEFAULT_BUCKETS`, or what the registry
    has. Raises ConfigError for other buckets than the registry has already, and where something else has the names.
    """
    if registry is None:
        registry = REGISTRY
    if not isinstance(registry, CollectorRegistry):
        raise WrongType(f"registry must be a prometheus_client.CollectorRegistry, not {type(registry).__name__}")
    wanted = None if buckets is None else check_buckets(buckets)
    with _lock:
        metrics = _by_registry.get(registry)
        if metrics is None:
            metrics = _make(wanted or DEFAULT_BUCKETS)
            if not IS_MULTIPROCESS:
                _register(registry, metrics)
            _by_registry[registry] = metrics
        elif wanted is not None and wanted != metrics.buckets:
            raise ConfigError(f"the registry counts with the buckets {list(metrics.buckets)}: set them once")
    telemetry.install(metrics)
    return metrics


def uninstall(registry: CollectorRegistry | None = None) -> None:
    """Count no more for `registry`, and take the metrics out of it; without effect where they are not."""
    with _lock:
        metrics = _by_registry.pop(REGISTRY if registry is None else registry, None)
    if metrics is not None:
        telemetry.remove(metrics)
        if not IS_MULTIPROCESS:
            (REGISTRY if registry is None else registry).unregister(metrics)


def _make(buckets: tuple[float, ...]) -> Metrics:
    try:
        return Metrics(buckets)
    except OSError as error:
        raise ConfigError(f"PROMETHEUS_MULTIPROC_DIR: its files cannot be written: {error}") from error


def _register(registry: CollectorRegistry, metrics: Metrics) -> None:
    try:
        registry.register(metrics)
    except ValueError as error:
        raise ConfigError(f"the registry has metrics of these names from somebody else: {error}") from None


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # its holder, if any, stayed in the parent
    for metrics in list(_all):
        metrics._live = {}
        if metrics._shared is not None:
            metrics._shared.forget()
        if not IS_MULTIPROCESS:  # there, prometheus_client sees by the process's id that a file of its own is due
            metrics._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
