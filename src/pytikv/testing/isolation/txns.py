"""What checkers of isolation judge: transactions with their operations, outcome and timestamps.

Two kinds of data, chosen for what a read of them tells:

* *lists*: `APPEND` adds an element at the end, `READ_LIST` returns all. A list shows its whole past, so that the order
  of its versions needs no guess. On a key-value store an append is a read and a put of the longer list.
* *registers*: `WRITE` replaces the value (None: deletes it), `READ` returns it. The order of versions is known from
  commit_ts, or from transactions that read one version and wrote the next.

Every element and every value is written at most once a key, so that a read names its writer. A key is of one kind.

States of a transaction: *open* after `begin` (as long as nobody asked to commit it, it cannot have taken effect), then
*undetermined* from `committing` on, until `committed` or `aborted` says what became of it. One that is still open or
undetermined when the history is judged stays so: an open one counts as aborted.

Moments (`begun`, `ended`) are numbers of one counter: their order is the order of real time as the recorder saw it.
Recording is safe from any number of threads, each with transactions of its own.

A *locking* read (`locked`) is one of a pessimistic transaction that takes the lock first: it sees the newest version at
that moment instead of the snapshot's, and holds it until the end.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["Anomaly", "Finding", "Level", "Op", "OpKind", "Txn", "TxnHistory", "TxnStatus", "Value"]

Value = int | str
"""An element of a list, or a value of a register."""


class OpKind(enum.Enum):
    """What was done with one key."""

    APPEND = "append"
    READ_LIST = "read_list"
    WRITE = "write"
    READ = "read"


class TxnStatus(enum.Enum):
    """What is known about the end of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNDETERMINED = "undetermined"


class Level(enum.IntEnum):
    """Isolation levels; each forbids what the ones before it forbid, and more."""

    READ_COMMITTED = 1
    SNAPSHOT_ISOLATION = 2
    SERIALIZABLE = 3
    NONE = 4
    """No level forbids it: pessimistic transactions show it by design."""


class Anomaly(enum.Enum):
    """What can be found; each knows the weakest `Level` that forbids it. Names are Adya's where he has one."""

    G0 = "G0 (write cycle)", Level.READ_COMMITTED
    G1A = "G1a (aborted read)", Level.READ_COMMITTED
    G1B = "G1b (intermediate read)", Level.READ_COMMITTED
    G1C = "G1c (circular information flow)", Level.READ_COMMITTED
    GARBAGE = "garbage read (of a value that nobody wrote)", Level.READ_COMMITTED
    DUPLICATE = "duplicate element", Level.READ_COMMITTED
    INCOMPATIBLE = "incompatible order", Level.READ_COMMITTED
    INTERNAL = "internal inconsistency", Level.READ_COMMITTED
    G_SINGLE = "G-single (read skew)", Level.SNAPSHOT_ISOLATION
    G_NONADJACENT = "G-nonadjacent (read skew over several transactions)", Level.SNAPSHOT_ISOLATION
    LOST_UPDATE = "lost update", Level.SNAPSHOT_ISOLATION
    SNAPSHOT_READ = "a read that is not of its snapshot", Level.SNAPSHOT_ISOLATION
    FIRST_COMMITTER = "first committer did not win", Level.SNAPSHOT_ISOLATION
    TIMESTAMPS = "impossible timestamps", Level.SNAPSHOT_ISOLATION
    REAL_TIME = "real time broken", Level.SNAPSHOT_ISOLATION
    STORE = "the store's records disagree", Level.READ_COMMITTED
    G2_ITEM = "G2-item (write skew)", Level.SERIALIZABLE
    LOCKED_SKEW = "skew between snapshot and locking reads", Level.NONE

    def __init__(self, title: str, forbidden_from: Level) -> None:
        self.title = title
        self.forbidden_from = forbidden_from


@dataclasses.dataclass(slots=True)
class Op:
    """One operation. `value`: the element or value written; of reads what was seen (a tuple for a list)."""

    kind: OpKind
    key: bytes
    value: Any
    locked: bool = False

    def describe(self) -> str:
        """Return it for people, as in ``append(b'x', 3)`` or ``read(b'x') -> 3``."""
        lock = ", locked" if self.locked else ""
        if self.kind in (OpKind.APPEND, OpKind.WRITE):
            return f"{self.kind.value}({self.key!r}, {self.value!r}{lock})"
        seen = list(self.value) if self.kind is OpKind.READ_LIST else self.value
        return f"{self.kind.value}({self.key!r}{lock}) -> {seen!r}"


