"""Work on whole tables in use: building an index, checking and repairing indexes, rewriting rows of older versions.

All go over the rows (`walk`), batch by batch, and can be stopped and begun again at any moment.

* **build**: each step puts the entries of some rows and locks the rows themselves. Writers keep the index already
  (`catalog`): one who changes a row's entries meanwhile writes the same keys, so that the step conflicts and is
  repeated with the row as it is then (and so is, by the locks, a step that meets a writer who does not know the index
  yet). So no entry is missing and none is left over at the end. A unique index that finds two rows with one value
  stops with UniqueViolation; the rows are there for their owner to mend, and the next build goes on from there.
* **check**: compares rows with entries of the indexes that are ready, both ways, each batch at one snapshot. What it
  finds is looked at again in a transaction before it is repaired, since it may have been mended meanwhile. An entry
  that two rows claim stays with the one that has it.
* **migrate**: reads and writes each row whose value was written by another version of the class.
* **truncate**: deletes all rows with their entries, as `Table.delete` does.
* **drop**: deletes what an index has left that is declared no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import InvalidArgument
from pytikv.model.catalog import BUILDING, READY, Catalog
from pytikv.model.errors import RowError, shown
from pytikv.model.layout import Entry
from pytikv.model.rows import Reader, Rows
from pytikv.model.walk import BATCH, Found, OnProgress, Progress, batches, repeatable, walk

__all__ = ["CheckReport", "Maintenance", "Problem"]

R = TypeVar("R")

_KEPT_PROBLEMS: Final = 100
_ATTEMPTS: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A row and an index that do not agree.

    kind: ``missing`` (a row without its entry), ``wrong`` (an entry that holds something else), ``duplicate`` (two rows
    with one value of a unique index; no repair helps), ``dangling`` (an entry without its row, or of values that the
    row has no more).
    """

    kind: str
    index: str
    key: bytes
    """The entry's stored key."""
    expected: bytes | None
    """What the entry should hold; None: it should not be there."""


