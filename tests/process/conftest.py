"""Servers as processes of their own, started as `pytikv serve` starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PROGRAM = """
import json, sys
from pytikv.server.serve import ServeConfig, main_serve
sys.exit(main_serve(ServeConfig(**json.loads(sys.argv[1]))))
"""
ANY = "127.0.0.1:0"


class ServerProcess:
    """A running server. `stderr` is a file, so that a chatty server never blocks on it."""

    def __init__(self, **options: Any) -> None:
        options = {"addr": ANY, "pd_addr": ANY, "status_addr": ANY, **options}
        self.stderr_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(options)], stdout=subprocess.PIPE, stderr=self.stderr_file
        )
        self.url = ""

    def wait_ready(self) -> ServerProcess:
        """Read the line that says it is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("ready tikv://"), f"{line!r}, {self.stderr()}"
        self.url = line.split()[1]
        return self

    @property
    def pd_port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stderr(self) -> str:
        self.stderr_file.seek(0)
        return self.stderr_file.read().decode()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.stderr_file.close()


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Start servers with options of `ServeConfig`; what still runs at the end is killed."""
    servers: list[ServerProcess] = []

    def start(*, ready: bool = True, **options: Any) -> ServerProcess:
        servers.append(ServerProcess(**options))
        return servers[-1].wait_ready() if ready else servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def as_nobody() -> bool:
    """Whether permissions bind this process (they do not bind root)."""
    return os.geteuid() != 0
