"""Readers beside writers and the garbage collector: what was read at a timestamp stays what is there.

This is the claim of `mvcc.point_getter`: a key is read without a snapshot, and yet no commit comes to lie below a
timestamp that was read at.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import Engine
from pytikv.server.mvcc.errors import KeyIsLocked
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.txn_storage import Done, TxnStorage

COMMITS_MIN = 500
COMMITS_MAX = 20_000
SEEN = 8
"""The writer goes on until readers have met so many of its values in the midst of it."""
KEYS = (b"a", b"b")


class Racers:
    def __init__(self, engine: Engine) -> None:
        counter = itertools.count(1 << 58)
        self.now = lambda: next(counter)
        self.storage = TxnStorage(engine, ApiVersion.V1, now_s=lambda: 0.0, current_ts=self.now)
        self.is_over = threading.Event()
        self.reads: list[tuple[bytes, int, bytes | None]] = []
        self.failures: list[BaseException] = []
        self.safe_point = 0

    def call(self, name: str, request: kvrpcpb.PrewriteRequest | kvrpcpb.CommitRequest) -> Done:
        done = self.storage.execute(name, request)
        assert isinstance(done, Done)
        return done

    def commit(self, n: int, mode: int) -> None:
        value = (b"%d " % n) * (100 if n % 3 == 0 else 1)
        start_ts = self.now()
        request = kvrpcpb.PrewriteRequest(
            mutations=[kvrpcpb.Mutation(op=kvrpcpb.Op.Put, key=key, value=value) for key in KEYS],
            primary_lock=KEYS[0],
            start_version=start_ts,
            lock_ttl=100_000,
            use_async_commit=mode > 0,
            try_one_pc=mode > 1,
            secondaries=KEYS[1:] if mode == 1 else (),
        )
        response = self.call("KvPrewrite", request).response
        assert isinstance(response, kvrpcpb.PrewriteResponse)
        assert not response.errors
        if response.one_pc_commit_ts:
            return
        commit_ts = response.min_commit_ts or self.now()
        committing = kvrpcpb.CommitRequest(start_version=start_ts, keys=KEYS, commit_version=commit_ts)
        assert not self.call("KvCommit", committing).response.HasField("error")

    def write(self) -> None:
        for n in range(COMMITS_MAX):
            self.commit(n, n % 3)
            if n > COMMITS_MIN and len({value for _, _, value in self.reads[:]}) > SEEN:
                break
        self.is_over.set()

    def read(self) -> None:
        for key in itertools.cycle(KEYS):
            ts = self.now()
            with contextlib.suppress(KeyIsLocked):
                self.reads.append((key, ts, self.storage.get(key, ts)))
            if self.is_over.is_set():
                return

    def read_and_move_the_safe_point(self) -> None:
        while not self.is_over.is_set():
            ts = self.now()
            for key in KEYS:
                with contextlib.suppress(KeyIsLocked):
                    self.reads.append((key, ts, self.storage.get(key, ts)))
            self.safe_point = ts - 1  # the next reads are above it

    def collect(self) -> None:
        while not self.is_over.is_set():
            position: bytes | None = b""
            while position is not None:
                position = self.storage.gc_step(self.safe_point, position, limit=20)

    def race(self, *bodies: Callable[[], None]) -> None:
        threads = [threading.Thread(target=self._run, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not self.failures
        self.storage.check_consistency().raise_for_damage()

    def _run(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            self.failures.append(error)
            self.is_over.set()


@pytest.fixture(autouse=True)
def threads_change_places_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_what_was_read_stays(engine: Engine) -> None:
    racers = Racers(engine)
    racers.race(racers.read, racers.read, racers.write)
    assert len({value for _, _, value in racers.reads}) > SEEN, "the readers saw nothing of the writers"
    for key, ts, value in racers.reads:
        assert racers.storage.get(key, ts) == value, f"{key!r} at {ts} changed afterwards"


def test_collecting_garbage_disturbs_no_reader(engine: Engine) -> None:
    racers = Racers(engine)
    racers.race(racers.collect, racers.read_and_move_the_safe_point, racers.write)
    numbers = [int(value.split()[0]) for key, _, value in racers.reads if key == KEYS[0] and value is not None]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 2
