"""The three students: one slice-wise (axial) and one pixel-wise network, shared by the coronal and sagittal views; and
the fusion of their answers.

Each student sees the observed slices, starts from their cubic spline and predicts what the spline misses. One trunk
serves every factor; each factor has a head of its own, which gives all the slices of a gap at once. (A head that is
asked for one position at a time serves every factor too, but learns many times more slowly.)

Students of thick slices start from a spline that meets the observed averages. As an average is no thin slice, they
predict the thin slices at the observed positions as well: each gap is answered with both its ends, and where two gaps
meet, the mean of their answers counts.

The views err in different places, which their mean does not know. The fusion sees the three answers side by side, and
the observed slices around the gap, and predicts what their mean misses (as SAINT fuses its two views: Peng et al.,
CVPR 2020).

Networks can be told how alike neighbouring slices of the scan are (`likeness`): those that answer well between slices
that overlap do not between slices that lie apart, and the few pixels that they see do not tell which it is. Where many
slices are left out, those that remain do not tell it either; networks can be told by how much the new slices overlap
(`overlap`), which follows from the thickness of the slices.

A network knows the gaps that thinned scans have left, and one for x4 has learned from wider ones than one for x2 from
the same scans. Where gaps are wide, the network of one factor can therefore answer for every other: what it adds to
the spline is read off between its slices (`wide_gaps`).

The views are those of Fang et al., "Incremental Cross-view Mutual Distillation for Self-supervised Medical CT
Synthesis", CVPR 2022; the networks are our own.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..geometry.constants import INTENSITY_RANGE
from ..geometry.interpolation import interpolation_weights, slices_used
from ..geometry.slice_profile import OVERLAP_RANGE, SliceProfile, preserving_weights
from ..request import Quality
from .motion import on_the_way
from .noise import DISTANCES, noise_correlation

VIEWS = ("axial", "coronal", "sagittal")

_HU_PER_UNIT = 1024.0
# What the views add to the spline is small; so scaled, the fusion sees it as large as the images.
_RESIDUAL_SCALE = 8.0
# Pixels from one observed slice to the next; so scaled, displacements are as large as the images too.
_USUAL_DISPLACEMENT = 4.0
# What the training of the shipped models ranges over; beyond it, nothing is known of what networks make of it.
_LIKENESS_RANGE = (0.05, 0.55)
# Distance of observed slices, in pixels, beyond which the network of `wide_gaps` answers. That for x4 gained as much as
# that of x2 at 2.6 pixels on a scan of the training set (LIDC-IDRI-0314), and 0.4 dB more at 5 on another (RIDER); it
# gained 0.3 dB more than that of x3 at 3.8 pixels on both.
_WIDE_GAP_AT_X2, _WIDE_GAP = 4.0, 3.0
# So that what is told lies about 0, and not much beyond 1.
_USUAL_LIKENESS, _LIKENESS_SCALE = 0.2, 5.0


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
    shares = interpolation_weights(slices, factor, "cubic")[:-1].reshape(slices - 1, factor, slices)[:, 1:]
    weights = torch.as_tensor(shares.copy(), dtype=observed.dtype, device=observed.device)
    return _in_full_precision("gpk,bkhw->bgphw", weights, observed)


def spline_through(observed: Tensor, factor: int, profile: SliceProfile) -> Tensor:
    """Thin slices on a spline whose averages are the thick slices observed.

    Args:
        observed: (batch, slices, rows, columns), any unit, at least 4 slices.
        factor: up-sampling factor s.
        profile: of the observed slices.

    Returns:
        (batch, s (slices - 1) + 1, rows, columns) in the unit of `observed`.
    """
    weights = torch.as_tensor(preserving_weights(observed.shape[1], factor, profile).copy())
    return _in_full_precision("tk,bkhw->bthw", weights.to(observed), observed)


def _in_full_precision(products: str, weights: Tensor, observed: Tensor) -> Tensor:
    """`torch.einsum`, also where networks compute in less: eight bits of a mantissa would leave steps of 4 HU."""
    with torch.autocast(observed.device.type, enabled=False):
        return torch.einsum(products, weights, observed)


@lru_cache(maxsize=64)
def reading_weights(asked: int, factor: int, *, linear: bool = False) -> np.ndarray:
    """The share that each slice asked for in a gap has in each slice wanted there, of what is 0 on observed slices.

    Args:
        asked: up-sampling factor whose slices there are.
        factor: that of the slices wanted.
        linear: read off by lines, where no share may be below 0, in place of the polynomial through the whole gap.

    Returns:
        (factor - 1, asked - 1) float32.

    >>> reading_weights(4, 3).round(2)
    array([[ 0.66,  0.49, -0.13],
           [-0.13,  0.49,  0.66]], dtype=float32)
    """
    known, wanted = np.arange(asked + 1), np.arange(1, factor) * asked / factor
    if linear:
        weights = np.stack([np.interp(wanted, known, one) for one in np.eye(asked + 1)], axis=1)
    else:
        powers = np.vander(known, asked + 1).astype(float)
        # Rounded, so that a slice that was asked for is read off as it is.
        weights = (np.vander(wanted, asked + 1) @ np.linalg.inv(powers)).round(9)
    weights = weights[:, 1:-1].astype(np.float32)
    weights.flags.writeable = False
    return weights


def join_gaps(answers: Tensor) -> Tensor:
    """Put gaps that were answered with both their ends one after the other; shared ends become their mean.

    Args:
        answers: (batch, gaps, s + 1, rows, columns).

    Returns:
        (batch, s gaps + 1, rows, columns).
    """
    factor = answers.shape[2] - 1
    joined = torch.cat([answers[:, :, :-1].flatten(1, 2), answers[:, -1:, -1]], dim=1)
    joined[:, factor:-1:factor] += answers[:, :-1, -1]
    joined[:, factor:-1:factor] /= 2
    return joined


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


@dataclass(frozen=True)
class ScanFacts:
    """What is known of a batch of scans beside the slices that networks see of them.

    Attributes:
        gap_ratio: (batch,) distance between observed slices over the in-plane pixel spacing (both mm).
        profile: of the observed slices, where they are thick.
        likeness: (batch, 1) `noise_correlation` of neighbouring slices of the whole scans; without it, those
            that the networks see count.
        overlap: (batch,) thickness of the slices to predict over their distance; without it, they touch.
    """

    gap_ratio: Tensor
    profile: SliceProfile | None = None
    likeness: Tensor | None = None
    overlap: Tensor | None = None

    @property
    def thick_profile(self) -> SliceProfile:
        """`profile`, for networks for thick slices.

        Raises:
            ValueError: there is none.
        """
        if self.profile is None:
            raise ValueError("a network for thick slices needs their profile")
        return self.profile

    def to(self, device: torch.device) -> "ScanFacts":
        tensors = {name: getattr(self, name) for name in ("gap_ratio", "likeness", "overlap")}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})


class ThreeViewNetwork(nn.Module):
    """Three views of one scan, each predicting the synthetic slices on its own.

    Args:
        channels: features of every hidden layer.
        axial_blocks: residual blocks of the slice-wise student.
        pixel_blocks: residual blocks of the pixel-wise student, shared by the coronal and sagittal views.
        factors: the up-sampling factors that the students have a head for.
        thick: 1 for slices that are averages over their thickness, 0 for thin slices with gaps between them.
        fusion_blocks: residual blocks of the fusion; with 0 there is none, and the mean of the views is the answer.
        likeness: 1 for a network that is told how alike neighbouring slices of the scan are, 0 for one that is not.
        overlap: 1 for a network that is told by how much the new slices overlap, 0 for one that is not.
        aligned: of thin slices, 1 for a fusion that also sees neighbouring slices moved onto each other, 0 for one that
            does not.
        wide_gaps: of thin slices, the factor whose network answers for all factors where gaps are wide; with 0 each has
            its own.
        specialists: factors that have a network of their own, and what it is made with where that differs.
        best_specialists: the same, of networks that answer at best quality alone (`at_quality`).

    Raises:
        ValueError: `wide_gaps` is no factor that is known, or slices are thick and it or `aligned` is asked for.
    """

    def __init__(
        self,
        channels: int = 64,
        axial_blocks: int = 4,
        pixel_blocks: int = 4,
        factors: Sequence[int] = (2, 3, 4, 5, 6, 7, 8),
        thick: int = 0,
        fusion_blocks: int = 0,
        likeness: int = 0,
        overlap: int = 0,
        aligned: int = 0,
        wide_gaps: int = 0,
        specialists: Mapping[str, Mapping[str, int]] | None = None,
        best_specialists: Mapping[str, Mapping[str, int]] | None = None,
    ):
        super().__init__()
        self.thick, self.likeness, self.overlap = bool(thick), bool(likeness), bool(overlap)
        #: What networks are told beside the slices, in this order.
        self.told = ("factor", "gap ratio", *["thickness"] * thick, *["overlap"] * overlap)
        if likeness:
            self.told += tuple(f"likeness at {distance}" for distance in DISTANCES)
        if thick and aligned:
            raise ValueError("only what is seen in thin slices can be moved: what moves is blurred in thick ones")
        own = specialists or {}
        known = {*map(str, factors), *own}
        self._wide_gaps = wide_gaps
        if wide_gaps and (thick or str(wide_gaps) not in known):
            raise ValueError("wide gaps can only be answered by a network for thin slices and a factor that is known")
        factors = [factor for factor in factors if str(factor) not in own]
        sizes = (factors, self.thick, len(self.told))
        self.axial = SliceWiseStudent(channels, axial_blocks, *sizes)
        self.pixelwise = PixelWiseStudent(channels, pixel_blocks, *sizes)
        self.fusion = Fusion(channels, fusion_blocks, *sizes, bool(aligned)) if fusion_blocks else None
        shared = {"channels": channels, "axial_blocks": axial_blocks, "pixel_blocks": pixel_blocks, "thick": thick}

        def each_on_its_own(sizes: Mapping[str, Mapping[str, int]]) -> nn.ModuleDict:
            alone: dict[str, dict[str, Any]] = {
                factor: {**shared, "factors": (int(factor),), **own} for factor, own in sizes.items()
            }
            return nn.ModuleDict({factor: ThreeViewNetwork(**alone[factor]) for factor in alone})

        self.specialists = each_on_its_own(own)
        self.best_specialists = each_on_its_own(best_specialists or {})

    def at_quality(self, quality: str) -> "ThreeViewNetwork":
        """The network that answers at a quality, made of layers of this one."""
        specialists = dict(self.specialists)
        if quality == Quality.BEST:
            specialists |= self.best_specialists
        network = copy(self)
        # A copy has the layers of the original until it is given a list of its own.
        network._modules = self._modules | {
            "specialists": nn.ModuleDict(specialists),
            "best_specialists": nn.ModuleDict(),
        }
        return network

    def placed_on(self, device: torch.device) -> "ThreeViewNetwork":
        """This network on a device, its weights in the layout in which convolutions are fastest."""
        # PyTorch's annotations lack this option.
        layout: dict[str, Any] = {"memory_format": torch.channels_last}
        return self.to(device, **layout)

    def answering(self, factor: int) -> "ThreeViewNetwork":
        """The network that answers for a factor: its specialist, or this one."""
        if str(factor) not in self.specialists:
            return self
        specialist = self.specialists[str(factor)]
        assert isinstance(specialist, ThreeViewNetwork)
        return specialist

    def asked(self, factor: int, gap_ratio: Tensor) -> int:
        """The factor to ask for in place of `factor`: itself, or another whose answer is read off between its slices.

        Args:
            factor: up-sampling factor s.
            gap_ratio: as in `ScanFacts`; all must be wide for another factor.
        """
        widest = _WIDE_GAP_AT_X2 if factor == 2 else _WIDE_GAP
        wide = self._wide_gaps and bool((gap_ratio > widest).all())
        return self._wide_gaps if wide else factor

    def answer(
        self, observed: Tensor, factor: int, facts: ScanFacts, trains_fusion: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What `forward` and `fuse` answer, by the network that knows gaps of this width best (`asked`).

        Args:
            observed, factor, facts: as for `forward`.
            trains_fusion: whether the second of them may carry a gradient.
        """
        asked = self.asked(factor, facts.gap_ratio)
        if facts.overlap is not None:
            facts = replace(facts, overlap=facts.overlap * asked / factor)
        views = self(observed, asked, facts)
        with torch.set_grad_enabled(trains_fusion and torch.is_grad_enabled()):
            fused = self.fuse(observed, views, asked, facts)
        if asked == factor:
            return views, fused
        asked_spline, spline = (spline_between(observed, each) for each in (asked, factor))
        weights = torch.as_tensor(reading_weights(asked, factor).copy()).to(observed)

        def read_off(answer: Tensor) -> Tensor:
            return spline + _in_full_precision("kp,...pij->...kij", weights, answer - asked_spline)

        return read_off(views), read_off(fused)

    def forward(
        self,
        observed: Tensor,
        factor: int,
        facts: ScanFacts,
        views: Sequence[str] = VIEWS,
    ) -> Tensor:
        """Predict the synthetic slices in every view; `fuse` makes one answer of them.

        Args:
            observed: (batch, slices, rows, columns) in network units (`to_network_units`); rows and columns even.
            factor: up-sampling factor s, one of those the network was made for.
            facts: what else is known of the scans.
            views: which views to compute, of `VIEWS`.

        Returns:
            In network units, of thin slices what lies between them, (views, batch, slices - 1, s - 1, rows, columns);
            of thick slices everything, (views, batch, s (slices - 1) + 1, rows, columns).
        """
        if facts.likeness is None and self.answering(factor).likeness:
            facts = replace(facts, likeness=noise_correlation(observed))
        answers = [self.residual(view, observed, factor, facts) for view in views]
        if self.thick:
            return spline_through(observed, factor, facts.thick_profile) + torch.stack(
                [join_gaps(answer) for answer in answers]
            )
        return spline_between(observed, factor) + torch.stack(answers)

    def fuse(
        self,
        observed: Tensor,
        views: Tensor,
        factor: int,
        facts: ScanFacts,
    ) -> Tensor:
        """One answer of the three: their mean, and what the fusion, where there is one, adds to it.

        Args:
            views: what `forward` answered, all views.
            observed, factor, facts: as for `forward`.

        Returns:
            As `views`, without its first dimension.
        """
        mean = views.mean(dim=0)
        if self.answering(factor).fusion is None:
            return mean
        if not self.thick:
            return mean + self.correction(observed, views - spline_between(observed, factor), factor, facts)
        residuals = views - spline_through(observed, factor, facts.thick_profile)
        return mean + join_gaps(self.correction(observed, residuals, factor, facts))

    def complete(self, observed: Tensor, synthetic: Tensor) -> Tensor:
        """All slices in their order, given those observed and an answer of `fuse` or, in one view, of `forward`."""
        return synthetic if self.thick else interleave(observed, synthetic)

    def residual(
        self,
        view: str,
        observed: Tensor,
        factor: int,
        facts: ScanFacts,
        part: slice = slice(None),
    ) -> Tensor:
        """Predict, in one view, what the spline misses.

        Args:
            view: one of `VIEWS`.
            observed, factor, facts: as for `forward`.
            part: which gaps (axial), rows (coronal) or columns (sagittal) to predict, rows and columns in even
                numbers. Parts joined give exactly the whole.

        Returns:
            (batch, slices - 1, s - 1, rows, columns), or s + 1 in place of s - 1 for thick slices, of the gaps, rows
            or columns in `part` only, in network units; to be added to `spline_between`, or `spline_through` once
            joined by `join_gaps`.
        """
        network = self.answering(factor)
        condition = network._condition(observed, factor, facts)
        if view == "axial":
            return network.axial(observed, factor, condition, part)
        if view == "coronal":
            return network.pixelwise(observed, factor, condition, part)
        if view == "sagittal":
            return network.pixelwise(observed.transpose(2, 3), factor, condition, part).transpose(3, 4)
        raise ValueError(f"{view!r} is not a view; choose one of {', '.join(VIEWS)}.")

    def correction(
        self,
        observed: Tensor,
        residuals: Tensor,
        factor: int,
        facts: ScanFacts,
        gaps: slice = slice(None),
    ) -> Tensor:
        """Predict, by the fusion, what the mean of the views misses.

        Args:
            observed, factor, facts: as for `forward`.
            residuals: what the views add to the spline, in network units: of thin slices in the gaps chosen, (3, batch,
                gaps, s - 1, rows, columns); of thick slices from the first to the last of these gaps, both ends
                included, (3, batch, s gaps + 1, rows, columns).
            gaps: which gaps to predict.

        Returns:
            (batch, gaps, s - 1, rows, columns), or s + 1 in place of s - 1 for thick slices, in network units; to be
            added to the mean of the views, of thick slices once joined by `join_gaps`.
        """
        if self.thick:
            residuals = residuals.unfold(2, factor + 1, factor).movedim(-1, 3)
        network = self.answering(factor)
        condition = network._condition(observed, factor, facts)
        if network.fusion is None:
            raise ValueError(f"the network for x{factor} has no fusion")
        return network.fusion(observed, residuals, factor, condition, gaps)

    def adopt_trunks(self, other: "ThreeViewNetwork") -> None:
        """Take over what another network sees in scans, whatever it was trained to answer; the heads stay.

        Raises:
            ValueError: the networks differ in their size.
        """
        try:
            for mine, theirs in ((self.axial, other.axial), (self.pixelwise, other.pixelwise)):
                state = theirs.trunk.state_dict()
                known = dict(zip(other.told, state["condition.weight"].unbind(1), strict=True))
                own = zip(self.told, mine.trunk.condition.weight.detach().unbind(1), strict=True)
                condition = torch.stack([known.get(name, weights) for name, weights in own], dim=1)
                mine.trunk.load_state_dict(state | {"condition.weight": condition})
            self.pixelwise.across_gap.load_state_dict(other.pixelwise.across_gap.state_dict())
            if self.fusion is not None and other.fusion is not None:
                self.fusion.blocks.load_state_dict(other.fusion.blocks.state_dict())
        except RuntimeError as error:
            raise ValueError("the networks differ in their size") from error
        for factor in map(int, self.specialists):
            self.answering(factor).adopt_trunks(other.answering(factor))

    def _condition(self, observed: Tensor, factor: int, facts: ScanFacts) -> Tensor:
        """(batch, numbers): what `told` names."""
        ratio = facts.gap_ratio
        told = [torch.full_like(ratio, factor), ratio]
        if self.thick:
            # What few pixels show of a slice is how much it blurs, not by which shape.
            told.append(torch.full_like(ratio, facts.thick_profile.box_width))
        if self.overlap:
            overlap = torch.ones_like(ratio) if facts.overlap is None else facts.overlap
            told.append(overlap.clamp(*OVERLAP_RANGE))
        condition = torch.stack(told, dim=1).log2()
        if not self.likeness:
            return condition
        likeness = noise_correlation(observed) if facts.likeness is None else facts.likeness
        likeness = likeness.to(condition).clamp(*_LIKENESS_RANGE)
        return torch.cat([condition, (likeness - _USUAL_LIKENESS) * _LIKENESS_SCALE], dim=1)


