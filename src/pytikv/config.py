"""What a client can be told: one frozen value, gathered from five places.

The first place that speaks for an option wins: keyword arguments of `connect`, the query of the URL, the environment
(``PYTIKV_TIMEOUT=1.5``), a TOML file (``config="pytikv.toml"`` or ``PYTIKV_CONFIG``; a ``[tls]`` table holds the three
paths), the default. Text from the query, the environment and the file is read by the option's kind; everything is
checked once, in `ClientConfig` itself, so that no invalid value exists.

An unknown option is a `ConfigError` that names its nearest relatives. In the environment, where other programs may
own names that begin like ours, only a name that is nearly an option's is refused. Messages name options and never
repeat a value that may be secret.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, Final, Literal

from pytikv.errors import ConfigError
from pytikv.rt.tls import TLS

__all__ = ["TLS", "ClientConfig", "Priority", "ReplicaRead", "check_config", "load_config", "relatives"]

ReplicaRead = Literal["leader", "follower", "mixed", "prefer_leader", "closest"]
Priority = Literal["low", "normal", "high"]

_ENVIRONMENT_PREFIX: Final = "PYTIKV_"
_NOT_OPTIONS: Final = frozenset({"url", "config"})  # the command line's target, and the file's name
_TLS_PATHS: Final = ("ca", "cert", "key")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

Labels = tuple[tuple[str, str], ...]


def _kind(check: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The metadata of a field: how its value is read and checked."""
    return {"check": check}


# --- kinds: each takes the option's name and a raw value (text where it came as text) and returns the value -----------


def _fail(name: str, wanted: str, value: object) -> ConfigError:
    shown = f"{value!r}" if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
    if isinstance(value, str) and len(value) <= 32:
        shown = repr(value)
    return ConfigError(f"option {name!r} must be {wanted}, not {shown}")


def _seconds(low: float = 0.001, high: float = 86_400.0) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        wanted = f"a number of seconds between {low:g} and {high:g}"
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise _fail(name, wanted, value) from None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise _fail(name, wanted, value)
        return float(value)

    return check


def _integer(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        wanted = f"an integer between {low} and {high}"
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                raise _fail(name, wanted, value) from None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _fail(name, wanted, value)
        return value

    return check


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
    if not isinstance(value, bool):
        raise _fail(name, "true or false", value)
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _fail(name, "a string", value)
    return value


def _choice(*choices: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _fail(name, "one of " + ", ".join(repr(choice) for choice in choices), value)
        return value

    return check


def _version(name: str, value: Any) -> int:
    if isinstance(value, str) and value.lower() in ("1ttl", "v1ttl"):
        return 1  # a v1ttl store is spoken to with version 1 (codec.api)
    if isinstance(value, str):
        value = value.lower().removeprefix("v")
    return _integer(1, 2)(name, value)


def _labels(name: str, value: Any) -> Labels:
    wanted = "labels such as 'zone=z1,host=h2' or {'zone': 'z1'}"
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part]
        if any(not separator for _, separator, _ in pairs):
            raise _fail(name, wanted, value)
        return tuple((key.strip(), text.strip()) for key, _, text in pairs)
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, tuple) or not all(_is_pair_of_text(pair) for pair in value):
        raise _fail(name, wanted, value)
    return value


