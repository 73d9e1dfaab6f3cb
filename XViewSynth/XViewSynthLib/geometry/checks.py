"""Checks whether a scan can be enhanced, before any work is done."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from ..errors import InputError
from .constants import INTENSITY_RANGE
from .intensity import hu_offset, sampled
from .volume import AXES, Axis, Volume

FACTORS = range(2, 9)
MINIMUM_SLICES = 4

# Largest spacing along the axis, over the finest in-plane one, of an isotropic scan.
ISOTROPY = 1.05

# Labels lie in solid regions, where neighbours are equal. Three values or fewer are always labels. Up to 32 labels may
# lie in thin structures, so the background around them counts as well, which contains noise in a CT.
_FEW_LABELS, _SOME_LABELS, _MANY_LABELS = 3, 32, 256
_EQUAL_NEIGHBOURS = 0.75

# Range of CT scanners, mm: the distance of voxels, and the longest side of a scan.
_PLAUSIBLE_SPACING, _PLAUSIBLE_EXTENT = (0.01, 20.0), (5.0, 3000.0)

# Products of larger numbers would leave the range of single-precision floats.
_LARGEST_NUMBER = 1e30
# Values scaled to 0..1 or -1..1, to thousands of HU or by their standard deviation have at most this range, with metal.
# And most of them are closer together than the noise of water, which is at least 1.5 HU.
_NORMALISED_SPAN, _LEAST_SPREAD = 50.0, 5.0
_PICTURE = (0.0, 255.0)


def check_factor(factor: object) -> int:
    """The factor as a plain int.

    Raises:
        InputError: not a whole number from 2 to 8.
    """
    if isinstance(factor, bool) or not isinstance(factor, Integral) or factor not in FACTORS:
        raise InputError(f"The factor must be a whole number from 2 to 8, not {factor}.")
    return int(factor)


def check_enhanceable(volume: Volume, axis: str = "auto", factor: int | None = None, *, forced: bool = False) -> None:
    """Refuse a scan, or a request, that cannot give a meaningful result.

    A scan counts as a labelmap if it has at most 3 different values, all of them whole numbers of at least 0. Up to 256
    different values count too if three of four neighbours are equal, which the noise of a CT excludes.

    Args:
        volume: the scan.
        axis: "auto" or the axis to enhance along.
        factor: how many times more slices; None to derive it from the spacing.
        forced: the user gave the axis or the factor, so an isotropic scan is accepted.

    Raises:
        InputError: a scan that this program made, a factor other than 2 to 8, fewer than 4 slices, NaN or infinite
            voxels, one value everywhere, a labelmap, values that are certainly no HU, or (unless forced) slices as
            close as the pixels.
    """
    check_geometry(volume, axis, factor, forced=forced)
    check_values(volume.voxels)


def check_geometry(volume: Volume, axis: str = "auto", factor: int | None = None, *, forced: bool = False) -> None:
    """The quick part of `check_enhanceable`: factor, number of slices, spacing, results of this program.

    Raises:
        InputError: as there, except for the values.
    """
    if volume.synthetic:
        raise InputError(
            "The scan was made by XViewSynth: give the series it came from (or add --again to enhance or selfcheck)."
        )
    if factor is not None:
        check_factor(factor)
    along = volume.resolve_axis(axis)
    if volume.slices(along) < MINIMUM_SLICES:
        raise InputError(
            f"The scan has {_count(volume.slices(along), 'slice')} along {along}, too few to learn from: at least "
            f"{MINIMUM_SLICES} are needed."
        )
    if not forced:
        _check_anisotropic(volume, along)


def geometry_notes(volume: Volume) -> tuple[str, ...]:
    """A note on an implausible spacing or size of a scan; empty if both are plausible."""
    extents = [step * count for step, count in zip(volume.spacing, volume.shape_ijk, strict=True)]
    smallest, largest = _PLAUSIBLE_SPACING
    plausible = all(smallest <= step <= largest for step in volume.spacing)
    if plausible and _PLAUSIBLE_EXTENT[0] <= max(extents) <= _PLAUSIBLE_EXTENT[1]:
        return ()
    voxels, size = (" x ".join(f"{mm:.3g}" for mm in lengths) for lengths in (volume.spacing, extents))
    return (
        f"The header gives voxels of {voxels} mm and a scan of {size} mm, which no CT scanner makes: check that its "
        "unit is the millimetre.",
    )


def _check_anisotropic(volume: Volume, axis: Axis) -> None:
    through = volume.spacing_along(axis)
    finest = min(volume.spacing_along(other) for other in AXES if other != axis)
    if through <= ISOTROPY * finest:
        already = "The scan is isotropic" if finest <= ISOTROPY * through else "The slices are closer than the pixels"
        raise InputError(
            f"{already} already ({through:.2f} mm along {axis}, {finest:.2f} mm in plane): name a factor "
            "to enhance it all the same."
        )


def check_values(voxels: np.ndarray) -> None:
    """The part of `check_enhanceable` that concerns the voxels.

    Raises:
        InputError: as there, except for the geometry.
    """
    _check_numbers(voxels)
    if voxels.min() == voxels.max():
        raise InputError(f"The scan has the value {voxels.min():g} everywhere: check that it is the right one.")
    if _is_labelmap(voxels):
        raise InputError("This looks like a segmentation (labelmap), not a scan: give the CT scan itself.")
    _check_unit(voxels)


def _check_numbers(voxels: np.ndarray) -> None:
    """Refuse NaN, infinity, and numbers near the limit of single-precision floats."""
    if voxels.dtype.kind != "f":
        return
    largest = min(_LARGEST_NUMBER, float(np.finfo(voxels.dtype).max))
    broken = sum(int(np.count_nonzero(~(np.abs(plane) <= largest))) for plane in voxels)
    if broken:
        raise InputError(
            f"The scan has NaN or infinite values in {_count(broken, 'voxel')}: replace them, for example by -1024."
        )


def _is_labelmap(voxels: np.ndarray) -> bool:
    if voxels.min() < 0:
        return False
    labels: set[float] = set()
    for plane in voxels:
        if voxels.dtype.kind == "f" and (plane != np.rint(plane)).any():
            return False
        labels.update(np.unique(plane).tolist())
        if len(labels) > _MANY_LABELS:
            return False
    least = 0 if len(labels) > _SOME_LABELS else -1
    return len(labels) <= _FEW_LABELS or _share_of_equal_neighbours(voxels, least) > _EQUAL_NEIGHBOURS


def _share_of_equal_neighbours(voxels: np.ndarray, least: int) -> float:
    """Share of the voxels above `least` that equal the next voxel along the fastest axis."""
    here, there = voxels[..., :-1], voxels[..., 1:]
    counted = here > least
    return float((here == there)[counted].mean()) if counted.any() else 0.0


def _check_unit(voxels: np.ndarray) -> None:
    """Refuse values that are certainly not HU: normalised ones, those of a picture, and those beyond any tissue."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    scale = f"The values range from {lowest:.4g} to {highest:.4g}"
    if highest - lowest <= _NORMALISED_SPAN and _is_normalised(voxels):
        raise InputError(f"{scale}, as of a scan that was normalised: give the scan in HU.")
    if (lowest, highest) == _PICTURE:
        raise InputError(f"{scale}, as of a picture: give the scan in HU.")
    if lowest >= INTENSITY_RANGE[1] and not hu_offset(voxels):
        raise InputError(f"{scale}, which is above all tissue: give the scan in HU.")


def _is_normalised(voxels: np.ndarray) -> bool:
    """Whether most values are fractions that lie closer together than the noise of any scanner allows."""
    values = sampled(voxels)
    near, far = np.quantile(values, [0.02, 0.95])
    return bool(far - near <= _LEAST_SPREAD and (values != np.rint(values)).any())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
