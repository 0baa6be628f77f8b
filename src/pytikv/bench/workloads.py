"""What is measured: a workload loads its records, and gives each worker its operations; YCSB's A to F, and bare points.

A record is one key with one value, all fields of YCSB's record together; an update writes the whole. Keys are the
workload's prefix, `user`, and the scattered number in 20 digits, so that neighbours in number are not in the store.
Inserts take the next number; readers choose among the numbers up to which all inserts were acknowledged, so that a
record that is not found is an error of the store. An insert that failed ends the growth of what is read.

Sources: YCSB workloads/workload{a..f} for the mixes, core/src/main/java/site/ycsb/workloads/CoreWorkload.java for what
the operations do, AcknowledgedCounterGenerator.java for the numbers.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from pytikv.bench.choosers import make_chooser, scattered
from pytikv.bench.stores import Change, Codes, Steps, Store, prefix_end
from pytikv.errors import ConfigError

__all__ = ["YCSB", "Check", "Operation", "Points", "Records", "Worker", "Workload", "Ycsb", "YcsbMix", "ycsb"]

Operation = tuple[str, Steps[Codes]]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What the data looked like at the end."""

    is_sound: bool
    text: str


class Worker(Protocol):
    """The operations of one thread or task."""

    def next(self) -> Operation:
        """Return the name and the steps of the next operation."""
        ...


class Workload(Protocol):
    """A kind of work. `operations`: their names. `options`: what a report says of it."""

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations that are measured."""
        ...

    @property
    def options(self) -> Mapping[str, object]:
        """Sizes and counts, for the report."""
        ...

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Return the records that must be there before."""
        ...

    def worker(self, number: int, store: Store) -> Worker:
        """Return what one worker does."""
        ...

    def check(self, store: Store) -> Steps[Check | None]:
        """Look at the data after the run; None: there is nothing to check."""
        ...


