"""Test-time augmentation: the mean of several predictions, for the scan, its mirror image and both transposed.

The errors of networks differ for mirrored or transposed scans, so the mean of the predictions is more accurate
(geometric self-ensemble: Lim et al., "Enhanced deep residual networks for single image super-resolution", CVPR
Workshops 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..request import Quality

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """A transform of the scan before one pass of the networks.

    Attributes:
        flipped: axes of (slices, rows, columns) that are flipped, after the transposition.
        transposed: whether rows and columns are exchanged, and thus the coronal and the sagittal view.
    """

    flipped: tuple[int, ...] = ()
    transposed: bool = False

    def apply(self, scan: Tensor) -> Tensor:
        """The transformed scan, from (slices, rows, columns)."""
        return (scan.transpose(1, 2) if self.transposed else scan).flip(self.flipped)

    def inverse_slice(self, prediction: Tensor, index: int) -> Tensor:
        """Slice `index` (rows, columns) of the scan, from a prediction for the transformed scan."""
        plane = prediction[-1 - index if 0 in self.flipped else index].flip([axis - 1 for axis in self.flipped if axis])
        return plane.T if self.transposed else plane


# On the kept slices of LIDC-IDRI-0314 at x4, within 0.003 dB of the best four of all sixteen transforms; all sixteen
# together gain no more.
_AUGMENTATIONS: dict[str, tuple[Augmentation, ...]] = {
    Quality.STANDARD: (Augmentation(),),
    Quality.BEST: (
        Augmentation(),
        Augmentation((0,)),
        Augmentation((2,), transposed=True),
        Augmentation((0, 1), transposed=True),
    ),
}


def augmentations(quality: str) -> tuple[Augmentation, ...]:
    """The transform of each pass, the first one the identity. The time grows with the number of passes.

    >>> len(augmentations("best"))
    4
    """
    return _AUGMENTATIONS[quality]
