"""Requests by bytes: the hot path beside protobuf, regions, bad input, and what waits for the disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.codec import envelope
from pytikv.errors import Outcome, StorageError
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.rt.aio import AioRuntime
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.pd.server import PdServer
from pytikv.server.services import hot
from pytikv.server.services.batch_commands import BatchCommands
from pytikv.server.services.kv_service import KvService
from pytikv.server.services.outcome import Blocking, Durable
from pytikv.server.services.tikv import AsyncKvService, tikv_routes
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import SplitChecker, SplitLimits, Store, open_store
from pytikv.wire.errors import RpcError, Status


def new_store(
    engine: Engine | None = None, version: ApiVersion = ApiVersion.V1, limits: SplitLimits | None = None
) -> Store:
    engine = engine or MemoryEngine()
    pd = PdServer(EngineMeta(engine), time=lambda: 1e9, getrandbits=random.getrandbits)
    return open_store(
        engine,
        pd,
        version,
        meta=lambda id: metapb.Store(id=id, address="x:1"),
        now_s=lambda: 1e9,
        split_limits=limits,
    )


def context_for(store: Store, key: bytes = b"") -> kvrpcpb.Context:
    region = store.regions.search(key)
    assert region is not None
    context = kvrpcpb.Context(
        region_id=region.id, peer=region.peer, region_epoch=region.meta.region_epoch, cluster_id=store.cluster_id
    )
    if store.api_version is ApiVersion.V2:
        context.api_version = kvrpcpb.V2
    return context


def put(store: Store, key: bytes, value: bytes, **fields: Any) -> bytes:
    return kvrpcpb.RawPutRequest(context=context_for(store), key=key, value=value, **fields).SerializeToString()


def get(store: Store, key: bytes, **fields: Any) -> bytes:
    return kvrpcpb.RawGetRequest(context=context_for(store), key=key, **fields).SerializeToString()


# --- the hot path -----------------------------------------------------------------------------------------------------

bodies = st.binary(max_size=300)


@given(context=st.binary(max_size=200), key=bodies, value=bodies, cf=st.sampled_from(["", "default", "lock"]))
@settings(max_examples=200)
def test_hot_requests_are_taken_apart_as_protobuf_would(context: bytes, key: bytes, value: bytes, cf: str) -> None:
    # An unknown field makes a context of any length.
    ctx = kvrpcpb.Context(resource_group_tag=context).SerializeToString()
    head = b"\x0a" + envelope.varint(len(ctx)) + ctx
    request = head + kvrpcpb.RawGetRequest(key=key, cf=cf).SerializeToString()
    assert hot.split_get(request) == ((ctx, key, cf.encode()) if key else None)
    request = head + kvrpcpb.RawPutRequest(key=key, value=value, cf=cf).SerializeToString()
    assert hot.split_put(request) == ((ctx, key, value, cf.encode()) if key else None)
    answer = kvrpcpb.RawGetResponse.FromString(hot.encode_value(value))
    assert answer == kvrpcpb.RawGetResponse(value=value)
    assert kvrpcpb.GetResponse.FromString(hot.encode_value(value)) == kvrpcpb.GetResponse(value=value)


@given(context=st.binary(max_size=200), key=bodies, version=st.integers(0, (1 << 64) - 1), tail=st.binary(max_size=4))
@settings(max_examples=200)
def test_hot_snapshot_reads_are_taken_apart_as_protobuf_would(
    context: bytes, key: bytes, version: int, tail: bytes
) -> None:
    ctx = kvrpcpb.Context(resource_group_tag=context).SerializeToString()
    head = b"\x0a" + envelope.varint(len(ctx)) + ctx
    request = kvrpcpb.GetRequest(key=key, version=version)
    data = head + request.SerializeToString()
    assert hot.split_kv_get(data) == ((ctx, key, version) if key and version else None)
    request.need_commit_ts = True
    assert hot.split_kv_get(head + request.SerializeToString()) is None
    parts = hot.split_kv_get(data + tail)
    if parts is not None:
        expected = kvrpcpb.GetRequest.FromString(data + tail)
        assert parts[1:] == (expected.key, expected.version)


@given(data=st.binary(max_size=60), tail=st.binary(max_size=8), cut=st.integers(0, 60))
@settings(max_examples=300)
def test_hot_requests_are_never_misread(data: bytes, tail: bytes, cut: int) -> None:
    request = kvrpcpb.RawPutRequest(context=kvrpcpb.Context(region_id=1), key=b"key", value=data).SerializeToString()
    for broken in (data, (request + tail)[: cut + len(tail)], request + tail):
        for split, kind in ((hot.split_get, kvrpcpb.RawGetRequest), (hot.split_put, kvrpcpb.RawPutRequest)):
            parts = split(broken)
            if parts is None:
                continue
            if not _is_text(parts[-1]) or not _is_context(parts[0]):
                continue  # those two were not looked into
            expected = kind.FromString(broken)
            assert parts[1] == expected.key
            assert parts[-1] == expected.cf.encode()


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_context(data: bytes) -> bool:
    try:
        kvrpcpb.Context.FromString(data)
    except DecodeError:
        return False
    return True


def test_hot_length_bombs_end() -> None:
    assert hot.split_get(b"\x0a" + b"\xff" * 1_000_000) is None
    assert hot.split_put(b"\x0a\x00\x12" + b"\xff" * 1_000_000) is None


@pytest.mark.parametrize("version", list(ApiVersion))
def test_hot_and_slow_paths_answer_alike(version: ApiVersion) -> None:
    store = new_store(version=version)
    service = KvService(store, sync=False)
    for _ in range(3):  # the first goes the long way, the others are remembered
        assert service.perform("RawPut", put(store, b"rk", b"v" * 200)) == b""
        assert (
            service.perform("RawGet", get(store, b"rk")) == kvrpcpb.RawGetResponse(value=b"v" * 200).SerializeToString()
        )
        assert service.perform("RawGet", get(store, b"rnone")) == b"\x20\x01"
        assert service.perform("RawPut", put(store, b"rempty", b"")) == b""
        assert service.perform("RawGet", get(store, b"rempty")) == b""
    long = kvrpcpb.RawPutResponse.FromString(service.perform("RawPut", put(store, b"r" * 9000, b"")))
    assert "max key size exceeded" in long.error
    assert (
        kvrpcpb.RawPutResponse.FromString(
            service.perform("RawPut", put(store, b"rk", b"v" * (9 << 20)))
        ).region_error.raft_entry_too_large.entry_size
        > 9 << 20
    )
    bad_cf = kvrpcpb.RawGetResponse.FromString(service.perform("RawGet", get(store, b"rk", cf="nope")))
    assert bad_cf.error
    if version is ApiVersion.V2:
        wrong_mode = kvrpcpb.RawGetResponse.FromString(service.perform("RawGet", get(store, b"x")))
        assert "Key mode mismatched" in wrong_mode.error


def test_a_remembered_context_is_forgotten_by_a_split() -> None:
    store = new_store()
    service = KvService(store, sync=False)
    for key in (b"a", b"z"):
        service.perform("RawPut", put(store, key, key))
    old = {key: get(store, key) for key in (b"a", b"z")}
    assert [service.perform("RawGet", old[key]) for key in old] == [b"\x1a\x01a", b"\x1a\x01z"]
    region = store.regions.search(b"a")
    assert region is not None
    split = kvrpcpb.SplitRegionRequest(context=context_for(store), split_keys=[b"m"], is_raw_kv=True)
    parts = kvrpcpb.SplitRegionResponse.FromString(service.perform("SplitRegion", split.SerializeToString()))
    assert [(part.start_key, part.end_key) for part in parts.regions] == [(b"", b"m"), (b"m", b"")]
    assert parts.regions[1].id == region.id
    for request in old.values():
        answer = kvrpcpb.RawGetResponse.FromString(service.perform("RawGet", request))
        current = answer.region_error.epoch_not_match.current_regions
        assert sorted((r.start_key, r.end_key) for r in current) == [(b"", b"m"), (b"m", b"")]
    assert (
        service.perform("RawGet", kvrpcpb.RawGetRequest(context=context_for(store, b"z"), key=b"z").SerializeToString())
        == b"\x1a\x01z"
    )


def test_regions_survive_a_restart() -> None:
    engine = MemoryEngine()
    store = new_store(engine)
    store.split(store.regions.entries[0], [b"m", b"d"])
    again = new_store(engine)
    assert again.id == store.id
    assert [entry.meta for entry in again.regions.entries] == [entry.meta for entry in store.regions.entries]
    assert [info.meta.id for info in again.pd.regions.scan(b"", b"")] == [entry.id for entry in again.regions.entries]


def test_an_empty_store_beside_a_cluster_is_refused() -> None:
    engine = MemoryEngine()
    store = new_store(engine)
    with pytest.raises(StorageError, match="PD knows of another store"):
        open_store(MemoryEngine(), store.pd, ApiVersion.V1, meta=lambda id: metapb.Store(id=id), now_s=lambda: 0.0)


@pytest.mark.parametrize("version", [ApiVersion.V1, ApiVersion.V2])
@pytest.mark.parametrize(
    "limits", [SplitLimits(size_bytes=20_000, keys=10**9), SplitLimits(size_bytes=10**9, keys=200)]
)
def test_grown_regions_are_split(version: ApiVersion, limits: SplitLimits) -> None:
    store = new_store(version=version, limits=limits)
    service = KvService(store, sync=False)
    for i in range(1000):
        key = b"r%05d" % i
        region_key = service._raw.region_key(key)
        request = kvrpcpb.RawPutRequest(context=context_for(store, region_key), key=key, value=b"v" * 90)
        assert service.perform("RawPut", request.SerializeToString()) == b""
    checker = SplitChecker(store)
    while checker.due():
        checker.step()
    entries = store.regions.entries
    assert 4 <= len(entries) <= 11
    assert [entry.end_key for entry in entries[:-1]] == [entry.start_key for entry in entries[1:]]
    assert entries[0].start_key == entries[-1].end_key == b""
    for i in range(0, 1000, 37):
        key = b"r%05d" % i
        request = kvrpcpb.RawGetRequest(context=context_for(store, service._raw.region_key(key)), key=key)
        assert service.perform("RawGet", request.SerializeToString()).endswith(b"v" * 90)


# --- bad input --------------------------------------------------------------------------------------------------------


def _status_of(service: KvService, rpc: str, data: bytes) -> int:
    try:
        service.perform(rpc, data)
    except RpcError as error:
        return error.status
    return Status.OK


def test_malformed_bytes_on_every_rpc() -> None:
    service = KvService(new_store())
    generator = random.Random(7)
    for rpc in service.handlers:
        for data in (
            b"",
            b"\x0a",
            b"\xff" * 20,
            b"\x0a\xff\xff\xff\xff\x0f",
            *(generator.randbytes(n) for n in range(40)),
        ):
            assert _status_of(service, rpc, data) in (Status.OK, Status.INTERNAL, Status.INVALID_ARGUMENT)
    with pytest.raises(RpcError) as caught:
        service.perform("KvGC", b"")
    assert caught.value.status == Status.UNIMPLEMENTED


def test_wrong_cluster() -> None:
    store = new_store()
    service = KvService(store)
    context = context_for(store)
    context.cluster_id += 1
    for rpc, request in (
        ("RawGet", kvrpcpb.RawGetRequest(context=context, key=b"k")),
        ("RawPut", kvrpcpb.RawPutRequest(context=context, key=b"k")),
        ("RawScan", kvrpcpb.RawScanRequest(context=context)),
        ("SplitRegion", kvrpcpb.SplitRegionRequest(context=context)),
    ):
        with pytest.raises(RpcError) as caught:
            service.perform(rpc, request.SerializeToString())
        assert caught.value.status == Status.INVALID_ARGUMENT
        assert caught.value.not_processed


def test_ttl_of_a_store_without_is_an_error_not_a_death() -> None:
    store = new_store()
    request = kvrpcpb.RawGetKeyTTLRequest(context=context_for(store), key=b"k")
    answer = kvrpcpb.RawGetKeyTTLResponse.FromString(
        KvService(store).perform("RawGetKeyTTL", request.SerializeToString())
    )
    assert "ttl is not enabled" in answer.error


# --- what waits for the disk ------------------------------------------------------------------------------------------


def test_reads_wait_for_the_writes_that_they_saw() -> None:
    store = new_store()
    service = KvService(store)
    for _ in range(2):
        written = service.execute("RawPut", put(store, b"k", b"v"))
        assert isinstance(written, Durable)
        seen = service.execute("RawGet", get(store, b"k"))
        assert seen == Durable(b"\x1a\x01v", written.ticket)
        assert service.execute("RawGet", get(store, b"other")) == b"\x20\x01"
        scan = kvrpcpb.RawScanRequest(context=context_for(store), limit=5).SerializeToString()
        assert isinstance(service.execute("RawScan", scan), Durable)
        store.engine.flush()
        service.durable(store.engine.durable_ticket)
        assert service.execute("RawGet", get(store, b"k")) == b"\x1a\x01v"
        assert isinstance(service.execute("RawScan", scan), bytes)
    cleared = kvrpcpb.RawDeleteRangeRequest(context=context_for(store), start_key=b"a", end_key=b"z")
    assert isinstance(service.execute("RawDeleteRange", cleared.SerializeToString()), Durable)
    assert isinstance(service.execute("RawGet", get(store, b"k")), Durable)


class FailingEngine(MemoryEngine):
    """An engine whose flushes fail, or are counted."""

    fails = False
    flushes = 0

    def flush(self, ticket: int | None = None) -> None:
        self.flushes += 1
        if self.fails:
            raise StorageError("the flush failed", outcome=Outcome.UNDETERMINED)
        super().flush(ticket)


def test_a_failed_flush_is_undetermined() -> None:
    engine = FailingEngine()
    store = new_store(engine)
    service = KvService(store)
    engine.fails = True
    answer = kvrpcpb.RawPutResponse.FromString(service.perform("RawPut", put(store, b"k", b"v")))
    assert answer.region_error.HasField("undetermined_result")
    assert isinstance(answer.region_error, errorpb.Error)


def on_loop(body: Callable[[AioRuntime], Any]) -> None:
    async def main() -> None:
        rt = AioRuntime()
        try:
            await body(rt)
        finally:
            await rt.close()

    asyncio.run(asyncio.wait_for(main(), 20))


class Stream:
    """What a BatchCommands handler sends."""

    def __init__(self) -> None:
        self.answers: dict[int, tuple[int, bytes]] = {}
        self.messages = 0
        self.finished: tuple[int, str] | None = None

    def send(self, message: bytes) -> None:
        self.messages += 1
        for slot, body, ident in envelope.decode(message):
            assert ident not in self.answers, "answered twice"
            self.answers[ident] = slot, body

    def finish(self, status: int = 0, message: str = "") -> None:
        assert self.finished is None
        self.finished = status, message


SLOTS = {field.name: field.number for field in tikvpb.BatchCommandsRequest.Request.DESCRIPTOR.fields}


async def settled(stream: Stream, count: int) -> None:
    for _ in range(500):
        if len(stream.answers) == count:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{len(stream.answers)} answers of {count}")


def test_batch_commands_answers_each_id_once_and_shares_flushes() -> None:
    async def body(rt: AioRuntime) -> None:
        engine = FailingEngine()
        store = new_store(engine)
        service = KvService(store)
        stream: Any = Stream()
        handler = BatchCommands(AsyncKvService(rt, service), stream)
        engine.flushes = 0
        delay = tikvpb.BatchCommandsEmptyRequest(test_id=9, delay_time=1).SerializeToString()
        checked = kvrpcpb.RawScanRequest(context=context_for(store), limit=5000).SerializeToString()
        commands = [(SLOTS["RawPut"], put(store, b"%d" % i, b"v"), i) for i in range(1, 41)]
        commands += [(SLOTS["RawGet"], get(store, b"none"), 50), (SLOTS["RawGet"], get(store, b"7"), 51)]
        commands += [(77, b"", 60), (255, delay, 61), (SLOTS["RawScan"], checked, 62)]
        commands += [(SLOTS["GetHealthFeedback"], b"", 63)]
        for i in range(0, len(commands), 5):
            handler.on_message(envelope.encode(commands[i : i + 5]))
        handler.on_half_close()
        assert stream.finished is None
        await settled(stream, len(commands))
        assert engine.flushes <= 2
        assert all(stream.answers[i] == (SLOTS["RawPut"], b"") for i in range(1, 41))
        assert stream.answers[50] == (SLOTS["RawGet"], b"\x20\x01")
        assert stream.answers[51] == (SLOTS["RawGet"], b"\x1a\x01v")
        assert stream.answers[60] == (0, b"")
        assert tikvpb.BatchCommandsEmptyResponse.FromString(stream.answers[61][1]).test_id == 9
        assert len(kvrpcpb.RawScanResponse.FromString(stream.answers[62][1]).kvs) == 40
        feedback = kvrpcpb.GetHealthFeedbackResponse.FromString(stream.answers[63][1]).health_feedback
        assert feedback.store_id == store.id
        assert stream.finished == (0, "")

    on_loop(body)


def test_batch_commands_when_the_disk_fails() -> None:
    async def body(rt: AioRuntime) -> None:
        engine = FailingEngine()
        store = new_store(engine)
        service = KvService(store)
        stream: Any = Stream()
        handler = BatchCommands(AsyncKvService(rt, service), stream)
        engine.fails = True
        handler.on_message(envelope.encode([(SLOTS["RawPut"], put(store, b"k", b"v"), 1)]))
        await settled(stream, 1)
        answer = kvrpcpb.RawPutResponse.FromString(stream.answers[1][1])
        assert answer.region_error.HasField("undetermined_result")

    on_loop(body)


def test_batch_commands_refuses_what_is_no_message() -> None:
    async def body(rt: AioRuntime) -> None:
        store = new_store()
        service = KvService(store)
        handler = BatchCommands(AsyncKvService(rt, service), Stream())  # type: ignore[arg-type]
        for message in (b"\xff", b"\x0a\x05", envelope.encode([(SLOTS["RawScan"], b"\xff", 1)])):
            with pytest.raises(RpcError) as caught:
                handler.on_message(message)
            assert caught.value.status == Status.INTERNAL

    on_loop(body)


def test_handle_answers_reads_at_once_and_writes_when_durable() -> None:
    async def body(rt: AioRuntime) -> None:
        store = new_store()
        service = AsyncKvService(rt, KvService(store))
        assert service.handle("RawGet", get(store, b"k")) == b"\x20\x01"
        answers = [service.handle("RawPut", put(store, b"%d" % i, b"v")) for i in range(10)]
        assert not any(isinstance(answer, bytes) for answer in answers)
        assert await asyncio.gather(*answers) == [b""] * 10  # type: ignore[arg-type]
        assert service.handle("RawGet", get(store, b"3")) == b"\x1a\x01v"
        paths = tikv_routes(rt, service.service)
        assert {b"/tikvpb.Tikv/BatchCommands", b"/tikvpb.Tikv/RawGet", b"/tikvpb.Tikv/SplitRegion"} <= set(paths)
        assert isinstance(service.service.execute("GetStoreSafeTS", b""), Blocking)

    on_loop(body)
