"""Requests for many keys, divided by region and bytes, all under way at once: commit, rollback, locks.

`over_keys` is for steps whose parts do not depend on each other and which may be left half done: each part is sent
until it is answered, a part whose region has changed is divided anew, and a part that fails does not stop the others;
the first failure is raised when all have ended.

Never sent: a request without keys (a real store ends its process on one).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import TxnBackend
from pytikv.client.txn.plan import batches
from pytikv.errors import TikvError

__all__ = ["COMMITTER_CONCURRENCY", "over_keys"]

COMMITTER_CONCURRENCY: Final = 128

SendKeys = Callable[[Any, Sequence[bytes], Call], Awaitable[None]]


async def over_keys(
    backend: TxnBackend, keys: Sequence[bytes], call: Call, send: SendKeys, *, whole_regions: bool = False
) -> None:
    """Do `send(region, some keys, call)` for all keys (wire form, distinct). Raises the first failure at the end.

    `whole_regions`: once for each region, with all its keys (for what is done to the region and not to the keys).
    """
    errors: list[TikvError] = []

    async def one(region: Any, part: Sequence[bytes], own: Call) -> None:
        try:
            await send(region, part, own)
        except RegionStale:
            await divide(part, own)
        except TikvError as error:
            own.settle(error)
            errors.append(error)

    async def divide(some: Sequence[bytes], own: Call) -> None:
        try:
            groups = await backend.group(some, None, own)
        except TikvError as error:
            own.settle(error)
            errors.append(error)
            return
        if whole_regions:
            parts = [(region, group) for region, group in groups]
        else:
            parts = [(region, part) for region, group in groups for part in batches(group, len)]
        jobs = [partial(one, region, part, own.fork()) for region, part in parts]
        await run_bounded(backend.rt, jobs, COMMITTER_CONCURRENCY)

    if keys:
        await divide(keys, call)
    if errors:
        raise errors[0]
