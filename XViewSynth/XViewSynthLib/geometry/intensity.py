"""Intensities of a scan: offset from HU, and casts of results to its scalar type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from .volume import Volume

_AIR_HU = -1000.0
# Range of air, lung and fat, which almost every scan in HU contains.
_BELOW_WATER = (-1100.0, -100.0)
_SHARE_BELOW_WATER = 0.001
# A shifted scan has air with nothing below it but one value of padding, and soft tissue at this distance above it. At
# most half as many voxels lie between or beyond. Bone lies as far above soft tissue, but spreads wider.
_AIR_WIDTH, _BETWEEN, _TISSUE = 100.0, 300.0, (850.0, 1250.0)
_AIR_SHARE, _BELOW_AIR, _TISSUE_SHARE, _LESS = 0.01, 0.1, 0.02, 0.5
_BIN = 25.0
# Offsets that scanners subtract from stored numbers. More exact than a peak of air, which may be lung or padding.
_USUAL_OFFSETS = (1000.0, 1024.0, 8192.0, 32768.0)
_SAMPLED_VOXELS = 1_000_000


def to_scalar_type(values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """`values` in a scalar type: rounded if the type is an integer, clipped to its range.

    Args:
        values: integers or finite floats.
        dtype: integers or floats of at most 64 bits.

    Returns:
        An array of `dtype`; `values` itself if no change is needed.

    >>> to_scalar_type(np.array([-3.7, 41.5, 70000.0]), np.uint16)
    array([    0,    42, 65535], dtype=uint16)
    """
    dtype = np.dtype(dtype)
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and values.dtype.kind == "f":
        values = np.rint(values)
    return values.clip(*_common_range(values.dtype, dtype)).astype(dtype)


def hu_offset(voxels: np.ndarray) -> float:
    """Offset of a scan's numbers above HU; 0 for a scan in HU, or if no offset is certain.

    A scan stored as unsigned numbers has lost its rescale intercept of -1024 (or -1000, or -32768). Then the range of
    air, lung and fat is empty, and two peaks are as far apart as air and soft tissue.

    >>> scan = np.repeat(np.int16([-1000, -990, 30, 50]), 100).reshape(4, 10, 10)
    >>> hu_offset(scan), hu_offset(scan + 1024)
    (0.0, 1024.0)
    """
    values = np.sort(sampled(voxels))

    def share(lowest: np.ndarray | float, highest: np.ndarray | float) -> np.ndarray:
        return (np.searchsorted(values, highest) - np.searchsorted(values, lowest)) / values.size

    # The lowest value may be padding.
    if share(max(_BELOW_WATER[0], np.nextafter(values[0], np.inf)), _BELOW_WATER[1]) >= _SHARE_BELOW_WATER:
        return 0.0
    first = values[np.searchsorted(values, _BELOW_WATER[1]) :]
    if not first.size or first[-1] - first[0] < _TISSUE[0]:
        return 0.0
    starts = np.arange(first[0], first[-1] - _TISSUE[0], _BIN)
    air, tissue = share(starts, starts + _AIR_WIDTH), share(starts + _TISSUE[0], starts + _TISSUE[1])
    padding = np.nextafter(first[0], np.inf)
    shifted = (
        (air >= _AIR_SHARE)
        & (share(padding, starts) <= _BELOW_AIR * air)
        & (tissue >= _TISSUE_SHARE)
        & (share(starts + _BETWEEN, starts + _TISSUE[0]) <= _LESS * tissue)
        & (share(starts + _TISSUE[1], np.inf) <= _LESS * tissue)
    )
    if not shifted.any():
        return 0.0
    start = starts[shifted.argmax()]
    inside = values[np.searchsorted(values, start) : np.searchsorted(values, start + _AIR_WIDTH)]
    offset = float(np.rint(np.median(inside))) - _AIR_HU
    usual = min(_USUAL_OFFSETS, key=lambda each: abs(each - offset))
    return usual if abs(usual - offset) <= _AIR_WIDTH else offset


def offset_note(offset: float) -> str:
    """A note to the user on a scan whose numbers lie `offset` above HU."""
    return (
        f"The values of the scan are no HU but lie about {offset:g} above, with air at {offset + _AIR_HU:g}: they were "
        "taken so, and the result keeps them."
    )


def in_hu(volume: Volume) -> Volume:
    """The scan in HU, with a note if its numbers were shifted. Whole numbers stay whole."""
    offset = hu_offset(volume.voxels)
    if not offset:
        return volume
    dtype = np.result_type(volume.voxels.dtype, np.int32 if volume.voxels.dtype.itemsize <= 2 else np.int64)
    shifted = volume.voxels.astype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else dtype)
    shifted -= shifted.dtype.type(offset)
    return replace(volume, voxels=shifted, notes=(*volume.notes, offset_note(offset)))


def sampled(voxels: np.ndarray) -> np.ndarray:
    """Up to about a million of the voxels, evenly spaced, as a list of float64."""
    step = int(np.ceil((voxels.size / _SAMPLED_VOXELS) ** (1 / 3)))
    return voxels[::step, ::step, ::step].astype(np.float64).ravel()


def _common_range(source: np.dtype, target: np.dtype) -> tuple[np.generic, np.generic]:
    """The least and the greatest number of `source` that `target` can represent."""
    lows, highs = zip(*(_range(dtype) for dtype in (source, target)), strict=True)
    lowest, highest = max(lows), min(highs)
    greatest = source.type(highest)
    # Floats round the greatest integers up.
    if int(greatest) > highest:
        greatest = np.nextafter(greatest, source.type(0))
    return source.type(lowest), greatest


def _range(dtype: np.dtype) -> tuple[int, int]:
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return int(limits.min), int(limits.max)
