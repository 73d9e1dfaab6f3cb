"""Checksums over all files of a scan, to detect whether it has changed since it was enhanced."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from ..system.regular_files import open_regular
from .dicom.series import is_dicom
from .reading import READABLE, read_image_header, suffix_of

_CHUNK_BYTES = 4 * 1024**2


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

    A header that is not valid is a scan of one file.

    Raises:
        OSError: a file or the folder cannot be read.
    """
    if os.path.isdir(scan):
        return sorted(file for file in scan.iterdir() if os.path.isfile(file) and is_dicom(file))
    if suffix_of(scan) not in READABLE:
        return [scan]
    try:
        voxels = read_image_header(scan).source.files
    except InputError:
        return [scan]
    return [scan, *(file for file in voxels if file != scan)]
