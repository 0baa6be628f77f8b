"""Reading at a timestamp: values, locks in the way, pages, what is remembered, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import pytikv
from pytikv.client.pages import drain
from pytikv.client.txn import snapshot_reader
from pytikv.client.txn.background import Background
from pytikv.errors import (
    ConnectionFailed,
    InvalidArgument,
    KeyLocked,
    Outcome,
    ServerError,
    SnapshotTooOld,
    WriteConflict,
    WrongType,
)
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP, Timestamp, Versioned

PESSIMISTIC = {"lock_type": kvrpcpb.PessimisticLock, "value": None}
VERSIONS = [1, 2]


def keys(low: int, high: int) -> list[bytes]:
    return [b"k%04d" % n for n in range(low, high)]


def fill(store: Any, low: int, high: int) -> dict[bytes, bytes]:
    pairs = {key: b"v" + key for key in keys(low, high)}
    store.commit(**{key.decode(): value for key, value in pairs.items()})
    return pairs


async def scan_all(reader: Any, start: bytes | None = None, end: bytes | None = None, **options: Any) -> list[Any]:
    return await drain(reader.scan(start, end, **options))


# --- plain reads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_reads_see_their_moment(world: Any, scripted: Any, version: int) -> None:
    store = scripted(version=version)

    async def body() -> None:
        store.commit(a=b"1", b=b"1", c=b"1")
        between = store.now_ts()
        store.commit(a=b"2", b=None, d=b"2")
        old, new = store.reader(between), store.reader()
        assert [await old.get(key) for key in (b"a", b"b", b"d")] == [b"1", b"1", None]
        assert [await new.get(key) for key in (b"a", b"b", b"d")] == [b"2", None, b"2"]
        store.split(b"b", b"c")
        assert await old.batch_get([b"d", b"c", b"b", b"a"]) == {b"c": b"1", b"b": b"1", b"a": b"1"}
        assert list(await new.batch_get([b"d", b"c", b"b", b"a"])) == [b"d", b"c", b"a"]
        assert await scan_all(old) == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
        assert await scan_all(new, reverse=True) == [(b"d", b"2"), (b"c", b"1"), (b"a", b"2")]

    world.run(body())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "end"), [(None, None), (b"k0100", b"k0901"), (b"k0300", None), (None, b"k0300")])
def test_scans_over_regions(world: Any, scripted: Any, version: int, reverse: bool, start: Any, end: Any) -> None:
    store = scripted(version=version)

    async def body() -> None:
        pairs = fill(store, 0, 1000)
        store.split(b"k0050", b"k0100", b"k0300", b"k0999")
        wanted = [pair for pair in pairs.items() if pair[0] >= (start or b"") and (not end or pair[0] < end)]
        wanted = wanted[::-1] if reverse else wanted
        reader = store.reader()
        assert await scan_all(reader, start, end, reverse=reverse, batch_size=100) == wanted
        assert await scan_all(reader, start, end, reverse=reverse, batch_size=7, limit=40) == wanted[:40]
        only_keys = await scan_all(reader, start, end, reverse=reverse, keys_only=True)
        assert only_keys == [(key, b"") for key, _ in wanted]
        assert all(one.key_only for one in store.requests("KvScan")[-3:])
        assert await scan_all(reader, b"x", b"y") == []
        sent = len(store.calls)
        assert await scan_all(reader, b"k2", b"k1") == await scan_all(reader, limit=0) == []
        assert len(store.calls) == sent

    world.run(body())


def test_pages_grow_and_end_with_their_region(world: Any, store: Any) -> None:
    async def body() -> None:
        fill(store, 0, 1000)
        store.split(b"k0005")
        assert len(await scan_all(store.reader(), batch_size=10)) == 1000
        requests = store.requests("KvScan")
        assert [request.limit for request in requests[:6]] == [10, 10, 20, 40, 80, 160]
        assert requests[-1].limit == 160
        assert requests[0].end_key == b"k0005", "no further than its region"
        assert [len(requests), requests[1].start_key, requests[-1].end_key] == [11, b"k0005", b""]
        await scan_all(store.reader(), b"k0000", b"k0003")
        assert store.requests("KvScan")[-1].end_key == b"k0003", "no further than the range"
        await scan_all(store.reader(), batch_size=10, limit=30)
        assert [request.limit for request in store.requests("KvScan")[-3:]] == [10, 10, 15]

    world.run(body())


def test_pages_of_large_values_do_not_grow(world: Any, store: Any) -> None:
    async def body() -> None:
        store.commit(**{f"k{n:03}": bytes(200_000) for n in range(40)})
        assert len(await scan_all(store.reader(), batch_size=8)) == 40
        assert {request.limit for request in store.requests("KvScan")} == {8}

    world.run(body())


def test_batches_are_cut_and_sent_at_once(world: Any, store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshot_reader, "KEYS_PER_REQUEST", 30)

    async def body() -> None:
        pairs = fill(store, 0, 200)
        store.split(b"k0050", b"k0100")
        began = store.rt.now()
        assert await store.reader().batch_get([*reversed(pairs), b"none"]) == dict(reversed(pairs.items()))
        assert store.rt.now() - began < 0.001
        assert sorted(len(one.keys) for one in store.requests("KvBatchGet")) == [11, 20, 20, 30, 30, 30, 30, 30]

    world.run(body())


def test_splits_in_between(world: Any, store: Any) -> None:
    async def body() -> None:
        pairs = fill(store, 0, 200)
        cuts = iter(keys(20, 200)[::20])

        def fault(name: str, request: Any, place: Any) -> None:
            if name != "gc_state" and len(store.calls) % 2 and (cut := next(cuts, None)):
                store.split(cut)

        store.fault = fault
        reader = store.reader()
        assert await reader.get(b"k0150") == b"vk0150"
        assert await reader.batch_get(list(pairs)) == pairs
        assert await scan_all(store.reader(), batch_size=30) == list(pairs.items())
        assert await scan_all(store.reader(), batch_size=30, reverse=True) == list(pairs.items())[::-1]

    world.run(body())


# --- locks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["before primary", "after commit", "after a later commit", "alive", "async commit"])
@pytest.mark.parametrize("way", ["get", "batch_get", "scan", "reverse", "with commit_ts"])
def test_locks_of_a_crashed_client(world: Any, store: Any, state: str, way: str) -> None:
    """All or nothing is seen, whatever way leads there, and nobody waits."""

    async def body() -> None:
        store.split(b"k0002")
        fill(store, 0, 4)
        start_ts = store.now_ts(ago_ms=10_000 if state in ("before primary", "async commit") else 0)
        names = keys(0, 4)
        extra: dict[str, Any] = {}
        if state == "async commit":
            secondaries = [store.wire(key) for key in names]
            store.lock(b"p", start_ts, use_async_commit=True, secondaries=secondaries, min_commit_ts=start_ts + 1)
            extra = {"use_async_commit": True, "min_commit_ts": store.now_ts()}
        for key in names:
            store.lock(key, start_ts, txn_size=4, **extra)
        if state == "alive":
            store.lock(b"p", start_ts)
        read_ts = store.now_ts()
        if state == "after commit":
            store.apply(b"p", start_ts, read_ts, b"new")
        if state == "after a later commit":
            store.apply(b"p", start_ts, read_ts + 5, b"new")
        began = store.rt.now()
        found = await read(store.reader(read_ts), way, names)
        is_new = state in ("after commit", "async commit")
        assert found == {key: b"new" if is_new else b"v" + key for key in names}
        assert store.rt.now() - began < 0.1
        assert await Background.of(store).drain(store.rt.now() + 60)
        assert len(store.requests("KvCheckTxnStatus")) <= 2
        for key in names:  # a reader passes over what it knows of; whoever comes anew cleans up
            await store.reader(read_ts).get(key)
        assert await Background.of(store).drain(store.rt.now() + 60)
        assert bool(store.locks) == (state == "alive")

    world.run(body())


async def read(reader: Any, way: str, names: list[bytes]) -> dict[bytes, bytes]:
    if way == "get":
        return {key: await reader.get(key) for key in names}
    if way == "with commit_ts":
        found = {key: await reader.get_with_commit_ts(key) for key in names}
        assert all(commit_ts > 0 for _, commit_ts in found.values())
        return {key: value for key, (value, _) in found.items()}
    if way == "batch_get":
        found = await reader.batch_get(names)
        assert list(found) == names
        return found
    return dict(await scan_all(reader, b"k", b"l", reverse=way == "reverse"))


def test_a_large_transaction_under_way_is_waited_for(world: Any, store: Any) -> None:
    """One that no reader may push (min_commit_ts 0): until its primary is committed, or its time is over."""

    async def body() -> None:
        store.commit(k=b"old")
        start_ts = store.now_ts()
        store.lock(b"p", start_ts, min_commit_ts=0, lock_ttl=400)
        store.lock(b"k", start_ts, min_commit_ts=0, lock_ttl=400)
        began = store.rt.now()
        assert await store.reader().get(b"k") == b"old"
        assert 0.4 <= store.rt.now() - began < 0.5

    world.run(body())


def test_a_living_lock_outlasts_the_call(world: Any, store: Any, failing: Any) -> None:
    async def body() -> None:
        store.lock(b"p", store.now_ts(), min_commit_ts=0, lock_ttl=60_000)
        reader = store.reader()
        began = store.rt.now()
        for work in (lambda: reader.get(b"p"), lambda: reader.batch_get([b"p"]), lambda: scan_all(reader)):
            with pytikv.deadline(0.5):
                error = await failing(work())
            assert isinstance(error, KeyLocked)
            assert error.outcome is Outcome.NOT_APPLIED
        assert store.rt.now() - began <= 1.5

    world.run(body())


def test_pessimistic_locks_do_not_concern_readers(world: Any, store: Any) -> None:
    async def body() -> None:
        store.commit(k=b"1")
        store.lock(b"k", store.now_ts(), **PESSIMISTIC)
        assert await store.reader().get(b"k") == b"1"
        assert await scan_all(store.reader()) == [(b"k", b"1")]
        assert "KvCheckTxnStatus" not in store.names()

    world.run(body())


def test_a_lock_in_memory_concerns_the_whole_answer(world: Any, store: Any) -> None:
    async def body() -> None:
        pairs = fill(store, 0, 50)
        start_ts = store.now_ts()
        store.lock(b"p", start_ts)
        store.memory_lock = kvrpcpb.LockInfo(key=b"k0007", primary_lock=b"p", lock_version=start_ts, lock_ttl=3000)
        assert await store.reader().batch_get(list(pairs)) == pairs
        assert await scan_all(store.reader(), b"k", b"l") == list(pairs.items())

    world.run(body())


def test_what_a_reader_learnt_of_locks_it_keeps(world: Any, store: Any) -> None:
    async def body() -> None:
        start_ts = store.now_ts()
        for key in keys(0, 5):
            store.lock(key, start_ts, min_commit_ts=start_ts + 1)
        store.lock(b"p", start_ts)
        reader = store.reader()
        for key in keys(0, 5):
            assert await reader.get(key) is None
        assert store.names().count("KvCheckTxnStatus") == 1
        assert store.names().count("KvGet") == 6

    world.run(body())


def test_a_page_with_locks_is_handed_out_up_to_the_first(world: Any, store: Any) -> None:
    async def body() -> None:
        pairs = fill(store, 0, 100)
        start_ts = store.now_ts()
        store.lock(b"p", start_ts)
        for key in (b"k0030", b"k0031", b"k0090"):
            store.lock(key, start_ts)
        scan = store.reader().scan(b"k", b"l")
        assert [len(await scan.next_page()), len(await scan.next_page()), await scan.next_page()] == [30, 70, []]
        backwards = store.reader().scan(b"k", b"l", reverse=True)
        assert await drain(backwards) == list(pairs.items())[::-1]
        assert store.names().count("KvCheckTxnStatus") == 2, "once for each reader"

    world.run(body())


@pytest.mark.parametrize("way", ["get", "batch_get", "scan", "with commit_ts"])
def test_refusals_are_raised(world: Any, store: Any, failing: Any, way: str) -> None:
    async def body() -> None:
        store.commit(k=b"1")
        refusal = kvrpcpb.KeyError(abort="Error(KeyTooLarge { size: 9036, limit: 8192 })")
        answers = {
            "KvGet": kvrpcpb.GetResponse(error=refusal),
            "KvBatchGet": kvrpcpb.BatchGetResponse(error=refusal, pairs=[kvrpcpb.KvPair(error=refusal)]),
            "KvScan": kvrpcpb.ScanResponse(pairs=[kvrpcpb.KvPair(error=refusal)]),
        }
        store.fault = lambda name, request, place: answers.get(name)
        error = await failing(read(store.reader(), way, [b"k"]))
        assert isinstance(error, InvalidArgument)
        assert "max-key-size" in str(error)

    world.run(body())


def test_a_resolver_in_doubt_leaves_the_reader_without(world: Any, store: Any, failing: Any) -> None:
    async def body() -> None:
        lock = store.lock(b"p", store.now_ts())
        lost = ServerError("the answer was lost", outcome=Outcome.UNDETERMINED)
        store.fault = lambda name, request, place: lost if name == "KvCheckTxnStatus" else None
        error = await failing(store.reader().get(lock.key))
        assert error.outcome is Outcome.NOT_APPLIED

    world.run(body())


# --- isolation and options --------------------------------------------------------------------------------------------


def test_rc_passes_locks_over(world: Any, store: Any) -> None:
    async def body() -> None:
        store.commit(k=b"1")
        store.lock(b"k", store.now_ts())
        assert await store.reader(isolation="RC").get(b"k") == b"1"
        assert "KvCheckTxnStatus" not in store.names()

    world.run(body())


def test_rc_check_ts(world: Any, store: Any, failing: Any) -> None:
    async def body() -> None:
        early = store.now_ts()
        commit_ts = store.commit(k=b"1")
        for way in ("get", "batch_get", "scan"):
            error = await failing(read(store.reader(early, isolation="RCCheckTS"), way, [b"k"]))
            assert isinstance(error, WriteConflict)
            assert (error.reason, error.conflict_commit_ts) == ("RcCheckTs", commit_ts)
        assert await store.reader(isolation="RCCheckTS").get(b"k") == b"1"

    world.run(body())


def test_options_reach_every_request(world: Any, store: Any) -> None:
    async def body() -> None:
        fill(store, 0, 3)
        reader = store.reader(
            priority="low", not_fill_cache=True, replica_read="closest", task_id=9, request_source="x", sample_step=2
        )
        await reader.get(b"k0000")
        await reader.batch_get([b"k0001"])
        await scan_all(reader)
        assert store.requests("KvScan")[0].sample_step == 2
        for _, _, context in [call for call in store.calls if call[0].startswith("Kv")]:
            assert (context.priority, context.not_fill_cache, context.replica_read) == ("low", True, "closest")
            assert (context.task_id, context.request_source) == (9, "x")

    world.run(body())


def test_keys_only_as_an_option(world: Any, store: Any) -> None:
    async def body() -> None:
        fill(store, 0, 2)
        found = [pair async for pair in store.snapshot(keys_only=True).scan()]
        assert found == [(b"k0000", b""), (b"k0001", b"")]

    world.run(body())


@pytest.mark.parametrize("way", ["get", "batch_get", "scan"])
def test_a_stale_read_that_meets_a_lock_goes_to_the_leader(world: Any, store: Any, way: str) -> None:
    async def body() -> None:
        store.commit(k=b"1")
        start_ts = store.now_ts()
        store.lock(b"p", start_ts)
        store.lock(b"k", start_ts)
        assert await read(store.reader(stale_read=True), way, [b"k"]) == {b"k": b"1"}
        contexts = [context for name, _, context in store.calls if name in ("KvGet", "KvBatchGet", "KvScan")]
        assert [(one.stale_read, one.replica_read) for one in contexts] == [(True, None), (False, "leader")]

    world.run(body())


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_values_are_read_once(world: Any, store: Any) -> None:
    async def body() -> None:
        fill(store, 0, 4)
        reader = store.reader()
        for _ in range(2):
            assert await reader.get(b"k0000") == b"vk0000"
            assert await reader.get(b"none") is None
            found = await reader.batch_get([b"k0002", b"none", b"k0000", b"k0001"])
            assert list(found) == [b"k0002", b"k0000", b"k0001"]
        assert store.names().count("KvGet") == 2
        assert [sorted(one.keys) for one in store.requests("KvBatchGet")] == [[b"k0001", b"k0002"]]
        plain = store.reader(cache=False)
        for _ in range(2):
            assert await plain.get(b"k0000") == b"vk0000"
        assert store.names().count("KvGet") == 4

    world.run(body())


def test_what_is_kept_has_a_bound(world: Any, store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshot_reader, "CACHE_BYTES", 1000)

    async def body() -> None:
        pairs = fill(store, 0, 50)
        reader = store.reader()
        assert await reader.batch_get(list(pairs)) == await reader.batch_get(list(pairs)) == pairs
        first, second = (len(one.keys) for one in store.requests("KvBatchGet"))
        assert first == 50
        assert 40 <= second < 50

    world.run(body())


# --- the latest, timestamps -------------------------------------------------------------------------------------------


def test_the_latest_without_a_timestamp(world: Any, store: Any, failing: Any) -> None:
    """A point read at the greatest timestamp costs nothing of the oracle and sees each commit."""

    async def body() -> None:
        latest = store.snapshot(MAX_TIMESTAMP)
        store.commit(k=b"1")
        assert await latest.get(b"k") == b"1"
        start_ts = store.now_ts()
        store.lock(b"p", start_ts)
        store.lock(b"k", start_ts, value=b"2")
        store.fault = pushed_for_max
        assert await latest.get(b"k") == b"1", "not committed yet"
        del store.locks[b"p"]
        store.apply(b"p", start_ts, store.now_ts(), b"2")
        assert await latest.get(b"k") == b"2"
        assert store.oracle_calls == 0
        assert await latest.batch_get([b"k"]) == {b"k": b"2"}
        for many in (latest._scan(None, None, None, False, False, 256).next_page(), latest.batch_get([b"k", b"l"])):
            assert isinstance(await failing(many), InvalidArgument)

    def pushed_for_max(name: str, request: Any, place: Any) -> Any:
        held = store.locks.get(b"p")
        if name == "KvCheckTxnStatus" and held is not None and request.caller_start_ts == MAX_TIMESTAMP:
            action = kvrpcpb.MinCommitTSPushed
            return kvrpcpb.CheckTxnStatusResponse(lock_ttl=3000, action=action, lock_info=held.info)
        return None

    world.run(body())


def test_a_snapshot_fetches_its_timestamp_once(world: Any, store: Any) -> None:
    async def body() -> None:
        fill(store, 0, 3)
        snapshot = store.snapshot()
        assert snapshot.ts is None
        found = await store.rt.gather(*(snapshot.get(key) for key in keys(0, 3)))
        assert found == [b"vk0000", b"vk0001", b"vk0002"]
        assert store.oracle_calls == 1
        assert isinstance(snapshot.ts, Timestamp)
        fill(store, 3, 6)
        assert await snapshot.get(b"k0004") is None
        assert await snapshot.batch_get(iter(keys(0, 6))) == {key: b"v" + key for key in keys(0, 3)}
        assert [key async for key, _ in snapshot.scan_prefix(b"k", reverse=True)] == keys(0, 3)[::-1]
        assert await snapshot.batch_get([]) == {}
        assert store.oracle_calls == 1
        now = await store.snapshot()
        fill(store, 6, 7)
        assert now.ts is not None
        assert await now.get(b"k0006") is None
        assert await now is now
        assert store.oracle_calls == 2

    world.run(body())


def test_values_with_their_commit_ts(world: Any, store: Any) -> None:
    async def body() -> None:
        commit_ts = store.commit(k=b"1")
        snapshot = store.snapshot()
        assert await snapshot.get_with_commit_ts(b"k") == Versioned(b"1", Timestamp(commit_ts))
        assert await snapshot.get_with_commit_ts(b"none") is None

    world.run(body())


def test_the_future_is_refused(world: Any, store: Any, failing: Any) -> None:
    async def body() -> None:
        snapshot = store.snapshot(store.now_ts(ago_ms=-60_000))
        assert isinstance(await failing(snapshot.get(b"k")), InvalidArgument)
        assert store.calls == []

    world.run(body())


@pytest.mark.parametrize(
    "misuse",
    [
        lambda snapshot: snapshot.get("k"),
        lambda snapshot: snapshot.get_with_commit_ts(None),
        lambda snapshot: snapshot.batch_get(b"k"),
        lambda snapshot: snapshot.batch_get([b"k", 1]),
        lambda snapshot: snapshot._scan("a", None, None, False, False, 256).next_page(),
        lambda snapshot: snapshot._scan(None, None, "3", False, False, 256).next_page(),
    ],
)
def test_wrong_types(world: Any, store: Any, misuse: Any) -> None:
    async def body() -> None:
        with pytest.raises(WrongType):
            await misuse(store.snapshot())
        assert store.calls == []

    world.run(body())


# --- visibility -------------------------------------------------------------------------------------------------------


def old_state(safe_point: int) -> Any:
    from pytikv.client.txn.backend import GcState

    return GcState(safe_point, 0)


@pytest.mark.parametrize("way", ["get", "batch_get", "scan", "with commit_ts"])
def test_below_the_safe_point(world: Any, store: Any, failing: Any, way: str) -> None:
    async def body() -> None:
        store.commit(k=b"1")
        store.safe_points = old_state(store.now_ts(ago_ms=60_000))
        error = await failing(read(store.reader(store.now_ts(ago_ms=60_001)), way, [b"k"]))
        assert isinstance(error, SnapshotTooOld)
        assert store.names().count("gc_state") == 1
        assert await store.reader().get(b"k") == b"1"

    world.run(body())


def test_the_safe_point_is_asked_for_in_the_background(world: Any, store: Any) -> None:
    async def body() -> None:
        store.commit(k=b"1")
        reader = store.reader(cache=False)
        began = store.rt.now()
        assert await reader.get(b"k") == b"1"
        assert store.rt.now() - began < 0.001, "a young timestamp does not wait for it"
        for _ in range(100):
            await store.rt.sleep(0.5)
            await reader.get(b"k")
        assert store.names().count("gc_state") == 5

    world.run(body())


def test_without_word_of_pd(world: Any, store: Any, failing: Any) -> None:
    """Reads go on as long as the safe point known is not too old; then young timestamps still do."""

    async def body() -> None:
        store.commit(k=b"1")
        reader = store.reader(cache=False)
        await reader.get(b"k")
        await store.rt.sleep(1)
        store.fault = lambda name, request, place: ConnectionFailed("no PD") if name == "gc_state" else None
        for _ in range(8):
            await store.rt.sleep(10)
            assert await reader.get(b"k") == b"1"
        await store.rt.sleep(20)
        assert isinstance(await failing(reader.get(b"k")), ConnectionFailed)
        assert await store.reader().get(b"k") == b"1"

    world.run(body())
