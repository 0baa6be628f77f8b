"""Resource groups of a PD: their settings, which are durable, and their buckets and consumption, which are not.

A group belongs to a keyspace; the null keyspace is everybody's who names none. Each keyspace that is spoken of has the
group ``default``, unlimited, which cannot be deleted. Groups are of RU mode (request units); the other mode of the
protocol exists nowhere. Adding a group that exists replaces it, because clients repeat what they are not sure of.

After a restart a bucket begins anew, with its first tokens. Refusals are PdError without a type: failed calls with PD's
texts. Safe for threads. Sources: PD pkg/mcs/resourcemanager/server {manager,keyspace_manager,resource_group}.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.rt.locks import mutex
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.storage import RESOURCE_GROUP_PREFIX, MetaStorage
from pytikv.server.pd.token_bucket import Grant, GroupBucket, Limits

__all__ = ["DEFAULT_GROUP", "ResourceGroups"]

DEFAULT_GROUP: Final = "default"
_MAX_NAME: Final = 32
_MAX_PRIORITY: Final = 16
_MIDDLE_PRIORITY: Final = 8
_MAX_RATE: Final = 2**31 - 1
_Key = tuple[int, str]


def _refusal(code: str, text: str) -> PdError:
    return PdError(f"[PD:resourcemanager:{code}]{text}")


class _Group:
    """Settings, bucket and what was consumed."""

    def __init__(self, settings: rmpb.ResourceGroup) -> None:
        self.settings = settings
        self.bucket = GroupBucket(_limits(settings), settings.r_u_settings.r_u.tokens)
        self.consumed = rmpb.Consumption()

    def to_proto(self, *, with_stats: bool) -> rmpb.ResourceGroup:
        shown = rmpb.ResourceGroup()
        shown.CopyFrom(self.settings)
        shown.r_u_settings.r_u.tokens = self.bucket.tokens
        if with_stats:
            shown.RUStats.CopyFrom(self.consumed)
        return shown


class ResourceGroups:
    """All groups of one PD. Reads what `storage` has at once."""

    def __init__(
        self, storage: MetaStorage, writer: AbstractContextManager[object], now_s: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._now_s = now_s
        self._mutex = mutex()
        self._groups: dict[_Key, _Group] = {}
        for _, data in storage.scan(RESOURCE_GROUP_PREFIX):
            settings = rmpb.ResourceGroup.FromString(data)
            self._groups[settings.keyspace_id.value, settings.name] = _Group(settings)
        self._with_default(NULL_KEYSPACE_ID)

    def __iter__(self) -> Iterator[tuple[int, str, rmpb.ResourceGroup]]:
        """Go over keyspace, name, and settings with statistics of all groups."""
        with self._mutex:
            return iter([(*key, group.to_proto(with_stats=True)) for key, group in sorted(self._groups.items())])

    # --- settings -----------------------------------------------------------------------------------------------------

    def in_keyspace(self, keyspace_id: int, *, with_stats: bool = False) -> list[rmpb.ResourceGroup]:
        """Return the groups of a keyspace, ordered by name."""
        with self._mutex:
            self._with_default(keyspace_id)
            names = sorted(name for keyspace, name in self._groups if keyspace == keyspace_id)
            return [self._groups[keyspace_id, name].to_proto(with_stats=with_stats) for name in names]

    def get(self, keyspace_id: int, name: str, *, with_stats: bool = False) -> rmpb.ResourceGroup:
        """Return a group. Raises PdError."""
        with self._mutex:
            return self._found(keyspace_id, name).to_proto(with_stats=with_stats)

    def add(self, group: rmpb.ResourceGroup) -> None:
        """Add or replace a group. Writes the disk. Raises PdError."""
        _check(group)
        key = keyspace_of(group), group.name
        self._save(key, group)
        with self._mutex:
            self._with_default(key[0])
            self._groups[key] = _Group(_copy(group, key[0]))

    def modify(self, group: rmpb.ResourceGroup) -> None:
        """Change a group's settings; the tokens given come on top of what it has. Writes the disk. Raises PdError."""
        key = keyspace_of(group), group.name
        if not group.name:
            raise _refusal("ErrInvalidGroup", "invalid group settings, please check the group name")
        with self._mutex:
            present = self._found(*key)
            if group.mode != present.settings.mode:
                raise PdError("only support reconfigure in same mode, maybe you should delete and create a new one")
            if group.priority > _MAX_PRIORITY:
                raise PdError("invalid resource group priority, the value should be in [0,16]")
            if not group.HasField("r_u_settings"):
                raise PdError("invalid resource group settings, RU mode should set RU settings")
        self._save(key, group)
        with self._mutex:
            present.settings = _copy(group, key[0])
            present.bucket.change(_limits(group), group.r_u_settings.r_u.tokens)

    def delete(self, keyspace_id: int, name: str) -> None:
        """Delete a group. Writes the disk. Raises PdError."""
        with self._mutex:
            self._check_keyspace(keyspace_id)
            if name == DEFAULT_GROUP:
                raise _refusal("ErrDeleteReservedGroup", "cannot delete reserved group")
            self._found(keyspace_id, name)
        with self._writer:
            self._storage.write({_storage_key((keyspace_id, name)): None}, sync=True)
        with self._mutex:
            self._groups.pop((keyspace_id, name), None)

    # --- tokens -------------------------------------------------------------------------------------------------------

    def request(self, keyspace_id: int, name: str, wanted: float, period_s: float, client: int) -> Grant:
        """Grant request units. Raises PdError for a group that does not exist."""
        with self._mutex:
            return self._found(keyspace_id, name).bucket.request(self._now_s(), wanted, period_s, client)

    def consume(self, keyspace_id: int, name: str, consumption: rmpb.Consumption) -> None:
        """Add what was consumed to a group's statistics. Raises PdError for a group that does not exist."""
        with self._mutex:
            total = self._found(keyspace_id, name).consumed
            for field in consumption.DESCRIPTOR.fields:
                setattr(total, field.name, getattr(total, field.name) + getattr(consumption, field.name))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _check_keyspace(self, keyspace_id: int) -> None:
        if not any(known == keyspace_id for known, _ in self._groups):
            raise _refusal("ErrKeyspaceNotExists", f"the keyspace does not exist with id {keyspace_id}")

    def _found(self, keyspace_id: int, name: str) -> _Group:
        if name == DEFAULT_GROUP:
            self._with_default(keyspace_id)
        self._check_keyspace(keyspace_id)
        group = self._groups.get((keyspace_id, name))
        if group is None:
            raise _refusal("ErrGroupNotExists", f"the {name} resource group does not exist")
        return group

    def _with_default(self, keyspace_id: int) -> None:
        """See that the keyspace has its default group; not saved, because it comes back by itself."""
        key = keyspace_id, DEFAULT_GROUP
        if key not in self._groups:
            bucket = rmpb.TokenBucket(settings=rmpb.TokenLimitSettings(fill_rate=_MAX_RATE, burst_limit=-1))
            settings = rmpb.GroupRequestUnitSettings(r_u=bucket)
            group = rmpb.ResourceGroup(
                name=DEFAULT_GROUP, mode=rmpb.RUMode, priority=_MIDDLE_PRIORITY, r_u_settings=settings
            )
            self._groups[key] = _Group(_copy(group, keyspace_id))

    def _save(self, key: _Key, group: rmpb.ResourceGroup) -> None:
        with self._writer:
            self._storage.write({_storage_key(key): _copy(group, key[0]).SerializeToString()}, sync=True)


