"""Slice profile of thick slices, and matrices along the slices for averaging and data consistency.

An observed thick slice is one linear equation for the thin slices under it. All functions return matrices along the
slices: the averaging itself, its pseudo-inverse, and a spline with the observed averages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from ..errors import InputError
from ..request import ProfileShape

Shape = Literal["box", "gaussian"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

#: Thickness over distance of the slices that the thick model is for.
THICKNESS_RANGE = (0.5, 2.0)
#: Width of the true profile over the stated thickness. The noise of neighbouring boxes of width t has the correlation
#: 1 - 1 / t. In the middle of scans whose slices are 1 and 1.56 spacings thick (LIDC-IDRI-0314, RIDER) it is 0.34 and
#: 0.57, as of boxes of width 1.5 and 2.3.
WIDTH_OVER_THICKNESS = 1.5
#: Thickness over distance of the new slices that networks can predict: from slices that touch to the largest overlap in
#: the training of the shipped models.
OVERLAP_RANGE = (1.0, 2.5)

# A Gaussian is cut off at this many times its full width at half maximum (2.4 standard deviations). There it has fallen
# to 6 %, and it still fits into a margin of one slice distance.
_GAUSSIAN_REACH = 1.0
# Smallest relative singular value of directions that are restored. Slices that overlap by half barely contain details
# that alternate from slice to slice. Restoring these would amplify noise by more than the inverse of this value.
_SMALLEST_SINGULAR_VALUE = 0.1
# Largest share of a thick slice beyond the outermost thin ones for which data consistency is enforced. Nearly half of
# the first and the last slice lies there. Of their neighbours, this share if slices are Gaussian and overlap by half.
_MOST_BEYOND = 0.05
# Number of observed slices for the noise in the middle of them. With nine that overlap by a third, the ends would still
# contribute several per cent.
_SLICES_FOR_NOISE = 33


@dataclass(frozen=True)
class SliceProfile:
    """The sensitivity of a slice along its normal.

    Attributes:
        thickness: in units of the distance between slices: width of a box, full width at half maximum of a Gaussian.
        shape: "box", or "gaussian" for scanners whose slices fade out.

    Raises:
        InputError: unknown shape, or a thickness that is not a positive number.
    """

    thickness: float = 1.0
    shape: Shape | ProfileShape = "box"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"A slice profile {self.shape!r} does not exist: choose {' or '.join(SHAPES)}.")
        if not (np.isfinite(self.thickness) and self.thickness > 0):
            raise InputError(f"The slice thickness must be above 0 slice distances, not {self.thickness}.")

    @property
    def box_width(self) -> float:
        """Width of the box that blurs as much, by its variance, in distances between slices."""
        # A box of width w has the variance w² / 12, a Gaussian of full width f at half maximum f² / (8 ln 2).
        return self.thickness * (1.0 if self.shape == "box" else math.sqrt(12 / (8 * math.log(2))))


@lru_cache(maxsize=64)
def profile_shares(factor: int, profile: SliceProfile) -> np.ndarray:
    """The shares of thin slices in a thick one, over the support of its profile.

    Args:
        factor: distance of the thick slices, in thin ones.
        profile: of the thick slices.

    Returns:
        (2 n + 1,) float64; the sum is one.

    >>> profile_shares(4, SliceProfile())
    array([0.125, 0.25 , 0.25 , 0.25 , 0.125])
    """
    width = profile.thickness * factor
    if profile.shape == "box":
        reach = int(np.ceil((width - 1) / 2)) if width > 1 else 0
        offsets = np.arange(-reach, reach + 1)
        # Share of each thin slice, of width one, within the box.
        shares = np.clip(width / 2 + 0.5 - np.abs(offsets), 0, 1)
    else:
        reach = int(np.ceil(_GAUSSIAN_REACH * width))
        offsets = np.arange(-reach, reach + 1)
        shares = np.exp2(-4 * (offsets / width) ** 2)
    shares = shares / shares.sum()
    shares.flags.writeable = False
    return shares


@lru_cache(maxsize=64)
def averaging_weights(slices: int, factor: int, profile: SliceProfile) -> np.ndarray:
    """The share of each thin slice in each thick one.

    Args:
        slices: number of thick slices.
        factor: s; thin slice s k lies at the place of thick slice k, and extends half a thin distance to either side.
        profile: of the thick slices.

    Returns:
        (slices, s (slices - 1) + 1) float32. Every row sums to one. Beyond the first and last slice, the body is
        mirrored.

    >>> averaging_weights(4, 3, SliceProfile())[1].round(3)
    array([0.   , 0.   , 0.333, 0.333, 0.333, 0.   , 0.   , 0.   , 0.   , 0.   ], dtype=float32)
    """
    thin = factor * (slices - 1) + 1
    weights = np.zeros((slices, thin))
    shares = profile_shares(factor, profile)
    reach = len(shares) // 2
    for slice_index in range(slices):
        for offset, share in zip(range(-reach, reach + 1), shares):
            weights[slice_index, _mirrored(slice_index * factor + offset, thin)] += share
    return _frozen(weights)


@lru_cache(maxsize=64)
def correcting_weights(slices: int, factor: int, profile: SliceProfile) -> np.ndarray:
    """The smallest change of the thin slices that changes the averages by given amounts: the pseudo-inverse.

    Subtracting `correcting_weights @ (averaging_weights @ thin - observed)` from thin slices enforces data consistency:
    their averages become the observed slices. It is the orthogonal projection onto the consistent solutions, so it
    never increases the distance to a consistent truth. Details that overlapping slices barely contain do not change.
    Nor do the outermost slices, since half of their profile lies beyond the thin slices.

    Returns:
        (s (slices - 1) + 1, slices) float32; 0 for slices without data consistency (`consistent_slices`).
    """
    averages = averaging_weights(slices, factor, profile).astype(np.float64)
    met = consistent_slices(slices, factor, profile)
    weights = np.zeros(averages.T.shape)
    weights[:, met] = np.linalg.pinv(averages[met], rcond=_SMALLEST_SINGULAR_VALUE)
    return _frozen(weights)


def consistent_slices(slices: int, factor: int, profile: SliceProfile) -> np.ndarray:
    """The thick slices for which data consistency is enforced: those that lie (almost) entirely within the thin ones.

    Args:
        slices, factor, profile: as for `averaging_weights`.

    Returns:
        (slices,) bool.

    >>> consistent_slices(5, 3, SliceProfile())
    array([False,  True,  True,  True, False])
    """
    shares = profile_shares(factor, profile)
    places = factor * np.arange(slices)[:, None] + np.arange(len(shares)) - len(shares) // 2
    beyond = (places < 0) | (places > factor * (slices - 1))
    return (beyond * shares).sum(axis=1) < _MOST_BEYOND


@lru_cache(maxsize=64)
def preserving_weights(slices: int, factor: int, profile: SliceProfile) -> np.ndarray:
    """The share of each thick slice in each thin one, for a spline whose averages are the thick slices.

    The cubic spline through the thick slices, taken as samples, is too smooth. Of all splines with its knots, this is
    the one whose averages are the observed slices.

    Returns:
        (s (slices - 1) + 1, slices) float32. Every row sums to one.
    """
    from .interpolation import interpolation_weights

    spline = interpolation_weights(slices, factor, "cubic").astype(np.float64)
    averaged = averaging_weights(slices, factor, profile).astype(np.float64) @ spline
    # Knots corrected by the error of their averages, except in directions that overlapping slices barely contain.
    knots = np.eye(slices) + np.linalg.pinv(averaged, rcond=_SMALLEST_SINGULAR_VALUE) @ (np.eye(slices) - averaged)
    weights = spline @ knots
    return _frozen(weights / weights.sum(axis=1, keepdims=True))


@lru_cache(maxsize=64)
def unexplained_noise(factor: int, overlap: float, profile: SliceProfile | None = None) -> np.ndarray:
    """Unexplained noise variance of new slices, over the noise variance of the observed ones.

    The observed slices cannot predict this noise. The correlation of noise falls with the distance of slices as for a
    Gaussian profile. Thin slices that touch explain little of each other's noise, and so does their average. The more
    slices overlap, the more they explain.

    Args:
        factor: s.
        overlap: thickness of the new slices over their distance.
        profile: of the observed slices; None if these are as thin as the new ones.

    Returns:
        (s,) float64 variances, of the best linear estimate, at 0, 1 ... s - 1 new slices after the centre of an
        observed one that is far from both ends.

    >>> unexplained_noise(4, 1.0).round(2)
    array([0.  , 0.93, 1.  , 0.93])
    >>> unexplained_noise(4, 1.0, SliceProfile()).round(2)
    array([1.66, 1.92, 2.47, 1.92])
    """
    places = np.arange(factor * (_SLICES_FOR_NOISE - 1) + 1)
    if profile is None:
        weights = np.eye(len(places))[::factor]
    else:
        weights = averaging_weights(_SLICES_FOR_NOISE, factor, profile).astype(np.float64)
    # At the distance d, profiles of variance v have the noise correlation exp(-d² / 4 v). A box of width w has w² / 12.
    correlation = np.exp(-3 * np.subtract.outer(places, places) ** 2 / (WIDTH_OVER_THICKNESS * overlap) ** 2)
    cross = weights @ correlation
    observed = cross @ weights.T
    inverse = np.linalg.pinv(observed, rcond=_SMALLEST_SINGULAR_VALUE**2, hermitian=True)
    explained = (cross * (inverse @ cross)).sum(axis=0)
    middle = _SLICES_FOR_NOISE // 2
    unexplained = (1 - explained)[middle * factor : (middle + 1) * factor].clip(min=0) / observed[middle, middle]
    unexplained.flags.writeable = False
    return unexplained


def _mirrored(index: int, count: int) -> int:
    """The index within 0 to count - 1 of the same slice in a body that is mirrored at its outermost slices."""
    period = 2 * (count - 1)
    index %= period
    return min(index, period - index)


def _frozen(weights: np.ndarray) -> np.ndarray:
    weights = weights.astype(np.float32)
    weights.flags.writeable = False
    return weights
