"""The raw client over the wire against a model cluster: every operation, across regions that split and move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytikv
import pytikv.ambient
import pytikv.client.raw_remote
from pytikv.ambient import Ambient
from pytikv.call_context import CallContext, Secret
from pytikv.codec import api
from pytikv.wire.errors import RpcError, Status


@pytest.fixture(params=["v1", "v2"])
def cluster(request, make_model):
    codec = api.raw_v1() if request.param == "v1" else api.v2(5, is_raw=True)
    return make_model(codec=codec)


def test_single_keys(cluster) -> None:
    kv = cluster.client()
    assert kv.get(b"k") is None
    kv.put(b"k", b"v")
    kv.put(b"", b"empty key")
    kv.put(b"e", b"")
    assert (kv.get(b"k"), kv.get(b""), kv.get(b"e")) == (b"v", b"empty key", b"")
    assert kv.exists(b"e")
    assert not kv.exists(b"nope")
    kv.delete(b"k")
    assert kv.get(b"k") is None
    assert cluster.data.keys() == {cluster.codec.prefix + b"", cluster.codec.prefix + b"e"}


def test_the_fast_path_is_one_message_and_no_wait(cluster) -> None:
    kv = cluster.client()
    kv.put(b"k", b"v")
    kv.get(b"k")
    cluster.calls.clear()
    for _ in range(3):
        kv.get(b"k")
    assert cluster.names() == ["RawGet"] * 3
    assert cluster.rt.slept == []
    context = cluster.calls[0][2].context
    assert (context.region_id, context.peer.store_id, context.cluster_id) == (1, 1, 42)
    assert context.max_execution_duration_ms == 5000
    assert context.request_source == "external_pytikv"
    assert context.api_version == (2 if cluster.codec.prefix else 0)
    assert context.keyspace_id == cluster.codec.keyspace_id


def test_contexts_say_what_options_say(model) -> None:
    kv = model.client(priority="high", request_source="etl", resource_group="rg", resource_group_tag=b"t")
    kv.put(b"k", b"v")
    kv.with_options(priority="low", cf="write").get(b"k")
    first, second = model.calls[0][2], model.calls[1][2]
    assert (first.context.priority, second.context.priority) == (2, 1)
    assert (first.cf, second.cf) == ("", "write")
    for request in (first, second):
        assert request.context.request_source == "etl"
        assert request.context.resource_group_tag == b"t"
        assert request.context.resource_control_context.resource_group_name == "rg"


@pytest.mark.parametrize("name", ["shop", None])
def test_contexts_name_the_keyspace(make_model, name: str | None) -> None:
    model = make_model(codec=api.v2(5, is_raw=True))
    kv = model.client(keyspace=name)
    kv.put(b"k", b"v")
    kv.batch_get([b"k"])
    kv.with_options(replica_read="follower").get(b"k")
    assert model.names() == ["RawPut", "RawBatchGet", "RawGet"]
    assert {request.context.keyspace_name for _, _, request in model.calls} == {name or ""}
    assert {request.context.keyspace_id for _, _, request in model.calls} == {5}


def test_deadlines_reach_the_store(model) -> None:
    kv = model.client(timeout=2.0)
    kv.get(b"k")
    kv.get(b"k")
    assert {request.context.max_execution_duration_ms for _, _, request in model.calls} == {2000}
    model.calls.clear()
    kv.put(b"k", b"v")
    token = pytikv.ambient._ambient.set(Ambient(model.rt.now() + 0.25))
    try:
        kv.get(b"k")
    finally:
        pytikv.ambient._ambient.reset(token)
    assert model.calls[-1][2].context.max_execution_duration_ms == 250


@pytest.mark.parametrize("around", ["deadline", "long_deadline", "context", "class", "class_of_client"])
def test_the_fast_path_stays_open(model, around, monkeypatch) -> None:
    """Whatever surrounds a call, but for a user's token, it goes without the general loop."""
    kv = model.client(
        timeout=2.0, sla={"core": 0.3}, **({"service_class": "core"} if around == "class_of_client" else {})
    )
    kv.put(b"k", b"v")
    model.calls.clear()

    async def general(*_: object, **__: object) -> bytes:
        raise AssertionError("the general loop was entered")

    monkeypatch.setattr("pytikv.client.request_sender.RequestSender.send", general)
    ambient = {
        "deadline": Ambient(model.rt.now() + 0.3),
        "long_deadline": Ambient(model.rt.now() + 100.0),
        "context": Ambient(None, CallContext(trace_id="ab" * 16, request_source="shop")),
        "class": Ambient(service_class="core"),
    }.get(around)
    token = pytikv.ambient._ambient.set(ambient)
    try:
        kv.put(b"k", b"w")
        assert kv.get(b"k") == b"w"
        assert kv.batch_get([b"k"]) == {b"k": b"w"}
    finally:
        pytikv.ambient._ambient.reset(token)
    contexts = [request.context for _, _, request in model.calls]
    assert [context.max_execution_duration_ms for context in contexts] == [
        pytest.approx(2000 if around in ("long_deadline", "context") else 300, abs=1)
    ] * 3
    assert {context.trace_id for context in contexts} == {b"\xab" * 16 if around == "context" else b""}
    assert model.alone == []


