"""Resilience in figures, in virtual time: the same on every machine, from seed 1 of what `pytikv.testing` simulates.

Goodput at twice the capacity in parts of its peak, with guards and, for comparison, without; and reads while one of
three stores answers in 2 s, P99 of its own regions and of the others.

    python benchmarks/run.py --only resilience
"""

from __future__ import annotations

from typing import Any, Final

from report import Line

_SEED: Final = 1
_LOADS: Final = (0.75, 1.0, 2.0)
_HEDGE_MS: Final = 20.0
_USUAL_MS: Final = 12.0  # a round trip, the work and a short queue; tests/resilience_sim says it the same way


def measure() -> list[Line]:
    """Return all lines."""
    return [*_goodput(), *_slow_store()]


def _goodput() -> list[Line]:
    from pytikv.testing.overload_report import GOOD_SHARE, compare

    guarded, plain = (curve.at(2.0).goodput / curve.peak for curve in compare(_SEED, loads=_LOADS))
    name = "goodput at twice the capacity, of the peak"
    return [
        Line(f"{name}: with guards", value=round(guarded, 3), goal=GOOD_SHARE, lower_is_better=False),
        Line(f"{name}: without", value=round(plain, 3), lower_is_better=False),
    ]


def _slow_store() -> list[Line]:
    from pytikv.testing.outages import Hurt, run_outage

    cases: dict[str, dict[str, Any]] = {
        "no guards": {},
        f"hedging after {_HEDGE_MS:.0f} ms": {"hedge_after_ms": _HEDGE_MS},
    }
    lines = []
    for name, options in cases.items():
        outage = run_outage(_SEED, Hurt.SLOW, options)
        others, before, own = (one.p99 * 1e3 for one in (outage.others.during, outage.others.before, outage.own.during))
        what = f"one of three stores answers in 2 s, {name}: P99 of reads"
        goal = _HEDGE_MS + _USUAL_MS if options else None
        lines.append(Line(f"{what} of its regions", unit="ms", value=round(own, 1), goal=goal))
        detail = f"{before:.1f} before"
        lines.append(Line(f"{what} of the others", unit="ms", value=round(others, 1), goal=_USUAL_MS, detail=detail))
    return lines
