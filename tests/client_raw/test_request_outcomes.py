"""What becomes of a call when stores refuse, fail or fall silent: retries, waits, caches, and what its error says."""

from __future__ import annotations

import pytest

from pytikv import (
    BatchError,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    Outcome,
    Overloaded,
    RegionUnavailable,
    ServerError,
    TikvError,
    UnsupportedByServer,
)
from pytikv.client.region_errors import TABLE
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.types import Store
from pytikv.wire.errors import ConnectFailed, ConnectionLost, RpcError, Status

LOST = "lost"


def error_of(kind: str, message: str = "x") -> errorpb.Error:
    error = errorpb.Error(message=message)
    if kind:
        getattr(error, kind).SetInParent()
    return error


def faults(model, *answers, only: str | None = None):
    """Let the first calls meet `answers`, in turn; None: served as usual."""
    left = list(answers)

    def fault(address, name, request):
        if only is not None and name != only:
            return None
        return left.pop(0) if left else None

    model.fault = fault
    return left


def always(model, answer):
    model.fault = lambda address, name, request: answer


@pytest.fixture(params=["cold", "warm"])
def kv(request, model):
    """A client that has not met the region yet, and one on its fast path."""
    client = model.client()
    if request.param == "warm":
        client.get(b"warm")
        model.calls.clear()
    return client


# --- region errors ----------------------------------------------------------------------------------------------------

ENDS_AT_ONCE = {"FlashbackInProgress", "FlashbackNotPrepared", "raft_entry_too_large"}


@pytest.mark.parametrize("kind", [*sorted(set(TABLE) - ENDS_AT_ONCE), ""])
@pytest.mark.parametrize("operation", ["get", "put", "scan"])
def test_one_region_error_is_survived(model, kv, kind: str, operation: str) -> None:
    model.data[b"k"] = b"old"
    left = faults(model, error_of(kind))
    if operation == "get":
        assert kv.get(b"k") == b"old"
    elif operation == "put":
        kv.put(b"k", b"new")
        assert model.data[b"k"] == b"new"
    else:
        assert kv.scan() == [(b"k", b"old")]
    assert left == []
    assert len(model.calls) in (2, 3)
    assert sum(model.rt.slept) < 2.0


@pytest.mark.parametrize("kind", sorted(ENDS_AT_ONCE))
def test_some_region_errors_end_the_call(model, kv, kind: str) -> None:
    always(model, error_of(kind))
    with pytest.raises((RegionUnavailable, InvalidArgument)) as caught:
        kv.put(b"k", b"v")
    assert len(model.calls) == 1
    assert caught.value.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize("kind", [*sorted(set(TABLE) - ENDS_AT_ONCE), "", "deadline"])
def test_lasting_region_errors_end_within_the_budget(model, kv, kind: str) -> None:
    always(model, error_of("" if kind == "deadline" else kind, "Deadline is exceeded" if kind == "deadline" else "x"))
    start = model.rt.now()
    with pytest.raises(TikvError) as caught:
        kv.put(b"k", b"v")
    error = caught.value
    assert model.rt.now() - start <= 10.0
    assert len(model.calls) < 150
    may_have_applied = kind in TABLE and TABLE[kind].may_have_applied
    assert error.outcome is (Outcome.UNDETERMINED if may_have_applied else Outcome.NOT_APPLIED)
    assert error.retryable
    assert "last causes" in str(error)


def test_classes_at_the_end_of_the_budget(model) -> None:
    kv = model.client(timeout=2.0)
    always(model, error_of("server_is_busy"))
    with pytest.raises(Overloaded, match="busy"):
        kv.get(b"k")
    always(model, error_of("region_not_found"))
    with pytest.raises(RegionUnavailable):
        kv.get(b"k")
    always(model, RpcError(Status.UNAVAILABLE, "reset"))
    with pytest.raises(ConnectionFailed, match="reset"):
        kv.get(b"k")


def test_the_leader_named_is_asked_next_and_remembered(model) -> None:
    kv = model.client()
    kv.get(b"warm")
    model.calls.clear()
    model.regions[0].leader = 3
    kv.get(b"k")
    assert model.addresses() == ["store1", "store3"]
    model.calls.clear()
    kv.get(b"k")
    assert model.addresses() == ["store3"]
    assert model.rt.slept == []


