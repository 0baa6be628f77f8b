"""Measure pytikv against a floor, bare libraries and other clients; `make bench` runs this.

The result is a table on standard output and two files in benchmarks/results, named after the day and the commit.
`--quick` takes one to two minutes, the full run some ten. Missing tools and peers are named in the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable

import contest
import guard_measures
import harness
import instructions
import measures
import model_contention
import model_measures
import observe_measures
import observing
import report
import resilience_measures
import server_instructions
import txn_measures
from report import Line


def main() -> int:
    """Measure what was asked for; 0 however the goals fare, unless --strict."""
    arguments = _arguments()
    effort = contest.QUICK if arguments.quick else contest.FULL
    if arguments.huge:
        effort = dataclasses.replace(effort, largest_store=10**7)
    harness.wait_for_quiet(arguments.quiet_load, arguments.quiet_wait)
    started, load_before, commit = time.monotonic(), harness.load(), harness.commit()
    lines: list[Line] = []
    versions: dict[str, str] = {}
    for title, measure in _plan(effort, versions).items():
        if arguments.only and not any(word in title for word in arguments.only):
            continue
        print(f"{title} ...", flush=True)
        lines += measure()
    report.show(lines)
    about = {
        "commit": commit,
        "commit_at_end": harness.commit(),
        "mode": "quick" if arguments.quick else "full",
        "load_before": load_before,
        "load_after": harness.load(),
        "seconds": round(time.monotonic() - started),
        "machine": harness.machine(),
        "versions": versions,
    }
    if not arguments.only or arguments.save:
        stem = f"{about['machine']['date'][:10]}-{commit.rstrip('+')}" + ("-quick" if arguments.quick else "")
        print(f"written to {report.save(harness.BENCHMARKS / 'results', stem, about, lines)}")
    missed = [line.name for line in lines if line.missed_by]
    met, skipped = sum(line.missed_by == 0 for line in lines), sum(bool(line.skipped) for line in lines)
    print(f"{met} goals met, {len(missed)} missed, {skipped} not measured")
    return 1 if arguments.strict and missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds, small stores")
    parser.add_argument(
        "--huge", action="store_true", help="embedded stores up to 10^7 keys (minutes, some GB of disk)"
    )
    parser.add_argument(
        "--only", nargs="*", metavar="WORD", help="only measures whose title holds a word; nothing is saved"
    )
    parser.add_argument("--save", action="store_true", help="save also with --only")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    parser.add_argument("--quiet-load", type=float, default=0.7, help="start when the load is below this")
    parser.add_argument("--quiet-wait", type=float, default=60.0, help="but wait no longer than these seconds")
    return parser.parse_args()


def _plan(effort: contest.Effort, versions: dict[str, str]) -> dict[str, Callable[[], list[Line]]]:
    def over_network(arrangement: str) -> Callable[[], list[Line]]:
        def run() -> list[Line]:
            try:
                with measures.network(effort, arrangement) as net:
                    versions.update({n: w.about["version"] for n, w in net.workers.items() if "version" in w.about})
                    lines = measures.single_requests(net) + measures.many_in_flight(net) + measures.batches(net)
                    return lines + (measures.idle(net) if arrangement == harness.ALL_CORES else [])
            except harness.Unavailable as error:
                return [Line(f"client, {arrangement}", skipped=str(error))]

        return run

    trips: dict[str, int] = {}

    def round_trips() -> list[Line]:
        lines, counted = txn_measures.round_trips()
        trips.update(counted)
        return lines

    def transactions(arrangement: str) -> Callable[[], list[Line]]:
        def run() -> list[Line]:
            try:
                with txn_measures.network(effort, arrangement) as net:
                    lines = txn_measures.reads(net) + txn_measures.transactions(net, trips)
                    return lines + (txn_measures.begins(net) if arrangement == harness.ALL_CORES else [])
            except harness.Unavailable as error:
                return [Line(f"transactions, {arrangement}", skipped=str(error))]

        return run

    return {
        f"client, {harness.ONE_CORE}": over_network(harness.ONE_CORE),
        f"client, {harness.ALL_CORES}": over_network(harness.ALL_CORES),
        "embedded": lambda: measures.embedded(effort),
        "region cache": lambda: measures.region_cache(effort),
        "our server": lambda: measures.our_server(effort),
        "import": lambda: measures.imports(effort),
        "round trips": round_trips,
        f"transactions, {harness.ONE_CORE}": transactions(harness.ONE_CORE),
        f"transactions, {harness.ALL_CORES}": transactions(harness.ALL_CORES),
        "embedded transactions": lambda: txn_measures.embedded(effort),
        "transactions, our server": lambda: txn_measures.our_server(effort),
        "leftover locks": lambda: txn_measures.leftover_locks(effort),
        "tables": lambda: model_measures.measure(effort),
        "everything off": instructions.measure,
        "costs told": server_instructions.measure,
        "guards": guard_measures.measure,
        "resilience": resilience_measures.measure,
        "observing": observing.measure,
        "metrics": observe_measures.measure,
        "contention": lambda: model_contention.lines(effort),
    }


if __name__ == "__main__":
    raise SystemExit(main())
