"""Which record an operation takes: uniform, zipfian, latest, hotspot. Pure: the dice are the caller's.

A chooser gives a number below the count of records that it is asked for, so that a growing set stays covered. As in
YCSB, zipfian popularity is scattered over the records by a hash (`scattered`): the popular ones are not neighbours.

* Zipfian, exponent 0.99: rank r is taken with a probability proportional to 1 / (r + 1) ** 0.99, by the method of Gray
  and others, "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994). The harmonic sum over n records
  costs n steps once; growth adds only what is new, and shrinking begins again.
* Latest: zipfian by age; the record written last is the most popular.
* Hotspot: a share of the operations goes to a share of the records, both uniform inside.

Sources of the constants: YCSB core/src/main/java/site/ycsb/generator/{ZipfianGenerator,ScrambledZipfianGenerator,
SkewedLatestGenerator,HotspotIntegerGenerator}.java and Utils.java (FNV-1a, 64 bits).
"""

from __future__ import annotations

from typing import Final, Protocol

from pytikv.errors import ConfigError

__all__ = ["CHOOSERS", "Chooser", "Dice", "Hotspot", "Latest", "Uniform", "Zipfian", "make_chooser", "scattered"]

ZIPFIAN_EXPONENT: Final = 0.99
HOT_SET_SHARE: Final = 0.2
HOT_OPERATIONS_SHARE: Final = 0.8
CHOOSERS: Final = ("uniform", "zipfian", "latest", "hotspot")

_FNV_BASIS: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3
_MASK: Final = (1 << 64) - 1


class Dice(Protocol):
    """What `random.Random` does for a chooser."""

    def random(self) -> float:
        """Return a number of [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Return an integer of [0, stop)."""
        ...


class Chooser(Protocol):
    """One worker's choice; not to be shared between threads."""

    def choose(self, dice: Dice, count: int) -> int:
        """Return a record's number, below `count`."""
        ...


def scattered(number: int) -> int:
    """Return the 64 bits of FNV-1a over the 8 bytes of `number`: where a record lies among the keys."""
    found = _FNV_BASIS
    for _ in range(8):
        found = ((found ^ (number & 0xFF)) * _FNV_PRIME) & _MASK
        number >>= 8
    return found


class Uniform:
    """Every record alike."""

    def choose(self, dice: Dice, count: int) -> int:
        """See `Chooser`."""
        return dice.randrange(count)


class ZipfianRank:
    """Ranks from 0, the most popular."""

    def __init__(self, exponent: float = ZIPFIAN_EXPONENT) -> None:
        self._exponent = exponent
        self._count = 0
        self._sum = 0.0
        self._eta = 0.0
        self._first_two = 1.0 + 0.5**exponent
        self._alpha = 1.0 / (1.0 - exponent)

    def choose(self, dice: Dice, count: int) -> int:
        """See `Chooser`."""
        if count != self._count:
            self._resize(count)
        where = dice.random()
        scaled = where * self._sum
        if scaled < 1.0:
            return 0
        if scaled < self._first_two:
            return 1 if count > 1 else 0
        return min(int(count * (self._eta * where - self._eta + 1.0) ** self._alpha), count - 1)

    def _resize(self, count: int) -> None:
        if count < self._count:
            self._count, self._sum = 0, 0.0
        self._sum += sum(rank**-self._exponent for rank in range(self._count + 1, count + 1))
        self._count = count
        rest = 1.0 - self._first_two / self._sum
        self._eta = (1.0 - (2.0 / count) ** (1.0 - self._exponent)) / rest if rest > 0 else 1.0


class Zipfian:
    """Popular records, scattered over all."""

    def __init__(self) -> None:
        self._ranks = ZipfianRank()

    def choose(self, dice: Dice, count: int) -> int:
        """See `Chooser`."""
        return scattered(self._ranks.choose(dice, count)) % count


class Latest:
    """The younger, the more popular."""

    def __init__(self) -> None:
        self._ranks = ZipfianRank()

    def choose(self, dice: Dice, count: int) -> int:
        """See `Chooser`."""
        return count - 1 - self._ranks.choose(dice, count)


class Hotspot:
    """`operations_share` of the operations take the first `set_share` of the records."""

    def __init__(self, set_share: float = HOT_SET_SHARE, operations_share: float = HOT_OPERATIONS_SHARE) -> None:
        self._set_share = set_share
        self._operations_share = operations_share

    def choose(self, dice: Dice, count: int) -> int:
        """See `Chooser`."""
        hot = max(1, int(count * self._set_share))
        if dice.random() < self._operations_share or hot == count:
            return dice.randrange(hot)
        return hot + dice.randrange(count - hot)


def make_chooser(name: str) -> Chooser:
    """Return a chooser, one of `CHOOSERS`. Raises ConfigError."""
    if name == "uniform":
        return Uniform()
    if name == "zipfian":
        return Zipfian()
    if name == "latest":
        return Latest()
    if name == "hotspot":
        return Hotspot()
    raise ConfigError(f"distribution {name!r} is unknown: it must be one of {', '.join(CHOOSERS)}")
