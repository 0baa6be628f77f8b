"""Any query over any indexes gives what filtering and sorting a list of records gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import pytikv
from pytikv.model import Desc, Index, Prefix, Table, UniqueViolation


@dataclasses.dataclass
class Person:
    id: int
    city: str | None
    age: int
    email: str | None
    score: float
    tags: list[str]
    note: str


def is_grown(person: Person) -> bool:
    return person.age >= 2


INDEXES = {
    "age": lambda: Index("age", name="age"),
    "city_age": lambda: Index("city", "age", name="city_age"),
    "older_first": lambda: Index(Desc("age"), "city", name="older_first"),
    "city_down": lambda: Index(Desc("city"), Desc("score"), name="city_down"),
    "email": lambda: Index("email", unique=True, name="email"),
    "city_email": lambda: Index("city", Desc("email"), unique=True, name="city_email"),
    "covering": lambda: Index("score", covering=("city", "age"), name="covering"),
    "unique_covering": lambda: Index("email", "age", unique=True, covering=("note",), name="unique_covering"),
    "grown": lambda: Index("city", where=is_grown, name="grown"),
    "tags": lambda: Index("tags", each="tags", name="tags"),
    "city_tags": lambda: Index("city", Desc("tags"), each="tags", name="city_tags"),
    "tags_age": lambda: Index("tags", "age", each="tags", where=is_grown, name="tags_age"),
}
TEXTS = st.sampled_from(["", "a", "ab", "a\0", "a\0b", "b", "é"])
PEOPLE = st.lists(
    st.builds(
        Person,
        id=st.integers(-3, 300),
        city=st.none() | TEXTS,
        age=st.integers(0, 3),
        email=st.none() | TEXTS,
        score=st.sampled_from([-1.5, 0.0, 1, 2.5]),
        tags=st.lists(st.sampled_from(["a", "b", "ba"]), max_size=3),
        note=st.sampled_from(["", "n"]),
    ),
    max_size=14,
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(INDEXES)), unique=True, max_size=4))
    covers_note = "unique_covering" in names
    return {
        "key": draw(st.sampled_from(["id", Desc("id"), ("city", "id"), (Desc("city"), Desc("id"))])),
        "index": [INDEXES[name]() for name in names],
        "shards": draw(st.sampled_from([0, 0, 3])),
        "groups": draw(st.sampled_from([{}, {} if covers_note else {"large": ["note"]}])),
        "codec": draw(st.sampled_from(["json", "msgpack"])),
    }


def ranges(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.none() | values, st.none() | values)


def conditions_on(values: st.SearchStrategy[Any], *more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.lists(values, max_size=3), st.sets(values, max_size=2), ranges(values), *more)


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "id": conditions_on(st.integers(-3, 40)),
        "city": conditions_on(TEXTS, st.none(), st.builds(Prefix, TEXTS)),
        "age": conditions_on(st.integers(0, 4)),
        "email": conditions_on(TEXTS, st.none(), st.builds(Prefix, TEXTS)),
        "score": conditions_on(st.sampled_from([-2, 0.0, 1.0, 2, 3])),
        "tags": conditions_on(st.sampled_from(["a", "b", "ba"]), st.builds(Prefix, st.sampled_from(["", "b"]))),
        "note": st.sampled_from(["", "n"]),
    },
)


# --- the twin ---


def meets(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Prefix):
        return isinstance(value, str) and value.startswith(str(wanted.text))
    if isinstance(wanted, tuple):
        low, high = wanted
        if value is None:
            return low is None and high is None
        return (low is None or low <= value) and (high is None or value < high)
    return value in wanted if isinstance(wanted, (list, set)) else value == wanted


def expected(table: Table[Person], people: list[Person], conditions: dict[str, Any], index: Any, reverse: bool) -> Any:
    """Return the rows that a query should have, in the order of the key or of `index`."""
    plain = {field: wanted for field, wanted in conditions.items() if field != "tags"}
    found = [one for one in people if all(meets(getattr(one, field), wanted) for field, wanted in plain.items())]
    if "tags" in conditions:
        found = [one for one in found if any(meets(tag, conditions["tags"]) for tag in one.tags)]
    parts = table.schema.key if index is None else (*index.parts, *table.schema.key)
    entries: list[tuple[Person, dict[str, str]]] = [
        (one, {}) for one in found if index is None or index.where is None or index.where(one)
    ]
    if index is not None and index.each:
        served = [part.field for part in index.parts][: served_by(index, conditions)]
        entries = [
            (one, {"tags": tag})
            for one, _ in entries
            for tag in set(one.tags)
            if "tags" not in served or meets(tag, conditions["tags"])
        ]
    for part in reversed(parts):

        def order(entry: Any, field: str = part.field) -> Any:
            value = entry[1].get(field, getattr(entry[0], field))
            return (value is not None, value)

        entries.sort(key=lambda entry: Ordered(order(entry)), reverse=part.is_descending)
    rows: list[Person] = []
    for one, _ in reversed(entries) if reverse else entries:
        if one not in rows:
            rows.append(one)
    return rows


class Ordered:
    """Sorts as (is there, value), where a value that is not there is compared with none."""

    def __init__(self, value: tuple[bool, Any]) -> None:
        self.value = value

    def __lt__(self, other: Ordered) -> bool:
        mine, others = self.value, other.value
        if mine[0] != others[0]:
            return mine[0] < others[0]
        return bool(mine[0] and bytes_of(mine[1]) < bytes_of(others[1]))


def bytes_of(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def served_by(index: Any, conditions: dict[str, Any]) -> int:
    served = 0
    for part in index.parts:
        wanted = conditions.get(part.field, ...)
        if wanted is ... or (isinstance(wanted, Prefix) and part.is_descending):
            break
        served += 1
        if isinstance(wanted, (tuple, Prefix)):
            break
    return served


# --- the test ---


@settings(max_examples=400)
@given(
    declared=tables(),
    people=PEOPLE,
    committed=st.integers(0, 14),
    queries=st.lists(
        st.tuples(CONDITIONS, st.integers(0, 4), st.booleans(), st.none() | st.integers(0, 5), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    page=st.integers(1, 5),
)
def test_queries_are_filters_of_lists(
    db: pytikv.TransactionClient,
    new_prefix: Callable[[], bytes],
    declared: dict[str, Any],
    people: list[Person],
    committed: int,
    queries: list[Any],
    page: int,
) -> None:
    table = Table("person", Person, prefix=new_prefix(), **declared)
    rows: dict[Any, Person] = {}

    def write(txn: pytikv.Transaction, some: list[Person]) -> None:
        for one in some:
            try:
                table.put(txn, one)
            except UniqueViolation:
                continue
            rows[table.rows.encoded_of(one)] = one

    with db.begin() as txn:
        write(txn, people[:committed])
    with db.begin() as txn:
        write(txn, people[committed:])  # seen by the queries of this transaction, though not committed
        for conditions, at, reverse, limit, filters in queries:
            if not any(one.each for one in table.schema.indexes.values()):
                conditions.pop("tags", None)
            names: list[Any] = [None, *table.schema.indexes]
            check_query(
                table, txn, list(rows.values()), conditions, names[at % len(names)], reverse, limit, filters, page
            )


def check_query(
    table: Table[Person],
    txn: pytikv.Transaction,
    people: list[Person],
    conditions: dict[str, Any],
    name: str | None,
    reverse: bool,
    limit: int | None,
    filters: bool,
    page: int,
) -> None:
    where = (lambda one: one.id % 2 == 0) if filters else None
    query: dict[str, Any] = {"reverse": reverse, "scan": True, "index": name, **conditions}
    way = table._plan(conditions, index=name, scan=True).index
    wanted = expected(table, people, conditions, way, reverse)
    wanted = [one for one in wanted if where is None or where(one)]
    assert list(table.query(txn, limit=limit, where=where, **query)) == wanted[:limit]
    assert table.first(txn, where=where, **query) == (wanted[0] if wanted else None)
    assert table.count(txn, where=where, **query) == len(wanted)
    assert table.count(txn, where=where, limit=limit, **query) == len(wanted[:limit])
    fields = ["note", "city"] if len(people) % 2 else ["score", "city", "age"]
    dicts = [{field: getattr(one, field) for field in fields} for one in wanted]
    assert list(table.query(txn, where=where, fields=fields, **query)) == dicts
    pages: list[list[Person]] = []
    cursor = None
    while True:
        found = table.page(txn, limit=page, cursor=cursor, where=where, **query)
        pages.append(found.rows)
        if (cursor := found.cursor) is None:
            break
    assert [one for rows in pages for one in rows] == wanted
    assert [len(rows) for rows in pages[:-1]] == [page] * (len(pages) - 1)
    assert pages[-1] or not wanted
