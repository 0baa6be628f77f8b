"""Raw data of several stores under faults, simulated, with clients that hedge, break circuits and shed load.

A kind of `simulated.SimulatedRun`: the workload and the judge of `simulation`, on a `Fleet` instead of one server. What
clients are told beside (`FleetOptions.guards`) is drawn from the seed: hedged reads, reads at replicas, breaker,
bulkhead, adaptive limit, retry budget, each sometimes. The history must be linearizable whatever they do. As the stores
share one engine (see `fleet`), what can be wrong is the client: a write called NOT_APPLIED that a guard gave up on
after it was sent, an answer that is another request's, a write that was hedged.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from pytikv.testing.capacity import Capacity
from pytikv.testing.fleet import PD, Fleet, store_name
from pytikv.testing.nemesis import Deed, Nemesis
from pytikv.testing.sim import SimRuntime
from pytikv.testing.simulated import Striker
from pytikv.testing.simulation import RawOptions, RawOutcome, RawRun

__all__ = ["FleetOptions", "run_fleet"]

_CHOICES: Final[dict[str, Sequence[Any]]] = {
    "hedge_after_ms": (None, 1.0, 20.0, "p95"),
    "replica_read": ("leader", "leader", "mixed", "prefer_leader"),
    "breaker": (None, True),
    "bulkhead": (None, True),
    "adaptive_limit": (None, True),
    "retry_budget": (None, True),
}


@dataclasses.dataclass(frozen=True, slots=True)
class FleetOptions(RawOptions):
    """The options of one run. `guards`: options of the clients, as pairs; `capacity`: of each store."""

    guards: tuple[tuple[str, Any], ...] = ()
    capacity: Capacity | None = None

    @classmethod
    def draw(cls, seed: int, **fixed: Any) -> FleetOptions:
        """Return the options of a seed; those given in `fixed` are as given."""
        rng = random.Random(f"fleet options {seed}")
        drawn = cls.drawn(rng)
        guards = {name: rng.choice(choices) for name, choices in _CHOICES.items()}
        drawn["guards"] = tuple((name, value) for name, value in guards.items() if value is not None)
        drawn["capacity"] = rng.choice((None, None, Capacity(workers=1, service_seconds=0.02)))
        return cls(**(drawn | fixed))


def run_fleet(seed: int, options: FleetOptions | None = None) -> RawOutcome:
    """Run one simulation; never raises for what the simulated code does."""
    return _FleetRun(seed, options or FleetOptions.draw(seed)).outcome()


class _FleetRun(RawRun):
    """One run."""

    pd_address = f"{PD}:2379"

    def __init__(self, seed: int, options: FleetOptions) -> None:
        self._guards = dict(options.guards)
        super().__init__(seed, options)
        self.fleet = Fleet(
            self.world, borders=self.names_of_keys()[1:], capacity=options.capacity, api_version=options.api_version
        )

    def start_servers(self) -> None:
        """Start PD and the stores."""
        self.fleet.start()

    async def finish(self, here: SimRuntime) -> None:
        """Read every key once more, when the stores have worked off what clients have left in their queues."""
        while self.fleet.queued:
            await here.sleep(0.1)
        await super().finish(here)

    def make_nemesis(self) -> Striker:
        """Make what strikes."""
        return _FleetNemesis(self)

    def client_options(self) -> dict[str, Any]:
        """Return what clients are told beside."""
        return super().client_options() | self._guards


class _FleetNemesis(Nemesis):
    """Hurts one store of several, or PD."""

    def __init__(self, run: _FleetRun) -> None:
        super().__init__(run)
        self._keys = run.names_of_keys()
        self._run = run

    @property
    def _fleet(self) -> Fleet:
        return self._run.fleet

    def deeds(self) -> list[tuple[Deed, int]]:
        """Return what may be done, with weights."""
        return [
            (self._crash_store, 3),
            (self._pause_store, 1),
            (self._slow_store, 3),
            (self._silence_store, 3),
            (self._cut_off_store, 2),
            (self._break_connections, 2),
            (self._move_leader, 3),
            (self._split_region, 1),
            (self._brown_out_pd, 2),
            (self._kill_client, 1),
        ]

    def heal(self) -> None:
        """Undo everything."""
        self.world.network.heal()
        self._fleet.heal()

    def _store(self) -> int:
        return self.rng.choice(self._fleet.numbers)

    def _crash_store(self, here: SimRuntime) -> str:
        number = self._store()
        if not self._fleet.is_up(number):
            return ""
        self._fleet.crash(number, silent=self.rng.random() < 0.3)
        self.later(here, lambda: self._fleet.revive(number))
        return "crash"

    def _pause_store(self, here: SimRuntime) -> str:
        name = store_name(self._store())
        if self.world.process(name).dead or self.world.process(name).paused:
            return ""
        self.world.pause(name)
        self.later(here, lambda: self.world.resume(name))
        return "pause"

    def _slow_store(self, here: SimRuntime) -> str:
        trouble = self._fleet.trouble(self._store())
        trouble.delay_seconds = self.rng.choice((0.05, 0.5, 2.0))
        self.later(here, trouble.heal)
        return "slow store"

    def _silence_store(self, here: SimRuntime) -> str:
        trouble = self._fleet.trouble(self._store())
        trouble.is_silent = True
        self.later(here, trouble.heal)
        return "silent store"

    def _cut_off_store(self, here: SimRuntime) -> str:
        names = sorted(self.run.names)
        victims = self.rng.sample(names, self.rng.randint(1, len(names)))
        sides = (victims, [store_name(self._store())])
        one, other = sides if self.rng.random() < 0.5 else sides[::-1]
        self.world.network.partition(one, other, one_way=self.rng.random() < 0.5)
        self.later(here, self.world.network.heal)
        return "partition"

    def _move_leader(self, here: SimRuntime) -> str:
        self._fleet.lead(self.rng.choice(self._keys), self._store())
        return "leader moved"

    def _split_region(self, here: SimRuntime) -> str:
        return "split" if self._fleet.split(self.rng.choice(self._keys) + b"+") else ""

    def _brown_out_pd(self, here: SimRuntime) -> str:
        fleet = self._fleet

        def slow() -> None:
            fleet.pd_trouble.delay_seconds = 0.5

        def silence() -> None:
            fleet.pd_trouble.is_silent = True

        def refuse() -> None:
            fleet.pd_refuses = True

        deeds: tuple[Callable[[], None], ...] = (slow, silence, refuse)
        self.rng.choice(deeds)()
        self.later(here, fleet.heal_pd)
        return "PD brown-out"
