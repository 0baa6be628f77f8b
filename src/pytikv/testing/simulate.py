"""`python -m pytikv.testing.simulate`: many seeds of the raw simulation; failing ones are printed and replay exactly.

    python -m pytikv.testing.simulate --seeds 1000            # seeds 0 to 999
    python -m pytikv.testing.simulate --seed 42 --history     # one again, with its history

Exit code 1 when a seed failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from pytikv.testing.simulation import Outcome, RawOptions, run_raw

__all__ = ["main"]

_SEEDS = 200
_SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds asked for; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, history=options.history)
    seeds = range(options.start, options.start + options.seeds)
    started = time.perf_counter()
    failed: list[int] = []
    totals: Counter[str] = Counter()
    for seed, ok, text, counts in _all(seeds, options.jobs):
        totals.update(counts)
        if not ok:
            failed.append(seed)
            _say(text)
            _say(f"replay: python -m pytikv.testing.simulate --seed {seed}")
    _summarize(len(seeds), failed, totals, time.perf_counter() - started, as_json=options.json)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytikv.testing.simulate", description="Simulate raw data under faults."
    )
    parser.add_argument("--seeds", type=int, default=_SEEDS, help=f"how many seeds (default {_SEEDS})")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="run one seed and tell what happened")
    parser.add_argument("--history", action="store_true", help="with --seed: print its history as JSON lines")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


Result = tuple[int, bool, str, dict[str, int]]


def _all(seeds: range, jobs: int) -> Iterator[Result]:
    if jobs == 1 or len(seeds) == 1:
        yield from map(_one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_one, seeds, chunksize=4)


def _one(seed: int) -> Result:
    outcome = run_raw(seed)
    return seed, outcome.ok, outcome.describe(), _figures(outcome)


def _figures(outcome: Outcome) -> dict[str, int]:
    return outcome.counts() | {f"fault: {name}": count for name, count in outcome.faults.items()}


def _replay(seed: int, *, history: bool) -> int:
    outcome = run_raw(seed, RawOptions.draw(seed))
    _say(outcome.describe())
    _say(f"{outcome.options}, faults {outcome.faults}, digest {outcome.digest}")
    if outcome.error is not None:
        traceback.print_exception(outcome.error)
    if history:
        for line in outcome.history.to_json_lines():
            sys.stdout.write(line + "\n")
    return 0 if outcome.ok else 1


def _summarize(seeds: int, failed: list[int], totals: Counter[str], seconds: float, *, as_json: bool) -> None:
    if as_json:
        record = {"seeds": seeds, "failed": sorted(failed), "totals": dict(sorted(totals.items())), "seconds": seconds}
        sys.stdout.write(json.dumps(record) + "\n")
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(totals.items()))
    shown = ", ".join(str(seed) for seed in sorted(failed)[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
    verdict = f"{len(failed)} FAILED: seeds {shown}" if failed else "all linearizable"
    sys.stdout.write(f"{seeds} seeds in {seconds:.1f} s: {verdict}; {counts}\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