def keyspace_of(message: rmpb.ResourceGroup | rmpb.TokenBucketRequest) -> int:
    """Return the keyspace that a message names, the null keyspace when it names none."""
    return message.keyspace_id.value if message.HasField("keyspace_id") else NULL_KEYSPACE_ID


def _copy(group: rmpb.ResourceGroup, keyspace_id: int) -> rmpb.ResourceGroup:
    """Return the settings as they are kept: with the keyspace, without statistics."""
    kept = rmpb.ResourceGroup()
    kept.CopyFrom(group)
    kept.keyspace_id.value = keyspace_id
    kept.ClearField("RUStats")
    return kept


def _limits(group: rmpb.ResourceGroup) -> Limits:
    settings = group.r_u_settings.r_u.settings
    return Limits(settings.fill_rate, settings.burst_limit)


def _check(group: rmpb.ResourceGroup) -> None:
    if not 0 < len(group.name.encode()) <= _MAX_NAME:
        raise _refusal("ErrInvalidGroup", "invalid group settings, please check the group name")
    if group.priority > _MAX_PRIORITY:
        raise _refusal("ErrInvalidGroup", "invalid group settings, please check the group priority")
    if group.mode != rmpb.RUMode:
        raise _refusal("ErrInvalidGroup", "invalid group settings, please check the group mode")


def _storage_key(key: _Key) -> bytes:
    return RESOURCE_GROUP_PREFIX + key[0].to_bytes(4, "big") + key[1].encode()
