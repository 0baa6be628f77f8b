"""Writes whose durability is under way, and which reads must wait for them.

With `sync`, the answer of a write waits for the disk. Its effect is visible before that, so a read that met it must
wait as well: had it been answered and the power failed, it would have shown what never was. Keys whose writes are under
way are noted with their ticket; a read of one key looks there, a read of a range waits for all. The key None stands for
keys that are not known one by one. What is durable is forgotten.

A write that runs off the loop is visible before it can be noted: while one does (`off_loop`), every read waits for the
engine's last ticket. Without `sync` nothing waits and nothing is noted.

Safe for threads. Bound: as many keys as the requests in flight name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from pytikv.rt.locks import mutex
from pytikv.server.engine.interface import Engine
from pytikv.server.services.outcome import Durable

__all__ = ["PendingWrites"]


class PendingWrites:
    """Of one store. `is_any` is what the hot path looks at: False means that no read waits for anything."""

    def __init__(self, engine: Engine, *, sync: bool) -> None:
        self.sync = sync
        self.is_any = False
        self._engine = engine
        self._mutex = mutex()
        self._tickets: dict[bytes | None, int] = {}
        self._off_loop = 0

    def note(self, keys: Iterable[bytes | None], ticket: int) -> None:
        """Note that `keys` were written with `ticket`."""
        with self._mutex:
            for key in keys:
                self._tickets[key] = ticket
            self.is_any = True

    def note_one(self, key: bytes, ticket: int) -> None:
        """As `note`, for one key."""
        with self._mutex:
            self._tickets[key] = ticket
            self.is_any = True

    def durable(self, ticket: int) -> None:
        """Forget what is durable: all writes up to `ticket`."""
        if not self.is_any:
            return
        with self._mutex:
            self._tickets = {key: at for key, at in self._tickets.items() if at > ticket}
            self.is_any = bool(self._tickets) or self._off_loop > 0

    @contextlib.contextmanager
    def off_loop(self) -> Iterator[None]:
        """Surround a write that does not run on the loop."""
        with self._mutex:
            self._off_loop += 1
            self.is_any = True
        before = self._engine.ticket
        try:
            yield
        finally:
            with self._mutex:
                self._off_loop -= 1
                if self._engine.ticket > before:
                    self._tickets[None] = self._engine.ticket
                self.is_any = bool(self._tickets) or self._off_loop > 0

    def gate(self, key: bytes, body: bytes) -> bytes | Durable:
        """Return the answer of a read of one key: at once, or when the write it may have met is durable."""
        if not self.sync or not self.is_any:
            return body
        if self._off_loop:
            return Durable(body, self._engine.ticket)
        tickets = self._tickets
        ticket = max(tickets.get(key, 0), tickets.get(None, 0))
        return Durable(body, ticket) if ticket else body

    def gate_all(self, body: bytes) -> bytes | Durable:
        """Return the answer of a read of many keys."""
        return Durable(body, self._engine.ticket) if self.sync and self.is_any else body
