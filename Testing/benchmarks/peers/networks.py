"""Networks of published methods, written anew from what is published about them, to be measured beside our own.

All see slices as (batch, slices, rows, columns) in network units (`XViewSynthLib.model.spline.to_network_units`) and
answer with the slices in between, (batch, slices - 1, s - 1, rows, columns). Parameters are counted in README.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from XViewSynthLib.model.spline import spline_between

_ATTENTION_REDUCTION = 16
_FEWEST_ATTENTION_CHANNELS = 4


class PaperNetwork(nn.Module):
    """The three views with the networks of Fang et al., CVPR 2022: CAIN-like axial, HAN-like coronal and sagittal.

    Both predict intensities from nothing, as published, with (HU + 1024) / 4096 as theirs. Left out are the memory bank
    of the axial network and the two loss terms that belong to it.

    Args:
        factor: up-sampling factor s.
        axial_channels, axial_groups, axial_blocks: width and depth of the axial network.
        pixel_channels, pixel_groups, pixel_blocks: width and depth of the network that coronal and sagittal share.
    """

    def __init__(
        self,
        factor: int,
        axial_channels: int,
        axial_groups: int,
        axial_blocks: int,
        pixel_channels: int,
        pixel_groups: int,
        pixel_blocks: int,
    ):
        super().__init__()
        self.axial = CainLike(factor, axial_channels, axial_groups, axial_blocks)
        self.pixelwise = HanLike(factor, pixel_channels, pixel_groups, pixel_blocks)

    def forward(self, observed: Tensor) -> Tensor:
        """(batch, slices, rows, columns) -> (3 views, batch, slices - 1, s - 1, rows, columns), network units."""
        return torch.stack([self.axial_view(observed), self.coronal_view(observed), self.sagittal_view(observed)])

    def axial_view(self, observed: Tensor) -> Tensor:
        """The slice-wise answer, from the two slices around each gap."""
        batch, slices, rows, columns = observed.shape
        intensity = _to_paper_intensity(observed)
        pairs = torch.stack([intensity[:, :-1], intensity[:, 1:]], dim=2).flatten(0, 1)
        return _from_paper_intensity(self.axial(pairs)).view(batch, slices - 1, -1, rows, columns)

    def coronal_view(self, observed: Tensor) -> Tensor:
        """The pixel-wise answer on planes of slices by columns, each on its own."""
        batch, _, rows, _ = observed.shape
        planes = _to_paper_intensity(observed).transpose(1, 2).flatten(0, 1)[:, None]
        between = _from_paper_intensity(self.pixelwise(planes)).unflatten(0, (batch, rows))
        # From (batch, rows, s - 1, slices - 1, columns).
        return between.permute(0, 3, 2, 1, 4)

    def sagittal_view(self, observed: Tensor) -> Tensor:
        """The pixel-wise answer on planes of slices by rows, by the same weights."""
        return self.coronal_view(observed.transpose(2, 3)).transpose(3, 4)


class CainLike(nn.Module):
    """Channel attention on slices folded by 8 (Choi et al., "Channel Attention Is All You Need for Video Frame
    Interpolation", AAAI 2020): (pairs, 2, rows, columns) -> (pairs, s - 1, rows, columns)."""

    FOLD = 8

    def __init__(self, factor: int, channels: int, groups: int, blocks: int):
        super().__init__()
        folded = self.FOLD**2
        self.head = nn.Conv2d(2 * folded, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualGroup(channels, blocks) for _ in range(groups)))
        self.tail = nn.Conv2d(channels, (factor - 1) * folded, 3, padding=1)

    def forward(self, pairs: Tensor) -> Tensor:
        rows, columns = pairs.shape[-2:]
        mean = pairs.mean(dim=(1, 2, 3), keepdim=True)
        folded = functional.pixel_unshuffle(_padded(pairs - mean, self.FOLD), self.FOLD)
        between = functional.pixel_shuffle(self.tail(self.body(self.head(folded))), self.FOLD)
        return between[..., :rows, :columns] + mean


class HanLike(nn.Module):
    """Residual channel attention with attention over layers (Niu et al., "Single Image Super-Resolution via a Holistic
    Attention Network", ECCV 2020): (planes, 1, slices, columns) -> (planes, s - 1, slices - 1, columns).

    The s - 1 new rows of every gap are channels of the last layer, to be interleaved with the observed rows.
    """

    def __init__(self, factor: int, channels: int, groups: int, blocks: int):
        super().__init__()
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.groups = nn.ModuleList(ResidualGroup(channels, blocks) for _ in range(groups))
        self.layers = LayerAttention()
        self.join_layers = nn.Conv2d(groups * channels, channels, 3, padding=1)
        self.pixels = ChannelSpatialAttention()
        self.across_gap = nn.Conv2d(channels, channels, (2, 1))
        self.tail = nn.Conv2d(channels, factor - 1, 3, padding=1)

    def forward(self, planes: Tensor) -> Tensor:
        mean = planes.mean(dim=(1, 2, 3), keepdim=True)
        features = first = self.head(planes - mean)
        outputs = []
        for group in self.groups:
            features = group(features)
            outputs.append(features)
        joined = self.join_layers(self.layers(torch.stack(outputs, dim=1)).flatten(1, 2))
        return self.tail(self.across_gap(first + joined + self.pixels(features))) + mean


