"""Generate `src/pytikv/proto/*_pb2.py` and their type stubs from our own `.proto` files.

The compiler is pinned to the one of grpcio-tools 1.62.3 (protoc 25, gencode 4.25): generated code works with
protobuf runtimes from its own version upwards, and 4.25 is the oldest runtime that pytikv supports. It lives in an
environment of its own, because its dependency bounds exclude newer runtimes.

    python tools/gen_proto.py            write the files
    python tools/gen_proto.py --check    exit 1 when the committed files are not what would be written
"""

from __future__ import annotations

import argparse
import filecmp
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "proto"
OUT = ROOT / "src" / "pytikv" / "proto"
COMPILER = ["grpcio-tools==1.62.3", "protobuf==4.25.9", "setuptools==75.8.0"]


def compiler() -> Path:
    """Return the Python that holds the pinned compiler, making its environment on first use."""
    home = ROOT / ".cache" / "gen-proto"
    python = home / "bin" / "python"
    stamp = home / "requirements"
    wanted = "\n".join(COMPILER)
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *COMPILER], check=True)
        stamp.write_text(wanted)
    return python


def generate(destination: Path) -> list[Path]:
    """Compile every `.proto` file into `destination`; return the files made, relative to it."""
    sources = sorted(PROTO_ROOT.glob("pytikv/proto/*.proto"))
    args = [f"-I{PROTO_ROOT}", f"--python_out={destination}", f"--pyi_out={destination}"]
    subprocess.run([compiler(), "-m", "grpc_tools.protoc", *args, *sources], check=True)
    for stub in destination.rglob("*_pb2.pyi"):
        # An enum member called None is reached by number or by name only: as an attribute it is not valid Python.
        stub.write_text(re.sub(r"(?m)^ *None: .*\n", "", stub.read_text()))
    return sorted(p.relative_to(destination) for p in destination.rglob("*_pb2.py*"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the protobuf modules.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        made = generate(Path(scratch))
        fresh = {OUT.parent.parent / p: Path(scratch) / p for p in made}
        present = set(OUT.glob("*_pb2.py*"))
        stale = [p for p in fresh if not p.exists() or not filecmp.cmp(p, fresh[p], shallow=False)]
        stale += sorted(present - set(fresh))
        if check:
            for path in stale:
                print(f"stale: {path.relative_to(ROOT)} (run: python tools/gen_proto.py)")
            return 1 if stale else 0
        for path in present - set(fresh):
            path.unlink()
        for path, new in fresh.items():
            path.write_bytes(new.read_bytes())
        print(f"{len(fresh)} files, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
