"""Where the keys of named things lie."""

from __future__ import annotations

from pytikv.errors import WrongType
from pytikv.model.tuples import encode

__all__ = ["name_key"]


def name_key(kind: str, name: str, prefix: bytes) -> bytes:
    """Return the bytes that a named thing's keys begin with. Raises WrongType for a name that is no text."""
    if not isinstance(name, str) or not name:
        raise WrongType(f"the name of a {kind} is a str that is not empty, not {name!r}")
    if not isinstance(prefix, bytes):
        raise WrongType(f"prefix is bytes, not {type(prefix).__name__}")
    return prefix + encode((f"~{kind}", name))
