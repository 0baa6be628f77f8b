"""On whose behalf a call is made, as a value: checked once, encoded once, sent with every request of the call.

A `CallContext` goes out in two forms. `fields` are serialized fields of `kvrpcpb.Context` that come after what the
client's options say (where a field stands twice, the later one counts): priority 6, request_source 24,
resource_control_context 28, trace_id 36 (the 16 bytes of the W3C trace id). `metadata` is gRPC metadata, for calls that
have a stream of their own: `traceparent`, `tracestate`, `baggage`, `tenant-id` and `authorization`. BatchCommands
carries many calls on one stream and has no metadata of a single one; there the fields must do, and a call with a
`user_token` goes unary instead.

The user's token is a `Secret`: it is in no repr, no pickle, no copy of the fields by `dataclasses.asdict`; only
`metadata` reveals it.

Limits: `MAX_TEXT` characters a text, `MAX_TOKEN` bytes a token, `MAX_BAGGAGE` bytes of baggage as it is sent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from pytikv.errors import InvalidArgument, WrongType

__all__ = [
    "BAGGAGE_NAME",
    "MAX_BAGGAGE",
    "MAX_BAGGAGE_MEMBERS",
    "NOBODY",
    "CallContext",
    "Metadata",
    "Secret",
    "bearer",
    "check_token",
]

MAX_TEXT: Final = 256
MAX_TOKEN: Final = 16 << 10
MAX_BAGGAGE: Final = 8192
MAX_BAGGAGE_MEMBERS: Final = 64
BAGGAGE_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

_PRIORITIES: Final = {"normal": b"\x30\x00", "low": b"\x30\x01", "high": b"\x30\x02"}  # field 6, also where it is 0
_REQUEST_SOURCE: Final = b"\xc2\x01"  # field 24
_RESOURCE_CONTROL: Final = b"\xe2\x01"  # field 28; its first field is the group's name
_TRACE_ID: Final = b"\xa2\x02"  # field 36
_TOKEN: Final = re.compile(r"[!-~]+")
_SAMPLED: Final = 1


class Secret(Generic[T]):
    """A value that shows itself to nobody but who asks by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, memo: Any) -> Secret[T]:
        return self


def bearer(token: Secret[str]) -> tuple[str, str]:
    """Return the metadata that carries a token."""
    return ("authorization", f"Bearer {token.reveal()}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """See the module's docstring. Made by `pytikv.context`; None stands for what nobody has said."""

    trace_id: str | None = None
    """32 lower-case hex digits, not all 0."""
    span_id: str | None = None
    """16 lower-case hex digits, not all 0; there is one wherever there is a trace_id."""
    trace_flags: int = _SAMPLED
    tracestate: str = ""
    tenant_id: str | None = None
    request_source: str | None = None
    resource_group: str | None = None
    priority: str | None = None
    user_token: Secret[str] | None = None
    baggage: tuple[tuple[str, str], ...] = ()
    fields: bytes = dataclasses.field(init=False, repr=False, compare=False, default=b"")
    """What requests say, as fields of `kvrpcpb.Context`."""
    _metadata: Secret[Metadata] | None = dataclasses.field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.trace_id is not None and self.span_id is None:
            low = self.trace_id[16:]
            object.__setattr__(self, "span_id", low if low.strip("0") else self.trace_id[:16])
        object.__setattr__(self, "fields", self._encode())

    @property
    def metadata(self) -> Metadata:
        """What calls with a stream of their own carry, in gRPC's terms."""
        found = self._metadata
        if found is None:  # most calls go by streams that have none
            found = Secret(tuple(self._all_metadata()))
            object.__setattr__(self, "_metadata", found)
        return found.reveal()

    @property
    def traceparent(self) -> str | None:
        """The W3C header of the caller's span; None where there is no trace."""
        if self.trace_id is None:
            return None
        return f"00-{self.trace_id}-{self.span_id}-{self.trace_flags & 0xFF:02x}"

    def _encode(self) -> bytes:
        data = b"" if self.priority is None else _PRIORITIES[self.priority]
        if self.request_source is not None:
            data += _REQUEST_SOURCE + _sized(self.request_source.encode())
        if self.resource_group is not None:
            data += _RESOURCE_CONTROL + _sized(b"\x0a" + _sized(self.resource_group.encode()))
        if self.trace_id is not None:
            data += _TRACE_ID + _sized(bytes.fromhex(self.trace_id))
        return data

    def _all_metadata(self) -> list[tuple[str, str]]:
        found = []
        if (traceparent := self.traceparent) is not None:
            found.append(("traceparent", traceparent))
            if self.tracestate:
                found.append(("tracestate", self.tracestate))
        if self.baggage:
            found.append(("baggage", ",".join(f"{name}={quote(value, safe='')}" for name, value in self.baggage)))
        if self.tenant_id is not None:
            found.append(("tenant-id", quote(self.tenant_id, safe=" !#$&'()*+,/:;=?@[]~")))
        if self.user_token is not None:
            found.append(bearer(self.user_token))
        return found

    # --- changes ------------------------------------------------------------------------------------------------------

    @staticmethod
    def check(changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return `changes` in the form of the fields. Raises InvalidArgument or WrongType, never with a token in it."""
        return {name: _CHECKS[name](name, value) for name, value in changes.items()}

    def changed(self, changes: Mapping[str, Any]) -> CallContext:
        """Return this with checked `changes`. Raises InvalidArgument for a span without a trace."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        if changes.get("trace_id", self.trace_id) != self.trace_id:
            values.update(span_id=None, trace_flags=_SAMPLED, tracestate="")
        values.update(changes)
        if "baggage" in changes:
            values["baggage"] = _fit_baggage({**dict(self.baggage), **dict(changes["baggage"])})
        if values["span_id"] is not None and values["trace_id"] is None:
            raise InvalidArgument("span_id needs a trace_id, here or in an outer context")
        return CallContext(**values)

    def __reduce__(self) -> Any:
        """Pickle all but the token."""
        return _restore, ({name: getattr(self, name) for name in _FIELDS if name != "user_token"},)

    def __copy__(self) -> CallContext:
        return self

    def __deepcopy__(self, memo: Any) -> CallContext:
        return self


_FIELDS: Final = tuple(one.name for one in dataclasses.fields(CallContext) if one.init)
NOBODY: Final = CallContext()
"""The context in which nothing is said."""


def _restore(values: dict[str, Any]) -> CallContext:
    return CallContext(**values)


def _sized(data: bytes) -> bytes:
    size = len(data)
    head = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))  # texts stay under 16 KiB
    return head + data


