"""The lock of a run folder: at most one process at a time trains in it.

The operating system releases the lock when a process ends, however it ends. So a run that was killed, or stopped by a
power cut, can be resumed at once. Imports no PyTorch, so that a panel can show runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from XViewSynthLib.errors import InputError
from XViewSynthLib.system.locks import FileLock, LockHeld, LocksMissing

from .files import LOCK_FILE

# A process that checks for a run holds the lock for an instant, which must not refuse a new run.
_PATIENCE_SECONDS = 1.0


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder. Its file exists while the lock is held, or until the next run.

    Args:
        folder: of the run, which exists.

    Raises:
        InputError: another process holds it, the folder cannot be written to, or its disk has no locks.
    """
    lock = _locked(folder / LOCK_FILE)
    try:
        yield
    finally:
        lock.remove()


def is_locked(folder: Path) -> bool:
    """Whether a process trains in a run folder now."""
    try:
        FileLock(folder / LOCK_FILE, create=False, shared=True).release()
    except LockHeld:
        return True
    except OSError:  # no file, or a disk without locks, which a run reports
        return False
    return False


def refuse_locked_run(folder: Path) -> None:
    """Raise `InputError` if a process trains in a run folder now."""
    if is_locked(folder):
        raise _refusal(folder)


def _locked(path: Path) -> FileLock:
    try:
        return FileLock(path, seconds=_PATIENCE_SECONDS)
    except LockHeld as problem:
        raise _refusal(path.parent) from problem
    except LocksMissing as problem:
        raise InputError(
            f"Choose a folder on another disk for the run: files in {path.parent} cannot be locked "
            f"({problem.strerror}), and two runs at once would spoil each other."
        ) from problem
    except OSError as problem:
        raise InputError(
            f"Choose another folder for the run: {path} cannot be written ({problem.strerror})."
        ) from problem


def _refusal(folder: Path) -> InputError:
    return InputError(
        f"Wait until the training in {folder} has ended, or stop it, or choose another folder: two runs "
        "in one folder would spoil each other."
    )
