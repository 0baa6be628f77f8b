"""Records, keys, declarations and stored bytes that do not fit: the errors name table, field and value."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import sys
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_tables import DataUser, MessageUser, StructUser, make_table

import pytikv
from pytikv.errors import redact_keys
from pytikv.model import Desc, Index, RowError, RowExists, SchemaError, Table, UniqueViolation


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Inner:
    count: int = 0


@dataclasses.dataclass
class Everything:
    id: int
    name: str = ""
    maybe: int | None = None
    either: int | str = 0
    ratio: float = 0.0
    day: datetime.date = datetime.date(2026, 1, 1)
    color: Color = Color.RED
    kind: Literal["a", "b"] = "a"
    tags: list[str] = dataclasses.field(default_factory=list)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    inner: Inner | None = None
    small: Annotated[int, msgspec.Meta(le=9)] = 0
    anything: Any = None


@dataclasses.dataclass
class Flat:
    id: int
    ratio: float | None = None
    count: int = 0
    amount: decimal.Decimal = decimal.Decimal(0)


class Model(pydantic.BaseModel):
    id: int
    name: str = ""
    size: float | None = None
    photo: bytes = b""
    photos: list[bytes] = []
    day: datetime.date | None = None
    inner: Inner | None = None


@pytest.fixture
def txn() -> Iterator[Any]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        made = db.begin()
        yield made
        made.rollback()


def everything(**options: Any) -> Table[Everything]:
    return Table("thing", Everything, key="id", **options)


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "1"),
        ("id", None),
        ("id", True),
        ("name", 5),
        ("name", b"bytes"),
        ("name", "\ud800"),
        ("maybe", "1"),
        ("either", 1.5),
        ("either", None),
        ("ratio", "1"),
        ("day", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
        ("color", "red"),
        ("kind", "c"),
        ("tags", "text"),
        ("tags", [1]),
        ("tags", ["fine", None]),
        ("scores", {"a": "b"}),
        ("scores", {1: 1.0, 2: object()}),
        ("inner", Inner("x")),  # type: ignore[arg-type]
        ("inner", {"count": 1}),
        ("small", 10),
        ("anything", object()),
        ("anything", 1 + 2j),
    ],
)
def test_a_value_of_another_type(txn: Any, codec: str, field: str, value: Any) -> None:
    table = everything(codec=codec)
    record = Everything(1)
    setattr(record, field, value)
    with pytest.raises(RowError, match=f"field '{field}' of table 'thing'") as caught:
        table.put(txn, record)
    assert (caught.value.table, caught.value.field) == ("thing", field)
    assert list(txn.scan()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("cls", "field"), [(Flat, "ratio"), (Everything, "ratio"), (Model, "size")])
def test_json_has_no_infinite_numbers(txn: Any, cls: Any, field: str, value: float) -> None:
    with pytest.raises(RowError, match=f"field '{field}'.*JSON has no NaN") as caught:
        Table("open", cls, key="id").put(txn, cls(id=1, **{field: value}))
    assert caught.value.field == field
    packed = Table("packed", cls, key="id", codec="msgpack")
    packed.put(txn, cls(id=1, **{field: value}))
    assert repr(getattr(packed.get(txn, 1), field)) == repr(value)


def test_infinite_numbers_within(txn: Any) -> None:
    with pytest.raises(RowError, match=r"field 'scores'.*JSON has no NaN"):
        everything().put(txn, Everything(1, scores={"x": float("nan")}))
    everything().put(txn, Everything(1, name="null", anything=[None, {"null": None}]))
    assert everything().get(txn, 1) == Everything(1, name="null", anything=[None, {"null": None}])


def test_whole_numbers_of_any_size(txn: Any) -> None:
    table = Table("flat", Flat, key="id", index=["count"])
    table.put(txn, Flat(2**100, count=-(2**300)))
    assert table.get(txn, 2**100) == Flat(2**100, count=-(2**300))
    with pytest.raises(RowError, match="field 'count' of table 'packed'"):
        Table("packed", Flat, key="id", codec="msgpack").put(txn, Flat(1, count=2**64))
    with pytest.raises(RowError, match=r"field 'ratio'.*cannot hold 1000"):
        Table("floats", Flat, key="ratio").put(txn, Flat(1, ratio=10**400))


def test_pydantic_models_that_were_assigned_to(txn: Any) -> None:
    table = Table("thing", Model, key="id")
    model = Model(id=1)
    model.name = 5  # type: ignore[assignment]
    with pytest.raises(RowError, match=r"field 'name' of table 'thing'.*5") as caught:
        table.put(txn, model)
    assert caught.value.field == "name"
    bad = Model.model_construct(id=1, day="never")
    with pytest.raises(RowError, match="field 'day'"):
        table.put(txn, bad)
    missing = Model.model_construct(name="x")
    with pytest.raises(RowError, match="table 'thing'"):
        table.put(txn, missing)
    assert list(txn.scan()) == []


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_pydantic_models_keep_bytes(txn: Any, codec: str) -> None:
    table = Table("album", Model, key="id", codec=codec, groups={"photo": ["photo", "photos"]})
    model = Model(id=1, photo=b"\xff\0", photos=[b"a", b"\xfe"], day=datetime.date(2026, 1, 1), inner=Inner(3))
    table.put(txn, model)
    assert table.get(txn, 1) == model
    fields = {"photo": b"\xff\0", "photos": [b"a", b"\xfe"], "day": datetime.date(2026, 1, 1), "inner": Inner(3)}
    assert table.get(txn, 1, fields=list(fields)) == fields
    assert table.get(txn, 2, fields=["name", "photo"]) is None


def test_what_is_no_record(txn: Any) -> None:
    table = make_table("dataclass")
    for wrong in (None, {}, {"id": 1}, StructUser(1), DataUser):
        with pytest.raises(RowError, match="table 'user' takes records of class DataUser, not"):
            table.put(txn, wrong)
    half = DataUser.__new__(DataUser)
    half.id = 1
    half.__dict__.pop("tags", None)
    with pytest.raises(RowError, match="field 'tags' of table 'user' is missing"):
        table.insert(txn, half)
    with pytest.raises(RowError, match="table 'user' takes records of class User"):
        make_table("protobuf", prefix=b"p").put(txn, DataUser(1))


# --- keys, and changes ------------------------------------------------------------------------------------------------


def test_keys_of_another_type(txn: Any) -> None:
    table = everything(unique=["name"], prefix=b"k")
    for call in (table.get, table.delete, table.exists, table.get_for_update):
        with pytest.raises(RowError, match="field 'id' of table 'thing' is int, and is asked for str: '1'"):
            call(txn, "1")
    with pytest.raises(RowError, match="asked for bool: True"):
        table.get_many(txn, [1, True])
    with pytest.raises(RowError, match=r"field 'name'.*is str, and is asked for int: 5"):
        table.by(txn, name=5)
    with pytest.raises(RowError, match="no unique index over color; it has name"):
        table.by(txn, color=Color.RED)
    two = Table("pair", Everything, key=("color", Desc("day")))
    with pytest.raises(RowError, match=r"a key of 2 parts \(color, day\), not 5"):
        two.get(txn, 5)
    two.put(txn, Everything(1))
    day = datetime.date(2026, 1, 1)
    assert two.get(txn, (Color.RED, day)) == two.get(txn, ("red", day)) == Everything(1)
    with pytest.raises(RowError, match=r"field 'color'.*is asked for str: 'blue'"):
        two.get(txn, ("blue", day))


def test_changes_that_do_not_fit(txn: Any) -> None:
    table = make_table("dataclass")
    table.put_many(txn, [DataUser(1, "a"), DataUser(2, "b")])
    before = dict(txn.scan())
    with pytest.raises(RowError, match=r"field 'id' of table 'user' is part of the key.*from 1 to 3") as caught:
        table.update(txn, 1, id=3)
    assert caught.value.field == "id"
    with pytest.raises(RowError, match="table 'user' has no field 'agee'; it has id, email"):
        table.update(txn, 1, agee=5)
    with pytest.raises(RowError, match="field 'age' of table 'user' must be int, not str: 'x'"):
        table.update(txn, 1, age="x")
    with pytest.raises(UniqueViolation, match="another row with 'b' in its unique index 'email'"):
        table.update(txn, 1, email="b", age=7)
    with pytest.raises(RowError, match="has no field 'nope'"):
        table.get(txn, 1, fields=["nope"])
    assert dict(txn.scan()) == before


@pytest.mark.parametrize("kind", ["dataclass", "struct", "pydantic", "protobuf"])
def test_updates_of_every_class(txn: Any, kind: str) -> None:
    table = make_table(kind)
    table.put(txn, table.cls(id=1, email="a"))
    assert table.update(txn, 1, email=None, tags=["x"]) is not None
    assert table.by(txn, email="a") is None
    for field, value in {"age": "old", "city": 5, "tags": 5}.items():
        with pytest.raises(RowError, match="table 'user'"):
            table.update(txn, 1, **{field: value})


# --- nothing is half written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pessimistic", [False, True])
@pytest.mark.parametrize("groups", [False, True])
def test_a_refused_record_leaves_the_transaction_as_it_was(pessimistic: bool, groups: bool) -> None:
    table = make_table("dataclass", groups=groups, prefix=b"groups" if groups else b"")
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        with db.begin(pessimistic=pessimistic) as txn:
            table.put_many(txn, [DataUser(1, "a", 3, "x"), DataUser(2, "b")])
            before = dict(txn.scan())
            violation: Any
            for batch in ([DataUser(3, "c"), DataUser(4, "a")], [DataUser(3, "c"), DataUser(4, "c")]):
                with pytest.raises(UniqueViolation) as violation:
                    table.put_many(txn, batch)
                assert violation.value.index == "email"
                assert violation.value.value == (batch[1].email,)
                assert violation.value.table == "user"
            with pytest.raises(UniqueViolation, match=r"\('x', 3\) in its unique index 'one_adult'"):
                table.put(txn, DataUser(9, "z", 3, "x"))
            with pytest.raises(RowError):
                table.put_many(txn, [DataUser(5, "e"), DataUser(6, 6)])  # type: ignore[arg-type]
            with pytest.raises(RowExists, match="table 'user' has a row with the key 2 already"):
                table.insert_many(txn, [DataUser(7, "g"), DataUser(2, "h")])
            assert dict(txn.scan()) == before
        with db.begin() as txn:
            assert [row.id for row in table.query(txn)] == [1, 2]


def test_what_is_too_large_leaves_nothing_of_its_row() -> None:
    table = make_table("dataclass", groups=True, prefix=b"groups")
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        for options in ({"max_entry_bytes": 1000}, {"max_txn_bytes": 1000}):
            with db.begin(**options) as txn:
                table.put(txn, DataUser(1, "a"))
                before = dict(txn.scan())
                with pytest.raises(pytikv.TransactionTooLarge):
                    table.put(txn, DataUser(2, "b", note="n" * 1000))
                assert dict(txn.scan()) == before
                txn.rollback()


def test_keys_that_are_too_long(txn: Any) -> None:
    table = make_table("dataclass", groups=True, prefix=b"groups")
    with pytest.raises(RowError, match=r"table 'user' cannot put 'e{59}\.\.\. into index 'email': .* of 70021 bytes"):
        table.put(txn, DataUser(1, "e" * 70_000))
    by_name = Table("name", DataUser, key="note", groups={"g": ["photo"]})
    with pytest.raises(RowError, match=r"table 'name' cannot put 'n{59}\.\.\. into its key"):
        by_name.insert(txn, DataUser(1, note="n" * 65_300))
    by_name.insert(txn, DataUser(1, note="n" * 65_200))
    assert len(list(txn.scan())) == 2


# --- declarations -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Unstorable:
    id: int
    either: Inner | Flat | None = None


@dataclasses.dataclass
class Unknown:
    id: int
    other: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Array(msgspec.Struct, array_like=True):
    id: int


def declare(**options: Any) -> Table[DataUser]:
    return Table("declared", DataUser, **{"key": "id", **options})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Table("", DataUser, key="id"), "is no name for a table"),
        (lambda: Table("a b", DataUser, key="id"), "is no name for a table"),
        (lambda: Table("t", int, key="id"), "is not a dataclass"),
        (lambda: Table("t", DataUser(1), key="id"), "is no class"),  # type: ignore[arg-type]
        (lambda: Table("t", Array, key="id"), "array_like"),
        (lambda: Table("t", Unstorable, key="id"), "codec json cannot hold Unstorable"),
        (lambda: Table("t", Unknown, key="id"), "types cannot be read"),
        (lambda: declare(key="nope"), "the key names 'nope', which DataUser has not"),
        (lambda: declare(key=()), "the key has no field"),
        (lambda: declare(key=("id", "id")), "names a field twice"),
        (lambda: declare(key="tags"), "values of list have no order"),
        (lambda: declare(index=["age", Index("city", name="age")]), "two indexes have the name 'age'"),
        (lambda: declare(index=[Index("age", each="tags")]), "each='tags' is none of its parts"),
        (lambda: declare(index=[Index("age", covering=["nope"])]), "names 'nope'"),
        (lambda: declare(groups={"g": ["age"]}, index=["age"]), "cannot hold 'age', which index 'age' needs"),
        (lambda: declare(groups={"g": ["note"], "h": ["note"]}), "is in two groups"),
        (lambda: declare(shards=1), "shards is 0"),
        (lambda: declare(keys="both"), "keys is 'tuple' or 'text'"),
        (lambda: declare(prefix="p"), "prefix is bytes"),
        (lambda: declare(codec="xml"), "codec is one of json, msgpack, protobuf"),
        (lambda: declare(codec="protobuf"), "the codec 'protobuf' does not fit DataUser"),
        (lambda: Table("t", MessageUser, key="id", codec="json"), "the codec 'json' does not fit"),
        (lambda: declare(version=-1), "version is 0 to"),
        (lambda: declare(version=True), "version is 0 to"),
        (lambda: declare(renamed={"old": "nope"}), "names no field"),
        (lambda: declare(renamed={"age": "note"}), "names 'age', which is a field still"),
    ],
)
def test_declarations_that_contradict_themselves(make: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        make()


def test_two_tables_of_one_name() -> None:
    first = declare(index=["age"])
    assert declare(index=["age"], codec="msgpack", version=2).name == first.name
    with pytest.raises(SchemaError, match="another table 'declared' in this program"):
        declare(index=["city"])
    assert declare(index=["city"], prefix=b"elsewhere").name == first.name


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [("msgspec", {}, r"codec json need msgspec: pip install \"pytikv\[model\]\""),
     ("zstandard", {"compress": True}, r"need zstandard: pip install \"pytikv\[zstd\]\"")],
)  # fmt: skip
def test_libraries_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, module: str, options: dict[str, Any], says: str
) -> None:
    from pytikv.model import codecs

    monkeypatch.setitem(sys.modules, module, None)
    codecs._zstd.cache_clear()
    with pytest.raises(pytikv.ConfigError, match=says):
        declare(**options)
    codecs._zstd.cache_clear()


def test_messages_need_no_msgspec(monkeypatch: pytest.MonkeyPatch, txn: Any) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    table = Table("message", MessageUser, key="id", unique=["email"])
    table.put(txn, MessageUser(id=1, email="a"))
    assert table.by(txn, email="a") == MessageUser(id=1, email="a")


# --- stored bytes -----------------------------------------------------------------------------------------------------


def row_key(table: Table[Any], key: Any) -> bytes:
    return table.rows.layout.row_key(table.rows.encoded(key))


def test_bytes_of_another_codec(txn: Any) -> None:
    declare().put(txn, DataUser(1))
    with pytest.raises(
        RowError, match="table 'declared' holds a row written by the codec 'json', and is declared with"
    ):
        declare(codec="msgpack").get(txn, 1)
    txn.put(row_key(declare(), 2), b"\x7f\0x")
    with pytest.raises(RowError, match="written by the codec 'number 127'"):
        declare().get(txn, 2)
    txn.put(row_key(declare(), 3), b"")
    with pytest.raises(RowError, match="cut short"):
        declare().get(txn, 3)


@dataclasses.dataclass
class Later:
    id: int
    mail: str | None
    height: int = 180


@dataclasses.dataclass
class Demanding:
    id: int
    height: int


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_fields_come_go_and_are_renamed(txn: Any, codec: str) -> None:
    old = declare(codec=codec)
    old.put(txn, DataUser(1, "a@b", 30))
    new = Table("declared", Later, key="id", codec=codec, version=1, renamed={"email": "mail"})
    assert new.get(txn, 1) == Later(1, "a@b")
    assert new.get(txn, 1, fields=["height", "mail"]) == {"height": 180, "mail": "a@b"}
    assert new.update(txn, 1, height=170) == Later(1, "a@b", 170)
    old.put(txn, DataUser(2))
    with pytest.raises(RowError, match="cannot be read from a stored row as Demanding has it") as caught:
        Table("declared", Demanding, key="id", codec=codec, version=2).get(txn, 2)
    assert (caught.value.table, caught.value.field) == ("declared", "height")
    with pytest.raises(RowError, match=r"field 'height'.*has no default"):
        Table("declared", Demanding, key="id", codec=codec, version=2).get(txn, 2, fields=["height"])
    wrong = dataclasses.make_dataclass("Wrong", [("id", int), ("email", int)])
    with pytest.raises(RowError) as caught:
        Table("declared", wrong, key="id", codec=codec).get(txn, 1, fields=["email"])
    assert caught.value.field == "email"


def test_a_field_that_got_a_group_since(txn: Any) -> None:
    declare().put(txn, DataUser(1, note="kept"))
    grouped = Table("declared", DataUser, key="id", groups={"g": ["note"]}, prefix=b"")
    assert grouped.get(txn, 1, fields=["note"]) == {"note": "kept"}
    assert grouped.get(txn, 2, fields=["note"]) is None


def test_a_compressed_value_that_claims_too_much(txn: Any) -> None:
    table = declare(compress=True)
    table.put(txn, DataUser(1, note="n" * 1000))
    value = txn.get(row_key(table, 1))
    assert value[0] == 0x81
    assert len(value) < 200
    # Magic number, then a header with a content size of 8 bytes.
    txn.put(row_key(table, 1), value[:2] + b"\x28\xb5\x2f\xfd\xe0" + (2**50).to_bytes(8, "little") + value[10:])
    with pytest.raises(RowError, match="1125899906842624 bytes when unpacked"):
        table.get(txn, 1)


TABLES = [
    Table("fuzzed", cls, key="id", codec=codec, prefix=f"{cls.__name__} {codec} {compress}".encode(), compress=compress)
    for cls, codec in [
        (Everything, "json"), (Everything, "msgpack"), (StructUser, "json"), (Model, "json"), (Model, "msgpack"),
        (MessageUser, "protobuf"),
    ]
    for compress in (False, True)
]  # fmt: skip
SAMPLES = {
    Everything: Everything(5, "x" * 200, tags=["a"], inner=Inner(3)),
    StructUser: StructUser(5, "x" * 200, tags=["a"], photo=b"ab"),
    Model: Model(id=5, name="x" * 200, photo=b"abc"),
    MessageUser: MessageUser(id=5, email="x" * 200, tags=["a"]),
}


@settings(max_examples=400)
@given(data=st.data(), table=st.sampled_from(TABLES))
def test_damaged_bytes_are_a_record_or_an_error(data: Any, table: Table[Any]) -> None:
    codec = table.rows.codec
    value = bytearray(codec.encode(SAMPLES[table.cls]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value)))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    names = list(table.rows.records.fields)
    for read in (codec.decode_one, lambda one: codec.decode((one,)), lambda one: codec.decode_fields((one,), names)):
        with contextlib.suppress(RowError):
            assert isinstance(read(bytes(value)), (table.cls, dict))


@settings(max_examples=200)
@given(body=st.binary(max_size=30), table=st.sampled_from(TABLES), head=st.sampled_from([0, 1, 2, 3, 0x81, 0x82, 0x83]))
def test_any_bytes_are_a_record_or_an_error(body: bytes, table: Table[Any], head: int) -> None:
    with contextlib.suppress(RowError):
        assert isinstance(table.rows.codec.decode_one(bytes((head, 0)) + body), table.cls)


def test_nesting_without_end(txn: Any) -> None:
    table = everything()
    txn.put(row_key(table, 1), b'\x01\x00{"id":1,"anything":' + b"[" * 100_000)
    with pytest.raises(RowError, match="table 'thing'"):
        table.get(txn, 1)


@settings(max_examples=200)
@given(data=st.binary(max_size=20), key=st.binary(max_size=20))
def test_damaged_entries_are_an_error(data: bytes, key: bytes) -> None:
    layout = make_table("dataclass", prefix=b"damaged").rows.layout
    for index in layout.schema.indexes.values():
        head = layout.entries(DataUser(1, "a", 5, tags=["x"]), b"\x15\x01", (1,), [index.name])[0].key[:20]
        with contextlib.suppress(RowError):
            assert isinstance(layout.read_entry(index, head + key, data)[0], tuple)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_value_is_told_when_keys_are_redacted(txn: Any) -> None:
    table = make_table("dataclass")
    model = Table("model", Model, key="id", unique=["name"])
    table.put(txn, DataUser(1, "secret"))
    model.put(txn, Model(id=1, name="secret"))
    wrong = Model(id=2)
    wrong.day = "secret"  # type: ignore[assignment]
    message = make_table("protobuf", prefix=b"m")
    message.put(txn, MessageUser(id=1))
    calls = [
        lambda: table.put(txn, DataUser(2, "secret")),
        lambda: table.put(txn, DataUser(2, age="secret")),  # type: ignore[arg-type]
        lambda: table.put(txn, DataUser("secret")),  # type: ignore[arg-type]
        lambda: table.get(txn, "secret"),
        lambda: table.update(txn, 1, age="secret"),
        lambda: table.update(txn, 1, tags=["secret", 5]),
        lambda: everything().put(txn, Everything(1, kind="secret")),  # type: ignore[arg-type]
        lambda: everything().put(txn, Everything(1, anything={"secret": object()})),
        lambda: model.put(txn, Model(id=2, name="secret")),
        lambda: model.put(txn, wrong),
        lambda: model.update(txn, 1, day="secret"),
        lambda: message.update(txn, 1, age="secret"),
        lambda: Table("text", DataUser, key="email", keys="text").put(txn, DataUser(1, uuid.UUID(int=1))),  # type: ignore[arg-type]
        lambda: Table("text", DataUser, key=("email", "id"), keys="text", prefix=b"2").put(txn, DataUser(1, "secret_")),
    ]
    for call in calls:
        with pytest.raises(pytikv.TikvError, match="table '"):
            call()
    hidden = []
    redact_keys(True)
    try:
        for call in calls:
            with pytest.raises(pytikv.TikvError, match="table '") as caught:
                call()
            hidden.append(str(caught.value))
    finally:
        redact_keys(False)
    assert [text for text in hidden if "secret" in text] == []
