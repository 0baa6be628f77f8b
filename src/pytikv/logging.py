"""Logs as lines of JSON, for Loki and its like: `pytikv.logging.json()`.

    pytikv.logging.json(service="shop")                        # to stderr, from INFO on, what the library says
    pytikv.logging.json(service="shop", root=True)             # the whole program
    pytikv.logging.json(service="shop", calls="errors")        # also a line for each call that fails
    client = pytikv.RawClient.connect(url, slow_log=0.1)       # calls over 0.1 s, with where their time went

The fields of a line: `pytikv.observe.log_lines`. A Promtail pipeline that reads them lies in the files that
`pytikv monitoring init` writes.
"""

from __future__ import annotations

from typing import Literal, TextIO

from pytikv.observe.logs import JsonFormatter, JsonLogging, install

__all__ = ["JsonFormatter", "JsonLogging", "json"]


def json(
    stream: TextIO | None = None,
    level: int | str = "INFO",
    service: str = "",
    *,
    root: bool = False,
    calls: Literal["none", "errors", "all"] = "none",
) -> JsonLogging:
    """Write log records as lines of JSON from now on.

    stream: a text stream; None: stderr. It stays the caller's to close.
    level: the lowest level written, a name or a number.
    service: the name of the program, a field of each line; empty: none.
    root: take the whole program's records, not only the library's.
    calls: "errors" logs each call that fails, at most 10 a second; "all" every call.

    Returns an object whose `close` (or `with`) undoes it. Called twice, lines are written twice. Raises ConfigError for
    a level or a word that there is not. Any thread may log.
    """
    return install(stream, level, service, root=root, calls=calls)
