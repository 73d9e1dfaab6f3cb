"""Noise floor: the mean squared error of new slices that no method can remove, since their noise is their own.

At homogeneous voxels a slice is noise about a slowly varying mean. Noise that neighbouring slices share, as overlapping
slices do, can be predicted from them by a linear filter. The variance of the rest is the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..geometry.orientation import to_slices
from .metrics import body_mask, clip_hu
from .selfcheck import Trial

#: Regions, and the range in HU of the smoothed observed slices in them.
REGIONS = {"soft tissue": (-150.0, 250.0), "lung": (-970.0, -600.0)}

# Observed slices on either side that predict a hidden slice. The shared noise of slices farther away is negligible.
_NEIGHBOURS = 2
_SMOOTHING_MM = 2.0
# A smoothed slice that holds only noise has normally distributed derivatives. Their size is estimated from the lowest
# tenth, which structure hardly changes, and voxels up to this many standard deviations are homogeneous.
_LARGEST_DERIVATIVE = 2.5
_LOWEST_TENTH = 10
_RAYLEIGH_TENTH, _HALF_NORMAL_TENTH = 0.459, 0.1257
# Widths in pixels of the windows whose mean is subtracted. The subtraction removes a share of the noise in proportion
# to 1 / pixels, so that two widths give the variance without a subtraction.
_NARROW, _WIDE = 13, 25
_FEWEST_PIXELS = 40
# Small structures of a hidden slice are outliers of its noise. A normal distribution has this share of its variance
# within three standard deviations.
_LOCAL, _OUTLIER, _SHARE_WITHIN = 63, 3.0, 0.97334
_NORMAL_OVER_MEAN_SIZE = 1.2533
_FEWEST_VOXELS = 2000
# Pairs of observed slices, evenly distributed over the scan: enough for a floor, at a known cost.
_MOST_PAIRS = 12


@dataclass(frozen=True)
class Floor:
    """The noise floor of one region.

    Attributes:
        mse_hu2: mean squared error in HU^2 that is left with the best linear prediction of noise from observed slices.
        noise_hu: standard deviation of the noise of the hidden slices, HU.
        voxels: number of homogeneous voxels of hidden slices.
    """

    mse_hu2: float
    noise_hu: float
    voxels: int


def measure_floor(trial: Trial, check: Callable[[], None] = lambda: None) -> dict[str, Floor]:
    """The noise floor by region; a region without enough homogeneous voxels is left out.

    Homogeneous voxels are chosen from observed slices alone. For each position between two observed slices, the linear
    predictor from the two observed slices on either side (same pixel) is fitted to hidden slices, and the variance of
    its error is measured.

    Args:
        trial: a thinned scan and its truth, HU.
        check: called for every pair of observed slices; an exception of it ends the work.
    """
    return {
        name: floor
        for name, homogeneous in _homogeneous(trial, check).items()
        if (floor := _floor(trial, homogeneous, check)) is not None
    }


def observed_slices(trial: Trial) -> np.ndarray:
    """The observed voxels as (slices, rows, columns) in the order of the reference: a view."""
    return to_slices(trial.observed, trial.axis)[0]


def observed_levels(trial: Trial, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """(pairs, rows, columns) float16 HU: for each pair of observed slices, the mean of both after smoothing."""
    observed = observed_slices(trial)
    levels = np.empty((len(observed) - 1, *observed.shape[1:]), np.float16)
    below = _smoothed(trial, 0)
    for pair in range(len(levels)):
        check()
        above = _smoothed(trial, pair + 1)
        levels[pair] = (below + above) / 2
        below = above
    return levels


def _homogeneous(trial: Trial, check: Callable[[], None]) -> dict[str, dict[int, np.ndarray]]:
    """For each region a mask (rows, columns) of the homogeneous pixels between some pairs of observed slices."""
    observed = observed_slices(trial)
    body = _observed_body(trial)
    masks: dict[str, dict[int, np.ndarray]] = {name: {} for name in REGIONS}
    first, last = _NEIGHBOURS - 1, len(observed) - _NEIGHBOURS - 1
    for pair in np.unique(np.linspace(first, last, _MOST_PAIRS).round().astype(int)) if last >= first else ():
        check()
        below, above = (_smoothed(trial, int(index)) for index in (pair, pair + 1))
        level, inside = (below + above) / 2, body[pair] & body[pair + 1]
        for name, (lowest, highest) in REGIONS.items():
            region = inside & (level > lowest) & (level < highest)
            if np.count_nonzero(region) >= _FEWEST_PIXELS:
                masks[name][int(pair)] = region & _flat(below, above, region)
    return masks


def _observed_body(trial: Trial) -> np.ndarray:
    distance, rows, columns = trial.reference.spacing
    return body_mask(observed_slices(trial), (distance * trial.factor, rows, columns))


def _smoothed(trial: Trial, index: int) -> np.ndarray:
    """An observed slice after a Gaussian, HU."""
    sigma = [_SMOOTHING_MM / mm for mm in trial.reference.spacing[1:]]
    return ndimage.gaussian_filter(clip_hu(observed_slices(trial)[index]), sigma, truncate=3)


def _flat(below: np.ndarray, above: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Mask of pixels where two smoothed slices change no more than by noise, in plane and from one to the other."""
    flat = np.ones(region.shape, bool)
    for size, tenth in (
        (np.hypot(*np.gradient(below)), _RAYLEIGH_TENTH),
        (np.hypot(*np.gradient(above)), _RAYLEIGH_TENTH),
        (np.abs(above - below), _HALF_NORMAL_TENTH),
    ):
        flat &= size <= _LARGEST_DERIVATIVE * np.percentile(size[region], _LOWEST_TENTH) / tenth
    return flat


