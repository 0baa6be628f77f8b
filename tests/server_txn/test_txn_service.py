"""Transactional requests by bytes: regions, API versions, durable reads, stale reads, lock waits on a loop."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from txn_client import DO_CHECK, FORCE_LOCK, PESSIMISTIC_LOCK, PUT

from pytikv.codec import envelope, memcomparable
from pytikv.errors import StorageError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.server.cleanup import Cleaner
from pytikv.server.engine.interface import CF_DEFAULT, CF_WRITE, Engine, WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.gc_worker import GcWorker
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.services import pd_routes
from pytikv.server.services.batch_commands import BatchCommands
from pytikv.server.services.kv_service import KvService
from pytikv.server.services.lock_waits import LockWaits
from pytikv.server.services.outcome import Blocking, Durable, Waits
from pytikv.server.services.tikv import AsyncKvService
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import SplitChecker, SplitLimits, Store, open_store
from pytikv.testing.sim import World
from pytikv.wire.server import CallInfo, Unary

encode = memcomparable.encode
SLOT_PESSIMISTIC_LOCK = 23
SLOT_COMMIT = 4


class Kv:
    """A store and its service, asked with messages."""

    def __init__(
        self,
        version: ApiVersion = ApiVersion.V1,
        *,
        engine: Engine | None = None,
        sync: bool = False,
        limits: SplitLimits | None = None,
        time: Callable[[], float] = lambda: 1e9,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.engine = engine or MemoryEngine()
        self.pd = PdServer(EngineMeta(self.engine), time=time, getrandbits=random.Random(1).getrandbits)
        self.store: Store = open_store(
            self.engine,
            self.pd,
            version,
            meta=lambda id: metapb.Store(id=id, address="x:1"),
            now_s=time,
            split_limits=limits,
        )
        self.service = KvService(self.store, sync=sync, now=now)

    def ts(self) -> int:
        return int(self.pd.get_ts(1))

    def context(self, key: bytes = b"", **fields: Any) -> kvrpcpb.Context:
        region = self.store.regions.search(encode(key) if key else b"")
        assert region is not None
        context = kvrpcpb.Context(region_id=region.id, peer=region.peer, region_epoch=region.meta.region_epoch)
        if self.store.api_version is ApiVersion.V2:
            context.api_version = kvrpcpb.V2
        context.MergeFrom(kvrpcpb.Context(**fields))
        return context

    def message(self, rpc: str, route: bytes = b"", **fields: Any) -> Any:
        name = rpc.removeprefix("Kv").removeprefix("KV")
        context = fields.pop("context", None) or self.context(route)
        return getattr(kvrpcpb, f"{name}Request")(context=context, **fields)

    def execute(self, rpc: str, route: bytes = b"", **fields: Any) -> Any:
        return self.service.execute(rpc, self.message(rpc, route, **fields).SerializeToString())

    def call(self, rpc: str, route: bytes = b"", **fields: Any) -> Any:
        """Ask and wait, as far as that needs no loop."""
        name = rpc.removeprefix("Kv").removeprefix("KV")
        data = self.service.perform(rpc, self.message(rpc, route, **fields).SerializeToString())
        return getattr(kvrpcpb, f"{name}Response").FromString(data)

    def prewrite_fields(self, start_ts: int, values: dict[bytes, bytes], **fields: Any) -> dict[str, Any]:
        return {
            "mutations": [kvrpcpb.Mutation(op=PUT, key=key, value=value) for key, value in values.items()],
            "primary_lock": next(iter(values)),
            "start_version": start_ts,
            "lock_ttl": 3000,
            **fields,
        }

    def put(self, key: bytes, value: bytes) -> int:
        start_ts = self.ts()
        assert not self.call("KvPrewrite", key, **self.prewrite_fields(start_ts, {key: value})).errors
        commit_ts = self.ts()
        answer = self.call("KvCommit", key, keys=[key], start_version=start_ts, commit_version=commit_ts)
        assert answer.commit_version == commit_ts
        return commit_ts

    def lock_fields(self, start_ts: int, key: bytes, **fields: Any) -> dict[str, Any]:
        return {
            "mutations": [kvrpcpb.Mutation(op=PESSIMISTIC_LOCK, key=key)],
            "primary_lock": key,
            "start_version": start_ts,
            "for_update_ts": start_ts,
            "lock_ttl": 3000,
            **fields,
        }

    def split(self, *keys: bytes) -> None:
        region = self.store.regions.search(encode(keys[0]))
        assert region is not None
        self.store.split(region, [encode(key) for key in keys])


# --- regions and API versions -----------------------------------------------------------------------------------------


def test_hot_and_slow_snapshot_reads_answer_alike() -> None:
    kv = Kv()
    kv.put(b"a", b"1")
    kv.put(b"empty", b"")
    ts = kv.ts()
    for key, value in ((b"a", b"1"), (b"empty", b""), (b"none", None), (b"", None)):
        answers = [kv.call("KvGet", key=key, version=ts) for _ in range(3)]  # the first takes the long way
        slow = kv.call("KvGet", key=key, version=ts, context=kv.context(resolved_locks=[1]))
        assert all(answer == slow for answer in answers)
        assert (slow.not_found, slow.value) == (value is None, value or b"")
    start_ts = kv.ts()
    kv.call("KvPrewrite", **kv.prewrite_fields(start_ts, {b"a": b"2"}))
    locked = [kv.call("KvGet", key=b"a", version=kv.ts()).error.locked.lock_version for _ in range(2)]
    assert locked == [start_ts] * 2
    assert kv.call("KvGet", key=b"a", version=kv.ts(), context=kv.context(resolved_locks=[start_ts])).value == b"1"
    assert kv.call("KvGet", key=b"a", version=ts, need_commit_ts=True).commit_ts


def test_keys_outside_of_the_region_are_error_texts() -> None:
    kv = Kv()
    kv.put(b"z", b"1")
    kv.split(b"m")
    left = kv.context(b"a")
    for _ in range(2):
        answer = kv.call("KvGet", key=b"z", version=kv.ts(), context=left)
        assert "is out of" in answer.error.abort
    assert kv.call("KvGet", b"z", key=b"z", version=kv.ts()).value == b"1"
    answer = kv.call("KvPrewrite", context=left, **kv.prewrite_fields(kv.ts(), {b"a": b"", b"z": b""}))
    assert "is out of" in answer.errors[0].abort
    answer = kv.call("KvBatchGet", keys=[b"a", b"z"], version=kv.ts(), context=left)
    assert answer.error.abort == answer.pairs[0].error.abort
    answer = kv.call("KvScan", start_key=b"a", end_key=b"z", limit=9, version=kv.ts(), context=left)
    assert "InvalidReqRange" in answer.error.abort
    answer = kv.call("KvDeleteRange", start_key=b"a", end_key=b"z", context=left)
    assert answer.region_error.HasField("key_not_in_region")
    assert kv.call("KvScanLock", max_version=kv.ts(), context=left).locks == []


def test_region_wide_commands_stay_in_their_region() -> None:
    kv = Kv()
    kv.split(b"m")
    start_ts = kv.ts()
    for key in (b"a", b"z"):
        kv.call("KvPrewrite", key, **kv.prewrite_fields(start_ts, {key: b"v"}))
    kv.call("KvResolveLock", b"a", start_version=start_ts)
    assert [len(kv.call("KvScanLock", key, max_version=kv.ts()).locks) for key in (b"a", b"z")] == [0, 1]


@pytest.mark.parametrize(
    ("version", "claim", "key", "accepted"),
    [
        (ApiVersion.V1, kvrpcpb.V1, b"any", True),
        (ApiVersion.V1, kvrpcpb.V2, b"x\0\0\0k", False),
        (ApiVersion.V1TTL, kvrpcpb.V1, b"any", False),
        (ApiVersion.V2, kvrpcpb.V2, b"x\0\0\0k", True),
        (ApiVersion.V2, kvrpcpb.V2, b"r\0\0\0k", False),
        (ApiVersion.V2, kvrpcpb.V2, b"tk", False),
        (ApiVersion.V2, kvrpcpb.V1, b"x\0\0\0k", False),
        (ApiVersion.V2, kvrpcpb.V1, b"tk", True),
        (ApiVersion.V2, kvrpcpb.V1, b"mk", True),
        (ApiVersion.V2, kvrpcpb.V1TTL, b"x\0\0\0k", False),
    ],
)
def test_api_versions(version: ApiVersion, claim: int, key: bytes, accepted: bool) -> None:
    kv = Kv(version)
    context = kv.context()
    context.api_version = claim
    for _ in range(2):  # the second might be remembered
        assert kv.call("KvGet", key=key, version=kv.ts(), context=context).HasField("error") is not accepted
    scanned = kv.call("KvScan", start_key=key, end_key=key + b"\xff", limit=1, version=kv.ts(), context=context)
    assert scanned.HasField("error") is not accepted
    start_ts = kv.ts()
    for answer in (
        kv.call("KvPrewrite", context=context, **kv.prewrite_fields(start_ts, {key: b"v"})),
        kv.call("KvPessimisticLock", context=context, **kv.lock_fields(kv.ts(), key + b"2", wait_timeout=-1)),
        kv.call(
            "KvFlush",
            context=context,
            mutations=[kvrpcpb.Mutation(op=PUT, key=key + b"3")],
            start_ts=kv.ts(),
            generation=1,
        ),
    ):
        assert bool(answer.errors) is not accepted
    # What ends a transaction, or asks for its end, is not checked.
    assert not kv.call("KvBatchRollback", context=context, keys=[key], start_version=start_ts).HasField("error")


def test_a_timestamp_from_the_future_and_a_write_over_the_limit_are_region_errors() -> None:
    kv = Kv()
    answer = kv.call("KvGet", key=b"a", version=kv.ts() + (61_000 << 18))
    assert "invalid max_ts update" in answer.region_error.message
    answer = kv.call("KvPrewrite", **kv.prewrite_fields(kv.ts(), {b"a": b"v" * (9 << 20)}))
    assert answer.region_error.raft_entry_too_large.entry_size > 9 << 20
    answer = kv.call("KvPrewrite", **kv.prewrite_fields(kv.ts(), {b"k" * 8000: b""}))
    assert "KeyTooLarge" in answer.errors[0].abort
    assert kv.call("UnsafeDestroyRange", end_key=b"z").error


def test_a_broken_engine_is_a_region_error_that_says_so() -> None:
    class Full(MemoryEngine):
        fails = False

        def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
            if self.fails:
                raise StorageError("disk full: no space left on device")
            return super().write(batch, sync=sync)

    engine = Full()
    kv = Kv(engine=engine)
    engine.fails = True
    answer = kv.call("KvPrewrite", **kv.prewrite_fields(kv.ts(), {b"a": b""}))
    assert answer.region_error.HasField("disk_full")
    engine.fails = False


# --- durability -------------------------------------------------------------------------------------------------------


def test_reads_wait_for_the_writes_that_they_met() -> None:
    kv = Kv(sync=True)
    kv.put(b"other", b"1")
    start_ts = kv.ts()
    fields = kv.prewrite_fields(start_ts, {b"a": b"1"}, try_one_pc=True)
    written = kv.execute("KvPrewrite", **fields)
    assert isinstance(written, Durable)
    for _ in range(2):
        met = kv.execute("KvGet", key=b"a", version=kv.ts())
        assert isinstance(met, Durable)
        assert met.ticket == written.ticket
        assert isinstance(kv.execute("KvGet", key=b"other", version=kv.ts()), bytes)
    for rpc, more in (
        ("KvScan", {"limit": 9}),
        ("KvBatchGet", {"keys": [b"a", b"b"]}),
    ):
        assert isinstance(kv.execute(rpc, version=kv.ts(), **more), Durable)
    assert isinstance(kv.execute("KvCheckTxnStatus", primary_key=b"a", lock_ts=start_ts), Durable)
    kv.engine.flush()
    kv.service.durable(kv.engine.durable_ticket)
    for _ in range(2):
        assert isinstance(kv.execute("KvGet", key=b"a", version=kv.ts()), bytes)
    assert isinstance(kv.execute("KvScan", limit=9, version=kv.ts()), bytes)


def test_a_write_off_the_loop_is_waited_for_from_its_beginning_on() -> None:
    met: list[Any] = []

    class Watched(MemoryEngine):
        watch: Callable[[], None] | None = None

        def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
            ticket = super().write(batch, sync=sync)
            if self.watch is not None:
                self.watch()
            return ticket

    engine = Watched()
    kv = Kv(engine=engine, sync=True)
    start_ts = kv.ts()
    kv.call("KvPrewrite", **kv.prewrite_fields(start_ts, {b"a": b"1"}))
    outcome = kv.execute("KvResolveLock", start_version=start_ts, commit_version=kv.ts())
    assert isinstance(outcome, Blocking)
    engine.watch = lambda: met.append(kv.execute("KvGet", key=b"a", version=kv.ts()))
    result = outcome.run()
    assert isinstance(result, Durable)
    assert isinstance(met[0], Durable)
    assert met[0].ticket == result.ticket
    engine.watch = None
    assert isinstance(kv.execute("KvGet", key=b"a", version=kv.ts()), Durable)
    kv.engine.flush()
    kv.service.durable(kv.engine.durable_ticket)
    assert isinstance(kv.execute("KvGet", key=b"a", version=kv.ts()), bytes)


# --- stale and replica reads ------------------------------------------------------------------------------------------


def test_a_stale_read_is_served_up_to_the_oldest_lock() -> None:
    now = [1e9]
    kv = Kv(time=lambda: now[0])
    kv.put(b"a", b"1")
    old = kv.ts()
    start_ts = kv.ts()
    kv.call("KvPrewrite", **kv.prewrite_fields(start_ts, {b"b": b"2"}))
    stale = {"context": kv.context(stale_read=True)}
    assert isinstance(kv.execute("KvGet", key=b"a", version=old, **stale), Blocking), "it looks at the locks first"
    assert kv.call("KvGet", key=b"a", version=old, **stale).value == b"1"
    assert isinstance(kv.execute("KvGet", key=b"a", version=old, **stale), bytes), "what is known to be safe stays so"
    refused = kv.call("KvGet", key=b"a", version=kv.ts(), **stale).region_error.data_is_not_ready
    assert (refused.safe_ts, refused.region_id) == (start_ts, kv.context().region_id)
    assert kv.call("KvScan", limit=9, version=kv.ts(), **stale).region_error.HasField("data_is_not_ready")
    assert kv.call("KvBatchGet", keys=[b"a"], version=old, **stale).pairs[0].value == b"1"
    safe = kvrpcpb.StoreSafeTSResponse.FromString(kv.service.perform("GetStoreSafeTS", b""))
    assert safe.safe_ts == start_ts
    kv.call("KvCommit", keys=[b"b"], start_version=start_ts, commit_version=kv.ts())
    read_ts = kv.ts()
    now[0] += 1  # its locks are looked at now and then only
    assert kv.call("KvGet", key=b"b", version=read_ts, **stale).value == b"2"
    assert kv.call("KvGet", key=b"b", version=read_ts, context=kv.context(replica_read=True)).value == b"2"


def test_what_was_safe_stays_so() -> None:
    kv = Kv()
    start_ts = kv.ts()
    read_ts = kv.ts()
    assert kv.call("KvGet", key=b"a", version=read_ts, context=kv.context(stale_read=True)).not_found
    answer = kv.call("KvPrewrite", **kv.prewrite_fields(start_ts, {b"a": b"1"}, try_one_pc=True))
    assert answer.one_pc_commit_ts > read_ts


# --- lock waits on a loop ---------------------------------------------------------------------------------------------


def in_world(body: Callable[[Runtime, Kv, AsyncKvService], Awaitable[None]], **options: Any) -> float:
    """Run in virtual time; return how much of it passed."""
    with World(7) as world:
        rt: Any = world.process("main")
        kv = Kv(**{"now": rt.now, **options})

        async def run() -> None:
            await body(rt, kv, AsyncKvService(rt, kv.service))

        world.run(run(), 2000.0)
        return world.now


async def ask(on_loop: AsyncKvService, kv: Kv, rpc: str, **fields: Any) -> Any:
    answer = on_loop.handle(rpc, kv.message(rpc, **fields).SerializeToString())
    data = answer if isinstance(answer, bytes) else await answer
    name = rpc.removeprefix("Kv").removeprefix("KV")
    return getattr(kvrpcpb, f"{name}Response").FromString(data)


def test_waits_end_with_the_lock_in_their_turn_and_do_not_block_the_loop() -> None:
    order: list[tuple[int, float]] = []

    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        holder, *waiters = [kv.ts() for _ in range(5)]
        assert not (await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(holder, b"a"))).errors

        async def wait(start_ts: int) -> None:
            answer = await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(start_ts, b"a"))
            assert answer.errors[0].conflict.conflict_ts == holder
            order.append((start_ts, rt.now()))

        tasks = [rt.spawn(wait(start_ts), name="waiter") for start_ts in reversed(waiters)]
        await rt.sleep(0.2)
        assert order == []
        released = rt.now()
        await ask(on_loop, kv, "KVPessimisticRollback", keys=[b"a"], start_version=holder, for_update_ts=holder)
        await rt.sleep(0.2)
        assert all(task.done() for task in tasks)
        assert order[0][0] == waiters[0]
        assert sorted(start_ts for start_ts, _ in order) == waiters
        assert [round(when - released, 3) for _, when in order] == [0, 0.02, 0.02, 0.02]

    in_world(body)


def test_a_wait_ends_at_its_time() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        holder = kv.ts()
        await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(holder, b"a"))
        for wait_timeout, seconds in ((300, 0.3), (0, 1.0), (99_000, 1.0), (-1, 0.0)):
            began = rt.now()
            fields = kv.lock_fields(kv.ts(), b"a", wait_timeout=wait_timeout)
            answer = await ask(on_loop, kv, "KvPessimisticLock", **fields)
            assert answer.errors[0].locked.lock_version == holder
            assert rt.now() - began == pytest.approx(seconds, abs=0.002)
        assert len(kv.store.txn.runner.queues) == 0

    in_world(body)


def test_a_cancelled_call_leaves_the_queue() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        holder = kv.ts()
        await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(holder, b"a"))
        task = rt.spawn(ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(kv.ts(), b"a")), name="waiter")
        await rt.sleep(0.1)
        assert len(kv.store.txn.runner.queues) == 1
        task.cancel()
        await rt.sleep(0)
        assert len(kv.store.txn.runner.queues) == 0

    in_world(body)


def test_a_resumed_wait_is_answered_when_its_lock_is_durable() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        holder, waiter = kv.ts(), kv.ts()
        await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(holder, b"a"))
        fields = kv.lock_fields(waiter, b"a", wake_up_mode=FORCE_LOCK)
        tickets: list[int] = []

        async def wait() -> None:
            answer = await ask(on_loop, kv, "KvPessimisticLock", **fields)
            tickets.append(kv.engine.durable_ticket)
            assert answer.results[0].locked_with_conflict_ts

        rt.spawn(wait(), name="waiter")
        await rt.sleep(0.1)
        prewrite = kv.prewrite_fields(holder, {b"a": b"1"}, for_update_ts=holder, pessimistic_actions=[DO_CHECK])
        await ask(on_loop, kv, "KvPrewrite", **prewrite)
        await ask(on_loop, kv, "KvCommit", keys=[b"a"], start_version=holder, commit_version=kv.ts())
        await rt.sleep(0.1)
        assert tickets
        assert tickets[0] >= 4, "lock, prewrite, commit and the waiter's own lock"

    in_world(body, sync=True)


class Stream:
    """What a BatchCommands handler writes to."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.finished: tuple[int, str] | None = None

    def send(self, message: bytes) -> None:
        self.answers += [ident for _, _, ident in envelope.decode(message)]

    def finish(self, status: int = 0, message: str = "") -> None:
        self.finished = status, message


