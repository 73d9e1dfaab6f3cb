"""Canonical order of slices, rows and columns, derived from the patient axes and not from the array."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from .volume import AXES, Axis, Volume, affine_column, array_axis

_TIE = 1e-6


@dataclass(frozen=True)
class SliceOrder:
    """Permutation and flips from a (K, J, I) array to a (slices, rows, columns) array in canonical order.

    Attributes:
        dimensions: the (K, J, I) array's dimension that became slices, rows and columns.
        reversed: whether each of slices, rows and columns runs against the original array.
    """

    dimensions: tuple[int, int, int]
    reversed: tuple[bool, bool, bool]

    def apply(self, voxels: np.ndarray) -> np.ndarray:
        """A (slices, rows, columns) view of a (K, J, I) array."""
        return voxels.transpose(self.dimensions)[self._flips]

    def restore(self, array: np.ndarray) -> np.ndarray:
        """A (K, J, I) view of a (slices, rows, columns) array, of any number of slices."""
        return array[self._flips].transpose(np.argsort(self.dimensions))

    def spacing(self, volume: Volume) -> tuple[float, float, float]:
        """Distance in mm between neighbouring slices, rows and columns of a volume that is stored in this order."""
        slices, rows, columns = (volume.spacing[2 - dimension] for dimension in self.dimensions)
        return slices, rows, columns

    @property
    def _flips(self) -> tuple[slice, slice, slice]:
        slices, rows, columns = (slice(None, None, -1) if backwards else slice(None) for backwards in self.reversed)
        return slices, rows, columns


def to_slices(volume: Volume, axis: Axis) -> tuple[np.ndarray, SliceOrder]:
    """The voxels as (slices, rows, columns) in canonical physical order: a view, not a copy.

    Slices run along `axis`. Each of the volume's axes belongs to the nearest patient axis. Of the two in-plane axes,
    the one of the later patient axis in (R, A, S) gives the rows. Slices, rows and columns all run towards right,
    anterior or superior. So the 48 ways to store one scan (axes permuted and flipped) give one array, and results do
    not depend on how the scan is stored.

    Returns:
        The view, and the order for the way back: `order.restore(array)`.
    """
    patient_axes, signs = _closest_patient_axes(volume.directions)
    rows, columns = sorted((other for other in AXES if other != axis), key=lambda a: -patient_axes[affine_column(a)])

    def is_reversed(a: Axis) -> bool:
        return bool(signs[affine_column(a)] < 0)

    order = SliceOrder(
        dimensions=(array_axis(axis), array_axis(rows), array_axis(columns)),
        reversed=(is_reversed(axis), is_reversed(rows), is_reversed(columns)),
    )
    return order.apply(volume.voxels), order


def _closest_patient_axes(directions: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """Patient axis (0 R, 1 A, 2 S), and sign along it, of each column of a (3, 3) matrix of unit columns.

    The assignment with the largest product of cosines is one to one, and none of its cosines is zero (the determinant
    would vanish). Ties, such as a turn by exactly 45 degrees, are decided by the directions themselves. So the result
    does not depend on order and signs of the columns.
    """
    orders = ((i, j, k) for i, j, k in permutations(range(3)))
    strength = {p: abs(float(np.prod(directions[p, range(3)]))) for p in orders}
    strongest = max(strength.values())
    tied = [p for p, product in strength.items() if product > strongest - _TIE]
    chosen = max(tied, key=lambda p: _canonical(directions, p).round(4).tolist())
    return chosen, np.sign(directions[chosen, range(3)])


def _canonical(directions: np.ndarray, patient_axes: tuple[int, int, int]) -> np.ndarray:
    """(3, 3) columns in the order R, A, S of the patient axes given to them, each pointing the positive way."""
    positive = directions * np.sign(directions[patient_axes, range(3)])
    return positive[:, np.argsort(patient_axes)]
