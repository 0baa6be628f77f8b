"""What a transaction and a snapshot can be told: two frozen values, checked once, when they are made.

`begin(**options)` makes a `TxnOptions`, `snapshot(**options)` a `ReadOptions`; the fields are the options. None means,
where it is allowed, "as the client's options say". Every value is checked in the class itself, so that no invalid one
exists: WrongType for a wrong type, InvalidArgument for a value out of range and for options that contradict each other,
each with the option's name and what would be right.

Sets of options that recur are made once and kept (`txn_options`, `read_options`; at most `_KEPT` of each): a program
that begins thousands of transactions with the same words pays for checking them once.

Sources of names and defaults: client-go txnkv/transaction/txn.go, txnkv/txnsnapshot/snapshot.go, config/client.go,
internal/unionstore/pipelined_memdb.go; limits of size as TiDB sets them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, Literal, cast

from pytikv.client.txn.backend import DEFAULT_CONTEXT, RequestContext
from pytikv.config import Priority, ReplicaRead, relatives
from pytikv.errors import InvalidArgument, WrongType
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["AssertionLevel", "DiskFull", "Isolation", "ReadOptions", "TxnOptions", "read_options", "txn_options"]

Isolation = Literal["SI", "RC", "RCCheckTS"]
AssertionLevel = Literal["off", "fast", "strict"]
DiskFull = Literal["not_allowed", "almost_full", "already_full"]

_KEPT: Final = 64
_ISOLATION: Final = {"SI": kvrpcpb.SI, "RC": kvrpcpb.RC, "RCCheckTS": kvrpcpb.RCCheckTS}
_DISK_FULL: Final = {
    "not_allowed": kvrpcpb.NotAllowedOnFull,
    "almost_full": kvrpcpb.AllowedOnAlmostFull,
    "already_full": kvrpcpb.AllowedOnAlreadyFull,
}
_MAX_U64: Final = (1 << 64) - 1


# --- kinds of values: each takes the option's name and a value, and raises --------------------------------------------


def _type_error(name: str, wanted: str, value: object) -> WrongType:
    found = "None" if value is None else type(value).__name__
    return WrongType(f"option {name!r} must be {wanted}, not {found}")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _type_error(name, "True or False", value)


def _choice(*choices: str) -> Callable[[str, object], None]:
    wanted = "one of " + ", ".join(repr(choice) for choice in choices)

    def check(name: str, value: object) -> None:
        if not isinstance(value, str):
            raise _type_error(name, wanted, value)
        if value not in choices:
            near = [choice for choice in choices if choice.lower() == value.lower()]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidArgument(f"option {name!r} must be {wanted}, not {value[:32]!r}{hint}")

    return check


def _count(low: int, high: int) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _type_error(name, f"an int between {low} and {high}", value)
        if not low <= value <= high:
            raise InvalidArgument(f"option {name!r} must be between {low} and {high}, not {value}")

    return check


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise _type_error(name, "a string", value)


def _bytes(name: str, value: object) -> None:
    if not isinstance(value, bytes):
        raise _type_error(name, "bytes", value)


def _function(name: str, value: object) -> None:
    if not callable(value):
        raise _type_error(name, "a function", value)


def _kind(check: Callable[[str, object], None]) -> dict[str, Any]:
    """The metadata of a field: how its value is checked."""
    return {"check": check}


def _check(options: Any) -> None:
    for option in dataclasses.fields(options):
        if not option.init:
            continue
        value = getattr(options, option.name)
        if value is not option.default:
            option.metadata["check"](option.name, value)


def _shared(context: RequestContext) -> RequestContext:
    """Return the one default context for all that equal it: it is known by identity on hot paths."""
    return DEFAULT_CONTEXT if context == DEFAULT_CONTEXT else context


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Options of a snapshot; each is a keyword of `snapshot`. Raises WrongType, InvalidArgument."""

    isolation: Isolation = field(default="SI", metadata=_kind(_choice("SI", "RC", "RCCheckTS")))
    """`SI`: the state at the snapshot's timestamp. `RC`: locks of transactions under way are passed over, the last
    committed state counts. `RCCheckTS`: as `RC`, and WriteConflict where something newer than the timestamp exists."""

    priority: Priority | None = field(default=None, metadata=_kind(_choice("low", "normal", "high")))
    """Priority of the requests in the store's queues. None: the client's `priority`."""

    replica_read: ReplicaRead | None = field(
        default=None, metadata=_kind(_choice("leader", "follower", "mixed", "prefer_leader", "closest"))
    )
    """Which replicas serve the reads. None: the client's `replica_read`."""

    stale_read: bool = field(default=False, metadata=_kind(_flag))
    """Whether any replica may answer at once, without asking its leader. The timestamp must lie some seconds back; what
    a replica cannot serve yet is read at the leader."""

    not_fill_cache: bool = field(default=False, metadata=_kind(_flag))
    """Whether the stores leave their block cache as it is: for scans of much data that is not read again soon."""

    cache: bool = field(default=True, metadata=_kind(_flag))
    """Whether values that were read are kept for a second reading of the same snapshot."""

    keys_only: bool = field(default=False, metadata=_kind(_flag))
    """Whether scans return `b""` for every value."""

    sample_step: int = field(default=0, metadata=_kind(_count(0, (1 << 32) - 1)))
    """Scans: answer one pair and pass over `sample_step - 1` behind it, within each region's page. 0: answer all."""

    task_id: int = field(default=0, metadata=_kind(_count(0, _MAX_U64)))
    """Number that joins the requests of one task in the store's scheduling. 0: none."""

    request_source: str | None = field(default=None, metadata=_kind(_text))
    """Name of the origin of the requests, for the store's metrics. None: the client's `request_source`."""

    resource_group_tag: bytes | None = field(default=None, metadata=_kind(_bytes))
    """Opaque tag of the requests for the store's resource metering. None: the client's."""

    _context: RequestContext = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        if self.stale_read and self.isolation != "SI":
            raise InvalidArgument("option 'stale_read' needs isolation 'SI'")
        if self.stale_read and self.replica_read == "leader":
            raise InvalidArgument("option 'stale_read' contradicts replica_read='leader': leave out one of the two")
        object.__setattr__(self, "_context", _shared(self._make_context()))

    def context(self) -> RequestContext:
        """Return what the requests of the snapshot say: the same object every time."""
        return self._context

    def _make_context(self) -> RequestContext:
        return RequestContext(
            isolation=_ISOLATION[self.isolation],
            priority=self.priority,
            not_fill_cache=self.not_fill_cache,
            replica_read=self.replica_read,
            stale_read=self.stale_read,
            request_source=self.request_source,
            resource_group_tag=self.resource_group_tag,
            task_id=self.task_id,
        )


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TxnOptions:
    """Options of a transaction; each is a keyword of `begin`, `run`, `attempts`. Raises WrongType, InvalidArgument."""

    pessimistic: bool = field(default=False, metadata=_kind(_flag))
    """Whether `put`, `insert`, `delete` and `lock_keys` lock their keys at once, so that the commit meets no conflict.
    False: conflicts show at the commit, as WriteConflict."""

    isolation: Isolation = field(default="SI", metadata=_kind(_choice("SI", "RC")))
    """`SI`: reads see the state at `start_ts`. `RC`: every read sees the last committed state. The transaction's own
    writes are seen in both."""

    priority: Priority | None = field(default=None, metadata=_kind(_choice("low", "normal", "high")))
    """Priority of the requests in the store's queues. None: the client's `priority`."""

    start_ts: int | None = field(default=None, metadata=_kind(_count(1, _MAX_U64 - 1)))
    """Timestamp to begin at, for reads of that moment and writes that conflict with everything since. None: a new one
    of the cluster's oracle."""

    # --- commit -------------------------------------------------------------------------------------------------------

    async_commit: bool = field(default=True, metadata=_kind(_flag))
    """Whether the commit may count as done when all keys are prewritten, one round trip earlier. Taken for at most
    `async_commit_keys` keys of together `async_commit_bytes`; otherwise, and where the store declines, 2PC."""

    one_pc: bool = field(default=True, metadata=_kind(_flag))
    """Whether a transaction whose writes fit in one request to one region is committed by that request alone."""

    causal: bool = field(default=False, metadata=_kind(_flag))
    """Whether the commit timestamp needs to be ordered only with what this transaction read and wrote. Spares a request
    to the oracle in `async_commit` and `one_pc`; a reader in another process that begins after the commit, but learnt
    nothing from this one, may then miss it."""

    async_commit_keys: int = field(default=256, metadata=_kind(_count(1, 65_536)))
    """Most keys of a transaction that is committed by `async_commit`."""

    async_commit_bytes: int = field(default=4096, metadata=_kind(_count(1, 1 << 20)))
    """Most bytes of keys of such a transaction: all of them are written beside the primary."""

    async_commit_window_ms: int = field(default=2000, metadata=_kind(_count(0, 60_000)))
    """Milliseconds from prewrite within which the commit timestamp of `async_commit` and `one_pc` must lie; where the
    store would need a later one, 2PC goes on."""

    commit_wait_until: int | None = field(default=None, metadata=_kind(_count(0, _MAX_U64 - 1)))
    """Timestamp that the commit timestamp must exceed; the commit waits for the oracle to pass it, at most
    `commit_wait_timeout_ms`. None: no wait."""

    commit_wait_timeout_ms: int = field(default=1000, metadata=_kind(_count(0, 60_000)))
    """Milliseconds that such a wait may last; then the transaction is rolled back."""

    commit_ts_check: Callable[[int], bool] | None = field(default=None, metadata=_kind(_function))
    """Function that is asked whether a commit timestamp will do, before anything is committed; False rolls back. Rules
    `async_commit` and `one_pc` out, where the timestamp is the store's choice. None: every timestamp will do."""

    # --- locks --------------------------------------------------------------------------------------------------------

    lock_ttl_ms: int | None = field(default=None, metadata=_kind(_count(1, 3_600_000)))
    """Milliseconds that the locks live without a sign of this client. None: by size, 3 to 20 s; 20 s where heartbeats
    keep them alive, as in pessimistic and large transactions. They come every 10 s: less than that lets others end a
    transaction that takes longer."""

    fair_locking: bool = field(default=False, metadata=_kind(_flag))
    """Pessimistic: whether a key that was written meanwhile is locked all the same, for the caller to read again,
    instead of making it queue anew. For keys that many transactions fight over."""

    # --- size ---------------------------------------------------------------------------------------------------------

    pipelined: bool = field(default=False, metadata=_kind(_flag))
    """Whether writes are sent to the stores while the transaction goes on, so that its size is not bound by memory.
    Optimistic only; no savepoints, no locks, no `async_commit`, no `one_pc`."""

    max_entry_bytes: int = field(default=6 << 20, metadata=_kind(_count(1, 1 << 25)))
    """Most bytes of one key with its value; more is TransactionTooLarge at `put`. Stores refuse 8 MiB by default
    (TiKV's raftstore.raft-entry-max-size), which is TransactionTooLarge at the commit; no message holds over 32 MiB."""

    max_txn_bytes: int = field(default=100 << 20, metadata=_kind(_count(1, 1 << 40)))
    """Most bytes of keys and values of all writes that are held in memory; more is TransactionTooLarge at `put`. Does
    not hold for `pipelined`."""

    flush_keys: int = field(default=10_000, metadata=_kind(_count(1, 10_000_000)))
    """`pipelined`: least number of keys that are flushed together, with `flush_bytes`."""

    flush_bytes: int = field(default=16 << 20, metadata=_kind(_count(1, 1 << 31)))
    """`pipelined`: least bytes that are flushed together; eight times as many are flushed without `flush_keys`, and
    writing waits while a flush of that size is under way."""

    presplit_keys: int = field(default=100_000, metadata=_kind(_count(1, 1 << 31)))
    """Keys within one region from which the region is split before the prewrite."""

    # --- the requests -------------------------------------------------------------------------------------------------

    assertions: AssertionLevel = field(default="off", metadata=_kind(_choice("off", "fast", "strict")))
    """Whether the stores check what a write was told about its key's existence: `fast` where it costs no read, `strict`
    always. A broken one is AssertionFailed."""

    disk_full: DiskFull = field(
        default="not_allowed", metadata=_kind(_choice("not_allowed", "almost_full", "already_full"))
    )
    """How full the stores' disks may be for the writes to be taken."""

    txn_source: int = field(default=0, metadata=_kind(_count(0, _MAX_U64)))
    """Number that is kept with the writes and tells readers of the change log where they came from. 0: none."""

    replica_read: ReplicaRead | None = field(
        default=None, metadata=_kind(_choice("leader", "follower", "mixed", "prefer_leader", "closest"))
    )
    """Which replicas serve the reads. None: the client's `replica_read`."""

    not_fill_cache: bool = field(default=False, metadata=_kind(_flag))
    """Whether reads leave the stores' block cache as it is."""

    cache: bool = field(default=True, metadata=_kind(_flag))
    """Whether values that were read are kept for a second reading in this transaction."""

    task_id: int = field(default=0, metadata=_kind(_count(0, _MAX_U64)))
    """Number that joins the requests of one task in the store's scheduling. 0: none."""

    request_source: str | None = field(default=None, metadata=_kind(_text))
    """Name of the origin of the requests, for the store's metrics. None: the client's `request_source`."""

    resource_group_tag: bytes | None = field(default=None, metadata=_kind(_bytes))
    """Opaque tag of the requests for the store's resource metering. None: the client's."""

    _read_options: ReadOptions = field(init=False, repr=False, compare=False)
    _write_context: RequestContext = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        if self.pipelined and self.pessimistic:
            raise InvalidArgument("option 'pipelined' contradicts 'pessimistic': leave out one of the two")
        if self.fair_locking and not self.pessimistic:
            raise InvalidArgument("option 'fair_locking' needs pessimistic=True")
        object.__setattr__(self, "_read_options", self._make_read_options())
        object.__setattr__(self, "_write_context", _shared(self._make_write_context()))

    def read_options(self) -> ReadOptions:
        """Return the options of the snapshot that the transaction reads: the same object every time."""
        return self._read_options

    def write_context(self) -> RequestContext:
        """Return what the requests that write say: the same object every time."""
        return self._write_context

    def _make_read_options(self) -> ReadOptions:
        return ReadOptions(
            isolation=self.isolation,
            priority=self.priority,
            replica_read=self.replica_read,
            not_fill_cache=self.not_fill_cache,
            cache=self.cache,
            task_id=self.task_id,
            request_source=self.request_source,
            resource_group_tag=self.resource_group_tag,
        )

    def _make_write_context(self) -> RequestContext:
        return RequestContext(
            priority=self.priority,
            request_source=self.request_source,
            resource_group_tag=self.resource_group_tag,
            task_id=self.task_id,
            txn_source=self.txn_source,
            disk_full_opt=_DISK_FULL[self.disk_full],
        )


