"""How alike neighbouring slices are: what tells slices that overlap from slices that lie apart.

Slices that overlap share their noise and their fine detail, so that an interpolation between them is nearly right; of
slices that lie apart it is not, and their noise has to be averaged away. A few pixels do not tell the two from one
another, a whole scan does.
"""

from collections import deque

import torch
from torch import Tensor
from torch.nn import functional

#: Distances between the slices compared, in slices.
DISTANCES = (1, 2)
#: What is below is air, which is clipped in many scans; network units.
_AIR = -950 / 1024
#: Edges count no more than noise of so many standard deviations.
_EDGES = 3.0
#: A standard deviation over the median of absolute values, of a normal distribution.
_NORMAL = 1.4826
#: So many slices tell how strong the noise is.
_SLICES_FOR_NOISE = 16


def slice_likeness(observed: Tensor) -> Tensor:
    """The correlation of fine in-plane detail between slices, for each of `DISTANCES`.

    Fine detail is what a binomial filter of 3 x 3 pixels takes away.

    Args:
        observed: (batch, slices, rows, columns) in network units, at least 3 slices.

    Returns:
        (batch, 2), from -1 to 1; 0 where nothing is above -950 HU.
    """
    return torch.stack([_likeness(scan.float()) for scan in observed])


def _likeness(scan: Tensor) -> Tensor:
    every = max(1, len(scan) // _SLICES_FOR_NOISE)
    told = torch.cat([_detail(one)[one > _AIR] for one in scan[::every]])
    largest = _EDGES * _NORMAL * told.abs().median() if len(told) else scan.new_zeros(())
    sums = scan.new_zeros(len(DISTANCES), 3)
    former: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(DISTANCES))
    # Slice by slice, as another volume would be too many.
    for one in scan:
        tissue = (one > _AIR).float()
        detail = _detail(one).clamp(-largest, largest) * tissue
        for index, distance in enumerate(DISTANCES):
            if distance <= len(former):
                other, there = former[-distance]
                sums[index] += torch.stack(
                    [(detail * other).sum(), (detail.square() * there).sum(), (other.square() * tissue).sum()]
                )
        former.append((detail, tissue))
    together, here, there = sums.unbind(1)
    return together / (here * there).sqrt().clamp(min=torch.finfo(scan.dtype).tiny)


def _detail(one: Tensor) -> Tensor:
    """Of a slice (rows, columns), what the filter takes away."""
    binomial = one.new_tensor([1.0, 2.0, 1.0]) / 4
    padded = functional.pad(one[None, None], (1, 1, 1, 1), mode="replicate")
    return one - functional.conv2d(padded, torch.outer(binomial, binomial)[None, None])[0, 0]
