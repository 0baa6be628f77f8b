"""Raw data in a store inside the process: straight on the storage's commands, without sockets or protobuf.

What a store is, who shares it, how writes wait for the disk and what a fork does: `embedded_store`. Here is the
translation of `RawBackend`'s operations into the raw commands, keyed by keyspace, in parts of bounded size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from pytikv.ambient import current_ambient
from pytikv.client.raw_backend import RawPage, Span, Write
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig
from pytikv.embedded_store import EmbeddedStore, EmbeddedView, Flushes, open_embedded
from pytikv.errors import InvalidArgument, TikvError, UnsupportedByServer
from pytikv.rt.interface import Runtime
from pytikv.types import Checksum, CompareAndSwap, KeyRange
from pytikv.url import Target

__all__ = ["EmbeddedRaw", "open_raw"]

ItemT = TypeVar("ItemT")

_BATCH_BYTES: Final = 1 << 20
_BATCH_KEYS: Final = 8192


class EmbeddedRaw(EmbeddedView):
    """`RawBackend` on a store in the process."""

    def __init__(
        self, rt: Runtime, store: EmbeddedStore, config: ClientConfig, codec: KeyCodec, flushes: Flushes
    ) -> None:
        super().__init__(rt, store, config, codec, flushes)
        self._raw = store.raw
        self._prefix = codec.prefix
        self._prefix_size = len(codec.prefix)
        self._cf = config.cf
        self._atomic = config.atomic
        # What single keys need, one attribute deep.
        self._get = store.raw.get
        self._put = store.raw.put

    def with_config(self, config: ClientConfig) -> EmbeddedRaw:
        """Return a view with other options."""
        return EmbeddedRaw(self.rt, self._store, config, self.codec, self._flushes)

    # --- single keys --------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """See `RawBackend`."""
        if current_ambient() is not None:
            self._check_time()
        return self._get(self._prefix + key, self._cf)

    async def put(self, key: bytes, value: bytes, ttl: int) -> None:
        """See `RawBackend`."""
        if current_ambient() is not None:
            self._check_time()
        ticket = self._put(self._prefix + key, value, ttl, cf=self._cf, for_cas=self._atomic)
        if self._is_durable:
            await self._wait_durable(ticket)
        if ticket >= self._store.clean_at:
            self._clean()

    async def delete(self, key: bytes) -> None:
        """See `RawBackend`."""
        self._check_time()
        await self._finish(self._raw.delete(self._prefix + key, cf=self._cf, for_cas=self._atomic))

    async def get_ttl(self, key: bytes) -> int | None:
        """See `RawBackend`."""
        self._check_time()
        return self._raw.get_ttl(self._prefix + key, self._cf) or None

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int
    ) -> CompareAndSwap:
        """See `RawBackend`."""
        self._check_time()
        done, ticket = self._raw.compare_and_swap(self._prefix + key, expected, value, ttl, cf=self._cf)
        if done.swapped:
            await self._finish(ticket)
        return done

    # --- batches ------------------------------------------------------------------------------------------------------

    async def batch_get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `RawBackend`."""
        self._check_time()
        prefix, size = self._prefix, self._prefix_size
        wire = [prefix + key for key in keys] if size else keys
        pairs = await self._read(len(keys), self._raw.batch_get, wire, self._cf)
        return {key[size:]: value for key, value in pairs} if size else dict(pairs)

    async def batch_put(self, writes: Sequence[Write]) -> dict[bytes, TikvError]:
        """See `RawBackend`. Parts of 1 MiB, each applied whole or not at all; one flush for all."""
        prefix, cf, atomic = self._prefix, self._cf, self._atomic

        def apply(part: Sequence[Write]) -> int:
            pairs = [(prefix + key, value) for key, value, _ in part]
            return self._raw.batch_put(pairs, [ttl for _, _, ttl in part], cf=cf, for_cas=atomic)

        return await self._write_all(list(_cut(writes)), apply, lambda write: write[0])

    async def batch_delete(self, keys: Sequence[bytes]) -> dict[bytes, TikvError]:
        """See `RawBackend`."""
        prefix, cf, atomic = self._prefix, self._cf, self._atomic

        def apply(part: Sequence[bytes]) -> int:
            return self._raw.batch_delete([prefix + key for key in part], cf=cf, for_cas=atomic)

        parts = [keys[start : start + _BATCH_KEYS] for start in range(0, len(keys), _BATCH_KEYS)]
        return await self._write_all(parts, apply, lambda key: key)

    async def _write_all(
        self,
        parts: Sequence[Sequence[ItemT]],
        apply: Callable[[Sequence[ItemT]], int],
        key_of: Callable[[ItemT], bytes],
    ) -> dict[bytes, TikvError]:
        """Apply parts and wait once. A part refused for one of its keys is halved until that key stands alone."""
        self._check_time()
        failed: dict[bytes, TikvError] = {}
        done: list[bytes] = []
        ticket = 0
        waiting = list(reversed(parts))
        while waiting:
            part = waiting.pop()
            try:
                ticket = apply(part)
                done += [key_of(item) for item in part]
            except InvalidArgument as error:
                if len(part) == 1:
                    failed[key_of(part[0])] = error
                else:
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
            except TikvError as error:
                failed.update((key_of(item), error) for item in part)
        try:
            if ticket:
                await self._finish(ticket)
        except TikvError as error:
            failed.update((key, error) for key in done)
        return failed

    # --- ranges -------------------------------------------------------------------------------------------------------

    def span(self, start: bytes, end: bytes) -> Span:
        """See `RawBackend`. A span is a range of wire keys."""
        return self.codec.encode_range(start, end)

    async def scan_page(self, span: Span, limit: int, *, reverse: bool, keys_only: bool) -> RawPage:
        """See `RawBackend`."""
        self._check_time()
        low, high = span

        def scan() -> list[tuple[bytes, bytes]]:
            return self._raw.scan(low, high, limit, key_only=keys_only, reverse=reverse, cf=self._cf)

        found = await self._read(limit, scan)
        size = self._prefix_size
        pairs = [(key[size:], value) for key, value in found] if size else found
        if len(found) < limit:
            return RawPage(pairs, None)
        last = found[-1][0]
        return RawPage(pairs, (low, last) if reverse else (last + b"\x00", high))

    async def delete_range(self, start: bytes, end: bytes) -> None:
        """See `RawBackend`."""
        self._check_time()
        low, high = self.codec.encode_range(start, end)
        await self._finish(await self.rt.run_blocking(lambda: self._raw.delete_range(low, high, cf=self._cf)))

    async def checksum(self, start: bytes, end: bytes) -> Checksum:
        """See `RawBackend`."""
        self._check_time()
        return await self.rt.run_blocking(self._raw.checksum, [self.codec.encode_range(start, end)])

    async def coprocessor(
        self, name: str, version: str, ranges: Sequence[KeyRange], data: bytes
    ) -> list[tuple[list[KeyRange], bytes]]:
        """See `RawBackend`."""
        raise UnsupportedByServer("the embedded store has no coprocessor plugins")

    # --- after a write ------------------------------------------------------------------------------------------------

    async def _finish(self, ticket: int) -> None:
        if self._is_durable:
            await self._wait_durable(ticket)
        if ticket >= self._store.clean_at:
            self._clean()

    def _clean(self) -> None:
        if self._store.begin_cleaning():
            self.rt.spawn(self.rt.run_blocking(self._store.clean), name="clean the embedded store")


def _cut(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    start = size = 0
    for position, (key, value, _) in enumerate(writes):
        size += len(key) + len(value)
        if size >= _BATCH_BYTES or position + 1 - start >= _BATCH_KEYS:
            yield writes[start : position + 1]
            start, size = position + 1, 0
    if start < len(writes):
        yield writes[start:] if start else writes


async def open_raw(rt: Runtime, target: Target, config: ClientConfig) -> EmbeddedRaw:
    """Open the store at `target`; the opener that `raw_backend.open_backend` calls."""
    return EmbeddedRaw(rt, *await open_embedded(rt, target, config, is_raw=True))
