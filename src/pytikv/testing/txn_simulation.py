"""Transactions under faults, simulated: a whole server, clients that collide, garbage collection, a nemesis.

A kind of `simulated.SimulatedRun`. Clients do random transactions (`txn_workload`); beside them one collects garbage,
and wall clocks of clients jump. At the end every key is locked, then everything is read by one snapshot. Then judge

* *liveness*: a last writer and that last reader meet the locks of clients that died, and must get through within the
  time that a lock lives; no lock is left behind them;
* *the store*: its three column families agree with each other (`server.mvcc.consistency`);
* *the store against the clients*: what they were told is what its records say (`store_records`);
* *isolation*: the history shows no anomaly that snapshot isolation forbids, with all timestamps known (`isolation`);
* *the bank*: every transaction that read all accounts saw the same total.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any, Final

from pytikv.codec import api, memcomparable
from pytikv.errors import TikvError
from pytikv.testing.isolation import (
    BankReport,
    Finding,
    IsolationReport,
    OpKind,
    Txn,
    TxnHistory,
    TxnStatus,
    check_bank,
    check_isolation,
)
from pytikv.testing.nemesis import Deed, Nemesis
from pytikv.testing.sim import SimRuntime
from pytikv.testing.simulated import SERVER, Outcome, SimulatedRun, Weather
from pytikv.testing.store_records import RecordingEngine, commit_records, settle
from pytikv.testing.txn_workload import TxnProcess, TxnWorkload, balance

__all__ = ["TxnOutcome", "TxnRunOptions", "run_txn"]

_LOCK_LIVES_S: Final = 25.0  # the longest that a lock blocks after its owner died: 20 s, and some for the way
_GC_EVERY_S: Final = 2.0
_GC_LIFE_S: Final = 20.0
_CLOCK_JUMP_S: Final = 3600.0
_SERVER_CLOCK_JUMP_S: Final = 2.0  # small beside _GC_LIFE_S: GC promises nothing to what is older


@dataclasses.dataclass(frozen=True, slots=True)
class TxnRunOptions(Weather):
    """The options of one run; `draw` makes them from a seed. The shares are those of `TxnWorkload`."""

    operations: int = 25
    pessimistic_share: float = 0.4
    async_commit_share: float = 0.6
    one_pc_share: float = 0.6
    causal_share: float = 0.1
    snapshot_share: float = 0.2
    cancel_share: float = 0.1
    short_ttl_share: float = 0.1
    weights: tuple[int, int, int] = (4, 4, 3)
    gc: bool = True

    @classmethod
    def draw(cls, seed: int, **fixed: Any) -> TxnRunOptions:
        """Return the options of a seed; those given in `fixed` are as given."""
        rng = random.Random(f"txn options {seed}")
        drawn = cls.drawn(rng) | {
            "api_version": rng.choice(["1", "2"]),  # v1ttl has no transactions
            "keys": rng.randint(1, 3),
            "client_deaths": rng.choice([0, 2, 4, 8]),
            "pessimistic_share": rng.choice([0.0, 0.3, 0.6, 1.0]),
            "async_commit_share": rng.choice([0.0, 0.5, 1.0]),
            "one_pc_share": rng.choice([0.0, 0.5, 1.0]),
            "causal_share": rng.choice([0.0, 0.0, 0.2]),
            "cancel_share": rng.choice([0.0, 0.1, 0.3]),
            "short_ttl_share": rng.choice([0.0, 0.1, 0.5]),
            "weights": rng.choice([(4, 4, 3), (1, 0, 0), (0, 1, 0), (0, 0, 1)]),
        }
        return cls(**(drawn | fixed))


@dataclasses.dataclass(frozen=True, slots=True)
class TxnOutcome(Outcome):
    """What became of a run; the reports are None when it ended early."""

    history: TxnHistory
    statuses: dict[str, int]
    store: tuple[Finding, ...]
    report: IsolationReport | None
    bank: BankReport | None

    @property
    def passed(self) -> bool:
        """Whether no judge found anything."""
        return not self.store and self.report is not None and self.report.ok and self.bank is not None and self.bank.ok

    def counts(self) -> dict[str, int]:
        """Return how many transactions ended in which way (as clients were told), and what was found beside."""
        allowed = () if self.report is None else self.report.allowed
        snapshots = 0 if self.bank is None else self.bank.snapshots
        found: dict[str, int] = {}
        for finding in allowed:
            found[finding.anomaly.title] = found.get(finding.anomaly.title, 0) + 1
        return self.statuses | {"totals of the bank": snapshots} | found

    def judgement(self) -> str:
        """Return what the judges found."""
        parts = [finding.describe() for finding in self.store]
        if self.report is not None and not self.report.ok:
            parts.append(self.report.describe())
        if self.bank is not None and not self.bank.ok:
            parts.append(self.bank.describe())
        return "\n".join(parts)

    def history_lines(self) -> Iterator[str]:
        """Yield one line a transaction."""
        return self.history.to_json_lines()


def run_txn(seed: int, options: TxnRunOptions | None = None) -> TxnOutcome:
    """Run one simulation; never raises for what the simulated code does."""
    run = _TxnRun(seed, options or TxnRunOptions.draw(seed))
    error = run.play()
    statuses = dict.fromkeys((status.value for status in TxnStatus), 0)
    for txn in run.history:
        statuses[txn.status.value] += 1
    store: tuple[Finding, ...] = ()
    report = bank = None
    if error is None:
        store = tuple(settle(run.history, commit_records(run.engine, run.codec.decode_key)))
        report = check_isolation(run.history)
        bank = check_bank(_totals(run.history, run.workload.accounts()), run.workload.accounts())
    world = run.world
    fields = seed, run.options, world.digest, world.now, run.nemesis.faults, error
    return TxnOutcome(*fields, run.history, statuses, store, report, bank)


def _totals(history: TxnHistory, accounts: dict[bytes, int]) -> Iterator[tuple[str, dict[bytes, int]]]:
    """Yield the balances of every transaction that read all accounts from one snapshot."""
    for txn in history:
        seen = _balances(txn)
        if seen.keys() == accounts.keys():
            yield txn.name, seen


def _balances(txn: Txn) -> dict[bytes, int]:
    seen: dict[bytes, int] = {}
    written: set[bytes] = set()
    for op in txn.ops:
        if op.kind is OpKind.WRITE:
            written.add(op.key)
        elif op.kind is OpKind.READ and isinstance(op.value, str) and not op.locked and op.key not in written:
            seen.setdefault(op.key, balance(op.value))
    return seen


class _TxnNemesis(Nemesis):
    """Also turns clocks: those of clients by hours, the server's, from which PD's oracle takes the time, by seconds."""

    def deeds(self) -> list[tuple[Deed, int]]:
        """Return what may be done, with weights."""
        return [*super().deeds(), (self._turn_clock, 1), (self._turn_server_clock, 1)]

    def _turn_clock(self, here: SimRuntime) -> str:
        name = self.rng.choice(sorted(self.run.names))
        self.world.process(name).clock_skew = self.rng.uniform(-_CLOCK_JUMP_S, _CLOCK_JUMP_S)
        return "clock of a client"

    def _turn_server_clock(self, here: SimRuntime) -> str:
        self.world.process(SERVER).clock_skew = self.rng.uniform(-_SERVER_CLOCK_JUMP_S, _SERVER_CLOCK_JUMP_S)
        return "clock of the server"


class _TxnRun(SimulatedRun):
    """One run."""

    def __init__(self, seed: int, options: TxnRunOptions) -> None:
        super().__init__(seed, options)
        self.history = TxnHistory()
        self.codec = api.v2(api.DEFAULT_KEYSPACE_ID, is_raw=False) if options.api_version == "2" else api.txn_v1()
        self.workload = TxnWorkload(
            keys=options.keys,
            operations=options.operations,
            pause_seconds=options.pause_seconds,
            weights=options.weights,
            pessimistic_share=options.pessimistic_share,
            async_commit_share=options.async_commit_share,
            one_pc_share=options.one_pc_share,
            causal_share=options.causal_share,
            snapshot_share=options.snapshot_share,
            cancel_share=options.cancel_share,
            short_ttl_share=options.short_ttl_share,
        )
        self._with_gc = options.gc

    @property
    def engine(self) -> RecordingEngine:
        """The disk."""
        assert isinstance(self.server.engine, RecordingEngine)
        return self.server.engine

    def make_engine(self) -> RecordingEngine:
        """Make a disk that remembers deleted records."""
        return RecordingEngine()

    def make_nemesis(self) -> Nemesis:
        """Make what strikes."""
        return _TxnNemesis(self)

    async def prepare(self, here: SimRuntime) -> None:
        """Open the accounts, and begin to collect garbage."""
        client = await self._connect(here)
        await self._process(-1, client, here).open_accounts()
        await client.close()
        if self._with_gc:
            rt = self.world.process("gc")
            self.spawn(rt, self._collect_garbage(rt), name="gc")

    async def client(self, rt: SimRuntime, number: int, rng: random.Random) -> None:
        """Do all transactions."""
        client = await self._connect(rt)
        await TxnProcess(number, client, rt, self.history, self.workload, rng).run()
        with contextlib.suppress(TikvError):
            await client.close()

    async def finish(self, here: SimRuntime) -> None:
        """Read everything; the locks of the dead must not block longer than they live. Then look at the store."""
        for work in (TxnProcess.lock_all, TxnProcess.read_all):
            client = await self._connect(here)
            patient = client.with_options(timeout=_LOCK_LIVES_S)
            # Locks live by PD's time. It leads the clock after restarts (each goes on at the bound that was saved) and
            # turned clocks; until the clock is there as well, it stands.
            lead_s = (await patient.current_timestamp()).physical_ms / 1000 - self.server.rt.time()
            patient = patient.with_options(timeout=_LOCK_LIVES_S + max(0.0, lead_s))
            await work(self._process(-2, patient, here))
            await client.close()  # waits for what is done behind
        self.check_store()

    def check_store(self) -> None:
        """Let the store's families be compared with each other; no lock may be left."""
        from pytikv.server.engine.interface import CF_LOCK
        from pytikv.server.mvcc.consistency import check_consistency

        check_consistency(self.engine).raise_for_damage()
        if left := [self.codec.decode_key(memcomparable.decode_border(key)) for key, _ in self.engine.scan(CF_LOCK)]:
            raise AssertionError(f"locks are left on {left}, though every key was locked and the client closed")

    async def _collect_garbage(self, rt: SimRuntime) -> None:
        client = await self._connect(rt)
        while self.running:
            await rt.sleep(_GC_EVERY_S)
            with contextlib.suppress(TikvError):
                await client.gc(life_time=_GC_LIFE_S)
        with contextlib.suppress(TikvError):
            await client.close()

    def borders(self) -> list[bytes]:
        """Return the keys, as regions see them."""
        return [self.codec.region_key(self.codec.encode_key(key)) for key in self.workload.names()]

    def _process(self, number: int, client: Any, rt: SimRuntime) -> TxnProcess:
        return TxnProcess(number, client, rt, self.history, self.workload, self.world.rng.child(f"process {number}"))

    async def _connect(self, rt: SimRuntime) -> Any:
        from pytikv.client.txn.client import AsyncTransactionClient

        return await self.connect(rt, AsyncTransactionClient)
