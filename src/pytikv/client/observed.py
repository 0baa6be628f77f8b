"""Calls that report: what takes the place of a client's parts while a sink is installed, and of nothing otherwise.

`client.handle` substitutes in all open clients, and their views, when the first sink of `observe.telemetry` comes, and
puts back what was there when the last one goes; clients opened meanwhile begin substituted. Three ways, by what is
called how often:

* *Raw operations* (here): `ObservedRaw` stands in for the view's backend, one record a call of it. So `exists` is a
  `raw_scan` of one key, a `put_if_absent` a `raw_compare_and_swap`, a scan one call for each page.
* *Transactions and snapshots* (`client.txn.observed`): the client makes subclasses of them that report. One begun
  before the first sink came reports nothing, one begun before the last went reports to nobody.
* *Operations of the client* (`recorded`), far from the hot path, look for the connection's telemetry at each call.

Calls that are refused for their arguments, or by a closed client, never reach a store and are no calls here. The record
is current while the coroutine runs, in its tasks too, so whatever lies below finds it by `current_record()`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from types import CoroutineType
from typing import Any, TypeVar, cast

from pytikv.client.pages import Pages, Pair
from pytikv.client.raw_backend import RawBackend, RawPage, Span, Write
from pytikv.config import ClientConfig
from pytikv.errors import TikvError
from pytikv.observe.state import ClusterStats
from pytikv.observe.telemetry import Telemetry
from pytikv.types import Checksum, CompareAndSwap, KeyRange

__all__ = ["ObservedPages", "ObservedRaw", "recorded"]


class ObservedRaw:
    """`RawBackend` whose operations report to a telemetry; `inner` does them."""

    __slots__ = ("_run", "inner")

    def __init__(self, inner: RawBackend, telemetry: Telemetry) -> None:
        self.inner = inner
        self._run = telemetry.run

    @property
    def config(self) -> ClientConfig:
        """See `RawBackend`."""
        return self.inner.config

    def with_config(self, config: ClientConfig) -> RawBackend:
        """See `RawBackend`. The view is not substituted: its client is."""
        return self.inner.with_config(config)

    def get(self, key: bytes) -> CoroutineType[Any, Any, bytes | None]:
        """See `RawBackend`."""
        return self._run("raw_get", self.inner.get(key))

    def put(self, key: bytes, value: bytes, ttl: int) -> CoroutineType[Any, Any, None]:
        """See `RawBackend`."""
        return self._run("raw_put", self.inner.put(key, value, ttl))

    def delete(self, key: bytes) -> CoroutineType[Any, Any, None]:
        """See `RawBackend`."""
        return self._run("raw_delete", self.inner.delete(key))

    def batch_get(self, keys: Sequence[bytes]) -> CoroutineType[Any, Any, dict[bytes, bytes]]:
        """See `RawBackend`."""
        return self._run("raw_batch_get", self.inner.batch_get(keys), {"keys": len(keys)})

    def batch_put(self, writes: Sequence[Write]) -> CoroutineType[Any, Any, dict[bytes, TikvError]]:
        """See `RawBackend`."""
        return self._run("raw_batch_put", self.inner.batch_put(writes), {"keys": len(writes)}, _failure_of_batch)

    def batch_delete(self, keys: Sequence[bytes]) -> CoroutineType[Any, Any, dict[bytes, TikvError]]:
        """See `RawBackend`."""
        return self._run("raw_batch_delete", self.inner.batch_delete(keys), {"keys": len(keys)}, _failure_of_batch)

    def span(self, start: bytes, end: bytes) -> Span:
        """See `RawBackend`."""
        return self.inner.span(start, end)

    def scan_page(self, span: Span, limit: int, *, reverse: bool, keys_only: bool) -> CoroutineType[Any, Any, RawPage]:
        """See `RawBackend`."""
        return self._run("raw_scan", self.inner.scan_page(span, limit, reverse=reverse, keys_only=keys_only))

    def delete_range(self, start: bytes, end: bytes) -> CoroutineType[Any, Any, None]:
        """See `RawBackend`."""
        return self._run("raw_delete_range", self.inner.delete_range(start, end))

    def get_ttl(self, key: bytes) -> CoroutineType[Any, Any, int | None]:
        """See `RawBackend`."""
        return self._run("raw_get_ttl", self.inner.get_ttl(key))

    def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int
    ) -> CoroutineType[Any, Any, CompareAndSwap]:
        """See `RawBackend`."""
        return self._run("raw_compare_and_swap", self.inner.compare_and_swap(key, expected, value, ttl))

    def checksum(self, start: bytes, end: bytes) -> CoroutineType[Any, Any, Checksum]:
        """See `RawBackend`."""
        return self._run("raw_checksum", self.inner.checksum(start, end))

    def coprocessor(
        self, name: str, version: str, ranges: Sequence[KeyRange], data: bytes
    ) -> CoroutineType[Any, Any, list[tuple[list[KeyRange], bytes]]]:
        """See `RawBackend`."""
        return self._run("raw_coprocessor", self.inner.coprocessor(name, version, ranges, data))

    def observe(self, is_observed: bool) -> None:
        """See `RawBackend`."""
        self.inner.observe(is_observed)

    def stats(self, target: str) -> ClusterStats:
        """See `RawBackend`."""
        return self.inner.stats(target)

    async def close(self) -> None:
        """See `RawBackend`."""
        await self.inner.close()

    def abandon(self, *, forked: bool) -> None:
        """See `RawBackend`."""
        self.inner.abandon(forked=forked)


def _failure_of_batch(failed: dict[bytes, TikvError]) -> TikvError | None:
    """Return the error that stands for a batch that could not be done in whole."""
    return next(iter(failed.values()), None)


class ObservedPages:
    """A scan under way, each page a call that reports; `facts` are those of the next page."""

    __slots__ = ("_facts", "_method", "_pages", "_telemetry")

    def __init__(self, pages: Pages, method: str, telemetry: Telemetry, facts: Callable[[], dict[str, Any]]) -> None:
        self._pages = pages
        self._method = method
        self._telemetry = telemetry
        self._facts = facts

    def next_page(self) -> CoroutineType[Any, Any, list[Pair]]:
        """See `Pages`."""
        return self._telemetry.call(self._method, self._facts(), self._pages.next_page)


OperationT = TypeVar("OperationT", bound=Callable[..., Coroutine[Any, Any, Any]])


def recorded(operation: OperationT) -> OperationT:
    """Have an operation of a client (`AsyncBase`) report as ``client_`` and its name."""
    method = f"client_{operation.__name__}"

    @functools.wraps(operation)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        telemetry: Telemetry | None = self._connection.telemetry
        if telemetry is None:
            return await operation(self, *args, **kwargs)
        return await telemetry.run(method, operation(self, *args, **kwargs))

    return cast("OperationT", call)
