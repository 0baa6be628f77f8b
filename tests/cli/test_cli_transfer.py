"""import and export through the command line."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

AIRPORTS = 'iata,name\nNRT,Narita\nCDG,"Charles de Gaulle"\n'


@pytest.fixture
def airports(tmp_path: Path) -> str:
    path = tmp_path / "airports.csv"
    path.write_text(AIRPORTS)
    return str(path)


def test_import_by_template(run: Run, airports: str) -> None:
    done = run("import", airports, "--key", "airport/{iata}", "--value-json")
    assert done.code == 0, done.err
    assert done.out.startswith("2 rows in ")
    assert json.loads(run("get", "airport/CDG", "--raw").out) == {"iata": "CDG", "name": "Charles de Gaulle"}
    run("import", airports, "--key", "iata", "--value", "name")
    assert run("get", "NRT").out == "Narita\n"


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.csv.gz", "out.jsonl.gz"])
def test_export_and_import_again(run: Run, tmp_path: Path, name: str) -> None:
    pairs = {r"p/\x00": r"\xff", "p/b": "a\tb", "p/c": "", "q": "not exported"}
    for key, value in pairs.items():
        run("put", key, value)
    before = run("scan", "p/").out
    target = str(tmp_path / name)
    done = run("export", target, "--prefix", "p/")
    assert (done.code, done.err) == (0, f"3 pairs written to {target}\n")
    run("delete", "--prefix", "", "--yes")
    assert run("import", target, "--json").json()["rows"] == 3
    assert run("scan").out == before
    assert done.out == ""


def test_export_to_standard_output(run: Run) -> None:
    run("put", "a", "1")
    done = run("export", "-")
    assert (done.out, done.err) == ("key,value\na,1\n", "1 pairs written to standard output\n")
    assert run("export", "-", "--format", "jsonl", "--encoding", "hex").json() == {"key": "61", "value": "31"}
    assert run("export", "x.unknown").code == 2


def test_export_of_what_is_no_text(run: Run, tmp_path: Path) -> None:
    run("put", r"\xff", "v")
    done = run("export", str(tmp_path / "x.csv"), "--encoding", "text")
    assert done.code == 2
    assert "pair 1 is not UTF-8" in done.err
    assert not (tmp_path / "x.csv").exists()


def test_bad_rows(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("key,value\na,1\nb\nc,3\n")
    done = run("import", str(path))
    assert done.code == 1
    assert "line 3: 1 fields where the header has 2\n" in done.err
    assert "--skip 1" in done.err
    assert run("scan").out == "a\t1\n"
    done = run("import", str(path), "--on-bad", "skip")
    assert done.code == 0
    assert "2 rows in" in done.out
    assert "1 bad rows" in done.out
    record = run("import", str(path), "--on-bad", "skip", "--json").json()
    assert record["bad"] == [{"line": 3, "reason": "1 fields where the header has 2"}]
    assert record["complete"] is True


def test_skip_and_resume(run: Run, tmp_path: Path) -> None:
    path, state = tmp_path / "x.jsonl", tmp_path / "state"
    good = [json.dumps({"key": f"k{n}", "value": str(n)}) for n in range(5)]
    path.write_text("\n".join([*good[:3], "broken", *good[3:]]) + "\n")
    command = ["import", str(path), "--resume", str(state), "--batch-rows", "2"]
    done = run(*command)
    assert done.code == 1
    assert "run the same command again" in done.err
    assert json.loads(state.read_text())["acknowledged"] == 3
    path.write_text("\n".join(good) + "\n")
    done = run(*command)
    assert done.code == 0
    assert "2 rows in" in done.out
    assert "3 passed over" in done.out
    assert not state.exists()
    assert run("scan", "--keys-only").out.split() == ["k0", "k1", "k2", "k3", "k4"]


def test_wrong_usage(run: Run, airports: str, tmp_path: Path) -> None:
    done = run("import", airports, "--key", "icao")
    assert (done.code, done.err) == (2, "error: no column 'icao'; the columns are: iata, name\n")
    assert run("import", str(tmp_path / "nothing.csv")).code == 1
    assert run("import", airports, "--delimiter", "::").code == 2
    assert run("import", airports, "--encoding", "rot13").code == 2


def test_import_from_standard_input_and_tabs(run: Run) -> None:
    done = run("import", "-", "--format", "csv", "--delimiter", r"\t", "--columns", "key,value", stdin=b"a\t1\nb\t2\n")
    assert done.code == 0
    assert run("scan").out == "a\t1\nb\t2\n"


@pytest.mark.process
def test_ctrl_c_says_where_to_resume(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/store"
    words = [sys.executable, "-m", "pytikv", "import", "-", "--format", "csv", "--url", url, "--batch-rows", "50"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write("key,value\n" + "".join(f"k{n:05},{n}\n" for n in range(1000)))
        process.stdin.flush()
        time.sleep(1.5)  # it is now waiting for more input; there is no sign of that to wait for
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    (advice,) = [line for line in err.splitlines() if line.startswith("interrupted")]
    acknowledged = int(advice.rsplit("--skip ", 1)[1])
    assert out.startswith(f"{acknowledged:,} rows in ")
    listed = subprocess.run(
        [sys.executable, "-m", "pytikv", "export", "-", "--url", url], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1:]
    assert len(listed) == acknowledged
    assert listed == [f"k{n:05},{n}" for n in range(acknowledged)]


def test_gzip_in(run: Run, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wt") as out:
        out.write(AIRPORTS)
    assert run("import", str(tmp_path / "a.csv.gz"), "--key", "iata", "--value", "name").code == 0
    assert run("get", "NRT").out == "Narita\n"
