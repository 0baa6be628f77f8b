"""A store of finite capacity: so many workers, each busy for a while with a command, and a queue before them.

A simulated command costs no time, so a simulated store could never be overloaded. A `Station` gives its commands what
they cost: `Capacity.workers` serve at once, each command takes a time drawn around `service_seconds`, and what comes
meanwhile waits first in, first out. What a store in need does is then to be seen: the queue grows, answers come after
their callers have gone, and the work is wasted.

What a station does not do is as important:

* It does not look whether the caller still waits. TiKV carries out a RawGet however old it is (only transactional reads
  and the scheduler check the deadline, src/storage/mod.rs), and BatchCommands has no way to take a command back. Only
  a call by itself (unary) ends with its stream.
* It sheds nothing, unless `queue_limit` says so: then one more command is answered with ServerIsBusy at once, which is
  what TiKV says when its scheduler or read pool has too much before it.

Beside that, a station can be in trouble (`Trouble`): slow, or silent. Both strike before the command is carried out, so
that a write whose caller gave up still takes effect, late: the worst case for who must say what became of it.

Belongs to one process. Bounds: none but `queue_limit`; a queue without bound is what is to be shown.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from typing import TYPE_CHECKING, Final

from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Future

if TYPE_CHECKING:
    from pytikv.testing.sim import SimRuntime

__all__ = ["Capacity", "Station", "Tally", "Trouble"]

_BUSY: Final = kvrpcpb.RawGetResponse(
    region_error=errorpb.Error(message="server is busy", server_is_busy=errorpb.ServerIsBusy(reason="queue is full"))
).SerializeToString()  # the region error has the same place in the answers of all commands


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """What a store can do. A command takes between half and one and a half times `service_seconds`, uniformly."""

    workers: int = 4
    service_seconds: float = 0.02
    queue_limit: int | None = None
    """Commands that may wait; one more is refused with ServerIsBusy. None: as many as come."""

    @property
    def per_second(self) -> float:
        """Commands that it can carry out in a second."""
        return self.workers / self.service_seconds


@dataclasses.dataclass(slots=True)
class Trouble:
    """What is the matter with a process; changed while it runs, and outlives its restarts.

    `delay_seconds`: every answer comes so much later. `is_silent`: connections are taken, nothing is ever answered.
    """

    delay_seconds: float = 0.0
    is_silent: bool = False

    def heal(self) -> None:
        """Be well again."""
        self.delay_seconds = 0.0
        self.is_silent = False


@dataclasses.dataclass(slots=True)
class Tally:
    """What a store has seen: commands that arrived, were carried out, or refused. `arrivals` has one time a command."""

    arrivals: list[float] = dataclasses.field(default_factory=list)
    served: int = 0
    refused: int = 0


class Station:
    """The workers of one process and the queue before them. `capacity` None: commands cost nothing."""

    def __init__(
        self, rt: SimRuntime, rng: random.Random, capacity: Capacity | None, trouble: Trouble, tally: Tally
    ) -> None:
        self._rt = rt
        self._rng = rng
        self._capacity = capacity
        self._free = 0 if capacity is None else capacity.workers
        self._queue: deque[Future[None]] = deque()
        self.trouble = trouble
        self.tally = tally

    @property
    def queued(self) -> int:
        """Commands that wait."""
        return len(self._queue)

    async def pass_through(self) -> bytes | None:
        """Wait until a command has had its time. Returns the answer that refuses it, None where it is to be served."""
        self.tally.arrivals.append(self._rt.world.now)
        await self.suffer()
        capacity = self._capacity
        if capacity is not None:
            if not await self._take_worker(capacity):
                self.tally.refused += 1
                return _BUSY
            try:
                await self._rt.sleep(capacity.service_seconds * self._rng.uniform(0.5, 1.5))
            finally:
                self._leave_worker()
        self.tally.served += 1
        return None

    async def suffer(self) -> None:
        """Wait for as long as the trouble makes one wait: for ever where the process is silent."""
        if self.trouble.is_silent:
            await self._rt.wait(self._rt.create_future(), None)
        if self.trouble.delay_seconds:
            await self._rt.sleep(self.trouble.delay_seconds)

    async def _take_worker(self, capacity: Capacity) -> bool:
        if self._free:
            self._free -= 1
            return True
        if capacity.queue_limit is not None and len(self._queue) >= capacity.queue_limit:
            return False
        turn: Future[None] = self._rt.create_future()
        self._queue.append(turn)
        try:
            await self._rt.wait(turn, None)
        except BaseException:  # a unary call that was cancelled with its connection
            if turn.done():
                self._leave_worker()
            else:
                self._queue.remove(turn)
            raise
        return True

    def _leave_worker(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)  # the worker goes from hand to hand
        else:
            self._free += 1
