"""Who compiles what, among the processes that share a cache.

One file in the cache's folder, locked byte by byte: each kernel has a byte. The system lets go of what a
process that has died had locked.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from functools import cache

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

__all__ = ["Lock"]

_FILE = "mme.lock"
_PAUSE = 0.02  # seconds between two looks at a lock that another process holds
_PATIENCE = 120.0  # seconds after which a kernel is compiled twice rather than waited for


@cache
def _open(folder: str, pid: int) -> int | None:
    """The lock file, open until the process ends: closing it would let go of every byte."""
    try:
        os.makedirs(folder, exist_ok=True)
        return os.open(os.path.join(folder, _FILE), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None


class Lock:
    """The right to compile one kernel.

    Where the file system has no locks every process has the right, as without this class.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._folder = folder
        self._byte = zlib.crc32(name.encode())
        self.held = False

    def take(self) -> bool:
        """Take it, if no other process has it."""
        file = _open(self._folder, os.getpid())
        if file is not None and not self.held:
            try:
                if fcntl is not None:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
                else:
                    os.lseek(file, self._byte, os.SEEK_SET)
                    msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            except (BlockingIOError, PermissionError):
                return False
            except OSError:  # no locks here
                return True
            self.held = True
        return True

    def wait(self) -> None:
        """Take it, once the process that has it lets go."""
        end = time.monotonic() + _PATIENCE
        while not self.take() and time.monotonic() < end:
            time.sleep(_PAUSE)

    def release(self) -> None:
        """Let go."""
        file = _open(self._folder, os.getpid())
        if file is not None and self.held:
            with contextlib.suppress(OSError):  # it ends with the process at the latest
                if fcntl is not None:
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, self._byte)
                else:
                    os.lseek(file, self._byte, os.SEEK_SET)
                    msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
        self.held = False
