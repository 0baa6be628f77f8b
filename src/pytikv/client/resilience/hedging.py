"""Hedged reads: a read that is not answered in time is sent a second time, elsewhere, and the first answer counts.

When: after a fixed time, or after the time that 90, 95 or 99 of 100 such reads take, learnt for each address and RPC
from the last `_SAMPLES` of them (nothing is hedged before `_LEARNT_AFTER` of them were seen). A read whose first try
was given up counts with the time that it had been waited for: at least that long.

A percentile is never taken for longer than `_OUTLIER` times the least of all addresses: a store that is slow for long
would else teach that slow is usual.

How often: a read brings `ratio` of a token, a second try costs one, and at most `_SAVED` are kept. So the extra load is
that share at most, also when a store stands still and every read there is late. There, hedging is not the means: when
`_LATE_IN_A_ROW` reads of one address are late, with none in time between them, the sender takes the store for slow
for a while and asks other replicas first.

What: reads only. Which replica is asked the second time is the sender's to choose, and that it serves linearizably.
`race` runs both and gives up the loser, which is forgotten by its connection and costs it nothing else.

`Hedger` is pure: no clock, no I/O; `race` waits on the runtime. A hedger may be used by many threads: what a race
between them loses is a sample. Bounds: `_KEYS_KEPT` pairs of address and RPC are learnt about.

Source of the idea: Dean and Barroso, The Tail at Scale (2013).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from pytikv.errors import TikvError
from pytikv.policies import HedgeAfter
from pytikv.rt.interface import Runtime

__all__ = ["Hedger", "Percentile", "race"]

T = TypeVar("T")

_SAMPLES: Final = 256
_LEARNT_AFTER: Final = 32
_LEARN_EVERY: Final = 32
_MIN_DELAY_S: Final = 0.001
_KEYS_KEPT: Final = 1024
_SAVED: Final = 10.0
_OUTLIER: Final = 10.0
_LATE_IN_A_ROW: Final = 3


class Percentile:
    """A percentile of the last `_SAMPLES` values, brought up to date with every `_LEARN_EVERY`th."""

    __slots__ = ("_count", "_samples", "_share", "value")

    def __init__(self, share: float) -> None:
        self.value: float | None = None
        """The percentile; None until enough was seen."""
        self._share = share
        self._samples: list[float] = []
        self._count = 0

    def add(self, sample: float) -> None:
        """Take in a value."""
        if len(self._samples) < _SAMPLES:
            self._samples.append(sample)
        else:
            self._samples[self._count % _SAMPLES] = sample
        self._count += 1
        if self._count % _LEARN_EVERY == 0 and self._count >= _LEARNT_AFTER:
            ordered = sorted(self._samples)
            self.value = ordered[min(len(ordered) - 1, int(self._share * len(ordered)))]


class Hedger:
    """When to send reads a second time, for one set of options."""

    __slots__ = ("_fixed_s", "_late", "_learnt", "_least", "_ratio", "_share", "_tokens")

    def __init__(self, after: HedgeAfter, ratio: float) -> None:
        self._fixed_s = None if isinstance(after, str) else after / 1000
        self._share = int(after[1:]) / 100 if isinstance(after, str) else 1.0
        self._ratio = ratio
        self._tokens = 1.0
        self._learnt: dict[tuple[str, str], Percentile] = {}
        self._least: dict[str, float] = {}  # of each RPC, the least percentile learnt, whatever the address
        self._late: dict[str, int] = {}

    def begin(self, address: str, name: str) -> float | None:
        """Count a read that begins; returns the seconds after which to hedge it, None: not at all."""
        self._tokens = min(_SAVED, self._tokens + self._ratio)
        if self._fixed_s is not None:
            return self._fixed_s
        learnt = self._learnt.get((address, name))
        if learnt is None or learnt.value is None:
            return None
        return max(_MIN_DELAY_S, min(learnt.value, _OUTLIER * self._least.get(name, math.inf)))

    def on_late(self, address: str) -> bool:
        """Count a read that was not answered in time; True when `_LATE_IN_A_ROW` were not, with none between."""
        late = self._late[address] = self._late.get(address, 0) + 1
        return late >= _LATE_IN_A_ROW

    def withdraw(self) -> bool:
        """Pay for a second try; False where it must not be made."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def note(self, address: str, name: str, took_s: float, delay_s: float | None) -> None:
        """Take in how long a read took, or had been waited for when the second try won; `delay_s` as `begin` said."""
        if self._late and (delay_s is None or took_s < delay_s):
            self._late.pop(address, None)
        if self._fixed_s is not None:
            return
        learnt = self._learnt.get((address, name))
        if learnt is None:
            if len(self._learnt) >= _KEYS_KEPT:
                self._learnt.clear()
            learnt = self._learnt.setdefault((address, name), Percentile(self._share))
        before = learnt.value
        learnt.add(took_s)
        if learnt.value != before:
            known = (other.value for (_, rpc), other in self._learnt.items() if rpc == name)
            self._least[name] = min((value for value in known if value is not None), default=math.inf)


class _Decided(Exception):
    """Raised by one of the two tries to end the other."""


async def race(
    rt: Runtime,
    first: Coroutine[Any, Any, T],
    second: Callable[[], Coroutine[Any, Any, T] | None],
    delay_s: float,
    is_good: Callable[[T], bool],
) -> tuple[T, bool]:
    """Run `first`, and beside it what `second` makes after `delay_s`, if anything. The loser is cancelled.

    Returns what came of it, and whether it is the second one's: the first good thing; where neither is good, the first
    one's. Raises what `first` raises; what the second one raises only loses.
    """
    met: dict[bool, T] = {}
    is_hedged = False

    async def run_first() -> None:
        met[False] = await first
        if not is_hedged or is_good(met[False]):
            raise _Decided

    async def run_second() -> None:
        nonlocal is_hedged
        await rt.sleep(delay_s)
        attempt = second()
        if attempt is None:
            return
        is_hedged = True
        try:
            met[True] = await attempt
        except TikvError:
            return
        if is_good(met[True]):
            raise _Decided

    with contextlib.suppress(_Decided):
        await rt.gather(run_first(), run_second())
    is_second = True in met and is_good(met[True]) and not (False in met and is_good(met[False]))
    return met[is_second], is_second
