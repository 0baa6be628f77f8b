"""What the fake backends of the transactional client's tests have in common: regions, and requests routed to them.

A fake says by `_serve` what a store answers, by `known` which regions it believes in.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytikv.ambient import effective
from pytikv.client.backoff import Backoffer
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import DEFAULT_CONTEXT, RequestContext, TxnPiece
from pytikv.client.txn.plan import BATCH_BYTES
from pytikv.config import ClientConfig
from pytikv.errors import TikvError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

EPOCH_MS = 1_700_000_000_000


@dataclasses.dataclass(eq=False)
class Place:
    """A region: `[start, end)` in wire form."""

    start: bytes
    end: bytes
    valid: bool = True

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


def split(places: list[Place], keys: Iterable[bytes]) -> None:
    """Make regions begin at these wire keys; those that were split are valid no more."""
    for key in keys:
        old = next(place for place in places if place.holds(key))
        if old.start != key:
            old.valid = False
            places.remove(old)
            places += [Place(old.start, key), Place(key, old.end)]
    places.sort(key=lambda place: place.start)


class RoutedFake:
    """The part of `TxnBackend` that finds regions, and the requests that are sent until they are answered."""

    rt: Any
    config: ClientConfig
    known: list[Place]
    prewrite_bytes = BATCH_BYTES

    def with_config(self, config: ClientConfig) -> Any:
        raise AssertionError("not needed")

    def call(self, deadline: float | None = None) -> Call:
        return Call(Backoffer(self.rt, effective(self.rt.now(), self.config.timeout) if deadline is None else deadline))

    async def find(self, key: bytes, call: Call) -> Any:
        return next(place for place in self.known if place.holds(key))

    async def group(self, items: Sequence[Any], key_of: Any, call: Call) -> list[tuple[Any, Sequence[Any]]]:
        assert items, "a real store dies of a request without keys"
        keys = [key_of(item) if key_of else item for item in items]
        assert len(set(keys)) == len(keys), "a real store dies of a key that stands twice in a prewrite"
        groups: dict[int, tuple[Place, list[Any]]] = {}
        for key, item in sorted(zip(keys, items, strict=True), key=lambda pair: pair[0]):
            place = await self.find(key, call)
            groups.setdefault(id(place), (place, []))[1].append(item)
        return list(groups.values())

    async def pieces(self, start_key: bytes, end_key: bytes, call: Call) -> list[TxnPiece]:
        found = []
        for place in self.known:
            if (not end_key or place.start < end_key) and (not place.end or place.end > start_key):
                ends = [end for end in (place.end, end_key) if end]
                found.append(TxnPiece(place, max(place.start, start_key), min(ends, default=b"")))
        return found

    async def first_piece(self, start_key: bytes, end_key: bytes, call: Call, *, reverse: bool = False) -> TxnPiece:
        pieces = await self.pieces(start_key, end_key, call)
        return pieces[-1] if reverse else pieces[0]

    async def get(
        self,
        key: bytes,
        version: int,
        call: Call | None,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        request = kvrpcpb.GetRequest(key=key, version=version, need_commit_ts=need_commit_ts)
        call = call or self.call()
        while True:
            try:
                answer = await self._serve("KvGet", await self.find(key, call), request, call, context)
            except RegionStale:
                continue
            if answer.HasField("error") or need_commit_ts:
                return answer
            return None if answer.not_found else answer.value

    async def batch_get(
        self,
        region: Any,
        keys: Sequence[bytes],
        version: int,
        call: Call,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        request = kvrpcpb.BatchGetRequest(keys=keys, version=version)
        return await self._serve("KvBatchGet", region, request, call, context)

    async def send(self, rpc: Any, region: Any, request: Any, call: Call, context: Any = DEFAULT_CONTEXT) -> Any:
        return await self._serve(rpc.name, region, request, call, context)

    async def send_to_all_stores(self, rpc: Any, request: Any, call: Call) -> list[tuple[str, Any]]:
        raise AssertionError("not needed")

    async def _serve(self, name: str, place: Place, request: Any, call: Call, context: RequestContext) -> Any:
        raise AssertionError("a fake says what is answered")


async def error_of(coroutine: Any) -> TikvError:
    """The error of a coroutine that must fail."""
    try:
        await coroutine
    except TikvError as error:
        return error
    raise AssertionError("it did not fail")


def raw_fakes() -> Any:
    """The fixtures of the raw client's tests as a module: a cluster in memory, a server in a thread."""
    name = "pytikv_raw_fakes"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "client_raw" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
