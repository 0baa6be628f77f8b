"""Transcripts of transactional commands: one line a command, an arrow, its answer.

    prewrite 10 a=1 -b          -> ok
    commit 10 20 a b            -> ok
    show a                      -> 20<-10 PUT=1

Keys are short words. A timestamp is a number, or ``3ms`` or ``3ms+5`` (physical milliseconds, logical part). Behind
``|`` come options. `show` tells the lock, then the records from the newest, then long values, of one key.

A mutation: ``a=1`` put, ``-a`` delete, ``lock:a``, ``insert:a=1``, ``absent:a`` (CheckNotExists), ``shared:a``; behind
it ``!e`` or ``!n`` is an assertion (Exist, NotExist). ``long`` as a value has 300 bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.mvcc.errors import KeyIsLocked, MvccError, PessimisticLockNotFoundError, WriteConflictError
from pytikv.server.mvcc.keys import TS_MAX, data_key, split_data_key, wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, Write, decode_lock, decode_write
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.acquire_pessimistic_lock import KeyToLock, PessimisticLockParameters
from pytikv.server.storage.actions.check_secondary_locks import check_secondary_locks
from pytikv.server.storage.actions.check_txn_status import StatusQuery, check_txn_status
from pytikv.server.storage.actions.cleanup import cleanup, rollback_all
from pytikv.server.storage.actions.commands import LockAll, PrewriteResult, flush_all, lock_all, prewrite_all
from pytikv.server.storage.actions.commit import commit_all
from pytikv.server.storage.actions.model import CommitKind, Mutation, TransactionProperties
from pytikv.server.storage.actions.pessimistic_rollback import pessimistic_rollback_all, scan_pessimistic_locks
from pytikv.server.storage.actions.resolve_lock import (
    resolve_lock_lite,
    resolve_locks,
    scan_locks_to_resolve,
)
from pytikv.server.storage.actions.txn_heart_beat import txn_heart_beat

T = TypeVar("T")
_LEVELS = {
    "Off": kvrpcpb.AssertionLevel.Off,
    "Fast": kvrpcpb.AssertionLevel.Fast,
    "Strict": kvrpcpb.AssertionLevel.Strict,
}
LONG = b"x" * 300
_ACTIONS = {"skip": 0, "check": 1, "constraint": 2}
_OPS = {
    "lock": kvrpcpb.Op.Lock,
    "insert": kvrpcpb.Op.Insert,
    "absent": kvrpcpb.Op.CheckNotExists,
    "shared": kvrpcpb.Op.SharedLock,
    "rollback": kvrpcpb.Op.Rollback,
}


class Store:
    """An engine in memory, the largest timestamp read at, and the locks that are in memory meanwhile."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.max_ts = 0
        self.published: dict[bytes, Lock] = {}
        self.last: MvccTxn = MvccTxn(0)

    def run(self, start_ts: int, body: Callable[[MvccTxn, MvccReader], T]) -> T:
        """Run the body of a command and write its changes; drop them when it raises."""
        txn = MvccTxn(start_ts)
        result = body(txn, MvccReader(self.engine.snapshot()))
        self.engine.write(txn.batch)
        self.last = txn
        self.published.clear()
        return result

    def publish(self, key: bytes, lock: Lock) -> int:
        """Do what a store does for async commit and 1PC."""
        self.published[key] = lock
        return max(lock.min_commit_ts, self.max_ts + 1)


def enc(word: str) -> bytes:
    """Return the encoded key."""
    return memcomparable.encode(word.encode())


def ts(text: str) -> int:
    """Read a timestamp."""
    if text == "max":
        return TS_MAX
    physical, _, logical = text.rpartition("ms")
    return (int(physical or 0) << 18) + int(logical.lstrip("+") or 0)


def show_ts(number: int) -> str:
    """Write a timestamp."""
    if number < 1 << 18:
        return str(number)
    logical = number & ((1 << 18) - 1)
    return f"{number >> 18}ms" + (f"+{logical}" if logical else "")


