"""Gets to be counted: `instructions.py KIND URL N` makes a client, warms it up, and gets N times.

Run under a counter of machine instructions with two numbers N, the difference is what the gets took. KIND is `raw` or
`snapshot`. Collection of garbage is off, so that two runs do the same.
"""

from __future__ import annotations

import gc
import sys

import pytikv

_WARM = 50


def main() -> None:
    """Get N times."""
    kind, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    gc.disable()
    if kind == "raw":
        with pytikv.RawClient.connect(url) as client:
            client.put(b"key", b"value")
            _get(client.get, _WARM)
            _get(client.get, count)
    else:
        with pytikv.TransactionClient.connect(url) as db:
            with db.begin() as txn:
                txn.put(b"key", b"value")
            snapshot = db.snapshot(cache=False)  # each get asks the store
            _get(snapshot.get, _WARM)
            _get(snapshot.get, count)


def _get(get, count: int) -> None:  # type: ignore[no-untyped-def]
    for _ in range(count):
        get(b"key")


if __name__ == "__main__":
    main()
