"""A real Prometheus in a process of its own, and the questions that Grafana would ask it."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Samples = list[dict[str, Any]]


class Prometheus:
    """Runs with the configuration that `pytikv monitoring init` wrote; `ask` speaks its HTTP API."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{taken.getsockname()[1]}"
        self._log = open(directory / "prometheus.log", "w+")  # noqa: SIM115  # closed by close()
        command = [
            binary,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address={self.address}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def api(self, path: str, **parameters: str) -> Any:
        return json.loads(self.get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]

    def query(self, expr: str) -> Samples:
        """The samples of an instant query that are numbers."""
        found = self.api("query", query=expr)["result"]
        return [sample for sample in found if not math.isnan(float(sample["value"][1]))]

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None:
        """Ask again and again; a Prometheus that has no answer yet is asked again too."""
        end = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None, self.log()
            assert time.monotonic() < end, what()
            time.sleep(0.1)  # between two looks at another process; nothing depends on how long it is

    def log(self) -> str:
        self._log.flush()
        return (self._directory / "prometheus.log").read_text()[-2000:]


@pytest.fixture
def prometheus() -> Iterator[Callable[[Path], Prometheus]]:
    """Call it with a directory made by `pytikv monitoring init`."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus (a Debian package) is not installed")
    running: list[Prometheus] = []

    def start(directory: Path) -> Prometheus:
        running.append(Prometheus(binary, directory))
        return running[-1]

    yield start
    for each in running:
        each.close()
