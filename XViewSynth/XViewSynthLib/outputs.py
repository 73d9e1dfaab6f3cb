"""Files and folders that appear together, or not at all.

Every output is written into a hidden folder beside its final place, so on the same file system, and the last step
renames. A command that is stopped leaves nothing, and a reader never meets half a file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from .errors import InputError

STAGING_PREFIX = ".xviewsynth-"

# A process that must leave at once removes these, whoever made them; threads share the set.
_staging_folders: set[Path] = set()
# Held while files get their final names, which must not be cut short.
_committing = threading.Lock()


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Give an empty hidden folder in `parent`, and remove it with its content at the end."""
    folder = _make_staging_folder(parent)
    try:
        yield folder
    finally:
        _remove(folder)


@contextmanager
def named_staging_folder(folder: Path) -> Iterator[Path]:
    """As `staging_folder`, where a process that was killed may have left one of that name, which is removed."""
    _remove(folder)
    folder.mkdir(exist_ok=True)
    _staging_folders.add(folder)
    try:
        yield folder
    finally:
        _remove(folder)


def remove_staging_folders() -> None:
    """Remove every staging folder of this process, for a process that leaves without waiting for its threads.

    A `commit` that has begun is waited for, up to half a second; none can begin afterwards.
    """
    _committing.acquire(timeout=0.5)
    for folder in list(_staging_folders):
        _remove(folder)


def _make_staging_folder(parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    _staging_folders.add(folder)
    return folder


def _remove(folder: Path) -> None:
    # A thread that is still writing can add a file while its folder is being emptied.
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    _staging_folders.discard(folder)


@dataclass(frozen=True)
class _Staged:
    """An output; `folder` is its staging folder. One with a `pattern` is a folder of files that are named so."""

    final: Path
    folder: Path
    pattern: str | None = None

    @property
    def path(self) -> Path:
        return self.folder / "new" / self.final.name


class Outputs(AbstractContextManager):
    """The outputs of one command.

    Use it as a context manager: `add` every output before the work, write to the paths it returns, `commit` once.
    Leaving without `commit` removes all that was written, and an `InputError` that passes through names the files as
    the user did.

    Args:
        overwrite: whether a file that exists already may be replaced.
        inputs: files that no output may replace, whatever `overwrite` says.
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
        """Check that an output can be written, and give the path to write it to until `commit`.

        The name and suffix stay those of `path`, and files written beside it (the .raw of a .mhd) come along.

        Raises:
            InputError: the path is a folder, exists already, is an input, was named twice, or its folder is missing
                or cannot be written to.
        """
        return self._stage(Path(path), None)

    def add_folder(self, path: Path | str, pattern: str) -> Path:
        """As `add`, for an output that is a folder; the one to write to is there already, and empty.

        Args:
            path: the folder.
            pattern: how the files in it are named, such as "*.dcm". A folder that holds anything else is never
                replaced, whatever `overwrite` says.

        Raises:
            InputError: as `add`, but for a folder that exists, is allowed to be replaced, and holds such files alone.
        """
        return self._stage(Path(path), pattern)

    def _stage(self, path: Path, pattern: str | None) -> Path:
        try:
            self._check(path, pattern)
            staged = _Staged(path, _make_staging_folder(path.parent), pattern)
            self._staged.append(staged)
            staged.path.parent.mkdir()
            if pattern:
                staged.path.mkdir()
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Cannot write {path}: {_reason(error)}. Choose another place for the output.") from error
        return staged.path

    def commit(self) -> None:
        """Give every output its final name; on a failure those that were already given it are taken back.

        Raises:
            InputError: a file of that name has appeared meanwhile, or the file system refuses.
        """
        with _committing:
            try:
                self._rename_all()
            finally:
                self.discard()

    def discard(self) -> None:
        """Remove everything that has not been committed; harmless when there is nothing."""
        for output in self._staged:
            _remove(output.folder)

    def _in_final_names(self, message: str) -> str:
        """A sentence about a staged file, told about the file the user named."""
        for output in self._staged:
            message = message.replace(str(output.path), str(output.final))
            message = message.replace(str(output.path.parent), str(output.final.parent))
        return message

    def _rename_all(self) -> None:
        moves = [
            (written, staged.final.parent / written.name, staged.folder / "old" / written.name, staged.pattern)
            for staged in self._staged
            for written in sorted(staged.path.parent.iterdir())
        ]
        done: list[tuple[Path, Path]] = []
        try:
            for written, final, kept, pattern in moves:
                if os.path.lexists(final):
                    self._check_existing(final, pattern)
                    _keep(final, kept)
                done.append((final, kept))
                os.replace(written, final)
        except OSError as error:
            _take_back(done)
            raise InputError(f"Cannot write {final}: {_reason(error)}. Choose another place for the output.") from error
        except InputError:
            _take_back(done)
            raise

    def _check(self, path: Path, pattern: str | None) -> None:
        if not path.name:
            raise InputError(f"{path} names no file: give the output a name.")
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # raises where the name is too long or has characters that no file can have
        if path.is_dir() and not pattern:
            raise InputError(f"{path} is a folder: give the output a file name in it.")
        if not path.parent.is_dir():
            raise InputError(f"The folder {path.parent} does not exist: create it first or choose another output.")
        if any(_same_file(path, taken) for taken in self._inputs):
            raise InputError(f"{path} is the input: choose another name for the output.")
        if pattern and any(_same_file(path, taken.parent) for taken in self._inputs if taken.is_file()):
            raise InputError(f"{path} holds the input: choose another name for the output.")
        if any(_same_file(path, output.final) for output in self._staged):
            raise InputError(f"{path} is named for two outputs: give each its own name.")
        self._check_existing(path, pattern)

    def _check_existing(self, path: Path, pattern: str | None) -> None:
        if os.path.lexists(path) and not self._overwrite:
            raise InputError(f"{path} exists already: choose another name or add --overwrite.")
        # A folder goes with all that is in it, so it must be one of ours.
        if pattern and os.path.lexists(path) and not _holds_only(path, pattern):
            raise InputError(f"{path} is no folder with {pattern} files alone: choose another name for the output.")


def _same_file(first: Path, second: Path) -> bool:
    if first.exists() and second.exists():
        return os.path.samefile(first, second)
    return os.path.normcase(first.resolve()) == os.path.normcase(second.resolve())


def _holds_only(folder: Path, pattern: str) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(fnmatch(entry.name, pattern) and entry.is_file() for entry in folder.iterdir())


def _keep(final: Path, kept: Path) -> None:
    kept.parent.mkdir(exist_ok=True)
    try:
        # With a second link the old file stays in place until the new one takes over in one step.
        os.link(final, kept, follow_symlinks=False)
    except (OSError, NotImplementedError):
        os.replace(final, kept)


def _take_back(done: list[tuple[Path, Path]]) -> None:
    for final, kept in reversed(done):
        if final.is_dir():
            shutil.rmtree(final)
        if os.path.lexists(kept):
            os.replace(kept, final)
        else:
            final.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
