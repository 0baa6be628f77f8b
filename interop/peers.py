"""The environment of the other Python clients, kept apart from ours: `python interop/peers.py` prints its interpreter.

It is made on demand under .cache/peers from the package index. Kept apart because `tikv-python` pins nothing and
registers kvproto's files in protobuf's default pool, and because `tikv-client` is a wheel for Python 3.11 on Linux.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / ".cache" / "peers"
PACKAGES = ["tikv-python==0.1.1", "tikv-client==0.0.4", "setuptools<81"]


def interpreter() -> Path:
    """The interpreter, its environment made if need be. Raises CalledProcessError when that fails."""
    python, stamp, wanted = PEERS / "bin" / "python", PEERS / ".installed", "\n".join(PACKAGES)
    PEERS.parent.mkdir(exist_ok=True)
    with (PEERS.parent / "peers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(PEERS, with_pip=True, clear=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
            subprocess.run(install, check=True, stdout=sys.stderr)
            stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    print(interpreter())
