"""The public API's types, as mypy infers them for callers."""

import pathlib
import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
def test_public_api_types(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mypy")
    program = pathlib.Path(__file__).with_name("public_api.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--follow-imports=silent",
               f"--cache-dir={tmp_path}", str(program)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parent.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
