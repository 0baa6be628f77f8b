"""What can go wrong with tables. Texts name table, field and value; values are cut, and hidden by `redact_keys`."""

from __future__ import annotations

from typing import Any, Final

from pytikv.errors import ConfigError, InvalidArgument, KeyExists, format_key

__all__ = ["CursorError", "RowError", "RowExists", "SchemaError", "UniqueViolation", "explained", "shown"]

_SHOWN: Final = 60
_EXPLAINED: Final = 300


def shown(value: Any) -> str:
    """Return a value for a message: its repr, cut after some 60 characters, or ``?`` when keys are redacted.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    if format_key(b"") == "?":
        return "?"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def explained(error: Exception) -> str:
    """Return what an error of a library says, cut; its kind alone when keys are redacted, since it may tell values."""
    if format_key(b"") == "?":
        return type(error).__name__
    listed: Any = getattr(error, "errors", None)
    if listed is not None:  # pydantic's, whose own text spells out every input
        found = listed(include_url=False, include_input=False, include_context=False)
        text = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:3])
    else:
        text = str(error)
    return text if len(text) <= _EXPLAINED else text[:_EXPLAINED] + "..."


class SchemaError(ConfigError):
    """The declaration of a table contradicts itself, its class, or another table of the same name."""


class RowError(InvalidArgument):
    """A record, or the bytes of one, do not fit their table. Nothing was written. `table`, `field` (empty: all)."""

    def __init__(self, message: str = "", *, table: str = "", field: str = "") -> None:
        super().__init__(message)
        self.table = table
        self.field = field


class CursorError(InvalidArgument):
    """A cursor was changed, cut, or made for another query."""


class RowExists(KeyExists):
    """An insert met a row with the same key. `table`: its name."""

    def __init__(self, message: str = "", *, table: str = "", key: bytes | None = None) -> None:
        super().__init__(message, key=key)
        self.table = table


class UniqueViolation(KeyExists):
    """Another row has the same value in a unique index. Nothing of the row was written; the transaction goes on.

    `table`, `index`: their names. `value`: the tuple of the index's fields. `key`: the index entry's key.
    """

    def __init__(
        self,
        message: str = "",
        *,
        table: str = "",
        index: str = "",
        value: tuple[Any, ...] = (),
        key: bytes | None = None,
    ) -> None:
        super().__init__(message, key=key)
        self.table = table
        self.index = index
        self.value = value