def test_batch_commands_answer_a_wait_later_and_end_after_it() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        stream: Any = Stream()
        handler = BatchCommands(on_loop, stream)
        holder = kv.ts()

        def command(rpc: str, slot: int, ident: int, **fields: Any) -> tuple[int, bytes, int]:
            return slot, kv.message(rpc, **fields).SerializeToString(), ident

        locking = [
            command("KvPessimisticLock", SLOT_PESSIMISTIC_LOCK, n, **kv.lock_fields(ts, b"a"))
            for n, ts in ((1, holder), (2, kv.ts()))
        ]
        handler.on_message(envelope.encode(locking))
        handler.on_message(envelope.encode([command("KvCommit", SLOT_COMMIT, 3, keys=[b"x"], start_version=1)]))
        handler.on_half_close()
        await rt.sleep(0.5)
        assert stream.answers == [1, 3]
        assert stream.finished is None
        await rt.sleep(0.6)
        assert stream.answers == [1, 3, 2]
        assert stream.finished == (0, "")

    in_world(body)


def test_a_delay_is_dropped_with_the_last_wait() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        waits = LockWaits(rt, kv.store.txn)
        called: list[int] = []
        waits.call_later(0.01, lambda: called.append(1))
        await rt.sleep(0.1)
        assert called == [], "nobody waits"
        await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(kv.ts(), b"a"))
        outcome = kv.execute("KvPessimisticLock", **kv.lock_fields(kv.ts(), b"a"))
        assert isinstance(outcome, Waits)
        task = rt.spawn(waits.finish(outcome.waiting), name="wait")
        waits.call_later(0.3, lambda: called.append(2))
        await rt.sleep(0.5)
        assert called == [1, 2]
        waits.call_later(0.9, lambda: called.append(3))
        await rt.sleep(2.0)
        assert task.done()
        assert called == [1, 2]

    in_world(body)


