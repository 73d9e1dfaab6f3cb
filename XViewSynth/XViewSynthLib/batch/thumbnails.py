"""Thumbnails: a plane across the slices before and after the enhancement."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from ..evaluation import metrics
from ..evaluation.figures import display_window
from ..geometry.intensity import hu_offset, in_hu, to_scalar_type
from ..geometry.orientation import to_slices
from ..geometry.volume import Axis, Volume

WIDTH, HEIGHT = 180, 180
_GAP = 4


def write_thumbnail(path: Path, observed: Volume, enhanced: Volume, axis: Axis) -> None:
    """Write a PNG with the middle plane across the slices: observed on the left, enhanced on the right.

    For axial slices, that is the coronal plane: superior is up, the patient's right on the left. Pixels are square.

    Args:
        path: the file to write.
        observed: the scan.
        enhanced: the result, with the same first slice.
        axis: the axis that got more slices.
    """
    offset = np.float32(hu_offset(observed.voxels))
    observed = in_hu(observed)
    slices, order = to_slices(observed, axis)
    spacing = order.spacing(observed)
    window = display_window(slices, metrics.body_mask(slices, spacing))
    before, after = slices, to_slices(enhanced, axis)[0]
    tall, wide = (len(before) - 1) * spacing[0], (before.shape[2] - 1) * spacing[2]
    step = max(tall / HEIGHT, wide / WIDTH)
    ups, acrosses = np.arange(0, tall, step), np.arange(0, wide, step)
    planes = []
    for volume, distance, above_hu in ((before, spacing[0], 0), (after, enhanced.spacing_along(axis), offset)):
        plane = volume[:, volume.shape[1] // 2]
        rows = np.rint(ups / distance).astype(int).clip(0, len(plane) - 1)
        columns = np.rint(acrosses / spacing[2]).astype(int).clip(0, plane.shape[1] - 1)
        # Slices run upwards and columns to the right of the patient. Pictures run downwards and to the patient's left.
        planes.append(_grey(plane[np.ix_(rows, columns)].astype(np.float32) - above_hu, window)[::-1, ::-1])
    gap = np.full((len(ups), _GAP), 255, np.uint8)
    path.write_bytes(_png(np.hstack([planes[0], gap, planes[1]])))


def _grey(plane: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return to_scalar_type((plane.clip(low, high) - low) * (255 / (high - low)), np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    """A PNG file with 8 grey bits, from (rows, columns)."""
    rows, columns = pixels.shape
    # A row begins with the number of its filter, here 0 for none.
    lines = np.hstack([np.zeros((rows, 1), np.uint8), pixels]).tobytes()
    parts = {b"IHDR": struct.pack(">2I5B", columns, rows, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(lines), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
