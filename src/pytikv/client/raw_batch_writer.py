"""A batch writer for raw pairs: collects puts and deletes, sends them when enough have gathered, and gives an account.

    async with kv.batch() as batch:
        await batch.put(b"k", b"v")
        await batch.delete(b"old")
    batch.result          # BatchResult(written=2, unprocessed=[], errors={})

What has gathered is sent when it reaches `max_bytes` of keys and values or `max_items`, whichever is less, and at the
end of the block: divided by region, all regions at once (`client.by_region`). The call that fills the batch waits for
it, so that a fast producer is held back and memory is bounded by one batch.

Of several operations on one key within a batch the last counts. Between batches the order is kept; between keys of one
batch there is none. What the stores did not take is tried again, `_ROUNDS` times in all, with a growing wait; what is
left then is in the account, and the writer goes on with what comes. What ends a flush early (KeyboardInterrupt,
cancellation) leaves what has no answer yet in the account as unprocessed, its outcome undetermined. A block that is
left by an exception does not send what has not been sent.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

from pytikv.client.arguments import check_count, check_key, check_ttl, check_value
from pytikv.client.batch_result import BatchResult, unanswered
from pytikv.client.raw_backend import RawBackend
from pytikv.errors import InvalidArgument, TikvError
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.interface import Runtime

__all__ = ["AsyncRawBatchWriter", "RawBatchWriter"]

_ROUNDS: Final = 4
_WAIT_S: Final = 0.05

_Write = tuple[bytes, int] | None
"""A value and its TTL; None: a deletion."""


class AsyncRawBatchWriter:
    """See the module's docstring. Made by `AsyncRawClient.batch`; belongs to one task at a time."""

    def __init__(
        self, rt: Runtime, backend: Callable[[], RawBackend], *, max_items: int | None, max_bytes: int
    ) -> None:
        if max_items is not None:
            check_count("max_items", max_items, low=1)
        check_count("max_bytes", max_bytes, low=1)
        self._rt = rt
        self._backend = backend
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._waiting: dict[bytes, _Write] = {}
        self._bytes = 0
        self._is_closed = False
        self.result: BatchResult[bytes] = BatchResult()
        """What has been done so far; complete after the block."""

    async def put(self, key: bytes, value: bytes, ttl: int | None = None) -> None:
        """Add a pair, with a life of `ttl` seconds (None: no expiry). Sends the batch if it is full now."""
        if self.add_put(key, value, ttl):
            await self.flush()

    async def delete(self, key: bytes) -> None:
        """Add a deletion. Sends the batch if it is full now."""
        if self.add_delete(key):
            await self.flush()

    def add_put(self, key: bytes, value: bytes, ttl: int | None = None) -> bool:
        """Add a pair as `put` does, and send nothing. Returns whether the batch is full."""
        check_key(key)
        check_value(value)
        return self._add(key, (value, 0 if ttl is None else check_ttl(ttl)), len(key) + len(value))

    def add_delete(self, key: bytes) -> bool:
        """Add a deletion as `delete` does, and send nothing. Returns whether the batch is full."""
        check_key(key)
        return self._add(key, None, len(key))

    def _add(self, key: bytes, write: _Write, size: int) -> bool:
        if self._is_closed:
            raise InvalidArgument("the batch has ended: begin another")
        waiting = self._waiting
        waiting[key] = write
        self._bytes += size
        return self._bytes >= self._max_bytes or (self._max_items is not None and len(waiting) >= self._max_items)

    async def flush(self) -> BatchResult[bytes]:
        """Send what has gathered, and return the account so far."""
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        try:
            failed = await self._send_all(waiting)
        except BaseException:
            for key in waiting:
                self.result.note(key, unanswered())
            raise
        for key in waiting:
            self.result.note(key, failed[key])
        return self.result

    async def _send_all(self, waiting: dict[bytes, _Write]) -> dict[bytes, TikvError]:
        """Send and send again; takes out of `waiting` what is settled, and returns why the rest is not."""
        rt = self._rt
        failed: dict[bytes, TikvError] = {}
        for attempt in range(_ROUNDS):
            if not waiting:
                break
            if attempt:
                await rt.sleep(_WAIT_S * 2**attempt * (0.5 + rt.rng.random()))
            try:
                failed = await self._send(waiting)
            except TikvError as error:
                failed = dict.fromkeys(waiting, error)
            self.result.written += len(waiting) - len(failed)
            for key in [key for key in waiting if key not in failed or not failed[key].retryable]:
                del waiting[key]
                if key in failed:
                    self.result.note(key, failed[key])
        return failed

    async def _send(self, waiting: dict[bytes, _Write]) -> dict[bytes, TikvError]:
        """Send operations on distinct keys; returns those that failed."""
        backend = self._backend()
        puts = [(key, *write) for key, write in waiting.items() if write is not None]
        deletes = [key for key, write in waiting.items() if write is None]
        failed: dict[bytes, TikvError] = {}
        jobs = ([backend.batch_put(puts)] if puts else []) + ([backend.batch_delete(deletes)] if deletes else [])
        for part in await self._rt.gather(*jobs):
            failed.update(part)
        return failed

    async def __aenter__(self) -> AsyncRawBatchWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.flush()
        self._is_closed = True


class RawBatchWriter:
    """The blocking twin of `AsyncRawBatchWriter`. Made by `RawClient.batch`; belongs to one thread at a time."""

    def __init__(self, core: AsyncRawBatchWriter, rt: CallerRuntime) -> None:
        self._core = core
        self._rt = rt

    @property
    def result(self) -> BatchResult[bytes]:
        """What has been done so far; complete after the block."""
        return self._core.result

    def put(self, key: bytes, value: bytes, ttl: int | None = None) -> None:
        """Add a pair, with a life of `ttl` seconds (None: no expiry). Sends the batch if it is full now."""
        if self._core.add_put(key, value, ttl):
            self.flush()

    def delete(self, key: bytes) -> None:
        """Add a deletion. Sends the batch if it is full now."""
        if self._core.add_delete(key):
            self.flush()

    def flush(self) -> BatchResult[bytes]:
        """Send what has gathered, and return the account so far."""
        return self._rt.run(self._core.flush())

    def __enter__(self) -> RawBatchWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._rt.run(self._core.__aexit__(kind, error, traceback))
