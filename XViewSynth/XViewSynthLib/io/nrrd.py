"""Headers of NRRD files (.nrrd, .nhdr), as defined by https://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from .header import (
    AXIS_FIELD,
    SYNTHETIC_CONTENT,
    SYNTHETIC_FIELD,
    THICKNESS_FIELD,
    Encoding,
    ImageHeader,
    VoxelSource,
    axis_or_none,
    checked_affine,
    checked_sizes,
    colours_sentence,
    damaged,
    detached_files,
    number_or_none,
    numbered_files,
    numbers,
    printable,
    read_lines,
    three_dimensional,
    unit_scale,
    whole_numbers,
)

# Fields by their names without blanks.
_TYPES = {
    **dict.fromkeys(("signedchar", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsignedchar", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "shortint", "signedshort", "signedshortint", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsignedshort", "unsignedshortint", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signedint", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsignedint", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "longlongint", "signedlonglong", "signedlonglongint", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsignedlonglong", "unsignedlonglongint", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("text", "txt", "ascii"), "text"),
    "hex": "hex",
}
_ENDIANS = {"little": "<", "big": ">"}
# Signs of the axes of each space, to convert it to RAS.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_OTHER_SPACES = {"scanner-xyz", "3d-right-handed", "3d-left-handed"}
# An axis of another kind lists the values of one voxel.
_SPATIAL_KINDS = {"domain", "space", "none", "???", "time"}
_KIND = re.compile(r"[a-z0-9?-]{3,32}")
_FIELDS = {
    *("type", "dimension", "sizes", "encoding", "endian", "blocksize", "content", "number", "min", "max", "oldmin"),
    *("oldmax", "datafile", "lineskip", "byteskip", "sampleunits", "spacings", "thicknesses", "axismins", "axismaxs"),
    *("centers", "labels", "units", "kinds", "space", "spacedimension", "spaceunits", "spaceorigin"),
    *("spacedirections", "measurementframe"),
}
_SEGMENT = "Segment0_"

_UNKNOWN_SPACE = "The file does not state which way the patient lies; LPS was assumed."
_NO_ORIGIN = "The file does not state its origin; the first voxel was put at 0."

Fields = dict[str, str]


def read_nrrd_header(path: Path) -> ImageHeader:
    """Read the header of a .nrrd or .nhdr file.

    Raises:
        InputError: the file is no valid NRRD file of a 3-D image with one grey value a voxel.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        fields, further, listed = _read_fields(stream, path)
        source = _source(path, fields, listed, stream.tell())
    sizes = _sizes(fields, path)
    shape = three_dimensional(sizes, path)
    notes: list[str] = []
    affine = _affine(fields, len(sizes), path, notes)
    return ImageHeader(
        path=path,
        shape=shape,
        stored_type=_stored_type(fields, source.encoding, path),
        affine=affine,
        source=source,
        slice_thickness=number_or_none(further.get(THICKNESS_FIELD)),
        slice_axis=axis_or_none(further.get(AXIS_FIELD)),
        synthetic=further.get(SYNTHETIC_FIELD) == SYNTHETIC_CONTENT,
        is_labelmap=any(name.startswith(_SEGMENT) for name in further),
        notes=tuple(notes),
    )


def _read_fields(stream: BinaryIO, path: Path) -> tuple[Fields, Fields, list[str]]:
    """The fields, their names without blanks; the key/value pairs; the file names that follow ``data file: LIST``."""
    lines = read_lines(stream, path)
    if not re.fullmatch(r"NRRD000[1-5]", next(lines, "")):
        raise damaged(path, "it does not begin as an NRRD file does")
    fields: Fields = {}
    further: Fields = {}
    listed: list[str] = []
    for line in lines:
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise damaged(path, f"its header has the line {line!r}")
        if value.startswith("="):
            further[name] = value[1:]
            continue
        _add_field(fields, name, value.strip(), path)
        if fields.get("datafile", "").upper().startswith("LIST"):
            listed = list(lines)
    for name in ("type", "dimension", "sizes", "encoding"):
        if name not in fields:
            raise damaged(path, f"its header lacks {name!r}")
    return fields, further, listed


