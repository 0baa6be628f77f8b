"""Requests to be counted: `server_instructions.py KIND N` makes a store in memory and has it carry out N messages.

Run under a counter of machine instructions with two numbers N, the difference is what the store's handling of the
messages took: from a BatchCommands message to the bytes of its answer. No wire, no socket, no disk: what is flushed is
in memory. KIND is one of
`CASES`; with `_made` behind a kind of writes, the messages are made and dropped: what that takes is to be subtracted
again. Collection of garbage is off, so that two runs do the same.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pytikv.codec import envelope
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.pd.server import PdServer
from pytikv.server.services.batch_commands import BatchCommands
from pytikv.server.services.kv_service import KvService
from pytikv.server.services.tikv import AsyncKvService
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import open_store

_WARM = 50
_now = itertools.count(1000.0, 7e-6).__next__  # a counted run is slow: what takes microseconds shall seem to
_GET, _PREWRITE, _COMMIT, _BATCH_GET, _RAW_GET = 1, 3, 4, 7, 13
_KEY, _VALUE = b"bench_00000001", b"v" * 100


class _Turn:
    """What of a loop a store needs here: what it spawns runs to its end at once."""

    now = staticmethod(_now)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run it."""
        try:
            work.send(None)
        except StopIteration:
            return
        raise AssertionError("nothing here waits")

    async def run_blocking(self, run: Callable[[], Any]) -> Any:
        """Run it here."""
        return run()


class _Stream:
    def send(self, message: bytes) -> None:
        """Drop the answer."""

    def finish(self, *_: object) -> None:
        raise AssertionError("a command was refused")


class _Store:
    """A store, and the stream that asks it."""

    def __init__(self) -> None:
        engine = MemoryEngine()
        self.pd = PdServer(EngineMeta(engine), time=time.time, getrandbits=random.Random(1).getrandbits)
        store = open_store(
            engine,
            self.pd,
            ApiVersion.V1,
            meta=lambda id: metapb.Store(id=id, address="x:1"),
            now_s=_now,
            split_limits=None,
        )
        rt: Any = _Turn()
        stream: Any = _Stream()
        self.ask = BatchCommands(AsyncKvService(rt, KvService(store)), stream).on_message
        region = store.regions.search(b"")
        assert region is not None
        epoch = region.meta.region_epoch
        self.context = kvrpcpb.Context(region_id=region.id, peer=region.peer, region_epoch=epoch)

    def write(self, count: int, keys: tuple[bytes, ...] = (_KEY,), ask: Callable[[bytes], Any] | None = None) -> None:
        """Prewrite and commit, in a message each."""
        context = self.context
        ask = ask or self.ask
        for _ in range(count):
            start_ts = int(self.pd.get_ts(1))
            prewrite = kvrpcpb.PrewriteRequest(
                context=context,
                mutations=[kvrpcpb.Mutation(key=key, value=_VALUE) for key in keys],
                primary_lock=keys[0],
                start_version=start_ts,
                lock_ttl=3000,
            )
            ask(envelope.encode_one(_PREWRITE, prewrite.SerializeToString(), 1))
            commit = kvrpcpb.CommitRequest(
                context=context, keys=keys, start_version=start_ts, commit_version=int(self.pd.get_ts(1))
            )
            ask(envelope.encode_one(_COMMIT, commit.SerializeToString(), 2))

    def repeat(self, slot: int, request: Any, count: int, commands: int = 1) -> None:
        """Ask the same again and again."""
        body = request.SerializeToString()
        message = envelope.encode([(slot, body, i) for i in range(commands)])
        for _ in range(count):
            self.ask(message)

    def reads(self, kind: str) -> tuple[int, Any, int]:
        """Return slot, request, and how many of it a message holds."""
        version = int(self.pd.get_ts(1))
        get = kvrpcpb.GetRequest(context=self.context, key=_KEY, version=version)
        if kind == "raw_get":
            return _RAW_GET, kvrpcpb.RawGetRequest(context=self.context, key=_KEY), 1
        if kind == "batch_get":
            return _BATCH_GET, kvrpcpb.BatchGetRequest(context=self.context, keys=[_KEY], version=version), 1
        return _GET, get, 16 if kind == "get_16" else 1


CASES = ("raw_get", "get", "get_16", "batch_get", "write", "write_8")


def main() -> None:
    """Carry out N messages (for writes: N pairs of them)."""
    kind, count = sys.argv[1], int(sys.argv[2])
    gc.disable()
    store = _Store()
    if kind.startswith("write"):
        keys = tuple(b"bench_%08d" % i for i in range(8 if kind.startswith("write_8") else 1))
        store.write(_WARM, keys)
        store.write(count, keys, len if kind.endswith("_made") else None)
        return
    store.write(1)
    reads = store.reads(kind)
    store.repeat(reads[0], reads[1], _WARM, reads[2])
    store.repeat(reads[0], reads[1], count, reads[2])


if __name__ == "__main__":
    main()