# --- from keywords ----------------------------------------------------------------------------------------------------

_DEFAULT_TXN: Final = TxnOptions()
_DEFAULT_READ: Final = ReadOptions()


def txn_options(options: Mapping[str, Any]) -> TxnOptions:
    """Return the options that the keywords of `begin` say. Raises WrongType, InvalidArgument (also an unknown name)."""
    return cast("TxnOptions", _kept(TxnOptions, "a transaction", options)) if options else _DEFAULT_TXN


def read_options(options: Mapping[str, Any]) -> ReadOptions:
    """Return the options that the keywords of `snapshot` say. Raises as `txn_options` does."""
    return cast("ReadOptions", _kept(ReadOptions, "a snapshot", options)) if options else _DEFAULT_READ


def _kept(kind: Any, owner: str, options: Mapping[str, Any]) -> Any:
    try:
        return _make_kept(kind, owner, **options)
    except TypeError as error:
        if isinstance(error, WrongType):
            raise
        return _make(kind, owner, **options)  # a value that cannot be hashed: its check says what is wrong


def _make(kind: Any, owner: Any, /, **options: Any) -> Any:
    known = [option.name for option in dataclasses.fields(kind) if option.init]
    for name in options:
        if name not in known:
            raise WrongType(f"unknown option {name!r} of {owner}{relatives(name, known)}")
    return kind(**options)


_make_kept: Final = functools.lru_cache(_KEPT, typed=True)(_make)  # typed: 1 is not True