def _add_field(fields: Fields, name: str, value: str, path: Path) -> None:
    plain = name.replace(" ", "").lower()
    plain = "centers" if plain == "centerings" else plain
    if plain not in _FIELDS:
        raise damaged(path, f"its header has an unknown field {name!r}")
    if plain in fields:
        raise damaged(path, f"its header states {name!r} twice")
    fields[plain] = value


def _sizes(fields: Fields, path: Path) -> list[int]:
    """Voxels along each spatial axis, the fastest first."""
    sizes = whole_numbers(fields["sizes"], "sizes", path)
    if whole_numbers(fields["dimension"], "dimension", path) != [len(sizes)]:
        raise damaged(path, f"its header states {fields['dimension']} dimensions and {len(sizes)} sizes")
    checked_sizes(sizes, path)
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    if len(kinds) != len(sizes) or not all(_KIND.fullmatch(kind) for kind in kinds):
        raise damaged(path, f"its header has the kinds {fields['kinds']!r}")
    if any(kind not in _SPATIAL_KINDS for kind in kinds):
        raise colours_sentence(path)
    return sizes


def _stored_type(fields: Fields, encoding: Encoding, path: Path) -> np.dtype:
    name = _TYPES.get(fields["type"].replace(" ", "").lower())
    if name is None:
        raise damaged(path, f"its voxels are of the unknown type {fields['type']!r}")
    if any(field in fields for field in ("oldmin", "oldmax")):
        raise InputError(f"{path} stores quantized values (old min, old max): save it with its HU.")
    if "endian" in fields and fields["endian"] not in _ENDIANS:
        raise damaged(path, f"its byte order is {fields['endian']!r}")
    if "endian" not in fields and name[1] != "1" and encoding != "text":
        raise damaged(path, "its header lacks 'endian'")
    return np.dtype(f"{_ENDIANS.get(fields.get('endian', ''), '=')}{name}")


def _source(path: Path, fields: Fields, listed: Sequence[str], header_bytes: int) -> VoxelSource:
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise damaged(path, f"its encoding is {fields['encoding']!r}")
    skips = [whole_numbers(fields.get(name, "0"), name, path) for name in ("lineskip", "byteskip")]
    (lines,), (skipped,) = skips if all(len(skip) == 1 for skip in skips) else ((-1,), (-1,))
    if lines != 0 or skipped < -1 or (skipped and encoding != "raw"):
        raise InputError(f"{path} skips a part of its data in a way that is not supported: save it anew as NRRD.")
    if "datafile" not in fields:
        return VoxelSource((path,), skipped if skipped == -1 else header_bytes + skipped, encoding)
    if path.suffix.lower() == ".nrrd":
        raise InputError(f"{path} names a data file, which only a .nhdr file may: rename it to .nhdr.")
    files = detached_files(_data_files(fields["datafile"], listed, path), path)
    if len(files) > 1 and encoding != "raw":
        raise InputError(f"{path} spreads compressed voxels over several files, which is not supported: use one file.")
    return VoxelSource(files, skipped, encoding)


def _data_files(value: str, listed: Sequence[str], path: Path) -> Sequence[str]:
    if value.upper().startswith("LIST"):
        return [name for name in listed if name.strip()]
    pattern, *counts = value.split()
    if "%" in pattern and 3 <= len(counts) <= 4 and all(count.isdigit() for count in counts):
        first, last, step = map(int, counts[:3])
        return numbered_files(pattern, first, last, step, path)
    return [value]


