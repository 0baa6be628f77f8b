"""What `pytikv config show` tells of each option: value, source, meaning, what is allowed; secrets are not shown.

The meaning is the first sentence of the string below the option's field in the class, read from its source, which
Python does not keep at run time. Where the source is not installed there is none.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from typing import Any, Final

from pytikv.settings.kinds import is_secret

__all__ = ["Explained", "explained", "meanings"]

_HIDDEN: Final = "***"


@dataclasses.dataclass(frozen=True, slots=True)
class Explained:
    """One option. `value` is plain: what JSON can hold. `fields`: the sources of a table's fields, by name."""

    name: str
    value: Any
    source: str
    is_default: bool
    meaning: str
    allowed: str
    fields: Mapping[str, str]


def explained(config: Any, sources: Mapping[str, str]) -> list[Explained]:
    """Return what is to be told of each field of `config`, a dataclass whose fields have kinds as their `check`."""
    texts = meanings(type(config))
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        begin = field.name + "."
        found.append(
            Explained(
                name=field.name,
                value=_HIDDEN if value and is_secret(field.name) and not callable(value) else _plain(value),
                source=sources.get(field.name, "default"),
                is_default=field.name not in sources,
                meaning=_first_sentence(texts.get(field.name, "")),
                allowed=str(getattr(field.metadata.get("check"), "allowed", "")),
                fields={name.removeprefix(begin): at for name, at in sources.items() if name.startswith(begin)},
            )
        )
    return found


def meanings(cls: type) -> dict[str, str]:
    """Return the strings that stand below the fields of a class, by field; empty where the source is not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return {}
    (definition,) = tree.body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                found[node.target.id] = " ".join(text.split())
    return found


def _first_sentence(text: str) -> str:
    for place, sign in enumerate(text):
        if (
            sign == "."
            and text[place + 1 : place + 2] in ("", " ")
            and text.count("(", 0, place) == text.count(")", 0, place)
        ):
            return text[: place + 1]
    return text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: _HIDDEN if is_secret(name) else _plain(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"a {type(value).__name__}"
