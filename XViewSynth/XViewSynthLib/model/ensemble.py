"""How much work an answer is worth: one pass of the networks, or the mean of several, over the scan, its mirror image
and both turned, by larger networks where the model has some.

Networks err in other places when they see a scan in a mirror or turned, so that the mean of what they answer lies
nearer to the truth (geometric self-ensemble: Lim et al., "Enhanced deep residual networks for single image
super-resolution", CVPR Workshops 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..request import Quality

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pose:
    """How networks see a scan in one pass.

    Attributes:
        reversed: which of its axes (slices, rows, columns) are, after rows and columns were exchanged.
        turned: whether rows and columns are exchanged, so that the coronal view sees what the sagittal one would.
    """

    reversed: tuple[int, ...] = ()
    turned: bool = False

    def seen(self, scan: Tensor) -> Tensor:
        """A scan (slices, rows, columns) in this pose."""
        return (scan.transpose(1, 2) if self.turned else scan).flip(self.reversed)

    def slice_back(self, answer: Tensor, index: int) -> Tensor:
        """Of an answer to `seen`, the slice (rows, columns) that lies at `index` in the scan, as it lies there."""
        plane = answer[-1 - index if 0 in self.reversed else index].flip([axis - 1 for axis in self.reversed if axis])
        return plane.T if self.turned else plane


# On the kept slices of LIDC-IDRI-0314 at x4, the best four of all sixteen poses but for 0.003 dB; all sixteen together
# gain no more.
_POSES: dict[str, tuple[Pose, ...]] = {
    Quality.STANDARD: (Pose(),),
    Quality.BEST: (Pose(), Pose((0,)), Pose((2,), turned=True), Pose((0, 1), turned=True)),
}


def poses(quality: str) -> tuple[Pose, ...]:
    """How networks see the scan in each pass, the first as it is; the time taken grows with their number.

    >>> len(poses("best"))
    4
    """
    return _POSES[quality]
