"""Whether a scan can be enhanced, asked before any work is done."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from .errors import InputError
from .volume import AXES, Axis, Volume

FACTORS = range(2, 9)
MINIMUM_SLICES = 4

# Spacing along the axis over the finest in-plane one, up to which a scan counts as isotropic.
ISOTROPY = 1.05

_FEW_LABELS = 32
_MANY_LABELS = 256


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

    A scan counts as a labelmap when all its values are whole numbers of at least 0 and it has at most 32 of them, or
    at most 256 where besides four of five neighbours in the foreground are equal, which noise never allows in a CT.

    Args:
        volume: the scan, HU.
        axis: "auto" or the axis to enhance along.
        factor: how many times more slices, or None where it follows from the spacing.
        forced: the user named the axis or the factor, so that an isotropic scan is enhanced all the same.

    Raises:
        InputError: a scan that this program made, a factor other than 2 to 8, fewer than 4 slices, NaN or infinite
            voxels, one value everywhere, a labelmap, or (unless forced) a scan that is isotropic already.
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


def _check_anisotropic(volume: Volume, axis: Axis) -> None:
    through = volume.spacing_along(axis)
    finest = min(volume.spacing_along(other) for other in AXES if other != axis)
    if through <= ISOTROPY * finest:
        raise InputError(
            f"The scan is isotropic already ({through:.2f} mm along {axis}, {finest:.2f} mm in plane): name a factor "
            "to enhance it all the same."
        )


def check_values(voxels: np.ndarray) -> None:
    """The part of `check_enhanceable` that looks at every voxel.

    Raises:
        InputError: NaN or infinite voxels, one value everywhere, or a labelmap.
    """
    if voxels.dtype.kind == "f":
        broken = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in voxels)
        if broken:
            raise InputError(
                f"The scan has NaN or infinite values in {_count(broken, 'voxel')}: replace them, for example by -1024."
            )
    if voxels.min() == voxels.max():
        raise InputError(f"The scan has the value {voxels.min():g} everywhere: check that it is the right one.")
    if _is_labelmap(voxels):
        raise InputError("This looks like a segmentation (labelmap), not a scan: give the CT scan itself.")


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
    return len(labels) <= _FEW_LABELS or _share_of_equal_neighbours(voxels) > 0.8


def _share_of_equal_neighbours(voxels: np.ndarray) -> float:
    """Of the voxels above 0, the share that equals the next one along the fastest axis."""
    here, there = voxels[..., :-1], voxels[..., 1:]
    foreground = here > 0
    return float((here == there)[foreground].mean()) if foreground.any() else 0.0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
