"""Cursors of pages: for their own query only, whatever is done to them, and alike in every process."""

from __future__ import annotations

import base64
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytikv
from pytikv.errors import InvalidArgument, WrongType
from pytikv.model import CursorError, Index, Prefix, RowError, Table
from pytikv.model.cursor import MAX_CURSOR_CHARS, open_cursor, seal_cursor


@dataclasses.dataclass
class Book:
    id: int
    title: str
    year: int
    words: list[str]


BOOKS = [Book(at, f"t{at % 3}", 1990 + at % 5, ["x", "y"][: at % 3]) for at in range(20)]


def make(prefix: bytes, **options: Any) -> Table[Book]:
    declared: list[Any] = ["year", ("title", "year"), Index("words", each="words", name="words")]
    return Table("book", Book, key="id", index=declared, prefix=prefix, **options)


@pytest.fixture(scope="module")
def books(db: pytikv.TransactionClient, new_prefix: Callable[[], bytes]) -> Table[Book]:
    table = make(new_prefix())
    with db.begin() as txn:
        table.put_many(txn, BOOKS)
    return table


QUERIES: list[dict[str, Any]] = [
    {},
    {"reverse": True},
    {"index": "year"},
    {"year": (1990, None)},
    {"year": [1990, 1991, 1992]},
    {"title": "t1"},
    {"title": Prefix("t")},
    {"words": ["x", "y"]},
    {"year": (1990, None), "title": {"t0", "t1", "t2"}},
]


def test_a_cursor_is_of_one_query(db: pytikv.TransactionClient, books: Table[Book]) -> None:
    with db.begin() as txn:
        cursors = [books.page(txn, limit=3, **query).cursor for query in QUERIES]
        for at, query in enumerate(QUERIES):
            for other, cursor in enumerate(cursors):
                assert cursor is not None
                if at == other:
                    assert len(books.page(txn, limit=2, cursor=cursor, **query).rows) == 2
                else:
                    with pytest.raises(CursorError, match="another query: conditions, index and direction"):
                        books.page(txn, limit=2, cursor=cursor, **query)


def test_a_cursor_is_of_one_table_and_secret(
    db: pytikv.TransactionClient, books: Table[Book], new_prefix: Callable[[], bytes]
) -> None:
    others = [make(new_prefix()), make(books.schema.prefix, secret=b"s")]
    with db.begin() as txn:
        cursor = books.page(txn, limit=3).cursor
        for other in others:
            with pytest.raises(CursorError, match="another table or secret"):
                other.page(txn, limit=3, cursor=cursor)


@given(data=st.data())
def test_changed_bytes_are_noticed(db: pytikv.TransactionClient, books: Table[Book], data: st.DataObject) -> None:
    with db.begin() as txn:
        cursor = books.page(txn, limit=3).cursor
        assert cursor is not None
        raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        changed = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
        cut = cursor[: data.draw(st.integers(0, len(cursor) - 1))]
        for bad in (changed, cut, data.draw(st.text(max_size=80)), cursor + "A", cursor + cursor):
            if bad != cursor:
                with pytest.raises(CursorError, match="cursor"):
                    books.page(txn, limit=3, cursor=bad)


@given(st.binary(max_size=300), st.text(max_size=30), st.binary(max_size=40))
def test_cursors_come_back(key: bytes, query: str, position: bytes) -> None:
    assert open_cursor(key, query, seal_cursor(key, query, position)) == position


def test_what_is_no_cursor(db: pytikv.TransactionClient, books: Table[Book]) -> None:
    with db.begin() as txn:
        with pytest.raises(WrongType, match="text that a page gave, not bytes"):
            books.page(txn, limit=1, cursor=b"x")  # type: ignore[call-overload]
        with pytest.raises(CursorError, match="at most"):
            books.page(txn, limit=1, cursor="A" * (MAX_CURSOR_CHARS + 1))
        for limit in (0, -1):
            with pytest.raises(InvalidArgument, match="limit"):
                books.page(txn, limit=limit)


def test_a_cursor_outlives_rows_and_processes(db: pytikv.TransactionClient, books: Table[Book]) -> None:
    """The row at which a page ended may be deleted; hash randomization changes no cursor of a set."""
    with db.begin() as txn:
        page = books.page(txn, limit=5)
        books.delete(txn, page.rows[-1].id)
        assert [one.id for one in books.page(txn, limit=3, cursor=page.cursor).rows] == [5, 6, 7]
        txn.rollback()
    program = (
        "import dataclasses\nfrom pytikv.model import Table\n"
        "B = dataclasses.make_dataclass('B', [('id', int), ('title', str)])\n"
        "print(Table('b', B, key='id')._plan({'title': {'a', 'b', 'c', 'd'}}, scan=True).identity())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


# --- bad input ---


@pytest.mark.parametrize(
    ("query", "text", "field"),
    [
        ({"colour": 1}, "table 'book' has no field 'colour'; it has id, title", ""),
        ({"index": "shelf"}, "has no index 'shelf'; it has year, title_year, words", ""),
        ({"fields": ["colour"]}, "has no field 'colour'", ""),
        ({"year": "1990"}, "field 'year' of table 'book' holds int, and is asked for '1990'", "year"),
        ({"year": True}, "holds int, and is asked for True", "year"),
        ({"year": ["x"]}, "holds int, and is asked for 'x'", "year"),
        ({"year": (1, 2, 3)}, r"is asked for \(1, 2, 3\): a range is \(low, high\)", "year"),
        ({"year": Prefix("19")}, "holds int, and is asked for '19'", "year"),
        ({"words": (1, "x")}, r"a range of unlike ends, \(1, 'x'\)", "words"),
        ({"id": list(range(2000))}, "more than 1024 ranges", ""),
    ],
)
def test_bad_queries(
    db: pytikv.TransactionClient, books: Table[Book], query: dict[str, Any], text: str, field: str
) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda txn: list(books.query(txn, **query)),
        lambda txn: books.first(txn, **query),
        lambda txn: books.page(txn, limit=1, **query),
    ]
    if "fields" not in query:
        calls.append(lambda txn: books.count(txn, **query))
    with db.begin() as txn:
        for call in calls:
            with pytest.raises(RowError, match=text) as caught:
                call(txn)
            assert (caught.value.table, caught.value.field) == ("book", field)


def test_bad_options(db: pytikv.TransactionClient, books: Table[Book]) -> None:
    untyped: Any = books
    with db.begin() as txn:
        with pytest.raises(RowError, match="no key or index that begins with title: add one, or say scan=True"):
            make_without_indexes(books).first(txn, title="t1")
        with pytest.raises(WrongType, match="where is a function of a record, not int"):
            untyped.first(txn, where=3)
        with pytest.raises(WrongType, match="fields are a list of names, not 'title'"):
            untyped.first(txn, fields="title")
        with pytest.raises(WrongType, match="limit is a number of rows or None, not str"):
            untyped.query(txn, limit="3")
        with pytest.raises(InvalidArgument, match="limit is at least 0, not -1"):
            books.query(txn, limit=-1)
        with pytest.raises(WrongType, match="Prefix is of a str or bytes"):
            Prefix(3)  # type: ignore[arg-type]
    with pytest.raises(WrongType, match="is a transaction or a snapshot, not TransactionClient"):
        untyped.query(db)


def make_without_indexes(books: Table[Book]) -> Table[Book]:
    return Table("plain", Book, key="id", prefix=books.schema.prefix)
