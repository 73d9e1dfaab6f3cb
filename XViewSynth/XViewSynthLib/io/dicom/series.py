"""Opens a CT series: selects its files, sorts them, and computes their place in the patient."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry.volume import Volume, blank_voxels
from . import choice, slices
from .choice import choose, is_directory
from .files import is_dicom, read_header
from .header import Header, printable
from .pixels import read_voxels
from .slices import slice_of
from .stack import Stack, stack_slices

__all__ = ["is_dicom", "open_series", "read_series"]

_KEYWORDS = [*dict.fromkeys((*choice.KEYWORDS, *slices.KEYWORDS))]


def open_series(path: Path) -> tuple[Volume, Callable[[], np.ndarray]]:
    """The one CT series in a folder, or that of one of its files; see `read_series`.

    Returns:
        The scan with all voxels 0 (int16), and a function that reads its voxels (K, J, I), rescaled to HU, in the
        smallest scalar type that holds them (see `pixels.read_voxels`).

    Raises:
        InputError: as `read_series`.
        OSError: a file cannot be read.
    """
    volume, stack = read_series(path)

    def load() -> np.ndarray:
        with without_warnings():
            return read_voxels(stack, path)

    return volume, load


def read_series(path: Path, files: Sequence[Path] | None = None) -> tuple[Volume, Stack]:
    """The grid of the one CT series in a folder, and its slices, from the headers alone.

    Localizers and objects that are no CT image are passed over. If the folder holds a DICOMDIR and no image, the
    folders below it are searched as well.

    Args:
        path: the folder, or one file of the series.
        files: the files to choose among, in any folders; `path` is one of them. By default those in the folder.

    Raises:
        InputError: no such series, several, or slices that do not make up one evenly spaced, upright stack.
        OSError: a file cannot be read.
    """
    folder, given = (path, None) if path.is_dir() else (path.parent, path)
    if given is not None and not is_dicom(given):
        raise InputError(f"{printable(path)} is no DICOM file: give a file of the series, or its folder.")
    with without_warnings():
        choice = choose(_headers(folder) if files is None else _headers_of(files), folder, given)
        stack = stack_slices(map(slice_of, choice.images), path)
    blank = blank_voxels((len(stack.slices), *stack.slices[0].pixels.shape), np.int16)
    volume = Volume(
        blank,
        stack.affine,
        stack.thickness,
        slice_axis="K",
        synthetic=choice.synthetic,
        notes=(*choice.notes, *stack.notes),
    )
    return volume, stack


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress pydicom's warnings about files that violate the standard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _headers(folder: Path) -> list[Header]:
    found = _headers_of(sorted(path for path in folder.iterdir() if path.is_file()))
    if not any(header.texts("Rows") for header in found) and _has_directory(folder, found):
        below = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
        found = _headers_of(sorted(path for path in below if path.is_file()))
    return found


def _has_directory(folder: Path, found: Sequence[Header]) -> bool:
    return any(map(is_directory, found)) or any(path.name.upper() == "DICOMDIR" for path in folder.iterdir())


def _headers_of(files: Sequence[Path]) -> list[Header]:
    headers = []
    for file in files:
        try:
            if is_dicom(file):
                headers.append(read_header(file, _KEYWORDS))
        except OSError as error:
            raise InputError(
                f"{printable(file)} cannot be read ({error.strerror or error}): check the file."
            ) from error
    return headers
