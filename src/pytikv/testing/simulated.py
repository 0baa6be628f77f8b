"""What all simulations share: a server on a forgetful disk, clients that die, and weather drawn from a seed.

One seed is one run. `Weather` holds what is drawn: how slow and lossy links and disk are, what strikes how often. In a
run (`SimulatedRun`, which a kind of simulation derives from):

* the server (PD and store, the real code) runs on a memory engine that remembers what was flushed; a crash throws away
  the rest, and the server is started again on what is left (`SimServer`);
* clients, each in a process of its own, do what the kind says; some die in the middle and come back as another;
* the nemesis (`nemesis`) strikes in storms with calm between them; after `_FAULTY_SECONDS` the weather is good, so that
  a run that does not end is at fault itself;
* at the end the kind reads everything once more: this must succeed.

A run that ends in an error other than a client's, never ends, or logs an error, fails. `digest` is equal for equal
runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import random
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytikv.errors import TikvError
from pytikv.testing.seeded import SeededRandom
from pytikv.testing.sim import Link, SimRuntime, World

if TYPE_CHECKING:
    from pytikv.server.engine.memory import MemoryEngine
    from pytikv.server.serve import Server

__all__ = [
    "PD_ADDRESS",
    "SERVER",
    "Outcome",
    "SimServer",
    "SimulatedRun",
    "Striker",
    "Weather",
    "debris_ignored",
    "errors_logged",
    "forget_locals",
]

SERVER: Final = "server"
PD_ADDRESS: Final = "server:2379"

_VIRTUAL_SECONDS: Final = 600.0
_FAULTY_SECONDS: Final = 100.0
_CALM_SECONDS: Final = 3.0
_TIMEOUT_S: Final = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Weather:
    """The options of one run that every kind has.

    `max_delay_seconds` is the longest that a message travels, `disk_seconds` twice over the longest that a flush takes,
    `pause_seconds` what a client rests between two operations, on the average.
    """

    api_version: str = "1"
    clients: int = 4
    operations: int = 40
    keys: int = 3
    break_chance: float = 0.0
    max_delay_seconds: float = 0.002
    disk_seconds: float = 0.001
    pause_seconds: float = 0.05
    fault_every_seconds: float = 0.4
    fault_lasts_seconds: float = 0.4
    storm_seconds: float = 2.0
    client_deaths: int = 1
    sync: bool = True

    @staticmethod
    def drawn(rng: random.Random) -> dict[str, Any]:
        """Draw the fields from `rng`."""
        return {
            "api_version": rng.choice(["1", "1ttl", "2"]),
            "clients": rng.randint(2, 6),
            "keys": rng.randint(1, 4),
            "break_chance": rng.choice([0.0, 0.0, 0.002, 0.02]),
            "max_delay_seconds": rng.choice([0.002, 0.02, 0.2]),
            "disk_seconds": rng.choice([0.001, 0.01, 0.1]),
            "pause_seconds": rng.choice([0.05, 0.005]),
            "fault_every_seconds": rng.choice([0.1, 0.4, 1.5]),
            "fault_lasts_seconds": rng.choice([0.05, 0.4, 1.5]),
            "storm_seconds": rng.choice([0.5, 2.0, 10.0]),
            "client_deaths": rng.choice([0, 1, 2]),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome(ABC):
    """What became of a run. `error` is what ended it early, None when it ran to its end."""

    seed: int
    options: Weather
    digest: str
    virtual_seconds: float
    faults: dict[str, int]
    error: BaseException | None

    @property
    @abstractmethod
    def passed(self) -> bool:
        """Whether the history of a run that ended is right."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return how many operations ended in which way."""

    @abstractmethod
    def judgement(self) -> str:
        """Return what the judges found, for people."""

    @abstractmethod
    def history_lines(self) -> Iterator[str]:
        """Yield the history as JSON lines."""

    @property
    def ok(self) -> bool:
        """Whether the run ended and its history is right."""
        return self.error is None and self.passed

    def describe(self) -> str:
        """Return what went wrong, for people; one line when nothing did."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts().items())
        head = f"seed {self.seed}: {counts} in {self.virtual_seconds:.1f} virtual seconds"
        if self.error is not None:
            return f"{head}\n{type(self.error).__name__}: {self.error}\n{self.options}"
        return head if self.ok else f"{head}\n{self.judgement()}\n{self.options}"


class SimServer:
    """The server of a run: started, crashed and started again on what its disk kept."""

    def __init__(self, run: SimulatedRun, engine: MemoryEngine) -> None:
        self._run = run
        self._world = run.world
        self.engine = engine
        self.server: Server

    @property
    def rt(self) -> SimRuntime:
        """Its process, dead or alive."""
        return self._world.process(SERVER)

    def start(self, rt: SimRuntime) -> None:
        """Start it in a process, on the disk as it is."""
        from pytikv.server.config import ServeConfig
        from pytikv.server.serve import Server

        options = self._run.options
        rt.on_crash(self._lose)
        rt.blocking_max_s = options.disk_seconds
        config = ServeConfig(
            pd_addr=PD_ADDRESS,
            addr="server:20160",
            status_addr="server:20180",
            api_version=options.api_version,
            insecure=True,  # host names of the simulated world are no loopback addresses
            sync=options.sync,
        )
        self.server = Server(rt, config, engine=self.engine)
        self._run.spawn(rt, self.server.start(), name="server")

    def _lose(self) -> None:
        """Lose what was not flushed."""
        self.engine = self.engine.after_crash()

    def revive(self) -> None:
        """Start it again if it is dead."""
        if self.rt.dead:
            self.start(self._world.restart(SERVER))

    def split(self, border: bytes) -> bool:
        """Split the region that holds `border` there; False when the server is not up."""
        rt, store = self.rt, self.server.store
        if rt.dead or store is None:
            return False

        def split() -> None:
            region = store.regions.search(border)
            if region is not None and region.start_key != border:
                store.split(region, [border])

        self._run.spawn(rt, rt.run_blocking(split), name="split")
        return True


class Striker(Protocol):
    """What a run needs of its nemesis."""

    rng: SeededRandom
    faults: dict[str, int]

    def strike(self, here: SimRuntime) -> None:
        """Do something bad, and undo it after a while."""

    def heal(self) -> None:
        """Undo everything."""


class SimulatedRun(ABC):
    """One run: the world and all that lives in it. A kind of simulation says what clients do and how it is judged."""

    pd_address = PD_ADDRESS

    def __init__(self, seed: int, options: Weather) -> None:
        self.seed = seed
        self.options = options
        self.world = World(seed, link=Link(max_delay=options.max_delay_seconds, break_chance=options.break_chance))
        self.failures: list[BaseException] = []
        self.running: dict[str, int] = {}  # clients at work: the number of the process that each name stands for
        self.names: dict[str, None] = {}
        self.server = SimServer(self, self.make_engine())
        self.nemesis = self.make_nemesis()
        self._started = 0

    # --- what a kind says ---------------------------------------------------------------------------------------------

    def make_engine(self) -> MemoryEngine:
        """Make the server's disk."""
        from pytikv.server.engine.memory import MemoryEngine

        return MemoryEngine(keep_durable=True)

    def start_servers(self) -> None:
        """Start what clients connect to, at `pd_address`."""
        self.server.start(self.world.process(SERVER))

    @abstractmethod
    def make_nemesis(self) -> Striker:
        """Make what strikes: a `nemesis.Nemesis`."""

    @abstractmethod
    async def client(self, rt: SimRuntime, number: int, rng: random.Random) -> None:
        """Be one client, from its start to its end."""

    async def prepare(self, here: SimRuntime) -> None:
        """Do what must be done before clients start; no fault strikes yet."""
        return

    @abstractmethod
    async def finish(self, here: SimRuntime) -> None:
        """Read everything once more; all faults are over."""

    @abstractmethod
    def borders(self) -> list[bytes]:
        """Return where regions may be split."""

    # --- the run ------------------------------------------------------------------------------------------------------

    def play(self) -> BaseException | None:
        """Run to the end; returns what ended it early. Never raises for what the simulated code does."""
        error: BaseException | None = None
        with debris_ignored(self.world), self.world, errors_logged(self.failures):
            try:
                self.world.run(self._main(), _VIRTUAL_SECONDS)
            except Exception as failure:
                error = failure
            error = error or (self.failures[0] if self.failures else None)
            self.failures.clear()
            forget_locals(error)
        return error

    async def _main(self) -> None:
        here = self.world.process("main")
        self.start_servers()
        await self.prepare(here)
        for number in range(self.options.clients):
            self.start_client(f"client-{number}")
        while self.running and not self.failures:
            await self._storm(here)
            self.nemesis.heal()
            await here.sleep(_CALM_SECONDS)
        await self.finish(here)

    async def _storm(self, here: SimRuntime) -> None:
        """Strike for a while; when the run has lasted long enough, no more: it must then come to its end."""
        end = here.now() + self.options.storm_seconds
        while self.running and here.now() < end and self.world.now < _FAULTY_SECONDS:
            self.nemesis.strike(here)
            await here.sleep(self.nemesis.rng.expovariate(1 / self.options.fault_every_seconds))

    def spawn(self, rt: SimRuntime, work: Awaitable[Any], *, name: str) -> None:
        """Run `work` in a process; an error that is nobody's answer fails the run."""
        rt.spawn(self._guard(rt, work), name=name)

    async def _guard(self, rt: SimRuntime, work: Awaitable[Any]) -> None:
        try:
            await work
        except Exception as error:
            if not rt.dead:  # what the dead say while they fall does not count
                self.failures.append(error)

    # --- clients ------------------------------------------------------------------------------------------------------

    def start_client(self, name: str) -> None:
        """Start a client; one that lives under this name dies first."""
        rt = self.world.restart(name) if self.world.knows(name) else self.world.process(name)
        self._started += 1
        self.names[name] = None
        self.running[name] = self._started
        self.spawn(rt, self._client(rt, self._started), name="client")

    async def _client(self, rt: SimRuntime, number: int) -> None:
        try:
            await self.client(rt, number, self.world.rng.child(f"client {number}"))
        finally:
            if self.running.get(rt.name) == number:
                del self.running[rt.name]

    async def connect(self, rt: SimRuntime, client_type: Any, **options: Any) -> Any:
        """Connect, as often as it takes: the server may be down. `options` are added to those of the run."""
        options |= {
            "api_version": 2 if self.options.api_version == "2" else 1,
            "timeout": _TIMEOUT_S,
            "rpc_timeout": _TIMEOUT_S / 2,
            "connect_timeout": _TIMEOUT_S / 2,
            "pd_timeout": _TIMEOUT_S / 2,
        }
        while True:
            try:
                return await client_type._open(rt, f"tikv://{self.pd_address}", options)
            except TikvError as error:
                if not error.retryable:
                    raise
                await rt.sleep(0.1)


