"""get, put, delete, scan: what they print, where, and how they exit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_put_and_get(run: Run) -> None:
    assert run("put", "user_1", "Ada").code == 0
    done = run("get", "user_1")
    assert (done.code, done.out, done.err) == (0, "Ada\n", "")


def test_escapes_both_ways(run: Run) -> None:
    assert run("put", r"bin\x00key", r"\xff\\\n").code == 0
    assert run("get", r"bin\x00key").out == "\\xff\\\\\\x0a\n"
    assert run("get", r"bin\x00key", "--raw").raw == b"\xff\\\n"
    assert run("scan", "bin").out == "bin\\x00key\t\\xff\\\\\\x0a\n"


def test_not_found_is_exit_code_1(run: Run) -> None:
    done = run("get", "nobody")
    assert (done.code, done.out, done.err) == (1, "", "not found: nobody\n")
    done = run("get", "nobody", "--json")
    assert (done.code, done.json(), done.err) == (1, {"key": "nobody", "value": None}, "")


def test_several_keys(run: Run) -> None:
    run("put", "a", "1")
    run("put", "b", "2")
    done = run("get", "a", "x", "b")
    assert (done.code, done.out, done.err) == (1, "a\t1\nb\t2\n", "not found: x\n")
    done = run("get", "b", "a", "--json")
    assert done.code == 0
    assert done.json_lines() == [{"key": "b", "value": "2"}, {"key": "a", "value": "1"}]


def test_values_from_elsewhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x00raw\\x41")
    assert run("put", "file", "--file", str(tmp_path / "file")).code == 0
    assert run("get", "file", "--raw").raw == b"\x00raw\\x41"
    assert run("put", "stdin", "-", stdin=b"\x01\n").code == 0
    assert run("get", "stdin", "--raw").raw == b"\x01\n"
    assert run("put", "plain", r"C:\new", "--raw").code == 0
    assert run("get", "plain", "--raw").raw == rb"C:\new"
    done = run("put", "neither")
    assert (done.code, done.err) == (2, "error: say what to write: VALUE, - for standard input, or --file\n")


def test_put_if_absent(run: Run) -> None:
    assert run("put", "k", "first", "--if-absent").code == 0
    done = run("put", "k", "second", "--if-absent")
    assert (done.code, done.err) == (1, "error: k exists; leave out --if-absent to overwrite it\n")
    assert run("put", "k", "second", "--if-absent", "--json").json() == {"key": "k", "written": False}
    assert run("get", "k").out == "first\n"


def test_ttl(run: Run) -> None:
    assert run("put", "k", "v", "--ttl", "100").code == 0
    assert run("get", "k").out == "v\n"
    done = run("put", "k", "v", "--ttl", "-5")
    assert done.code == 2
    assert "ttl" in done.err


def test_delete(run: Run) -> None:
    for key in ("a", "b", "c1", "c2"):
        run("put", key, "v")
    assert run("delete", "a", "nobody").code == 0
    done = run("delete", "--prefix", "c")
    assert (done.code, done.err) == (2, "error: deleting a prefix needs --yes where nobody can be asked\n")
    assert run("delete", "--prefix", "c", "--yes", "--json").json() == {"prefix": "c"}
    assert run("scan", "--keys-only").out == "b\n"
    assert run("delete").code == 2
    assert run("delete", "b", "--prefix", "b").code == 2


def test_scan(run: Run) -> None:
    for key in ("a", "b", "c", "d"):
        run("put", key, key.upper())
    assert run("scan").out == "a\tA\nb\tB\nc\tC\nd\tD\n"
    assert run("scan", "--start", "b", "--end", "d").out == "b\tB\nc\tC\n"
    assert run("scan", "--reverse", "--keys-only").out == "d\nc\nb\na\n"
    assert run("scan", "b", "--json").json() == {"key": "b", "value": "B"}
    done = run("scan", "--limit", "2")
    assert (done.out, done.err) == ("a\tA\nb\tB\n", "stopped after 2 pairs; --limit 0 shows all\n")
    assert run("scan", "--limit", "4").err == ""
    assert run("scan", "--limit", "0").out.count("\n") == 4
    assert run("scan", "a", "--start", "b").code == 2


def test_keys_with_a_dash(run: Run) -> None:
    assert run("put", "--", "-k", "-v").code == 0
    assert run("get", "--", "-k").out == "-v\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_bad_escape(run: Run, as_json: bool) -> None:
    done = run("get", r"a\q", *["--json"] * as_json)
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "a backslash at position 2 begins no escape" in done.err
    assert done.err.startswith('{"error": {"code": "InvalidArgument"' if as_json else "error: ")
