"""`table`: tables of typed records, as a module declares them: looked at, queried, checked, loaded, exported."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.failures import FAILED, USAGE, Failure, fail
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command, add_group
from pytikv.cli.session import transaction_client
from pytikv.cli.table_modules import find_table, find_tables

if TYPE_CHECKING:
    from pytikv.model import Table
    from pytikv.model.bulk import LoadReport
    from pytikv.model.text_rows import TextRows

__all__ = ["register"]

_PROBLEMS_SHOWN = 10

TablesOption = Annotated[
    str | None,
    typer.Option(
        "--tables", envvar="PYTIKV_TABLES", help="Where tables are declared: shop.tables, shop.tables:users, tables.py."
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="TABLE", help="Name of the table.")]
FieldsOption = Annotated[list[str] | None, typer.Option("--field", help="Only this field; may be repeated.")]
NullOption = Annotated[str, typer.Option(help="Text that stands for None.")]
BatchOption = Annotated[int, typer.Option(min=1, max=10_240, help="Rows of one transaction.")]


class Format(enum.StrEnum):
    """File formats."""

    CSV = "csv"
    JSONL = "jsonl"


FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Format of the file; none: from its name.", show_default=False)
]


# --- declarations -----------------------------------------------------------------------------------------------------


def ls(tables: TablesOption = None, as_json: JsonOption = False) -> None:
    """List the tables that a module declares."""
    found = find_tables(tables)
    if as_json:
        for table in found.values():
            output.print_json(_declaration(table))
        return
    rows = [
        [table.name, table.cls.__name__, _parts(table.schema.key), ", ".join(table.schema.indexes)]
        for table in found.values()
    ]
    output.table(["table", "class", "key", "indexes"], rows)


def _parts(parts: Iterable[Any]) -> str:
    return ", ".join(f"{part.field} descending" if part.is_descending else part.field for part in parts)


def _declaration(table: Table[Any]) -> dict[str, Any]:
    schema = table.schema
    indexes = [
        {
            "name": index.name,
            "parts": _parts(index.parts),
            "unique": index.is_unique,
            "covering": list(index.covering),
            "partial": index.where is not None,
            "each": index.each,
        }
        for index in schema.indexes.values()
    ]
    return {
        "table": table.name,
        "class": table.cls.__name__,
        "key": _parts(schema.key),
        "indexes": indexes,
        "groups": {name: list(fields) for name, fields in schema.groups.items()},
        "shards": schema.shards,
        "keys": "text" if schema.is_text else "tuple",
        "version": table.version,
        "fields": {name: _type_name(field.hint) for name, field in table.rows.records.fields.items()},
    }


def _type_name(hint: Any) -> str:
    if hint is None:
        return ""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def show(
    name: NameArgument, tables: TablesOption = None, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show a table: its fields, its key, and its indexes with their state in the store."""
    table = find_table(tables, name)
    with transaction_client(url) as db:
        states = table.index_states(db)
    described = _declaration(table)
    for index in described["indexes"]:
        index["state"] = states[index["name"]]
    if as_json:
        output.print_json(described)
        return
    for what in ("table", "class", "key", "keys", "version", "shards"):
        output.line(f"{what}\t{described[what]}")
    for group, fields in described["groups"].items():
        output.line(f"group {group}\t{', '.join(fields)}")
    for field, kind in described["fields"].items():
        output.line(f"field {field}\t{kind}")
    for index in described["indexes"]:
        words = [index["parts"], "unique" if index["unique"] else "", "partial" if index["partial"] else ""]
        output.line(f"index {index['name']}\t{' '.join(filter(None, words))}\t{index['state']}")


# --- rows -------------------------------------------------------------------------------------------------------------


def _texts(table: Table[Any], null: str = "") -> TextRows[Any]:
    from pytikv.model.text_rows import TextRows

    return TextRows(table.rows.records, null=null)


