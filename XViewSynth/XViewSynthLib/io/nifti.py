"""Headers of NIfTI files (.nii, .nii.gz), versions 1 and 2, as defined by nifti1.h and nifti2.h."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from ..geometry.volume import AXES, LPS_TO_RAS, SHEAR_TOLERANCE, Axis, largest_cosine
from .header import (
    SYNTHETIC_CONTENT,
    SYNTHETIC_FIELD,
    Encoding,
    ImageHeader,
    VoxelSource,
    checked_affine,
    checked_sizes,
    colours_sentence,
    damaged,
    three_dimensional,
)

GZIP_MAGIC = b"\x1f\x8b"
#: `descrip` of a file with synthetic slices.
SYNTHETIC_DESCRIPTION = f"{SYNTHETIC_FIELD}: {SYNTHETIC_CONTENT}"
#: numpy's type of each `datatype`; None for colours, complex numbers and the like.
TYPES: dict[int, str | None] = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
    **dict.fromkeys((32, 128, 1792, 2048, 2304)),
}
_LABELS = 1002
_MILLIMETRES_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
# Largest relative difference between spacings of two transforms that agree, such as 0.70 and 0.703125 mm.
_SAME_SPACING = 0.01
# Largest distance of a corner under two transforms that agree, as a share of the largest voxel spacing.
_SAME_PLACE = 0.5
# Largest excess of a quaternion's length over 1 by rounding to 32 bits.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class _Layout:
    """Offset in bytes and struct format of each field, length of the header, and smallest offset of voxels."""

    size: int
    first_voxel: int
    magics: tuple[bytes, ...]
    fields: dict[str, tuple[int, str]]


_VERSION_1 = _Layout(
    348,
    352,
    (b"n+1\0",),
    {
        "dim_info": (39, "B"),
        "dim": (40, "8h"),
        "intent_code": (68, "h"),
        "datatype": (70, "h"),
        "bitpix": (72, "h"),
        "pixdim": (76, "8f"),
        "vox_offset": (108, "f"),
        "scl": (112, "2f"),
        "xyzt_units": (123, "b"),
        "descrip": (148, "80s"),
        "codes": (252, "2h"),
        "qform": (256, "6f"),
        "sform": (280, "12f"),
        "magic": (344, "4s"),
    },
)
_VERSION_2 = _Layout(
    540,
    544,
    (b"n+2\0\r\n\x1a\n",),
    {
        "dim_info": (524, "B"),
        "dim": (16, "8q"),
        "intent_code": (504, "i"),
        "datatype": (12, "h"),
        "bitpix": (14, "h"),
        "pixdim": (104, "8d"),
        "vox_offset": (168, "q"),
        "scl": (176, "2d"),
        "xyzt_units": (500, "i"),
        "descrip": (240, "80s"),
        "codes": (344, "2i"),
        "qform": (352, "6d"),
        "sform": (400, "12d"),
        "magic": (4, "8s"),
    },
)


def read_nifti_header(path: Path) -> ImageHeader:
    """Read the header of a .nii or .nii.gz file. Compression is detected from the content, not from the name.

    Raises:
        InputError: the file is no valid NIfTI file of a 3-D image with one grey value a voxel.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        encoding: Encoding = "gzip" if stream.read(2) == GZIP_MAGIC else "raw"
        stream.seek(0)
        values = _unpacked(_first_bytes(stream, encoding, path), path)
    shape = three_dimensional(_sizes(values, path), path)
    slope, intercept = _rescale(values, path)
    affine, notes = _affine(values, path)
    return ImageHeader(
        path=path,
        shape=shape,
        stored_type=_stored_type(values, path),
        affine=affine,
        source=VoxelSource((path,), _offset(values, path), encoding, with_header=encoding != "raw"),
        slope=slope,
        intercept=intercept,
        slice_axis=_slice_axis(values),
        synthetic=values["descrip"][0].rstrip(b"\0") == SYNTHETIC_DESCRIPTION.encode(),
        is_labelmap=values["intent_code"][0] == _LABELS,
        notes=notes,
    )


def _first_bytes(stream: BinaryIO, encoding: Encoding, path: Path) -> bytes:
    try:
        unpacked = gzip.GzipFile(fileobj=stream) if encoding == "gzip" else stream
        return unpacked.read(_VERSION_2.size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, "its compressed data is broken") from error


def _unpacked(raw: bytes, path: Path) -> dict[str, Any]:
    for layout in (_VERSION_1, _VERSION_2):
        for order in "<>":
            if len(raw) >= layout.size and struct.unpack_from(f"{order}i", raw)[0] == layout.size:
                values = {
                    name: struct.unpack_from(order + form, raw, offset)
                    for name, (offset, form) in layout.fields.items()
                }
                if values["magic"][0] in (b"ni1\0", b"ni2\0\r\n\x1a\n"):
                    raise InputError(f"{path} keeps its voxels in another file (.img): convert both to one .nii file.")
                if values["magic"][0] in layout.magics:
                    return values | {"order": order, "first_voxel": layout.first_voxel}
    raise damaged(path, "it does not begin as a NIfTI file does")


