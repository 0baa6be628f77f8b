"""`doctor`: what is wrong with a cluster, and with this process in front of it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytikv.config import ClientConfig
    from pytikv.doctor.findings import CheckResult, Report
    from pytikv.url import Target

__all__ = ["register"]

_COLOURS = {"ok": "green", "info": "cyan", "warning": "yellow", "critical": "bold red", "unknown": "dim"}
_SIGNS = {"ok": "✓", "info": "i", "warning": "!", "critical": "✗", "unknown": "?"}


def doctor(
    url: UrlOption = DEFAULT_URL,
    timeout: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds that it may take in all.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Examine a cluster: endpoints, TLS, versions, clock, latency, stores, balance, locks, values, GC, this process.

    Each finding comes with its evidence and advice. It reads a bounded part of the data and writes nothing.

    Exit codes: 0 healthy, 1 warnings, 2 something is critical. A check that could not be made says why.
    """
    report = _examine(url, timeout)
    if as_json:
        _print_json(report)
    else:
        _print(report)
    raise typer.Exit(report.exit_code)


def _examine(url: str, timeout_s: float) -> Report:
    import asyncio

    from pytikv.client.base import client_config

    target, config = client_config(url, {})
    with output.progress(known=False) as bar:
        task = bar.add_task("Connecting", total=None, detail="")
        return asyncio.run(_run(target, config, timeout_s, lambda title: bar.update(task, description=title)))


async def _run(target: Target, config: ClientConfig, timeout_s: float, on_check: Callable[[str], None]) -> Report:
    from pytikv.doctor.examine import examine
    from pytikv.rt.aio import AioRuntime

    rt = AioRuntime()
    try:
        return await examine(rt, target, config, timeout_s=timeout_s, on_check=on_check)
    finally:
        await rt.close()


# --- rendering --------------------------------------------------------------------------------------------------------


def _print_json(report: Report) -> None:
    output.print_json(
        {
            "target": report.target,
            "severity": report.severity.label,
            "exit_code": report.exit_code,
            "checks": [check.record() for check in report.checks],
        }
    )


def _print(report: Report) -> None:
    """Print the checks in two columns; what is long is wrapped on a terminal, and left whole elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(check.title) for check in report.checks)
    room = max(40, console.width - width - 4) if console.is_terminal else 10_000
    for check in report.checks:
        for number, (label, title, details) in enumerate(_entries(check)):
            colour = _COLOURS[label]
            is_loud = label in ("warning", "critical")
            head = Text.assemble((f"{_SIGNS[label]} ", colour), (f"{'' if number else check.title:<{width}}  ", "bold"))
            lines = textwrap.wrap(title, room)
            console.print(head.append(lines[0], style=colour if is_loud else ""))
            more = [part for line in details for part in textwrap.wrap(line, room, subsequent_indent="  ")]
            for line in [*lines[1:], *more]:
                console.print(Text(f"{' ' * (width + 4)}{line}", style="dim" if label in ("ok", "unknown") else ""))
    console.print(Text(f"\n{_summary(report)}", style=_COLOURS[report.severity.label]))


def _entries(check: CheckResult) -> list[tuple[str, str, list[str]]]:
    """Return (label, title, further lines) of what a check found."""
    if check.could_not:
        return [("unknown", f"not checked: {check.could_not}", [])]
    worst_first = sorted(check.findings, key=lambda finding: -finding.severity)
    return [
        (
            finding.severity.label,
            finding.title,
            [*finding.evidence, *([f"-> {finding.advice}"] if finding.advice else [])],
        )
        for finding in worst_first
    ]


def _summary(report: Report) -> str:
    from pytikv.doctor.findings import Severity

    critical, warnings = report.count(Severity.CRITICAL), report.count(Severity.WARNING)
    unknown = sum(bool(check.could_not) for check in report.checks)
    seconds = sum(check.seconds for check in report.checks)
    verdict = "healthy" if not report.exit_code else f"{critical} critical, {warnings} warning{'s' * (warnings != 1)}"
    return f"\n{report.target}: {verdict}; {len(report.checks) - unknown} checks made, {unknown} not, {seconds:.1f} s"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    examples = ["pytikv doctor", "pytikv doctor --url 'tikv://pd1:2379?ca=ca.pem' --json"]
    add_command(app, doctor, *examples, panel="Operate")
