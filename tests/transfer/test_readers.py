"""Rows out of files: what is usable, what is bad and on which line."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from pytikv.errors import InvalidArgument
from pytikv.transfer.readers import BadRow, Row, RowSource, guess_format, open_source, read_rows


def rows_of(text: str | bytes, **options: object) -> list[Row | BadRow]:
    data = text if isinstance(text, bytes) else text.encode()
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="surrogateescape", newline="")
    return list(read_rows(stream, RowSource(**options)))  # type: ignore[arg-type]  # whatever the test says


def test_csv_as_exported() -> None:
    assert rows_of("key,value\na\\x00,1\n\nb,2\r\n") == [Row(2, b"a\x00", b"1"), Row(4, b"b", b"2")]


def test_csv_template_is_text_and_lines_are_counted_in_the_file() -> None:
    found = rows_of('id,name\n1,"two\nlines"\n2,back\\slash\n', key="user/{id:03}", value="name")
    assert found == [Row(3, b"user/001", b"two\nlines"), Row(4, b"user/002", b"back\\slash")]


def test_csv_bad_rows_do_not_end_the_stream() -> None:
    found = rows_of('key,value\na,1\nb\nc,"x"y\nd\\q,4\ne,5\n')
    assert found[0] == Row(2, b"a", b"1")
    assert found[1] == BadRow(3, "1 fields where the header has 2")
    assert isinstance(found[2], BadRow)
    assert found[2].line == 4
    assert isinstance(found[3], BadRow)
    assert "backslash at position 2" in found[3].reason
    assert found[4] == Row(6, b"e", b"5")


def test_csv_open_quote_is_reported() -> None:
    found = rows_of('key,value\na,"never closed\nb,2\n')
    assert [type(row) for row in found] == [BadRow]


def test_csv_variants() -> None:
    assert rows_of("a\t1\n", delimiter="\t", columns=("key", "value")) == [Row(1, b"a", b"1")]
    assert rows_of("\ufeffkey,value\na,1\n") == [Row(2, b"a", b"1")]
    assert rows_of(b"k,v\n\xff,\xfe\n", key="k", value="v") == [Row(2, b"\xff", b"\xfe")]
    assert rows_of("key,value\n6100,YWI=\n", encoding="base64", columns=None)[0] == Row(2, b"\xeb\x5d\x34", b"ab")
    large = "x" * 300_000
    assert rows_of(f"key,value\na,{large}\n") == [Row(2, b"a", large.encode())]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the input is empty"),
        ("a,a\n1,2\n", {}, "names a column twice"),
        ("a,b\n1,2\n", {}, "no column 'key'; the columns are: a, b"),
        ("key,b\n1,2\n", {}, "no column 'value'"),
    ],
)
def test_csv_that_does_not_fit(text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        rows_of(text, **options)


def test_json_lines() -> None:
    text = '{"key": "a\\\\x00", "value": "1"}\n\n{"key": "b", "value": "é"}\n'
    assert rows_of(text, format="jsonl") == [Row(1, b"a\x00", b"1"), Row(3, b"b", "é".encode())]


def test_json_members_of_every_kind() -> None:
    row = {"n": 7, "f": 1.5, "t": True, "list": [1, {"x": None}], "s": "text"}
    text = json.dumps(row) + "\n"
    assert rows_of(text, format="jsonl", key="{s}/{n:03}/{t}", value="list") == [
        Row(1, b"text/007/true", b'[1,{"x":null}]')
    ]
    (whole,) = rows_of(text, format="jsonl", key="s", whole_row=True)
    assert isinstance(whole, Row)
    assert json.loads(whole.value) == row


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"key": "a"}', "no member 'value'"),
        ('{"key": null, "value": ""}', "member 'key' is null"),
        ('{"key": [1], "value": ""}', "member 'key' is no plain value"),
        ('{"key": "\\\\q", "value": ""}', "a backslash at position 1"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_json_bad_rows(record: str, reason: str) -> None:
    found = rows_of(f'{record}\n{{"key": "k", "value": "v"}}\n', format="jsonl")
    assert isinstance(found[0], BadRow)
    assert reason in found[0].reason
    assert found[1] == Row(2, b"k", b"v")


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.csv", "csv"), ("a.CSV.gz", "csv"), ("a.csv.zip", "csv"), ("a.jsonl", "jsonl"), ("x.y.ndjson.gz", "jsonl")],
)
def test_format_from_the_name(name: str, found: str) -> None:
    assert guess_format(name) == found


def test_unknown_format_names_the_option() -> None:
    with pytest.raises(InvalidArgument, match="--format"):
        guess_format("data.txt")


def test_compressed_files(tmp_path: Path) -> None:
    content = b"key,value\na,1\n"
    (tmp_path / "x.csv").write_bytes(content)
    with gzip.open(tmp_path / "x.csv.gz", "wb") as out:
        out.write(content)
    with zipfile.ZipFile(tmp_path / "x.csv.zip", "w") as archive:
        archive.writestr("x.csv", content)
    for name in ("x.csv", "x.csv.gz", "x.csv.zip"):
        source = open_source(str(tmp_path / name))
        try:
            assert list(read_rows(source.text, RowSource())) == [Row(2, b"a", b"1")]
            assert source.size_bytes == (tmp_path / name).stat().st_size
            assert source.position() > 0
        finally:
            source.close()


def test_zip_with_two_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "")
        archive.writestr("b", "")
    with pytest.raises(InvalidArgument, match="holds 2 files"):
        open_source(str(tmp_path / "x.zip"))
    (tmp_path / "not.zip").write_bytes(b"plain")
    with pytest.raises(InvalidArgument, match="not a zip archive"):
        open_source(str(tmp_path / "not.zip"))
