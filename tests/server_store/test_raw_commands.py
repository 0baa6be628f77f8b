"""The raw commands: bytes on disk, limits, refusals, and all of them together against a plain dict."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pytikv.codec import memcomparable
from pytikv.errors import ConfigError, InvalidArgument, Outcome, UnsupportedByServer
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.storage.api_version import ApiVersion, check_raw_keys, check_raw_ranges
from pytikv.server.storage.crc64 import crc64
from pytikv.server.storage.errors import (
    CfDeprecated,
    EmptyRequest,
    InvalidCf,
    InvalidKeyMode,
    InvalidKeyRangeMode,
    KeyTooLarge,
    RaftEntryTooLarge,
    TtlLenNotEqualsToPairs,
    TtlNotEnabled,
)
from pytikv.server.storage.raw import RawStorage, open_raw
from pytikv.server.storage.raw_codec import v2_data_key
from pytikv.types import KeyRange

V1, V1TTL, V2 = ApiVersion.V1, ApiVersion.V1TTL, ApiVersion.V2
MAX = (1 << 64) - 1


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def opened(engine: Engine, version: ApiVersion, clock: Clock | None = None) -> RawStorage:
    return open_raw(engine, version, now_s=clock or Clock(), causal_ts=itertools.count(100).__next__)


# --- bytes on disk ----------------------------------------------------------------------------------------------------


def test_v1_stores_as_is(engine: Engine) -> None:
    raw = opened(engine, V1)
    raw.put(b"k", b"v")
    raw.put(b"l", b"lock", cf="lock")
    raw.put(b"w", b"", cf="write")
    assert list(engine.scan("default")) == [(b"k", b"v")]
    assert list(engine.scan("lock")) == [(b"l", b"lock")]
    assert list(engine.scan("write")) == [(b"w", b"")]


def test_v1ttl_appends_the_second(engine: Engine) -> None:
    raw = opened(engine, V1TTL)
    raw.put(b"a", b"v")
    raw.put(b"b", b"v", 10)
    raw.put(b"c", b"", MAX)
    assert list(engine.scan("default")) == [
        (b"a", b"v" + bytes(8)),
        (b"b", b"v" + (1_000_010).to_bytes(8, "big")),
        (b"c", b"\xff" * 8),
    ]


def test_v2_stores_versions_newest_first(engine: Engine) -> None:
    raw = opened(engine, V2)
    raw.put(b"r\x00\x00\x00k", b"v")
    raw.put(b"r\x00\x00\x00k", b"w", 10)
    raw.delete(b"r\x00\x00\x00k")
    encoded = memcomparable.encode(b"r\x00\x00\x00k")
    assert list(engine.scan("default")) == [
        (encoded + (MAX - 102).to_bytes(8, "big"), b"\x02"),
        (encoded + (MAX - 101).to_bytes(8, "big"), b"w" + (1_000_010).to_bytes(8, "big") + b"\x01"),
        (encoded + (MAX - 100).to_bytes(8, "big"), b"v\x00"),
    ]
    assert raw.get(b"r\x00\x00\x00k") is None


def test_v2_key_that_is_a_prefix_of_another(engine: Engine) -> None:
    raw = opened(engine, V2)
    raw.put(b"r1234567", b"long")
    assert raw.get(b"r") is None
    assert raw.get(b"r123456") is None
    raw.put(b"r", b"")
    assert raw.batch_get([b"r1234567", b"r123", b"r", b"r"]) == [(b"r1234567", b"long"), (b"r", b""), (b"r", b"")]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_column_families() -> None:
    raw = opened(MemoryEngine(), V1)
    with pytest.raises(InvalidCf, match="invalid cf name: DEFAULT") as caught:
        raw.get(b"k", "DEFAULT")
    assert caught.value.debug == 'Error(InvalidCf("DEFAULT"))'
    assert isinstance(caught.value, InvalidArgument)
    for call in (
        lambda: raw.put(b"k", b"", cf="x"),
        lambda: raw.batch_put([(b"k", b"")], cf="x"),
        lambda: raw.delete(b"k", cf="x"),
        lambda: raw.batch_delete([b"k"], cf="x"),
        lambda: raw.delete_range(b"a", b"b", cf="x"),
        lambda: raw.scan(b"", b"", 1, cf="x"),
        lambda: raw.batch_get([b"k"], "x"),
        lambda: raw.compare_and_swap(b"k", None, b"", cf="x"),
    ):
        with pytest.raises(InvalidCf):
            call()
    with pytest.raises(CfDeprecated, match="cf is deprecated in API V2, cf name: default"):
        opened(MemoryEngine(), V2).get(b"rk", "default")


def test_limits() -> None:
    raw = opened(MemoryEngine(), V1)
    long = b"k" * 8193
    for call in (
        lambda: raw.put(long, b""),
        lambda: raw.batch_put([(b"a", b""), (long, b"")]),
        lambda: raw.delete(long),
        lambda: raw.batch_delete([long]),
        lambda: raw.delete_range(b"a", long),
    ):
        with pytest.raises(KeyTooLarge, match="size: 8193, limit: 8192"):
            call()
    assert raw.get(b"a") is None
    raw.put(long, b"1", for_cas=True)
    raw.delete(long, for_cas=True)
    assert raw.compare_and_swap(long, None, b"2")[0].swapped
    raw.put(b"k" * 8192, b"v" * (8 * 1024 * 1024 - 8192 - 80))
    for call in (
        lambda: raw.put(b"k", b"v" * (8 << 20)),
        lambda: raw.batch_put([(b"%d" % i, b"v" * (1 << 20)) for i in range(9)]),
        lambda: raw.compare_and_swap(b"k", None, b"v" * (8 << 20)),
    ):
        with pytest.raises(RaftEntryTooLarge) as caught:
            call()
        assert caught.value.outcome is Outcome.NOT_APPLIED
        assert caught.value.entry_size_bytes > 8 << 20
    assert raw.get(b"k") is None


def test_empty_batches_and_ttls() -> None:
    raw, with_ttl = opened(MemoryEngine(), V1), opened(MemoryEngine(), V1TTL)
    with pytest.raises(EmptyRequest, match="an empty request"):
        raw.batch_put([])
    with pytest.raises(EmptyRequest):
        raw.batch_delete([])
    for call in (
        lambda: raw.put(b"k", b"", 1),
        lambda: raw.batch_put([(b"k", b"")], [1]),
        lambda: raw.get_ttl(b"k"),
        lambda: raw.compare_and_swap(b"k", None, b"", 1),
    ):
        with pytest.raises(UnsupportedByServer) as caught:
            call()
        assert isinstance(caught.value, TtlNotEnabled)
    raw.batch_put([(b"a", b""), (b"b", b"")], [0, 0, 0])
    with pytest.raises(TtlLenNotEqualsToPairs):
        with_ttl.batch_put([(b"a", b""), (b"b", b""), (b"c", b"")], [1, 2])
    with_ttl.batch_put([(b"a", b""), (b"b", b"")], [5])
    with_ttl.batch_put([(b"c", b""), (b"d", b"")], [6, 0])
    assert [with_ttl.get_ttl(key) for key in (b"a", b"b", b"c", b"d", b"e")] == [5, 5, 6, 0, None]


def test_api_versions_and_key_modes() -> None:
    check_raw_keys(V1, 0, "raw_get", (b"",))
    check_raw_keys(V1TTL, 0, "raw_get", (b"x",))
    check_raw_keys(V2, 2, "raw_get", (b"r",))
    for store, claim in ((V1, 1), (V1, 2), (V1TTL, 1), (V1TTL, 2), (V2, 0), (V2, 1), (V2, 7)):
        with pytest.raises(ConfigError, match="Api version in request does not match"):
            check_raw_keys(store, claim, "raw_get", (b"r",))
    with pytest.raises(InvalidKeyMode, match="key: 78") as caught:
        check_raw_keys(V2, 2, "raw_put", (b"r", b"x"))
    assert caught.value.debug == 'Error(InvalidKeyMode { cmd: raw_put, storage_api_version: V2, key: "78" })'
    check_raw_ranges(V2, 2, "raw_scan", ((b"r", b"s"),))
    for bounds in ((b"r", b""), (b"", b"s"), (b"q", b"s"), (b"r", b"s\x00")):
        with pytest.raises(InvalidKeyRangeMode):
            check_raw_ranges(V2, 2, "raw_scan", (bounds,))


def test_crc64() -> None:
    assert crc64(b"123456789") == 0x995DC9BBDF1939FA
    assert crc64(b"") == 0


# --- scans and cleaning up --------------------------------------------------------------------------------------------


def test_within_clips_to_a_region(engine: Engine) -> None:
    raw = opened(engine, V2)
    for letter in b"abcdef":
        raw.put(b"r" + bytes([letter]), b"")
    within = KeyRange(memcomparable.encode(b"rb"), memcomparable.encode(b"re"))
    for reverse in (False, True):
        keys = [key for key, _ in raw.scan(b"r", b"s", 10, reverse=reverse, within=within)]
        assert keys == [b"rb", b"rc", b"rd"][:: -1 if reverse else 1]
    raw.delete_range(b"r", b"rd", within=within)
    assert [key for key, _ in raw.scan(b"r", b"s", 10)] == [b"ra", b"rd", b"re", b"rf"]


def test_cleanup_removes_expired_and_replaced(engine: Engine) -> None:
    clock = Clock()
    raw = opened(engine, V2, clock)
    for i in range(10):
        raw.put(b"rmany", b"%d" % i)
    raw.put(b"rgone", b"x")
    raw.delete(b"rgone")
    raw.put(b"rold", b"x")
    raw.put(b"rold", b"y", 1)
    raw.put(b"rstays", b"z", 1000)
    clock.now_s += 10
    position: bytes | None = b""
    while position is not None:  # a step that ends within a key must not bring its deletion's victims back
        position = raw.cleanup_step(position, limit=3, safe_point=10_000)
        assert raw.batch_get([b"rmany", b"rgone", b"rold", b"rstays"]) == [(b"rmany", b"9"), (b"rstays", b"z")]
    position = b""
    while position is not None:
        position = raw.cleanup_step(position, limit=100, safe_point=10_000)
    assert sum(1 for _ in engine.scan("default")) == 2


def test_cleanup_keeps_what_is_above_the_safe_point() -> None:
    engine = MemoryEngine()
    raw = opened(engine, V2)
    raw.put(b"rk", b"1")
    raw.put(b"rk", b"2")
    raw.put(b"rk", b"3")
    assert raw.cleanup_step(safe_point=101) is None
    assert [value for _, value in engine.scan("default")] == [b"3\x00", b"2\x00"]


def test_cleanup_leaves_transactional_values_alone(engine: Engine) -> None:
    raw = opened(engine, V2)
    theirs = [(v2_data_key(b"x\0\0\0k", ts), b"value of a transaction") for ts in (9, 5)]
    for key, value in theirs:
        engine.put("default", key, value)
    raw.put(b"rk", b"1")
    raw.put(b"rk", b"2")
    position: bytes | None = b""
    while position is not None:
        position = raw.cleanup_step(position, limit=2, safe_point=10_000)
    assert list(engine.scan("default", b"x")) == theirs
    assert sum(1 for _ in engine.scan("default", b"", b"x")) == 1


def test_cleanup_of_v1ttl(engine: Engine) -> None:
    clock = Clock()
    raw = opened(engine, V1TTL, clock)
    raw.batch_put([(b"%d" % i, b"") for i in range(10)], [1, 0] * 5)
    clock.now_s += 1
    assert [key for key, _ in raw.scan(b"", b"", 100)] == [b"1", b"3", b"5", b"7", b"9"]
    assert raw.cleanup_step(limit=4) == b"4"
    assert raw.cleanup_step(b"4", limit=100) is None
    assert sum(1 for _ in engine.scan("default")) == 5


def test_compare_and_swap_from_many_threads(engine: Engine) -> None:
    raw = opened(engine, V1)
    raw.put(b"counter", b"0")

    def add() -> None:
        for _ in range(50):
            while True:
                value = raw.get(b"counter")
                assert value is not None
                if raw.compare_and_swap(b"counter", value, b"%d" % (int(value) + 1))[0].swapped:
                    break

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raw.get(b"counter") == b"200"


# --- everything against a dict ----------------------------------------------------------------------------------------

KEYS = st.binary(max_size=2).map(lambda suffix: b"r" + suffix) | st.sampled_from([b"r1234567", b"r12345678"])
VALUES = st.binary(max_size=3)
TTLS = st.sampled_from([0, 0, 1, 5, 100])


class RawMachine(RuleBasedStateMachine):
    version: ApiVersion

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        self.engine = MemoryEngine()
        self.raw = opened(self.engine, self.version, self.clock)
        self.twin: dict[bytes, tuple[bytes, float]] = {}

    def _present(self) -> dict[bytes, bytes]:
        return {key: value for key, (value, end) in sorted(self.twin.items()) if end > self.clock.now_s}

    def _set(self, key: bytes, value: bytes, ttl_s: int) -> None:
        self.twin[key] = value, self.clock.now_s + ttl_s if ttl_s else float("inf")

    def _ttl(self, ttl_s: int) -> int:
        return ttl_s if self.version.has_ttl else 0

    @rule(key=KEYS, value=VALUES, ttl_s=TTLS, for_cas=st.booleans())
    def put(self, key: bytes, value: bytes, ttl_s: int, for_cas: bool) -> None:
        self.raw.put(key, value, self._ttl(ttl_s), for_cas=for_cas)
        self._set(key, value, self._ttl(ttl_s))

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES, TTLS), min_size=1, max_size=5), for_cas=st.booleans())
    def batch_put(self, pairs: list[tuple[bytes, bytes, int]], for_cas: bool) -> None:
        ttls_s = [self._ttl(ttl_s) for _, _, ttl_s in pairs]
        self.raw.batch_put([(key, value) for key, value, _ in pairs], ttls_s, for_cas=for_cas)
        for key, value, ttl_s in pairs:
            self._set(key, value, self._ttl(ttl_s))

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.raw.delete(key)
        self.twin.pop(key, None)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4))
    def batch_delete(self, keys: list[bytes]) -> None:
        self.raw.batch_delete(keys)
        for key in keys:
            self.twin.pop(key, None)

    @rule(lower=KEYS, upper=KEYS)
    def delete_range(self, lower: bytes, upper: bytes) -> None:
        self.raw.delete_range(lower, upper)
        for key in [key for key in self.twin if lower <= key < upper]:
            del self.twin[key]

    @rule(key=KEYS, expected=VALUES | st.none(), value=VALUES | st.none(), ttl_s=TTLS, guess=st.booleans())
    def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl_s: int, guess: bool
    ) -> None:
        present = self._present().get(key)
        expected = present if guess else expected
        result, ticket = self.raw.compare_and_swap(key, expected, value, self._ttl(ttl_s))
        assert result == (present == expected, present)
        assert bool(ticket) == result.swapped
        if result.swapped and value is None:
            self.twin.pop(key, None)
        elif result.swapped and value is not None:
            self._set(key, value, self._ttl(ttl_s))

    @rule(seconds=st.sampled_from([1, 3, 50]))
    def wait(self, seconds: int) -> None:
        self.clock.now_s += seconds

    @rule(limit=st.integers(1, 10), safe_point=st.integers(0, 200))
    def clean_up(self, limit: int, safe_point: int) -> None:
        position: bytes | None = b""
        while position is not None:
            position = self.raw.cleanup_step(position, limit=limit, safe_point=safe_point)

    @rule(keys=st.lists(KEYS, max_size=4))
    def read(self, keys: list[bytes]) -> None:
        present = self._present()
        assert [self.raw.get(key) for key in keys] == [present.get(key) for key in keys]
        assert self.raw.batch_get(keys) == [(key, present[key]) for key in keys if key in present]
        if self.version.has_ttl:
            for key in keys:
                if key in present:
                    end = self.twin[key][1]
                    assert self.raw.get_ttl(key) == (0 if end == float("inf") else int(end - self.clock.now_s))

    @rule(lower=KEYS, upper=KEYS, limit=st.integers(0, 6), reverse=st.booleans(), key_only=st.booleans())
    def scan(self, lower: bytes, upper: bytes, limit: int, reverse: bool, key_only: bool) -> None:
        pairs = [pair for pair in self._present().items() if lower <= pair[0] < upper]
        expected = (pairs[::-1] if reverse else pairs)[:limit]
        if key_only:
            expected = [(key, b"") for key, _ in expected]
        assert self.raw.scan(lower, upper, limit, reverse=reverse, key_only=key_only) == expected

    @rule()
    def checksum(self) -> None:
        pairs = self._present()
        result = self.raw.checksum([(b"r", b"s")])
        total = 0
        for key, value in pairs.items():
            total ^= crc64(key + value)
        assert result == (total, len(pairs), sum(len(key) + len(value) for key, value in pairs.items()))


class V1Machine(RawMachine):
    version = V1


class V1TtlMachine(RawMachine):
    version = V1TTL


class V2Machine(RawMachine):
    version = V2


TestV1 = V1Machine.TestCase
TestV1Ttl = V1TtlMachine.TestCase
TestV2 = V2Machine.TestCase
for case in (TestV1, TestV1Ttl, TestV2):
    case.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
del case  # or it would be collected once more
