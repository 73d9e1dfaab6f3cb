"""Staging folders: hidden folders beside the final places of outputs, which no process leaves behind.

A staging folder has a lock file, whose lock its process holds. If a process is killed, the next process that writes to
the same place on the same computer finds the lock free and removes the folder. The folder's name contains the
computer's name, since locks on network drives may not work across computers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from ..errors import InputError
from .locks import FileLock, LockHeld, LocksMissing

STAGING_PREFIX = ".xviewsynth-"
_LOCK_FILE = ".lock"
_POLL_SECONDS = 0.05
#: Subfolders of a staging folder: new outputs, and former files of the same names.
NEW, OLD = "new", "old"
# The staging folders of this process, with their locks (None if the disk has no locks). A process that must leave at
# once removes them all; threads share the dictionary.
_staging_folders: dict[Path, FileLock | None] = {}
# Folders that were made for outputs. They are removed if they stay empty.
_made_folders: list[Path] = []
# Held while files get their final names, which must not be interrupted.
committing = threading.Lock()
# Held while a staging folder is removed, which must not be interrupted either.
_removing = threading.RLock()


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Make an empty hidden folder in `parent`, and remove it with its content at the end."""
    remove_left_folders(parent)
    folder = make_staging_folder(parent)
    try:
        yield folder
    finally:
        remove_staging_folder(folder)


@contextmanager
def held_staging_folder(folder: Path, seconds: float) -> Iterator[FileLock | None]:
    """As `staging_folder`, with a fixed name, so that only one process has it. Remains of a killed process are removed.

    Yields the lock of the folder, or None if the disk has no locks. Child processes that inherit it hold it too.

    Args:
        folder: its parent exists.
        seconds: how long to wait for another process to end.

    Raises:
        LockHeld: another process has the folder.
        OSError: the folder cannot be made.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            with committing:
                lock = _staging_folders[folder] = _held(folder)
            break
        except LockHeld:
            if time.monotonic() > until:
                raise
        time.sleep(_POLL_SECONDS)
    try:
        _empty(folder)
        yield lock
    finally:
        remove_staging_folder(folder)


@contextmanager
def output_folder(folder: Path, parents: bool = False) -> Iterator[None]:
    """Make a folder for outputs where it is missing, and remove it at the end if it is empty.

    Args:
        folder: the folder.
        parents: whether to do the same with the folders above it.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        made = [place for place in (folder, *folder.parents)[: None if parents else 1] if not place.exists()]
        folder.mkdir(exist_ok=True, parents=parents)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot make the folder {folder}: {reason_of(error)}. Choose another one.") from error
    _made_folders.extend(made)
    try:
        yield
    finally:
        for place in made:
            _remove_if_made_in_vain(place)


def remove_staging_folders() -> None:
    """Remove every staging folder of this process, before it exits without waiting for its threads.

    Waits for a `commit` or a removal that has begun. Afterwards no thread can commit or make a staging folder.
    """
    committing.acquire()
    _removing.acquire()
    for folder in list(_staging_folders):
        remove_staging_folder(folder)
    for folder in list(_made_folders):
        _remove_if_made_in_vain(folder)


def remove_left_folders(parent: Path, all_computers: bool = False) -> None:
    """Remove the staging folders of killed processes in `parent`, and restore the files that these had moved away.

    Folders of running processes, and of other computers, stay.

    Args:
        parent: may be missing or unreadable: then nothing happens.
        all_computers: also remove those of other computers. The caller must exclude all other processes from `parent`.
    """
    prefix = STAGING_PREFIX if all_computers else staging_prefix()
    own = {folder.name for folder in list(_staging_folders)}
    with suppress(OSError), os.scandir(parent) as entries:
        left = [entry for entry in entries if entry.name.startswith(prefix) and entry.name not in own]
        for folder in [parent / entry.name for entry in left if _is_folder(entry)]:
            with suppress(OSError):
                _remove_left(folder, all_computers)


