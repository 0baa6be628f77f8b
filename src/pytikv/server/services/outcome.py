"""What carrying out a command leaves to be done before its answer may go out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from pytikv.server.storage.txn_storage import Done, Waiting

__all__ = ["Blocking", "Durable", "Outcome", "Waits"]


class Durable(NamedTuple):
    """An answer that must wait until the engine's change with `ticket` is durable."""

    body: bytes
    ticket: int


@dataclasses.dataclass(frozen=True, slots=True)
class Blocking:
    """A command that takes long or writes the disk: to be run off the loop. It is not begun yet."""

    run: Callable[[], bytes | Durable]


@dataclasses.dataclass(frozen=True, slots=True)
class Waits:
    """A request that waits for a lock: to be answered when it is done, or when its time is over."""

    waiting: Waiting
    finish: Callable[[Done], bytes | Durable]


Outcome = bytes | Durable | Blocking | Waits
"""A serialized answer that may go at once, or one of the above."""
