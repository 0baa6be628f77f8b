"""Running the command line inside the test, against an embedded store of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pytikv.cli.app import app


@dataclasses.dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    raw: bytes

    def json(self) -> Any:
        """The single JSON line on standard output."""
        return json.loads(self.out)

    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"embedded://{tmp_path}/store"


@pytest.fixture
def run(url: str) -> Run:
    """Call it with the words of a command line; `--url` comes from the environment."""

    def run(*words: str, stdin: str | bytes = b"", env: dict[str, str] | None = None) -> Done:
        result = CliRunner().invoke(
            app, list(words), input=stdin, env={"PYTIKV_URL": url, "COLUMNS": "200"} | (env or {})
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)

    return run