@dataclasses.dataclass(slots=True, eq=False)
class Txn:
    """One transaction. Call the methods in the order in which its operations were answered.

    `causal`: committed with causal consistency, which promises nothing in real time to later transactions. `stale`:
    reads at a timestamp of the caller's choice, so that real time says nothing about what it must see. `note`: anything
    that helps people (options, the error that ended it).
    """

    number: int
    process: int
    begun: int
    pessimistic: bool = False
    causal: bool = False
    stale: bool = False
    start_ts: int | None = None
    commit_ts: int | None = None
    ended: int | None = None
    status: TxnStatus = TxnStatus.ABORTED
    note: str = ""
    ops: list[Op] = dataclasses.field(default_factory=list)

    def append(self, key: bytes, element: Value) -> None:
        """Record that `element` was appended."""
        self.ops.append(Op(OpKind.APPEND, key, element))

    def read_list(self, key: bytes, elements: Iterable[Value], *, locked: bool = False) -> None:
        """Record what a read of a list showed; of an absent key: nothing."""
        self.ops.append(Op(OpKind.READ_LIST, key, tuple(elements), locked))

    def write(self, key: bytes, value: Value | None) -> None:
        """Record that a register was written; None: deleted."""
        self.ops.append(Op(OpKind.WRITE, key, value))

    def read(self, key: bytes, value: Value | None, *, locked: bool = False) -> None:
        """Record what a read of a register showed; None: no such key."""
        self.ops.append(Op(OpKind.READ, key, value, locked))

    @property
    def name(self) -> str:
        """The name in reports."""
        return f"T{self.number}"

    def writes(self) -> dict[bytes, list[Any]]:
        """Return what it wrote, by key, in order."""
        found: dict[bytes, list[Any]] = {}
        for op in self.ops:
            if op.kind in (OpKind.APPEND, OpKind.WRITE):
                found.setdefault(op.key, []).append(op.value)
        return found

    def describe(self) -> str:
        """Return it for people: one line on who and when, one for each operation."""
        end = "?" if self.ended is None else str(self.ended)
        kind = "pessimistic" if self.pessimistic else "optimistic"
        extra = "".join(f", {word}" for word, on in (("causal", self.causal), ("stale", self.stale)) if on)
        stamps = f"start_ts {self.start_ts}, commit_ts {self.commit_ts}"
        head = f"{self.name} of process {self.process} [{self.begun} .. {end}], {kind}{extra}, {stamps}: "
        lines = [head + self.status.value + (f" ({self.note})" if self.note else "")]
        return "\n".join([*lines, *(f"    {op.describe()}" for op in self.ops)])


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly: what it is, in words; `steps` are the edges of a cycle in words; the transactions it is made of."""

    anomaly: Anomaly
    text: str
    txns: tuple[Txn, ...]
    steps: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the whole of it for people."""
        lines = [f"{self.anomaly.title}: {self.text}", *(f"  {step}" for step in self.steps)]
        return "\n".join([*lines, *("  " + txn.describe().replace("\n", "\n  ") for txn in self.txns)])


class TxnHistory:
    """A recorder, and the record."""

    def __init__(self) -> None:
        self.txns: list[Txn] = []
        self._clock = itertools.count(1)  # next() on it is atomic, and so is list.append
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self.txns)

    def __iter__(self) -> Iterator[Txn]:
        return iter(self.txns)

    def begin(
        self,
        process: int,
        *,
        start_ts: int | None = None,
        pessimistic: bool = False,
        causal: bool = False,
        stale: bool = False,
        note: str = "",
    ) -> Txn:
        """Record that a transaction is about to begin. Set `start_ts` of it as soon as it is known."""
        txn = Txn(next(self._numbers), process, next(self._clock), pessimistic, causal, stale, start_ts, note=note)
        self.txns.append(txn)
        return txn

    def committing(self, txn: Txn) -> None:
        """Record that the commit is about to be asked for: from here on nobody knows."""
        txn.status = TxnStatus.UNDETERMINED

    def committed(self, txn: Txn, commit_ts: int | None = None) -> None:
        """Record that it has taken effect; without writes there is no commit_ts."""
        txn.status, txn.commit_ts, txn.ended = TxnStatus.COMMITTED, commit_ts, next(self._clock)

    def aborted(self, txn: Txn) -> None:
        """Record that it has changed nothing, and never will."""
        txn.status, txn.ended = TxnStatus.ABORTED, next(self._clock)

    # --- files --------------------------------------------------------------------------------------------------------

    def to_json_lines(self) -> Iterator[str]:
        """Yield one JSON object a transaction; keys of bytes are written in hexadecimal."""
        for txn in self.txns:
            record = {name: getattr(txn, name) for name in _FIELDS}
            record["status"] = txn.status.value
            record["ops"] = [[op.kind.value, op.key.hex(), op.value, op.locked] for op in txn.ops]
            yield json.dumps(record)

    @classmethod
    def from_json_lines(cls, lines: Iterable[str]) -> TxnHistory:
        """Read what `to_json_lines` wrote."""
        history = cls()
        history.txns = [_txn(json.loads(line)) for line in lines if line.strip()]
        moments = (max(txn.begun, txn.ended or 0) for txn in history.txns)
        history._clock = itertools.count(max(moments, default=0) + 1)
        history._numbers = itertools.count(max((txn.number for txn in history.txns), default=-1) + 1)
        return history


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Txn) if field.name != "ops")


def _txn(record: dict[str, Any]) -> Txn:
    ops = [Op(OpKind(kind), bytes.fromhex(key), value, locked) for kind, key, value, locked in record.pop("ops")]
    for op in ops:
        op.value = tuple(op.value) if op.kind is OpKind.READ_LIST else op.value
    return Txn(**(record | {"status": TxnStatus(record["status"]), "ops": ops}))
