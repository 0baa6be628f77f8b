"""What a client can be told: one frozen value, gathered from five places.

The first place that speaks for an option wins: keyword arguments of `connect`, the query of the URL, the environment
(``PYTIKV_TIMEOUT=1.5``), a TOML file (``config="pytikv.toml"`` or ``PYTIKV_CONFIG``), the default. Names may be spelled
with `-` in place of `_`, as TiKV's own are (``grpc-concurrency = 16``). An option with fields is a table in TOML
(``[tls]``); in the URL its fields are `?tls.ca=...`, in the environment ``PYTIKV_TLS__CA``, and a stronger place
completes the fields of a weaker one. Text is read by the option's kind (`settings.kinds`); everything is checked once
more in `ClientConfig` itself, so that no invalid value exists.

A wrong value is a `ConfigError` that begins with where it stands (file and line, variable, parameter of the URL) and
tells what is allowed. An unknown option names its nearest relatives. In the environment, where other programs may own
names that begin like ours, only a name that is nearly an option's is refused. Messages never repeat a value that may
be secret.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, Literal

from pytikv import policies
from pytikv.errors import ConfigError
from pytikv.interceptors import Interceptor
from pytikv.rt.tls import TLS
from pytikv.service_classes import Sla
from pytikv.settings import kinds, places
from pytikv.settings.kinds import Labels, relatives

__all__ = [
    "TLS",
    "ClientConfig",
    "GatheredConfig",
    "Labels",
    "Priority",
    "ReplicaRead",
    "check_config",
    "gather_config",
    "load_config",
    "relatives",
]

ReplicaRead = Literal["leader", "follower", "mixed", "prefer_leader", "closest"]
Priority = Literal["low", "normal", "high"]

_TLS_PATHS: Final = ("ca", "cert", "key")
_SLA: Final = kinds.seconds_by_name()


def _read_sla(name: str, value: Any) -> Sla:
    return value if isinstance(value, Sla) else Sla(_SLA(name, {} if value == () else value))


_TLS: Final = kinds.record(TLS, checks=dict.fromkeys(_TLS_PATHS, kinds.text))
_SLA_KIND: Final = kinds.Kind(_SLA.allowed, _read_sla, is_table=True)


def _read_interceptors(name: str, value: Any) -> tuple[Interceptor, ...]:
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(_INTERCEPTOR(name, one) for one in given)


_INTERCEPTOR: Final = kinds.function("functions `async def (rpc, proceed) -> bytes`")
_INTERCEPTORS: Final = kinds.Kind(_INTERCEPTOR.allowed, _read_interceptors)
_PROVIDER: Final = kinds.function("a callable that returns the user token")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Every option of a client. Each is a keyword of `connect`, a key of the URL's query and of the TOML file.

    Raises `ConfigError` for a value of the wrong type or out of range.
    """

    api_version: int | None = field(default=None, metadata=kinds.kind(kinds.version))
    """API version of the raw and transactional data: 1 or 2. None: 2 for `embedded://`, 1 for `tikv://`. A store in
    v1ttl mode is spoken to with 1. The store's status address is asked at connect; a mismatch is a ConfigError."""

    keyspace: str | None = field(default=None, metadata=kinds.kind(kinds.text))
    """Name of the keyspace (API v2 only). None: the default one. The URL's path says the same."""

    tls: TLS | None = field(default=None, metadata=kinds.kind(_TLS))
    """Files for TLS; None: plaintext. In the URL: `?ca=...&cert=...&key=...`."""

    tls_server_name: str | None = field(default=None, metadata=kinds.kind(kinds.text))
    """Name that the servers' certificates must carry. None: the host name connected to."""

    timeout: float = field(default=10.0, metadata=kinds.kind(kinds.seconds()))
    """Seconds that a whole call may take, all tries together; for a scan, each page. `pytikv.deadline` shrinks it."""

    sla: Sla = field(default=(), metadata=kinds.kind(_SLA_KIND))  # type: ignore[assignment]  # the check makes the table of it
    """Service classes: the seconds that calls of each may take, as `{"core": 0.05, "background": 0.2}`; in text
    `core=0.05,background=0.2`, in the TOML file a table `[sla]`. `client.sla` changes them at run time."""

    service_class: str | None = field(default=None, metadata=kinds.kind(kinds.text))
    """The class of the client's calls, one that `sla` has; its seconds take the place of `timeout`. None: no class, but
    that of `pytikv.context(service_class=...)` around a call."""

    token_provider: Callable[[], Any] | None = field(default=None, metadata=kinds.kind(_PROVIDER))
    """A callable that returns the current user token, or the pair of the token and the Unix seconds at which it ends;
    in asyncio clients it may be a coroutine function. See `client.tokens` for when it is called."""

    rpc_timeout: float = field(default=5.0, metadata=kinds.kind(kinds.seconds()))
    """Seconds that one request to a store may take before it counts as lost."""

    connect_timeout: float = field(default=3.0, metadata=kinds.kind(kinds.seconds()))
    """Seconds that opening one connection may take, TLS handshake included."""

    pd_timeout: float = field(default=3.0, metadata=kinds.kind(kinds.seconds()))
    """Seconds that one request to PD may take before the next member is asked."""

    use_query_region: bool = field(default=False, metadata=kinds.kind(kinds.boolean))
    """Whether look-ups of regions that are wanted at the same time go to PD as one message on a stream. Spares PD where
    many regions are met at once; one look-up alone is no faster. A PD that lacks the call is asked the usual way."""

    grpc_concurrency: int = field(default=8, metadata=kinds.kind(kinds.integer(1, 64)))
    """Connections to each store in asyncio clients (a blocking client has one for each thread at work)."""

    max_connections: int = field(default=256, metadata=kinds.kind(kinds.integer(1, 65_536)))
    """Connections that one client may have open at once, to all stores together."""

    idle_timeout: float = field(default=60.0, metadata=kinds.kind(kinds.seconds()))
    """Seconds after which an unused connection is closed."""

    keepalive_time: float = field(default=10.0, metadata=kinds.kind(kinds.seconds(1.0)))
    """Seconds of silence, with calls under way, after which a connection is tried with a PING."""

    keepalive_timeout: float = field(default=3.0, metadata=kinds.kind(kinds.seconds(0.05)))
    """Seconds to wait for the answer to that PING before the connection counts as dead."""

    max_message_bytes: int = field(default=64 << 20, metadata=kinds.kind(kinds.integer(1 << 16, 1 << 31)))
    """Bytes of the largest message accepted from a server."""

    background_worker_size: int = field(default=4, metadata=kinds.kind(kinds.integer(1, 256)))
    """Pieces of work that are done at once after their call ended (secondaries of a commit, locks to clean up), and
    lock heartbeats that are under way at once."""

    replica_read: ReplicaRead = field(
        default="leader", metadata=kinds.kind(kinds.choice("leader", "follower", "mixed", "prefer_leader", "closest"))
    )
    """Which replicas serve reads. All are linearizable: a follower asks its leader for the read index. `closest`: one
    whose store has `match_labels`, the leader where there is none."""

    match_labels: Labels = field(default=(), metadata=kinds.kind(kinds.labels))
    """Labels of the stores to prefer for replica reads, as `{"zone": "z1"}`; in text `zone=z1,host=h2`."""

    retry_lost_writes: bool = field(default=True, metadata=kinds.kind(kinds.boolean))
    """Whether a put or delete whose answer was lost is sent again. It may then take effect twice before the call
    returns, and between the two another writer's value may be overwritten. False: such a call fails, UNDETERMINED."""

    atomic: bool = field(default=False, metadata=kinds.kind(kinds.boolean))
    """Whether puts and deletes are ordered with compare_and_swap on the same keys (slower; TiKV's `for_cas`)."""

    cf: str = field(default="", metadata=kinds.kind(kinds.text))
    """Column family of raw data, API v1 only: `default` (also the empty name), `lock` or `write`."""

    ttl: bool | None = field(default=None, metadata=kinds.kind(kinds.boolean))
    """Whether the stores have TTL switched on. None: ask the store's status address where it must be known."""

    cas_delete: bool = field(default=False, metadata=kinds.kind(kinds.boolean))
    """Whether the stores know how to delete by compare_and_swap. A store that does not would write an empty value
    instead, and gives no sign by which to tell; the embedded store and `pytikv serve` need no declaration."""

    retry: policies.RetryPolicy | None = field(default=None, metadata=kinds.kind(policies.retry_kind))
    """How calls are retried: tries, waits by kind of trouble, a budget. None: by the table of `client.backoff`, until
    the call's time is over."""

    retry_budget: policies.RetryBudgetPolicy | None = field(
        default=None, metadata=kinds.kind(policies.retry_budget_kind)
    )
    """Retries that all calls of a client may make together, against retry storms; a number is the ratio, as 0.1 for
    one to ten answered requests. None: as many as the calls' time allows. Set by `connect` for all views."""

    breaker: policies.BreakerPolicy | None = field(default=None, metadata=kinds.kind(policies.breaker_kind))
    """Circuit breaker for each store and PD member: too many failed or slow requests, and the next ones fail at once
    (`CircuitOpen`) or go to other replicas. `on`: the policy's defaults. None: off. Set by `connect` for all views."""

    bulkhead: policies.BulkheadPolicy | None = field(default=None, metadata=kinds.kind(policies.bulkhead_kind))
    """Requests that may be under way to each address, and wait for that; what is over it ends as `Overloaded`. A number
    is `max_in_flight`. None: as many as come. Set by `connect` for all views."""

    adaptive_limit: policies.LimitPolicy | None = field(default=None, metadata=kinds.kind(policies.limit_kind))
    """As `bulkhead`, but the number follows the address's latency. `on`: the policy's defaults. None: off. Set by
    `connect` for all views."""

    hedge_after_ms: policies.HedgeAfter | None = field(default=None, metadata=kinds.kind(policies.hedge_kind))
    """Milliseconds after which a read that has no answer is sent to another replica as well, which serves it
    linearizably; the first answer counts. `"p95"`: as long as 95 of 100 such reads take. Writes are never sent twice
    for it. While the leader's store is in trouble, other replicas serve reads at once. None: off."""

    hedge_ratio: float = field(default=0.1, metadata=kinds.kind(kinds.number(0.001, 1.0)))
    """Share of reads that may be sent a second time for `hedge_after_ms`."""

    interceptors: tuple[Interceptor, ...] = field(default=(), metadata=kinds.kind(_INTERCEPTORS))
    """Functions around every RPC to a store, the first one outermost: see `pytikv.RpcInfo`. Set by `connect` for all
    views."""

    priority: Priority = field(default="normal", metadata=kinds.kind(kinds.choice("low", "normal", "high")))
    """Priority of the requests in the store's queues."""

    request_source: str = field(default="", metadata=kinds.kind(kinds.text))
    """Name of the origin of the requests, for the store's metrics. Empty: `external_pytikv`."""

    resource_group: str = field(default="", metadata=kinds.kind(kinds.text))
    """Name of the resource group that the requests are charged to."""

    resource_control: bool = field(default=False, metadata=kinds.kind(kinds.boolean))
    """Whether requests of a resource group wait until the group can afford them (request units, as PD grants them), and
    report what they cost. Off: the group's name travels, and only the stores look at it."""

    resource_group_tag: bytes = field(default=b"", metadata=kinds.kind(kinds.utf8))
    """Opaque tag of the requests for the store's resource metering."""

    batch_put_bytes: int = field(default=16 << 10, metadata=kinds.kind(kinds.integer(1, 8 << 20)))
    """Bytes of keys and values after which a batch_put begins another request."""

    batch_keys: int = field(default=512, metadata=kinds.kind(kinds.integer(1, 65_536)))
    """Keys after which a batch begins another request."""

    batch_concurrency: int = field(default=128, metadata=kinds.kind(kinds.integer(1, 4096)))
    """Requests of one batch that are under way at once."""

    sync: bool = field(default=True, metadata=kinds.kind(kinds.boolean))
    """Embedded only: whether a write is on the disk when the call returns. False: a crash of the machine, not of the
    process, may lose the last writes. In text also `on` and `off`."""

    metrics: bool = field(default=False, metadata=kinds.kind(kinds.boolean))
    """Whether what clients do is counted for Prometheus from the first connect on, as `pytikv.metrics.install` does:
    for all clients of the process, in prometheus_client's own registry. In the environment: ``PYTIKV_METRICS=1``."""

    tracing: bool = field(default=False, metadata=kinds.kind(kinds.boolean))
    """Whether calls are traced by OpenTelemetry's API (`pytikv.observe.tracing`; needs the extra `tracing`). On for the
    whole process from then on."""

    slow_log: float | None = field(default=None, metadata=kinds.kind(kinds.seconds(0.0)))
    """Seconds over which a call is logged at WARNING with where its time went (`pytikv.observe.slow_log`). None: no
    call is."""

    gc_interval: float | None = field(default=None, metadata=kinds.kind(kinds.seconds(1.0)))
    """Transactional clients only: seconds between two garbage collections that the client runs in the background, until
    it is closed. One client of a cluster is enough. None: it runs none, but for calls of `gc`."""

    gc_life_time: float = field(default=600.0, metadata=kinds.kind(kinds.seconds(1.0, 315_360_000.0)))
    """Seconds that these garbage collections leave old versions readable."""

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))

    def replace(self, **options: Any) -> ClientConfig:
        """Return a copy with `options` changed. Raises ConfigError for an unknown or invalid one."""
        known = frozenset(_schema().checks)
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown option {name!r} in the options{kinds.relatives(name, known)}")
        return dataclasses.replace(self, **options)


