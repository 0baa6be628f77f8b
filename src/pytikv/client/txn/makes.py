"""What a transactional client makes: transactions, the tries of a loop, snapshots; these, or those that report.

`client.txn.observed` has the others, which take their place while a sink is installed.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, NamedTuple

from pytikv.client.txn.attempts import Attempts
from pytikv.client.txn.backend import TxnBackend
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction

__all__ = ["PLAIN", "AsyncAttempt", "Makes"]


class AsyncAttempt(AsyncTransaction):
    """One try: its end swallows what is to be tried again."""

    __slots__ = ("_attempts",)

    def __init__(self, backend: TxnBackend, options: TxnOptions, attempts: Attempts) -> None:
        super().__init__(backend, options)
        self._attempts = attempts

    async def __aexit__(  # type: ignore[override]  # a transaction by itself swallows nothing
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            await super().__aexit__(kind, error, traceback)
        except BaseException as failure:
            if error is None and self._attempts.commit_failed(failure, self.outcome, sys._getframe(1)):
                return True
            raise
        if error is not None:
            return self._attempts.failed(error, self.outcome)
        self._attempts.end()
        return False


class Makes(NamedTuple):
    """What a client makes: these, or those that report (`client.txn.observed`)."""

    transaction: type[AsyncTransaction]
    attempt: type[AsyncAttempt]
    snapshot: type[AsyncSnapshot]


PLAIN: Final = Makes(AsyncTransaction, AsyncAttempt, AsyncSnapshot)
