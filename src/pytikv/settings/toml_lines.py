"""Where in a TOML file a key stands: `tomllib` gives values and no positions.

A statement (a header or a key with its value) goes over several lines only inside brackets or quotes, so lines are
gathered until they are TOML by themselves: then they are one statement, and parsed alone they give its keys. So the
only reader of TOML here is `tomllib`, and what it accepts is placed rightly, however it is written.

Limits: the text must be valid TOML as a whole. The line is the statement's first, also for keys inside an inline table.
Tables in arrays (`[[x]]`) are placed by their first occurrence.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["key_lines"]

Path = tuple[str, ...]


def key_lines(text: str) -> dict[Path, int]:
    """Return the line, from 1, on which each key and each table of `text` first appears.

    >>> key_lines('timeout = 5\\n\\n[tls]\\nca = "ca.pem"\\n')
    {('timeout',): 1, ('tls',): 3, ('tls', 'ca'): 4}
    """
    found: dict[Path, int] = {}
    table: Path = ()
    for line, statement, values in _statements(text):
        if statement.startswith("["):
            table = _deepest(values)
            places = [table[:depth] for depth in range(1, len(table) + 1)]
        else:
            places = [table + path for path in _paths(values)]
        for path in places:
            found.setdefault(path, line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    begin, gathered = 1, ""
    for number, line in enumerate(text.split("\n"), start=1):
        gathered += line + "\n"
        try:
            values = tomllib.loads(gathered)
        except tomllib.TOMLDecodeError:
            continue
        if values:
            yield begin, gathered.lstrip(), values
        begin, gathered = number + 1, ""


def _deepest(values: Any) -> Path:
    path: list[str] = []
    while values:
        if isinstance(values, list):
            values = values[0]
            continue
        key = next(iter(values))
        path.append(key)
        values = values[key]
    return tuple(path)


def _paths(values: Mapping[str, Any]) -> Iterator[Path]:
    for key, value in values.items():
        yield (key,)
        if isinstance(value, Mapping):
            yield from ((key, *rest) for rest in _paths(value))
