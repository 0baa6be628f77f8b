"""The kinds of options: how a value is read, which ones are allowed, and what is said of a wrong one.

A `Kind` is called with the option's name and a raw value (text where it came as text) and returns the value, or raises
a `ConfigError` that names the option and what is allowed. Reading what was read already changes nothing. `record`
makes a kind of a frozen dataclass, whose fields may have kinds of their own: in TOML a table, in text a switch; the
class may check itself in `__post_init__` by raising ConfigError or ValueError.

Messages repeat a wrong value only where it is short and the option's name does not look like a secret's.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pytikv.errors import ConfigError

__all__ = [
    "Kind",
    "Labels",
    "boolean",
    "choice",
    "either",
    "fail",
    "function",
    "integer",
    "is_secret",
    "kind",
    "labels",
    "number",
    "option_name",
    "record",
    "relatives",
    "seconds",
    "seconds_by_name",
    "text",
    "utf8",
    "version",
]

Labels = tuple[tuple[str, str], ...]

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*")
_SECRET: Final = re.compile(
    r"pass(word|wd|phrase)?\b|secret|token|credential|api_?key|private_?key|auth", re.IGNORECASE
)
_SHOWN_CHARACTERS: Final = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """How an option is read, and what it may be in words (`allowed`), for messages and for `pytikv config show`.

    `is_table`: it has named fields, which may come from different places: a TOML table, `?breaker.window=5` in the URL.
    """

    allowed: str
    read: Callable[[str, Any], Any]
    is_table: bool = False

    def __call__(self, name: str, value: Any) -> Any:
        """Return the value. Raises ConfigError."""
        return self.read(name, value)


def kind(check: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return the metadata of a dataclass's field whose value `check` reads."""
    return {"check": check}


def option_name(name: str) -> str:
    """Return the name as the code spells it: ``grpc-concurrency`` and ``grpc_concurrency`` are one option."""
    return name.replace("-", "_")


def is_secret(name: str) -> bool:
    """Whether a value under this name is never shown."""
    return _SECRET.search(option_name(name)) is not None


