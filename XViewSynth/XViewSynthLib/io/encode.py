"""Writers of NRRD, MetaImage and NIfTI files, the counterpart of the header parsers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..geometry.volume import AXES, LPS_TO_RAS, Volume
from .header import AXIS_FIELD, SYNTHETIC_CONTENT, SYNTHETIC_FIELD, THICKNESS_FIELD
from .nifti import SYNTHETIC_DESCRIPTION, TYPES

# Measured on CT: same size as the usual level 6, in three quarters of the time.
_COMPRESSION_LEVEL = 3
_GZIP = 16 + zlib.MAX_WBITS
_CODES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
_NRRD_TYPES = dict(
    zip(_CODES, ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float", "double"))
)
_META_TYPES = {
    code: f"MET_{name}"
    for code, name in zip(
        _CODES, ("CHAR", "UCHAR", "SHORT", "USHORT", "INT", "UINT", "LONG_LONG", "ULONG_LONG", "FLOAT", "DOUBLE")
    )
}
# Room for the number of compressed bytes, which is filled in after they are written.
_DIGITS = 20


def write_nrrd(volume: Volume, path: Path) -> None:
    """Write a .nrrd file, compressed.

    Raises:
        OSError: the file cannot be written.
    """
    columns, origin = _lps(volume)
    lines = [
        "NRRD0005",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_NRRD_TYPES[_code(volume)]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, volume.shape_ijk))}",
        f"space directions: {' '.join(_vector(column) for column in columns.T)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(origin)}",
        *(f"{name}:={value}" for name, value in _further(volume)),
    ]
    with path.open("wb") as stream:
        stream.write("\n".join([*lines, "", ""]).encode("ascii"))
        _write_compressed(volume, stream, _GZIP)


def write_metaimage(volume: Volume, path: Path) -> None:
    """Write a .mha file, compressed, or a .mhd file with a .raw file beside it.

    Raises:
        OSError: a file cannot be written.
    """
    is_local = path.suffix.lower() == ".mha"
    raw = path.with_suffix(".raw")
    columns, origin = _lps(volume)
    spacing = np.array(volume.spacing)
    size_field = b"CompressedDataSize = "
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {is_local}",
        *([size_field.decode() + " " * _DIGITS] if is_local else []),
        f"TransformMatrix = {_words((columns / spacing).T.ravel())}",
        f"Offset = {_words(origin)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_words(spacing)}",
        *(f"{name} = {value}" for name, value in _further(volume)),
        f"DimSize = {' '.join(map(str, volume.shape_ijk))}",
        f"ElementType = {_META_TYPES[_code(volume)]}",
    ]
    header = "\n".join([*lines, "ElementDataFile = "]).encode("ascii")
    with path.open("wb") as stream:
        # Only the name of the raw file may contain characters beyond ASCII.
        stream.write(header + (b"LOCAL" if is_local else _name_in_file(raw)) + b"\n")
        if is_local:
            written = _write_compressed(volume, stream, zlib.MAX_WBITS)
            stream.seek(header.index(size_field) + len(size_field))
            stream.write(str(written).encode("ascii"))
    if not is_local:
        with raw.open("wb") as stream:
            for piece in _planes(volume):
                stream.write(piece)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a .nii file, or a compressed .nii.gz file. Positions are 32-bit floats; the slice thickness is lost.

    Raises:
        OSError: the file cannot be written.
    """
    spacing = np.array(volume.spacing)
    rotation = volume.directions
    handed = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation = rotation * [1, 1, handed]
    datatype = next(code for code, name in TYPES.items() if name == _code(volume))
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<B", header, 39, 16 * (1 + AXES.index(volume.slice_axis)) if volume.slice_axis else 0)
    struct.pack_into("<8h", header, 40, 3, *volume.shape_ijk, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, datatype, 8 * np.dtype(_code(volume)).itemsize)
    struct.pack_into("<8f", header, 76, handed, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    struct.pack_into("<b", header, 123, 2)  # mm
    struct.pack_into("<80s", header, 148, SYNTHETIC_DESCRIPTION.encode() if volume.synthetic else b"")
    struct.pack_into("<hh", header, 252, 1, 1)  # both are scanner coordinates
    struct.pack_into("<6f", header, 256, *_quaternion(rotation), *volume.origin)
    struct.pack_into("<12f", header, 280, *volume.affine[:3].ravel())
    struct.pack_into("<4s", header, 344, b"n+1")
    with path.open("wb") as stream:
        if path.suffix.lower() == ".gz":
            _write_compressed(volume, stream, _GZIP, bytes(header))
            return
        stream.write(header)
        for piece in _planes(volume):
            stream.write(piece)


def _code(volume: Volume) -> str:
    """Kind and size of the voxels as stored. Half-precision floats become single ones, which every format supports."""
    dtype = np.dtype(np.float32) if volume.voxels.dtype == np.float16 else volume.voxels.dtype
    return f"{dtype.kind}{dtype.itemsize}"


def _planes(volume: Volume) -> Iterator[bytes]:
    """The bytes of each slice along K, little endian. This needs no second copy of the volume."""
    for plane in volume.voxels:
        yield plane.astype(np.dtype(_code(volume)).newbyteorder("<")).tobytes()


def _write_compressed(volume: Volume, stream: BinaryIO, wrapping: int, header: bytes = b"") -> int:
    """Write header and voxels compressed, and return the number of compressed bytes."""
    packer = zlib.compressobj(_COMPRESSION_LEVEL, wbits=wrapping)
    written = stream.write(packer.compress(header))
    for piece in _planes(volume):
        written += stream.write(packer.compress(piece))
    return written + stream.write(packer.flush())


def _lps(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Columns (3, 3) and origin (3,) in LPS, mm, without negative zeros."""
    affine = LPS_TO_RAS @ volume.affine + 0.0
    return affine[:3, :3], affine[:3, 3]


def _further(volume: Volume) -> Iterator[tuple[str, str]]:
    if volume.slice_thickness is not None:
        yield THICKNESS_FIELD, repr(volume.slice_thickness)
    if volume.slice_axis is not None:
        yield AXIS_FIELD, volume.slice_axis
    if volume.synthetic:
        yield SYNTHETIC_FIELD, SYNTHETIC_CONTENT


def _words(numbers: np.ndarray) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _vector(numbers: np.ndarray) -> str:
    return f"({','.join(repr(float(number)) for number in numbers)})"


def _name_in_file(path: Path) -> bytes:
    return path.name.encode("utf-8", "surrogateescape")


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(b, c, d) of the unit quaternion with a >= 0 of a rotation (3, 3).

    The eigenvector of the largest eigenvalue, which is exact near half turns too: Bar-Itzhack, New Method for
    Extracting the Quaternion from a Rotation Matrix, 2000.
    """
    r = rotation
    symmetric = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2]],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2]],
            [r[1, 0] - r[0, 1], r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    a, *rest = np.linalg.eigh(symmetric)[1][:, -1]
    return np.array(rest) * (-1 if a < 0 else 1)
