"""Which key or index answers a query, and which ranges of it. Pure.

A query is conditions on fields, all of which must hold:

    users.query(txn, city="Rome", age=(18, 30))

A condition is a value (equal), a tuple `(low, high)` (half-open; None: unbounded), a list or set (any of these values),
or `Prefix("ab")` (texts and bytes that begin so). Equality holds for None too; a range with an end leaves None out.

The table's key and each index are *ways*. A way serves the conditions on its leading parts: any number of values or
lists of values, then at most one range or prefix. Chosen is the way that serves most conditions; among equals one that
ends in no range, then the key, a unique index, the one with the fewest parts. What it does not serve is left for a
filter. A partial index is taken only when it is named (`index=`), and so is one over elements unless there is a
condition on them. Where no way serves any condition the query would read the whole table: that must be said
(`scan=True`). Without conditions the way is the key, or the index that is named.

Rows come in the way's order; of lists, in the order of the values in it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytikv.errors import InvalidArgument, WrongType
from pytikv.model.errors import RowError, shown
from pytikv.model.layout import Layout, Span
from pytikv.model.records import Records
from pytikv.model.schema import IndexSchema, Part, TableSchema
from pytikv.model.tuples import prefix_range

_Range = tuple[bytes, bytes]

__all__ = ["MAX_RANGES", "Plan", "Prefix", "check_limit", "matches", "plan_query"]

MAX_RANGES: Final = 1024


class Prefix:
    """A condition: texts or bytes that begin with `text`."""

    __slots__ = ("text",)

    def __init__(self, text: str | bytes) -> None:
        if not isinstance(text, (str, bytes)):
            raise WrongType(f"a Prefix is of a str or bytes, not {type(text).__name__}")
        self.text = text

    def __repr__(self) -> str:
        return f"Prefix({self.text!r})"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How a query is answered."""

    index: IndexSchema | None
    """None: by the key."""
    spans: list[list[Span]]
    """Groups of ranges; those of one group are to be merged (one a shard), groups follow one another."""
    filters: dict[str, Any]
    """Conditions that are left for each row."""
    reverse: bool

    def describe(self) -> str:
        """Say in a few words what is read."""
        way = "the key" if self.index is None else f"index {self.index.name}"
        rest = f", filtering {', '.join(self.filters)}" if self.filters else ""
        return f"{sum(map(len, self.spans))} ranges of {way}{rest}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    index: IndexSchema | None
    parts: tuple[Part, ...]
    served: int
    """How many leading parts have a condition that the way serves."""
    ends_in_range: bool


def plan_query(
    schema: TableSchema,
    records: Records[Any],
    layout: Layout,
    conditions: Mapping[str, Any],
    *,
    index: str | None = None,
    reverse: bool = False,
    scan: bool = False,
) -> Plan:
    """Return the plan of a query. Raises RowError: an unknown field or index, no way that serves, too many ranges."""
    for field in conditions:
        if field not in records.fields:
            raise records.error(f"has no field {field!r}; it has {', '.join(records.fields)}")
    way = _choose(schema, records, conditions, index, scan)
    served = way.parts[: way.served]
    spans = _spans(layout, records, way, [conditions[part.field] for part in served], reverse)
    filters = {field: wanted for field, wanted in conditions.items() if field not in {part.field for part in served}}
    each = None if way.index is None else way.index.each
    if each is not None and each in filters:
        raise records.error(f"cannot filter by elements; give conditions on what stands before {each!r} too", each)
    return Plan(way.index, spans, filters, reverse)


# --- the way ----------------------------------------------------------------------------------------------------------


def _choose(
    schema: TableSchema, records: Records[Any], conditions: Mapping[str, Any], index: str | None, scan: bool
) -> _Way:
    if index is not None:
        if index not in schema.indexes:
            raise records.error(f"has no index {index!r}; it has {', '.join(schema.indexes) or 'none'}")
        return _way(schema.indexes[index], schema.indexes[index].parts, conditions)
    ways = [_way(None, schema.key, conditions)]
    ways += [
        _way(one, one.parts, conditions)
        for one in schema.indexes.values()
        if one.where is None and (one.each is None or one.each in conditions)
    ]
    best = max(ways, key=_worth)
    if best.served or not conditions:
        return best if conditions else ways[0]
    if not scan:
        raise records.error(
            f"has no key or index that begins with {' or '.join(conditions)}: add one, or say scan=True to read the "
            "whole table"
        )
    return ways[0]


def _worth(way: _Way) -> tuple[int, bool, bool, bool, int]:
    is_unique = way.index is not None and way.index.is_unique
    return (way.served, not way.ends_in_range, way.index is None, is_unique, -len(way.parts))


