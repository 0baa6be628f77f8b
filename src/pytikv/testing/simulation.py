"""Raw data under faults, simulated: a whole server, clients that fight over a few keys, and a nemesis.

A kind of `simulated.SimulatedRun`. Clients do random operations (`workload`); at the end every key is read once more.
The history is then checked for linearizability, with `retry_lost_writes` off and `atomic` on, as the library promises.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any, Final

from pytikv.codec import memcomparable
from pytikv.errors import TikvError
from pytikv.testing.history import History, Status
from pytikv.testing.linearizability import Report, Verdict, check
from pytikv.testing.nemesis import Nemesis
from pytikv.testing.sim import SimRuntime
from pytikv.testing.simulated import Outcome, SimulatedRun, Striker, Weather
from pytikv.testing.workload import RawProcess, RawWorkload

__all__ = ["RawOptions", "RawOutcome", "RawRun", "run_raw"]

_STEPS: Final = 300_000
_KEYSPACE_PREFIX: Final = b"r\x00\x00\x00"  # of raw data in the default keyspace


@dataclasses.dataclass(frozen=True, slots=True)
class RawOptions(Weather):
    """The options of one run; `draw` makes them from a seed."""

    retry_lost_writes: bool = False

    @classmethod
    def draw(cls, seed: int, **fixed: Any) -> RawOptions:
        """Return the options of a seed; those given in `fixed` are as given."""
        return cls(**(cls.drawn(random.Random(f"options {seed}")) | fixed))


@dataclasses.dataclass(frozen=True, slots=True)
class RawOutcome(Outcome):
    """What became of a run; `report` is None when it ended early."""

    history: History
    report: Report | None

    @property
    def passed(self) -> bool:
        """Whether the history is linearizable."""
        return self.report is not None and self.report.verdict is Verdict.LINEARIZABLE

    def counts(self) -> dict[str, int]:
        """Return how many operations ended in which way."""
        found = dict.fromkeys((status.value for status in Status), 0)
        for operation in self.history:
            found[operation.status.value] += 1
        return found

    def judgement(self) -> str:
        """Return what the checker found."""
        return "" if self.report is None else self.report.describe()

    def history_lines(self) -> Iterator[str]:
        """Yield one line an operation."""
        return self.history.to_json_lines()


def run_raw(seed: int, options: RawOptions | None = None) -> RawOutcome:
    """Run one simulation; never raises for what the simulated code does."""
    return RawRun(seed, options or RawOptions.draw(seed)).outcome()


class RawRun(SimulatedRun):
    """One run."""

    def __init__(self, seed: int, options: RawOptions) -> None:
        self.history = History()
        self._retry_lost_writes = options.retry_lost_writes
        self._workload = RawWorkload(
            keys=options.keys, operations=options.operations, pause_seconds=options.pause_seconds
        )
        super().__init__(seed, options)

    def outcome(self) -> RawOutcome:
        """Play to the end and judge."""
        error = self.play()
        report = check(self.history, steps=_STEPS) if error is None else None
        world, faults = self.world, self.nemesis.faults
        return RawOutcome(self.seed, self.options, world.digest, world.now, faults, error, self.history, report)

    def make_nemesis(self) -> Striker:
        """Make what strikes."""
        return Nemesis(self)

    async def client(self, rt: SimRuntime, number: int, rng: random.Random) -> None:
        """Do all operations."""
        client = await self.open(rt)
        await RawProcess(number, client, rt, self.history, self._workload, rng).run()
        with contextlib.suppress(TikvError):
            await client.close()

    async def finish(self, here: SimRuntime) -> None:
        """Read every key once."""
        client = await self.open(here)
        await RawProcess(-1, client, here, self.history, self._workload, self.world.rng.child("last")).read_all()
        await client.close()

    def borders(self) -> list[bytes]:
        """Return the keys, as regions see them."""
        names = self.names_of_keys()
        return [memcomparable.encode(_KEYSPACE_PREFIX + k) for k in names] if self.options.api_version == "2" else names

    def names_of_keys(self) -> list[bytes]:
        """Return the keys that clients use, in order."""
        return self._workload.names()

    def client_options(self) -> dict[str, Any]:
        """Return what clients are told beside what every kind tells them."""
        return {"retry_lost_writes": self._retry_lost_writes, "atomic": True}

    async def open(self, rt: SimRuntime) -> Any:
        """Connect a client."""
        from pytikv.client.raw import AsyncRawClient

        return await self.connect(rt, AsyncRawClient, **self.client_options())
