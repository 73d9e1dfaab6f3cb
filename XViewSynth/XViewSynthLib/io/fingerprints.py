"""Checksums that tell whether a scan is still the one that was enhanced: every byte of every file that makes it up."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from ..system.regular_files import open_regular
from .dicom.series import is_dicom
from .header import detached_files
from .reading import suffix_of

_CHUNK_BYTES = 4 * 1024**2
# More than any header of text that points to voxels elsewhere.
_HEADER_BYTES = 256 * 1024
_POINTING = {".nhdr", ".mhd"}
_DATA_FILE = re.compile(r"^(?:data ?file|elementdatafile)[ \t]*[:=](.+)$", re.IGNORECASE | re.MULTILINE)
_NUMBERED = re.compile(
    r"(?P<before>\S*)%(?P<width>0?\d?)d(?P<after>\S*)\s+(?P<first>\d+)\s+(?P<last>\d+)(?:\s+(?P<step>\d+))?.*"
)
# More than any scan has slices, and longer than any name, so that a damaged header cannot keep us busy.
_MOST_FILES = 100_000
_LONGEST_NAME = 255


def fingerprint_of_scan(scan: Path, check: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a scan's files, in the order of their names; 64 hexadecimal digits.

    What they are called does not count, nor when they were written.

    Args:
        scan: an image file, or the folder of a DICOM series.
        check: called between pieces of a file; what it raises ends the work.

    Raises:
        OSError: a file cannot be read, or is no regular file.
    """
    whole = hashlib.sha256()
    for file in files_of_scan(scan):
        whole.update(fingerprint_of_file(file, check).encode("ascii"))
    return whole.hexdigest()


def fingerprint_of_file(file: Path, check: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of one file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with _open(file) as stream:
        while piece := stream.read(_CHUNK_BYTES):
            check()
            digest.update(piece)
    return digest.hexdigest()


def _open(file: Path) -> BinaryIO:
    try:
        return open_regular(file)
    except InputError as error:
        raise OSError(errno.EINVAL, "not a regular file", str(file)) from error


def fingerprint_of(value: Any) -> str:
    """SHA-256 of a value that JSON can hold, whatever the order of its keys.

    >>> fingerprint_of({"a": 1, "b": None}) == fingerprint_of({"b": None, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def files_of_scan(scan: Path) -> list[Path]:
    """The files that make up a scan: of a folder its DICOM files, of a header those that it keeps its voxels in.

    A header keeps its voxels in its own folder; what it names elsewhere is no part of the scan.

    Raises:
        OSError: a file or the folder cannot be read.
    """
    if os.path.isdir(scan):
        return sorted(file for file in scan.iterdir() if os.path.isfile(file) and is_dicom(file))
    if suffix_of(scan) not in _POINTING:
        return [scan]
    names = (os.fsdecode(name.encode("latin-1")) for name in _data_files(scan))
    return [scan, *(file for name in names for file in _own_file(scan, name))]


def _own_file(header: Path, name: str) -> tuple[Path, ...]:
    """The file of that name in the header's folder, if there is one."""
    try:
        return detached_files([name], header)
    except (InputError, OSError):  # such as a name that no file can have
        return ()


def _data_files(header: Path) -> Iterator[str]:
    """What a header names, each byte as a character."""
    with open(header, "rb") as stream:
        text = stream.read(_HEADER_BYTES).decode("latin-1")
    found = _DATA_FILE.search(text)
    if found is None or found[1].strip().upper() == "LOCAL":
        return
    named = found[1].strip()
    if named.upper().startswith("LIST"):
        yield from (line.strip() for line in text[found.end() :].split("\n") if line.strip())
    elif len(named) <= _LONGEST_NAME and (numbered := _NUMBERED.fullmatch(named)):
        first, last, step = (int(numbered[name] or 1) for name in ("first", "last", "step"))
        for number in range(first, last + 1, max(step, 1))[:_MOST_FILES]:
            yield f"{numbered['before']}{number:{numbered['width']}d}{numbered['after']}"
    else:
        yield named
