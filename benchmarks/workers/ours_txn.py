"""The measured client's transactions, blocking, beside its raw client. The argument is the server's URL.

The keys spread over the server's regions; `pair` are two keys of different ones. Reads go through snapshots that see
each key once, so that none is answered from what the snapshot has read.
"""

from __future__ import annotations

import sys
from typing import Any

import loop

import pytikv

ONE_REGION = [loop.key_of(i) for i in range(loop.TXN_KEYS)]
"""The keys of the lowest tenth: of one region where there are ten."""
TEN_REGIONS = [loop.key_of(i) for i in range(0, loop.KEY_COUNT, loop.KEY_COUNT // loop.TXN_KEYS)]
TWO_PHASES = {"async_commit": False, "one_pc": False}
KINDS: dict[str, dict[str, Any]] = {
    "2pc": TWO_PHASES,
    "2pc_causal": {**TWO_PHASES, "causal": True},
    "async": {"one_pc": False},
    "async_causal": {"one_pc": False, "causal": True},
    "1pc": {},
    "1pc_causal": {"causal": True},
}
"""Kinds of commits by name, as options. A transaction over two regions is never committed in one phase."""


def main() -> None:
    """Serve the cases; the keys that all workers read are written first."""
    raw = pytikv.RawClient.connect(sys.argv[1])
    db = pytikv.TransactionClient.connect(sys.argv[1])
    raw.batch_put([(key, loop.VALUE) for key in loop.KEYS])
    with db.begin() as loading:  # a real store keeps raw and transactional data apart
        for key in loop.KEYS:
            loading.put(key, loop.VALUE)
    pairs = list(zip(loop.shuffled_keys(), reversed(loop.shuffled_keys()), strict=True))

    def raw_get(n: int) -> None:
        for key in loop.take(n):
            raw.get(key)

    def get(n: int) -> None:
        for size in loop.passes(n):
            snapshot = db.snapshot()
            for key in loop.take(size):
                snapshot.get(key)

    def write(kind: str, *, reads: int = 0) -> loop.Case:
        options = KINDS[kind]
        keys = 1 if kind.startswith("1pc") else 2

        def run(n: int) -> None:
            for i in range(n):
                with db.begin(**options) as txn:
                    for key in pairs[(i + 1) % len(pairs)][:reads]:
                        txn.get(key)
                    for key in (ONE_REGION[i % loop.TXN_KEYS], TEN_REGIONS[-1 - i % 10])[:keys]:
                        txn.put(key, loop.VALUE)

        return run

    def large(n: int) -> None:
        for number in range(n):
            with db.begin() as txn:
                for key, value in loop.pairs_of_a_transaction(number).items():
                    txn.put(key, value)

    def batch_get(keys: list[bytes]) -> loop.Case:
        def run(n: int) -> None:
            for _ in range(n):
                assert len(db.snapshot().batch_get(keys)) == len(keys)

        return run

    def begins(n: int) -> float:
        return loop.in_threads(min(n, loop.BEGIN_THREADS), n, lambda _: db.begin().rollback())

    assert db.snapshot().get(loop.KEYS[0]) == loop.VALUE
    loop.serve(
        {
            "raw_get": raw_get,
            "get": get,
            **{kind: write(kind) for kind in KINDS},
            "1pc_1_read": write("1pc", reads=1),
            "1pc_2_reads": write("1pc", reads=2),
            "2pc_1_read": write("2pc", reads=1),
            "large": large,
            "batch_get_one": batch_get(ONE_REGION),
            "batch_get_ten": batch_get(TEN_REGIONS),
            "begins": begins,
        },
        version=pytikv.__version__,
    )


if __name__ == "__main__":
    main()
