"""Runs of tables and patterns under faults: a whole server, clients that collide and die, clocks that jump.

`run(seed, work)` plays one. `work` is a `Work`: what is there at first, what each client does, what must hold at the
end. A client that dies comes back as another process; what it was about is counted as perhaps done by `Tally`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.codec import api
from pytikv.errors import CommitUndetermined, TikvError
from pytikv.model.tuples import encode
from pytikv.testing.sim import SimRuntime
from pytikv.testing.simulated import SimulatedRun
from pytikv.testing.txn_simulation import _LOCK_LIVES_S, TxnRunOptions, _TxnNemesis


class Tally:
    """What clients did, as far as they know: `done` for sure, `perhaps` if their answer was lost or they died."""

    def __init__(self) -> None:
        self.done = 0
        self.perhaps = 0
        self.failed = 0

    @contextlib.asynccontextmanager
    async def attempt(self, amount: int = 1) -> AsyncIterator[None]:
        """Count what is tried here; errors that say it was not done, or perhaps, end here."""
        self.perhaps += amount
        try:
            yield
        except CommitUndetermined:
            return
        except TikvError:
            self.perhaps -= amount
            self.failed += 1
            return
        self.perhaps -= amount
        self.done += amount

    def allows(self, total: int) -> bool:
        """Tell whether `total` can have come of it."""
        return self.done <= total <= self.done + self.perhaps


class Work:
    """What a run does."""

    operations = 12
    achieved = 0
    borders = tuple(encode((name,)) for name in ("log", "person", "versioned", "~counter", "~lease", "~sequence"))

    async def prepare(self, db: AsyncTransactionClient) -> None:
        """Make what is there at first."""

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        """Be one client."""

    async def finish(self, db: AsyncTransactionClient) -> None:
        """Look at the end, when all faults are over."""


class _Run(SimulatedRun):
    def __init__(self, seed: int, options: TxnRunOptions, work: Work) -> None:
        self.work = work
        super().__init__(seed, options)
        self.codec = api.v2(api.DEFAULT_KEYSPACE_ID, is_raw=False) if options.api_version == "2" else api.txn_v1()

    def make_nemesis(self) -> Any:
        return _TxnNemesis(self)

    async def prepare(self, here: SimRuntime) -> None:
        async with await self.connect(here, AsyncTransactionClient) as db:
            await self.work.prepare(db)

    async def client(self, rt: SimRuntime, number: int, rng: random.Random) -> None:
        db = await self.connect(rt, AsyncTransactionClient)
        await self.work.client(db, rt.name, rt, rng)
        with contextlib.suppress(TikvError):
            await db.close()

    async def finish(self, here: SimRuntime) -> None:
        async with await self.connect(here, AsyncTransactionClient) as db:
            patient = db.with_options(timeout=_LOCK_LIVES_S)
            lead_s = (await patient.current_timestamp()).physical_ms / 1000 - self.server.rt.time()
            await self.work.finish(patient.with_options(timeout=_LOCK_LIVES_S + max(0.0, lead_s)))

    def borders(self) -> list[bytes]:
        return [self.codec.region_key(self.codec.encode_key(key)) for key in self.work.borders]


def run(seed: int, work: Work, **fixed: Any) -> dict[str, int]:
    """Play one run; raises what went wrong. Returns which faults struck, how often."""
    options = TxnRunOptions.draw(seed, **{"client_deaths": 3, **fixed})
    played = _Run(seed, options, work)
    error = played.play()
    if error is not None:
        error.add_note(f"simulation seed {seed}: {options}")
        raise error
    return played.nemesis.faults
