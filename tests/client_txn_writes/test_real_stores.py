"""The same transactions against real stores: embedded in memory and on disk, and a server over sockets, v1 and v2.

The blocking client drives them here, so that threads, the housekeeper and connections take part. A client that dies is
one whose backend lets no further request out; what it had sent stays sent.
"""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytikv
from pytikv.client.txn.background import Background
from pytikv.errors import (
    ClientClosed,
    CommitUndetermined,
    InvalidArgument,
    KeyExists,
    KeyLocked,
    LockTimeout,
    Outcome,
    TikvError,
    WriteConflict,
)

PLACES = ["memory", "disk", "server v1", "server v2"]
TWO_PC = {"async_commit": False, "one_pc": False}
KINDS: dict[str, dict[str, Any]] = {
    "2PC": TWO_PC,
    "async commit": {"one_pc": False},
    "1PC": {},
    "pessimistic 2PC": {"pessimistic": True, **TWO_PC},
    "pessimistic async commit": {"pessimistic": True, "one_pc": False},
    "pessimistic 1PC": {"pessimistic": True},
    "fair": {"pessimistic": True, "fair_locking": True},
    "pipelined": {"pipelined": True, "flush_keys": 2, "flush_bytes": 1},
}


class Place:
    """A store, and clients of it."""

    def __init__(self, url: str, options: dict[str, Any], split: Callable[[bytes], None]) -> None:
        self.url = url
        self.options = options
        self.split = split
        self.clients: list[pytikv.TransactionClient] = []
        self.server: Any = None

    def client(self, **options: Any) -> pytikv.TransactionClient:
        made = pytikv.TransactionClient.connect(self.url, **{**self.options, **options})
        self.clients.append(made)
        return made

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, serving: Any, tmp_path: Path) -> Iterator[Place]:
    kind = request.param
    if not kind.startswith("server"):
        url = f"embedded://{tmp_path}/db" if kind == "disk" else f"embedded://:memory:{tmp_path.name}"
        made = Place(url, {}, lambda key: None)
        made.client()  # keeps the store open
        yield made
        report = made.clients[0].check_consistency()
        assert report.is_sound, str(report)
        made.close()
        return
    with serving(kind[-1], {}) as server:

        def split(key: bytes) -> None:
            codec = made.client()._core._backend.codec
            border = codec.region_key(codec.encode_key(key))
            store = server.server.store
            entries = store.regions.entries
            region = next(e for e in entries if e.start_key <= border and not (e.end_key and border >= e.end_key))
            if region.start_key != border:
                store.split(region, [border])

        made = Place(server.url, {"api_version": server.api_version}, split)
        made.server = server
        try:
            yield made
        finally:
            made.close()
        server.server.store.txn.check_consistency().raise_for_damage()


class Dying:
    """A backend that dies at the request with the number `at`, before or after it is served."""

    def __init__(self, inner: Any, at: int, *, served: bool) -> None:
        self._inner = inner
        self._at = at
        self._served = served
        self.sent = 0
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def timestamp(self, deadline: float) -> Any:
        return await self._step(lambda: self._inner.timestamp(deadline))

    async def send(self, rpc: Any, region: Any, request: Any, call: Any, *context: Any) -> Any:
        return await self._step(lambda: self._inner.send(rpc, region, request, call, *context))

    async def _step(self, do: Callable[[], Any]) -> Any:
        if self.is_dead:
            raise ClientClosed("it is dead")
        number, self.sent = self.sent, self.sent + 1
        if number != self._at:
            return await do()
        if self._served:
            await do()
        self.is_dead = True
        raise ClientClosed("it dies")


def write(client: Any, pairs: dict[bytes, bytes], **options: Any) -> Any:
    with client.begin(**options) as txn:
        for key, value in pairs.items():
            txn.put(key, value)
    return txn


