"""What a batch writer has done, for raw pairs and for records of tables alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Generic, TypeVar

from pytikv.errors import Outcome, TikvError

__all__ = ["MAX_BYTES", "BatchResult", "unanswered"]

ItemT = TypeVar("ItemT", bound=Hashable)

MAX_BYTES = 1 << 20
"""Bytes of keys and values after which a batch writer sends what it has, where nothing else is said."""


@dataclasses.dataclass(slots=True)
class BatchResult(Generic[ItemT]):
    """The account of a batch writer. Items are keys; of tables, pairs of the table's name and the row's key.

    written: how many were written or deleted. unprocessed: those that the stores did not take, though they may later
    (the error is retryable). errors: the error of each item that was not done, the unprocessed ones included; its
    `outcome` says whether it may have been.
    """

    written: int = 0
    unprocessed: list[ItemT] = dataclasses.field(default_factory=list)
    errors: dict[ItemT, TikvError] = dataclasses.field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every item was done."""
        return not self.errors

    def note(self, item: ItemT, error: TikvError) -> None:
        """Take note of an item that was not done."""
        self.errors[item] = error
        if error.retryable:
            self.unprocessed.append(item)


def unanswered() -> TikvError:
    """Return the error of an item that was sent when the batch was ended from outside: nobody knows what became of it.

    It is retryable: writing it again does no harm.
    """
    text = "the batch was ended before an answer came: it may have been written; writing it again does no harm"
    return TikvError(text, outcome=Outcome.UNDETERMINED, retryable=True)
