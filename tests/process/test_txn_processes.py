"""Transactions of real processes on a real server: clients and servers that are killed, stopped or interrupted.

What the simulated worlds of `client_txn_writes` show with each request in hand is shown here once more with the
operating system in between: all or nothing, the outcome holds, nothing waits longer than it may.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytikv
from pytikv.errors import Outcome, TikvError

pytestmark = pytest.mark.process

TWO_PC = {"async_commit": False, "one_pc": False}
KINDS: dict[str, dict[str, Any]] = {
    "2PC": TWO_PC,
    "async commit": {"one_pc": False},
    "pessimistic": {"pessimistic": True},
    "pipelined": {"pipelined": True, "flush_keys": 1, "flush_bytes": 1},
}
KEYS = [b"a", b"m", b"z"]
BORDERS = [b"f", b"t"]  # three regions
TTL_MS = 200


class Child:
    """A Python process that says a line now and then."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(json.dumps, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: object) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(program: str, *arguments: object) -> Child:
        children.append(Child(program, *arguments))
        return children[-1]

    yield start
    for child in children:
        child.close()


# --- killed clients, killed servers -----------------------------------------------------------------------------------

DYING = """
import json, os, signal, sys, traceback
import pytikv
from pytikv.client.txn.remote import RemoteTxn

def work(url, at, served, options, value, keys):
    send = RemoteTxn.send
    left = at

    async def dying(self, *args):
        nonlocal left
        left -= 1
        if left == -1 and not served:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await send(self, *args)
        if left < 0 and served:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    with pytikv.TransactionClient.connect(url) as db:
        txn = db.begin(**options)
        RemoteTxn.send = dying
        for key in keys:
            txn.put(key.encode(), value.encode())
        txn.commit()

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            work(*json.loads(line))
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def check_all_or_nothing(url: str, old: bytes, new: bytes, *, must_be_new: bool) -> None:
    with pytikv.TransactionClient.connect(url) as db, pytikv.deadline(8):
        found = db.snapshot().batch_get(KEYS)
        assert set(found) == set(KEYS)
        values = set(found.values())
        assert values == {new} or (values == {old} and not must_be_new), values
        assert dict(db.snapshot().scan()) == found
        with db.begin() as txn:  # and no lock stands in a writer's way
            for key in KEYS:
                txn.put(key, new)


@pytest.mark.parametrize(
    ("kind", "server_dies"), [*((kind, False) for kind in KINDS), ("2PC", True), ("async commit", True)]
)
def test_a_client_killed_at_each_request(
    start_server: Callable[..., Any], start_child: Callable[..., Child], tmp_path: Path, kind: str, server_dies: bool
) -> None:
    path = str(tmp_path / "data")
    server = start_server(path=path)
    with pytikv.TransactionClient.connect(server.url) as db:
        db.split(BORDERS)
        with db.begin() as txn:
            for key in KEYS:
                txn.put(key, b"first")
    forker = start_child(DYING)
    options = {"lock_ttl_ms": TTL_MS, **KINDS[kind]}
    old, killed = b"first", 0
    for at, served in [(0, False), *((at, True) for at in range(20))]:
        new = b"%d %d" % (at, served)
        code = forker.ask([server.url, at, served, options, new.decode(), [key.decode() for key in KEYS]])
        assert code in ("0", "-9")
        if server_dies:
            server.kill()
            server = start_server(path=path)
        check_all_or_nothing(server.url, old, new, must_be_new=code == "0")
        old = new
        if code == "0":
            break
        killed += 1
    assert (code, killed >= 5) == ("0", True)
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    with pytikv.TransactionClient.connect(f"embedded://{path}") as db:
        report = db.check_consistency()
        assert report.is_sound, str(report)


ACCOUNTS = [b"account/%02d" % number for number in range(12)]
BUYERS = 6
MIXED = [{}, TWO_PC, {"one_pc": False}, {"pessimistic": True}, {"causal": True}]


class Buyer:
    """Moves money about until the server is gone; each transfer leaves a receipt, and what is known of it is kept."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.rng = rng
        self.receipts: dict[bytes, Outcome] = {}

    async def run(self, db: pytikv.AsyncTransactionClient, on_done: Callable[[], None]) -> None:
        while True:
            receipt = b"receipt/%d/%06d" % (self.number, len(self.receipts))
            txn = db.begin(lock_ttl_ms=TTL_MS, **self.rng.choice(MIXED))
            try:
                async with txn:
                    await self.transfer(txn, receipt)
            except TikvError as error:
                if isinstance(error, pytikv.ConnectionFailed | pytikv.DeadlineExceeded | pytikv.CommitUndetermined):
                    self.receipts[receipt] = txn.outcome
                    return
            finally:
                self.receipts[receipt] = txn.outcome
            on_done()

    async def transfer(self, txn: pytikv.AsyncTransaction, receipt: bytes) -> None:
        source, target = self.rng.sample(ACCOUNTS, 2)
        found = await txn.batch_get_for_update([source, target])
        await txn.put(source, b"%d" % (int(found[source]) - 1))
        await txn.put(target, b"%d" % (int(found[target]) + 1))
        await txn.put(receipt, b"paid")


