"""How the images of a series store HU, and the storage of a new slice in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from .source import Source

if TYPE_CHECKING:
    from pydicom import Dataset

# A stored value this close to a whole number is that number, apart from rounding to 32-bit floats.
WHOLE = 0.01
# Storage of pixels; these elements belong together.
ENCODING = (
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
)


@dataclass(frozen=True)
class _Encoding:
    slope: float
    intercept: float
    bits: int
    signed: bool

    def encode(self, hu: np.ndarray, exactly: bool) -> np.ndarray | None:
        """Stored values, little endian; None if they cannot hold these HU (exactly, if requested)."""
        exact = (hu.astype(np.float64) - self.intercept) / self.slope
        stored = np.rint(exact)
        lowest, highest = self._range()
        if stored.min() < lowest or stored.max() > highest:
            return None
        if exactly and np.abs(stored - exact).max() > WHOLE:
            return None
        return stored.astype(self._scalar_type())

    def encode_clipped(self, hu: np.ndarray) -> np.ndarray:
        """Stored values, little endian; HU out of their range become the lowest or highest."""
        stored = np.rint((hu.astype(np.float64) - self.intercept) / self.slope)
        return stored.clip(*self._range()).astype(self._scalar_type())

    def _range(self) -> tuple[int, int]:
        lowest = -(2 ** (self.bits - 1)) if self.signed else 0
        return lowest, lowest + 2**self.bits - 1

    def _scalar_type(self) -> str:
        return "<i2" if self.signed else "<u2"


class Encoder:
    """Stores HU as the source's images do, each slice as the nearest image that can.

    Predicted HU out of the range of all images are clipped to the range of the nearest.
    """

    def __init__(self, source: Source):
        self._source = source
        self._encodings = [_encoding(header) for header in source.headers]
        self._first_with = {encoding: n for n, encoding in reversed(list(enumerate(self._encodings)))}

    def store(self, header: Dataset, hu: np.ndarray, sources: Sequence[int], exactly: bool) -> None:
        """Put the pixels of a slice into its header, and how they are stored.

        Args:
            header: of the slice.
            hu: (rows, columns).
            sources: indices of its source images, the nearest first.
            exactly: whether the stored values must be these HU.
        """
        images = {self._encodings[n]: n for n in reversed(sources)}
        nearest_first = dict.fromkeys([*(self._encodings[n] for n in sources), *self._first_with])
        encoded = ((encoding, encoding.encode(hu, exactly)) for encoding in nearest_first)
        encoding, stored = next((found for found in encoded if found[1] is not None), (next(iter(nearest_first)), None))
        if stored is None and exactly:
            raise InputError(
                f"The images in {self._source.path} store their values in different ways, of which none can hold all "
                "that their slices hold together: write NRRD."
            )
        if stored is None:
            stored = encoding.encode_clipped(hu)
        _copy_encoding(header, self._source.headers[images.get(encoding, self._first_with[encoding])])
        header.add_new(0x7FE00010, "OW", stored.tobytes())
        header.Rows, header.Columns = stored.shape


def _encoding(header: Dataset) -> _Encoding:
    return _Encoding(
        slope=float(header.get("RescaleSlope") or 1),
        intercept=float(header.get("RescaleIntercept") or 0),
        bits=int(header.BitsStored),
        signed=bool(header.PixelRepresentation),
    )


def _copy_encoding(header: Dataset, image: Dataset) -> None:
    encoding = _encoding(image)
    for keyword in ENCODING:
        if keyword in image:
            header[keyword] = deepcopy(image[keyword])
        elif keyword in header:
            del header[keyword]
    # Required in a CT image.
    header.HighBit = encoding.bits - 1
    header.RescaleSlope = image.get("RescaleSlope") or "1"
    header.RescaleIntercept = image.get("RescaleIntercept") or "0"
    header.RescaleType = image.get("RescaleType") or "HU"
