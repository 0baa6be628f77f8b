"""What simulated transactional clients do: random transactions on few keys, recorded in a history.

Three kinds of data, each on keys of its own, any of which a transaction may touch:

* lists (`a-…`): an append reads the list and puts the longer one;
* registers (`r-…`): blind writes, writes after reads, inserts, deletions;
* accounts (`b-…`): transfers between two, whose total nobody may change.

Every element and every value is new, so that a read names its writer (a balance carries the number of its write). Some
values are longer than what fits into a write record. How a transaction runs is drawn too: optimistic, pessimistic or
pipelined; 2PC, async commit or 1PC; causal or not; by gets, batches, scans in both directions, locking reads; with
savepoints that are undone, roll-backs, commits that run out of time or are cancelled in the middle. Snapshots, some of
them of the past, read beside.

A client goes on after an error: what the error says about the transaction is in the history. What contradicts itself
(an outcome that differs between an error and its transaction) ends the simulation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pytikv.ambient import deadline
from pytikv.errors import Outcome, TikvError
from pytikv.rt.interface import Runtime
from pytikv.testing.isolation import Op, OpKind, Txn, TxnHistory

if TYPE_CHECKING:
    from pytikv import AsyncTransactionClient

__all__ = ["TxnProcess", "TxnWorkload"]

_LONG_BYTES: Final = 300
_BALANCE: Final = 100
_HISTORY_S: Final = 5.0
_MAX_AGE_S: Final = 6.0


@dataclasses.dataclass(frozen=True, slots=True)
class TxnWorkload:
    """How much of what. `weights` are for lists, registers, accounts; the shares are of all transactions."""

    keys: int = 3
    operations: int = 30
    pause_seconds: float = 0.05
    weights: tuple[int, int, int] = (4, 4, 3)
    pessimistic_share: float = 0.4
    async_commit_share: float = 0.6
    one_pc_share: float = 0.6
    causal_share: float = 0.1
    pipelined_share: float = 0.05
    snapshot_share: float = 0.2
    cancel_share: float = 0.1
    short_ttl_share: float = 0.1
    elements: itertools.count[int] = dataclasses.field(default_factory=lambda: itertools.count(1))

    def lists(self) -> list[bytes]:
        """Return the keys of lists."""
        return [b"a-%d" % number for number in range(self.keys)]

    def registers(self) -> list[bytes]:
        """Return the keys of registers."""
        return [b"r-%d" % number for number in range(self.keys)]

    def accounts(self) -> dict[bytes, int]:
        """Return the accounts with their balances at the start."""
        return {b"b-%d" % number: _BALANCE for number in range(self.keys + 1)}

    def names(self) -> list[bytes]:
        """Return all keys."""
        return [*self.lists(), *self.accounts(), *self.registers()]


def _is_list(key: bytes) -> bool:
    return key.startswith(b"a-")


def _parse(key: bytes, value: bytes | None) -> Any:
    """Return what a value means: a tuple of elements, or a register's value."""
    text = (value or b"").split(b"|")[0].decode()
    if _is_list(key):
        return tuple(int(element) for element in text.split(",")) if text else ()
    if value is None:
        return None
    return text if key.startswith(b"b-") else int(text)


def balance(value: str) -> int:
    """Return the balance in an account's value."""
    return int(value.split("#")[0])


