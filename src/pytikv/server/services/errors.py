"""Region errors that the services themselves make, and which one an error of the storage is."""

from __future__ import annotations

from pytikv.codec.envelope import varint
from pytikv.errors import Outcome, StorageError
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.server.storage.errors import RaftEntryTooLarge

__all__ = ["region_error_body", "region_error_of_storage", "too_large", "undetermined"]


def region_error_body(error: errorpb.Error) -> bytes:
    """Return the serialized answer, of whatever RPC, that says nothing but this: `region_error` is field 1 of all."""
    data = error.SerializeToString()
    return b"\x0a" + varint(len(data)) + data


def region_error_of_storage(error: StorageError) -> errorpb.Error | None:
    """Return the region error that tells a client what became of its write; None when a text has to do."""
    answer = errorpb.Error(message=str(error))
    if error.outcome is Outcome.UNDETERMINED:
        return undetermined(error)
    if "disk full" in str(error):
        answer.disk_full.reason = str(error)
        return answer
    return None


def undetermined(error: StorageError) -> errorpb.Error:
    """Return undetermined_result: the write may or may not survive."""
    answer = errorpb.Error(message=str(error))
    answer.undetermined_result.message = str(error)
    return answer


def too_large(error: RaftEntryTooLarge, region_id: int) -> errorpb.Error:
    """Return raft_entry_too_large."""
    answer = errorpb.Error(message=str(error))
    answer.raft_entry_too_large.region_id = region_id
    answer.raft_entry_too_large.entry_size = error.entry_size_bytes
    return answer