def relatives(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: which of the known ones may be meant."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else ""


def fail(name: str, wanted: str, value: object) -> ConfigError:
    """Return the error about a value that is not what is `wanted`."""
    shown = f"{value!r}" if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
    if isinstance(value, str) and len(value) <= _SHOWN_CHARACTERS:
        shown = repr(value)
    return ConfigError(f"option {name!r} must be {wanted}" + ("" if is_secret(name) else f", not {shown}"))


# --- plain values -----------------------------------------------------------------------------------------------------


def _ranged(wanted: str, convert: Callable[[str], Any], types: tuple[type, ...], low: float, high: float) -> Kind:
    def read(name: str, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = convert(value)
            except ValueError:
                raise fail(name, wanted, value) from None
        is_right = isinstance(value, types) and not isinstance(value, bool)
        if not is_right or not low <= value <= high:
            raise fail(name, wanted, value)
        return value

    return Kind(wanted, read)


def number(low: float, high: float, what: str = "a number") -> Kind:
    """A float from `low` to `high`, both included."""
    ranged = _ranged(f"{what} between {low:g} and {high:g}", float, (int, float), low, high)
    return Kind(ranged.allowed, lambda name, value: float(ranged(name, value)))


def seconds(low: float = 0.001, high: float = 86_400.0) -> Kind:
    """Seconds, as a float; in text also with a unit, as in ``500ms``, ``5s``, ``2m``, ``1h``."""
    ranged = number(low, high, "a number of seconds")
    return Kind(ranged.allowed, lambda name, value: ranged(name, _without_unit(value)))


def _without_unit(value: Any) -> Any:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) * _UNITS_S[found[2]] if found else value


def integer(low: int, high: int) -> Kind:
    """An int from `low` to `high`, both included."""
    return _ranged(f"an integer between {low} and {high}", int, (int,), low, high)


def _read_boolean(name: str, value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
    if not isinstance(value, bool):
        raise fail(name, "true or false", value)
    return value


boolean: Final = Kind("true or false", _read_boolean)


def _read_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise fail(name, "a string", value)
    return value


text: Final = Kind("a string", _read_text)


def choice(*choices: str) -> Kind:
    """One of some strings."""
    wanted = "one of " + ", ".join(repr(one) for one in choices)

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise fail(name, wanted, value)
        return value

    return Kind(wanted, read)


def _read_version(name: str, value: Any) -> int:
    if isinstance(value, str) and value.lower() in ("1ttl", "v1ttl"):
        return 1  # a v1ttl store is spoken to with version 1 (codec.api)
    if isinstance(value, str):
        value = value.lower().removeprefix("v")
    found: int = _VERSIONS(name, value)
    return found


_VERSIONS: Final = integer(1, 2)
version: Final = Kind("1, 2 or 1ttl", _read_version)


def _read_utf8(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise fail(name, "bytes", value)
    return value


utf8: Final = Kind("bytes; in text, encoded as UTF-8", _read_utf8)


# --- several values ---------------------------------------------------------------------------------------------------


def _pairs(name: str, value: str, wanted: str) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in value.split(",") if part]
    if any(not separator for _, separator, _ in parts):
        raise fail(name, wanted, value)
    return [(key.strip(), text.strip()) for key, _, text in parts]


def _read_labels(name: str, value: Any) -> Labels:
    wanted = labels.allowed
    if isinstance(value, str):
        return tuple(_pairs(name, value, wanted))
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, tuple) or not all(_is_pair_of_text(pair) for pair in value):
        raise fail(name, wanted, value)
    return value


labels: Final = Kind("labels such as 'zone=z1,host=h2' or {'zone': 'z1'}", _read_labels)


def _is_pair_of_text(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


def seconds_by_name(low: float = 0.001, high: float = 86_400.0) -> Kind:
    """A dict of seconds by name; in text ``core=0.05,background=200ms``, in TOML a table."""
    one = seconds(low, high)
    wanted = f"names with seconds between {low:g} and {high:g}, such as {{'core': 0.05}} or 'core=0.05'"

    def read(name: str, value: Any) -> dict[str, float]:
        if isinstance(value, str):
            value = dict(_pairs(name, value, wanted))
        if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
            raise fail(name, wanted, value)
        return {key: one(f"{name}.{key}", given) for key, given in value.items()}

    return Kind(wanted, read, is_table=True)


# --- other things -----------------------------------------------------------------------------------------------------


def function(what: str) -> Kind:
    """A callable, which only a program can give; `what` says with what and for what it is called."""

    def read(name: str, value: Any) -> Any:
        if isinstance(value, (str, Mapping)):
            raise ConfigError(f"option {name!r} must be {what}: a program passes it to connect, text cannot name it")
        if not callable(value):
            raise fail(name, what, value)
        return value

    return Kind(what, read)


def either(*kinds: Kind) -> Kind:
    """The first of `kinds` that takes the value; a wrong one is told all that is allowed."""
    wanted = ", or ".join(one.allowed for one in kinds)

    def read(name: str, value: Any) -> Any:
        for one in kinds:
            try:
                return one(name, value)
            except ConfigError:
                continue
        raise fail(name, wanted, value)

    return Kind(wanted, read, is_table=any(one.is_table for one in kinds))


def record(cls: type, *, switch: bool = True, checks: Mapping[str, Kind] | None = None) -> Kind:
    """A frozen dataclass: an instance, a mapping of its fields, and with `switch` a boolean: its defaults, or None.

    A field in a mapping is read by its kind, in `checks` or in the field's metadata (`kind`); without one as it is.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    switched = "true, false, or " if switch else ""
    wanted = f"{switched}pytikv.{cls.__name__}({', '.join(f'{name}=...' for name in names)})"

    def read(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _build(cls, name, value, checks or {})
        if switch and isinstance(value, (bool, str)):
            return cls() if boolean(name, value) else None
        if not isinstance(value, cls):
            raise fail(name, wanted, value)
        return value

    return Kind(wanted, read, is_table=True)


def _build(cls: type, name: str, table: Mapping[Any, Any], checks: Mapping[str, Kind]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    given: dict[str, Any] = {}
    for key, value in table.items():
        known = option_name(str(key))
        if known not in fields:
            raise ConfigError(
                f"option {name!r} has no field {key!r}; it has {', '.join(fields)}{relatives(known, fields)}"
            )
        check = checks.get(known) or fields[known].metadata.get("check")
        given[known] = check(f"{name}.{known}", value) if check is not None and value is not None else value
    try:
        return cls(**given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"option {name!r}: {error}") from None
    except ConfigError as error:
        raise error if repr(name)[:-1] in str(error) else ConfigError(f"option {name!r}: {error}") from None
