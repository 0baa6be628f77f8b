"""The direct proof of snapshot isolation, where timestamps are known: every read is of its snapshot.

TiKV's promise, in its own terms, checked one by one:

* a plain read at start_ts shows the newest version with commit_ts <= start_ts, of a committed transaction, whole;
* a locking read of a pessimistic transaction that committed shows the version just before its own;
* first committer wins: no version lies between start_ts and commit_ts on a key that an optimistic transaction wrote;
* start_ts < commit_ts, no two transactions have one start_ts, no two versions of a key have one commit_ts;
* real time: a transaction begun after another's commit returned has a start_ts that is not below its commit_ts, and
  above its start_ts. (They may be equal: an asynchronous commit picks its commit_ts itself. Causal commits promise
  nothing to later transactions; reads at a timestamp of the caller's choice are bound by nothing earlier.)

An undetermined transaction whose commit_ts nobody knows is bounded by what reads showed: it is not after a reader that
saw it, and after the versions that it hid. Where the bounds cross, no commit_ts would explain the reads. Its elements
are left out when a list is compared; `dependencies` judges the order. Transactions without start_ts are not looked at.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pytikv.testing.isolation.observations import Observations, Seen
from pytikv.testing.isolation.txns import Anomaly, Finding, Txn, TxnHistory, TxnStatus

__all__ = ["check_timestamps"]


def check_timestamps(history: TxnHistory, seen: Observations) -> list[Finding]:
    """Return everything in which the timestamps and the reads disagree."""
    snapshots = _Snapshots(history, seen)
    return [
        *_impossible(history),
        *_real_time(history),
        *(finding for read in seen.reads if read.txn.start_ts is not None for finding in snapshots.judge(read)),
        *snapshots.crossed_bounds(),
        *snapshots.conflicts(),
    ]


@dataclasses.dataclass(slots=True)
class _Key:
    """The versions of a key with known commit_ts, in order; `values` are lists so far, or the register's value."""

    stamps: list[int] = dataclasses.field(default_factory=list)
    txns: list[Txn] = dataclasses.field(default_factory=list)
    values: list[Any] = dataclasses.field(default_factory=list)
    floating: dict[Any, Txn] = dataclasses.field(default_factory=dict)  # versions of unknown commit_ts

    def newest(self, ts: int) -> int:
        """Return the place of the newest version at `ts`, -1 for the initial one."""
        return bisect_right(self.stamps, ts) - 1


