"""The four places that can speak for an option, read into one shape, merged, and checked with the place in the message.

`Given` is a value with its origin: `source` as `pytikv config show` prints it, `blame` as a message about it begins.
A place is a dict of option to `Given`; an option that is a table (`Kind.is_table`) is a dict of field to `Given`
instead, so that a stronger place completes or replaces the fields of a weaker one. A whole value, such as `tls=true` or
`pytikv.TLS(...)`, replaces all of them; fields given beside it in the same place complete it.

Fields in text: `?breaker.window=5` in the URL, ``PYTIKV_BREAKER__WINDOW`` in the environment. The paths of TLS (`ca`,
`cert`, `key`) are known by their bare names too. Names with `-` and with `_` are the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pytikv.errors import ConfigError
from pytikv.settings.kinds import fail, option_name, relatives
from pytikv.settings.toml_lines import key_lines

__all__ = [
    "Given",
    "Place",
    "Schema",
    "checked",
    "from_arguments",
    "from_environment",
    "from_file",
    "from_query",
    "merged",
    "sources",
]

_ENVIRONMENT_PREFIX: Final = "PYTIKV_"
_NOT_OPTIONS: Final = frozenset({"url", "config"})  # the command line's target, and the file's name
_FIELD_SEPARATOR: Final = "__"

Check = Callable[[str, Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What a place says: the raw value, where it stands, and how a message about it begins.

    `inner`: how a message begins about what lies in the value, by its dotted name, of a table in a file.
    """

    value: Any
    source: str
    blame: str = ""
    inner: Mapping[str, str] = dataclasses.field(default_factory=dict)


Place = dict[str, "Given | dict[str, Given]"]


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """The options: `checks` by name, and the `aliases` that stand for one field of a table (`ca`: `tls`, `ca`)."""

    checks: Mapping[str, Check]
    aliases: Mapping[str, tuple[str, str]]

    @property
    def names(self) -> frozenset[str]:
        """Every name that may be given, `config` not among them."""
        return frozenset({*self.checks, *self.aliases})

    def is_table(self, name: str) -> bool:
        """Whether the option has fields."""
        return bool(getattr(self.checks.get(name), "is_table", False))


class _Reader:
    """Builds one place from names and values; the faults it meets are told with `where`, the place in words."""

    def __init__(self, schema: Schema, where: str) -> None:
        self._schema = schema
        self._where = where
        self._wholes: dict[str, Given] = {}
        self._fields: dict[str, dict[str, Given]] = {}
        self._spelled: dict[tuple[str, str], str] = {}

    def add(self, spelled: str, name: str, given: Given, field: str = "") -> None:
        """Take one value, under the name as it was `spelled`."""
        if not field:
            name, field = self._schema.aliases.get(name, (name, ""))
        before = self._spelled.setdefault((name, option_name(field)), spelled)
        if before != spelled:
            raise ConfigError(f"option {before!r} stands twice in {self._where}, once as {spelled!r}")
        if field:
            self._fields.setdefault(name, {})[field] = given
        else:
            self._wholes[name] = given

    def place(self) -> Place:
        """Return what was added."""
        found: Place = dict(self._wholes)
        for name, fields in self._fields.items():
            whole = self._wholes.get(name)
            found[name] = fields if whole is None else {**self._opened(name, whole), **fields}
        return found

    def _opened(self, name: str, whole: Given) -> dict[str, Given]:
        """Return the fields of a whole value beside which single fields are given: none for a switch that is on."""
        value = self._schema.checks[name](name, whole.value)
        if value is None or value is False:
            raise ConfigError(f"option {name!r} is off in {self._where}, yet fields of it are given: leave out one")
        if isinstance(whole.value, (str, bool)):
            return {}
        fields = [field.name for field in dataclasses.fields(value)]
        return {field: dataclasses.replace(whole, value=getattr(value, field)) for field in fields}


# --- reading ----------------------------------------------------------------------------------------------------------


def from_arguments(schema: Schema, options: Mapping[str, Any]) -> Place:
    """Read keyword arguments; None says nothing. Raises ConfigError."""
    reader = _Reader(schema, "the arguments")
    for spelled, value in options.items():
        name = _known(spelled, schema, "in the arguments")
        if value is None or name == "config":
            continue
        if schema.is_table(name) and isinstance(value, Mapping):
            for field, part in value.items():
                reader.add(f"{spelled}.{field}", name, Given(part, "argument"), str(field))
        else:
            reader.add(spelled, name, Given(value, "argument"))
    return reader.place()


def from_query(schema: Schema, query: Mapping[str, str]) -> Place:
    """Read the query of a URL. Raises ConfigError."""
    reader = _Reader(schema, "the URL's query")
    for spelled, value in query.items():
        name, field = _split(spelled, ".", schema)
        name = _known(name, schema, "in the URL's query")
        if name != "config":
            reader.add(spelled, name, Given(value, "URL query", f"the URL's parameter {spelled!r}: "), field)
    return reader.place()