class ResidualGroup(nn.Module):
    """Residual channel attention blocks, a convolution, and a way around them."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.blocks = nn.Sequential(*(ChannelAttentionBlock(channels) for _ in range(blocks)))
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.leave(self.blocks(features))


class ChannelAttentionBlock(nn.Module):
    """Two convolutions whose channels are weighted by what they hold on the whole, and a way around them."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(_FEWEST_ATTENTION_CHANNELS, channels // _ATTENTION_REDUCTION)
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.attention = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        answer = self.body(features)
        return features + answer * self.attention(answer.mean(dim=(2, 3)))[:, :, None, None]


class LayerAttention(nn.Module):
    """Each layer gains what resembles it in the others: (batch, layers, channels, height, width), unchanged in shape.

    The resemblance is that of the layers' mean over pixels of the product, so that it does not grow with the image.
    """

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, layers: Tensor) -> Tensor:
        flat = layers.flatten(2)
        alike = torch.softmax(flat @ flat.transpose(1, 2) / flat.shape[-1], dim=-1)
        return layers + self.strength * (alike @ flat).view_as(layers)


class ChannelSpatialAttention(nn.Module):
    """Weighs every pixel of every channel by its neighbours in both, through one convolution in three dimensions."""

    def __init__(self):
        super().__init__()
        self.weigh = nn.Conv3d(1, 1, 3, padding=1)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        weights = torch.sigmoid(self.weigh(features[:, None])[:, 0])
        return features + self.strength * features * weights


class FourSliceNetwork(nn.Module):
    """Slice-wise from four observed slices, with mixing inside windows of 16 pixels and across channels.

    After the idea of I3Net (Song et al., "I3Net: Inter-Intra-slice Interpolation Network for Medical Slice Synthesis",
    IEEE TMI 2024): four slices in, local and window-wide features of the plane side by side, channels mixed. Unlike
    `PaperNetwork` it adds to the cubic spline, as our own students do, and sees slices folded by 2.

    Args:
        factor: up-sampling factor s.
        channels, blocks: width and depth.
    """

    FOLD, WINDOW = 2, 8

    def __init__(self, factor: int, channels: int, blocks: int):
        super().__init__()
        self.factor = factor
        self.head = nn.Conv2d(4 * self.FOLD**2, channels, 3, padding=1)
        self.body = nn.Sequential(*(WindowBlock(channels, self.WINDOW) for _ in range(blocks)))
        self.tail = nn.Conv2d(channels, (factor - 1) * self.FOLD**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    def forward(self, observed: Tensor, gaps: slice = slice(None)) -> Tensor:
        """(batch, slices, rows, columns) -> (batch, gaps, s - 1, rows, columns) of the given gaps, network units."""
        batch, slices, rows, columns = observed.shape
        first = torch.arange(slices - 1, device=observed.device)[gaps]
        neighbours = torch.stack([first - 1, first, first + 1, first + 2], dim=1).clamp(0, slices - 1)
        stacks = _padded(observed[:, neighbours].flatten(0, 1), self.FOLD * self.WINDOW)
        features = self.head(functional.pixel_unshuffle(stacks, self.FOLD))
        residual = functional.pixel_shuffle(self.tail(features + self.body(features)), self.FOLD)[..., :rows, :columns]
        return spline_between(observed, self.factor)[:, gaps] + residual.reshape(batch, len(first), -1, rows, columns)


class WindowBlock(nn.Module):
    """Local features and features of the whole window, joined by a mix of channels, and a way around them."""

    def __init__(self, channels: int, window: int):
        super().__init__()
        self.window = window
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.enter = nn.Conv2d(channels, channels // 2, 1)
        self.across_window = nn.Linear(window**2, window**2)
        self.mix = nn.Sequential(
            nn.Conv2d(channels + channels // 2, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        side = self.window
        folded = functional.pixel_unshuffle(self.enter(features), side)
        height, width = folded.shape[-2:]
        # (batch, channels, window pixels, height, width): every pixel of a window hears of all others.
        windows = folded.unflatten(1, (-1, side**2)).movedim(2, -1)
        mixed = self.across_window(windows).movedim(-1, 2).flatten(1, 2).view(len(features), -1, height, width)
        wide = functional.pixel_shuffle(mixed, side)
        return features + self.mix(torch.cat([self.local(features), wide], dim=1))


def _to_paper_intensity(units: Tensor) -> Tensor:
    """Network units, HU / 1024, to (HU + 1024) / 4096."""
    return (units + 1) / 4


def _from_paper_intensity(intensity: Tensor) -> Tensor:
    return 4 * intensity - 1


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Images whose rows and columns are whole multiples; the last ones are repeated."""
    rows, columns = images.shape[-2:]
    return functional.pad(images, (0, -columns % multiple, 0, -rows % multiple), mode="replicate")
