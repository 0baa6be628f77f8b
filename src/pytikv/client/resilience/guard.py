"""One guard an address: its breaker, its places, its limit, and the client's budget for retries, asked as one.

    admit -> a ticket           done(ticket, ...) | failed(ticket, ...): exactly once for each ticket
          -> -1: queue()        run(send): all of it around one coroutine
          -> Refused: the breaker is open, or the queue is full or too slow

What counts against an address, for its breaker:

* A request that failed for want of a connection or an answer, or with a status that speaks of the server's state.
* A store that says that it is busy (ServerIsBusy).
* A request that ran out of time, if it had a fair time: three times the shortest answer heard of late, a quarter of a
  second where none was, `slow_s` at most. A deadline shorter than a round trip says nothing of the store.
* A request that was given up (cancelled) after `slow_s` or more counts as slow; earlier it says nothing.

Everything else is an answer, refusals by the server included. The adaptive limit hears of answers as samples, and of
running out of time (in no less than the shortest answer took) and of busy stores as overload. It asks less than the
breaker, because it only slows down, and because an overloaded store is all that a client may ever have met: its
shortest answer is long then. When the breaker opens, the limit begins again at its least, so that the closing does not
bring back all at once what made it open.

`Refused` is an RpcError, so that it takes the ways of a request that was not processed, and carries the error for the
caller: `CircuitOpen`, or `Overloaded` with the limit that was met.

The usual request (breaker closed, a place free) passes without a lock. Safe for many threads and loops. Transitions
of breakers are logged as warnings, their closing as information.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError

from pytikv.client.resilience.breaker import REFUSED, Breaker, BreakerState
from pytikv.client.resilience.bulkhead import Bulkhead, QueueFull, QueueTimeout
from pytikv.client.resilience.limiter import Limiter
from pytikv.client.resilience.retry_budget import RetryBudget
from pytikv.errors import CircuitOpen, ConnectionFailed, Overloaded
from pytikv.policies import BreakerPolicy, BulkheadPolicy, LimitPolicy, RetryBudgetPolicy
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.wire.errors import RpcError, Status

__all__ = ["Guard", "GuardState", "Guards", "Refused"]

T = TypeVar("T")
logger: Final = logging.getLogger("pytikv")

_TROUBLE: Final = frozenset(
    (
        Status.UNKNOWN,
        Status.RESOURCE_EXHAUSTED,
        Status.ABORTED,
        Status.INTERNAL,
        Status.UNAVAILABLE,
        Status.DATA_LOSS,
    )
)
_REGION_ERROR: Final = 0x0A
_FAIR_ROUND_TRIPS: Final = 3.0
_FAIR_MIN_S: Final = 0.001
_FAIR_UNHEARD_S: Final = 0.25
_FLOOR_KEPT_S: Final = 10.0
_LOOK_UP_EVERY_S: Final = 1.0
_LOOK_UPS_KEPT: Final = 65_536
_QUEUE: Final = -1
_DEFAULT_SLOW_S: Final = BreakerPolicy().slow_s


class Refused(RpcError):
    """A request was not let through; nothing was sent. `error`: for the caller."""

    def __init__(self, error: Overloaded) -> None:
        super().__init__(Status.UNAVAILABLE, str(error), not_processed=True)
        self.error = error

    def __reduce__(self) -> tuple[object, ...]:
        return (Refused, (self.error,))


@dataclasses.dataclass(frozen=True, slots=True)
class GuardState:
    """What a guard has to tell of its address, for metrics and diagnosis."""

    address: str
    breaker: BreakerState
    """``closed`` also where there is no breaker."""
    in_flight: int
    """Requests under way; 0 where neither a bulkhead nor a limit counts them."""
    queued: int
    """Requests that wait for a place."""
    limit: int | None
    """Requests that may be under way; None: as many as come."""
    rejected: dict[str, int]
    """Requests refused since the client began, by reason: ``open``, ``queue_full``, ``queue_timeout``."""
    transitions: dict[str, int]
    """How often the breaker became ``closed``, ``half_open``, ``open``."""
    reason: str
    """Why the breaker opened last; empty where it never did."""


class Guard:
    """The guard of one address; see the module's docstring. Everything in it is optional."""

    __slots__ = (
        "_breaker",
        "_budget",
        "_bulkhead",
        "_floor_s",
        "_floor_until",
        "_limiter",
        "_lock",
        "_max_limit",
        "_next_floor_s",
        "_rejected",
        "_rt",
        "_slow_s",
        "address",
    )

    def __init__(
        self,
        rt: Runtime,
        address: str,
        *,
        breaker: BreakerPolicy | None = None,
        bulkhead: BulkheadPolicy | None = None,
        limit: LimitPolicy | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self.address = address
        self._rt = rt
        self._lock = mutex()
        self._breaker = Breaker(breaker, rt.rng) if breaker is not None else None
        self._slow_s = breaker.slow_s if breaker is not None else _DEFAULT_SLOW_S
        self._limiter = Limiter(limit) if limit is not None else None
        self._budget = budget
        self._bulkhead: Bulkhead | None = None
        self._max_limit = bulkhead.max_in_flight if bulkhead is not None else 65_536
        if bulkhead is not None or limit is not None:
            queue = bulkhead or BulkheadPolicy()
            places = min(self._max_limit, self._limiter.limit if self._limiter is not None else self._max_limit)
            self._bulkhead = Bulkhead(rt, places, max_queue=queue.max_queue, max_queue_s=queue.max_queue_s)
        self._rejected = {"open": 0, "queue_full": 0, "queue_timeout": 0}
        self._floor_s = self._next_floor_s = float("inf")
        self._floor_until = float("-inf")

    # --- asking -------------------------------------------------------------------------------------------------------

    def admit(self, now: float) -> int:
        """Return a ticket for a request that may be sent, -1 for one that must `queue`. Raises Refused."""
        breaker, bulkhead = self._breaker, self._bulkhead
        if breaker is not None and breaker.state != "closed":
            return self._admit_probe(breaker, now)
        if bulkhead is not None:
            try:
                bulkhead.take()
            except IndexError:
                return _QUEUE
        return breaker.epoch if breaker is not None else 0

    def _admit_probe(self, breaker: Breaker, now: float) -> int:
        """Admit a request while the breaker is not closed; a probe does not wait for a place."""
        with self._lock:
            before = breaker.state
            ticket = breaker.admit(now)
            self._log(breaker, before)
            if ticket == REFUSED:
                raise self._refuse_open(breaker, now)
            if self._bulkhead is not None and not self._bulkhead.try_enter():
                breaker.on_unknown(ticket)
                raise self._refuse("queue_full", f"all {self._bulkhead.limit} places are taken")
        return ticket

    async def queue(self, deadline: float, *, is_patient: bool = False) -> int:
        """Wait for a place, where `admit` said so; returns the ticket. Raises Refused.

        `is_patient`: for what ends other work, as a commit; it waits up to its deadline, however many do.
        """
        bulkhead = self._bulkhead
        if bulkhead is None:
            return self.admit(self._rt.now())
        try:
            await bulkhead.enter(deadline, is_patient=is_patient)
        except QueueFull:
            text = f"all {bulkhead.limit} places are taken and the queue is full"
            raise self._refuse("queue_full", text) from None
        except QueueTimeout:
            text = f"no place of {bulkhead.limit} became free in time"
            raise self._refuse("queue_timeout", text) from None
        breaker = self._breaker
        if breaker is None or breaker.state == "closed":
            return breaker.epoch if breaker is not None else 0
        bulkhead.leave()
        return self._admit_probe(breaker, self._rt.now())

    def _refuse(self, reason: str, text: str) -> Refused:
        self._rejected[reason] += 1
        return Refused(Overloaded(f"{self.address}: {text}"))

    def _refuse_open(self, breaker: Breaker, now: float) -> Refused:
        self._rejected["open"] += 1
        in_s = breaker.retry_in_s(now)
        when = f"tried again in {in_s:.2g} s" if in_s else "probes are under way"
        text = f"{self.address}: the circuit breaker is {breaker.state.replace('_', '-')} ({breaker.reason}); {when}"
        return Refused(CircuitOpen(text, address=self.address, retry_in_s=in_s))

    def is_refusing(self, now: float) -> bool:
        """Tell whether the breaker would refuse a request: another replica is to be preferred."""
        return self._breaker is not None and self._breaker.state != "closed" and self._breaker.is_refusing(now)

    @property
    def is_probing(self) -> bool:
        """Whether the breaker has opened and not closed yet: it finds out by requests whether the address is well."""
        return self._breaker is not None and self._breaker.state != "closed"

    # --- what came of it ----------------------------------------------------------------------------------------------

    def done(self, ticket: int, now: float, took_s: float, answer: bytes = b"") -> None:
        """Take note of an answer that came in `took_s`; `answer` where it may hold a store's region error."""
        bulkhead, breaker = self._bulkhead, self._breaker
        if bulkhead is not None:
            bulkhead.leave()
        if answer and answer[0] == _REGION_ERROR and _is_busy(answer):
            self._on_trouble(ticket, now)
            return
        budget = self._budget
        if budget is not None:
            budget.saved += budget.ratio
        if took_s < self._next_floor_s or now >= self._floor_until:
            self._note_floor(now, took_s)
        if breaker is not None:
            is_usual = took_s < self._slow_s and ticket == breaker.epoch and breaker.state == "closed"
            if is_usual and breaker.since <= now < breaker.until:
                breaker.bucket[0] += 1
            else:
                self._tell(breaker, now, lambda: breaker.on_success(ticket, now, took_s))
        limiter = self._limiter
        if limiter is not None and bulkhead is not None:
            in_flight = bulkhead.limit - len(bulkhead.free) + 1
            if limiter.on_sample(now, took_s, in_flight):
                self._resize(bulkhead, limiter)

    def failed(self, ticket: int, now: float, took_s: float, given_s: float, error: BaseException) -> None:
        """Take note that no answer came: `error` after `took_s` of the `given_s` there were."""
        if self._bulkhead is not None:
            self._bulkhead.leave()
        breaker = self._breaker
        if isinstance(error, Exception):
            speaks = self._speaks(error, took_s, given_s)
            if speaks is not None:
                self._on_trouble(ticket, now, is_overload=speaks)
                return
            if self._limiter is not None and _is_timeout(error) and given_s >= self._floor_s:
                self._note_overload(self._limiter, now)
            if isinstance(error, RpcError) and error.status not in (Status.DEADLINE_EXCEEDED, Status.CANCELLED):
                self.done_refused(ticket, now, took_s)
                return
        elif breaker is not None and took_s >= self._slow_s:
            self._tell(breaker, now, lambda: breaker.on_success(ticket, now, took_s))
            return
        if breaker is not None:
            with self._lock:
                breaker.on_unknown(ticket)

    def done_refused(self, ticket: int, now: float, took_s: float) -> None:
        """Take note that the server answered with a status of its own, such as UNIMPLEMENTED: it is well."""
        breaker = self._breaker
        if breaker is not None:
            self._tell(breaker, now, lambda: breaker.on_success(ticket, now, took_s))

    def _speaks(self, error: Exception, took_s: float, given_s: float) -> bool | None:
        """Tell whether a failure speaks against the address: None: no; True: of too much work there."""
        if isinstance(error, RpcError):
            if error.status == Status.DEADLINE_EXCEEDED:
                return True if self._is_fair(given_s) else None
            return error.status == Status.RESOURCE_EXHAUSTED if error.status in _TROUBLE else None
        if not isinstance(error, ConnectionFailed):
            return None  # the pool is full or closed, or the program's own interceptor
        is_cut_short = took_s >= given_s * 0.9 and not self._is_fair(given_s)
        return None if is_cut_short else False

    def _is_fair(self, given_s: float) -> bool:
        floor_s = self._floor_s
        fair_s = _FAIR_UNHEARD_S if floor_s == float("inf") else max(_FAIR_MIN_S, _FAIR_ROUND_TRIPS * floor_s)
        return given_s >= min(fair_s, self._slow_s)

    def _note_floor(self, now: float, took_s: float) -> None:
        """Keep the shortest time of this period of ten seconds and the one before."""
        if now >= self._floor_until or now < self._floor_until - _FLOOR_KEPT_S:
            self._floor_s, self._next_floor_s = min(self._next_floor_s, took_s), took_s
            self._floor_until = now + _FLOOR_KEPT_S
        else:
            self._next_floor_s = took_s
            self._floor_s = min(self._floor_s, took_s)

    def _on_trouble(self, ticket: int, now: float, *, is_overload: bool = True) -> None:
        breaker, limiter = self._breaker, self._limiter
        if breaker is not None:
            self._tell(breaker, now, lambda: breaker.on_failure(ticket, now))
        if limiter is not None and is_overload:
            self._note_overload(limiter, now)

    def _note_overload(self, limiter: Limiter, now: float) -> None:
        if limiter.on_overload(now) and self._bulkhead is not None:
            self._resize(self._bulkhead, limiter)

    def _tell(self, breaker: Breaker, now: float, tell: Callable[[], None]) -> None:
        """Tell the breaker something that may turn it."""
        with self._lock:
            before = breaker.state
            tell()
            self._log(breaker, before)
        if breaker.state == "open" and before != "open" and self._bulkhead is not None:
            if self._limiter is not None:
                self._limiter.restart()
                self._resize(self._bulkhead, self._limiter)
            self._rejected["open"] += self._bulkhead.queued
            self._bulkhead.refuse_waiters(self._refuse_open(breaker, now))

    def _log(self, breaker: Breaker, before: BreakerState) -> None:
        if breaker.state == before:
            return
        if breaker.state == "open":
            logger.warning("the circuit breaker of %s opened: %s", self.address, breaker.reason)
        elif breaker.state == "closed":
            logger.info("the circuit breaker of %s closed", self.address)

    def _resize(self, bulkhead: Bulkhead, limiter: Limiter) -> None:
        with self._lock:
            limit = min(self._max_limit, limiter.limit)
            if limit != bulkhead.limit:
                bulkhead.resize(limit)

    async def run(self, send: Callable[[], Coroutine[Any, Any, T]], deadline: float) -> T:
        """Send a request past the guard: what lanes do, for those that send by another way. Raises also Refused."""
        began = self._rt.now()
        ticket = self.admit(began)
        if ticket == _QUEUE:
            ticket = await self.queue(deadline)
            began = self._rt.now()
        try:
            answer = await send()
        except BaseException as error:
            now = self._rt.now()
            self.failed(ticket, now, now - began, deadline - began, error)
            raise
        now = self._rt.now()
        self.done(ticket, now, now - began)
        return answer

    def snapshot(self) -> GuardState:
        """Return the state at this moment."""
        breaker, bulkhead = self._breaker, self._bulkhead
        return GuardState(
            address=self.address,
            breaker=breaker.state if breaker is not None else "closed",
            in_flight=bulkhead.in_flight if bulkhead is not None else 0,
            queued=bulkhead.queued if bulkhead is not None else 0,
            limit=bulkhead.limit if bulkhead is not None else None,
            rejected=dict(self._rejected),
            transitions=dict(breaker.transitions) if breaker is not None else {},
            reason=breaker.reason if breaker is not None else "",
        )


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, RpcError) and error.status == Status.DEADLINE_EXCEEDED


