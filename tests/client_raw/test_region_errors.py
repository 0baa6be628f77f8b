"""The table of region errors is whole, and read in order."""

import pytest

from pytikv.client.region_errors import TABLE, Action, classify
from pytikv.errors import InvalidArgument, Overloaded, RegionUnavailable
from pytikv.proto import errorpb_pb2 as errorpb


def test_every_kind_has_a_row() -> None:
    kinds = {field.name for field in errorpb.Error.DESCRIPTOR.fields} - {"message"}
    assert set(TABLE) == kinds


def error_of(kind: str) -> errorpb.Error:
    error = errorpb.Error(message="text")
    getattr(error, kind).SetInParent()
    return error


@pytest.mark.parametrize("kind", sorted(TABLE))
def test_each_kind_is_found(kind: str) -> None:
    verdict = classify(error_of(kind))
    assert verdict.kind == kind
    assert verdict.rule is TABLE[kind]
    assert verdict.text
    # Whatever is tried again without a change of replica or region waits first.
    if verdict.action in (Action.RETRY, Action.BUSY, Action.RELOCATE, Action.NEW_STORE, Action.LOST):
        assert verdict.rule.wait is not None


def test_only_two_kinds_may_have_applied() -> None:
    assert {kind for kind, rule in TABLE.items() if rule.may_have_applied} == {"undetermined_result", "stale_command"}
    assert all(rule.action is Action.LOST for rule in TABLE.values() if rule.may_have_applied)


def test_failures_have_their_class() -> None:
    assert classify(error_of("raft_entry_too_large")).rule.error is InvalidArgument
    assert classify(error_of("FlashbackInProgress")).rule.error is RegionUnavailable
    assert classify(error_of("disk_full")).rule.error is Overloaded


def test_several_kinds_in_one_error() -> None:
    error = error_of("not_leader")
    error.undetermined_result.SetInParent()
    assert classify(error).kind == "undetermined_result"


def test_texts() -> None:
    assert classify(errorpb.Error(message="Deadline is exceeded")).kind == "deadline"
    busy = errorpb.Error(message="x")
    busy.server_is_busy.reason = "deadline is exceeded"
    assert classify(busy).action is Action.NEXT_REPLICA
    assert classify(errorpb.Error(message="invalid max_ts update: 3")).action is Action.FAIL
    unknown = classify(errorpb.Error(message="TiKV is Closing"))
    assert (unknown.kind, unknown.action) == ("message", Action.NEXT_REPLICA)
    assert classify(errorpb.Error()).text


def test_busy_tells_how_long() -> None:
    error = errorpb.Error()
    error.server_is_busy.reason = "scheduler"
    error.server_is_busy.backoff_ms = 40
    error.server_is_busy.estimated_wait_ms = 250
    assert classify(error).at_least_s == 0.25


def test_a_kind_of_a_later_version() -> None:
    future = bytes([0xFA, 0x07, 0x00])  # field 127, empty message
    verdict = classify(errorpb.Error.FromString(future))
    assert verdict.action is Action.NEXT_REPLICA
