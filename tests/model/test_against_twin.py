"""Any sequence of operations on a table, in transactions of both kinds, against a dictionary, index entries and all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_drivers import DRIVERS
from model_tables import CLASSES, FIELDS, make_table, plain
from txn_world import Fault, Store

from pytikv.model import Desc, RowExists, UniqueViolation
from pytikv.model.tuples import encode
from pytikv.testing.sim import World

IDS = st.integers(-1, 2)
FLOATS = st.sampled_from([0.0, -1.5, 2, 1e300])
RECORDS = st.fixed_dictionaries(
    {"id": IDS},
    optional={
        "email": st.sampled_from(["a", "b", "", None]),
        "age": st.integers(0, 3),
        "city": st.sampled_from(["", "Rom", "Ro\0", "\U0001f600"]),
        "score": FLOATS,
        "tags": st.lists(st.sampled_from(["x", "y", "x\0"]), max_size=3),
        "photo": st.sampled_from([b"", b"\xff\0" * 100]),
        "note": st.sampled_from(["", "n" * 200]),
    },
)
CHANGES = st.dictionaries(st.just("age"), st.integers(0, 3)) | st.fixed_dictionaries(
    {},
    optional={
        "email": st.sampled_from(["a", "b", None]),
        "city": st.sampled_from(["", "Rom"]),
        "tags": st.just(["y"]),
        "photo": st.just(b"new"),
    },
)
NAMES = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("put"), RECORDS),
    st.tuples(st.just("insert"), RECORDS),
    st.tuples(st.just("put_many"), st.lists(RECORDS, max_size=4)),
    st.tuples(st.just("insert_many"), st.lists(RECORDS, max_size=4)),
    st.tuples(st.just("update"), IDS, CHANGES),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("delete_many"), st.lists(IDS, max_size=3)),
    st.tuples(st.just("get"), IDS),
    st.tuples(st.just("get_many"), st.lists(IDS, max_size=4)),
    st.tuples(st.just("by"), st.sampled_from(["a", "b", ""])),
    st.tuples(st.just("fields"), IDS, NAMES),
    st.tuples(st.just("exists"), IDS),
)
TRANSACTIONS = st.lists(st.tuples(st.booleans(), st.lists(STEPS, max_size=8), st.booleans()), max_size=4)
KINDS = [(kind, codec) for kind in CLASSES for codec in (["protobuf"] if kind == "protobuf" else ["json", "msgpack"])]
OPTIONS = st.fixed_dictionaries(
    {
        "groups": st.booleans(),
        "shards": st.sampled_from([0, 3]),
        "compress": st.booleans(),
        "key": st.sampled_from(["id", Desc("id")]),
        "version": st.sampled_from([0, 300]),
    }
)

Rows = dict[int, dict[str, Any]]


class Refused(Exception):
    """What the twin expects to be refused."""


class Twin:
    """What a table does, done to a dictionary."""

    def __init__(self, rows: Rows) -> None:
        self.rows = dict(rows)

    def put(self, records: list[dict[str, Any]], must_be_new: bool) -> None:
        rows = dict(self.rows)
        for record in records:
            if must_be_new and record["id"] in rows:
                raise Refused("exists")
            others = [other for key, other in rows.items() if key != record["id"]]
            if any(self._clash(record, other) for other in others):
                raise Refused("unique")
            rows[record["id"]] = record
        self.rows = rows

    @staticmethod
    def _clash(one: dict[str, Any], other: dict[str, Any]) -> bool:
        same_place = one["city"] == other["city"] and one["age"] == other["age"] and one["age"] >= 2
        return same_place or (one["email"] is not None and one["email"] == other["email"])


def write(driver: Any, call: Any, twin: Twin, records: list[dict[str, Any]], must_be_new: bool) -> None:
    """Make a call that writes records; it must be refused just where the twin refuses them."""
    before = dict(twin.rows)
    try:
        twin.put(records, must_be_new)
        expected = None
    except Refused as error:
        expected = str(error)
    if expected is None:
        driver.do(call())
        return
    with pytest.raises(UniqueViolation if expected == "unique" else RowExists) as caught:
        driver.do(call())
    assert caught.value.table == "user"
    assert twin.rows == before


class Player:
    """Plays steps on a table and its twin."""

    def __init__(self, driver: Any, table: Any) -> None:
        self.driver = driver
        self.table = table
        self.cls = table.cls

    def record(self, values: dict[str, Any]) -> Any:
        return self.cls(**values)

    def step(self, txn: Any, twin: Twin, name: str, *arguments: Any) -> None:
        table, do = self.table, self.driver.do
        if name in ("put", "insert", "put_many", "insert_many"):
            given = arguments[0] if name.endswith("many") else [arguments[0]]
            records = [self.record(values) for values in given]
            method = getattr(table, name)
            call = (lambda: method(txn, records)) if name.endswith("many") else (lambda: method(txn, records[0]))
            write(self.driver, call, twin, [plain(record) for record in records], name.startswith("insert"))
        elif name == "update":
            key, changes = arguments
            if key in twin.rows:
                write(
                    self.driver,
                    lambda: table.update(txn, key, **changes),
                    twin,
                    [{**twin.rows[key], **changes}],
                    False,
                )
            else:
                assert do(table.update(txn, key, **changes)) is None
        elif name == "delete":
            assert do(table.delete(txn, arguments[0])) is (twin.rows.pop(arguments[0], None) is not None)
        elif name == "delete_many":
            gone = [twin.rows.pop(key, None) for key in arguments[0]]
            assert do(table.delete_many(txn, arguments[0])) == sum(row is not None for row in gone)
        else:
            self.read(txn, twin, name, *arguments)

    def read(self, txn: Any, twin: Twin, name: str, *arguments: Any) -> None:
        table, do, rows = self.table, self.driver.do, twin.rows
        if name == "get":
            self.same(do(table.get(txn, arguments[0])), rows.get(arguments[0]))
        elif name == "get_many":
            found = do(table.get_many(txn, arguments[0]))
            assert len(found) == len(arguments[0])
            for record, key in zip(found, arguments[0], strict=True):
                self.same(record, rows.get(key))
        elif name == "by":
            wanted = [row for row in rows.values() if row["email"] == arguments[0]]
            self.same(do(table.by(txn, email=arguments[0])), wanted[0] if wanted else None)
        elif name == "exists":
            assert do(table.exists(txn, arguments[0])) is (arguments[0] in rows)
        else:
            key, names = arguments
            found = do(table.get(txn, key, fields=names))
            expected = None if key not in rows else {one: rows[key][one] for one in names}
            assert (found if found is None else {one: self.listed(value) for one, value in found.items()}) == expected

    @staticmethod
    def listed(value: Any) -> Any:
        return value if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else list(value)

    def same(self, record: Any, expected: dict[str, Any] | None) -> None:
        assert (record is None) is (expected is None)
        if record is not None:
            assert isinstance(record, self.cls)
            assert plain(record) == expected

    def play(self, transactions: list[tuple[bool, list[tuple[Any, ...]], bool]]) -> None:
        rows: Rows = {}
        for is_pessimistic, steps, commits in transactions:
            twin = Twin(rows)
            txn = self.driver.begin(pessimistic=is_pessimistic)
            for what in steps:
                self.step(txn, twin, *what)
            self.driver.do(txn.commit() if commits else txn.rollback())
            if commits:
                rows = twin.rows
            self.check_stored(rows)

    def check_stored(self, rows: Rows) -> None:
        """The stored keys are exactly those that the rows demand, and what check looks at agrees."""
        core = self.table.rows
        expected: dict[bytes, bytes] = {}
        entries: dict[bytes, bytes] = {}
        for row in rows.values():
            record = self.record(row)
            key = core.layout.key_of(record)
            encoded = core.layout.encoded_key(key)
            expected.update(core.differ.stored(record, encoded))
            entries.update((one.key, one.value) for one in core.layout.entries(record, encoded, key))
        low = self.table.schema.prefix
        txn = self.driver.begin()
        found = dict(self.driver.rows(txn.scan(low, low + b"\xff")))
        self.driver.do(txn.rollback())
        found.pop(low + encode(("user", 2)), None)  # the catalog's row
        assert sorted(found) == sorted([*expected, *entries])
        assert {key: found[key] for key in entries} == entries
        if self.driver.db is None:
            return
        report = self.driver.do(self.table.check(self.driver.db))
        assert report.is_sound, report
        assert report.rows == len(rows)


_numbers: Iterator[int] = itertools.count()


def play(driver: Any, kind: str, codec: str, options: dict[str, Any], transactions: Any) -> None:
    prefix = b"twin %d/" % next(_numbers)  # a place of its own in a store that is shared
    Player(driver, make_table(kind, codec, prefix=prefix, **options)).play(transactions)


@pytest.mark.parametrize("way", DRIVERS)
@pytest.mark.parametrize(("kind", "codec"), KINDS)
@settings(max_examples=40)
@given(options=OPTIONS, transactions=TRANSACTIONS)
def test_a_table_does_what_a_dictionary_does(
    way: str, kind: str, codec: str, options: dict[str, Any], transactions: Any
) -> None:
    driver = DRIVERS[way]("embedded://:memory:")
    try:
        play(driver, kind, codec, options, transactions)
    finally:
        driver.close()


class Simulated:
    """A client in virtual time whose requests get lost."""

    db = None

    def __init__(self, world: World, borders: list[bytes], faults: list[Fault]) -> None:
        self._store = Store(world)
        self._store.split(*borders)
        self._node = self._store.node()
        self._node.faults = faults

    def do(self, answer: Any) -> Any:
        async def wait() -> Any:
            return await answer

        return self._store.run(wait(), self._node)

    def begin(self, **options: Any) -> Any:
        return self.do(self._node.begin(**options))

    def rows(self, query: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [one async for one in query]

        return self.do(collect())  # type: ignore[no-any-return]


FAULTS = st.lists(
    st.builds(
        Fault,
        st.sampled_from(
            ["KvGet", "KvBatchGet", "KvPrewrite", "KvCommit", "KvPessimisticLock", "KvPessimisticRollback"]
        ),
        st.sampled_from(["drop request", "drop answer", "stale"]),
        st.integers(0, 5),
    ),
    max_size=6,
)


@pytest.mark.parametrize("kind", CLASSES)
@settings(max_examples=40)
@given(options=OPTIONS, transactions=TRANSACTIONS, faults=FAULTS, borders=st.sets(IDS, max_size=2))
def test_a_table_whose_requests_get_lost_does_what_a_dictionary_does(
    kind: str, options: dict[str, Any], transactions: Any, faults: list[Fault], borders: set[int]
) -> None:
    prefix = b"twin %d/" % next(_numbers)
    cuts = [prefix + encode(("user", 0, border)) for border in borders] + [prefix + encode(("user", "email"))]
    with World(1) as world:
        driver = Simulated(world, cuts, faults)
        Player(driver, make_table(kind, prefix=prefix, **options)).play(transactions)


@pytest.mark.process
@pytest.mark.parametrize(("kind", "codec"), [("dataclass", "json"), ("struct", "msgpack"), ("protobuf", "protobuf")])
def test_a_table_on_a_server_does_what_a_dictionary_does(remote_driver: Any, kind: str, codec: str) -> None:
    @settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(options=OPTIONS, transactions=TRANSACTIONS)
    def compare(options: dict[str, Any], transactions: Any) -> None:
        play(remote_driver, kind, codec, options, transactions)

    compare()
