"""What a snapshot says to a program that writes in it.

A snapshot has no writing methods, and type checkers know. A program without one gets more than Python's own words: an
error that says where writing is done. It is an AttributeError, too, so that `hasattr` answers as it should.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytikv.errors import InvalidArgument

__all__ = ["ReadOnly", "ReadOnlySnapshot"]

_WRITES: Final = frozenset(
    {
        "assert_exists",
        "assert_not_exists",
        "batch_delete",
        "batch_get_for_update",
        "batch_put",
        "commit",
        "delete",
        "exists_for_update",
        "get_for_update",
        "insert",
        "lock_keys",
        "put",
        "rollback",
        "savepoint",
    }
)


class ReadOnlySnapshot(InvalidArgument, AttributeError):
    """A method of transactions was asked for that a snapshot does not have."""

    code = "InvalidArgument"


class ReadOnly:
    """What snapshots derive from."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a checker must go on refusing what is not there

        def __getattr__(self, name: str) -> Any:
            if name in _WRITES:
                raise ReadOnlySnapshot(f"a snapshot is read only: {name} belongs to a transaction, db.begin()")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
