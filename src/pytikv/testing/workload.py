"""What simulated clients do: random operations on few keys, recorded in a history.

Few keys and small gaps make conflicts likely; every written value is new, so that a read names its writer. The
operations are those of a history (get, put, delete, compare-and-swap, put_if_absent); batches are recorded key by key.
A client goes on after an error: what the error says about the write is in the history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from typing import TYPE_CHECKING

from pytikv.errors import BatchError, Outcome, TikvError
from pytikv.rt.interface import Runtime
from pytikv.testing.history import History, Kind, Operation

if TYPE_CHECKING:
    from pytikv import AsyncRawClient

__all__ = ["RawProcess", "RawWorkload"]


@dataclasses.dataclass(frozen=True, slots=True)
class RawWorkload:
    """How much of what. `weights` are for get, put, delete, compare-and-swap, put_if_absent, batch_put, batch_get."""

    keys: int = 3
    operations: int = 60
    pause_seconds: float = 0.05
    weights: tuple[int, ...] = (30, 20, 8, 25, 7, 5, 5)
    final_reads: bool = True

    def names(self) -> list[bytes]:
        """Return the keys, of different lengths so that they may lie in different regions."""
        return [b"key-%d" % number for number in range(self.keys)]


class RawProcess:
    """One client of a simulation: does one operation after the other."""

    def __init__(
        self,
        number: int,
        client: AsyncRawClient,
        rt: Runtime,
        history: History,
        workload: RawWorkload,
        rng: random.Random,
    ) -> None:
        self._number = number
        self._client = client
        self._rt = rt
        self._history = history
        self._workload = workload
        self._rng = rng
        self._names = workload.names()
        self._last_seen: dict[bytes, bytes | None] = {}
        self._written = 0

    async def run(self) -> None:
        """Do all operations; errors that say what happened are part of the story, others end the simulation."""
        steps = (self._get, self._put, self._delete, self._cas, self._put_if_absent, self._batch_put, self._batch_get)
        for _ in range(self._workload.operations):
            step = self._rng.choices(steps, self._workload.weights)[0]
            with contextlib.suppress(TikvError):  # it is recorded; the next operation may fare better
                await step()
            await self._rt.sleep(self._rng.expovariate(1 / self._workload.pause_seconds))

    async def read_all(self) -> None:
        """Read every key once: with all faults over, this must succeed."""
        for key in self._names:
            operation = self._history.invoke(self._number, Kind.GET, key)
            await self._history.call(operation, self._client.get(key))

    def _key(self) -> bytes:
        return self._rng.choice(self._names)

    def _value(self) -> bytes:
        self._written += 1
        return b"%d.%d" % (self._number, self._written)

    def _invoke(self, kind: Kind, key: bytes, value: bytes | None = None, expected: bytes | None = None) -> Operation:
        return self._history.invoke(self._number, kind, key, value=value, expected=expected)

    # --- operations ---------------------------------------------------------------------------------------------------

    async def _get(self) -> None:
        key = self._key()
        self._last_seen[key] = await self._history.call(self._invoke(Kind.GET, key), self._client.get(key))

    async def _put(self) -> None:
        key, value = self._key(), self._value()
        await self._history.call(self._invoke(Kind.PUT, key, value), self._client.put(key, value))

    async def _delete(self) -> None:
        key = self._key()
        await self._history.call(self._invoke(Kind.DELETE, key), self._client.delete(key))

    async def _cas(self) -> None:
        key, value = self._key(), self._value()
        expected = self._last_seen.get(key)
        operation = self._invoke(Kind.CAS, key, value, expected)
        answer = await self._history.call(operation, self._client.compare_and_swap(key, expected, value))
        self._last_seen[key] = value if answer.swapped else answer.previous

    async def _put_if_absent(self) -> None:
        key, value = self._key(), self._value()
        await self._history.call(self._invoke(Kind.PUT_IF_ABSENT, key, value), self._client.put_if_absent(key, value))

    async def _batch_put(self) -> None:
        pairs = {key: self._value() for key in self._names}
        operations = {key: self._invoke(Kind.PUT, key, value) for key, value in pairs.items()}
        failed: dict[bytes, TikvError] = {}
        try:
            await self._client.batch_put(pairs)
        except BatchError as error:
            failed = error.failed
        except TikvError as error:
            failed = dict.fromkeys(pairs, error)
        for key, operation in operations.items():
            if key not in failed:
                self._history.ok(operation)
            elif failed[key].outcome is Outcome.NOT_APPLIED:
                self._history.failed(operation)
            # else it stays undetermined

    async def _batch_get(self) -> None:
        operations = [self._invoke(Kind.GET, key) for key in self._names]
        try:
            found = await self._client.batch_get(self._names)
        except TikvError:
            for operation in operations:
                self._history.failed(operation)
            raise
        for operation in operations:
            self._history.ok(operation, found.get(operation.key))
