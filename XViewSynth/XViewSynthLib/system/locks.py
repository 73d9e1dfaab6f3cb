"""Locks on files, which the operating system releases when a process ends, however it ends.

The library filelock is not used. Its locks on paths cannot be passed on to child processes (release takes the lock from
them too). Where the system has no locks, it uses the existence of a file, which outlives a killed process. Its locks on
descriptors cannot be shared.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

# Reported where another process holds a lock; anything else means that the disk has no locks.
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)
_POLL_SECONDS = 0.05

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, shared: bool) -> None:
        # Windows locks bytes; those of a lock file are never read, so the first will do. It has no shared locks.
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int, shared: bool) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


class LockHeld(OSError):
    """Another process holds the lock."""


class LocksMissing(OSError):
    """The disk has no locks."""


class FileLock:
    """The lock of a file, taken on construction.

    On POSIX, processes that inherit `descriptor` hold the lock too, until the last of them has ended.

    Args:
        path: the lock file. `release` keeps it, `remove` deletes it.
        create: whether to make the file where it is missing.
        shared: whether others may hold the lock in the same way. Windows has no shared locks.
        seconds: how long to wait for another process to release the lock.

    Raises:
        LockHeld: another process holds the lock, or has removed the file meanwhile.
        LocksMissing: the disk has no locks; the file stays.
        OSError: the file cannot be opened, for example a FileNotFoundError.
    """

    def __init__(self, path: Path, *, create: bool = True, shared: bool = False, seconds: float = 0.0):
        self.path = path
        until = time.monotonic() + seconds
        while True:
            try:
                self.descriptor = _locked(path, create, shared)
                return
            except LockHeld:
                if time.monotonic() > until:
                    raise
            time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Release the lock, unless a child process has inherited it. The file stays."""
        os.close(self.descriptor)

    def remove(self) -> None:
        """Remove the file and release the lock."""
        if sys.platform == "win32":
            # An open file cannot be removed there. It stays where another process has opened it meanwhile.
            self.release()
            _unlink(self.path)
            return
        # Before the lock goes: afterwards the file may be the lock of another process.
        _unlink(self.path)
        self.release()


def _locked(path: Path, create: bool, shared: bool) -> int:
    """Open a file and take its lock; return the descriptor."""
    # A shared lock is for reading, also in folders of other users. A pipe would block, and a link may lead elsewhere.
    access = os.O_RDONLY if shared else os.O_RDWR
    access |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, access | (os.O_CREAT if create else 0), 0o666)
    try:
        _lock(file, shared)
    except OSError as problem:
        os.close(file)
        if problem.errno in _HELD:
            raise LockHeld(problem.errno, problem.strerror) from problem
        raise LocksMissing(problem.errno, problem.strerror) from problem
    # A lock on a file that was removed meanwhile excludes no other process.
    if not _is_at(file, path):
        os.close(file)
        raise LockHeld(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return file


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # gone, or open in another process on Windows
        return
