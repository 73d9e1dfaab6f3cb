"""One slice of a DICOM series: its place and pixel format, checked before a pixel is read."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from .files import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from .header import Header, PixelData, number_in, printable

RLE = "1.2.840.10008.1.2.5"
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91))

#: Elements that `slice_of` reads.
KEYWORDS = (
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
)

# Directions are decimal text, written by some exporters with three digits.
_DIRECTION_TOLERANCE = 0.01
_NOT_HU = {"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"}


@dataclass(frozen=True)
class Pixels:
    """Storage of the pixels of one image, and its rescaling to HU.

    Attributes:
        file: the DICOM file.
        data: their location in it.
        syntax: transfer syntax UID.
        shape: (rows, columns).
        bits_allocated: size of a pixel, 8, 16 or 32 bits.
        bits_stored: number of these bits that are used, from the lowest.
        signed: whether they are in two's complement.
        slope, intercept: HU = slope * stored + intercept.
    """

    file: Path
    data: PixelData
    syntax: str
    shape: tuple[int, int]
    bits_allocated: int
    bits_stored: int
    signed: bool
    slope: float
    intercept: float

    @property
    def scalar_type(self) -> np.dtype:
        """Type of the stored numbers, in the byte order of this machine."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def size(self) -> int:
        """Bytes of the pixels, uncompressed."""
        return self.shape[0] * self.shape[1] * self.bits_allocated // 8

    @property
    def is_native(self) -> bool:
        """Whether the pixels are uncompressed (apart from a deflated data set)."""
        return self.syntax in NATIVE


@dataclass(frozen=True)
class Slice:
    """One image of a series. Position and orientation are LPS.

    Attributes:
        file: the DICOM file.
        instance: SOP instance UID; may be empty.
        position: of the centre of the first pixel, mm.
        orientation: unit directions of a row (columns grow) and of a column (rows grow), (6,).
        spacing: (between rows, between columns), mm.
        thickness: mm; None if it is not stated.
        pixels: storage of its pixels.
        notes: for the user, each a sentence that does not name the file.
        copies: images with the same header; their pixels must be equal.
    """

    file: Path
    instance: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    pixels: Pixels
    notes: tuple[str, ...] = ()
    copies: tuple[Slice, ...] = ()

    def with_copies(self, copies: tuple[Slice, ...]) -> Slice:
        """The same slice with these copies."""
        return replace(self, copies=copies)


def slice_of(header: Header) -> Slice:
    """The slice that a header describes.

    Raises:
        InputError: many frames, colours, no place in the patient, or an invalid pixel format.
    """
    check_one_frame(header)
    _check_grey(header)
    thickness, about_thickness = _thickness(header)
    position, orientation = _numbers(header, "ImagePositionPatient", 3), _orientation(header)
    spacing = _pixel_spacing(header)
    return Slice(
        file=header.path,
        instance=header.text("SOPInstanceUID"),
        position=position,
        orientation=orientation,
        spacing=spacing,
        thickness=thickness,
        pixels=_pixels(header),
        notes=(*about_thickness, *_about_values(header)),
    )


def thickness_in(text: str) -> float | None:
    """The thickness in mm in a text, with or without the unit; None for other texts.

    >>> thickness_in("5 mm"), thickness_in("0,8"), thickness_in("thick"), thickness_in("0")
    (5.0, 0.8, None, None)
    """
    value = number_in(re.sub(r"\s*mm$", "", text.strip()))
    return value if value is not None and value > 0 else None


def check_one_frame(header: Header, enhanced: bool = False) -> None:
    """Refuse a file that holds many slices.

    Args:
        header: of the file.
        enhanced: whether its SOP class stores the geometry in sequences, even of a single frame.

    Raises:
        InputError: it holds many slices.
    """
    text = header.text("NumberOfFrames")
    frames = int(text) if re.fullmatch(r"\d{1,9}", text) else 1
    if frames > 1 or enhanced:
        raise InputError(
            f"{printable(header.path)} is a DICOM file of {frames} frame{'s' * (frames != 1)}, which is not supported: "
            "convert it to one file a slice or to NRRD first."
        )


def cut_short(file: Path) -> InputError:
    """The exception for a file that is too short for its pixels."""
    return InputError(f"{printable(file)} ends within its pixel data, so it is damaged: copy or export it again.")


def _check_grey(header: Header) -> None:
    kind = header.text("PhotometricInterpretation")
    if header.text("SamplesPerPixel") not in ("", "1") or kind not in ("", "MONOCHROME1", "MONOCHROME2"):
        file, kind = printable(header.path), printable(kind)
        raise InputError(f"{file} is in colour ({kind}): choose a CT series with one grey value a pixel.")


def _numbers(header: Header, keyword: str, count: int) -> tuple[float, ...]:
    if not header.texts(keyword):
        raise InputError(
            f"{printable(header.path)} has no {keyword}, so its place is unknown: choose a series of slices of a scan."
        )
    return header.numbers(keyword, count)


