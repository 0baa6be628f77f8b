"""What the storage refuses, each with the two texts that TiKV has for it.

`str(error)` is the text of a raw response's `error`; `debug` is Rust's debug form, which TiKV puts into the `abort` of
a pair that stands for the whole answer (batch get, scans). All were refused before anything was written: NOT_APPLIED.

Source: TiKV src/storage/errors.rs; the texts as a real one answers them.
"""

from __future__ import annotations

from pytikv.errors import ConfigError, InvalidArgument, TikvError, UnsupportedByServer, format_key

__all__ = [
    "ApiVersionNotMatched",
    "CfDeprecated",
    "EmptyRequest",
    "InvalidCf",
    "InvalidKeyMode",
    "InvalidKeyRangeMode",
    "InvalidKeyRanges",
    "InvalidReqRange",
    "KeyOutOfRegion",
    "KeyTooLarge",
    "RaftEntryTooLarge",
    "StorageRefusal",
    "TtlLenNotEqualsToPairs",
    "TtlNotEnabled",
]


def _hex(key: bytes) -> str:
    return "?" if format_key(key) == "?" else key.hex().upper()


def _some(key: bytes) -> str:
    return f'Some("{_hex(key)}")' if key else "None"


class StorageRefusal(TikvError):
    """Root of the refusals. `debug` is the text within `Error(...)`."""

    def __init__(self, message: str, debug: str) -> None:
        super().__init__(message)
        self.debug = f"Error({debug})"


class ApiVersionNotMatched(StorageRefusal, ConfigError):
    """The request claims an API version that the store is not of."""

    def __init__(self, command: str, store: str, request: str) -> None:
        super().__init__(
            "Api version in request does not match with TiKV storage, "
            f"cmd: {command}, storage: {store}, request: {request}",
            f"ApiVersionNotMatched {{ cmd: {command}, storage_api_version: {store}, req_api_version: {request} }}",
        )


class InvalidKeyMode(StorageRefusal, InvalidArgument):
    """A key of API v2 that lies outside of the request's mode."""

    def __init__(self, command: str, store: str, key: bytes) -> None:
        super().__init__(
            f"Key mode mismatched with the request mode, cmd: {command}, storage: {store}, key: {_hex(key)}",
            f'InvalidKeyMode {{ cmd: {command}, storage_api_version: {store}, key: "{_hex(key)}" }}',
        )


class InvalidKeyRangeMode(StorageRefusal, InvalidArgument):
    """A range of API v2 that reaches out of the request's mode."""

    def __init__(self, command: str, store: str, lower: bytes, upper: bytes) -> None:
        bounds = f"({_some(lower)}, {_some(upper)})"
        super().__init__(
            f"Key mode mismatched with the request mode, cmd: {command}, storage: {store}, range: {bounds}",
            f"InvalidKeyRangeMode {{ cmd: {command}, storage_api_version: {store}, range: {bounds} }}",
        )


class InvalidCf(StorageRefusal, InvalidArgument):
    """A column family that does not exist."""

    def __init__(self, cf: str) -> None:
        super().__init__(f"invalid cf name: {cf}", f'InvalidCf("{cf}")')


class CfDeprecated(StorageRefusal, InvalidArgument):
    """A column family named in API v2, which has none to choose from."""

    def __init__(self, cf: str) -> None:
        super().__init__(f"cf is deprecated in API V2, cf name: {cf}", f'CfDeprecated("{cf}")')


class TtlNotEnabled(StorageRefusal, UnsupportedByServer):
    """A TTL on a store without."""

    def __init__(self) -> None:
        super().__init__("ttl is not enabled, but get put request with ttl", "TtlNotEnabled")


class TtlLenNotEqualsToPairs(StorageRefusal, InvalidArgument):
    """More than one TTL, but not one for each pair."""

    def __init__(self) -> None:
        super().__init__("The length of ttls does not equal to the length of pairs", "TtlLenNotEqualsToPairs")


class KeyTooLarge(StorageRefusal, InvalidArgument):
    """A key over the limit."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"max key size exceeded, size: {size_bytes}, limit: {limit_bytes}",
            f"KeyTooLarge {{ size: {size_bytes}, limit: {limit_bytes} }}",
        )


class EmptyRequest(StorageRefusal, InvalidArgument):
    """A batch of writes without any."""

    def __init__(self) -> None:
        super().__init__("an empty request", "EmptyRequest")


class InvalidKeyRanges(StorageRefusal, InvalidArgument):
    """Crossed bounds in a batch scan."""

    def __init__(self) -> None:
        super().__init__("Invalid KeyRanges", 'Other("Invalid KeyRanges")')


class KeyOutOfRegion(StorageRefusal, InvalidArgument):
    """A read of a key that the addressed region does not hold (keys in the form of region borders)."""

    def __init__(self, key: bytes, region_id: int, start_key: bytes, end_key: bytes) -> None:
        text = f"Key {_hex(key)} is out of [region {region_id}] [{_hex(start_key)}, {_hex(end_key)})"
        super().__init__(f'unknown error "{text}"', f'Kv(Error(Other("{text}")))')


class InvalidReqRange(StorageRefusal, InvalidArgument):
    """A transactional scan that reaches out of the addressed region (bounds in the form of region borders)."""

    def __init__(self, start: bytes, end: bytes, region_start: bytes, region_end: bytes) -> None:
        fields = f"start: {_some(start)}, end: {_some(end)}, "
        fields += f"lower_bound: {_some(region_start)}, upper_bound: {_some(region_end)}"
        super().__init__(f"invalid request range, {fields}", f"Txn(Error(InvalidReqRange {{ {fields} }}))")


class RaftEntryTooLarge(StorageRefusal, InvalidArgument):
    """One write over the limit of a Raft entry; the embedded store keeps to it, too, so that both refuse the same."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"raft entry is too large, size: {size_bytes}, limit: {limit_bytes}",
            f"RaftEntryTooLarge {{ entry_size: {size_bytes} }}",
        )
        self.entry_size_bytes = size_bytes
