"""The public API's types, as mypy and pyright infer them for callers."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
PROGRAMS = ["public_api.py", "model_api.py", "batch_api.py"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROGRAMS)
def test_public_api_types(tmp_path: pathlib.Path, name: str) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--follow-imports=silent",
               f"--cache-dir={tmp_path}", str(HERE / name)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_types_under_pyright(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pyright")
    (tmp_path / "model_api.py").write_text((HERE / "model_api.py").read_text())
    options = {"pythonVersion": "3.11", "enableTypeIgnoreComments": False,
               "reportUnnecessaryTypeIgnoreComment": "error"}  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = json.loads(done.stdout)
    problems = [f"{one['range']['start']['line'] + 1}: {one['message']}" for one in found["generalDiagnostics"]]
    assert problems == []
    assert found["summary"]["filesAnalyzed"] == 1