def _orientation(header: Header) -> tuple[float, ...]:
    """The two directions, of length 1 and with a right angle between them."""
    keyword = "ImageOrientationPatient"
    values = _numbers(header, keyword, 6)
    lengths = math.hypot(*values[:3]), math.hypot(*values[3:])
    if max(abs(length - 1) for length in lengths) > _DIRECTION_TOLERANCE:
        raise header.refusal(keyword, "two directions of length 1")
    row, column = ([value / length for value in part] for part, length in zip((values[:3], values[3:]), lengths))
    cosine = sum(map(operator.mul, row, column))
    if abs(cosine) > _DIRECTION_TOLERANCE:
        raise header.refusal(keyword, "two directions with a right angle between them")
    column = [down - cosine * along for along, down in zip(row, column)]
    length = math.hypot(*column)
    return (*row, *(value / length for value in column))


def _pixel_spacing(header: Header) -> tuple[float, ...]:
    if not header.texts("PixelSpacing") and header.texts("ImagerPixelSpacing"):
        raise InputError(
            f"{printable(header.path)} has ImagerPixelSpacing in place of PixelSpacing, so it is a projection and no "
            "slice: choose a CT series."
        )
    spacing = _numbers(header, "PixelSpacing", 2)
    if not all(1e-6 <= step <= 1e6 for step in spacing):
        raise header.refusal("PixelSpacing", "two distances above 0 mm")
    return spacing


def _thickness(header: Header) -> tuple[float | None, tuple[str, ...]]:
    """Slice thickness in mm, and a note if it cannot be read."""
    text = header.text("SliceThickness")
    value = thickness_in(text)
    if value is not None or not text or number_in(text) == 0:
        return value, ()
    return None, (f"SliceThickness {printable(text)[:40]!r} is no thickness in mm and was ignored.",)


def _about_values(header: Header) -> tuple[str, ...]:
    kind = header.text("RescaleType").upper()
    if kind not in _NOT_HU:
        return ()
    return (f"RescaleType is {kind}, so the values are no HU, which the models expect.",)


def _pixels(header: Header) -> Pixels:
    rows, columns = (_in_range(header, keyword, 1, 65535) for keyword in ("Rows", "Columns"))
    _in_range(header, "SamplesPerPixel", 1, 1)
    allocated = header.integer("BitsAllocated")
    if allocated not in (8, 16, 32):
        raise header.refusal("BitsAllocated", "8, 16 or 32")
    stored = _in_range(header, "BitsStored", 1, allocated)
    _in_range(header, "HighBit", stored - 1, stored - 1)
    signed = bool(_in_range(header, "PixelRepresentation", 0, 1))
    slope, intercept = _rescale(header)
    if header.pixels is None:
        raise InputError(f"{printable(header.path)} has no pixel data, so it is incomplete: export the series again.")
    pixels = Pixels(
        header.path, header.pixels, header.syntax, (rows, columns), allocated, stored, signed, slope, intercept
    )
    _check_stored(pixels)
    return pixels


def _in_range(header: Header, keyword: str, lowest: int, highest: int) -> int:
    value = header.integer(keyword)
    if not lowest <= value <= highest:
        raise header.refusal(keyword, f"{lowest}" if lowest == highest else f"{lowest} to {highest}")
    return value


def _rescale(header: Header) -> tuple[float, float]:
    if header.items("ModalityLUTSequence"):
        raise InputError(
            f"{printable(header.path)} has a ModalityLUTSequence in place of RescaleSlope and RescaleIntercept, which "
            "is not supported: convert the series to HU first."
        )
    slope, intercept = (
        header.numbers(keyword, 1)[0] if header.texts(keyword) else default
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if slope == 0:
        raise header.refusal("RescaleSlope", "a number other than 0")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+", header.text(keyword)):
            raise header.refusal(keyword, "a number with a decimal point (the comma may stand for thousands)")
    return slope, intercept


def _check_stored(pixels: Pixels) -> None:
    """Refuse pixel data whose length contradicts the header, as far as that is visible without decoding."""
    file, data = printable(pixels.file), pixels.data
    if pixels.syntax not in (*NATIVE, RLE, *JPEG, *JPEG_LS, *JPEG_2000):
        from pydicom.uid import UID

        raise InputError(
            f"{file} has pixel data of the transfer syntax {printable(UID(pixels.syntax).name)}, which cannot be read: "
            "export the series again, uncompressed."
        )
    if pixels.is_native != (data.length is not None):
        raise InputError(
            f"{file} has a transfer syntax that does not fit its pixel data ("
            f"{'compressed' if pixels.is_native else 'not compressed'}): export the series again."
        )
    if data.length is None:
        return
    rows, columns = pixels.shape
    if data.length not in (pixels.size, pixels.size + pixels.size % 2):
        raise InputError(
            f"{file} has {data.length} bytes of pixel data, but {rows} x {columns} pixels (Rows x Columns) of "
            f"{pixels.bits_allocated} bits (BitsAllocated) are {pixels.size} bytes: export the series again."
        )
    if data.held < pixels.size:
        raise cut_short(pixels.file)
