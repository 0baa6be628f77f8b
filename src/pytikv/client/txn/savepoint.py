"""A part of a transaction that can be undone: `with txn.savepoint():`.

An exception that leaves the block undoes what was written in it; otherwise the writes stay. What was read stays read,
and keys that were locked stay locked until the transaction ends. Savepoints nest; one must be left before those around
it. Nothing is sent, so the asynchronous block is the same one.
"""

from __future__ import annotations

from types import TracebackType

from pytikv.client.txn.buffer import WriteBuffer
from pytikv.errors import InvalidArgument

__all__ = ["Savepoint"]


class Savepoint:
    """One block; serves `with` and `async with`, once."""

    __slots__ = ("_buffer", "_stage")

    def __init__(self, buffer: WriteBuffer) -> None:
        self._buffer = buffer
        self._stage: int | None = None

    def __enter__(self) -> Savepoint:
        if self._stage is not None:
            raise InvalidArgument("a savepoint serves one block: make a new one")
        self._stage = self._buffer.stage()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stage, self._stage = self._stage, 0
        if not stage or stage > self._buffer.stages:
            return  # undone by hand, or the transaction has ended
        if kind is None:
            self._buffer.release(stage)
        else:
            self._buffer.undo(stage)

    async def __aenter__(self) -> Savepoint:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def rollback(self) -> None:
        """Undo now what was written in the block; the block goes on and may write again."""
        if not self._stage or self._stage > self._buffer.stages:
            raise InvalidArgument("this savepoint is closed")
        self._buffer.undo(self._stage)
        self._stage = self._buffer.stage()
