"""`python -m pytikv.testing.simulate`: many seeds of the simulations; failing ones are printed and replay exactly.

    python -m pytikv.testing.simulate --seeds 1000                       # seeds 0 to 999 of every kind
    python -m pytikv.testing.simulate --kind txn --seeds 1000            # of transactions only
    python -m pytikv.testing.simulate --kind txn --seed 42 --history     # one again, with its history
    python -m pytikv.testing.simulate --kind overload --svg goodput.svg  # no faults, but too much load: a chart

Kinds: `raw` data and `txn` (transactions) on one server, `fleet`: raw data of several stores, with guarded clients;
`overload` is apart (`overload_report`).

Seeds are spread over processes (`--jobs`); on a terminal a line shows how far it is. Exit code 1 when a seed failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from pytikv.testing import overload_report
from pytikv.testing.fleet_simulation import run_fleet
from pytikv.testing.simulated import Outcome
from pytikv.testing.simulation import run_raw
from pytikv.testing.txn_simulation import run_txn

__all__ = ["main"]

_SEEDS = 200
_SHOWN = 20
_BAR = 30

KINDS: Final[dict[str, Callable[[int], Outcome]]] = {"raw": run_raw, "txn": run_txn, "fleet": run_fleet}
_OVERLOAD: Final = "overload"

Job = tuple[str, int]
Result = tuple[Job, bool, str, dict[str, int]]


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds asked for; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.kind == _OVERLOAD:
        return overload_report.show(options.seed or 0, as_json=options.json, svg=options.svg)
    kinds = list(KINDS) if options.kind == "all" else [options.kind]
    if options.seed is not None:
        return max(_replay(kind, options.seed, history=options.history) for kind in kinds)
    jobs = [(kind, seed) for seed in range(options.start, options.start + options.seeds) for kind in kinds]
    progress = _Progress(len(jobs), shown=sys.stderr.isatty() and not options.json)
    failed: list[Job] = []
    totals: Counter[str] = Counter()
    for job, ok, text, counts in _all(jobs, options.jobs):
        totals.update(counts)
        if not ok:
            failed.append(job)
            progress.say(f"{job[0]} {text}")
            progress.say(f"replay: python -m pytikv.testing.simulate --kind {job[0]} --seed {job[1]}")
        progress.step(len(failed))
    _summarize(len(jobs), sorted(failed), totals, progress.seconds(), as_json=options.json)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytikv.testing.simulate", description="Simulate clusters and clients under faults."
    )
    parser.add_argument(
        "--kind", choices=[*KINDS, "all", _OVERLOAD], default="all", help="what to simulate (default all)"
    )
    parser.add_argument("--seeds", type=int, default=_SEEDS, help=f"how many seeds of each kind (default {_SEEDS})")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="run one seed and tell what happened")
    parser.add_argument("--history", action="store_true", help="with --seed: print its history as JSON lines")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--svg", type=pathlib.Path, help="with --kind overload: draw the curves into this file")
    return parser


def _all(jobs: list[Job], processes: int) -> Iterator[Result]:
    if processes == 1 or len(jobs) == 1:
        yield from map(_one, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_one, jobs, chunksize=4)


def _one(job: Job) -> Result:
    kind, seed = job
    outcome = KINDS[kind](seed)
    figures = outcome.counts() | {f"fault: {name}": count for name, count in outcome.faults.items()}
    return job, outcome.ok, outcome.describe(), {f"{kind} {name}": count for name, count in figures.items()}


def _replay(kind: str, seed: int, *, history: bool) -> int:
    outcome = KINDS[kind](seed)
    _say(f"{kind} {outcome.describe()}")
    _say(f"{outcome.options}, faults {outcome.faults}, digest {outcome.digest}")
    if outcome.error is not None:
        traceback.print_exception(outcome.error)
    if history:
        for line in outcome.history_lines():
            sys.stdout.write(line + "\n")
    return 0 if outcome.ok else 1


class _Progress:
    """A line on the terminal that is written over: how far, how many failed, how fast."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._done = 0
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started

    def step(self, failed: int) -> None:
        """One more is done."""
        self._done += 1
        if self._shown:
            bar = "#" * (_BAR * self._done // self._total)
            rate = self._done / max(self.seconds(), 1e-9)
            text = f"[{bar:<{_BAR}}] {self._done} of {self._total}, {failed} failed, {rate:.1f} seeds a second"
            sys.stderr.write("\r" + text + ("\n" if self._done == self._total else ""))
            sys.stderr.flush()

    def say(self, text: str) -> None:
        """Print something in between."""
        _say(("\r" if self._shown else "") + text)


def _summarize(seeds: int, failed: list[Job], totals: Counter[str], seconds: float, *, as_json: bool) -> None:
    rate = seeds / seconds
    if as_json:
        record = {
            "seeds": seeds,
            "failed": [{"kind": kind, "seed": seed} for kind, seed in failed],
            "totals": dict(sorted(totals.items())),
            "seconds": seconds,
            "seeds_per_second": rate,
        }
        sys.stdout.write(json.dumps(record) + "\n")
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(totals.items()))
    shown = ", ".join(f"{kind} {seed}" for kind, seed in failed[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
    verdict = f"{len(failed)} FAILED: seeds {shown}" if failed else "all right"
    sys.stdout.write(f"{seeds} seeds in {seconds:.1f} s, {rate:.1f} a second: {verdict}; {counts}\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
