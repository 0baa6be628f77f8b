"""Keyspaces: names for disjoint parts of the key space of API v2.

`DEFAULT` has id 0 and always exists. Others get ids from 1 on, in the order they are made, and keep them for ever.
Source: PD pkg/keyspace (names, ids, states), kvproto keyspacepb. Pure; not safe for threads.
"""

from __future__ import annotations

import re
from typing import Final

from pytikv.codec.api import DEFAULT_KEYSPACE_ID, MAX_KEYSPACE_ID
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.pd.errors import PdError

__all__ = ["DEFAULT_KEYSPACE", "Keyspaces"]

DEFAULT_KEYSPACE: Final = "DEFAULT"
_NAME: Final = re.compile(r"[-A-Za-z0-9_]{1,64}")


class Keyspaces:
    """Keyspaces by name and by id. Messages are never changed in place."""

    def __init__(self) -> None:
        self._by_name: dict[str, keyspacepb.KeyspaceMeta] = {}
        self._by_id: dict[int, keyspacepb.KeyspaceMeta] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, meta: keyspacepb.KeyspaceMeta) -> None:
        """Take in a keyspace read from storage or just made."""
        self._by_name[meta.name] = meta
        self._by_id[meta.id] = meta

    def make(self, name: str, now_s: int) -> keyspacepb.KeyspaceMeta:
        """Return a new keyspace, not yet added. Raises PdError for a bad or taken name, or no id left."""
        if not _NAME.fullmatch(name):
            raise PdError(f"illegal keyspace name {name!r}", type=pdpb.INVALID_VALUE)
        if name in self._by_name:
            raise PdError("keyspace already exists", type=pdpb.DUPLICATED_ENTRY)
        keyspace_id = DEFAULT_KEYSPACE_ID if name == DEFAULT_KEYSPACE else max(self._by_id, default=0) + 1
        if keyspace_id > MAX_KEYSPACE_ID:
            raise PdError("keyspace ids are used up", type=pdpb.UNKNOWN)
        return keyspacepb.KeyspaceMeta(
            id=keyspace_id, name=name, state=keyspacepb.ENABLED, created_at=now_s, state_changed_at=now_s
        )

    def by_name(self, name: str) -> keyspacepb.KeyspaceMeta:
        """Return the keyspace called `name`. Raises PdError ENTRY_NOT_FOUND."""
        return _found(self._by_name.get(name))

    def by_id(self, keyspace_id: int) -> keyspacepb.KeyspaceMeta:
        """Return the keyspace with that id. Raises PdError ENTRY_NOT_FOUND."""
        return _found(self._by_id.get(keyspace_id))

    def all(self) -> list[keyspacepb.KeyspaceMeta]:
        """Return all keyspaces, ordered by id."""
        return [self._by_id[keyspace_id] for keyspace_id in sorted(self._by_id)]


def _found(meta: keyspacepb.KeyspaceMeta | None) -> keyspacepb.KeyspaceMeta:
    if meta is None:
        raise PdError("keyspace does not exist", type=pdpb.ENTRY_NOT_FOUND)
    return meta