def _affine(fields: Fields, dimensions: int, path: Path, notes: list[str]) -> np.ndarray:
    space = fields.get("space", "").lower().removesuffix("-time")
    if space and space not in _SPACES and space not in _OTHER_SPACES:
        raise damaged(path, f"its space is {fields['space']!r}")
    signs = _SPACES.get(space)
    if signs is None:
        notes.append(_UNKNOWN_SPACE)
        signs = (-1, -1, 1)
    if "spacedirections" in fields:
        columns, origin = _directed(fields, dimensions, path, notes)
    else:
        columns, origin = _spaced(fields, dimensions, path, notes)
    return checked_affine(np.diag(signs) @ columns, np.multiply(signs, origin), path)


def _directed(fields: Fields, dimensions: int, path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Columns (3, 3) and origin (3,) from ``space directions``, mm."""
    vectors = _vectors(fields["spacedirections"], "space directions", path)
    if len(vectors) != dimensions:
        raise damaged(path, f"it has {dimensions} dimensions and {len(vectors)} space directions")
    directions = [vector[:3] for vector in vectors[:3] if vector is not None]
    if len(directions) < len(vectors[:3]):
        raise colours_sentence(path)
    if "spaceorigin" not in fields:
        notes.append(_NO_ORIGIN)
    origin = _vectors(fields.get("spaceorigin", "(0,0,0)"), "space origin", path)
    if len(origin) != 1 or origin[0] is None:
        raise damaged(path, f"its space origin is {fields['spaceorigin']!r}")
    # An image of four dimensions may have a fourth coordinate, which its one volume does not use.
    columns = np.array(directions).T
    scales = _space_scales(fields, path)
    return scales[:, None] * columns, scales * origin[0][:3]


def _vectors(text: str, what: str, path: Path) -> list[np.ndarray | None]:
    """Vectors of at least three numbers; None for each "none" in the text."""
    if not re.fullmatch(r"(\s*(none|\([^()]*\)))+\s*", text):
        raise damaged(path, f"its {what} are {text!r}")
    found: list[np.ndarray | None] = []
    for inner in re.findall(r"none|\(([^()]*)\)", text):
        found.append(np.array(numbers(inner.split(","), what, path)) if inner else None)
        if found[-1] is not None and not 3 <= len(found[-1]) <= 4:
            raise damaged(path, f"its {what} are {text!r}")
    return found


def _space_scales(fields: Fields, path: Path) -> np.ndarray:
    units = _quoted(fields.get("spaceunits", ""), "space units", path)
    return np.array([unit_scale(unit, path) for unit in [*units, "", "", ""][:3]])


def _spaced(fields: Fields, dimensions: int, path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Columns (3, 3) and origin (3,) from ``spacings`` and ``axis mins``, mm."""
    if "spacings" not in fields:
        raise InputError(f"{path} does not state how far apart its voxels are: write the spacing into its header.")
    spacings = numbers(fields["spacings"].split()[:3], "spacings", path)
    mins = numbers(fields.get("axismins", "0 0 0").split()[:3], "axis mins", path)
    if len(fields["spacings"].split()) != dimensions or len(mins) != 3 or len(spacings) != 3:
        raise damaged(path, f"its spacings are {fields['spacings']!r}")
    if "axismins" not in fields:
        notes.append(_NO_ORIGIN)
    else:
        centred = fields.get("centers", "cell").lower().split()[0] != "node"
        mins = [low + step / 2 if centred else low for low, step in zip(mins, spacings)]
    units = _quoted(fields.get("units", ""), "units", path) or _quoted(fields.get("spaceunits", ""), "units", path)
    scales = np.array([unit_scale(unit, path) for unit in [*units, "", "", ""][:3]])
    return np.diag(scales * spacings), scales * mins


def _quoted(text: str, what: str, path: Path) -> list[str]:
    if not re.fullmatch(r'(\s*"[^"]*")*\s*', text):
        raise damaged(path, f"its {what} are {printable(text)!r}")
    return re.findall(r'"([^"]*)"', text)
