"""Opens regular files only: reading a pipe or a device may never end."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        InputError: it is a folder, a pipe, a socket or a device.
        OSError: it is missing, or cannot be opened.
    """
    # Before it is opened, since opening a device can move a tape; and afterwards, since the file may have changed.
    _check_regular(path, os.stat(path))
    options = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
    descriptor = os.open(path, os.O_RDONLY | sum(options))
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "device")
        raise InputError(f"{path} is a {kind} and not a file: name a file.")
