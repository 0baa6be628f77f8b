"""Writing pairs into a file that is either whole or not there.

The pairs go to a temporary file beside the target, which is synced and renamed when the last one is written; whatever
ends the dump before, the target stays as it was. `-` is standard output, where nothing of this can hold.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pytikv.errors import InvalidArgument
from pytikv.transfer.template import encode_bytes

__all__ = ["dump", "replace_atomically"]

Pair = tuple[bytes, bytes]


def dump(
    pairs: Iterable[Pair],
    name: str,
    *,
    format: str = "csv",
    encoding: str = "escaped",
    delimiter: str = ",",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write `pairs` to the file `name` (gzip when it ends in `.gz`) and return how many there were.

    `progress` is told the count every 1000 pairs. Raises InvalidArgument for a pair that `encoding` cannot hold,
    OSError when the file cannot be written; the file is then as it was before.
    """
    with _target(name) as out, _text(out, compress=name.lower().endswith(".gz")) as text:
        return _write(_counted(pairs, progress), text, format, encode_bytes(encoding), delimiter)


def _counted(pairs: Iterable[Pair], progress: Callable[[int], None] | None) -> Iterator[Pair]:
    for count, pair in enumerate(pairs, 1):
        yield pair
        if progress is not None and count % 1000 == 0:
            progress(count)


def _write(
    pairs: Iterable[Pair], text: io.TextIOBase, format: str, encode: Callable[[bytes], str], delimiter: str
) -> int:
    write = _csv_writer(text, delimiter) if format == "csv" else _json_writer(text)
    count = 0
    for key, value in pairs:
        try:
            write(encode(key), encode(value))
        except UnicodeDecodeError:
            raise InvalidArgument(
                f"pair {count + 1} is not UTF-8 text: use --encoding escaped, hex or base64"
            ) from None
        count += 1
    return count


def _csv_writer(text: io.TextIOBase, delimiter: str) -> Callable[[str, str], object]:
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(("key", "value"))
    return lambda key, value: writer.writerow((key, value))


def _json_writer(text: io.TextIOBase) -> Callable[[str, str], object]:
    return lambda key, value: text.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _text(out: BinaryIO, *, compress: bool) -> Iterator[io.TextIOBase]:
    data: BinaryIO = gzip.GzipFile(fileobj=out, mode="wb") if compress else out  # type: ignore[assignment]  # writes as one does
    text = io.TextIOWrapper(data, encoding="utf-8", newline="", write_through=False)
    try:
        yield text
        text.flush()
    finally:
        text.detach()
        if compress:
            data.close()


@contextlib.contextmanager
def _target(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with replace_atomically(Path(name)) as out:
        yield out


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that becomes `path`, whole and synced, at the end of the block; not at all if it raises."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name durable; where directories cannot be opened (not POSIX) there is nothing to do."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