def _floor(trial: Trial, masks: dict[int, np.ndarray], check: Callable[[], None]) -> Floor | None:
    gaps = [_Gap(trial, pair, mask) for pair, mask in masks.items() if np.count_nonzero(mask) >= _FEWEST_PIXELS]
    positions = range(0 if trial.acquisition == "thick" else 1, trial.factor)
    weights = _fit(gaps, positions, check)
    errors, noises = ([_Variance() for _ in positions] for _ in range(2))
    for gap in gaps:
        check()
        windows = [_Window(gap.mask, width) for width in (_NARROW, _WIDE)]
        for index, position in enumerate(positions):
            hidden = gap.hidden(position)
            errors[index].add(hidden - np.tensordot(weights[index], gap.observed, 1), gap.mask, windows)
            noises[index].add(hidden, gap.mask, windows)
    voxels = sum(variance.voxels for variance in errors)
    if voxels < _FEWEST_VOXELS:
        return None
    # Every position counts the same, as in the scores.
    floor, noise = (float(np.mean([variance.value() for variance in found])) for found in (errors, noises))
    return Floor(min(floor, noise), noise**0.5, voxels)


def _fit(gaps: Sequence[_Gap], positions: Sequence[int], check: Callable[[], None]) -> np.ndarray:
    """(positions, neighbours) weights of the observed slices that predict the noise of hidden ones best."""
    size = 2 * _NEIGHBOURS
    products, targets = np.zeros((size, size)), np.zeros((size, len(positions)))
    for gap in gaps:
        check()
        window = _Window(gap.mask, _WIDE)
        observed, hidden = (
            np.stack([_without_outliers(window.high_pass(plane)[gap.mask]) for plane in planes])
            for planes in (gap.observed, [gap.hidden(position) for position in positions])
        )
        products += observed @ observed.T
        targets += observed @ hidden.T
    # With identical observed slices, as without noise, many weights are best. The smallest are taken.
    return np.linalg.lstsq(products, targets, rcond=1e-9)[0].T


class _Gap:
    """The slices around a gap between two observed ones, within the bounding box of a mask.

    Attributes:
        mask: (rows, columns) bool, homogeneous pixels.
        observed: (neighbours, rows, columns) float32 HU, observed slices on either side.
    """

    def __init__(self, trial: Trial, pair: int, mask: np.ndarray):
        self._box = ndimage.find_objects(mask.astype(np.uint8))[0]
        self.mask = mask[self._box]
        neighbours = slice(pair - _NEIGHBOURS + 1, pair + _NEIGHBOURS + 1)
        self.observed = clip_hu(observed_slices(trial)[(neighbours, *self._box)])
        self._between = trial.reference.slices[pair * trial.factor :]

    def hidden(self, position: int) -> np.ndarray:
        """The slice (rows, columns) at a position after the pair's first observed slice, float32 HU."""
        return clip_hu(self._between[position][self._box])


def _without_outliers(values: np.ndarray) -> np.ndarray:
    largest = _OUTLIER * 1.4826 * np.median(np.abs(values))
    return np.clip(values, -largest, largest).astype(np.float64)


class _Window:
    """Means over the pixels of a mask in a square window around each pixel."""

    def __init__(self, mask: np.ndarray, width: int):
        self._mask, self._width = mask, width
        self.pixels = np.maximum(self._sum(mask.astype(np.float32)), 1.0)

    def mean(self, plane: np.ndarray) -> np.ndarray:
        return self._sum(np.where(self._mask, plane, 0).astype(np.float32)) / self.pixels

    def high_pass(self, plane: np.ndarray) -> np.ndarray:
        """The plane (rows, columns) minus its local mean."""
        return plane - self.mean(plane)

    def _sum(self, plane: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(plane, self._width, mode="constant") * self._width**2


class _Variance:
    """Variance of the noise in planes about their local mean, without outliers."""

    def __init__(self) -> None:
        self.voxels = 0
        self._sums = np.zeros(2)
        self._lost = np.zeros(2)

    def add(self, plane: np.ndarray, mask: np.ndarray, windows: list[_Window]) -> None:
        """Add the pixels of a mask of a plane (rows, columns)."""
        counted = mask & (windows[0].pixels >= _FEWEST_PIXELS)
        wide = windows[1].high_pass(plane)
        counted &= _inliers(wide, counted)
        self.voxels += int(np.count_nonzero(counted))
        for index, window in enumerate(windows):
            self._sums[index] += np.square(window.high_pass(plane)[counted], dtype=np.float64).sum()
            self._lost[index] += (1 / window.pixels[counted]).sum(dtype=np.float64)

    def value(self) -> float:
        """The variance that a window without end would give, in the unit of the planes squared."""
        if self.voxels == 0:
            return 0.0
        narrow, wide = self._sums / self.voxels / _SHARE_WITHIN
        lost_narrow, lost_wide = self._lost / self.voxels
        slope = (wide - narrow) / max(lost_narrow - lost_wide, 1e-9)
        return float(wide + max(slope, 0.0) * lost_wide)


def _inliers(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mask of the values within three local standard deviations."""
    kept = mask
    size = np.abs(values)
    for _ in range(2):
        local = _NORMAL_OVER_MEAN_SIZE * _Window(kept, _LOCAL).mean(size)
        kept = mask & (size <= _OUTLIER * local)
    return kept
