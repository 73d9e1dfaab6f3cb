"""The checked header of an image file. No voxel is read, and no memory is allocated for voxels.

The parsers of NRRD, MetaImage and NIfTI return an `ImageHeader`. They are part of this package because the header
decides which bytes are read from which file. Libraries that trust it can be made to crash or to read other files.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry.volume import AXES, Axis

Encoding = Literal["raw", "gzip", "zlib", "bzip2", "text", "hex"]

# Far more than any scan needs. Bounds the time for a damaged header.
_LONGEST_LINE_BYTES = 64 * 1024
_LONGEST_HEADER_BYTES = 4 * 1024**2
_MOST_FILES = 100_000
_MOST_DIMENSIONS = 16
# Bound of lengths in any unit: no scan is larger, and no product of two overflows.
_LARGEST_NUMBER = 1e12

MILLIMETRES = {
    "nm": 1e-6,
    "um": 1e-3,
    "µm": 1e-3,
    "μm": 1e-3,
    "micron": 1e-3,
    "micrometer": 1e-3,
    "micrometre": 1e-3,
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "centimeter": 10.0,
    "centimetre": 10.0,
    "m": 1000.0,
    "meter": 1000.0,
    "metre": 1000.0,
    "inch": 25.4,
}
# Units of programs that know none.
_NO_UNIT = {"", "?", "???", "none"}

# Further fields of NRRD and MetaImage: the first named as in DICOM, in mm; the second I, J or K.
THICKNESS_FIELD, AXIS_FIELD = "SliceThickness", "SliceAxis"
SYNTHETIC_FIELD, SYNTHETIC_CONTENT = "XViewSynth", "synthetic slices"


@dataclass(frozen=True)
class VoxelSource:
    """Location of the voxels of an image.

    Attributes:
        files: in the order of their voxels; each holds an equal part of the image.
        offset: bytes before the first voxel in each file, or -1 if the voxels are at the end of the file.
        encoding: compression of the voxels.
        stored_bytes: their compressed size as stated in the header, or None.
        with_header: whether the header is compressed together with the voxels, so that `offset` counts unpacked bytes.
    """

    files: tuple[Path, ...]
    offset: int
    encoding: Encoding
    stored_bytes: int | None = None
    with_header: bool = False


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """A valid header of a 3-D image with one grey value a voxel.

    Attributes:
        path: the file.
        shape: (K, J, I), each above 0.
        stored_type: scalar type of the voxels in the file, with their byte order.
        affine: (4, 4) float64, voxel indices (I, J, K) to patient RAS in mm; finite and invertible.
        source: where the voxels lie.
        slope, intercept: value = slope * stored + intercept.
        slice_thickness: mm, or None.
        slice_axis: the axis of the slices if the header states it, else None.
        synthetic: whether the file has this program's mark of synthetic slices.
        is_labelmap: whether the header marks the values as labels.
        notes: for the user, each a sentence.
    """

    path: Path
    shape: tuple[int, int, int]
    stored_type: np.dtype
    affine: np.ndarray
    source: VoxelSource
    slope: float = 1.0
    intercept: float = 0.0
    slice_thickness: float | None = None
    slice_axis: Axis | None = None
    synthetic: bool = False
    is_labelmap: bool = False
    notes: tuple[str, ...] = ()

    @property
    def stored_bytes(self) -> int:
        """Bytes of the voxels, uncompressed."""
        return math.prod(self.shape) * self.stored_type.itemsize

    @property
    def is_rescaled(self) -> bool:
        """Whether the values differ from the stored numbers."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def scalar_type(self) -> np.dtype:
        """Type of the values: as stored, or a float type if they are rescaled."""
        if not self.is_rescaled:
            return self.stored_type.newbyteorder("=")
        return np.dtype(np.float64 if self.stored_type.itemsize >= 4 else np.float32)

    @property
    def needed_bytes(self) -> int:
        """Memory for reading, an upper bound in bytes."""
        return self.stored_bytes + (math.prod(self.shape) * self.scalar_type.itemsize if self.is_rescaled else 0)


def read_lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    """Lines of a text header up to an empty one or the end of the file, without their ends.

    Bytes that are not UTF-8 become surrogates, as in file names.

    Raises:
        InputError: a line or the header is longer than any header is.
    """
    total = 0
    while line := stream.readline(_LONGEST_LINE_BYTES + 1):
        total += len(line)
        if len(line) > _LONGEST_LINE_BYTES or total > _LONGEST_HEADER_BYTES:
            raise damaged(path, "its header is longer than any header is")
        text = os.fsdecode(line.rstrip(b"\r\n"))
        if not text:
            return
        yield text


def damaged(path: Path, reason: str) -> InputError:
    """The exception for a file with contradictory or incomplete content."""
    return InputError(f"{path} is damaged or incomplete ({printable(reason)}): export or copy it again.")


def printable(text: str, longest: int = 120) -> str:
    """Text from a file, made safe for a message: one line, no control characters, limited length.

    >>> printable("a" + chr(27) + "[2J")
    'a?[2J'
    """
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: longest + 1])
    return shown if len(shown) <= longest else shown[:longest] + "..."


