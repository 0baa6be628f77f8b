"""What all clients of one `connect` share: connections, PD, and what was learnt of regions and stores.

`connect_cluster` finds PD, compares the stores' API version with the client's, resolves the keyspace, and returns the
cluster with the codec of its keys. It ends within the client's `timeout`; after a failure nothing is left open.
"""

from __future__ import annotations

import dataclasses
import weakref
from contextlib import AbstractContextManager
from typing import Protocol

from pytikv.ambient import effective
from pytikv.client.backoff import RetryRules
from pytikv.client.health_feedback import HealthFeedbacks
from pytikv.client.lanes import AnyPool, LanePool
from pytikv.client.pd import PdClient
from pytikv.client.pool import ConnectionPool, PoolSettings
from pytikv.client.region_cache import RegionCache
from pytikv.client.region_loader import RegionLoader
from pytikv.client.resilience.guard import Guards
from pytikv.client.resource_control.controller import ResourceControl
from pytikv.client.store_cache import StoreCache
from pytikv.client.store_config import StoreConfigs
from pytikv.client.tokens import AuthorizedPool, TokenSource
from pytikv.codec import api
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig, check_config
from pytikv.interceptors import Interceptor
from pytikv.observe import telemetry
from pytikv.observe.state import ClusterStats
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.tls import TlsContext, load_client_tls
from pytikv.url import Target
from pytikv.wire.channel import ChannelConfig

__all__ = ["Cluster", "PoolUser", "cluster_config", "connect_cluster"]


class PoolUser(Protocol):
    """Whoever keeps the pool, or a method of it, for speed: is told when another takes its place."""

    def use_pool(self, pool: AnyPool) -> None:
        """Send what is sent from now on by way of `pool`. Called from any thread."""


@dataclasses.dataclass(slots=True)
class Cluster:
    """A cluster that was connected to; see the module's docstring."""

    rt: Runtime
    pool: AnyPool
    """Where requests get their channel: the plain pool, or lanes (`client.lanes`) while somebody stands there."""
    pd: PdClient
    stores: StoreCache
    regions: RegionCache
    locator: RegionLoader
    store_configs: StoreConfigs
    interceptors: tuple[Interceptor, ...] = ()
    guards: Guards | None = None
    """Breakers, places and limits by address, and the budget for retries; None where no option wants one."""
    resource_control: ResourceControl | None = None
    """What holds requests to their resource groups; None where the option is off."""
    _users: weakref.WeakSet[PoolUser] = dataclasses.field(default_factory=weakref.WeakSet)
    _lock: AbstractContextManager[object] = dataclasses.field(default_factory=mutex)

    @property
    def cluster_id(self) -> int:
        """The cluster's id."""
        return self.pd.cluster_id

    @property
    def connections(self) -> ConnectionPool:
        """The pool itself, whatever stands before it."""
        return self.pool.plain if isinstance(self.pool, LanePool) else self.pool

    def follow(self, user: PoolUser) -> None:
        """Tell `user`, now and as long as it lives, which pool to use."""
        with self._lock:
            self._users.add(user)
            user.use_pool(self.pool)

    def observe(self, is_observed: bool) -> None:
        """Put lanes before the pool, or take them out where nobody else needs them. From any thread, idempotent.

        Requests that begin afterwards go the new way.
        """
        with self._lock:
            wants_lanes = is_observed or self.interceptors != () or self.guards is not None
            if wants_lanes is isinstance(self.pool, LanePool):
                return
            plain = self.connections
            self.pool = self._lanes(plain) if wants_lanes else plain
            self.pd.use_pool(self.pool)
            for user in self._users:
                user.use_pool(self.pool)

    def stats(self, target: str) -> ClusterStats:
        """Return what is held at present. `target`: what was connected to."""
        pool, guards = self.connections.stats(), self.guards
        budget = None if guards is None else guards.budget
        return ClusterStats(
            target,
            connections=pool.addresses,
            max_connections=pool.max_connections,
            waiting=pool.waiting,
            regions=len(self.regions),
            stores=self.stores.stats(),
            guards=() if guards is None else tuple(guards.snapshot()),
            retry_tokens=None if budget is None else budget.tokens,
        )

    def _lanes(self, plain: ConnectionPool) -> LanePool:
        return LanePool(plain, guards=self.guards, interceptors=self.interceptors)

    async def close(self) -> None:
        """Close all connections."""
        if self.resource_control is not None:
            self.resource_control.close()
        self.pd.close()
        await self.pool.close()

    def abandon(self, *, forked: bool) -> None:
        """Let go of all connections without waiting. Those of a blocking runtime go with the runtime."""
        if not self.rt.exclusive_connections:
            self.pool.abandon(forked=forked)


