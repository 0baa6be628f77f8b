"""Where time went: each moment of a period is given to what was under way in it, and the parts add up to the whole.

Calls overlap (tasks, threads), and so do the steps of one call (one request a region). The rule, moment by moment:

1. No call under way: the moment is the application's own.
2. Several calls under way: it is divided among them equally. A call within another one (`run` and what it calls) stands
   for both.
3. Within a call, no step under way: it is the client's own, the code of this library (and, where the store is
   embedded, the store).
4. Several steps under way: the step of the first of these ranks has it; of several of one rank, each an equal part.
   A wait for a lock, a look-up of a region, a queue or a new connection, then the rest (RPCs, back-off, timestamps):
   what is named first is made of what is named last.
5. A moment of an RPC is divided as the whole RPC was: what the store said it spent (`rpc_facts`), of it waiting in its
   queues and for locks, and the rest, which is the network's. A store that says nothing leaves all to the network.

6. Requests are made, sent and read by this thread's CPU, which is the client's own time too. It is known in sum only:
   what exceeds the client's moments of rule 3 is taken from the waits for the network (RPCs but for what the store
   said, timestamps, look-ups, new connections) in proportion. In asyncio that may be the CPU time of other tasks.

Phases of a transaction and hedges are marks of progress: they take no time of their own.

Pure: no clock, no I/O. Costs n log n for n calls and, within a call, steps by steps.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pytikv.observe.rpc_facts import server_time_of_step
from pytikv.observe.telemetry import CallRecord, Step

__all__ = ["Call", "Part", "Shares", "Slot", "attribute", "attribute_call", "move_cpu"]


class Part(enum.Enum):
    """What a moment went to; the value is its name for people."""

    APPLICATION = "your code"
    CLIENT = "client"
    NETWORK = "network"
    SERVER = "server"
    SERVER_QUEUE = "server queue"
    LOCK_WAIT = "lock wait"
    BACKOFF = "back-off"
    TSO = "timestamps"
    REGION_LOAD = "region look-up"
    CONNECT = "connect"
    QUEUE = "client queue"
    PROFILE = "this profile"


class Slot(NamedTuple):
    """One thing that time went to. `name`: of the RPC, the kind of back-off or lock; `store`: `host:port`, or empty."""

    method: str
    part: Part
    name: str = ""
    store: str = ""


Shares = Mapping[Slot, float]
"""Seconds by slot."""


class Call(NamedTuple):
    """What is kept of a record: its times, and of its steps' bytes only what the stores said of their time."""

    number: int
    parent: int | None
    """The number of the call around it."""
    method: str
    began: float
    ended: float | None
    steps: Sequence[Step] = ()

    @classmethod
    def of(cls, record: CallRecord, number: int = 0, parent: int | None = None) -> Call:
        """Take down a record."""
        steps = [step._replace(detail=server_time_of_step(step)) for step in record.steps if step.kind in _RANKS]
        return cls(number, parent, record.method, record.began, record.ended, steps)


Span = tuple[float, float]
Reading = Callable[[float], float]
"""A clock's reading at a time; only differences count."""

_RANKS: Final = {
    "lock_wait": (0, Part.LOCK_WAIT),
    "region_load": (1, Part.REGION_LOAD),
    "queue": (2, Part.QUEUE),
    "connect": (2, Part.CONNECT),
    "rpc": (3, Part.NETWORK),
    "backoff": (3, Part.BACKOFF),
    "tso": (3, Part.TSO),
}


_MADE_BY_CPU: Final = frozenset({Part.NETWORK, Part.TSO, Part.REGION_LOAD, Part.CONNECT})


def attribute(calls: Sequence[Call], began: float, ended: float) -> dict[Slot, float]:
    """Divide the time from `began` to `ended` (values of the runtime's `now()`) among `calls`; the sum is the whole.

    A call without an end counts as under way until `ended`.
    """
    found: defaultdict[Slot, float] = defaultdict(float)
    own = _own_times(calls, began, ended)
    clock = _SharedClock([span for spans in own for span in spans], began)
    for call, spans in zip(calls, own, strict=True):
        for span in spans:
            _divide(call, span, clock.at, found)
    idle = (ended - began) - clock.busy_s
    if idle > 0:
        found[Slot("", Part.APPLICATION)] += idle
    return dict(found)


def attribute_call(call: Call) -> dict[Slot, float]:
    """Divide the time of one call, looked at alone; the sum is the call's duration."""
    found: defaultdict[Slot, float] = defaultdict(float)
    ended = call.ended if call.ended is not None else call.began
    _divide(call, (call.began, ended), float, found)
    return dict(found)


def move_cpu(shares: Shares, cpu_s: float) -> dict[Slot, float]:
    """Apply rule 6: `cpu_s` is the CPU time of the thread while calls were under way. The sum stays what it is."""
    found = dict(shares)
    excess_s = cpu_s - sum(seconds for slot, seconds in shares.items() if slot.part is Part.CLIENT)
    waits = {slot: seconds for slot, seconds in shares.items() if slot.part in _MADE_BY_CPU}
    total_s = sum(waits.values())
    if excess_s <= 0 or total_s <= 0:
        return found
    fraction = min(excess_s / total_s, 1.0)
    for slot, seconds in waits.items():
        own = Slot(slot.method, Part.CLIENT, "in requests")
        found[slot] = seconds - seconds * fraction
        found[own] = found.get(own, 0.0) + seconds * fraction
    return found


