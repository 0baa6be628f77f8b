"""What a workload does to the data, over the raw and over the transactional API, written once for two runtimes.

An operation is a generator that yields what it asks of the client: `value = yield client.get(key)`. A blocking client
has answered by then, so that `drive` sends back what was yielded; of an asyncio client it is something to await, which
`drive_async` does. Errors are raised where the question stands. An operation returns the codes of the tries that failed
before the one that did not: conflicts of transactions.

`Store` is the seam: another API is another class with these operations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from pytikv.errors import ServerError, TikvError

__all__ = ["NOT_FOUND", "Missing", "RawStore", "Steps", "Store", "TxnStore", "drive", "drive_async", "prefix_end"]

T = TypeVar("T")
Steps = Generator[Any, Any, T]
Codes = tuple[str, ...]
Change = Callable[[bytes | None], bytes]

NOT_FOUND: Final = "NotFound"
_TRIES: Final = 100
_LOAD_KEYS: Final = 256


class Missing(Exception):
    """A record that ought to be there was not: counted among the errors, as `NOT_FOUND`."""


def drive(steps: Steps[T]) -> T:
    """Run an operation on a blocking client."""
    try:
        answer = next(steps)
        while True:
            answer = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def drive_async(steps: Steps[T]) -> T:
    """Run an operation on an asyncio client."""
    try:
        question: Awaitable[Any] = next(steps)
        while True:
            try:
                answer = await question
            except BaseException as error:
                question = steps.throw(error)
            else:
                question = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with `prefix`, which ends in no 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Store(Protocol):
    """Operations on the data. Each returns the codes of its failed tries and raises TikvError or Missing."""

    def read(self, key: bytes) -> Steps[Codes]:
        """Read a record that is there."""
        ...

    def write(self, key: bytes, value: bytes) -> Steps[Codes]:
        """Write a record."""
        ...

    def scan(self, key: bytes, end: bytes, limit: int) -> Steps[Codes]:
        """Read up to `limit` records from `key` on."""
        ...

    def change(self, changes: Mapping[bytes, Change], writes: Mapping[bytes, bytes]) -> Steps[Codes]:
        """Replace each record of `changes` by what its function makes of it and write `writes`; as one where it can."""
        ...

    def load(self, pairs: Iterable[tuple[bytes, bytes]]) -> Steps[int]:
        """Write many records; returns how many."""
        ...

    def read_all(self, start: bytes, end: bytes) -> Steps[list[tuple[bytes, bytes]]]:
        """Return all records of a range."""
        ...

    def clear(self, prefix: bytes) -> Steps[None]:
        """Delete all records whose key begins with `prefix`."""
        ...


class RawStore:
    """Over `RawClient` or `AsyncRawClient`. `change` is atomic for each record by itself, by compare-and-swap."""

    def __init__(self, client: Any, collect: Callable[[Any], Any]) -> None:
        """`collect` makes a list of what a scan gives: at once, or something to await."""
        self._client = client
        self._collect = collect

    def read(self, key: bytes) -> Steps[Codes]:
        """See `Store`."""
        if (yield self._client.get(key)) is None:
            raise Missing
        return ()

    def write(self, key: bytes, value: bytes) -> Steps[Codes]:
        """See `Store`."""
        yield self._client.put(key, value)
        return ()

    def scan(self, key: bytes, end: bytes, limit: int) -> Steps[Codes]:
        """See `Store`."""
        yield self._collect(self._client.scan(key, end, limit=limit))
        return ()

    def change(self, changes: Mapping[bytes, Change], writes: Mapping[bytes, bytes]) -> Steps[Codes]:
        """See `Store`."""
        failed: list[str] = []
        for key, make in changes.items():
            value = yield self._client.get(key)
            while True:
                answer = yield self._client.compare_and_swap(key, value, make(value))
                if answer.swapped:
                    break
                failed.append("CompareAndSwap")
                if len(failed) >= _TRIES:
                    raise ServerError(f"compare_and_swap lost {_TRIES} times to others")
                value = answer.previous
        for key, value in writes.items():
            yield self._client.put(key, value)
        return tuple(failed)

    def load(self, pairs: Iterable[tuple[bytes, bytes]]) -> Steps[int]:
        """See `Store`."""
        count = 0
        for batch in _batches(pairs):
            yield self._client.batch_put(batch)
            count += len(batch)
        return count

    def read_all(self, start: bytes, end: bytes) -> Steps[list[tuple[bytes, bytes]]]:
        """See `Store`."""
        found: list[tuple[bytes, bytes]] = yield self._collect(self._client.scan(start, end))
        return found

    def clear(self, prefix: bytes) -> Steps[None]:
        """See `Store`."""
        yield self._client.delete_range(prefix, prefix_end(prefix))


class TxnStore:
    """Over `TransactionClient` or `AsyncTransactionClient`: each operation a transaction, repeated on conflict."""

    def __init__(self, client: Any, collect: Callable[[Any], Any], *, pessimistic: bool = False) -> None:
        self._client = client
        self._collect = collect
        self.pessimistic = pessimistic

    def read(self, key: bytes) -> Steps[Codes]:
        """See `Store`."""
        if (yield self._client.snapshot().get(key)) is None:
            raise Missing
        return ()

    def write(self, key: bytes, value: bytes) -> Steps[Codes]:
        """See `Store`."""
        return (yield from self.change({}, {key: value}))

    def scan(self, key: bytes, end: bytes, limit: int) -> Steps[Codes]:
        """See `Store`."""
        yield self._collect(self._client.snapshot().scan(key, end, limit=limit))
        return ()

    def change(self, changes: Mapping[bytes, Change], writes: Mapping[bytes, bytes]) -> Steps[Codes]:
        """See `Store`."""

        def body(txn: Any) -> Steps[None]:
            for key, make in changes.items():
                value = yield (txn.get_for_update(key) if self.pessimistic else txn.get(key))
                yield txn.put(key, make(value))
            for key, value in writes.items():
                yield txn.put(key, value)

        return (yield from self.transact(body))

    def transact(self, body: Callable[[Any], Steps[None]]) -> Steps[Codes]:
        """Do the steps of `body(txn)` in a transaction, repeated on conflict."""
        failed: list[str] = []
        while True:
            txn = yield self._client.begin(pessimistic=self.pessimistic)
            try:
                yield from body(txn)
                yield txn.commit()
            except GeneratorExit:
                raise
            except BaseException as error:
                if txn.is_open:
                    yield txn.rollback()
                if not isinstance(error, TikvError) or not error.retryable or len(failed) >= _TRIES:
                    raise
                failed.append(error.code)
            else:
                return tuple(failed)

    def snapshot(self) -> Any:
        """Return a snapshot of the present."""
        return self._client.snapshot()

    def collect(self, rows: Any) -> Any:
        """Make a list of what an iteration gives: at once, or something to await."""
        return self._collect(rows)

    def load(self, pairs: Iterable[tuple[bytes, bytes]]) -> Steps[int]:
        """See `Store`."""
        count = 0
        for batch in _batches(pairs):
            yield from self.change({}, batch)
            count += len(batch)
        return count

    def read_all(self, start: bytes, end: bytes) -> Steps[list[tuple[bytes, bytes]]]:
        """See `Store`."""
        found: list[tuple[bytes, bytes]] = yield self._collect(self._client.snapshot().scan(start, end))
        return found

    def clear(self, prefix: bytes) -> Steps[None]:
        """See `Store`."""
        yield self._client.delete_range(prefix, prefix_end(prefix))


def _batches(pairs: Iterable[tuple[bytes, bytes]]) -> Generator[dict[bytes, bytes], None, None]:
    batch: dict[bytes, bytes] = {}
    for key, value in pairs:
        batch[key] = value
        if len(batch) == _LOAD_KEYS:
            yield batch
            batch = {}
    if batch:
        yield batch