def _is_pair_of_text(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


def _tag(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise _fail(name, "bytes", value)
    return value


def _tls(name: str, value: Any) -> TLS:
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in _TLS_PATHS]
        if unknown:
            raise ConfigError(f"option {name!r} has no field {unknown[0]!r}; it has {', '.join(_TLS_PATHS)}")
        value = TLS(**{key: _text(f"{name}.{key}", path) for key, path in value.items()})
    if not isinstance(value, TLS):
        raise _fail(name, "pytikv.TLS(ca=..., cert=..., key=...)", value)
    return value


# --- the value --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Every option of a client. Each is a keyword of `connect`, a key of the URL's query and of the TOML file.

    Raises `ConfigError` for a value of the wrong type or out of range.
    """

    api_version: int | None = field(default=None, metadata=_kind(_version))
    """API version of the raw and transactional data: 1 or 2. None: 2 for `embedded://`, 1 for `tikv://`. A store in
    v1ttl mode is spoken to with 1. The store's status address is asked at connect; a mismatch is a ConfigError."""

    keyspace: str | None = field(default=None, metadata=_kind(_text))
    """Name of the keyspace (API v2 only). None: the default one. The URL's path says the same."""

    tls: TLS | None = field(default=None, metadata=_kind(_tls))
    """Files for TLS; None: plaintext. In the URL: `?ca=...&cert=...&key=...`."""

    tls_server_name: str | None = field(default=None, metadata=_kind(_text))
    """Name that the servers' certificates must carry. None: the host name connected to."""

    timeout: float = field(default=10.0, metadata=_kind(_seconds()))
    """Seconds that a whole call may take, all tries together; for a scan, each page. `pytikv.deadline` shrinks it."""

    rpc_timeout: float = field(default=5.0, metadata=_kind(_seconds()))
    """Seconds that one request to a store may take before it counts as lost."""

    connect_timeout: float = field(default=3.0, metadata=_kind(_seconds()))
    """Seconds that opening one connection may take, TLS handshake included."""

    pd_timeout: float = field(default=3.0, metadata=_kind(_seconds()))
    """Seconds that one request to PD may take before the next member is asked."""

    use_query_region: bool = field(default=False, metadata=_kind(_boolean))
    """Whether look-ups of regions that are wanted at the same time go to PD as one message on a stream. Spares PD where
    many regions are met at once; one look-up alone is no faster. A PD that lacks the call is asked the usual way."""

    grpc_concurrency: int = field(default=8, metadata=_kind(_integer(1, 64)))
    """Connections to each store in asyncio clients (a blocking client opens one for each thread at work)."""

    max_connections: int = field(default=256, metadata=_kind(_integer(1, 65_536)))
    """Connections that one client may have open at once, to all stores together."""

    idle_timeout: float = field(default=60.0, metadata=_kind(_seconds()))
    """Seconds after which an unused connection is closed."""

    keepalive_time: float = field(default=10.0, metadata=_kind(_seconds(1.0)))
    """Seconds of silence, with calls under way, after which a connection is tried with a PING."""

    keepalive_timeout: float = field(default=3.0, metadata=_kind(_seconds(0.05)))
    """Seconds to wait for the answer to that PING before the connection counts as dead."""

    max_message_bytes: int = field(default=64 << 20, metadata=_kind(_integer(1 << 16, 1 << 31)))
    """Bytes of the largest message accepted from a server."""

    background_worker_size: int = field(default=4, metadata=_kind(_integer(1, 256)))
    """Threads or tasks for work that outlives a call (secondaries of a commit, lock heartbeats, GC)."""

    replica_read: ReplicaRead = field(
        default="leader", metadata=_kind(_choice("leader", "follower", "mixed", "prefer_leader", "closest"))
    )
    """Which replicas serve reads. All are linearizable: a follower asks its leader for the read index. `closest`: one
    whose store has `match_labels`, the leader where there is none."""

    match_labels: Labels = field(default=(), metadata=_kind(_labels))
    """Labels of the stores to prefer for replica reads, as `{"zone": "z1"}`; in text `zone=z1,host=h2`."""

    retry_lost_writes: bool = field(default=True, metadata=_kind(_boolean))
    """Whether a put or delete whose answer was lost is sent again. It may then take effect twice before the call
    returns, and between the two another writer's value may be overwritten. False: such a call fails, UNDETERMINED."""

    atomic: bool = field(default=False, metadata=_kind(_boolean))
    """Whether puts and deletes are ordered with compare_and_swap on the same keys (slower; TiKV's `for_cas`)."""

    cf: str = field(default="", metadata=_kind(_text))
    """Column family of raw data, API v1 only: `default` (also the empty name), `lock` or `write`."""

    ttl: bool | None = field(default=None, metadata=_kind(_boolean))
    """Whether the stores have TTL switched on. None: ask the store's status address where it must be known."""

    cas_delete: bool = field(default=False, metadata=_kind(_boolean))
    """Whether the stores know how to delete by compare_and_swap. A store that does not would write an empty value
    instead, and gives no sign by which to tell; the embedded store and `pytikv serve` need no declaration."""

    priority: Priority = field(default="normal", metadata=_kind(_choice("low", "normal", "high")))
    """Priority of the requests in the store's queues."""

    request_source: str = field(default="", metadata=_kind(_text))
    """Name of the origin of the requests, for the store's metrics. Empty: `external_pytikv`."""

    resource_group: str = field(default="", metadata=_kind(_text))
    """Name of the resource group that the requests are charged to."""

    resource_group_tag: bytes = field(default=b"", metadata=_kind(_tag))
    """Opaque tag of the requests for the store's resource metering."""

    batch_put_bytes: int = field(default=16 << 10, metadata=_kind(_integer(1, 8 << 20)))
    """Bytes of keys and values after which a batch_put begins another request."""

    batch_keys: int = field(default=512, metadata=_kind(_integer(1, 65_536)))
    """Keys after which a batch begins another request."""

    batch_concurrency: int = field(default=128, metadata=_kind(_integer(1, 4096)))
    """Requests of one batch that are under way at once."""

    sync: bool = field(default=True, metadata=_kind(_boolean))
    """Embedded only: whether a write is on the disk when the call returns. False: a crash of the machine, not of the
    process, may lose the last writes. In text also `on` and `off`."""

    gc_interval: float | None = field(default=None, metadata=_kind(_seconds(1.0)))
    """Transactional clients only: seconds between two garbage collections that the client runs in the background, until
    it is closed. One client of a cluster is enough. None: it runs none, but for calls of `gc`."""

    gc_life_time: float = field(default=600.0, metadata=_kind(_seconds(1.0, 315_360_000.0)))
    """Seconds that these garbage collections leave old versions readable."""

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))

    def replace(self, **options: Any) -> ClientConfig:
        """Return a copy with `options` changed. Raises ConfigError for an unknown or invalid one."""
        _refuse_unknown(options, "the options", _fields())
        return dataclasses.replace(self, **options)


