"""How a change that others may race is made: optimistic, pessimistic, or as the contention is.

    optimistic(db, fn, *args)      read, write, commit; whoever was slower begins again
    pessimistic(db, fn, *args)     lock what is read for writing first; whoever comes later waits
    Adaptive(db).run(fn, *args, keys=[...])    the better of the two for these keys at present

`fn(txn, *args)` runs in a transaction, perhaps several times, and its answer is returned; it is a coroutine function
with an asynchronous client. It must read what it is going to change by `get_for_update` (of the table or the
transaction), or change it by `Table.update`: in a pessimistic transaction a plain `get` reads what was there at its
begin, and a write upon that undoes what others have written since.

So written, both strategies guarantee the same, snapshot isolation with no lost update. They differ in price: an
optimistic transaction costs nothing extra until it meets another and then all of its work again, after a wait; a
pessimistic one costs a request for its locks always, and a wait where it meets another.

`Adaptive` goes the way that costs less at present where the keys are (`estimate` tells how that is found out); the last
half of the tries of an optimistic transaction are pessimistic, so that none fails where the other way does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar, overload

from pytikv.client.arguments import check_count
from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import TikvError, WriteConflict, WrongType
from pytikv.model.patterns.estimate import CLASSES, Estimate, Range
from pytikv.rt.locks import mutex

__all__ = ["Adaptive", "optimistic", "pessimistic"]

T = TypeVar("T")

_RANGES_KEPT: Final = 4096


@overload
def optimistic(db: TransactionClient, fn: Callable[..., T], *args: Any, attempts: int = 10) -> T: ...
@overload
def optimistic(
    db: AsyncTransactionClient, fn: Callable[..., Awaitable[T]], *args: Any, attempts: int = 10
) -> Coroutine[Any, Any, T]: ...
def optimistic(db: Any, fn: Callable[..., Any], *args: Any, attempts: int = 10) -> Any:
    """Run `fn(txn, *args)` in an optimistic transaction, repeated after conflicts; returns its answer."""
    return db.run(fn, *args, attempts=attempts, pessimistic=False)


@overload
def pessimistic(db: TransactionClient, fn: Callable[..., T], *args: Any, attempts: int = 10) -> T: ...
@overload
def pessimistic(
    db: AsyncTransactionClient, fn: Callable[..., Awaitable[T]], *args: Any, attempts: int = 10
) -> Coroutine[Any, Any, T]: ...
def pessimistic(db: Any, fn: Callable[..., Any], *args: Any, attempts: int = 10) -> Any:
    """Run `fn(txn, *args)` in a pessimistic transaction, repeated after deadlocks; returns its answer."""
    return db.run(fn, *args, attempts=attempts, pessimistic=True)


class Adaptive:
    """Runs transactions by the strategy that costs less for their keys at present. Safe for all threads and tasks.

    attempts: tries of each transaction, 1 to 1000. near: how many bytes at the end of a key to leave out when keys are
    put together in ranges; 0: each key is measured by itself (by a hash, in 4096 ranges). Transactions without keys are
    one range.
    """

    def __init__(self, db: TransactionClient | AsyncTransactionClient, *, attempts: int = 20, near: int = 0) -> None:
        if not isinstance(db, (TransactionClient, AsyncTransactionClient)):
            raise WrongType(f"Adaptive works with a transaction client, not {type(db).__name__}")
        self._db: Any = db
        self._attempts = check_count("attempts", attempts, low=1, high=1000)
        self._near = check_count("near", near, low=0)
        self._ranges: dict[int, Range] = {}  # at most _RANGES_KEPT and one
        self._estimates = [Estimate() for _ in range(len(CLASSES) + 1)]
        self._lock = mutex()

    def run(self, fn: Callable[..., T], *args: Any, keys: Sequence[bytes] = ()) -> T:
        """Run `fn(txn, *args)`; `keys`: what it will write, as far as that is known.

        Returns its answer; with an asynchronous client, where `fn` is a coroutine function, a coroutine of it.
        """
        if isinstance(self._db, AsyncTransactionClient):
            running: Any = self._run_async(self._db, fn, args, keys)
            return running  # type: ignore[no-any-return]
        course = _Course(self, keys, self._db._rt, self._attempts)
        try:
            for attempts, is_pessimistic in course.stretches():
                try:
                    return self._db.run(course.counted(fn), *args, attempts=attempts, pessimistic=is_pessimistic)  # type: ignore[no-any-return]
                except TikvError as error:
                    course.check(error)
        finally:
            course.end()
        raise course.last()

    async def _run_async(
        self, db: AsyncTransactionClient, fn: Callable[..., Any], args: tuple[Any, ...], keys: Sequence[bytes]
    ) -> Any:
        course = _Course(self, keys, db._backend.rt, self._attempts)
        try:
            for attempts, is_pessimistic in course.stretches():
                try:
                    return await db.run(course.counted(fn), *args, attempts=attempts, pessimistic=is_pessimistic)
                except TikvError as error:
                    course.check(error)
        finally:
            course.end()
        raise course.last()

    def is_pessimistic(self, keys: Sequence[bytes] = ()) -> bool | None:
        """Tell which way keys go at present, trials apart; None where nothing is known of them."""
        place = self._ranges.get(self._range_of(keys))
        return None if place is None else self._class_of(place).is_pessimistic

    def _class_of(self, place: Range) -> Estimate:
        return self._estimates[place.class_number]

    def _begin(self, keys: Sequence[bytes], now: float) -> tuple[Range, Estimate | None, bool]:
        number = self._range_of(keys)
        with self._lock:
            place = self._ranges.setdefault(number, Range())
            place.running += 1
            estimate = self._class_of(place) if place.class_number else None
            return place, estimate, estimate is not None and estimate.begin(now)

    def _end(self, place: Range, estimate: Estimate | None, is_pessimistic: bool, now: float, repeated: int) -> None:
        with self._lock:
            place.end(is_pessimistic, repeated)
            if estimate is not None:
                estimate.end(now)

    def _range_of(self, keys: Sequence[bytes]) -> int:
        if not keys:
            return -1
        key = min(keys)
        if not isinstance(key, bytes):
            raise WrongType(f"keys are bytes, not {type(key).__name__}")
        return zlib.crc32(key[: max(0, len(key) - self._near)] if self._near else key) % _RANGES_KEPT


class _Course:
    """One transaction on its way: optimistic tries, perhaps, then pessimistic ones."""

    def __init__(self, adaptive: Adaptive, keys: Sequence[bytes], rt: Any, attempts: int) -> None:
        self._adaptive = adaptive
        self._rt = rt
        self._attempts = attempts
        self._tries = 0
        self._error: TikvError | None = None
        self._place, self._estimate, self._way = adaptive._begin(keys, rt.now())

    def stretches(self) -> list[tuple[int, bool]]:
        """Return how many tries to make in which way, one after the other."""
        if self._way or self._attempts < 2:
            return [(self._attempts, self._way)]
        half = self._attempts // 2
        return [(half, False), (self._attempts - half, True)]

    def counted(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, counted."""

        def count(*args: Any) -> Any:
            self._tries += 1
            return fn(*args)

        return count

    def check(self, error: TikvError) -> None:
        """Raise an error but for a lost conflict of optimistic tries, behind which pessimistic ones follow."""
        if not isinstance(error, WriteConflict) or self._tries >= self._attempts or self._way:
            raise error
        self._error = error

    def last(self) -> TikvError:
        """Return the last error."""
        assert self._error is not None
        return self._error

    def end(self) -> None:
        """Tell the estimate."""
        self._adaptive._end(self._place, self._estimate, self._way, self._rt.now(), self._tries - 1)
