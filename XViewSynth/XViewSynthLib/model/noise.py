"""How alike neighbouring slices are: what tells slices that overlap from slices that lie apart.

Slices that overlap share their noise and their fine detail, so that an interpolation between them is nearly right; of
slices that lie apart it is not, and their noise has to be averaged away. A few pixels do not tell the two from one
another, a whole scan does.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

#: What networks are told: of slices so far apart, in slices. Of slices further apart it says less about how they were
#: made than about the scan, of which there are too few to learn from.
DISTANCES = (1,)
#: Soft tissue, in network units. In the middle of it there is little but noise: where lungs, bones or the table are
#: visible does not matter.
_SOFT_TISSUE = (-150 / 1024, 250 / 1024)
#: So many pixels from its rim, noise is looked at.
_RIM = 2
#: What is stronger counts as if it were so many standard deviations strong.
_STRONGEST = 3.0
#: A standard deviation over the median of absolute values, of a normal distribution.
_NORMAL = 1.4826
#: So many slices tell how strong the noise is.
_SLICES_FOR_NOISE = 16


def slice_likeness(observed: Tensor, distances: Sequence[int] = DISTANCES) -> Tensor:
    """The correlation of the noise in soft tissue between slices.

    Noise is what a binomial filter of 3 x 3 pixels takes away.

    Args:
        observed: (batch, slices, rows, columns) in network units.
        distances: between the slices compared, in slices.

    Returns:
        (batch, distances), from -1 to 1; 0 where there is no soft tissue, or no slice so far away.
    """
    return torch.stack([_likeness(scan.float(), distances) for scan in observed])


def _likeness(scan: Tensor, distances: Sequence[int]) -> Tensor:
    every = max(1, len(scan) // _SLICES_FOR_NOISE)
    told = torch.cat([_noise(one)[_within_soft_tissue(one)] for one in scan[::every]])
    largest = _STRONGEST * _NORMAL * told.abs().median() if len(told) else scan.new_zeros(())
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
    """Of a slice (rows, columns), where there is nothing else around."""
    lowest, highest = _SOFT_TISSUE
    other = ((one < lowest) | (one > highest)).float()
    return functional.max_pool2d(other[None, None], 2 * _RIM + 1, stride=1, padding=_RIM)[0, 0] == 0


def _noise(one: Tensor) -> Tensor:
    """Of a slice (rows, columns), what the filter takes away."""
    binomial = one.new_tensor([1.0, 2.0, 1.0]) / 4
    padded = functional.pad(one[None, None], (1, 1, 1, 1), mode="replicate")
    return one - functional.conv2d(padded, torch.outer(binomial, binomial)[None, None])[0, 0]