# --- both kinds of data in one store ----------------------------------------------------------------------------------


def test_raw_and_transactional_data_live_side_by_side_under_api_v2() -> None:
    now = [1e9]

    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        keys = [b"x\0\0\0%d" % i for i in range(20)]
        stamps = {key: [kv.put(key, b"%d" % n * 300) for n in range(3)] for key in keys}
        for i in range(20):
            for n in range(3):
                assert not kv.call("RawPut", key=b"r\0\0\0%d" % i, value=b"%d" % n).error
        raw_before = kv.call("RawChecksum", algorithm=0, ranges=[kvrpcpb.KeyRange(start_key=b"r", end_key=b"s")])
        now[0] += 10_000
        cleaner = Cleaner(rt, kv.store)
        await rt.sleep(601)
        await cleaner.step()
        assert len(list(kv.engine.scan(CF_DEFAULT, encode(b"r"), encode(b"s")))) == 20, "one version of each"
        for key, versions in stamps.items():
            for n, ts in enumerate(versions):
                assert kv.call("KvGet", key=key, version=ts).value == b"%d" % n * 300
        kv.pd.advance_txn_safe_point(kv.ts())
        kv.pd.advance_gc_safe_point(kv.pd.gc_states.txn_safe_point)
        await GcWorker(rt, kv.store).step()
        assert len(list(kv.engine.scan(CF_WRITE))) == 20
        assert kv.call("KvGet", key=keys[7], version=kv.ts()).value == b"2" * 300
        raw_after = kv.call("RawChecksum", algorithm=0, ranges=[kvrpcpb.KeyRange(start_key=b"r", end_key=b"s")])
        assert raw_after == raw_before
        assert raw_after.total_kvs == 20

    in_world(body, version=ApiVersion.V2, time=lambda: now[0])