def test_nobody_knows_the_leader(model, kv) -> None:
    faults(model, error_of("not_leader"), error_of("not_leader"))
    model.regions[0].leader = 3
    assert kv.get(b"k") is None
    assert set(model.addresses()) == {"store1", "store2", "store3"}
    assert model.rt.slept


def test_a_split_needs_no_wait(model, kv) -> None:
    model.split(b"m", leader=2)
    kv.put(b"a", b"1")
    kv.put(b"z", b"1")
    assert model.rt.slept == []
    assert model.names().count("RawPut") <= 4


def test_a_store_behind_is_waited_for(model, kv) -> None:
    stale = model.regions[0].pb()
    model.split(b"m")
    kv.get(b"a")
    model.calls.clear()
    error = errorpb.Error(message="x")
    error.epoch_not_match.current_regions.append(stale)
    faults(model, error)
    kv.get(b"a")
    assert model.addresses() == ["store1", "store1"]
    assert model.rt.slept


def test_pd_behind_does_not_bring_the_old_region_back(model) -> None:
    kv = model.client()
    kv.get(b"a")
    old = model.regions[0].meta()
    model.split(b"m")
    kv.get(b"z")
    always(model, None)
    faults(model, error_of("region_not_found"))
    model.pd_lag = [old, old]
    assert kv.get(b"a") is None
    assert model.rt.slept


def test_store_not_match_asks_for_the_store_anew(model, kv) -> None:
    faults(model, error_of("store_not_match"))
    kv.get(b"k")
    assert model.forgotten == ["store1:20160"]


def test_a_busy_leader_is_doubted(model) -> None:
    """A half-dead store that only says "busy" while another leads (client-go#2028)."""
    kv = model.client()
    kv.get(b"k")
    model.regions[0].leader = 2
    model.fault = lambda address, name, request: error_of("server_is_busy") if address.startswith("store1") else None
    model.calls.clear()
    kv.put(b"k", b"v")
    assert model.addresses() == ["store1", "store1", "store1", "store2"]  # once on the fast path, twice in the loop
    assert sum(model.rt.slept) < 1.0


# --- failures of the way ----------------------------------------------------------------------------------------------


def test_an_idle_connection_that_died_costs_no_wait(model, kv) -> None:
    faults(model, ConnectionLost("closed by the peer", not_processed=True))
    assert kv.get(b"k") is None
    assert model.rt.slept == []


@pytest.mark.parametrize("not_processed", [True, False])
def test_reads_are_sent_again(model, kv, not_processed: bool) -> None:
    model.data[b"k"] = b"v"
    faults(model, *[ConnectionLost("reset", not_processed=not_processed)] * 3)
    assert kv.get(b"k") == b"v"


def test_a_lost_put_is_sent_again_and_says_so(model, kv) -> None:
    faults(model, LOST)
    kv.put(b"k", b"v")
    assert model.data[b"k"] == b"v"
    assert [request.context.is_retry_request for _, _, request in model.calls] == [False, True]


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_a_lost_write_is_reported_where_that_is_wanted(model, operation: str) -> None:
    kv = model.client(retry_lost_writes=False)
    for state in ("cold", "warm"):
        model.calls.clear()
        faults(model, LOST)
        with pytest.raises(ConnectionFailed) as caught:
            kv.put(b"k", b"v") if operation == "put" else kv.delete(b"k")
        assert caught.value.outcome is Outcome.UNDETERMINED, state
        assert len(model.calls) == 1


def test_a_write_that_was_not_processed_is_sent_again_always(model) -> None:
    kv = model.client(retry_lost_writes=False)
    faults(model, *[ConnectionLost("refused stream", not_processed=True)] * 2)
    kv.put(b"k", b"v")
    assert not any(request.context.is_retry_request for _, _, request in model.calls)


def test_a_lost_write_stays_undetermined_whatever_follows(model, kv) -> None:
    """RPC error, then region errors to the end: the first may have taken effect."""
    left = [LOST]
    model.fault = lambda address, name, request: left.pop() if left else error_of("server_is_busy")
    with pytest.raises(Overloaded) as caught:
        kv.put(b"k", b"v")
    assert caught.value.outcome is Outcome.UNDETERMINED
    left = [LOST]
    model.fault = lambda address, name, request: left.pop() if left else error_of("raft_entry_too_large")
    with pytest.raises(InvalidArgument) as caught:
        kv.put(b"k", b"v")
    assert caught.value.outcome is Outcome.UNDETERMINED


