"""Parts of a scan, in canonical order of slices, rows and columns."""

from __future__ import annotations

import math
from dataclasses import replace

from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.geometry.volume import Axis, Volume


def part_of(
    volume: Volume, axis: Axis, slices: slice, rows: slice = slice(None), columns: slice = slice(None)
) -> Volume:
    """A box of a scan at its place in the patient.

    Args:
        volume: the scan.
        axis: along which its slices lie.
        slices, rows, columns: the box, in indices of `orientation.to_slices(volume, axis)`.
    """
    order = to_slices(volume, axis)[1]
    index = [slice(None)] * 3
    for dimension, backwards, kept in zip(order.dimensions, order.reversed, (slices, rows, columns), strict=True):
        count = volume.voxels.shape[dimension]
        start, stop, _ = kept.indices(count)
        index[dimension] = slice(count - stop, count - start) if backwards else slice(start, stop)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.ijk_to_ras([kept.start for kept in reversed(index)])
    return replace(volume, voxels=volume.voxels[tuple(index)], affine=affine)


def middle_of(volume: Volume, axis: Axis, pixels: int) -> Volume:
    """The middle `pixels` x `pixels` of every slice; smaller slices as a whole."""
    shape = to_slices(volume, axis)[0].shape
    rows, columns = (slice(max(0, (size - pixels) // 2), max(0, (size - pixels) // 2) + pixels) for size in shape[1:])
    return part_of(volume, axis, slice(None), rows, columns)


def split_slices(volume: Volume, axis: Axis, upper_share: float) -> tuple[Volume, Volume]:
    """The slices of a scan in two disjoint parts: towards left, posterior or inferior, and the rest.

    Args:
        volume: the scan.
        axis: along which its slices lie.
        upper_share: share of the slices in the second part, rounded up.
    """
    count = volume.slices(axis)
    border = count - math.ceil(count * upper_share)
    return part_of(volume, axis, slice(0, border)), part_of(volume, axis, slice(border, count))
