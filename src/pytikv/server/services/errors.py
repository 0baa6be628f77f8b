"""How an answer says that a request was refused or failed: as a region error, or where the answer has its errors.

*Region errors* are what concerns the region or the store, and writes of which a client must know what became: another
region, an entry over the limit, a timestamp far above PD's, a disk that is full or did not answer. All else is a text:
`error`, an entry of `errors`, or for scans and batch reads a pair that stands for the whole, with Rust's debug form.

Sources: TiKV src/server/service/kv.rs, src/storage/errors.rs.
"""

from __future__ import annotations

from typing import Any, Final

from pytikv.codec.envelope import varint
from pytikv.errors import Outcome, StorageError
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.regions import RegionError
from pytikv.server.services.requests import encode
from pytikv.server.storage.concurrency import InvalidMaxTsUpdate
from pytikv.server.storage.errors import RaftEntryTooLarge, StorageRefusal
from pytikv.server.storage.spent import DEADLINE_REASON, DeadlineExceeded

__all__ = ["REFUSALS", "Refusal", "not_durable_body", "refusal_body", "region_error_of"]

Refusal = RegionError | InvalidMaxTsUpdate | StorageRefusal | StorageError
"""What carrying out a command may raise."""

REFUSALS: Final = (RegionError, InvalidMaxTsUpdate, StorageRefusal, StorageError)
_PAIRS: Final = ("pairs", "kvs")


def refusal_body(response: Any, error: Refusal, region_id: int) -> bytes:
    """Return the serialized `response`, empty as yet, that tells a client of `error`."""
    region_error = region_error_of(error, region_id)
    if region_error is not None and "region_error" in response.DESCRIPTOR.fields_by_name:
        response.region_error.CopyFrom(region_error)
    else:
        text = str(error)
        _say(response, text, error.debug if isinstance(error, StorageRefusal) else f"Error(Other({text!r}))")
    return encode(response)


def _say(response: Any, text: str, debug: str) -> None:
    """Put a refusal where the answer has a place for errors; BroadcastTxnStatus has none."""
    fields = response.DESCRIPTOR.fields_by_name
    if "errors" in fields:
        response.errors.add(abort=debug)
    elif "error" not in fields:  # some raw reads
        for name in filter(fields.__contains__, _PAIRS):
            getattr(response, name).add().error.abort = debug
    elif fields["error"].message_type is None:
        response.error = text
    else:
        response.error.abort = debug
        if isinstance(response, kvrpcpb.ScanResponse | kvrpcpb.BatchGetResponse):
            response.pairs.add(error=response.error)


def region_error_of(error: Refusal, region_id: int) -> errorpb.Error | None:
    """Return the region error that tells a client of `error`; None when a text has to do."""
    if isinstance(error, RegionError):
        return error.error
    answer = errorpb.Error(message=str(error))
    if isinstance(error, InvalidMaxTsUpdate):
        return answer
    if isinstance(error, DeadlineExceeded):
        answer.server_is_busy.reason = DEADLINE_REASON
        return answer
    if isinstance(error, RaftEntryTooLarge):
        answer.raft_entry_too_large.region_id = region_id
        answer.raft_entry_too_large.entry_size = error.entry_size_bytes
        return answer
    if isinstance(error, StorageError):
        if error.outcome is Outcome.UNDETERMINED:
            return _undetermined(error)
        if "disk full" in str(error):
            answer.disk_full.reason = str(error)
            return answer
    return None


def _undetermined(error: StorageError) -> errorpb.Error:
    """Return undetermined_result: the write may or may not survive."""
    answer = errorpb.Error(message=str(error))
    answer.undetermined_result.message = str(error)
    return answer


def not_durable_body(error: StorageError) -> bytes:
    """Return the serialized answer, of whatever RPC, of a write that is not durable: `region_error` is field 1."""
    data = _undetermined(error).SerializeToString()
    return b"\x0a" + varint(len(data)) + data
