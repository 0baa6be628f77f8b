"""The YAML that Prometheus, Grafana and compose files need, written from plain data.

Mappings, sequences, strings, numbers and booleans, in block style. A string goes unquoted only when it cannot be read
as anything else. What JSON calls a string is a string in YAML too, which is how the others are quoted. Limits: text is
printable; reading is not offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["dump"]

_PLAIN: Final = re.compile(r"(?:[A-Za-z/$_]|\./)[A-Za-z0-9_./$-]*(?: [A-Za-z0-9_./$(),'-]+)*")
_NOT_STRINGS: Final = re.compile(r"(?i:true|false|yes|no|on|off|y|n|null|nan|\.nan|[-+]?\.inf|~)")


def dump(data: Mapping[str, Any] | Sequence[Any], *, head: str = "") -> str:
    """Return `data` as YAML text; `head` becomes comment lines before it."""
    comments = [f"# {line}".rstrip() for line in head.splitlines()]
    return "\n".join([*comments, *_lines(data)]) + "\n"


def _lines(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, item in data.items():
            yield from _entry(f"{_scalar(key)}:", item, "  ")
    else:
        for item in data:
            yield from _entry("-", item, "  ")


def _entry(lead: str, item: Any, indent: str) -> Iterator[str]:
    """Yield `item` after its key or dash: on the same line when it is short, below it else."""
    if isinstance(item, Mapping | list | tuple) and item:
        inner = _lines(item)
        yield f"- {next(inner)}" if lead == "-" else lead
        yield from (f"{indent}{line}" for line in inner)
    else:
        yield f"{lead} {_scalar(item)}"


def _scalar(item: Any) -> str:
    if isinstance(item, str):
        is_plain = _PLAIN.fullmatch(item) and not _NOT_STRINGS.fullmatch(item)
        return item if is_plain else json.dumps(item, ensure_ascii=False)
    return json.dumps(list(item) if isinstance(item, tuple) else item)
