"""One record in four kinds of classes, and the tables to be compared with a dictionary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pytikv.model import Desc, Index, Table

FIELDS = ("id", "email", "age", "city", "score", "tags", "photo", "note")


@dataclasses.dataclass
class DataUser:
    id: int
    email: str | None = None
    age: int = 0
    city: str = ""
    score: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)
    photo: bytes = b""
    note: str = ""


class StructUser(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    id: int
    email: str | None = None
    age: int = 0
    city: str = ""
    score: float = 0.0
    tags: list[str] = []
    photo: bytes = b""
    note: str = ""


class PydanticUser(pydantic.BaseModel):
    id: int
    email: str | None = pydantic.Field(default=None, alias="e-mail")
    age: int = 0
    city: str = ""
    score: float = 0.0
    tags: list[str] = []
    photo: bytes = b""
    note: str = ""

    model_config = pydantic.ConfigDict(populate_by_name=True, extra="forbid")


def _message_class() -> Any:
    """A generated message, from a declaration that stands here instead of in a .proto file."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pytikv_tests/user.proto", package="pytikv_tests", syntax="proto3")
    message = file.message_type.add(name="User")
    types = {
        **dict.fromkeys(("email", "city", "note", "tags"), kinds.TYPE_STRING),
        **{"id": kinds.TYPE_INT64, "age": kinds.TYPE_INT64, "score": kinds.TYPE_DOUBLE, "photo": kinds.TYPE_BYTES},
    }
    for number, name in enumerate(FIELDS, 1):
        label = kinds.LABEL_REPEATED if name == "tags" else kinds.LABEL_OPTIONAL
        field = message.field.add(name=name, number=number, type=types[name], label=label)
        if name == "email":
            field.proto3_optional, field.oneof_index = True, 0
    message.oneof_decl.add(name="_email")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pytikv_tests.User"))


MessageUser: Any = _message_class()
CLASSES: dict[str, Any] = {
    "dataclass": DataUser, "struct": StructUser, "pydantic": PydanticUser, "protobuf": MessageUser
}  # fmt: skip


def plain(record: Any) -> dict[str, Any]:
    """A record as a dictionary."""
    found = {name: getattr(record, name) for name in FIELDS}
    found["tags"] = list(found["tags"])
    if isinstance(record, MessageUser) and not record.HasField("email"):
        found["email"] = None
    return found


def is_adult(user: Any) -> bool:
    return bool(user.age >= 2)


def make_table(kind: str, codec: str | None = None, **options: Any) -> Table[Any]:
    """A table with every kind of index."""
    key = options.pop("key", "id")
    groups = {"photo": ["photo"], "rest": ["note"]} if options.pop("groups", False) else None
    return Table(
        "user",
        CLASSES[kind],
        key=key,
        unique=["email", Index("city", Desc("age"), unique=True, name="one_adult", where=is_adult)],
        index=[
            "age",
            (Desc("city"), "score"),
            Index("city", covering=["age", "tags"], name="covering"),
            Index("age", "city", where=is_adult, name="adults", covering=["score"]),
            Index("tags", Desc("age"), each="tags", name="by_tag"),
        ],
        codec=codec,
        groups=groups,
        **options,
    )


Maker = Callable[..., Any]
