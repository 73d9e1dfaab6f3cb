"""The folders and files below a folder, with links among them."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class File:
    """A regular file, or a link to one.

    Attributes:
        path: as it is reached from the folder that is searched.
        real: the same without links.
        is_link: whether the file itself is a link.
    """

    path: Path
    real: str
    is_link: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder and its files.

    Attributes:
        path, real: as for a `File`.
        files: in the order of their names.
        outside: links to files out of the tree, which are not followed.
    """

    path: Path
    real: str
    files: list[File]
    outside: list[Path] = field(default_factory=list)


@dataclass
class Tree:
    """A folder and all below it, except hidden files and folders (names that begin with a dot).

    A link (symbolic, or a junction of Windows) that leads out of the tree is not followed unless that is requested.
    A link to a place in the tree is followed last, so that visited folders are recognised. No folder is visited twice.
    Pipes, sockets, devices and broken links are skipped.

    Attributes:
        root: the folder; it may be a link itself.
        follow_links: whether links out of the tree are followed.
        leave_out: a folder that is not visited, nor are links into it; None for none. It may hold the whole tree.
        closed: after the search, why folders could not be read.
        not_followed: after the search, links to folders out of the tree.
    """

    root: Path
    follow_links: bool = False
    leave_out: Path | None = None
    closed: list[OSError] = field(default_factory=list)
    not_followed: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._top = os.path.realpath(self.root)
        self._left_out = None if self.leave_out is None else os.path.realpath(self.leave_out)
        self._visited: set[str] = set()
        self._links: deque[File] = deque()
        self._linked: list[Folder] = []

    def folders(self, check: Callable[[], None] = lambda: None) -> Iterator[Folder]:
        """Each folder, in the order of names, parents before children. Targets of links come last.

        Files that are links come in a separate `Folder`, after all regular files.

        Args:
            check: called for each folder; an exception of it ends the search.
        """
        yield from self._below(File(self.root, self._top), check)
        while self._links:
            yield from self._below(self._links.popleft(), check)
        yield from self._linked

    def holds(self, real: str) -> bool:
        """Whether a path without links lies in the tree."""
        return _is_below(real, self._top)

    def _below(self, start: File, check: Callable[[], None]) -> Iterator[Folder]:
        # No recursion: a tree may be deeper than Python allows.
        waiting = [start]
        while waiting:
            check()
            place = waiting.pop()
            if place.real in self._visited or self._is_left_out(place.real):
                continue
            self._visited.add(place.real)
            try:
                with os.scandir(place.path) as entries:
                    found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            except OSError as error:
                # A folder that was removed meanwhile is no failure.
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self.closed.append(error)
                continue
            folder = Folder(place.path, place.real, [])
            waiting += reversed(list(self._take(found, folder)))
            yield folder

    def _take(self, entries: Iterable[os.DirEntry[str]], folder: Folder) -> Iterator[File]:
        """Add the files of a folder to it, keep links for later, and yield the folders in it."""
        linked = Folder(folder.path, folder.real, [])
        for entry in entries:
            kind, real = _look(entry, folder.real)
            if kind == "file":
                folder.files.append(File(folder.path / entry.name, real))
            elif kind == "folder":
                yield File(folder.path / entry.name, real)
            elif kind:
                self._take_link(File(folder.path / entry.name, real, True), kind == "link to file", folder, linked)
        if linked.files:
            self._linked.append(linked)

    def _take_link(self, link: File, is_file: bool, folder: Folder, linked: Folder) -> None:
        if self._is_left_out(link.real):
            return
        followed = self.follow_links or self.holds(link.real)
        if is_file:
            linked.files.append(link) if followed else folder.outside.append(link.path)
        else:
            self._links.append(link) if followed else self.not_followed.append(link.path)

    def _is_left_out(self, real: str) -> bool:
        if self._left_out is None or not _is_below(real, self._left_out):
            return False
        return not (_is_below(self._top, self._left_out) and self.holds(real))


def _look(entry: os.DirEntry[str], parent: str) -> tuple[str, str]:
    """Kind of an entry ("" if it is skipped), and its path without links."""
    try:
        if _is_link(entry):
            real = os.path.realpath(entry.path)
            mode = os.stat(real).st_mode
            kind = "link to folder" if stat.S_ISDIR(mode) else "link to file" if stat.S_ISREG(mode) else ""
            return kind, real
        real = os.path.join(parent, entry.name)
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "", real
    except OSError:  # broken, a cycle of links, or gone since its folder was read
        return "", ""


def _is_link(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return True
    # Python has is_junction from 3.12 on; elsewhere than on Windows there is no such tag.
    if sys.platform != "win32":
        return False
    return entry.stat(follow_symlinks=False).st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT


def _is_below(real: str, folder: str) -> bool:
    real, folder = os.path.normcase(real), os.path.normcase(folder)
    return real == folder or real.startswith(folder.rstrip(os.sep) + os.sep)
