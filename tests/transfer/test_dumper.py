"""Files that are whole or not there, and progress files."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.errors import InvalidArgument
from pytikv.transfer.checkpoint import Checkpoint
from pytikv.transfer.dumper import dump
from pytikv.transfer.readers import Row, RowSource, open_source, read_rows

PAIRS = [(b"a\x00", b"1,2"), (b"b", b'"quoted"\n'), (b"c", b"")]


def read_back(path: Path, **options: str) -> list[tuple[bytes, bytes]]:
    source = open_source(str(path))
    try:
        rows = list(read_rows(source.text, RowSource(**options)))  # type: ignore[arg-type]  # as the test says
    finally:
        source.close()
    assert all(isinstance(row, Row) for row in rows)
    return [(row.key, row.value) for row in rows if isinstance(row, Row)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("encoding", ["escaped", "hex", "base64"])
def test_export_is_imported_again(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / f"out.{form}.gz"
    assert dump(PAIRS, str(path), format=form, encoding=encoding) == 3
    assert read_back(path, format=form, encoding=encoding) == PAIRS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@given(
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=20), st.sampled_from(["csv", "jsonl"])
)
def test_any_bytes_round_trip(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[bytes, bytes]], form: str
) -> None:
    path = tmp_path_factory.mktemp("dump") / f"x.{form}"
    dump(pairs, str(path), format=form)
    assert read_back(path, format=form) == pairs


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"b"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump(broken(), str(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_encoding_names_the_pair_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(InvalidArgument, match="pair 2 is not UTF-8"):
        dump([(b"a", b"b"), (b"\xff", b"")], str(path), encoding="text")
    assert not path.exists()


def test_gzip_is_gzip(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.gz"
    counts: list[int] = []
    dump([(b"%d" % n, b"") for n in range(2500)], str(path), format="jsonl", progress=counts.append)
    assert gzip.decompress(path.read_bytes()).startswith(b'{"key": "0", "value": ""}\n')
    assert counts == [1000, 2000]


def test_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state"
    first = Checkpoint(path, "data.csv")
    assert first.load() == 0
    first.save(10)
    first.save(20)  # too soon to be written
    assert Checkpoint(path, "data.csv").load() == 10
    first.save(30, now=True)
    assert Checkpoint(path, "data.csv").load() == 30
    with pytest.raises(InvalidArgument, match=r"progress of importing data\.csv, not other\.csv"):
        Checkpoint(path, "other.csv").load()
    first.remove()
    first.remove()
    assert not path.exists()
    path.write_text("junk")
    with pytest.raises(InvalidArgument, match="no progress file"):
        first.load()
