"""The three students: one slice-wise (axial) and one pixel-wise network, shared by the coronal and sagittal views.

Each student sees the observed slices, starts from their cubic spline and predicts what the spline misses. Slices sit
on a continuous axis: a decoder is asked for the slice at any position between two observed ones, so that one model
serves every factor.

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


def positions_between(factor: int) -> tuple[float, ...]:
    """Positions of the synthetic slices between two observed ones, as fractions of the gap.

    >>> positions_between(4)
    (0.25, 0.5, 0.75)
    """
    return tuple(step / factor for step in range(1, factor))


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
    """

    def __init__(self, channels: int = 48, axial_blocks: int = 5, pixel_blocks: int = 5):
        super().__init__()
        self.axial = SliceWiseStudent(channels, axial_blocks)
        self.pixelwise = PixelWiseStudent(channels, pixel_blocks)

    def forward(self, observed: Tensor, factor: int, gap_ratio: Tensor, views: Sequence[str] = VIEWS) -> Tensor:
        """Predict the synthetic slices in every view.

        Args:
            observed: (batch, slices, rows, columns) in network units (`to_network_units`); rows and columns even.
            factor: up-sampling factor s.
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
        positions, ratio = positions_between(factor), torch.log2(gap_ratio)
        if view == "axial":
            return self.axial(observed, positions, ratio, part)
        if view == "coronal":
            return self.pixelwise(observed, positions, ratio, part)
        if view == "sagittal":
            return self.pixelwise(observed.transpose(2, 3), positions, ratio, part).transpose(3, 4)
        raise ValueError(f"{view!r} is not a view; choose one of {', '.join(VIEWS)}.")


class SliceWiseStudent(nn.Module):
    """Axial view: from the two observed slices on either side of a gap, the slices in it."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.trunk = Trunk(4 * 4, channels, blocks)
        self.decoder = PositionDecoder(channels)

    def forward(self, observed: Tensor, positions: Sequence[float], ratio: Tensor, part: slice) -> Tensor:
        batch, slices, rows, columns = observed.shape
        first = torch.arange(slices - 1, device=observed.device)[part]
        neighbours = torch.stack([first - 1, first, first + 1, first + 2], dim=1)
        # The spline is mirrored at both ends; the network sees the same world.
        neighbours = (slices - 1 - (slices - 1 - neighbours.abs()).abs()).clamp(min=0)
        stacks = functional.pixel_unshuffle(observed[:, neighbours].flatten(0, 1), 2)
        ratio = ratio.repeat_interleave(len(first))
        features = self.trunk(_fast_layout(stacks), ratio)
        slices_between = self.decoder(features, positions, ratio)
        slices_between = functional.pixel_shuffle(slices_between.flatten(0, 1), 2)
        return slices_between.view(len(positions), batch, len(first), rows, columns).movedim(0, 2)


class PixelWiseStudent(nn.Module):
    """Coronal view: super-resolves images of slices by columns, two neighbouring rows of the scan at a time.

    The pair shares one pass and sees one more row on either side, so that each plane has its neighbours.
    """

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.trunk = Trunk(4 * 2, channels, blocks)
        self.across_gap = nn.Conv2d(channels, channels, (2, 1))
        self.decoder = PositionDecoder(channels)

    def forward(self, observed: Tensor, positions: Sequence[float], ratio: Tensor, part: slice) -> Tensor:
        observed = _with_neighbours(observed, part)
        batch, slices, rows, columns = observed.shape
        rows -= 2
        planes = observed.unfold(2, 4, 2)
        # (batch, slices, pairs, columns, plane) -> (batch pairs, plane column-parity, slices, columns / 2)
        planes = planes.unflatten(3, (columns // 2, 2)).permute(0, 2, 5, 4, 1, 3)
        planes = planes.reshape(batch * rows // 2, 8, slices, columns // 2)
        ratio = ratio.repeat_interleave(rows // 2)
        features = self.across_gap(self.trunk(_fast_layout(planes), ratio))
        between = self.decoder(features, positions, ratio)
        between = between.view(len(positions), batch, rows // 2, 2, 2, slices - 1, columns // 2)
        # (position, batch, pair, plane, column-parity, gap, column / 2) -> (batch, gap, position, rows, columns)
        return between.permute(1, 5, 0, 2, 3, 6, 4).reshape(batch, slices - 1, len(positions), rows, columns)


class Trunk(nn.Module):
    """Plain residual blocks; the gap ratio shifts the features of the first layer."""

    def __init__(self, inputs: int, channels: int, blocks: int):
        super().__init__()
        self.head = nn.Conv2d(inputs, channels, 3, padding=1)
        self.ratio = nn.Linear(1, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, images: Tensor, ratio: Tensor) -> Tensor:
        shift = self.ratio(ratio[:, None])[:, :, None, None]
        return self.blocks(self.head(images) + shift)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)
        # Starts near the identity, which lets plain blocks train at a high rate without normalisation.
        nn.init.normal_(self.leave.weight, std=1e-3)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.leave(functional.relu(self.enter(features)))


class PositionDecoder(nn.Module):
    """From the features of a gap, the slice at a position in it.

    The position modulates the features before the last two convolutions, so the costly trunk runs once for all
    positions of a gap.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.condition = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2 * channels))
        self.shared = nn.Conv2d(channels, channels, 1)
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, 4, 3, padding=1)
        # An untrained student answers with the spline.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor, positions: Sequence[float], ratio: Tensor) -> Tensor:
        """(images, channels, h, w) -> (positions, images, 4, h, w)."""
        features = self.shared(features)
        return torch.stack([self._at(features, position, ratio) for position in positions])

    def _at(self, features: Tensor, position: float, ratio: Tensor) -> Tensor:
        angle = torch.full_like(ratio, torch.pi * position)
        code = [angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin(), ratio, ratio * angle.sin()]
        scale, shift = self.condition(torch.stack(code, dim=1))[:, :, None, None].chunk(2, dim=1)
        return self.leave(functional.relu(self.enter(functional.relu(features * (1 + scale) + shift))))


def _with_neighbours(observed: Tensor, rows: slice) -> Tensor:
    """The given rows and one more on either side; the outermost row is its own neighbour."""
    start, stop, _ = rows.indices(observed.shape[2])
    window = observed[:, :, max(start - 1, 0) : stop + 1]
    return functional.pad(window, (0, 0, int(start == 0), int(stop == observed.shape[2])), mode="replicate")


def _fast_layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
