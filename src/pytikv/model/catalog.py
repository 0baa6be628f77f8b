"""What is known of a table in the store itself: which of its indexes are complete, and how far work on it has come.

One row a table, `(table, 2)`, JSON: `{"indexes": {name: state}, "since": {name: timestamp}, "work": {name: position in
hex}}`. States are `ready` and `building`; an index that the row does not name has been declared after rows were there,
and is `missing`.

    missing --build_index--> building --all rows seen--> ready --drop_index--> missing

`since` is a timestamp at which all entries were there already; a transaction or snapshot of an earlier moment would
miss some, and may not use the index. An index that was there before the first row has none.

All writers keep all declared indexes, whatever their state; readers go by `ready` ones only (SchemaError otherwise,
which says what to do). So an index is added to a table in use in this order: every program that writes declares it,
then one runs `build_index`, then queries may use it. The row is made by the first writer or reader who misses it: with
all indexes ready where the table is empty, with none where rows are there already. (With text keys, all are taken as
ready: rows that are there come from a program that kept these indexes itself.)

While a unique index is not ready, two rows may have one value, and its entry belongs to one of them: writers look whose
an entry is before they replace or delete it (`unsettled`).

What has been seen as ready is not asked for again by the same connection. A table without indexes has no such row.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import CommitUndetermined, WriteConflict
from pytikv.model.errors import SchemaError
from pytikv.model.layout import Layout
from pytikv.model.schema import TableSchema

__all__ = ["BUILDING", "MISSING", "READY", "Catalog", "CatalogRow"]

READY: Final = "ready"
BUILDING: Final = "building"
MISSING: Final = "missing"
_SHARED: Final = "model.catalog"


@dataclasses.dataclass(slots=True)
class CatalogRow:
    """The row, taken apart. `work`: positions of walks under way, by their name."""

    indexes: dict[str, str]
    work: dict[str, bytes]
    since: dict[str, int] = dataclasses.field(default_factory=dict)

    @staticmethod
    def decode(value: bytes | None) -> CatalogRow:
        """Return the row of a value; an empty one where there is none."""
        held = json.loads(value) if value else {}
        return CatalogRow(
            dict(held.get("indexes", {})),
            {name: bytes.fromhex(at) for name, at in held.get("work", {}).items()},
            dict(held.get("since", {})),
        )

    def encode(self) -> bytes:
        """Return its value."""
        work = {name: at.hex() for name, at in sorted(self.work.items())}
        indexes, since = dict(sorted(self.indexes.items())), dict(sorted(self.since.items()))
        return json.dumps({"indexes": indexes, "since": since, "work": work}).encode()

    def ready(self) -> dict[str, int]:
        """Return the ready indexes, and since when (0: always)."""
        return {name: self.since.get(name, 0) for name, state in self.indexes.items() if state == READY}


class Catalog:
    """The catalog of one table. Keeps nothing itself; what was seen is kept with the connection."""

    def __init__(self, schema: TableSchema, layout: Layout) -> None:
        self._schema = schema
        self._layout = layout
        self._unique = [index.name for index in schema.indexes.values() if index.is_unique]
        self.key = layout.catalog_key

    async def require(self, txn: Any, index: str | None = None) -> None:
        """Make sure that the row is there and, where an index is named, that it is ready. Raises SchemaError."""
        if not self._schema.indexes:
            return
        ready = self._seen(txn._backend)
        if ready is None or (index is not None and index not in ready):
            row = await self._load(txn._backend)
            ready = row.ready()
            if index is not None and index not in ready:
                state = row.indexes.get(index, MISSING)
                raise SchemaError(
                    f"index {index!r} of table {self._schema.name!r} is {state}: rows were there before it was "
                    f"declared. Run table.build_index(db, {index!r}), or the command pytikv table build-index"
                )
        if index is not None and ready[index] and ready[index] > await _moment(txn):
            raise SchemaError(
                f"index {index!r} of table {self._schema.name!r} was built after this transaction or snapshot began: "
                "begin another"
            )

    async def unsettled(self, txn: AsyncTransaction) -> list[str]:
        """Return the unique indexes that are not known to be ready."""
        if not self._unique:
            return []
        await self.require(txn)
        ready = self._seen(txn._backend) or {}
        return [name for name in self._unique if name not in ready]

    def _seen(self, backend: Any) -> dict[str, int] | None:
        seen: dict[bytes, dict[str, int]] = backend.shared.setdefault(_SHARED, {})
        return seen.get(self.key)

    def forget(self, backend: Any) -> None:
        """Ask again before the next use by this connection."""
        backend.shared.get(_SHARED, {}).pop(self.key, None)

    async def _load(self, backend: Any) -> CatalogRow:
        """Read the row, making it where it is missing, in a transaction of its own."""
        while True:
            txn = AsyncTransaction(backend, TxnOptions())
            try:
                async with txn:
                    value = await txn.get(self.key)
                    row = CatalogRow.decode(value)
                    if value is None:
                        is_ready = self._schema.is_text or await self._is_empty(txn)
                        state = READY if is_ready else MISSING
                        row = CatalogRow(dict.fromkeys(self._schema.indexes, state), {})
                        await txn.put(self.key, row.encode())
            except (WriteConflict, CommitUndetermined):
                continue  # another one has made it, or this one: read that
            backend.shared.setdefault(_SHARED, {})[self.key] = row.ready()
            return row

    async def _is_empty(self, txn: AsyncTransaction) -> bool:
        for span in self._layout.spans(None, b"", b"\xff"):
            async for _ in txn.scan(span.head + span.start, span.head + span.end, limit=1, keys_only=True):
                return False
        return True

    async def read(self, txn: AsyncTransaction) -> CatalogRow:
        """Read the row in a transaction; a pessimistic one locks it."""
        return CatalogRow.decode(await (txn.get_for_update(self.key) if txn.is_pessimistic else txn.get(self.key)))

    async def write(self, txn: AsyncTransaction, row: CatalogRow) -> None:
        """Write the row in a transaction."""
        await txn.put(self.key, row.encode())

    async def states(self, backend: Any) -> dict[str, str]:
        """Return the present state of every declared index."""
        if not self._schema.indexes:
            return {}
        row = await self._load(backend)
        return {name: row.indexes.get(name, MISSING) for name in self._schema.indexes}


async def _moment(txn: Any) -> int:
    """Return the timestamp at which a transaction or snapshot reads."""
    if isinstance(txn, AsyncTransaction):
        return int(txn.start_ts)
    await txn
    return int(txn.ts)
