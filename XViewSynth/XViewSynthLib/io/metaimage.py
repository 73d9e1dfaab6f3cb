"""Headers of MetaImage files (.mha, .mhd), as ITK reads and writes them: https://itk.org/Wiki/MetaIO/Documentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from ..geometry.volume import LPS_TO_RAS
from .header import (
    AXIS_FIELD,
    SYNTHETIC_CONTENT,
    SYNTHETIC_FIELD,
    THICKNESS_FIELD,
    Encoding,
    ImageHeader,
    VoxelSource,
    axis_or_none,
    check_field_name,
    checked_affine,
    checked_sizes,
    colours_sentence,
    damaged,
    detached_files,
    number_or_none,
    numbered_files,
    numbers,
    read_lines,
    three_dimensional,
    unit_scale,
    whole_numbers,
)

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_LAST = "ElementDataFile"
# Other names of a field, and fields that concern neither the voxels nor their place.
_ALIASES = {
    **dict.fromkeys(("Rotation", "Orientation"), "TransformMatrix"),
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_NEEDED = ("NDims", "DimSize", "ElementType", _LAST)
_MEANINGFUL = {
    *_NEEDED,
    *_ALIASES,
    *("ObjectType", "TransformMatrix", "Offset", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData"),
    *("CompressedDataSize", "ElementSpacing", "ElementSize", "ElementNumberOfChannels", "HeaderSize", "DistanceUnits"),
    *(SYNTHETIC_FIELD, THICKNESS_FIELD, AXIS_FIELD),
}
_DESCRIPTIVE = {
    *("ObjectSubType", "TransformType", "CenterOfRotation", "AnatomicalOrientation", "Comment", "Name", "ID", "Color"),
    *("ParentID", "AcquisitionDate", "Modality", "SequenceID", "ElementMin", "ElementMax", "ElementOrigin"),
    *("ElementNBits", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
}

Fields = dict[str, str]


def read_metaimage_header(path: Path) -> ImageHeader:
    """Read the header of a .mha or .mhd file.

    Raises:
        InputError: the file is no valid MetaImage of a 3-D image with one grey value a voxel.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        fields, listed = _read_fields(stream, path)
        sizes = _sizes(fields, path)
        source = _source(path, fields, listed, stream.tell(), sizes)
    shape = three_dimensional(sizes, path)
    notes: list[str] = []
    affine = _affine(fields, len(sizes), path, notes)
    return ImageHeader(
        path=path,
        shape=shape,
        stored_type=_stored_type(fields, path),
        affine=affine,
        source=source,
        slice_thickness=number_or_none(fields.get(THICKNESS_FIELD)),
        slice_axis=axis_or_none(fields.get(AXIS_FIELD)),
        synthetic=fields.get(SYNTHETIC_FIELD) == SYNTHETIC_CONTENT,
        notes=tuple(notes),
    )


def _read_fields(stream: BinaryIO, path: Path) -> tuple[Fields, list[str]]:
    """The fields by their names, and the file names that follow ``ElementDataFile = LIST``."""
    fields: Fields = {}
    lines = read_lines(stream, path)
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise damaged(path, f"its header has the line {line!r}")
        plain = _ALIASES.get(name, name)
        if plain in fields and plain in _MEANINGFUL:
            raise damaged(path, f"its header states {name!r} twice")
        if plain not in _MEANINGFUL | _DESCRIPTIVE:
            check_field_name(name, _MEANINGFUL, path)
        fields[plain] = value
        if name == _LAST:
            break
    for name in _NEEDED:
        if name not in fields:
            raise damaged(path, f"its header lacks {name}")
    if fields.get("ObjectType", "Image") != "Image":
        raise InputError(f"{path} is a MetaIO {fields['ObjectType']!r}, not an image: give a CT scan.")
    return fields, list(lines) if fields[_LAST].upper().startswith("LIST") else []


