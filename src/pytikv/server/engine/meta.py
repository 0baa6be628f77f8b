"""What a store's directory says about itself, and the column family ``meta`` as a small key-value storage.

Kept under `store/`: the *format version* of our layout and the *API version* the data was written with. Both are
written when the store is made and compared at each opening: data of one API version cannot be read as another, and a
newer layout is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytikv.errors import ConfigError, StorageError
from pytikv.server.engine.interface import CF_META, Engine, WriteBatch

__all__ = ["FORMAT_VERSION", "EngineMeta", "check_format", "prefix_end", "stored_api_version"]

FORMAT_VERSION: Final = 1
_FORMAT_KEY: Final = b"store/format_version"
_API_KEY: Final = b"store/api_version"


def prefix_end(prefix: bytes) -> bytes:
    """Return the smallest key above all that begin with `prefix`; `b""` when there is none.

    >>> prefix_end(b"a\\xff")
    b'b'
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


class EngineMeta:
    """The column family ``meta`` as PD and the store use it (`pd.storage.MetaStorage`). Safe for threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key` or None."""
        return self._engine.get(CF_META, key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return all pairs whose key begins with `prefix`, in order."""
        return list(self._engine.scan(CF_META, prefix, prefix_end(prefix)))

    def write(self, changes: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        """Apply all changes at once; None deletes. With `sync`: durable at return. Raises StorageError."""
        batch = WriteBatch()
        for key, value in changes.items():
            if value is None:
                batch.delete(CF_META, key)
            else:
                batch.put(CF_META, key, value)
        self._engine.write(batch, sync=sync)


def stored_api_version(engine: Engine) -> str | None:
    """Return the API version that the store was made with (``"1"``, ``"1ttl"`` or ``"2"``); None for a new store."""
    value = engine.get(CF_META, _API_KEY)
    return None if value is None else value.decode()


def check_format(engine: Engine, api_version: str) -> None:
    """Compare a store with what it is opened as, or mark a new one.

    Raises StorageError for a layout newer than ours and ConfigError for another API version.
    """
    where = engine.path or "the store"
    found = engine.get(CF_META, _FORMAT_KEY)
    if found is not None and found.decode() != str(FORMAT_VERSION):
        raise StorageError(
            f"{where} has format version {found.decode()}, and this pytikv reads version {FORMAT_VERSION}: "
            "use a newer pytikv"
        )
    stored = stored_api_version(engine)
    if stored is None:
        meta = EngineMeta(engine)
        meta.write({_FORMAT_KEY: str(FORMAT_VERSION).encode(), _API_KEY: api_version.encode()}, sync=True)
    elif stored != api_version:
        raise ConfigError(
            f"{where} was made with api_version {stored} and cannot be opened with api_version {api_version}; "
            f"open it with api_version={stored}, or choose another path"
        )
