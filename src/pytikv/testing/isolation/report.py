"""The judgement on a history: everything that was found, divided into what the level forbids and what it allows."""

from __future__ import annotations

import dataclasses
from typing import Final

from pytikv.testing.isolation.cycles import find_cycles
from pytikv.testing.isolation.dependencies import build_graph
from pytikv.testing.isolation.observations import observe
from pytikv.testing.isolation.timestamps import check_timestamps
from pytikv.testing.isolation.txns import Finding, Level, TxnHistory, TxnStatus

__all__ = ["IsolationReport", "NotIsolated", "check_isolation"]

_SHOWN: Final = 8


class NotIsolated(AssertionError):
    """Raised by `IsolationReport.raise_for_violation`; its text tells each anomaly with its transactions."""


@dataclasses.dataclass(frozen=True, slots=True)
class IsolationReport:
    """The finding for a history at a level. `allowed`: anomalies that the level does not forbid (write skew)."""

    level: Level
    txns: int
    committed: int
    violations: tuple[Finding, ...]
    allowed: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that the level forbids."""
        return not self.violations

    def describe(self) -> str:
        """Return the violations, with their transactions; one line when there are none."""
        words = self.level.name.lower().replace("_", " ")
        if self.ok:
            found = "".join(f", {finding.anomaly.title} found" for finding in self.allowed[:_SHOWN])
            return f"{words}: {self.committed} of {self.txns} transactions committed{found}"
        shown = [finding.describe() for finding in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            shown.append(f"... and {len(self.violations) - _SHOWN} more")
        return "\n".join([f"not {words}: {len(self.violations)} anomalies in {self.txns} transactions", *shown])

    def raise_for_violation(self) -> None:
        """Raise NotIsolated if anything was found that the level forbids."""
        if not self.ok:
            raise NotIsolated(self.describe())


def check_isolation(
    history: TxnHistory,
    *,
    level: Level = Level.SNAPSHOT_ISOLATION,
    timestamps: bool = True,
    real_time: bool = True,
) -> IsolationReport:
    """Judge `history`. Some thousands of transactions take about a second.

    `timestamps`: compare reads with start_ts and commit_ts, where these are recorded. `real_time`: transactions that
    began after another ended must come after it (strict snapshot isolation); takes the recorder's moments.
    Raises ValueError for a history in which a value was written twice to a key.
    """
    seen = observe(history)
    found = [*seen.findings, *find_cycles(build_graph(history, seen, real_time=real_time))]
    if timestamps:
        found += check_timestamps(history, seen)
    violations = tuple(finding for finding in found if finding.anomaly.forbidden_from <= level)
    allowed = tuple(finding for finding in found if finding.anomaly.forbidden_from > level)
    committed = sum(txn.status is TxnStatus.COMMITTED for txn in history)
    return IsolationReport(level, len(history), committed, violations, allowed)
