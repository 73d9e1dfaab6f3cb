"""Files of a run that are whole or absent, whenever the process is killed: written beside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from XViewSynthLib.errors import InputError
from XViewSynthLib.system.outputs import staging_folder


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and give it that name; a former file survives until the new one is whole.

    Raises:
        InputError: the disk is full or the folder cannot be written to; `path` is as it was.
    """
    try:
        with staging_folder(path.parent) as staged:
            beside = staged / path.name
            write(beside)
            with open(beside, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(beside, path)
    except (OSError, SafetensorError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(f"Make room or choose another folder: {path} cannot be written ({reason}).") from problem


def write_whole_text(path: Path, text: str) -> None:
    """Write a file of UTF-8; see `write_whole`."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
