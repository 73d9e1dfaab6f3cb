"""Fitting the calibration of a model's doubt (`doubt`) to errors that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .doubt import COVERAGE, Calibration

_ROUNDS = 200
_STEP = 0.7
# Shares of the voxels, from little doubt to much, at which the curves are broken; finer where errors are large.
_BREAKS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0)


def fit(scans: Sequence[np.ndarray]) -> Calibration:
    """The weights and curves that suit scans with a known truth; every scan counts the same.

    Args:
        scans: for each (voxels, 4) of `doubt.samples`: three terms in HU², and the absolute error in HU.
    """
    terms = np.concatenate([scan[:, :-1] for scan in scans]).astype(np.float64)
    errors = np.concatenate([scan[:, -1] for scan in scans]).astype(np.float64)
    shares = np.concatenate([np.full(len(scan), 1 / (len(scan) * len(scans))) for scan in scans])
    weights = _fit_weights(terms, errors, shares)
    scale = np.sqrt(terms @ weights)
    return Calibration(tuple(weights), *_fit_curves(scale, errors, shares))


def _fit_weights(terms: np.ndarray, errors: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Weights of at least 0 under which the errors are likeliest, if they are Laplacian with the scale as deviation.

    Multiplying each weight by what raises the likelihood over what lowers it never makes one negative. A Laplacian
    bears the few errors of hundreds of HU, which least squares would fit at the cost of all others.
    """
    sizes = shares @ terms + 1e-9
    terms = terms / sizes
    weights = np.full(terms.shape[1], (shares @ errors) ** 2 / terms.shape[1])
    for _ in range(_ROUNDS):
        variance = terms @ weights + 1e-6
        raising = (shares * np.sqrt(2) * errors * variance**-1.5) @ terms
        lowering = (shares / variance) @ terms
        weights = weights * (raising / lowering.clip(min=1e-30)) ** _STEP
    return weights / sizes


def _fit_curves(
    scale: np.ndarray, errors: np.ndarray, shares: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Rising points of the curves: scale, mean error and its 90 % quantile in ranges of equal share.

    Neighbouring ranges are joined until both curves rise.
    """
    order = np.argsort(scale, kind="stable")
    reached = np.cumsum(shares[order])
    ranges = [part for part in np.split(order, np.searchsorted(reached, _BREAKS[1:-1])) if part.size]
    points = [_point(scale, errors, shares, part) for part in ranges]
    number = 0
    while number < len(points) - 1:
        if all(later > earlier for earlier, later in zip(points[number], points[number + 1], strict=True)):
            number += 1
            continue
        ranges[number : number + 2] = [np.concatenate(ranges[number : number + 2])]
        points[number : number + 2] = [_point(scale, errors, shares, ranges[number])]
        number = max(0, number - 1)
    return tuple(zip(*points, strict=True))


def _point(scale: np.ndarray, errors: np.ndarray, shares: np.ndarray, part: np.ndarray) -> tuple[float, float, float]:
    share, error = shares[part], errors[part]
    order = np.argsort(error)
    reached = np.cumsum(share[order])
    bound = error[order][min(np.searchsorted(reached, COVERAGE * reached[-1]), len(order) - 1)]
    return float(np.average(scale[part], weights=share)), float(np.average(error, weights=share)), float(bound)
