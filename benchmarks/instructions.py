"""What a get costs with everything off, in machine instructions: now, and before there was anything to switch on.

Instructions are counted by `valgrind` (Debian package `valgrind`), which makes the figure independent of the machine's
load and speed. "Before" is the last commit without metrics, traces, breakers and contexts (`BEFORE`), taken from the
repository's own history. Two runs with different numbers of gets are subtracted, so that start and end do not count.

    python benchmarks/instructions.py            the table by itself
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import harness
import report
from report import Line

BEFORE: Final = "d682a89"
_FEW: Final = 200
_MANY: Final = 1200
_GOAL_PERCENT: Final = 2.0
_CASES: Final = (("raw get, embedded", "raw", False), ("raw get", "raw", True), ("snapshot get", "snapshot", True))


def measure() -> list[Line]:
    """Return one line a kind of get: percent more instructions than before."""
    if shutil.which("valgrind") is None:
        return [Line("everything off: instructions of a get", skipped="valgrind is not installed")]
    try:
        with source_before() as before:
            return [_case(*case, before) for case in _CASES]
    except harness.Unavailable as error:
        return [Line("everything off: instructions of a get", skipped=str(error))]


def _case(name: str, kind: str, over_network: bool, before: Path) -> Line:
    with contextlib.ExitStack() as stack:
        url = "embedded://:memory:"
        if over_network:
            url = stack.enter_context(harness.neutral_server(txn=kind == "snapshot")).url
        then, now = (_instructions_a_get(source, kind, url) for source in (before, harness.ROOT / "src"))
    return Line(
        f"everything off: {name}, instructions more than before",
        unit="%",
        value=round((now / then - 1) * 100, 2),
        goal=_GOAL_PERCENT,
        detail=f"{now:,.0f} against {then:,.0f} at {BEFORE}",
    )


def _instructions_a_get(source: Path, kind: str, url: str) -> float:
    few, many = (count(source, "instructions.py", kind, url, str(number)) for number in (_FEW, _MANY))
    return (many - few) / (_MANY - _FEW)


def count(source: Path, worker: str, *arguments: str) -> int:
    """Count the instructions of a whole process in user space: a worker on the package at `source`."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    command += [sys.executable, str(harness.WORKERS / worker), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or found is None:
        raise harness.Unavailable(f"the counted run failed: {done.stderr[-300:]}")
    return int(found[1].replace(",", ""))


@contextlib.contextmanager
def source_before() -> Iterator[Path]:
    """The package as it was at `BEFORE`, in a directory that is removed afterwards."""
    packed = subprocess.run(["git", "archive", BEFORE, "src"], cwd=harness.ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise harness.Unavailable(f"the commit {BEFORE} is not in this clone")
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(directory, filter="data")
        yield Path(directory) / "src"


if __name__ == "__main__":
    report.show(measure())
