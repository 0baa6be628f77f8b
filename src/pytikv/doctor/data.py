"""Evidence from the data itself: locks, and the sizes of values. Only a part is looked at, and nothing is written.

Bounds: locks of `_LOCK_REGIONS` regions, at most `_LOCK_PAGE` of each; of each kind of data `_SAMPLE_VALUES` values or
`_SAMPLE_BYTES`. Transactional values are the first of regions spread over all of them; raw ones the first and last.
Looking ends a second before the check's time does, so that what was seen by then is told.
"""

from __future__ import annotations

from typing import Final

from pytikv.client.raw_backend import RawBackend, Span
from pytikv.client.request_sender import RegionStale
from pytikv.client.rpcs import KV_SCAN, KV_SCAN_LOCK
from pytikv.client.txn.backend import TxnBackend, TxnPiece
from pytikv.client.txn.key_errors import user_key
from pytikv.doctor import evidence as ev
from pytikv.doctor.site import CannotCheck, Site
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.transfer.escape import escape
from pytikv.types import Timestamp

__all__ = ["locks", "values"]

_LOCK_REGIONS: Final = 256
_LOCK_PAGE: Final = 256
_SAMPLE_VALUES: Final = 1024
_SAMPLE_BYTES: Final = 64 << 20
_SAMPLE_PAGE: Final = 16
_SAMPLE_REGIONS: Final = 32
_LARGEST: Final = 20
_KEY_BYTES: Final = 60
_SPARE_S: Final = 1.0
_SILENT: Final = "no store answered for its regions in time"


async def locks(site: Site, deadline: float) -> ev.Locks:
    """List locks, region by region from the first one on, as long as there is time."""
    txn = site.need_txn()
    now = await txn.timestamp(deadline)
    pieces = await _pieces(txn, deadline)
    found: list[ev.Lock] = []
    done = 0
    for piece in pieces[:_LOCK_REGIONS]:
        if site.rt.now() > deadline - _SPARE_S:
            break
        request = kvrpcpb.ScanLockRequest(
            max_version=now, start_key=piece.start_key, end_key=piece.end_key, limit=_LOCK_PAGE
        )
        try:
            answer = await txn.send(KV_SCAN_LOCK, piece.region, request, txn.call(deadline))
        except RegionStale:
            continue
        found += [_lock(lock, txn) for lock in answer.locks]
        done += 1
    if not done:
        raise CannotCheck(_SILENT)
    return ev.Locks(now, tuple(found), done, done == len(pieces))


async def _pieces(txn: TxnBackend, deadline: float) -> list[TxnPiece]:
    low, high = txn.codec.encode_range(b"", b"")
    return await txn.pieces(low, high, txn.call(deadline))


def _lock(lock: kvrpcpb.LockInfo, txn: TxnBackend) -> ev.Lock:
    return ev.Lock(
        _shown(user_key(lock.key, txn.codec)),
        _shown(user_key(lock.primary_lock, txn.codec)),
        Timestamp(lock.lock_version),
        kvrpcpb.Op.Name(lock.lock_type),
        lock.lock_ttl,
    )


def _shown(key: bytes) -> str:
    """Return a key as text, cut where it is long."""
    return escape(key[:_KEY_BYTES]) + ("..." if len(key) > _KEY_BYTES else "")


async def values(site: Site, deadline: float) -> ev.Values:
    """Look at the sizes of some values: the first ones of some regions, of both kinds of data."""
    if site.txn is None and site.raw is None:
        raise CannotCheck(site.raw_error or site.txn_error)
    sample = _Sample(site, deadline)
    if site.txn is not None:
        await _sample_txn(sample, site.txn)
    if site.raw is not None:
        await _sample_raw(sample, site.raw)
    if not sample.answers:
        raise CannotCheck(_SILENT)
    largest = sorted(sample.found, key=lambda value: value.size, reverse=True)[:_LARGEST]
    return ev.Values(len(sample.found), sum(value.size for value in sample.found), tuple(largest))


class _Sample:
    """What was sampled, and whether there is time and room for more."""

    def __init__(self, site: Site, deadline: float) -> None:
        self.found: list[ev.Value] = []
        self.answers = 0
        self.deadline = deadline
        self._site = site

    def wants_more(self, kind: str, part: float = 1.0) -> bool:
        """Tell whether `part` of what may be sampled of a kind is not there yet."""
        sizes = [value.size for value in self.found if value.kind == kind]
        in_time = self._site.rt.now() < self.deadline - _SPARE_S
        return in_time and len(sizes) < part * _SAMPLE_VALUES and sum(sizes) < part * _SAMPLE_BYTES


async def _sample_txn(sample: _Sample, txn: TxnBackend) -> None:
    version = await txn.timestamp(sample.deadline)
    pieces = await _pieces(txn, sample.deadline)
    for piece in pieces[:: max(1, len(pieces) // _SAMPLE_REGIONS)]:
        if not sample.wants_more("txn"):
            break
        request = kvrpcpb.ScanRequest(
            start_key=piece.start_key, end_key=piece.end_key, version=version, limit=_SAMPLE_PAGE * 4
        )
        try:
            answer = await txn.send(KV_SCAN, piece.region, request, txn.call(sample.deadline))
        except RegionStale:
            continue
        sample.answers += 1
        for pair in answer.pairs:
            if not pair.HasField("error"):
                key = _shown(user_key(pair.key, txn.codec))
                sample.found.append(ev.Value("txn", key, len(pair.value)))


async def _sample_raw(sample: _Sample, raw: RawBackend) -> None:
    for reverse, part in ((False, 0.5), (True, 1.0)):
        span: Span | None = raw.span(b"", b"")
        while span is not None and sample.wants_more("raw", part):
            page = await raw.scan_page(span, _SAMPLE_PAGE, reverse=reverse, keys_only=False)
            sample.answers += 1
            sample.found += [ev.Value("raw", _shown(key), len(value)) for key, value in page.pairs]
            span = page.rest
        if span is None:
            break  # all of it was seen
