"""The real commands of a store behind regions that split, in virtual time, and clients whose requests go wrong at will.

`Store` is one store's data with PD's clock. `Node` is a client's backend to it: a process of the simulated world, which
can be killed at any request. `Node.faults` says what happens to which request; `Node.steps` tells what was sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from txn_regions import EPOCH_MS, Place, RoutedFake, error_of, split

from pytikv.client.backoff import REGION_MISS, TIKV_RPC
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import GcState, RequestContext
from pytikv.client.txn.options import ReadOptions, TxnOptions
from pytikv.client.txn.snapshot_reader import SnapshotReader
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.codec import api, memcomparable
from pytikv.config import ClientConfig
from pytikv.errors import ConnectionFailed, Outcome, TikvError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.rt.shared import SharedFuture
from pytikv.server.engine.interface import CF_LOCK
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.txn_storage import TxnStorage, Waiting
from pytikv.testing.sim import World
from pytikv.types import KeyRange, Timestamp

__all__ = ["EPOCH_MS", "LATENCY_S", "Fault", "Node", "Place", "Store", "error_of"]

LATENCY_S = 0.0005


@dataclasses.dataclass
class Fault:
    """What happens to the requests called `name`; `nth` (from 0): to that one alone, else to all; `when` picks, too.

    `what`: "drop request" and "drop answer" (the client tries again, as it does after a lost answer), "stale" (the
    region has changed), "fail" (never sent), "die before" and "die after" (the process is killed), or a function that
    is called before the request is served; a pair of "after" and a function: when it has been served.
    """

    name: str
    what: Any
    nth: int | None = None
    when: Callable[[Any], bool] = lambda request: True

    def concerns(self, name: str, number: int, request: Any) -> bool:
        return self.name == name and self.nth in (None, number) and self.when(request)


class Store:
    """A store's data and PD's clock, and the clients of it."""

    def __init__(self, world: World, version: str = "2") -> None:
        self.world = world
        self.driver: Any = None
        self.skew_ms = 0
        self._last = 0
        self._nodes = 0
        self.codec = api.v2(0, is_raw=False) if version == "2" else api.txn_v1()
        self.engine = MemoryEngine()
        keeper = world.process("store")
        self.storage = TxnStorage(
            self.engine, ApiVersion(version), now_s=lambda: world.now, current_ts=lambda: int(self.now_ts())
        )
        self.storage.use_timers(lambda seconds, callback: keeper.call_at(keeper.now() + seconds, callback))
        self.places = [Place(b"", b"")]

    def now_ts(self) -> Timestamp:
        """A new timestamp of PD's oracle."""
        self._last = max(self._last + 1, Timestamp.compose(EPOCH_MS + self.skew_ms + int(self.world.now * 1000)))
        return Timestamp(self._last)

    def split(self, *keys: bytes) -> None:
        """Make regions begin at these user keys."""
        split(self.places, map(self.codec.encode_key, keys))

    def node(self, **options: Any) -> Node:
        """A new client."""
        self._nodes += 1
        return Node(self, f"client {self._nodes}", ClientConfig(api_version=self.codec.api_version or 1, **options))

    def locks(self) -> int:
        """How many keys are locked."""
        return len(list(self.engine.scan(CF_LOCK)))

    def run(self, coroutine: Any, node: Node) -> Any:
        """Run a coroutine as `node`'s process; what others do in it, they do by `Node.do`."""
        self.driver = node.rt
        answer = self.world.run(coroutine, 10_000, process=node.name)
        self.storage.check_consistency().raise_for_damage()
        return answer


