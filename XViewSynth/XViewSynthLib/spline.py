"""Interpolation along the slice direction as a matrix, so that networks can start from it and learn only the rest."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=32)
def cubic_matrix(slices: int, factor: int) -> np.ndarray:
    """Return the matrix that interpolates a line of observed slices by a cubic B-spline.

    The spline passes through every observed slice and is mirrored at both ends, as in ITK.

    Args:
        slices: number of observed slices N, at least 2.
        factor: up-sampling factor s, at least 1.

    Returns:
        float64 array of shape (s (N - 1) + 1, N), read-only. Row j gives the weights of the observed slices at
        position j / s; rows that fall on an observed slice are rows of the identity.

    Source: M. Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Processing Magazine 1999.
    """
    matrix = cubic_matrix_at(slices, np.arange(factor * (slices - 1) + 1) / factor)
    matrix.flags.writeable = False
    return matrix


def cubic_matrix_at(slices: int, positions: np.ndarray) -> np.ndarray:
    """Return the weights of the N observed slices at any `positions`, counted in slices from 0 to N - 1.

    Returns:
        float64 array of shape (positions, N); a position on an observed slice gives a row of the identity.
    """
    values_from_coefficients = _spline_samples(np.arange(slices, dtype=float), slices)
    matrix = _spline_samples(positions, slices) @ np.linalg.inv(values_from_coefficients)
    on_slice = positions == np.round(positions)
    matrix[on_slice] = np.eye(slices)[positions[on_slice].astype(int)]
    return matrix


def _spline_samples(positions: np.ndarray, slices: int) -> np.ndarray:
    """Weights of the spline coefficients at ``positions`` (in slices), mirrored at both ends."""
    first = np.floor(positions).astype(int) - 1
    rows = np.arange(len(positions))
    samples = np.zeros((len(positions), slices))
    for offset in range(4):
        node = first + offset
        np.add.at(samples, (rows, _mirror(node, slices)), _b_spline(positions - node))
    return samples


def _b_spline(distance: np.ndarray) -> np.ndarray:
    distance = np.abs(distance)
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = (2 - distance).clip(min=0) ** 3 / 6
    return np.where(distance < 1, near, far)


def _mirror(index: np.ndarray, count: int) -> np.ndarray:
    """Reflect indices about the first and the last slice, without repeating either."""
    period = max(2 * (count - 1), 1)
    index = np.abs(index) % period
    return np.where(index < count, index, period - index)
