"""Our side of the checks of transactions: what our client writes for a peer, and what it makes of what the peer left.

Both sides leave transactions that stopped half way, over keys of two regions, `PREFIXdead_KIND_...` by us and
`PREFIXleft_KIND_...` by the peer:

* `prewrite`: all keys are prewritten, none committed; a reader must see what was there before;
* `committed`: the primary is committed, the others are not; a reader must see the new values;
* `async`: all keys are prewritten with async commit, so that it is committed; a reader must see the new values;
* `pessimistic`: all keys are locked, with a short TTL; readers pass, a writer waits for it;
* `held`: as `pessimistic` with a TTL too long to wait for; readers pass, a writer that does not wait is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from dead_client import DeadClient

import pytikv

_SEEN = {"prewrite": b"before", "committed": b"after", "async": b"after"}
_SHARED = 50
_LEFT = 10
_TTL_MS = 1
_PATIENCE_S = 20.0
_ALLOWED_AGE_S = 300


class OurSide:
    """Our client, and its dead twin, under one prefix. A context manager."""

    def __init__(self, url: str, api_version: int, prefix: str) -> None:
        self._prefix = prefix
        self._db = pytikv.TransactionClient.connect(url, api_version=api_version, timeout=_PATIENCE_S)
        self._dead = DeadClient(url, api_version=api_version)

    def __enter__(self) -> OurSide:
        return self

    def __exit__(self, *_: object) -> None:
        self._dead.close()
        self._db.close()

    def _key(self, tail: str) -> bytes:
        return f"{self._prefix}{tail}".encode()

    def _numbered(self, stem: str) -> dict[bytes, bytes]:
        return {self._key(f"{stem}_{i:04}"): b"value %d" % i for i in range(_SHARED)}

    def _half(self, stem: str, start: str) -> list[bytes]:
        """The keys of a transaction that stopped half way, in the lower (`""`) or the upper region (`"~"`)."""
        return [self._key(f"{start}{stem}_{i}") for i in range(_LEFT)]

    def prepare(self, meets: Sequence[str]) -> None:
        """Write the pairs for the peer, and leave the locks of these kinds. GC may go on up to five minutes ago."""
        stems = {kind: f"dead_{kind}" for kind in meets}
        keys = {kind: self._half(stem, "") + self._half(stem, "~") for kind, stem in stems.items()}
        with self._db.begin() as txn:
            for key, value in self._numbered("pytikv").items():
                txn.put(key, value)
            for key in [key for half in keys.values() for key in half]:
                txn.put(key, b"before")
        for kind, half in keys.items():
            self._die(kind, half)
        self._dead.allow_gc(_ALLOWED_AGE_S)

    def _die(self, kind: str, keys: Sequence[bytes]) -> None:
        if kind == "pessimistic":
            self._dead.lock(keys, ttl_ms=_TTL_MS)
            return
        start_ts = self._dead.prewrite(dict.fromkeys(keys, b"after"), ttl_ms=_TTL_MS, async_commit=kind == "async")
        if kind == "committed":
            self._dead.commit_primary(keys[0], start_ts)

    def checks(self, leaves: Sequence[str]) -> dict[str, Callable[[], None]]:
        """The checks by name, for a peer that leaves these kinds of locks."""
        made: dict[str, Callable[[], None]] = {
            "get of what it wrote": self._get,
            "batch_get of what it wrote": self._batch_get,
            "scan of what it wrote": self._scan,
        }
        meet = {"pessimistic": self._meet_pessimistic, "held": self._meet_held}
        for kind in leaves:
            made[f"a dead peer's locks, {kind}"] = meet.get(kind, functools.partial(self._meet, kind))
        return made | {"gc": self._gc}

    def _get(self) -> None:
        snapshot = self._db.snapshot()
        for key, value in self._numbered("theirs").items():
            _same(f"{key!r}", snapshot.get(key), value)

    def _batch_get(self) -> None:
        wanted = self._numbered("theirs")
        _same("pairs", self._db.snapshot().batch_get(list(wanted)), wanted)

    def _scan(self) -> None:
        wanted = list(self._numbered("theirs").items())
        _same("pairs", list(self._db.snapshot().scan_prefix(self._key("theirs_"))), wanted)
        _same("reversed", list(self._db.snapshot().scan_prefix(self._key("theirs_"), reverse=True)), wanted[::-1])

    def _meet(self, kind: str) -> None:
        stem = f"left_{kind}"
        lower, upper = self._half(stem, ""), self._half(stem, "~")
        snapshot, value = self._db.snapshot(), _SEEN[kind]
        scanned = dict(snapshot.scan_prefix(self._key(f"{stem}_")))  # each way of reading meets locks of its own
        _same("scan", scanned, dict.fromkeys(lower, value))
        _same("get", snapshot.get(upper[0]), value)
        _same("batch_get", snapshot.batch_get(upper), dict.fromkeys(upper, value))
        self._write_over(lower + upper, pessimistic=False)

    def _meet_pessimistic(self) -> None:
        keys = self._half("left_pessimistic", "") + self._half("left_pessimistic", "~")
        _same("readers pass", self._db.snapshot().batch_get(keys), {})
        self._write_over(keys, pessimistic=True)

    def _meet_held(self) -> None:
        keys = self._half("left_held", "") + self._half("left_held", "~")
        _same("readers pass", self._db.snapshot().batch_get(keys), {})
        with self._db.begin(pessimistic=True) as txn:
            for key in (keys[0], keys[-1]):
                try:
                    txn.lock_keys([key], wait=0)
                except pytikv.KeyLocked:
                    continue
                raise AssertionError(f"{key!r} could be locked twice")

    def _write_over(self, keys: Sequence[bytes], *, pessimistic: bool) -> None:
        with self._db.begin(pessimistic=pessimistic) as txn:
            if pessimistic:
                txn.lock_keys(keys)
            for key in keys:
                txn.put(key, b"over")
        _same("written over", self._db.snapshot().batch_get(keys), dict.fromkeys(keys, b"over"))

    def _gc(self) -> None:
        self._db.gc(life_time=600.0)
        _same("after GC", len(self._db.snapshot().batch_get(list(self._numbered("theirs")))), _SHARED)


def _same(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"{what}: {str(got)[:80]} instead of {str(wanted)[:80]}")