@pytest.mark.parametrize(
    "fault", [LOST, ConnectionLost("reset"), error_of("undetermined_result"), error_of("stale_command")]
)
def test_a_swap_is_never_sent_twice(model, kv, fault) -> None:
    always(model, fault)
    with pytest.raises(ConnectionFailed) as caught:
        kv.compare_and_swap(b"k", None, b"v")
    assert caught.value.outcome is Outcome.UNDETERMINED
    assert len(model.calls) == 1
    with pytest.raises(ConnectionFailed) as caught:
        kv.put_if_absent(b"k", b"v")
    assert caught.value.outcome is Outcome.UNDETERMINED


def test_a_swap_that_never_ran_is_sent_again(model, kv) -> None:
    faults(model, ConnectionLost("goaway", not_processed=True), error_of("not_leader"), error_of("server_is_busy"))
    assert kv.compare_and_swap(b"k", None, b"v").swapped


def test_a_swap_that_ran_out_of_time(model, kv) -> None:
    always(model, RpcError(Status.DEADLINE_EXCEEDED, "no answer within the deadline"))
    with pytest.raises(DeadlineExceeded) as caught:
        kv.compare_and_swap(b"k", None, b"v")
    assert caught.value.outcome is Outcome.UNDETERMINED


def test_other_replicas_are_asked_while_a_store_is_dead(model, kv) -> None:
    model.refused = {"store1:20160"}
    model.regions[0].leader = 2
    assert kv.get(b"k") is None
    assert model.addresses()[-1] == "store2"
    model.calls.clear()
    slept = sum(model.rt.slept)
    assert kv.get(b"k") is None
    assert model.addresses() == ["store2"]
    assert sum(model.rt.slept) == slept < 0.3


def test_a_lone_store_that_comes_back(make_model) -> None:
    model = make_model(stores=1)
    kv = model.client()
    kv.get(b"k")
    model.refused = {"store1:20160"}
    with pytest.raises(ConnectionFailed, match="refused") as caught:
        kv.put(b"k", b"v")
    assert caught.value.outcome is Outcome.NOT_APPLIED
    model.refused = set()
    kv.put(b"k", b"v")
    assert kv.get(b"k") == b"v"


def test_certificates_do_not_mend_themselves(model, kv) -> None:
    async def channel(address, deadline):
        raise ConnectionFailed("store1: certificate verify failed") from ConnectFailed("x", reason="tls")

    kv.core._backend._sender._pool = type("P", (), {"channel": staticmethod(channel)})()
    kv.core._backend._channel = channel
    with pytest.raises(ConnectionFailed, match="certificate"):
        kv.get(b"k")
    assert model.rt.slept == []


# --- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "details", "kind", "outcome"),
    [
        (Status.UNIMPLEMENTED, "unknown", UnsupportedByServer, Outcome.NOT_APPLIED),
        (Status.INVALID_ARGUMENT, "Cluster ID mismatch: client_cluster_id 42", ConfigError, Outcome.NOT_APPLIED),
        (Status.INVALID_ARGUMENT, "bad", ServerError, Outcome.NOT_APPLIED),
        (Status.UNAUTHENTICATED, "who", ConfigError, Outcome.NOT_APPLIED),
        (Status.RESOURCE_EXHAUSTED, "too large", Overloaded, Outcome.UNDETERMINED),
        (Status.DATA_LOSS, "oops", ServerError, Outcome.UNDETERMINED),
        (Status.FAILED_PRECONDITION, "oops", ServerError, Outcome.UNDETERMINED),
    ],
)
def test_statuses_that_end_a_call(model, kv, status, details, kind, outcome) -> None:
    always(model, RpcError(status, details))
    with pytest.raises(kind, match="store1") as caught:
        kv.put(b"k", b"v")
    assert len(model.calls) == 1
    assert caught.value.outcome is outcome


def test_an_unimplemented_batch_command_is_reported(model, kv) -> None:
    always(model, RpcError(Status.UNIMPLEMENTED, "empty answer", not_processed=True))
    with pytest.raises(UnsupportedByServer):
        kv.get(b"k")


@pytest.mark.parametrize("status", [1, 2, 4, 10, 13, 14])
def test_transient_statuses(model, kv, status: int) -> None:
    faults(model, RpcError(status, "x"))
    assert kv.get(b"k") is None


