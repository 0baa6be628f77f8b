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
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol, TypeVar

__all__ = [
    "MAX_STEPS",
    "CallRecord",
    "Sink",
    "Step",
    "Telemetry",
    "current_record",
    "install",
    "on_change",
    "remove",
    "sinks",
    "span_id_of",
    "trace_id_of",
]

T = TypeVar("T")

MAX_STEPS: Final = 256
logger: Final = logging.getLogger("pytikv")


class Step(NamedTuple):
    """One timed part of a call.

    `kind` is one of: ``rpc`` (name: the RPC's, such as RawGet), ``backoff`` (name: the kind in the back-off table),
    ``tso``, ``region_load``, ``connect``, ``queue`` (waiting for a place in a store's bulkhead, or for a connection),
    ``lock_wait`` (name: read, write, pessimistic), ``phase`` (of a transaction: prewrite, commit, rollback, ...),
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


class Sink(Protocol):
    """Whoever listens. All three are called in the thread of the call, and must not raise."""

    def on_begin(self, record: CallRecord) -> None:
        """A call begins; `record` may be given extra attributes in `record.extra`."""

    def on_step(self, record: CallRecord, step: Step) -> None:
        """A step has ended."""

    def on_end(self, record: CallRecord) -> None:
        """The call has ended: `status`, `error`, `ended` and the steps are there."""


_current: ContextVar[CallRecord | None] = ContextVar("pytikv_record", default=None)
current_record = _current.get
"""Return the record of the present call; None where nobody listens."""

_sinks: tuple[Sink, ...] = ()
_is_idle: Callable[[], bool] | None = None
_listeners: list[Callable[[bool], None]] = []
_faulty: set[int] = set()


class CallRecord:
    """One call of a client. Written by the request path, read by sinks."""

    __slots__ = (
        "attributes",
        "began",
        "context",
        "ended",
        "error",
        "extra",
        "method",
        "parent",
        "status",
        "steps",
        "steps_dropped",
        "telemetry",
    )

    def __init__(self, telemetry: Telemetry, method: str, began: float, parent: CallRecord | None) -> None:
        self.telemetry = telemetry
        self.method = method
        """``raw_get``, ``txn_get``, ``txn_commit``, ... : the API (raw, txn, client) and the method's name."""
        self.began = began
        self.ended: float | None = None
        self.parent = parent
        self.status = "ok"
        """``ok``, or the `code` of the error; ``cancelled``."""
        self.error: BaseException | None = None
        self.context: Any = None
        """The ambient `CallContext` (trace id, tenant, ...) at the begin; None where there is none."""
        self.attributes: dict[str, Any] | None = None
        """Facts of the call, such as start_ts, keys (their number), mode; None until one is noted."""
        self.steps: list[Step] = []
        self.steps_dropped = 0
        self.extra: dict[str, Any] | None = None
        """What sinks keep with the record, by their name."""

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
        step = Step(kind, name, began, ended, status, store, detail)
        if len(self.steps) < MAX_STEPS:
            self.steps.append(step)
        else:
            self.steps_dropped += 1
        for sink in _sinks:
            try:
                sink.on_step(self, step)
            except Exception as error:
                _on_fault(sink, error)

    def note(self, **facts: Any) -> None:
        """Note facts of the call: `start_ts`, `keys`, `mode`, `region`."""
        if self.attributes is None:
            self.attributes = facts
        else:
            self.attributes.update(facts)


class Telemetry:
    """The records of one client. Cheap; made where the client is substituted."""

    __slots__ = ("_now", "_wall_offset_s", "target")

    def __init__(self, now: Callable[[], float], time: Callable[[], float], target: str = "") -> None:
        self._now = now
        self._wall_offset_s = time() - now()
        self.target = target
        """What the client is connected to, without secrets."""

    def wall_time(self, at: float) -> float:
        """Return a value of `now()` as Unix seconds, by the offset at this object's making."""
        return at + self._wall_offset_s

    def run(self, method: str, coroutine: Coroutine[Any, Any, T], context: Any = None) -> Coroutine[Any, Any, T]:
        """Return `coroutine`, to be awaited, as the call `method` with a record of its own. Raises what it raises."""
        if _is_idle is not None and _is_idle():
            return coroutine
        return self._observe(method, coroutine, context)

    async def _observe(self, method: str, coroutine: Coroutine[Any, Any, T], context: Any) -> T:
        record = CallRecord(self, method, self._now(), _current.get())
        record.context = context
        token = _current.set(record)
        for sink in _sinks:
            try:
                sink.on_begin(record)
            except Exception as error:
                _on_fault(sink, error)
        try:
            return await coroutine
        except BaseException as error:
            record.error = error
            record.status = getattr(error, "code", None) or (
                "cancelled" if not isinstance(error, Exception) else "error"
            )
            raise
        finally:
            _current.reset(token)
            record.ended = self._now()
            for sink in _sinks:
                try:
                    sink.on_end(record)
                except Exception as error:
                    _on_fault(sink, error)


def _on_fault(sink: Sink, error: Exception) -> None:
    if id(sink) not in _faulty:
        _faulty.add(id(sink))
        logger.error("%s failed and is not heard again about it: %s", type(sink).__name__, error, exc_info=error)


# --- the process's sinks ----------------------------------------------------------------------------------------------


def sinks() -> tuple[Sink, ...]:
    """Return the sinks installed, in their order."""
    return _sinks


def install(sink: Sink) -> None:
    """Let `sink` hear of all calls from now on, of all clients. Twice is once."""
    if sink not in _sinks:
        _set_sinks((*_sinks, sink))
        if len(_sinks) == 1:
            _tell(True)


def remove(sink: Sink) -> None:
    """Take `sink` out; without effect when it is not installed."""
    if sink in _sinks:
        _set_sinks(tuple(other for other in _sinks if other is not sink))
        _faulty.discard(id(sink))
        if not _sinks:
            _tell(False)


def on_change(listener: Callable[[bool], None]) -> None:
    """Call `listener` with True when the first sink comes, with False when the last one goes."""
    _listeners.append(listener)


def _set_sinks(sinks: tuple[Sink, ...]) -> None:
    global _sinks, _is_idle
    _sinks = sinks
    _is_idle = getattr(sinks[0], "is_idle", None) if len(sinks) == 1 else None


def _tell(is_observed: bool) -> None:
    for listener in _listeners:
        listener(is_observed)


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
