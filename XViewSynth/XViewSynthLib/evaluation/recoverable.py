"""Recoverable error: the part of the mean squared error of an interpolation that lies above the noise floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..geometry.volume import Volume
from .metrics import candidate_slices, clip_hu
from .noise_floor import REGIONS, Floor, measure_floor, observed_levels
from .selfcheck import Trial

BODY = "body"
# Darker than this, the floor of the lung counts in the body.
_LUNG_BELOW_HU = -500.0


class ErrorRegions:
    """Regions of a trial in which the mean squared error of results is compared with the noise floor.

    Attributes:
        floors: the floor of each region; that of the body is the mean of those of lung and other tissue.
    """

    def __init__(self, trial: Trial, check: Callable[[], None] = lambda: None):
        self._reference = trial.reference
        measured = measure_floor(trial, check)
        self.floors: dict[str, float] = {name: floor.mse_hu2 for name, floor in measured.items()}
        self._measured: dict[str, Floor] = measured
        self._levels = observed_levels(trial, check)
        self._factor = trial.factor
        self._counts = dict.fromkeys((BODY, *measured), 0)
        dark = 0
        for index in self._counted_slices():
            masks = self._masks(index)
            for name, mask in masks.items():
                self._counts[name] += int(np.count_nonzero(mask))
            dark += int(np.count_nonzero(masks[BODY] & (self._level(index) < _LUNG_BELOW_HU)))
        if measured and self._counts[BODY]:
            bright_floor, dark_floor = (
                self.floors.get(name, next(iter(self.floors.values()))) for name in ("soft tissue", "lung")
            )
            share = dark / self._counts[BODY]
            self.floors[BODY] = (1 - share) * bright_floor + share * dark_floor

    def errors(self, candidate: Volume) -> dict[str, float]:
        """Mean squared error in HU^2 of a volume on the grid of the truth, by region."""
        slices = candidate_slices(self._reference, candidate)
        sums = dict.fromkeys(self._counts, 0.0)
        for index in self._counted_slices():
            squares = np.square(clip_hu(slices[index]) - clip_hu(self._reference.slices[index]))
            for name, mask in self._masks(index).items():
                sums[name] += float(squares[mask].sum(dtype=np.float64))
        return {name: sums[name] / count for name, count in self._counts.items() if count}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Floor and noise of each region, for JSON."""
        return {
            name: {
                "floor_mse_hu2": self.floors.get(name),
                "noise_hu": self._measured[name].noise_hu if name in self._measured else None,
                "homogeneous_voxels": self._measured[name].voxels if name in self._measured else None,
            }
            for name in self._counts
        }

    def _counted_slices(self) -> np.ndarray:
        return np.flatnonzero(self._reference.is_new)

    def _level(self, index: int) -> np.ndarray:
        return self._levels[min(index // self._factor, len(self._levels) - 1)]

    def _masks(self, index: int) -> dict[str, np.ndarray]:
        """Masks (rows, columns) of the counted voxels of one slice."""
        body = self._reference.body[index] & self._reference.in_view[index]
        level = self._level(index)
        ranges = {name: REGIONS[name] for name in self._counts if name != BODY}
        return {BODY: body, **{name: body & (level > low) & (level < high) for name, (low, high) in ranges.items()}}


def recoverable_removed(better: float, result: float, floor: float | None) -> float | None:
    """Share of the recoverable error that a result removes: (better - result) / (better - floor).

    Args:
        better: mean squared error of the better interpolation.
        result: that of the result.
        floor: the noise floor; None if it is unknown.

    Returns:
        1 at the floor, 0 for the better interpolation, negative for less; None without a floor, or if the
        interpolation has reached it.

    >>> recoverable_removed(250.0, 150.0, 50.0)
    0.5
    """
    return None if floor is None or better <= floor else (better - result) / (better - floor)