def check_config(config: ClientConfig) -> ClientConfig:
    """Return `config`, whose api_version is settled. Raises ConfigError where options contradict it."""
    if config.api_version == 2 and config.cf:
        raise ConfigError("API v2 has no column families: leave cf empty, or use api_version=1")
    if config.api_version == 1 and config.keyspace:
        raise ConfigError("keyspaces need API v2: set api_version=2, or leave out the keyspace")
    return config


def _fields() -> frozenset[str]:
    return frozenset(option.name for option in dataclasses.fields(ClientConfig))


# --- gathering --------------------------------------------------------------------------------------------------------


def load_config(
    options: Mapping[str, Any], query: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> ClientConfig:
    """Gather a configuration; see the module's docstring for the order. `environment` defaults to the process's.

    Raises ConfigError for an unknown option, an invalid value and an unreadable file.
    """
    query = query or {}
    environment = os.environ if environment is None else environment
    known = _fields() | {*_TLS_PATHS, "config"}
    _refuse_unknown(options, "the arguments", known)
    _refuse_unknown(query, "the URL's query", known)
    variables = _from_environment(environment, known)
    path = next((place["config"] for place in (options, query, variables) if place.get("config")), None)
    table = _from_file(path, known) if path is not None else {}
    merged: dict[str, Any] = {}
    for place in (table, variables, query, options):
        # Paths of a stronger place complete or replace those of a weaker one; a whole `tls` replaces them all.
        if place.get("tls") is not None:
            merged = {name: value for name, value in merged.items() if name not in _TLS_PATHS}
        merged.update({name: value for name, value in place.items() if name != "config" and value is not None})
    return ClientConfig(**_join_tls(merged))


def _join_tls(merged: dict[str, Any]) -> dict[str, Any]:
    paths = {name: _text(name, merged.pop(name)) for name in _TLS_PATHS if name in merged}
    switch = merged.pop("tls", None)
    if isinstance(switch, (str, bool)):  # ?tls=true trusts the system's certificates
        if not _boolean("tls", switch) and paths:
            raise ConfigError("option 'tls' is off, yet certificate files are given: leave out one of the two")
        switch = TLS() if _boolean("tls", switch) else None
    if switch is None:
        return {**merged, "tls": TLS(**paths) if paths else None}
    return {**merged, "tls": dataclasses.replace(_tls("tls", switch), **paths)}


def _refuse_unknown(names: Mapping[str, Any], place: str, known: frozenset[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown option {name!r} in {place}{relatives(name, known)}")


def relatives(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: which of the known ones may be meant."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else ""


def _from_environment(environment: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    found = {}
    for variable, value in environment.items():
        name = variable.removeprefix(_ENVIRONMENT_PREFIX).lower()
        if name == variable.lower():
            continue
        if name in known:
            found[name] = value
        elif name not in _NOT_OPTIONS and (near := difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)):
            wanted = _ENVIRONMENT_PREFIX + near[0].upper()
            raise ConfigError(f"unknown option in the environment: {variable!r}; did you mean {wanted!r}?")
    return found


def _from_file(path: Any, known: frozenset[str]) -> dict[str, Any]:
    if not isinstance(path, (str, os.PathLike)):
        raise _fail("config", "the path of a TOML file", path)
    try:
        table = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {os.fspath(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {os.fspath(path)!r} is not valid TOML: {error}") from error
    _refuse_unknown(table, f"the file {os.fspath(path)!r}", known - {"config"})
    return table