def forget_locals(error: BaseException | None) -> None:
    """Let go of what the frames of an error's story hold: the world of the run, which ends here."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error that was raised again may be its own context
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def errors_logged(failures: list[BaseException]) -> Iterator[None]:
    """Take what the library logs as an error for one: a background task that died fails the run."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            failures.append(error or RuntimeError(record.getMessage()))

    logger, collector = logging.getLogger("pytikv"), Collector(logging.ERROR)
    propagate, logger.propagate = logger.propagate, False  # crashes and broken connections are the point, not news
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


@contextlib.contextmanager
def debris_ignored(world: World) -> Iterator[None]:
    """A process that dies leaves unstarted coroutines and unclosed clients: that is what dying is, not a leak."""
    from pytikv.client import handle

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        warnings.filterwarnings("ignore", "a pytikv client was not closed", ResourceWarning)
        warnings.filterwarnings("ignore", "transaction .* was neither committed nor rolled back", ResourceWarning)
        # Garbage is collected at the end and not in between: finalizers run at a known point, where their warnings are
        # ignored. What was there before is frozen, so that this is quick.
        was_enabled = gc.isenabled()
        gc.disable()
        gc.freeze()
        try:
            yield
            for connection in list(handle._open):
                if isinstance(connection.rt, SimRuntime) and connection.rt.world is world:
                    connection.abandon("its process died", forked=True)
            gc.collect()
        finally:
            gc.unfreeze()
            if was_enabled:
                gc.enable()
