"""Reads the pixels of a DICOM series and rescales them to HU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...errors import InputError
from .files import EXPLICIT_BIG, read_data_set
from .header import damaged, printable
from .jpeg import JpegDecoder, read_fragments
from .slices import RLE, Pixels, Slice, cut_short
from .stack import Stack, same_place

# Floats cannot represent all larger integers.
_LARGEST_WHOLE = 2**53
_LARGEST_WHOLE_FLOAT32 = 2**24


def read_voxels(stack: Stack, place: Path) -> np.ndarray:
    """Voxels (K, J, I) of a stack, each slice rescaled by its own slope and intercept.

    The scalar type is the first of int16, int32, int64, float32 and float64 that can represent all values.

    Raises:
        InputError: a file is damaged, two images lie at one place, or the scan does not fit into memory.
        OSError: a file cannot be read.
    """
    try:
        with JpegDecoder() as decoder:
            return _rescaled(stack.slices, place, decoder)
    except MemoryError as error:
        size = sum(image.pixels.size for image in stack.slices) / 1e9
        raise InputError(
            f"{printable(place)} takes {size:.1f} GB, more than there is memory: close other programs or crop the scan."
        ) from error


def stored_numbers(pixels: Pixels, decoder: JpegDecoder) -> np.ndarray:
    """(rows, columns) numbers as an image stores them. Bits above BitsStored are set by sign extension.

    Raises:
        InputError: the file is damaged.
        OSError: the file cannot be read.
    """
    if pixels.is_native:
        numbers = _native(pixels)
    elif pixels.syntax == RLE:
        numbers = _run_lengths(pixels)
    else:
        numbers = decoder.decode(pixels)
    unused = pixels.bits_allocated - pixels.bits_stored
    return numbers if unused == 0 else (numbers << unused) >> unused


def _rescaled(
    slices: Sequence[Slice], place: Path, decoder: JpegDecoder, narrowest: DTypeLike = np.int16
) -> np.ndarray:
    voxels = np.empty((len(slices), *slices[0].pixels.shape), narrowest)
    for k, image in enumerate(slices):
        numbers = stored_numbers(image.pixels, decoder)
        for copy in image.copies:
            _check_copy(image, numbers, copy, place, decoder)
        wider = np.result_type(voxels.dtype, _type_of_values(image.pixels, numbers))
        if voxels.dtype == np.float32 and wider != np.float32:
            # The slices so far were rounded for a type that is too narrow.
            return _rescaled(slices, place, decoder, wider)
        voxels = voxels.astype(wider, copy=False)
        voxels[k] = _values(image.pixels, numbers)
    return voxels


def _check_copy(image: Slice, numbers: np.ndarray, copy: Slice, place: Path, decoder: JpegDecoder) -> None:
    first, second = image.pixels, copy.pixels
    same = first.shape == second.shape and (first.slope, first.intercept) == (second.slope, second.intercept)
    if not (same and np.array_equal(numbers, stored_numbers(second, decoder))):
        raise same_place(image, copy, place)


def _native(pixels: Pixels) -> np.ndarray:
    try:
        with read_data_set(pixels.file) as source:
            source.seek(pixels.data.offset)
            # With the byte of padding, which belongs to the last word if bytes are stored as words.
            data = source.read(pixels.size + pixels.size % 2)
    except ValueError as error:
        raise damaged(pixels.file) from error
    swapped = pixels.syntax == EXPLICIT_BIG and pixels.bits_allocated == 8 and pixels.data.as_words
    if len(data) < pixels.size + swapped * (pixels.size % 2):
        raise cut_short(pixels.file)
    if swapped:
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    stored = pixels.scalar_type.newbyteorder("<" if pixels.data.little_endian else ">")
    numbers = np.frombuffer(data, stored, pixels.size * 8 // pixels.bits_allocated)
    return numbers.astype(pixels.scalar_type, copy=False).reshape(pixels.shape)


def _run_lengths(pixels: Pixels) -> np.ndarray:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import RLELossless

    frame = b"".join(read_fragments(pixels))
    rows, columns = pixels.shape
    # Its own type, since pydicom annotates each option with the type of all.
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "number_of_frames": 1,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_allocated,
        "pixel_representation": int(pixels.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        with warnings.catch_warnings():
            # For more pixels than the header states, pydicom only warns.
            warnings.simplefilter("error")
            numbers, _ = get_decoder(RLELossless).as_array(encapsulate([frame]), decoding_plugin="pydicom", **options)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many types of exceptions for broken data
        raise InputError(
            f"{printable(pixels.file)} has RLE pixel data that is damaged or is not {rows} x {columns} pixels of "
            f"{pixels.bits_allocated} bits, as the header states: export the series again."
        ) from error
    return numbers


def _type_of_values(pixels: Pixels, numbers: np.ndarray) -> np.dtype:
    """The smallest scalar type that can represent the rescaled numbers."""
    low, high = sorted(pixels.slope * int(number) + pixels.intercept for number in (numbers.min(), numbers.max()))
    largest = max(abs(low), abs(high))
    if largest > _LARGEST_WHOLE:
        raise InputError(
            f"{printable(pixels.file)} has values of up to {largest:.3g} HU by its RescaleSlope {pixels.slope:g} and "
            f"RescaleIntercept {pixels.intercept:g}: correct them or export the series again."
        )
    if _is_whole(pixels):
        types = map(np.dtype, ("i2", "i4", "i8"))
        return next(t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.dtype("f4" if largest <= _LARGEST_WHOLE_FLOAT32 * min(1.0, abs(pixels.slope)) else "f8")


def _is_whole(pixels: Pixels) -> bool:
    return pixels.slope.is_integer() and pixels.intercept.is_integer()


def _values(pixels: Pixels, numbers: np.ndarray) -> np.ndarray:
    if not _is_whole(pixels):
        return numbers * pixels.slope + pixels.intercept
    if (pixels.slope, pixels.intercept) == (1, 0):
        return numbers
    return numbers.astype(np.int64) * int(pixels.slope) + int(pixels.intercept)
