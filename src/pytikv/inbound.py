"""What an inbound request says of its trace, its baggage and its time, read from headers that anybody may have sent.

Whatever is malformed, doubled where one is allowed, or over a limit counts as absent: nothing raises, and the work is
bounded by `_MAX_HEADERS` headers of `_MAX_VALUE` bytes looked at. A tracestate without a valid traceparent is dropped;
members of the baggage fall singly, their properties (what follows a semicolon) always.

Sources: W3C Trace Context (level 1, sections 3.2 and 3.3), W3C Baggage (3.3), grpc, doc/PROTOCOL-HTTP2.md (Timeout).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from pytikv.call_context import BAGGAGE_NAME, MAX_BAGGAGE, MAX_BAGGAGE_MEMBERS
from pytikv.errors import WrongType

__all__ = ["Inbound", "read_headers"]

_MAX_HEADERS: Final = 1024
_MAX_VALUE: Final = 16 << 10
_MAX_TRACESTATE: Final = 4096
_MAX_STATES: Final = 32
_KNOWN_FLAGS: Final = 0x03  # sampled, and random trace id
_WANTED: Final = frozenset({"traceparent", "tracestate", "baggage", "grpc-timeout"})

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_STATE: Final = re.compile(
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=([ -+\--<>-~]{0,255}[!-+\--<>-~])"
)
_BAGGAGE_VALUE: Final = re.compile(r"[!#-+\--:<-\[\]-~]*")
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Inbound(NamedTuple):
    """What was read: changes for `CallContext.changed`, and the seconds that the caller waits."""

    changes: dict[str, Any]
    timeout_s: float | None


def read_headers(headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> Inbound:
    """Read a request's headers; see the module's docstring. Raises WrongType where `headers` are none."""
    found: dict[str, list[str]] = {}
    for name, value in _pairs(headers):
        found.setdefault(name, []).append(value)
    changes: dict[str, Any] = {}
    parents = found.get("traceparent", ())
    if len(parents) == 1 and (trace := _read_traceparent(parents[0].strip())):
        changes.update(trace, tracestate=_read_tracestate(found.get("tracestate", [])))
    if baggage := _read_baggage(found.get("baggage", [])):
        changes["baggage"] = baggage
    timeouts = found.get("grpc-timeout", ())
    return Inbound(changes, _read_timeout(timeouts[0].strip()) if len(timeouts) == 1 else None)


def _pairs(headers: Any) -> Iterator[tuple[str, str]]:
    """Return what may be of use, the names in lower case; those of a WSGI environ lose their prefix."""
    if isinstance(headers, (str, bytes)) or not isinstance(headers, (Mapping, Iterable)):
        raise WrongType(f"headers are a mapping or pairs of names and values, not {type(headers).__name__}")
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    for pair in islice(pairs, _MAX_HEADERS):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            continue
        name = _text(pair[0])
        name = None if name is None or len(name) > 32 else name.lower()
        if name is not None and name.startswith("http_"):
            name = name[5:].replace("_", "-")
        if name not in _WANTED:
            continue
        values = pair[1] if isinstance(pair[1], (list, tuple)) else (pair[1],)
        for value in islice(values, _MAX_HEADERS):
            if (text := _text(value)) is not None:
                yield name, text


def _text(value: Any) -> str | None:
    if not isinstance(value, (str, bytes)) or len(value) > _MAX_VALUE:
        return None
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _read_traceparent(text: str) -> dict[str, Any] | None:
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return {"trace_id": trace_id, "span_id": span_id, "trace_flags": int(flags, 16) & _KNOWN_FLAGS}


def _read_tracestate(values: list[str]) -> str:
    text = ",".join(values)
    members = [member.strip(" \t") for member in text.split(",", _MAX_STATES + 1)]
    members = [member for member in members if member]
    if len(text) > _MAX_TRACESTATE or len(members) > _MAX_STATES:
        return ""
    matches = [_STATE.fullmatch(member) for member in members]
    names = {match[1] for match in matches if match is not None}
    return ",".join(members) if len(names) == len(members) else ""  # one that is malformed, or doubled, spoils all


def _read_baggage(values: list[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    text = ",".join(values)
    if len(text) > MAX_BAGGAGE:
        text = text[:MAX_BAGGAGE].rpartition(",")[0]
    for member in text.split(","):
        name, equals, value = member.partition(";")[0].partition("=")
        name, value = name.strip(" \t"), value.strip(" \t")
        if equals and BAGGAGE_NAME.fullmatch(name) and _BAGGAGE_VALUE.fullmatch(value):
            found.setdefault(name, unquote(value, errors="replace"))
            if len(found) == MAX_BAGGAGE_MEMBERS:
                break
    return tuple(found.items())


def _read_timeout(text: str) -> float | None:
    match = _TIMEOUT.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS[match[2]]