class Node(RoutedFake):
    """`TxnBackend`: one client; see the module."""

    def __init__(self, store: Store, name: str, config: ClientConfig) -> None:
        self.store = store
        self.name = name
        self.rt: Any = store.world.process(name)
        self.config = config
        self.codec = store.codec
        self.shared: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self.steps: list[tuple[str, Any]] = []
        self.known: list[Place] = list(store.places)

    # --- what tests do ------------------------------------------------------------------------------------------------

    def begin(self, **options: Any) -> AsyncTransaction:
        return AsyncTransaction(self, TxnOptions(**options))

    async def do(self, coroutine: Any) -> Any:
        """Run a coroutine as this client's process, from the test's."""
        if self.rt is self.store.driver:
            return await coroutine
        ended: SharedFuture[Any] = SharedFuture()

        async def run() -> None:
            try:
                ended.set_result(await coroutine)
            except Exception as error:
                ended.set_exception(error)

        self.rt.spawn(run(), name=self.name)
        return await self.store.driver.wait(ended, None)

    async def read(self, *keys: bytes) -> list[bytes | None]:
        """The present values, in one snapshot."""
        return await self.do(self._read(*keys))

    async def _read(self, *keys: bytes) -> list[bytes | None]:
        reader = SnapshotReader(self, await self.timestamp(self.rt.now() + 10), ReadOptions())
        found = await reader.batch_get(keys)
        return [found.get(key) for key in keys]

    def names(self) -> list[str]:
        return [name for name, _ in self.steps]

    def requests(self, name: str) -> list[Any]:
        return [request for called, request in self.steps if called == name]

    # --- the protocol -------------------------------------------------------------------------------------------------

    async def timestamp(self, deadline: float) -> Timestamp:
        async def take(_: Any) -> Any:
            return self.store.now_ts()

        found: Timestamp = await self._step("timestamp", None, self.call(deadline), take)
        return found

    async def low_resolution_timestamp(self, max_age_s: float, deadline: float) -> Timestamp:
        return self.store.now_ts()

    async def validate_read_ts(self, read_ts: int, deadline: float) -> None:
        return None

    async def _serve(self, name: str, place: Place, request: Any, call: Call, context: RequestContext) -> Any:
        copy = type(request).FromString(request.SerializeToString())
        copy.context.isolation_level = context.isolation
        copy.context.resolved_locks[:] = context.resolved_locks
        copy.context.committed_locks[:] = context.committed_locks
        encode = memcomparable.encode
        within = KeyRange(encode(place.start) if place.start else b"", encode(place.end) if place.end else b"")

        async def execute(request: Any) -> Any:
            if not place.valid:
                raise RegionStale
            if name == "SplitRegion":
                self.store.split(*map(self.codec.decode_key, request.split_keys))
                regions = [metapb.Region(id=number + 1) for number in range(len(self.store.places))]
                return kvrpcpb.SplitRegionResponse(regions=regions)
            done = self.store.storage.execute(name, request, within)
            return (await self._wait(done) if isinstance(done, Waiting) else done).response

        try:
            answer = await self._step(name, copy, call, execute)
        except RegionStale:
            self.known = list(self.store.places)
            await call.backoffer.backoff(REGION_MISS, "epoch not match")
            raise
        except TikvError as error:
            call.settle(error)
            raise
        call.lost = None
        return answer

    async def _wait(self, waiting: Waiting) -> Any:
        answer: SharedFuture[Any] = SharedFuture()
        waiting.on_done(answer.set_result)
        try:
            return await self.rt.wait(answer, self.rt.now() + waiting.deadline_s)
        except TimeoutError:
            waiting.expire()
            return await self.rt.wait(answer, None)
        except BaseException:
            waiting.cancel()
            raise

    async def _step(self, name: str, request: Any, call: Call, serve: Callable[[Any], Any]) -> Any:
        """Send one request until it is answered, with what `faults` says."""
        while True:
            if self.rt.now() >= call.backoffer.deadline:
                raise call.backoffer.exhausted()
            number = self.names().count(name)
            self.steps.append((name, request))
            what = next((fault.what for fault in self.faults if fault.concerns(name, number, request)), None)
            if callable(what):
                what = what()
            await self._perhaps_die(what, "die before")
            if what == "stale":
                raise RegionStale
            if what == "fail":
                raise ConnectionFailed(f"{name} was not sent", outcome=Outcome.NOT_APPLIED)
            await self.rt.sleep(LATENCY_S)
            answer = await serve(request) if what != "drop request" else None
            if isinstance(what, tuple):
                what[1]()
            await self._perhaps_die(what, "die after")
            if what not in ("drop request", "drop answer"):
                await self.rt.sleep(LATENCY_S)
                return answer
            call.lost = "the answer was lost"
            await call.backoffer.backoff(TIKV_RPC, f"{name}: the answer was lost")

    async def _perhaps_die(self, what: Any, when: str) -> None:
        if what == when:
            self.rt.call_soon(lambda: self.store.world.crash(self.name))
            await self.rt.sleep(3600)

    async def scatter_region(self, region_id: int, deadline: float) -> None:
        self.steps.append(("scatter", region_id))

    async def gc_state(self, deadline: float) -> GcState:
        return GcState(0, 0)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not needed")
