"""Snapshots and locks against the real server, over sockets, in both API versions, with regions that split.

Locks are planted as a client leaves them that dies at some step of its commit: by requests made by hand.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import pytikv
from pytikv.client import rpcs
from pytikv.client.request_sender import RegionStale
from pytikv.client.txn.background import Background
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.errors import InvalidArgument, KeyLocked, Outcome, ServerError, SnapshotTooOld, WriteConflict
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP, Timestamp

MODES = ["1", "2"]


class Db:
    """A blocking client of a server in this process, and what a client leaves that dies."""

    def __init__(self, server: Any, client: pytikv.TransactionClient) -> None:
        self.server = server
        self.client = client
        self.backend: Any = client._core._backend
        self.run: Callable[[Any], Any] = client._rt.run

    def wire(self, key: bytes) -> bytes:
        wire: bytes = self.backend.codec.encode_key(key)
        return wire

    def split(self, *keys: bytes) -> None:
        for key in keys:
            border = self.backend.codec.region_key(self.wire(key))
            store = self.server.server.store
            entries = store.regions.entries
            region = next(e for e in entries if e.start_key <= border and not (e.end_key and border >= e.end_key))
            if region.start_key != border:
                store.split(region, [border])

    def now(self, ago_ms: int = 0) -> int:
        now = self.client.current_timestamp()
        return int(Timestamp.compose(now.physical_ms - ago_ms, now.logical))

    def put(self, pairs: dict[bytes, bytes | None]) -> int:
        with self.client.begin() as txn:
            for key, value in pairs.items():
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
        assert txn.commit_ts is not None
        return int(txn.commit_ts)

    def send(self, rpc: Any, key: bytes, request: Any) -> Any:
        async def body() -> Any:
            call = self.backend.call()
            while True:
                try:
                    return await self.backend.send(rpc, await self.backend.find(self.wire(key), call), request, call)
                except RegionStale:
                    continue

        return self.run(body())

    def put_long_ago(self, pairs: dict[bytes, bytes]) -> None:
        """Write at a time that lies before that of the dead clients, whose locks have expired."""
        start_ts, commit_ts = self.now(20_000), self.now(19_000)
        for key, value in pairs.items():
            self.prewrite([key], start_ts, primary=key, value=value)
            assert not self.commit(key, start_ts, commit_ts).HasField("error")

    # --- the client that dies -----------------------------------------------------------------------------------------

    def prewrite(
        self,
        keys: Sequence[bytes],
        start_ts: int,
        *,
        primary: bytes,
        ttl_ms: int = 1000,
        value: bytes = b"new",
        **fields: Any,
    ) -> int:
        """Prewrite `value`; returns the greatest min_commit_ts."""
        latest = 0
        for key in keys:
            mutation = kvrpcpb.Mutation(op=kvrpcpb.Put, key=self.wire(key), value=value)
            request = kvrpcpb.PrewriteRequest(
                mutations=[mutation],
                primary_lock=self.wire(primary),
                start_version=start_ts,
                lock_ttl=ttl_ms,
                **{"txn_size": 1, "min_commit_ts": start_ts + 1, **fields},
            )
            if key != primary:
                del request.secondaries[:]
            answer = self.send(rpcs.KV_PREWRITE, key, request)
            assert not answer.errors, answer
            latest = max(latest, answer.min_commit_ts)
        return latest

    def prewrite_async(self, primary: bytes, keys: Sequence[bytes], start_ts: int, *, but: Sequence[bytes] = ()) -> int:
        fields = {"use_async_commit": True, "secondaries": [self.wire(key) for key in keys], "max_commit_ts": 0}
        return self.prewrite([key for key in (primary, *keys) if key not in but], start_ts, primary=primary, **fields)

    def lock(self, keys: Sequence[bytes], start_ts: int, *, primary: bytes, ttl_ms: int = 1000) -> None:
        for key in keys:
            mutation = kvrpcpb.Mutation(op=kvrpcpb.PessimisticLock, key=self.wire(key))
            request = kvrpcpb.PessimisticLockRequest(
                mutations=[mutation],
                primary_lock=self.wire(primary),
                start_version=start_ts,
                for_update_ts=start_ts,
                lock_ttl=ttl_ms,
                min_commit_ts=start_ts + 1,
            )
            answer = self.send(rpcs.KV_PESSIMISTIC_LOCK, key, request)
            assert not answer.errors, answer

    def commit(self, key: bytes, start_ts: int, commit_ts: int) -> Any:
        request = kvrpcpb.CommitRequest(keys=[self.wire(key)], start_version=start_ts, commit_version=commit_ts)
        return self.send(rpcs.KV_COMMIT, key, request)

    # --- what is left -------------------------------------------------------------------------------------------------

    def locks(self) -> list[bytes]:
        """The keys that are locked, once all background work is done."""
        assert self.run(Background.of(self.backend).drain(self.backend.rt.now() + 20))
        found = []
        low, high = self.backend.codec.encode_range(b"", b"")

        async def body() -> None:
            call = self.backend.call()
            for piece in await self.backend.pieces(low, high, call):
                request = kvrpcpb.ScanLockRequest(
                    max_version=self.newest, start_key=piece.start_key, end_key=piece.end_key, limit=100_000
                )
                answer = await self.backend.send(rpcs.KV_SCAN_LOCK, piece.region, request, call)
                found.extend(self.backend.codec.decode_key(lock.key) for lock in answer.locks)

        self.newest = self.now()
        self.run(body())
        return found


@pytest.fixture(params=MODES)
def db(request: Any, raw_fakes: Any) -> Iterator[Db]:
    """A client of a server of its own."""
    with (
        raw_fakes.Serving(request.param, {}) as server,
        pytikv.TransactionClient.connect(server.url, api_version=server.api_version) as client,
    ):
        yield Db(server, client)


def read(snapshot: Any, way: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    if way == "get":
        return {key: value for key in keys if (value := snapshot.get(key)) is not None}
    if way == "batch_get":
        found: dict[bytes, bytes] = snapshot.batch_get(keys)
        return found
    if way == "with commit_ts":
        return {key: found.value for key in keys if (found := snapshot.get_with_commit_ts(key)) is not None}
    return dict(snapshot.scan(reverse=way == "reverse"))


WAYS = ["get", "batch_get", "scan", "reverse", "with commit_ts"]
KEYS = [b"a", b"h", b"m", b"p", b"z"]
OLD = dict.fromkeys(KEYS, b"old")
NEW = dict.fromkeys(KEYS, b"new")
PRIMARY, SECONDARIES = b"p", [b"a", b"h", b"m", b"z"]


# --- plain reads ------------------------------------------------------------------------------------------------------


def test_any_history_is_read_as_it_was(db: Db) -> None:
    """Random transactions, and snapshots at random moments, against a list of versions; regions split meanwhile."""
    rng = random.Random(5)
    keys = [b"%03d" % n for n in range(120)]
    states: list[tuple[int, dict[bytes, bytes]]] = [(db.now(), {})]
    for step in range(40):
        state = dict(states[-1][1])
        changes: dict[bytes, bytes | None] = {
            key: rng.choice([None, b"%d" % step * rng.choice([1, 200])]) for key in rng.sample(keys, 12)
        }
        states.append((db.put(changes), {**state, **{k: v for k, v in changes.items() if v is not None}}))
        for key in [key for key, value in changes.items() if value is None]:
            states[-1][1].pop(key, None)
        if step % 8 == 3:
            db.split(rng.choice(keys))
        at, wanted = rng.choice(states)
        snapshot = db.client.snapshot(at)
        if step == 20:
            db.split(rng.choice(keys))
        some = rng.sample(keys, 30)
        assert read(snapshot, "batch_get", some) == {key: wanted[key] for key in some if key in wanted}
        assert list(snapshot.scan(batch_size=7)) == sorted(wanted.items())
        assert list(snapshot.scan(b"030", b"090", reverse=True)) == sorted(
            ((k, v) for k, v in wanted.items() if b"030" <= k < b"090"), reverse=True
        )
        assert [snapshot.get(key) for key in some[:10]] == [wanted.get(key) for key in some[:10]]
        assert [key for key, _ in snapshot.scan_prefix(b"05", keys_only=True, limit=3)] == sorted(
            key for key in wanted if key.startswith(b"05")
        )[:3]


def test_splits_under_a_scan(db: Db) -> None:
    pairs = {b"k%04d" % n: b"v%d" % n for n in range(400)}
    db.put(dict(pairs))
    for reverse in (False, True):
        seen = []
        for pair in db.client.snapshot().scan(b"k", b"l", batch_size=10, reverse=reverse):
            seen.append(pair)
            if len(seen) % 60 == 30:
                db.split(pair[0][:-1] + b"5", pair[0][:-2] + b"00")
        assert seen == sorted(pairs.items(), reverse=reverse)
    assert db.client.snapshot().batch_get(list(pairs)) == pairs


def test_asyncio_with_many_in_flight(db: Db) -> None:
    db.put({b"%03d" % n: b"v%d" % n for n in range(300)})

    async def body() -> None:
        url, version = db.server.url, db.server.api_version
        async with await pytikv.AsyncTransactionClient.connect(url, api_version=version) as client:
            snapshot = client.snapshot()
            found = await asyncio.gather(*(snapshot.get(b"%03d" % n) for n in range(300)))
            assert found == [b"v%d" % n for n in range(300)]
            assert len([pair async for pair in snapshot.scan(batch_size=16)]) == 300
            assert (await (await client.snapshot()).batch_get([b"007"])) == {b"007": b"v7"}

    asyncio.run(body())


def test_threads_share_a_snapshot(db: Db) -> None:
    db.put({b"%03d" % n: b"v%d" % n for n in range(100)})
    snapshot = db.client.snapshot()
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                n = rng.randrange(100)
                assert snapshot.get(b"%03d" % n) == b"v%d" % n
                assert len(snapshot.batch_get([b"%03d" % n, b"x"])) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures


def test_the_latest(db: Db) -> None:
    latest = db.client.snapshot(MAX_TIMESTAMP)
    for n in range(3):
        db.put({b"k": b"%d" % n})
        assert latest.get(b"k") == b"%d" % n
    db.prewrite([b"k"], db.now(), primary=b"k", ttl_ms=60_000)
    assert latest.get(b"k") == b"2"
    with pytest.raises(InvalidArgument):
        list(latest.scan())


@pytest.mark.parametrize("options", [{"stale_read": True}, {"replica_read": "follower"}, {"replica_read": "closest"}])
def test_other_replicas(db: Db, options: dict[str, Any]) -> None:
    db.put_long_ago(OLD)
    for way in WAYS:
        assert read(db.client.snapshot(**options), way, KEYS) == OLD


def test_rc(db: Db) -> None:
    db.put_long_ago(OLD)
    early = db.now()
    db.prewrite([b"a"], db.now(), primary=b"a", ttl_ms=60_000)
    assert db.client.snapshot(isolation="RC").get(b"a") == b"old"
    assert db.client.snapshot(early, isolation="RC").batch_get(KEYS) == OLD
    db.put({b"h": b"newer"})
    with pytest.raises(WriteConflict):
        db.client.snapshot(early, isolation="RCCheckTS").get(b"h")


def test_commit_timestamps(db: Db) -> None:
    first, second = db.put({b"k": b"1"}), db.put({b"k": b"2"})
    assert db.client.snapshot().get_with_commit_ts(b"k") == (b"2", second)
    assert db.client.snapshot(second - 1).get_with_commit_ts(b"k") == (b"1", first)
    assert db.client.snapshot(first - 1).get_with_commit_ts(b"k") is None


# --- locks of dead clients --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    """How far a client came before it died, and what must be seen then."""

    plant: Callable[[Db], None]
    wanted: dict[bytes, bytes]
    stays: bool = False
    """Whether the locks stay, because their client may live."""


def _committed_primary(db: Db) -> None:
    start_ts = db.now()
    db.prewrite(KEYS, start_ts, primary=PRIMARY, ttl_ms=60_000)
    answer = db.commit(PRIMARY, start_ts, db.now())
    assert not answer.HasField("error")


CASES = {
    "secondaries only": Case(lambda db: _ignore(db.prewrite(SECONDARIES, db.now(10_000), primary=PRIMARY)), OLD),
    "all prewritten": Case(lambda db: _ignore(db.prewrite(KEYS, db.now(10_000), primary=PRIMARY)), OLD),
    "primary committed": Case(_committed_primary, NEW),
    "async commit": Case(lambda db: _ignore(db.prewrite_async(PRIMARY, SECONDARIES, db.now(10_000))), NEW),
    "async commit, one missing": Case(
        lambda db: _ignore(db.prewrite_async(PRIMARY, SECONDARIES, db.now(10_000), but=[b"h"])), OLD
    ),
    "async commit, primary missing": Case(
        lambda db: _ignore(db.prewrite_async(PRIMARY, SECONDARIES, db.now(10_000), but=[PRIMARY])), OLD
    ),
    "alive": Case(lambda db: _ignore(db.prewrite(KEYS, db.now(), primary=PRIMARY, ttl_ms=60_000)), OLD, stays=True),
    "pessimistic": Case(lambda db: db.lock(KEYS, db.now(10_000), primary=PRIMARY), OLD, stays=True),
    "pessimistic, alive": Case(lambda db: db.lock(KEYS, db.now(), primary=PRIMARY, ttl_ms=60_000), OLD, stays=True),
}


def _ignore(value: object) -> None:
    """A lambda that returns nothing."""


def _finish(db: Db) -> None:
    """End what is planted to stay, as its client would."""
    for lock in _infos(db):
        request: Any
        if lock.lock_type == kvrpcpb.PessimisticLock:
            request = kvrpcpb.PessimisticRollbackRequest(
                start_version=lock.lock_version, for_update_ts=MAX_TIMESTAMP, keys=[lock.key]
            )
            rpc = rpcs.KV_PESSIMISTIC_ROLLBACK
        else:
            request = kvrpcpb.BatchRollbackRequest(start_version=lock.lock_version, keys=[lock.key])
            rpc = rpcs.KV_BATCH_ROLLBACK
        db.send(rpc, db.backend.codec.decode_key(lock.key), request)


def _infos(db: Db) -> list[Any]:
    infos = []
    for key in db.locks():
        request = kvrpcpb.ScanLockRequest(
            max_version=db.newest, start_key=db.wire(key), end_key=db.wire(key + b"\x00"), limit=1
        )
        infos += db.send(rpcs.KV_SCAN_LOCK, key, request).locks
    return infos


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_readers_see_all_or_nothing(db: Db, case: Case, way: str) -> None:
    db.split(b"g", b"n")
    db.put_long_ago(OLD)
    case.plant(db)
    db.split(b"k")
    assert read(db.client.snapshot(), way, KEYS) == case.wanted
    if case.stays:
        assert sorted(db.locks()) == KEYS
        _finish(db)
    else:
        for key in db.locks():  # a reader passes over what it knows of; whoever comes anew cleans up
            assert db.client.snapshot().get(key) == case.wanted[key]
        assert db.locks() == []
    assert read(db.client.snapshot(), "scan", KEYS) == case.wanted


@pytest.mark.parametrize(
    ("case", "pessimistic"),
    [
        *((case, False) for case in CASES if "alive" not in case),
        ("async commit", True),  # the store lets it wait for a second before it tells
        ("pessimistic", True),
    ],
)
def test_writers_get_past_the_dead(db: Db, case: str, pessimistic: bool) -> None:
    db.split(b"g", b"n")
    db.put_long_ago(OLD)
    CASES[case].plant(db)
    with db.client.begin(pessimistic=pessimistic) as txn:
        if pessimistic:
            txn.lock_keys(KEYS)
        assert txn.batch_get(KEYS) == CASES[case].wanted
        for key in KEYS:
            txn.put(key, b"mine")
    assert db.locks() == []
    assert db.client.snapshot().batch_get(KEYS) == dict.fromkeys(KEYS, b"mine")


def test_a_reader_is_protected_from_the_commit_it_passed_over(db: Db) -> None:
    """Whoever lives must commit after the reader that did not see it."""
    db.put_long_ago(OLD)
    start_ts = db.now()
    db.prewrite(KEYS, start_ts, primary=PRIMARY, ttl_ms=60_000)
    early = db.now()
    snapshot = db.client.snapshot()
    assert snapshot.batch_get(KEYS) == OLD
    answer = db.commit(PRIMARY, start_ts, early)
    assert answer.error.HasField("commit_ts_expired")
    assert answer.error.commit_ts_expired.min_commit_ts > snapshot.ts
    assert not db.commit(PRIMARY, start_ts, db.now()).HasField("error")
    assert snapshot.batch_get(KEYS) == read(snapshot, "scan", KEYS) == OLD
    assert db.client.snapshot().batch_get(KEYS) == NEW


def test_a_lock_that_cannot_be_pushed_is_waited_for(db: Db) -> None:
    db.put_long_ago(OLD)
    db.prewrite(KEYS, db.now(), primary=PRIMARY, ttl_ms=60_000, min_commit_ts=0)
    with pytikv.deadline(1.5), pytest.raises(KeyLocked) as caught:
        db.client.snapshot().batch_get(KEYS)
    assert caught.value.outcome is Outcome.NOT_APPLIED


def test_a_short_life_is_waited_for(db: Db) -> None:
    db.put_long_ago(OLD)
    db.prewrite(KEYS, db.now(), primary=PRIMARY, ttl_ms=300, min_commit_ts=0)
    assert db.client.snapshot().batch_get(KEYS) == OLD
    assert db.locks() == []


def test_many_leftover_locks(db: Db) -> None:
    """The locks of a large transaction go region by region, whoever meets them, not key by key."""
    names = [b"k%04d" % n for n in range(2000)]
    db.split(b"k0500", b"k1000", b"k1500")
    start_ts = db.now(10_000)

    async def plant() -> None:
        call = db.backend.call()
        wire = [db.wire(name) for name in names]
        for region, keys in await db.backend.group(wire, None, call):
            request = kvrpcpb.PrewriteRequest(
                mutations=[kvrpcpb.Mutation(op=kvrpcpb.Put, key=key, value=b"new") for key in keys],
                primary_lock=wire[0],
                start_version=start_ts,
                lock_ttl=1000,
                txn_size=len(keys) + 512,
                min_commit_ts=start_ts + 1,
            )
            assert not (await db.backend.send(rpcs.KV_PREWRITE, region, request, call)).errors

    db.run(plant())
    sent: list[Any] = []
    resolve = LockResolver._send_resolve

    async def watched(self: Any, region: Any, request: Any, call: Any) -> None:
        sent.append(request)
        await resolve(self, region, request, call)

    LockResolver._send_resolve = watched  # type: ignore[method-assign]
    try:
        assert db.client.snapshot().batch_get(names) == {}
        assert db.locks() == []
    finally:
        LockResolver._send_resolve = resolve  # type: ignore[method-assign]
    assert len(sent) == 4
    assert not any(request.keys for request in sent)


def test_threads_that_meet_the_same_locks_ask_together(db: Db) -> None:
    names = [b"k%02d" % n for n in range(32)]
    start_ts = db.now()
    db.prewrite([*names, b"p"], start_ts, primary=b"p", ttl_ms=60_000, txn_size=600)
    assert not db.commit(b"p", start_ts, db.now()).HasField("error")
    asked: list[int] = []
    ask = LockResolver._ask

    async def watched(self: Any, rpc: Any, key: bytes, request: Any, call: Any) -> Any:
        asked.append(request.lock_ts)
        return await ask(self, rpc, key, request, call)

    found: dict[bytes, bytes | None] = {}

    def work(mine: list[bytes]) -> None:
        snapshot = db.client.snapshot()
        for key in mine:
            found[key] = snapshot.get(key)

    LockResolver._ask = watched  # type: ignore[method-assign]
    try:
        threads = [threading.Thread(target=work, args=(names[at::8],)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        LockResolver._ask = ask  # type: ignore[method-assign]
    assert found == dict.fromkeys(names, b"new")
    assert set(asked) == {start_ts}
    assert len(asked) < 4, "one who looked before the answer was there and asks after it may ask again"
    assert db.locks() == []


# --- garbage collection -----------------------------------------------------------------------------------------------


def test_for_gc(db: Db) -> None:
    """All locks below a safe point are ended, whatever their time to live."""
    db.put_long_ago(OLD)
    db.prewrite([b"a", b"h"], db.now(), primary=b"a", ttl_ms=60_000)
    db.lock([b"m"], db.now(), primary=b"m", ttl_ms=60_000)
    start_ts = db.now()
    db.prewrite([b"p", b"z"], start_ts, primary=b"p", ttl_ms=60_000)
    db.commit(b"p", start_ts, db.now())
    infos = _infos(db)
    assert len(infos) == 4

    async def body() -> None:
        call = db.backend.call()
        for region, keys in await db.backend.group([info.key for info in infos], None, call):
            met = [info for info in infos if info.key in keys]
            await LockResolver.of(db.backend).resolve_for_gc(met, region, call)

    db.run(body())
    assert db.locks() == []
    assert db.client.snapshot().batch_get(KEYS) == {**OLD, b"p": b"new", b"z": b"new"}


def test_barriers_and_safe_points(db: Db) -> None:
    backend, deadline = db.backend, db.backend.rt.now() + 10
    first, second, third = db.now(ago_ms=9000), db.now(ago_ms=8000), db.now(ago_ms=7000)
    db.run(backend.set_gc_barrier("backup", second, 60, deadline))
    state = db.run(backend.advance_txn_safe_point(first, deadline))
    assert (state.txn_safe_point, state.blocker) == (first, "")
    state = db.run(backend.advance_txn_safe_point(third, deadline))
    assert state.txn_safe_point == second
    assert "backup" in state.blocker
    with pytest.raises(InvalidArgument):
        db.run(backend.set_gc_barrier("late", first, 60, deadline))
    db.run(backend.delete_gc_barrier("backup", deadline))
    db.run(backend.delete_gc_barrier("backup", deadline))
    assert db.run(backend.advance_txn_safe_point(third, deadline)).txn_safe_point == third
    assert db.run(backend.advance_txn_safe_point(first, deadline)).txn_safe_point == third
    assert db.run(backend.advance_gc_safe_point(second, deadline)).gc_safe_point == second
    with pytest.raises(ServerError):
        db.run(backend.advance_gc_safe_point(third + 1, deadline))
    assert db.run(backend.gc_state(deadline)).gc_safe_point == second


def test_scattering(db: Db) -> None:
    async def body() -> None:
        call = db.backend.call()
        region = await db.backend.find(db.wire(b"k"), call)
        await db.backend.scatter_region(region.id, call.backoffer.deadline)
        assert await db.backend.is_scattered(region.id, call.backoffer.deadline)

    db.run(body())


def test_below_the_safe_point(db: Db) -> None:
    db.put_long_ago(OLD)
    deadline = db.backend.rt.now() + 10
    state = db.run(db.backend.advance_txn_safe_point(db.now(ago_ms=60_000), deadline))
    assert db.client.snapshot(state.txn_safe_point).get(b"a") is None
    with pytest.raises(SnapshotTooOld):
        db.client.snapshot(state.txn_safe_point - 1).get(b"a")
    assert db.client.snapshot().batch_get(KEYS) == OLD