# --- refusals in the answer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ttl is not enabled, but get put request with ttl", UnsupportedByServer),
        ("Api version in request does not match with TiKV storage, cmd: raw_put", ConfigError),
        ("invalid cf name: nope", ValueError),
        ("max key size exceeded, size: 9000, limit: 8192", ValueError),
        ("something else", ServerError),
    ],
)
def test_refusals(model, kv, text: str, kind: type) -> None:
    for name, operation in [
        ("RawPut", lambda: kv.put(b"k", b"v")),
        ("RawDelete", lambda: kv.delete(b"k")),
        ("RawGet", lambda: kv.get(b"k")),
        ("RawCompareAndSwap", lambda: kv.compare_and_swap(b"k", None, b"v")),
        ("RawChecksum", lambda: kv.checksum()),
        ("RawDeleteRange", lambda: kv.delete_range(b"a", b"b")),
    ]:
        model.fault = lambda address, called, request, name=name: (
            model.answer(name, error=text) if called == name else None
        )
        with pytest.raises(kind) as caught:
            operation()
        assert caught.value.outcome is Outcome.NOT_APPLIED


def test_refusals_in_pairs(model, kv) -> None:
    text = 'Error(InvalidKeyMode { cmd: raw_batch_get, storage_api_version: V2, key: "HEX" })'
    pair = {"error": {"abort": text}}
    model.fault = lambda address, name, request: model.answer(name, **{"kvs" if name == "RawScan" else "pairs": [pair]})
    with pytest.raises(ConfigError):
        kv.batch_get([b"a"])
    with pytest.raises(ConfigError):
        kv.scan()


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_names_the_keys_at_fault_and_no_others(model, kv) -> None:
    model.split(b"m")
    long_key = b"z" * 9000
    pairs = {b"a%02d" % n: b"1" for n in range(20)} | {b"n%02d" % n: b"2" for n in range(20)} | {long_key: b"3"}
    with pytest.raises(BatchError) as caught:
        kv.batch_put(pairs)
    assert set(caught.value.failed) == {long_key}
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert model.data.keys() == pairs.keys() - {long_key}


def test_a_dead_region_fails_its_keys_only(make_model) -> None:
    model = make_model()
    model.split(b"m", leader=2)
    kv = model.client(timeout=2.0)
    model.fault = lambda address, name, request: error_of("server_is_busy") if request.context.region_id == 2 else None
    with pytest.raises(BatchError, match="1 of 2 keys") as caught:
        kv.batch_put({b"a": b"1", b"z": b"2"})
    assert set(caught.value.failed) == {b"z"}
    assert isinstance(caught.value.failed[b"z"], Overloaded)
    assert model.data == {b"a": b"1"}


def test_a_lost_batch_is_undetermined(model) -> None:
    kv = model.client(retry_lost_writes=False)
    model.split(b"m")
    faults(model, LOST)
    with pytest.raises(BatchError) as caught:
        kv.batch_delete([b"a", b"z"])
    assert {error.outcome for error in caught.value.failed.values()} == {Outcome.UNDETERMINED}
    assert len(caught.value.failed) == 1


def test_a_range_half_deleted_is_undetermined(model) -> None:
    kv = model.client()
    model.split(b"m")
    model.data.update({b"a": b"1", b"z": b"1"})
    model.fault = lambda address, name, request: (
        error_of("raft_entry_too_large") if name == "RawDeleteRange" and request.start_key >= b"m" else None
    )
    with pytest.raises(InvalidArgument) as caught:
        kv.delete_range(b"a", b"zz")
    assert caught.value.outcome is Outcome.UNDETERMINED
    assert model.data == {b"z": b"1"}


# --- replica reads ----------------------------------------------------------------------------------------------------


def test_follower_reads(model) -> None:
    kv = model.client(replica_read="follower")
    model.data[b"k"] = b"v"
    for _ in range(8):
        assert kv.get(b"k") == b"v"
    assert set(model.addresses()) == {"store2", "store3"}
    assert all(request.context.replica_read for _, _, request in model.calls)
    model.calls.clear()
    kv.put(b"k", b"w")
    assert model.addresses() == ["store1"]
    assert not model.calls[0][2].context.replica_read


