"""What answers tell of their costs, and requests that come when their client's time is over."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from test_txn_service import Kv, ask, in_world

from pytikv.codec import envelope, hot_txn, memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.services import cost
from pytikv.server.services.batch_commands import BatchCommands
from pytikv.server.services.outcome import Blocking
from pytikv.server.services.tikv import AsyncKvService
from pytikv.server.services.txn import DETAILS
from pytikv.server.storage.spent import DeadlineExceeded, Spent

MS = 1_000_000  # nanoseconds
SLOT_GET = 1


def stepping() -> Callable[[], float]:
    """Return a clock that is a millisecond later each time it is asked."""
    counter = itertools.count(1000)
    return lambda: next(counter) / 1000


def about(ns: int) -> Any:
    return pytest.approx(ns, abs=1000)  # seconds are floats


class Sent:
    """A stream that keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.messages.append(message)

    def finish(self, *status: Any) -> None:
        """Nothing follows."""


# --- costs ------------------------------------------------------------------------------------------------------------


def test_gets_tell_time_and_versions_on_both_ways() -> None:
    kv = Kv(now=stepping())
    kv.put(b"key", b"v" * 300)
    ts = kv.ts()
    size = len(memcomparable.encode(b"key")) + 300
    for key, processed, bytes_ in ((b"key", 1, size), (b"none", 0, 0)):
        for _ in range(2):  # the first takes the long way
            details = kv.call("KvGet", key=key, version=ts).exec_details_v2
            scan, times = details.scan_detail_v2, details.time_detail_v2
            assert (scan.processed_versions, scan.total_versions, scan.processed_versions_size) == (
                processed,
                1,
                bytes_,
            )
            assert times.total_rpc_wall_time_ns >= MS - 1000
            assert times.kv_read_wall_time_ns == times.total_rpc_wall_time_ns
            assert times.process_wall_time_ns + times.wait_wall_time_ns == times.total_rpc_wall_time_ns
            assert details.time_detail.total_rpc_wall_time_ns == times.total_rpc_wall_time_ns
    last = kv.call("KvGet", key=b"key", version=ts).exec_details_v2.time_detail_v2
    assert last.total_rpc_wall_time_ns == about(MS)  # between two looks at the clock