@dataclasses.dataclass(slots=True)
class _Running:
    """A transaction or snapshot under way, and its record.

    `facts`: reads that are recorded once the commit succeeds: an insert shows then that the key was absent. `hidden`:
    keys that were inserted and deleted again, of which nothing is written and nothing is seen.
    """

    source: Any
    record: Txn
    is_pipelined: bool = False
    facts: list[Op] = dataclasses.field(default_factory=list)
    hidden: set[bytes] = dataclasses.field(default_factory=set)

    def note_read(self, key: bytes, value: bytes | None, *, locked: bool = False) -> Any:
        """Record what a read showed, and return what it means."""
        seen = _parse(key, value)
        if _is_list(key):
            self.record.read_list(key, seen, locked=locked)
        elif key not in self.hidden:
            self.record.read(key, seen, locked=locked)
        return seen

    def note_write(self, key: bytes, value: Any) -> None:
        """Record a write."""
        self.hidden.discard(key)
        self.record.write(key, value)

    def note_deleted(self, key: bytes) -> None:
        """Record a deletion; of a key that was inserted here, that nothing happened since."""
        if all(fact.key != key for fact in self.facts):
            self.record.write(key, None)
            return
        self.hidden.add(key)
        ops = self.record.ops
        first = next((place for place, op in enumerate(ops) if op.key == key and op.kind is OpKind.WRITE), len(ops))
        self.record.ops = [op for place, op in enumerate(ops) if place < first or op.key != key]


