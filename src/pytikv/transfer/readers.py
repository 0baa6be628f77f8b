"""Rows out of files: CSV and JSON lines, plain, `.gz` or `.zip`, as a stream.

`read_rows` yields, for every record of the input, either a `Row` or a `BadRow`, both with the line on which the record
ends. A record that cannot be used never ends the stream; what to do about it is the loader's policy. Only the record at
hand is in memory. Bytes that are not UTF-8 come through unharmed (surrogateescape).

The first record of a CSV file names the columns, unless `columns` are given. In JSON lines each line is an object; its
members are the columns: texts as they are, numbers and booleans as JSON writes them, anything else only as a value.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pytikv.errors import InvalidArgument
from pytikv.transfer.template import compile_spec, decode_text, json_object, spec_columns

__all__ = [
    "BadRow",
    "Row",
    "RowSource",
    "Source",
    "guess_format",
    "open_source",
    "read_lists",
    "read_objects",
    "read_rows",
]

_MAX_FIELD_CHARS = 64 << 20  # as much as the largest message; csv's own limit of 128 Ki is below TiKV's values
_FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Row(NamedTuple):
    """A usable record: the line it ends on, and what to write."""

    line: int
    key: bytes
    value: bytes


class BadRow(NamedTuple):
    """A record that cannot be used, and why. The reason holds no values."""

    line: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class RowSource:
    """How records become rows.

    `key` and `value` are field specs (see `template`); `whole_row` writes the row as a JSON object in place of `value`.
    `encoding` None: ``escaped`` for a file with plain ``key`` and ``value`` columns, as `export` writes it, else
    ``text``.
    """

    format: str = "csv"
    key: str = "key"
    value: str = "value"
    whole_row: bool = False
    encoding: str | None = None
    delimiter: str = ","
    columns: tuple[str, ...] | None = None

    def decoder(self) -> Callable[[str], bytes]:
        """Return the function from a field's text to bytes."""
        exported = self.key == "key" and self.value == "value" and not self.whole_row
        return decode_text(self.encoding or ("escaped" if exported else "text"))


@dataclasses.dataclass(slots=True)
class Source:
    """An open input: the text, how many bytes it has on disk (None: unknown), and how many of them were read so far."""

    text: io.TextIOWrapper
    size_bytes: int | None
    position: Callable[[], int]
    close: Callable[[], None]


def guess_format(name: str) -> str:
    """Return ``csv`` or ``jsonl`` from a file's name, whatever it is compressed with; InvalidArgument for others."""
    for suffix in reversed(Path(name).suffixes):
        if suffix.lower() in _FORMATS:
            return _FORMATS[suffix.lower()]
    raise InvalidArgument(f"cannot tell the format of {name!r} from its name: say --format csv or --format jsonl")


def open_source(name: str) -> Source:
    """Open a file, or standard input for ``-``. `.gz` is unpacked on the way, of a `.zip` its single member is read."""
    if name == "-":
        return _source(sys.stdin.buffer, None, lambda: 0, lambda: None)
    raw = Path(name).open("rb")  # noqa: SIM115  # closed by the Source
    try:
        data: BinaryIO = raw
        if name.lower().endswith(".gz"):
            data = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]  # reads as a BinaryIO does
        elif name.lower().endswith(".zip"):
            data = _single_member(raw, name)
    except BaseException:
        raw.close()
        raise

    def close() -> None:
        data.close()
        raw.close()

    return _source(data, Path(name).stat().st_size, raw.tell, close)


def _source(data: BinaryIO, size: int | None, position: Callable[[], int], close: Callable[[], None]) -> Source:
    text = io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="")
    return Source(text, size, position, close)


def _single_member(raw: BinaryIO, name: str) -> BinaryIO:
    try:
        archive = zipfile.ZipFile(raw)
    except zipfile.BadZipFile as error:
        raise InvalidArgument(f"{name} is not a zip archive: {error}") from None
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) != 1:
        raise InvalidArgument(f"{name} holds {len(members)} files; an archive with exactly one can be read")
    return archive.open(members[0])  # type: ignore[return-value]  # ZipExtFile reads as a BinaryIO does