def _way(index: IndexSchema | None, parts: tuple[Part, ...], conditions: Mapping[str, Any]) -> _Way:
    served = 0
    for part in parts:
        if part.field not in conditions:
            break
        served += 1
        if isinstance(conditions[part.field], (tuple, Prefix)):
            return _Way(index, parts, served, True)
    return _Way(index, parts, served, False)


# --- its ranges -------------------------------------------------------------------------------------------------------


def _spans(layout: Layout, records: Records[Any], way: _Way, wanted: list[Any], reverse: bool) -> list[list[Span]]:
    name = None if way.index is None else way.index.name
    what = "the key" if name is None else f"index {name!r}"
    last = wanted.pop() if way.ends_in_range else None
    choices = [_values(records, part, one) for part, one in zip(way.parts, wanted, strict=False)]
    ranges: list[_Range] = []
    for values in itertools.product(*choices):
        if len(ranges) >= MAX_RANGES:
            raise records.error(f"would be read in more than {MAX_RANGES} ranges: ask for fewer values at once")
        low, high = prefix_range(layout.index_prefix(way.parts, values, what))
        if way.ends_in_range:
            part = way.parts[len(values)]
            low, high = _bounds(layout, records, way.parts, values, part, last, what)
        ranges.append((low, high))
    ranges = sorted(one for one in set(ranges) if one[0] < one[1])
    if reverse:
        ranges.reverse()
    return [layout.spans(name, low, high) for low, high in ranges]


def _values(records: Records[Any], part: Part, wanted: Any) -> list[Any]:
    listed = list(wanted) if isinstance(wanted, (list, set, frozenset)) else [wanted]
    return [records.key_part(part.field, value) for value in listed]


def _bounds(
    layout: Layout,
    records: Records[Any],
    parts: tuple[Part, ...],
    before: Sequence[Any],
    part: Part,
    wanted: Any,
    what: str,
) -> _Range:
    """Return the bounds of a range condition on the part after those of `before`."""

    def encoded(value: Any) -> bytes:
        return layout.index_prefix(parts, [*before, records.key_part(part.field, value)], what)

    everything = prefix_range(layout.index_prefix(parts, before, what))
    if isinstance(wanted, Prefix):
        return _prefix_bounds(records, part, encoded, wanted)
    if len(wanted) != 2:
        raise records.error(f"is asked for {shown(wanted)}: a range is (low, high)", part.field)
    low, high = wanted
    try:
        if low is not None and high is not None and not low < high:
            return (b"", b"")
    except TypeError as error:
        raise records.error(f"is asked for a range of unlike ends, {shown(wanted)}", part.field) from error
    if low is None and high is None:
        return everything
    # None, which sorts first, is in no range with an end.
    if not part.is_descending:
        start = prefix_range(encoded(None))[1] if low is None else encoded(low)
        return start, everything[1] if high is None else encoded(high)
    # Downward, the high end comes first, and is left out with all that begins with it.
    first = everything[0] if high is None else prefix_range(encoded(high))[1]
    return first, encoded(None) if low is None else prefix_range(encoded(low))[1]


def _prefix_bounds(records: Records[Any], part: Part, encoded: Any, wanted: Prefix) -> _Range:
    if part.is_descending:
        raise records.error("sorts downward, where texts with a common beginning are no range", part.field)
    low: bytes = encoded(wanted.text)
    low = low[:-1]  # without the end of the text
    # What goes on after the beginning: any byte but the end 00, and 00 ff for a zero in the text.
    return low, _after(low)


def _after(prefix: bytes) -> bytes:
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes((cut[-1] + 1,)) if cut else b""


def matches(records: Records[Any], record: Any, filters: Mapping[str, Any]) -> bool:
    """Tell whether a record meets the conditions that are left. Raises RowError for values that do not compare."""
    for field, wanted in filters.items():
        value = records.get(record, field)
        try:
            if not _meets(value, wanted):
                return False
        except TypeError as error:
            raise records.error(f"holds {shown(value)}, which does not compare with {shown(wanted)}", field) from error
    return True


def _meets(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, (list, set, frozenset)):
        return value in wanted
    if isinstance(wanted, Prefix):
        return isinstance(value, type(wanted.text)) and value.startswith(wanted.text)  # type: ignore[arg-type]
    if isinstance(wanted, tuple):
        if len(wanted) != 2:
            raise RowError(f"{shown(wanted)} is no range: (low, high)")
        low, high = wanted
        if value is None:
            return low is None and high is None
        return (low is None or value >= low) and (high is None or value < high)
    return bool(value == wanted)


def check_limit(limit: int | None) -> None:
    """Raise WrongType or InvalidArgument for a limit that is none."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise WrongType(f"limit is a number of rows or None, not {type(limit).__name__}")
    if limit is not None and limit < 0:
        raise InvalidArgument(f"limit is at least 0, not {limit}")