def test_outcomes_hold_when_the_server_is_killed(start_server: Callable[..., Any], tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = str(tmp_path / "data")
    known: dict[bytes, Outcome] = {}

    async def one_round(number: int) -> None:
        server = start_server(path=path)
        buyers = [Buyer(10 * number + i, rng) for i in range(BUYERS)]
        async with await pytikv.AsyncTransactionClient.connect(server.url, timeout=1.0) as db:
            if not number:
                await db.split([b"account/04", b"account/08", b"receipt/"])
                async with db.begin() as txn:
                    for account in ACCOUNTS:
                        await txn.put(account, b"100")
            left = 40 + rng.randrange(60)

            def on_done() -> None:
                nonlocal left
                left -= 1
                if not left:
                    server.kill()

            await asyncio.gather(*(buyer.run(db, on_done) for buyer in buyers))
        for buyer in buyers:
            known.update(buyer.receipts)

    async def check() -> None:
        server = start_server(path=path)
        async with await pytikv.AsyncTransactionClient.connect(server.url) as db:
            snapshot = db.snapshot()
            accounts = await snapshot.batch_get(ACCOUNTS)
            assert sum(map(int, accounts.values())) == 100 * len(ACCOUNTS)
            receipts = {key async for key, _ in snapshot.scan_prefix(b"receipt/")}
            for receipt, outcome in known.items():
                if outcome is not Outcome.UNDETERMINED:
                    assert (receipt in receipts) is (outcome is Outcome.APPLIED), (receipt, outcome)
            assert receipts <= set(known)
        server.kill()

    for number in range(3):
        asyncio.run(one_round(number))
        asyncio.run(check())
    assert Outcome.APPLIED in known.values()
    with pytikv.TransactionClient.connect(f"embedded://{path}") as db:
        report = db.check_consistency()
        assert report.is_sound, str(report)


# --- a server that says nothing ---------------------------------------------------------------------------------------

TIMEOUT_S = 1.0


def test_nothing_outlasts_its_time(start_server: Callable[..., Any]) -> None:
    server = start_server(api_version="2")
    url = server.url
    with pytikv.TransactionClient.connect(url, api_version=2) as made, made.begin() as txn:
        txn.put(b"k", b"v")
    db = pytikv.TransactionClient.connect(url, api_version=2, timeout=TIMEOUT_S)
    snapshot = db.snapshot()
    snapshot.get(b"other")  # the region is known: the fast path is tried

    def begun(**options: Any) -> pytikv.Transaction:
        txn = db.begin(**options)
        if not options.get("pessimistic"):
            txn.put(b"k", b"2")
        return txn

    one_pc, two_pc, locker, patient = begun(), begun(**TWO_PC), begun(pessimistic=True), begun(pessimistic=True)
    holder = begun(pessimistic=True)
    holder.lock_keys([b"held"])
    pipelined = begun(pipelined=True)

    def within(seconds: float, what: Callable[[], object]) -> Callable[[], object]:
        def work() -> object:
            with pytikv.deadline(seconds):
                return what()

        return work

    waits: dict[str, tuple[float, Callable[[], object]]] = {
        "begin": (TIMEOUT_S, db.begin),
        "get": (TIMEOUT_S, lambda: snapshot.get(b"k")),
        "batch_get": (TIMEOUT_S, lambda: snapshot.batch_get([b"k", b"l"])),
        "scan": (TIMEOUT_S, lambda: list(snapshot.scan())),
        "commit": (TIMEOUT_S, one_pc.commit),
        "commit, 2PC": (TIMEOUT_S, two_pc.commit),
        "commit, pipelined": (TIMEOUT_S, pipelined.commit),
        "lock": (TIMEOUT_S, lambda: locker.lock_keys([b"l"])),
        "lock with a wait": (TIMEOUT_S + 0.5, lambda: patient.lock_keys([b"m"], wait=0.5)),
        "rollback": (TIMEOUT_S, holder.rollback),
        "connect": (TIMEOUT_S, lambda: pytikv.TransactionClient.connect(url, api_version=2, timeout=TIMEOUT_S)),
        "split": (TIMEOUT_S, lambda: db.split([b"s"])),
        "gc": (TIMEOUT_S, db.gc),
        "run": (0.5, within(0.5, lambda: db.run(lambda txn: txn.put(b"k", b"3")))),
        "unsafe_destroy_range": (0.5, within(0.5, lambda: db.unsafe_destroy_range(b"x", b"y"))),
    }
    took: dict[str, float] = {}
    errors: dict[str, BaseException | None] = {}

    def measure(name: str, what: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            what()
            errors[name] = None
        except BaseException as error:
            errors[name] = error
        took[name] = time.monotonic() - began

    server.send(signal.SIGSTOP)
    threads = [threading.Thread(target=measure, args=(name, what)) for name, (_, what) in waits.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measure("close", db.close)
    server.send(signal.SIGCONT)
    assert {name: s for name, s in took.items() if s > waits.get(name, (TIMEOUT_S, None))[0] + 0.7} == {}
    for name, error in errors.items():
        if name in ("rollback", "close"):
            assert error is None
        else:
            assert isinstance(error, pytikv.ConnectionFailed | pytikv.DeadlineExceeded), (name, error)
    assert two_pc.outcome is Outcome.NOT_APPLIED
    with pytikv.TransactionClient.connect(url, api_version=2) as again, again.begin() as txn:
        txn.put(b"held", b"free")


# --- Ctrl-C, and a clock that is wrong --------------------------------------------------------------------------------

INTERRUPTED = """
import json, sys
import pytikv
url, options, key = map(json.loads, sys.argv[1:])
db = pytikv.TransactionClient.connect(url)
txn = db.begin(**options)
try:
    with txn:
        txn.get(key.encode())  # its region is known from now on
        txn.put(b"own", b"1")
        print("working", flush=True)
        txn.put(key.encode(), b"1")
        if not options.get("pessimistic"):
            sys.stdin.readline()
except KeyboardInterrupt:
    print("interrupted", txn.outcome.name, txn.is_open, flush=True)
db.close()
"""


def test_ctrl_c_while_waiting_for_a_lock(start_server: Callable[..., Any], start_child: Callable[..., Child]) -> None:
    server = start_server()
    with pytikv.TransactionClient.connect(server.url) as db:
        holder = db.begin(pessimistic=True)
        holder.lock_keys([b"held"])
        child = start_child(INTERRUPTED, server.url, {"pessimistic": True}, "held")
        assert child.line() == "working"
        with (
            pytest.raises(pytikv.KeyLocked),
            pytikv.deadline(5),
        ):  # its first lock is there, so the second is waited for
            db.begin(pessimistic=True).lock_keys([b"own"], wait=0)
        child.process.send_signal(signal.SIGINT)
        assert child.line() == "interrupted NOT_APPLIED False"
        assert child.process.wait(10) == 0
        holder.rollback()
        with pytikv.deadline(2), db.begin(pessimistic=True) as txn:  # it took its locks along
            txn.lock_keys([b"own", b"held"], wait=0)


def test_ctrl_c_in_a_commit_that_is_not_answered(
    start_server: Callable[..., Any], start_child: Callable[..., Child]
) -> None:
    server = start_server()
    with pytikv.TransactionClient.connect(server.url) as db:
        child = start_child(INTERRUPTED, server.url, {"causal": True}, "key")
        assert child.line() == "working"
        server.send(signal.SIGSTOP)
        assert child.process.stdin is not None
        child.process.stdin.write("\n")
        child.process.stdin.flush()
        wait_until_sent(child.process.pid)
        child.process.send_signal(signal.SIGINT)
        assert child.line() == "interrupted UNDETERMINED False"
        server.send(signal.SIGCONT)
        assert child.process.wait(20) == 0
        with pytikv.deadline(8):
            found = db.snapshot().batch_get([b"own", b"key"])
        assert found in ({}, {b"own": b"1", b"key": b"1"})


def wait_until_sent(pid: int) -> None:
    """Return when a process waits in the kernel for an answer (it polls), having used no more time for a while."""
    deadline = time.monotonic() + 10
    seen = -1
    while time.monotonic() < deadline:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        used = int(fields[11]) + int(fields[12])
        if fields[0] == "S" and used == seen:
            return
        seen = used
        threading.Event().wait(0.1)
    raise AssertionError("the process never waits")


WRONG_CLOCK = """
import json, sys, time
url, ahead_s = map(json.loads, sys.argv[1:])
real = time.time
time.time = lambda: real() + ahead_s
time.time_ns = lambda: int(time.time() * 1e9)
import pytikv
with pytikv.TransactionClient.connect(url) as db:
    two_pc = {"async_commit": False, "one_pc": False}
    for options in ({}, {"one_pc": False}, two_pc, {"pessimistic": True}, {"causal": True}, {"pipelined": True}):
        with db.begin(**options) as txn:
            txn.put(b"k", repr(options).encode())
        assert txn.outcome is pytikv.Outcome.APPLIED
        assert db.snapshot().get(b"k") == repr(options).encode()
    waiting = db.begin(pessimistic=True)
    try:
        waiting.lock_keys([b"held"], wait=0.2)
    except pytikv.LockTimeout:
        print("kept out", flush=True)
    waiting.rollback()
    print(db.gc(600).safe_point < db.current_timestamp(), flush=True)
"""


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_clock_that_is_wrong_by_an_hour(
    start_server: Callable[..., Any], start_child: Callable[..., Child], ahead_s: int
) -> None:
    server = start_server()
    with pytikv.TransactionClient.connect(server.url) as db:
        holder = db.begin(pessimistic=True)
        holder.put(b"held", b"1")
        child = start_child(WRONG_CLOCK, server.url, ahead_s)
        assert child.line() == "kept out"
        assert child.line() == "True"
        assert child.process.wait(10) == 0
        holder.commit()
        assert db.snapshot().get(b"held") == b"1"
