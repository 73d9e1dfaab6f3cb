"""Atomic outputs: files and folders that appear together, or not at all.

Every output is written into a hidden folder beside its final place, so on the same file system. The last step renames
it. A stopped command leaves nothing, and other programs never see an incomplete file.

Such a staging folder has a lock file, whose lock its process holds. If a process is killed, the next process that
writes to the same place on the same computer finds the lock free and removes the folder. The folder's name contains the
computer's name, since locks on network drives may not work across computers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from ..errors import InputError
from .locks import FileLock, LockHeld, LocksMissing

STAGING_PREFIX = ".xviewsynth-"
_LOCK_FILE = ".lock"
_POLL_SECONDS = 0.05
#: Subfolders of a staging folder: new outputs, and former files of the same names.
_NEW, _OLD = "new", "old"

# The staging folders of this process, with their locks (None if the disk has no locks). A process that must leave at
# once removes them all; threads share the dictionary.
_staging_folders: dict[Path, FileLock | None] = {}
# Folders that were made for outputs. They are removed if they stay empty.
_made_folders: list[Path] = []
# Held while files get their final names, which must not be interrupted.
_committing = threading.Lock()
# Held while a staging folder is removed, which must not be interrupted either.
_removing = threading.RLock()


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Make an empty hidden folder in `parent`, and remove it with its content at the end."""
    remove_left_folders(parent)
    folder = _make_staging_folder(parent)
    try:
        yield folder
    finally:
        _remove(folder)


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
            with _committing:
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
        _remove(folder)


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
        raise InputError(f"Cannot make the folder {folder}: {_reason(error)}. Choose another one.") from error
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
    _committing.acquire()
    _removing.acquire()
    for folder in list(_staging_folders):
        _remove(folder)
    for folder in list(_made_folders):
        _remove_if_made_in_vain(folder)


def remove_left_folders(parent: Path, all_computers: bool = False) -> None:
    """Remove the staging folders of killed processes in `parent`, and restore the files that these had moved away.

    Folders of running processes, and of other computers, stay.

    Args:
        parent: may be missing or unreadable: then nothing happens.
        all_computers: also remove those of other computers. The caller must exclude all other processes from `parent`.
    """
    prefix = STAGING_PREFIX if all_computers else _prefix()
    own = {folder.name for folder in list(_staging_folders)}
    with suppress(OSError), os.scandir(parent) as entries:
        left = [entry for entry in entries if entry.name.startswith(prefix) and entry.name not in own]
        for folder in [parent / entry.name for entry in left if _is_folder(entry)]:
            with suppress(OSError):
                _remove_left(folder, all_computers)


@lru_cache(maxsize=1)
def _prefix() -> str:
    computer = hashlib.sha256(socket.gethostname().encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{STAGING_PREFIX}{computer}-"


def _remove_if_made_in_vain(folder: Path) -> None:
    if folder in _made_folders:
        with suppress(OSError):  # it holds outputs
            folder.rmdir()
        _made_folders.remove(folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _make_staging_folder(parent: Path) -> Path:
    with _committing:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=parent))
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


def _remove(folder: Path) -> None:
    """Remove a staging folder that no other process uses."""
    with _removing:
        lock = _staging_folders.pop(folder, None)
        # Under another name, so that a thread that still writes cannot add files while the folder is being emptied.
        doomed = folder.with_name(f"{_prefix()}{os.urandom(4).hex()}")
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
                _delete(Path(entry.path), _is_folder(entry))


