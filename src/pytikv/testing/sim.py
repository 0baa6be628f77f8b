"""A seeded, deterministic world: processes, a network, a clock that jumps.

A `World` holds processes by name; each has a `SimRuntime` that offers what `rt.interface` asks, so whole clusters with
their clients run in one thread, in virtual time: nothing waits, the clock jumps to the next timer. Whatever could be
the one or the other way is drawn from the seed: which of the ready callbacks runs next, how long a message travels,
where a stream is cut into segments, how long "blocking" work takes. The same seed gives the same run, event by event,
in every process and for every PYTHONHASHSEED, as long as the code under test takes its time and its randomness from
the runtime and never iterates over a set of objects; `World.digest` tells (compare two runs).

Random numbers are split by name (`SeededRandom.child`), so that one more draw here does not change the draws there.

* Clocks: each process counts its monotonic seconds from another origin (comparing them across processes is a fault that
  shows at once), and its wall clock may be skewed.
* `crash`: what was registered with `SimRuntime.on_crash` runs first (a disk loses what was not synced), then all tasks
  end where they stand, and the network tells the peers. The runtime refuses further use; `restart` makes a new one.
* `pause` stops a process like SIGSTOP: its callbacks wait for `resume`.

Limits: `World.run` ends with SimulationStuck when nothing is left to happen or time does not go on for a million
steps, with TimeoutError when the virtual time given is over. An error that leaves `run` carries a note with the seed.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, TypeVar, cast

from pytikv.errors import ClientClosed
from pytikv.rt.clock import ambient_clock
from pytikv.rt.interface import Future, SharedFutureLike, StreamProtocol
from pytikv.rt.tasks import Cancelled, Loop, LoopFuture, LoopTask, LoopTimer, gather, with_deadline
from pytikv.testing.seeded import SeededRandom
from pytikv.testing.sim_network import Link, Network, SimListener, SimTransport

__all__ = ["Link", "SeededRandom", "SimRuntime", "SimulationStuck", "World"]

T = TypeVar("T")

logger: Final = logging.getLogger("pytikv")

_EPOCH_S: Final = 1_700_000_000.0
_STEPS_WITHOUT_TIME: Final = 1_000_000
_TRACE_LINES: Final = 200
_BLOCKING_MAX_S: Final = 0.001


class SimulationStuck(RuntimeError):
    """Nothing is left to happen, or everything happens at one moment for ever."""


class _Ready(deque[Callable[[], None]]):
    """A process's queue: passes on to the world, which draws what runs next."""

    def __init__(self, world: World, runtime: SimRuntime) -> None:
        super().__init__()
        self._world = world
        self._runtime = runtime

    def append(self, callback: Callable[[], None], /) -> None:
        self._world.enqueue(self._runtime, callback)