def mutation(text: str, **more: Any) -> Mutation:
    """Read a mutation; see the module's docstring."""
    text, _, assertion = text.partition("!")
    kind, colon, rest = text.rpartition(":")
    if text.startswith("-"):
        op, key, value = kvrpcpb.Op.Del, text[1:], None
    elif colon:
        key, _, word = rest.partition("=")
        op, value = _OPS[kind], word.encode() if word else None
    else:
        key, _, word = text.partition("=")
        op, value = kvrpcpb.Op.Put, LONG if word == "long" else word.encode()
    if assertion:
        more["assertion"] = kvrpcpb.Assertion.Value({"e": "Exist", "n": "NotExist"}[assertion])
    return Mutation(op, enc(key), value, **more)


def _value(value: bytes | None) -> str:
    return "" if value is None else f"={'long' if value == LONG else value.decode()}"


def show_lock(lock: Lock) -> str:
    """Write a lock: type, start_ts, value, then what is set."""
    if lock.is_shared:
        members = ", ".join(show_lock(member).removeprefix("lock ") for member in lock.members)
        return f"shared{' shrink' if lock.shrink_only else ''} [{members}]"
    more = [f"primary={lock.primary.decode()}"]
    names = {"ttl_ms": "ttl", "txn_size": "size", "generation": "generation"}
    names |= {"for_update_ts": "for_update", "min_commit_ts": "min"}
    more += [f"{word}={show_ts(getattr(lock, name))}" for name, word in names.items() if getattr(lock, name)]
    if lock.use_async_commit:
        more.append(f"async={','.join(key.decode() for key in lock.secondaries)}")
    if lock.rollback_ts:
        more.append(f"rollbacks={','.join(map(str, lock.rollback_ts))}")
    if lock.is_locked_with_conflict:
        more.append("forced")
    return f"lock {lock.lock_type.name}@{show_ts(lock.start_ts)}{_value(lock.short_value)} {' '.join(more)}"


def show_write(commit_ts: int, write: Write) -> str:
    """Write a record."""
    if write.write_type.name == "ROLLBACK":
        return f"{show_ts(commit_ts)} ROLLBACK{' protected' if write.is_protected else ''}"
    text = f"{show_ts(commit_ts)}<-{show_ts(write.start_ts)} {write.write_type.name}{_value(write.short_value)}"
    if write.has_overlapped_rollback:
        text += " overlapped"
    return text if write.gc_fence is None else f"{text} fence={write.gc_fence}"


def show_error(error: MvccError) -> str:
    """Write an error by the name of its class, with what a client looks at."""
    if isinstance(error, KeyIsLocked):
        return show_locked(error)
    told = error.key_error()
    if isinstance(error, WriteConflictError):
        conflict = told.conflict
        assert told.retryable.startswith("Error(Txn(Error(Mvcc(Error(WriteConflict {")
        reason = kvrpcpb.WriteConflict.Reason.Name(conflict.reason)
        at = f"{show_ts(conflict.conflict_commit_ts)}<-{show_ts(conflict.conflict_ts)}"
        return f"conflict {conflict.key.decode()} {reason} {at}"
    if isinstance(error, PessimisticLockNotFoundError):
        return f"lost@{show_ts(error.start_ts)} {error.reason.value}"
    name = type(error).__name__.removesuffix("Error")
    fields = ("start_ts", "commit_ts", "min_commit_ts", "existing_start_ts", "existing_commit_ts")
    numbers = [f"{field}={show_ts(getattr(error, field))}" for field in fields if getattr(error, field, 0)]
    return " ".join([name, *numbers])


def show_locked(error: KeyIsLocked) -> str:
    """Write a lock that is in the way."""
    info = error.lock_info
    if info.lock_type == kvrpcpb.Op.SharedLock:
        return (
            f"locked {info.key.decode()} shared by {','.join(str(one.lock_version) for one in info.shared_lock_infos)}"
        )
    return f"locked {info.key.decode()}@{show_ts(info.lock_version)}{'' if info.lock_ttl else ' ttl=0'}"


