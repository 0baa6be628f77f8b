"""Raw data under faults, simulated: a whole server, clients that fight over a few keys, and a nemesis.

One seed is one run. It draws its own options (API version, how slow and lossy links and disk are, what strikes how
often), so that a set of seeds covers many kinds of weather. In a run:

* the server (PD and store, the real code) runs on a memory engine that remembers what was flushed; a crash throws away
  the rest, and the server is started again on what is left;
* clients (the real asynchronous client, each in a process of its own) do random operations; some die in the middle of
  one and come back as another;
* the nemesis crashes and pauses the server, splits regions, cuts clients off (one way or both) and breaks connections,
  one fault at a time or several at once, in storms with calm between them; after `_FAULTY_SECONDS` the weather is good,
  so that a run that does not end is at fault itself;
* at the end every key is read once more: this must succeed.

The history is then checked for linearizability, with `retry_lost_writes` off and `atomic` on, as the library promises.
A run that ends in an error other than a client's, or never ends, fails as well. `digest` is equal for equal runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import random
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pytikv.codec import memcomparable
from pytikv.errors import TikvError
from pytikv.testing.history import History, Status
from pytikv.testing.linearizability import Report, Verdict, check
from pytikv.testing.sim import Link, SimRuntime, World
from pytikv.testing.workload import RawProcess, RawWorkload

if TYPE_CHECKING:
    from pytikv.server.serve import Server

__all__ = ["Outcome", "RawOptions", "run_raw"]

_SERVER: Final = "server"
_PD_ADDRESS: Final = "server:2379"
_TIMEOUT_S: Final = 2.0
_VIRTUAL_SECONDS: Final = 600.0
_FAULTY_SECONDS: Final = 100.0
_CALM_SECONDS: Final = 3.0
_STEPS: Final = 300_000
_KEYSPACE_PREFIX: Final = b"r\x00\x00\x00"  # of raw data in the default keyspace


@dataclasses.dataclass(frozen=True, slots=True)
class RawOptions:
    """The options of one run; `draw` makes them from a seed.

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
    retry_lost_writes: bool = False
    sync: bool = True

    @classmethod
    def draw(cls, seed: int, **fixed: Any) -> RawOptions:
        """Return the options of a seed; those given in `fixed` are as given."""
        rng = random.Random(f"options {seed}")
        drawn: dict[str, Any] = {
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
        return cls(**(drawn | fixed))


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `error` is what ended it early, None when it ran to its end."""

    seed: int
    options: RawOptions
    history: History
    report: Report | None
    digest: str
    virtual_seconds: float
    faults: dict[str, int]
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether the run ended and its history is linearizable."""
        return self.error is None and self.report is not None and self.report.verdict is Verdict.LINEARIZABLE

    def counts(self) -> dict[str, int]:
        """Return how many operations ended in which way."""
        found = dict.fromkeys((status.value for status in Status), 0)
        for operation in self.history:
            found[operation.status.value] += 1
        return found

    def describe(self) -> str:
        """Return what went wrong, for people; one line when nothing did."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts().items())
        head = f"seed {self.seed}: {counts} in {self.virtual_seconds:.1f} virtual seconds"
        if self.error is not None:
            return f"{head}\n{type(self.error).__name__}: {self.error}\n{self.options}"
        if self.report is None or self.ok:
            return head
        return f"{head}\n{self.report.describe()}\n{self.options}"


def run_raw(seed: int, options: RawOptions | None = None) -> Outcome:
    """Run one simulation; never raises for what the simulated code does."""
    run = _RawRun(seed, options or RawOptions.draw(seed))
    return run.outcome()


class _RawRun:
    """One run: the world and all that lives in it."""

    def __init__(self, seed: int, options: RawOptions) -> None:
        self.seed = seed
        self.options = options
        self.history = History()
        link = Link(max_delay=options.max_delay_seconds, break_chance=options.break_chance)
        self.world = World(seed, link=link)
        self.rng = self.world.rng.child("nemesis")
        self.workload = RawWorkload(
            keys=options.keys, operations=options.operations, pause_seconds=options.pause_seconds
        )
        self.faults: dict[str, int] = {}
        self.failures: list[BaseException] = []
        self._disk = _Disk()
        self._server: Server
        self._server_wanted = True
        self._running: dict[str, int] = {}  # clients at work: the number of the process that each name stands for
        self._deaths = options.client_deaths
        self._names: dict[str, None] = {}
        self._started = 0

    def outcome(self) -> Outcome:
        """Run to the end and judge."""
        error: BaseException | None = None
        with _debris_ignored(self.world), self.world, _errors_logged(self.failures):
            try:
                self.world.run(self._main(), _VIRTUAL_SECONDS)
            except Exception as failure:
                error = failure
            seconds = self.world.now
        error = error or (self.failures[0] if self.failures else None)
        report = check(self.history, steps=_STEPS) if error is None else None
        return Outcome(self.seed, self.options, self.history, report, self.world.digest, seconds, self.faults, error)

    async def _main(self) -> None:
        here = self.world.process("main")
        self._start_server(self.world.process(_SERVER))
        for number in range(self.options.clients):
            self._start_client(f"client-{number}")
        while self._running and not self.failures:
            await self._storm(here)
            self._heal()
            await here.sleep(_CALM_SECONDS)
        await self._read_everything(here)

    async def _storm(self, here: SimRuntime) -> None:
        """Strike for a while; when the run has lasted long enough, no more: it must then come to its end."""
        end = here.now() + self.options.storm_seconds
        while self._running and here.now() < end and self.world.now < _FAULTY_SECONDS:
            self._strike(here)
            await here.sleep(self.rng.expovariate(1 / self.options.fault_every_seconds))

    # --- the server ---------------------------------------------------------------------------------------------------

    def _start_server(self, rt: SimRuntime) -> None:
        from pytikv.server.config import ServeConfig
        from pytikv.server.serve import Server

        rt.on_crash(self._disk.crash)
        rt.blocking_max_s = self.options.disk_seconds
        config = ServeConfig(
            pd_addr=_PD_ADDRESS,
            addr="server:20160",
            status_addr="server:20180",
            api_version=self.options.api_version,
            insecure=True,  # host names of the simulated world are no loopback addresses
            sync=self.options.sync,
        )
        self._server = Server(rt, config, engine=self._disk.engine)
        rt.spawn(self._guard(rt, self._server.start()), name="server")

    async def _guard(self, rt: SimRuntime, work: Awaitable[Any]) -> None:
        """Keep an error that is nobody's answer: it fails the run. What the dead say while they fall does not count."""
        try:
            await work
        except Exception as error:
            if not rt.dead:
                self.failures.append(error)

    # --- clients ------------------------------------------------------------------------------------------------------

    def _start_client(self, name: str) -> None:
        rt = self.world.restart(name) if self.world.knows(name) else self.world.process(name)
        self._started += 1
        self._names[name] = None
        self._running[name] = self._started
        rt.spawn(self._guard(rt, self._client(rt, self._started)), name="client")

    async def _client(self, rt: SimRuntime, number: int) -> None:
        rng = self.world.rng.child(f"client {number}")
        try:
            client = await self._connect(rt)
            await RawProcess(number, client, rt, self.history, self.workload, rng).run()
            with contextlib.suppress(TikvError):
                await client.close()
        finally:
            if self._running.get(rt.name) == number:
                del self._running[rt.name]

    async def _connect(self, rt: SimRuntime) -> Any:
        """Connect, as often as it takes: the server may be down."""
        from pytikv.client.raw import AsyncRawClient

        options = {
            "api_version": 2 if self.options.api_version == "2" else 1,
            "timeout": _TIMEOUT_S,
            "rpc_timeout": _TIMEOUT_S / 2,
            "connect_timeout": _TIMEOUT_S / 2,
            "pd_timeout": _TIMEOUT_S / 2,
            "retry_lost_writes": self.options.retry_lost_writes,
            "atomic": True,
        }
        while True:
            try:
                return await AsyncRawClient._open(rt, f"tikv://{_PD_ADDRESS}", options)
            except TikvError as error:
                if not error.retryable:
                    raise
                await rt.sleep(0.1)

    async def _read_everything(self, here: SimRuntime) -> None:
        client = await self._connect(here)
        await RawProcess(-1, client, here, self.history, self.workload, self.world.rng.child("last")).read_all()
        await client.close()

    # --- the nemesis --------------------------------------------------------------------------------------------------

    def _strike(self, here: SimRuntime) -> None:
        """Do something bad, and undo it after a while."""
        deeds: list[Callable[[SimRuntime], str]] = [
            self._crash_server,
            self._cut_off,
            self._break_connections,
            self._pause_server,
            self._kill_client,
            self._split,
        ]
        deed = self.rng.choices(deeds, (3, 3, 3, 1, 1, 1))[0]
        name = deed(here)
        if name:
            self.faults[name] = self.faults.get(name, 0) + 1

    def _later(self, here: SimRuntime, act: Callable[[], None]) -> None:
        here.call_at(here.now() + self.rng.expovariate(1 / self.options.fault_lasts_seconds), act)

    def _crash_server(self, here: SimRuntime) -> str:
        if self.world.process(_SERVER).dead:
            return ""
        self.world.crash(_SERVER, silent=self.rng.random() < 0.3)
        self._later(here, self._revive_server)
        return "crash"

    def _revive_server(self) -> None:
        if self.world.process(_SERVER).dead:
            self._start_server(self.world.restart(_SERVER))

    def _pause_server(self, here: SimRuntime) -> str:
        if self.world.process(_SERVER).dead or self.world.process(_SERVER).paused:
            return ""
        self.world.pause(_SERVER)
        self._later(here, lambda: self.world.resume(_SERVER))
        return "pause"

    def _cut_off(self, here: SimRuntime) -> str:
        names = sorted(self._names)
        victims = self.rng.sample(names, self.rng.randint(1, len(names)))
        sides = (victims, [_SERVER]) if self.rng.random() < 0.5 else ([_SERVER], victims)
        self.world.network.partition(*sides, one_way=self.rng.random() < 0.5)
        self._later(here, self.world.network.heal)
        return "partition"

    def _break_connections(self, here: SimRuntime) -> str:
        self.world.network.break_connections(self.rng.choice(sorted(self._names)))
        return "break"

    def _kill_client(self, here: SimRuntime) -> str:
        if not self._deaths or not self._running:
            return ""
        self._deaths -= 1
        self._start_client(self.rng.choice(sorted(self._running)))  # it comes back at once, as another process
        return "client death"

    def _split(self, here: SimRuntime) -> str:
        """Split a region at one of the keys: clients find out by EpochNotMatch."""
        rt = self.world.process(_SERVER)
        store = self._server.store
        if rt.dead or store is None:
            return ""
        key = self.rng.choice(self.workload.names())
        border = memcomparable.encode(_KEYSPACE_PREFIX + key) if self.options.api_version == "2" else key

        def split() -> None:
            region = store.regions.search(border)
            if region is not None and region.start_key != border:
                store.split(region, [border])

        rt.spawn(self._guard(rt, rt.run_blocking(split)), name="split")
        return "split"

    def _heal(self) -> None:
        self.world.network.heal()
        self.world.resume(_SERVER)
        self._revive_server()


@contextlib.contextmanager
def _errors_logged(failures: list[BaseException]) -> Iterator[None]:
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
def _debris_ignored(world: World) -> Iterator[None]:
    """A process that dies leaves unstarted coroutines and unclosed clients: that is what dying is, not a leak."""
    from pytikv.client import handle

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        warnings.filterwarnings("ignore", "a pytikv client was not closed", ResourceWarning)
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


class _Disk:
    """The server's engine, across crashes."""

    def __init__(self) -> None:
        from pytikv.server.engine.memory import MemoryEngine

        self.engine = MemoryEngine(keep_durable=True)

    def crash(self) -> None:
        """Lose what was not flushed."""
        self.engine = self.engine.after_crash()
