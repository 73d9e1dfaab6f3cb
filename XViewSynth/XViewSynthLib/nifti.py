"""What SimpleITK does not tell about a NIfTI file: a sheared transform, a label intent, a truncated end.

SimpleITK falls back from a sheared sform to the qform, and fills up the voxels of a truncated file, both silently.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import InputError

INTENT_LABEL = 1002

# Offset in bytes and struct format of each field, from nifti1.h.
_FIELDS = {
    "dim": (40, "8h"),
    "intent_code": (68, "h"),
    "bitpix": (72, "h"),
    "vox_offset": (108, "f"),
    "xyzt_units": (123, "b"),
    "sform_code": (254, "h"),
    "srow": (280, "12f"),
}
_HEADER_SIZE = 348
_HEADER_SIZE_OF_VERSION_2 = 540
_MILLIMETRES_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class NiftiHeader:
    """The part of the header that matters here.

    Attributes:
        affine: (4, 4) IJK -> RAS in mm from the sform, or None where the file has none.
        intent_code: 1002 for a labelmap.
        size: bytes that header and voxels need together, uncompressed.
    """

    affine: np.ndarray | None
    intent_code: int
    size: int


def read_nifti_header(path: Path) -> NiftiHeader:
    """Header of a .nii or .nii.gz file.

    Raises:
        InputError: the file is no NIfTI file, of version 2 (which SimpleITK does not read), or damaged.
        OSError: the file cannot be read.
    """
    try:
        with _open(path) as file:
            raw = file.read(_HEADER_SIZE)
        order = _byte_order(raw, path)
        values = {name: struct.unpack_from(order + form, raw, offset) for name, (offset, form) in _FIELDS.items()}
    except (struct.error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(_damaged_sentence(path)) from error
    dimensions = values["dim"]
    voxels = int(np.prod([max(n, 1) for n in dimensions[1 : 1 + max(dimensions[0], 0)]], dtype=object))
    return NiftiHeader(
        affine=_sform(values),
        intent_code=values["intent_code"][0],
        size=int(values["vox_offset"][0]) + voxels * values["bitpix"][0] // 8,
    )


def check_complete(path: Path, size: int) -> None:
    """Refuse a file that ends before its last voxel.

    Args:
        path: a .nii or .nii.gz file.
        size: bytes that its header promises, uncompressed.

    Raises:
        InputError: it holds less, or its compressed stream is damaged.
        OSError: the file cannot be read.
    """
    present = 0
    try:
        with _open(path) as file:
            if isinstance(file, gzip.GzipFile):
                while chunk := file.read(_CHUNK):
                    present += len(chunk)
            else:
                present = path.stat().st_size
    except (EOFError, zlib.error, gzip.BadGzipFile):
        present = 0
    if present < size:
        raise InputError(f"{path} is truncated or damaged: export or copy it again.")


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path, "rb")
    file.seek(0)
    return file


def _byte_order(raw: bytes, path: Path) -> str:
    sizes = {order: struct.unpack_from(f"{order}i", raw)[0] for order in "<>"}
    for order, size in sizes.items():
        if size == _HEADER_SIZE:
            return order
    if _HEADER_SIZE_OF_VERSION_2 in sizes.values():
        raise InputError(f"{path} is of NIfTI version 2, which is not supported: convert it to version 1 or to NRRD.")
    raise InputError(_damaged_sentence(path))


def _damaged_sentence(path: Path) -> str:
    return f"{path} is damaged or not a NIfTI file: export or copy it again."


def _sform(values: dict[str, tuple]) -> np.ndarray | None:
    if values["sform_code"][0] <= 0:
        return None
    affine = np.eye(4)
    affine[:3] = np.reshape(values["srow"], (3, 4))
    affine[:3] *= _MILLIMETRES_PER_UNIT.get(values["xyzt_units"][0] & 7, 1.0)
    return affine
