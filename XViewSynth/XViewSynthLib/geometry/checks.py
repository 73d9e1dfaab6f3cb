"""Whether a scan can be enhanced, asked before any work is done."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from ..errors import InputError
from .constants import INTENSITY_RANGE
from .intensity import hu_offset, sampled
from .volume import AXES, Axis, Volume

FACTORS = range(2, 9)
MINIMUM_SLICES = 4

# Spacing along the axis over the finest in-plane one, up to which a scan counts as isotropic.
ISOTROPY = 1.05

# Labels lie in solid regions, where neighbours are equal. Three values or fewer are labels wherever they lie; up to 32
# may lie in thin structures, and the background around those counts as well, which of a CT holds noise.
_FEW_LABELS, _SOME_LABELS, _MANY_LABELS = 3, 32, 256
_EQUAL_NEIGHBOURS = 0.75

# What CT scanners make, mm: the distance of voxels, and the longest side of a scan.
_PLAUSIBLE_SPACING, _PLAUSIBLE_EXTENT = (0.01, 20.0), (5.0, 3000.0)

# Products of larger numbers would leave the range of single-precision floats.
_LARGEST_NUMBER = 1e30
# Scaled to 0..1 or -1..1, to thousands of HU or by their standard deviation, values lie this close, metal included;
# and most of them closer together than the noise of water, of at least 1.5 HU.
_NORMALISED_SPAN, _LEAST_SPREAD = 50.0, 5.0
_PICTURE = (0.0, 255.0)


def check_factor(factor: object) -> int:
    """A factor that can be asked for, as a plain int.

    Raises:
        InputError: not a whole number from 2 to 8.
    """
    if isinstance(factor, bool) or not isinstance(factor, Integral) or factor not in FACTORS:
        raise InputError(f"The factor must be a whole number from 2 to 8, not {factor}.")
    return int(factor)


def check_enhanceable(volume: Volume, axis: str = "auto", factor: int | None = None, *, forced: bool = False) -> None:
    """Refuse a scan, or a request, that cannot give a meaningful result.

    A scan counts as a labelmap when all its values are whole numbers of at least 0 and it has at most 3 of them, or
    at most 256 where besides three of four neighbours are equal, which noise never allows in a CT.

    Args:
        volume: the scan.
        axis: "auto" or the axis to enhance along.
        factor: how many times more slices, or None where it follows from the spacing.
        forced: the user named the axis or the factor, so that an isotropic scan is enhanced all the same.

    Raises:
        InputError: a scan that this program made, a factor other than 2 to 8, fewer than 4 slices, NaN or infinite
            voxels, one value everywhere, a labelmap, values that are certainly no HU, or (unless forced) slices as
            close as the pixels.
    """
    check_geometry(volume, axis, factor, forced=forced)
    check_values(volume.voxels)


def check_geometry(volume: Volume, axis: str = "auto", factor: int | None = None, *, forced: bool = False) -> None:
    """The part of `check_enhanceable` that takes no time: factor, number of slices, spacing, own results.

    Raises:
        InputError: as there, but for the values.
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
    """What is implausible about the size of a scan, mm; nothing of scans as scanners make them."""
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
    """The part of `check_enhanceable` that looks at the voxels.

    Raises:
        InputError: as there, but for the geometry.
    """
    _check_numbers(voxels)
    if voxels.min() == voxels.max():
        raise InputError(f"The scan has the value {voxels.min():g} everywhere: check that it is the right one.")
    if _is_labelmap(voxels):
        raise InputError("This looks like a segmentation (labelmap), not a scan: give the CT scan itself.")
    _check_unit(voxels)


def _check_numbers(voxels: np.ndarray) -> None:
    """Refuse what single-precision floats do not hold with room to spare."""
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
    """Of the voxels above `least`, the share that equals the next one along the fastest axis."""
    here, there = voxels[..., :-1], voxels[..., 1:]
    counted = here > least
    return float((here == there)[counted].mean()) if counted.any() else 0.0


def _check_unit(voxels: np.ndarray) -> None:
    """Refuse values that are certainly no HU: normalised ones, those of a picture, and those beyond any tissue."""
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
