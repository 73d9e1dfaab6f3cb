"""The terms of the training loss. All work in network units (`XViewSynthLib.model.spline.to_network_units`)."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def restoration_loss(predicted: Tensor, truth: Tensor, squared: float) -> Tensor:
    """Mean absolute error plus `squared` times the mean squared error (any shape that broadcasts)."""
    error = predicted - truth
    return error.abs().mean() + squared * error.square().mean()


def selective_distillation(one: Tensor, other: Tensor, gamma: float) -> Tensor:
    """Mean squared difference over the fraction `gamma` of the voxels where two views differ least.

    Views are drawn together where they nearly agree; where they disagree at least one is wrong, and neither should
    copy the other. Equation of the mutual distillation loss in Fang et al., CVPR 2022, with a fraction in place of
    their pixel count. `gamma` = 1 is plain distillation.
    """
    difference = (one - other).square().flatten()
    if gamma < 1:
        kept = max(1, round(gamma * difference.numel()))
        difference = difference.topk(kept, largest=False, sorted=False).values
    return difference.mean()


def wavelet_loss(predicted: Tensor, truth: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute difference of the high wavelet bands (Daubechies db3) of every slice.

    Args:
        predicted, truth: (..., rows, columns).
        levels: decompositions, fewer where the slices are too small for more.
    """
    residual = (predicted - truth).flatten(0, -3).unsqueeze(1)
    bands = wavelet_filters().to(residual)
    loss = residual.new_zeros(())
    for _ in range(levels):
        if min(residual.shape[-2:]) < bands.shape[-1]:
            break
        # The transform is linear, so the bands of the difference are the differences of the bands.
        coefficients = functional.conv2d(functional.pad(residual, (2, 2, 2, 2), mode="reflect"), bands, stride=2)
        loss = loss + coefficients[:, 1:].abs().mean() / levels
        residual = coefficients[:, :1]
    return loss


@lru_cache(maxsize=1)
def wavelet_filters() -> Tensor:
    """The four separable db3 analysis filters, (4, 1, 6, 6): low-low first, then the high bands.

    Closed form of the scaling filter from I. Daubechies, "Ten Lectures on Wavelets", SIAM 1992.
    """
    a, b = 10**0.5, (5 + 2 * 10**0.5) ** 0.5
    taps = [1 + a + b, 5 + a + 3 * b, 10 - 2 * a + 2 * b, 10 - 2 * a - 2 * b, 5 + a - 3 * b, 1 + a - b]
    low = torch.tensor(taps, dtype=torch.float64) * 2**0.5 / 32
    high = low.flip(0) * torch.tensor([1, -1, 1, -1, 1, -1])
    return torch.stack([torch.outer(x, y) for x in (low, high) for y in (low, high)]).unsqueeze(1).float()
