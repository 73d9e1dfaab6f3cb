"""Means and tests over the scans and seeds of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .selfcheck import ENHANCED, GAINS

BASELINE_ARM = "level0"
# Below this no p-value can fall under 0.05, whatever the gains.
_FEWEST_FOR_A_TEST = 6
_MOST_FOR_ALL_SIGNS = 16
_RANDOM_SIGNS = 100_000


def summarise(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per model and factor: the mean gain of each method over scans, and the p-value of the enhanced result's gain.

    Scans that the model was trained on are left out.
    """
    grouped: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        for name, result in run["models"].items():
            if not result["trained_on_this_scan"]:
                methods = {**run["baselines"], **run["peers"], **result["methods"]}
                grouped.setdefault((name, run["factor"]), []).append({**result, "methods": methods})
    summary = []
    for (name, factor), results in grouped.items():
        gains = [result["methods"][ENHANCED]["gain_over_better_db"] for result in results]
        summary.append(
            {
                "model": name,
                "factor": factor,
                "scans": len(results),
                "mean_gains": {
                    method: {gain: _mean(result["methods"][method][gain] for result in results) for gain in GAINS}
                    for method in results[0]["methods"]
                },
                "lowest_gain_over_better_db": None if None in gains else min(gains),
                "mean_rank_correlation": _mean(result["rank_correlation"] for result in results),
                "p_value": None if None in gains else paired_p_value(gains),
            }
        )
    return summary


def summarise_ablation(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per factor, arm and method: mean and standard deviation over seeds of the gain over the better baseline, in dB.

    A seed's gain is its mean over scans. "change" is the difference of gains from the fused views in the arm without
    distillation, for the seeds of both arms.
    """
    grouped: dict[tuple[int, str, str], list[tuple[int, str, float | None]]] = {}
    for run in runs:
        for method, gain in run["gains_over_better_db"].items():
            found = grouped.setdefault((run["factor"], run["arm"], method), [])
            found.append((run["seed"], run["scan"], gain))
    by_seed = {key: _means_by(found, 0) for key, found in grouped.items()}
    summary = []
    for (factor, arm, method), found in grouped.items():
        gains, start = by_seed[factor, arm, method], by_seed.get((factor, BASELINE_ARM, ENHANCED), {})
        changes = [difference(gains[seed], start[seed]) for seed in gains if seed in start]
        summary.append(
            {
                "factor": factor,
                "arm": arm,
                "method": method,
                "seeds": sorted(gains),
                "gain_by_scan_db": _means_by(found, 1),
                "gain_mean_db": _mean(gains.values()),
                "gain_sd_db": _deviation(gains.values()),
                "change_mean_db": _mean(changes),
                "change_sd_db": _deviation(changes),
            }
        )
    return summary


def paired_p_value(gains: Sequence[float]) -> float | None:
    """Two-sided p-value of the mean of paired differences, by a sign-flip test.

    All sign patterns of up to 16 differences are evaluated, else a fixed random sample of a hundred thousand. None for
    fewer than six differences, whose smallest possible p-value is above 0.05. (For six of one sign it is 2 / 64.)

    >>> paired_p_value([1.0, 2.0, 0.5, 3.0, 1.5, 0.7])
    0.03125
    """
    differences = np.asarray(gains, dtype=np.float64)
    count = differences.size
    if count < _FEWEST_FOR_A_TEST:
        return None
    if count <= _MOST_FOR_ALL_SIGNS:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        patterns = np.random.default_rng(0).integers(0, 2, (_RANDOM_SIGNS, count))
    sums = np.abs((2 * patterns - 1) @ differences)
    as_far = np.count_nonzero(sums >= abs(differences.sum()) * (1 - 1e-12))
    if count <= _MOST_FOR_ALL_SIGNS:
        return as_far / len(patterns)
    return (as_far + 1) / (len(patterns) + 1)


def _means_by(found: Iterable[tuple[int, str, float | None]], part: int) -> dict[Any, float | None]:
    """Mean gain for each seed (part 0) or scan (part 1) of (seed, scan, gain)."""
    gains: dict[Any, list[float | None]] = {}
    for entry in found:
        gains.setdefault(entry[part], []).append(entry[2])
    return {key: _mean(values) for key, values in gains.items()}


def difference(first: float | None, second: float | None) -> float | None:
    """`first` minus `second`; None if one of them is unknown."""
    return None if first is None or second is None else first - second


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None if there is no value, or if one is None."""
    known = _if_known(values)
    return float(np.mean(known)) if known else None


def _deviation(values: Iterable[float | None]) -> float | None:
    """Standard deviation with n - 1; None for fewer than two values."""
    known = _if_known(values)
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def _if_known(values: Iterable[float | None]) -> list[float]:
    """The values; an empty list if one of them is None."""
    known = []
    for value in values:
        if value is None:
            return []
        known.append(value)
    return known
