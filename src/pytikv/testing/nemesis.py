"""What strikes a simulated run: crashes, pauses, partitions, broken connections, deaths of clients, splits, clocks.

Each deed does something bad and has it undone after a while; `heal` undoes all. What is done, and when, is drawn from
the run's seed. `faults` counts what struck.
"""

from __future__ import annotations

from collections.abc import Callable

from pytikv.testing.sim import SimRuntime
from pytikv.testing.simulated import SERVER, SimulatedRun

__all__ = ["Deed", "Nemesis"]

Deed = Callable[[SimRuntime], str]
"""Does it, and returns its name; nothing when it could not be done now."""


class Nemesis:
    """Strikes one run. A kind of simulation adds deeds by `deeds`."""

    def __init__(self, run: SimulatedRun) -> None:
        self.run = run
        self.world = run.world
        self.rng = run.world.rng.child("nemesis")
        self.faults: dict[str, int] = {}
        self._deaths = run.options.client_deaths

    def deeds(self) -> list[tuple[Deed, int]]:
        """Return what may be done, with weights."""
        return [
            (self._crash_server, 3),
            (self._cut_off, 3),
            (self._break_connections, 3),
            (self._pause_server, 1),
            (self._kill_client, 1),
            (self._split, 1),
        ]

    def strike(self, here: SimRuntime) -> None:
        """Do something bad, and undo it after a while."""
        deeds, weights = zip(*self.deeds(), strict=True)
        name = self.rng.choices(deeds, weights)[0](here)
        if name:
            self.faults[name] = self.faults.get(name, 0) + 1

    def heal(self) -> None:
        """Undo everything."""
        self.world.network.heal()
        self.world.resume(SERVER)
        self.run.server.revive()

    def later(self, here: SimRuntime, act: Callable[[], None]) -> None:
        """Undo a deed by `act` after a while."""
        here.call_at(here.now() + self.rng.expovariate(1 / self.run.options.fault_lasts_seconds), act)

    def _crash_server(self, here: SimRuntime) -> str:
        if self.run.server.rt.dead:
            return ""
        self.world.crash(SERVER, silent=self.rng.random() < 0.3)
        self.later(here, self.run.server.revive)
        return "crash"

    def _pause_server(self, here: SimRuntime) -> str:
        if self.run.server.rt.dead or self.run.server.rt.paused:
            return ""
        self.world.pause(SERVER)
        self.later(here, lambda: self.world.resume(SERVER))
        return "pause"

    def _cut_off(self, here: SimRuntime) -> str:
        names = sorted(self.run.names)
        victims = self.rng.sample(names, self.rng.randint(1, len(names)))
        sides = (victims, [SERVER]) if self.rng.random() < 0.5 else ([SERVER], victims)
        self.world.network.partition(*sides, one_way=self.rng.random() < 0.5)
        self.later(here, self.world.network.heal)
        return "partition"

    def _break_connections(self, here: SimRuntime) -> str:
        self.world.network.break_connections(self.rng.choice(sorted(self.run.names)))
        return "break"

    def _kill_client(self, here: SimRuntime) -> str:
        if not self._deaths or not self.run.running:
            return ""
        self._deaths -= 1
        self.run.start_client(self.rng.choice(sorted(self.run.running)))  # it comes back at once, as another process
        return "client death"

    def _split(self, here: SimRuntime) -> str:
        """Split a region: clients find out by EpochNotMatch."""
        if self.run.server.rt.dead or self.run.server.server.store is None:
            return ""
        return "split" if self.run.server.split(self.rng.choice(self.run.borders())) else ""
