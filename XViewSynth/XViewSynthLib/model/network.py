"""The three views: a slice-wise network (axial), a pixel-wise network (coronal and sagittal), and their fusion.

Each network of a view, a student, predicts the residual of the cubic spline through the observed slices. All factors
share a backbone; each factor has a head that predicts all slices of a gap at once. (A head that predicts one position
at a time also serves all factors, but trains many times more slowly.)

For thick slices, the spline keeps the observed averages. An average is not a thin slice, so the networks also predict
the thin slices at the observed positions: each gap includes both its ends, and shared ends are averaged.

The errors of the views differ from place to place. The fusion gets the three predictions and the observed slices around
the gap, and predicts the residual of their mean (as SAINT fuses its two views: Peng et al., CVPR 2020).

Optional conditioning inputs are the noise correlation of neighbouring slices (`likeness`) and the overlap of the new
slices (`overlap`). The noise correlation separates overlapping slices from slices with gaps, which a small region does
not show. If most slices were left out, the observed slices do not show the overlap of the new ones either; it follows
from the slice thickness.

Networks are trained on the gaps of thinned scans, which are wider for x4 than for x2. For wide gaps, the network of one
factor can therefore predict for all factors: its residual is resampled between its slices (`wide_gaps`).

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

# Range in the training of the shipped models; networks are not tested beyond it.
_LIKENESS_RANGE = (0.05, 0.55)
# Distance of observed slices, in pixels, above which the network of `wide_gaps` predicts. The gain of the x4 network
# equals that of x2 at 2.6 pixels on a scan of the training set (LIDC-IDRI-0314), and is 0.4 dB higher at 5 pixels on
# another (RIDER); at 3.8 pixels it is 0.3 dB higher than that of x3 on both.
_WIDE_GAP_AT_X2, _WIDE_GAP = 4.0, 3.0
# Normalisation of the noise correlation to about 0, and to little more than 1.
_USUAL_LIKENESS, _LIKENESS_SCALE = 0.2, 5.0


@dataclass(frozen=True)
class ScanFacts:
    """Conditioning inputs for a batch of scans, beside their slices.

    Attributes:
        gap_ratio: (batch,) distance between observed slices over the in-plane pixel spacing (both mm).
        profile: of the observed slices, if they are thick.
        likeness: (batch, 1) `noise_correlation` of neighbouring slices of the whole scans; None to compute it from
            the input slices.
        overlap: (batch,) thickness of the new slices over their spacing; None for 1.
    """

    gap_ratio: Tensor
    profile: SliceProfile | None = None
    likeness: Tensor | None = None
    overlap: Tensor | None = None

    @property
    def thick_profile(self) -> SliceProfile:
        """`profile`, for networks for thick slices.

        Raises:
            ValueError: `profile` is None.
        """
        if self.profile is None:
            raise ValueError("a network for thick slices needs their profile")
        return self.profile

    def to(self, device: torch.device) -> "ScanFacts":
        tensors = {name: getattr(self, name) for name in ("gap_ratio", "likeness", "overlap")}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})


class ThreeViewNetwork(nn.Module):
    """Predicts the synthetic slices in three views, and fuses the predictions.

    Args:
        channels: features of every hidden layer.
        axial_blocks: residual blocks of the slice-wise student.
        pixel_blocks: residual blocks of the pixel-wise student, shared by the coronal and sagittal views.
        factors: the up-sampling factors with a head.
        thick: 1 for slices that are averages over their thickness, 0 for thin slices with gaps between them.
        fusion_blocks: residual blocks of the fusion; with 0 the prediction is the mean of the views.
        likeness: 1 to condition on the noise correlation of neighbouring slices, else 0.
        overlap: 1 to condition on the overlap of the new slices, else 0.
        aligned: thin slices only: 1 for motion-compensated slices as inputs of the fusion, else 0.
        wide_gaps: thin slices only: the factor whose network predicts wide gaps for all factors; 0 for none.
        specialists: factors with their own network, and the arguments of that network that differ.
        best_specialists: the same for networks of best quality only (`at_quality`).

    Raises:
        ValueError: `wide_gaps` is not a factor of the network, or it or `aligned` is set for thick slices.
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
        #: Names of the conditioning inputs, in order.
        self.condition_names = ("factor", "gap ratio", *["thickness"] * thick, *["overlap"] * overlap)
        if likeness:
            self.condition_names += tuple(f"likeness at {distance}" for distance in DISTANCES)
        if thick and aligned:
            raise ValueError("only thin slices can be motion-compensated: structures are blurred in thick ones")
        own = specialists or {}
        known = {*map(str, factors), *own}
        self._wide_gaps = wide_gaps
        if wide_gaps and (thick or str(wide_gaps) not in known):
            raise ValueError("wide gaps need a network for thin slices and one of its factors")
        factors = [factor for factor in factors if str(factor) not in own]
        sizes = (factors, self.thick, len(self.condition_names))
        self.axial = SliceWiseStudent(channels, axial_blocks, *sizes)
        self.pixelwise = PixelWiseStudent(channels, pixel_blocks, *sizes)
        self.fusion = Fusion(channels, fusion_blocks, *sizes, bool(aligned)) if fusion_blocks else None
        shared = {"channels": channels, "axial_blocks": axial_blocks, "pixel_blocks": pixel_blocks, "thick": thick}

        def separate_networks(sizes: Mapping[str, Mapping[str, int]]) -> nn.ModuleDict:
            arguments: dict[str, dict[str, Any]] = {
                factor: {**shared, "factors": (int(factor),), **own} for factor, own in sizes.items()
            }
            return nn.ModuleDict({factor: ThreeViewNetwork(**arguments[factor]) for factor in arguments})

        self.specialists = separate_networks(own)
        self.best_specialists = separate_networks(best_specialists or {})

    def at_quality(self, quality: str) -> "ThreeViewNetwork":
        """The network for a quality; it shares the layers of this one."""
        specialists = dict(self.specialists)
        if quality == Quality.BEST:
            specialists |= self.best_specialists
        network = copy(self)
        # A shallow copy shares the module dictionary, so it gets its own.
        network._modules = self._modules | {
            "specialists": nn.ModuleDict(specialists),
            "best_specialists": nn.ModuleDict(),
        }
        return network

    def placed_on(self, device: torch.device) -> "ThreeViewNetwork":
        """This network on a device, with weights in the layout for the fastest convolutions."""
        # PyTorch's annotations lack this option.
        layout: dict[str, Any] = {"memory_format": torch.channels_last}
        return self.to(device, **layout)

    def network_for(self, factor: int) -> "ThreeViewNetwork":
        """The network that predicts a factor: its specialist, or this one."""
        if str(factor) not in self.specialists:
            return self
        specialist = self.specialists[str(factor)]
        assert isinstance(specialist, ThreeViewNetwork)
        return specialist

    def network_factor(self, factor: int, gap_ratio: Tensor) -> int:
        """The factor of the network that predicts `factor`: itself, or `wide_gaps` for wide gaps.

        Args:
            factor: up-sampling factor s.
            gap_ratio: as in `ScanFacts`; all gaps must be wide for another factor.
        """
        widest = _WIDE_GAP_AT_X2 if factor == 2 else _WIDE_GAP
        wide = self._wide_gaps and bool((gap_ratio > widest).all())
        return self._wide_gaps if wide else factor

    def predict(
        self, observed: Tensor, factor: int, facts: ScanFacts, trains_fusion: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Predict views and fusion, by the network for gaps of this width (`network_factor`).

        Args:
            observed, factor, facts: as in `forward`.
            trains_fusion: whether the fusion may carry a gradient.

        Returns:
            The predictions as from `forward` and `fuse`.
        """
        source = self.network_factor(factor, facts.gap_ratio)
        if facts.overlap is not None:
            facts = replace(facts, overlap=facts.overlap * source / factor)
        views = self(observed, source, facts)
        with torch.set_grad_enabled(trains_fusion and torch.is_grad_enabled()):
            fused = self.fuse(observed, views, source, facts)
        if source == factor:
            return views, fused
        source_spline, spline = (spline_between(observed, each) for each in (source, factor))
        weights = torch.as_tensor(reading_weights(source, factor).copy()).to(observed)

        def resample(predicted: Tensor) -> Tensor:
            return spline + in_full_precision("kp,...pij->...kij", weights, predicted - source_spline)

        return resample(views), resample(fused)

    def forward(self, observed: Tensor, factor: int, facts: ScanFacts, views: Sequence[str] = VIEWS) -> Tensor:
        """Predict the synthetic slices in every view; `fuse` combines them.

        Args:
            observed: (batch, slices, rows, columns) in network units (`to_network_units`); rows and columns even.
            factor: up-sampling factor s, one of the factors of the network.
            facts: conditioning inputs.
            views: which views to compute, of `VIEWS`.

        Returns:
            In network units. Thin slices: those in the gaps, (views, batch, slices - 1, s - 1, rows, columns).
            Thick slices: all slices, (views, batch, s (slices - 1) + 1, rows, columns).
        """
        if facts.likeness is None and self.network_for(factor).likeness:
            facts = replace(facts, likeness=noise_correlation(observed))
        residuals = [self.residual(view, observed, factor, facts) for view in views]
        if self.thick:
            return spline_through(observed, factor, facts.thick_profile) + torch.stack(
                [join_gaps(residual) for residual in residuals]
            )
        return spline_between(observed, factor) + torch.stack(residuals)

    def fuse(self, observed: Tensor, views: Tensor, factor: int, facts: ScanFacts) -> Tensor:
        """Combine the views: their mean plus the correction of the fusion, if there is one.

        Args:
            views: all views from `forward`.
            observed, factor, facts: as in `forward`.

        Returns:
            As `views`, without its first dimension.
        """
        mean = views.mean(dim=0)
        if self.network_for(factor).fusion is None:
            return mean
        if not self.thick:
            return mean + self.correction(observed, views - spline_between(observed, factor), factor, facts)
        residuals = views - spline_through(observed, factor, facts.thick_profile)
        return mean + join_gaps(self.correction(observed, residuals, factor, facts))

    def complete(self, observed: Tensor, synthetic: Tensor) -> Tensor:
        """All slices in order, from the observed slices and a prediction of `fuse`, or of one view of `forward`."""
        return synthetic if self.thick else interleave(observed, synthetic)

    def residual(self, view: str, observed: Tensor, factor: int, facts: ScanFacts, part: slice = slice(None)) -> Tensor:
        """Predict the residual of the spline in one view.

        Args:
            view: one of `VIEWS`.
            observed, factor, facts: as in `forward`.
            part: gaps (axial), rows (coronal) or columns (sagittal) to predict, with even numbers of rows and columns.
                Joined parts equal the whole.

        Returns:
            (batch, slices - 1, s - 1, rows, columns), or s + 1 instead of s - 1 for thick slices, for the gaps, rows or
            columns in `part`, in network units; to add to `spline_between`, or after `join_gaps` to `spline_through`.
        """
        network = self.network_for(factor)
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
        """Predict the residual of the mean of the views by the fusion.

        Args:
            observed, factor, facts: as in `forward`.
            residuals: residuals of the views in network units. Thin slices: in `gaps`, (3, batch, gaps, s - 1, rows,
                columns). Thick slices: from the first to the last of these gaps with both ends, (3, batch, s gaps + 1,
                rows, columns).
            gaps: the gaps to predict.

        Returns:
            (batch, gaps, s - 1, rows, columns), or s + 1 instead of s - 1 for thick slices, in network units; to add to
            the mean of the views, for thick slices after `join_gaps`.
        """
        if self.thick:
            residuals = residuals.unfold(2, factor + 1, factor).movedim(-1, 3)
        network = self.network_for(factor)
        condition = network._condition(observed, factor, facts)
        if network.fusion is None:
            raise ValueError(f"the network for x{factor} has no fusion")
        return network.fusion(observed, residuals, factor, condition, gaps)

    def adopt_backbones(self, other: "ThreeViewNetwork") -> None:
        """Copy the backbones and fusion blocks of another network, also one for other factors; the heads stay.

        Raises:
            ValueError: the networks differ in size.
        """
        try:
            for mine, theirs in ((self.axial, other.axial), (self.pixelwise, other.pixelwise)):
                state = theirs.trunk.state_dict()
                known = dict(zip(other.condition_names, state["condition.weight"].unbind(1), strict=True))
                own = zip(self.condition_names, mine.trunk.condition.weight.detach().unbind(1), strict=True)
                condition = torch.stack([known.get(name, weights) for name, weights in own], dim=1)
                mine.trunk.load_state_dict(state | {"condition.weight": condition})
            self.pixelwise.across_gap.load_state_dict(other.pixelwise.across_gap.state_dict())
            if self.fusion is not None and other.fusion is not None:
                self.fusion.blocks.load_state_dict(other.fusion.blocks.state_dict())
        except RuntimeError as error:
            raise ValueError("the networks differ in their size") from error
        for factor in map(int, self.specialists):
            self.network_for(factor).adopt_backbones(other.network_for(factor))

    def _condition(self, observed: Tensor, factor: int, facts: ScanFacts) -> Tensor:
        """(batch, conditions): the values of `condition_names`."""
        ratio = facts.gap_ratio
        values = [torch.full_like(ratio, factor), ratio]
        if self.thick:
            # In few pixels only the amount of blur is visible, not the shape of the profile.
            values.append(torch.full_like(ratio, facts.thick_profile.box_width))
        if self.overlap:
            overlap = torch.ones_like(ratio) if facts.overlap is None else facts.overlap
            values.append(overlap.clamp(*OVERLAP_RANGE))
        condition = torch.stack(values, dim=1).log2()
        if not self.likeness:
            return condition
        likeness = noise_correlation(observed) if facts.likeness is None else facts.likeness
        likeness = likeness.to(condition).clamp(*_LIKENESS_RANGE)
        return torch.cat([condition, (likeness - _USUAL_LIKENESS) * _LIKENESS_SCALE], dim=1)
