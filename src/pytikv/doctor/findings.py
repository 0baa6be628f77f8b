"""What a check found: findings with severity, evidence and advice, and the report of them all.

Exit codes follow the monitoring plugins' custom: 0 when nothing is worse than `info`, 1 for warnings, 2 when something
is critical. A check that could not be made is no fault of the cluster: it is shown, and changes no exit code.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

__all__ = ["CheckResult", "Finding", "Report", "Severity"]


class Severity(enum.IntEnum):
    """How bad it is; the order is that of the numbers."""

    OK = 0
    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The name as people and JSON see it."""
        return self.name.lower()


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. `evidence`: the lines that show it; `advice`: what to do, empty where there is none."""

    severity: Severity
    title: str
    evidence: tuple[str, ...] = ()
    advice: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "severity": self.severity.label,
            "title": self.title,
            "evidence": list(self.evidence),
            "advice": self.advice,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went. `could_not`: why it could not be made, empty when it was; `seconds`: how long it took."""

    name: str
    title: str
    findings: tuple[Finding, ...] = ()
    could_not: str = ""
    seconds: float = 0.0

    @property
    def severity(self) -> Severity:
        """The worst of the findings."""
        return max((finding.severity for finding in self.findings), default=Severity.OK)

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "check": self.name,
            "title": self.title,
            "severity": "unknown" if self.could_not else self.severity.label,
            "could_not": self.could_not,
            "seconds": round(self.seconds, 3),
            "findings": [finding.record() for finding in self.findings],
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order in which they were made. `target` holds no secrets."""

    target: str
    checks: tuple[CheckResult, ...]

    @property
    def severity(self) -> Severity:
        """The worst of the checks."""
        return max((check.severity for check in self.checks), default=Severity.OK)

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 warnings, 2 critical."""
        return max(0, self.severity - Severity.INFO)

    def count(self, severity: Severity) -> int:
        """Return how many findings have a severity."""
        return sum(finding.severity is severity for check in self.checks for finding in check.findings)
