"""How a change that others may race is made: optimistic, pessimistic, or as the contention is.

    optimistic(db, fn, *args)      read, write, commit; whoever was slower begins again
    pessimistic(db, fn, *args)     lock what is read for writing first; whoever comes later waits
    Adaptive(db).run(fn, *args, keys=[...])    the better of the two for these keys at present

`fn(txn, *args)` runs in a transaction, perhaps several times, and its answer is returned; it is a coroutine function
with an asynchronous client. It must read what it is going to change by `get_for_update` (of the table or the
transaction), or change it by `Table.update`: in a pessimistic transaction a plain `get` reads what was there at its
begin, and a write upon that undoes what others have written since.

So written, both strategies guarantee the same, snapshot isolation with no lost update. They differ in price: an
optimistic transaction costs nothing extra until it meets another and then all of its work again; a pessimistic one
costs a request for its locks always, and a wait where it meets another. `Adaptive` measures both, for each range of
keys, as the seconds that a success takes, repetitions included, and goes by the lower mean; the other one is tried now
and then.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import WrongType
from pytikv.rt.locks import mutex

__all__ = ["Adaptive", "Estimate", "optimistic", "pessimistic"]

_MEMORY: Final = 0.8
_TRY_EVERY: Final = 32
_LEARN: Final = 3
_RANGES_KEPT: Final = 4096
_MARGIN: Final = 1.02


def optimistic(db: Any, fn: Callable[..., Any], *args: Any, attempts: int = 10) -> Any:
    """Run `fn(txn, *args)` in an optimistic transaction, repeated after conflicts; returns its answer."""
    return db.run(fn, *args, attempts=attempts, pessimistic=False)


def pessimistic(db: Any, fn: Callable[..., Any], *args: Any, attempts: int = 10) -> Any:
    """Run `fn(txn, *args)` in a pessimistic transaction, repeated after deadlocks; returns its answer."""
    return db.run(fn, *args, attempts=attempts, pessimistic=True)


class Estimate:
    """What the two strategies cost in one range of keys. Pure.

    The means follow the present: each new time weighs a fifth. Every `_TRY_EVERY`-th choice goes to the other strategy,
    less often (up to eight times) the more it costs.
    """

    __slots__ = ("_chosen", "_means", "_seen")

    def __init__(self) -> None:
        self._means = [0.0, 0.0]
        self._seen = [0, 0]
        self._chosen = 0

    def choose(self) -> bool:
        """Return whether the next transaction is pessimistic."""
        self._chosen += 1
        for strategy in (0, 1):
            if self._seen[strategy] < _LEARN:
                # Learn of the optimistic way first: where nothing conflicts it is the better one, and the common case.
                return bool(strategy)
        better = self._means[1] * _MARGIN < self._means[0]
        other = self._means[not better]
        rarity = min(8, max(1, round(other / max(self._means[better], 1e-9))))
        if self._chosen % (_TRY_EVERY * rarity) == 0:
            return not better
        return better

    def learn(self, is_pessimistic: bool, seconds: float) -> None:
        """Take in what a success, with its tries, took."""
        seen = self._seen[is_pessimistic]
        mean = self._means[is_pessimistic]
        self._means[is_pessimistic] = seconds if not seen else _MEMORY * mean + (1 - _MEMORY) * seconds
        self._seen[is_pessimistic] = seen + 1


class Adaptive:
    """Runs transactions by the strategy that costs less for their keys at present. Safe for all threads and tasks.

    attempts: tries of each transaction. near: how many bytes at the end of a key to leave out when keys are put
    together in ranges; 0: each key is measured by itself (by a hash, in 4096 ranges).
    """

    def __init__(self, db: Any, *, attempts: int = 20, near: int = 0) -> None:
        if not isinstance(db, (TransactionClient, AsyncTransactionClient)):
            raise WrongType(f"Adaptive works with a transaction client, not {type(db).__name__}")
        self._db = db
        self._attempts = attempts
        self._near = near
        self._estimates: dict[int, Estimate] = {}  # at most _RANGES_KEPT and one
        self._lock = mutex()

    def run(self, fn: Callable[..., Any], *args: Any, keys: Sequence[bytes] = ()) -> Any:
        """Run `fn(txn, *args)`; `keys`: what it will write, as far as that is known. Returns its answer."""
        if isinstance(self._db, AsyncTransactionClient):
            return self._run_async(self._db, fn, args, keys)
        estimate, way = self._choose(keys)
        rt = self._db._rt
        began = rt.now()
        answer = self._db.run(fn, *args, attempts=self._attempts, pessimistic=way)
        self._learn(estimate, way, rt.now() - began)
        return answer

    async def _run_async(
        self, db: AsyncTransactionClient, fn: Callable[..., Any], args: tuple[Any, ...], keys: Sequence[bytes]
    ) -> Any:
        estimate, way = self._choose(keys)
        rt = db._backend.rt
        began = rt.now()
        answer = await db.run(fn, *args, attempts=self._attempts, pessimistic=way)
        self._learn(estimate, way, rt.now() - began)
        return answer

    def _choose(self, keys: Sequence[bytes]) -> tuple[Estimate, bool]:
        number = self._range_of(keys)
        with self._lock:
            estimate = self._estimates.setdefault(number, Estimate())
            return estimate, estimate.choose()

    def _learn(self, estimate: Estimate, is_pessimistic: bool, seconds: float) -> None:
        with self._lock:
            estimate.learn(is_pessimistic, seconds)

    def is_pessimistic(self, keys: Sequence[bytes] = ()) -> bool | None:
        """Tell which way keys go at present; None where nothing is known of them."""
        estimate = self._estimates.get(self._range_of(keys))
        return None if estimate is None else estimate._means[1] * _MARGIN < estimate._means[0]

    def _range_of(self, keys: Sequence[bytes]) -> int:
        if not keys:
            return -1
        key = min(keys)
        return zlib.crc32(key[: len(key) - self._near] if self._near else key) % _RANGES_KEPT
