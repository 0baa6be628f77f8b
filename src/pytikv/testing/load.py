"""Open-loop load in a simulated world: calls begin when their time has come, however the earlier ones fare.

Arrivals are a Poisson stream drawn from the seed. Each call is one `get` with the client's own `timeout` as its
deadline; what came of it is an `Answer`. *Goodput* is the calls answered in time, a second: what users notice. A call
that failed at once is no goodput either, but it has cost the store nothing, which is the point of shedding.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytikv.errors import TikvError

if TYPE_CHECKING:
    from pytikv import AsyncRawClient
    from pytikv.testing.sim import SimRuntime

__all__ = ["Answer", "OpenLoop", "connect", "errors_of", "goodput", "percentile"]

_OK: Final = ""


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


class OpenLoop:
    """One client's calls: `per_second` of them on the average, for keys drawn by `choose`."""

    def __init__(
        self,
        rt: SimRuntime,
        client: AsyncRawClient,
        rng: random.Random,
        choose: Callable[[random.Random], bytes],
        answers: list[Answer],
    ) -> None:
        self._rt = rt
        self._client = client
        self._rng = rng
        self._choose = choose
        self._answers = answers
        self._running = 0

    async def run(self, per_second: float, seconds: float) -> None:
        """Begin calls for `seconds`, and return when the last one has ended."""
        end = self._rt.now() + seconds
        while True:
            await self._rt.sleep(self._rng.expovariate(per_second))
            if self._rt.now() >= end:
                break
            self._running += 1
            self._rt.spawn(self._call(self._choose(self._rng)), name="load")
        while self._running:
            await self._rt.sleep(0.01)

    async def _call(self, key: bytes) -> None:
        rt = self._rt
        began, error = rt.now(), _OK
        try:
            await self._client.get(key)
        except TikvError as failure:
            error = type(failure).__name__
        finally:
            self._running -= 1
        seconds = rt.now() - began
        self._answers.append(Answer(key, rt.world.now - seconds, seconds, error))


async def connect(rt: SimRuntime, url: str, **options: Any) -> AsyncRawClient:
    """Return a client of the process `rt`."""
    from pytikv.client.raw import AsyncRawClient

    return await AsyncRawClient._open(rt, url, options)


def goodput(answers: Iterable[Answer], begin: float, end: float) -> float:
    """Return the calls begun between two times of the world and answered in time, a second."""
    return sum(begin <= answer.began < end and answer.is_good for answer in answers) / (end - begin)


def percentile(answers: Iterable[Answer], share: float) -> float:
    """Return the seconds that `share` of the calls took at most, failed ones included; 0 for none."""
    times = sorted(answer.seconds for answer in answers)
    return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


def errors_of(answers: Iterable[Answer]) -> dict[str, int]:
    """Return how many calls ended with which error."""
    found: dict[str, int] = {}
    for answer in answers:
        if not answer.is_good:
            found[answer.error] = found.get(answer.error, 0) + 1
    return dict(sorted(found.items()))


def between(answers: Sequence[Answer], begin: float, end: float) -> Iterator[Answer]:
    """Yield the calls begun between two times of the world."""
    return (answer for answer in answers if begin <= answer.began < end)
