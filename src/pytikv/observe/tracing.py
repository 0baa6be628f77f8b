"""Traces: a span for each call, by the API of OpenTelemetry (extra ``tracing``). The SDK and its exporter are yours.

    pytikv.observe.tracing.enable()              # or the connect option tracing=True, or PYTIKV_TRACING=1
    pytikv.observe.tracing.enable(provider)      # another provider than the global one

A call's span is of kind CLIENT. RPCs, waits for timestamps and for locks are child spans with the times that they had;
waits before a retry, looked-up regions, opened connections, phases of a transaction and hedges are events, each with
its begin and `tikv.duration_ms`. Attributes and names: `observe.semconv`.

**Parent**: the span of the call around it (`run`), else the current span of OpenTelemetry, else the trace of
`pytikv.context` (which `from_headers` takes from an inbound request). While the call runs its span is the current one,
for OpenTelemetry and for `pytikv.context`, so that the stores hear its ids: in `kvrpcpb.Context` and, on calls with a
stream of their own, as `traceparent`.

**What it costs**: nothing while off. As long as no provider is set (OpenTelemetry then hands out spans that do nothing)
calls pass by without a record; the first call after one is set is traced. A span that the sampler drops has no
children, events or attributes; its ids reach logs and exemplars all the same (`telemetry.trace_id_of`).

An exporter that is down, slow or broken is the SDK's to bear: its batch processor exports in a thread of its own. What
it raises into a call is caught (`telemetry`), never the call's end.

Bounds: children and events of one call by `telemetry.MAX_STEPS`; what is more is counted in `tikv.steps_dropped`. Work
beyond the call's end (secondaries of a commit) has children that begin after their parent's end, as it has in truth.

On for the process: `enable` acts on all clients, open ones and those to come.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Any, Final

from pytikv import ambient
from pytikv._version import __version__
from pytikv.errors import ConfigError, WrongType
from pytikv.observe import telemetry
from pytikv.observe.log_lines import error_text
from pytikv.observe.semconv import (
    MAX_TEXT,
    call_attributes,
    call_name,
    step_attributes,
    step_name,
    target_attributes,
)
from pytikv.observe.telemetry import MAX_STEPS, CallRecord, Sink, Step

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        INVALID_SPAN,
        NonRecordingSpan,
        Span,
        SpanContext,
        SpanKind,
        StatusCode,
        TraceFlags,
        TracerProvider,
        TraceState,
    )
except ImportError:
    raise ConfigError('tracing needs opentelemetry-api: pip install "pytikv[tracing]"') from None

__all__ = ["Tracing", "current_ids", "disable", "enable"]

_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.45.0"
_SPANS: Final = frozenset({"rpc", "tso", "lock_wait"})
_KINDS: Final = {"rpc": SpanKind.CLIENT, "tso": SpanKind.CLIENT}
_NOWHERE: Final = Context()
_TRACE: Final = "trace"
_STATE: Final = "tracing"


class _Open:
    """What is kept of a call's span while it records."""

    __slots__ = ("_ambient", "_token", "children", "context", "offset_s", "span")

    def __init__(self, span: Span, ids: tuple[str, str], offset_s: float) -> None:
        self.span = span
        self.offset_s = offset_s
        self.context = trace.set_span_in_context(span)
        self.children = 0
        self._token: Token[Context] = contexts.attach(self.context)
        self._ambient = ambient.context(trace_id=ids[0], span_id=ids[1])
        self._ambient.__enter__()

    def at(self, moment: float) -> int:
        """Return a value of the runtime's `now()` as Unix nanoseconds, by the clock as it stood at the call's begin."""
        return int((moment + self.offset_s) * 1e9)

    def leave(self) -> None:
        """Let what was current before the call be so again."""
        with suppress(ValueError):  # given up, and closed in another context: there is nothing to put back there
            self._ambient.__exit__(None, None, None)
            contexts.detach(self._token)


