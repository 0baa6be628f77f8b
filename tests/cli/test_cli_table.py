"""table: what a module declares, rows by key and by query, checks and builds, files; how it fails."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytikv

Run = Callable[..., Any]

MODULE = """
import dataclasses, datetime, enum
from pytikv.model import Desc, Index, Table

class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"

@dataclasses.dataclass
class User:
    id: int
    email: str
    age: int | None
    born: datetime.date
    level: Level = Level.LOW
    tags: list[str] = dataclasses.field(default_factory=list)

@dataclasses.dataclass
class Seat:
    flight: str
    row: int
    letter: str

users = Table("user", User, key="id", unique=["email"], index=["age", Index("tags", each="tags")])
seats = Table("seat", Seat, key=("flight", Desc("row"), "letter"), shards=2)
grown = {"grown": Table("grown", Seat, key="row", INDEXES)}
number = 5
"""


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = tmp_path / "some_tables.py"
    path.write_text(MODULE.replace(", INDEXES", ""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTIKV_TABLES", str(path))
    yield str(path)
    for name in ("some_tables", "later_tables"):
        sys.modules.pop(name, None)
    gc.collect()


@pytest.fixture
def loaded(tables: str, run: Run, tmp_path: Path) -> Run:
    lines = [
        {
            "id": n,
            "email": f"u{n}@x",
            "age": None if n == 9 else 20 + n,
            "born": "2001-02-03",
            "tags": ["a", f"t{n % 2}"],
        }
        for n in range(10)
    ]
    path = tmp_path / "users.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("table", "load", "user", str(path), "--json")
    assert (done.code, done.json()["rows"], done.json()["complete"]) == (0, 10, True)
    return run


def test_ls(tables: str, run: Run) -> None:
    done = run("table", "ls")
    assert (done.code, done.err) == (0, "")
    assert done.out == "user\tUser\tid\temail, age, tags\nseat\tSeat\tflight, row descending, letter\t\n"
    assert [one["table"] for one in run("table", "ls", "--json").json_lines()] == ["user", "seat"]
    assert run("table", "ls", "--tables", "some_tables:seats").out.startswith("seat\t")
    assert run("table", "ls", "--tables", "some_tables:grown").out == "grown\tSeat\trow\t\n"


def test_show(loaded: Run) -> None:
    done = loaded("table", "show", "user")
    assert done.code == 0
    assert "index email\temail unique\tready\n" in done.out
    assert "field age\tint | None\n" in done.out
    shown = loaded("table", "show", "user", "--json").json()
    assert shown["indexes"][2]["each"] == "tags"
    assert shown["indexes"][2]["state"] == "ready"


def test_get(loaded: Run) -> None:
    done = loaded("table", "get", "user", "3")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:3] == ["id\t3", "email\tu3@x", "age\t23"]
    assert loaded("table", "get", "user", "3", "--field", "level", "--field", "tags", "--json").json() == {
        "level": "low",
        "tags": ["a", "t1"],
    }
    done = loaded("table", "get", "user", "33")
    assert (done.code, done.out, done.err) == (1, "", "error: table 'user' has no row 33\n")
    done = loaded("table", "get", "user", "three")
    assert done.code == 2
    assert done.err.startswith("error: field 'id' of table 'user' cannot hold 'three'")
    done = loaded("table", "get", "user", "3", "4")
    assert (done.code, done.err) == (2, "error: table 'user' has a key of 1 parts, id\n")
    assert loaded("table", "get", "user", "3", "--field", "name").code == 2


def ids(done: Any) -> list[int]:
    assert done.code == 0, done.err
    return [row["id"] for row in done.json_lines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], list(range(10))),
        (["--limit", "2", "--reverse"], [9, 8]),
        (["age=23"], [3]),
        (["age=23", "age=25"], [3, 5]),
        (["age=24..27"], [4, 5, 6]),
        (["age=27.."], [7, 8]),
        (["email^=u4"], [4]),
        (["email=u4@x"], [4]),
        (["tags=t1", "--limit", "0"], [1, 3, 5, 7, 9]),
        (["age="], [9]),
        (["level=low", "--scan", "--limit", "1"], [0]),
        (["age=20..", "--index", "age", "--reverse", "--limit", "1"], [8]),
    ],
)
def test_query(loaded: Run, words: list[str], found: list[int]) -> None:
    assert ids(loaded("table", "query", "user", *words, "--json")) == found


def test_query_in_other_forms(loaded: Run) -> None:
    assert loaded("table", "query", "user", "age=20..25", "--count").out == "5\n"
    assert loaded("table", "query", "user", "id=1", "--field", "email").out == "u1@x\n"
    assert "index 'age'" in loaded("table", "query", "user", "age=1", "--explain").out
    done = loaded("table", "query", "user", "level=low")
    assert done.code == 2
    assert "scan" in done.err
    for words in (["age"], ["name=x"], ["age=x"], ["age=1..2", "age=3"]):
        assert loaded("table", "query", "user", *words).code == 2


def test_check_finds_and_repairs(loaded: Run, url: str) -> None:
    done = loaded("table", "check", "user")
    assert (done.code, done.out) == (0, "10 rows, 40 entries, 0 wrong, 0 mended\n")
    with pytikv.TransactionClient.connect(url) as db, db.begin() as txn:
        entry = next(key for key, _ in txn.scan(b"\x02user\x00", b"\x02user\x01") if b"age\x00" in key)
        txn.delete(entry)
    done = loaded("table", "check", "user")
    assert done.code == 1
    assert done.err.splitlines()[0].startswith("missing entry of index age: ")
    assert done.err.splitlines()[1].endswith("do not agree; mend it with --repair")
    assert loaded("table", "check", "user", "--repair", "--json").json()["repaired"] == 1
    assert loaded("table", "check", "user").code == 0


def test_build_index(tables: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "seats.csv"
    path.write_text("flight,row,letter\nLH1,5,A\nLH1,6,B\n")
    assert run("table", "load", "grown", str(path), "--tables", "some_tables:grown").code == 0
    later = tmp_path / "later_tables.py"
    later.write_text(
        MODULE.replace("INDEXES", 'prefix=b"", index=["letter"]')
        .replace('"user"', '"user2"')
        .replace('"seat"', '"seat2"')
    )
    option = ("--tables", "later_tables:grown")
    sys.modules.pop("some_tables", None)
    gc.collect()  # a program has one table of a name
    done = run("table", "build-index", "grown", "letter", *option)
    assert (done.code, done.out) == (0, "index letter is ready: 2 rows seen, 2 entries written\n"), done.err
    assert run("table", "query", "grown", "letter=B", "--json", *option).json()["row"] == 6
    done = run("table", "build-index", "grown", "row", *option)
    assert (done.code, done.err) == (2, "error: table 'grown' has no index 'row'; it has letter\n")


def test_load_reports_bad_rows(loaded: Run, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    lines = ["id,email,age,born", "20,u20@x,1,2001-01-01", "x,u21@x,1,2001-01-01"]
    lines += ["22,u1@x,NA,2001-01-01", "23,u23@x,NA,2001-01-01", ""]
    path.write_text("\n".join(lines))
    done = loaded("table", "load", "user", str(path), "--null", "NA", "--resume", str(tmp_path / "state"))
    assert done.code == 1
    assert done.err.splitlines()[0].startswith("line 3: field 'id' of table 'user' cannot hold 'x'")
    assert done.err.splitlines()[-1] == (
        "stopped: rows up to 1 are safely written; run the same command again to resume"
    )
    done = loaded("table", "load", "user", str(path), "--null", "NA", "--max-errors", "2", "--json")
    assert done.code == 0
    assert [one["line"] for one in done.json()["errors"]] == [3, 4]
    assert "unique index 'email'" in done.json()["errors"][1]["reason"]
    assert done.json()["rows"] == 2


def test_standard_input_and_output(loaded: Run) -> None:
    done = loaded("table", "load", "seat", "-", "--format", "csv", stdin="flight,row,letter\nLH1,5,A\nLH1,6,B\n")
    assert done.code == 0
    assert loaded("table", "get", "seat", "LH1", "6", "B").code == 0
    assert len(loaded("table", "export", "user", "-").out.splitlines()) == 10


def test_export_comes_back(loaded: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.csv.gz"
    done = loaded("table", "export", "user", str(target))
    assert (done.code, done.out, done.err) == (0, "", f"10 rows written to {target}\n")
    other = {"PYTIKV_URL": f"embedded://{tmp_path}/other"}
    assert loaded("table", "load", "user", str(target), env=other).code == 0
    assert loaded("table", "query", "user", "--json", env=other).out == loaded("table", "query", "user", "--json").out
    exported = loaded("table", "export", "user", str(tmp_path / "out.jsonl"), "--json").json()
    assert (exported["rows"], exported["files"]) == (10, [str(tmp_path / "out.jsonl")])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "no tables are given"),
        ("no_such_module", "module no_such_module cannot be imported"),
        ("none.py", "there is no file none.py"),
        ("some_tables:nothing", "module some_tables has no 'nothing'"),
        ("some_tables:number", "there is no table in some_tables:number"),
        ("json", "there is no table in json"),
        ("broken.py", "module broken.py cannot be imported: ZeroDivisionError"),
    ],
)
def test_tables_that_are_not_found(tables: str, run: Run, tmp_path: Path, spec: str, text: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    done = run("table", "ls", env={"PYTIKV_TABLES": spec})
    assert (done.code, done.out) == (2, "")
    assert text in done.err
    assert len(done.err.splitlines()) == 1


def test_unknown_table_and_store(tables: str, run: Run) -> None:
    done = run("table", "get", "usr", "1")
    assert (done.code, done.err) == (2, f"error: there is no table 'usr' in {tables}; it has user, seat\n")
    assert run("table", "get", "user", "1", "--url", "tikv://127.0.0.1:1?timeout=0.5").code == 3
    assert run("table").code == 0
