"""Timestamps from PD: one stream, one request at a time, as many timestamps in it as callers wait.

Whoever asks first becomes the holder of the stream and asks for all who came meanwhile; the others wait for their part
(`rt.shared.Combiner`). So 64 threads or tasks cost a few requests, and one alone has no detour. A request asks for at
most 10000 timestamps. PD answers with the *last* one of the block: the i-th of `count` (from 0) has the logical part
`last - count + 1 + i`, in steps of `1 << suffix_bits` where PD says so.

Order is the promise: every timestamp is greater than any that this client got before, across streams and leaders. An
answer that is not (a PD whose clock or storage went back) is refused with ServerError and never used, and so is one
with a wrong count or a block that begins below zero. Nothing is retried then: the oracle is broken.

Other trouble (a leader lost, a stream cut, PD without a leader) is retried until the caller's deadline.

Times are given and kept as the cluster's, never the local clock's; the one local time here tells how old the cached
low-resolution timestamp is.

Sources: pd client/clients/tso; client-go oracle/oracles/pd.go.
"""

from __future__ import annotations

import copy
from typing import Final, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from pytikv.client import backoff
from pytikv.client.backoff import Backoffer, RetryRules
from pytikv.client.pd_status import check_header, fatal_status
from pytikv.client.pd_stream import LeaderSource, PdStream
from pytikv.client.pool import ConnectionPool
from pytikv.client.resilience.guard import Guards, Refused
from pytikv.errors import (
    CircuitOpen,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    ServerError,
    TikvError,
)
from pytikv.observe.telemetry import as_step
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.rt.shared import Combiner
from pytikv.types import MAX_TIMESTAMP, Timestamp
from pytikv.wire.errors import RpcError

__all__ = ["MAX_BATCH", "TsoClient"]

MAX_BATCH: Final = 10_000
TSO_PATH: Final = b"/pdpb.PD/Tso"
_LAST_S: Final = 0.01
_MAX_INT64: Final = (1 << 63) - 1


class PdSource(LeaderSource, Protocol):
    """What is needed of `PdClient`."""

    @property
    def header(self) -> pdpb.RequestHeader: ...
    def check_cluster(self, address: str, header: pdpb.ResponseHeader) -> None: ...


class _Want(NamedTuple):
    """One caller's wish."""

    amount: int
    deadline: float


class _Block(NamedTuple):
    """Timestamps handed out together: `first`, and from one to the next `step`."""

    first: Timestamp
    step: int


