"""Logs as lines of JSON: a handler for the library's logger, and lines about calls if they are wanted.

The library logs little by itself, all under the logger ``pytikv``: what goes wrong in the background. `install` puts a
handler there that writes `observe.log_lines`, and keeps records from going up to the root's handlers, which would show
them twice; with `root=True` it stands at the root instead and takes all the program's records.

Lines about calls: ``calls="errors"`` logs each call that fails (WARNING), at most `MAX_ERRORS_PER_SECOND` a second, the
rest counted in the next line's `suppressed`; ``calls="all"`` logs every call (INFO for one that succeeds), unbounded.
Calls over a duration, with their phases, are the slow-call log's (`observe.slow_log`).

Each line bears the trace id and the tenant of the call it was written in, or of the surrounding `pytikv.context` or
OpenTelemetry span.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any, Final, Literal, TextIO

from pytikv.ambient import current_context
from pytikv.errors import ConfigError, WrongType
from pytikv.observe import telemetry
from pytikv.observe.log_lines import FACTS, call_facts, error_text, line
from pytikv.observe.rate_limit import RateLimit
from pytikv.observe.telemetry import CallRecord, Sink, current_record, span_id_of, trace_id_of

__all__ = ["CallLog", "JsonFormatter", "JsonLogging", "install"]

MAX_ERRORS_PER_SECOND: Final = 10
Calls = Literal["none", "errors", "all"]
logger: Final = logging.getLogger("pytikv")


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON. For a handler of your own; `install` makes one for most uses."""

    def __init__(self, service: str = "") -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break."""
        return line(record, self._service, _around())


def _around() -> dict[str, Any]:
    """Return the ids of what surrounds the present code: its call, its `pytikv.context`, its span."""
    record = current_record()
    if record is not None:
        tenant = record.context.tenant_id if record.context is not None else None
        return {"trace_id": trace_id_of(record), "span_id": span_id_of(record), "tenant": tenant}
    tracing = sys.modules.get("pytikv.observe.tracing")  # not loaded: nobody traces, and nothing is to be loaded for it
    span = tracing.current_ids() if tracing is not None else None
    context = current_context()
    if context is None:
        return {} if span is None else {"trace_id": span[0], "span_id": span[1]}
    trace_id, span_id = span or (context.trace_id, context.span_id)
    return {"trace_id": trace_id, "span_id": span_id, "tenant": context.tenant_id}


class CallLog(Sink):
    """The sink that logs calls as they end."""

    def __init__(self, calls: Calls) -> None:
        self._every = calls == "all"
        self._limit = RateLimit(MAX_ERRORS_PER_SECOND)

    def on_end(self, record: CallRecord) -> None:
        """Log a call."""
        if record.error is None:
            if self._every and logger.isEnabledFor(logging.INFO):
                logger.info("%s", record.method, extra={FACTS: call_facts(record)})
            return
        suppressed = 0 if self._every else self._limit.take(record.ended or record.began)
        if suppressed is None or not logger.isEnabledFor(logging.WARNING):
            return
        extra: dict[str, Any] = {FACTS: call_facts(record)}
        if suppressed:
            extra["suppressed"] = suppressed
        logger.warning("%s failed: %s", record.method, error_text(record.error), extra=extra)


class JsonLogging:
    """What `install` did; `close`, or the end of a `with`, undoes it."""

    def __init__(self, target: logging.Logger, handler: logging.Handler, level: int, sink: CallLog | None) -> None:
        self._target = target
        self._handler = handler
        self._sink = sink
        self._before = (target.level, target.propagate)
        self._is_open = True
        target.addHandler(handler)
        target.setLevel(level)
        if target.parent is not None:
            target.propagate = False
        if sink is not None:
            telemetry.install(sink)

    def close(self) -> None:
        """Take the handler out and put the logger's level back. Idempotent; the stream stays open."""
        if not self._is_open:
            return
        self._is_open = False
        if self._sink is not None:
            telemetry.remove(self._sink)
        self._target.removeHandler(self._handler)
        level, self._target.propagate = self._before
        self._target.setLevel(level)
        self._handler.close()

    def __enter__(self) -> JsonLogging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def install(
    stream: TextIO | None = None,
    level: int | str = "INFO",
    service: str = "",
    *,
    root: bool = False,
    calls: Calls = "none",
) -> JsonLogging:
    """See `pytikv.logging.json`."""
    if calls not in ("none", "errors", "all"):
        raise ConfigError(f"calls must be 'none', 'errors' or 'all', not {calls!r}")
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConfigError(f"level must be DEBUG, INFO, WARNING, ERROR, CRITICAL or a number, not {level!r}")
    if stream is not None and not callable(getattr(stream, "write", None)):
        raise WrongType(f"stream is a text file to write to, not {type(stream).__name__}")
    if not isinstance(service, str):
        raise WrongType(f"service is a string, not {type(service).__name__}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(service))
    target = logging.getLogger() if root else logger
    return JsonLogging(target, handler, number, None if calls == "none" else CallLog(calls))
