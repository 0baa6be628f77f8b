"""The measured client, blocking: one thread and many. The argument is the server's URL."""

from __future__ import annotations

import sys

import loop

import pytikv


def main() -> None:
    """Serve the cases; `load` writes the keys that all workers read."""
    client = pytikv.RawClient.connect(sys.argv[1])

    def load(_: int) -> None:
        client.batch_put([(key, loop.VALUE) for key in loop.KEYS])
        assert client.batch_get(loop.KEYS) == dict.fromkeys(loop.KEYS, loop.VALUE)
        assert all(client.get(key) == loop.VALUE for key in loop.KEYS)

    def get(n: int) -> None:
        for key in loop.take(n):
            client.get(key)

    def put(n: int) -> None:
        for key in loop.take(n):
            client.put(key, loop.VALUE)

    def batch_get(n: int) -> None:
        for keys in loop.batches(n):
            client.batch_get(keys)

    def batch_put(n: int) -> None:
        for keys in loop.batches(n):
            client.batch_put(dict.fromkeys(keys, loop.VALUE))

    load(1)
    loop.serve(
        {
            "load": load,
            "get": get,
            "put": put,
            "batch_get": batch_get,
            "batch_put": batch_put,
            "get_threads": lambda n: loop.in_threads(loop.THREADS, n, client.get),
            "idle": loop.idle,
        },
        version=pytikv.__version__,
    )


if __name__ == "__main__":
    main()
