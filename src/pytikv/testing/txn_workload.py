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

from pytikv.client.deadline import deadline
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
                txn = await self._client.begin()
                record.start_ts = int(txn.start_ts)
                for key, amount in self._workload.accounts().items():
                    if (old := await self._get(txn, record, key)) is None:
                        await self._write(txn, record, key, f"{amount}#{next(self._workload.elements)}")
                    else:
                        assert balance(old) == amount
                await self._commit(txn, record)
                if txn.outcome is Outcome.APPLIED:
                    return

    async def lock_all(self) -> None:
        """Lock every key once: whatever lock others left is dealt with, also those that do not hinder readers."""
        txn = await self._client.begin(pessimistic=True)
        await txn.lock_keys(self._workload.names())
        await txn.commit()

    async def read_all(self) -> None:
        """Read every key once, by a scan and by gets: with all faults over, this must succeed."""
        record = self._history.begin(self._number, note="the last")
        snapshot = self._client.snapshot()
        await self._scan(snapshot, record, self._workload.names(), reverse=False, limit=None)
        record.start_ts = int(snapshot.ts)
        found = await snapshot.batch_get(self._workload.names())
        for key in self._workload.names():
            self._note_read(record, key, found.get(key))
        self._history.committed(record)

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
        snapshot = self._client.snapshot(ts)
        if ts is None:  # it is known from the first read on
            await self._get(snapshot, record, rng.choice(self._workload.names()))
            record.start_ts = int(snapshot.ts)
        for _ in range(rng.randint(1, 3)):
            await self._read_some(snapshot, record)
        self._history.committed(record)

    async def _read_some(self, source: Any, record: Txn, *, scans: bool = True) -> None:
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
            await self._get(source, record, rng.choice(keys))
        elif how < 0.7 or not scans:
            found = await source.batch_get(keys)
            for key in keys:
                self._note_read(record, key, found.get(key))
        else:
            await self._scan(source, record, keys, reverse=rng.random() < 0.5, limit=rng.choice([None, None, 1, 2]))

    async def _get(self, source: Any, record: Txn, key: bytes) -> Any:
        return self._note_read(record, key, await source.get(key))

    async def _scan(self, source: Any, record: Txn, keys: Sequence[bytes], *, reverse: bool, limit: int | None) -> None:
        """Scan from the first to the last of `keys`: also what is not found was read, as far as the scan came."""
        pairs = source.scan(min(keys), max(keys) + b"\x00", reverse=reverse, limit=limit)
        found: dict[bytes, bytes] = {key: value async for key, value in pairs}
        last = None if limit is None or len(found) < limit else list(found)[-1]
        for key in sorted(keys, reverse=reverse):
            if last is None or (key >= last if reverse else key <= last):
                self._note_read(record, key, found.pop(key, None))
        assert not found, f"a scan returned keys that nobody wrote: {sorted(found)}"

    def _note_read(self, record: Txn, key: bytes, value: bytes | None, *, locked: bool = False) -> Any:
        seen = _parse(key, value)
        if _is_list(key):
            record.read_list(key, seen, locked=locked)
        else:
            record.read(key, seen, locked=locked)
        return seen

    # --- transactions -------------------------------------------------------------------------------------------------

    def _draw_options(self) -> dict[str, Any]:
        rng, workload = self._rng, self._workload
        options: dict[str, Any] = {
            "async_commit": rng.random() < workload.async_commit_share,
            "one_pc": rng.random() < workload.one_pc_share,
            "causal": rng.random() < workload.causal_share,
            "pessimistic": rng.random() < workload.pessimistic_share,
        }
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
        inserted: list[tuple[int, Op]] = []
        try:
            for _ in range(self._rng.randint(1, 4)):
                await self._step(txn, record, inserted, is_pipelined="pipelined" in options)
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
        await self._commit(txn, record, inserted)

    async def _step(self, txn: Any, record: Txn, inserted: list[tuple[int, Op]], *, is_pipelined: bool) -> None:
        """Do one thing. Pipelined transactions neither scan nor lock, and have no savepoints."""
        rng = self._rng
        how = rng.random()
        if how < 0.3:
            await self._read_some(txn, record, scans=not is_pipelined)
            return
        if how < 0.4 and not is_pipelined:
            await (self._undone if rng.random() < 0.5 else self._lock)(txn, record)
            return
        what = rng.choices((self._append, self._change_register, self._transfer), self._workload.weights)[0]
        await what(txn, record, inserted)

    async def _read_for_update(self, txn: Any, record: Txn, key: bytes) -> Any:
        """Read what is about to be changed: a pessimistic transaction locks it first, mostly."""
        if record.pessimistic:
            return self._note_read(record, key, await txn.get_for_update(key), locked=True)
        return await self._get(txn, record, key)

    def _encode(self, key: bytes, value: Any) -> bytes:
        text = ",".join(str(element) for element in value) if _is_list(key) else str(value)
        padding = b"|" + b"." * _LONG_BYTES if self._rng.random() < 0.2 else b""
        return text.encode() + padding

    async def _append(self, txn: Any, record: Txn, inserted: list[tuple[int, Op]]) -> None:
        key = self._rng.choice(self._workload.lists())
        seen = await self._read_for_update(txn, record, key)
        element = next(self._workload.elements)
        await txn.put(key, self._encode(key, (*seen, element)))
        record.append(key, element)

    async def _write(self, txn: Any, record: Txn, key: bytes, value: Any) -> None:
        await txn.put(key, self._encode(key, value))
        record.write(key, value)

    async def _change_register(self, txn: Any, record: Txn, inserted: list[tuple[int, Op]]) -> None:
        rng, key = self._rng, self._rng.choice(self._workload.registers())
        how = rng.random()
        if how < 0.15:
            await txn.delete(key)
            record.write(key, None)
            return
        if how < 0.3 and key not in record.writes():
            value = next(self._workload.elements)
            await txn.insert(key, self._encode(key, value))
            # That the key was absent is a fact once the commit succeeds.
            inserted.append((len(record.ops), Op(OpKind.READ, key, None, locked=record.pessimistic)))
            record.write(key, value)
            return
        if how < 0.6:
            await self._read_for_update(txn, record, key)
        await self._write(txn, record, key, next(self._workload.elements))

    async def _transfer(self, txn: Any, record: Txn, inserted: list[tuple[int, Op]]) -> None:
        rng = self._rng
        source, target = rng.sample(list(self._workload.accounts()), 2)
        have = balance(await self._read_for_update(txn, record, source))
        other = balance(await self._read_for_update(txn, record, target))
        amount = rng.randint(0, have)
        await self._write(txn, record, source, f"{have - amount}#{next(self._workload.elements)}")
        await self._write(txn, record, target, f"{other + amount}#{next(self._workload.elements)}")

    async def _lock(self, txn: Any, record: Txn) -> None:
        """Lock some keys that may or may not be written later."""
        keys = self._rng.sample(self._workload.names(), 2)
        await txn.lock_keys(keys, **({"wait": self._rng.choice([None, 0, 0.1])} if record.pessimistic else {}))

    async def _undone(self, txn: Any, record: Txn) -> None:
        """Write within a savepoint that is rolled back: nobody may ever see it."""
        with contextlib.suppress(_Undo):
            async with txn.savepoint():
                key = self._rng.choice(self._workload.registers())
                await txn.put(key, self._encode(key, next(self._workload.elements)))
                raise _Undo

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _commit(self, txn: Any, record: Txn, inserted: Sequence[tuple[int, Op]] = ()) -> None:
        self._history.committing(record)
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
            record.note += f"; {error.code}"
            if error.outcome is not txn.outcome:
                raise AssertionError(f"the error says {error.outcome}, the transaction {txn.outcome}") from error
            self._record_outcome(txn, record, inserted)
            raise
        self._record_outcome(txn, record, inserted)

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

    def _record_outcome(self, txn: Any, record: Txn, inserted: Sequence[tuple[int, Op]]) -> None:
        if txn.outcome is Outcome.APPLIED:
            for position, op in reversed(inserted):
                record.ops.insert(position, op)
            self._history.committed(record, None if txn.commit_ts is None else int(txn.commit_ts))
        elif txn.outcome is not Outcome.UNDETERMINED:
            self._history.aborted(record)


class _Undo(Exception):
    """Undoes a savepoint."""
