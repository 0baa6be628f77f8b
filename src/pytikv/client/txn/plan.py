"""What a commit will do, decided before anything is sent: mutations, primary, batches, times, protocol. Pure.

*Mutations* come from the buffer, in key order, with wire keys:

    entry      flags             optimistic        pessimistic
    PUT                          Put               Put
    PUT        MUST_NOT_EXIST    Insert            Insert
    DELETE                       Del               Del
    DELETE     MUST_NOT_EXIST    CheckNotExists    Lock where it is locked, else nothing
    NONE       LOCKED            Lock              Lock (SharedLock for a shared lock)
    NONE                         nothing           nothing

CheckNotExists is prewritten and never committed: it leaves no lock. In a pessimistic transaction a locked key is
prewritten with DO_PESSIMISTIC_CHECK (the lock must still be there); one that is not locked with DO_CONSTRAINT_CHECK, so
that a write which nobody protected conflicts as an optimistic one would, instead of covering a newer version.

*The primary* is the key that was locked first, where there is such a one, else the first key that leaves an exclusive
lock.

*Batches*: keys of one region, in order; one is closed when it has passed `BATCH_BYTES`, so an entry is never cut.

*The protocol*: 1PC where all mutations fit in one request, async commit within its limits, else 2PC. Shared locks and a
check of the commit timestamp rule the first two out, and so does a commit with nothing to commit.

Sources: client-go txnkv/transaction/2pc.go and prewrite.go.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from pytikv.client.txn.buffer import (
    ASSERT_EXIST,
    ASSERT_NOT_EXIST,
    LOCKED,
    LOCKED_ABSENT,
    LOCKED_EXISTS,
    LOCKED_SHARED,
    MUST_NOT_EXIST,
    Entry,
    Kind,
)
from pytikv.client.txn.options import TxnOptions
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Timestamp

__all__ = [
    "BATCH_BYTES",
    "HEARTBEAT_BYTES",
    "MANAGED_TTL_MS",
    "PRESPLIT_BYTES",
    "Mutation",
    "Protocol",
    "Terms",
    "batches",
    "broken_assertion",
    "choose_primary",
    "choose_protocol",
    "is_committed",
    "lock_ttl_ms",
    "max_commit_ts",
    "plan_mutations",
    "prewrite_request",
    "secondaries",
    "sizes",
    "split_keys",
    "write_size",
]

T = TypeVar("T")

BATCH_BYTES: Final = 16 << 10
HEARTBEAT_BYTES: Final = 32 << 20
PRESPLIT_BYTES: Final = 32 << 20
SPLIT_KEYS_MAX: Final = 2048
BASE_TTL_MS: Final = 3000
MANAGED_TTL_MS: Final = 20_000
_TTL_MS_PER_ROOT_MIB: Final = 6000
UNKNOWN_TXN_SIZE: Final = (1 << 64) - 1

_CHECKED_ONLY: Final = frozenset((kvrpcpb.CheckNotExists,))
_SKIP: Final = kvrpcpb.PrewriteRequest.SKIP_PESSIMISTIC_CHECK
_CHECK_LOCK: Final = kvrpcpb.PrewriteRequest.DO_PESSIMISTIC_CHECK
_CHECK_CONSTRAINT: Final = kvrpcpb.PrewriteRequest.DO_CONSTRAINT_CHECK


class Mutation(NamedTuple):
    """One key's part in a commit; fields as in kvrpcpb.Mutation, `key` in wire form.

    `expected_for_update_ts`: of a lock that was taken in spite of a newer version; 0: no matter.
    """

    op: int
    key: bytes
    value: bytes = b""
    assertion: int = kvrpcpb.Assertion.Value("None")
    action: int = _SKIP
    expected_for_update_ts: int = 0


class Protocol(NamedTuple):
    """How a transaction is to be committed; both False: two-phase commit."""

    is_async_commit: bool
    is_one_pc: bool


# --- mutations --------------------------------------------------------------------------------------------------------


def plan_mutations(
    items: Iterable[tuple[bytes, Entry]],
    encode_key: Callable[[bytes], bytes],
    *,
    is_pessimistic: bool,
    expected: Mapping[bytes, int] | None = None,
) -> list[Mutation]:
    """Return the mutations of a buffer. `expected`: by user key, the for_update_ts of locks taken with a conflict."""
    expected = expected or {}
    found = []
    for key, entry in items:
        op = _op(entry, is_pessimistic)
        if op is None:
            continue
        flags = entry.flags
        action = _SKIP
        if is_pessimistic:
            action = _CHECK_LOCK if flags & LOCKED else _CHECK_CONSTRAINT
        assertion = 1 if flags & ASSERT_EXIST else 2 if flags & ASSERT_NOT_EXIST else 0
        wire_key = encode_key(key)
        found.append(Mutation(op, wire_key, entry.value, assertion, action, expected.get(key, 0)))
    return found


def _op(entry: Entry, is_pessimistic: bool) -> int | None:
    flags = entry.flags
    if entry.kind is Kind.PUT:
        return kvrpcpb.Insert if flags & MUST_NOT_EXIST else kvrpcpb.Put
    if entry.kind is Kind.DELETE:
        if not flags & MUST_NOT_EXIST:
            return kvrpcpb.Del
        if not is_pessimistic:
            return kvrpcpb.CheckNotExists
    if not flags & LOCKED:
        return None
    return kvrpcpb.SharedLock if flags & LOCKED_SHARED else kvrpcpb.Lock


def broken_assertion(items: Iterable[tuple[bytes, Entry]]) -> tuple[bytes, int] | None:
    """Return the first key whose assertion contradicts what locking it told, with the assertion."""
    for key, entry in items:
        flags = entry.flags
        if flags & ASSERT_EXIST and flags & LOCKED_ABSENT:
            return key, ASSERT_EXIST
        if flags & ASSERT_NOT_EXIST and flags & LOCKED_EXISTS:
            return key, ASSERT_NOT_EXIST
    return None


def is_committed(mutation: Mutation) -> bool:
    """Tell whether the mutation leaves a lock that the commit must turn into a record."""
    return mutation.op != kvrpcpb.CheckNotExists


def choose_primary(mutations: Sequence[Mutation], locked_first: bytes | None) -> bytes:
    """Return the primary (wire form) of mutations, at least one. `locked_first`: what locks point to already."""
    if locked_first is not None:
        return locked_first
    for mutation in mutations:
        if mutation.op not in (kvrpcpb.CheckNotExists, kvrpcpb.SharedLock):
            return mutation.key
    return mutations[0].key


def secondaries(mutations: Iterable[Mutation], primary: bytes) -> list[bytes]:
    """Return the keys that whoever recovers an async commit must look at, beside the primary."""
    return [mutation.key for mutation in mutations if mutation.key != primary and is_committed(mutation)]


def write_size(mutation: Mutation) -> int:
    """Return the bytes that a mutation counts in a prewrite."""
    return len(mutation.key) + len(mutation.value)


def sizes(mutations: Iterable[Mutation]) -> list[tuple[bytes, int]]:
    """Return each key with what it counts in a prewrite."""
    return [(mutation.key, write_size(mutation)) for mutation in mutations]


def batches(items: Sequence[T], size_of: Callable[[T], int], limit: int = BATCH_BYTES) -> list[Sequence[T]]:
    """Cut items in order; a batch is closed when it has reached `limit` bytes."""
    found: list[Sequence[T]] = []
    start = size = 0
    for index, item in enumerate(items):
        if size >= limit:
            found.append(items[start:index])
            start, size = index, 0
        size += size_of(item)
    found.append(items[start:])
    return found


def split_keys(mutations: Sequence[Mutation], limit: int = PRESPLIT_BYTES) -> list[bytes]:
    """Return where a region is to be split before so many sorted mutations are written to it."""
    found = []
    size = 0
    for index, mutation in enumerate(mutations):
        if size >= limit and index:
            found.append(mutation.key)
            size = 0
        size += write_size(mutation)
    return found[:SPLIT_KEYS_MAX]


# --- times and protocol -----------------------------------------------------------------------------------------------


def lock_ttl_ms(size: int, elapsed_ms: int, chosen_ms: int | None = None) -> int:
    """Return how long prewritten locks live: by the bytes written, plus the time that passed since the beginning.

    The store counts from start_ts, so a transaction that read for long needs that time on top.
    """
    if chosen_ms is not None:
        return chosen_ms + elapsed_ms
    if size < BATCH_BYTES:
        return BASE_TTL_MS + elapsed_ms
    ttl_ms = int(_TTL_MS_PER_ROOT_MIB * math.sqrt(size / (1 << 20)))
    return min(max(ttl_ms, BASE_TTL_MS), MANAGED_TTL_MS) + elapsed_ms


def max_commit_ts(start_ts: int, elapsed_ms: int, window_ms: int) -> int:
    """Return the largest commit_ts that async commit and 1PC may take."""
    return start_ts + Timestamp.compose(elapsed_ms + window_ms)


def choose_protocol(mutations: Sequence[Mutation], options: TxnOptions) -> Protocol:
    """Return what is worth trying. Whether 1PC is possible shows when the batches are made: it needs a single one."""
    ops = {mutation.op for mutation in mutations}
    if options.commit_ts_check is not None or kvrpcpb.SharedLock in ops or ops <= _CHECKED_ONLY:
        return Protocol(False, False)
    is_async_commit = (
        options.async_commit
        and len(mutations) <= options.async_commit_keys
        and sum([len(mutation.key) for mutation in mutations]) <= options.async_commit_bytes
    )
    return Protocol(is_async_commit, options.one_pc)


# --- the request ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Terms:
    """What all prewrites of a transaction say alike. Falling back changes `is_async_commit` and `is_one_pc` once."""

    primary: bytes
    start_ts: int
    lock_ttl_ms: int
    for_update_ts: int = 0
    """Of a pessimistic transaction; 0: optimistic."""
    min_commit_ts: int = 0
    max_commit_ts: int = 0
    assertion_level: int = 0
    is_async_commit: bool = False
    is_one_pc: bool = False
    secondaries: Sequence[bytes] = ()

    @property
    def least_commit_ts(self) -> int:
        """The min_commit_ts of requests: above every timestamp that this transaction has acted at; never 0, because
        a lock with 0 could not be pushed and would block readers."""
        return max(self.min_commit_ts, self.start_ts + 1, self.for_update_ts + 1)

    @property
    def ttl_ms(self) -> int:
        """The TTL of requests. A pessimistic async commit's lock must not expire before its latest commit_ts: else
        whoever finds it expired could not tell that it fell back."""
        if not (self.is_async_commit and self.for_update_ts):
            return self.lock_ttl_ms
        span_ms = Timestamp(self.max_commit_ts).physical_ms - Timestamp(self.start_ts).physical_ms
        return max(self.lock_ttl_ms, span_ms + 1)


def prewrite_request(terms: Terms, batch: Sequence[Mutation], txn_size: int) -> kvrpcpb.PrewriteRequest:
    """Return the prewrite of one batch. `txn_size`: the keys of this transaction in the region."""
    request = kvrpcpb.PrewriteRequest(
        primary_lock=terms.primary,
        start_version=terms.start_ts,
        lock_ttl=terms.ttl_ms,
        for_update_ts=terms.for_update_ts,
        txn_size=txn_size,
        min_commit_ts=terms.least_commit_ts,
        max_commit_ts=terms.max_commit_ts,
        assertion_level=terms.assertion_level,  # type: ignore[arg-type]  # the stub knows the enum's members only
        use_async_commit=terms.is_async_commit,
        try_one_pc=terms.is_one_pc,
    )
    add = request.mutations.add
    for op, key, value, assertion, _, _ in batch:
        add(op=op, key=key, value=value, assertion=assertion)
    if terms.for_update_ts:
        request.pessimistic_actions.extend(mutation.action for mutation in batch)  # type: ignore[misc]
        for index, mutation in enumerate(batch):
            if mutation.expected_for_update_ts:
                request.for_update_ts_constraints.add(
                    index=index, expected_for_update_ts=mutation.expected_for_update_ts
                )
    if terms.is_async_commit and any(mutation.key == terms.primary for mutation in batch):
        request.secondaries.extend(terms.secondaries)
    return request
