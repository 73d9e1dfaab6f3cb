"""Balls in a scan, with the resolution and the slice thickness of the scanner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from .metrics import Reference

#: (slices, rows, columns) mm from the first voxel of the truth.
Centre = tuple[float, float, float]

# Resolution of the scanner in plane and along the axis, apart from the slice thickness: full width at half maximum.
_RESOLUTION_MM = 1.0
_FWHM_PER_SIGMA = 2.3548
_SAMPLES_PER_SLICE = 4
#: Lesions are measured within this distance of their border.
MARGIN_MM = 4.0
# The matched filter compares a lesion with a shell of this width around it.
_SHELL_MM = 2.5


def rendered_ball(distance_mm: np.ndarray, diameter_mm: float) -> np.ndarray:
    """A ball of height 1 after a Gaussian for the scanner's resolution, at distances from its centre."""
    radius, sigma = diameter_mm / 2, _RESOLUTION_MM / _FWHM_PER_SIGMA
    # Not 0, where the formula is a quotient of zeros.
    r = np.maximum(distance_mm, 1e-3)
    erf = special.erf((radius - r) / (2**0.5 * sigma)) + special.erf((radius + r) / (2**0.5 * sigma))
    rims = np.exp(-((r - radius) ** 2) / (2 * sigma**2)) - np.exp(-((r + radius) ** 2) / (2 * sigma**2))
    return erf / 2 - sigma / (r * (2 * np.pi) ** 0.5) * rims


def ball_in_scan(centre: Centre, diameter: float, reference: Reference) -> tuple[tuple[slice, ...], np.ndarray]:
    """The voxels around a centre, and the share of the contrast of a ball (diameter in mm) in each, float32."""
    reach = diameter / 2 + MARGIN_MM
    box = []
    for middle, mm, size in zip(centre, reference.spacing, reference.slices.shape, strict=True):
        first, last = max(0, int((middle - reach) / mm)), min(size - 1, int((middle + reach) / mm) + 1)
        box.append(slice(first, last + 1))
    z, y, x = _offsets(centre, box, reference)
    within = (np.arange(_SAMPLES_PER_SLICE) + 0.5) / _SAMPLES_PER_SLICE - 0.5
    shifts = within * slice_thickness(reference)
    squares = y**2 + x**2
    samples = [rendered_ball(np.sqrt((z + shift) ** 2 + squares), diameter) for shift in shifts]
    return tuple(box), np.mean(samples, axis=0)


def near_ball(centre: Centre, diameter: float, box: Sequence[slice], reference: Reference) -> np.ndarray:
    """Mask of the voxels of a box that the matched filter reads."""
    z, y, x = _offsets(centre, box, reference)
    return z**2 + y**2 + x**2 <= (diameter / 2 + _SHELL_MM) ** 2


def _offsets(centre: Centre, box: Sequence[slice], reference: Reference) -> tuple[np.ndarray, ...]:
    """Distances in mm of the voxels of a box from a place along slices, rows and columns, as of `np.ix_`."""
    return np.ix_(
        *(
            (np.arange(part.start, part.stop) * mm - middle).astype(np.float32)
            for part, mm, middle in zip(box, reference.spacing, centre, strict=True)
        )
    )


def slice_thickness(reference: Reference) -> float:
    """Thickness of the thin slices in mm; their distance if it is unknown."""
    return reference.volume.thickness_along(reference.axis) or reference.spacing[0]
