"""Atomic outputs: files and folders that appear together, or not at all.

Every output is written into a staging folder beside its final place, so on the same file system. The last step renames
it. A stopped command leaves nothing, and other programs never see an incomplete file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import InputError
from .staging import (
    NEW,
    OLD,
    committing,
    delete,
    make_staging_folder,
    reason_of,
    remove_left_folders,
    remove_staging_folder,
)


@dataclass(frozen=True)
class _Staged:
    """An output; `folder` is its staging folder. One with `patterns` is a folder of files that are named so."""

    final: Path
    folder: Path
    patterns: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.folder / NEW / self.final.name


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
            staged = _Staged(path, make_staging_folder(path.parent), patterns)
            self._staged.append(staged)
            staged.path.parent.mkdir()
            if patterns:
                staged.path.mkdir()
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"Cannot write {path}: {reason_of(error)}. Choose another place for the output."
            ) from error
        return staged.path

    def commit(self) -> None:
        """Give every output its final name. On a failure, undo the renames.

        Raises:
            InputError: a file of that name has appeared meanwhile, or the file system refuses.
        """
        with committing:
            try:
                self._rename_all()
            finally:
                self.discard()

    def discard(self) -> None:
        """Remove everything that has not been committed."""
        for output in self._staged:
            remove_staging_folder(output.folder)

    def _in_final_names(self, message: str) -> str:
        """The message with final paths in place of staged ones."""
        for output in self._staged:
            message = message.replace(str(output.path), str(output.final))
            message = message.replace(str(output.path.parent), str(output.final.parent))
        return message

    def _rename_all(self) -> None:
        moves = [
            _Move(written, staged.final.parent / written.name, staged.folder / OLD / written.name, staged.patterns)
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
                    f"Cannot write {move.final}: {reason_of(error)}. Choose another place for the output."
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
            delete(move.final, move.final.is_dir())
