"""Atomic writing of a run's files: written beside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from XViewSynthLib.errors import InputError
from XViewSynthLib.system.durable import to_disk
from XViewSynthLib.system.staging import staging_folder


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary file beside `path`, then rename it. A former file is kept until then.

    Raises:
        InputError: the disk is full or the folder cannot be written to; `path` is unchanged.
    """
    try:
        with staging_folder(path.parent) as staged:
            beside = staged / path.name
            write(beside)
            to_disk(beside)
            os.replace(beside, path)
    except (OSError, SafetensorError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(f"Make room or choose another folder: {path} cannot be written ({reason}).") from problem


def write_whole_text(path: Path, text: str) -> None:
    """Write a file of UTF-8; see `write_whole`."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