def test_a_users_token_goes_by_itself(model) -> None:
    kv = model.client()
    kv.put(b"k", b"v")
    token = pytikv.ambient._ambient.set(Ambient(None, CallContext(user_token=Secret("of-alice"))))
    try:
        kv.put(b"k", b"w")
        assert kv.get(b"k") == b"w"
    finally:
        pytikv.ambient._ambient.reset(token)
    kv.get(b"k")
    metadata = {"authorization": "Bearer of-alice"}
    assert model.alone == [("RawPut", metadata), ("RawGet", metadata)]


@pytest.mark.parametrize("name", ["get", "put", "delete", "batch_put"])
def test_time_lost_on_the_fast_path_counts(model, name) -> None:
    kv = model.client(timeout=2.0)
    kv.get(b"k")
    serve = model.serve

    def never(address: str, name: str, data: bytes, deadline: float) -> bytes:
        serve(address, name, data, deadline)
        model.rt.clock = deadline
        raise RpcError(Status.DEADLINE_EXCEEDED, "no answer within the deadline")

    model.serve = never
    arguments = {"get": (b"k",), "put": (b"k", b"v"), "delete": (b"k",), "batch_put": ({b"k": b"v", b"l": b"w"},)}
    began = model.rt.now()
    with pytest.raises(pytikv.TikvError) as caught:
        getattr(kv, name)(*arguments[name])
    assert isinstance(caught.value, pytikv.DeadlineExceeded | pytikv.BatchError)
    assert model.rt.now() - began < 2.2


def test_ttl_and_atomic_mode(model) -> None:
    kv = model.client(atomic=True)
    kv.put(b"k", b"v", ttl=30)
    kv.delete(b"k")
    kv.batch_put({b"a": b"1"}, ttl=7)
    kv.batch_put([(b"a", b"1", 3), (b"b", b"2")])
    kv.batch_put([(b"a", b"1")])
    kv.batch_delete([b"a"])
    requests = [request for _, _, request in model.calls]
    assert all(request.for_cas for request in requests)
    assert requests[0].ttl == 30
    assert [list(request.ttls) for request in requests[2:5]] == [[7], [3, 0], []]


def test_batches_over_regions(cluster) -> None:
    kv = cluster.client()
    prefix = cluster.codec.prefix
    for key in (b"b", b"d", b"f"):
        cluster.split(prefix + key, leader=cluster.store_ids[len(key) % 3])
    pairs = {bytes([c]): b"v%d" % c for c in b"gfedcba"}
    kv.batch_put(pairs)
    assert cluster.names().count("RawBatchPut") == 4
    assert {key.removeprefix(prefix): value for key, value in cluster.data.items()} == pairs
    found = kv.batch_get([b"g", b"a", b"zz", b"c", b"a"])
    assert list(found.items()) == [(b"g", pairs[b"g"]), (b"a", pairs[b"a"]), (b"c", pairs[b"c"])]
    kv.batch_delete([b"a", b"g", b"nope"])
    assert sorted(kv.batch_get(pairs)) == [b"b", b"c", b"d", b"e", b"f"]
    assert kv.batch_get([]) == {}
    kv.batch_put({})
    kv.batch_delete([])


