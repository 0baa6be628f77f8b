"""Where a transaction stands, and who may act on it: one task at a time, and only while it is open.

    NEW -> OPEN -> COMMITTED | ROLLED_BACK | FAILED

FAILED: a commit raised; what became of the writes is in the transaction's `outcome`. Every operation *enters* and
*leaves*; entering while another one is inside means that two tasks or threads use one transaction at once, whose order
would be chance, so it is refused. Taking the one token out of a list is a single step for threads, too.
"""

from __future__ import annotations

import enum
from types import TracebackType
from typing import Final

from pytikv.errors import InvalidArgument

__all__ = ["Lifecycle", "State"]


class State(enum.Enum):
    """Where a transaction stands; the value is how a message says it."""

    NEW = "has not begun: await it, or use it in a with statement"
    OPEN = "is open"
    COMMITTED = "has been committed: begin another one"
    ROLLED_BACK = "has been rolled back: begin another one"
    FAILED = "has ended with a failed commit: begin another one"


_BUSY: Final = (
    "another operation of this transaction is under way: a transaction serves one task or thread at a time; "
    "await one operation before the next, or begin a transaction for each"
)


class Lifecycle:
    """The state, and the turn to act: `with lifecycle:` around every operation of an open transaction."""

    __slots__ = ("_token", "state")

    def __init__(self) -> None:
        self._token: list[None] = [None]
        self.state = State.NEW

    def enter(self) -> None:
        """Take the turn, in whatever state. Raises InvalidArgument while somebody has it."""
        try:
            self._token.pop()
        except IndexError:
            raise InvalidArgument(_BUSY) from None

    def leave(self) -> None:
        """Give the turn back."""
        self._token.append(None)

    def __enter__(self) -> None:
        if self.state is not State.OPEN:
            raise InvalidArgument(f"the transaction {self.state.value}")
        self.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._token.append(None)
