"""Latches: commands that touch the same key run one after the other.

A key falls into one of a fixed number of slots by its hash, and each slot has a mutex. A command takes the slots of all
its keys, each once and in ascending order, so that no two commands can wait for each other in a circle. Keys that share
a slot wait for each other needlessly, never wrongly.

What holds a latch reads and writes the engine and does nothing else: it never waits for a lock of a transaction, for
the disk to sync, or for the network. So waiting for a latch is short, and a loop may do it.

Raw compare-and-swap and transactional commands each have latches of their own: under API v1 their data never meets, and
under API v2 their keys differ in the first byte.

Source: TiKV src/storage/txn/latch.rs (there with queues, because its commands give their threads back).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import Final

from pytikv.rt.locks import mutex

__all__ = ["Latches"]

_SLOTS: Final = 256


class Latches:
    """The latches of one kind of data. Safe for threads; a thread may enter again."""

    def __init__(self, slots: int = _SLOTS) -> None:
        self._slots = tuple(mutex() for _ in range(slots))
        self._size = slots

    def hold(self, keys: Collection[bytes]) -> contextlib.AbstractContextManager[object]:
        """Return what, in a `with`, keeps every other holder of one of `keys` out. Without keys it keeps nobody out."""
        if len(keys) == 1:
            (key,) = keys
            return self._slots[hash(key) % self._size]
        return _Held([self._slots[number] for number in self.numbers(keys)])

    def numbers(self, keys: Iterable[bytes]) -> list[int]:
        """Return the slots of `keys` in the order in which they are taken."""
        size = self._size
        return sorted({hash(key) % size for key in keys})


class _Held:
    """Several slots at once. What interrupts the taking (Ctrl-C) gives back what was taken."""

    __slots__ = ("_slots", "_taken")

    def __init__(self, slots: list[contextlib.AbstractContextManager[object]]) -> None:
        self._slots = slots
        self._taken = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._taken:
            for slot in self._slots:
                self._taken.enter_context(slot)
            self._taken = self._taken.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken.close()