@lru_cache(maxsize=1)
def staging_prefix() -> str:
    """How the names of the staging folders of this computer begin."""
    computer = hashlib.sha256(socket.gethostname().encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{STAGING_PREFIX}{computer}-"


def _remove_if_made_in_vain(folder: Path) -> None:
    if folder in _made_folders:
        with suppress(OSError):  # it holds outputs
            folder.rmdir()
        _made_folders.remove(folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def make_staging_folder(parent: Path) -> Path:
    """Make an empty staging folder in `parent`, to be removed by `remove_staging_folder`."""
    with committing:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=staging_prefix(), dir=parent))
            # Before the lock is held another process may take the folder for one that was left, and remove it.
            with suppress(FileNotFoundError):
                _staging_folders[folder] = _lock(folder)
                return folder


def _lock(folder: Path) -> FileLock | None:
    """Hold the lock of a new staging folder; None if the disk has no locks.

    Raises:
        FileNotFoundError: another process has removed the folder.
        OSError: the folder cannot be written to; it is removed.
    """
    try:
        return FileLock(folder / _LOCK_FILE)
    except LocksMissing:
        return None
    except LockHeld as held:
        raise FileNotFoundError(folder) from held
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        raise


def _held(folder: Path) -> FileLock | None:
    folder.mkdir(exist_ok=True)
    try:
        return FileLock(folder / _LOCK_FILE)
    except LocksMissing:
        return None
    except FileNotFoundError as error:
        raise LockHeld(f"{folder} is being removed") from error


def remove_staging_folder(folder: Path) -> None:
    """Remove a staging folder that no other process uses."""
    with _removing:
        lock = _staging_folders.pop(folder, None)
        # Under another name, so that a thread that still writes cannot add files while the folder is being emptied.
        doomed = folder.with_name(f"{staging_prefix()}{os.urandom(4).hex()}")
        try:
            os.rename(folder, doomed)
        except OSError:  # it is gone, or Windows has files in it open
            doomed = folder
        _clear(doomed, lock)


def _remove_left(folder: Path, is_alone: bool) -> None:
    try:
        lock = FileLock(folder / _LOCK_FILE, create=False)
    except FileNotFoundError:
        if is_alone:
            _clear(folder, None)
        else:
            # Its process was killed before it made the lock, or after it had removed everything. Or its process is just
            # making it, and will make another.
            folder.rmdir()
    except OSError:  # its process is running, or the disk has no locks, so that this is unknown
        return
    else:
        _clear(folder, lock)


def _clear(folder: Path, lock: FileLock | None) -> None:
    """Remove a staging folder whose lock is held. The lock file goes last: it marks the remains as a staging folder.

    If the former outputs cannot be restored, the folder stays, and the next process tries again.
    """
    try:
        _put_back(folder)
        _empty(folder)
    except OSError:
        return
    finally:
        if lock is not None:
            lock.release()
    with suppress(OSError):
        (folder / _LOCK_FILE).unlink(missing_ok=True)
        folder.rmdir()


def _empty(folder: Path) -> None:
    """Remove the content of a staging folder, except its lock."""
    # A thread that still writes may add files meanwhile.
    for _ in range(3):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in [entry for entry in entries if entry.name != _LOCK_FILE]:
                delete(Path(entry.path), _is_folder(entry))


def _put_back(folder: Path) -> None:
    """Restore former outputs that were moved away for new ones, if the new ones are missing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for kept in sorted((folder / OLD).iterdir()):
            final = folder.parent / kept.name
            if not os.path.lexists(final):
                os.rename(kept, final)


def delete(path: Path, is_folder: bool) -> None:
    """Delete a file, or a folder with its content as far as possible."""
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def reason_of(error: Exception) -> str:
    """Why the system refused, for a message."""
    return getattr(error, "strerror", None) or str(error)
