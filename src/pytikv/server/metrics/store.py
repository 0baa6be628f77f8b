"""What a store counts while it works. `store_pages` shows it, with what is read from the store itself.

Messages are counted by the loop, when their answer leaves: one observation for each kind of command that a message of
many brought. Commands that change data are counted where they run, on whichever thread, under a mutex.

Sources of names and buckets: TiKV src/server/metrics.rs, src/storage/metrics.rs, src/server/lock_manager/metrics.rs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from typing import Any, Final

from pytikv.rt.locks import mutex
from pytikv.server.metrics.model import Histogram, exponential
from pytikv.server.storage.spent import Spent

__all__ = ["StoreMetrics", "command_of", "type_of"]

_MESSAGE: Final = exponential(5e-5, 2, 22)
_BATCH: Final = exponential(1, 2, 10)
_COMMAND: Final = exponential(1e-5, 2, 26)
_KEYS: Final = exponential(1, 2, 21)
_ASYNC: Final = exponential(1e-5, 2, 32)
_STATUS: Final = exponential(1e-4, 2, 24)
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_COMMANDS: Final = {"pessimistic_lock": "acquire_pessimistic_lock", "batch_rollback": "rollback"}
_CONFLICTS: Final = {
    "prewrite": "prewrite_write_conflict",
    "acquire_pessimistic_lock": "acquire_pessimistic_lock_conflict",
}


@cache
def type_of(rpc: str) -> str:
    """Return what TiKV's message metrics call an RPC: KvTxnHeartBeat is ``kv_txn_heart_beat``."""
    return _WORDS.sub("_", rpc).lower()


@cache
def command_of(rpc: str) -> str:
    """Return what TiKV's storage and scheduler metrics call an RPC: KvBatchRollback is ``rollback``."""
    name = type_of(rpc).removeprefix("kv_")
    return _COMMANDS.get(name, name)


def _histograms(bounds: tuple[float, ...]) -> defaultdict[str, Histogram]:
    return defaultdict(lambda: Histogram(bounds))


class StoreMetrics:
    """The counts of one store."""

    def __init__(self) -> None:
        self.messages = _histograms(_MESSAGE)
        """By type: seconds from a message's arrival until its answer left."""
        self.failures: defaultdict[str, int] = defaultdict(int)
        self.requests_in_batch = Histogram(_BATCH)
        self.answers_in_batch = Histogram(_BATCH)
        self.writes = Histogram(_ASYNC)
        """Seconds from a change's being carried out until it was durable."""
        self.failed_writes = 0
        self.waits = Histogram(_COMMAND)
        """Seconds that pessimistic lock requests waited."""
        self.pending = 0
        """Commands that run off the loop or wait for a lock."""
        self.status_requests: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(_STATUS))
        self.gc_steps = Histogram(_COMMAND)
        self.failed_gc_steps = 0
        self.is_collecting = False
        """Whether a round of garbage collection is under way."""
        self.worker_tasks: defaultdict[str, int] = defaultdict(int)
        """By name of the background worker: the steps that it has made."""
        self.heartbeats = 0
        self._mutex = mutex()
        self.commands = _histograms(_COMMAND)
        self.latch_waits = _histograms(_COMMAND)
        self.keys_written = _histograms(_KEYS)
        self.conflicts: defaultdict[str, int] = defaultdict(int)
        self.deadlocks = 0
        self.too_late: defaultdict[str, int] = defaultdict(int)

    def counts_of(self, command: str) -> tuple[Histogram, Histogram, Histogram]:
        """Return what `changed` counts a command that changes data in; it is on the page from now on."""
        return self.commands[command], self.latch_waits[command], self.keys_written[command]

    def changed(self, counts: tuple[Histogram, Histogram, Histogram], spent: Spent, keys: int) -> None:
        """A command that changes data was carried out. From any thread."""
        times, latch_waits, keys_written = counts
        with self._mutex:
            times.observe(spent.process_s + spent.latch_wait_s)
            latch_waits.observe(spent.latch_wait_s)
            keys_written.observe(keys)

    def refused(self, command: str, response: Any) -> None:
        """A command that changes data has changed nothing: count what its answer says. From any thread."""
        with self._mutex:
            for error in getattr(response, "errors", ()):
                if error.HasField("conflict"):
                    self.conflicts[_CONFLICTS.get(command, command)] += 1
                elif error.HasField("deadlock"):
                    self.deadlocks += 1

    def came_too_late(self, command: str) -> None:
        """A command was not carried out because its client's time was over. From any thread."""
        with self._mutex:
            self.too_late[command] += 1