def _sizes(values: dict[str, Any], path: Path) -> list[int]:
    count, *sizes = values["dim"]
    if not 1 <= count <= 7:
        raise damaged(path, f"its header states {count} dimensions")
    checked_sizes(sizes[:count], path)
    if values["datatype"][0] in TYPES and TYPES[values["datatype"][0]] is None:
        raise colours_sentence(path)
    # The fifth dimension holds the values of one voxel.
    if count >= 5 and sizes[4] > 1:
        raise colours_sentence(path)
    return sizes[:count]


def _slice_axis(values: dict[str, Any]) -> Axis | None:
    """The axis of the slices, in two bits of `dim_info` that count from 1."""
    number = values["dim_info"][0] >> 4 & 3
    return AXES[number - 1] if number else None


def _stored_type(values: dict[str, Any], path: Path) -> np.dtype:
    code, bits = values["datatype"][0], values["bitpix"][0]
    name = TYPES.get(code)
    if name is None:
        raise damaged(path, f"its voxels are of the unknown type {code}")
    if bits != 8 * np.dtype(name).itemsize:
        raise damaged(path, f"its header states {bits} bits a voxel for a type of {8 * np.dtype(name).itemsize}")
    return np.dtype(name).newbyteorder(values["order"])


def _offset(values: dict[str, Any], path: Path) -> int:
    offset = values["vox_offset"][0]
    if not math.isfinite(offset) or offset != int(offset) or not values["first_voxel"] <= offset < 2**40:
        raise damaged(path, f"its header states that voxels begin at byte {offset:g}")
    return int(offset)


def _rescale(values: dict[str, Any], path: Path) -> tuple[float, float]:
    slope, intercept = values["scl"]
    # A slope of 0 or NaN means that there is nothing to rescale.
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise damaged(path, f"its header states a rescale slope of {slope:g} and an intercept of {intercept:g}")
    return slope, intercept


def _affine(values: dict[str, Any], path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(4, 4) IJK -> RAS in mm, and notes: the sform, else the qform, else the spacing alone."""
    unit = values["xyzt_units"][0] & 7
    if unit not in _MILLIMETRES_PER_UNIT:
        raise damaged(path, f"its header states lengths in the unknown unit {unit}")
    scale = _MILLIMETRES_PER_UNIT[unit]
    qform_code, sform_code = values["codes"]
    spacing = scale * np.array(values["pixdim"][1:4])
    if not np.isfinite(spacing).all():
        raise damaged(path, "its spacing is not finite")
    if sform_code > 0:
        affine = _sform(values, scale, path)
        _check_spacings(affine, spacing, qform_code > 0, path)
        if qform_code <= 0:
            return affine, ()
        return affine, _compared(affine, _qform(values, spacing, scale, path), values["dim"][1:4])
    if (spacing <= 0).any():
        raise InputError(f"{path} does not state how far apart its voxels are: write pixdim into its header.")
    if qform_code > 0:
        return _qform(values, spacing, scale, path), ()
    affine = checked_affine(LPS_TO_RAS[:3, :3] * spacing, (0, 0, 0), path)
    return affine, ("The file does not state which way and where the patient lies; LPS from 0 was assumed.",)


def _sform(values: dict[str, Any], scale: float, path: Path) -> np.ndarray:
    matrix = scale * np.reshape(values["sform"], (3, 4))
    return checked_affine(matrix[:, :3], matrix[:, 3], path)


def _check_spacings(affine: np.ndarray, spacing: np.ndarray, has_qform: bool, path: Path) -> None:
    # Without a qform, programs leave the spacings at 0 or 1. No qform matches a sheared sform.
    if (not has_qform and np.isin(spacing, (0, 1)).all()) or largest_cosine(affine) > SHEAR_TOLERANCE:
        return
    stated = np.linalg.norm(affine[:3, :3], axis=0)
    for here, there in zip(stated, spacing):
        if abs(here - there) > _SAME_SPACING * here:
            raise InputError(
                f"{path} states two distances of voxels, {_in_mm(stated)} mm by its sform and {_in_mm(spacing)} mm by "
                "its pixdim: correct the wrong one."
            )


def _compared(sform: np.ndarray, qform: np.ndarray, sizes: Sequence[int]) -> tuple[str, ...]:
    """A note if the two transforms of a file put a corner of the image at two places."""
    corners = np.array(np.meshgrid(*((0, size - 1) for size in sizes))).reshape(3, -1)
    apart = np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max()
    if apart <= _SAME_PLACE * np.linalg.norm(sform[:3, :3], axis=0).max():
        return ()
    return (
        f"The file states two places, up to {apart:.3g} mm apart, by its sform and its qform; the sform was taken.",
    )


def _in_mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def _qform(values: dict[str, Any], spacing: np.ndarray, scale: float, path: Path) -> np.ndarray:
    b, c, d, *origin = values["qform"]
    if not np.isfinite(values["qform"]).all() or b * b + c * c + d * d > 1 + _ROUNDING:
        raise damaged(path, "its qform is no rotation")
    a = math.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    a, b, c, d = np.array([a, b, c, d]) / math.sqrt(a * a + b * b + c * c + d * d)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed = np.array([1, 1, -1 if values["pixdim"][0] < 0 else 1])
    return checked_affine(rotation * (spacing * handed), scale * np.array(origin), path)
