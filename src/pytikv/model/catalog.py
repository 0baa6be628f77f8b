"""What is known of a table in the store itself: which of its indexes are complete, and how far work on it has come.

One row a table, `(table, 2)`, JSON: `{"indexes": {name: state}, "work": {name: position in hex}}`. States are `ready`
and `building`; an index that the row does not name has been declared after rows were there, and is `missing`.

    missing --build_index--> building --all rows seen--> ready

All writers keep all declared indexes, whatever their state; readers go by `ready` ones only (SchemaError otherwise,
which says what to do). So an index is added to a table in use in this order: every program that writes declares it,
then one runs `build_index`, then queries may use it. The row is made by the first writer or reader who misses it: with
all indexes ready where the table is empty, with none where rows are there already.

What has been seen as ready is not asked for again by the same connection. A table without indexes has no such row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Final

from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WriteConflict
from pytikv.model.errors import SchemaError
from pytikv.model.layout import Layout
from pytikv.model.schema import TableSchema
from pytikv.model.tuples import encode

__all__ = ["BUILDING", "MISSING", "READY", "Catalog", "CatalogRow"]

READY: Final = "ready"
BUILDING: Final = "building"
MISSING: Final = "missing"
_CATALOG: Final = 2
_SHARED: Final = "model.catalog"


@dataclasses.dataclass(slots=True)
class CatalogRow:
    """The row, taken apart. `work`: positions of walks under way, by their name."""

    indexes: dict[str, str]
    work: dict[str, bytes]

    @staticmethod
    def decode(value: bytes | None) -> CatalogRow:
        """Return the row of a value; an empty one where there is none."""
        held = json.loads(value) if value else {}
        return CatalogRow(
            dict(held.get("indexes", {})), {name: bytes.fromhex(at) for name, at in held.get("work", {}).items()}
        )

    def encode(self) -> bytes:
        """Return its value."""
        work = {name: at.hex() for name, at in sorted(self.work.items())}
        return json.dumps({"indexes": dict(sorted(self.indexes.items())), "work": work}).encode()


class Catalog:
    """The catalog of one table. Keeps nothing itself; what was seen is kept with the connection."""

    def __init__(self, schema: TableSchema, layout: Layout) -> None:
        self._schema = schema
        self._layout = layout
        self.key = schema.prefix + encode((schema.name, _CATALOG))

    async def require(self, txn: Any, index: str | None = None) -> None:
        """Make sure that the row is there and, where an index is named, that it is ready. Raises SchemaError."""
        if not self._schema.indexes:
            return
        ready = self._seen(txn._backend)
        if ready is not None and (index is None or index in ready):
            return
        row = await self._load(txn._backend)
        if index is not None and row.indexes.get(index, MISSING) != READY:
            raise SchemaError(
                f"index {index!r} of table {self._schema.name!r} is {row.indexes.get(index, MISSING)}: rows were there "
                f"before it was declared. Run table.build_index(db, {index!r}), or the command pytikv table build-index"
            )

    def _seen(self, backend: Any) -> set[str] | None:
        seen: dict[bytes, set[str]] = backend.shared.setdefault(_SHARED, {})
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
                        state = READY if await self._is_empty(txn) else MISSING
                        row = CatalogRow(dict.fromkeys(self._schema.indexes, state), {})
                        await txn.put(self.key, row.encode())
            except WriteConflict:
                continue  # another one has made it: read that
            ready = {name for name, state in row.indexes.items() if state == READY}
            backend.shared.setdefault(_SHARED, {})[self.key] = ready
            return row

    async def _is_empty(self, txn: AsyncTransaction) -> bool:
        for span in self._layout.spans(None, b"", b"\xff"):
            async for _ in txn.scan(span.head + span.start, span.head + span.end, limit=1, keys_only=True):
                return False
        return True

    async def read(self, txn: AsyncTransaction) -> CatalogRow:
        """Read the row in a transaction."""
        return CatalogRow.decode(await txn.get(self.key))

    async def write(self, txn: AsyncTransaction, row: CatalogRow) -> None:
        """Write the row in a transaction."""
        await txn.put(self.key, row.encode())

    async def states(self, txn: AsyncTransaction) -> dict[str, str]:
        """Return the state of every declared index."""
        row = await self.read(txn)
        return {name: row.indexes.get(name, MISSING) for name in self._schema.indexes}

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return those of some names that are no index of the table."""
        return [name for name in names if name not in self._schema.indexes]
