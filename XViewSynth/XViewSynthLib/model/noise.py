"""Noise correlation of neighbouring slices, which distinguishes overlapping slices from slices with gaps.

Overlapping slices share noise and fine detail, so an interpolation between them is nearly right. Between slices with
gaps it is not, and their noise has to be averaged out. A few pixels are not enough to distinguish the two, but a whole
scan is.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

#: Distances, in slices, whose noise correlation conditions networks. At larger distances, the correlation depends more
#: on the scan than on the acquisition, and there are too few scans to learn from.
DISTANCES = (1,)
#: Soft tissue, in network units. Its interior contains little but noise, whatever else the scan shows.
_SOFT_TISSUE = (-150 / 1024, 250 / 1024)
#: Smallest distance from its border of pixels that are used.
_RIM = 2
#: Limit to which noise is clipped, in standard deviations.
_STRONGEST = 3.0
#: Standard deviation over median absolute value of a normal distribution.
_NORMAL = 1.4826
#: Number of slices from which the strength of noise is estimated.
_SLICES_FOR_NOISE = 16


def noise_correlation(observed: Tensor, distances: Sequence[int] = DISTANCES) -> Tensor:
    """The correlation of the noise in soft tissue between slices.

    Noise is the difference from the image after a binomial filter of 3 x 3 pixels.

    Args:
        observed: (batch, slices, rows, columns) in network units.
        distances: between the slices compared, in slices.

    Returns:
        (batch, distances), from -1 to 1; 0 if there is no soft tissue, or no slice at that distance.
    """
    return torch.stack([_correlation(scan.float(), distances) for scan in observed])


def _correlation(scan: Tensor, distances: Sequence[int]) -> Tensor:
    every = max(1, len(scan) // _SLICES_FOR_NOISE)
    sample = torch.cat([_noise(one)[_within_soft_tissue(one)] for one in scan[::every]])
    largest = _STRONGEST * _NORMAL * sample.abs().median() if len(sample) else scan.new_zeros(())
    sums = scan.new_zeros(len(distances), 3)
    former: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(distances))
    # Slice by slice, as another volume would be too many.
    for one in scan:
        here = _within_soft_tissue(one).float()
        noise = _noise(one).clamp(-largest, largest) * here
        for index, distance in enumerate(distances):
            if distance <= len(former):
                other, there = former[-distance]
                sums[index] += torch.stack(
                    [(noise * other).sum(), (noise.square() * there).sum(), (other.square() * here).sum()]
                )
        former.append((noise, here))
    together, one, other = sums.unbind(1)
    return together / (one * other).sqrt().clamp(min=torch.finfo(scan.dtype).tiny)


def _within_soft_tissue(one: Tensor) -> Tensor:
    """Mask (rows, columns) of a slice: soft tissue without other tissue nearby."""
    lowest, highest = _SOFT_TISSUE
    other = ((one < lowest) | (one > highest)).float()
    return functional.max_pool2d(other[None, None], 2 * _RIM + 1, stride=1, padding=_RIM)[0, 0] == 0


def _noise(one: Tensor) -> Tensor:
    """Noise (rows, columns) of a slice: its difference from the filtered slice."""
    binomial = one.new_tensor([1.0, 2.0, 1.0]) / 4
    padded = functional.pad(one[None, None], (1, 1, 1, 1), mode="replicate")
    return one - functional.conv2d(padded, torch.outer(binomial, binomial)[None, None])[0, 0]
