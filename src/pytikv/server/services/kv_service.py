"""A store's RPCs by name: serialized request in, serialized answer out.

`execute` runs in the calling thread and says what is left to do (see `outcome`); it knows neither wire nor loop. The
three hot commands go past protobuf (`hot`); every other raw one is decoded, checked, run and encoded in one place,
`_serve`, every other transactional one in `services.txn`. Reads wait for writes that they may have met and that are not
durable yet (`pending`). Commands that TiKV dies of (conformance README, item 15) are answered with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from pytikv.codec import memcomparable
from pytikv.errors import StorageError, TikvError
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.server.metrics.store import StoreMetrics
from pytikv.server.mvcc.errors import MvccError
from pytikv.server.mvcc.read_rules import SNAPSHOT, ReadRules
from pytikv.server.regions import Claim, RegionError
from pytikv.server.services import hot
from pytikv.server.services.clock import ServiceClock
from pytikv.server.services.cost import FOUND_DETAILS, NOT_FOUND_DETAILS, VALUE_HEADS
from pytikv.server.services.errors import REFUSALS, not_durable_body, refusal_body, region_error_of
from pytikv.server.services.measures import Measures
from pytikv.server.services.outcome import Blocking, Durable, Outcome, Waits
from pytikv.server.services.pending import PendingWrites
from pytikv.server.services.raw import RawCommands, count
from pytikv.server.services.requests import check_cluster, decode, encode
from pytikv.server.services.txn import DETAILS, TxnCommands
from pytikv.server.storage.api_version import ApiVersion, check_raw_keys, check_txn_keys
from pytikv.server.storage.errors import StorageRefusal
from pytikv.server.storage.spent import Spent
from pytikv.server.storage.txn_storage import Done
from pytikv.server.store import Store
from pytikv.types import KeyRange
from pytikv.wire.errors import RpcError, Status

__all__ = ["Handler", "KvService"]

M = TypeVar("M", bound=Message)
Handler = Callable[[bytes], Outcome]
_TXN = b"\x00"  # before a context that is remembered for transactions; no serialized context begins with it
_NOT_FOUND = hot.NOT_FOUND + NOT_FOUND_DETAILS
_LONG_SCAN = 1024  # pairs; a scan of more is run off the loop


class KvService:
    """The RPCs of one store. `handlers` by name, `slots` by field number of BatchCommands.

    `now`: a monotonic clock in seconds, by which requests are measured (the store's own when it is left out).
    """

    def __init__(
        self,
        store: Store,
        *,
        sync: bool = True,
        now: Callable[[], float] | None = None,
        metrics: StoreMetrics | None = None,
    ) -> None:
        self.store = store
        self.clock = ServiceClock(now or store.txn.runner.now_s)
        self.metrics = metrics or StoreMetrics()
        self.engine = store.engine
        self._sync = sync
        self._raw = RawCommands(store)
        self._regions = store.regions
        self._get, self._put = store.raw.get, store.raw.put
        self._is_v2 = store.api_version is ApiVersion.V2
        self._pending = PendingWrites(store.engine, sync=sync)
        self._txn = TxnCommands(store, self._pending, self.clock, self.metrics)
        self._feedback_no = 0
        txn_handlers = self._txn.handlers()
        self._txn_get = store.txn.get
        self._kv_get_slowly = txn_handlers["KvGet"]
        self.handlers = {**self._make_handlers(), **txn_handlers, "KvGet": self._kv_get}
        names = self._make_slots()
        self.slots = {slot: self.handlers[name] for slot, name in names.items()}
        self.measures = Measures(self.clock, self.metrics, names, DETAILS)

    def _make_handlers(self) -> dict[str, Handler]:
        raw, rpc = self._raw, kvrpcpb
        serve = self._serving
        return {
            "RawGet": self._raw_get,
            "RawPut": self._raw_put,
            "RawBatchGet": serve(rpc.RawBatchGetRequest, rpc.RawBatchGetResponse, raw.batch_get),
            "RawBatchPut": serve(rpc.RawBatchPutRequest, rpc.RawBatchPutResponse, raw.batch_put),
            "RawDelete": serve(rpc.RawDeleteRequest, rpc.RawDeleteResponse, raw.delete),
            "RawBatchDelete": serve(rpc.RawBatchDeleteRequest, rpc.RawBatchDeleteResponse, raw.batch_delete),
            "RawScan": serve(rpc.RawScanRequest, rpc.RawScanResponse, raw.scan),
            "RawBatchScan": serve(rpc.RawBatchScanRequest, rpc.RawBatchScanResponse, raw.batch_scan),
            "RawDeleteRange": serve(rpc.RawDeleteRangeRequest, rpc.RawDeleteRangeResponse, raw.delete_range),
            "RawGetKeyTTL": serve(rpc.RawGetKeyTTLRequest, rpc.RawGetKeyTTLResponse, raw.get_key_ttl),
            "RawCompareAndSwap": serve(rpc.RawCASRequest, rpc.RawCASResponse, raw.compare_and_swap),
            "RawChecksum": serve(rpc.RawChecksumRequest, rpc.RawChecksumResponse, raw.checksum),
            "RawCoprocessor": serve(rpc.RawCoprocessorRequest, rpc.RawCoprocessorResponse, raw.coprocessor),
            "SplitRegion": self._split_region,
            "GetStoreSafeTS": self._get_store_safe_ts,
            "GetHealthFeedback": self._get_health_feedback,
        }

    def _make_slots(self) -> Mapping[int, str]:
        """Return the RPCs by field of BatchCommands: it calls KvGet `Get`, and so on."""
        by_name = {name.lower(): name for name in self.handlers}
        slots = {}
        for field in tikvpb.BatchCommandsRequest.Request.DESCRIPTOR.fields:
            name = by_name.get(field.name.lower()) or by_name.get(f"kv{field.name.lower()}")
            if name is not None:
                slots[field.number] = name
        return slots

    # --- for whoever carries the answers ------------------------------------------------------------------------------

    def execute(self, rpc: str, request: bytes) -> Outcome:
        """Carry out an RPC that comes now; its answer, where it is open, is yet to be closed (`measures`).

        Raises RpcError: UNIMPLEMENTED, INTERNAL (no such message), INVALID_ARGUMENT.
        """
        handler = self.handlers.get(rpc)
        if handler is None:
            raise RpcError(Status.UNIMPLEMENTED, f"{rpc} is not served", not_processed=True)
        self.clock.arrive()
        return handler(request)

    def perform(self, rpc: str, request: bytes) -> bytes:
        """Carry out an RPC and wait, in this thread, until its answer may go out. Raises as `execute`.

        A request that would have to wait for a lock is answered as if its time were over.
        """
        outcome = self.execute(rpc, request)
        arrived = self.clock.arrived
        if isinstance(outcome, Blocking):
            outcome = outcome.run()
        if isinstance(outcome, Waits):
            outcome = _expired(outcome)
        if isinstance(outcome, bytes):
            return self.measures.leave_one(rpc, outcome, arrived)
        try:
            self.engine.flush(outcome.ticket)
        except StorageError as error:
            return self.not_durable(error)
        self.durable(outcome.ticket)
        return self.measures.leave_one(rpc, outcome.body, arrived)

    def durable(self, ticket: int) -> None:
        """Forget pending writes up to `ticket`."""
        self._pending.durable(ticket)

    def not_durable(self, error: StorageError) -> bytes:
        """Return the answer for a write, or a read that met one, whose flush failed."""
        return not_durable_body(error)

    # --- the hot commands ---------------------------------------------------------------------------------------------

    def _raw_get(self, data: bytes) -> Outcome:
        parts = hot.split_get(data)
        if parts is None:
            return self._raw_get_slowly(data)
        context, key, cf = parts
        claim = self._regions.remembered(context)
        if claim is None or (claim.limit_s and self._is_late(claim)):
            return self._raw_get_slowly(data, context)
        region = claim.region
        if self._is_v2 and key[:1] != b"r":
            return self._raw_get_slowly(data)
        if (region.start_key or region.end_key) and not region.contains(self._raw.region_key(key)):
            return self._raw_get_slowly(data)
        try:
            value = self._get(key, cf.decode() if cf else "")
        except (StorageRefusal, StorageError, UnicodeDecodeError):
            return self._raw_get_slowly(data)
        body = hot.NOT_FOUND if value is None else hot.encode_value(value)
        return self._pending.gate(key, body) if self._pending.is_any else body

    def _raw_get_slowly(self, data: bytes, context: bytes | None = None) -> Outcome:
        request = decode(kvrpcpb.RawGetRequest, data)
        outcome = self._serve(request, kvrpcpb.RawGetResponse(), self._raw.get, self.clock.arrived)
        self._remember(context, request.context)
        return self._pending.gate(request.key, outcome) if isinstance(outcome, bytes) else outcome

    def _raw_put(self, data: bytes) -> Outcome:
        parts = hot.split_put(data)
        if parts is None:
            return self._raw_put_slowly(data)
        context, key, value, cf = parts
        claim = self._regions.remembered(context)
        if claim is None or (claim.limit_s and self._is_late(claim)):
            return self._raw_put_slowly(data, context)
        region = claim.region
        if self._is_v2 and key[:1] != b"r":
            return self._raw_put_slowly(data)
        if (region.start_key or region.end_key) and not region.contains(self._raw.region_key(key)):
            return self._raw_put_slowly(data)
        if cf:
            return self._raw_put_slowly(data)
        try:
            ticket = self._put(key, value)
        except StorageRefusal:
            return self._raw_put_slowly(data)  # nothing was written: say it the long way
        except StorageError as error:
            return refusal_body(kvrpcpb.RawPutResponse(), error, region.id)
        count(region, len(key) + len(value))
        if not self._sync:
            return b""
        self._pending.note_one(key, ticket)
        return Durable(b"", ticket)

    def _raw_put_slowly(self, data: bytes, context: bytes | None = None) -> Outcome:
        request = decode(kvrpcpb.RawPutRequest, data)
        outcome = self._serve(request, kvrpcpb.RawPutResponse(), self._raw.put, self.clock.arrived)
        self._remember(context, request.context)
        return outcome

    def _kv_get(self, data: bytes) -> Outcome:
        parts = hot.split_kv_get(data)
        if parts is None:
            return self._kv_get_slowly(data)
        context, key, version = parts
        claim = self._regions.remembered(_TXN + context)
        if claim is None:
            self._remember_for_txn(context)
            return self._kv_get_slowly(data)
        if claim.limit_s and self._is_late(claim):
            return self._kv_get_slowly(data)
        region = claim.region
        if self._is_v2 and (key[:1] != b"x" or claim.api_version != kvrpcpb.V2):
            return self._kv_get_slowly(data)
        if (region.start_key or region.end_key) and not region.contains(memcomparable.encode(key)):
            return self._kv_get_slowly(data)
        try:
            value = self._txn_get(key, version)
        except (MvccError, TikvError):
            return self._kv_get_slowly(data)
        if value is None:
            body = _NOT_FOUND
        else:
            size = len(value)
            body = VALUE_HEADS[size] + value + FOUND_DETAILS[(len(key) // 8 + 1) * 9 + size]
        return self._pending.gate(key, body) if self._pending.is_any else body

    def _is_late(self, claim: Claim) -> bool:
        """Tell whether the client's time is over for a request that came with a remembered context."""
        return self.clock.now() - self.clock.arrived >= claim.limit_s

    def _remember_for_txn(self, data: bytes) -> None:
        """As `_remember`, for snapshot reads: if the context asks for nothing special."""
        try:
            context = kvrpcpb.Context.FromString(data)
            check_cluster(self.store.cluster_id, context)
            check_txn_keys(self.store.api_version, context.api_version, "get", ())
            if ReadRules.of(context) is SNAPSHOT and not context.stale_read:
                self._regions.remember(_TXN + data, self._regions.check(context))
        except (DecodeError, RpcError, StorageRefusal, RegionError):
            pass

    def _remember(self, data: bytes | None, context: kvrpcpb.Context) -> None:
        """Let the next request with the same context take the short way, if this one may."""
        if data is None:
            return
        try:
            check_raw_keys(self.store.api_version, context.api_version, "", ())
            self._regions.remember(data, self._regions.check(context))
        except (StorageRefusal, RegionError):
            pass

    # --- the others ---------------------------------------------------------------------------------------------------

    def _serving(self, request_type: type[M], response_type: type[Message], run: Callable[[M, Any], int]) -> Handler:
        def handle(data: bytes) -> Outcome:
            request = decode(request_type, data)
            arrived = self.clock.arrived
            if _is_long(request):
                return Blocking(lambda: self._serve(request, response_type(), run, arrived))
            return self._serve(request, response_type(), run, arrived)

        return handle

    def _serve(self, request: Any, response: Any, run: Callable[[Any, Any], int], arrived: float) -> bytes | Durable:
        check_cluster(self.store.cluster_id, request.context)
        limit_ms = request.context.max_execution_duration_ms
        try:
            if limit_ms:
                Spent(self.clock.now, arrived, limit_ms).begin()
            ticket = run(request, response)
        except REFUSALS as error:
            return refusal_body(response, error, request.context.region_id)
        body = encode(response)
        if not self._sync:
            return body
        if ticket:
            self._note_pending(request, ticket)
            return Durable(body, ticket)
        # A read: it must not tell what is not durable yet. One key is looked up by the caller.
        return body if type(request) is kvrpcpb.RawGetRequest else self._pending.gate_all(body)

    def _note_pending(self, request: Any, ticket: int) -> None:
        if hasattr(request, "key"):
            self._pending.note_one(request.key, ticket)
        elif hasattr(request, "pairs"):
            self._pending.note([pair.key for pair in request.pairs], ticket)
        elif hasattr(request, "keys"):
            self._pending.note(list(request.keys), ticket)
        else:
            self._pending.note([None], ticket)

    def _split_region(self, data: bytes) -> Outcome:
        request = decode(kvrpcpb.SplitRegionRequest, data)
        check_cluster(self.store.cluster_id, request.context)

        def run() -> bytes:
            response = kvrpcpb.SplitRegionResponse()
            try:
                region = self._regions.check(request.context).region
                keys = list(request.split_keys or ([request.split_key] if request.split_key else []))
                form = self._raw.region_key if request.is_raw_kv else memcomparable.encode
                parts = self.store.split(region, [form(key) for key in keys])
            except (RegionError, StorageError) as error:
                answer = region_error_of(error, request.context.region_id)
                response.region_error.CopyFrom(answer or errorpb.Error(message=str(error)))
            else:
                response.regions.extend(parts)
                if len(parts) == 2:
                    response.left.CopyFrom(parts[0])
                    response.right.CopyFrom(parts[1])
            return encode(response)

        return Blocking(run)

    def _get_store_safe_ts(self, data: bytes) -> Outcome:
        """GetStoreSafeTS: up to where no lock of the range holds a stale read back."""
        request = decode(kvrpcpb.StoreSafeTSRequest, data)
        bounds = KeyRange(request.key_range.start_key, request.key_range.end_key)
        return Blocking(lambda: encode(kvrpcpb.StoreSafeTSResponse(safe_ts=self.store.txn.ranges.safe_ts(bounds))))

    def _get_health_feedback(self, data: bytes) -> Outcome:
        decode(kvrpcpb.GetHealthFeedbackRequest, data)
        self._feedback_no += 1
        feedback = kvrpcpb.HealthFeedback(store_id=self.store.id, feedback_seq_no=self._feedback_no, slow_score=1)
        return encode(kvrpcpb.GetHealthFeedbackResponse(health_feedback=feedback))


def _expired(outcome: Waits) -> bytes | Durable:
    answers: list[Done] = []
    outcome.waiting.on_done(answers.append)
    if not answers:
        outcome.waiting.expire()
    if not answers:
        raise RpcError(Status.ABORTED, "the lock is being handed over on another thread")
    return outcome.finish(answers[0])


def _is_long(request: Any) -> bool:
    if isinstance(request, kvrpcpb.RawScanRequest):
        return request.limit > _LONG_SCAN
    if isinstance(request, kvrpcpb.RawBatchScanRequest):
        return request.each_limit * len(request.ranges) > _LONG_SCAN
    return isinstance(request, kvrpcpb.RawChecksumRequest)