class TxnProcess:
    """One client of a simulation: does one transaction after the other."""

    def __init__(
        self,
        number: int,
        client: AsyncTransactionClient,
        rt: Runtime,
        history: TxnHistory,
        workload: TxnWorkload,
        rng: random.Random,
    ) -> None:
        self._number = number
        self._client: Any = client
        self._rt = rt
        self._history = history
        self._workload = workload
        self._rng = rng

    async def run(self) -> None:
        """Do all transactions; errors that say what happened are part of the story, others end the simulation."""
        for _ in range(self._workload.operations):
            with contextlib.suppress(TikvError):  # it is recorded; the next transaction may fare better
                if self._rng.random() < self._workload.snapshot_share:
                    await self._read_snapshot()
                else:
                    await self._transact()
            await self._rt.sleep(self._rng.expovariate(1 / self._workload.pause_seconds))

    async def open_accounts(self) -> None:
        """Write the balances at the start, as often as it takes."""
        while True:
            record = self._history.begin(self._number, note="opening")
            with contextlib.suppress(TikvError):
                run = _Running(await self._client.begin(), record)
                record.start_ts = int(run.source.start_ts)
                for key, amount in self._workload.accounts().items():
                    if (old := await self._get(run, key)) is None:
                        await self._write(run, key, f"{amount}#{next(self._workload.elements)}")
                    else:
                        assert balance(old) == amount
                await self._commit(run)
                if run.source.outcome is Outcome.APPLIED:
                    return

    async def lock_all(self) -> None:
        """Lock every key once: whatever lock others left is dealt with, also those that do not hinder readers."""
        txn = await self._client.begin(pessimistic=True)
        await txn.lock_keys(self._workload.names())
        await txn.commit()

    async def read_all(self) -> None:
        """Read every key once, by a scan and by gets: with all faults over, this must succeed."""
        run = _Running(self._client.snapshot(), self._history.begin(self._number, note="the last"))
        await self._scan(run, self._workload.names(), reverse=False, limit=None)
        run.record.start_ts = int(run.source.ts)
        await self._batch_get(run, self._workload.names())
        self._history.committed(run.record)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    async def _read_snapshot(self) -> None:
        rng = self._rng
        is_past = rng.random() < 0.3
        record = self._history.begin(self._number, stale=is_past, note="snapshot")
        ts = None
        if is_past:
            now = await self._client.current_timestamp()
            ts = int(now) - (int(rng.uniform(0, _HISTORY_S) * 1000) << 18)
            record.start_ts = ts
        run = _Running(self._client.snapshot(ts), record)
        if ts is None:  # it is known from the first read on
            await self._get(run, rng.choice(self._workload.names()))
            record.start_ts = int(run.source.ts)
        for _ in range(rng.randint(1, 3)):
            await self._read_some(run)
        self._history.committed(record)

    async def _read_some(self, run: _Running) -> None:
        rng = self._rng
        keys: Sequence[bytes] = rng.choice(
            [
                self._workload.lists(),
                self._workload.registers(),
                list(self._workload.accounts()),
                self._workload.names(),
            ]
        )
        how = rng.random()
        if how < 0.4:
            await self._get(run, rng.choice(keys))
        elif how < 0.7 or run.is_pipelined:
            await self._batch_get(run, keys)
        else:
            await self._scan(run, keys, reverse=rng.random() < 0.5, limit=rng.choice([None, None, 1, 2]))

    async def _get(self, run: _Running, key: bytes) -> Any:
        return run.note_read(key, await run.source.get(key))

    async def _batch_get(self, run: _Running, keys: Sequence[bytes]) -> None:
        found = await run.source.batch_get(keys)
        for key in keys:
            run.note_read(key, found.get(key))

    async def _scan(self, run: _Running, keys: Sequence[bytes], *, reverse: bool, limit: int | None) -> None:
        """Scan from the first to the last of `keys`: also what is not found was read, as far as the scan came."""
        pairs = run.source.scan(min(keys), max(keys) + b"\x00", reverse=reverse, limit=limit)
        found: dict[bytes, bytes] = {key: value async for key, value in pairs}
        last = None if limit is None or len(found) < limit else list(found)[-1]
        for key in sorted(keys, reverse=reverse):
            if last is None or (key >= last if reverse else key <= last):
                run.note_read(key, found.pop(key, None))
        assert not found, f"a scan returned keys that nobody wrote: {sorted(found)}"

    # --- transactions -------------------------------------------------------------------------------------------------

    def _draw_options(self) -> dict[str, Any]:
        rng, workload = self._rng, self._workload
        options: dict[str, Any] = {
            "async_commit": rng.random() < workload.async_commit_share,
            "one_pc": rng.random() < workload.one_pc_share,
            "causal": rng.random() < workload.causal_share,
            "pessimistic": rng.random() < workload.pessimistic_share,
        }
        if rng.random() < workload.short_ttl_share:  # others may end it while it runs
            options["lock_ttl_ms"] = rng.choice([1, 50, 500])
        if options["pessimistic"]:
            options["fair_locking"] = rng.random() < 0.3
        elif rng.random() < workload.pipelined_share:
            options |= {"pipelined": True, "flush_keys": 1, "flush_bytes": 1}  # every write is sent at once
        return options

    async def _transact(self) -> None:
        options = self._draw_options()
        note = " ".join(name for name, on in options.items() if on is True and name != "pessimistic")
        record = self._history.begin(
            self._number, pessimistic=options["pessimistic"], causal=options["causal"], note=note
        )
        began = self._rt.now()
        txn = await self._client.begin(**options)
        record.start_ts = int(txn.start_ts)
        run = _Running(txn, record, "pipelined" in options)
        try:
            for _ in range(self._rng.randint(1, 4)):
                await self._step(run)
            if self._rng.random() < 0.08 or self._rt.now() - began > _MAX_AGE_S:
                await txn.rollback()
                self._history.aborted(record)
                return
        except TikvError as error:
            record.note += f"; {error.code}"
            self._history.aborted(record)
            with contextlib.suppress(TikvError):
                await txn.rollback()
            raise
        await self._commit(run)

    async def _step(self, run: _Running) -> None:
        """Do one thing. Pipelined transactions neither scan nor lock, and have no savepoints."""
        rng = self._rng
        how = rng.random()
        if how < 0.3:
            await self._read_some(run)
            return
        if how < 0.4 and not run.is_pipelined:
            await (self._undone if rng.random() < 0.5 else self._lock)(run)
            return
        await rng.choices((self._append, self._change_register, self._transfer), self._workload.weights)[0](run)

    async def _read_for_update(self, run: _Running, key: bytes) -> Any:
        """Read what is about to be changed: a pessimistic transaction locks it first."""
        if run.record.pessimistic:
            return run.note_read(key, await run.source.get_for_update(key), locked=True)
        return await self._get(run, key)

    def _encode(self, key: bytes, value: Any) -> bytes:
        text = ",".join(str(element) for element in value) if _is_list(key) else str(value)
        padding = b"|" + b"." * _LONG_BYTES if self._rng.random() < 0.2 else b""
        return text.encode() + padding

    async def _append(self, run: _Running) -> None:
        key = self._rng.choice(self._workload.lists())
        seen = await self._read_for_update(run, key)
        element = next(self._workload.elements)
        await run.source.put(key, self._encode(key, (*seen, element)))
        run.record.append(key, element)

    async def _write(self, run: _Running, key: bytes, value: Any) -> None:
        await run.source.put(key, self._encode(key, value))
        run.note_write(key, value)

    async def _change_register(self, run: _Running) -> None:
        rng, key = self._rng, self._rng.choice(self._workload.registers())
        how = rng.random()
        if how < 0.15:
            if run.is_pipelined and any(fact.key == key for fact in run.facts):
                return  # whether its deletion leaves a record depends on what was flushed before
            await run.source.delete(key)
            run.note_deleted(key)
            return
        if how < 0.3 and key not in run.record.writes() and key not in run.hidden:
            value = next(self._workload.elements)
            await run.source.insert(key, self._encode(key, value))
            run.facts.append(Op(OpKind.READ, key, None, locked=run.record.pessimistic))
            run.note_write(key, value)
            return
        if how < 0.6:
            await self._read_for_update(run, key)
        await self._write(run, key, next(self._workload.elements))

    async def _transfer(self, run: _Running) -> None:
        rng = self._rng
        source, target = rng.sample(list(self._workload.accounts()), 2)
        have = balance(await self._read_for_update(run, source))
        other = balance(await self._read_for_update(run, target))
        amount = rng.randint(0, have)
        await self._write(run, source, f"{have - amount}#{next(self._workload.elements)}")
        await self._write(run, target, f"{other + amount}#{next(self._workload.elements)}")

    async def _lock(self, run: _Running) -> None:
        """Lock some keys that may or may not be written later."""
        keys = self._rng.sample(self._workload.names(), 2)
        wait = {"wait": self._rng.choice([None, 0, 0.1])} if run.record.pessimistic else {}
        await run.source.lock_keys(keys, **wait)

    async def _undone(self, run: _Running) -> None:
        """Write within a savepoint that is rolled back: nobody may ever see it."""
        with contextlib.suppress(_Undo):
            async with run.source.savepoint():
                key = self._rng.choice(self._workload.registers())
                await run.source.put(key, self._encode(key, next(self._workload.elements)))
                raise _Undo

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _commit(self, run: _Running) -> None:
        txn = run.source
        self._history.committing(run.record)
        how = self._rng.random() / (self._workload.cancel_share or 1e-9)
        try:
            if how < 0.5:
                with deadline(self._rng.expovariate(1 / 0.05)):
                    await txn.commit()
            elif how < 1:
                await self._commit_cancelled(txn)
            else:
                await txn.commit()
        except TikvError as error:
            run.record.note += f"; {error.code}"
            if error.outcome is not txn.outcome:
                raise AssertionError(f"the error says {error.outcome}, the transaction {txn.outcome}") from error
            self._record_outcome(run)
            raise
        self._record_outcome(run)

    async def _commit_cancelled(self, txn: Any) -> None:
        """Commit in a task that is cancelled after a while; the outcome is what the transaction says."""

        async def commit() -> None:
            with contextlib.suppress(TikvError):
                await txn.commit()

        task = self._rt.spawn(commit(), name="commit")
        await self._rt.sleep(self._rng.expovariate(1 / 0.02))
        task.cancel()
        while not task.done():
            await self._rt.sleep(0.001)

    def _record_outcome(self, run: _Running) -> None:
        txn, record = run.source, run.record
        if txn.outcome is Outcome.APPLIED:
            record.ops[:0] = run.facts
            self._history.committed(record, None if txn.commit_ts is None else int(txn.commit_ts))
        elif txn.outcome is not Outcome.UNDETERMINED:
            self._history.aborted(record)


class _Undo(Exception):
    """Undoes a savepoint."""