def test_batches_are_cut_by_bytes_and_number(model) -> None:
    kv = model.client(batch_put_bytes=100, batch_keys=3)
    kv.batch_put([(b"%03d" % n, b"v" * 47) for n in range(4)])
    assert [len(request.pairs) for _, _, request in model.calls] == [2, 2]
    model.calls.clear()
    kv.batch_get([b"%03d" % n for n in range(7)])
    assert [len(request.keys) for _, _, request in model.calls] == [3, 3, 1]


def test_scans(cluster) -> None:
    kv = cluster.client()
    prefix = cluster.codec.prefix
    keys = [b"%02d" % n for n in range(40)]
    kv.batch_put({key: b"v" + key for key in keys})
    cluster.data[b"\x00outside" if prefix else b"\xff" * 8192] = b"x"
    for key in (b"07", b"20", b"33"):
        cluster.split(prefix + key)
    expected = keys if prefix else [*keys, b"\xff" * 8192]
    for batch_size in (1, 3, 256):
        assert [k for k, _ in kv.scan(batch_size=batch_size)] == expected
        assert [k for k, _ in kv.scan(batch_size=batch_size, reverse=True)] == expected[::-1]
        assert [k for k, _ in kv.scan(b"05", b"35", batch_size=batch_size)] == keys[5:35]
        assert [k for k, _ in kv.scan(b"05", b"35", batch_size=batch_size, reverse=True)] == keys[5:35][::-1]
        assert [k for k, _ in kv.scan(b"05", None, limit=4, batch_size=batch_size)] == keys[5:9]
        assert [k for k, _ in kv.scan(b"", b"20", limit=4, reverse=True, batch_size=batch_size)] == keys[19:15:-1]
    assert list(kv.scan(b"05", b"07", keys_only=True)) == [(b"05", b""), (b"06", b"")]
    assert [k for k, _ in kv.scan_prefix(b"2")] == keys[20:30]
    assert kv.scan(b"9", b"1") == []
    assert kv.scan(limit=0) == []
    parts = kv.batch_scan([(b"05", b"07"), (b"30", None), (b"a", b"b")], each_limit=3)
    assert [[k for k, _ in part] for part in parts] == [keys[5:7], keys[30:33], []]


def test_ranges(cluster) -> None:
    kv = cluster.client()
    prefix = cluster.codec.prefix
    keys = [b"%02d" % n for n in range(20)]
    kv.batch_put(dict.fromkeys(keys, b"v"))
    for key in (b"07", b"13"):
        cluster.split(prefix + key)
    assert kv.checksum(b"05", b"15")[1] == 10
    whole = kv.checksum()
    assert (whole.total_kvs, whole.total_bytes) == (20, 20 * (3 + len(prefix)))
    assert kv.checksum(b"5", b"1") == (0, 0, 0)
    kv.delete_range(b"05", b"15")
    assert [k for k, _ in kv.scan()] == keys[:5] + keys[15:]
    kv.delete_prefix(b"1")
    kv.delete_range(b"9", b"3")
    assert [k for k, _ in kv.scan()] == keys[:5]
    if not prefix:
        cluster.data[b"\xff" * 8192] = b"the largest key"
    kv.delete_range(None, None)
    assert cluster.data == {}


def test_swaps(cluster) -> None:
    kv = cluster.client()
    assert kv.compare_and_swap(b"k", None, b"1") == (True, None)
    assert kv.compare_and_swap(b"k", b"0", b"2") == (False, b"1")
    assert kv.compare_and_swap(b"k", b"1", b"") == (True, b"1")
    assert kv.compare_and_swap(b"k", b"", None) == (True, b"")
    assert kv.put_if_absent(b"k", b"2") is None
    assert kv.put_if_absent(b"k", b"3") == b"2"
    cluster.cluster.store_configs.cas_delete = False
    with pytest.raises(pytikv.UnsupportedByServer, match="cas_delete"):
        kv.compare_and_swap(b"k", b"2", None)
    assert kv.get(b"k") == b"2"


