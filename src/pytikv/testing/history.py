"""Histories: what every process asked for, what it was told, and in which order.

A history is the evidence that a checker judges. It is a list of operations on single keys; each has a moment of
invocation and, unless its answer was lost, a moment of completion. The moments are numbers drawn from one counter, so
that their order is the order of real time as far as the recorder could see it, without a clock.

States of an operation: *pending* after `invoke`, then exactly one of

* `ok`: the answer is known; the operation took effect once, between its two moments;
* `failed`: the answer says that nothing was changed; the operation is no part of the story any more;
* `undetermined`: nobody knows. It may take effect at any moment after its invocation, or never. An operation still
  pending when the history is judged (its process crashed) counts as undetermined.

A call on many keys is recorded as one operation a key over the same interval: that is what TiKV's raw API promises.
Recording is safe from any number of threads; a process (a number) must have at most one operation running at a time on
one key, as a client that waits for its answers does. Expiry by TTL is not modelled: do not record keys with one.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from pytikv.errors import Outcome, TikvError

__all__ = ["History", "Kind", "Operation", "Status"]

T = TypeVar("T")


class Kind(enum.Enum):
    """What was asked for. The arguments are the fields `value` and `expected` of the operation."""

    GET = "get"
    PUT = "put"
    DELETE = "delete"
    CAS = "cas"
    PUT_IF_ABSENT = "put_if_absent"


class Status(enum.Enum):
    """What is known about the end of an operation."""

    OK = "ok"
    FAILED = "failed"
    UNDETERMINED = "undetermined"


@dataclasses.dataclass(slots=True)
class Operation:
    """One operation on one key.

    `value` is what a put, a put_if_absent or a compare-and-swap writes (None in a compare-and-swap: delete), `expected`
    what the compare-and-swap compares with (None: absent). Of the answer, `read` is what a get returned or what the
    other two say was there before, `swapped` whether the write was done. `returned` is None until a definite answer.
    """

    process: int
    kind: Kind
    key: bytes
    invoked: int
    value: bytes | None = None
    expected: bytes | None = None
    read: bytes | None = None
    swapped: bool = False
    returned: int | None = None
    status: Status = Status.UNDETERMINED

    def describe(self) -> str:
        """Return one line for people: who, when, what, and what came of it."""
        end = "?" if self.returned is None else str(self.returned)
        return f"[{self.invoked:>5} .. {end:>5}] process {self.process}: {self._call()} -> {self._answer()}"

    def _call(self) -> str:
        arguments = {
            Kind.GET: [],
            Kind.DELETE: [],
            Kind.PUT: [self.value],
            Kind.PUT_IF_ABSENT: [self.value],
            Kind.CAS: [self.expected, self.value],
        }[self.kind]
        return f"{self.kind.value}({', '.join(repr(item) for item in [self.key, *arguments])})"

    def _answer(self) -> str:
        if self.status is not Status.OK:
            return str(self.status.value)
        if self.kind is Kind.GET:
            return repr(self.read)
        if self.kind in (Kind.CAS, Kind.PUT_IF_ABSENT):
            return f"{'done' if self.swapped else 'refused'}, previous {self.read!r}"
        return "ok"


class History:
    """A recorder, and the record. All methods are safe to call from any thread."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.operations: list[Operation] = list(operations)
        last = max((max(op.invoked, op.returned or 0) for op in self.operations), default=0)
        self._clock = itertools.count(last + 1)  # next() on it is atomic, and so is list.append

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def invoke(
        self, process: int, kind: Kind, key: bytes, *, value: bytes | None = None, expected: bytes | None = None
    ) -> Operation:
        """Record that `process` is about to send an operation; call it before anything leaves."""
        operation = Operation(process, kind, key, next(self._clock), value, expected)
        self.operations.append(operation)
        return operation

    def ok(self, operation: Operation, read: bytes | None = None, *, swapped: bool = False) -> None:
        """Record the answer; call it after it arrived. `swapped` matters to the conditional operations only."""
        operation.read, operation.swapped = read, swapped
        operation.status = Status.OK
        operation.returned = next(self._clock)

    def failed(self, operation: Operation) -> None:
        """Record that the operation certainly changed nothing."""
        operation.status = Status.FAILED
        operation.returned = next(self._clock)

    def undetermined(self, operation: Operation) -> None:
        """Record that the operation may or may not take effect, now or later."""
        operation.status = Status.UNDETERMINED

    def by_key(self) -> dict[bytes, list[Operation]]:
        """Return the operations of each key, in the order of their invocation."""
        keys: dict[bytes, list[Operation]] = {}
        for operation in sorted(self.operations, key=lambda op: op.invoked):
            keys.setdefault(operation.key, []).append(operation)
        return keys

    # --- recording calls of a client ----------------------------------------------------------------------------------

    async def call(self, operation: Operation, answer: Awaitable[Any]) -> Any:
        """Await a client's answer to `operation` and record it; errors are recorded by their `outcome` and raised."""
        try:
            result = await answer
        except BaseException as error:
            self._record_error(operation, error)
            raise
        self._record_result(operation, result)
        return result

    def call_blocking(self, operation: Operation, function: Callable[[], T]) -> T:
        """Do the same with a blocking call."""
        try:
            result = function()
        except BaseException as error:
            self._record_error(operation, error)
            raise
        self._record_result(operation, result)
        return result

    def _record_error(self, operation: Operation, error: BaseException) -> None:
        # A cancelled call or a bug tells nothing about a write; a read changes nothing however it ends.
        outcome = error.outcome if isinstance(error, TikvError) else Outcome.UNDETERMINED
        if operation.kind is Kind.GET or outcome is Outcome.NOT_APPLIED:
            self.failed(operation)
        else:
            self.undetermined(operation)

    def _record_result(self, operation: Operation, result: Any) -> None:
        if operation.kind is Kind.GET:
            self.ok(operation, result)
        elif operation.kind is Kind.CAS:
            self.ok(operation, result.previous, swapped=result.swapped)
        elif operation.kind is Kind.PUT_IF_ABSENT:
            self.ok(operation, result, swapped=result is None)
        else:
            self.ok(operation)

    # --- files --------------------------------------------------------------------------------------------------------

    def to_json_lines(self) -> Iterator[str]:
        """Yield one JSON object an operation; bytes are written in hexadecimal."""
        for operation in self.operations:
            record = {field.name: getattr(operation, field.name) for field in dataclasses.fields(operation)}
            yield json.dumps({name: _plain(item) for name, item in record.items()})

    @classmethod
    def from_json_lines(cls, lines: Iterable[str]) -> History:
        """Read what `to_json_lines` wrote."""
        return cls(_operation(json.loads(line)) for line in lines if line.strip())


def _plain(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.hex()
    return item.value if isinstance(item, enum.Enum) else item


def _operation(record: dict[str, Any]) -> Operation:
    for name in ("key", "value", "expected", "read"):
        if record[name] is not None:
            record[name] = bytes.fromhex(record[name])
    record["kind"], record["status"] = Kind(record["kind"]), Status(record["status"])
    return Operation(**record)
