"""The notation of the scenarios: text and messages to and fro, and the comparison of answers."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from pytikv.codec import memcomparable
from pytikv.codec.farmhash import fingerprint64
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import metapb_pb2 as metapb

MAX = (1 << 64) - 1
Tree = Any

_TIMESTAMP = re.compile(
    r"(_ts|^txn|^wait_for_txn|^version|_version|^resolved_locks|^committed_locks|safe_point|^status|gc_fence)$"
)
# How fast or where, never what.
_DROPPED = {
    "exec_details",
    "exec_details_v2",
    "debug_info",
    "duration_to_last_update_ms",
    "wait_time",
    "scan_detail",
    "time_detail",
    "cluster_id",
    "last_change_ts",
    "versions_to_last_change",
    "health_feedback",
    "transport_layer_load",
}
_FREE_TEXT = {"abort", "retryable", "message"}


class Notation:
    """Converts with the values of one run: `run` replaces {run}, `base` is added to timestamps."""

    def __init__(self, run: str, base: int = 0) -> None:
        self.run = run
        self.base = base

    # --- text to values -----------------------------------------------------------------------------------------------

    def bytes_of(self, text: str) -> bytes:
        out = bytearray()
        i = 0
        while i < len(text):
            if text.startswith("\\\\", i):
                out += b"\\"
                i += 2
            elif text.startswith("\\x", i):
                out.append(int(text[i + 2 : i + 4], 16))
                i += 4
            elif text[i] == "{":
                end = _closing_brace(text, i)
                out += self._placeholder(text[i + 1 : end])
                i = end + 1
            else:
                out.append(ord(text[i]))
                i += 1
        return bytes(out)

    def _placeholder(self, text: str) -> bytes:
        if text == "run":
            return self.run.encode()
        if text.startswith("mc:"):
            return memcomparable.encode(self.bytes_of(text[3:]))
        if text.startswith("rep:"):
            what, _, times = text[4:].rpartition(":")
            return self.bytes_of(what) * int(times)
        raise ValueError(f"unknown placeholder {{{text}}}")

    def number_of(self, value: int | str, is_timestamp: bool) -> int:
        if value == "max":
            return MAX
        total = value
        if isinstance(value, str):
            total = sum(int(p[:-2]) << 18 if p.endswith("ms") else int(p) for p in value.split("+"))
        assert isinstance(total, int)
        return total + self.base if is_timestamp and total not in (0, MAX) else total

    def fill(self, message: Any, tree: Tree) -> Any:
        """Set the fields that `tree` names; sub-messages are merged, null clears."""
        is_epoch = isinstance(message, metapb.RegionEpoch)
        for name, value in tree.items():
            field = message.DESCRIPTOR.fields_by_name[name]
            is_timestamp = not is_epoch and _TIMESTAMP.search(name) is not None
            if value is None:
                message.ClearField(name)
            elif field.is_repeated:
                message.ClearField(name)
                for item in value:
                    if field.message_type is not None:
                        self.fill(getattr(message, name).add(), item)
                    else:
                        getattr(message, name).append(self._scalar(field, item, is_timestamp))
            elif field.message_type is not None:
                getattr(message, name).SetInParent()
                self.fill(getattr(message, name), value)
            else:
                setattr(message, name, self._scalar(field, value, is_timestamp))
        return message

    def _scalar(self, field: Any, value: Any, is_timestamp: bool) -> Any:
        if field.type == field.TYPE_BYTES:
            return self.bytes_of(value)
        if field.type == field.TYPE_STRING:
            return self.bytes_of(value).decode()
        if field.type == field.TYPE_ENUM and isinstance(value, str):
            return field.enum_type.values_by_name[value].number
        if field.type == field.TYPE_BOOL:
            return value
        return self.number_of(value, is_timestamp)

    # --- values to text -----------------------------------------------------------------------------------------------

    def text_of(self, data: bytes) -> str:
        out = []
        run = self.run.encode()
        i = 0
        while i < len(data):
            if data.startswith(run, i):
                out.append("{run}")
                i += len(run)
                continue
            size = 1
            while i + size < len(data) and data[i + size] == data[i]:
                size += 1
            byte = _escape(data[i])
            if size >= 24:
                out.append(f"{{rep:{byte}:{size}}}")
                i += size
            else:
                out.append(byte)
                i += 1
        return "".join(out)

    def border_of(self, data: bytes) -> str:
        try:
            key, rest = memcomparable.decode(data)
        except ValueError:
            return self.text_of(data)
        return self.text_of(data) if rest else f"{{mc:{self.text_of(key)}}}"

    def _number(self, name: str, value: int) -> int | str:
        if _TIMESTAMP.search(name) is None:
            return value
        if value == MAX:
            return "max"
        if self.base and value:
            if not self.base <= value < self.base + (600_000 << 18):
                return f"absolute {value}"
            value -= self.base
        if value < 1 << 18:
            return value
        logical = value & 0x3FFFF
        return f"{value >> 18}ms+{logical}" if logical else f"{value >> 18}ms"

    def dump(self, message: Any) -> Tree:
        """Turn a message into a tree, without defaults and without what is not deterministic."""
        if isinstance(message, errorpb.Error):
            kinds = {field.name: {} for field, _ in message.ListFields() if field.message_type is not None}
            return kinds or {"message": message.message}
        if isinstance(message, metapb.Region):
            return {"start_key": self.border_of(message.start_key), "end_key": self.border_of(message.end_key)}
        tree = {}
        for field, value in message.ListFields():
            if field.name in _DROPPED:
                continue
            if field.is_repeated:
                tree[field.name] = [self._value(field, item) for item in value]
            elif field.message_type is not None or value:
                tree[field.name] = self._value(field, value)
        return tree

    def _value(self, field: Any, value: Any) -> Any:
        if field.message_type is not None:
            return self.dump(value)
        if field.type == field.TYPE_BYTES:
            return self.text_of(value)
        if field.type == field.TYPE_ENUM:
            known = field.enum_type.values_by_number.get(value)
            return known.name if known else value
        if field.type in (field.TYPE_STRING, field.TYPE_BOOL):
            return value
        return self._number(field.name, value)


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"open brace in {text!r}")


def _escape(byte: int) -> str:
    if byte == 0x5C:
        return "\\\\"
    return chr(byte) if 0x20 <= byte <= 0x7E and byte not in b"{}" else f"\\x{byte:02x}"


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(want: Tree, got: Tree, ignore: list[str], notation: Notation, path: str = "") -> list[str]:
    """Return what differs, one line each."""
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in ignore):
        return []
    if isinstance(want, str):
        matched = _match(want, got, notation)
        if matched is not None:
            return [] if matched else [f"{path}: want {want} got {got!r}"]
    if isinstance(want, dict):
        if not isinstance(got, dict):
            missing = [line for name in want for line in compare(want[name], None, ignore, notation, _dot(path, name))]
            return [] if got is None and want and not missing else [f"{path or 'answer'}: want {want} got {got!r}"]
        lines = []
        for name in {**want, **got}:
            if name in want:
                lines += compare(want[name], got.get(name), ignore, notation, _dot(path, name))
            elif not any(fnmatch.fnmatchcase(_dot(path, name), pattern) for pattern in ignore):
                lines.append(f"{_dot(path, name)}: want nothing got {got[name]!r}")
        return lines
    if isinstance(want, list):
        items = [] if got is None else got
        if not isinstance(items, list) or len(items) != len(want):
            return [f"{path}: want {want} got {got!r}"]
        return [
            line
            for i, item in enumerate(want)
            for line in compare(item, items[i], ignore, notation, _dot(path, str(i)))
        ]
    if _is_free_text(path) and isinstance(want, str) and isinstance(got, str):
        return []
    if type(want) is type(got) and want == got:
        return []
    if not want and want is not None and got is None:  # a default that was written out
        return []
    return [f"{path}: want {want!r} got {got!r}"]


def _dot(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_free_text(path: str) -> bool:
    return path.rpartition(".")[2] in _FREE_TEXT or path == "error" or path.endswith(".error")


def _match(want: str, got: Tree, notation: Notation) -> bool | None:
    """Apply a matcher; None when `want` is none."""
    if not (want.startswith("<") and want.endswith(">")):
        return None
    inner = want[1:-1]
    if inner == "any":
        return True
    if inner == "present":
        return got is not None
    if inner.startswith("fingerprint64 "):
        return got == fingerprint64(notation.bytes_of(inner[14:]))
    if inner.startswith("contains:"):
        return isinstance(got, str) and inner[9:] in got
    span = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", inner)
    if span is not None:
        number = 0 if got is None else got
        return isinstance(number, int) and int(span[1]) <= number <= int(span[2])
    return None
