"""Probe for decision 0006: what the layers above a bare rocksdict get cost.

A get and an unsynced put of a 20-byte key and a 64-byte value on one thread, over 100 000 keys:

* bare: rocksdict's column family, raw mode;
* engine: `RocksEngine`;
* storage v1, v1ttl, v2: the typed raw commands, which the embedded client calls;
* service: a serialized RawGet or RawPut through `KvService` (protobuf passed by, as on the hot path of the server);
* protobuf: the same by way of protobuf messages.

    python benchmarks/probes/rocks_typed_commands.py [thousands of keys]
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.engine.rocks import RocksEngine
from pytikv.server.pd.server import PdServer
from pytikv.server.services.kv_service import KvService
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.store import open_store

ROUNDS = 20_000


def measure(call: Callable[[bytes], object], keys: list[bytes]) -> float:
    best = float("inf")
    for _ in range(5):
        sample = random.sample(keys, min(ROUNDS, len(keys)))
        begin = time.perf_counter()
        for key in sample:
            call(key)
        best = min(best, (time.perf_counter() - begin) / len(sample))
    return best * 1e6


def main() -> None:
    count = int(sys.argv[1]) * 1000 if len(sys.argv) > 1 else 100_000
    keys = [b"r\x00\x00\x00key%013d" % i for i in range(count)]
    print(f"{'':<12}{'get us':>8}{'x bare':>8}{'put us':>8}{'x bare':>8}")
    for version in ApiVersion:
        path = tempfile.mkdtemp(prefix="rocks_probe_", dir=".")
        try:
            probe(RocksEngine(path), version, keys)
        finally:
            shutil.rmtree(path, ignore_errors=True)


def probe(engine: RocksEngine, version: ApiVersion, keys: list[bytes]) -> None:
    value = b"v" * 64
    pd = PdServer(EngineMeta(engine), time=time.time, getrandbits=random.getrandbits)
    store = open_store(engine, pd, version, meta=lambda id: metapb.Store(id=id, address="x:1"), now_s=time.time)
    raw = store.raw
    for key in keys:
        raw.put(key, value)
    base: list[float] = []

    def show(name: str, get: Callable[[bytes], object], put: Callable[[bytes], object]) -> None:
        get_us, put_us = measure(get, keys), measure(put, keys)
        if not base:
            base.extend((get_us, put_us))
        print(f"{name:<12}{get_us:>8.2f}{get_us / base[0]:>8.1f}{put_us:>8.2f}{put_us / base[1]:>8.1f}")

    bare = engine._cfs["write"]
    for key in keys:
        bare.put(key, value)
    show("bare", bare.get, lambda key: bare.put(key, value))
    if version is ApiVersion.V1:
        show("engine", lambda key: engine.get("write", key), lambda key: engine.put("write", key, value))
    show(f"storage v{version.value}", raw.get, lambda key: raw.put(key, value))
    service = KvService(store, sync=False)
    region = store.regions.entries[0]
    context = kvrpcpb.Context(
        region_id=region.id,
        peer=region.peer,
        region_epoch=region.meta.region_epoch,
        api_version=kvrpcpb.V2 if version is ApiVersion.V2 else kvrpcpb.V1,
    )
    head = kvrpcpb.RawGetRequest(context=context).SerializeToString() + b"\x12\x14"
    show(
        "service",
        lambda key: service.execute("RawGet", head + key),
        lambda key: service.execute("RawPut", head + key + b"\x1a\x40" + value),
    )
    show(
        "protobuf",
        lambda key: service._raw_get_slowly(head + key),
        lambda key: service._raw_put_slowly(head + key + b"\x1a\x40" + value),
    )
    engine.close()


if __name__ == "__main__":
    main()
