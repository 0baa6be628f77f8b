"""The raw RPCs as functions from request message to response message.

Each checks, in TiKV's order, the API version and key mode, then the region, then the keys against the region, and runs
the command. What is outside of the region is `key_not_in_region` for writes and an error text for reads and
compare-and-swap; scans stop at the region's end in silence, but must begin within it.

A function returns the ticket of what it wrote, 0 for nothing. It raises RegionError, StorageRefusal or StorageError,
which `KvService` turns into answers. Ranges of reverse scans are swapped here: the wire's `start_key` is the excluded
upper bound.

Sources: TiKV src/server/service/kv.rs, src/storage/mod.rs, src/storage/raw/store.rs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from pytikv.codec import memcomparable
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.regions import Claim, RegionEntry, RegionError, check_key_in_region
from pytikv.server.storage.api_version import ApiVersion, check_raw_keys, check_raw_ranges
from pytikv.server.storage.errors import InvalidKeyRanges, KeyOutOfRegion, StorageRefusal
from pytikv.server.store import Store

__all__ = ["RawCommands"]


class _PluginsDisabled(StorageRefusal):
    def __init__(self) -> None:
        super().__init__("Coprocessor plugin is disabled!", 'Other("Coprocessor plugin is disabled!")')


class RawCommands:
    """The raw RPCs of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._raw = store.raw
        self._regions = store.regions
        self._api = store.api_version
        self._is_v2 = store.api_version is ApiVersion.V2

    # --- checks -------------------------------------------------------------------------------------------------------

    def region_key(self, key: bytes) -> bytes:
        """Return the form of a raw key that region borders are compared with."""
        return memcomparable.encode(key) if self._is_v2 else key

    def _border(self, key: bytes) -> bytes:
        return memcomparable.encode_border(key) if self._is_v2 else key

    def _claim(self, context: kvrpcpb.Context, command: str, keys: Iterable[bytes] = ()) -> Claim:
        check_raw_keys(self._api, context.api_version, command, keys)
        return self._regions.check(context)

    def _claim_ranges(
        self, context: kvrpcpb.Context, command: str, ranges: Sequence[tuple[bytes, bytes]]
    ) -> RegionEntry:
        check_raw_ranges(self._api, context.api_version, command, ranges)
        return self._regions.check(context).region

    def _check_read(self, region: RegionEntry, keys: Iterable[bytes]) -> None:
        for key in keys:
            encoded = self.region_key(key)
            if not region.contains(encoded):
                raise KeyOutOfRegion(encoded, region.id, region.start_key, region.end_key)

    def _check_write(self, region: RegionEntry, keys: Iterable[bytes]) -> None:
        for key in keys:
            check_key_in_region(region, self.region_key(key))

    def _check_seek(self, region: RegionEntry, border: bytes) -> None:
        """A scan begins at a border within the region, its end included. Empty: at the region's own."""
        encoded = self._border(border)
        if encoded < region.start_key or (region.end_key and encoded > region.end_key):
            raise KeyOutOfRegion(encoded, region.id, region.start_key, region.end_key)

    # --- reads --------------------------------------------------------------------------------------------------------

    def get(self, request: kvrpcpb.RawGetRequest, response: kvrpcpb.RawGetResponse) -> int:
        """RawGet."""
        claim = self._claim(request.context, "raw_get", (request.key,))
        self._check_read(claim.region, (request.key,))
        value = self._raw.get(request.key, request.cf)
        if value is None:
            response.not_found = True
        else:
            response.value = value
        return 0

    def batch_get(self, request: kvrpcpb.RawBatchGetRequest, response: kvrpcpb.RawBatchGetResponse) -> int:
        """RawBatchGet."""
        claim = self._claim(request.context, "raw_batch_get", request.keys)
        self._check_read(claim.region, request.keys)
        _fill(response.pairs, self._raw.batch_get(request.keys, request.cf))
        return 0

    def get_key_ttl(self, request: kvrpcpb.RawGetKeyTTLRequest, response: kvrpcpb.RawGetKeyTTLResponse) -> int:
        """RawGetKeyTTL. A store without TTL refuses it."""
        claim = self._claim(request.context, "raw_get_key_ttl", (request.key,))
        self._check_read(claim.region, (request.key,))
        ttl_s = self._raw.get_ttl(request.key, request.cf)
        if ttl_s is None:
            response.not_found = True
        else:
            response.ttl = ttl_s
        return 0

    def scan(self, request: kvrpcpb.RawScanRequest, response: kvrpcpb.RawScanResponse) -> int:
        """RawScan."""
        bounds = _bounds(request.start_key, request.end_key, request.reverse)
        region = self._claim_ranges(request.context, "raw_scan", (bounds,))
        if request.start_key or not request.reverse:
            self._check_seek(region, request.start_key)
        pairs = self._raw.scan(
            *bounds,
            request.limit,
            key_only=request.key_only,
            reverse=request.reverse,
            cf=request.cf,
            within=region.bounds,
        )
        _fill(response.kvs, pairs)
        return 0

    def batch_scan(self, request: kvrpcpb.RawBatchScanRequest, response: kvrpcpb.RawBatchScanResponse) -> int:
        """RawBatchScan. A range without end ends where the next one starts."""
        starts = [r.start_key for r in request.ranges]
        ends = [r.end_key for r in request.ranges]
        bounds = [_bounds(start, end, request.reverse) for start, end in zip(starts, ends, strict=True)]
        region = self._claim_ranges(request.context, "raw_batch_scan", bounds)
        ends = [end or following for end, following in itertools.zip_longest(ends, starts[1:], fillvalue=b"")]
        bounds = [_bounds(start, end, request.reverse) for start, end in zip(starts, ends, strict=True)]
        if any(upper and lower >= upper for lower, upper in bounds):
            raise InvalidKeyRanges
        for start, (lower, upper) in zip(starts, bounds, strict=True):
            if start or not request.reverse:
                self._check_seek(region, start)
            pairs = self._raw.scan(
                lower,
                upper,
                request.each_limit,
                key_only=request.key_only,
                reverse=request.reverse,
                cf=request.cf,
                within=region.bounds,
            )
            _fill(response.kvs, pairs)
        if not bounds:
            self._raw.scan(b"", b"", 0, cf=request.cf)
        return 0

    def checksum(self, request: kvrpcpb.RawChecksumRequest, response: kvrpcpb.RawChecksumResponse) -> int:
        """RawChecksum."""
        bounds = [(r.start_key, r.end_key) for r in request.ranges]
        region = self._claim_ranges(request.context, "raw_checksum", bounds)
        for lower, _ in bounds:
            self._check_seek(region, lower)
        result = self._raw.checksum(bounds, within=region.bounds)
        response.checksum, response.total_kvs, response.total_bytes = result
        return 0

    # --- writes -------------------------------------------------------------------------------------------------------

    def put(self, request: kvrpcpb.RawPutRequest, response: kvrpcpb.RawPutResponse) -> int:
        """RawPut."""
        region = self._claim(request.context, "raw_put", (request.key,)).region
        self._check_write(region, (request.key,))
        ticket = self._raw.put(request.key, request.value, request.ttl, cf=request.cf, for_cas=request.for_cas)
        count(region, len(request.key) + len(request.value))
        return ticket

    def batch_put(self, request: kvrpcpb.RawBatchPutRequest, response: kvrpcpb.RawBatchPutResponse) -> int:
        """RawBatchPut. Its single `ttl` is ignored, as TiKV does."""
        pairs = [(pair.key, pair.value) for pair in request.pairs]
        keys = [key for key, _ in pairs]
        region = self._claim(request.context, "raw_batch_put", keys).region
        self._check_write(region, keys)
        ticket = self._raw.batch_put(pairs, request.ttls, cf=request.cf, for_cas=request.for_cas)
        count(region, sum(len(key) + len(value) for key, value in pairs), len(pairs))
        return ticket

    def delete(self, request: kvrpcpb.RawDeleteRequest, response: kvrpcpb.RawDeleteResponse) -> int:
        """RawDelete."""
        region = self._claim(request.context, "raw_delete", (request.key,)).region
        self._check_write(region, (request.key,))
        return self._raw.delete(request.key, cf=request.cf, for_cas=request.for_cas)

    def batch_delete(self, request: kvrpcpb.RawBatchDeleteRequest, response: kvrpcpb.RawBatchDeleteResponse) -> int:
        """RawBatchDelete."""
        region = self._claim(request.context, "raw_batch_delete", request.keys).region
        self._check_write(region, request.keys)
        return self._raw.batch_delete(request.keys, cf=request.cf, for_cas=request.for_cas)

    def delete_range(self, request: kvrpcpb.RawDeleteRangeRequest, response: kvrpcpb.RawDeleteRangeResponse) -> int:
        """RawDeleteRange, within one region."""
        lower, upper = request.start_key, request.end_key
        region = self._claim_ranges(request.context, "raw_delete_range", ((lower, upper),))
        self._raw.scan(b"", b"", 0, cf=request.cf)  # the name of the family comes before the bounds
        if upper and lower >= upper:
            text = "invalid delete range command: start_key is not below end_key"
            raise RegionError(errorpb.Error(message=text))
        check_key_in_region(region, self._border(lower))
        end = self._border(upper)
        if end and region.end_key and end != region.end_key:
            check_key_in_region(region, end)
        return self._raw.delete_range(lower, upper, cf=request.cf, within=region.bounds)

    def compare_and_swap(self, request: kvrpcpb.RawCASRequest, response: kvrpcpb.RawCASResponse) -> int:
        """RawCompareAndSwap."""
        region = self._claim(request.context, "raw_compare_and_swap", (request.key,)).region
        self._check_read(region, (request.key,))
        expected = None if request.previous_not_exist else request.previous_value
        value = None if request.delete else request.value
        result, ticket = self._raw.compare_and_swap(request.key, expected, value, request.ttl, cf=request.cf)
        response.succeed = result.swapped
        if result.previous is None:
            response.previous_not_exist = True
        else:
            response.previous_value = result.previous
        if result.swapped:
            count(region, len(request.key) + len(request.value))
        return ticket

    def coprocessor(self, request: kvrpcpb.RawCoprocessorRequest, response: kvrpcpb.RawCoprocessorResponse) -> int:
        """RawCoprocessor: refused, there are no plugins."""
        raise _PluginsDisabled


def count(region: RegionEntry, size_bytes: int, keys: int = 1) -> None:
    """Note what was written to a region, for the split checker."""
    region.written_bytes += size_bytes
    region.written_keys += keys


def _bounds(start_key: bytes, end_key: bytes, reverse: bool) -> tuple[bytes, bytes]:
    return (end_key, start_key) if reverse else (start_key, end_key)


def _fill(field: Any, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    add = field.add
    for key, value in pairs:
        add(key=key, value=value)
