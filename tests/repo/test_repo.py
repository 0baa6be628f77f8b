"""Rules of the house that a test can hold: import contracts, sizes, links of the completeness page."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for p in (ROOT / "src").rglob("*.py") if "_pb2" not in p.name)
MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_sizes_and_docstrings(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module begins with its theory of operation"
    assert text.count("\n") <= MODULE_LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"


def test_completeness_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "completeness.md").read_text()
    heads = ("| capability", "|---")
    rows = [line for line in page.splitlines() if line.startswith("|") and not line.startswith(heads)]
    assert len(rows) >= 130
    for row in rows:
        capability, status, shown = (cell.strip() for cell in row.strip("|").split("|"))
        assert status in {"yes", "partly", "refused", "later"}, row
        assert shown, f"{capability} has neither a test nor a reason"
        for path in re.findall(r"`(tests/[^`]+|interop/[^`]+|benchmarks/[^`]+)`", shown):
            name, _, test = path.partition("::")
            assert (ROOT / name).exists(), f"{capability}: {name} does not exist"
            if test:
                assert f"def {test}" in (ROOT / name).read_text(), f"{capability}: no {test} in {name}"


def test_the_package_is_pure_python() -> None:
    kinds = {path.suffix for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert not kinds & {".so", ".pyd", ".c", ".pyx", ".rs"}


def test_no_machine_paths() -> None:
    for path in [*SOURCES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        assert not re.search(r"/work/|/root/", path.read_text()), path