def test_keep_reads_the_ttl_first(model) -> None:
    kv = model.client()
    model.RawGetKeyTTL = lambda request: pytikv.client.raw_remote.kvrpcpb.RawGetKeyTTLResponse(ttl=55)
    kv.compare_and_swap(b"k", None, b"1", ttl=pytikv.KEEP)
    assert model.names() == ["RawGetKeyTTL", "RawCompareAndSwap"]
    assert model.calls[1][2].ttl == 55
    model.cluster.store_configs.has_ttl = False
    model.calls.clear()
    kv.compare_and_swap(b"k", b"1", b"2", ttl=pytikv.KEEP)
    assert model.names() == ["RawCompareAndSwap"]  # nothing that would end a TiKV without TTL
    assert model.calls[0][2].ttl == 0
    with pytest.raises(pytikv.UnsupportedByServer):
        kv.get_ttl(b"k")
    assert model.names() == ["RawCompareAndSwap"]


def test_coprocessor(model) -> None:
    kv = model.client()
    model.split(b"m")
    answers = kv.coprocessor("name", "^1", [(b"a", b"z")], b"data")
    assert [answer for _, answer in answers] == [b"1:data", b"2:data"]
    assert [served[0] for served, _ in answers] == [(b"a", b"m"), (b"m", b"z")]


def test_regions_are_loaded_many_at_a_time(make_model) -> None:
    model = make_model()
    for n in range(1, 100):
        model.split(b"%02d" % n)
    kv = model.client()
    asked = []
    scan_regions = model.scan_regions
    model.scan_regions = lambda *args: asked.append(args) or scan_regions(*args)
    kv.batch_put({b"%02d" % n: b"v" for n in range(100)})
    assert len(asked) == 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.binary(max_size=3), st.binary(max_size=3)),
        st.tuples(st.just("delete"), st.binary(max_size=3)),
        st.tuples(st.just("split"), st.binary(min_size=1, max_size=3)),
        st.tuples(st.just("move"), st.binary(max_size=3), st.integers(1, 3)),
        st.tuples(st.just("batch_put"), st.dictionaries(st.binary(max_size=3), st.binary(max_size=3), max_size=8)),
        st.tuples(st.just("batch_delete"), st.lists(st.binary(max_size=3), max_size=5)),
        st.tuples(st.just("delete_range"), st.binary(max_size=3), st.binary(max_size=3)),
        st.tuples(st.just("check"), st.binary(max_size=2), st.binary(max_size=2), st.integers(1, 4), st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, is_v2=st.booleans())
def test_against_a_dictionary(make_model, steps, is_v2: bool) -> None:
    model = make_model(codec=api.v2(9, is_raw=True) if is_v2 else api.raw_v1())
    kv = model.client()
    twin: dict[bytes, bytes] = {}
    for step in steps:
        match step:
            case "put", key, value:
                kv.put(key, value)
                twin[key] = value
            case "delete", key:
                kv.delete(key)
                twin.pop(key, None)
            case "split", key:
                model.split(model.codec.prefix + key)
            case "move", key, store:
                model.at(model.codec.region_key(model.codec.prefix + key)).leader = store
            case "batch_put", pairs:
                kv.batch_put(pairs)
                twin.update(pairs)
            case "batch_delete", keys:
                kv.batch_delete(keys)
                for key in keys:
                    twin.pop(key, None)
            case "delete_range", low, high:
                kv.delete_range(low, high)
                twin = {k: v for k, v in twin.items() if not (low <= k and (not high or k < high))}
            case "check", low, high, size, reverse:
                inside = sorted(k for k in twin if low <= k and (not high or k < high))
                expected = [(k, twin[k]) for k in (inside[::-1] if reverse else inside)]
                assert kv.scan(low, high, reverse=reverse, batch_size=size) == expected
                assert kv.batch_get(inside) == dict(expected)
                assert kv.get(low) == twin.get(low)
    assert dict(kv.scan()) == twin
