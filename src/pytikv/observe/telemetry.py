"""What the request path reports, and to whom: one record for each call, with the steps that it took.

    a public call  ->  CallRecord  ->  steps: rpc, backoff, tso, region_load, queue, lock_wait, phase, ...
                                   ->  sinks: metrics, tracing, logs, profile

Nobody listening is the ordinary state, and costs next to nothing: clients are *substituted* when the first sink is
installed (their backends and their pool are wrapped, see `client.observed` and `client.lanes`), and put back when the
last one goes. What lies off the hot path (a wait, a look-up at PD, the phases of a commit) asks `current_record()`,
which is None then.

Sinks are the process's: `install` and `remove` act on all clients, open ones and those to come. A sink hears of calls
from any thread and loop at once, must be quick, and must not raise; one that does is dropped from the call, and the
fault logged once. `on_step` comes when a step has ended, also from work that outlives its call (the secondaries of a
commit): then `record.ended` is set already.

A sink that has nowhere to send to for now may say so: where the only sink has a method `is_idle` that answers True,
calls are passed through without a record.

A call within a call (`run` begins transactions, whose reads are calls) has a record of its own and names its `parent`.

Limits: `MAX_STEPS` steps are kept a record; more are passed on to the sinks and counted in `steps_dropped`. Times are
values of the runtime's `now()`; `Telemetry.wall_time` turns one into Unix seconds.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from types import CoroutineType
from typing import Any, Final, NamedTuple, TypeVar

from pytikv.ambient import CallContext, current_ambient
from pytikv.errors import TikvError

__all__ = [
    "MAX_STEPS",
    "CallRecord",
    "Sink",
    "Step",
    "Telemetry",
    "as_step",
    "behind",
    "current_record",
    "forget_record",
    "frame",
    "install",
    "on_change",
    "remove",
    "sinks",
    "span_id_of",
    "status_of",
    "trace_id_of",
]

T = TypeVar("T")

MAX_STEPS: Final = 256
logger: Final = logging.getLogger("pytikv")


class Step(NamedTuple):
    """One timed part of a call.

    `kind` is one of: ``rpc`` (name: the RPC's, such as RawGet), ``backoff`` (name: the kind in the back-off table),
    ``tso`` (name: wait, until the call has its timestamp; request, to PD, within the wait of whoever asked for all),
    ``region_load`` (name: miss; reload, of a region that was known), ``connect``, ``queue`` (name: bulkhead, waiting
    for a place at a store; connection, for one of the pool's), ``lock_wait`` (name: read, write, pessimistic: from the
    lock met until it was out of the way or given up), ``phase`` (of a transaction: prewrite, commit, which is the
    primary's, rollback; and behind the call: secondaries, cleanup),
    ``hedge`` (a second try of a read was sent; name: won or lost).
    """

    kind: str
    name: str
    began: float
    ended: float
    status: str = "ok"
    """``ok`` or a short code: a gRPC status, or an error's `code`."""
    store: str = ""
    """``host:port`` of the store or PD; empty where there is none."""
    detail: Any = None
    """What belongs to the kind: for ``rpc`` an `RpcBytes`-like pair (request, answer) of bytes, or None; for ``tso``
    the number of timestamps in the request; else a short text or None."""


_new_tuple = tuple.__new__


class Sink:
    """Whoever listens: a base class. All are called in the thread of the call, and must not raise.

    A sink pays only for the methods that it defines.
    """

    def on_begin(self, record: CallRecord) -> None:
        """A call begins; `record` may be given extra attributes in `record.extra`."""

    def on_step(self, record: CallRecord, step: Step) -> None:
        """A step has ended."""

    def on_end(self, record: CallRecord) -> None:
        """The call has ended: `status`, `error`, `ended` and the steps are there."""

    def on_frame(self, size: int) -> None:
        """A message with `size` commands goes to a store: of several calls, where they came together."""


_current: ContextVar[CallRecord | None] = ContextVar("pytikv_record", default=None)
current_record = _current.get
"""Return the record of the present call; None where nobody listens."""

_sinks: tuple[Sink, ...] = ()
_on_begin: tuple[Callable[[CallRecord], None], ...] = ()
_on_step: tuple[Callable[[CallRecord, Step], None], ...] = ()
_on_end: tuple[Callable[[CallRecord], None], ...] = ()
_on_frame: tuple[Callable[[int], None], ...] = ()
_is_idle: Callable[[], bool] | None = None
_listeners: list[Callable[[bool], None]] = []
_faulty: set[int] = set()
_lock = threading.Lock()
_telling = threading.RLock()


class CallRecord:
    """One call of a client. Written by the request path, read by sinks.

    What most calls never change stands in the class: making a record sets five attributes.
    """

    telemetry: Telemetry
    method: str
    """``raw_get``, ``txn_get``, ``txn_commit``, ... : the API (raw, txn, snapshot, client) and the method's name."""
    began: float
    parent: CallRecord | None
    context: CallContext | None
    """The ambient context (trace id, tenant, ...) at the begin; None where there is none."""
    ended: float | None = None
    status: str = "ok"
    """``ok``, or the `code` of the error; ``cancelled``; ``error`` for one that is not the library's."""
    error: BaseException | None = None
    """What was raised; there until all sinks have heard of the end, and no longer: it refers to the frames that it came
    through, and they to the caller's objects."""
    attributes: dict[str, Any] | None = None
    """Facts of the call, such as start_ts, keys (their number), mode; None until one is noted."""
    steps: Sequence[Step] = ()
    """The steps taken so far, in the order of their ends."""
    steps_dropped: int = 0
    extra: dict[str, Any] | None = None
    """What sinks keep with the record, by their name."""

    def __init__(
        self, telemetry: Telemetry, method: str, began: float, parent: CallRecord | None, context: CallContext | None
    ) -> None:
        self.telemetry = telemetry
        self.method = method
        self.began = began
        self.parent = parent
        self.context = context

    def step(
        self,
        kind: str,
        name: str,
        began: float,
        ended: float,
        status: str = "ok",
        store: str = "",
        detail: Any = None,
    ) -> None:
        """Note a step that has ended and pass it on."""
        step = _new_tuple(Step, (kind, name, began, ended, status, store, detail))  # half the time of Step(...)
        steps = self.steps
        if not steps:
            self.steps = [step]
        elif len(steps) < MAX_STEPS:
            steps.append(step)  # type: ignore[attr-defined]  # a list, once there is one
        else:
            self.steps_dropped += 1
        for on_step in _on_step:
            try:
                on_step(self, step)
            except Exception as error:
                _on_fault(on_step, error)

    def note(self, **facts: Any) -> None:
        """Note facts of the call: `start_ts`, `keys`, `mode`, `region`."""
        if self.attributes is None:
            self.attributes = facts
        else:
            self.attributes.update(facts)


class Telemetry:
    """The records of one client. Cheap; made where the client is substituted."""

    __slots__ = ("_now", "_time", "slow_s", "target")

    def __init__(
        self, now: Callable[[], float], time: Callable[[], float], target: str = "", slow_s: float | None = None
    ) -> None:
        self._now = now
        self._time = time
        self.target = target
        """What the client is connected to, without secrets."""
        self.slow_s = slow_s
        """Seconds over which the client's calls go to the slow-call log; None: none do."""

    def wall_time(self, at: float) -> float:
        """Return a value of `now()` as Unix seconds, by the clocks as they stand now: the wall clock may jump."""
        return at + (self._time() - self._now())

    def run(
        self,
        method: str,
        coroutine: Coroutine[Any, Any, T],
        facts: dict[str, Any] | None = None,
        failure_of: Callable[[T], BaseException | None] | None = None,
    ) -> CoroutineType[Any, Any, T]:
        """Return `coroutine`, to be awaited, as the call `method` with a record of its own. Raises what it raises.

        `facts`: what is known of the call, for `CallRecord.attributes`; kept, not copied. `failure_of`: returns the
        error that an answer stands for, where not every failure is raised.
        """
        if _is_idle is not None and _is_idle():
            return coroutine  # type: ignore[return-value]  # it is one, whatever the checker calls it
        return self._observe(method, coroutine, facts, failure_of)  # type: ignore[return-value]

    def call(
        self, method: str, facts: dict[str, Any] | None, operation: Callable[..., Coroutine[Any, Any, T]], *args: Any
    ) -> CoroutineType[Any, Any, T]:
        """As `run`, for a coroutine that is made by `operation(*args)` when the call begins.

        For what is handed to programs, which may drop it: of a coroutine in a coroutine that never began, Python would
        complain that it was never awaited.
        """
        if _is_idle is not None and _is_idle():
            return operation(*args)  # type: ignore[return-value]
        return self._begin(method, facts, operation, args)  # type: ignore[return-value]

    async def _begin(
        self,
        method: str,
        facts: dict[str, Any] | None,
        operation: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[Any, ...],
    ) -> T:
        return await self._observe(method, operation(*args), facts, None)

    async def _observe(
        self,
        method: str,
        coroutine: Coroutine[Any, Any, T],
        facts: dict[str, Any] | None,
        failure_of: Callable[[T], BaseException | None] | None,
    ) -> T:
        ambient = current_ambient()
        context = None if ambient is None else ambient.context
        record = CallRecord(self, method, self._now(), _current.get(), context)
        if facts is not None:
            record.attributes = facts
        token = _current.set(record)
        for on_begin in _on_begin:
            try:
                on_begin(record)
            except Exception as error:
                _on_fault(on_begin, error)
        try:
            answer = await coroutine
            if failure_of is not None and (failure := failure_of(answer)) is not None:
                _fail(record, failure)
            return answer
        except BaseException as error:
            _fail(record, error)
            raise
        finally:
            try:  # noqa: SIM105  # contextlib.suppress would cost each call what a get may cost
                _current.reset(token)
            except ValueError:  # the call was given up and closed in another context, which knows nothing of it
                pass
            record.ended = self._now()
            for on_end in _on_end:
                try:
                    on_end(record)
                except Exception as error:
                    _on_fault(on_end, error)
            record.error = None


def _fail(record: CallRecord, error: BaseException) -> None:
    record.error = error
    record.status = status_of(error)


def status_of(error: BaseException) -> str:
    """Return how a failure is called in a `status`: the `code` of a TikvError, ``error`` or ``cancelled``."""
    if isinstance(error, TikvError):
        return error.code
    return "error" if isinstance(error, Exception) else "cancelled"  # a stranger's `code` may be any text


def _on_fault(hook: Callable[..., None], error: Exception) -> None:
    sink = getattr(hook, "__self__", hook)
    if id(sink) not in _faulty:
        _faulty.add(id(sink))
        logger.error("%s failed and is not heard again about it: %s", type(sink).__name__, error, exc_info=error)


def as_step(
    now: Callable[[], float],
    kind: str,
    name: str,
    coroutine: Coroutine[Any, Any, T],
    *,
    store: str = "",
    detail: Any = None,
) -> CoroutineType[Any, Any, T]:
    """Return `coroutine`, to be awaited, as a step of the present call; as it is where nobody listens."""
    record = _current.get()
    if record is None:
        return coroutine  # type: ignore[return-value]
    return _timed(record, now, kind, name, coroutine, store, detail)  # type: ignore[return-value]


async def _timed(
    record: CallRecord,
    now: Callable[[], float],
    kind: str,
    name: str,
    coroutine: Coroutine[Any, Any, T],
    store: str,
    detail: Any,
) -> T:
    began, status = now(), "ok"
    try:
        return await coroutine
    except BaseException as error:
        status = status_of(error)
        raise
    finally:
        record.step(kind, name, began, now(), status, store, detail)


def behind(now: Callable[[], float], name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Callable[..., Any]:
    """Return `work`, which will outlive the present call, as a phase of it; `work` itself where nobody listens."""
    record = _current.get()
    if record is None:
        return work

    async def observed() -> T:
        token = _current.set(record)
        try:
            return await as_step(now, "phase", name, work())
        finally:
            _current.reset(token)

    return observed


def frame(size: int) -> None:
    """Tell the sinks of a message with `size` commands."""
    for on_frame in _on_frame:
        try:
            on_frame(size)
        except Exception as error:
            _on_fault(on_frame, error)


def forget_record() -> None:
    """Let what the present task does belong to no call: it was begun by one, and works for many."""
    if _current.get() is not None:
        _current.set(None)


# --- the process's sinks ----------------------------------------------------------------------------------------------


def sinks() -> tuple[Sink, ...]:
    """Return the sinks installed, in their order."""
    return _sinks


def install(sink: Sink) -> None:
    """Let `sink` hear of all calls from now on, of all clients. Twice is once."""
    with _lock:
        is_first = not _sinks
        if sink not in _sinks:
            _set_sinks((*_sinks, sink))
    if is_first:
        _tell()


def remove(sink: Sink) -> None:
    """Take `sink` out; without effect when it is not installed."""
    with _lock:
        was_there = sink in _sinks
        if was_there:
            _set_sinks(tuple(other for other in _sinks if other is not sink))
            _faulty.discard(id(sink))
    if was_there and not _sinks:
        _tell()


def on_change(listener: Callable[[bool], None]) -> None:
    """Call `listener` with True when the first sink comes, with False when the last one goes.

    Where both happen at once, in two threads, the last call tells what holds.
    """
    _listeners.append(listener)


def _set_sinks(sinks: tuple[Sink, ...]) -> None:
    global _sinks, _on_begin, _on_step, _on_end, _on_frame, _is_idle
    _sinks = sinks
    _on_begin = tuple(sink.on_begin for sink in sinks if getattr(type(sink), "on_begin", None) is not Sink.on_begin)
    _on_step = tuple(sink.on_step for sink in sinks if getattr(type(sink), "on_step", None) is not Sink.on_step)
    _on_end = tuple(sink.on_end for sink in sinks if getattr(type(sink), "on_end", None) is not Sink.on_end)
    _on_frame = tuple(sink.on_frame for sink in sinks if getattr(type(sink), "on_frame", None) is not Sink.on_frame)
    _is_idle = getattr(sinks[0], "is_idle", None) if len(sinks) == 1 else None


def _tell() -> None:
    with _telling:  # so that the last word is what holds
        for listener in _listeners:
            listener(bool(_sinks))


def _after_fork_in_child() -> None:
    global _lock, _telling
    _lock, _telling = threading.Lock(), threading.RLock()  # their holders, if any, stayed in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# --- whose call it is -------------------------------------------------------------------------------------------------


def trace_id_of(record: CallRecord) -> str:
    """Return the trace id of a call as 32 hexadecimal digits: its span's, or the ambient context's; "" without one."""
    return _ids_of(record)[0]


def span_id_of(record: CallRecord) -> str:
    """Return the span id of a call as 16 hexadecimal digits, by the same rule as `trace_id_of`."""
    return _ids_of(record)[1]


def _ids_of(record: CallRecord) -> tuple[str, str]:
    ids: tuple[str, str] | None = record.extra.get("trace") if record.extra is not None else None
    if ids is not None:  # noted by `observe.tracing`
        return ids
    context = record.context
    return (context.trace_id or "", context.span_id or "") if context is not None else ("", "")
