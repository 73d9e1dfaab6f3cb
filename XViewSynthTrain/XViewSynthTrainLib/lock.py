"""At most one process at a time trains in a run folder.

The operating system itself keeps the lock, and gives it back when a process ends, however it ends: a run that was
killed, or cut off with the power, can be resumed at once. Imports no PyTorch, so that a desktop may look at runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from XViewSynthLib.errors import InputError
from XViewSynthLib.system.locks import is_at, try_lock

from .files import LOCK_FILE

# Whoever only looks whether there is a run holds the lock for an instant, and must not stop a run from beginning.
_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.05


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; its file is there as long as the lock is held, or until the next run.

    Args:
        folder: of the run, which exists.

    Raises:
        InputError: another process holds it, the folder cannot be written to, or its disk knows no locks.
    """
    file = _locked(folder / LOCK_FILE)
    try:
        yield
    finally:
        _release(file, folder / LOCK_FILE)


def is_locked(folder: Path) -> bool:
    """Whether a process trains in a run folder now."""
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # there is none, or Windows is removing it
        return False
    try:
        return not try_lock(file, shared=True)
    except OSError:  # the disk knows no locks, which a run itself tells
        return False
    finally:
        os.close(file)


def refuse_locked_run(folder: Path) -> None:
    """Raise `InputError` where a process trains in a run folder now."""
    if is_locked(folder):
        raise _refusal(folder)


def _locked(path: Path) -> int:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as problem:
            raise InputError(
                f"Choose another folder for the run: {path} cannot be written ({problem.strerror})."
            ) from problem
        try:
            # Whoever held it may have removed the file meanwhile, and then this lock keeps nobody out.
            if try_lock(file) and is_at(file, path):
                return file
        except OSError as problem:
            os.close(file)
            raise InputError(
                f"Choose a folder on another disk for the run: files in {path.parent} cannot be locked "
                f"({problem.strerror}), and two runs at once would spoil each other."
            ) from problem
        os.close(file)
        if time.monotonic() > until:
            raise _refusal(path.parent)
        time.sleep(_LOOK_SECONDS)


def _release(file: int, path: Path) -> None:
    if os.name == "nt":
        # An open file cannot be removed there. Where another run has opened it meanwhile it stays, which is right.
        os.close(file)
        with suppress(OSError):
            path.unlink()
        return
    # Before the lock goes: later the file may be another run's.
    with suppress(OSError):
        path.unlink()
    os.close(file)


def _refusal(folder: Path) -> InputError:
    return InputError(
        f"Wait until the training that goes on in {folder} has ended, or stop it, or choose another folder: two runs "
        "in one folder would spoil each other."
    )