def check_config(config: ClientConfig) -> ClientConfig:
    """Return `config`, whose api_version is settled. Raises ConfigError where options contradict it."""
    if config.retry_budget is not None and config.retry is not None and config.retry.budget is not None:
        raise ConfigError("options 'retry_budget' and 'retry.budget' say the same: leave out one of the two")
    if config.api_version == 2 and config.cf:
        raise ConfigError("API v2 has no column families: leave cf empty, or use api_version=1")
    if config.service_class is not None and config.service_class not in config.sla:
        known = ", ".join(repr(name) for name in sorted(config.sla)) or "no classes"
        raise ConfigError(f"option 'service_class': the client's sla has {known}, not {config.service_class!r}")
    if config.api_version == 1 and config.keyspace:
        raise ConfigError("keyspaces need API v2: set api_version=2, or leave out the keyspace")
    return config


# --- gathering --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class GatheredConfig:
    """A configuration and where its values come from.

    `sources`: by option, and by field of an option that is a table (`tls.ca`): ``argument``, ``URL query``,
    ``environment PYTIKV_X``, ``file PATH:LINE``; an option that is not in it has its default.
    """

    config: ClientConfig
    sources: Mapping[str, str]


def load_config(
    options: Mapping[str, Any], query: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> ClientConfig:
    """Gather a configuration; see the module's docstring for the order. `environment` defaults to the process's.

    Raises ConfigError for an unknown option, an invalid value and an unreadable file.
    """
    return gather_config(options, query, environment).config


def gather_config(
    options: Mapping[str, Any], query: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> GatheredConfig:
    """Do as `load_config`, and tell where each value comes from."""
    query = query or {}
    environment = os.environ if environment is None else environment
    schema = _schema()
    found = [
        places.from_environment(schema, environment),
        places.from_query(schema, query),
        places.from_arguments(schema, options),
    ]
    path = options.get("config") or query.get("config") or environment.get("PYTIKV_CONFIG")
    if path:
        found.insert(0, places.from_file(schema, path))
    place = places.merged(found)
    return GatheredConfig(ClientConfig(**places.checked(schema, place)), places.sources(place))


@functools.cache
def _schema() -> places.Schema:
    checks = {option.name: option.metadata["check"] for option in dataclasses.fields(ClientConfig)}
    return places.Schema(checks, {name: ("tls", name) for name in _TLS_PATHS})
