"""What the benchmarks run on: the neutral server, worker processes, interleaved rounds, and what the machine was.

A comparison is made of rounds. In a round each contender runs once, one after the other, each in a process of its own
that lives for the whole comparison; a ratio is taken inside a round, between neighbours in time, and the median of the
rounds' ratios is what counts. Absolute figures are for orientation: they move with the machine's load, ratios hardly.

Each comparison over the network is made in two arrangements. On *all cores* client and server sit where the system puts
them; each request then wakes a sleeping core twice, which in a virtual machine costs more than all the rest and hides
the clients' differences. On *one core* both share a core, nothing sleeps, and what is measured is work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
WORKERS = BENCHMARKS / "workers"

_START_TIMEOUT = 600.0  # an embedded worker fills its stores before it is ready
_ROUND_TIMEOUT = 300.0


class Unavailable(Exception):
    """A contender cannot run here; the text says why."""


def goserver_binary() -> Path:
    """Build the neutral server if need be (seconds when built before). Raises Unavailable without a Go toolchain."""
    binary = BENCHMARKS / "bin" / "goserver"
    go = shutil.which("go")
    if go is None:
        if binary.exists():
            return binary
        raise Unavailable("no Go toolchain to build the neutral server with")
    built = subprocess.run(
        [go, "build", "-o", str(binary), "."], cwd=BENCHMARKS / "goserver", capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise Unavailable(f"the neutral server does not build: {built.stderr.strip()[-500:]}")
    return binary


ALL_CORES = "all cores"
ONE_CORE = "one core"


def placed(command: Sequence[str], arrangement: str) -> list[str]:
    """The command, on one core (the last one) if the arrangement says so."""
    taskset = shutil.which("taskset")
    if arrangement == ALL_CORES or (os.cpu_count() or 1) == 1:
        return list(command)
    if taskset is None:
        raise Unavailable("no taskset to put client and server on one core with")
    return [taskset, "-c", str((os.cpu_count() or 1) - 1), *command]


@dataclasses.dataclass
class Server:
    """A server that runs."""

    url: str
    _process: subprocess.Popen[str]

    def requests(self) -> dict[str, int]:
        """Requests by RPC since the last time; the neutral server counts them."""
        assert self._process.stdin is not None
        self._process.stdin.write("requests\n")
        self._process.stdin.flush()
        return dict(json.loads(_line(self._process, 10.0)))


@contextlib.contextmanager
def server(command: Sequence[str], arrangement: str = ALL_CORES) -> Iterator[Server]:
    """Run a server that prints `ready URL`."""
    process = subprocess.Popen(
        placed(command, arrangement), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        word, _, url = _line(process, 60.0).strip().partition(" ")
        if word != "ready" or not url:
            raise Unavailable(f"{command[0]} did not become ready")
        yield Server(url, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def neutral_server(
    arrangement: str = ALL_CORES, *, regions: int = 1, txn: bool = False, delay_ms: int = 0
) -> contextlib.AbstractContextManager[Server]:
    """Run the neutral server: with `txn` its regions are cut for transactions, with `delay_ms` all answers are late."""
    command = [str(goserver_binary()), "-regions", str(regions), f"-txn={txn}", f"-delay={delay_ms}ms", "-until-eof"]
    return server(command, arrangement)


def our_server(*, api_version: int = 1) -> contextlib.AbstractContextManager[Server]:
    """Run `pytikv serve` in memory."""
    command = [sys.executable, "-m", "pytikv", "serve", "--api-version", str(api_version)]
    return server([*command, "--pd-addr", "127.0.0.1:0", "--addr", "127.0.0.1:0"])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory on disk that is removed afterwards."""
    base = ROOT / ".cache" / "bench"
    base.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=base))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def peers_python() -> str:
    """The interpreter of the peers' own environment, made on demand. Raises Unavailable when that fails."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "interop" / "peers.py")], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Unavailable(f"the peers cannot be installed: {made.stderr.strip()[-300:]}")
    return made.stdout.strip()


def _line(process: subprocess.Popen[str], timeout: float) -> str:
    """One line from a child, within `timeout`; a child that ends or stays silent is an Unavailable."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout):
            raise Unavailable(f"no answer within {timeout:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise Unavailable(f"ended with code {process.wait(10)}")
    return line


class Worker:
    """A contender in a child process; see workers/loop.py for the protocol."""

    def __init__(
        self, name: str, script: str, *arguments: str, python: str = sys.executable, arrangement: str = ALL_CORES
    ) -> None:
        self.name = name
        self.errors = (ROOT / ".cache" / "bench-errors").with_suffix(f".{name.replace(' ', '_')}")
        self.errors.parent.mkdir(exist_ok=True)
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                placed([python, str(WORKERS / script), *arguments], arrangement),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        try:
            self.about = json.loads(_line(self._process, _START_TIMEOUT))
        except Unavailable as error:
            self.close()
            raise Unavailable(f"{name}: {error}; {self._last_words()}") from None

    def _last_words(self) -> str:
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def run(self, case: str, n: int) -> dict[str, float]:
        """Run `n` operations of a case."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"case": case, "n": n}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(_line(self._process, _ROUND_TIMEOUT))
        if "error" in answer:
            raise Unavailable(f"{self.name}, {case}: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """End the child."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclasses.dataclass
class Entry:
    """One contender's part in a comparison."""

    label: str
    worker: Worker
    case: str
    probe: int = 100
    """Operations by which it is found how many a round takes; few for slow ones."""
    operations: int = 0
    seconds: list[float] = dataclasses.field(default_factory=list)  # a single operation, by round
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)

    def prepare(self, round_seconds: float) -> None:
        """Find how many operations take about `round_seconds`; a second call does nothing. Raises Unavailable."""
        if not self.operations:
            self.worker.run(self.case, self.probe)
            probe = self.worker.run(self.case, self.probe)
            wanted = round_seconds / max(probe["seconds"], 1e-6) * self.probe
            self.operations = max(self.probe // 10, 1, int(wanted))

    @property
    def median_us(self) -> float:
        """Median over the rounds of microseconds an operation."""
        return statistics.median(self.seconds) * 1e6


def interleave(entries: Sequence[Entry], *, rounds: int, round_seconds: float) -> None:
    """Run the rounds: each entry for about `round_seconds` in each, the order turned from round to round."""
    for entry in entries:
        entry.prepare(round_seconds)
    for number in range(rounds):
        for i in range(len(entries)):
            entry = entries[(number + i) % len(entries)]
            answer = entry.worker.run(entry.case, entry.operations)
            entry.seconds.append(answer["seconds"] / entry.operations)
            entry.cpu_seconds.append(answer["cpu_seconds"] / entry.operations)


def ratios(above: Entry, below: Entry) -> list[float]:
    """How many times longer an operation of `above` took, by round."""
    return [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; with fewer than four values the least and the greatest."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """The commit measured, with `+` when the tree has other changes than in benchmarks/results."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    dirty = git(
        "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/workers", "benchmarks/goserver"
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if dirty else "")


def load() -> float:
    """Load of the machine over the last minute: above the number of cores, the figures tell of other work too."""
    return round(os.getloadavg()[0], 2)


def wait_for_quiet(limit: float, seconds: float) -> None:
    """Wait until the load has fallen below `limit`, at most `seconds`."""
    end = time.monotonic() + seconds
    while load() > limit and time.monotonic() < end:
        time.sleep(2)
