"""Open-loop load on a simulated cluster: calls begin when their time has come, however the earlier ones fare.

Arrivals are a Poisson stream drawn from the seed. Each call is one `get` with the client's own `timeout` as its
deadline; what came of it is an `Answer`. *Goodput* is the calls answered in time, a second: what users notice. A call
that failed at once is no goodput either, but it has cost the store nothing, which is the point of shedding.

A `LoadRun` is one experiment: a `Fleet`, clients that load it, each in a process of its own, and a *script* that hurts
the fleet meanwhile. The same seed gives the same answers.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytikv.errors import TikvError
from pytikv.testing.capacity import Capacity
from pytikv.testing.fleet import URL, Fleet
from pytikv.testing.sim import Link, SimRuntime, World
from pytikv.testing.simulated import debris_ignored, errors_logged, forget_locals

if TYPE_CHECKING:
    from pytikv import AsyncRawClient

__all__ = ["REGIONS", "Answer", "LoadRun", "between", "errors_of", "goodput", "percentile"]

REGIONS: Final = (b"a", b"j", b"q")
"""What the keys of each region begin with: region i is led by store i + 1."""

_BORDERS: Final = REGIONS[1:]
_KEYS_A_REGION: Final = 100
_OK: Final = ""
_CLOSING_S: Final = 6.0  # more than a pool gives its calls in flight

T = TypeVar("T")
Script = Callable[["LoadRun"], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call. `began` in the world's seconds; `error`: the class's name, empty for an answer."""

    key: bytes
    began: float
    seconds: float
    error: str

    @property
    def is_good(self) -> bool:
        """Whether it was answered in time."""
        return self.error == _OK

    @property
    def region(self) -> int:
        """The number of its region, which is that of the store which leads it: from 1."""
        return REGIONS.index(self.key[:1]) + 1


class LoadRun:
    """One experiment. Make it, then `play`; afterwards `answers` and `fleet.tallies` tell what happened."""

    def __init__(
        self,
        seed: int,
        *,
        clients: int = 4,
        per_second: float,
        seconds: float,
        options: Mapping[str, Any] | None = None,
        capacity: Capacity | None = None,
        link: Link | None = None,
        regions: tuple[bytes, ...] = REGIONS,
    ) -> None:
        """Make an experiment.

        Args:
            seed: of everything.
            clients: how many, each a process with connections of its own.
            per_second: calls a second of all clients together.
            seconds: for how long calls begin. Clients connect before that, so that they know PD; time 0 is now.
            options: of the clients.
            capacity: of each store; None: commands cost no time.
            link: how messages travel.
            regions: those whose keys are read, with equal chances.
        """
        self.world = World(seed, link=link)
        self.fleet = Fleet(self.world, borders=_BORDERS, capacity=capacity)
        self.answers: list[Answer] = []
        self.clients: dict[str, AsyncRawClient] = {}
        self._failures: list[BaseException] = []
        self._names = [f"client-{number}" for number in range(clients)]
        self._per_second = per_second / clients
        self._seconds = seconds
        self._options = dict(options or {})
        self._regions = regions
        self._running = 0
        self.began = 0.0

    @property
    def now(self) -> float:
        """Seconds since the load began."""
        return self.world.now - self.began

    async def until(self, seconds: float) -> None:
        """Sleep until so many seconds after the load began."""
        await self.world.process("main").sleep(max(seconds - self.now, 0.0))

    async def open(self, name: str, **options: Any) -> AsyncRawClient:
        """Connect one more client, in the process `name`."""
        from pytikv.client.raw import AsyncRawClient

        return await AsyncRawClient._open(self.world.process(name), URL, self._options | options)

    async def within(self, name: str, work: Awaitable[T]) -> T:
        """Let `work` be done by the process `name`, as what concerns its client must be; returns its value."""
        done: list[T] = []
        failed: list[Exception] = []

        async def do() -> None:
            try:
                done.append(await work)
            except Exception as error:
                failed.append(error)

        self.world.process(name).spawn(do(), name="work")
        while not done and not failed:
            await self.world.process("main").sleep(0.001)
        if failed:
            raise failed[0]
        return done[0]

    def play(self, script: Script | None = None) -> LoadRun:
        """Run the experiment to its end; returns itself. An error of the script's is raised."""
        with debris_ignored(self.world), self.world, errors_logged(self._failures):
            self.fleet.start()
            try:
                self.world.run(self._main(script))
            except Exception as error:  # raised below, when what died with the world is gone
                self._failures.insert(0, error)
            if self._failures:
                forget_locals(self._failures[0])
        for failure in self._failures:
            raise failure
        return self

    async def _main(self, script: Script | None) -> None:
        main = self.world.process("main")
        self._running = len(self._names)
        for name in self._names:
            rt = self.world.process(name)
            rt.spawn(self._connect(rt), name="connect")
        while self._running:
            await main.sleep(0.01)
        self.began = self.world.now
        self._running = len(self.clients)
        for name in self._names:
            rt = self.world.process(name)
            rt.spawn(self._load(rt, self.clients[name]), name="load")
        if script is not None:
            await script(self)
        while self._running and not self._failures:
            await main.sleep(0.01)
        self.fleet.heal()
        for name, client in self.clients.items():
            self.world.process(name).spawn(client.close(), name="close")
        await main.sleep(_CLOSING_S)

    async def _connect(self, rt: SimRuntime) -> None:
        self.clients[rt.name] = await self.open(rt.name)
        self._running -= 1

    async def _load(self, rt: SimRuntime, client: AsyncRawClient) -> None:
        rng = self.world.rng.child(f"load of {rt.name}")
        end = rt.now() + self._seconds
        while True:
            pause = rng.expovariate(self._per_second)
            if rt.now() + pause >= end:
                break
            await rt.sleep(pause)
            self._running += 1
            rt.spawn(self._call(rt, client, self._key(rng)), name="call")
        self._running -= 1

    def _key(self, rng: random.Random) -> bytes:
        return rng.choice(self._regions) + b"%d" % rng.randrange(_KEYS_A_REGION)

    async def _call(self, rt: SimRuntime, client: AsyncRawClient, key: bytes) -> None:
        began, error = rt.now(), _OK
        try:
            await client.get(key)
        except TikvError as failure:
            error = type(failure).__name__
        finally:
            self._running -= 1
        seconds = rt.now() - began
        self.answers.append(Answer(key, self.now - seconds, seconds, error))

    def arrivals(self, number: int) -> list[float]:
        """Return when commands arrived at a store, in seconds since the load began."""
        return [at - self.began for at in self.fleet.tallies[number].arrivals]


def between(answers: Iterable[Answer], begin: float, end: float) -> list[Answer]:
    """Return the calls begun between two times."""
    return [answer for answer in answers if begin <= answer.began < end]


def goodput(answers: Iterable[Answer], begin: float, end: float) -> float:
    """Return the calls begun between two times and answered in time, a second."""
    return sum(answer.is_good for answer in between(answers, begin, end)) / (end - begin)


def percentile(answers: Iterable[Answer], share: float) -> float:
    """Return the seconds that `share` of the calls took at most, failed ones included; 0 for none."""
    times = sorted(answer.seconds for answer in answers)
    return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


def errors_of(answers: Iterable[Answer]) -> dict[str, int]:
    """Return how many calls ended with which error, by the class's name."""
    found: dict[str, int] = {}
    for answer in answers:
        if not answer.is_good:
            found[answer.error] = found.get(answer.error, 0) + 1
    return dict(sorted(found.items()))
