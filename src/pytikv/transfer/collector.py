"""Loading makes many objects that are soon gone by themselves: Python's cycle collector looks through them in vain.

At its usual thresholds it takes a third of the time of loading records. `fewer_collections` raises them for a block,
and puts them back. It is the whole process's setting, so programs (the command line, the demonstration) use it, and
the library's functions do not.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

__all__ = ["fewer_collections"]

_THRESHOLDS: Final = (50_000, 20, 10)


@contextlib.contextmanager
def fewer_collections() -> Iterator[None]:
    """Let garbage of cycles gather for longer inside the block; a program's collector that is off stays off."""
    before = gc.get_threshold()
    if before[0] == 0 or not gc.isenabled():
        yield
        return
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
