"""Scans over snapshot pages and own writes, against a merged dictionary; what is written meanwhile does not show."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from pytikv.client.pages import Pair
from pytikv.client.txn.buffer import LOCKED, WriteBuffer
from pytikv.client.txn.union import UnionScan

KEYS = st.binary(max_size=2)


class Pages:
    """Stored pairs of a range, as a snapshot scan hands them out."""

    def __init__(self, stored: dict[bytes, bytes], low: bytes, high: bytes, reverse: bool, size: int) -> None:
        keys = sorted((k for k in stored if low <= k and (not high or k < high)), reverse=reverse)
        self.pages = [[(k, stored[k]) for k in keys[at : at + size]] for at in range(0, len(keys), size)]
        self.asked = 0

    async def next_page(self) -> list[Pair]:
        self.asked += 1
        return self.pages.pop(0) if self.pages else []


def own_writes(writes: dict[bytes, bytes | None]) -> WriteBuffer:
    own = WriteBuffer(max_entry_bytes=1 << 20, max_bytes=None)
    for key, value in writes.items():
        if value is None:
            own.delete(key)
        else:
            own.put(key, value)
    return own


def merged(stored: dict[bytes, bytes], writes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    return {key: value for key, value in (stored | writes).items() if value is not None}


@given(
    stored=st.dictionaries(KEYS, st.binary(min_size=1, max_size=2), max_size=20),
    writes=st.dictionaries(KEYS, st.none() | st.binary(max_size=2), max_size=20),
    later=st.dictionaries(KEYS, st.none() | st.binary(max_size=2), max_size=6),
    low=KEYS,
    high=KEYS,
    reverse=st.booleans(),
    keys_only=st.booleans(),
    limit=st.none() | st.integers(0, 8),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_a_scan_is_the_merge_at_its_beginning(
    stored: dict[bytes, bytes],
    writes: dict[bytes, bytes | None],
    later: dict[bytes, bytes | None],
    low: bytes,
    high: bytes,
    reverse: bool,
    keys_only: bool,
    limit: int | None,
    sizes: tuple[int, int],
) -> None:
    own = own_writes(writes)
    own.mark(b"lock", add=LOCKED)
    theirs = Pages({k: b"" if keys_only else v for k, v in stored.items()}, low, high, reverse, sizes[0])
    view = own.view(low, high, reverse=reverse)
    scan = UnionScan(theirs, view, reverse=reverse, keys_only=keys_only, limit=limit, page_size=sizes[1])
    changes = list(later.items())

    async def read() -> list[Pair]:
        found: list[Pair] = []
        while page := await scan.next_page():
            assert len(page) <= sizes[1]
            found += page
            for key, value in [changes.pop()] if changes else []:
                own.delete(key) if value is None else own.put(key, value)
        return found

    twin = merged(stored, writes)
    keys = sorted((k for k in twin if low <= k and (not high or k < high)), reverse=reverse)[:limit]
    assert asyncio.run(read()) == [(key, b"" if keys_only else twin[key]) for key in keys]


def test_pages_are_asked_for_as_they_are_needed() -> None:
    theirs = Pages({b"%02d" % n: b"v" for n in range(40)}, b"", b"", False, 10)
    own = own_writes({b"00": b"own"})
    scan = UnionScan(theirs, own.view(b"", b"", reverse=False), reverse=False, keys_only=False, limit=5, page_size=256)

    async def read() -> list[Pair]:
        page = await scan.next_page()
        assert await scan.next_page() == []
        return page

    assert asyncio.run(read()) == [(b"00", b"own"), *((b"%02d" % n, b"v") for n in range(1, 5))]
    assert theirs.asked == 1


def test_deleting_all_of_a_page_goes_on_to_the_next() -> None:
    theirs = Pages({b"a": b"1", b"b": b"2", b"c": b"3"}, b"", b"", False, 2)
    own = own_writes({b"a": None, b"b": None})
    scan = UnionScan(theirs, own.view(b"", b"", reverse=False), reverse=False, keys_only=False, limit=None, page_size=2)
    assert asyncio.run(scan.next_page()) == [(b"c", b"3")]
