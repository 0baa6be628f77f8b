"""The slow-call log: each call over a duration at WARNING, with where its time went and what it met.

On by the connect option ``slow_log=0.1`` (seconds; off by default), for the calls of that client and as long as it is
open. A line's message is for people; as JSON (`pytikv.logging.json`) it has the fields of a call and

    phases   milliseconds by what they went to: "client", "network s1:20160", "server s1:20160", "lock wait read",
             "back-off regionMiss", "timestamps", ...; they add up to `duration_ms` (the rule: `observe.attribution`)
    txn_phases   milliseconds of prewrite, commit and rollback, which consist of what `phases` names
    rpcs     how many requests the call sent, and `retries`, its waits before another try
    causes   the distinct troubles met: failed RPCs as "KvGet s1:20160 UNAVAILABLE", back-offs by kind
    suppressed   how many slow calls were not logged before this one

Bounds: `MAX_PER_SECOND` lines a second for the process, `MAX_CAUSES` causes and `MAX_PHASES` phases a line, the longest
first, with the rest as "other".
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import Any, Final

from pytikv.observe import telemetry
from pytikv.observe.attribution import Call, Part, attribute_call
from pytikv.observe.log_lines import FACTS, call_facts
from pytikv.observe.rate_limit import RateLimit
from pytikv.observe.telemetry import CallRecord, Sink

__all__ = ["MAX_PER_SECOND", "SlowLog", "hold", "phases", "release", "slow_facts"]

MAX_PER_SECOND: Final = 10
MAX_CAUSES: Final = 8
MAX_PHASES: Final = 12
logger: Final = logging.getLogger("pytikv.slow")


class SlowLog(Sink):
    """The sink. Calls of clients whose `Telemetry.slow_s` is None are none of its business."""

    def __init__(self) -> None:
        self._limit = RateLimit(MAX_PER_SECOND)

    def on_end(self, record: CallRecord) -> None:
        """Log a call that was slow."""
        limit_s, ended = record.telemetry.slow_s, record.ended
        if limit_s is None or ended is None or ended - record.began < limit_s:
            return
        suppressed = self._limit.take(ended)
        if suppressed is None or not logger.isEnabledFor(logging.WARNING):
            return
        facts = slow_facts(record)
        spent = ", ".join(f"{name} {ms:g}" for name, ms in facts["phases"].items())
        more = f"; {suppressed} more were not logged" if suppressed else ""
        state = "" if record.status == "ok" else f" and failed ({record.status})"
        logger.warning(
            "%s took %g ms%s: %s%s",
            record.method,
            facts["duration_ms"],
            state,
            spent,
            more,
            extra={FACTS: {**facts, "suppressed": suppressed or None}},
        )


# --- on for as long as a client wants it ------------------------------------------------------------------------------

_sink: Final = SlowLog()
_holders: Final[set[int]] = set()


def hold(holder: object) -> None:
    """Have the log on until `release` of the same holder. Needs no lock, so that a fork cannot take one along."""
    _holders.add(id(holder))
    telemetry.install(_sink)


def release(holder: object) -> None:
    """Have the log off unless others hold it; without effect for who does not."""
    if id(holder) in _holders:
        _holders.discard(id(holder))
        if not _holders:
            telemetry.remove(_sink)
            if _holders:  # another came meanwhile
                telemetry.install(_sink)


# --- what a line says -------------------------------------------------------------------------------------------------


def slow_facts(record: CallRecord) -> dict[str, Any]:
    """Return the fields of a line. Pure."""
    kinds = Counter(step.kind for step in record.steps)
    causes: dict[str, None] = {}
    for step in record.steps:
        if step.kind == "rpc" and step.status != "ok":
            causes[f"{step.name} {step.store} {step.status}"] = None
        elif step.kind == "backoff":
            causes[step.name] = None
    found = call_facts(record)
    found["phases"] = phases(record)
    found["txn_phases"] = _sums(record, "phase") or None
    found["rpcs"] = kinds["rpc"]
    if kinds["backoff"]:
        found["retries"] = kinds["backoff"]
    if causes:
        found["causes"] = list(causes)[:MAX_CAUSES]
    return {name: value for name, value in found.items() if value is not None}


def _sums(record: CallRecord, kind: str) -> dict[str, float]:
    """Return the milliseconds of the call's steps of a kind by their names."""
    sums: defaultdict[str, float] = defaultdict(float)
    for step in record.steps:
        if step.kind == kind:
            sums[step.name] += (step.ended - step.began) * 1e3
    return {name: round(ms, 3) for name, ms in sums.items()}


def phases(record: CallRecord) -> dict[str, float]:
    """Return the milliseconds of a call by what they went to, longest first; they add up to its duration."""
    sums: defaultdict[str, float] = defaultdict(float)
    for slot, seconds in attribute_call(Call.of(record)).items():
        about = slot.store or (slot.name if slot.part in (Part.LOCK_WAIT, Part.BACKOFF, Part.QUEUE) else "")
        sums[f"{slot.part.value} {about}".rstrip()] += seconds * 1e3
    longest = sorted(sums.items(), key=lambda item: -item[1])
    found = {name: round(ms, 3) for name, ms in longest[:MAX_PHASES]}
    rest = sum(ms for _, ms in longest[MAX_PHASES:])
    return {**found, "other": round(rest, 3)} if rest else found
