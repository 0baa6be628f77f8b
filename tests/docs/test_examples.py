"""Every example in the README and the docs runs.

`python` blocks of a page share one namespace and run in order; the addresses of the default server are replaced by
those of one that runs for the tests, and paths below /tmp by the test's own folder. `console` blocks run line by line
(the lines after `$ `), with `PYTIKV_URL` set to that server; commands that install or never end are not run. `text`
blocks are shapes, not examples.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = ("pip install", "make ", "pytikv serve", "git clone", "cd ")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    text = page.read_text()
    return [(text[: m.start(2)].count("\n") + 1, m[2]) for m in FENCE.finditer(text) if m[1] == language]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    command = [sys.executable, "-m", "pytikv", "serve", "--pd-addr", "127.0.0.1:0", "--addr", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("ready "), line
        try:
            yield line.split()[1]
        finally:
            server.terminate()
            assert server.wait(timeout=20) == 0


def with_python(pages: list[Path], language: str) -> list[Path]:
    return [page for page in pages if blocks(page, language)]


@pytest.mark.process
@pytest.mark.parametrize("page", with_python(PAGES, "python"), ids=lambda p: str(p.relative_to(ROOT)))
def test_python_examples(page: Path, server_url: str, tmp_path: Path) -> None:
    source = ""
    for line, block in blocks(page, "python"):
        source += "\n" * max(0, line - source.count("\n") - 1) + block
    source = source.replace("tikv://127.0.0.1:2379", server_url).replace("/tmp/", f"{tmp_path}/")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTIKV_")}
    script = tmp_path / "page.py"
    script.write_text(source)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.process
@pytest.mark.parametrize("page", with_python(PAGES, "console"), ids=lambda p: str(p.relative_to(ROOT)))
def test_console_examples(page: Path, server_url: str, tmp_path: Path) -> None:
    search_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTIKV_URL": server_url, "PATH": search_path}
    for _, block in blocks(page, "console"):
        for line in block.splitlines():
            command = line.removeprefix("$ ")
            if command == line or command.startswith(NOT_RUN):
                continue
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
