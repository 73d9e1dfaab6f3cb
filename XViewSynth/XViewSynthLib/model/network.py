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
from typing import Any

import torch
from torch import Tensor, nn

from ..geometry.slice_profile import OVERLAP_RANGE, SliceProfile
from ..request import Quality
from .layers import Fusion, PixelWiseStudent, SliceWiseStudent
from .noise import DISTANCES, noise_correlation
from .spline import in_full_precision, interleave, join_gaps, reading_weights, spline_between, spline_through

VIEWS = ("axial", "coronal", "sagittal")

# What the training of the shipped models ranges over; beyond it, nothing is known of what networks make of it.
_LIKENESS_RANGE = (0.05, 0.55)
# Distance of observed slices, in pixels, beyond which the network of `wide_gaps` answers. That for x4 gained as much as
# that of x2 at 2.6 pixels on a scan of the training set (LIDC-IDRI-0314), and 0.4 dB more at 5 on another (RIDER); it
# gained 0.3 dB more than that of x3 at 3.8 pixels on both.
_WIDE_GAP_AT_X2, _WIDE_GAP = 4.0, 3.0
# So that what is told lies about 0, and not much beyond 1.
_USUAL_LIKENESS, _LIKENESS_SCALE = 0.2, 5.0


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
            return spline + in_full_precision("kp,...pij->...kij", weights, answer - asked_spline)

        return read_off(views), read_off(fused)

    def forward(self, observed: Tensor, factor: int, facts: ScanFacts, views: Sequence[str] = VIEWS) -> Tensor:
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

    def fuse(self, observed: Tensor, views: Tensor, factor: int, facts: ScanFacts) -> Tensor:
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

    def residual(self, view: str, observed: Tensor, factor: int, facts: ScanFacts, part: slice = slice(None)) -> Tensor:
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
        self, observed: Tensor, residuals: Tensor, factor: int, facts: ScanFacts, gaps: slice = slice(None)
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
