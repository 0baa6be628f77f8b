"""What transactions stand on: one protocol, two implementations, both speaking kvproto's messages.

Snapshots, the two-phase commit and the lock resolver are written once, above it. `client.txn.remote` sends the messages
to stores; `pytikv.embedded_txn` hands them to the commands of a store in the process, not serialized. So the protocol
that recovers from every fault is one, and what the embedded store passes the remote one runs too.

Keys here are in wire form (codec.api: with mode byte and keyspace in API v2), in requests, answers and errors alike;
`codec` turns them into users' keys and back, at the edge. A `region` is whatever `find` and `group` return: callers
hand it to `send` and never look into it. `RegionStale` (client.request_sender) says that keys must be located and
grouped again; the wait for it has been slept.

Answers come free of region errors. What a store says about keys (`error`, `errors`, `pairs[].error`) is left to the
caller. `send` raises the TikvError that ends the call; for a request whose answer was lost, its outcome is
UNDETERMINED.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

from google.protobuf.message import Message

from pytikv.client.openers import Opener, opener
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import Rpc
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig, Priority, ReplicaRead
from pytikv.observe.state import ClusterStats
from pytikv.observe.telemetry import Telemetry
from pytikv.rt.interface import Runtime
from pytikv.types import Consistency, Timestamp

__all__ = [
    "DEFAULT_CONTEXT",
    "TELEMETRY",
    "GcState",
    "RequestContext",
    "TxnBackend",
    "TxnPiece",
    "as_call",
    "one_for_all",
    "open_txn_backend",
    "send_to_key",
]

ItemT = TypeVar("ItemT")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class RequestContext:
    """What a request says in kvrpcpb.Context beyond the client's options. Immutable, hashable: make one and keep it.

    `replica_read`: None as the client's option says; writes always go to the leader. `stale_read`: any replica, no
    read index; falls back to the leader by itself after DataIsNotReady.
    """

    isolation: int = 0
    """kvrpcpb.IsolationLevel: SI 0, RC 1, RCCheckTS 2."""
    priority: Priority | None = None
    not_fill_cache: bool = False
    replica_read: ReplicaRead | None = None
    stale_read: bool = False
    request_source: str | None = None
    resource_group_tag: bytes | None = None
    task_id: int = 0
    txn_source: int = 0
    disk_full_opt: int = 0
    resolved_locks: tuple[int, ...] = ()
    committed_locks: tuple[int, ...] = ()


DEFAULT_CONTEXT: Final = RequestContext()

TELEMETRY: Final = "telemetry"
"""The name of the connection's `Telemetry` in `TxnBackend.shared`; there while calls are observed."""


@dataclasses.dataclass(frozen=True, slots=True)
class TxnPiece:
    """A part of a range within one region, in wire form; an empty `end_key` is unbounded."""

    region: Any
    start_key: bytes
    end_key: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class GcState:
    """PD's word on GC: no transaction reads below `txn_safe_point`; data below `gc_safe_point` may be gone."""

    txn_safe_point: int
    gc_safe_point: int
    blocker: str = ""
    """What held the last advance back; empty when nothing did."""