# --- among calls ------------------------------------------------------------------------------------------------------


class _SharedClock:
    """Time that runs slower the more calls there are: what one call gets of each moment, summed up from the begin."""

    def __init__(self, spans: Sequence[Span], began: float) -> None:
        changes: defaultdict[float, int] = defaultdict(int)
        for begin, end in spans:
            changes[begin] += 1
            changes[end] -= 1
        self._times: list[float] = [began]
        self._shared: list[float] = [0.0]
        self.busy_s = 0.0
        under_way = 0
        for time in sorted(changes):
            passed = time - self._times[-1]
            self._shared.append(self._shared[-1] + (passed / under_way if under_way else 0.0))
            self._times.append(time)
            self.busy_s += passed if under_way else 0.0
            under_way += changes[time]

    def at(self, time: float) -> float:
        index = bisect.bisect_right(self._times, time) - 1
        if index + 1 == len(self._times):
            return self._shared[index]
        low, high = self._times[index], self._times[index + 1]
        return self._shared[index] + (self._shared[index + 1] - self._shared[index]) * (time - low) / (high - low)


def _own_times(calls: Sequence[Call], began: float, ended: float) -> list[list[Span]]:
    """Return when each call is under way with no call within it."""
    whole = [_clip(call.began, ended if call.ended is None else call.ended, began, ended) for call in calls]
    within: defaultdict[int, list[Span]] = defaultdict(list)
    for call, span in zip(calls, whole, strict=True):
        if call.parent is not None and span is not None:
            within[call.parent].append(span)
    own = []
    for call, span in zip(calls, whole, strict=True):
        own.append([] if span is None else list(_without(span, within.get(call.number, ()))))
    return own


def _clip(begin: float, end: float, low: float, high: float) -> Span | None:
    begin, end = max(begin, low), min(end, high)
    return (begin, end) if begin < end else None


def _without(span: Span, taken: Iterable[Span]) -> Iterator[Span]:
    """Yield what is left of a span."""
    at, end = span
    for low, high in sorted(taken):
        if low > at:
            yield at, min(low, end)
        at = max(at, high)
        if at >= end:
            return
    if at < end:
        yield at, end


# --- within a call ----------------------------------------------------------------------------------------------------


def _divide(call: Call, span: Span, at: Reading, found: defaultdict[Slot, float]) -> None:
    """Give the moments of a span to the call's steps."""
    begin, end = span
    steps = [step for step in call.steps if step.began < end and step.ended > begin and step.kind in _RANKS]
    if len(steps) > 1:
        _divide_among(call.method, steps, span, at, found)
        return
    own = at(end) - at(begin)
    if steps:  # by far the most
        step = steps[0]
        seconds = at(min(step.ended, end)) - at(max(step.began, begin))
        own -= seconds
        for slot, weight in _slots(call.method, step):
            found[slot] += seconds * weight
    if own > 0:
        found[Slot(call.method, Part.CLIENT)] += own


def _divide_among(method: str, steps: Sequence[Step], span: Span, at: Reading, found: defaultdict[Slot, float]) -> None:
    begin, end = span
    slots = [(_RANKS[step.kind][0], step, _slots(method, step)) for step in steps]
    edges = {begin, end}
    for step in steps:
        edges.add(max(step.began, begin))
        edges.add(min(step.ended, end))
    for low, high in itertools.pairwise(sorted(edges)):
        seconds = at(high) - at(low)
        under_way = [one for one in slots if one[1].began <= low and one[1].ended >= high]
        if not under_way:
            found[Slot(method, Part.CLIENT)] += seconds
            continue
        rank = min(one[0] for one in under_way)
        first = [one for one in under_way if one[0] == rank]
        for _, _, weights in first:
            for slot, weight in weights:
                found[slot] += seconds / len(first) * weight


def _slots(method: str, step: Step) -> list[tuple[Slot, float]]:
    """Return what a step's time went to, with weights that add up to 1."""
    part = _RANKS[step.kind][1]
    slot = Slot(method, part, step.name, step.store)
    server = server_time_of_step(step) if step.kind == "rpc" else None
    took = step.ended - step.began
    if server is None or took <= 0:
        return [(slot, 1.0)]
    total = min(server.total / took, 1.0) if server.total else min((server.waited + server.lock_waited) / took, 1.0)
    locked = min(server.lock_waited / took, total)
    waited = min(server.waited / took, total - locked)
    weights = [
        (slot._replace(part=Part.LOCK_WAIT), locked),
        (slot._replace(part=Part.SERVER_QUEUE), waited),
        (slot._replace(part=Part.SERVER), total - locked - waited),
        (slot, 1.0 - total),
    ]
    return [(one, weight) for one, weight in weights if weight > 0]
