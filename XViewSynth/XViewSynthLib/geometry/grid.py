"""Grid of an enhanced scan: axis, factor, slices and spacing. Needs neither voxels nor torch.

So a panel can show the result's size while the user chooses options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .checks import check_geometry
from .volume import Axis, Volume, affine_column, array_axis

DEFAULT_SPACING = 1.25
LARGEST_FACTOR = 8

# Ratios closer than this to a whole number are whole: headers round spacings to about three digits.
_WHOLE = 0.01


@dataclass(frozen=True)
class Grid:
    """Grid of a result.

    Attributes:
        axis: the axis that gets more slices.
        factor: slices become `factor * (slices - 1) + 1`.
        resample_to: spacing in mm to resample to after the factor, or None if the factor suffices.
        shape: (K, J, I) of the result.
        spacing: (I, J, K) of the result, mm.
    """

    axis: Axis
    factor: int
    resample_to: float | None
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def slices(self) -> int:
        """Number of slices of the result along `axis`."""
        return self.shape[array_axis(self.axis)]

    @property
    def slice_spacing(self) -> float:
        """Distance between neighbouring slices of the result, mm."""
        return self.spacing[affine_column(self.axis)]


def settle_grid(
    volume: Volume,
    *,
    factor: int | None = None,
    spacing: float | None = None,
    isotropic: bool = False,
    axis: str = "auto",
) -> Grid:
    """Compute the grid of the result.

    Without `factor`, `spacing` or `isotropic`: the smallest factor that brings the slices to 1.25 mm or less, at most
    8.

    Args:
        volume: the scan.
        factor: 2 to 8.
        spacing: target distance of slices, mm.
        isotropic: the target is the in-plane pixel spacing.
        axis: "auto" is the axis of the slices (`Volume.through_plane_axis`).

    Raises:
        InputError: the request is impossible, or the scan has too few slices or slices close enough.

    >>> scan = Volume(np.zeros((48, 512, 512), np.int16), np.diag([0.7, 0.7, 5.0, 1.0]))
    >>> grid = settle_grid(scan)
    >>> grid.factor, grid.slices, grid.slice_spacing
    (4, 189, 1.25)
    """
    if sum(request is not None and request is not False for request in (factor, spacing, isotropic)) > 1:
        raise InputError("Choose one of factor, spacing and isotropic, not several.")
    chosen = volume.resolve_axis(axis)
    check_geometry(volume, chosen, factor, forced=factor is not None or spacing is not None or axis != "auto")
    target = volume.pixel_spacing(chosen) if isotropic else spacing
    factor, resample_to = _resolve_factor(volume, chosen, factor, target)
    shape, output_spacing = list(volume.upsampled_shape(chosen, factor)), list(volume.spacing)
    output_spacing[affine_column(chosen)] /= factor
    if resample_to is not None:
        positions = resampled_positions(volume.slices(chosen), factor, volume.spacing_along(chosen), resample_to)
        shape[array_axis(chosen)] = len(positions)
        output_spacing[affine_column(chosen)] = resample_to
    (slices, rows, columns), (i, j, k) = shape, output_spacing
    return Grid(chosen, factor, resample_to, (slices, rows, columns), (i, j, k))


def resampled_positions(slices: int, factor: int, step: float, resample_to: float) -> np.ndarray:
    """Positions of the slices of a resampled result, counted in enhanced slices.

    Args:
        slices: observed slices N, `step` mm apart.
        factor: factor of the enhancement.
        resample_to: distance of the resampled slices, mm.
    """
    ratio = resample_to * factor / step
    last = factor * (slices - 1)
    return np.arange(math.floor(last / ratio + 1e-6) + 1) * ratio


def _resolve_factor(volume: Volume, axis: Axis, factor: int | None, target: float | None) -> tuple[int, float | None]:
    if factor is not None:
        return factor, None
    step = volume.spacing_along(axis)
    if target is None:
        needed = math.ceil(step / DEFAULT_SPACING - _WHOLE)
        if needed < 2:
            raise InputError(
                f"Name a factor to go finer: slices along {axis} are {step:.3g} mm apart, which is fine already."
            )
        return min(needed, LARGEST_FACTOR), None
    if not (np.isfinite(target) and target > 0):
        raise InputError(f"The spacing must be a positive number of millimetres, not {target}.")
    ratio = step / target
    if ratio <= 1 + _WHOLE:
        raise InputError(
            f"Choose a spacing below {step:.3g} mm, the distance of slices along {axis}; {target:.3g} is not."
        )
    if ratio > LARGEST_FACTOR + _WHOLE:
        raise InputError(
            f"Choose a spacing of at least {step / LARGEST_FACTOR:.3g} mm, or factor {LARGEST_FACTOR}: reaching "
            f"{target:.3g} mm from slices {step:.3g} mm apart takes more than {LARGEST_FACTOR} times the slices."
        )
    nearest = round(ratio)
    if nearest >= 2 and abs(ratio - nearest) <= _WHOLE:
        return nearest, None
    return math.ceil(ratio), target