def _is_busy(answer: bytes) -> bool:
    """Tell whether a store's answer is ServerIsBusy. The region error has one place in all answers."""
    try:
        error = kvrpcpb.RawGetResponse.FromString(answer).region_error
    except DecodeError:
        return False
    return error.HasField("server_is_busy")


class Guards:
    """The guards of a client's addresses, made as they are met; bounded by the number of stores and PD members."""

    def __init__(
        self,
        rt: Runtime,
        *,
        breaker: BreakerPolicy | None = None,
        bulkhead: BulkheadPolicy | None = None,
        limit: LimitPolicy | None = None,
        retry_budget: RetryBudgetPolicy | None = None,
    ) -> None:
        self.budget = RetryBudget(retry_budget, rt.now()) if retry_budget is not None else None
        """The budget for retries of all calls together; None without one."""
        self._rt = rt
        self._breaker = breaker
        self._bulkhead = bulkhead
        self._limit = limit
        self._guards: dict[str, Guard] = {}
        self._looked_up: dict[int, float] = {}

    def of(self, address: str) -> Guard:
        """Return the guard of an address, making it at need."""
        guard = self._guards.get(address)
        if guard is None:
            guard = Guard(
                self._rt,
                address,
                breaker=self._breaker,
                bulkhead=self._bulkhead,
                limit=self._limit,
                budget=self.budget,
            )
            guard = self._guards.setdefault(address, guard)
        return guard

    def is_refusing(self, address: str, now: float) -> bool:
        """Tell whether the breaker of an address would refuse a request at `now`."""
        guard = self._guards.get(address)
        return guard is not None and guard.is_refusing(now)

    def is_probing(self, address: str) -> bool:
        """Tell whether the breaker of an address has opened and not closed yet."""
        guard = self._guards.get(address)
        return guard is not None and guard.is_probing

    def may_look_up(self, region_id: int, now: float) -> bool:
        """Tell whether PD may be asked for a region's leader again because of an open breaker: once a second."""
        if 0 <= now - self._looked_up.get(region_id, float("-inf")) < _LOOK_UP_EVERY_S:
            return False
        if len(self._looked_up) >= _LOOK_UPS_KEPT:
            self._looked_up.clear()
        self._looked_up[region_id] = now
        return True

    def snapshot(self) -> list[GuardState]:
        """Return the state of each address met so far, in the order of their meeting."""
        return [guard.snapshot() for guard in list(self._guards.values())]
