"""What a dashboard is: rows of panels, each with its queries; and the few shapes of PromQL that they are made of.

Pure data. `tools/gen_dashboards.py` renders it for Grafana; tests run every query against a real Prometheus.

Variables of every dashboard: `$datasource` (a Prometheus), `$job` and `$instance` (of the programs watched, several at
once), `$interval` (the window of every rate, at least four times the scrape interval). Every selector names job and
instance, so a panel never mixes programs that were not asked for.

Helpers return PromQL: `per_second` a rate of a counter, `quantile` of a histogram, `mean` of a histogram, `value` of a
gauge; `by` are the labels kept. Sums are taken over instances unless `instance` is among them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final, Literal

__all__ = [
    "INTERVAL",
    "JOB_AND_INSTANCE",
    "Board",
    "Panel",
    "Query",
    "Row",
    "Threshold",
    "mean",
    "metric_names",
    "per_second",
    "quantile",
    "quantiles",
    "ratio",
    "substitute",
    "value",
]

JOB_AND_INSTANCE: Final = 'job=~"$job",instance=~"$instance"'
INTERVAL: Final = "$interval"

Kind = Literal["timeseries", "stat", "state"]
Colour = Literal["green", "yellow", "red"]

_NAME = re.compile(r"\b(?:tikv|pytikv|pd|process|grpc)_[a-z0-9_]+")

_LABELS = re.compile(r"\{[^}]*\}|\b(?:by|on) \([^)]*\)")


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. `legend`: the name of each series, with its labels as ``{{label}}``."""

    expr: str
    legend: str
    exemplar: bool = False
    """Show the exemplars of a histogram: points that lead to a trace."""


@dataclasses.dataclass(frozen=True, slots=True)
class Threshold:
    """From `value` on (None: from the lowest) a panel is `colour`."""

    value: float | None
    colour: Colour


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """One chart. `unit` is Grafana's name of the unit; `width` of 24 columns; `description` says how to read it."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    thresholds: tuple[Threshold, ...] = ()
    states: tuple[tuple[int, str, Colour], ...] = ()
    """What a value means, for a panel of states: (value, name, colour)."""
    width: int = 8
    stacked: bool = False
    log_scale: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. `known_by`: metrics of which each process it is for has one; they fill `$job` and `$instance`."""

    uid: str
    title: str
    description: str
    tags: tuple[str, ...]
    known_by: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in their order."""
        return tuple(panel for row in self.rows for panel in row.panels)


# --- PromQL -----------------------------------------------------------------------------------------------------------


def _selector(metric: str, where: str) -> str:
    return f"{metric}{{{JOB_AND_INSTANCE}{',' if where else ''}{where}}}"


def _by(*labels: str) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def per_second(metric: str, *by: str, where: str = "") -> str:
    """Return the rate of a counter, summed but for `by`. `where`: further matchers, such as ``status!="ok"``."""
    return f"sum{_by(*by)} (rate({_selector(metric, where)}[{INTERVAL}]))"


def value(metric: str, *by: str, where: str = "", aggregate: str = "sum", above: str = "") -> str:
    """Return a gauge, aggregated but for `by`; of the series whose value is above `above`, if that is given."""
    return f"{aggregate}{_by(*by)} ({_selector(metric, where)}{f' > {above}' if above else ''})"


def quantile(q: float, metric: str, *by: str, where: str = "") -> str:
    """Return the `q`-quantile of a histogram (its name without ``_bucket``)."""
    return f"histogram_quantile({q}, {per_second(f'{metric}_bucket', 'le', *by, where=where)})"


def quantiles(metric: str, *by: str, where: str = "", exemplar: bool = False) -> tuple[Query, ...]:
    """Return queries for P50, P95 and P99."""
    suffix = "".join(f" {{{{{label}}}}}" for label in by)
    return tuple(
        Query(quantile(q, metric, *by, where=where), f"P{round(q * 100)}{suffix}", exemplar) for q in (0.5, 0.95, 0.99)
    )


def mean(metric: str, *by: str, where: str = "") -> str:
    """Return the mean of a histogram's observations."""
    return ratio(per_second(f"{metric}_sum", *by, where=where), per_second(f"{metric}_count", *by, where=where))


def ratio(part: str, whole: str) -> str:
    """Return `part` of `whole`; nothing (not a gap of NaN) where there is no whole."""
    return f"{part} / ({whole} > 0)"


def substitute(expr: str, *, job: str = ".*", instance: str = ".*", interval: str = "1m") -> str:
    """Return `expr` with the dashboard's variables filled in, as Grafana does before it asks."""
    return expr.replace("$job", job).replace("$instance", instance).replace("$interval", interval)


def metric_names(expr: str) -> set[str]:
    """Return the names of the metrics that a query reads."""
    return set(_NAME.findall(_LABELS.sub("", expr)))