class _Snapshots:
    """What every key held at every moment."""

    def __init__(self, history: TxnHistory, seen: Observations) -> None:
        self._keys: dict[bytes, _Key] = defaultdict(_Key)
        self._lists = {read.key for read in seen.reads if read.is_list}
        self._lower: dict[Txn, tuple[int, str]] = {}
        self._upper: dict[Txn, tuple[int, str]] = {}
        stamped = [t for t in history if t.commit_ts is not None and t.status is not TxnStatus.ABORTED]
        for txn in sorted(stamped, key=lambda t: t.commit_ts or 0):
            assert txn.commit_ts is not None
            for key, values in txn.writes().items():
                self._add(self._keys[key], txn.commit_ts, txn, key, values)
        for txn in history:
            if txn.status is TxnStatus.UNDETERMINED and txn.commit_ts is None:
                for key, values in txn.writes().items():
                    self._keys[key].floating.update(dict.fromkeys(values, txn))

    def _add(self, key: _Key, commit_ts: int, txn: Txn, name: bytes, values: list[Any]) -> None:
        before = key.values[-1] if key.values else ()
        key.stamps.append(commit_ts)
        key.txns.append(txn)
        key.values.append((*before, *values) if name in self._lists else values[-1])

    # --- reads --------------------------------------------------------------------------------------------------------

    def judge(self, read: Seen) -> Iterator[Finding]:
        """Compare one external read with the snapshot that it must show."""
        key = self._keys[read.key]
        txn = read.txn
        if not read.locked:
            assert txn.start_ts is not None
            at, moment = key.newest(txn.start_ts), f"at its start_ts {txn.start_ts}"
        elif txn.commit_ts is not None and txn.status is TxnStatus.COMMITTED:
            at, moment = bisect_left(key.stamps, txn.commit_ts) - 1, f"before its commit_ts {txn.commit_ts}"
        else:
            return
        expected = key.values[at] if at >= 0 else (() if read.is_list else None)
        value = read.value
        if read.is_list:
            value = tuple(element for element in value if element not in key.floating)
        elif value in key.floating:
            self._bound(key, at, read)
            return
        if value == expected:
            return
        newest = f", written by {key.txns[at].name} at {key.stamps[at]}" if at >= 0 else " (nobody had written)"
        text = f"on {read.key!r}, {txn.name} read {_shown(read.value)}; {moment} there was {_shown(expected)}{newest}"
        involved = [txn, *([key.txns[at]] if at >= 0 else [])]
        yield Finding(Anomaly.SNAPSHOT_READ, text, tuple(dict.fromkeys(involved)))

    def _bound(self, key: _Key, at: int, read: Seen) -> None:
        writer, start_ts = key.floating[read.value], read.txn.start_ts or 0
        if not read.locked:
            self._upper[writer] = min(
                self._upper.get(writer, (start_ts + 1, "")), (start_ts, f"{read.txn.name} saw it at {start_ts}")
            )
        if at >= 0:
            hidden = f"it hid the version of {key.txns[at].name} at {key.stamps[at]}"
            self._lower[writer] = max(self._lower.get(writer, (-1, "")), (key.stamps[at], hidden))

    def crossed_bounds(self) -> Iterator[Finding]:
        """Find undetermined transactions for which no commit_ts would explain all reads."""
        for txn, (upper, why_upper) in self._upper.items():
            start_ts = txn.start_ts if txn.start_ts is not None else -1
            lower, why_lower = max(self._lower.get(txn, (-1, "")), (start_ts, f"it began at {start_ts}"))
            if lower >= upper:
                text = f"{txn.name} has no possible commit_ts: {why_upper}, but {why_lower}"
                yield Finding(Anomaly.SNAPSHOT_READ, text, (txn,))

    # --- writes -------------------------------------------------------------------------------------------------------

    def conflicts(self) -> Iterator[Finding]:
        """Find versions that lie between start_ts and commit_ts of an optimistic transaction on a key that it wrote."""
        for name, key in self._keys.items():
            for place in range(1, len(key.stamps)):
                txn, rival = key.txns[place], key.txns[place - 1]
                if key.stamps[place - 1] == key.stamps[place]:
                    text = f"on {name!r}, {rival.name} and {txn.name} both committed at {key.stamps[place]}"
                    yield Finding(Anomaly.TIMESTAMPS, text, (rival, txn))
                elif not txn.pessimistic and txn.start_ts is not None and key.stamps[place - 1] > txn.start_ts:
                    span = f"between {txn.name}'s start_ts {txn.start_ts} and commit_ts {key.stamps[place]}"
                    text = f"on {name!r}, {rival.name} committed at {key.stamps[place - 1]}, {span}"
                    yield Finding(Anomaly.FIRST_COMMITTER, text, (rival, txn))


def _shown(value: Any) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def _impossible(history: TxnHistory) -> Iterator[Finding]:
    owners: dict[int, Txn] = {}
    for txn in history:
        if txn.start_ts is None:
            continue
        if txn.commit_ts is not None and txn.commit_ts <= txn.start_ts:
            text = f"{txn.name} has commit_ts {txn.commit_ts}, not above its start_ts {txn.start_ts}"
            yield Finding(Anomaly.TIMESTAMPS, text, (txn,))
        if not txn.stale and (other := owners.setdefault(txn.start_ts, txn)) is not txn:
            text = f"{other.name} and {txn.name} have the same start_ts {txn.start_ts}"
            yield Finding(Anomaly.TIMESTAMPS, text, (other, txn))


def _real_time(history: TxnHistory) -> Iterator[Finding]:
    """Find transactions that began after another had ended, but with too small a start_ts."""
    ended = sorted((t for t in history if t.ended is not None and not t.stale), key=lambda t: t.ended or 0)
    moments = [txn.ended or 0 for txn in ended]
    highest: list[tuple[int, str, Txn]] = []  # of the first n that ended
    top: tuple[int, str, Txn] | None = None
    for txn in ended:
        start_ts = (txn.start_ts or 0) + 1  # a later one must have more
        if top is None or start_ts > top[0]:
            top = start_ts, f"which had start_ts {txn.start_ts}", txn
        if (
            txn.commit_ts is not None
            and txn.status is TxnStatus.COMMITTED
            and not txn.causal
            and txn.commit_ts > top[0]
        ):
            top = txn.commit_ts, f"which had committed at {txn.commit_ts}", txn
        highest.append(top)
    for txn in history:
        position = bisect_left(moments, txn.begun) - 1
        if txn.stale or txn.start_ts is None or position < 0:
            continue
        bound, why, earlier = highest[position]
        if txn.start_ts < bound:
            text = f"{txn.name} began after {earlier.name} had ended, {why}, but has start_ts {txn.start_ts}"
            yield Finding(Anomaly.REAL_TIME, text, (earlier, txn))
