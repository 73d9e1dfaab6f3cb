"""Locks on open files, which the operating system itself gives back when a process ends, however it ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# What systems report where another process holds a lock; anything else means that the disk has no locks.
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)

if os.name == "nt":
    import msvcrt

    def _lock(file: int, shared: bool) -> None:
        # Windows locks bytes; those of a lock file are never read, so the first will do.
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int, shared: bool) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def try_lock(file: int, shared: bool = False) -> bool:
    """Take the lock of an open file and return True, or return False where another process holds it.

    Args:
        file: descriptor; closing it gives the lock back.
        shared: whether others may hold the lock in the same way; Windows has no such locks.

    Raises:
        OSError: the disk has no locks.
    """
    try:
        _lock(file, shared)
    except OSError as problem:
        if problem.errno in _HELD:
            return False
        raise
    return True


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at `path`; a lock on a file that was removed meanwhile keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False
