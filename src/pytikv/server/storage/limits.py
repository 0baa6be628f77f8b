"""How large keys and writes may be; the same for raw and transactional data, embedded and served.

A key has up to 8 KiB: the plain key of raw data, the encoded one of transactional data. One write has up to 8 MiB,
which is TiKV's largest Raft entry, counted with what a Raft command puts around its changes.

Source: TiKV src/storage/config.rs (max-key-size), components/raftstore config.rs (raft-entry-max-size).
"""

from __future__ import annotations

from typing import Final

from pytikv.server.engine.interface import WriteBatch
from pytikv.server.storage.errors import RaftEntryTooLarge

__all__ = ["CHANGE_OVERHEAD_BYTES", "ENTRY_OVERHEAD_BYTES", "MAX_ENTRY_BYTES", "MAX_KEY_BYTES", "check_entry"]

MAX_KEY_BYTES: Final = 8 * 1024
MAX_ENTRY_BYTES: Final = 8 * 1024 * 1024
ENTRY_OVERHEAD_BYTES: Final = 64  # of a Raft command around its changes
CHANGE_OVERHEAD_BYTES: Final = 16  # around one key and value


def check_entry(batch: WriteBatch) -> None:
    """Raise RaftEntryTooLarge for a batch over the limit."""
    size_bytes = batch.size_bytes + len(batch.modifies) * CHANGE_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES
    if size_bytes > MAX_ENTRY_BYTES:
        raise RaftEntryTooLarge(size_bytes, MAX_ENTRY_BYTES)
