"""Locks of many transactions in one region, ended by one request at a time for all who meet them.

Such a request (ResolveLock with `txn_infos`) makes the store look through every lock of the region. A large write meets
leftover locks in many batches at once; were each to send its own, the store would look through the region as often.

So there are *rounds*: the first who comes opens one, whoever comes before it is sent joins it, and a round is sent when
the one before it is over and all tasks that were ready have had their turn. Each caller keeps its own time and gets its
own error (`client.flights`); a round whose sender is lost is sent again by another of it.

Safe for threads and tasks. Bound: two rounds a region, of as many transactions as their callers know to have ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from pytikv.client.flights import Flights
from pytikv.client.request_sender import Call
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture

__all__ = ["JointResolve", "SendResolve"]

SendResolve = Callable[[Any, kvrpcpb.ResolveLockRequest, Call], Awaitable[None]]


class _Round:
    """What one request will say: the commit_ts of transactions by their start_ts, 0: rolled back."""

    def __init__(self, before: _Round | None) -> None:
        self.ended: dict[int, int] = {}
        self.is_open = True
        self.before = before
        self.over: SharedFuture[None] = SharedFuture()


class JointResolve:
    """See the module's docstring. One for all views of one connect."""

    def __init__(self, rt: Runtime, flights: Flights, send: SendResolve) -> None:
        """`send` sends a request to a region; raises RegionStale or the TikvError that ends it."""
        self._rt = rt
        self._flights = flights
        self._send = send
        self._mutex = mutex()
        self._last: dict[Any, _Round] = {}

    async def resolve(self, region: Any, ended: Mapping[int, int], call: Call) -> None:
        """End all locks in `region` of transactions whose fate is known: commit_ts by start_ts, 0 for rolled back.

        Raises RegionStale, and the TikvError that ends the call.
        """
        with self._mutex:
            joined = self._last.get(region)
            if joined is None or not joined.is_open:
                joined = self._last[region] = _Round(joined)
            joined.ended.update(ended)
        await self._flights.run(joined, partial(self._run, region, joined, call), call.backoffer.deadline)

    async def _run(self, region: Any, own: _Round, call: Call) -> None:
        try:
            await self._rt.sleep(0)
            if own.before is not None:
                with contextlib.suppress(TimeoutError):  # sending says what that means
                    await self._rt.wait(own.before.over, call.backoffer.deadline)
                own.before = None
            with self._mutex:
                own.is_open = False
            infos = [kvrpcpb.TxnInfo(txn=start_ts, status=commit_ts) for start_ts, commit_ts in own.ended.items()]
            await self._send(region, kvrpcpb.ResolveLockRequest(txn_infos=infos), call)
        finally:
            own.over.set_result(None)
            with self._mutex:
                own.is_open = False
                if self._last.get(region) is own:
                    del self._last[region]