def test_tiflash_met_for_the_first_time_gets_no_request(model, monkeypatch) -> None:
    async def get_store(store_id: int, deadline: float) -> Store:
        return Store(store_id, f"store{store_id}:20160", labels=(("engine", "tiflash" if store_id == 2 else "tikv"),))

    monkeypatch.setattr(model, "get_store", get_store)
    kv = model.client(replica_read="follower")
    for _ in range(8):
        kv.get(b"k")
    assert set(model.addresses()) == {"store3"}
    assert model.rt.slept == []


def test_a_follower_that_is_not_ready_gives_way_to_the_leader(model) -> None:
    kv = model.client(replica_read="follower")
    faults(model, error_of("data_is_not_ready"))
    kv.get(b"k")
    assert model.addresses()[1] == "store1"
    assert model.rt.slept == []


def test_a_busy_follower_gives_way_at_once(model) -> None:
    kv = model.client(replica_read="follower")
    faults(model, error_of("server_is_busy"))
    kv.get(b"k")
    assert len(set(model.addresses())) == 2
    assert model.rt.slept == []


def test_errors_hold_no_values(model, kv) -> None:
    always(model, ConnectionLost("reset"))
    for operation in (
        lambda: kv.put(b"k", b"s3cr3t-value"),
        lambda: kv.compare_and_swap(b"k", b"s3cr3t-value", b"s3cr3t-value"),
        lambda: kv.batch_put({b"k": b"s3cr3t-value"}),
    ):
        with pytest.raises(TikvError) as caught:
            operation()
        assert "s3cr3t" not in repr(caught.value)


# --- batches on the fast path -----------------------------------------------------------------------------------------


def warm(client):
    client.get(b"a")
    return client


def test_a_warm_batch_of_one_region_is_one_message(model, kv) -> None:
    warm(kv)
    model.calls.clear()
    kv.batch_put({b"a": b"1", b"b": b"22"})
    assert kv.batch_get([b"b", b"a"]) == {b"a": b"1", b"b": b"22"}
    kv.batch_delete([b"a", b"b"])
    assert model.names() == ["RawBatchPut", "RawBatchGet", "RawBatchDelete"]
    assert model.rt.slept == []


def test_a_warm_batch_outlives_a_split_and_a_region_error(model, kv) -> None:
    warm(kv)
    model.split(b"m", leader=2)
    kv.batch_put({b"z": b"1", b"a": b"2"})
    assert model.data == {b"z": b"1", b"a": b"2"}
    faults(model, error_of("server_is_busy"))
    assert kv.batch_get([b"z", b"a"]) == {b"z": b"1", b"a": b"2"}


def test_a_warm_batch_divides_by_regions_that_are_known(model, kv) -> None:
    model.split(b"m", leader=2)
    warm(kv)
    kv.get(b"z")
    model.calls.clear()
    kv.batch_put({b"n": b"1", b"z": b"2"})  # within the second
    kv.batch_put({b"n": b"1", b"a": b"2"})
    assert sorted(request.context.region_id for _, _, request in model.calls) == [1, 2, 2]


def test_a_lost_warm_batch(model, kv) -> None:
    warm(kv)
    model.calls.clear()
    faults(model, LOST)
    kv.batch_put({b"a": b"1"})
    assert [request.context.is_retry_request for _, _, request in model.calls] == [False, True]
    once = warm(model.client(retry_lost_writes=False))
    model.calls.clear()
    faults(model, LOST)
    with pytest.raises(BatchError) as caught:
        once.batch_put({b"a": b"1", b"b": b"2"})
    assert {key: error.outcome for key, error in caught.value.failed.items()} == dict.fromkeys(
        [b"a", b"b"], Outcome.UNDETERMINED
    )
    assert len(model.calls) == 1


def test_a_warm_batch_is_halved_until_the_key_at_fault_stands_alone(model, kv) -> None:
    warm(kv)
    long_key = b"z" * 9000
    pairs = {b"a%02d" % n: b"1" for n in range(20)} | {long_key: b"3"}
    with pytest.raises(BatchError) as caught:
        kv.batch_put(pairs)
    assert set(caught.value.failed) == {long_key}
    assert model.data.keys() == pairs.keys() - {long_key}


def test_a_connection_that_fails_delays_a_warm_batch(model, kv) -> None:
    warm(kv)
    faults(model, ConnectionLost("refused stream", not_processed=True))
    kv.batch_put({b"a": b"1"})
    assert model.data == {b"a": b"1"}