class TsoClient:
    """The timestamp oracle of one cluster. Safe for many threads and tasks."""

    def __init__(
        self,
        rt: Runtime,
        pool: ConnectionPool,
        source: PdSource,
        *,
        timeout_s: float = 3.0,
        rules: RetryRules | None = None,
        guards: Guards | None = None,
    ) -> None:
        self._rt = rt
        self._rules = rules
        self._source = source
        self._timeout_s = timeout_s
        self._stream = PdStream(rt, pool, source, TSO_PATH, guards)
        self._combiner: Combiner[_Want, _Block] = Combiner(rt, self._flush, max_batch=MAX_BATCH, keeps_time=True)
        self._last = Timestamp(0)
        self._low = (Timestamp(0), float("-inf"))
        self._request = (0, b"")  # for one timestamp, and the cluster it names: the usual question

    async def get(self, deadline: float) -> Timestamp:
        """Return a new timestamp, greater than all before.

        Raises ConnectionFailed when PD cannot be reached by `deadline`, ServerError when its answer breaks the order.
        """
        return (await as_step(self._rt.now, "tso", "wait", self._submit(1, deadline))).first

    async def get_many(self, count: int, deadline: float) -> list[Timestamp]:
        """Return `count` new timestamps (1 to 10000), ascending. Errors as `get`; InvalidArgument for the count."""
        if not 1 <= count <= MAX_BATCH:
            raise InvalidArgument(f"1 to {MAX_BATCH} timestamps can be had at once, not {count}")
        block = await as_step(self._rt.now, "tso", "wait", self._submit(count, deadline))
        return [Timestamp(block.first + i * block.step) for i in range(count)]

    async def low_resolution(self, max_age: float, deadline: float) -> Timestamp:
        """Return a timestamp that was new at most `max_age` seconds ago, from memory where possible."""
        timestamp, at = self._low
        if self._rt.now() - at <= max_age:
            return timestamp
        return await self.get(deadline)

    async def validate_read_ts(self, read_ts: int, deadline: float) -> None:
        """Raise InvalidArgument when `read_ts` lies in the future: reading there could see different data each time.

        The greatest number of 64 bits means "the latest" and is valid.
        """
        if read_ts == MAX_TIMESTAMP or 0 <= read_ts <= self._low[0]:
            return
        if not 0 <= read_ts <= _MAX_INT64:
            raise InvalidArgument(f"{read_ts} is no timestamp")
        current = await self.get(deadline)
        if read_ts > current:
            raise InvalidArgument(f"the read timestamp {read_ts} lies in the future: the cluster is at {int(current)}")

    def close(self) -> None:
        """End the stream. Idempotent."""
        self._stream.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _submit(self, count: int, deadline: float) -> _Block:
        backoffer: Backoffer | None = None
        while True:
            try:
                return await self._combiner.submit(_Want(count, deadline), deadline)
            except Refused as error:
                if backoffer is not None:  # another leader was looked for, and there is none
                    raise copy.copy(error.error) from error
                cause: Exception = error
            except RpcError as error:
                fatal = fatal_status(error, "Tso", "PD")
                if fatal is not None:
                    raise fatal from error
                cause = error
            except CircuitOpen as error:  # no member may be asked who leads
                raise copy.copy(error) from error
            except (ConnectionFailed, Overloaded, DeadlineExceeded) as error:
                if deadline - self._rt.now() <= _LAST_S:
                    raise copy.copy(error) from error  # it is shared with the others who waited
                cause = error
            except TikvError as error:
                raise copy.copy(error) from error
            except TimeoutError:
                raise (backoffer or self._backoffer(deadline)).exhausted("PD gave no timestamp in time") from None
            is_first, backoffer = backoffer is None, backoffer or self._backoffer(deadline)
            if is_first and self._rt.now() < deadline:
                backoffer.note(cause)  # a new leader is often there already
            else:
                await backoffer.backoff(backoff.PD_RPC, cause)

    def _backoffer(self, deadline: float) -> Backoffer:
        return Backoffer(self._rt, deadline, self._rules)

    async def _flush(self, wants: list[_Want]) -> list[_Block]:
        """Serve all of `wants`, in one request where they fit. The first is the holder's own."""
        now = self._rt.now()
        # A little before the holder's time is up, so that the reasons are heard and not only that it is up.
        until = min(now + self._timeout_s, wants[0].deadline - min(_LAST_S, (wants[0].deadline - now) / 10))
        if len(wants) == 1:
            return [await self._ask(wants[0].amount, until)]
        blocks: list[_Block] = []
        at = 0
        while at < len(wants):
            total, end = 0, at
            while end < len(wants) and total + wants[end].amount <= MAX_BATCH:
                total += wants[end].amount
                end += 1
            first, step = await self._ask(total, until)
            for want in wants[at:end]:
                blocks.append(_Block(first, step))
                first = Timestamp(first + want.amount * step)
            at = end
        return blocks

    async def _ask(self, count: int, deadline: float) -> _Block:
        """Ask for a block of timestamps."""
        exchange = self._stream.exchange(self._encode(count), deadline)
        data = await as_step(self._rt.now, "tso", "request", exchange, detail=count)
        try:
            response = pdpb.TsoResponse.FromString(data)
        except DecodeError:
            raise ServerError("PD's answer is no TsoResponse") from None
        self._source.check_cluster("the leader", response.header)
        check_header(response.header, "Tso")
        return self._take_block(response, count)

    def _encode(self, count: int) -> bytes:
        header = self._source.header
        cluster_id, request = self._request
        if count == 1 and request and cluster_id == header.cluster_id:
            return request
        request = pdpb.TsoRequest(header=header, count=count).SerializeToString()
        if count == 1:
            self._request = (header.cluster_id, request)
        return request

    def _take_block(self, response: pdpb.TsoResponse, count: int) -> _Block:
        """Check a block against what was asked and what came before. Only the stream's holder comes here."""
        if response.count != count:
            raise ServerError(f"PD was asked for {count} timestamps and answered with {response.count}")
        stamp = response.timestamp
        step = 1 << stamp.suffix_bits
        first_logical = stamp.logical - (count - 1) * step
        if stamp.physical <= 0 or first_logical < 0:
            raise ServerError("PD answered with a timestamp that is none")
        last = Timestamp.compose(stamp.physical, stamp.logical)
        first = last if count == 1 else Timestamp.compose(stamp.physical, first_logical)
        if first <= self._last:
            text = f"{int(first)} after {int(self._last)}"
            raise ServerError(f"PD's timestamps went back ({text}): its clock or its storage was set back; not used")
        self._last = last
        self._low = (last, self._rt.now())
        return _Block(first, step)
