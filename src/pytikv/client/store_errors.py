"""What a store's plain error texts mean: raw answers carry no error codes, only text, and this is where it is read.

Answers about transactions have kinds of error, and one of them is again a text (`abort`).

The texts are those of TiKV (components/error_code and src/storage/errors.rs; the conformance scenarios hold each one).
A text without a rule becomes a `ServerError` that quotes it. Texts may hold keys in hex; they are left out where keys
are to be redacted.
"""

from __future__ import annotations

from pytikv.errors import (
    ConfigError,
    InvalidArgument,
    ServerError,
    TikvError,
    TransactionAborted,
    UnsupportedByServer,
    format_key,
)

__all__ = ["raw_error"]

_RULES: tuple[tuple[str, type[TikvError], str], ...] = (
    (
        "ttl is not enabled",
        UnsupportedByServer,
        "the store has no TTL (storage.enable-ttl is off): write without ttl, or switch it on when the store is made",
    ),
    ("api version in request does not match", ConfigError, "set api_version to that of the store"),
    (
        "storage_api_version: v1ttl, req_api_version: v1 }",
        ConfigError,
        "the store runs with storage.enable-ttl in API v1, for raw data alone: transactions need another cluster",
    ),
    ("apiversionnotmatched", ConfigError, "set api_version to that of the store"),
    ("max key size exceeded", InvalidArgument, "the store's limit is storage.max-key-size"),
    ("invalid cf name", InvalidArgument, "cf is 'default', 'lock' or 'write'"),
    ("invalidcf", InvalidArgument, "cf is 'default', 'lock' or 'write'"),
    ("cf is deprecated", ConfigError, "API v2 has no column families: leave cf empty"),
    ("key mode mismatched", ConfigError, "the key lies outside of what API v2 allows here"),
    ("invalidkeymode", ConfigError, "the key lies outside of what API v2 allows here"),
    ("invalidkeyrangemode", ConfigError, "the range lies outside of what API v2 allows here"),
    ("keytoolarge", InvalidArgument, "the store's limit is storage.max-key-size"),
    ("pessimisticlocknotfound", TransactionAborted, "its lock is gone: run the transaction again"),
    ("pessimisticlockrolledback", TransactionAborted, "its lock was rolled back: run the transaction again"),
    ("locktypenotmatch", TransactionAborted, "its lock is gone: run the transaction again"),
    ("coprocessor plugin is disabled", UnsupportedByServer, "the store runs without coprocessor plugins"),
)


def raw_error(text: str) -> TikvError:
    """Return the error for a text in an answer. The store refused: nothing was applied."""
    lowered = text.lower()
    shown = text if format_key(b"") != "?" else "the store refused the request (its text is hidden: keys are redacted)"
    for mark, kind, remedy in _RULES:
        if mark in lowered:
            return kind(f"{shown}; {remedy}")
    return ServerError(shown)