def from_environment(schema: Schema, environment: Mapping[str, str]) -> Place:
    """Read the variables that name options; others may begin like ours, unless they nearly name one."""
    reader = _Reader(schema, "the environment")
    names = schema.names | {"config"}
    for variable, value in environment.items():
        if not variable.upper().startswith(_ENVIRONMENT_PREFIX):
            continue
        name, field = _split(variable[len(_ENVIRONMENT_PREFIX) :].lower(), _FIELD_SEPARATOR, schema)
        if name in names - {"config"}:
            given = Given(value, f"environment {variable}", f"environment variable {variable}: ")
            reader.add(variable, name, given, field)
        elif name not in _NOT_OPTIONS and (near := difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.85)):
            wanted = _ENVIRONMENT_PREFIX + near[0].upper()
            raise ConfigError(f"unknown option in the environment: {variable!r}; did you mean {wanted!r}?")
    return reader.place()


def from_file(schema: Schema, path: Any) -> Place:
    """Read a TOML file. Raises ConfigError with the line where something is wrong."""
    if not isinstance(path, (str, os.PathLike)):
        raise fail("config", "the path of a TOML file", path)
    shown = os.fspath(path)
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {shown!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration file {shown!r} is not valid TOML: {error}") from error
    except ValueError as error:  # no path at all
        raise ConfigError(f"cannot read the configuration file {shown!r}: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error).replace("(at end of document)", f"(at the end, line {text.count(chr(10)) + 1})")
        raise ConfigError(f"the configuration file {shown!r} is not valid TOML: {reason}") from error
    lines = key_lines(text)
    inner = {".".join(map(option_name, path)): f"{shown}:{line}: " for path, line in lines.items()}
    reader = _Reader(schema, f"the file {shown!r}")
    for spelled, value in table.items():
        at = f"{shown}:{lines[spelled,]}"
        name = _known(spelled, schema, f"in the file {shown!r}, line {lines[spelled,]}", names=schema.names)
        if schema.is_table(name) and isinstance(value, Mapping):
            for field, part in value.items():
                at = f"{shown}:{lines[spelled, field]}"
                reader.add(f"{spelled}.{field}", name, Given(part, f"file {at}", f"{at}: ", inner), field)
        else:
            reader.add(spelled, name, Given(value, f"file {at}", f"{at}: ", inner))
    return reader.place()


def _split(spelled: str, separator: str, schema: Schema) -> tuple[str, str]:
    """Return the option and the field of it that a name in text means; no field where the option has none."""
    name, found, field = spelled.partition(separator)
    if found and field and schema.is_table(option_name(name)):
        return option_name(name), field
    return option_name(spelled), ""


def _known(name: str, schema: Schema, where: str, names: Iterable[str] | None = None) -> str:
    known = frozenset(schema.names | {"config"} if names is None else names)
    if option_name(name) not in known:
        raise ConfigError(f"unknown option {name!r} {where}{relatives(option_name(name), known)}")
    return option_name(name)


# --- what comes of them -----------------------------------------------------------------------------------------------


def merged(places: Iterable[Place]) -> Place:
    """Return what all places say together, the weakest first."""
    found: Place = {}
    for place in places:
        for name, given in place.items():
            below = found.get(name)
            both = isinstance(given, dict) and isinstance(below, dict)
            found[name] = {**below, **given} if both else given  # type: ignore[dict-item]  # both are dicts
    return found


def checked(schema: Schema, place: Place) -> dict[str, Any]:
    """Return the values. Raises ConfigError that begins with where the wrong one stands."""
    return {name: _checked(schema.checks[name], name, given) for name, given in place.items()}


def _checked(check: Check, name: str, given: Given | dict[str, Given]) -> Any:
    value = given.value if isinstance(given, Given) else {field: part.value for field, part in given.items()}
    try:
        return check(name, value)
    except ConfigError as error:
        each = {"": given} if isinstance(given, Given) else given
        parts = {f"{name}.{field}".rstrip("."): part for field, part in each.items()}
        raise ConfigError(_blame(parts, option_name(str(error))) + str(error)) from None


def _blame(parts: Mapping[str, Given], message: str) -> str:
    """Return how a message begins: with the place of the deepest name that it holds, dotted, quoted, or as a word."""
    places = {option_name(name): part.blame for name, part in parts.items()}
    for name in list(places):
        for part in parts.values():
            places |= {path: at for path, at in part.inner.items() if path.startswith(name + ".")}
    by_depth = sorted(places, key=lambda name: -name.count("."))
    for pattern in (r"'({0}\b|{1}')", r"\b{1}\b", ""):
        for name in by_depth if pattern else places:
            if re.search(pattern.format(re.escape(name), re.escape(name.rpartition(".")[2])), message):
                return places[name]
    return ""


def sources(place: Place) -> dict[str, str]:
    """Return where each option comes from, and each field of a table, as `tls.ca`."""
    found: dict[str, str] = {}
    for name, given in place.items():
        if isinstance(given, Given):
            found[name] = given.source
            continue
        found[name] = ", ".join(dict.fromkeys(part.source for part in given.values()))
        found.update({f"{name}.{field}": part.source for field, part in given.items()})
    return found
