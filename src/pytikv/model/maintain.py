"""Work on whole tables in use: building an index, checking and repairing indexes, rewriting rows of older versions.

All three walk over the rows (`walk`), batch by batch, and can be stopped and begun again at any moment.

* **build**: each step puts the entries of some rows and locks the rows themselves, so that a writer who changes one of
  them meanwhile makes the step conflict and be repeated with the row as it is then. Writers keep the index already
  (`catalog`), so no entry is missing and none is left over at the end. A unique index that finds two rows with one
  value stops with UniqueViolation; the rows are there for their owner to mend, and the next build goes on from there.
* **check**: compares rows with entries both ways. Each batch is compared at one snapshot; what it finds is looked at
  again in a transaction before it is repaired, since it may have been mended meanwhile.
* **migrate**: reads and writes each row whose value was written by another version of the class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import InvalidArgument
from pytikv.model.catalog import BUILDING, READY, Catalog
from pytikv.model.layout import Entry
from pytikv.model.rows import Rows
from pytikv.model.walk import BATCH, Found, OnProgress, Progress, walk

__all__ = ["CheckReport", "Maintenance", "Problem"]

R = TypeVar("R")

_KEPT_PROBLEMS: Final = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A row and an index that do not agree.

    kind: ``missing`` (a row without its entry), ``wrong`` (an entry that holds something else), ``dangling`` (an entry
    without its row, or of values that the row has no more).
    """

    kind: str
    index: str
    key: bytes
    """The entry's stored key."""
    expected: bytes | None
    """What the entry should hold; None: it should not be there."""