@dataclasses.dataclass(slots=True)
class CheckReport:
    """What a check found. `problems` holds the first 100; `skipped`: indexes that are not built."""

    rows: int = 0
    entries: int = 0
    found: int = 0
    repaired: int = 0
    problems: list[Problem] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)

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
        if name not in self._rows.schema.indexes:
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
            await self._note(txn, work, position)
            return count

        async def end(txn: AsyncTransaction) -> None:
            """Begun after all steps were committed: who reads at its start_ts or later sees all entries."""
            row = await self._catalog.read(txn)
            row.work.pop(work, None)
            if row.indexes.get(name) != READY:
                row.indexes[name], row.since[name] = READY, int(txn.start_ts)
            await self._catalog.write(txn, row)

        is_ready, after = await repeatable(db, begin, attempts=_ATTEMPTS)
        if is_ready:
            return Progress(0, 0, None)
        self._catalog.forget(db._backend)
        progress = await walk(db, self._row_spans(), step, after=after, batch=batch, on_progress=on_progress)
        await repeatable(db, end, attempts=_ATTEMPTS)
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
        held = await self._rows.read_to_write(txn, list(entries)) if entries else {}
        count = 0
        for entry_key, entry in entries.items():
            there = held.get(entry_key)
            if there == entry.value:
                continue
            if there is not None and entry.is_exclusive and await self._is_claimed(txn, entry, there):
                raise self._rows.violation(entry)
            await txn.put(entry_key, entry.value)
            count += 1
        return count

    async def _is_claimed(self, txn: Reader, entry: Entry, there: bytes) -> bool:
        """Tell whether a unique entry that holds something else is rightly another row's."""
        owner = self._owner_of(entry.index_name, entry.key, there)
        if owner is None or owner == self._owner_of(entry.index_name, entry.key, entry.value):
            return False
        stored = await txn.get(owner)
        return stored is not None and entry.key in {
            one.key for one in self._entries_of(owner, stored, [entry.index_name])
        }

    def _owner_of(self, name: str, key: bytes, value: bytes) -> bytes | None:
        """Return where the row of an entry lies; None for an entry that cannot be read."""
        try:
            row_key, _ = self._layout.read_entry(self._rows.schema.indexes[name], key, value)
            return self._layout.row_key(self._layout.encoded_key(row_key))
        except RowError:
            return None

    def _entries_of(self, row_key: bytes, value: bytes, names: Sequence[str]) -> list[Entry]:
        """Return the entries that a stored row should have in some indexes."""
        key = self._layout.key_of_row(row_key)
        encoded = self._layout.encoded_key(key)
        record = self._rows.old(value)
        return self._layout.entries(record, encoded, key, names)

    async def _note(self, txn: AsyncTransaction, work: str, position: bytes | None) -> None:
        """Note how far a walk has come. None, its last step, is left for `_forget_work` or what else ends it."""
        if position is not None:
            row = await self._catalog.read(txn)
            row.work[work] = max(position, row.work.get(work, b""))  # another walk like it may be further
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
        checking = _Check(db, CheckReport(), repair, batch, on_progress)
        states = await self._catalog.states(db._backend)
        names = [name for name, state in states.items() if state == READY]
        checking.report.skipped = [name for name in states if name not in names]
        async for snapshot, found in batches(db, self._row_spans(), batch):
            checking.report.rows += len(found)
            await self._deal_with(checking, await self._wrong_entries(snapshot, names, found), found)
        for name in names:
            spans = [(span.head + span.start, span.head + span.end) for span in self._layout.spans(name, b"", b"\xff")]
            async for snapshot, found in batches(db, spans, batch):
                checking.report.entries += len(found)
                dangling = await self._dangling(snapshot, name, found)
                known = checking.known
                await self._deal_with(checking, [one for one in dangling if one.key not in known], found)
        return checking.report

    async def _wrong_entries(self, txn: Reader, names: Sequence[str], found: Sequence[Found]) -> list[Problem]:
        """Return the entries that rows should have and have not."""
        wanted = [entry for pair in found for entry in self._entries_of(*pair, names)]
        held = await txn.batch_get({entry.key for entry in wanted}) if wanted else {}
        problems = []
        for entry in wanted:
            there = held.get(entry.key)
            if there != entry.value:
                kind = "missing" if there is None else "wrong"
                if there is not None and entry.is_exclusive and await self._is_claimed(txn, entry, there):
                    kind = "duplicate"
                problems.append(Problem(kind, entry.index_name, entry.key, entry.value))
        return problems

    async def _dangling(self, txn: Reader, name: str, found: Sequence[Found]) -> list[Problem]:
        """Return the entries of an index that no row has."""
        owners = [self._owner_of(name, key, value) for key, value in found]
        present = {owner for owner in owners if owner is not None}
        rows = await txn.batch_get(present) if present else {}
        expected = {
            owner: {one.key for one in self._entries_of(owner, stored, [name])} for owner, stored in rows.items()
        }
        return [
            Problem("dangling", name, key, None)
            for (key, _), owner in zip(found, owners, strict=True)
            if owner is None or key not in expected.get(owner, ())
        ]

    async def _deal_with(self, checking: _Check, problems: Sequence[Problem], found: Sequence[Found]) -> None:
        report = checking.report
        report.found += len(problems)
        report.problems += problems[: _KEPT_PROBLEMS - len(report.problems)]
        checking.known.update(problem.key for problem in problems)
        for problem in problems if checking.repair else ():
            report.repaired += await repeatable(
                checking.db, self._repair, problem, pessimistic=True, attempts=_ATTEMPTS
            )
        if checking.on_progress is not None and found:
            checking.on_progress(Progress(report.rows, report.repaired, found[-1][0]))

    async def _repair(self, txn: AsyncTransaction, problem: Problem) -> bool:
        """Mend one entry, by what the rows say now. False: two rows claim it."""
        held = (await self._rows.read_to_write(txn, [problem.key])).get(problem.key)
        owners = {
            owner: value
            for value in (held, problem.expected)
            if value is not None and (owner := self._owner_of(problem.index, problem.key, value)) is not None
        }
        rows = await self._rows.read_to_write(txn, list(owners)) if owners else {}
        claims = [
            entry
            for owner, stored in rows.items()
            for entry in self._entries_of(owner, stored, [problem.index])
            if entry.key == problem.key
        ]
        if len(claims) > 1:
            return False
        wanted = claims[0].value if claims else None
        if wanted is None and held is not None:
            await txn.delete(problem.key)
        elif wanted is not None and wanted != held:
            await txn.put(problem.key, wanted)
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
            keys = [self._asked_key(row_key) for row_key in old]
            records = [row for row in await self._rows.get_for_update(txn, keys) if row is not None] if keys else []
            await self._rows.put(txn, [row if convert is None else self._converted(convert, row) for row in records])
            await self._note(txn, work, position)
            return len(records)

        async def begin(txn: AsyncTransaction) -> bytes | None:
            return (await self._catalog.read(txn)).work.get(work)

        after = await db.run(begin)
        progress = await walk(db, self._row_spans(), step, after=after, batch=batch, on_progress=on_progress)
        await repeatable(db, self._forget_work, work, attempts=_ATTEMPTS)
        return progress

    def _asked_key(self, row_key: bytes) -> Any:
        key = self._layout.key_of_row(row_key)
        return key[0] if len(key) == 1 else key

    def _converted(self, convert: Callable[[R], R], row: R) -> R:
        encoded = self._rows.encoded_of(row)  # before: convert may change the row itself
        changed = convert(row)
        self._rows.records.check(changed)
        if self._rows.encoded_of(changed) != encoded:
            fields = ", ".join(self._rows.schema.key_fields)
            raise self._rows.records.error(f"cannot have a row's key changed by convert ({fields}): {shown(changed)}")
        return changed

    async def _forget_work(self, txn: AsyncTransaction, work: str) -> None:
        row = await self._catalog.read(txn)
        if row.work.pop(work, None) is not None:
            await self._catalog.write(txn, row)

    # --- taking away --------------------------------------------------------------------------------------------------

    async def truncate(
        self, db: AsyncTransactionClient, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Progress:
        """Delete all rows with their entries."""

        async def step(txn: AsyncTransaction, found: Sequence[Found], position: bytes | None) -> int:
            return await self._rows.delete(txn, [self._asked_key(row_key) for row_key, _ in found])

        return await walk(db, self._row_spans(), step, batch=batch, on_progress=on_progress)

    async def drop_index(
        self, db: AsyncTransactionClient, name: str, *, batch: int = BATCH, on_progress: OnProgress | None = None
    ) -> Progress:
        """Delete the entries of an index that is declared no more. Raises InvalidArgument for one that is."""
        if name in self._rows.schema.indexes:
            raise InvalidArgument(
                f"table {self._rows.schema.name!r} declares index {name!r}: take it out of the declaration, of every "
                "program, before it is dropped"
            )

        async def begin(txn: AsyncTransaction) -> None:
            row = await self._catalog.read(txn)
            known = [row.indexes.pop(name, None), row.since.pop(name, None), row.work.pop(f"build {name}", None)]
            if known != [None] * 3:
                await self._catalog.write(txn, row)

        async def step(txn: AsyncTransaction, found: Sequence[Found], position: bytes | None) -> int:
            for key, _ in found:
                await txn.delete(key)
            return len(found)

        await repeatable(db, begin, attempts=_ATTEMPTS)
        return await walk(db, [self._layout.index_range(name)], step, batch=batch, on_progress=on_progress)


@dataclasses.dataclass(slots=True)
class _Check:
    """One check under way. known: keys of problems that were found, so that none is counted twice."""

    db: AsyncTransactionClient
    report: CheckReport
    repair: bool
    batch: int
    on_progress: OnProgress | None
    known: set[bytes] = dataclasses.field(default_factory=set)
