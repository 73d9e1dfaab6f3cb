"""Acquisition of slices (thin or thick), and simulation of thick scans from thin ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from ..errors import InputError
from ..request import ProfileShape
from .constants import LOWEST_HU, PADDING_BELOW
from .intensity import to_scalar_type
from .orientation import to_slices
from .slice_profile import OVERLAP_RANGE, THICKNESS_RANGE, Shape, SliceProfile, profile_shares
from .volume import SPACING_TOLERANCE, Axis, Volume, affine_column, array_axis

#: "gap": slices are thin and far apart. "thick": slices are averages over their thickness.
Acquisition = Literal["gap", "thick"]
ACQUISITIONS = ("auto", *get_args(Acquisition))

# Smallest thickness over distance of slices that count as averages.
_THICK_FROM = 0.6


def cut_to_factor(volume: Volume, factor: int, axis: str = "auto", profile: SliceProfile | None = None) -> Volume:
    """The slices that can be restored after thinning by `factor`: the first `((D - 1) // factor) * factor + 1` of D.

    "First" is towards left, posterior or inferior, not the start of the array. So the result does not depend on how the
    scan is stored.

    Args:
        volume: a scan with thin slices.
        factor: this many slices become one.
        axis: "auto" is the axis of the slices.
        profile: of the thick slices made by `average`. None of them may reach beyond the scan, so D counts only the
            slices that can be the middle of a thick one. None if slices are dropped.

    Raises:
        InputError: the scan has no slice to drop.
    """
    axis = volume.resolve_axis(axis)
    start, stop = _kept_range(volume, factor, axis, profile)
    return _sliced(volume, axis, start, stop, step=1)


def slices_left(slices: int, factor: int, profile: SliceProfile | None = None) -> int:
    """Number of slices after `thin`, or with the profile of thick slices after `average`; 0 if there are too few.

    >>> slices_left(13, 4), slices_left(13, 4, SliceProfile())
    (4, 3)
    """
    middles = slices - 2 * _reach(factor, profile)
    return (middles - 1) // factor + 1 if middles > 0 else 0


def remedy_for_too_few(slices: int, factor: int, fewest: int, profile: SliceProfile | None = None) -> str:
    """Advice if `slices_left` is below `fewest`: a smaller factor if that leaves enough slices, else a longer scan.

    >>> remedy_for_too_few(7, 3, 4), remedy_for_too_few(6, 2, 4)
    ('a smaller factor or a longer scan', 'a longer scan')
    """
    smaller = any(slices_left(slices, each, profile) >= fewest for each in range(2, factor))
    return "a smaller factor or a longer scan" if smaller else "a longer scan"


def thin(volume: Volume, factor: int, axis: str = "auto") -> Volume:
    """Every `factor`-th slice, as of a scanner with thin slices far apart (the gap model).

    Up-sampling the result by `factor` gives the grid of `cut_to_factor(volume, factor, axis)`.

    Raises:
        InputError: the scan has no slice to drop.

    >>> import numpy as np
    >>> scan = Volume(np.zeros((10, 8, 9), np.int16), np.diag([0.8, 0.8, 1.0, 1.0]))
    >>> thin(scan, 4).voxels.shape, thin(scan, 4).spacing[2], cut_to_factor(scan, 4).voxels.shape
    ((3, 8, 9), 4.0, (9, 8, 9))
    """
    axis = volume.resolve_axis(axis)
    start, stop = _kept_range(volume, factor, axis)
    return _sliced(volume, axis, start, stop, step=factor)


def average(volume: Volume, factor: int, axis: str = "auto", profile: SliceProfile | None = None) -> Volume:
    """Thick slices, averaged from thin ones as by a scanner (the thick model), at the distance of those of `thin`.

    Args:
        volume: a scan with thin slices, HU.
        factor: distance of the thick slices, in thin ones.
        axis: "auto" is the axis of the slices.
        profile: of the thick slices; by default boxes that touch.

    Returns:
        Slices that are averages within the scan. Up-sampled by `factor`, they have the grid of
        `cut_to_factor(volume, factor, axis, profile)`; the outermost ones extend beyond that grid. Voxels are rounded
        to the type of the scan, as a scanner does. Padding, such as -3024, is averaged as air. It is kept if the middle
        of the slice is padded.

    Raises:
        InputError: the scan has no slice to drop.
    """
    profile = profile or SliceProfile()
    axis = volume.resolve_axis(axis)
    start, stop = _kept_range(volume, factor, axis, profile)
    thick = _sliced(volume, axis, start, stop, step=factor)
    dimension = array_axis(axis)
    fine, middle = (np.moveaxis(part.voxels, dimension, 0) for part in (volume, thick))
    shares = profile_shares(factor, profile).astype(np.float32)
    first = start - len(shares) // 2
    averaged = np.empty(middle.shape, middle.dtype)
    for index in range(len(middle)):
        seen = fine[first + index * factor :][: len(shares)].astype(np.float32).clip(min=LOWEST_HU)
        averaged[index] = to_scalar_type(np.tensordot(shares, seen, axes=1), averaged.dtype)
        np.copyto(averaged[index], middle[index], where=middle[index] < PADDING_BELOW)
    thickness = profile.thickness * thick.spacing_along(axis)
    return replace(thick, voxels=np.moveaxis(averaged, 0, dimension), slice_thickness=thickness)


def resolve_acquisition(
    volume: Volume, axis: Axis, requested: str = "auto", thickness: float | None = None
) -> Acquisition:
    """How the slices along an axis were acquired.

    "auto" uses the slice thickness of the scan. Slices of at least 0.6 of their distance are averages ("thick").
    Thinner ones and those of unknown thickness are samples ("gap").

    Args:
        volume: the scan.
        axis: along which its slices lie.
        requested: "auto", "gap" or "thick".
        thickness: mm, in place of that of the scan.

    Raises:
        InputError: there is no such acquisition, or the given thickness is not a positive number.
    """
    if requested not in ACQUISITIONS:
        raise InputError(f"Acquisition {requested!r} does not exist: choose {', '.join(ACQUISITIONS)}.")
    for acquisition in get_args(Acquisition):
        if requested == acquisition:
            return acquisition
    thickness = known_thickness(volume, axis, thickness)
    is_thick = thickness is not None and thickness >= _THICK_FROM * volume.spacing_along(axis)
    return "thick" if is_thick else "gap"


def known_thickness(volume: Volume, axis: Axis, given: float | None = None) -> float | None:
    """Thickness of the slices along an axis, mm: as given, else that of the scan; None if it is unknown.

    Raises:
        InputError: the given thickness is not a positive number.
    """
    return volume.thickness_along(axis) if given is None else replace(volume, slice_thickness=given).slice_thickness


def resolve_overlap(
    volume: Volume,
    axis: Axis,
    factor: int,
    acquisition: Acquisition,
    thickness: float | None = None,
    new_thickness: float | None = None,
) -> float:
    """Overlap of the new slices: their thickness over their distance. At 1 they touch, below there are gaps.

    Slices between thin ones are as thick as those. Slices in place of thick ones have the requested thickness. The
    default is slices that touch.

    Args:
        volume: the scan.
        axis: along which its slices lie.
        factor: how many times closer the new slices are.
        acquisition: "gap" or "thick".
        thickness: of the slices of the scan, mm, in place of that of the scan.
        new_thickness: of the new slices, mm, where those of the scan are thick.

    Raises:
        InputError: the given thickness is not a positive number; the new one is not `OVERLAP_RANGE` times the distance
            of the new slices, or slices are thin.
    """
    distance = volume.spacing_along(axis) / factor
    if acquisition == "thick":
        return 1.0 if new_thickness is None else _checked_overlap(new_thickness, distance)
    if new_thickness is not None:
        raise InputError(
            "Slices between thin ones are as thick as those: leave the new thickness out, or give the thickness of the "
            "scan's slices."
        )
    known = known_thickness(volume, axis, thickness)
    return 1.0 if known is None else known / distance


def resolve_profile(
    volume: Volume, axis: Axis, thickness: float | None = None, shape: Shape | ProfileShape = "box"
) -> SliceProfile:
    """The slice profile of a thick scan.

    Args:
        volume: the scan.
        axis: along which its slices lie.
        thickness: mm; by default that of the scan, or else the distance of the slices.
        shape: of the profile.

    Raises:
        InputError: unknown shape, or a given thickness that is not 0.5 to 2 times the distance.
    """
    distance = volume.spacing_along(axis)
    thinnest, thickest = THICKNESS_RANGE
    if thickness is None:
        ratio = min(max((volume.thickness_along(axis) or distance) / distance, thinnest), thickest)
    else:
        ratio = thickness / distance
        if not thinnest <= ratio <= thickest:
            raise InputError(
                f"Slices {distance:g} mm apart are {thinnest * distance:g} to {thickest * distance:g} mm thick, not "
                f"{thickness:g} mm: leave the thickness out, or take the slices as thin and far apart (gap)."
            )
    return SliceProfile(ratio, shape)


def _checked_overlap(thickness: float, distance: float) -> float:
    overlap = thickness / distance
    thinnest, thickest = OVERLAP_RANGE
    if not thinnest * (1 - SPACING_TOLERANCE) <= overlap <= thickest * (1 + SPACING_TOLERANCE):
        raise InputError(
            f"New slices {distance:.4g} mm apart can be {thinnest * distance:.4g} to {thickest * distance:.4g} mm "
            f"thick, not {thickness:g} mm."
        )
    return min(max(overlap, thinnest), thickest)


def _reach(factor: int, profile: SliceProfile | None) -> int:
    """Number of thin slices that contribute to a thick one on either side of its middle."""
    return len(profile_shares(factor, profile)) // 2 if profile else 0


def _kept_range(volume: Volume, factor: int, axis: Axis, profile: SliceProfile | None = None) -> tuple[int, int]:
    if factor < 2:
        raise InputError(f"A factor of {factor} drops no slice: choose a whole number from 2 to 8.")
    slices = volume.slices(axis)
    left = slices_left(slices, factor, profile)
    if left < 2:
        task = f"make thick slices {factor} times as far apart" if profile else f"drop all but every {factor}th"
        remedy = remedy_for_too_few(slices, factor, 2, profile)
        raise InputError(f"{slices} slices along {axis} are too few to {task}: use {remedy}.")
    kept, margin = (left - 1) * factor + 1, _reach(factor, profile)
    runs_backwards = to_slices(volume, axis)[1].reversed[0]
    return (slices - margin - kept, slices - margin) if runs_backwards else (margin, margin + kept)


def _sliced(volume: Volume, axis: Axis, start: int, stop: int, step: int) -> Volume:
    index = [slice(None)] * 3
    index[array_axis(axis)] = slice(start, stop, step)
    affine = volume.affine.copy()
    column = affine_column(axis)
    affine[:3, 3] += start * affine[:3, column]
    affine[:3, column] *= step
    return replace(
        volume,
        voxels=volume.voxels[tuple(index)],
        affine=affine,
        slice_thickness=volume.thickness_along(axis),
        slice_axis=axis,
    )