# --- checks of values -------------------------------------------------------------------------------------------------


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WrongType(f"{name} is a string, not {type(value).__name__}")
    return value


def _text(name: str, value: Any) -> str:
    text = _string(name, value)
    if not 0 < len(text) <= MAX_TEXT or not text.isprintable():
        raise InvalidArgument(f"{name} is 1 to {MAX_TEXT} printable characters, not {text[:40]!r}")
    return text


def _hex(digits: int) -> Callable[[str, Any], str]:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")

    def check(name: str, value: Any) -> str:
        text = _string(name, value).replace("-", "").lower()
        if pattern.fullmatch(text) is None or not text.strip("0"):
            raise InvalidArgument(f"{name} is {digits} hex digits, not all 0, and not {value[:40]!r}")
        return text

    return check


def _priority(name: str, value: Any) -> str:
    if _string(name, value) not in _PRIORITIES:
        raise InvalidArgument(f"{name} is 'low', 'normal' or 'high', not {value[:40]!r}")
    return str(value)


def _token(name: str, value: Any) -> Secret[str]:
    if isinstance(value, Secret):
        return value
    if not 0 < len(_string(name, value)) <= MAX_TOKEN or _TOKEN.fullmatch(value) is None:
        raise InvalidArgument(f"{name} is 1 to {MAX_TOKEN} visible ASCII characters")  # and is not repeated here
    return Secret(value)


def check_token(value: Any) -> Secret[str]:
    """Return a token as a secret. Raises InvalidArgument or WrongType, without the token in it."""
    return _token("user_token", value)


def _baggage(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise WrongType(f"{name} is a mapping of names to values, not {type(value).__name__}")
    for key, text in value.items():
        if BAGGAGE_NAME.fullmatch(_string(f"a name in {name}", key)) is None:
            raise InvalidArgument(f"a name in {name} is 1 to 256 characters of a token, not {key[:40]!r}")
        if any("\ud800" <= char <= "\udfff" for char in _string(f"{name}[{key!r}]", text)):
            raise InvalidArgument(f"{name}[{key!r}] is no text: it has halves of surrogate pairs")
    kept = _fit_baggage(value)
    if len(kept) < len(value):
        raise InvalidArgument(f"{name} is at most {MAX_BAGGAGE_MEMBERS} members and {MAX_BAGGAGE} bytes when encoded")
    return kept


def _fit_baggage(members: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the first members that fit in the limits."""
    kept: list[tuple[str, str]] = []
    size = 0
    for key, text in members.items():
        size += len(key) + len(quote(text, safe="", errors="replace")) + 2
        if size > MAX_BAGGAGE or len(kept) == MAX_BAGGAGE_MEMBERS:
            break
        kept.append((key, text))
    return tuple(kept)


_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "trace_id": _hex(32),
    "span_id": _hex(16),
    "tenant_id": _text,
    "request_source": _text,
    "resource_group": _text,
    "priority": _priority,
    "user_token": _token,
    "baggage": _baggage,
}