def test_versions_make_a_region_grow_and_are_never_cut_apart() -> None:
    kv = Kv(limits=SplitLimits(size_bytes=10**9, keys=50))
    for i in range(12):
        for n in range(10):
            kv.put(b"key%02d" % i, b"%d" % n)
    checker = SplitChecker(kv.store)
    while checker.due():
        checker.step()
    borders = [entry.start_key for entry in kv.store.regions.entries[1:]]
    assert borders
    assert all(memcomparable.decode(border)[1] == b"" for border in borders)
    for i in range(12):
        key = b"key%02d" % i
        assert kv.call("KvGet", key, key=key, version=kv.ts()).value == b"9"


# --- garbage collection -----------------------------------------------------------------------------------------------


def test_the_worker_follows_pds_safe_point() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        stamps = [kv.put(b"a", b"%d" % n) for n in range(6)]
        worker = GcWorker(rt, kv.store)
        await worker.step()
        assert len(list(kv.engine.scan(CF_WRITE))) == 6
        routes = pd_routes(rt, kv.pd)

        async def pd(name: str, target: int) -> None:
            request = getattr(pdpb, f"{name}Request")(target=target)
            request.header.cluster_id = kv.pd.cluster_id
            route = routes[b"/pdpb.PD/" + name.encode()]
            assert isinstance(route, Unary)
            answer = route.handler(request.SerializeToString(), CallInfo(b"", [], None, "test"))
            data = answer if isinstance(answer, bytes) else await answer
            assert not getattr(pdpb, f"{name}Response").FromString(data).header.HasField("error")

        await pd("AdvanceTxnSafePoint", stamps[4])
        await worker.step()
        assert len(list(kv.engine.scan(CF_WRITE))) == 6, "transactions may still resolve their locks"
        await pd("AdvanceGCSafePoint", stamps[3])
        await worker.step()
        assert len(list(kv.engine.scan(CF_WRITE))) == 3
        assert worker.done_up_to == stamps[3]
        await pd("AdvanceGCSafePoint", stamps[4])
        await worker.step()
        assert len(list(kv.engine.scan(CF_WRITE))) == 2

    in_world(body)


def test_a_failing_step_ends_the_round_and_the_next_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryEngine):
        fails = False

        def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
            if self.fails:
                raise StorageError("no space left")
            return super().write(batch, sync=sync)

    engine = Failing()

    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        stamps = [kv.put(b"a", b"%d" % n) for n in range(6)]
        kv.pd.advance_txn_safe_point(stamps[-1])
        kv.pd.advance_gc_safe_point(stamps[-1])
        worker = GcWorker(rt, kv.store)
        engine.fails = True
        await worker.step()
        assert "no space left" in caplog.text
        assert worker.done_up_to == 0
        engine.fails = False
        await worker.step()
        assert len(list(kv.engine.scan(CF_WRITE))) == 1

    in_world(body, engine=engine)
