"""The policies of resilience: what a client may be told of retries, breakers and limits. Plain values, all optional.

Each is an option of `connect`, a table of the TOML file, and in text a switch or a number:

| option | text | table |
|---|---|---|
| `retry` | `?retry.max_attempts=5` | `[retry]`, `[retry.kinds.tikvServerBusy]` |
| `retry_budget` | `on`, or the ratio: `0.1` | `[retry_budget]` |
| `breaker` | `on` | `[breaker]` |
| `bulkhead` | `on`, or the places: `64` | `[bulkhead]` |
| `adaptive_limit` | `on` | `[adaptive_limit]` |
| `hedge_after_ms` | a number, or `p95` | |

Without one of them nothing of the kind is done. What they do is said in `client.backoff` and `client.resilience`.
Errors: ConfigError, which names the field and what it may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, Literal

from pytikv.errors import ConfigError
from pytikv.settings import kinds as options

__all__ = [
    "BACKOFF_KINDS",
    "BreakerPolicy",
    "BulkheadPolicy",
    "HedgeAfter",
    "KindPolicy",
    "LimitPolicy",
    "RetryBudgetPolicy",
    "RetryPolicy",
    "breaker_kind",
    "bulkhead_kind",
    "hedge_kind",
    "limit_kind",
    "retry_budget_kind",
    "retry_kind",
]

HedgeAfter = float | Literal["p90", "p95", "p99"]

BACKOFF_KINDS: Final = frozenset(
    (
        "tikvRPC",
        "pdRPC",
        "pdNotReady",
        "regionMiss",
        "regionScheduling",
        "tikvServerBusy",
        "tikvDiskFull",
        "regionRecoveryInProgress",
        "isWitness",
        "staleCommand",
        "maxTsNotSynced",
        "regionNotInitialized",
        "txnLock",
        "txnLockFast",
        "txnNotFound",
        "commitTSLag",
    )
)
"""The names of the back-off table's rows (`client.backoff.KINDS`)."""

_RATIO: Final = options.number(0.001, 1.0)
_MS: Final = options.number(0.1, 3_600_000.0, "a number of milliseconds")


class _Checked:
    """Checks each field by its kind."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):  # type: ignore[arg-type]  # every heir is a dataclass
            value = getattr(self, one.name)
            if value is not None or one.default is not None:
                object.__setattr__(self, one.name, one.metadata["check"](one.name, value))


# --- retries ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KindPolicy(_Checked):
    """Overrides of one row of the back-off table. None leaves the row's own value."""

    base_ms: float | None = field(default=None, metadata=options.kind(_MS))
    """Milliseconds of the first wait; it doubles with each."""

    cap_ms: float | None = field(default=None, metadata=options.kind(_MS))
    """Milliseconds that no wait exceeds."""

    jitter: Literal["none", "equal", "full"] | None = field(
        default=None, metadata=options.kind(options.choice("none", "equal", "full"))
    )
    """How a wait is spread: not, half of it at random, or all of it."""

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if self.base_ms is not None and self.cap_ms is not None and self.cap_ms < self.base_ms:
            raise ConfigError(f"cap_ms ({self.cap_ms:g}) must not be below base_ms ({self.base_ms:g})")


def _read_kinds(name: str, value: Any) -> Mapping[str, KindPolicy]:
    if not isinstance(value, Mapping):
        raise options.fail(name, "a table by kind, such as {'tikvRPC': {'base_ms': 50}}", value)
    for key in value:
        if key not in BACKOFF_KINDS:
            known = ", ".join(sorted(BACKOFF_KINDS))
            raise ConfigError(
                f"option {name!r} has no kind {key!r}; it has {known}{options.relatives(str(key), BACKOFF_KINDS)}"
            )
    return {key: _KIND(f"{name}.{key}", one) for key, one in value.items()}