@dataclasses.dataclass(slots=True)
class CheckReport:
    """What a check found. `problems` holds the first 100."""

    rows: int = 0
    entries: int = 0
    found: int = 0
    repaired: int = 0
    problems: list[Problem] = dataclasses.field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether rows and indexes agree, perhaps after the repair."""
        return self.found == self.repaired


class Maintenance(Generic[R]):
    """The work on one table."""

    def __init__(self, rows: Rows[R], catalog: Catalog) -> None:
        self._rows = rows
        self._layout = rows.layout
        self._catalog = catalog

    def _row_spans(self) -> list[tuple[bytes, bytes]]:
        return [(span.head + span.start, span.head + span.end) for span in self._layout.spans(None, b"", b"\xff")]

    # --- build --------------------------------------------------------------------------------------------------------

    async def build_index(
        self, db: AsyncTransactionClient, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Progress:
        """Build an index, or go on building it; nothing is left to do for one that is ready.

        Raises InvalidArgument for an unknown one, UniqueViolation.
        """
        if self._catalog.unknown([name]):
            raise InvalidArgument(f"table {self._rows.schema.name!r} has no index {name!r}: declare it first")
        work = f"build {name}"

        async def begin(txn: AsyncTransaction) -> tuple[bool, bytes | None]:
            row = await self._catalog.read(txn)
            is_ready = row.indexes.get(name) == READY
            if not is_ready:
                row.indexes[name] = BUILDING
                await self._catalog.write(txn, row)
            return is_ready, row.work.get(work)

        async def step(txn: AsyncTransaction, found: Sequence[Found], position: bytes | None) -> int:
            count = await self._put_entries(txn, name, found)
            await self._note(txn, work, position, {name: READY if position is None else BUILDING})
            return count

        is_ready, after = await db.run(begin)
        if is_ready:
            return Progress(0, 0, None)
        self._catalog.forget(db._backend)
        progress = await walk(db, self._row_spans(), step, after=after, batch=batch, on_progress=on_progress)
        self._catalog.forget(db._backend)
        return progress

    async def _put_entries(self, txn: AsyncTransaction, name: str, found: Sequence[Found]) -> int:
        """Put the entries of some rows into an index, and lock the rows."""
        entries: dict[bytes, Entry] = {}
        for row_key, value in found:
            for entry in self._entries_of(row_key, value, [name]):
                if entry.is_exclusive and entry.key in entries:
                    raise self._rows.violation(entry)
                entries[entry.key] = entry
        if found:
            await txn.lock_keys([row_key for row_key, _ in found])
        held = await txn.batch_get(entries) if entries else {}
        count = 0
        for entry_key, entry in entries.items():
            there = held.get(entry_key)
            if there == entry.value:
                continue
            if there is not None and entry.is_exclusive and not await self._is_own(txn, entry, there):
                raise self._rows.violation(entry)
            await txn.put(entry_key, entry.value)
            count += 1
        return count

    async def _is_own(self, txn: AsyncTransaction, entry: Entry, there: bytes) -> bool:
        """Tell whether a unique entry that is there may be replaced: it is of the same row, or of none."""
        index = self._rows.schema.indexes[entry.index_name]
        other, _ = self._layout.read_entry(index, entry.key, there)
        mine, _ = self._layout.read_entry(index, entry.key, entry.value)
        return other == mine or await txn.get(self._layout.row_key(self._layout.encoded_key(other))) is None

    def _entries_of(self, row_key: bytes, value: bytes, names: Sequence[str]) -> list[Entry]:
        """Return the entries that a stored row should have in some indexes."""
        key = self._layout.key_of_row(row_key)
        encoded = self._layout.encoded_key(key)
        record = self._rows.old(value)
        return self._layout.entries(record, encoded, key, names)

    async def _note(self, txn: AsyncTransaction, work: str, position: bytes | None, indexes: dict[str, str]) -> None:
        row = await self._catalog.read(txn)
        row.indexes.update(indexes)
        if position is None:
            row.work.pop(work, None)
        else:
            row.work[work] = position
        await self._catalog.write(txn, row)

    # --- check --------------------------------------------------------------------------------------------------------

    async def check(
        self,
        db: AsyncTransactionClient,
        *,
        repair: bool = False,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> CheckReport:
        """Compare rows with index entries, both ways; with `repair`, mend what does not agree."""
        report = CheckReport()
        names = list(self._rows.schema.indexes)

        async def rows_step(txn: AsyncTransaction, found: Sequence[Found], position: bytes | None) -> int:
            report.rows += len(found)
            entries = {entry.key: entry for pair in found for entry in self._entries_of(*pair, names)}
            held = await txn.batch_get(entries) if entries else {}
            wrong = [
                Problem("missing" if key not in held else "wrong", entry.index_name, key, entry.value)
                for key, entry in entries.items()
                if held.get(key) != entry.value
            ]
            return await self._deal_with(db, wrong, report, repair)

        await walk(db, self._row_spans(), rows_step, batch=batch, on_progress=on_progress)
        for name in names:
            await self._check_entries(db, name, report, repair, batch, on_progress)
        return report

    async def _check_entries(
        self,
        db: AsyncTransactionClient,
        name: str,
        report: CheckReport,
        repair: bool,
        batch: int,
        on_progress: OnProgress | None,
    ) -> None:
        """Find the entries of an index that no row has."""
        spans = [(span.head + span.start, span.head + span.end) for span in self._layout.spans(name, b"", b"\xff")]

        async def step(txn: AsyncTransaction, found: Sequence[Found], position: bytes | None) -> int:
            report.entries += len(found)
            wrong = [one for one in await self._dangling(txn, name, found) if one is not None]
            return await self._deal_with(db, wrong, report, repair)

        await walk(db, spans, step, batch=batch, on_progress=on_progress)

    async def _dangling(self, txn: AsyncTransaction, name: str, found: Sequence[Found]) -> list[Problem | None]:
        index = self._rows.schema.indexes[name]
        owners = [
            self._layout.row_key(self._layout.encoded_key(self._layout.read_entry(index, key, value)[0]))
            for key, value in found
        ]
        rows = await txn.batch_get(set(owners)) if owners else {}
        problems: list[Problem | None] = []
        for (key, _), owner in zip(found, owners, strict=True):
            stored = rows.get(owner)
            expected = set() if stored is None else {one.key for one in self._entries_of(owner, stored, [name])}
            problems.append(None if key in expected else Problem("dangling", name, key, None))
        return problems

    async def _deal_with(
        self, db: AsyncTransactionClient, problems: Sequence[Problem], report: CheckReport, repair: bool
    ) -> int:
        report.found += len(problems)
        report.problems += problems[: _KEPT_PROBLEMS - len(report.problems)]
        repaired = 0
        for problem in problems if repair else ():
            repaired += await db.run(self._repair, problem)
        report.repaired += repaired
        return repaired

    async def _repair(self, txn: AsyncTransaction, problem: Problem) -> bool:
        """Mend one entry, by what its row says now. False: another row has the unique value."""
        index = self._rows.schema.indexes[problem.index]
        held = await txn.get(problem.key)
        source = problem.expected if problem.expected is not None else held
        if source is None:
            return True  # it has gone by itself
        owner = self._layout.row_key(self._layout.encoded_key(self._layout.read_entry(index, problem.key, source)[0]))
        stored = await txn.get(owner)
        await txn.lock_keys([owner])
        entries = {} if stored is None else {one.key: one for one in self._entries_of(owner, stored, [problem.index])}
        entry = entries.get(problem.key)
        if entry is None:
            if held is not None and held == source:
                await txn.delete(problem.key)
            return True
        if held is not None and held != entry.value and entry.is_exclusive and not await self._is_own(txn, entry, held):
            return False
        await txn.put(problem.key, entry.value)
        return True

    # --- migrate ------------------------------------------------------------------------------------------------------

    async def migrate(
        self,
        db: AsyncTransactionClient,
        *,
        version: int,
        convert: Callable[[R], R] | None = None,
        batch: int = BATCH,
        on_progress: OnProgress | None = None,
    ) -> Progress:
        """Write anew each row that another version of the class has written, changed by `convert` if given."""
        work = f"migrate {version}"

        async def step(txn: AsyncTransaction, found: Sequence[Found], position: bytes | None) -> int:
            old = [row_key for row_key, value in found if self._rows.codec.version_of(value) != version]
            keys: list[Any] = [self._layout.encoded_key(self._layout.key_of_row(row_key)) for row_key in old]
            records = [row for row in await self._rows.load(txn, keys) if row is not None]
            await self._rows.put(txn, [convert(row) for row in records] if convert is not None else records)
            await self._note(txn, work, position, {})
            return len(records)

        async def begin(txn: AsyncTransaction) -> bytes | None:
            return (await self._catalog.read(txn)).work.get(work)

        after = await db.run(begin)
        return await walk(db, self._row_spans(), step, after=after, batch=batch, on_progress=on_progress)
