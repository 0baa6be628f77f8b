"""One request to one region, until it is answered or the call must end: the loop that everything goes through.

    choose a replica -> channel -> send -> region error? -> verdict -> wait -> mend the caches -> again

Nothing is chosen as long as nothing is amiss: what only the leader may serve goes there at once, if its store is in
good standing, and the loop begins with what came of it.

The sender decides nothing about replicas (`replica_selector`), region errors (`region_errors`), statuses (`rpc_errors`)
or waits (`backoff`); it carries their decisions out and keeps account of what became of the write:

* A request that never left, or that the peer proved not to have processed, is sent again freely.
* A read whose answer was lost is sent again.
* A write whose answer was lost is sent again only if it may be repeated (`Kind.PUT`) and the client allows it
  (`retry_lost_writes`); from then on it carries `is_retry_request`, and whatever error ends the call says UNDETERMINED,
  also when later tries were refused: the lost one may have taken effect.
* A request of a transaction whose answer was lost is sent again until it is answered: the store knows it again by
  its start_ts. It carries `is_retry_request` from then on; an answer settles the doubt, and an error that ends the
  call before one came says UNDETERMINED.
* A compare-and-swap is never sent twice after its answer was lost.

* What the client's own guards refuse (an open breaker, a full queue) was not sent. Another replica is asked where one
  may serve; else the call ends with that at once.
* A read may be hedged (`hedge_after_ms`): another replica is asked too when the first one takes long.

`send` raises `RegionStale` when the keys must be located again; the wait that this takes has been slept by then. Only
callers know how to group keys anew.

Bounds: attempts by `MAX_ATTEMPTS` a replica and the call's deadline; each RPC by `rpc_timeout`; steps that are taken
without a wait (another leader, new regions) by `_QUICK_STEPS` a call, after which each waits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from pytikv.ambient import current_context
from pytikv.call_context import CallContext
from pytikv.client import backoff
from pytikv.client.backoff import Backoffer, RetryRules
from pytikv.client.contexts import NO_EXTRA, ContextMaker, Extra, ReadAs
from pytikv.client.region_cache import CachedRegion, RegionCache, Route
from pytikv.client.region_errors import Action, Verdict, classify
from pytikv.client.replica_selector import Choice, Health, ReplicaSelector, StoreView, is_tiflash
from pytikv.client.resilience.guard import Guards, Refused
from pytikv.client.resilience.hedging import Hedger, race
from pytikv.client.rpc_errors import fatal_error, is_transient
from pytikv.client.rpcs import REGION_ERROR, Kind, Rpc
from pytikv.client.store_cache import CachedStore, StoreCache
from pytikv.config import ClientConfig, ReplicaRead
from pytikv.errors import CircuitOpen, ConnectionFailed, DeadlineExceeded, Outcome, TikvError
from pytikv.observe.telemetry import current_record
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.rt.interface import Runtime
from pytikv.types import Peer, Region
from pytikv.wire.channel import Metadata
from pytikv.wire.errors import ConnectFailed, RpcError, Status

__all__ = ["Call", "Channel", "ChannelSource", "RegionStale", "RequestSender"]

_QUICK_STEPS: Final = 3
_BUSY_AVOIDED_S: Final = 2.0
_LATE_AVOIDED_S: Final = 2.0
_MISMATCH: Final = ("tls", "protocol")

Met = bytes | RpcError | ConnectionFailed
"""What came of asking a replica: the answer's bytes, or why there are none."""


class Channel(Protocol):
    """What is used of `wire.channel.ClientChannel`."""

    def unary(
        self, path: bytes, request: bytes, *, deadline: float, metadata: Metadata = ()
    ) -> Coroutine[Any, Any, bytes]:
        """Call a method by itself."""
        ...

    def batch(self, slot: int, request: bytes, deadline: float, /) -> Coroutine[Any, Any, bytes]:
        """Send one command over the BatchCommands stream."""
        ...


class ChannelSource(Protocol):
    """What is used of `ConnectionPool`."""

    async def channel(self, address: str, deadline: float) -> Channel:
        """Return a channel to `address`; it is the caller's until the end of the present call."""
        ...

    def forget(self, address: str) -> None:
        """Close the connections to an address."""

    async def open_apart(self, address: str, deadline: float) -> Channel:
        """Open a connection that is no one else's."""
        ...

    def close_apart(self, channel: Any, /) -> None:
        """End a connection made by `open_apart`."""