def _pool(rt: Runtime, config: ClientConfig, tls: TlsContext | None, feedbacks: HealthFeedbacks) -> ConnectionPool:
    channel = ChannelConfig(
        max_message_bytes=config.max_message_bytes,
        keepalive=config.keepalive_time,
        keepalive_timeout=config.keepalive_timeout,
        on_health_feedback=feedbacks.take,
    )
    settings = PoolSettings(
        grpc_concurrency=config.grpc_concurrency,
        max_connections=config.max_connections,
        idle_timeout_s=config.idle_timeout,
        connect_timeout_s=config.connect_timeout,
        channel=channel,
    )
    if config.token_provider is not None:
        return AuthorizedPool(rt, settings, tls, tokens=TokenSource(rt, config.token_provider))
    return ConnectionPool(rt, settings, tls)


def _guards(rt: Runtime, config: ClientConfig) -> Guards | None:
    """Return the guards that the options want; None where they want none."""
    retry_budget = config.retry_budget or (config.retry.budget if config.retry is not None else None)
    wanted = (config.breaker, config.bulkhead, config.adaptive_limit, retry_budget)
    if all(one is None for one in wanted):
        return None
    return Guards(
        rt,
        breaker=config.breaker,
        bulkhead=config.bulkhead,
        limit=config.adaptive_limit,
        retry_budget=retry_budget,
    )


def cluster_config(config: ClientConfig) -> ClientConfig:
    """Return `config` with its api_version settled: 2 where there is a keyspace, 1 where nothing says otherwise.

    Raises ConfigError where options contradict it.
    """
    version = config.api_version or (2 if config.keyspace is not None else 1)
    return check_config(config.replace(api_version=version))


async def connect_cluster(
    rt: Runtime, target: Target, config: ClientConfig, *, is_raw: bool = True
) -> tuple[Cluster, KeyCodec]:
    """Connect to the cluster at `target` for raw or for transactional data; the api_version is settled.

    Raises ConnectionFailed, DeadlineExceeded, and ConfigError: TLS files, another API version, an unknown keyspace.
    """
    deadline = effective(rt.now(), config.timeout)
    feedbacks = HealthFeedbacks(rt)
    tls = None if config.tls is None else load_client_tls(config.tls, server_name=config.tls_server_name)
    pool = _pool(rt, config, tls, feedbacks)
    guards = _guards(rt, config)
    rules = RetryRules.of(config.retry, guards.budget if guards is not None else None)
    pd = PdClient(
        rt,
        pool,
        target.endpoints,
        timeout_s=config.pd_timeout,
        use_query_region=config.use_query_region,
        rules=rules,
        guards=guards,
    )
    try:
        await pd.connect(deadline)
        stores = feedbacks.stores = StoreCache(rt, pd, pool)
        regions = RegionCache(stores.entry, rt.rng)
        configs = StoreConfigs(rt, pd, tls)
        metas = await pd.get_all_stores(deadline)
        for meta in metas:
            stores.put(meta)
        version = config.api_version or 1
        await configs.check_version(metas, version, deadline, is_raw=is_raw)
        codec = api.raw_v1() if is_raw else api.txn_v1()
        if version == 2:
            is_default = config.keyspace in (None, "DEFAULT")
            keyspace_id = api.DEFAULT_KEYSPACE_ID
            if config.keyspace is not None and not is_default:
                keyspace_id = await pd.load_keyspace(config.keyspace, deadline)
            codec = api.v2(keyspace_id, is_raw=is_raw)
    except BaseException:
        pd.close()
        await pool.close()
        raise
    locator = RegionLoader(rt, pd, regions, rules)
    interceptors = config.interceptors
    control = ResourceControl(rt, pool, pd, regions.replicas_of) if config.resource_control else None
    if control is not None:
        interceptors = (*interceptors, control)  # innermost: what others do with a request is not charged
    cluster = Cluster(rt, pool, pd, stores, regions, locator, configs, interceptors, guards, control)
    cluster.observe(bool(telemetry.sinks()))
    return cluster, codec
