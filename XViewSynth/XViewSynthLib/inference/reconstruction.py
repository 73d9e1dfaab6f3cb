"""Slices in HU from observed slices and predicted residuals, and their resampling to a requested spacing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from torch import Tensor

from ..geometry.constants import INTENSITY_RANGE, PADDING_BELOW
from ..geometry.grid import resampled_positions
from ..geometry.intensity import to_scalar_type
from ..geometry.interpolation import interpolation_weights, slices_used, weights_at
from ..geometry.slice_profile import SliceProfile, averaging_weights, correcting_weights, preserving_weights
from ..geometry.volume import Volume, array_axis
from ..model.spline import to_hu
from .plan import Plan

# The spline's weights fall by a factor of 3.7 a slice. Slices at larger distances do not change HU.
_SPLINE_REACH = 12


def fuse(
    scan: np.ndarray,
    residual: Tensor,
    factor: int,
    profile: SliceProfile | None = None,
    check: Callable[[], None] = lambda: None,
    dtype: np.dtype | type | None = None,
    offset: float = 0.0,
) -> np.ndarray:
    """Add the residual to the spline, and enforce data consistency.

    Thin observed slices do not change. The averages of thick ones are kept. If two neighbouring voxels both lie at or
    beyond the end of the range of the scalar type or of the networks, the spline is the result between them: the
    networks do not see such values.

    Args:
        scan: (slices, rows, columns) observed.
        residual: (s (slices - 1) + 1, rows, columns) float32, network units; set to 0 where the spline is the result.
        factor: up-sampling factor s.
        profile: of thick slices, else None.
        check: called for every slice; may raise.
        dtype: scalar type of the result; default is that of `scan`.
        offset: of the scan's numbers above HU.

    Returns:
        (s (slices - 1) + 1, rows, columns), with the same offset.
    """
    slices, rows, columns = scan.shape
    result = np.empty(residual.shape, dtype or scan.dtype)
    _keep_spline(scan, residual, factor, offset)
    # The spline must not ring at the border of the padding, and no prediction may leave the range of the scan. Averages
    # have a narrower range than thin slices, so there the limits are those of the networks.
    lowest, highest = max(float(scan.min()), INTENSITY_RANGE[0] + offset), float(scan.max())
    if profile is None:
        weights, consistency = interpolation_weights(slices, factor, "cubic"), None
    else:
        weights = preserving_weights(slices, factor, profile)
        lowest, highest = INTENSITY_RANGE[0] + offset, max(highest, INTENSITY_RANGE[1] + offset)
        consistency = _DataConsistency(scan, residual, factor, profile, weights, lowest)

    @lru_cache(maxsize=1)
    def around(gap: int) -> tuple[slice, np.ndarray]:
        """The observed slices that contribute to a gap and its ends: indices, and voxels (slices, rows columns)."""
        near = slices_used(weights[gap * factor : (gap + 1) * factor + 1])
        return near, _clipped(scan[near], lowest).reshape(-1, rows * columns)

    for index in range(len(result)):
        below, above, position = index // factor, -(-index // factor), index % factor / factor
        if profile is None and below == above:
            result[index] = scan[below]
            continue
        near, source = around(min(below, slices - 2))
        prediction = (weights[index, near] @ source).reshape(rows, columns) + to_hu(residual[index]).numpy()
        if consistency is not None:
            prediction -= consistency.at(index)
        prediction = prediction.clip(lowest, highest)
        result[index] = _with_padding(prediction, scan[below], scan[above], position, result.dtype, offset)
        check()
    return result


def _keep_spline(scan: np.ndarray, residual: Tensor, factor: int, offset: float) -> None:
    """Set the residual to 0, in place, between neighbours that both lie at or beyond one end of the range."""
    limits = np.iinfo(scan.dtype) if scan.dtype.kind in "iu" else np.finfo(scan.dtype)
    lowest = max(float(limits.min), INTENSITY_RANGE[0] + offset)
    highest = min(float(limits.max), INTENSITY_RANGE[1] + offset)

    def ends(number: int) -> tuple[np.ndarray, np.ndarray]:
        return scan[number] <= lowest, scan[number] >= highest

    slices = residual.numpy()
    below = ends(0)
    slices[0][below[0] | below[1]] = 0
    for gap in range(len(scan) - 1):
        above = ends(gap + 1)
        outside = (below[0] & above[0]) | (below[1] & above[1])
        for index in range(gap * factor + 1, (gap + 1) * factor):
            slices[index][outside] = 0
        slices[(gap + 1) * factor][above[0] | above[1]] = 0
        below = above


def _clipped(slices: np.ndarray, lowest: float) -> np.ndarray:
    slices = slices.astype(np.float32)
    return slices.clip(min=lowest, out=slices)


class _DataConsistency:
    """Correction of thin slices that makes their averages equal to the observed thick slices.

    Args:
        scan: (slices, rows, columns) observed.
        residual: (s (slices - 1) + 1, rows, columns) float32, network units.
        factor: up-sampling factor s.
        profile: of the observed slices.
        spline: (s (slices - 1) + 1, slices), weights of the spline to which the residual is added.
        lowest: lower values of the scan are clipped to this.
    """

    def __init__(
        self, scan: np.ndarray, residual: Tensor, factor: int, profile: SliceProfile, spline: np.ndarray, lowest: float
    ):
        slices = len(scan)
        averages = averaging_weights(slices, factor, profile)
        self._weights = correcting_weights(slices, factor, profile)
        # The averages of the spline, which differ from the scan if slices overlap.
        spline = averages @ spline - np.eye(slices, dtype=np.float32)
        self._averages = np.empty(scan.shape, np.float32)
        for index, (row, by_slice) in enumerate(zip(averages, spline)):
            near, close = slices_used(row), slices_used(by_slice)
            self._averages[index] = np.tensordot(row[near], to_hu(residual[near]).numpy(), axes=1)
            self._averages[index] += np.tensordot(by_slice[close], _clipped(scan[close], lowest), axes=1)

    def at(self, index: int) -> np.ndarray:
        """(rows, columns) HU, to subtract from thin slice `index`."""
        near = slices_used(self._weights[index])
        return np.tensordot(self._weights[index, near], self._averages[near], axes=1)


def _with_padding(
    prediction: np.ndarray, below: np.ndarray, above: np.ndarray, position: float, dtype: np.dtype, offset: float
) -> np.ndarray:
    """The prediction in a scalar type. A voxel between two padded ones gets the value of the nearer."""
    padded = (below < PADDING_BELOW + offset) & (above < PADDING_BELOW + offset)
    prediction = to_scalar_type(prediction, dtype)
    np.copyto(prediction, below if position <= 0.5 else above, where=padded, casting="unsafe")
    return prediction


def _resampled_at(volume: Volume, plan: Plan) -> np.ndarray:
    """Positions of the slices of a resampled result, counted in enhanced slices."""
    assert plan.resample_to is not None
    step = volume.spacing_along(plan.axis)
    return resampled_positions(volume.slices(plan.axis), plan.factor, step, plan.resample_to)


def resampled_synthetic(volume: Volume, plan: Plan) -> tuple[int, ...]:
    """Indices of the slices of a resampled result that do not lie where thin ones were observed."""
    observed = _resampled_at(volume, plan) / plan.factor
    on_observed = np.isclose(observed, np.round(observed), rtol=0, atol=1e-6) & (plan.profile is None)
    return tuple(int(index) for index in np.flatnonzero(~on_observed))


def resampled(voxels: np.ndarray, volume: Volume, plan: Plan, offset: float) -> np.ndarray:
    """(K, J, I) voxels on slices `plan.resample_to` mm apart, from enhanced ones that lie `offset` above HU."""
    dimension = array_axis(plan.axis)
    slices, positions = np.moveaxis(voxels, dimension, 0), _resampled_at(volume, plan)
    result = np.empty((len(positions), *slices.shape[1:]), slices.dtype)
    for index, position in enumerate(positions):
        result[index] = _slice_at(slices, position, offset)
    return np.moveaxis(result, 0, dimension)


def _slice_at(slices: np.ndarray, position: float, offset: float) -> np.ndarray:
    """The slice at a fractional position in (slices, rows, columns), by the cubic spline."""
    nearest = round(position)
    if abs(position - nearest) < 1e-6:
        return slices[nearest]
    below = int(position)
    first = max(0, below - _SPLINE_REACH)
    near = slices[first : below + 2 + _SPLINE_REACH]
    lowest = max(float(near.min()), INTENSITY_RANGE[0] + offset)
    weights = weights_at(len(near), position - first, "cubic")
    prediction = np.tensordot(weights, _clipped(near, lowest), axes=1).clip(lowest, float(near.max()))
    return _with_padding(prediction, slices[below], slices[below + 1], position - below, slices.dtype, offset)