# --- what programs do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_day_in_the_life(place: Place, kind: str) -> None:
    place.split(b"c")
    db, options = place.client(), KINDS[kind]
    write(db, {b"a": b"1", b"b": b"1", b"d": b"1"})
    with db.begin(**options) as txn:
        assert txn.get(b"a") == b"1"
        txn.put(b"a", b"2")
        txn.delete(b"b")
        txn.insert(b"c", b"2")
        assert txn.batch_get([b"d", b"c", b"b", b"a"]) == {b"d": b"1", b"c": b"2", b"a": b"2"}
        if kind != "pipelined":
            txn.get_for_update(b"d")
            assert list(txn.scan()) == [(b"a", b"2"), (b"c", b"2"), (b"d", b"1")]
            with txn.savepoint() as block:
                txn.put(b"e", b"2")
                block.rollback()
        assert db.snapshot().get(b"a") == b"1"
    assert txn.outcome is Outcome.APPLIED
    assert txn.commit_ts is not None
    assert list(db.snapshot().scan(reverse=True)) == [(b"d", b"1"), (b"c", b"2"), (b"a", b"2")]
    assert db.snapshot(txn.commit_ts - 1).get(b"a") == b"1"
    with pytest.raises(InvalidArgument, match="has been committed"):
        txn.get(b"a")
    with pytest.raises(ZeroDivisionError), db.begin(**options) as failed:
        failed.put(b"a", b"%d" % (1 // 0))
    assert db.snapshot().get(b"a") == b"2"


def test_conflicts_and_locks(place: Place) -> None:
    db, other = place.client(), place.client()
    write(db, {b"a": b"1"})
    late = db.begin()
    late.put(b"a", b"late")
    write(other, {b"a": b"2"})
    with pytest.raises(WriteConflict):
        late.commit()
    assert late.outcome is Outcome.NOT_APPLIED
    with db.begin() as txn:
        txn.put(b"b", b"1")
        txn.put(b"a", b"3")
    held = db.begin(pessimistic=True)
    assert held.get_for_update(b"a") == b"3"
    with other.begin(pessimistic=True) as txn:
        with pytest.raises(KeyLocked) as met:
            txn.lock_keys([b"a"], wait=0)
        assert met.value.lock_ts == held.start_ts
        with pytest.raises(LockTimeout):
            txn.get_for_update(b"a", wait=0.1)
        with pytest.raises(KeyExists):
            txn.insert(b"b", b"1")
        txn.put(b"b", b"2")
    held.rollback()
    assert db.snapshot().batch_get([b"a", b"b"]) == {b"a": b"3", b"b": b"2"}


def test_a_lock_is_handed_over_between_threads(place: Place) -> None:
    db = place.client()
    held = db.begin(pessimistic=True)
    held.put(b"a", b"1")
    found: list[bytes | None] = []

    def wait() -> None:
        with db.begin(pessimistic=True) as txn:
            found.append(txn.get_for_update(b"a"))
            txn.put(b"a", b"2")

    thread = threading.Thread(target=wait)
    thread.start()
    held.commit()
    thread.join(10)
    assert found == [b"1"]
    assert db.snapshot().get(b"a") == b"2"


@pytest.mark.parametrize("options", [{}, {"pessimistic": True}, {"pessimistic": True, "fair_locking": True}], ids=str)
def test_money_is_moved_and_none_is_made(place: Place, options: dict[str, Any]) -> None:
    place.split(b"account 3")
    db = place.client()
    accounts = [b"account %d" % number for number in range(6)]
    write(db, dict.fromkeys(accounts, b"100"))
    failures: list[BaseException] = []

    def transfer(txn: Any, source: bytes, target: bytes, amount: int) -> None:
        read = txn.get_for_update if options else txn.get
        have = {key: int(read(key)) for key in sorted((source, target))}
        txn.put(source, b"%d" % (have[source] - amount))
        txn.put(target, b"%d" % (have[target] + amount))

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(10):
                source, target = rng.sample(accounts, 2)
                db.run(transfer, source, target, rng.randrange(1, 20), attempts=1000, **options)
                assert sum(map(int, db.snapshot().batch_get(accounts).values())) == 600
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sum(int(value) for _, value in db.snapshot().scan()) == 600


def test_large_transactions(place: Place) -> None:
    place.split(b"k02000")
    db = place.client()
    pairs = {b"k%05d" % number: b"v%d" % number * 10 for number in range(5000)}
    txn = write(db, pairs)
    assert txn.outcome is Outcome.APPLIED
    assert dict(db.snapshot().scan(batch_size=1000)) == pairs
    newer = dict.fromkeys(pairs, b"new")
    txn = write(db, newer, pipelined=True, flush_keys=500, flush_bytes=1)
    assert txn.outcome is Outcome.APPLIED
    assert dict(db.snapshot().scan(batch_size=1000)) == newer
    with db.begin(pessimistic=True) as locked:
        assert len(locked.batch_get_for_update(list(pairs)[:2500])) == 2500
        for key in list(pairs)[:2500]:
            locked.delete(key)
    assert len(list(db.snapshot().scan(keys_only=True))) == 2500


# --- threads, interruption, closing -----------------------------------------------------------------------------------


def test_two_threads_on_one_transaction_are_refused(place: Place) -> None:
    db = place.client()
    held = db.begin(pessimistic=True)
    held.lock_keys([b"a"])
    txn = db.begin(pessimistic=True)
    ended: list[BaseException | None] = []

    def wait() -> None:
        try:
            txn.lock_keys([b"a"], wait=5)
            ended.append(None)
        except TikvError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while txn._core._life._token:  # until the thread has begun
        pass
    for operation in (lambda: txn.get(b"b"), lambda: txn.put(b"b", b"1"), txn.commit, txn.rollback):
        with pytest.raises(InvalidArgument, match="one task or thread at a time"):
            operation()
    held.rollback()
    thread.join(10)
    assert ended == [None]
    txn.rollback()


def test_ctrl_c_in_a_commit_keeps_the_outcome(place: Place) -> None:
    db = place.client()

    def interrupt(_: int) -> bool:
        raise KeyboardInterrupt

    txn = db.begin(commit_ts_check=interrupt)
    txn.put(b"a", b"1")
    with pytest.raises(KeyboardInterrupt):
        txn.commit()
    assert txn.outcome is Outcome.NOT_APPLIED
    write(db, {b"a": b"2"})
    assert db.snapshot().get(b"a") == b"2"


@pytest.mark.filterwarnings("ignore:transaction .* was neither:ResourceWarning")
def test_closing_lets_secondaries_finish_and_open_transactions_fail(place: Place) -> None:
    place.split(b"b")
    db, reader = place.client(), place.client()
    txn = write(db, {b"a": b"1", b"c": b"1"}, **TWO_PC)
    left = db.begin()
    left.put(b"a", b"2")
    db.close()
    with pytest.raises(ClientClosed):
        left.commit()
    assert left.outcome is Outcome.NOT_APPLIED
    del left
    gc.collect()  # it warns, here
    assert reader.snapshot(txn.commit_ts).batch_get([b"a", b"c"]) == {b"a": b"1", b"c": b"1"}


# --- a client that dies -----------------------------------------------------------------------------------------------

KEYS = [b"a", b"b", b"c", b"d"]


# Over sockets, a timestamp that tells whether a lock is over may be two seconds old: a kind of each sort must do there.
DEATHS = [
    *((place, kind) for place in ("memory", "disk") for kind in KINDS),
    *(("server v1", kind) for kind in ("2PC", "pipelined")),
    *(("server v2", kind) for kind in ("2PC", "async commit", "1PC", "pessimistic async commit")),
]


@pytest.mark.parametrize("served", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("place", "kind"), DEATHS, indirect=["place"])
def test_the_next_reader_sees_all_or_nothing(place: Place, kind: str, served: bool) -> None:
    """Killed at each request in turn, until a transaction gets through; the locks live for a moment only."""
    place.split(b"c")
    db = place.client()
    write(db, dict.fromkeys(KEYS, b"0"))
    last, steps = b"0", 0
    options = {**KINDS[kind], "lock_ttl_ms": 30}
    if kind == "pipelined":
        return _pipelined_dies(place, db, served)
    while True:
        victim, value = place.client(), b"%d" % (steps + 1)
        dying = Dying(victim._core._backend, steps, served=served)
        victim._core._backend = dying  # type: ignore[assignment]
        outcome = None
        with contextlib.suppress(TikvError):
            outcome = write(victim, dict.fromkeys(KEYS, value), **options).outcome
        seen = db.snapshot().batch_get(KEYS)
        assert set(seen.values()) in ({last}, {value}), f"torn at request {steps}"
        if outcome is Outcome.APPLIED:
            assert set(seen.values()) == {value}
        last = seen[KEYS[0]]
        assert db.snapshot().batch_get(KEYS) == seen
        write(db, seen)  # nothing stands in the way for longer than it lives
        victim.close()
        place.clients.remove(victim)
        if not dying.is_dead:
            break
        steps += 1
    assert steps >= 2
    assert last == b"%d" % (steps + 1)


def _pipelined_dies(place: Place, db: Any, served: bool) -> None:
    """Flushed locks live for 20 s; readers push them aside meanwhile, so only what readers see is looked at."""
    for step in range(8):
        keys = [b"%d %d" % (step, number) for number in range(4)]
        victim = place.client()
        dying = Dying(victim._core._backend, step, served=served)
        victim._core._backend = dying  # type: ignore[assignment]
        with contextlib.suppress(TikvError):
            write(victim, dict.fromkeys(keys, b"1"), **KINDS["pipelined"])
        assert len(db.snapshot().batch_get(keys)) in (0, 4)
        victim.close()
        place.clients.remove(victim)


# --- answers that the wire loses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["2PC", "async commit", "1PC", "pessimistic 2PC"])
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "for ever"])
@pytest.mark.parametrize("place", ["server v2"], indirect=True)
def test_the_answer_that_commits_is_lost_on_the_wire(
    place: Place, kind: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store does what it is asked, and its answer never comes: every such RPC ends in gRPC's INTERNAL."""
    place.split(b"c")
    db, reader = place.client(timeout=1.0), place.client()
    write(db, dict.fromkeys(KEYS, b"old"))
    assert db._rt.run(Background.of(db._core._backend).drain(db._rt.now() + 10))
    name = "KvCommit" if "2PC" in kind else "KvPrewrite"
    left = [times]
    storage = place.server.server.store.txn
    execute = storage.execute

    def lose(called: str, *arguments: Any) -> Any:
        answer = execute(called, *arguments)
        if called == name and left[0] > 0:
            left[0] -= 1
            raise RuntimeError("the answer was lost")
        return answer

    monkeypatch.setattr(storage, "execute", lose)
    txn = db.begin(**KINDS[kind])
    keys = KEYS[:2] if kind == "1PC" else KEYS
    for key in keys:
        txn.put(key, b"new")
    if times == 1:
        txn.commit()
        assert txn.outcome is Outcome.APPLIED
    else:
        with pytest.raises(CommitUndetermined):
            txn.commit()
        assert txn.outcome is Outcome.UNDETERMINED
    assert left[0] < times
    left[0] = 0
    assert reader.snapshot().batch_get(keys) == dict.fromkeys(keys, b"new")
