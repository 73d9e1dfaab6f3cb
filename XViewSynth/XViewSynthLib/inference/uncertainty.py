"""Uncertainty: the expected absolute error of each voxel, in HU, and a bound that holds for 90 % of the errors.

The spread of three views is not their error: it lacks the noise that no view can predict, and views share errors in
wide gaps. So the squared error is a sum of three variances with weights of at least 0: the variance of the views,
that variance per millimetre of the gap, and the unexplained noise variance. The root of the sum, the scale of
uncertainty, is mapped by two rising curves to the expected error and to its bound. Weights and curves are fitted for
each factor on scans with a known truth (`evaluation.calibration`), and are stored on the model's card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..geometry.constants import INTENSITY_RANGE, PADDING_BELOW
from ..geometry.slice_profile import unexplained_noise
from .texture import FINEST_BAND, noise_levels

if TYPE_CHECKING:
    from .plan import Plan

#: The field of a model's card, and the share of errors that lie under the bound.
CARD_FIELD, COVERAGE = "doubt", 0.9
#: The terms of the squared scale of uncertainty. Part of the card format: calibrations with other terms are ignored.
TERMS = ("disagreement", "disagreement for each mm of the gap", "noise that observed slices do not foretell")
#: The fields of calibrations by factor: for a network of that factor, and for slices that are interpolated from
#: predictions of a network of another factor.
OWN, READ_OFF = "factors", "read_off_factors"

# In-plane Gaussian over which noise is averaged, pixels.
_NOISE_SIGMA = 4.0
# Square of a second difference along rows and columns, over that of the finest band.
_CURVATURE_PER_BAND = 256.0
# For the grain of a scan's noise: number of slices, bands that count as noise (up to about 4 pixels), HU below which
# there is none, and the share of cells with the least anatomy.
_GRAIN_SLICES, _GRAIN_BANDS, _FAINT_HU, _CALM = 8, 6, 1.0, 0.25


@dataclass(frozen=True)
class Calibration:
    """From the scale of uncertainty to errors in HU, for one model and factor.

    Attributes:
        weights: of the three `TERMS`.
        scale: points of the curves, HU, rising; below the first they are linear to 0, above the last proportional.
        expected: mean absolute error at these points, HU, rising.
        bound: 90 % bound of the absolute error at these points, HU, rising.
    """

    weights: tuple[float, ...]
    scale: tuple[float, ...]
    expected: tuple[float, ...]
    bound: tuple[float, ...]

    @classmethod
    def from_card(cls, card: Mapping[str, Any], factor: int, network_factor: int | None = None) -> Calibration | None:
        """The calibration for a factor on a model's card; None if there is none, or one of other terms.

        Args:
            factor: of the target slices.
            network_factor: of the network, if another one.
        """
        uncertainty = card.get(CARD_FIELD, {})
        if uncertainty.get("terms") != list(TERMS):
            return None
        entry = uncertainty[OWN].get(str(network_factor or factor))
        if network_factor not in (None, factor):
            entry = uncertainty.get(READ_OFF, {}).get(str(factor), entry)
        if entry is None:
            return None
        return cls(*(tuple(entry[name]) for name in ("weights", "scale_hu", "expected_error_hu", "error_bound_hu")))

    def to_card(self) -> dict[str, list[float]]:
        """The entry of a factor on the card."""
        curves = {"scale_hu": self.scale, "expected_error_hu": self.expected, "error_bound_hu": self.bound}
        return {
            "weights": [float(f"{weight:.4g}") for weight in self.weights],
            **{name: [round(value, 2) for value in curve] for name, curve in curves.items()},
        }

    def expected_error(self, scale: np.ndarray) -> np.ndarray:
        """Mean absolute error, HU, for a scale of uncertainty in HU; float32.

        >>> curve = Calibration((1, 0, 0), (10, 20), (8, 16), (20, 50))
        >>> curve.expected_error(np.array([0, 5, 15, 40]))
        array([ 0.,  4., 12., 32.], dtype=float32)
        """
        return _along(self.scale, self.expected, scale)

    def error_bound(self, expected: np.ndarray) -> np.ndarray:
        """90 % bound of the absolute error, HU, for an expected error in HU; float32."""
        return _along(self.expected, self.bound, expected)


def expected_error(
    disagreement: np.ndarray,
    observed: np.ndarray,
    synthetic: Sequence[int],
    gap_mm: float,
    plan: Plan,
    calibration: Calibration,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Absolute error to expect at each voxel, (slices, rows, columns) float32 HU; 0 in other slices and in padding.

    Args:
        disagreement: (slices, rows, columns) spread of the views, HU.
        observed: (observed slices, rows, columns) HU.
        synthetic: indices of the predicted slices.
        gap_mm: distance of the observed slices.
        plan: of the enhancement.
        calibration: of the model for this factor.
        check: called for each slice; an exception of it ends the work.
    """
    result = np.zeros(disagreement.shape, np.float32)
    weights = np.asarray(calibration.weights, np.float32)
    for index, terms, padded in terms_of(disagreement, observed, synthetic, gap_mm, plan):
        check()
        scale = np.sqrt(np.tensordot(weights, terms, axes=1))
        result[index] = np.where(padded, 0, calibration.expected_error(scale))
    return result


