"""Files and names that survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def to_disk(file: Path) -> None:
    """Write the content of a file to disk, so that a power cut does not leave a name without it."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def names_to_disk(folder: Path) -> None:
    """Write the names in a folder to disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
