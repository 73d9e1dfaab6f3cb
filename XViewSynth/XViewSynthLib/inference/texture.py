"""Texture: adds noise to synthetic slices, so that the image does not flicker when one scrolls.

The noise of a missing slice cannot be predicted, so predicted slices are smoother than observed ones. Noise is not
copied from other slices, since their edges would be copied too. Instead, the local noise of the neighbouring observed
slices is measured in nine bands of scale and direction, and Gaussian noise of the missing strength is added.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..geometry.constants import INTENSITY_RANGE, PADDING_BELOW
from ..geometry.intensity import to_scalar_type
from ..geometry.orientation import to_slices
from ..geometry.volume import Volume, affine_column

if TYPE_CHECKING:
    from .enhancement import Enhanced

#: Note to the user on a matched texture.
MATCHED_NOTE = (
    "Synthetic slices were given noise like that of the observed ones: they look alike, but are less accurate than "
    "without it, and uncertainty maps do not include it."
)

# Details of up to about 8 pixels: three scales, each along rows, along columns and along both.
_LEVELS = 3
_BANDS = 3 * _LEVELS
_TRIANGLE = (0.25, 0.5, 0.25)
#: Index of the finest diagonal band, which contains almost no edges.
FINEST_BAND = 2
# Share of a slice's cells with the least anatomy in the coarser bands.
_CALM = 0.4
# Noise is measured at every 16th pixel in a window of 32: wide enough for a median that edges do not move, narrow
# enough to follow the noise from lung to spine.
_CELL, _WINDOW = 16, 32
_MEASURE_EVERY = 2
# Median magnitude of a Gaussian over its standard deviation.
_MEDIAN_TO_SIGMA = 0.6745
# Number of iterations for the gains of the bands, which overlap.
_ROUNDS = 12


def textured(enhanced: Enhanced, scan: Volume, check: Callable[[], None] = lambda: None) -> Volume:
    """The enhanced volume with noise like that of observed slices in its synthetic ones.

    Args:
        enhanced: the result for `scan`.
        check: called for each slice; an exception of it ends the work.
    """
    axis = enhanced.axis
    observed, order = to_slices(scan, axis)
    slices = np.array(order.apply(enhanced.volume.voxels))
    # Positions from the grid are right for resampled results too.
    numbers = np.zeros((len(slices), 3))
    numbers[:, affine_column(axis)] = np.arange(len(slices))
    positions = scan.ras_to_ijk(enhanced.volume.ijk_to_ras(numbers))[:, affine_column(axis)]
    synthetic = np.isin(np.arange(len(slices)), enhanced.synthetic_slices)
    if order.reversed[0]:
        positions, synthetic = (len(observed) - 1 - positions)[::-1], synthetic[::-1]
    match_texture(slices, observed, positions.round(6), np.flatnonzero(synthetic), check, enhanced.plan.offset)
    return enhanced.volume.with_voxels(order.restore(slices))


def match_texture(
    slices: np.ndarray,
    observed: np.ndarray,
    positions: Sequence[float] | np.ndarray,
    synthetic: Iterable[int],
    check: Callable[[], None] = lambda: None,
    offset: float = 0.0,
) -> None:
    """Add noise to synthetic slices, in place, up to the noise of the observed slices on either side.

    Nothing is added if a slice is as noisy as its neighbours. Padding stays, and no voxel leaves the range of the scan.
    The seed of each slice is made from its index and the observed slice below it. So equal scans get equal noise,
    however they are stored and computed.

    Args:
        slices: (slices, rows, columns) HU, of any scalar type; integers are rounded.
        observed: (observed slices, rows, columns) HU.
        positions: of `slices`, counted in observed slices from 0.
        synthetic: indices of the slices to change.
        check: called for each slice; an exception of it ends the work.
        offset: of the numbers above HU.
    """
    lowest, highest = max(float(observed.min()) - offset, INTENSITY_RANGE[0]), float(observed.max()) - offset
    level_of = lru_cache(maxsize=2)(lambda number: _noise_alone(noise_levels(_plane(observed[number], offset))))
    white_at = lru_cache(maxsize=2)(lambda index: _white(observed[_below(positions, index, observed)], index))
    for index in synthetic:
        check()
        below = _below(positions, index, observed)
        above = min(below + 1, len(observed) - 1)
        share = positions[index] - below
        target = (1 - share) * level_of(below) + share * level_of(above)
        plane = _plane(slices[index], offset)
        # Neighbouring slices share half of their noise, as those of a scanner.
        noise = _noise_for(plane, target, (white_at(index) + white_at(min(index + 1, len(slices) - 1))) / math.sqrt(2))
        textured = (plane + noise).clamp(lowest, highest).add(offset).numpy()
        np.copyto(slices[index], to_scalar_type(textured, slices.dtype), where=plane.numpy() >= PADDING_BELOW)


def _plane(plane: np.ndarray, offset: float) -> Tensor:
    """A plane in HU."""
    return torch.from_numpy(np.array(plane, np.float32, order="C")) - offset


def _below(positions: Sequence[float] | np.ndarray, index: int, observed: np.ndarray) -> int:
    return min(int(positions[index]), len(observed) - 1)


def _white(below: np.ndarray, index: int) -> Tensor:
    seed = zlib.crc32(np.ascontiguousarray(below, np.float32).data), int(index)
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(below.shape, dtype=np.float32))


def _noise_alone(levels: Tensor) -> Tensor:
    """Noise levels of one slice, (9, cells, cells), without the contribution of edges and vessels.

    The finest diagonal band contains almost none of these. The other bands are limited to the ratio to that band in the
    slice as a whole.
    """
    finest = levels[FINEST_BAND]
    noisy = finest > 0
    if not noisy.any():
        return torch.zeros_like(levels)
    ratios = (levels[:, noisy] / finest[noisy]).quantile(_CALM, dim=1)
    return torch.minimum(levels, ratios[:, None, None] * finest)


def noise_levels(plane: Tensor) -> Tensor:
    """(9, cells, cells) standard deviation of the noise in each band, HU, of one (rows, columns) slice."""
    magnitude = _bands(plane.clamp(*INTENSITY_RANGE)).abs()[:, None]
    cells = [-(-length // _CELL) for length in plane.shape]
    around = (_WINDOW - _CELL) // 2
    beyond = [count * _CELL - length for count, length in zip(cells, plane.shape, strict=True)]
    magnitude = functional.pad(magnitude, (around, around + beyond[1], around, around + beyond[0]), mode="replicate")
    measured = magnitude[:, 0, ::_MEASURE_EVERY, ::_MEASURE_EVERY].numpy()
    step, window = _CELL // _MEASURE_EVERY, _WINDOW // _MEASURE_EVERY
    windows = np.lib.stride_tricks.sliding_window_view(measured, (window, window), axis=(1, 2))[:, ::step, ::step]
    windows = windows.reshape(_BANDS, *cells, window**2)
    middle = window**2 // 2
    return torch.from_numpy(np.partition(windows, middle, axis=-1)[..., middle] / _MEDIAN_TO_SIGMA)


def _noise_for(plane: Tensor, target: Tensor, white: Tensor) -> Tensor:
    """(rows, columns) noise in HU that brings the level of each band of a slice to `target`, (9, cells, cells)."""
    present = noise_levels(plane)
    missing = (target.square() - present.square()).clamp_(min=0)
    bands = _bands(white)
    gains = _gains(missing)
    # The noise of a predicted slice lies in patches, so the median underestimates its variance, and the sum of the two
    # overestimates it.
    added = noise_levels(plane + _mixed(bands, gains)).square() - present.square()
    gains *= (missing / added.clamp(min=1e-6)).sqrt().clamp(max=1)
    return _mixed(bands, gains)


def _mixed(bands: Tensor, gains: Tensor) -> Tensor:
    rows, columns = bands.shape[1:]
    everywhere = functional.interpolate(gains[None], scale_factor=_CELL, mode="bilinear")[0, :, :rows, :columns]
    return (everywhere * bands).sum(dim=0)


def _gains(variances: Tensor) -> Tensor:
    """Factors for the bands of white noise whose sum then has these variances in its bands; both (9, cells, cells)."""
    mixing = _mixing()
    target = variances.flatten(1)
    gains = (target / mixing.sum(dim=(1, 2))[:, None]).sqrt()
    for _ in range(_ROUNDS):
        reached = torch.einsum("bij,ic,jc->bc", mixing, gains, gains)
        gains = gains * (target / reached.clamp(min=1e-12)).sqrt()
    return gains.reshape(variances.shape)


@lru_cache(maxsize=1)
def _mixing() -> Tensor:
    """(9, 9, 9): the variance that gains g of the bands of unit white noise give band b is the sum of m_bij g_i g_j."""
    size = 64
    impulse = torch.zeros(size, size)
    impulse[size // 2, size // 2] = 1
    power = torch.fft.fft2(torch.fft.ifftshift(_bands(impulse), dim=(1, 2))).real
    return torch.einsum("bxy,ixy,jxy->bij", power.square(), power, power) / size**2


def _bands(plane: Tensor) -> Tensor:
    """(9, rows, columns) details of a (rows, columns) plane: of each scale those along columns, rows and both.

    Undecimated, so that the added noise has no grid. With the remaining smooth part they sum to the plane.
    """
    details = []
    for level in range(_LEVELS):
        along_rows = _smooth(plane, 0, 2**level)
        along_columns = _smooth(plane, 1, 2**level)
        smooth = _smooth(along_rows, 1, 2**level)
        details += [along_rows - smooth, along_columns - smooth, plane - along_rows - along_columns + smooth]
        plane = smooth
    return torch.stack(details)


def _smooth(plane: Tensor, dimension: int, step: int) -> Tensor:
    """Triangle of three taps along one dimension, `step` pixels apart, the border pixel repeated."""
    padding = (0, 0, step, step) if dimension == 0 else (step, step, 0, 0)
    padded = functional.pad(plane[None, None], padding, mode="replicate")[0, 0]
    length = plane.shape[dimension]
    smooth = torch.zeros_like(plane)
    for number, tap in enumerate(_TRIANGLE):
        smooth += tap * padded.narrow(dimension, number * step, length)
    return smooth
