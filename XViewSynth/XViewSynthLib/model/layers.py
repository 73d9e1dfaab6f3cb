"""Layers of the networks: one student for the axial view, one for the coronal and sagittal views, and their fusion."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..geometry.interpolation import interpolation_weights, slices_used
from .motion import on_the_way
from .spline import full_precision, in_full_precision

# Scales residuals to the magnitude of the images.
_RESIDUAL_SCALE = 8.0
# Pixels between neighbouring observed slices; scales displacements to the magnitude of the images.
_USUAL_DISPLACEMENT = 4.0


class SliceWiseStudent(nn.Module):
    """Axial view: predicts the slices in a gap from the two observed slices on either side."""

    def __init__(self, channels: int, blocks: int, factors: Sequence[int], thick: bool, conditions: int):
        super().__init__()
        self.trunk = Backbone(4 * 4, channels, blocks, conditions)
        self.heads = _heads(channels, factors, thick)

    def forward(self, observed: Tensor, factor: int, condition: Tensor, part: slice) -> Tensor:
        batch, _, rows, columns = observed.shape
        neighbours = _around_gaps(observed, part)
        gaps = neighbours.shape[1]
        stacks = functional.pixel_unshuffle(neighbours.flatten(0, 1), 2)
        features = self.trunk(stacks, condition.repeat_interleave(gaps, dim=0))
        between = functional.pixel_shuffle(self.heads[str(factor)](features), 2)
        return between.view(batch, gaps, -1, rows, columns)


class PixelWiseStudent(nn.Module):
    """Coronal view: super-resolves images of slices by columns, two neighbouring rows of the scan at a time.

    The input includes one more row on either side, so that each plane has its neighbours.
    """

    def __init__(self, channels: int, blocks: int, factors: Sequence[int], thick: bool, conditions: int):
        super().__init__()
        self.trunk = Backbone(4 * 2, channels, blocks, conditions)
        self.across_gap = nn.Conv2d(channels, channels, (2, 1))
        self.heads = _heads(channels, factors, thick)

    def forward(self, observed: Tensor, factor: int, condition: Tensor, part: slice) -> Tensor:
        observed = _with_neighbours(observed, part)
        batch, slices, rows, columns = observed.shape
        rows -= 2
        planes = observed.unfold(2, 4, 2)
        # (batch, slices, pairs, columns, plane) -> (batch pairs, plane column-parity, slices, columns / 2)
        planes = planes.unflatten(3, (columns // 2, 2)).permute(0, 2, 5, 4, 1, 3)
        planes = planes.reshape(batch * rows // 2, 8, slices, columns // 2)
        features = self.trunk(planes, condition.repeat_interleave(rows // 2, dim=0))
        between = self.heads[str(factor)](self.across_gap(features))
        between = between.view(batch, rows // 2, -1, 2, 2, slices - 1, columns // 2)
        # (batch, pair, position, plane, column-parity, gap, column / 2) -> (batch, gap, position, rows, columns)
        return between.permute(0, 5, 2, 1, 3, 6, 4).reshape(batch, slices - 1, -1, rows, columns)


class Fusion(nn.Module):
    """Predicts the residual of the mean of the views, from their predictions and two observed slices on either side.

    Each factor has its own first and last layer, because the number of predictions depends on it. An `aligned` fusion
    also gets the motion-compensated slices around the gap, and predicts their weight for every voxel.
    """

    def __init__(self, channels: int, blocks: int, factors: Sequence[int], thick: bool, conditions: int, aligned: bool):
        super().__init__()
        images = {factor: 4 + 4 * (factor + 1 if thick else factor - 1) + 2 * factor * aligned for factor in factors}
        self.stems = nn.ModuleDict(
            {str(factor): nn.Conv2d(4 * count, channels, 3, padding=1) for factor, count in images.items()}
        )
        self.condition = _silent_condition(conditions, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.heads = _heads(channels, factors, thick)
        self.trusts = _heads(channels, factors, thick) if aligned else None

    def forward(self, observed: Tensor, residuals: Tensor, factor: int, condition: Tensor, part: slice) -> Tensor:
        _, batch, gaps, _, rows, columns = residuals.shape
        mean = residuals.mean(dim=0)
        deviations = torch.cat([mean, *(residuals - mean)], dim=2) * _RESIDUAL_SCALE
        around = _around_gaps(observed, part)
        images = torch.cat([around, deviations], dim=2).flatten(0, 1)
        if self.trusts is not None:
            warped = on_the_way(around[:, :, 1].flatten(0, 1), around[:, :, 2].flatten(0, 1), factor)
            images = torch.cat([images, warped * _input_scales(warped, factor)], dim=1)
        features = self.stems[str(factor)](_fast_layout(functional.pixel_unshuffle(images, 2)))
        features = self.blocks(features + self.condition(condition).repeat_interleave(gaps, dim=0)[:, :, None, None])

        def full_size(heads: nn.ModuleDict) -> Tensor:
            return functional.pixel_shuffle(heads[str(factor)](features), 2).view(batch, gaps, -1, rows, columns)

        residual = full_size(self.heads)
        if self.trusts is not None:
            moved = warped[:, : factor - 1].view(residual.shape) + _fading_over_spline(observed, factor, part)
            residual = residual + full_size(self.trusts) * (moved - mean - residual)
        return residual


class Backbone(nn.Module):
    """Plain residual blocks; the condition shifts the features of the first layer."""

    def __init__(self, inputs: int, channels: int, blocks: int, conditions: int):
        super().__init__()
        self.head = nn.Conv2d(inputs, channels, 3, padding=1)
        self.condition = _silent_condition(conditions, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        # In single precision, also under autocast: bfloat16 would round soft tissue to 0.25 HU, and lungs to 4 HU.
        with full_precision(images.device):
            features = self.head(_fast_layout(images.float())).add_(self.condition(condition)[:, :, None, None])
        return self.blocks(features.to(_precision(images.device)))


def _precision(device: torch.device) -> torch.dtype:
    """The number type in which layers compute."""
    reduced = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if reduced else torch.float32


def _silence(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)
        # Starts near the identity, so that plain blocks train at a high rate without normalisation.
        if not self.leave.weight.is_meta:
            # A meta tensor needs no values, and drawing them would import PyTorch's compiler for seconds.
            nn.init.normal_(self.leave.weight, std=1e-3)
        _silence(self.leave.bias)

    def forward(self, features: Tensor) -> Tensor:
        # In place: fresh memory for maps of this size costs as much as a tenth of the convolutions.
        hidden = self.enter(features).relu_()
        return self.leave(hidden).add_(features)


def _silent_condition(conditions: int, channels: int) -> nn.Linear:
    """The layer that maps the conditioning inputs to a shift of all features, initially 0."""
    # A usual initial shift would dominate the images: every rectifier stays on one side, the networks are linear
    # filters, and training needs hours to leave this state.
    condition = nn.Linear(conditions, channels)
    nn.init.zeros_(condition.weight)
    _silence(condition.bias)
    return condition


def _heads(channels: int, factors: Sequence[int], thick: bool) -> nn.ModuleDict:
    """For each factor s the last layer, which predicts the slices of a gap, 4 pixels for each place of the features.

    These are s - 1 slices, or s + 1 with both ends of the gap.
    """
    heads = {}
    for factor in factors:
        head = nn.Conv2d(channels, (factor + 1 if thick else factor - 1) * 4, 3, padding=1)
        # An untrained network predicts the spline.
        nn.init.zeros_(head.weight)
        _silence(head.bias)
        heads[str(factor)] = head
    return nn.ModuleDict(heads)


def _around_gaps(observed: Tensor, gaps: slice) -> Tensor:
    """The two observed slices on either side of each gap, (batch, gaps, 4, rows, columns)."""
    slices = observed.shape[1]
    first = torch.arange(slices - 1, device=observed.device)[gaps]
    neighbours = torch.stack([first - 1, first, first + 1, first + 2], dim=1)
    # Mirrored at both ends, like the spline.
    neighbours = (slices - 1 - (slices - 1 - neighbours.abs()).abs()).clamp(min=0)
    return observed[:, neighbours]


def _input_scales(warped: Tensor, factor: int) -> Tensor:
    """Scales of `on_the_way` for the input of networks, (channels, 1, 1)."""
    scales = [_RESIDUAL_SCALE] * (factor - 1) + [1.0] * (factor - 1) + [1 / _USUAL_DISPLACEMENT] * 2
    return torch.tensor(scales, device=warped.device)[:, None, None]


def _fading_over_spline(observed: Tensor, factor: int, gaps: slice) -> Tensor:
    """Linear interpolation minus `spline_between`, (batch, gaps, s - 1, rows, columns)."""
    slices = observed.shape[1]
    linear, cubic = (interpolation_weights(slices, factor, method)[:-1] for method in ("linear", "cubic"))
    weights = (linear - cubic).reshape(slices - 1, factor, slices)[gaps, 1:]
    # Only the slices near `gaps`: with all slices, the time would grow with the square of their number.
    near = slices_used(weights)
    weights = torch.as_tensor(weights[:, :, near].copy()).to(observed)
    return in_full_precision("gpk,bkhw->bgphw", weights, observed[:, near])


def _with_neighbours(observed: Tensor, rows: slice) -> Tensor:
    """The given rows and one more on either side; the outermost row is its own neighbour."""
    start, stop, _ = rows.indices(observed.shape[2])
    window = observed[:, :, max(start - 1, 0) : stop + 1]
    return functional.pad(window, (0, 0, int(start == 0), int(stop == observed.shape[2])), mode="replicate")


def _fast_layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
