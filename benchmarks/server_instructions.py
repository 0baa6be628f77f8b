"""What telling costs costs a store, in machine instructions: handling a message now, and before answers told anything.

Counted as in `instructions.py`, by `valgrind`, and without a wire (`workers/server_instructions.py`): so a percent here
is less than one of the server's processor time. "Before" is the commit before `exec_details_v2`.

    python benchmarks/server_instructions.py [CASE ...]     the table by itself
"""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path
from typing import Final

import harness
import instructions
import report
from report import Line

_FEW: Final = 100
_MANY: Final = 500
_GET_GOAL_PERCENT: Final = 3.0
_WRITE_GOAL_PERCENT: Final = 8.0
_CASES: Final = {
    "raw_get": "raw get",
    "get": "KvGet alone",
    "get_16": "16 KvGet in a message",
    "batch_get": "KvBatchGet of one key",
    "write": "KvPrewrite and KvCommit of one key",
    "write_8": "KvPrewrite and KvCommit of 8 keys",
}


def measure(cases: tuple[str, ...] = tuple(_CASES)) -> list[Line]:
    """Return one line a kind of request: percent more instructions than before."""
    if shutil.which("valgrind") is None:
        return [Line("costs told: instructions of a store", skipped="valgrind is not installed")]
    try:
        with instructions.source_before() as before:
            return [_case(case, before) for case in cases]
    except harness.Unavailable as error:
        return [Line("costs told: instructions of a store", skipped=str(error))]


def _case(case: str, before: Path) -> Line:
    then, now = (_of_a_message(source, case) for source in (before, harness.ROOT / "src"))
    return Line(
        f"costs told: {_CASES[case]}, instructions more than before",
        unit="%",
        value=round((now / then - 1) * 100, 2),
        goal=_WRITE_GOAL_PERCENT if case.startswith("write") else _GET_GOAL_PERCENT,
        detail=f"{now:,.0f} against {then:,.0f} at {instructions.BEFORE}",
    )


def _of_a_message(source: Path, case: str) -> float:
    count = functools.partial(instructions.count, source, "server_instructions.py")
    each = (count(case, str(_MANY)) - count(case, str(_FEW))) / (_MANY - _FEW)
    if case.startswith("write"):  # the messages differ, and are made as they are sent
        made = f"{case}_made"
        each -= (count(made, str(_MANY)) - count(made, str(_FEW))) / (_MANY - _FEW)
    return each


if __name__ == "__main__":
    report.show(measure(tuple(sys.argv[1:]) or tuple(_CASES)))