class SliceWiseStudent(nn.Module):
    """Axial view: from the two observed slices on either side of a gap, the slices in it."""

    def __init__(self, channels: int, blocks: int, factors: Sequence[int], thick: bool, conditions: int):
        super().__init__()
        self.trunk = Trunk(4 * 4, channels, blocks, conditions)
        self.heads = _heads(channels, factors, thick)

    def forward(self, observed: Tensor, factor: int, condition: Tensor, part: slice) -> Tensor:
        batch, _, rows, columns = observed.shape
        neighbours = _around_gaps(observed, part)
        gaps = neighbours.shape[1]
        stacks = functional.pixel_unshuffle(neighbours.flatten(0, 1), 2)
        features = self.trunk(_fast_layout(stacks), condition.repeat_interleave(gaps, dim=0))
        between = functional.pixel_shuffle(self.heads[str(factor)](features), 2)
        return between.view(batch, gaps, -1, rows, columns)


class PixelWiseStudent(nn.Module):
    """Coronal view: super-resolves images of slices by columns, two neighbouring rows of the scan at a time.

    The pair shares one pass and sees one more row on either side, so that each plane has its neighbours.
    """

    def __init__(self, channels: int, blocks: int, factors: Sequence[int], thick: bool, conditions: int):
        super().__init__()
        self.trunk = Trunk(4 * 2, channels, blocks, conditions)
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
        features = self.trunk(_fast_layout(planes), condition.repeat_interleave(rows // 2, dim=0))
        between = self.heads[str(factor)](self.across_gap(features))
        between = between.view(batch, rows // 2, -1, 2, 2, slices - 1, columns // 2)
        # (batch, pair, position, plane, column-parity, gap, column / 2) -> (batch, gap, position, rows, columns)
        return between.permute(0, 5, 2, 1, 3, 6, 4).reshape(batch, slices - 1, -1, rows, columns)


class Fusion(nn.Module):
    """From the answers of the views in a gap, and the two observed slices on either side, what their mean misses.

    Each factor has a first and a last layer of its own, as the number of answers depends on it. A fusion that is
    `aligned` also sees what the slices around the gap show once they are moved to where structures lie in it, and says
    for every voxel how much of that counts.
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
        told = torch.cat([mean, *(residuals - mean)], dim=2) * _RESIDUAL_SCALE
        around = _around_gaps(observed, part)
        images = torch.cat([around, told], dim=2).flatten(0, 1)
        if self.trusts is not None:
            seen = on_the_way(around[:, :, 1].flatten(0, 1), around[:, :, 2].flatten(0, 1), factor)
            images = torch.cat([images, seen * _as_large_as_images(seen, factor)], dim=1)
        features = self.stems[str(factor)](_fast_layout(functional.pixel_unshuffle(images, 2)))
        features = self.blocks(features + self.condition(condition).repeat_interleave(gaps, dim=0)[:, :, None, None])

        def full_size(heads: nn.ModuleDict) -> Tensor:
            return functional.pixel_shuffle(heads[str(factor)](features), 2).view(batch, gaps, -1, rows, columns)

        missed = full_size(self.heads)
        if self.trusts is not None:
            moved = seen[:, : factor - 1].view(missed.shape) + _fading_over_spline(observed, factor, part)
            missed = missed + full_size(self.trusts) * (moved - mean - missed)
        return missed


class Trunk(nn.Module):
    """Plain residual blocks; the condition shifts the features of the first layer."""

    def __init__(self, inputs: int, channels: int, blocks: int, conditions: int):
        super().__init__()
        self.head = nn.Conv2d(inputs, channels, 3, padding=1)
        self.condition = _silent_condition(conditions, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        return self.blocks(self.head(images) + self.condition(condition)[:, :, None, None])


def _silence(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)
        # Starts near the identity, which lets plain blocks train at a high rate without normalisation.
        if not self.leave.weight.is_meta:
            # A tensor without memory has no numbers, and to draw them PyTorch would import its compiler for seconds.
            nn.init.normal_(self.leave.weight, std=1e-3)
        _silence(self.leave.bias)

    def forward(self, features: Tensor) -> Tensor:
        # In place: fresh memory for maps of this size costs as much as a tenth of the convolutions.
        hidden = self.enter(features).relu_()
        return self.leave(hidden).add_(features)


def _silent_condition(conditions: int, channels: int) -> nn.Linear:
    """A shift of all features by what is told beside the images, at first none."""
    # A shift of the usual size would drown the images: every rectifier stays on one side, the students are linear
    # filters, and training takes hours to get away from there.
    condition = nn.Linear(conditions, channels)
    nn.init.zeros_(condition.weight)
    _silence(condition.bias)
    return condition


def _heads(channels: int, factors: Sequence[int], thick: bool) -> nn.ModuleDict:
    """For each factor s the last layer, which gives the slices of a gap from the features: 4 pixels for each place.

    These are s - 1 slices, and s + 1 where both ends of the gap are to be answered.
    """
    heads = {}
    for factor in factors:
        head = nn.Conv2d(channels, (factor + 1 if thick else factor - 1) * 4, 3, padding=1)
        # An untrained student answers with the spline.
        nn.init.zeros_(head.weight)
        _silence(head.bias)
        heads[str(factor)] = head
    return nn.ModuleDict(heads)


def _around_gaps(observed: Tensor, gaps: slice) -> Tensor:
    """The two observed slices on either side of each gap, (batch, gaps, 4, rows, columns)."""
    slices = observed.shape[1]
    first = torch.arange(slices - 1, device=observed.device)[gaps]
    neighbours = torch.stack([first - 1, first, first + 1, first + 2], dim=1)
    # The spline is mirrored at both ends; the network sees the same world.
    neighbours = (slices - 1 - (slices - 1 - neighbours.abs()).abs()).clamp(min=0)
    return observed[:, neighbours]


def _as_large_as_images(seen: Tensor, factor: int) -> Tensor:
    """What to multiply `on_the_way` with before networks see it, (channels, 1, 1)."""
    scales = [_RESIDUAL_SCALE] * (factor - 1) + [1.0] * (factor - 1) + [1 / _USUAL_DISPLACEMENT] * 2
    return torch.tensor(scales, device=seen.device)[:, None, None]


def _fading_over_spline(observed: Tensor, factor: int, gaps: slice) -> Tensor:
    """What fading from one slice to the next differs by from `spline_between`, (batch, gaps, s - 1, rows, columns)."""
    slices = observed.shape[1]
    linear, cubic = (interpolation_weights(slices, factor, method)[:-1] for method in ("linear", "cubic"))
    weights = (linear - cubic).reshape(slices - 1, factor, slices)[gaps, 1:]
    # A few gaps at a time are asked for: all slices each time would take longer with the square of their number.
    near = slices_used(weights)
    weights = torch.as_tensor(weights[:, :, near].copy()).to(observed)
    return _in_full_precision("gpk,bkhw->bgphw", weights, observed[:, near])


def _with_neighbours(observed: Tensor, rows: slice) -> Tensor:
    """The given rows and one more on either side; the outermost row is its own neighbour."""
    start, stop, _ = rows.indices(observed.shape[2])
    window = observed[:, :, max(start - 1, 0) : stop + 1]
    return functional.pad(window, (0, 0, int(start == 0), int(stop == observed.shape[2])), mode="replicate")


def _fast_layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
