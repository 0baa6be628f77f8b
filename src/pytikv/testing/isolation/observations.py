"""What transactions saw, brought into order: who wrote each version, and which version followed which.

First every transaction is walked through by itself: what it read of its own writes, or read twice, must agree
(*internal consistency*); what is left are its *external reads*, each of a version that somebody else wrote. Then every
key is looked at: a read must name a version that a transaction wrote, that was not aborted (G1a), and that was the
last of its writer's on that key (G1b).

*Visible* transactions are those that took effect: the committed ones, and the undetermined ones of which somebody saw
something. The writes of all others count for nothing.

*Version order.* A list shows its past: of all reads of a key the longest is the trunk, every other must be a beginning
of it, and its elements are the versions in their order; appends that took effect and are not in the trunk come after
it. Registers are ordered by commit_ts where it is known, and by transactions that read one version and wrote another
(the one read came first); the initial version is before all. A read of None on a key that was ever deleted may mean the
initial version or a deletion: it is left out here (`timestamps` decides it).

A *lost update* is seen here too: two visible transactions read the same version of a key and both wrote that key. Of
pessimistic transactions only locking reads count, since only these are promised to be the newest.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any, Final

from pytikv.testing.isolation.txns import Anomaly, Finding, Op, OpKind, Txn, TxnHistory, TxnStatus

__all__ = ["INITIAL", "KeyVersions", "Observations", "Seen", "observe"]

INITIAL: Final = "(initial)", -1
"""The version of a key before anybody wrote it."""

Version = Hashable


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """An external read: `value` without what the transaction itself had written."""

    txn: Txn
    key: bytes
    value: Any
    locked: bool
    is_list: bool


@dataclasses.dataclass(slots=True)
class KeyVersions:
    """The versions of one key: who wrote each, and which follow it (directly, or at least later)."""

    key: bytes
    writer: dict[Version, Txn] = dataclasses.field(default_factory=dict)
    after: dict[Version, list[Version]] = dataclasses.field(default_factory=dict)
    reads: list[tuple[Seen, Version]] = dataclasses.field(default_factory=list)

    def follow(self, earlier: Version, later: Version) -> None:
        """Note that `later` comes after `earlier`."""
        self.after.setdefault(earlier, []).append(later)


@dataclasses.dataclass(slots=True)
class Observations:
    """Everything found: `visible` are the numbers of the transactions that took effect."""

    reads: list[Seen]
    visible: set[int]
    keys: list[KeyVersions]
    findings: list[Finding]


def observe(history: TxnHistory) -> Observations:
    """Look at every transaction and every key. Raises ValueError for a history that names no writers (see `txns`)."""
    findings: list[Finding] = []
    reads = [seen for txn in history for seen in _external_reads(txn, findings)]
    writers = _writers(history)
    by_key: dict[bytes, list[Seen]] = defaultdict(list)
    for seen in reads:
        by_key[seen.key].append(seen)
    visible = {txn.number for txn in history if txn.status is TxnStatus.COMMITTED} | _noticed(by_key, writers)
    lists = {op.key for txn in history for op in txn.ops if op.kind in (OpKind.APPEND, OpKind.READ_LIST)}
    keys = []
    for key in dict.fromkeys([*by_key, *writers]):
        view = _KeyView(key, by_key.get(key, []), writers.get(key, {}), visible, findings)
        keys.append(view.list_versions() if key in lists else view.register_versions())
    findings += [finding for versions in keys for finding in _lost_updates(versions, visible)]
    return Observations(reads, visible, keys, findings)


# --- one transaction --------------------------------------------------------------------------------------------------


def _external_reads(txn: Txn, findings: list[Finding]) -> Iterator[Seen]:
    """Walk through a transaction; yields what it read from others, once for each key and kind of read."""
    bases: dict[tuple[bytes, bool], Any] = {}
    last: dict[bytes, Any] = {}
    own: dict[bytes, list[Any]] = {}
    for op in txn.ops:
        if op.kind in (OpKind.APPEND, OpKind.WRITE):
            own.setdefault(op.key, []).append(op.value)
            continue
        is_list = op.kind is OpKind.READ_LIST
        place = op.key, op.locked and txn.pessimistic
        if op.key in own:
            if not _shows_own(op, own[op.key], last.get(op.key)):
                findings.append(_internal(txn, op, f"after it wrote {own[op.key]!r}"))
            elif is_list and op.key not in last:  # appended without reading: the beginning is somebody else's
                last[op.key] = op.value[: len(op.value) - len(own[op.key])]
                yield Seen(txn, op.key, last[op.key], place[1], True)
            continue
        if place in bases:
            if bases[place] != op.value:
                findings.append(_internal(txn, op, f"but read {bases[place]!r} before"))
            continue
        bases[place] = last[op.key] = op.value
        yield Seen(txn, op.key, op.value, place[1], is_list)


def _shows_own(op: Op, own: list[Any], base: Any) -> bool:
    if op.kind is OpKind.READ:
        return bool(op.value == own[-1])
    if base is not None:
        return bool(op.value == (*base, *own))
    return bool(op.value[-len(own) :] == tuple(own))


def _internal(txn: Txn, op: Op, why: str) -> Finding:
    return Finding(Anomaly.INTERNAL, f"{txn.name} did {op.describe()}, {why}", (txn,))


# --- writers ----------------------------------------------------------------------------------------------------------

_Writers = dict[Any, tuple[Txn, bool]]
"""Of one key: who wrote each value, and whether it was that transaction's last write of the key."""