class TxnBackend(Protocol):
    """The operations below transactions; see the module's docstring. Safe for all tasks (threads) of the client."""

    @property
    def rt(self) -> Runtime:
        """The runtime."""
        ...

    @property
    def config(self) -> ClientConfig:
        """The options in force; `api_version` is settled."""
        ...

    @property
    def codec(self) -> KeyCodec:
        """How users' keys become wire keys."""
        ...

    @property
    def shared(self) -> dict[str, Any]:
        """What all views of one `connect` share, by name (the lock resolver, the cached safe point). Never copied."""
        ...

    @property
    def prewrite_bytes(self) -> int:
        """Bytes of keys and values after which a prewrite is closed; what fits into one may be committed in one."""
        ...

    def with_config(self, config: ClientConfig) -> TxnBackend:
        """Return a view of the same data with other options. Cheap."""
        ...

    # --- time ---------------------------------------------------------------------------------------------------------

    async def timestamp(self, deadline: float) -> Timestamp:
        """Return a new timestamp of PD's oracle. Raises ConnectionFailed, ServerError."""
        ...

    async def low_resolution_timestamp(self, max_age_s: float, deadline: float) -> Timestamp:
        """Return a timestamp that was new at most `max_age_s` ago."""
        ...

    async def validate_read_ts(self, read_ts: int, deadline: float) -> None:
        """Raise InvalidArgument for a read timestamp in the future."""

    # --- the way to the data ------------------------------------------------------------------------------------------

    def call(self, deadline: float | None = None) -> Call:
        """Open the account of a call that ends at `deadline` (None: after the option `timeout`, or the ambient one)."""
        ...

    async def find(self, key: bytes, call: Call) -> Any:
        """Return the region that holds a key."""
        ...

    async def group(
        self, items: Sequence[ItemT], key_of: Callable[[ItemT], bytes] | None, call: Call
    ) -> list[tuple[Any, Sequence[ItemT]]]:
        """Divide items (at least one, distinct keys; `key_of` None: they are keys) by region."""
        ...

    async def pieces(self, start_key: bytes, end_key: bytes, call: Call) -> list[TxnPiece]:
        """Divide a range that is not empty by region, in key order."""
        ...

    async def first_piece(self, start_key: bytes, end_key: bytes, call: Call, *, reverse: bool = False) -> TxnPiece:
        """Return the part of a range that lies in its first region; with `reverse`, in its last."""
        ...

    async def get(
        self,
        key: bytes,
        version: int,
        call: Call | None,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        """KvGet, located and sent again until answered; the hottest request.

        Returns `bytes` (the value) or None (not found) where the answer holds nothing else, and the kvrpcpb.GetResponse
        for anything else (an error, or with `need_commit_ts`). `call` None: made only if the fast path fails.
        """
        ...

    async def batch_get(
        self,
        region: Any,
        keys: Sequence[bytes],
        version: int,
        call: Call,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        """KvBatchGet of keys in one region (at least one), sent as `send` does.

        Returns `(keys, values)`, two lists in the answer's order, where the answer holds nothing else and the backend
        can tell cheaply; otherwise the kvrpcpb.BatchGetResponse.
        """
        ...

    async def send(
        self, rpc: Rpc, region: Any, request: Message, call: Call, context: RequestContext = DEFAULT_CONTEXT
    ) -> Any:
        """Send a request (its `context` field unset) to a region; returns the response message. See the docstring."""
        ...

    async def send_to_all_stores(self, rpc: Rpc, request: Message, call: Call) -> list[tuple[str, Any]]:
        """Send to every store that is Up; returns (address, response message or TikvError) for each."""
        ...

    # --- PD -----------------------------------------------------------------------------------------------------------

    async def gc_state(self, deadline: float) -> GcState:
        """Return PD's safe points."""
        ...

    async def advance_txn_safe_point(self, target: int, deadline: float) -> GcState:
        """Raise the transaction safe point as far as barriers allow; returns what it is now and what held it back."""
        ...

    async def advance_gc_safe_point(self, target: int, deadline: float) -> GcState:
        """Raise the GC safe point (at most to the transaction safe point)."""
        ...

    async def set_gc_barrier(self, barrier_id: str, barrier_ts: int, ttl_s: int, deadline: float) -> None:
        """Hold GC at `barrier_ts` for `ttl_s` seconds. Raises InvalidArgument below the transaction safe point."""

    async def delete_gc_barrier(self, barrier_id: str, deadline: float) -> None:
        """Remove a barrier; one that is not there is no error."""

    async def scatter_region(self, region_id: int, deadline: float) -> None:
        """Ask PD to move a region's peers about."""

    async def is_scattered(self, region_id: int, deadline: float) -> bool:
        """Tell whether PD has finished moving a region's peers."""
        ...

    async def check_consistency(self) -> Consistency:
        """Check the store's records against each other. UnsupportedByServer over the wire."""
        ...

    # --- life ---------------------------------------------------------------------------------------------------------

    def observe(self, is_observed: bool) -> None:
        """Have the requests of all views, present and to come, report to `current_record()`, or no longer."""

    def stats(self, target: str) -> ClusterStats:
        """Return what the client holds at present. `target`: what was connected to."""
        ...

    async def close(self) -> None:
        """End the connection that `open_txn_backend` made; views share it."""

    def abandon(self, *, forked: bool) -> None:
        """As `close`, without waiting, from any thread: the client was forgotten, or lives in a forked child."""


async def send_to_key(
    backend: TxnBackend, rpc: Rpc, key: bytes, request: Message, call: Call, context: RequestContext = DEFAULT_CONTEXT
) -> Any:
    """Send a request about one key to the region that holds it by then; returns the response message."""
    while True:
        region = await backend.find(key, call)
        try:
            return await backend.send(rpc, region, request, call, context)
        except RegionStale:
            continue


def as_call(backend: TxnBackend, method: str, coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Return what is done for no call, to be awaited, as a call by itself; as it is where nobody listens."""
    telemetry: Telemetry | None = backend.shared.get(TELEMETRY)
    return coroutine if telemetry is None else telemetry.run(method, coroutine)


def one_for_all(backend: TxnBackend, name: str, make: Callable[[TxnBackend], T]) -> T:
    """Return what all views of one connect share under `name`; it is made when it is first asked for."""
    found: T | None = backend.shared.get(name)
    if found is None:  # setdefault is one step: two threads get the same one
        found = cast("T", backend.shared.setdefault(name, make(backend)))
    return found


open_txn_backend: Final[Opener[TxnBackend]] = opener(
    "open_txn", {"tikv": "pytikv.client.txn.remote", "embedded": "pytikv.embedded_txn"}
)
"""Opens the transactional data at a target."""
