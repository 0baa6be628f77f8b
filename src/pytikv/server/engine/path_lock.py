"""Who has a store's directory open: one process, known by its id.

`pytikv.lock` in the directory is locked (POSIX record lock, so the kernel lets go of it when the process dies, also by
kill -9) and holds the process id, for the message that the next one gets. Record locks do not guard against the own
process, and closing *any* descriptor of the file drops them: a table of the paths open in this process stands in
front, and the file is not touched when the table has the path.
"""

from __future__ import annotations

import fcntl
import os

from pytikv.errors import StorageError
from pytikv.rt.locks import mutex

__all__ = ["PathLock"]

_FILE_NAME = "pytikv.lock"
_guard = mutex()
_held: dict[str, int] = {}  # real path -> id of the process that opened it (a forked child inherits the entry)


def _in_use(path: str, pid: str) -> StorageError:
    where = "this process" if pid == str(os.getpid()) else f"process {pid}" if pid else "another process"
    return StorageError(f"{path} is in use by {where}; a store belongs to one process at a time")


class PathLock:
    """The claim of this process on a directory, from construction to `release`."""

    def __init__(self, path: str) -> None:
        """Make the directory where it is missing and claim it. Raises StorageError."""
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._real_path = os.path.realpath(path)
        except FileExistsError:
            raise StorageError(f"{path} is a file, not a directory") from None
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot make the directory {path!r}: {_reason(error)}") from error
        self._pid = os.getpid()
        with _guard:
            holder = _held.get(self._real_path)
            if holder is not None:
                raise _in_use(path, str(holder))
            self._fd = self._claim(path)
            _held[self._real_path] = self._pid

    def _claim(self, path: str) -> int:
        file_path = os.path.join(self._real_path, _FILE_NAME)
        try:
            fd = os.open(file_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except NotADirectoryError:
            raise StorageError(f"{path} is a file, not a directory") from None
        except OSError as error:
            raise StorageError(f"cannot write in {path}: {_reason(error)}") from error
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % self._pid, 0)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise _in_use(path, pid) from None
        except OSError as error:
            os.close(fd)
            raise StorageError(f"cannot write in {path}: {_reason(error)}") from error
        return fd

    @property
    def is_ours(self) -> bool:
        """Whether this process made the claim; False in a child forked later."""
        return os.getpid() == self._pid

    def release(self) -> None:
        """Give the directory up. Idempotent; a forked child has nothing to give up."""
        with _guard:
            if self._fd >= 0 and self.is_ours:
                os.close(self._fd)
                self._fd = -1
                _held.pop(self._real_path, None)


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