def get(
    name: NameArgument,
    key: Annotated[list[str], typer.Argument(metavar="KEY...", help="The key: a text for each of its fields.")],
    field: FieldsOption = None,
    tables: TablesOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Print the row with a key, a line a field. Ends with code 1 where there is none."""
    table = find_table(tables, name)
    texts = _texts(table)
    fields = table.schema.key_fields
    if len(key) != len(fields):
        raise Failure(f"table {name!r} has a key of {len(fields)} parts, {', '.join(fields)}", code=USAGE)
    values = [texts.value(part, text) for part, text in zip(fields, key, strict=True)]
    wanted = tuple(values) if len(values) > 1 else values[0]
    with transaction_client(url) as db:
        row = table.get(db.snapshot(), wanted)
    if row is None:
        raise Failure(f"table {name!r} has no row {', '.join(key)}")
    _show_row(_chosen(texts.to_builtins(row), table, field), as_json=as_json)


def _chosen(row: dict[str, Any], table: Table[Any], fields: Sequence[str] | None) -> dict[str, Any]:
    for field in fields or ():
        if field not in table.rows.records.fields:
            known = ", ".join(table.rows.records.fields)
            raise Failure(f"table {table.name!r} has no field {field!r}; it has {known}", code=USAGE)
    return {field: row.get(field) for field in fields} if fields else row


def _show_row(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json(row)
        return
    for name, value in row.items():
        output.line(f"{name}\t{_cell(value)}")


def _cell(value: Any) -> str:
    import json

    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def query(
    name: NameArgument,
    conditions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONDITION]...",
            help="field=value, field=low..high (without high; either may be left out), field^=beginning.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most rows to print; 0: all.")] = 100,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the other end.")] = False,
    index: Annotated[str | None, typer.Option(help="Index to go by.")] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Read the whole table where no index serves.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Print only how many rows there are.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say how the query is answered; read nothing.")] = False,
    field: FieldsOption = None,
    tables: TablesOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Print the rows that meet all conditions, in the order of the key or index that serves them.

    A field may have several values: give its condition several times.
    """
    table = find_table(tables, name)
    texts = _texts(table)
    wanted: dict[str, Any] = _conditions(table, texts, conditions or [])
    options: dict[str, Any] = {"reverse": reverse, "scan": scan, **({"index": index} if index else {})}
    if explain:
        output.line(table.explain(**options, **wanted))
        return
    with transaction_client(url) as db:
        snapshot = db.snapshot()
        if count:
            output.line(str(table.count(snapshot, **options, **wanted)))
            return
        found = table.query(snapshot, limit=limit or None, **options, **wanted)
        rows = (_chosen(texts.to_builtins(row), table, field) for row in found)
        _show_rows(rows, field or list(table.rows.records.fields), as_json=as_json)


def _show_rows(rows: Iterable[dict[str, Any]], fields: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            output.print_json(row)
        return
    output.table(fields, [[_cell(row.get(name)) for name in fields] for row in rows])


def _conditions(table: Table[Any], texts: TextRows[Any], words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for word in words:
        field, equals, text = word.partition("=")
        if not equals:
            raise Failure(f"{word!r} is no condition: field=value, field=low..high, field^=beginning", code=USAGE)
        name = field.removesuffix("^")
        if name not in table.rows.records.fields:
            known = ", ".join(table.rows.records.fields)
            raise Failure(f"table {table.name!r} has no field {name!r}; it has {known}", code=USAGE)
        found.setdefault(name, []).append(_condition(table, texts, name, text, is_prefix=field.endswith("^")))
    for name, values in found.items():
        if len(values) > 1 and any(isinstance(value, tuple) or type(value).__name__ == "Prefix" for value in values):
            raise Failure(f"give one range or beginning for {name!r}, or several values", code=USAGE)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _condition(table: Table[Any], texts: TextRows[Any], name: str, text: str, *, is_prefix: bool) -> Any:
    from pytikv.model import Prefix

    if is_prefix:
        return Prefix(text)
    has_elements = any(index.each == name for index in table.schema.indexes.values())
    convert = texts.element if has_elements else texts.value
    low, dots, high = text.partition("..")
    if dots:
        return (convert(name, low) if low else None, convert(name, high) if high else None)
    return convert(name, text)


# --- maintenance ------------------------------------------------------------------------------------------------------


def check(
    name: NameArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what does not agree.")] = False,
    batch: BatchOption = 256,
    tables: TablesOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Compare the rows with the entries of all indexes. Ends with code 1 where they do not agree."""
    table = find_table(tables, name)
    with transaction_client(url) as db, output.progress(known=False) as bar:
        task = bar.add_task(f"check {name}", total=None, detail="")
        report = table.check(
            db, repair=repair, batch=batch, on_progress=lambda at: bar.update(task, detail=f"{at.rows:,}")
        )
    if as_json:
        output.print_json(
            {
                "rows": report.rows,
                "entries": report.entries,
                "found": report.found,
                "repaired": report.repaired,
                "sound": report.is_sound,
                "problems": [
                    {"kind": one.kind, "index": one.index, "key": output.value_text(one.key, raw=False)}
                    for one in report.problems
                ],
            }
        )
    else:
        for one in report.problems[:_PROBLEMS_SHOWN]:
            output.note(f"{one.kind} entry of index {one.index}: {output.value_text(one.key, raw=False)}")
        output.line(
            f"{report.rows:,} rows, {report.entries:,} entries, {report.found:,} wrong, {report.repaired:,} mended"
        )
    if not report.is_sound:
        advice = "" if repair else "mend it with --repair"
        raise Failure(f"rows and indexes of table {name!r} do not agree", advice=advice)


def build_index(
    name: NameArgument,
    index: Annotated[str, typer.Argument(help="Name of the index.")],
    batch: BatchOption = 256,
    tables: TablesOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Build an index of a table in use; run again, it goes on where it was.

    Every program that writes the table must declare the index by then.
    """
    table = find_table(tables, name)
    if index not in table.schema.indexes:
        raise Failure(
            f"table {name!r} has no index {index!r}; it has {', '.join(table.schema.indexes) or 'none'}", code=USAGE
        )
    with transaction_client(url) as db, output.progress(known=False) as bar:
        task = bar.add_task(f"build {name}.{index}", total=None, detail="")
        progress = table.build_index(
            db, index, batch=batch, on_progress=lambda at: bar.update(task, detail=f"{at.rows:,} rows")
        )
    if as_json:
        output.print_json({"table": name, "index": index, "rows": progress.rows, "entries": progress.changed})
    else:
        output.line(f"index {index} is ready: {progress.rows:,} rows seen, {progress.changed:,} entries written")


# --- files ------------------------------------------------------------------------------------------------------------


def load(
    name: NameArgument,
    file: Annotated[str, typer.Argument(help="File (.csv, .jsonl, also .gz or .zip); - reads standard input.")],
    format_: FormatOption = None,
    delimiter: Annotated[str, typer.Option(help="What separates the fields of a CSV file; \\t for a tab.")] = ",",
    columns: Annotated[str | None, typer.Option(help="Names of the columns of a CSV file without a header.")] = None,
    null: NullOption = "",
    max_errors: Annotated[int, typer.Option(min=0, help="Bad rows to report and pass over.")] = 0,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep progress in FILE; the same command resumes from it.")
    ] = None,
    split: Annotated[int, typer.Option(min=0, max=1024, help="Regions to split rows and indexes into before.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Transactions at once.")] = 8,
    tables: TablesOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Write the rows of a CSV or JSON lines file into a table, with all indexes.

    Fields are converted to the types of the table's class. Columns that it has not are passed over.
    """
    from pytikv.model.bulk import load as load_rows
    from pytikv.transfer.collector import fewer_collections

    table = find_table(tables, name)
    with fewer_collections(), transaction_client(url) as db, output.progress(known=file != "-") as bar:
        task = bar.add_task(f"load {name}", total=None, detail="")

        def tell(report: LoadReport) -> None:
            detail = f"{report.rows + report.skipped:,} rows"
            bar.update(task, total=report.size_bytes, completed=report.done_bytes, detail=detail)

        report = load_rows(
            db,
            table,
            file,
            format=format_.value if format_ else None,
            delimiter="\t" if delimiter == "\\t" else delimiter,
            columns=tuple(columns.split(",")) if columns else None,
            null=null,
            max_errors=max_errors,
            checkpoint=resume,
            split=split,
            concurrency=jobs,
            on_progress=tell,
        )
    _finish(report, resumable=resume is not None, as_json=as_json)


def _finish(report: LoadReport, *, resumable: bool, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {
                "rows": report.rows,
                "skipped": report.skipped,
                "acknowledged": report.acknowledged,
                "errors": [{"line": line, "reason": reason} for line, reason in report.errors],
                "complete": report.is_complete,
                "seconds": round(report.seconds, 3),
                "rows_per_second": round(report.rows_per_second),
            }
        )
    else:
        for line, reason in report.errors[:_PROBLEMS_SHOWN]:
            output.note(f"line {line}: {reason}")
        if len(report.errors) > _PROBLEMS_SHOWN:
            output.note(f"... and {len(report.errors) - _PROBLEMS_SHOWN} more")
        passed = f", {report.skipped:,} passed over" if report.skipped else ""
        bad = f", {len(report.errors):,} bad rows" if report.errors else ""
        speed = f"{report.rows_per_second:,.0f} a second"
        output.line(f"{report.rows:,} rows in {report.seconds:.1f} s ({speed}){bad}{passed}")
        if not report.is_complete:
            how = "; run the same command again to resume" if resumable else ""
            output.note(f"stopped: rows up to {report.acknowledged:,} are safely written{how}")
    if report.error is not None:
        raise typer.Exit(fail(report.error, as_json=as_json))
    if not report.is_complete:
        raise typer.Exit(FAILED)


def export(
    name: NameArgument,
    file: Annotated[str, typer.Argument(help="File (.csv, .jsonl, also .gz), a directory for several files, or - .")],
    format_: FormatOption = None,
    delimiter: Annotated[str, typer.Option(help="What separates the fields of a CSV file; \\t for a tab.")] = ",",
    null: NullOption = "",
    at: Annotated[int | None, typer.Option(help="Timestamp as of which to read; none: the present.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Parts read at once.")] = 4,
    tables: TablesOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Write all rows of a table, as of one timestamp, into a file, which appears when it is whole.

    Cut off, the same command goes on where it was.
    """
    from pytikv.model.export import export as export_rows

    table = find_table(tables, name)
    with transaction_client(url) as db, output.progress(known=True) as bar:
        task = bar.add_task(f"export {name}", total=None, detail="")
        report = export_rows(
            db,
            table,
            file,
            format=format_.value if format_ else None,
            delimiter="\t" if delimiter == "\\t" else delimiter,
            null=null,
            ts=at,
            concurrency=jobs,
            on_progress=lambda now: bar.update(
                task, total=now.parts, completed=now.done_parts, detail=f"{now.rows:,} rows"
            ),
        )
    files = [str(path) for path in report.files]
    if as_json and file != "-":
        output.print_json({"rows": report.rows, "ts": report.ts, "files": files})
    else:
        where = "standard output" if file == "-" else file if len(files) == 1 else f"{len(files)} files in {file}"
        output.note(f"{report.rows:,} rows written to {where}")


def tables_group(ctx: typer.Context) -> None:
    """Work with tables of typed records, as a Python module declares them.

    --tables (or PYTIKV_TABLES) names the module: an import path, or a file.
    """
    if ctx.invoked_subcommand is None:
        output.line(ctx.get_help())


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group: Any = typer.Typer()
    panel = "Tables"
    add_command(group, ls, "pytikv table ls --tables shop.tables", panel=panel)
    add_command(group, show, "pytikv table show user --tables tables.py", panel=panel)
    add_command(group, get, "pytikv table get flight UA 15 --tables shop.tables --json", panel=panel)
    add_command(group, query, "pytikv table query user age=18..30 city=Rome city=Oslo --limit 10", panel=panel)
    add_command(group, check, "pytikv table check user --repair", panel=panel)
    add_command(group, build_index, "pytikv table build-index user age", panel=panel, name="build-index")
    add_command(
        group, load, "pytikv table load flight flights.csv.zip --null NA --max-errors 100 --resume state", panel=panel
    )
    add_command(group, export, "pytikv table export flight flights.jsonl.gz", panel=panel)
    examples = ["export PYTIKV_TABLES=shop.tables", "pytikv table ls", "pytikv table query user email^=ann"]
    add_group(app, group, tables_group, *examples, panel="Tables", name="table")
