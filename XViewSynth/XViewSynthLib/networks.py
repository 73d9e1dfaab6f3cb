"""The three students: one slice-wise (axial) and one pixel-wise network, shared by the coronal and sagittal views.

Each student sees the observed slices, starts from their cubic spline and predicts what the spline misses. One trunk
serves every factor; each factor has a head of its own, which gives all the slices of a gap at once. (A head that is
asked for one position at a time serves every factor too, but learns many times more slowly.)

The views are those of Fang et al., "Incremental Cross-view Mutual Distillation for Self-supervised Medical CT
Synthesis", CVPR 2022; the networks are our own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .baselines import interpolation_weights

VIEWS = ("axial", "coronal", "sagittal")

#: HU range the networks see; what lies outside passes through the spline alone.
INTENSITY_RANGE = (-1024.0, 3071.0)
_HU_PER_UNIT = 1024.0


def to_network_units(hu: Tensor) -> Tensor:
    """Map HU to what the networks see: clipped to `INTENSITY_RANGE`, about -1 (air) to 3 (metal)."""
    return hu.clamp(*INTENSITY_RANGE) / _HU_PER_UNIT


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
    weights = interpolation_weights(slices, factor, "cubic")[:-1].reshape(slices - 1, factor, slices)[:, 1:]
    weights = torch.as_tensor(weights.copy(), dtype=observed.dtype, device=observed.device)
    return torch.einsum("gpk,bkhw->bgphw", weights, observed)


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


class ThreeViewNetwork(nn.Module):
    """Three views of one scan, each predicting the synthetic slices on its own.

    Args:
        channels: features of every hidden layer.
        axial_blocks: residual blocks of the slice-wise student.
        pixel_blocks: residual blocks of the pixel-wise student, shared by the coronal and sagittal views.
        factors: the up-sampling factors that the students have a head for.
    """

    def __init__(
        self,
        channels: int = 64,
        axial_blocks: int = 4,
        pixel_blocks: int = 4,
        factors: Sequence[int] = (2, 3, 4, 5, 6, 7, 8),
    ):
        super().__init__()
        self.axial = SliceWiseStudent(channels, axial_blocks, factors)
        self.pixelwise = PixelWiseStudent(channels, pixel_blocks, factors)

    def forward(self, observed: Tensor, factor: int, gap_ratio: Tensor, views: Sequence[str] = VIEWS) -> Tensor:
        """Predict the synthetic slices in every view.

        Args:
            observed: (batch, slices, rows, columns) in network units (`to_network_units`); rows and columns even.
            factor: up-sampling factor s, one of those the network was made for.
            gap_ratio: (batch,) distance between observed slices over the in-plane pixel spacing (both mm).
            views: which views to compute, of `VIEWS`.

        Returns:
            (views, batch, slices - 1, s - 1, rows, columns) in network units.
        """
        base = spline_between(observed, factor)
        return torch.stack([base + self.residual(view, observed, factor, gap_ratio) for view in views])

    def residual(
        self, view: str, observed: Tensor, factor: int, gap_ratio: Tensor, part: slice = slice(None)
    ) -> Tensor:
        """Predict, in one view, what the spline misses.

        Args:
            view: one of `VIEWS`.
            observed, factor, gap_ratio: as for `forward`.
            part: which gaps (axial), rows (coronal) or columns (sagittal) to predict, rows and columns in even
                numbers. Parts joined give exactly the whole.

        Returns:
            (batch, slices - 1, s - 1, rows, columns), of the gaps, rows or columns in `part` only, in network units;
            to be added to `spline_between`.
        """
        if view == "axial":
            return self.axial(observed, factor, gap_ratio, part)
        if view == "coronal":
            return self.pixelwise(observed, factor, gap_ratio, part)
        if view == "sagittal":
            return self.pixelwise(observed.transpose(2, 3), factor, gap_ratio, part).transpose(3, 4)
        raise ValueError(f"{view!r} is not a view; choose one of {', '.join(VIEWS)}.")


class SliceWiseStudent(nn.Module):
    """Axial view: from the two observed slices on either side of a gap, the slices in it."""

    def __init__(self, channels: int, blocks: int, factors: Sequence[int]):
        super().__init__()
        self.trunk = Trunk(4 * 4, channels, blocks)
        self.heads = _heads(channels, factors)

    def forward(self, observed: Tensor, factor: int, gap_ratio: Tensor, part: slice) -> Tensor:
        batch, slices, rows, columns = observed.shape
        first = torch.arange(slices - 1, device=observed.device)[part]
        neighbours = torch.stack([first - 1, first, first + 1, first + 2], dim=1)
        # The spline is mirrored at both ends; the network sees the same world.
        neighbours = (slices - 1 - (slices - 1 - neighbours.abs()).abs()).clamp(min=0)
        stacks = functional.pixel_unshuffle(observed[:, neighbours].flatten(0, 1), 2)
        features = self.trunk(_fast_layout(stacks), factor, gap_ratio.repeat_interleave(len(first)))
        between = functional.pixel_shuffle(self.heads[str(factor)](features), 2)
        return between.view(batch, len(first), factor - 1, rows, columns)


class PixelWiseStudent(nn.Module):
    """Coronal view: super-resolves images of slices by columns, two neighbouring rows of the scan at a time.

    The pair shares one pass and sees one more row on either side, so that each plane has its neighbours.
    """

    def __init__(self, channels: int, blocks: int, factors: Sequence[int]):
        super().__init__()
        self.trunk = Trunk(4 * 2, channels, blocks)
        self.across_gap = nn.Conv2d(channels, channels, (2, 1))
        self.heads = _heads(channels, factors)

    def forward(self, observed: Tensor, factor: int, gap_ratio: Tensor, part: slice) -> Tensor:
        observed = _with_neighbours(observed, part)
        batch, slices, rows, columns = observed.shape
        rows -= 2
        planes = observed.unfold(2, 4, 2)
        # (batch, slices, pairs, columns, plane) -> (batch pairs, plane column-parity, slices, columns / 2)
        planes = planes.unflatten(3, (columns // 2, 2)).permute(0, 2, 5, 4, 1, 3)
        planes = planes.reshape(batch * rows // 2, 8, slices, columns // 2)
        features = self.trunk(_fast_layout(planes), factor, gap_ratio.repeat_interleave(rows // 2))
        between = self.heads[str(factor)](self.across_gap(features))
        between = between.view(batch, rows // 2, factor - 1, 2, 2, slices - 1, columns // 2)
        # (batch, pair, position, plane, column-parity, gap, column / 2) -> (batch, gap, position, rows, columns)
        return between.permute(0, 5, 2, 1, 3, 6, 4).reshape(batch, slices - 1, factor - 1, rows, columns)


class Trunk(nn.Module):
    """Plain residual blocks; the factor and the gap ratio shift the features of the first layer."""

    def __init__(self, inputs: int, channels: int, blocks: int):
        super().__init__()
        self.head = nn.Conv2d(inputs, channels, 3, padding=1)
        self.condition = nn.Linear(2, channels)
        # A shift of the usual size would drown the images: every rectifier stays on one side, the students are linear
        # filters, and training takes hours to get away from there.
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, images: Tensor, factor: int, gap_ratio: Tensor) -> Tensor:
        condition = torch.stack([torch.full_like(gap_ratio, factor), gap_ratio], dim=1).log2()
        return self.blocks(self.head(images) + self.condition(condition)[:, :, None, None])


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)
        # Starts near the identity, which lets plain blocks train at a high rate without normalisation.
        nn.init.normal_(self.leave.weight, std=1e-3)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor) -> Tensor:
        # In place: fresh memory for maps of this size costs as much as a tenth of the convolutions.
        hidden = self.enter(features).relu_()
        return self.leave(hidden).add_(features)


def _heads(channels: int, factors: Sequence[int]) -> nn.ModuleDict:
    """For each factor s the last layer, which gives s - 1 slices from the features: 4 pixels for each place."""
    heads = {}
    for factor in factors:
        head = nn.Conv2d(channels, (factor - 1) * 4, 3, padding=1)
        # An untrained student answers with the spline.
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        heads[str(factor)] = head
    return nn.ModuleDict(heads)


def _with_neighbours(observed: Tensor, rows: slice) -> Tensor:
    """The given rows and one more on either side; the outermost row is its own neighbour."""
    start, stop, _ = rows.indices(observed.shape[2])
    window = observed[:, :, max(start - 1, 0) : stop + 1]
    return functional.pad(window, (0, 0, int(start == 0), int(stop == observed.shape[2])), mode="replicate")


def _fast_layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