_KIND: Final = options.record(KindPolicy, switch=False)
_KINDS: Final = options.Kind("a table by kind of back-off", _read_kinds, is_table=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudgetPolicy(_Checked):
    """How many retries a client may make, of all its calls together. A retry beyond it is not made: the call ends."""

    ratio: float = field(default=0.1, metadata=options.kind(_RATIO))
    """Retries that each answered request earns."""

    min_per_s: float = field(default=0.1, metadata=options.kind(options.number(0.0, 1e6)))
    """Retries a second that are allowed however few requests there are."""

    burst: float = field(default=10.0, metadata=options.kind(options.number(1.0, 1e6)))
    """Retries that can be saved up; a new client has them. Many clients that ask little each need a small one: what
    they have saved they spend all at once on a store that comes back."""


def _read_budget(name: str, value: Any) -> RetryBudgetPolicy | None:
    return RetryBudgetPolicy(ratio=_RATIO(name, value)) if _is_number(value) else _BUDGET(name, value)


_BUDGET: Final = options.record(RetryBudgetPolicy)
retry_budget_kind: Final = options.Kind(f"a ratio such as 0.1, or {_BUDGET.allowed}", _read_budget, is_table=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy(_Checked):
    """How a call is retried: how often, for how long, with what waits."""

    max_attempts: int | None = field(default=None, metadata=options.kind(options.integer(1, 1000)))
    """Tries of one call, the first included; each wait between two counts one. None: as many as its time allows."""

    total_ms: float | None = field(default=None, metadata=options.kind(_MS))
    """Milliseconds that one call may wait between tries, all waits together. None: up to its deadline."""

    kinds: Mapping[str, KindPolicy] = field(default_factory=dict, metadata=options.kind(_KINDS))
    """Other waits than the table's, by kind of trouble."""

    budget: RetryBudgetPolicy | None = field(default=None, metadata=options.kind(retry_budget_kind))
    """As the option `retry_budget`, which stands for it where only that is wanted."""

    def __hash__(self) -> int:
        return hash((self.max_attempts, self.total_ms, tuple(sorted(self.kinds.items(), key=lambda one: one[0]))))


retry_kind: Final = options.record(RetryPolicy)


# --- breaker and limits -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy(_Checked):
    """When requests to an address stop, and when they are tried again. One breaker for each store and PD member."""

    window_s: float = field(default=10.0, metadata=options.kind(options.seconds(0.1, 3600.0)))
    """Seconds that are looked back upon."""

    min_calls: int = field(default=20, metadata=options.kind(options.integer(1, 1_000_000)))
    """Requests in the window below which nothing is concluded. A quarter of it is enough where all of the last fifth of
    the window were bad."""

    error_rate: float = field(default=0.5, metadata=options.kind(_RATIO))
    """Share of failed requests that opens the breaker."""

    slow_s: float = field(default=1.0, metadata=options.kind(options.seconds(0.001, 600.0)))
    """Seconds from which a request counts as slow."""

    slow_rate: float = field(default=0.8, metadata=options.kind(_RATIO))
    """Share of slow or failed requests that opens the breaker."""

    open_s: float = field(default=1.0, metadata=options.kind(options.seconds(0.01, 3600.0)))
    """Seconds before probes are let through; doubles with each opening that follows soon, spread by a fifth."""

    open_cap_s: float = field(default=10.0, metadata=options.kind(options.seconds(0.01, 3600.0)))
    """Seconds that this wait never exceeds, but for the spread."""

    probes: int = field(default=3, metadata=options.kind(options.integer(1, 1000)))
    """Requests let through at once when half-open; as many good answers close the breaker."""

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if self.open_cap_s < self.open_s:
            raise ConfigError(f"open_cap_s ({self.open_cap_s:g}) must not be below open_s ({self.open_s:g})")


breaker_kind: Final = options.record(BreakerPolicy)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadPolicy(_Checked):
    """How many requests to one address may be under way, and how many may wait for that."""

    max_in_flight: int = field(default=256, metadata=options.kind(options.integer(1, 65_536)))
    """Requests under way to one address."""

    max_queue: int = field(default=1024, metadata=options.kind(options.integer(0, 1_000_000)))
    """Requests that wait; one more is refused with `Overloaded`."""

    max_queue_s: float = field(default=0.1, metadata=options.kind(options.seconds(0.001, 600.0)))
    """Seconds that a request may wait before it is refused; its deadline may end the wait earlier."""


def _read_bulkhead(name: str, value: Any) -> BulkheadPolicy | None:
    if _is_number(value):
        return BulkheadPolicy(max_in_flight=options.integer(1, 65_536)(name, value))
    found: BulkheadPolicy | None = _BULKHEAD(name, value)
    return found


_BULKHEAD: Final = options.record(BulkheadPolicy)
bulkhead_kind: Final = options.Kind(f"a number of places, or {_BULKHEAD.allowed}", _read_bulkhead, is_table=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy(_Checked):
    """How the number of requests under way follows what the address can bear. Waiting is as for a bulkhead."""

    initial: int = field(default=32, metadata=options.kind(options.integer(1, 65_536)))
    """Requests under way at first."""

    min: int = field(default=1, metadata=options.kind(options.integer(1, 65_536)))
    """Requests that are always allowed."""

    max: int = field(default=1024, metadata=options.kind(options.integer(1, 65_536)))
    """Requests that are never exceeded; a bulkhead's limit counts beside it."""

    tolerance: float = field(default=2.0, metadata=options.kind(options.number(1.0, 100.0)))
    """How many times its shortest latency an address may take before the limit shrinks."""

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if not self.min <= self.initial <= self.max:
            raise ConfigError(f"min <= initial <= max must hold, not {self.min}, {self.initial}, {self.max}")


limit_kind: Final = options.record(LimitPolicy)


# --- hedging ----------------------------------------------------------------------------------------------------------

_PERCENTILES: Final = ("p90", "p95", "p99")


def _read_hedge(name: str, value: Any) -> HedgeAfter:
    if isinstance(value, str) and value in _PERCENTILES:
        return value  # type: ignore[return-value]  # one of the literals
    try:
        return float(_MS(name, value))
    except ConfigError:
        raise options.fail(name, hedge_kind.allowed, value) from None


hedge_kind: Final = options.Kind("a number of milliseconds, or 'p90', 'p95' or 'p99'", _read_hedge)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return value not in ("0", "1")  # the switches
    return isinstance(value, (int, float)) and not isinstance(value, bool)
