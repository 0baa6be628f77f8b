"""How a row of a file becomes a key or a value: a column, a template, or the whole row as JSON.

A *field spec* is what a user writes: the name of a column (``icao``), or a template with columns in braces
(``flight/{carrier}/{flight:04}``). ``{column:0N}`` pads with zeros on the left to N characters, so that numbers sort;
``{{`` and ``}}`` are braces. A spec is compiled once for the columns of the file; the result turns a list of texts into
one text. Text becomes bytes by the *encoding* of the file: ``text`` (UTF-8), ``escaped``, ``hex`` or ``base64``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence

from pytikv.errors import InvalidArgument
from pytikv.transfer.escape import escape, unescape

__all__ = ["ENCODINGS", "compile_spec", "decode_text", "encode_bytes", "json_object", "spec_columns"]

Fields = Sequence[str]
ENCODINGS = ("text", "escaped", "hex", "base64")

_PART = re.compile(r"\{\{|\}\}|\{([^{}:]+)(?::0(\d{1,3}))?\}|[{}]")
_quote: Callable[[str], str] = json.encoder.encode_basestring  # C where there is a C; keeps what is not ASCII


def spec_columns(spec: str) -> list[str]:
    """Return the names of the columns that a field spec uses, in order."""
    if not _is_template(spec):
        return [spec]
    return [match[1] for match in _PART.finditer(spec) if match[1]]


def compile_spec(spec: str, columns: Sequence[str]) -> Callable[[Fields], str]:
    """Return a function from the fields of a row to the text of `spec`.

    Raises InvalidArgument for an unknown column or a stray brace; the message lists the columns there are.
    """
    if not _is_template(spec):
        index = _index(spec, columns)
        return lambda fields: fields[index]
    layout, picks = _layout(spec, columns)
    if all(not width for _, width in picks):
        indexes = [index for index, _ in picks]
        return lambda fields: layout % tuple([fields[index] for index in indexes])
    return lambda fields: layout % tuple([fields[index].zfill(width) for index, width in picks])


def _is_template(spec: str) -> bool:
    return "{" in spec or "}" in spec


def _layout(spec: str, columns: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a %-format and, for each of its places, the index of the column and the width to pad to."""
    out: list[str] = []
    picks: list[tuple[int, int]] = []
    end = 0
    for match in _PART.finditer(spec):
        out.append(spec[end : match.start()].replace("%", "%%"))
        end = match.end()
        if match[1]:
            picks.append((_index(match[1], columns), int(match[2] or 0)))
            out.append("%s")
        elif match[0] in ("{{", "}}"):
            out.append(match[0][0])
        else:
            raise InvalidArgument(
                f"stray {match[0]!r} at position {match.start() + 1} of the template {spec!r}: "
                "write {column} or {column:0N}, and {{ or }} for a brace"
            )
    out.append(spec[end:].replace("%", "%%"))
    return "".join(out), picks


def _index(name: str, columns: Sequence[str]) -> int:
    try:
        return columns.index(name)
    except ValueError:
        raise InvalidArgument(f"no column {name!r}; the columns are: {', '.join(columns)}") from None


def json_object(columns: Sequence[str]) -> Callable[[Fields], str]:
    """Return a function from the fields of a row to one compact JSON object, all values strings."""
    layout = "{" + ",".join(_quote(column).replace("%", "%%") + ":%s" for column in columns) + "}"
    return lambda fields: layout % tuple(map(_quote, fields))


def decode_text(encoding: str) -> Callable[[str], bytes]:
    """Return the function that makes bytes of a file's text; what it raises for bad text is a ValueError."""
    if encoding == "text":
        return lambda text: text.encode("utf-8", "surrogateescape")
    decoders: dict[str, Callable[[str], bytes]] = {
        "escaped": unescape,
        "hex": bytes.fromhex,
        "base64": lambda text: base64.b64decode(text, validate=True),
    }
    return decoders[encoding]


def encode_bytes(encoding: str) -> Callable[[bytes], str]:
    """Return the function that makes a file's text of bytes; ``text`` raises UnicodeDecodeError where it cannot."""
    encoders: dict[str, Callable[[bytes], str]] = {
        "text": lambda data: data.decode("utf-8"),
        "escaped": escape,
        "hex": bytes.hex,
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
    }
    return encoders[encoding]