def _put_back(folder: Path) -> None:
    """Restore former outputs that were moved away for new ones, if the new ones are missing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for kept in sorted((folder / _OLD).iterdir()):
            final = folder.parent / kept.name
            if not os.path.lexists(final):
                os.rename(kept, final)


def _delete(path: Path, is_folder: bool) -> None:
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Staged:
    """An output; `folder` is its staging folder. One with `patterns` is a folder of files that are named so."""

    final: Path
    folder: Path
    patterns: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.folder / _NEW / self.final.name


@dataclass(frozen=True)
class _Move:
    """A file or folder to rename to its final name. A former file of that name goes to `kept`."""

    written: Path
    final: Path
    kept: Path
    patterns: tuple[str, ...]


class Outputs(AbstractContextManager):
    """The outputs of one command.

    Use it as a context manager: `add` every output before the work, write to the paths it returns, `commit` once.
    Leaving without `commit` removes all written files. In the message of an `InputError`, staged paths are replaced by
    final ones.

    Args:
        overwrite: whether an existing file may be replaced.
        inputs: files that no output may replace, even with `overwrite`.
    """

    def __init__(self, overwrite: bool = False, inputs: Iterable[Path | str] = ()):
        self._overwrite = overwrite
        self._inputs = [Path(path) for path in inputs]
        self._staged: list[_Staged] = []

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.discard()
        if isinstance(error, InputError) and self._in_final_names(str(error)) != str(error):
            raise InputError(self._in_final_names(str(error))) from error

    def add(self, path: Path | str) -> Path:
        """Check that an output can be written, and return the path to write it to until `commit`.

        The name and suffix stay those of `path`. Files written beside it (the .raw of a .mhd) are committed too.

        Raises:
            InputError: the path is a folder, exists already, is an input, was named twice, or its folder is missing
                or cannot be written to.
        """
        return self._stage(Path(path), ())

    def add_folder(self, path: Path | str, *patterns: str) -> Path:
        """As `add`, for an output that is a folder. The returned folder exists and is empty.

        Args:
            path: the folder.
            patterns: of the names of its files, such as "*.dcm". A folder with other files is never replaced, even with
                `overwrite`.

        Raises:
            InputError: as `add`. An existing folder is accepted if it holds only such files and may be replaced.
        """
        return self._stage(Path(path), patterns)

    def _stage(self, path: Path, patterns: tuple[str, ...]) -> Path:
        try:
            if path.parent not in {staged.final.parent for staged in self._staged}:
                remove_left_folders(path.parent)
            self._check(path, patterns)
            staged = _Staged(path, _make_staging_folder(path.parent), patterns)
            self._staged.append(staged)
            staged.path.parent.mkdir()
            if patterns:
                staged.path.mkdir()
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Cannot write {path}: {_reason(error)}. Choose another place for the output.") from error
        return staged.path

    def commit(self) -> None:
        """Give every output its final name. On a failure, undo the renames.

        Raises:
            InputError: a file of that name has appeared meanwhile, or the file system refuses.
        """
        with _committing:
            try:
                self._rename_all()
            finally:
                self.discard()

    def discard(self) -> None:
        """Remove everything that has not been committed."""
        for output in self._staged:
            _remove(output.folder)

    def _in_final_names(self, message: str) -> str:
        """The message with final paths in place of staged ones."""
        for output in self._staged:
            message = message.replace(str(output.path), str(output.final))
            message = message.replace(str(output.path.parent), str(output.final.parent))
        return message

    def _rename_all(self) -> None:
        moves = [
            _Move(written, staged.final.parent / written.name, staged.folder / _OLD / written.name, staged.patterns)
            for staged in self._staged
            for written in sorted(staged.path.parent.iterdir())
        ]
        done: list[_Move] = []
        for move in moves:
            try:
                self._rename(move)
            except OSError as error:
                _take_back(done)
                raise InputError(
                    f"Cannot write {move.final}: {_reason(error)}. Choose another place for the output."
                ) from error
            except InputError:
                _take_back(done)
                raise
            done.append(move)

    def _rename(self, move: _Move) -> None:
        if os.path.lexists(move.final):
            self._check_existing(move.final, move.patterns)
            _keep(move.final, move.kept)
            os.replace(move.written, move.final)
            return
        try:
            _rename_to_new(move.written, move.final)
        except OSError:
            # Another process may have made it meanwhile.
            self._check_existing(move.final, move.patterns)
            raise

    def _check(self, path: Path, patterns: tuple[str, ...]) -> None:
        if not path.name:
            raise InputError(f"{path} names no file: give the output a name.")
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # raises where the name is too long or has characters that no file can have
        if path.is_dir() and not patterns:
            raise InputError(f"{path} is a folder: give the output a file name in it.")
        if not path.parent.is_dir():
            raise InputError(f"The folder {path.parent} does not exist: create it first or choose another output.")
        if any(_same_file(path, taken) for taken in self._inputs):
            raise InputError(f"{path} is the input: choose another name for the output.")
        if patterns and any(_same_file(path, taken.parent) for taken in self._inputs if taken.is_file()):
            raise InputError(f"{path} holds the input: choose another name for the output.")
        if any(_same_file(path, output.final) for output in self._staged):
            raise InputError(f"{path} is named for two outputs: give each its own name.")
        self._check_existing(path, patterns)

    def _check_existing(self, path: Path, patterns: tuple[str, ...]) -> None:
        if not patterns and _is_special(path):
            raise InputError(f"{path} is a pipe, a socket or a device and no file: choose another name for the output.")
        if os.path.lexists(path) and not self._overwrite:
            raise InputError(f"{path} exists already: choose another name or add --overwrite.")
        # Replacing a folder removes all its files, so all must be ours.
        if patterns and os.path.lexists(path) and not _holds_only(path, patterns):
            raise InputError(
                f"{path} is no folder with {' and '.join(patterns)} files alone: choose another name for the output."
            )


def _same_file(first: Path, second: Path) -> bool:
    if first.exists() and second.exists():
        return os.path.samefile(first, second)
    return os.path.normcase(first.resolve()) == os.path.normcase(second.resolve())


def _is_special(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return not any(is_kind(mode) for is_kind in (stat.S_ISREG, stat.S_ISLNK, stat.S_ISDIR))


def _holds_only(folder: Path, patterns: tuple[str, ...]) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(_is_named(entry, patterns) and entry.is_file() for entry in folder.iterdir())


def _is_named(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in patterns)


def _keep(final: Path, kept: Path) -> None:
    kept.parent.mkdir(exist_ok=True)
    try:
        # With a second link, the old file stays in place until the new one replaces it in one step.
        os.link(final, kept, follow_symlinks=False)
    except (OSError, NotImplementedError):
        os.replace(final, kept)


def _rename_to_new(written: Path, final: Path) -> None:
    """Rename, unless a file or a folder with content has appeared under the final name."""
    if not written.is_dir() and _is_linked(written, final):
        written.unlink()
    else:
        os.rename(written, final)


def _is_linked(written: Path, final: Path) -> bool:
    """Give a file its final name as a second hard link, which fails if the name is taken; False on disks without links.

    Raises:
        FileExistsError: there is a file of that name.
    """
    try:
        os.link(written, final)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _take_back(done: list[_Move]) -> None:
    """Remove outputs that got their final names. Former files return when the staging folders are removed."""
    for move in done:
        with suppress(OSError):
            _delete(move.final, move.final.is_dir())


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