def _writers(history: TxnHistory) -> dict[bytes, _Writers]:
    found: dict[bytes, _Writers] = {}
    for txn in history:
        for key, values in txn.writes().items():
            of_key = found.setdefault(key, {})
            for position, value in enumerate(values):
                version: Version = ("deleted", txn.number, position) if value is None else value  # all look the same
                if version in of_key:
                    raise ValueError(f"{value!r} is written twice to {key!r}: reads of it would not name their writer")
                of_key[version] = txn, position == len(values) - 1
    return found


def _noticed(by_key: dict[bytes, list[Seen]], writers: dict[bytes, _Writers]) -> set[int]:
    """Return the undetermined transactions of which a read showed something."""
    noticed: set[int] = set()
    for key, reads in by_key.items():
        of_key = writers.get(key, {})
        undetermined = {value: t.number for value, (t, _) in of_key.items() if t.status is TxnStatus.UNDETERMINED}
        if undetermined:
            for seen in reads:
                values = seen.value if seen.is_list else (seen.value,)
                noticed.update(undetermined[value] for value in values if value in undetermined)
    return noticed


# --- one key ----------------------------------------------------------------------------------------------------------


class _KeyView:
    """One key under the eye: its reads, its writers, and what is wrong with them."""

    def __init__(
        self, key: bytes, reads: list[Seen], writers: _Writers, visible: set[int], findings: list[Finding]
    ) -> None:
        self.key = key
        self.reads = reads
        self.writers = writers
        self.visible = visible
        self.findings = findings
        self.versions = KeyVersions(key)
        for version, (txn, _) in writers.items():
            if txn.number in visible:
                self.versions.writer[version] = txn

    def _find(self, anomaly: Anomaly, text: str, *txns: Txn) -> None:
        self.findings.append(Finding(anomaly, f"on {self.key!r}, {text}", tuple(dict.fromkeys(txns))))

    def _judge(self, seen: Seen, value: Any, *, is_last: bool) -> bool:
        """Whether `value`, which a read showed, names a version that could be seen there."""
        found = self.writers.get(value)
        if found is None:
            self._find(Anomaly.GARBAGE, f"{seen.txn.name} read {value!r}, which nobody wrote", seen.txn)
            return False
        writer, is_final = found
        if writer.status is TxnStatus.ABORTED:
            self._find(Anomaly.G1A, f"{seen.txn.name} read {value!r} of {writer.name}, aborted", seen.txn, writer)
            return False
        if is_last and not is_final:
            text = f"{seen.txn.name} read {value!r}, which {writer.name} wrote and then changed again"
            self._find(Anomaly.G1B, text, seen.txn, writer)
        return True

    # --- lists --------------------------------------------------------------------------------------------------------

    def list_versions(self) -> KeyVersions:
        """Order the versions by the longest list that was read."""
        trunk: tuple[Any, ...] = ()
        owner: Seen | None = None
        for seen in self.reads:
            if len(seen.value) > len(trunk):
                trunk, owner = seen.value, seen
        if owner is not None:
            self._judge_trunk(owner, trunk)
        for seen in self.reads:
            if trunk[: len(seen.value)] != seen.value:
                self._judge_stray(seen, trunk, owner)
                continue
            if seen.value and seen is not owner:
                self._judge_end(seen)
            self.versions.reads.append((seen, seen.value[-1] if seen.value else INITIAL))
        self._order_list(trunk)
        return self.versions

    def _judge_trunk(self, owner: Seen, trunk: tuple[Any, ...]) -> None:
        if len(set(trunk)) < len(trunk):
            twice = sorted({repr(value) for value in trunk if trunk.count(value) > 1})
            self._find(Anomaly.DUPLICATE, f"{owner.txn.name} read {', '.join(twice)} more than once", owner.txn)
        for position, value in enumerate(trunk):
            self._judge(owner, value, is_last=position == len(trunk) - 1)

    def _judge_end(self, seen: Seen) -> None:
        found = self.writers.get(seen.value[-1])
        if found is not None and found[0].status is not TxnStatus.ABORTED:  # the trunk's finding says those
            self._judge(seen, seen.value[-1], is_last=True)

    def _judge_stray(self, seen: Seen, trunk: tuple[Any, ...], owner: Seen | None) -> None:
        assert owner is not None
        for position, value in enumerate(seen.value):
            if value not in trunk:
                self._judge(seen, value, is_last=position == len(seen.value) - 1)
        text = f"{seen.txn.name} read {list(seen.value)}, {owner.txn.name} read {list(trunk)}: one must begin the other"
        self._find(Anomaly.INCOMPATIBLE, text, seen.txn, owner.txn)

    def _order_list(self, trunk: tuple[Any, ...]) -> None:
        known = [value for value in dict.fromkeys(trunk) if value in self.versions.writer]
        for earlier, later in itertools.pairwise([INITIAL, *known]):
            self.versions.follow(earlier, later)
        last: Version = known[-1] if known else INITIAL
        beyond: set[int] = set()
        in_trunk = set(trunk)
        for value, txn in self.versions.writer.items():
            if value not in in_trunk and txn.number not in beyond:
                beyond.add(txn.number)
                self.versions.follow(last, value)

    # --- registers ----------------------------------------------------------------------------------------------------

    def register_versions(self) -> KeyVersions:
        """Order the versions by commit_ts, and by what their writers had read."""
        ever_deleted = any(isinstance(version, tuple) for version in self.writers)
        read_before: dict[int, Version] = {}
        for seen in self.reads:
            if seen.value is None:
                if ever_deleted:
                    continue
                version: Version = INITIAL
            elif self._judge(seen, seen.value, is_last=True):
                version = seen.value
            else:
                continue
            self.versions.reads.append((seen, version))
            read_before[seen.txn.number] = version
        self._order_register(read_before)
        return self.versions

    def _order_register(self, read_before: dict[int, Version]) -> None:
        finals = [(version, txn) for version, txn in self.versions.writer.items() if self.writers[version][1]]
        stamped = [(txn.commit_ts, n, version) for n, (version, txn) in enumerate(finals) if txn.commit_ts is not None]
        chain: list[Version] = [INITIAL, *(version for _, _, version in sorted(stamped))]
        for earlier, later in itertools.pairwise(chain):
            self.versions.follow(earlier, later)
        for version, txn in finals:
            before = read_before.get(txn.number)
            if before is not None and before != INITIAL:
                self.versions.follow(before, version)
            elif txn.commit_ts is None:
                self.versions.follow(INITIAL, version)


def _lost_updates(versions: KeyVersions, visible: set[int]) -> Iterator[Finding]:
    writers = {txn.number for txn in versions.writer.values()}
    updaters: dict[Version, dict[int, Txn]] = {}
    for seen, version in versions.reads:
        promised = seen.locked or not seen.txn.pessimistic
        if promised and seen.txn.number in writers and seen.txn.number in visible:
            updaters.setdefault(version, {})[seen.txn.number] = seen.txn
    for version, txns in updaters.items():
        if len(txns) > 1:
            names = " and ".join(txn.name for txn in txns.values())
            value = "the initial version" if version == INITIAL else repr(version)
            text = f"on {versions.key!r}, {names} all read {value} and wrote the key"
            yield Finding(Anomaly.LOST_UPDATE, text, tuple(txns.values()))
