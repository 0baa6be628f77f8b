"""Hypothesis strategies for records, keys and timestamps."""

from __future__ import annotations

from hypothesis import strategies as st

from pytikv.server.mvcc.records import SHORT_VALUE_MAX, Lock, LockType, Write, WriteType

timestamps = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
wire_keys = st.binary(max_size=20)
short_values = st.binary(max_size=SHORT_VALUE_MAX)
last_changes = st.one_of(
    st.just((0, 0)), st.just((0, 1)), st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
)


@st.composite
def locks(draw: st.DrawFn, kinds: tuple[LockType, ...] = tuple(LockType)) -> Lock:
    kind = draw(st.sampled_from(kinds))
    if kind is LockType.SHARED:
        container = Lock(kind, b"", 0, shrink_only=draw(st.booleans()))
        for member in draw(st.lists(locks((LockType.LOCK, LockType.PESSIMISTIC)), max_size=4)):
            container = container.with_member(member)
        return container
    change_ts, versions = draw(last_changes)
    use_async_commit = draw(st.booleans())
    return Lock(
        kind,
        draw(wire_keys),
        draw(timestamps),
        ttl_ms=draw(timestamps),
        short_value=draw(st.none() | short_values),
        for_update_ts=draw(timestamps),
        txn_size=draw(timestamps),
        min_commit_ts=draw(timestamps),
        use_async_commit=use_async_commit,
        secondaries=tuple(draw(st.lists(wire_keys, max_size=3))) if use_async_commit else (),
        rollback_ts=tuple(draw(st.lists(timestamps, max_size=3))),
        last_change_ts=change_ts,
        versions_to_last_change=versions,
        txn_source=draw(timestamps),
        is_locked_with_conflict=draw(st.booleans()),
        generation=draw(timestamps),
    )


@st.composite
def writes(draw: st.DrawFn) -> Write:
    change_ts, versions = draw(last_changes)
    return Write(
        draw(st.sampled_from(WriteType)),
        draw(timestamps),
        short_value=draw(st.none() | short_values),
        has_overlapped_rollback=draw(st.booleans()),
        gc_fence=draw(st.none() | timestamps),
        last_change_ts=change_ts,
        versions_to_last_change=versions,
        txn_source=draw(timestamps),
    )
