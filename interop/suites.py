"""Suites that are no clients: the recorded conformance scenarios under their Go runner, and h2spec."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request

from programs import BIN, HERE, Skipped, run_build, tool
from results import Result

CONFORMANCE = HERE.parent.parent / "shared" / "conformance"
H2SPEC = "v2.2.1+incompatible"


def conformance(mode: str, address: str) -> Result:
    """The recorded scenarios under their Go runner, unary and batched, where they lie beside the repository."""
    result, started = Result("conformance (Go runner)", mode), time.monotonic()
    runner = CONFORMANCE / "runner"
    if not runner.is_dir():
        result.skipped = "the scenarios and their runner are not beside this checkout"
        return result
    try:
        run_build([tool("go"), "build", "-o", str(BIN / "conformance"), "."], runner)
    except Skipped as skipped:
        result.skipped = str(skipped)
        return result
    files = [str(path) for path in sorted(CONFORMANCE.glob("*.json"))]
    for flags in ([], ["-batch"]):
        command = [str(BIN / "conformance"), "-pd", address, "-api", mode, "-q", *flags, *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        lines = done.stdout.splitlines()
        words = lines[-1].split() if lines else []
        if len(words) >= 4 and words[1].startswith("passed"):
            result.passed += int(words[0])
        failed = [line for line in lines[:-1] if line.startswith("FAIL")]
        result.failures += [f"{' '.join(flags)} {line}".strip()[:200] for line in failed]
        if done.returncode and not failed:
            result.failures.append(f"exit code {done.returncode}: {(done.stderr or done.stdout)[-200:]}")
    result.seconds = time.monotonic() - started
    return result


def h2spec(address: str) -> Result:
    """The HTTP/2 conformance suite (summerwind/h2spec, built from its Go module) against the store's port.

    PD's port would fail one case: it serves HTTP/1 too, and answers what the suite sends as a broken preface.
    """
    result, started = Result("h2spec --strict", "v1"), time.monotonic()
    with urllib.request.urlopen(f"http://{address}/pd/api/v1/stores", timeout=10) as answer:
        address = json.load(answer)["stores"][0]["store"]["address"]
    try:
        run_build([tool("go"), "install", f"github.com/summerwind/h2spec/cmd/h2spec@{H2SPEC}"], HERE, GOBIN=str(BIN))
    except (Skipped, RuntimeError) as reason:
        result.skipped = str(reason)[:80]
        return result
    host, _, port = address.rpartition(":")
    command = [str(BIN / "h2spec"), "--strict", "-h", host, "-p", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    count = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    result.passed = int(count[2]) if count else 0
    if done.returncode or count is None:
        result.failures.append(done.stdout[-800:] or done.stderr[-200:])
    result.seconds = time.monotonic() - started
    return result
