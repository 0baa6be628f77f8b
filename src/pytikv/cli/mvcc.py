"""`mvcc`: all that a store holds of a key, version by version; and whether a store's records agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.failures import FAILED, USAGE, Failure
from pytikv.cli.options import DEFAULT_URL, JsonOption, RawOption, UrlOption, add_command
from pytikv.cli.session import transaction_client
from pytikv.transfer.escape import escape, unescape

if TYPE_CHECKING:
    from pytikv import Consistency, MvccInfo, MvccLock, MvccVersion

__all__ = ["register"]


def mvcc(
    key: Annotated[
        str | None, typer.Argument(help=r"Key, escaped: \xNN for a byte, \\ for a backslash.", show_default=False)
    ] = None,
    start_ts: Annotated[
        int | None, typer.Option(help="Instead of a key: what this transaction wrote or locked.", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Instead: check all records of an embedded store. Exit 1 for damage.")
    ] = False,
    raw: RawOption = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Show the lock and all versions of a key, newest first.

    What was done (Put, Del, Lock, Rollback), by the transaction that began at start_ts, when it was committed, and the
    value. Exit code 1 when there is nothing.
    """
    if (key is not None) + (start_ts is not None) + check != 1:
        raise Failure("say what to show: a KEY, --start-ts, or --check", code=USAGE)
    with transaction_client(url) as client:
        if check:
            _show_check(client.check_consistency(), as_json=as_json)
            return
        infos = [client.mvcc(unescape(key))] if key is not None else client.mvcc_by_start_ts(start_ts or 0)
    infos = [info for info in infos if info.lock is not None or info.versions or info.orphans]
    for info in infos:
        _show(info, raw=raw, as_json=as_json, with_key=key is None)
    if not infos:
        if not as_json:
            output.note(f"nothing is there: {key if key is not None else start_ts}")
        raise typer.Exit(FAILED)


def _show_check(found: Consistency, *, as_json: bool) -> None:
    if as_json:
        names = ("keys", "locks", "writes", "values", "damage", "leftovers")
        output.print_json({name: getattr(found, name) for name in names} | {"problems": list(found.problems)})
    else:
        output.line(str(found))
    if not found.is_sound:
        raise typer.Exit(FAILED)


def _show(info: MvccInfo, *, raw: bool, as_json: bool, with_key: bool) -> None:
    if as_json:
        output.print_json(_record(info))
        return
    rows = [_lock_row(info.lock, raw)] if info.lock is not None else []
    rows += [_version_row(version, raw) for version in info.versions]
    rows += [("value without a record", ts, "", output.time_text(ts), "", "") for ts in info.orphans]
    columns = ["what", "start_ts", "commit_ts", "time (UTC)", "value", "more"]
    output.table(columns, rows, title=escape(info.key) if with_key else "")


def _lock_row(lock: MvccLock, raw: bool) -> tuple[object, ...]:
    more = [f"primary {escape(lock.primary)}", f"lives {lock.ttl_ms} ms"]
    if lock.for_update_ts:
        more.append(f"for_update_ts {lock.for_update_ts}")
    if lock.min_commit_ts:
        more.append(f"min_commit_ts {lock.min_commit_ts}")
    if lock.use_async_commit:
        more.append("async commit")
    when, value = output.time_text(lock.start_ts), _value(lock.value, raw)
    return f"LOCKED for {lock.kind}", lock.start_ts, "", when, value, ", ".join(more)


def _version_row(version: MvccVersion, raw: bool) -> tuple[object, ...]:
    more = ["another transaction was rolled back here"] if version.has_overlapped_rollback else []
    if version.gc_fence is not None:
        more.append(f"gc_fence {version.gc_fence}")
    when, value = output.time_text(version.commit_ts), _value(version.value, raw)
    return version.kind, version.start_ts, version.commit_ts, when, value, ", ".join(more)


def _value(value: bytes | None, raw: bool) -> str:
    return "" if value is None else output.value_text(value, raw=raw) or "(empty)"


def _record(info: MvccInfo) -> dict[str, Any]:
    lock = info.lock
    return {
        "key": escape(info.key),
        "lock": lock
        and {
            "kind": lock.kind,
            "start_ts": lock.start_ts,
            "primary": escape(lock.primary),
            "ttl_ms": lock.ttl_ms,
            "value": None if lock.value is None else escape(lock.value),
            "for_update_ts": lock.for_update_ts,
            "min_commit_ts": lock.min_commit_ts,
            "txn_size": lock.txn_size,
            "use_async_commit": lock.use_async_commit,
            "secondaries": [escape(key) for key in lock.secondaries],
        },
        "versions": [
            {
                "kind": version.kind,
                "start_ts": version.start_ts,
                "commit_ts": version.commit_ts,
                "value": None if version.value is None else escape(version.value),
                "has_overlapped_rollback": version.has_overlapped_rollback,
                "gc_fence": version.gc_fence,
            }
            for version in info.versions
        ],
        "orphans": list(info.orphans),
    }


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    examples = [
        "pytikv mvcc account_a",
        "pytikv mvcc --start-ts 470714451835879426 --json",
        "pytikv mvcc --check --url embedded:///var/lib/app",
    ]
    add_command(app, mvcc, *examples, panel="Transactions")
