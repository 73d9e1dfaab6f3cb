"""How a scanner turns the body into slices, and how a thick scan is made from a thin one."""

from __future__ import annotations

from .errors import InputError
from .orientation import to_slices
from .volume import AXES, SPACING_TOLERANCE, Axis, Volume, affine_column, array_axis

ACQUISITIONS = ("auto", "gap", "thick")


def acquisition_axis(volume: Volume, requested: str = "auto") -> Axis:
    """The axis along which the slices of a scan, thin or thick, were acquired.

    In a thin scan the through-plane axis need not have the largest spacing (0.8 x 0.8 x 0.7 mm), but the pixels are
    nearly always square: the one spacing that differs from two equal ones belongs to the slices. Without two equal
    ones it is the largest.

    Raises:
        InputError: `requested` is neither "auto" nor "I", "J", "K".
    """
    if requested != "auto":
        return volume.resolve_axis(requested)
    spacing = dict(zip(AXES, volume.spacing, strict=True))
    different = []
    for axis in AXES:
        first, second = (spacing[other] for other in AXES if other != axis)
        if _equal(first, second) and not _equal(spacing[axis], first):
            different.append(axis)
    return different[0] if different else volume.through_plane_axis


def cut_to_factor(volume: Volume, factor: int, axis: str = "auto") -> Volume:
    """The slices that a scan thinned by `factor` can restore: the first `((D - 1) // factor) * factor + 1` of D.

    "First" is towards left, posterior or inferior, never the start of the array, so that the same slices remain
    however the scan was stored.

    Raises:
        InputError: the scan has no slice to drop.
    """
    axis = acquisition_axis(volume, axis)
    start, stop = _kept_range(volume, factor, axis)
    return _sliced(volume, axis, start, stop, step=1)


def thin(volume: Volume, factor: int, axis: str = "auto") -> Volume:
    """Every `factor`-th slice: what a scanner with thin slices far apart (the gap model) would have seen.

    Up-sampling the result by `factor` gives the grid of `cut_to_factor(volume, factor, axis)`.

    Raises:
        InputError: the scan has no slice to drop.

    >>> import numpy as np
    >>> scan = Volume(np.zeros((10, 8, 9), np.int16), np.diag([0.8, 0.8, 1.0, 1.0]))
    >>> thin(scan, 4).voxels.shape, thin(scan, 4).spacing[2], cut_to_factor(scan, 4).voxels.shape
    ((3, 8, 9), 4.0, (9, 8, 9))
    """
    axis = acquisition_axis(volume, axis)
    start, stop = _kept_range(volume, factor, axis)
    return _sliced(volume, axis, start, stop, step=factor)


def resolve_acquisition(volume: Volume, requested: str = "auto") -> tuple[str, str | None]:
    """The acquisition model to use, and what the user should know about the choice, if anything.

    Raises:
        InputError: unknown, or one that no model here was trained for.
    """
    if requested not in ACQUISITIONS:
        raise InputError(f"Acquisition {requested!r} does not exist: choose auto or gap.")
    if requested == "thick":
        raise InputError("The thick-slice acquisition model is not available yet: use --acquisition gap.")
    if requested == "gap":
        return "gap", None
    note = "Slices were taken as thin and far apart (gap): the thick-slice model is not available yet."
    thickness, distance = volume.slice_thickness, max(volume.spacing)
    if thickness is not None and thickness > 0.5 * distance:
        note += f" These slices are {thickness:g} mm thick and {distance:g} mm apart, so details may come out too soft."
    return "gap", note


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= SPACING_TOLERANCE * max(first, second)


def _kept_range(volume: Volume, factor: int, axis: Axis) -> tuple[int, int]:
    if factor < 2:
        raise InputError(f"A factor of {factor} drops no slice: choose a whole number from 2 to 8.")
    slices = volume.slices(axis)
    kept = ((slices - 1) // factor) * factor + 1
    if kept == 1:
        raise InputError(
            f"{slices} slices along {axis} are too few to drop all but every {factor}th: use a smaller factor."
        )
    runs_backwards = to_slices(volume, axis)[1].reversed[0]
    return (slices - kept, slices) if runs_backwards else (0, kept)


def _sliced(volume: Volume, axis: Axis, start: int, stop: int, step: int) -> Volume:
    index = [slice(None)] * 3
    index[array_axis(axis)] = slice(start, stop, step)
    affine = volume.affine.copy()
    column = affine_column(axis)
    affine[:3, 3] += start * affine[:3, column]
    affine[:3, column] *= step
    return Volume(volume.voxels[tuple(index)], affine, volume.slice_thickness)
