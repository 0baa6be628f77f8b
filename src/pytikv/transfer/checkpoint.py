"""How far a load has come, kept in a small file, so that the same command goes on where it was cut off.

The file names the input and the number of rows acknowledged. It is replaced whole, at most a few times a second, always
*after* the rows it speaks of were acknowledged: a crash in between makes the next run write some rows again, never pass
one over. It is removed when the load is complete.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from pytikv.errors import InvalidArgument
from pytikv.transfer.dumper import replace_atomically

__all__ = ["Checkpoint"]

_INTERVAL_SECONDS = 0.5


class Checkpoint:
    """The file `path` for the input `source`."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source
        self._written_at = 0.0

    def load(self) -> int:
        """Return the rows acknowledged by an earlier run, 0 without one; InvalidArgument for another input's file."""
        try:
            state = json.loads(self._path.read_bytes())
            source, rows = state["source"], int(state["acknowledged"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            raise InvalidArgument(f"{self._path} is no progress file of an import") from None
        if source != self._source:
            raise InvalidArgument(f"{self._path} is the progress of importing {source}, not {self._source}")
        return rows

    def save(self, acknowledged: int, *, now: bool = False) -> None:
        """Note that the first `acknowledged` rows need not be sent again; `now` False: only when it is time again."""
        if not now and time.monotonic() - self._written_at < _INTERVAL_SECONDS:
            return
        with replace_atomically(self._path) as out:
            out.write(json.dumps({"source": self._source, "acknowledged": acknowledged}).encode())
        self._written_at = time.monotonic()

    def remove(self) -> None:
        """The load is complete."""
        self._path.unlink(missing_ok=True)
