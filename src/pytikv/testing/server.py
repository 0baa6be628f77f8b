"""A development server in a process of its own, for tests: `ServerProcess`.

It runs `python -m pytikv serve` on free ports and is ready when the process has said so. Its log is kept in a file,
whose end is part of the error when it does not start or does not stop well.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytikv import RawClient

__all__ = ["ServerProcess"]

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_LOG_TAIL_BYTES = 4000


class ServerProcess:
    """`pytikv serve` as a child process; a context manager.

    `path`: directory of the data, None: in memory. `arguments`: further options of `pytikv serve`. A server with a path
    comes back with its data, and on its old ports, by `restart`.
    """

    def __init__(self, path: str | None = None, *arguments: str, api_version: str = "1") -> None:
        self._path = path
        self._arguments = [*arguments, "--api-version", api_version]
        self._addresses = ["--pd-addr", "127.0.0.1:0", "--addr", "127.0.0.1:0"]
        self._api_version = api_version
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # closed by close()
        self.url = ""

    def __enter__(self) -> ServerProcess:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's id. Raises RuntimeError when it does not run."""
        return self._running().pid

    def client(self, **options: Any) -> RawClient:
        """Connect a blocking raw client, with the server's API version unless told otherwise."""
        import pytikv

        options.setdefault("api_version", 2 if self._api_version == "2" else 1)
        return pytikv.RawClient.connect(self.url, **options)

    def clear(self) -> None:
        """Delete all raw data."""
        with self.client() as client:
            client.delete_range(b"", b"")

    # --- the process --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and wait until it is ready. Raises RuntimeError with the end of its log, closed then."""
        where = [self._path] if self._path is not None else []
        command = [sys.executable, "-m", "pytikv", "serve", *where, *self._addresses, *self._arguments]
        environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTIKV_")}
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        line = self._first_line(self._process)
        if not line.startswith("ready "):
            self.kill()
            tail = self.log_tail()
            self.close()
            raise RuntimeError(f"the server did not start, it said {line!r}; its log ends: {tail}")
        self.url = line.split()[1]
        self._addresses[1] = self.url.removeprefix("tikv://")

    def _first_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        return process.stdout.readline() if readable else ""

    def stop(self) -> int:
        """Ask the process to end (SIGTERM), wait, and return its exit code."""
        process = self._running()
        process.terminate()
        try:
            code = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the server did not stop; its log ends: {self.log_tail()}") from None
        self._forget()
        return code

    def kill(self) -> None:
        """Kill the process (SIGKILL): nothing that it had not synced survives."""
        process = self._running()
        process.kill()
        process.wait()
        self._forget()

    def pause(self) -> None:
        """Stop the process in its tracks (SIGSTOP): its connections stay up and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, kill: bool = False) -> None:
        """End the process, by SIGKILL if `kill`, and start it again on the same PD port."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def close(self) -> None:
        """End the process if it runs; idempotent."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()  # a paused process does not hear SIGTERM
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._forget()
        self._log.close()

    def log_tail(self) -> str:
        """Return the end of the log."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL_BYTES))
        text = self._log.read().decode("utf-8", "replace")
        return text.strip() or "(empty)"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.stdout.close()
