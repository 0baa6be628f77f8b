"""Tables of typed records over the measured client, beside its plain transactions. The argument is the server's URL."""

from __future__ import annotations

import dataclasses
import itertools
import sys

import loop

import pytikv
from pytikv.model import Table, tuples


@dataclasses.dataclass(slots=True)
class Person:
    """A row; about 150 bytes with its name."""

    id: int
    email: str
    age: int
    city: str
    note: str


plain = Table("plain", Person, key="id")
people = Table("person", Person, key="id", index=["age", ("city", "age")])


def person(number: int) -> Person:
    """Return a row."""
    return Person(number, f"person-{number}@example.org", number % 90, f"city {number % 1000}", "n" * 60)


def main() -> None:
    """Write the rows that are read, then serve the cases."""
    raw = pytikv.RawClient.connect(sys.argv[1])
    db = pytikv.TransactionClient.connect(sys.argv[1])
    with db.batch() as writer:
        for number in range(loop.TXN_KEYS):
            writer.put(plain, person(number))
    assert writer.result.is_complete, writer.result.errors
    numbers = itertools.count(loop.TXN_KEYS)
    keys = [plain.rows.layout.row_key(plain.rows.encoded(number)) for number in range(loop.TXN_KEYS)]
    decode = plain.rows.codec.decode_one

    def parts(n: int) -> list[range]:
        return [range(min(loop.TXN_KEYS, n - done)) for done in range(0, n, loop.TXN_KEYS)]

    def get_and_decode(n: int) -> None:
        for part in parts(n):
            snapshot = db.snapshot()
            for number in part:
                value = snapshot.get(keys[number])
                assert value is not None
                decode(value)

    def table_get(n: int) -> None:
        for part in parts(n):
            snapshot = db.snapshot()
            for number in part:
                plain.get(snapshot, number)

    def single(n: int) -> None:
        for _ in range(n):
            with db.begin() as txn:
                people.put(txn, person(next(numbers)))

    def insert(n: int) -> None:
        for _ in range(n):
            with db.begin() as txn:
                people.insert(txn, person(next(numbers)))

    def batch_100(n: int) -> None:
        for _ in range(n):
            with db.batch() as writer:
                for _ in range(100):
                    writer.put(people, person(next(numbers)))
            assert writer.result.written == 100

    def raw_single(n: int) -> None:
        for key in loop.take(n):
            raw.put(key, loop.VALUE)

    def raw_batch_100(keys: list[bytes]) -> loop.Case:
        def run(n: int) -> None:
            found = itertools.cycle(keys)
            for _ in range(n):
                with raw.batch() as writer:
                    for key in itertools.islice(found, 100):
                        writer.put(key, loop.VALUE)
                assert writer.result.written == 100

        return run

    def encode(n: int) -> None:
        for number in range(n):
            tuples.encode((number, "person@example.org"))

    loop.serve(
        {
            "get_and_decode": get_and_decode,
            "table_get": table_get,
            "single": single,
            "insert": insert,
            "batch_100": batch_100,
            "raw_single": raw_single,
            "raw_batch_100": raw_batch_100([loop.key_of(i) for i in range(loop.TXN_KEYS)]),
            "raw_batch_100_spread": raw_batch_100(loop.KEYS),
            "encode": encode,
        },
        version=pytikv.__version__,
    )


if __name__ == "__main__":
    main()
