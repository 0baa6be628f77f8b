"""Which key or index answers a query, and which ranges of it. Pure.

A query is conditions on fields, all of which must hold:

    users.query(txn, city="Rome", age=(18, 30))

A condition is a value (equal), a tuple `(low, high)` (half-open; None: unbounded), a list or set (any of these values),
or `Prefix("ab")` (texts and bytes that begin so). Equality holds for None too; a range with an end leaves None out.
Values are of the field's declared type. A tuple as a value is asked for in a list. A condition on a field that some
index has as its `each` is about elements: one of them must meet it, whichever way the rows are found.

The table's key and each index are *ways*. A way serves the conditions on its leading parts: any number of values or
lists of values, then at most one range or prefix. Chosen is the way that serves most conditions; among equals one that
ends in no range, then the key, a unique index, the one with the fewest parts. What it does not serve is left for a
filter. A partial index is taken only when it is named (`index=`), and so is one over elements unless there is a
condition on them: both leave rows out. Where no way serves any condition the query would read the whole table: that
must be said (`scan=True`). Without conditions the way is the key, or the index that is named.

Rows come in the way's order; of lists, in the order of the values in it; by an index over elements, each row once, at
the first of its entries that the query meets.

Entries answer a query alone (`held_by_entries`) that asks for no fields but covered ones and those that keys give back
as they were: ints, floats, strs, bytes, bools, UUIDs and None. (Enums, times and Decimals come as equal values of
another form.)
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pytikv.errors import InvalidArgument, WrongType
from pytikv.model.errors import shown
from pytikv.model.layout import Layout, Range, Span
from pytikv.model.records import Records, names_of
from pytikv.model.schema import IndexSchema, Part, TableSchema

__all__ = ["MAX_RANGES", "Plan", "Prefix", "check_limit", "held_by_entries", "matches", "plan_query"]

MAX_RANGES: Final = 1024
_KEPT_BY_KEYS: Final = frozenset({int, float, str, bytes, bool, uuid.UUID, type(None)})


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
    elements: frozenset[str]
    """The fields whose conditions are about elements."""
    reverse: bool

    def describe(self) -> str:
        """Say in a few words what is read."""
        way = "the key" if self.index is None else f"index {self.index.name!r}"
        count = sum(map(len, self.spans))
        turned = ", from the end" if self.reverse else ""
        rest = f", filtered by {' and '.join(self.filters)}" if self.filters else ""
        return f"{count} range{'' if count == 1 else 's'} of {way}{turned}{rest}"

    def identity(self) -> str:
        """Return what tells this query from others, the same in every process: for cursors."""
        ranges = [[(span.start, span.end) for span in group] for group in self.spans]
        filters = sorted((field, _identity(wanted)) for field, wanted in self.filters.items())
        return repr((None if self.index is None else self.index.name, ranges, filters, self.reverse))


def _identity(wanted: Any) -> Any:
    return sorted(map(repr, wanted)) if isinstance(wanted, (list, set, frozenset)) else repr(wanted)


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
    elements = frozenset(one.each for one in schema.indexes.values() if one.each is not None)
    for field, wanted in conditions.items():
        if field not in records.fields:
            raise records.error(f"has no field {field!r}; it has {', '.join(records.fields)}")
        _check_condition(records, field, wanted, None if field in elements else records.fields[field].classes)
    way = _choose(schema, records, layout, conditions, elements, index, scan)
    served = way.parts[: way.served]
    spans = _spans(layout, records, way, [conditions[part.field] for part in served], reverse)
    filters = {field: wanted for field, wanted in conditions.items() if field not in {part.field for part in served}}
    return Plan(way.index, spans, filters, elements, reverse)


def _check_condition(records: Records[Any], field: str, wanted: Any, classes: tuple[type, ...] | None) -> None:
    """Refuse a condition that no row can be compared with."""
    if isinstance(wanted, Prefix):
        values: Iterable[Any] = [wanted.text]
    elif isinstance(wanted, tuple):
        if len(wanted) != 2:
            raise records.error(f"is asked for {shown(wanted)}: a range is (low, high)", field)
        values = [end for end in wanted if end is not None]
    else:
        values = _listed(wanted)
    for value in values:
        fits = classes is None or value is None or isinstance(value, classes)
        if not fits or (classes is not None and type(value) is bool and bool not in classes and int in classes):
            raise records.error(f"holds {names_of(classes or ())}, and is asked for {shown(value)}", field)


def _listed(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, (list, set, frozenset)) else [wanted]


def held_by_entries(schema: TableSchema, records: Records[Any], index: IndexSchema) -> frozenset[str]:
    """Return the fields that the entries of an index give by themselves; none for one over elements."""
    if index.each is not None:
        return frozenset()
    keyed = {*index.fields, *schema.key_fields} - set(index.covering)
    kept = {field for field in keyed if _KEPT_BY_KEYS.issuperset(records.fields[field].classes or (object,))}
    return frozenset({*index.covering, *kept})


# --- the way ----------------------------------------------------------------------------------------------------------


def _choose(
    schema: TableSchema,
    records: Records[Any],
    layout: Layout,
    conditions: Mapping[str, Any],
    elements: frozenset[str],
    index: str | None,
    scan: bool,
) -> _Way:
    if index is not None:
        if index not in schema.indexes:
            raise records.error(f"has no index {index!r}; it has {', '.join(schema.indexes) or 'none'}")
        return _way(layout, schema.indexes[index], schema.indexes[index].parts, conditions, elements)
    ways = [_way(layout, None, schema.key, conditions, elements)]
    ways += [
        _way(layout, one, one.parts, conditions, elements)
        for one in schema.indexes.values()
        if one.where is None and (one.each is None or one.each in conditions)
    ]
    best = max(ways, key=_worth)
    if best.served or not conditions:
        return best if conditions else ways[0]
    if not scan:
        firsts = {ways[0].parts[0].field, *(one.parts[0].field for one in schema.indexes.values())}
        if schema.is_text and firsts & conditions.keys():
            raise records.error(
                f"has text keys, in which these ranges of {' and '.join(sorted(firsts & conditions.keys()))} are no "
                "ranges: add conditions that an index serves (equality, Prefix), or say scan=True to read the whole "
                "table"
            )
        raise records.error(
            f"has no key or index that begins with {' or '.join(conditions)}: add one, or say scan=True to read the "
            "whole table"
        )
    return ways[0]


def _worth(way: _Way) -> tuple[int, bool, bool, bool, int]:
    is_unique = way.index is not None and way.index.is_unique
    return (way.served, not way.ends_in_range, way.index is None, is_unique, -len(way.parts))


def _way(
    layout: Layout,
    index: IndexSchema | None,
    parts: tuple[Part, ...],
    conditions: Mapping[str, Any],
    elements: frozenset[str],
) -> _Way:
    served = 0
    each = None if index is None else index.each
    for part in parts:
        if part.field not in conditions or (part.field in elements and part.field != each):
            break
        wanted = conditions[part.field]
        if isinstance(wanted, Prefix) and not layout.serves_prefix(index, part):
            break  # downward, texts with a common beginning are no range: left to the filter
        if isinstance(wanted, tuple) and not layout.serves_range(index, part):
            break
        served += 1
        if isinstance(wanted, (tuple, Prefix)):
            return _Way(index, parts, served, True)
    return _Way(index, parts, served, False)


# --- its ranges -------------------------------------------------------------------------------------------------------


def _spans(layout: Layout, records: Records[Any], way: _Way, wanted: list[Any], reverse: bool) -> list[list[Span]]:
    name = None if way.index is None else way.index.name
    what = "the key" if name is None else f"index {name!r}"
    last = wanted.pop() if way.ends_in_range else None
    choices = [_values(records, part, one) for part, one in zip(way.parts, wanted, strict=False)]
    ranges: list[Range] = []
    for values in itertools.product(*choices):
        if len(ranges) >= MAX_RANGES:
            raise records.error(f"would be read in more than {MAX_RANGES} ranges: ask for fewer values at once")
        if way.ends_in_range:
            ranges.append(_bounds(layout, records, way.index, way.parts, values, last, what))
        else:
            ranges.append(layout.equals(way.index, way.parts, values, what))
    ranges = sorted(one for one in set(ranges) if one[0] < one[1])
    if reverse:
        ranges.reverse()
    return [layout.spans(name, low, high) for low, high in ranges]


def _values(records: Records[Any], part: Part, wanted: Any) -> list[Any]:
    return [records.key_part(part.field, value) for value in _listed(wanted)]


def _bounds(
    layout: Layout,
    records: Records[Any],
    index: IndexSchema | None,
    parts: tuple[Part, ...],
    before: Sequence[Any],
    wanted: Any,
    what: str,
) -> Range:
    """Return the bounds of a range condition on the part after those of `before`."""

    part = parts[len(before)]
    if isinstance(wanted, Prefix):
        return layout.beginning(index, parts, before, wanted.text, what)
    low, high = wanted
    try:
        if low is not None and high is not None and not _ordered(low) < _ordered(high):
            return (b"", b"")
    except TypeError as error:
        raise records.error(f"is asked for a range of unlike ends, {shown(wanted)}", part.field) from error
    ends = [None if end is None else records.key_part(part.field, end) for end in (low, high)]
    return layout.between(index, parts, before, ends[0], ends[1], what)


def _ordered(value: Any) -> Any:
    """Return what a value is ordered by: an Enum by its value, as in keys."""
    return value.value if isinstance(value, enum.Enum) else value


def matches(records: Records[Any], value_of: Callable[[str], Any], plan: Plan) -> bool:
    """Tell whether a row meets the conditions that are left. Raises RowError for values that do not compare."""
    for field, wanted in plan.filters.items():
        value = value_of(field)
        try:
            if field in plan.elements:
                if value is None or not any(_meets(one, wanted) for one in value):
                    return False
            elif not _meets(value, wanted):
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
        low, high = wanted
        if value is None:
            return low is None and high is None
        at = _ordered(value)
        return (low is None or at >= _ordered(low)) and (high is None or at < _ordered(high))
    return bool(value == wanted)


def check_limit(limit: int | None) -> None:
    """Raise WrongType or InvalidArgument for a limit that is none."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise WrongType(f"limit is a number of rows or None, not {type(limit).__name__}")
    if limit is not None and limit < 0:
        raise InvalidArgument(f"limit is at least 0, not {limit}")
