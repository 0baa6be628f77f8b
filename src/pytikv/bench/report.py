"""What came of a run: figures for each operation, and how they went over time. `Recorder` makes it of samples.

Latencies are of successful operations, in microseconds: *service*, from the beginning of the operation, and with a
target rate *response*, from its intended time, which holds the waiting that a late beginning hides. Errors are counted
by code, so are the tries that failed before an operation succeeded. The warm-up is not in any figure.

The JSON form is an object with `format` "pytikv-bench/1"; `from_json` takes it back.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pytikv.bench.histograms import Histogram
from pytikv.errors import ConfigError

__all__ = ["Interval", "OperationReport", "Recorder", "Report", "Sample", "from_json", "to_csv", "to_json"]

FORMAT: Final = "pytikv-bench/1"


class Sample(NamedTuple):
    """One operation. Times in seconds from the run's beginning; `code`: of its error; `retries`: of tries before."""

    operation: str
    began_s: float
    intended_s: float
    ended_s: float
    is_measured: bool
    code: str | None
    retries: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """One stretch of the run: successful operations a second, latencies (response ones where there is a rate)."""

    end_s: float
    per_second: Mapping[str, float]
    p50_us: Mapping[str, float]
    p99_us: Mapping[str, float]
    errors: int


@dataclasses.dataclass(frozen=True, slots=True)
class OperationReport:
    """One kind of operation. `histogram`: HdrHistogram's text form of the service latencies, in nanoseconds."""

    count: int
    per_second: float
    service: Mapping[str, float]
    response: Mapping[str, float]
    errors: Mapping[str, int]
    retries: Mapping[str, int]
    histogram: str


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """A whole run. `missed`: operations whose intended time came and that were not begun. `check`: of the data."""

    workload: str
    api: str
    target: str
    load: Mapping[str, Any]
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    began: str
    seconds: float
    operations: Mapping[str, OperationReport]
    intervals: Sequence[Interval]
    missed: int
    interrupted: bool
    check: Mapping[str, Any] | None

    @property
    def per_second(self) -> float:
        """Successful operations a second, of all kinds together."""
        return sum(one.per_second for one in self.operations.values())

    @property
    def error_count(self) -> int:
        """How many operations failed."""
        return sum(sum(one.errors.values()) for one in self.operations.values())


class _Totals:
    """The counts of one kind of operation."""

    def __init__(self) -> None:
        self.service, self.response, self.interval = Histogram(), Histogram(), Histogram()
        self.errors: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()


class Recorder:
    """Takes the samples of a run, in any order of operations, and gives its figures. For one thread."""

    def __init__(self, operations: Iterable[str], *, measured_from_s: float, has_rate: bool) -> None:
        self._totals = {name: _Totals() for name in operations}
        self._has_rate = has_rate
        self._began_s = self._interval_began_s = measured_from_s
        self._interval_errors = 0
        self.intervals: list[Interval] = []
        self.measured = 0
        """Operations that were measured, failed ones too."""

    def take(self, samples: Iterable[Sample]) -> None:
        """Count samples; those of the warm-up count for nothing."""
        for sample in samples:
            if not sample.is_measured:
                continue
            self.measured += 1
            totals = self._totals[sample.operation]
            totals.retries.update(sample.retries)
            if sample.code is not None:
                totals.errors[sample.code] += 1
                self._interval_errors += 1
                continue
            service_ns = int((sample.ended_s - sample.began_s) * 1e9)
            response_ns = int((sample.ended_s - sample.intended_s) * 1e9)
            totals.service.add(service_ns)
            totals.interval.add(response_ns)
            if self._has_rate:
                totals.response.add(response_ns)

    def close_interval(self, now_s: float, at_least_s: float) -> Interval | None:
        """End a stretch of the run; None, and it goes on, while the warm-up lasts and where it is too short.

        The only stretch of a run may be shorter.
        """
        seconds = now_s - self._interval_began_s
        if seconds <= 0 or (seconds < at_least_s and self.intervals):
            return None
        each = {name: totals.interval for name, totals in self._totals.items()}
        interval = Interval(
            end_s=round(now_s - self._began_s, 3),
            per_second={name: round(len(one) / seconds, 1) for name, one in each.items()},
            p50_us={name: round(one.percentile_us(50), 1) for name, one in each.items()},
            p99_us={name: round(one.percentile_us(99), 1) for name, one in each.items()},
            errors=self._interval_errors,
        )
        self.intervals.append(interval)
        self._interval_began_s, self._interval_errors = now_s, 0
        for one in each.values():
            one.clear()
        return interval

    def operations(self, seconds: float) -> dict[str, OperationReport]:
        """Return the figures of all operations, which took `seconds` together."""
        return {
            name: OperationReport(
                count=len(totals.service),
                per_second=round(len(totals.service) / seconds, 1) if seconds > 0 else 0.0,
                service=totals.service.summary(),
                response=totals.response.summary(),
                errors=dict(totals.errors),
                retries=dict(totals.retries),
                histogram=totals.service.encode(),
            )
            for name, totals in self._totals.items()
        }


def to_json(report: Report) -> str:
    """Return the JSON form."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(report)}, ensure_ascii=False)


def from_json(text: str, name: str = "the report") -> Report:
    """Return the report of a JSON form. Raises ConfigError, naming `name`, for anything else."""
    try:
        record = json.loads(text)
        if record.pop("format") != FORMAT:
            raise ConfigError(f"{name} is not a report of this version of `pytikv bench`: its format must be {FORMAT}")
        operations = {key: OperationReport(**value) for key, value in record.pop("operations").items()}
        intervals = [Interval(**value) for value in record.pop("intervals")]
        return Report(operations=operations, intervals=intervals, **record)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{name} is not a report of `pytikv bench` in JSON") from None


def to_csv(report: Report) -> str:
    """Return a table of the figures, a line for each operation."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = [f"service_{name}" for name in _figures(report, "service")]
    figures += [f"response_{name}" for name in _figures(report, "response")]
    writer.writerow(["workload", "api", "operation", "count", "per_second", *figures, "errors", "retries"])
    for name, one in report.operations.items():
        latencies = [one.service.get(figure, "") for figure in _figures(report, "service")]
        latencies += [one.response.get(figure, "") for figure in _figures(report, "response")]
        counts = [sum(one.errors.values()), sum(one.retries.values())]
        writer.writerow([report.workload, report.api, name, one.count, one.per_second, *latencies, *counts])
    return out.getvalue()


def _figures(report: Report, which: str) -> list[str]:
    return list(dict.fromkeys(figure for one in report.operations.values() for figure in getattr(one, which)))