class SimRuntime(Loop):
    """One process: `Runtime` on the world's clock and network. Made by `World.process` and `World.restart`."""

    exclusive_connections = False
    Cancelled: type[BaseException] = Cancelled

    def __init__(self, world: World, name: str, incarnation: int) -> None:
        super().__init__()
        self.world = world
        self.name = name
        self.dead = False
        self.lost = False
        self.paused = False
        self.clock_skew = 0.0
        self.blocking_max_s = _BLOCKING_MAX_S
        self.rng: random.Random = world.rng.child(f"process {name} {incarnation}")
        self.ready: deque[Callable[[], None]] = _Ready(world, self)
        self._origin = float(world.rng.child(f"origin {name} {incarnation}").randrange(1 << 20))
        self._tasks: dict[LoopTask[Any], None] = {}
        self._crash_hooks: list[Callable[[], None]] = []

    def now(self) -> float:
        """See `Runtime.now`: counted from an origin of this process's own."""
        return self.world.now + self._origin

    def time(self) -> float:
        """See `Runtime.time`: the world's wall clock, plus `clock_skew`."""
        return _EPOCH_S + self.world.now + self.clock_skew

    def task(self, coroutine: Coroutine[Any, Any, T], *, name: str, context: Context | None = None) -> LoopTask[T]:
        """Start driving a coroutine; its ambient deadlines count on this process's clock."""
        if self.dead:
            coroutine.close()
            raise self._crashed()
        context = copy_context() if context is None else context
        context.run(ambient_clock.set, self.now)
        task = super().task(coroutine, name=name, context=context)
        self._tasks[task] = None
        return task

    def _crashed(self) -> ClientClosed:
        """What clean-up code meets that runs while its process falls: nothing can be waited for any more."""
        return ClientClosed(f"the process {self.name} has crashed")

    def task_ended(self, task: LoopTask[Any]) -> None:
        """A task of this process has ended."""
        self._tasks.pop(task, None)

    def create_future(self) -> LoopFuture[Any]:
        """See `Runtime.create_future`."""
        return LoopFuture()

    async def wait(self, awaitable: Future[T] | SharedFutureLike[T], deadline: float | None) -> T:
        """See `Runtime.wait`."""
        if awaitable.done():
            return awaitable.result()
        if self.dead:
            raise self._crashed()
        if isinstance(awaitable, LoopFuture):
            awaitable.deadline = deadline
            return cast("T", await awaitable)
        return await self._wait_shared(cast("SharedFutureLike[T]", awaitable), deadline)

    async def _wait_shared(self, shared: SharedFutureLike[T], deadline: float | None) -> T:
        local: LoopFuture[None] = LoopFuture()

        def wake() -> None:
            if not local.done():
                local.set_result(None)

        def waker() -> None:
            self.ready.append(wake)

        try:
            if shared.add_waker(waker):
                local.deadline = deadline
                await local
        except TimeoutError:
            if not shared.done():
                raise
        finally:
            shared.remove_waker(waker)
        return shared.result()

    async def sleep(self, seconds: float) -> None:
        """See `Runtime.sleep`."""
        if self.dead:
            raise self._crashed()
        over: LoopFuture[None] = LoopFuture()
        timer = self.call_at(self.now() + seconds, lambda: over.set_result(None))
        try:
            await over
        finally:
            timer.cancel()

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """See `Runtime.gather`."""
        if self.dead:  # clean-up code that runs while its process falls: none of them may be left unawaited
            for coroutine in coroutines:
                coroutine.close()
            raise self._crashed()
        return await gather(self, coroutines)

    async def with_deadline(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        """See `Runtime.with_deadline`."""
        return await with_deadline(self, coroutine, deadline)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> LoopTask[Any]:
        """See `Runtime.spawn`."""
        task = self.task(coroutine, name=name)
        task.on_done = _log_failure
        return task

    def call_soon(self, callback: Callable[[], None]) -> None:
        """See `Runtime.call_soon`; like all that is ready, in an order that the seed chooses."""
        self.ready.append(callback)

    def is_alone(self) -> bool:
        """See `Runtime.is_alone`."""
        return False

    def check_loop(self) -> None:
        """See `Runtime.check_loop`: calls here are never another loop's."""

    def call_at(self, when: float, callback: Callable[[], None]) -> LoopTimer:
        """See `Runtime.call_at`."""
        timer = LoopTimer(self, callback)
        self.world.at(when - self._origin, self, timer.fire, "timer")
        return timer

    def timer_cancelled(self) -> None:
        """Nothing: a cancelled timer fires into the void."""

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """See `Runtime.run_blocking`: at once, between two pauses of up to `blocking_max_s` each."""
        await self.sleep(self.rng.uniform(0, self.blocking_max_s))
        result = function(*args)
        await self.sleep(self.rng.uniform(0, self.blocking_max_s))
        return result

    async def connect(
        self, host: str, port: int, protocol: StreamProtocol, *, deadline: float, tls: object = None
    ) -> SimTransport:
        """See `Runtime.connect`; `host` is a process's name. `tls` is not simulated."""
        return await self.world.network.connect(self, host, port, protocol, deadline)

    async def listen(
        self, host: str, port: int, factory: Callable[[], StreamProtocol], *, tls: object = None
    ) -> SimListener:
        """See `Runtime.listen`; `host` is this process's name, or any address that means "here"."""
        return self.world.network.bind(self, host, port, factory)

    def attach(self, transport: object) -> None:
        """Nothing: connections are shared here."""

    def detach(self, transport: object) -> None:
        """Nothing: connections are shared here."""

    def call_scope(self) -> dict[Any, Any] | None:
        """None: nothing ends with a call here."""
        return None

    def at_call_end(self, callback: Callable[[], None]) -> None:
        """Refused: there is no call whose end could be waited for."""
        raise NotImplementedError("only the blocking runtime has calls that end")

    def on_crash(self, hook: Callable[[], None]) -> None:
        """Run `hook` when this process crashes, before anything of it ends: a disk loses there what was not synced."""
        self._crash_hooks.append(hook)

    async def close(self) -> None:
        """Cancel the tasks of this process, but for the present one, and wait for their end."""
        others = [task for task in self._tasks if task is not self.current]
        for task in others:
            task.cancel()
        while any(not task.finished for task in others):
            await self.sleep(0)

    def crash(self) -> None:
        """See `World.crash`."""
        for hook in self._crash_hooks:
            hook()
        self.end()

    def end(self) -> None:
        """End all tasks where they stand; from here on nothing of this process runs."""
        self.dead = True
        for task in list(self._tasks):
            task.close()
        self._tasks.clear()


class World:
    """See the module. `network` holds partitions, links and connections."""

    def __init__(self, seed: int, *, link: Link | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.rng = SeededRandom(f"{seed}")
        self.network = Network(self, link or Link())
        self.trace: deque[str] = deque(maxlen=_TRACE_LINES)
        self._choose = self.rng.child("scheduler")
        self._ready: list[tuple[SimRuntime, Callable[[], None]]] = []
        self._events: list[tuple[float, int, SimRuntime, Callable[[], None], str]] = []
        self._sequence = 0
        self._processes: dict[str, SimRuntime] = {}
        self._incarnations: dict[str, int] = {}
        self._waiting_for_resume: dict[SimRuntime, list[Callable[[], None]]] = {}
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """A hash of all that happened so far: equal for equal runs."""
        return self._hash.hexdigest()

    # --- processes ---

    def process(self, name: str, *, clock_skew: float = 0.0) -> SimRuntime:
        """Return the process called `name`, made at the first mention. `clock_skew`: of its wall clock, in seconds."""
        runtime = self._processes.get(name)
        if runtime is None:
            runtime = self._make(name)
            runtime.clock_skew = clock_skew
        return runtime

    def knows(self, name: str) -> bool:
        """Whether there is, or was, a process of that name."""
        return name in self._processes

    def crash(self, name: str, *, silent: bool = False) -> None:
        """Kill a process. Its peers see resets; `silent`: they hear nothing, as when a machine is lost."""
        runtime = self._processes[name]
        if runtime.dead:
            return
        self._note(runtime, "crash")
        runtime.crash()
        self._waiting_for_resume.pop(runtime, None)
        self.network.process_crashed(runtime, silent)

    def restart(self, name: str) -> SimRuntime:
        """Start the process anew (crashing it first when it lives) and return its new runtime."""
        self.crash(name)
        skew = self._processes[name].clock_skew
        runtime = self._make(name)
        runtime.clock_skew = skew
        return runtime

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does: nothing of it runs, what comes for it waits."""
        self._processes[name].paused = True

    def resume(self, name: str) -> None:
        """Let a paused process go on."""
        runtime = self._processes[name]
        runtime.paused = False
        for callback in self._waiting_for_resume.pop(runtime, []):
            self.enqueue(runtime, callback)

    def _make(self, name: str) -> SimRuntime:
        incarnation = self._incarnations[name] = self._incarnations.get(name, -1) + 1
        runtime = self._processes[name] = SimRuntime(self, name, incarnation)
        return runtime

    # --- what happens ---

    def enqueue(self, runtime: SimRuntime, callback: Callable[[], None]) -> None:
        """Let `callback` run at this moment, in an order that the seed chooses."""
        if not runtime.dead:
            self._ready.append((runtime, callback))

    def at(self, when: float, runtime: SimRuntime, callback: Callable[[], None], label: str) -> None:
        """Let `callback` run at `when` (of the world's clock)."""
        self._sequence += 1
        heapq.heappush(self._events, (max(when, self.now), self._sequence, runtime, callback, label))

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes (no crash: no hooks), so that nothing is left to the garbage collector. Idempotent."""
        for runtime in self._processes.values():
            runtime.end()
        self._events.clear()
        self._ready.clear()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 600.0, *, process: str = "main") -> T:
        """Run the world until `coroutine` (of `process`) has ended; returns its value or raises its error.

        What a coroutine does it does as its own process: another one's code runs by that one's `spawn`.

        Raises TimeoutError after `timeout_s` virtual seconds and SimulationStuck; with a note how to replay the run.
        """
        task = self.process(process).task(coroutine, name="main")
        try:
            self._until(task, self.now + timeout_s)
            return task.result()
        except BaseException as error:
            error.add_note(f"simulation seed {self.seed}, virtual second {self.now:.6f}; World({self.seed}) replays it")
            raise
        finally:
            task.close()

    def _until(self, task: LoopTask[Any], until: float) -> None:
        steps = 0
        while not task.finished:
            while self._ready and not task.finished:
                self._step()
                steps += 1
                if steps > _STEPS_WITHOUT_TIME:
                    raise SimulationStuck("a million steps without the time going on; the last: " + self.trace[-1])
            if task.finished:
                return
            if not self._events:
                raise SimulationStuck("nothing is left to happen, but the run has not ended")
            if self._events[0][0] > until:
                raise TimeoutError(f"the simulation did not end in time; last: {self.trace[-1] if self.trace else ''}")
            steps = 0 if self._events[0][0] > self.now else steps
            self.now = self._events[0][0]
            self._take_due()

    def _take_due(self) -> None:
        events = self._events
        while events and events[0][0] <= self.now:
            _, _, runtime, callback, label = heapq.heappop(events)
            if not runtime.dead:
                self._note(runtime, label)
                self._ready.append((runtime, callback))

    def _step(self) -> None:
        ready = self._ready
        last = len(ready) - 1
        chosen = self._choose.randrange(last + 1) if last else 0
        ready[chosen], ready[last] = ready[last], ready[chosen]
        runtime, callback = ready.pop()
        if runtime.dead:
            return
        if runtime.paused:
            self._waiting_for_resume.setdefault(runtime, []).append(callback)
            return
        self._note(runtime, _label(callback))
        try:
            callback()
        except Exception:
            logger.exception("a callback of process %s raised (seed %s)", runtime.name, self.seed)

    def _note(self, runtime: SimRuntime, label: str) -> None:
        line = f"{self.now:.9f} {runtime.name} {label}"
        self.trace.append(line)
        self._hash.update(line.encode())


def _label(callback: Callable[[], None]) -> str:
    """Name what runs, the same in every process: a task's name, or the function's."""
    if isinstance(callback, partial):
        callback = callback.args[0]
    task = getattr(callback, "__self__", None)
    if isinstance(task, LoopTask):
        return f"task {task.name}"
    return getattr(callback, "__qualname__", "?")


def _log_failure(task: LoopTask[Any]) -> None:
    if task.error is not None and not isinstance(task.error, (Cancelled, GeneratorExit)):
        logger.error("background task %s failed", task.name, exc_info=task.error)
