"""The three raw batches: how each is cut, encoded and answered. Keys in wire form.

A request ends after `batch_keys` keys or once its bytes pass `batch_put_bytes`, as in client-go (rawkv.go: 512 keys,
16 KiB): large requests hold up a connection, a Raft entry and the store's scheduler for all others.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

from pytikv.client import rpcs
from pytikv.client.by_region import KeyOf
from pytikv.client.raw_backend import Write
from pytikv.client.store_errors import raw_error
from pytikv.codec.hot_raw import UNUSUAL, decode_pairs, encode_pairs
from pytikv.config import ClientConfig
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["DeleteBatch", "GetBatch", "PutBatch"]


def _cut_keys(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    if len(keys) <= size:
        yield keys
        return
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


class GetBatch:
    """RawBatchGet of `keys`, whose wire form is `wire`. `found` gathers the pairs of all answers."""

    def __init__(self, config: ClientConfig, keys: Sequence[bytes], wire: Sequence[bytes], prefix_size: int) -> None:
        self.rpc = rpcs.RAW_BATCH_GET
        self.key_of: KeyOf = None
        self.found: dict[bytes, bytes] = {}
        self._config = config
        self._keys = keys
        self._wire = wire
        self._prefix_size = prefix_size

    def cut(self, keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Cut by number."""
        return _cut_keys(keys, self._config.batch_keys)

    def encode(self, keys: Sequence[bytes]) -> bytes:
        """Return the request without its context."""
        return kvrpcpb.RawBatchGetRequest(keys=keys, cf=self._config.cf).SerializeToString()

    def take(self, data: bytes) -> None:
        """Gather the pairs of an answer. A refusal comes as a pair with an error."""
        read = decode_pairs(data)
        if read is UNUSUAL:
            found = self._parse(data)
        else:
            keys: Sequence[bytes]
            keys, values = read
            if keys == self._wire:  # the caller's own objects have their hashes at hand
                keys = self._keys
            elif size := self._prefix_size:
                keys = [key[size:] for key in keys]
            found = dict(zip(keys, values, strict=True))
        if self.found:
            self.found.update(found)
        else:
            self.found = found

    def _parse(self, data: bytes) -> dict[bytes, bytes]:
        pairs = kvrpcpb.RawBatchGetResponse.FromString(data).pairs
        if len(pairs) == 1 and pairs[0].HasField("error"):
            raise raw_error(pairs[0].error.abort or str(pairs[0].error).strip())
        size = self._prefix_size
        if size:
            return {pair.key[size:]: pair.value for pair in pairs}
        return {pair.key: pair.value for pair in pairs}


class DeleteBatch:
    """RawBatchDelete."""

    def __init__(self, config: ClientConfig) -> None:
        self.rpc = rpcs.RAW_BATCH_DELETE
        self.key_of: KeyOf = None
        self._config = config

    def cut(self, keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Cut by number."""
        return _cut_keys(keys, self._config.batch_keys)

    def encode(self, keys: Sequence[bytes]) -> bytes:
        """Return the request without its context."""
        request = kvrpcpb.RawBatchDeleteRequest(keys=keys, cf=self._config.cf, for_cas=self._config.atomic)
        return request.SerializeToString()

    def take(self, data: bytes) -> None:
        """Raise the refusal that an answer holds."""
        if data and (text := kvrpcpb.RawBatchDeleteResponse.FromString(data).error):
            raise raw_error(text)


class PutBatch:
    """RawBatchPut, with one TTL for all or one for each pair."""

    def __init__(self, config: ClientConfig) -> None:
        self.rpc = rpcs.RAW_BATCH_PUT
        self.key_of: KeyOf = operator.itemgetter(0)
        self._config = config

    def cut(self, writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
        """Cut by bytes and number; a request is ended after the pair that passes the limit."""
        limit, most = self._config.batch_put_bytes, self._config.batch_keys
        if len(writes) < most and sum([len(key) + len(value) for key, value, _ in writes]) < limit:
            yield writes
            return
        start = size = 0
        for position, (key, value, _) in enumerate(writes):
            size += len(key) + len(value)
            if size >= limit or position + 1 - start >= most:
                yield writes[start : position + 1]
                start, size = position + 1, 0
        if start < len(writes):
            yield writes[start:]

    def encode(self, writes: Sequence[Write]) -> bytes:
        """Return the request without its context."""
        keys, values, ttls = zip(*writes, strict=True)
        rest = kvrpcpb.RawBatchPutRequest(cf=self._config.cf, for_cas=self._config.atomic)
        if any(ttls):
            rest.ttls.extend(ttls)
        return encode_pairs(keys, values) + rest.SerializeToString()

    def take(self, data: bytes) -> None:
        """Raise the refusal that an answer holds."""
        if data and (text := kvrpcpb.RawBatchPutResponse.FromString(data).error):
            raise raw_error(text)