def check_field_name(name: str, known: Iterable[str], path: Path) -> None:
    """Refuse an unknown field with almost the name of a known one.

    Raises:
        InputError: the name is that of a damaged field.
    """
    near = difflib.get_close_matches(name.lower(), {other.lower() for other in known}, n=1, cutoff=0.8)
    if near and len(name) > 3:
        raise damaged(path, f"its header has a field {name!r}, which looks like {near[0]!r}")


def whole_numbers(text: str, what: str, path: Path) -> list[int]:
    """The numbers of a field.

    Raises:
        InputError: the text is not a list of whole numbers.
    """
    words = text.split()
    if not words or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        raise damaged(path, f"{what} is {text!r}, not whole numbers")
    return [int(word) for word in words]


def numbers(words: Iterable[str], what: str, path: Path) -> list[float]:
    """Numbers of a geometry.

    Raises:
        InputError: a word is not a number, not finite or too large for a length.
    """
    found = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not abs(value) < _LARGEST_NUMBER:
            raise damaged(path, f"{what} has {word!r} in place of a number")
        found.append(value)
    return found


def number_or_none(text: str | None) -> float | None:
    """A length above 0 in mm, with or without the unit; None for other texts."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(?:mm)?\s*", text or "")
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def axis_or_none(text: str | None) -> Axis | None:
    """The axis that a field names, or None."""
    return next((axis for axis in AXES if axis == (text or "").strip()), None)


def checked_sizes(sizes: Sequence[int], path: Path) -> None:
    """Refuse impossible image sizes.

    Raises:
        InputError: no dimensions, too many, or one without voxels.
    """
    if not 1 <= len(sizes) <= _MOST_DIMENSIONS:
        raise damaged(path, f"its header states {len(sizes)} dimensions")
    if min(sizes) < 1:
        raise damaged(path, f"its header states {by(sizes)} voxels")


def three_dimensional(sizes: Sequence[int], path: Path) -> tuple[int, int, int]:
    """Shape (K, J, I) of an image with three dimensions, apart from further ones of size 1.

    Raises:
        InputError: it has other dimensions.
    """
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        raise InputError(f"{path} is a {len(sizes)}-D image of {by(sizes)} voxels: give one 3-D scan.")
    i, j, k = sizes[:3]
    return k, j, i


def colours_sentence(path: Path) -> InputError:
    """The exception for an image with several values a voxel."""
    return InputError(f"{path} has colours or vectors instead of one grey value a voxel: give a plain CT scan.")


def by(sizes: Sequence[int]) -> str:
    """Sizes as text.

    >>> by([512, 512, 60])
    '512 x 512 x 60'
    """
    return " x ".join(str(size) for size in sizes)


def checked_affine(columns: np.ndarray, origin: npt.ArrayLike, path: Path) -> np.ndarray:
    """(4, 4) affine of three columns (3, 3) in mm and an origin.

    Raises:
        InputError: a distance of voxels is 0 or not finite, or axes lie in one plane.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    if not (np.abs(affine) < _LARGEST_NUMBER).all():
        raise damaged(path, "its geometry holds numbers that are no lengths in mm")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not steps.all():
        raise InputError(f"{path} states a distance of 0 mm between voxels: write the spacing into its header.")
    if steps.min() < 1e-9 or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-6:
        raise damaged(path, "its axes lie in one plane")
    return affine


def unit_scale(unit: str, path: Path) -> float:
    """Millimetres per unit of length. An empty unit means millimetres.

    Raises:
        InputError: the unit is unknown.
    """
    name = unit.strip().lower()
    if name in _NO_UNIT:
        return 1.0
    scale = MILLIMETRES.get(name) or MILLIMETRES.get(name.removesuffix("s"))
    if scale is None:
        raise InputError(f"{path} measures lengths in {printable(unit)!r}, an unknown unit: write mm.")
    return scale


def detached_files(names: Sequence[str], header: Path) -> tuple[Path, ...]:
    """Paths of the data files of a header.

    Raises:
        InputError: a file is missing, or lies outside of the header's folder.
    """
    folder = os.path.realpath(header.parent)
    files = []
    for name in names:
        # Headers from Windows may contain backslashes. A drive or a leading slash is an absolute path on any system.
        if not name or "\0" in name or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
            raise InputError(_outside_sentence(header, name))
        file = header.parent / name
        if not os.path.realpath(file).startswith(folder + os.sep):
            raise InputError(_outside_sentence(header, name))
        if not os.path.isfile(file):  # also if no file can have that name
            raise InputError(
                f"{header} is incomplete: {printable(name)}, which holds its voxels, is not beside it; copy that too."
            )
        files.append(file)
    return tuple(files)


def numbered_files(pattern: str, first: int, last: int, step: int, header: Path) -> list[str]:
    """File names from a pattern such as ``IM%03d.raw``.

    Raises:
        InputError: the pattern has no number, or there are more names than a scan has slices.
    """
    match = re.fullmatch(r"([^%]*)%(0?)(\d{0,2})d([^%]*)", pattern)
    if match is None or step < 1 or not 0 <= last - first < step * _MOST_FILES:
        raise damaged(header, f"it names its data files by {pattern!r} from {first} to {last}")
    before, zero, width, after = match.groups()
    return [f"{before}{number:{zero}{width}d}{after}" for number in range(first, last + 1, step)]


def _outside_sentence(header: Path, name: str) -> str:
    return (
        f"{header} names {printable(name)!r} as its data file, which is not in the header's own folder: copy the data "
        "file beside the header and name it there."
    )
