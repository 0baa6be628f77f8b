"""The blocking and the asyncio client behind one interface, so that one suite tests both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytikv

__all__ = ["DRIVERS", "Asyncio", "Blocking"]


class Blocking:
    """A blocking client. `do` returns the answer of a call of a table, a transaction or the client."""

    def __init__(self, url: str, **options: Any) -> None:
        self.db: Any = pytikv.TransactionClient.connect(url, **options)

    def do(self, answer: Any) -> Any:
        return answer

    def begin(self, **options: Any) -> Any:
        return self.do(self.db.begin(**options))

    def rows(self, query: Any) -> list[Any]:
        return list(query)

    def close(self) -> None:
        self.db.close()


class Asyncio(Blocking):
    """An asyncio client in a loop of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self.db = self.do(pytikv.AsyncTransactionClient.connect(url, **options))

    def do(self, answer: Any) -> Any:
        return self._loop.run_until_complete(answer)

    def begin(self, **options: Any) -> Any:
        async def begin() -> Any:
            return await self.db.begin(**options)

        return self.do(begin())

    def rows(self, query: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [one async for one in query]

        return self.do(collect())

    def close(self) -> None:
        self.do(self.db.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


DRIVERS = {"blocking": Blocking, "asyncio": Asyncio}
