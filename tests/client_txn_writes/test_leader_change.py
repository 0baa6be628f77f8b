"""Leaders that move between the steps of a commit: the real way of a request over three stores in memory.

The stores are those of the raw client's tests; what they hold is one real transactional store, as replicas would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from txn_regions import raw_fakes
from txn_world import Store, error_of

from pytikv.client.cluster import Cluster
from pytikv.client.region_cache import RegionCache
from pytikv.client.region_loader import RegionLoader
from pytikv.client.store_cache import StoreCache
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.remote import RemoteTxn
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.codec import memcomparable
from pytikv.config import ClientConfig
from pytikv.errors import CommitUndetermined, Outcome
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.server.storage.txn_storage import Done
from pytikv.types import KeyRange, Timestamp
from pytikv.wire.errors import RpcError, Status

TWO_PC = {"async_commit": False, "one_pc": False}
PROTOCOLS: list[dict[str, Any]] = [TWO_PC, {"one_pc": False}, {}, {"pessimistic": True, **TWO_PC}]
SLOTS = {field.number: field for field in tikvpb.BatchCommandsRequest.Request.DESCRIPTOR.fields}


class ThreeStores:
    """A cluster of three stores and a client of it. `before(name)` is called as each request arrives."""

    def __init__(self, store: Store) -> None:
        fakes = raw_fakes()
        self.store = store
        self.names: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self.lose: Callable[[str], bool] = lambda name: False
        three = self

        class Model(fakes.Model):  # type: ignore[misc, name-defined]
            class Channel:
                def __init__(self, model: Any, address: str) -> None:
                    self.model, self.address = model, address

                async def batch(self, slot: int, request: bytes, deadline: float) -> bytes:
                    return three.serve(self.address, SLOTS[slot], request)

            async def channel(self, address: str, deadline: float) -> Any:
                return Model.Channel(self, address)

        self.model = Model(3, codec=store.codec)
        self.rt = self.model.rt = store.world.process("client")
        stores = StoreCache(self.rt, self.model, self.model)
        regions = RegionCache(stores.entry, self.rt.rng)
        pd: Any = fakes._Pd(self.model)
        pd.tso = self
        loader = RegionLoader(self.rt, self.model, regions)
        cluster = Cluster(self.rt, self.model, pd, stores, regions, loader, fakes._Configs())
        config = ClientConfig(api_version=2, timeout=5.0)
        self.backend = RemoteTxn(cluster, config, store.codec, {})

    async def get(self, deadline: float) -> Timestamp:
        """PD's oracle."""
        return self.store.now_ts()

    async def low_resolution(self, max_age_s: float, deadline: float) -> Timestamp:
        return self.store.now_ts()

    def serve(self, address: str, field: Any, data: bytes) -> bytes:
        name = field.name
        request = getattr(kvrpcpb, field.message_type.name).FromString(data)
        self.before(name)
        self.names.append(name)
        error = self.model.region_error(address, request)
        if error is not None:
            kind = field.message_type.name.replace("Request", "Response")
            answer: bytes = getattr(kvrpcpb, kind)(region_error=error).SerializeToString()
            return answer
        region = next(r for r in self.model.regions if r.id == request.context.region_id)
        done = self.store.storage.execute("Kv" + name, request, KeyRange(region.start_key, region.end_key))
        assert isinstance(done, Done)
        if self.lose(name):
            raise RpcError(Status.UNAVAILABLE, "connection reset")
        answer = done.response.SerializeToString()
        return answer

    def begin(self, **options: Any) -> AsyncTransaction:
        return AsyncTransaction(self.backend, TxnOptions(**options))

    def move(self, key: bytes, leader: int) -> None:
        self.model.at(memcomparable.encode(self.store.codec.encode_key(key))).leader = leader


@pytest.fixture
def three(store: Store) -> ThreeStores:
    made = ThreeStores(store)
    made.model.split(store.codec.encode_key(b"m"))
    return made


def written(three: ThreeStores) -> list[bytes | None]:
    keys = [three.store.codec.encode_key(key) for key in (b"a", b"z")]
    return [three.store.storage.get(key, int(three.store.now_ts())) for key in keys]


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
@pytest.mark.parametrize("step", ["Prewrite", "Commit", "PessimisticLock"])
def test_a_leader_moves_before_a_step(three: ThreeStores, options: dict[str, Any], step: str) -> None:
    """The new leader is named by the old one; what was written at the old one is there, and nothing is in doubt."""
    moves = iter([2, 3, 1, 2, 3, 1])

    def before(name: str) -> None:
        if name == step and three.names.count(name) < 3:
            leader = next(moves)
            three.move(b"a", leader)
            three.move(b"z", leader)

    async def run() -> None:
        three.before = before
        async with three.begin(**options) as txn:
            await txn.put(b"a", b"1")
            await txn.put(b"z", b"2")
        assert txn.outcome is Outcome.APPLIED
        await three.rt.sleep(1.0)  # the secondaries follow
        assert written(three) == [b"1", b"2"]
        if step != "PessimisticLock" or "pessimistic" in options:
            assert three.names.count(step) > 2, "the two regions were asked more than once"

    three.store.world.run(run(), 100, process="client")
    assert three.store.locks() == 0
    three.store.storage.check_consistency().raise_for_damage()


def test_a_commit_is_lost_with_its_leader(three: ThreeStores) -> None:
    """The answer to the commit is lost, the next leader is asked again: it knows the commit."""
    lost: list[str] = []

    def lose(name: str) -> bool:
        if name == "Commit" and not lost:
            lost.append(name)
            three.move(b"a", 2)
            three.move(b"z", 3)
            return True
        return False

    async def run() -> None:
        three.lose = lose
        async with three.begin(**TWO_PC) as txn:
            await txn.put(b"a", b"1")
            await txn.put(b"z", b"2")
        assert lost
        assert txn.outcome is Outcome.APPLIED
        await three.rt.sleep(1.0)
        assert written(three) == [b"1", b"2"]

    three.store.world.run(run(), 100, process="client")


def test_a_commit_whose_answers_never_come_is_in_doubt(three: ThreeStores) -> None:
    leaders = iter([2, 3, 1] * 1000)

    def lose(name: str) -> bool:
        if name == "Commit":
            three.move(b"a", next(leaders))
        return name == "Commit"

    async def run() -> None:
        three.lose = lose
        txn = await three.begin(**TWO_PC)
        await txn.put(b"a", b"1")
        await txn.put(b"z", b"2")
        error = await error_of(txn.commit())
        assert isinstance(error, CommitUndetermined)
        assert txn.outcome is Outcome.UNDETERMINED
        three.lose = lambda name: False
        reader = await three.begin()
        assert await reader.batch_get([b"a", b"z"]) == {b"a": b"1", b"z": b"2"}, "it had been committed"
        await reader.rollback()

    three.store.world.run(run(), 100, process="client")