class RegionStale(Exception):
    """The region is not what it was: locate the keys again. Internal; the wait has been slept."""


@dataclasses.dataclass(slots=True)
class Call:
    """The account of one request on its way: its waits, and whether an answer was lost."""

    backoffer: Backoffer
    lost: str | None = None
    """How the answer to a write was lost; None as long as none was."""
    quick_steps: int = 0
    context: CallContext | None = None
    """On whose behalf it is made; None where nobody said."""

    @property
    def metadata(self) -> Metadata:
        """What goes with requests that have a stream of their own."""
        return () if self.context is None else self.context.metadata

    @property
    def goes_alone(self) -> bool:
        """Whether its requests may not share a stream with others'."""
        return self.context is not None and self.context.user_token is not None

    def fork(self) -> Call:
        """Return the account for one parallel part of the call. What was lost before may lie in any part."""
        return Call(self.backoffer.fork(), self.lost, context=self.context)

    def settle(self, error: TikvError) -> None:
        """Say in `error`, which ends the call, that a lost write may have taken effect."""
        if self.lost is not None and error.outcome is Outcome.NOT_APPLIED:
            error.outcome = Outcome.UNDETERMINED


class RequestSender:
    """Sends the requests of one set of options. Cheap to make; what it learns goes to the caches that clients share."""

    def __init__(
        self,
        rt: Runtime,
        config: ClientConfig,
        contexts: ContextMaker,
        pool: ChannelSource,
        regions: RegionCache,
        stores: StoreCache,
        guards: Guards | None = None,
    ) -> None:
        self._rt = rt
        self._guards = guards
        self._rules = RetryRules.of(config.retry, guards.budget if guards is not None else None)
        after = config.hedge_after_ms
        self._hedger = Hedger(after, config.hedge_ratio) if after is not None else None
        # Who wants reads hedged wants another replica to serve them where the leader does not.
        is_hedged = after is not None and config.replica_read == "leader"
        self._usual_policy: ReplicaRead = "prefer_leader" if is_hedged else config.replica_read
        self._config = config
        self._contexts = contexts
        self._rpc_timeout_s = config.rpc_timeout
        self._pool = pool
        self._regions = regions
        self._stores = stores

    def use_pool(self, pool: ChannelSource) -> None:
        """Ask for channels at `pool` from now on."""
        self._pool = pool

    def call(self, deadline: float) -> Call:
        """Open the account of a call that ends at `deadline`."""
        return Call(Backoffer(self._rt, deadline, self._rules), context=current_context())

    async def send(self, rpc: Rpc, region: CachedRegion, body: bytes, call: Call, extra: Extra = NO_EXTRA) -> bytes:
        """Send a request, given without its context, to `region`. Returns the answer's bytes, free of region errors.

        Raises RegionStale, or the TikvError that ends the call.
        """
        leader = region.leader
        met: Met | None = None
        # The ordinary case needs no choice: the leader is asked, and answers. What else it does is digested below.
        is_ordinary = call.lost is None and leader.store.is_sound(self._rt.now()) and self._is_for_leader(rpc, extra)
        try:
            if is_ordinary:
                met = await self._exchange(rpc, region, leader, ReadAs.LEADER, body, call, extra)
                if type(met) is bytes and (not met or met[0] != REGION_ERROR):
                    return met
            selector = self._selector(rpc, region, extra)
            while True:
                choice = selector.next() if met is None else selector.asked(leader.peer)
                if choice is None:
                    raise await self._relocation(region, call, "no replica is left to ask")
                data = await self._try(rpc, region, choice, body, selector, call, extra, met)
                if data is not None:
                    if rpc.kind is Kind.TXN:
                        call.lost = None
                    return data
                met = None
        except TikvError as error:
            call.settle(error)
            raise

    async def take(self, rpc: Rpc, region: CachedRegion, peer: Peer, data: bytes, call: Call) -> None:
        """Digest a region error that was met outside of `send`, on a fast path, before the call goes on with `send`.

        Raises the TikvError that ends the call; RegionStale is swallowed, since the caller locates the key anyway.
        """
        try:
            await self._on_region_error(rpc, region, peer, data, self._selector(rpc, region), call)
        except RegionStale:
            pass
        except TikvError as error:
            call.settle(error)
            raise

    async def take_failure(self, rpc: Rpc, peer: Peer, error: RpcError, call: Call) -> None:
        """As `take`, for an RPC that failed on a fast path."""
        if isinstance(error, Refused):
            if isinstance(error.error, CircuitOpen):
                return  # another replica may serve; `send` finds out
            raise error.error
        store = self._stores.entry(peer.store_id)
        try:
            await self._on_rpc_error(rpc, error, store, call, quick=True)
        except TikvError as ending:
            call.settle(ending)
            raise

    # --- one try ------------------------------------------------------------------------------------------------------

    async def _try(
        self,
        rpc: Rpc,
        region: CachedRegion,
        choice: Choice,
        body: bytes,
        selector: ReplicaSelector,
        call: Call,
        extra: Extra,
        met: Met | None,
    ) -> bytes | None:
        """Ask one replica, or digest what came of asking it. None: not answered; what was learnt is noted, slept on."""
        if met is None:
            if self._hedger is not None and not self._is_for_leader(rpc, extra):
                met, choice = await self._ask_twice(self._hedger, rpc, region, choice, body, selector, call, extra)
            else:
                met = await self._ask(rpc, region, choice, body, selector, call, extra)
        peer = choice.peer
        store = self._stores.entry(peer.store_id)
        if met is None:
            selector.on_refused(peer)
        elif isinstance(met, Refused):
            self._on_refused(rpc, region, met, selector, peer, call, extra)
        elif isinstance(met, ConnectionFailed):  # nothing was sent
            await self._on_unreachable(store, met, selector, peer, call)
        elif isinstance(met, RpcError):
            if await self._on_rpc_error(rpc, met, store, call, quick=selector.attempts(peer) == 1):
                self._pass_over(selector, peer)
        else:
            self._stores.mark_alive(store.id)
            if not met or met[0] != REGION_ERROR:
                return met
            await self._on_region_error(rpc, region, peer, met, selector, call)
        return None

    async def _ask(
        self,
        rpc: Rpc,
        region: CachedRegion,
        choice: Choice,
        body: bytes,
        selector: ReplicaSelector,
        call: Call,
        extra: Extra,
        *,
        is_apart: bool = False,
    ) -> Met | None:
        """Ask one replica, once; None where it turns out that it cannot be asked."""
        route = region.route_to(choice.peer.store_id)
        store = await self._usable_store(choice, selector, call)
        if route is None or store is None:
            return None
        return await self._exchange(rpc, region, route, _read_as(choice), body, call, extra, is_apart=is_apart)

    async def _ask_twice(
        self,
        hedger: Hedger,
        rpc: Rpc,
        region: CachedRegion,
        choice: Choice,
        body: bytes,
        selector: ReplicaSelector,
        call: Call,
        extra: Extra,
    ) -> tuple[Met | None, Choice]:
        """Ask a replica for a read, and another one too when it takes long; returns what came of whom."""
        address = self._stores.entry(choice.peer.store_id).address
        began = self._rt.now()
        first = self._ask(rpc, region, choice, body, selector, call, extra)
        delay_s = hedger.begin(address, rpc.name)
        hedge_began, is_hedged, other = 0.0, False, choice

        def second() -> Coroutine[Any, Any, Met | None] | None:
            nonlocal hedge_began, is_hedged, other
            if hedger.on_late(address):  # not now and then, but one after the other: others are asked first for a while
                self._stores.mark_slow(choice.peer.store_id, self._rt.now(), _LATE_AVOIDED_S)
            if not hedger.withdraw():
                return None
            hedge_began, is_hedged = self._rt.now(), True
            other = selector.other(choice.peer) or choice
            # A replica that is alone is asked once more over a connection of its own: the trouble may lie there.
            return self._ask(rpc, region, other, body, selector, call, extra, is_apart=other is choice)

        if delay_s is None:
            met, is_second = await first, False
        else:
            met, is_second = await race(self._rt, first, second, delay_s, _is_answer)
        now = self._rt.now()
        hedger.note(address, rpc.name, now - began, delay_s)
        record = current_record()
        if record is not None and is_hedged:
            store = self._stores.entry(other.peer.store_id)
            record.step("hedge", "won" if is_second else "lost", hedge_began, now, "ok", store.address)
        return met, other if is_second else choice

    async def _exchange(
        self,
        rpc: Rpc,
        region: CachedRegion,
        route: Route,
        read_as: ReadAs,
        body: bytes,
        call: Call,
        extra: Extra,
        *,
        is_apart: bool = False,
    ) -> Met:
        """Send the request to one replica, once; returns what came of it. `is_apart`: over a connection of its own."""
        now = self._rt.now()
        deadline = min(call.backoffer.deadline, now + self._rpc_timeout_s)
        if deadline <= now:
            raise call.backoffer.exhausted()
        is_retry = call.lost is not None
        context = self._contexts.make(
            region.meta, route, deadline - now, read_as=read_as, is_retry=is_retry, extra=extra, whose=call.context
        )
        request = context + body
        try:
            if is_apart:
                return await self._send_apart(rpc, route.store.address, request, deadline, call)
            channel = await self._pool.channel(route.store.address, deadline)
            if rpc.slot is not None and not call.goes_alone:
                return await channel.batch(rpc.slot, request, deadline)
            return await channel.unary(rpc.path, request, deadline=deadline, metadata=call.metadata)
        except (RpcError, ConnectionFailed) as error:
            return error

    async def _send_apart(self, rpc: Rpc, address: str, request: bytes, deadline: float, call: Call) -> bytes:
        channel = await self._pool.open_apart(address, deadline)
        try:
            return await channel.unary(rpc.path, request, deadline=deadline, metadata=call.metadata)
        finally:
            self._pool.close_apart(channel)

    def _is_for_leader(self, rpc: Rpc, extra: Extra) -> bool:
        """Tell whether only the leader may serve a request."""
        if rpc.kind is not Kind.READ or rpc.only_leader:
            return True
        policy = extra.replica_read or self._usual_policy
        return policy == "leader" and not extra.is_stale_read

    def _selector(self, rpc: Rpc, region: CachedRegion, extra: Extra = NO_EXTRA) -> ReplicaSelector:
        leader = region.leader.peer
        if self._is_for_leader(rpc, extra):
            return ReplicaSelector(region.meta, leader, self._view)
        policy = extra.replica_read or self._usual_policy
        is_stale_read = extra.is_stale_read
        if policy == "leader":
            policy = "mixed"  # the option of the client; whoever asks for a stale read asks for any replica
        return ReplicaSelector(
            region.meta,
            leader,
            self._view,
            policy=policy,
            labels=self._config.match_labels,
            rotation=self._rt.rng.randrange(1 << 16),
            is_stale_read=is_stale_read,
        )

    def _view(self, store_id: int) -> StoreView:
        store = self._stores.entry(store_id)
        now = self._rt.now()
        if store.is_tombstone:
            return StoreView(Health.GONE)
        is_refusing = self._guards is not None and self._guards.is_refusing(store.address, now)
        if now < store.avoid_until or is_refusing:
            return StoreView(Health.UNREACHABLE, store.labels)
        return StoreView(Health.SLOW if now < store.slow_until else Health.GOOD, store.labels)

    async def _usable_store(self, choice: Choice, selector: ReplicaSelector, call: Call) -> CachedStore | None:
        """Return the store with its address; None when it is gone, or found dead while others could serve."""
        deadline = call.backoffer.deadline
        store = await self._stores.resolve(choice.peer.store_id, deadline)
        # A store met for the first time was chosen before its labels were known.
        if not store.address or is_tiflash(store.labels):
            return None
        is_suspect = store.needs_probe(self._rt.now()) and selector.attempts(choice.peer) == 1
        # A suspect store costs one health check instead of a request that hangs. Alone in its region, it is just asked;
        # where a breaker is open, that lets through few requests and refuses the others sooner than a check would.
        if is_suspect and self._guards is not None and self._guards.is_probing(store.address):
            return store
        if is_suspect and len(selector.region.peers) > 1 and not await self._stores.probe(store.id, deadline):
            call.backoffer.note(f"store {store.id} at {store.address} does not answer")
            return None
        return store

    # --- failures -----------------------------------------------------------------------------------------------------

    async def _on_rpc_error(self, rpc: Rpc, error: RpcError, store: CachedStore, call: Call, *, quick: bool) -> bool:
        """Account for a failed RPC and wait. True when the store itself seems to be in trouble.

        `quick`: the first failure here. A connection that died is the usual cause, not a store: where nothing was
        processed it costs no wait, and the store is not avoided for it unless it kept silent for the whole time.
        """
        cause = f"{rpc.name} at {store.address}: {error}"
        if not is_transient(error):
            raise fatal_error(error, rpc.name, store.address)
        is_timeout = error.status == Status.DEADLINE_EXCEEDED
        self._account_for_loss(rpc, cause, error.not_processed, call, is_timeout=is_timeout)
        if self._rt.now() >= call.backoffer.deadline:
            raise call.backoffer.exhausted(cause)
        if quick and error.not_processed and self._step_quickly(call):
            call.backoffer.note(cause)
            return False
        is_in_trouble = is_timeout or not quick
        if is_in_trouble:
            self._stores.mark_unreachable(store.id, self._rt.now())
        await call.backoffer.backoff(backoff.TIKV_RPC, cause)
        return is_in_trouble

    async def _on_unreachable(
        self, store: CachedStore, error: ConnectionFailed, selector: ReplicaSelector, peer: Peer, call: Call
    ) -> None:
        reason = error.__cause__.reason if isinstance(error.__cause__, ConnectFailed) else ""
        if reason in _MISMATCH:
            raise error  # certificates and protocols do not mend themselves
        if self._rt.now() >= call.backoffer.deadline:  # nor does the store stand accused for a time that was too short
            raise call.backoffer.exhausted(error)
        self._stores.mark_unreachable(store.id, self._rt.now())
        self._pass_over(selector, peer)
        await call.backoffer.backoff(backoff.TIKV_RPC, error)

    def _on_refused(
        self,
        rpc: Rpc,
        region: CachedRegion,
        refused: Refused,
        selector: ReplicaSelector,
        peer: Peer,
        call: Call,
        extra: Extra,
    ) -> None:
        """Leave a replica that the client's own guard let nothing through to. Raises where no other one may serve.

        The leader may have moved away from a store whose breaker is open, and the store cannot tell: PD is asked,
        once a second for a region.
        """
        call.backoffer.note(refused.error)
        selector.on_refused(peer)
        if not self._is_for_leader(rpc, extra) and selector.has_more:
            return
        is_open = isinstance(refused.error, CircuitOpen)
        if is_open and self._guards is not None and self._guards.may_look_up(region.id, self._rt.now()):
            self._regions.invalidate(region, self._rt.now())
            raise RegionStale
        raise refused.error

    @staticmethod
    def _pass_over(selector: ReplicaSelector, peer: Peer) -> None:
        """Ask the other replicas first; a lone one is asked again, however it fares."""
        if len(selector.region.peers) > 1:
            selector.on_refused(peer)

    def _account_for_loss(self, rpc: Rpc, cause: str, not_processed: bool, call: Call, *, is_timeout: bool) -> None:
        if not_processed or not rpc.is_write:
            return
        if rpc.kind is Kind.TXN or (rpc.kind is Kind.PUT and self._config.retry_lost_writes):
            call.lost = cause
            return
        kind = DeadlineExceeded if is_timeout else ConnectionFailed
        raise kind(f"the answer was lost, the write may have taken effect: {cause}", outcome=Outcome.UNDETERMINED)

    def _step_quickly(self, call: Call) -> bool:
        """Take a step without a wait; False once a call has taken too many."""
        call.quick_steps += 1
        return call.quick_steps <= _QUICK_STEPS

    # --- region errors ------------------------------------------------------------------------------------------------

    async def _on_region_error(
        self, rpc: Rpc, region: CachedRegion, peer: Peer, data: bytes, selector: ReplicaSelector, call: Call
    ) -> None:
        """Carry out the verdict on a region error. Raises RegionStale, or the error that ends the call."""
        error: errorpb.Error = rpc.response.FromString(data).region_error
        verdict = classify(error)
        call.backoffer.note(verdict.text)
        action = verdict.action
        if action is Action.FAIL:
            raise verdict.rule.error(verdict.text)
        if action is Action.NEW_LEADER:
            await self._on_not_leader(error, region, peer, selector, call)
        elif action is Action.NEW_REGIONS:
            await self._on_epoch_not_match(error, region, peer, call)
        elif action is Action.BUSY:
            await self._on_busy(verdict, peer, selector, call)
        elif action is Action.LOST:
            self._account_for_loss(rpc, verdict.text, False, call, is_timeout=False)
            await self._wait(verdict, call)
        elif action is Action.AT_LEADER:
            if peer == region.leader.peer or not self._step_quickly(call):
                await call.backoffer.backoff(backoff.REGION_SCHEDULING, verdict.text)
            selector.read_at_leader()
        elif action is Action.NEXT_REPLICA:
            selector.on_refused(peer)
        elif action is Action.RETRY:
            await self._wait(verdict, call)
        else:
            if action is Action.NEW_STORE:
                self._pool.forget(self._stores.entry(peer.store_id).address)
                self._stores.forget_address(peer.store_id)
            raise await self._relocation(region, call, verdict.text, verdict)

    async def _on_not_leader(
        self, error: errorpb.Error, region: CachedRegion, peer: Peer, selector: ReplicaSelector, call: Call
    ) -> None:
        named = error.not_leader.leader
        if named.id == 0:
            selector.on_not_leader(peer)
            await call.backoffer.backoff(backoff.REGION_SCHEDULING, "no leader is known")
            return
        leader = Peer(named.id, named.store_id, named.role, named.is_witness)
        known = self._regions.switch_leader(region, leader, self._rt.now()) and selector.on_leader(leader)
        if not self._step_quickly(call):
            await call.backoffer.backoff(backoff.REGION_SCHEDULING, "the leader keeps changing")
        if not known:
            raise RegionStale

    async def _on_epoch_not_match(self, error: errorpb.Error, region: CachedRegion, peer: Peer, call: Call) -> None:
        current = [_region(meta) for meta in error.epoch_not_match.current_regions]
        if self._regions.apply_epoch_not_match(region, current, peer.store_id, self._rt.now()):
            await call.backoffer.backoff(backoff.REGION_MISS, "the store is behind the region's epoch")
            return
        if not current or not self._step_quickly(call):
            await call.backoffer.backoff(backoff.REGION_MISS, "epoch not match")
        raise RegionStale

    async def _on_busy(self, verdict: Verdict, peer: Peer, selector: ReplicaSelector, call: Call) -> None:
        self._stores.mark_slow(peer.store_id, self._rt.now(), max(_BUSY_AVOIDED_S, verdict.at_least_s))
        if not selector.on_busy(peer):
            await self._wait(verdict, call)
            selector.on_waited()

    async def _wait(self, verdict: Verdict, call: Call) -> None:
        if verdict.rule.wait is not None:
            await call.backoffer.backoff(verdict.rule.wait, verdict.text, at_least_s=verdict.at_least_s)

    async def _relocation(
        self, region: CachedRegion, call: Call, cause: str, verdict: Verdict | None = None
    ) -> RegionStale:
        """Drop the region, wait, and return what to raise."""
        self._regions.invalidate(region, self._rt.now())
        kind = verdict.rule.wait if verdict is not None else None
        await call.backoffer.backoff(kind or backoff.REGION_MISS, cause)
        return RegionStale()


def _is_answer(met: Met | None) -> bool:
    """Tell whether a replica has served a request."""
    return type(met) is bytes and (not met or met[0] != REGION_ERROR)


def _read_as(choice: Choice) -> ReadAs:
    return ReadAs.REPLICA if choice.is_replica_read else ReadAs.STALE if choice.is_stale_read else ReadAs.LEADER


def _region(meta: metapb.Region) -> Region:
    peers = tuple(Peer(peer.id, peer.store_id, peer.role, peer.is_witness) for peer in meta.peers)
    epoch = meta.region_epoch
    return Region(meta.id, meta.start_key, meta.end_key, epoch.conf_ver, epoch.version, peers)