class Tracing(Sink):
    """The sink that makes spans. Made by `enable`; `close` or leaving its `with` block switches tracing off."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        make = trace.get_tracer if tracer_provider is None else tracer_provider.get_tracer
        self._tracer = make("pytikv", __version__, schema_url=_SCHEMA_URL)
        self._is_awake = False

    def close(self) -> None:
        """Switch tracing off for the process, if this is what is on."""
        _switch_off(self)

    def __enter__(self) -> Tracing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def is_idle(self) -> bool:
        """Tell whether spans lead nowhere, as no provider has been set yet. Once one is there it stays awake."""
        if self._is_awake:
            return False
        # The API's do-nothing tracer, and only that, answers a span without a parent by this very object.
        self._is_awake = self._tracer.start_span("", _NOWHERE) is not INVALID_SPAN
        return not self._is_awake

    def on_begin(self, record: CallRecord) -> None:
        """Begin the span of a call."""
        if not self._is_awake and self.is_idle():
            return
        target = record.telemetry.target
        began = record.began
        offset_s = record.telemetry.wall_time(began) - began
        span = self._tracer.start_span(
            call_name(target, record.method),
            _parent(record),
            SpanKind.CLIENT,
            target_attributes(target, record.method),
            start_time=int((began + offset_s) * 1e9),
        )
        context = span.get_span_context()
        if not context.is_valid:
            return
        ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        extra = record.extra = {} if record.extra is None else record.extra
        extra[_TRACE] = ids
        if span.is_recording():
            extra[_STATE] = _Open(span, ids, offset_s)

    def on_step(self, record: CallRecord, step: Step) -> None:
        """Give the call's span a child or an event."""
        open_span = _state(record)
        if open_span is None:
            return
        open_span.children += 1
        if open_span.children > MAX_STEPS:
            return
        began = open_span.at(step.began)
        if step.kind not in _SPANS:
            if record.ended is None:
                open_span.span.add_event(step_name(step), step_attributes(step), began)
            return
        child = self._tracer.start_span(
            step_name(step),
            open_span.context,
            _KINDS.get(step.kind, SpanKind.INTERNAL),
            step_attributes(step),
            start_time=began,
        )
        if step.status != "ok":
            child.set_status(StatusCode.ERROR)
        child.end(open_span.at(step.ended))

    def on_end(self, record: CallRecord) -> None:
        """End the span of a call."""
        open_span = _state(record)
        if open_span is None:
            return
        span = open_span.span
        open_span.leave()
        attributes = call_attributes(record)
        if attributes:
            span.set_attributes(attributes)
        if open_span.children > MAX_STEPS:
            span.set_attribute("tikv.steps_dropped", open_span.children - MAX_STEPS)
        if record.error is not None:
            span.set_status(StatusCode.ERROR, error_text(record.error, MAX_TEXT))
        span.end(open_span.at(record.ended if record.ended is not None else record.began))


def _state(record: CallRecord) -> _Open | None:
    state: Any = record.extra.get(_STATE) if record.extra is not None else None
    return state if isinstance(state, _Open) else None


def _parent(record: CallRecord) -> Context | None:
    """Return the context of the span that a call belongs below; None: OpenTelemetry's current one."""
    around = _state(record.parent) if record.parent is not None else None
    if around is not None:
        return around.context
    whose = record.context
    if whose is None or whose.trace_id is None or whose.span_id is None:
        return None
    if trace.get_current_span() is not INVALID_SPAN:
        return None
    parent = SpanContext(
        int(whose.trace_id, 16),
        int(whose.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(whose.trace_flags),
        trace_state=TraceState.from_header([whose.tracestate]),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent))


def current_ids() -> tuple[str, str] | None:
    """Return the trace id and the span id of OpenTelemetry's current span, in hexadecimal; None where there is none."""
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


# --- on and off, for the process --------------------------------------------------------------------------------------

_on: Tracing | None = None
_lock = threading.Lock()


def enable(tracer_provider: TracerProvider | None = None) -> Tracing:
    """Trace all clients of the process from now on. Returns what switches it off: `close`, or the end of a `with`.

    `tracer_provider`: None for the global one, which may be set later. Switched on already with the same wish, the
    same object is returned; with another provider, that one takes over. Any thread may call. Raises WrongType for
    what is no provider.
    """
    global _on
    if tracer_provider is not None and not callable(getattr(tracer_provider, "get_tracer", None)):
        raise WrongType(f"tracer_provider is an OpenTelemetry TracerProvider, not {type(tracer_provider).__name__}")
    with _lock:
        previous = _on
        if previous is not None and tracer_provider is None:
            return previous
        _on = Tracing(tracer_provider)
        telemetry.install(_on)
        if previous is not None:
            telemetry.remove(previous)
        return _on


def disable() -> None:
    """Switch tracing off; without effect when it is off."""
    if (on := _on) is not None:
        _switch_off(on)


def _switch_off(tracing: Tracing) -> None:
    global _on
    with _lock:
        telemetry.remove(tracing)
        if _on is tracing:
            _on = None
