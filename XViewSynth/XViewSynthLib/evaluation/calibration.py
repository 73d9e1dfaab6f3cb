"""Fits the calibration of a model's uncertainty (`uncertainty`) to measured errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inference.enhancement import Enhanced
from ..inference.uncertainty import COVERAGE, TERMS, Calibration, terms_of
from . import metrics

_ROUNDS = 200
_STEP = 0.7
# Breakpoints of the curves, as shares of voxels sorted by uncertainty; denser for large errors.
_BREAKS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0)
_BINS = 5


def samples(reference: metrics.Reference, enhanced: Enhanced, observed: np.ndarray, count: int) -> np.ndarray:
    """(voxels, 4) float32 of about `count` counted voxels, always the same ones: `TERMS` in HU², absolute error in HU.

    Args:
        reference: the truth.
        enhanced: the result for the thinned scan.
        observed: (observed slices, rows, columns) HU of that scan, in the order of the reference.
        count: voxels to draw.
    """
    found, uncertainty = (
        metrics.candidate_slices(reference, grid) for grid in (enhanced.volume, enhanced.disagreement)
    )
    gap_mm = reference.spacing[0] * enhanced.factor
    synthetic = np.flatnonzero(reference.is_new)
    random = np.random.default_rng(0)
    drawn = []
    for index, terms, _ in terms_of(uncertainty, observed, synthetic, gap_mm, enhanced.plan):
        inside = np.flatnonzero(reference.in_view[index])
        inside = random.choice(inside, min(inside.size, -(-count // synthetic.size)), replace=False)
        error = np.abs(metrics.clip_hu(found[index]) - metrics.clip_hu(reference.slices[index]))
        drawn.append(np.concatenate([terms.reshape(len(TERMS), -1), error.reshape(1, -1)])[:, inside].T)
    return np.concatenate(drawn).astype(np.float32)


def measure(reference: metrics.Reference, enhanced: Enhanced) -> dict[str, Any] | None:
    """Calibration error of the uncertainty on the counted voxels, as plain values; None without a calibration.

    "coverage" is the share of voxels whose error lies under the bound, and should be 0.9. "mean_expected_error_hu" and
    "mean_error_hu" should be equal. "bins" has the same values for each fifth of the voxels, sorted by the bound.
    """
    error_map, bound_map = enhanced.expected_error, enhanced.error_bound()
    if error_map is None or bound_map is None:
        return None
    truth, found, expected, bound = (
        np.concatenate([plane[inside] for plane, inside in zip(slices, _counted(reference), strict=True)])
        for slices in (
            reference.slices,
            *(metrics.candidate_slices(reference, grid) for grid in (enhanced.volume, error_map, bound_map)),
        )
    )
    error = np.abs(metrics.clip_hu(found) - metrics.clip_hu(truth))
    under = error <= bound
    order = np.argsort(bound, kind="stable")
    return {
        **_agreement(under, expected, error),
        "bins": [
            {"mean_bound_hu": float(bound[part].mean()), **_agreement(under[part], expected[part], error[part])}
            for part in np.array_split(order, _BINS)
            if part.size
        ],
    }


def _counted(reference: metrics.Reference) -> np.ndarray:
    return reference.in_view & reference.is_new[:, None, None]


def _agreement(under: np.ndarray, expected: np.ndarray, error: np.ndarray) -> dict[str, float]:
    return {
        "coverage": float(under.mean()),
        "mean_expected_error_hu": float(expected.mean(dtype=np.float64)),
        "mean_error_hu": float(error.mean(dtype=np.float64)),
    }


def fit(scans: Sequence[np.ndarray]) -> Calibration:
    """Fit weights and curves to scans with a known truth. All scans have the same weight.

    Args:
        scans: for each (voxels, 4) of `samples`: three terms in HU², and the absolute error in HU.
    """
    terms = np.concatenate([scan[:, :-1] for scan in scans]).astype(np.float64)
    errors = np.concatenate([scan[:, -1] for scan in scans]).astype(np.float64)
    shares = np.concatenate([np.full(len(scan), 1 / (len(scan) * len(scans))) for scan in scans])
    weights = _fit_weights(terms, errors, shares)
    scale = np.sqrt(terms @ weights)
    return Calibration(tuple(weights), *_fit_curves(scale, errors, shares))


def _fit_weights(terms: np.ndarray, errors: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Non-negative weights of maximum likelihood for Laplacian errors with the scale as standard deviation.

    Multiplicative updates keep the weights non-negative. A Laplacian is robust against the few errors of hundreds of
    HU, which would dominate least squares.
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
    scales, means, bounds = zip(*points, strict=True)
    return scales, means, bounds


def _point(scale: np.ndarray, errors: np.ndarray, shares: np.ndarray, part: np.ndarray) -> tuple[float, float, float]:
    share, error = shares[part], errors[part]
    order = np.argsort(error)
    reached = np.cumsum(share[order])
    bound = error[order][min(np.searchsorted(reached, COVERAGE * reached[-1]), len(order) - 1)]
    return float(np.average(scale[part], weights=share)), float(np.average(error, weights=share)), float(bound)
