"""The three levels of incremental cross-view mutual distillation (Fang et al., CVPR 2022) as one loss."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from XViewSynthLib.geometry.slice_profile import SliceProfile
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork
from XViewSynthLib.model.spline import to_network_units

from .config import TrainingConfig
from .losses import restoration_loss, selective_distillation, wavelet_loss
from .sampling import Blocks


def restoration_terms(network: ThreeViewNetwork, blocks: Blocks, config: TrainingConfig) -> dict[str, Tensor]:
    """Terms of level 0: the errors of all views and of their fusion on the dropped slices of a thinned scan."""
    weights = config.weights
    views, prediction = network.predict(blocks.observed, blocks.factor, blocks.facts)
    within = slice(config.rim, -config.rim or None)
    views, prediction, truth = (images[..., within, within] for images in (views, prediction, blocks.truth))
    # Without the first and the last gap. For thick slices all slices are predicted, for thin ones those in the gaps.
    dimension, ends = (-4, 1) if blocks.profile is None else (-3, blocks.factor)

    def inner(images: Tensor) -> Tensor:
        return images.narrow(dimension, ends, images.shape[dimension] - 2 * ends)

    parts: tuple[tuple[float, Callable[[Tensor], Tensor]], ...]
    parts = ((config.ends_share, lambda images: images), (1 - config.ends_share, inner))

    def error(predicted: Tensor) -> Tensor:
        losses = [
            share * restoration_loss(part(predicted), part(truth), weights.squared) for share, part in parts if share
        ]
        return torch.stack(losses).sum()

    terms = {}
    if weights.views:
        terms["views"] = weights.views * error(views)
    if weights.mean:
        terms["mean"] = weights.mean * error(prediction)
    if weights.wavelet:
        terms["wavelet"] = weights.wavelet * wavelet_loss(prediction, truth)
    return terms


@torch.no_grad()
def answered(teacher: ThreeViewNetwork, gaps: Blocks) -> Blocks:
    """A finer scan predicted by a teacher, for rehearsal (Li and Hoiem, Learning without Forgetting, ECCV 2016).

    Args:
        teacher: a network with fixed weights.
        gaps: blocks of a scan, with the factor for their gaps.
    """
    finer = replace(gaps, slice_ratio=gaps.slice_ratio / gaps.factor, overlap=_finer_overlap(gaps, gaps.factor))
    _, prediction = teacher.predict(gaps.slices, gaps.factor, finer.facts)
    return replace(finer, slices=teacher.complete(gaps.slices, prediction))


def agreement_terms(
    network: ThreeViewNetwork, blocks: Blocks, config: TrainingConfig, increments: int
) -> dict[str, Tensor]:
    """Terms of level 1 and above: differences between the views on slices without truth.

    After level 1 the fused prediction and the observed slices form the next input, which doubles the resolution, and so
    on `increments` times. The prediction carries no gradient into the next level, which it could otherwise simplify.
    """
    terms = {}
    observed, facts = blocks.slices, ScanFacts(blocks.slice_ratio, blocks.profile, blocks.likeness)
    for level in range(1, increments + 2):
        facts = replace(facts, overlap=_finer_overlap(blocks, 2**level))
        views, prediction = network.predict(observed, 2, facts, trains_fusion=False)
        terms[f"distillation_{level}"] = config.weights.distillation * cross_view_distillation(views, config)
        observed = network.complete(observed, prediction)
        # Networks for thick slices predict slices that touch, and measure the noise correlation themselves.
        facts = ScanFacts(facts.gap_ratio / 2, blocks.profile and SliceProfile())
    return terms


def _finer_overlap(blocks: Blocks, factor: int) -> Tensor | None:
    """Overlap of new slices: as thick as thin observed slices; None for thick ones, where new slices touch."""
    return None if blocks.overlap is None or blocks.profile is not None else blocks.overlap * factor


def cross_view_distillation(views: Tensor, config: TrainingConfig) -> Tensor:
    """Axial against coronal and axial against sagittal: (3, ...) in network units -> scalar."""
    unit = to_network_units(torch.tensor(config.distillation_scale_hu)).item()
    axial, coronal, sagittal = views / unit
    return selective_distillation(axial, coronal, config.gamma) + selective_distillation(axial, sagittal, config.gamma)


def training_terms(
    network: ThreeViewNetwork, thinned: Blocks, untouched: Blocks | None, config: TrainingConfig, increments: int
) -> dict[str, Tensor]:
    """All weighted terms of one step; their sum is the loss. Without `untouched`, only level 0."""
    terms = restoration_terms(network, thinned, config)
    if untouched is not None:
        terms |= agreement_terms(network, untouched, config, increments)
    return terms
