"""What to do about each region error: one table for every kind in `errorpb.Error`, and the reading of it.

A store that cannot serve a request answers with a region error. `classify` turns one into a `Verdict`: the action, the
kind of wait before it, the class of error where the call ends, and whether the request may have taken effect. Nothing
is decided elsewhere; the request sender carries verdicts out.

Two kinds are told by text alone, as in client-go: "Deadline is exceeded" (the store gave up on the request's
max_execution_duration before doing it) and "invalid max_ts update". A kind that a later TiKV adds arrives as a bare
message: another replica is asked, and then the region is looked up again.

Every kind means that the request was *not* done, but two: `undetermined_result`, and `stale_command`, where a leader
lost its office with the command on its way; it may still be committed by its successor. client-go takes the second for
a refusal; we do not, because compare_and_swap would then report a swap that happened as one that did not.

Source: client-go internal/locate/region_request.go (onRegionErrorWithKind), replica_selector.go.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final

from pytikv.client import backoff
from pytikv.client.backoff import BackoffKind
from pytikv.errors import InvalidArgument, Overloaded, RegionUnavailable, ServerError, TikvError
from pytikv.proto import errorpb_pb2 as errorpb

__all__ = ["TABLE", "Action", "Rule", "Verdict", "classify"]


class Action(enum.Enum):
    """What the request sender does."""

    NEW_LEADER = "new_leader"  # take the leader named, else ask the other peers
    RETRY = "retry"  # the same peer again, after the wait
    NEXT_REPLICA = "next_replica"  # pass this peer over
    BUSY = "busy"  # another replica at once where one can serve, else wait for this one
    AT_LEADER = "at_leader"  # this replica cannot serve the read: the leader can
    RELOCATE = "relocate"  # drop the region and look it up again
    NEW_REGIONS = "new_regions"  # take the regions that the error carries, then route again
    NEW_STORE = "new_store"  # ask PD for the store again, close its connections, drop the region
    NEW_BUCKETS = "new_buckets"  # the region's buckets changed; the request is routed again
    LOST = "lost"  # the answer is not known: as if the connection had broken
    FAIL = "fail"  # end the call


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. `wait`: the kind of sleep before the next try; `error`: what `FAIL` raises."""

    action: Action
    wait: BackoffKind | None = None
    error: type[TikvError] = ServerError
    may_have_applied: bool = False


TABLE: Final[Mapping[str, Rule]] = {
    "undetermined_result": Rule(Action.LOST, backoff.TIKV_RPC, may_have_applied=True),
    "not_leader": Rule(Action.NEW_LEADER, backoff.REGION_SCHEDULING),
    "disk_full": Rule(Action.RETRY, backoff.DISK_FULL, Overloaded),
    "RecoveryInProgress": Rule(Action.RELOCATE, backoff.RECOVERY_IN_PROGRESS),
    "is_witness": Rule(Action.RELOCATE, backoff.IS_WITNESS),
    "FlashbackInProgress": Rule(Action.FAIL, error=RegionUnavailable),
    "FlashbackNotPrepared": Rule(Action.FAIL, error=RegionUnavailable),
    "region_not_found": Rule(Action.RELOCATE, backoff.REGION_MISS),
    "key_not_in_region": Rule(Action.RELOCATE, backoff.REGION_MISS),
    "epoch_not_match": Rule(Action.NEW_REGIONS, backoff.REGION_MISS),
    "bucket_version_not_match": Rule(Action.NEW_BUCKETS, backoff.REGION_MISS),
    "server_is_busy": Rule(Action.BUSY, backoff.SERVER_BUSY, Overloaded),
    "stale_command": Rule(Action.LOST, backoff.STALE_COMMAND, may_have_applied=True),
    "store_not_match": Rule(Action.NEW_STORE, backoff.REGION_MISS),
    "raft_entry_too_large": Rule(Action.FAIL, error=InvalidArgument),
    "max_timestamp_not_synced": Rule(Action.RETRY, backoff.MAX_TS_NOT_SYNCED),
    "region_not_initialized": Rule(Action.RETRY, backoff.REGION_NOT_INITIALIZED),
    "read_index_not_ready": Rule(Action.RETRY, backoff.REGION_SCHEDULING),
    "proposal_in_merging_mode": Rule(Action.RETRY, backoff.REGION_SCHEDULING),
    "data_is_not_ready": Rule(Action.AT_LEADER),
    "mismatch_peer_id": Rule(Action.RELOCATE, backoff.REGION_MISS),
}
"""One row for each kind, in the order in which an error that holds several is read."""

_DEADLINE_IN_STORE = "deadline is exceeded"
_DEADLINE: Final = Rule(Action.NEXT_REPLICA, backoff.SERVER_BUSY, Overloaded)
_MAX_TS: Final = Rule(Action.FAIL, error=ServerError)
_UNKNOWN: Final = Rule(Action.NEXT_REPLICA, backoff.REGION_MISS)


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A region error, understood. `kind`: its name in errorpb, or `message` for a bare text."""

    kind: str
    rule: Rule
    text: str
    at_least_s: float = 0.0

    @property
    def action(self) -> Action:
        """What to do."""
        return self.rule.action


def classify(error: errorpb.Error) -> Verdict:
    """Find the row for `error`. Never raises: what is unknown asks another replica, then looks the region up again."""
    for kind, rule in TABLE.items():
        if error.HasField(kind):
            return _known(kind, rule, error)
    message = error.message
    if _DEADLINE_IN_STORE in message.lower():
        return Verdict("deadline", _DEADLINE, "the store gave up: deadline is exceeded")
    if "invalid max_ts update" in message:
        return Verdict("invalid_max_ts", _MAX_TS, message)
    return Verdict("message", _UNKNOWN, message or "a region error of an unknown kind")


def _known(kind: str, rule: Rule, error: errorpb.Error) -> Verdict:
    if kind == "server_is_busy":
        busy = error.server_is_busy
        if _DEADLINE_IN_STORE in busy.reason.lower():
            return Verdict("deadline", _DEADLINE, "the store gave up: deadline is exceeded")
        wait_s = max(busy.backoff_ms, busy.estimated_wait_ms) / 1000
        return Verdict(kind, rule, f"server is busy: {busy.reason}" if busy.reason else "server is busy", wait_s)
    return Verdict(kind, rule, _text(kind, error))


def _text(kind: str, error: errorpb.Error) -> str:
    """Say what happened in few words. Messages of the store may quote keys, so only facts of known shape are kept."""
    if kind == "raft_entry_too_large":
        size_bytes = error.raft_entry_too_large.entry_size
        limit = "raftstore.raft-entry-max-size (8 MiB unless set)"
        return f"a write of {size_bytes} bytes is over the store's limit, {limit}"
    if kind == "store_not_match":
        found = error.store_not_match
        return f"store {found.actual_store_id} answered for store {found.request_store_id}"
    if kind == "disk_full":
        return f"disk full on stores {list(error.disk_full.store_id)}"
    return kind.replace("_", " ").lower() if kind.islower() else f"region error {kind}"
