"""What users notice while one of three stores is in trouble: experiments whose figures tests assert.

`run_outage` is one experiment in three phases: all is well, store 1 is in trouble (slow, silent, flapping or dead), all
is well again. Reads of its regions (*own*) and of the others are counted apart. The phases leave out their first
seconds (`settle_seconds`), in which clients learn what is the matter.

`run_storm` is the retry storm: a thousand clients of a store that is busy, but not too busy, and silent for some
seconds. What is asked then is not the outage but what follows: whether the calls that were sent again keep the store
busy for ever with work that nobody waits for any more, when the trouble that began it is long over.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pytikv.testing.capacity import Capacity
from pytikv.testing.load import REGIONS, Answer, LoadRun, between, errors_of, goodput, percentile

__all__ = ["Figures", "Hurt", "Outage", "OutageOptions", "Phases", "Storm", "StormOptions", "run_outage", "run_storm"]

_VICTIM: Final = 1
_LOOK_UPS_S: Final = 1.0  # in the first second regions are looked up


class Hurt(enum.Enum):
    """What is the matter with store 1."""

    NOTHING = "nothing"
    SLOW = "slow"
    """Every answer takes `OutageOptions.delay_seconds` longer."""
    SILENT = "silent"
    """It takes connections and requests, and never answers: a black hole."""
    FLAPPING = "flapping"
    """Silent for 0.4 s and well for 0.6 s, over and over."""
    DEAD = "dead"
    """Its process is gone: connections are refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """How some calls fared. Times in seconds; `p99` counts failed calls as well, `errors` by the class's name."""

    calls: int
    good_share: float
    p50: float
    p99: float
    errors: dict[str, int]

    @staticmethod
    def of(answers: Iterable[Answer]) -> Figures:
        """Return the figures of some calls."""
        found = list(answers)
        good = sum(answer.is_good for answer in found)
        return Figures(
            calls=len(found),
            good_share=good / max(len(found), 1),
            p50=percentile(found, 0.5),
            p99=percentile(found, 0.99),
            errors=errors_of(found),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class OutageOptions:
    """The experiment. Trouble lasts from `trouble_at` to `healed_at`; times in seconds since the load began."""

    clients: int = 4
    per_second: float = 150.0
    trouble_at: float = 4.0
    healed_at: float = 14.0
    seconds: float = 22.0
    settle_seconds: float = 3.0
    delay_seconds: float = 2.0
    timeout_seconds: float = 4.0
    rpc_timeout_seconds: float = 3.0
    capacity: Capacity = dataclasses.field(default_factory=lambda: Capacity(workers=4, service_seconds=0.004))


@dataclasses.dataclass(frozen=True, slots=True)
class Phases:
    """How some calls fared before, during and after the trouble."""

    before: Figures
    during: Figures
    after: Figures

    @staticmethod
    def of(*phases: list[Answer]) -> Phases:
        """Return the figures of the calls of three phases."""
        before, during, after = map(Figures.of, phases)
        return Phases(before, during, after)


@dataclasses.dataclass(frozen=True, slots=True)
class Outage:
    """What became of an experiment: the reads of store 1's regions, those of the others.

    `attempts`: commands that reached store 1 in the second phase, a second.
    """

    own: Phases
    others: Phases
    attempts: float


def run_outage(
    seed: int, hurt: Hurt, client_options: Mapping[str, Any] | None = None, options: OutageOptions | None = None
) -> Outage:
    """Run one experiment. `client_options`: guards and the like."""
    options = options or OutageOptions()
    run = LoadRun(
        seed,
        clients=options.clients,
        per_second=options.per_second,
        seconds=options.seconds,
        options={
            "timeout": options.timeout_seconds,
            "rpc_timeout": options.rpc_timeout_seconds,
            **(client_options or {}),
        },
        capacity=options.capacity,
    )
    run.play(lambda run: _hurt(run, hurt, options))
    begin, end = options.trouble_at, options.healed_at
    during, after = begin + options.settle_seconds, end + options.settle_seconds
    spans = ((_LOOK_UPS_S, begin), (during, end), (after, options.seconds))
    own = [[answer for answer in between(run.answers, *span) if answer.region == _VICTIM] for span in spans]
    others = [[answer for answer in between(run.answers, *span) if answer.region != _VICTIM] for span in spans]
    attempts = sum(during <= at < end for at in run.arrivals(_VICTIM)) / (end - during)
    return Outage(Phases.of(*own), Phases.of(*others), attempts)


def _times(options: OutageOptions | StormOptions) -> dict[str, float]:
    """Return the client's options that an experiment's own say."""
    return {"timeout": options.timeout_seconds, "rpc_timeout": options.rpc_timeout_seconds}


async def _hurt(run: LoadRun, hurt: Hurt, options: OutageOptions) -> None:
    await run.until(options.trouble_at)
    fleet = run.fleet
    if hurt is Hurt.SLOW:
        fleet.trouble(_VICTIM).delay_seconds = options.delay_seconds
    elif hurt is Hurt.SILENT:
        fleet.trouble(_VICTIM).is_silent = True
    elif hurt is Hurt.DEAD:
        fleet.crash(_VICTIM)
    elif hurt is Hurt.FLAPPING:
        while run.now < options.healed_at:
            fleet.trouble(_VICTIM).is_silent = True
            await run.until(run.now + 0.4)
            fleet.trouble(_VICTIM).is_silent = False
            await run.until(run.now + 0.6)
    await run.until(options.healed_at)
    fleet.heal()


@dataclasses.dataclass(frozen=True, slots=True)
class StormOptions:
    """The storm. `load`: of the store's capacity, before anything is sent again."""

    clients: int = 1000
    load: float = 0.7
    silent_at: float = 3.0
    healed_at: float = 6.0
    seconds: float = 10.0
    timeout_seconds: float = 2.0
    rpc_timeout_seconds: float = 0.25
    capacity: Capacity = dataclasses.field(default_factory=lambda: Capacity(workers=2, service_seconds=0.02))


@dataclasses.dataclass(frozen=True, slots=True)
class Storm:
    """What became of a storm, second by second from the load's begin.

    `offered`: calls begun; `good`: those of them answered in time; `attempts`: commands that reached the store.
    `amplification`: the most commands for each call of a second, from the silence to the end. `recovered_after`:
    seconds from the end of the silence until 95 % of the calls of a second, and of every later one, were answered in
    time; None: not within the run.
    """

    offered: tuple[int, ...]
    good: tuple[int, ...]
    attempts: tuple[int, ...]
    amplification: float
    recovered_after: float | None


def run_storm(seed: int, client_options: Mapping[str, Any] | None = None, options: StormOptions | None = None) -> Storm:
    """Run one storm. `client_options`: guards and the like."""
    options = options or StormOptions()

    async def script(run: LoadRun) -> None:
        await run.until(options.silent_at)
        run.fleet.trouble(_VICTIM).is_silent = True
        await run.until(options.healed_at)
        run.fleet.heal()

    run = LoadRun(
        seed,
        clients=options.clients,
        per_second=options.load * options.capacity.per_second,
        seconds=options.seconds,
        options={
            "timeout": options.timeout_seconds,
            "rpc_timeout": options.rpc_timeout_seconds,
            **(client_options or {}),
        },
        capacity=options.capacity,
        regions=REGIONS[:1],
    ).play(script)
    seconds = range(int(options.seconds))
    offered = tuple(len(between(run.answers, second, second + 1)) for second in seconds)
    good = tuple(round(goodput(run.answers, second, second + 1)) for second in seconds)
    arrivals = run.arrivals(_VICTIM)
    attempts = tuple(sum(second <= at < second + 1 for at in arrivals) for second in seconds)
    usual = options.load * options.capacity.per_second
    return Storm(
        offered,
        good,
        attempts,
        amplification=max(attempts[int(options.silent_at) :]) / usual,
        recovered_after=_recovery(offered, good, int(options.healed_at)),
    )


def _recovery(offered: tuple[int, ...], good: tuple[int, ...], healed_at: int) -> float | None:
    bad = [second for second in range(healed_at, len(offered)) if good[second] < 0.95 * offered[second]]
    if not bad:
        return 0.0
    return float(bad[-1] + 1 - healed_at) if bad[-1] + 1 < len(offered) else None
