"""Look-ups in a region cache that is full. The argument is the number of regions."""

from __future__ import annotations

import itertools
import random
import sys

import loop

from pytikv.client.region_cache import RegionCache
from pytikv.client.store_cache import CachedStore
from pytikv.types import Peer, Region

_SAMPLE = 100_000  # too many for the processor's caches: look-ups wait for memory
_HOT = 1_000
_SPAN = 10**9


def main() -> None:
    """Fill the cache, then serve the one case."""
    count = int(sys.argv[1])
    stores = {i: CachedStore(i) for i in range(1, 4)}
    cache = RegionCache(stores.__getitem__, random.Random(1))
    step = _SPAN // count

    def border(i: int) -> bytes:
        return b"" if i in (0, count) else b"key_%09d" % (i * step)

    for i in range(count):
        peers = tuple(Peer(id=4 * i + store, store_id=store) for store in stores)
        region = Region(
            id=i + 1,
            start_key=border(i),
            end_key=border(i + 1),
            conf_ver=1,
            version=1,
            peers=peers,
            leader=peers[i % 3],
        )
        cache.insert(region, 0.0)
    assert len(cache) == count
    chooser = random.Random(2)
    keys = [b"key_%09d" % chooser.randrange(_SPAN) for _ in range(_SAMPLE)]
    assert all(cache.locate(key, 1.0) is not None for key in keys)

    def look_up(among: int) -> loop.Case:
        chosen = keys[:among]

        def run(n: int) -> None:
            locate = cache.locate
            for key in itertools.islice(itertools.cycle(chosen), n):
                locate(key, 1.0)

        return run

    loop.serve({"uniform": look_up(_SAMPLE), "hot": look_up(_HOT)}, regions=count)


if __name__ == "__main__":
    main()
