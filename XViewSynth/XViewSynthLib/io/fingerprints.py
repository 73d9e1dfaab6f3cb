"""Checksums over all files of a scan, to detect whether it has changed since it was enhanced."""

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
# More than any text header that points to voxels in other files.
_HEADER_BYTES = 256 * 1024
_POINTING = {".nhdr", ".mhd"}
_DATA_FILE = re.compile(r"^(?:data ?file|elementdatafile)[ \t]*[:=](.+)$", re.IGNORECASE | re.MULTILINE)
_NUMBERED = re.compile(
    r"(?P<before>\S*)%(?P<width>0?\d?)d(?P<after>\S*)\s+(?P<first>\d+)\s+(?P<last>\d+)(?:\s+(?P<step>\d+))?.*"
)
# More files than any scan has slices, and longer than any name. Bounds the time for a damaged header.
_MOST_FILES = 100_000
_LONGEST_NAME = 255


def fingerprint_of_scan(scan: Path, check: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a scan's files, in the order of their names; 64 hexadecimal digits.

    Names and times of the files do not count.

    Args:
        scan: an image file, or the folder of a DICOM series.
        check: called between pieces of a file; an exception of it ends the work.

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
    """SHA-256 of a value that JSON can hold. The order of keys does not count.

    >>> fingerprint_of({"a": 1, "b": None}) == fingerprint_of({"b": None, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def files_of_scan(scan: Path) -> list[Path]:
    """The files of a scan: the DICOM files of a folder, or a header and its data files.

    Data files lie in the folder of the header. Other files that it names are not part of the scan.

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
    except (InputError, OSError):  # such as an invalid file name
        return ()


def _data_files(header: Path) -> Iterator[str]:
    """Names of data files in a header, each byte as a character."""
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
