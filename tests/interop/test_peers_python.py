"""The other Python clients against our server, and beside us in one process.

They live in an environment of their own (.cache/peers), which `make interop` or `make bench` makes; without it these
tests are skipped. All peers, those of other languages too, run under `make interop`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".cache" / "peers"

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not (PEERS / ".installed").exists(),
        reason="tikv-python and tikv-client are not installed: `python interop/peers.py` does it",
    ),
]


@pytest.fixture(scope="module")
def interop() -> Iterator[ModuleType]:
    """interop/run.py as a module."""
    sys.path.insert(0, str(ROOT / "interop"))
    spec = importlib.util.spec_from_file_location("interop_run", ROOT / "interop" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["interop_run"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "interop"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "mode"),
    [("tikv-python", "v1"), ("tikv-python", "v1ttl"), ("tikv-client", "v1"), ("tikv-client, txn", "v1")],
)
def test_a_peer_reads_and_writes_the_same_keys(interop: ModuleType, name: str, mode: str) -> None:
    (peer,) = (p for p in interop.PEERS if p.name == name)
    try:
        command = peer.build()
    except interop.Skipped as skipped:
        pytest.skip(str(skipped))
    with interop.serve(mode) as address:
        result = interop.run_peer(peer, command, mode, address)
    assert result.failures == []
    assert result.passed >= 12


OURS = "from pytikv.proto import errorpb_pb2, kvrpcpb_pb2, metapb_pb2, pdpb_pb2, tikvpb_pb2; import pytikv"
THEIRS = "import tikv; from tikv._proto import kvrpcpb_pb2 as theirs"
USE = """
ours = kvrpcpb_pb2.RawPutRequest(key=b"k", value=b"v", context=kvrpcpb_pb2.Context(region_id=7))
other = theirs.RawPutRequest.FromString(ours.SerializeToString())
assert (other.key, other.value, other.context.region_id) == (b"k", b"v", 7)
assert type(other) is not type(ours)
print("both work")
"""


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_both_packages_load_in_one_process(order: tuple[str, str]) -> None:
    site = next((PEERS / "lib").glob(f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"), None)
    if site is None:
        pytest.skip("the peers were installed for another Python")
    code = "\n".join([f"import sys; sys.path.append({str(site)!r})", *order, USE])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "both work", done.stderr
