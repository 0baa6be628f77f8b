"""Holds requests to their resource groups: an interceptor before every RPC, and the talk with PD behind it.

Before a request of a group is sent, its known cost is taken from the group's bucket; where that is empty, the request
waits for its tokens, at most to its deadline and `_MAX_WAIT_S`, and then fails with Overloaded: nothing was sent. What
the answer tells it has cost beyond that is taken afterwards, without a wait: who comes next waits longer.

Requests also carry what their store needs to treat groups fairly: the group's priority, and the consumption at other
stores since the last request to this one (`penalty`).

One background task at a time asks PD for all groups (`group.Group` decides when); it ends when all have been idle for
`_IDLE_S`, and begins again with the next request. PD that cannot be reached holds nobody up: groups that are known go
on at their own rate, and requests of one that is not known yet pass unlimited until PD tells. A group that does not
exist is a ConfigError.

Safe for many threads: groups are touched under one lock, never while waiting. At most `_MAX_GROUPS` are kept.

Source: pd client/resource_group/controller/global_controller.go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from pytikv.client.pd_stream import LeaderSource, PdStream
from pytikv.client.pool import ConnectionPool
from pytikv.client.resource_control.costs import Consumption, Costs, read_of_answer, write_bytes
from pytikv.client.resource_control.group import Group
from pytikv.codec.hot_raw import context_field, varint
from pytikv.errors import ConfigError, ConnectionFailed, Overloaded, TikvError
from pytikv.interceptors import Proceed, RpcInfo
from pytikv.observe.telemetry import current_record
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture
from pytikv.wire.errors import RpcError, Status

__all__ = ["ResourceControl"]

_SERVICE: Final = b"/resource_manager.ResourceManager/"
_MAX_WAIT_S: Final = 30.0
_PATIENCE_S: Final = 1.0
_CLOCK_S: Final = 1.0
_IDLE_S: Final = 20.0
_PD_TIMEOUT_S: Final = 3.0
_UNKNOWN_S: Final = 1.0
_MAX_GROUPS: Final = 1024
_CONTROL: Final = b"\xe2\x01"  # Context.resource_control_context, field 28

logger: Final = logging.getLogger("pytikv")


class _Source(LeaderSource, Protocol):
    """What is needed of `PdClient`: who leads."""


class ResourceControl:
    """An `Interceptor`; see the module's docstring. `close` ends its talk with PD."""

    def __init__(
        self,
        rt: Runtime,
        pool: ConnectionPool,
        source: _Source,
        replicas_of: Callable[[int], int] = lambda region_id: 1,
        costs: Costs | None = None,
    ) -> None:
        self._rt = rt
        self._pool = pool
        self._source = source
        self._replicas_of = replicas_of
        self._costs = costs or Costs()
        self._stream = PdStream(rt, pool, source, _SERVICE + b"AcquireTokenBuckets")
        self._lock = mutex()
        self._groups: dict[str, Group] = {}
        self._unknown_until: dict[str, float] = {}
        self._at_stores: dict[tuple[str, str], Consumption] = {}
        self._granted: SharedFuture[None] = SharedFuture()
        self._poked: SharedFuture[None] = SharedFuture()
        self._used_at = 0.0
        self._is_talking = False
        self._is_closed = False

    def close(self) -> None:
        """End the talk with PD. Requests go on unlimited."""
        self._is_closed = True
        self._poked.set_result(None)
        self._stream.close()

    # --- a request ----------------------------------------------------------------------------------------------------

    async def __call__(self, rpc: RpcInfo, proceed: Proceed) -> bytes:
        """Hold a request to its group; see the module's docstring."""
        head, context, body = _split(rpc.request)
        name = kvrpcpb.Context.FromString(context).resource_control_context.resource_group_name if head else ""
        group = await self._group(name, rpc.deadline) if name and not self._is_closed else None
        if group is None:
            return await proceed(rpc)
        written = write_bytes(rpc.name, rpc.request) if rpc.is_write else None
        cost = self._costs.before(written, self._replicas_of(rpc.region_id))
        await self._admit(name, group, cost, rpc)
        answer = await proceed(rpc.with_request(self._mark(name, group, rpc.address, context, body)))
        read, cpu_ms = read_of_answer(rpc.name, answer)
        beyond = self._costs.after(read, cpu_ms, is_write=rpc.is_write)
        with self._lock:
            group.bucket.spend(self._rt.now(), beyond.total)
            group.consumed.add(beyond)
            cost.add(beyond)
            if name in self._groups:
                self._note_at_store(name, rpc.address, cost)
        return answer

    async def _admit(self, name: str, group: Group, cost: Consumption, rpc: RpcInfo) -> None:
        """Take a request's cost, waiting for it at need. Raises Overloaded."""
        rt = self._rt
        began = rt.now()
        patience = min(began + _PATIENCE_S, rpc.deadline)
        while True:
            now = rt.now()
            with self._lock:
                wait_s = group.bucket.reserve(now, cost.total, min(_MAX_WAIT_S, rpc.deadline - now))
                if wait_s is not None:
                    group.consumed.add(cost)
                granted = self._granted
                wants_to_ask = group.wants_to_ask(now)
            self._used_at = now
            if wants_to_ask or not self._is_talking:
                self._talk()
            if wait_s is not None:
                break
            try:
                await rt.wait(granted, patience)
            except TimeoutError:
                raise Overloaded(
                    f"resource group {name!r} has used up its request units; {rpc.name} was not sent. Raise the "
                    "group's fill rate, or slow down"
                ) from None
        if wait_s:
            await rt.sleep(wait_s)
        record = current_record()
        if record is not None and rt.now() > began:
            record.step("queue", "resource_group", began, rt.now(), detail=name)

    def _mark(self, name: str, group: Group, address: str, context: bytes, body: bytes) -> bytes:
        """Return the request with the group's priority and the penalty for its store in its context."""
        with self._lock:
            elsewhere = self._at_stores.pop((name, address), None)
        control = kvrpcpb.ResourceControlContext(override_priority=group.meta.priority)
        if elsewhere is not None:
            control.penalty.CopyFrom(elsewhere.message())
        data = control.SerializeToString()
        return (
            context_field(context + _CONTROL + varint(len(data)) + data) + body
            if data
            else context_field(context) + body
        )

    def _note_at_store(self, name: str, address: str, cost: Consumption) -> None:
        """Remember a consumption for the next request to each *other* store that the group has used."""
        self._at_stores.setdefault((name, address), Consumption())
        for (group_name, other), penalty in self._at_stores.items():
            if group_name == name and other != address:
                penalty.add(cost)

    # --- groups -------------------------------------------------------------------------------------------------------

    async def _group(self, name: str, deadline: float) -> Group | None:
        """Return a group, asking PD for it where it is new; None while PD cannot be asked."""
        group = self._groups.get(name)
        if group is not None:
            return group
        now = self._rt.now()
        if now < self._unknown_until.get(name, 0.0):
            return None
        try:
            meta = await self._load(name, min(deadline, now + _PD_TIMEOUT_S))
        except (RpcError, ConnectionFailed, Overloaded) as error:
            if isinstance(error, RpcError) and error.status in (Status.UNKNOWN, Status.UNIMPLEMENTED):
                raise _unusable(name, error.details) from error
            logger.warning("resource group %r is not known, its requests pass unlimited: %s", name, error)
            if len(self._unknown_until) >= _MAX_GROUPS:
                self._unknown_until.clear()
            self._unknown_until[name] = now + _UNKNOWN_S
            return None
        with self._lock:
            if len(self._groups) >= _MAX_GROUPS:
                self._forget(next(iter(self._groups)))
            return self._groups.setdefault(name, Group(meta, self._rt.now()))

    def _forget(self, name: str) -> None:
        """Drop a group and what is kept of it for each store."""
        del self._groups[name]
        for key in [key for key in self._at_stores if key[0] == name]:
            del self._at_stores[key]

    async def _load(self, name: str, deadline: float) -> rmpb.ResourceGroup:
        leader = await self._source.leader(deadline)
        channel = await self._pool.channel(leader, deadline)
        request = rmpb.GetResourceGroupRequest(resource_group_name=name).SerializeToString()
        data = await channel.unary(_SERVICE + b"GetResourceGroup", request, deadline=deadline)
        answer = rmpb.GetResourceGroupResponse.FromString(data)
        if answer.HasField("error") or not answer.HasField("group"):
            raise _unusable(name, answer.error.message or "PD does not know it")
        if answer.group.mode != rmpb.RUMode:
            raise ConfigError(
                f"resource group {name!r} is not counted in request units, which is all that clients can do"
            )
        return answer.group

    # --- the talk with PD ---------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Have PD asked now."""
        self._poked.set_result(None)
        with self._lock:
            if self._is_talking or self._is_closed:
                return
            self._is_talking = True
        self._rt.spawn(self._keep_talking(), name="resource groups")

    async def _keep_talking(self) -> None:
        rt = self._rt
        try:
            while not self._is_closed and rt.now() < self._used_at + _IDLE_S:
                poked = self._poked = SharedFuture()
                await self._ask()
                try:
                    await rt.wait(poked, rt.now() + _CLOCK_S)
                except TimeoutError:
                    continue
        finally:
            self._is_talking = False

    async def _ask(self) -> None:
        """Ask PD for all groups that want to be asked for, in one request."""
        now = self._rt.now()
        with self._lock:
            asked = {name: group for name, group in self._groups.items() if group.wants_to_ask(now)}
            request = rmpb.TokenBucketsRequest(
                requests=[group.ask(now) for group in asked.values()],
                target_request_period_ms=5000,
                client_unique_id=id(self) & 0xFFFFFFFF,
            )
        if not asked:
            return
        answers: dict[str, rmpb.TokenBucketResponse] = {}
        try:
            data = await self._stream.exchange(request.SerializeToString(), now + _PD_TIMEOUT_S)
            answers = {one.resource_group_name: one for one in rmpb.TokenBucketsResponse.FromString(data).responses}
        except (RpcError, TikvError, DecodeError) as error:
            logger.warning("PD grants no tokens to resource groups, they go on at their own rate: %s", error)
        finally:
            self._take(asked, answers)

    def _take(self, asked: dict[str, Group], answers: dict[str, rmpb.TokenBucketResponse]) -> None:
        now = self._rt.now()
        with self._lock:
            for name, group in asked.items():
                if name in answers:
                    group.grant(answers[name], now)
                else:
                    group.unanswered(now)
            granted, self._granted = self._granted, SharedFuture()
        granted.set_result(None)


def _unusable(name: str, why: str) -> ConfigError:
    return ConfigError(f"resource group {name!r}: {why}; create it, or name another by the option resource_group")


def _split(request: bytes) -> tuple[bool, bytes, bytes]:
    """Split a request into its context, which comes first, and the rest. False: it has none."""
    if not request or request[0] != 0x0A:
        return False, b"", request
    size = shift = 0
    at = 1
    while True:
        byte = request[at]
        size |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return True, request[at : at + size], request[at + size :]
