"""The spline under the residuals of the networks, network units, and the order of slices."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..geometry.constants import INTENSITY_RANGE
from ..geometry.interpolation import interpolation_weights
from ..geometry.slice_profile import SliceProfile, preserving_weights

_HU_PER_UNIT = 1024.0


def to_network_units(hu: Tensor) -> Tensor:
    """Map HU to network units: clipped to `INTENSITY_RANGE`, about -1 (air) to 3 (metal)."""
    return hu.clamp(*INTENSITY_RANGE) / _HU_PER_UNIT


def in_network_units(scan: np.ndarray, offset: float) -> Tensor:
    """A scan in network units, with even numbers of rows and columns, as the networks need.

    Args:
        scan: (slices, rows, columns) in HU plus `offset`, any number type.
        offset: of the scan's numbers above HU.

    Returns:
        (slices, rows, columns) float32; an odd last row or column is repeated.
    """
    slices, rows, columns = scan.shape
    padding = (0, columns % 2, 0, rows % 2)
    units = torch.empty(slices, rows + rows % 2, columns + columns % 2)
    # Slice by slice, to save the memory of a volume.
    for plane, whole in zip(scan, units, strict=True):
        hu = torch.from_numpy(np.array(plane, np.float32, order="C")) - offset
        whole[:] = functional.pad(to_network_units(hu)[None], padding, mode="replicate")[0]
    return units


def to_hu(units: Tensor) -> Tensor:
    """Map network units back to HU; differences too."""
    return units * _HU_PER_UNIT


def spline_between(observed: Tensor, factor: int) -> Tensor:
    """Interpolate the synthetic slices by the cubic spline.

    Args:
        observed: (batch, slices, rows, columns), any unit, at least 4 slices.
        factor: up-sampling factor s.

    Returns:
        (batch, slices - 1, s - 1, rows, columns) in the unit of `observed`.
    """
    slices = observed.shape[1]
    shares = interpolation_weights(slices, factor, "cubic")[:-1].reshape(slices - 1, factor, slices)[:, 1:]
    weights = torch.as_tensor(shares.copy(), dtype=observed.dtype, device=observed.device)
    return in_full_precision("gpk,bkhw->bgphw", weights, observed)


def spline_through(observed: Tensor, factor: int, profile: SliceProfile) -> Tensor:
    """Thin slices on a spline whose averages are the observed thick slices.

    Args:
        observed: (batch, slices, rows, columns), any unit, at least 4 slices.
        factor: up-sampling factor s.
        profile: of the observed slices.

    Returns:
        (batch, s (slices - 1) + 1, rows, columns) in the unit of `observed`.
    """
    weights = torch.as_tensor(preserving_weights(observed.shape[1], factor, profile).copy())
    return in_full_precision("tk,bkhw->bthw", weights.to(observed), observed)


def in_full_precision(products: str, weights: Tensor, observed: Tensor) -> Tensor:
    """`torch.einsum` in single precision, also under autocast: a mantissa of eight bits would give steps of 4 HU."""
    with full_precision(observed.device):
        return torch.einsum(products, weights, observed)


def full_precision(device: torch.device) -> AbstractContextManager:
    """Context without autocast."""
    # The meta device, on which only shapes are computed, has no autocast.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@lru_cache(maxsize=64)
def reading_weights(source: int, factor: int, *, linear: bool = False) -> np.ndarray:
    """Weights that resample a residual within a gap from one factor to another; it is 0 on observed slices.

    Args:
        source: up-sampling factor of the available slices.
        factor: up-sampling factor of the requested slices.
        linear: interpolate linearly, without negative weights, instead of by the polynomial through the whole gap.

    Returns:
        (factor - 1, source - 1) float32.

    >>> reading_weights(4, 3).round(2)
    array([[ 0.66,  0.49, -0.13],
           [-0.13,  0.49,  0.66]], dtype=float32)
    """
    known, requested = np.arange(source + 1), np.arange(1, factor) * source / factor
    if linear:
        weights = np.stack([np.interp(requested, known, one) for one in np.eye(source + 1)], axis=1)
    else:
        powers = np.vander(known, source + 1).astype(float)
        # Rounded, so that available slices are copied exactly.
        weights = (np.vander(requested, source + 1) @ np.linalg.inv(powers)).round(9)
    weights = weights[:, 1:-1].astype(np.float32)
    weights.flags.writeable = False
    return weights


def join_gaps(gaps: Tensor) -> Tensor:
    """Join gaps that include both their ends; shared ends are averaged.

    Args:
        gaps: (batch, gaps, s + 1, rows, columns).

    Returns:
        (batch, s gaps + 1, rows, columns).
    """
    factor = gaps.shape[2] - 1
    joined = torch.cat([gaps[:, :, :-1].flatten(1, 2), gaps[:, -1:, -1]], dim=1)
    joined[:, factor:-1:factor] += gaps[:, :-1, -1]
    joined[:, factor:-1:factor] /= 2
    return joined


def interleave(observed: Tensor, synthetic: Tensor) -> Tensor:
    """Put the synthetic slices between the observed ones.

    Args:
        observed: (batch, slices, rows, columns).
        synthetic: (batch, slices - 1, s - 1, rows, columns).

    Returns:
        (batch, s (slices - 1) + 1, rows, columns); every s-th slice is an observed one, unchanged.
    """
    filled = torch.cat([observed[:, :-1, None], synthetic], dim=2).flatten(1, 2)
    return torch.cat([filled, observed[:, -1:]], dim=1)