def _along(known: Sequence[float], curve: Sequence[float], values: np.ndarray) -> np.ndarray:
    """The curve at `values`: straight from 0 to its first point, in proportion beyond its last."""
    inside = np.interp(values, [0.0, *known], [0.0, *curve])
    return np.where(values > known[-1], values * (curve[-1] / known[-1]), inside).astype(np.float32)


def terms_of(
    disagreement: np.ndarray, observed: np.ndarray, synthetic: Iterable[int], gap_mm: float, plan: Plan
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Index, (3, rows, columns) `TERMS` in HU², and (rows, columns) bool of padding, for each synthetic slice."""
    noise_at = lru_cache(maxsize=3)(lambda number: _noise(_plane(observed[number], plan.offset)).numpy())
    padding_below = PADDING_BELOW + plan.offset
    unexplained = _grain(observed, plan.offset) * unexplained_noise(plan.factor, plan.overlap, plan.profile)
    for index in synthetic:
        # For a predicted slice at the place of an observed one, the neighbours are those before and after.
        below = max(-(-index // plan.factor) - 1, 0)
        above = min(index // plan.factor + 1, len(observed) - 1)
        noise = (noise_at(below) + noise_at(above)) * np.float32(unexplained[index % plan.factor] / 2)
        spread = np.square(disagreement[index], dtype=np.float32)
        padded = (observed[below] < padding_below) & (observed[above] < padding_below)
        yield int(index), np.stack([spread, spread * np.float32(gap_mm), noise]), padded


def _grain(observed: np.ndarray, offset: float) -> float:
    """The variance of a scan's noise over that of its finest band.

    The finest band contains noise but no edges. Its share of the noise depends on the reconstruction kernel: smooth
    kernels have less. To exclude anatomy, only the cells with the least signal in a few slices are used.
    """
    ratios = []
    for index in np.unique(np.linspace(0, len(observed) - 1, _GRAIN_SLICES).astype(int)):
        levels = noise_levels(_plane(observed[index], offset))[:_GRAIN_BANDS]
        finest = levels[FINEST_BAND]
        noisy = finest > _FAINT_HU
        if noisy.any():
            ratios.append((levels[:, noisy] / finest[noisy]).quantile(_CALM, dim=1))
    return float(torch.stack(ratios).mean(dim=0).square().sum()) if ratios else 1.0


def _plane(plane: np.ndarray, offset: float) -> Tensor:
    """A plane in HU, within the range of the networks."""
    return torch.from_numpy((np.array(plane, np.float32, order="C") - np.float32(offset)).clip(*INTENSITY_RANGE))


def _noise(plane: Tensor) -> Tensor:
    """(rows, columns) variance, HU², that the noise around each pixel of a slice has in the finest band."""
    curvature = functional.pad(plane[None, None], [1] * 4, mode="replicate")[0, 0]
    for dimension in (0, 1):
        curvature = curvature.diff(n=2, dim=dimension)
    return smoothed(curvature.square(), _NOISE_SIGMA) / _CURVATURE_PER_BAND


def smoothed(plane: Tensor, sigma: float) -> Tensor:
    """A (rows, columns) plane under a Gaussian of `sigma` pixels, the border pixel repeated."""
    reach = math.ceil(3 * sigma)
    taps = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    taps = taps / taps.sum()
    smooth = functional.pad(plane[None, None], [reach] * 4, mode="replicate")
    smooth = functional.conv2d(smooth, taps.view(1, 1, -1, 1))
    return functional.conv2d(smooth, taps.view(1, 1, 1, -1))[0, 0]
