"""`python -m pytikv.testing.simulate --kind overload`: goodput against offered load, drawn.

    python -m pytikv.testing.simulate --kind overload                     # bars on the terminal
    python -m pytikv.testing.simulate --kind overload --json              # the figures
    python -m pytikv.testing.simulate --kind overload --svg goodput.svg   # a picture as well (extra `bench`)

Two curves of the same seed: clients with guards and without. Exit code 1 when, with guards, goodput at twice the
capacity is below `GOOD_SHARE` of the peak. The experiments are `testing.overload`'s.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pytikv.bench.charts import lines
from pytikv.cli.chart import bars
from pytikv.testing.overload import GUARDS, LOADS, Curve, OverloadOptions, run_curve

if TYPE_CHECKING:
    import pathlib

__all__ = ["GOOD_SHARE", "compare", "show", "text_of", "write_svg"]

GOOD_SHARE: Final = 0.8
"""Of the peak: what must be left at twice the capacity."""

_WITH: Final = "with guards"
_WITHOUT: Final = "without"


def show(seed: int, *, as_json: bool = False, svg: pathlib.Path | None = None) -> int:
    """Run both curves, print them and return the exit code. On a terminal a line shows how far it is."""
    options = OverloadOptions()
    curves = compare(seed, options, is_progress_shown=sys.stderr.isatty() and not as_json)
    if svg is not None:
        write_svg(curves, options, svg)
    if as_json:
        record = {"seed": seed, "capacity": options.per_second, "curves": [dataclasses.asdict(c) for c in curves]}
        sys.stdout.write(json.dumps(record) + "\n")
    else:
        sys.stdout.write("\n".join(text_of(curves, options)) + "\n")
    return 0 if _share_at_double(curves[0]) >= GOOD_SHARE else 1


def compare(
    seed: int,
    options: OverloadOptions | None = None,
    *,
    loads: Sequence[float] | None = None,
    is_progress_shown: bool = False,
) -> tuple[Curve, Curve]:
    """Run both curves, at `LOADS` where nothing else is asked for; returns the one with guards first."""
    loads = loads or LOADS
    done = 0

    def step(_: object) -> None:
        nonlocal done
        done += 1
        if is_progress_shown:
            end = "\n" if done == 2 * len(loads) else ""
            sys.stderr.write(f"\r{done} of {2 * len(loads)} experiments{end}")
            sys.stderr.flush()

    guarded = run_curve(_WITH, seed, GUARDS, loads=loads, options=options, on_point=step)
    return guarded, run_curve(_WITHOUT, seed, loads=loads, options=options, on_point=step)


def text_of(curves: tuple[Curve, Curve], options: OverloadOptions) -> list[str]:
    """Return the chart as lines."""
    guarded, plain = curves
    rows = []
    for one, other in zip(guarded.points, plain.points, strict=True):
        for label, point in ((f"{one.load:4.2f}x  {_WITH}", one), (_WITHOUT, other)):
            tail = f"{point.goodput:5.0f} of {point.offered:5.0f} a second in time"
            rows.append((label, point.goodput, f"{tail}, {point.sent:5.0f} sent, P99 {point.p99_good * 1000:3.0f} ms"))
    deadline_ms = options.deadline_seconds * 1000
    return [
        f"Goodput: calls answered within {deadline_ms:.0f} ms, by load in multiples of the capacity "
        f"({options.per_second:.0f} a second: {options.stores} stores, {options.clients} clients)",
        "",
        *bars(rows),
        "",
        f"At twice the capacity: {_share_at_double(guarded):.0%} of the peak {_WITH}, "
        f"{_share_at_double(plain):.0%} {_WITHOUT}.",
    ]


def _share_at_double(curve: Curve) -> float:
    return curve.at(2.0).goodput / curve.peak


def write_svg(curves: tuple[Curve, Curve], options: OverloadOptions, path: pathlib.Path) -> None:
    """Draw both curves into a file. Raises ConfigError where pygal is missing, OSError."""
    series = {curve.name: [(point.load, round(point.goodput, 1)) for point in curve.points] for curve in curves}
    last = max(point.load for point in curves[0].points)
    series["capacity"] = [(0.0, options.per_second), (last, options.per_second)]
    title = f"offered load, in multiples of the capacity (deadline {options.deadline_seconds * 1000:.0f} ms)"
    text = lines(series, unit="answers in time, 1/s", x_title=title)
    path.write_text(text, encoding="utf-8")
