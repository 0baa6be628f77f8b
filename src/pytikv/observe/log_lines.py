"""One log record as one line of JSON: which fields it has, and what never gets into it.

    timestamp   RFC 3339, UTC, microseconds              trace_id, span_id   hexadecimal, of the call or what is around
    level       DEBUG, INFO, WARNING, ERROR, CRITICAL    tenant              of `pytikv.context`
    logger      the logger's name                        method              of the call that the line is about
    message     the text, its arguments filled in        region, store       of its last RPC to a store
    service     as given to `pytikv.logging.json`        start_ts            of the transaction
    error_code  `TikvError.code`, or the class's name    duration_ms         of the call
    outcome     not_applied, applied, undetermined       exception           the traceback

Fields without a value are left out. What a program passes as `extra=` stands beside these under its own names; a name
that is taken gets an underscore in front. Keys (bytes) are shown escaped, and not at all after `redact_keys(True)`.

Secrets: what lies before an ``@`` in a URL, bearer tokens, and the values of names like `user_token` or `password`
become ``***``, in messages, tracebacks and extras.

Numbers over 2^53 are written as text, and so is start_ts always: readers of JSON (Promtail's and browsers' among them)
take numbers as floating point, and lose digits.

A line is valid JSON in ASCII whatever went in, and at most `MAX_LINE` bytes long: texts are cut to `MAX_TEXT`
characters, tracebacks from their beginning, and where that does not do, extras go first. Nothing here raises.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pytikv.errors import format_key
from pytikv.observe.rpc_facts import is_store_rpc, region_of_step
from pytikv.observe.telemetry import CallRecord, span_id_of, trace_id_of
from pytikv.settings.kinds import is_secret

__all__ = ["FACTS", "MAX_LINE", "MAX_TEXT", "call_facts", "error_facts", "error_text", "line", "scrub"]

MAX_LINE: Final = 16 << 10
MAX_TEXT: Final = 2048
_LOOKED_AT: Final = 4 * MAX_TEXT
_EXACT: Final = 1 << 53
_MAX_EXTRAS: Final = 32
_MAX_ITEMS: Final = 32
_MAX_DEPTH: Final = 4

FACTS: Final = "pytikv"
"""The name in `extra=` under which this library passes the fields of a call."""

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", FACTS}
_FIELDS: Final = frozenset(
    {"timestamp", "level", "logger", "message", "service", "trace_id", "span_id", "tenant", "method", "region", "store"}
    | {"start_ts", "duration_ms", "error_code", "outcome", "exception"}
)
# Repetitions are bounded, or followed by what they cannot match: a text must not decide how long it takes to look at.
_USER_INFO: Final = re.compile(r"://[^/\s?#]{0,2048}@")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s{1,4}[A-Za-z0-9._~+/=-]{4,}")
_SECRET: Final = re.compile(
    r"(?i)((?:token|passw(?:or)?d|passphrase|secret|authorization|api[_-]?key|private[_-]?key|credential)"
    r"[\w-]{0,24}['\"]?\s{0,4}[=:]\s{0,4})(?!\*\*\*)(\"[^\"]*\"|'[^']*'|[^\s&,;)}\]]+)"
)


def line(record: logging.LogRecord, service: str, around: Mapping[str, Any]) -> str:
    """Return the line of a record, without a line break. `around`: fields of what surrounds it, such as trace_id."""
    fields: dict[str, Any] = {
        "timestamp": _timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": _clean(_message(record)),
    }
    if service:
        fields["service"] = service
    fields.update(around)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields.update(error_facts(error))
    facts = getattr(record, FACTS, None)
    if isinstance(facts, Mapping):
        fields.update(facts)
    if record.exc_info or record.exc_text or record.stack_info:
        fields["exception"] = scrub(_traceback(record)[-_LOOKED_AT:])[-2 * MAX_TEXT :]
    shown = {name: _plain(name, value) for name, value in fields.items() if value is not None and value != ""}
    return _fit(shown, _extras(record))


def _fit(fields: dict[str, Any], extras: dict[str, Any]) -> str:
    for attempt in (fields | extras, fields, {**fields, "exception": ""}):
        text = _dump(attempt)
        if len(text) <= MAX_LINE:
            return text
    kept = {name: value[:128] if isinstance(value, str) else value for name, value in fields.items()}
    kept = {name: value for name, value in kept.items() if name in _FIELDS and isinstance(value, (str, int, float))}
    return _dump({**kept, "exception": "", "cut": True})


def _dump(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _timestamp(created: float) -> str:
    try:
        return datetime.fromtimestamp(created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00.000000Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit their format, or cannot be shown
        return record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"


def _traceback(record: logging.LogRecord) -> str:
    text = record.exc_text or ""
    if not text and record.exc_info:
        try:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        except Exception:  # an exception whose text raises
            text = repr(record.exc_info[0])
    return "\n".join(part for part in (text, record.stack_info or "") if part)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(record).items():
        if name not in _OWN and len(found) < _MAX_EXTRAS:
            shown = _cut(str(name), 64)
            found[f"_{shown}" if shown in _FIELDS else shown] = _plain(name, value)
    return found


# --- values -----------------------------------------------------------------------------------------------------------


def _plain(name: Any, value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it, bounded and without secrets."""
    if isinstance(name, str) and is_secret(name) and not isinstance(value, (bool, int, float)):
        return "***"
    if value is None or isinstance(value, (bool, int)):
        return value if not isinstance(value, int) or abs(value) <= _EXACT else _digits(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray)):
        return format_key(bytes(value))
    if isinstance(value, str):
        return _clean(value)
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {_key(key): _plain(key, item, depth + 1) for key, item in items}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(None, item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    try:
        return _clean(str(value))
    except Exception:  # an object that cannot show itself
        return f"<{type(value).__name__}>"


def _digits(number: int) -> str:
    try:
        return str(number)[:MAX_TEXT]
    except ValueError:  # longer than Python turns into text
        return "<int>"


def _key(key: Any) -> str:
    return str(_plain(None, key, _MAX_DEPTH))


def _clean(text: str) -> str:
    # What lies just beyond the cut is looked at too, so that no secret is cut out of the form that it is known by.
    return _cut(scrub(text[:_LOOKED_AT]))


def _cut(text: str, limit: int = MAX_TEXT) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def scrub(text: str) -> str:
    """Return a text with its secrets replaced by ``***``.

    >>> scrub("tikv://me:hunter2@pd1:2379 with user_token=abc")
    'tikv://***@pd1:2379 with user_token=***'
    """
    text = _USER_INFO.sub("://***@", text)
    text = _BEARER.sub(r"\1 ***", text)
    return _SECRET.sub(r"\1***", text)


# --- facts of calls ---------------------------------------------------------------------------------------------------


def call_facts(record: CallRecord) -> dict[str, Any]:
    """Return the fields of a call, for `extra={FACTS: ...}`."""
    noted = record.attributes or {}
    found: dict[str, Any] = {"trace_id": trace_id_of(record), "span_id": span_id_of(record)}
    found["tenant"] = record.context.tenant_id if record.context is not None else None
    found["method"] = record.method
    rpcs = [step for step in record.steps if is_store_rpc(step)]
    if rpcs:
        found["region"] = region_of_step(rpcs[-1]) or noted.get("region") or None
        found["store"] = rpcs[-1].store
    start_ts = noted.get("start_ts")
    found["start_ts"] = str(int(start_ts)) if start_ts else None  # text: see the limits of numbers
    if record.ended is not None:
        found["duration_ms"] = round((record.ended - record.began) * 1e3, 3)
    if record.error is not None:
        found.update(error_facts(record.error))
    return {name: value for name, value in found.items() if value is not None and value != ""}


def error_text(error: BaseException, limit: int = MAX_TEXT) -> str:
    """Return an error's text, bounded and without secrets; its class where it has none."""
    try:
        text = str(error)
    except Exception:  # an error that cannot show itself
        text = ""
    return _cut(scrub(text[:_LOOKED_AT]), limit) or type(error).__name__


def error_facts(error: BaseException) -> dict[str, str]:
    """Return the fields of an error."""
    code, outcome = getattr(error, "code", None), getattr(error, "outcome", None)
    found = {"error_code": code if isinstance(code, str) else type(error).__name__}
    word = getattr(outcome, "value", None)
    return {**found, "outcome": word} if isinstance(word, str) else found