class Records:
    """The numbers of the records: which one is inserted next, and how many are surely there. For many threads."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._next = count
        self._acknowledged: set[int] = set()
        self.count = count
        """All numbers below are there."""

    def begin(self) -> int:
        """Return the number of a new record."""
        with self._lock:
            number = self._next
            self._next += 1
        return number

    def acknowledge(self, number: int) -> None:
        """Count a record as written."""
        with self._lock:
            self._acknowledged.add(number)
            while self.count in self._acknowledged:
                self._acknowledged.remove(self.count)
                self.count += 1


@dataclasses.dataclass(frozen=True, slots=True)
class YcsbMix:
    """Shares of the operations, and which records they take."""

    shares: Mapping[str, float]
    distribution: str


YCSB: Final[Mapping[str, YcsbMix]] = {
    "a": YcsbMix({"read": 0.5, "update": 0.5}, "zipfian"),
    "b": YcsbMix({"read": 0.95, "update": 0.05}, "zipfian"),
    "c": YcsbMix({"read": 1.0}, "zipfian"),
    "d": YcsbMix({"read": 0.95, "insert": 0.05}, "latest"),
    "e": YcsbMix({"scan": 0.95, "insert": 0.05}, "zipfian"),
    "f": YcsbMix({"read": 0.5, "read_modify_write": 0.5}, "zipfian"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Ycsb:
    """A mix over records of `fields` times `field_bytes` bytes; scans take 1 to `scan_length` records, uniformly."""

    name: str
    mix: YcsbMix
    prefix: bytes
    records: int = 10_000
    fields: int = 10
    field_bytes: int = 100
    scan_length: int = 100
    distribution: str | None = None
    seed: int = 1
    numbers: Records = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if self.records < 1 or self.scan_length < 1 or self.fields < 0 or self.field_bytes < 0:
            raise ConfigError(
                "a workload needs at least 1 record, scans of at least 1, and sizes that are not negative"
            )
        object.__setattr__(self, "distribution", self.distribution or self.mix.distribution)
        object.__setattr__(self, "numbers", Records(self.records))
        make_chooser(str(self.distribution))  # refuses an unknown one now

    @property
    def operations(self) -> tuple[str, ...]:
        """See `Workload`."""
        return tuple(self.mix.shares)

    @property
    def options(self) -> Mapping[str, object]:
        """See `Workload`."""
        names = ("records", "fields", "field_bytes", "scan_length", "distribution", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def value_bytes(self) -> int:
        """Bytes of a record."""
        return self.fields * self.field_bytes

    def key(self, number: int) -> bytes:
        """Return the key of a record."""
        return b"%suser%020d" % (self.prefix, scattered(number))

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """See `Workload`."""
        dice = random.Random(self.seed)
        return ((self.key(number), dice.randbytes(self.value_bytes)) for number in range(self.records))

    def worker(self, number: int, store: Store) -> Worker:
        """See `Workload`."""
        return _YcsbWorker(self, store, random.Random(f"{self.seed}/{number}"))

    def check(self, store: Store) -> Steps[Check | None]:
        """See `Workload`: nothing to check."""
        return None
        yield


class _YcsbWorker:
    def __init__(self, workload: Ycsb, store: Store, dice: random.Random) -> None:
        self._workload = workload
        self._store = store
        self._dice = dice
        self._chooser = make_chooser(str(workload.distribution))
        self._end = prefix_end(workload.prefix)
        self._names = list(workload.mix.shares)
        self._weights = list(workload.mix.shares.values())
        self._makers = {
            "read": self._read,
            "update": self._update,
            "insert": self._insert,
            "scan": self._scan,
            "read_modify_write": self._read_modify_write,
        }

    def next(self) -> Operation:
        """See `Worker`."""
        name = self._names[0] if len(self._names) == 1 else self._dice.choices(self._names, self._weights)[0]
        return name, self._makers[name]()

    def _key(self) -> bytes:
        return self._workload.key(self._chooser.choose(self._dice, self._workload.numbers.count))

    def _value(self) -> bytes:
        return self._dice.randbytes(self._workload.value_bytes)

    def _read(self) -> Steps[Codes]:
        return self._store.read(self._key())

    def _update(self) -> Steps[Codes]:
        return self._store.write(self._key(), self._value())

    def _scan(self) -> Steps[Codes]:
        return self._store.scan(self._key(), self._end, 1 + self._dice.randrange(self._workload.scan_length))

    def _read_modify_write(self) -> Steps[Codes]:
        value = self._value()
        change: Change = lambda _: value  # noqa: E731  # what is written does not depend on what was read, as in YCSB
        return self._store.change({self._key(): change}, {})

    def _insert(self) -> Steps[Codes]:
        numbers = self._workload.numbers
        number = numbers.begin()
        failed = yield from self._store.write(self._workload.key(number), self._value())
        numbers.acknowledge(number)
        return failed


def ycsb(letter: str, prefix: bytes, **options: object) -> Ycsb:
    """Return YCSB's workload `letter`, a to f, with `options`, fields of `Ycsb`. Raises ConfigError."""
    mix = YCSB.get(letter.lower())
    if mix is None:
        raise ConfigError(f"YCSB workload {letter!r} is unknown: it must be one of {', '.join(YCSB)}")
    return Ycsb(f"ycsb-{letter.lower()}", mix, prefix, **options)  # type: ignore[arg-type]  # checked by the class


class Points:
    """One kind of operation, `get` or `put`, on uniformly chosen keys of one length."""

    def __init__(self, kind: str, prefix: bytes, *, keys: int, value_bytes: int, seed: int) -> None:
        self.name = kind
        self._prefix = prefix
        self._keys = keys
        self._value = random.Random(seed).randbytes(value_bytes)
        self._seed = seed

    @property
    def operations(self) -> tuple[str, ...]:
        """See `Workload`."""
        return (self.name,)

    @property
    def options(self) -> Mapping[str, object]:
        """See `Workload`."""
        return {"keys": self._keys, "value_bytes": len(self._value), "seed": self._seed}

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """See `Workload`."""
        return ((b"%s%08d" % (self._prefix, number), self._value) for number in range(self._keys))

    def worker(self, number: int, store: Store) -> Worker:
        """See `Workload`."""
        return _PointsWorker(self, store, random.Random(f"{self._seed}/{number}"))

    def operation(self, store: Store, dice: random.Random) -> Operation:
        """Return one operation."""
        key = b"%s%08d" % (self._prefix, dice.randrange(self._keys))
        return self.name, store.read(key) if self.name == "get" else store.write(key, self._value)

    def check(self, store: Store) -> Steps[Check | None]:
        """See `Workload`: nothing to check."""
        return None
        yield


class _PointsWorker:
    def __init__(self, workload: Points, store: Store, dice: random.Random) -> None:
        self._workload = workload
        self._store = store
        self._dice = dice

    def next(self) -> Operation:
        """See `Worker`."""
        return self._workload.operation(self._store, self._dice)
