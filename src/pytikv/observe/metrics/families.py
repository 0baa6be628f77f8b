"""The metrics that calls count into: their names, labels and buckets, which are a contract with dashboards and alerts.

Names without a unit in them count things. `store` is ``host:port``, of a store or of PD; `status` is ``ok`` or the code
of an error; `method` is the API and the operation (``raw_get``, ``txn_commit``). All label values come from small sets,
so the number of series is bounded: methods times codes, stores times RPCs times codes.

The objects are prometheus_client's own, made for no registry: `sink.Metrics` collects them. Those that every call
counts into are made to be quicker (`histogram`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from pytikv._version import __version__
from pytikv.observe.metrics.buckets import SIZES
from pytikv.observe.metrics.histogram import CellHistogram

__all__ = ["Families"]


class Families:
    """One set of counters; made anew in a forked child."""

    def __init__(self, buckets: Sequence[float]) -> None:
        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=None)

        def sizes(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=SIZES, registry=None)

        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=None)

        self.requests = CellHistogram(
            "tikv_request_duration_seconds", "Calls, by how they ended.", ("method", "status"), buckets
        )
        self.rpcs = CellHistogram(
            "tikv_rpc_duration_seconds", "Requests to stores and PD.", ("store", "rpc", "status"), buckets
        )
        self.retries = count("tikv_retries", "Waits before another try, by kind of trouble.", "kind")
        self.backoff = count("tikv_backoff_seconds", "Time waited before another try, by kind of trouble.", "kind")
        self.lookups = count(
            "tikv_region_cache_lookups", "Requests whose region was known (hit), and questions to PD (miss).", "result"
        )
        self.reloads = count("tikv_region_cache_reloads", "Questions to PD about regions that were known before.")
        self.tso_wait = seconds("tikv_tso_wait_seconds", "Waits of calls for a timestamp.")
        self.tso_batch = sizes("tikv_tso_batch_size", "Timestamps asked for in one request to PD.")
        self.phases = seconds("tikv_txn_phase_duration_seconds", "Phases of transactions.", "phase")
        self.txns = count("tikv_txn", "Transactions that ended, by how and by their kind.", "result", "mode")
        self.conflicts = count("tikv_txn_conflicts", "Calls of transactions that met a conflict.", "kind")
        self.lock_wait = seconds("tikv_lock_wait_seconds", "Time that a lock was in the way of a call.", "kind")
        self.batch_keys = sizes("tikv_batch_keys", "Keys of one call.", "method")
        self.hedges = count("tikv_hedges", "Second tries of reads, by whether their answer was the first.", "result")
        for result in ("won", "lost"):  # there from the start, so that their rates are
            self.hedges.labels(result)
        self.frames = CellHistogram(
            "tikv_batch_commands_size", "Commands that were sent to a store in one message.", (), SIZES
        )
        self.connects = seconds("tikv_connect_duration_seconds", "Connections made.", "store", "status")
        self.queued = seconds("tikv_queue_wait_seconds", "Waits for a place at a store, or for a connection.", "store")
        self.build = Gauge(
            "pytikv_build_info", "The version in use.", ["version"], registry=None, multiprocess_mode="max"
        )
        self.build.labels(__version__).set(1)

    def all(self) -> list[Any]:
        """Return every metric."""
        return list(vars(self).values())
