"""Traffic that goes on for a while, for something to look at in metrics, traces and logs.

Threads draw calls at random: raw reads, writes, batches and scans on keys of their own; and transactions that move
money between a few accounts which all want, optimistic and pessimistic by turns, with audits by snapshot. So there are
conflicts, retries, waits for locks, and reads that meet locks, as in a busy shop. The sum of the accounts is checked in
every audit. A crowd of asyncio readers asks for many keys at once, every now and then.

An error of the store is counted by its code and the thread goes on: traffic outlives stores that come and go. Limits:
it ends after `seconds`, or when `stop` is called; a call under way is waited for. Keys lie under
`pytikv-demo/traffic/` and stay there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytikv.errors import TikvError

if TYPE_CHECKING:
    from pytikv import RawClient, Transaction, TransactionClient

__all__ = ["Traffic", "TrafficReport"]

PREFIX = b"pytikv-demo/traffic/"
_RAW = PREFIX + b"raw/"
_ACCOUNTS = [PREFIX + b"account/%d" % number for number in range(4)]
_PURSE = 1_000
_KEYS = 2_000
_BATCH = 20


@dataclasses.dataclass(slots=True)
class TrafficReport:
    """What went: calls by what they did, errors by code, audits whose sum was wrong (never)."""

    calls: Counter[str] = dataclasses.field(default_factory=Counter)
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong_audits: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "calls": dict(self.calls.most_common()),
            "errors": dict(self.errors.most_common()),
            "wrong_audits": self.wrong_audits,
            "seconds": round(self.seconds, 3),
        }


class Traffic:
    """Calls at about `per_second` by `workers` threads; with `url`, the crowd comes too, by a client of its own.

    `run` blocks; `stop` may be called from any thread.
    """

    def __init__(
        self,
        client: RawClient,
        db: TransactionClient,
        *,
        url: str = "",
        workers: int = 8,
        per_second: float = 200.0,
        seed: int = 2013,
    ) -> None:
        self._client = client
        self._db = db
        self._url = url
        self._workers = workers
        self._pause_s = workers / per_second
        self._seed = seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._actions: list[tuple[str, Callable[[random.Random], object], int]] = [
            ("get", self._get, 30),
            ("put", self._put, 15),
            ("batch_get", self._batch_get, 8),
            ("batch_put", self._batch_put, 5),
            ("scan", self._scan, 5),
            ("transfer, optimistic", self._transfer, 15),
            ("transfer, pessimistic", self._transfer_pessimistic, 15),
            ("audit", self._audit, 10),
        ]
        self.report = TrafficReport()

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._stop.set()

    def run(self, seconds: float) -> TrafficReport:
        """Open the accounts, let the threads go for `seconds`. Raises TikvError when the accounts cannot be opened."""
        started = time.perf_counter()
        self._db.run(self._open)
        threads = [
            threading.Thread(target=self._work, args=(number,), name=f"traffic-{number}")
            for number in range(self._workers)
        ]
        if self._url:
            threads.append(threading.Thread(target=asyncio.run, args=(self._crowd(),), name="traffic-crowd"))
        for thread in threads:
            thread.start()
        try:
            self._stop.wait(seconds)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self.report.seconds = time.perf_counter() - started
        return self.report

    def _open(self, txn: Transaction) -> None:
        for key in _ACCOUNTS:
            txn.put(key, b"%d" % _PURSE)

    def _work(self, number: int) -> None:
        import pytikv

        rng = random.Random(f"{self._seed} {number}")
        weights = [weight for _, _, weight in self._actions]
        while not self._stop.wait(rng.uniform(0, 2 * self._pause_s)):
            name, act, _ = rng.choices(self._actions, weights)[0]
            try:
                with pytikv.context(trace_id=rng.randbytes(16).hex()):  # what a request from outside would bring along
                    act(rng)
            except TikvError as error:
                self._count(name, error.code)
            else:
                self._count(name, "")

    def _count(self, name: str, error: str) -> None:
        with self._lock:
            self.report.calls[name] += 1
            if error:
                self.report.errors[error] += 1

    async def _crowd(self) -> None:
        """Let 50 readers ask at once, four times a second."""
        import pytikv

        rng = random.Random(self._seed)
        async with await pytikv.AsyncRawClient.connect(self._url) as client:
            while not self._stop.is_set():
                answers = await asyncio.gather(*(client.get(_key(rng)) for _ in range(50)), return_exceptions=True)
                for answer in answers:
                    if isinstance(answer, BaseException) and not isinstance(answer, TikvError):
                        raise answer
                    self._count("get, of a crowd", answer.code if isinstance(answer, TikvError) else "")
                await asyncio.sleep(0.25)

    # --- what is done -------------------------------------------------------------------------------------------------

    def _get(self, rng: random.Random) -> None:
        self._client.get(_key(rng))

    def _put(self, rng: random.Random) -> None:
        self._client.put(_key(rng), rng.randbytes(100))

    def _batch_get(self, rng: random.Random) -> None:
        self._client.batch_get([_key(rng) for _ in range(_BATCH)])

    def _batch_put(self, rng: random.Random) -> None:
        self._client.batch_put({_key(rng): rng.randbytes(100) for _ in range(_BATCH)})

    def _scan(self, rng: random.Random) -> None:
        list(self._client.scan(_key(rng), _RAW + b"\xff", limit=_BATCH))

    def _transfer(self, rng: random.Random) -> None:
        with self._db.begin() as txn:
            pair = rng.sample(_ACCOUNTS, 2)
            self._move(txn, pair, txn.batch_get(pair), rng)

    def _transfer_pessimistic(self, rng: random.Random) -> None:
        with self._db.begin(pessimistic=True) as txn:
            pair = rng.sample(_ACCOUNTS, 2)
            # Locked in one order, so that nobody waits in a circle; read as of the lock, not as of start_ts.
            purses = {key: txn.get_for_update(key) or b"" for key in sorted(pair)}
            self._move(txn, pair, purses, rng)

    def _move(self, txn: Transaction, pair: list[bytes], purses: dict[bytes, bytes], rng: random.Random) -> None:
        """Move a coin from one to the other; the short thought before it is where others get in the way."""
        giver, taker = pair
        self._stop.wait(rng.uniform(0, 0.005))
        txn.put(giver, b"%d" % (int(purses[giver]) - 1))
        txn.put(taker, b"%d" % (int(purses[taker]) + 1))

    def _audit(self, rng: random.Random) -> None:
        purses = self._db.snapshot().batch_get(_ACCOUNTS)
        if sum(map(int, purses.values())) != _PURSE * len(_ACCOUNTS):
            with self._lock:
                self.report.wrong_audits += 1


def _key(rng: random.Random) -> bytes:
    return _RAW + b"%06d" % rng.randrange(_KEYS)