def _sizes(fields: Fields, path: Path) -> list[int]:
    sizes = whole_numbers(fields["DimSize"], "DimSize", path)
    if whole_numbers(fields["NDims"], "NDims", path) != [len(sizes)]:
        raise damaged(path, f"its header states NDims = {fields['NDims']} and {len(sizes)} sizes")
    checked_sizes(sizes, path)
    rescale = [fields.get(f"ElementToIntensityFunction{name}") for name in ("Slope", "Offset")]
    if rescale not in ([None, None], ["1", "0"]):
        raise InputError(f"{path} stores values that are to be rescaled ({rescale}): save it with its HU.")
    if whole_numbers(fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", path) != [1]:
        raise colours_sentence(path)
    return sizes


def _flag(fields: Fields, name: str, usual: bool, path: Path) -> bool:
    value = fields.get(name, str(usual)).lower()
    if value not in ("true", "false", "1", "0", "t", "f"):
        raise damaged(path, f"its header states {name} = {fields[name]!r}")
    return value in ("true", "1", "t")


def _stored_type(fields: Fields, path: Path) -> np.dtype:
    if fields["ElementType"].endswith("_ARRAY"):
        raise colours_sentence(path)
    name = _TYPES.get(fields["ElementType"])
    if name is None:
        raise damaged(path, f"its voxels are of the unknown type {fields['ElementType']!r}")
    return np.dtype(name).newbyteorder(">" if _flag(fields, "BinaryDataByteOrderMSB", False, path) else "<")


def _encoding(fields: Fields, path: Path) -> Encoding:
    # zlib or gzip: the decoder detects which.
    if _flag(fields, "CompressedData", False, path):
        return "zlib"
    return "raw" if _flag(fields, "BinaryData", True, path) else "text"


def _source(path: Path, fields: Fields, listed: Sequence[str], header_bytes: int, sizes: Sequence[int]) -> VoxelSource:
    encoding = _encoding(fields, path)
    (skipped,) = whole_numbers(fields.get("HeaderSize", "0"), "HeaderSize", path)[:1]
    (compressed,) = whole_numbers(fields.get("CompressedDataSize", "0"), "CompressedDataSize", path)[:1]
    if skipped < -1 or (skipped and encoding != "raw"):
        raise InputError(f"{path} skips a part of its data in a way that is not supported: save it anew as MHA.")
    stored = compressed if encoding == "zlib" and compressed else None
    name = fields[_LAST]
    if name.upper() == "LOCAL":
        return VoxelSource((path,), skipped if skipped == -1 else header_bytes + skipped, encoding, stored)
    if path.suffix.lower() == ".mha":
        raise InputError(f"{path} names a data file, which only a .mhd file may: rename it to .mhd.")
    files = detached_files(_data_files(name, listed, sizes, path), path)
    if len(files) > 1 and encoding != "raw":
        raise InputError(f"{path} spreads compressed voxels over several files, which is not supported: use one file.")
    return VoxelSource(files, skipped, encoding, stored)


def _data_files(name: str, listed: Sequence[str], sizes: Sequence[int], path: Path) -> Sequence[str]:
    if name.upper().startswith("LIST"):
        return [line for line in listed if line.strip()]
    pattern, *counts = name.split()
    if "%" in pattern and len(counts) <= 3 and all(count.isdigit() for count in counts):
        first, last, step = [*map(int, counts), *(1, sizes[-1], 1)[len(counts) :]]
        return numbered_files(pattern, first, last, step, path)
    return [name]


def _affine(fields: Fields, dimensions: int, path: Path, notes: list[str]) -> np.ndarray:
    spacing = fields.get("ElementSpacing") or fields.get("ElementSize")
    if spacing is None:
        raise InputError(f"{path} does not state how far apart its voxels are: write ElementSpacing into its header.")
    steps = _numbers(spacing, "ElementSpacing", dimensions, path)
    if min(steps) < 0:
        raise damaged(path, f"its header states a spacing of {spacing!r}")
    matrix = fields.get("TransformMatrix") or " ".join(map(str, np.eye(dimensions).ravel()))
    offset = fields.get("Offset") or " ".join(["0"] * dimensions)
    for name in ("TransformMatrix", "Offset"):
        if name not in fields:
            notes.append(f"The file does not state its {name}; the usual one was assumed.")
    # The rows are the directions of the axes in LPS.
    directions = np.reshape(_numbers(matrix, "TransformMatrix", dimensions**2, path), (dimensions, dimensions))
    directions = directions[:3, :3].T
    lengths = np.linalg.norm(directions, axis=0)
    if not np.allclose(lengths, 1, atol=0.01):
        raise damaged(path, f"its TransformMatrix has axes of length {', '.join(f'{n:g}' for n in lengths)}, not 1")
    scale = unit_scale(fields.get("DistanceUnits", ""), path)
    origin = _numbers(offset, "Offset", dimensions, path)[:3]
    columns = LPS_TO_RAS[:3, :3] @ (directions / lengths * steps[:3]) * scale
    return checked_affine(columns, LPS_TO_RAS[:3, :3] @ origin * scale, path)


def _numbers(text: str, what: str, count: int, path: Path) -> list[float]:
    found = numbers(re.split(r"\s+", text.strip()), what, path)
    if len(found) != count:
        raise damaged(path, f"its {what} has {len(found)} numbers in place of {count}")
    return found