def read_rows(text: io.TextIOBase, source: RowSource) -> Iterator[Row | BadRow]:
    """Yield a `Row` or a `BadRow` for each record; raises InvalidArgument at once when the columns do not fit."""
    return _read_csv(text, source) if source.format == "csv" else _read_json_lines(text, source)


# --- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(text: io.TextIOBase, source: RowSource) -> Iterator[Row | BadRow]:
    columns, lists = read_lists(text, delimiter=source.delimiter, columns=source.columns)
    key_of = compile_spec(source.key, columns)
    value_of = json_object(columns) if source.whole_row else compile_spec(source.value, columns)
    decode = source.decoder()
    for found in lists:
        if isinstance(found, BadRow):
            yield found
            continue
        line, fields = found
        try:
            yield Row(line, decode(key_of(fields)), decode(value_of(fields)))
        except ValueError as error:
            yield BadRow(line, str(error))


def read_lists(
    text: io.TextIOBase, *, delimiter: str = ",", columns: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], Iterator[tuple[int, list[str]] | BadRow]]:
    """Return the names of the columns of CSV, and its records with the lines they end on.

    `columns` None: the first record names them. Raises InvalidArgument where it does not.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns = columns or _header(reader)
    return columns, _lists(reader, len(columns))


def _lists(reader: Any, width: int) -> Iterator[tuple[int, list[str]] | BadRow]:
    while True:
        try:
            for fields in reader:
                if len(fields) == width:
                    yield reader.line_num, fields
                elif fields:  # an empty line is no record
                    yield BadRow(reader.line_num, f"{len(fields)} fields where the header has {width}")
            return
        except csv.Error as error:
            yield BadRow(reader.line_num, str(error))


def _header(reader: Any) -> tuple[str, ...]:
    try:
        columns = tuple(next(reader))
    except StopIteration:
        raise InvalidArgument("the input is empty: its first line must name the columns") from None
    except csv.Error as error:
        raise InvalidArgument(f"the first line does not name the columns: {error}") from None
    if len(set(columns)) != len(columns):
        raise InvalidArgument("the first line names a column twice")
    return columns


# --- JSON lines -------------------------------------------------------------------------------------------------------


def read_objects(text: io.TextIOBase) -> Iterator[tuple[int, str]]:
    """Yield the texts of JSON lines, each with its line, as they are; empty lines are none."""
    for line, record in enumerate(text, 1):
        if not record.isspace():
            yield line, record


def _read_json_lines(text: io.TextIOBase, source: RowSource) -> Iterator[Row | BadRow]:
    decode = source.decoder()
    key_of = _member_spec(source.key, nested=False)
    value_of = _compact if source.whole_row else _member_spec(source.value, nested=True)
    for line, record in read_objects(text):
        try:
            row = json.loads(record)
            if type(row) is not dict:
                yield BadRow(line, "not a JSON object")
                continue
            yield Row(line, decode(key_of(row)), decode(value_of(row)))
        except json.JSONDecodeError as error:
            yield BadRow(line, f"not JSON: {error.msg} at column {error.colno}")
        except _BadMember as error:
            yield BadRow(line, error.args[0])
        except (ValueError, RecursionError) as error:
            yield BadRow(line, str(error))


class _BadMember(Exception):
    """A member is missing or has no text."""


def _member_spec(spec: str, *, nested: bool) -> Callable[[dict[str, Any]], str]:
    """Return a function from a JSON object to the text of `spec`; `nested` lets arrays and objects be a value."""
    names = spec_columns(spec)
    compiled = compile_spec(spec, names)
    alone = nested and spec == names[0] if names else False

    def text_of(row: dict[str, Any]) -> str:
        return compiled([_member_text(row, name, alone) for name in names])

    return text_of


def _member_text(row: dict[str, Any], name: str, nested: bool) -> str:
    try:
        member = row[name]
    except KeyError:
        raise _BadMember(f"no member {name!r}") from None
    if type(member) is str:
        return member
    if member is None or (not nested and isinstance(member, dict | list)):
        raise _BadMember(f"member {name!r} is {'null' if member is None else 'no plain value'}")
    return _compact(member)
