"""A report as one HTML page: charts, figures, errors, and what was run on what. It needs nothing from anywhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pytikv.bench import charts
from pytikv.bench.report import Report

__all__ = ["to_html"]

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p.note { color: #555; margin: .2rem 0 } p.bad { color: #b00020; font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right } th { font-weight: 600 }
th:first-child, td:first-child { text-align: left } .plain :is(th, td) { text-align: left }
svg { max-width: 100%; height: auto }
""".replace("\n", "")
_FIGURES: Final = ("mean_us", "p50_us", "p90_us", "p95_us", "p99_us", "p99.9_us", "p99.99_us", "max_us")


def to_html(report: Report) -> str:
    """Return the page. Raises ConfigError where the library for charts is missing."""
    title = f"{report.workload} over the {report.api} API"
    parts = [f"<h1>{_text(title)}</h1>", _summary(report), *_warnings(report)]
    if report.intervals:
        over_time = "seconds of the measurement"
        rates = {name: [(one.end_s, one.per_second[name]) for one in report.intervals] for name in report.operations}
        parts += ["<h2>Throughput over time</h2>", charts.lines(rates, unit="operations a second", x_title=over_time)]
        tails = {
            f"{name} {figure.removesuffix('_us').upper()}": [
                (one.end_s, getattr(one, figure)[name] / 1000) for one in report.intervals
            ]
            for name in report.operations
            for figure in ("p50_us", "p99_us")
        }
        since = "their intended times" if report.load.get("rate") else "their beginnings"
        parts += [f'<h2>Latency over time</h2><p class="note">Of operations that ended then, from {since}.</p>']
        parts += [charts.lines(tails, unit="milliseconds", x_title=over_time)]
    parts += ["<h2>Latency by percentile</h2>", _by_percentile(report), "<h2>Figures</h2>", _figures(report)]
    parts += [_errors(report), "<h2>What was run</h2>", _settings(report)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _summary(report: Report) -> str:
    how = f"{report.load['workers']} {'tasks' if report.load['runtime'] == 'asyncio' else 'threads'}"
    rate = report.load.get("rate")
    pace = f"open loop at {rate:,.0f} a second" if rate else "closed loop"
    figures = f"{report.per_second:,.0f} operations a second for {report.seconds:,.1f} s, {report.error_count:,} errors"
    return f'<p class="note">{_text(figures)}; {_text(how)}, {_text(pace)}; {_text(report.began)}</p>'


def _warnings(report: Report) -> list[str]:
    found = []
    if report.interrupted:
        found.append("The run was interrupted.")
    if report.missed:
        found.append(f"{report.missed:,} operations were due and were not begun: the rate is more than there was.")
    if report.check is not None:
        kind = "note" if report.check["is_sound"] else "bad"
        return [f'<p class="bad">{_text(text)}</p>' for text in found] + [
            f'<p class="{kind}">{_text(report.check["text"])}</p>'
        ]
    return [f'<p class="bad">{_text(text)}</p>' for text in found]


def _by_percentile(report: Report) -> str:
    names = [name for name in _FIGURES if name.startswith("p")] + ["max_us"]
    series: dict[str, Sequence[float | None]] = {}
    for operation, one in report.operations.items():
        for which, figures in (("", one.service), (" response", one.response)):
            if figures:
                series[operation + which] = [figures[name] / 1000 if name in figures else None for name in names]
    if not series:
        return '<p class="bad">No operation succeeded.</p>'
    labels = [name.removesuffix("_us").upper().replace("MAX", "max") for name in names]
    return charts.lines_by_name(labels, series, unit="milliseconds (logarithmic)")


def _table(head: Iterable[object], rows: Iterable[Iterable[object]], kind: str = "") -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<table class="{kind}"><tr>{top}</tr>' + "".join(lines) + "</table>"


def _figures(report: Report) -> str:
    rows = []
    for operation, one in report.operations.items():
        for which, figures in (("service", one.service), ("response", one.response)):
            if which == "service" or figures:
                cells = [f"{figures[name]:,.1f}" if name in figures else "" for name in _FIGURES]
                rows.append([f"{operation}, {which}", f"{one.count:,}", f"{one.per_second:,.1f}", *cells])
    heads = [name.removesuffix("_us").upper().replace("MAX", "max").replace("MEAN", "mean") for name in _FIGURES]
    note = '<p class="note">Latencies in microseconds. Service: from the beginning of an operation'
    note += "; response: from its intended time.</p>" if report.load.get("rate") else ".</p>"
    return _table(["operation", "count", "a second", *heads], rows) + note


def _errors(report: Report) -> str:
    rows = [
        [operation, what, code, f"{count:,}"]
        for operation, one in report.operations.items()
        for what, counts in (("failed", one.errors), ("tried again", one.retries))
        for code, count in counts.items()
    ]
    return (
        "<h2>Errors and repeated tries</h2>" + _table(["operation", "", "code", "count"], rows, "plain") if rows else ""
    )


def _settings(report: Report) -> str:
    groups: Mapping[str, Mapping[str, Any]] = {
        "": {"workload": report.workload, "api": report.api, "target": report.target},
        "load": report.load,
        "workload": report.options,
        "machine": report.machine,
    }
    rows = [[name, "none" if value is None else value] for group in groups.values() for name, value in group.items()]
    return _table(["option", "value"], rows, "plain")