@dataclasses.dataclass
class Line:
    """One command of a transcript."""

    name: str
    words: list[str]
    options: dict[str, str]

    def ts(self, name: str) -> int:
        """Return an option that is a timestamp; 0 when it is not there."""
        return ts(self.options.get(name, "0"))


class Transcript:
    """Runs the lines."""

    def __init__(self) -> None:
        self.store = Store()

    def check(self, text: str) -> None:
        """Run every line and compare its answer."""
        for number, line in enumerate(text.strip().splitlines(), 1):
            if not line.strip() or line.strip().startswith("#"):
                continue
            command, _, expected = line.partition("->")
            answer = self.answer(command.strip())
            assert answer == expected.strip(), f"line {number}: {command.strip()}"

    def answer(self, command: str) -> str:
        """Run one command."""
        main, _, more = command.partition("|")
        name, *words = main.split()
        options = {word.partition("=")[0]: word.partition("=")[2] for word in more.split()}
        try:
            return str(getattr(self, name)(Line(name, words, options)))
        except MvccError as error:
            return show_error(error)

    def read(self, line: Line) -> str:
        """``read 30``: the store has served a read at that timestamp."""
        self.store.max_ts = max(self.store.max_ts, ts(line.words[0]))
        return "ok"

    def show(self, line: Line) -> str:
        """``show a``."""
        key, found = enc(line.words[0]), []
        lock = self.store.engine.get(CF_LOCK, key)
        if lock is not None:
            found.append(show_lock(decode_lock(lock)))
        for cf, writer in ((CF_WRITE, lambda at, data: show_write(at, decode_write(data))), (CF_DEFAULT, _show_value)):
            for stored, data in self.store.engine.scan(cf, data_key(key, TS_MAX), data_key(key, 0) + b"\x00"):
                found.append(writer(split_data_key(stored)[1], data))
        return "; ".join(found) or "nothing"

    def lock_of(self, line: Line) -> str:
        """``lock_of a``: the lock alone."""
        return self.show(line).partition("; ")[0]

    def records_of(self, line: Line) -> str:
        """``records_of a``: all but the lock."""
        return self.show(line).partition("; ")[2]

    def get(self, line: Line) -> str:
        """``get a 30``: what is visible, locks aside."""
        at = ts(line.words[1])
        value = MvccReader(self.store.engine).get(enc(line.words[0]), at, at)
        return "none" if value is None else "long" if value == LONG else value.decode()

    def _props(self, line: Line, start_ts: int, first_key: str) -> TransactionProperties:
        options = line.options
        kind = CommitKind.ONE_PC if "1pc" in options else CommitKind.ASYNC if "async" in options else CommitKind.TWO_PC
        return TransactionProperties(
            start_ts,
            options.get("primary", first_key).encode(),
            for_update_ts=line.ts("for_update"),
            commit_kind=kind,
            max_commit_ts=line.ts("max"),
            lock_ttl_ms=int(options.get("ttl", "0")),
            txn_size=int(options.get("size", "0")),
            min_commit_ts=line.ts("min"),
            skip_constraint_check="skip" in options,
            is_retry_request="retry" in options,
            assertion_level=_LEVELS[options.get("level", "Off")],
        )

    def prewrite(self, line: Line) -> str:
        """``prewrite 10 a=1 -b | primary=a for_update=12 actions=check,skip expect=12 async=b 1pc max=30 min=11``."""
        start_ts = ts(line.words[0])
        actions = line.options.get("actions", "").split(",")
        mutations = []
        for i, word in enumerate(line.words[1:]):
            action = _ACTIONS[actions[min(i, len(actions) - 1)] or "skip"]
            expected = line.ts("expect") or None if i == 0 else None
            mutations.append(mutation(word, pessimistic_action=action, expected_for_update_ts=expected))
        if any(one.should_not_exist for one in mutations):
            self.store.max_ts = max(self.store.max_ts, start_ts)
        props = self._props(line, start_ts, wire_key(mutations[0].key).decode())
        secondaries = None
        if "async" in line.options:
            secondaries = tuple(word.encode() for word in line.options["async"].split(",") if word)
        return _show_prewrite(
            self.store.run(
                start_ts, lambda txn, rd: prewrite_all(txn, rd, props, mutations, secondaries, self.store.publish)
            )
        )

    def flush(self, line: Line) -> str:
        """``flush 10 a=1 | primary=p generation=1``."""
        start_ts = ts(line.words[0])
        mutations = [mutation(word) for word in line.words[1:]]
        props = self._props(line, start_ts, wire_key(mutations[0].key).decode())
        generation = int(line.options.get("generation", "0"))
        return _show_prewrite(
            self.store.run(start_ts, lambda txn, rd: flush_all(txn, rd, props, mutations, generation))
        )

    def commit(self, line: Line) -> str:
        """``commit 10 20 a b``."""
        start_ts, commit_ts = ts(line.words[0]), ts(line.words[1])
        self.store.run(start_ts, lambda txn, rd: commit_all(txn, rd, map(enc, line.words[2:]), commit_ts))
        return "ok"

    def rollback(self, line: Line) -> str:
        """``rollback 10 a b`` (BatchRollback)."""
        self.store.run(ts(line.words[0]), lambda txn, rd: rollback_all(txn, rd, map(enc, line.words[1:])))
        return "ok"

    def cleanup(self, line: Line) -> str:
        """``cleanup 10 a | current=3ms`` (KvCleanup)."""
        key, current_ts = enc(line.words[1]), line.ts("current")
        self.store.run(ts(line.words[0]), lambda txn, rd: cleanup(txn, rd, key, current_ts, protect_rollback=True))
        return "ok"

    def heartbeat(self, line: Line) -> str:
        """``heartbeat 10 a | ttl=5000 min=30``."""
        ttl, min_commit_ts = int(line.options["ttl"]), line.ts("min")
        start_ts, key = ts(line.words[0]), enc(line.words[1])
        lock = self.store.run(start_ts, lambda txn, rd: txn_heart_beat(txn, rd, key, ttl, min_commit_ts))
        return f"ttl {lock.ttl_ms}"

    def status(self, line: Line) -> str:
        """``status 10 a | caller=20 current=30 rollback force pessimistic verify``."""
        query = StatusQuery(
            line.ts("caller"),
            line.ts("current"),
            "rollback" in line.options,
            "force" in line.options,
            "pessimistic" in line.options,
            "verify" in line.options,
        )
        key = enc(line.words[1])
        found = self.store.run(ts(line.words[0]), lambda txn, rd: check_txn_status(txn, rd, key, query))
        action = kvrpcpb.Action.Name(found.action)
        more = f" {show_lock(found.lock)}" if found.lock is not None else ""
        return f"{action}{f' committed {show_ts(found.commit_ts)}' if found.commit_ts else ''}{more}"

    def secondaries(self, line: Line) -> str:
        """``secondaries 10 b c`` (CheckSecondaryLocks)."""
        keys = list(map(enc, line.words[1:]))
        found = self.store.run(ts(line.words[0]), lambda txn, rd: check_secondary_locks(txn, rd, keys))
        if found.locks:
            return f"locks {','.join(wire_key(key).decode() for key, _ in found.locks)}"
        return f"committed {found.commit_ts}" if found.commit_ts else "rolled back"

    def resolve(self, line: Line) -> str:
        """``resolve 10 20 a b`` (by keys), ``resolve 10=20 12=0`` (by scan)."""
        if "=" not in line.words[0]:
            keys, commit_ts = list(map(enc, line.words[2:])), ts(line.words[1])
            self.store.run(ts(line.words[0]), lambda txn, rd: resolve_lock_lite(txn, rd, keys, commit_ts))
            return "ok"
        status = {ts(word.partition("=")[0]): ts(word.partition("=")[2]) for word in line.words}
        start: bytes | None = b""
        limit, steps = int(line.options.get("limit", "256")), 0
        while start is not None:
            reader = MvccReader(self.store.engine.snapshot())
            found, start = scan_locks_to_resolve(reader, status, start, b"", limit)
            again = self.store.run(0, lambda txn, rd, found=found: resolve_locks(txn, rd, status, found))
            start = start if again is None else again
            steps += 1
        return f"ok {steps} steps" if "limit" in line.options else "ok"

    def lock(self, line: Line) -> str:
        """``lock 10 a b | for_update=12 values exists if_exists force``; ``~a`` must not exist, ``/a`` is shared."""
        params = PessimisticLockParameters(
            ts(line.words[0]),
            line.options.get("primary", line.words[1].lstrip("~/")).encode(),
            line.ts("for_update") or ts(line.words[0]),
            int(line.options.get("ttl", "0")),
            line.ts("min"),
            *(name in line.options for name in ("values", "exists", "if_exists", "force")),
        )
        keys = [
            KeyToLock(enc(word.lstrip("~/")), word.startswith("~"), word.startswith("/")) for word in line.words[1:]
        ]
        return _show_locked_all(
            self.store.run(params.start_ts, lambda txn, rd: lock_all(txn, rd, keys, params)), params
        )

    def unlock(self, line: Line) -> str:
        """``unlock 10 12 a b`` (PessimisticRollback); without keys all of the store."""
        start_ts, for_update_ts = ts(line.words[0]), ts(line.words[1])
        keys = list(map(enc, line.words[2:]))
        if not keys:
            reader = MvccReader(self.store.engine)
            keys, _ = scan_pessimistic_locks(reader, start_ts, for_update_ts, b"", b"", 256)
        self.store.run(start_ts, lambda txn, rd: pessimistic_rollback_all(txn, rd, keys, for_update_ts))
        return "ok"

    def released(self, line: Line) -> str:
        """``released``: the locks that the command before released."""
        return (
            ", ".join(
                f"{wire_key(one.key).decode()}@{show_ts(one.start_ts)}"
                + (f"->{show_ts(one.commit_ts)}" if one.commit_ts else "")
                + (" pessimistic" if one.pessimistic else "")
                for one in self.store.last.released
            )
            or "none"
        )

    def new(self, line: Line) -> str:
        """``new``: the keys that the command before has locked."""
        return " ".join(wire_key(key).decode() for key, _ in self.store.last.new_locks) or "none"


def _show_value(at: int, data: bytes) -> str:
    return f"value@{show_ts(at)}{_value(data)}"


def _show_prewrite(result: PrewriteResult) -> str:
    if result.locks:
        return " and ".join(map(show_locked, result.locks))
    if result.one_pc_commit_ts:
        return f"committed {result.one_pc_commit_ts}"
    return f"min {show_ts(result.min_commit_ts)}" if result.min_commit_ts else "ok"


def _show_locked_all(result: LockAll, params: PessimisticLockParameters) -> str:
    if result.blocked is not None:
        return f"wait for {show_locked(result.blocked.error)}"
    if result.shrinking is not None:
        return f"shrinking, {show_locked(result.shrinking)}"
    found = []
    for key in result.keys:
        told = key.key_result(params)
        if told.locked_with_conflict_ts:
            value = told.value.decode() if told.existence else "none"
            found.append(f"forced {told.locked_with_conflict_ts}: {value}")
        elif params.return_values:
            value = "long" if told.value == LONG else told.value.decode()
            found.append(value if told.existence else "none")
        elif params.check_existence:
            found.append("there" if told.existence else "none")
    return ", ".join(found) or "ok"
