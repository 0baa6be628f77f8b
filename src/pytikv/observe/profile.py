"""Where the time of a block went: `with pytikv.profile() as report:`, then `print(report)`.

Looked at are the calls made in the block's own context: its thread, the asyncio tasks begun in it, and the work that
those begin; `profile(everywhere=True)` takes the calls of the whole process, whoever makes them. Blocks may nest; each
has its own report. Clients that were opened before the block count as well; transactions that were begun before it do
not, unless something else (metrics, traces) has been looking at them.

How time is given to parts: `observe.attribution`. The parts add up to the block's duration. Parts of the stores need
their answers to say so: transactional ones do, raw ones hold nothing of the kind and leave it all to the network.

`client` is the CPU time of this library in the block's thread, and what kept it from running in between (another
thread, the machine). What it uses while requests are under way is measured in sum; with `everywhere` it is not, and is
left to the network. The CPU time of the thread and of the process stand beside the parts.

Bounds: after `KEPT_CALLS` calls the times are added up and the calls let go; what that takes is a part of its own. A
call that is under way then is taken by what it had done until then, its steps under way by their rest. At most
`telemetry.MAX_STEPS` steps of a call count; more are the client's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final

from pytikv.observe import telemetry
from pytikv.observe.attribution import Call, Part, Slot, attribute, move_cpu
from pytikv.observe.report import MethodStats, Report, StoreStats
from pytikv.observe.telemetry import CallRecord, Sink
from pytikv.rt.clock import ambient_clock

__all__ = ["profile"]

KEPT_CALLS: Final = 5_000


class _Cpu:
    """The CPU time that one thread spends while calls begun in it are under way."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._under_way = 0
        self._from = 0.0
        self._seconds = 0.0

    def begin(self) -> None:
        if not self._under_way:
            self._from = time.thread_time()
        self._under_way += 1

    def end(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._seconds += time.thread_time() - self._from

    def leave_out(self, seconds: float) -> None:
        """Do not count what the profile itself used."""
        self._from += seconds

    @property
    def seconds(self) -> float:
        return self._seconds + (time.thread_time() - self._from if self._under_way else 0.0)


class _Collector(Sink):
    """Hears of calls, and adds up where their time went."""

    def __init__(self, began: float, now: Callable[[], float], *, everywhere: bool) -> None:
        self._now = now
        self._everywhere = everywhere
        self._lock = threading.Lock()
        self._from = began
        self._number = 0
        self.cpu = _Cpu()
        self._open: dict[int, tuple[CallRecord, int, int | None]] = {}
        self._at_home: set[int] = set()
        self._done: list[Call] = []
        self.shares: defaultdict[Slot, float] = defaultdict(float)
        self.methods: defaultdict[str, MethodStats] = defaultdict(MethodStats)
        self.stores: defaultdict[str, StoreStats] = defaultdict(StoreStats)

    def on_begin(self, record: CallRecord) -> None:
        """Take a call on, if it belongs to the block."""
        if self._everywhere or self in _present.get():
            with self._lock:
                self._number += 1
                around = self._open.get(id(record.parent)) if record.parent is not None else None
                self._open[id(record)] = (record, self._number, around[1] if around else None)
                if threading.get_ident() == self.cpu.thread:
                    self._at_home.add(self._number)
                    self.cpu.begin()

    def on_end(self, record: CallRecord) -> None:
        """Take down a call."""
        with self._lock:
            found = self._open.pop(id(record), None)
            if found is None:
                return
            self._done.append(Call.of(*found))
            self._count(record)
            if found[1] in self._at_home and threading.get_ident() == self.cpu.thread:
                self._at_home.discard(found[1])
                self.cpu.end()
            if len(self._done) >= KEPT_CALLS and record.ended is not None:
                began = time.thread_time()
                self._add_up(record.ended)
                self.cpu.leave_out(time.thread_time() - began)
                spent = self._now() - record.ended
                if spent > 0:
                    self.shares[Slot("", Part.PROFILE)] += spent
                    self._from += spent

    def _count(self, record: CallRecord) -> None:
        seconds = (record.ended or record.began) - record.began
        self.methods[record.method].add(seconds, is_failed=record.status != "ok")
        for step in record.steps:
            if step.kind == "rpc" and step.store:
                self.stores[step.store].add(step.ended - step.began, is_failed=step.status != "ok")

    def finish(self, ended: float) -> None:
        """Add up what is there, calls under way included."""
        with self._lock:
            self._add_up(ended)

    def _add_up(self, until: float) -> None:
        under_way = [Call.of(*entry) for entry in self._open.values()]
        for slot, seconds in attribute([*self._done, *under_way], self._from, until).items():
            self.shares[slot] += seconds
        self._done.clear()
        self._from = until


_present: ContextVar[tuple[_Collector, ...]] = ContextVar("pytikv_profile", default=())


class profile:
    """Find out where the time of a block goes. Returns a `Report`, filled when the block ends.

    `everywhere`: look at all calls of the process, not only at those of the block's context. One object serves one
    block. Raises nothing of its own; costs some microseconds a call while the block runs.
    """

    __slots__ = ("_began", "_collector", "_cpu", "_everywhere", "_now", "_report", "_token")

    def __init__(self, *, everywhere: bool = False) -> None:
        self._everywhere = everywhere
        self._token: Token[Any] | None = None

    def __enter__(self) -> Report:
        self._now = ambient_clock.get()
        self._cpu = time.thread_time(), time.process_time()
        self._report = Report()
        self._began = self._now()
        self._collector = _Collector(self._began, self._now, everywhere=self._everywhere)
        self._token = _present.set((*_present.get(), self._collector))
        telemetry.install(self._collector)
        return self._report

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        telemetry.remove(self._collector)
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than it was entered in
                _present.reset(self._token)
        ended, cpu_s = self._now(), self._collector.cpu.seconds
        collector, report = self._collector, self._report
        collector.finish(ended)
        report.seconds = ended - self._began
        report.thread_cpu_seconds = time.thread_time() - self._cpu[0]
        report.process_cpu_seconds = time.process_time() - self._cpu[1]
        # Of several threads at once, or in virtual time, CPU time says nothing about this period.
        is_comparable = not self._everywhere and self._now is time.monotonic
        report.shares = move_cpu(collector.shares, cpu_s) if is_comparable else dict(collector.shares)
        report.methods = dict(collector.methods)
        report.stores = dict(collector.stores)