def test_gets_of_one_message_share_its_time() -> None:
    sent: Any = Sent()
    answers = {}

    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        kv.put(b"a", b"1")
        kv.service.clock.now = stepping()
        ts = kv.ts()
        keys = [b"a", b"none", b"a", b"a"]
        asked = [
            (SLOT_GET, kv.message("KvGet", key=key, version=ts).SerializeToString(), i) for i, key in enumerate(keys)
        ]
        BatchCommands(on_loop, sent).on_message(envelope.encode(asked))  # the long way, to begin with
        BatchCommands(on_loop, sent).on_message(envelope.encode(asked))
        for slot, data, ident in envelope.decode(sent.messages[-1]):
            assert slot == SLOT_GET
            answers[ident] = kvrpcpb.GetResponse.FromString(data)
            assert hot_txn.decode_get(data) == (answers[ident].value or None)

    in_world(body)
    assert [answers[i].value for i in range(4)] == [b"1", b"", b"1", b"1"]
    for answer in answers.values():
        times = answer.exec_details_v2.time_detail_v2
        assert times.total_rpc_wall_time_ns == about(MS)
        assert times.process_wall_time_ns == about(MS // 4)
        assert times.wait_wall_time_ns == about(MS * 3 // 4)


def test_batches_tell_what_they_read() -> None:
    kv = Kv(now=stepping())
    keys = [b"k%d" % i for i in range(4)]
    for key in keys[:3]:
        kv.put(key, b"v" * 10)
    start_ts = kv.ts()
    kv.call("KvPrewrite", **kv.prewrite_fields(start_ts, {keys[0]: b"x"}))
    answer = kv.call("KvBatchGet", keys=keys, version=kv.ts())
    scan = answer.exec_details_v2.scan_detail_v2
    assert (scan.total_versions, scan.processed_versions) == (4, 2)  # one is locked, one missing
    assert scan.processed_versions_size == 2 * (9 + 10)
    assert answer.exec_details_v2.time_detail_v2.process_wall_time_ns > 0


def test_writes_tell_latches_engine_and_work() -> None:
    kv = Kv(now=stepping())
    details = kv.call("KvPrewrite", **kv.prewrite_fields(kv.ts(), {b"a": b"1"})).exec_details_v2
    # Looks at the clock: on arrival, when the turn comes, around the latch, around the engine, at the end, on leaving.
    assert details.time_detail_v2.wait_wall_time_ns == about(MS)
    assert details.write_detail.latch_wait_nanos == about(MS)
    assert details.write_detail.apply_log_nanos == about(MS)
    assert details.time_detail_v2.process_wall_time_ns == about(4 * MS)
    assert details.write_detail.process_nanos == about(3 * MS)
    assert details.time_detail_v2.total_rpc_wall_time_ns == about(7 * MS)
    assert details.time_detail.total_rpc_wall_time_ns == about(7 * MS)


def test_a_lock_wait_is_told_and_is_no_work() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(kv.ts(), b"a"))
        answer = await ask(on_loop, kv, "KvPessimisticLock", **kv.lock_fields(kv.ts(), b"a", wait_timeout=300))
        details = answer.exec_details_v2
        assert details.write_detail.pessimistic_lock_wait_nanos == pytest.approx(300 * MS, rel=0.02)
        assert details.time_detail_v2.total_rpc_wall_time_ns == pytest.approx(300 * MS, rel=0.02)
        assert details.time_detail_v2.process_wall_time_ns < MS
        assert kv.service.metrics.waits.count == 1

    in_world(body)


def test_work_off_the_loop_tells_how_long_it_waited() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        rt.blocking_max_s = 0.5
        answer = await ask(on_loop, kv, "KvResolveLock", start_version=kv.ts(), commit_version=0)
        times = answer.exec_details_v2.time_detail_v2
        assert 0 < times.wait_wall_time_ns < times.total_rpc_wall_time_ns <= 1000 * MS

    in_world(body)


@pytest.mark.parametrize("rpc", sorted(DETAILS))
def test_refusals_tell_their_time_too(rpc: str) -> None:
    kv = Kv(now=stepping())
    answer = kv.call(rpc, context=kvrpcpb.Context(region_id=999, peer=kv.context().peer))
    assert answer.region_error.HasField("region_not_found")
    assert answer.exec_details_v2.time_detail_v2.total_rpc_wall_time_ns > 0


def test_the_rpcs_with_details_are_those_of_the_protocol() -> None:
    with_field = {
        name for name in dir(kvrpcpb) if name.endswith("Response") and cost.details_field(getattr(kvrpcpb, name))
    }
    assert {f"{rpc[2:]}Response" for rpc in DETAILS} == with_field


def test_times_over_the_width_are_cut() -> None:
    details = kvrpcpb.ExecDetailsV2.FromString(cost.tail(1e6))
    assert details.time_detail_v2.total_rpc_wall_time_ns == (1 << 35) - 1


def test_times_are_told_in_steps_whether_remembered_or_not() -> None:
    spent = Spent(float, 1.0)
    for ns in (0, 255, 256, 1000, 77_000, 10**6, 123_456_789, 9 * 10**9):
        spent.process_s, spent.write_s, spent.began = ns / 1e9, ns / 4e9, 1.0 + ns / 2e9
        for _ in range(2):
            assert kvrpcpb.ExecDetailsV2.FromString(
                cost.tail(ns / 1e9)
            ).time_detail.total_rpc_wall_time_ns == pytest.approx(ns, abs=257)
            details = kvrpcpb.ExecDetailsV2.FromString(cost.write_parts(spent))
            assert details.time_detail_v2.process_wall_time_ns == pytest.approx(ns, abs=257)
            assert details.time_detail_v2.wait_wall_time_ns == pytest.approx(ns / 2, abs=257)
            assert details.write_detail.apply_log_nanos == pytest.approx(ns / 4, abs=257)
            assert details.write_detail.process_nanos == pytest.approx(ns * 3 / 4, abs=514)
            assert not details.write_detail.latch_wait_nanos
    for ticks in range(20_000):
        assert len(cost.tail(ticks / cost.TICKS_PER_S)) == len(cost.tail(0))
    assert len(cost.TAILS) < 20_000  # what is remembered is bounded


# --- deadlines --------------------------------------------------------------------------------------------------------


def assert_too_late(answer: Any) -> None:
    assert answer.region_error.server_is_busy.reason == "deadline is exceeded"
    assert answer.region_error.message == "Deadline is exceeded"


def test_work_whose_time_is_over_when_its_turn_comes_is_not_done() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        rt.blocking_max_s = 10.0
        start_ts = kv.ts()
        many = {b"%04d" % i: b"v" for i in range(600)}
        in_time, late = kv.context(max_execution_duration_ms=60_000), kv.context(max_execution_duration_ms=1)
        answer = await ask(on_loop, kv, "KvPrewrite", context=late, **kv.prewrite_fields(start_ts, many))
        assert_too_late(answer)
        assert kv.engine.approximate_keys("lock") == 0
        assert kv.service.metrics.too_late == {"prewrite": 1}
        assert_too_late(await ask(on_loop, kv, "KvScan", context=late, version=kv.ts(), limit=5000))
        assert_too_late(await ask(on_loop, kv, "RawScan", context=late, limit=5000))
        answer = await ask(on_loop, kv, "KvPrewrite", context=in_time, **kv.prewrite_fields(start_ts, many))
        assert not answer.HasField("region_error")
        assert kv.engine.approximate_keys("lock") == 600

    in_world(body)


def test_hot_commands_know_their_deadline() -> None:
    times = [0.0]
    kv = Kv(now=lambda: times[0])
    kv.put(b"a", b"1")
    context = kv.context(max_execution_duration_ms=50)
    raw = kvrpcpb.RawPutRequest(context=context, key=b"r", value=b"v").SerializeToString()
    calls = {
        "RawPut": (raw, kvrpcpb.RawPutResponse),
        "RawGet": (kvrpcpb.RawGetRequest(context=context, key=b"r").SerializeToString(), kvrpcpb.RawGetResponse),
        "KvGet": (
            kvrpcpb.GetRequest(context=context, key=b"a", version=kv.ts()).SerializeToString(),
            kvrpcpb.GetResponse,
        ),
    }
    service = kv.service
    for rpc, (data, response) in calls.items():
        for waited_s, is_late in ((0.0, False), (0.0, False), (0.049, False), (0.05, True), (9.0, True), (0.0, False)):
            service.clock.arrive()
            times[0] += waited_s  # what stands before it in its message takes so long
            outcome = service.handlers[rpc](data)
            assert isinstance(outcome, bytes)
            answer = response.FromString(service.measures.leave_one(rpc, outcome, service.clock.arrived))
            assert answer.region_error.HasField("server_is_busy") == is_late


def test_a_deadline_that_passes_in_the_latches() -> None:
    kv = Kv()
    request = kv.message("KvPrewrite", **kv.prewrite_fields(kv.ts(), {b"a": b"1"}))
    times = iter([0.01, 0.02, 0.5])  # the turn, before the latch, with the latch
    spent = Spent(lambda: next(times), 0.0, 400)
    spent.begin()
    with pytest.raises(DeadlineExceeded):
        kv.store.txn.execute("KvPrewrite", request, spent=spent)
    assert kv.engine.approximate_keys("lock") == 0
    assert spent.latch_wait_s == pytest.approx(0.48)


def test_a_call_that_is_given_up_before_its_turn_is_not_done() -> None:
    async def body(rt: Any, kv: Kv, on_loop: AsyncKvService) -> None:
        rt.blocking_max_s = 10.0
        many = {b"%04d" % i: b"v" for i in range(600)}
        request = kv.message("KvPrewrite", **kv.prewrite_fields(kv.ts(), many)).SerializeToString()
        assert isinstance(kv.service.execute("KvPrewrite", request), Blocking)
        with pytest.raises(TimeoutError):  # as the server ends a call whose grpc-timeout is over
            await rt.with_deadline(on_loop.handle("KvPrewrite", request), rt.now() + 0.001)
        await rt.sleep(30)
        assert kv.engine.approximate_keys("lock") == 0

    in_world(body)


def test_an_open_answer_is_no_message() -> None:
    kv = Kv()
    body = kv.service.execute("KvScanLock", kv.message("KvScanLock").SerializeToString())
    assert isinstance(body, Blocking)
    data = body.run()
    assert isinstance(data, bytes)
    with pytest.raises(Exception, match=r"parsing|Error"):
        kvrpcpb.ScanLockResponse.FromString(data)
    assert kvrpcpb.ScanLockResponse.FromString(data + cost.tail(0.5)).HasField("exec_details_v2")
