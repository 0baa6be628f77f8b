"""Is a history linearizable? A checker for single keys: put, delete, get, compare-and-swap, put_if_absent.

A history is linearizable when every operation can be given one moment between its invocation and its answer such that,
done in the order of these moments, each gives the answer that was seen. Linearizability is local (Herlihy and Wing,
1990): a history is linearizable exactly when the history of each key is, so each key is searched for itself.

The search is Wing and Gong's (1993) with Lowe's memory (2017), as porcupine has it: walk the list of events; any
operation invoked before the first answer still open may come next; try it on the model, go on, and step back where
nothing fits. A pair (set of operations done, value of the register) seen once is never tried again. Three things keep
the search small:

* an operation that changes nothing and whose answer fits the present value is taken at once, without a way back: moving
  it to now never spoils an order that exists;
* an undetermined operation is never *required*: the search ends when all answered operations have their place;
* an undetermined write whose value nobody saw and nobody compares with explains nothing, and is left out.

The problem is NP-complete, so the search has a budget of steps; used up, the answer is `Verdict.UNKNOWN`, which is
neither a pass nor a failure. The budget counts steps, not seconds, so that the answer is the same on every machine.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

from pytikv.testing.history import History, Kind, Operation, Status

__all__ = ["DEFAULT_STEPS", "KeyReport", "NotLinearizable", "Report", "Verdict", "check", "check_key"]

DEFAULT_STEPS = 1_000_000
"""Steps allowed for one key, about a microsecond or two each."""

_SHOWN = 12


class Verdict(enum.Enum):
    """What the checker found."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNKNOWN = "unknown"


class NotLinearizable(AssertionError):
    """Raised by `Report.raise_for_violation`; its text tells the story of the key."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyReport:
    """The finding for one key.

    `order` is a linearization when there is one, else the longest one found; `stuck` then holds the operations of which
    none could come next, and `value` what the register held at that point.
    """

    key: bytes
    verdict: Verdict
    operations: int
    steps: int
    order: tuple[Operation, ...] = ()
    stuck: tuple[Operation, ...] = ()
    value: bytes | None = None

    def describe(self) -> str:
        """Return a few lines for people."""
        head = f"key {self.key!r}: {self.verdict.value} ({self.operations} operations, {self.steps} steps)"
        if self.verdict is not Verdict.VIOLATION:
            return head
        lines = [head, f"an order of {len(self.order)} operations explains the history up to the value {self.value!r}:"]
        if len(self.order) > _SHOWN:
            lines.append("  ...")
        lines += [f"  {op.describe()}" for op in self.order[-_SHOWN:]]
        lines.append("after it, none of these can come next:")
        lines += [f"  {op.describe()}" for op in self.stuck[:_SHOWN]]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The finding for a whole history: the worst of its keys."""

    verdict: Verdict
    keys: tuple[KeyReport, ...]

    def describe(self) -> str:
        """Return the findings that are not a pass, or one line when all are."""
        bad = [key.describe() for key in self.keys if key.verdict is not Verdict.LINEARIZABLE]
        total = sum(key.operations for key in self.keys)
        return "\n".join(bad) or f"linearizable: {total} operations on {len(self.keys)} keys"

    def raise_for_violation(self) -> None:
        """Raise NotLinearizable unless the history is linearizable; UNKNOWN raises too, saying so."""
        if self.verdict is not Verdict.LINEARIZABLE:
            raise NotLinearizable(self.describe())


def check(history: History, *, initial: bytes | None = None, steps: int = DEFAULT_STEPS) -> Report:
    """Judge every key of `history`; `initial` is what each held at the start, `steps` the budget for each key."""
    keys = tuple(check_key(ops, initial=initial, steps=steps) for ops in history.by_key().values())
    found = {key.verdict for key in keys}
    for verdict in (Verdict.VIOLATION, Verdict.UNKNOWN):
        if verdict in found:
            return Report(verdict, keys)
    return Report(Verdict.LINEARIZABLE, keys)


def check_key(
    operations: Iterable[Operation], *, initial: bytes | None = None, steps: int = DEFAULT_STEPS
) -> KeyReport:
    """Judge the operations of one key."""
    everything = list(operations)
    search = _Search(_relevant(everything), initial, steps)
    verdict = search.run()
    key = everything[0].key if everything else b""
    if verdict is Verdict.VIOLATION:
        order, stuck, value = search.best
        return KeyReport(key, verdict, len(everything), search.steps, order, stuck, value)
    order = tuple(entry.operation for entry in search.done)
    return KeyReport(key, verdict, len(everything), search.steps, order if verdict is Verdict.LINEARIZABLE else ())


def _relevant(operations: list[Operation]) -> list[Operation]:
    """Leave out what changed nothing and told nothing: failed operations, lost reads, writes that nobody saw."""
    seen = {op.expected for op in operations if op.kind is Kind.CAS}
    seen |= {op.read for op in operations if op.status is Status.OK and op.kind not in (Kind.PUT, Kind.DELETE)}

    def matters(op: Operation) -> bool:
        if op.status is Status.UNDETERMINED:
            return op.kind is not Kind.GET and _writes(op) in seen
        return op.status is Status.OK

    return [op for op in operations if matters(op)]


def _writes(op: Operation) -> bytes | None:
    return None if op.kind is Kind.DELETE else op.value


def _step(op: Operation, value: bytes | None) -> tuple[bool, bytes | None]:
    """Do `op` on a register that holds `value`: whether its answer fits, and what the register holds then."""
    known = op.status is Status.OK
    if op.kind is Kind.GET:
        return op.read == value, value
    if op.kind is Kind.PUT or op.kind is Kind.DELETE:
        return True, _writes(op)
    swaps = value == op.expected if op.kind is Kind.CAS else value is None
    fits = not known or (op.swapped == swaps and op.read == value)
    return fits, op.value if swaps else value


def _harmless(op: Operation, unchanged: bool) -> bool:
    """Whether `op`, which fits now, fits nowhere else with another effect. (A put may be needed later: it is not.)"""
    return unchanged and op.status is Status.OK and op.kind not in (Kind.PUT, Kind.DELETE)


class _Entry:
    """One event in the doubly linked list: the invocation of an operation, or (`invocation` set) its answer."""

    __slots__ = ("answer", "bit", "invocation", "next", "operation", "previous")

    def __init__(self, operation: Operation, bit: int, invocation: _Entry | None) -> None:
        self.operation = operation
        self.bit = bit
        self.invocation = invocation  # of an answer: the entry it answers
        self.answer: _Entry | None = None  # of an invocation: its answer, None when undetermined
        self.previous: _Entry = self
        self.next: _Entry | None = None

    def unlink(self) -> None:
        self.previous.next = self.next
        if self.next is not None:
            self.next.previous = self.previous

    def relink(self) -> None:
        self.previous.next = self
        if self.next is not None:
            self.next.previous = self


class _Search:
    """The state of the search: the list of events left, the stack of operations done, and the pairs seen."""

    def __init__(self, operations: list[Operation], initial: bytes | None, limit: int) -> None:
        self._head = _event_list(operations)
        self._required = sum(op.status is Status.OK for op in operations)
        self._limit = limit
        self._value = initial
        self._mask = 0
        self._seen: set[tuple[int, bytes | None]] = set()
        self._undo: list[tuple[bytes | None, bool]] = []  # the value before each step, and whether to try another way
        self.done: list[_Entry] = []
        self.steps = 0
        self.best: tuple[tuple[Operation, ...], tuple[Operation, ...], bytes | None] = ((), (), initial)
        self._deepest = -1

    def run(self) -> Verdict:
        entry = self._head.next
        while self._required:
            self.steps += 1
            if self.steps > self._limit:
                return Verdict.UNKNOWN
            if entry is not None and entry.invocation is None:
                entry = self._head.next if self._take(entry) else entry.next
                continue
            # The first open answer, or the end of the list: nothing invoked before it fits. Step back.
            self._note_stuck()
            entry = self._step_back()
            if entry is None:
                return Verdict.VIOLATION
            entry = entry.next
        return Verdict.LINEARIZABLE

    def _take(self, entry: _Entry) -> bool:
        """Do the operation next, if its answer fits and the result was not tried before."""
        fits, value = _step(entry.operation, self._value)
        if not fits:
            return False
        mask = self._mask | entry.bit
        if (mask, value) in self._seen:
            return False
        self._seen.add((mask, value))
        self._undo.append((self._value, not _harmless(entry.operation, value == self._value)))
        self.done.append(entry)
        self._mask, self._value = mask, value
        entry.unlink()
        if entry.answer is not None:
            entry.answer.unlink()
            self._required -= 1
        return True

    def _step_back(self) -> _Entry | None:
        """Undo up to and including the last step that leaves another way; None when there is none."""
        while self.done:
            entry = self.done.pop()
            self._value, choice = self._undo.pop()
            self._mask &= ~entry.bit
            if entry.answer is not None:
                entry.answer.relink()
                self._required += 1
            entry.relink()
            if choice:
                return entry
        return None

    def _note_stuck(self) -> None:
        if len(self.done) <= self._deepest:
            return
        self._deepest = len(self.done)
        stuck = []
        entry = self._head.next
        while entry is not None and entry.invocation is None:
            stuck.append(entry.operation)
            entry = entry.next
        self.best = (tuple(e.operation for e in self.done), tuple(stuck), self._value)


def _event_list(operations: list[Operation]) -> _Entry:
    """Return the head of the linked list of all events in the order of their moments."""
    events: list[tuple[int, _Entry]] = []
    for number, op in enumerate(operations):
        invocation = _Entry(op, 1 << number, None)
        events.append((op.invoked, invocation))
        if op.status is Status.OK:
            assert op.returned is not None
            invocation.answer = _Entry(op, 0, invocation)
            events.append((op.returned, invocation.answer))
    events.sort(key=lambda event: event[0])
    head = last = _Entry(Operation(-1, Kind.GET, b"", -1), 0, None)
    for _, entry in events:
        entry.previous, last.next = last, entry
        last = entry
    return head
