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
    """Level 0: thin the scan, restore the dropped slices; every view and their fusion against what was dropped."""
    weights = config.weights
    views, answer = network.answer(blocks.observed, blocks.factor, blocks.facts)
    within = slice(config.rim, -config.rim or None)
    views, answer, truth = (images[..., within, within] for images in (views, answer, blocks.truth))
    # Without the first and the last gap: of thick slices, all are answered, and of thin ones what lies in the gaps.
    dimension, ends = (-4, 1) if blocks.profile is None else (-3, blocks.factor)

    def inner(images: Tensor) -> Tensor:
        return images.narrow(dimension, ends, images.shape[dimension] - 2 * ends)

    parts: tuple[tuple[float, Callable[[Tensor], Tensor]], ...]
    parts = ((config.ends_share, lambda images: images), (1 - config.ends_share, inner))

    def missed(predicted: Tensor) -> Tensor:
        losses = [
            share * restoration_loss(part(predicted), part(truth), weights.squared) for share, part in parts if share
        ]
        return torch.stack(losses).sum()

    terms = {}
    if weights.views:
        terms["views"] = weights.views * missed(views)
    if weights.mean:
        terms["mean"] = weights.mean * missed(answer)
    if weights.wavelet:
        terms["wavelet"] = weights.wavelet * wavelet_loss(answer, truth)
    return terms


@torch.no_grad()
def answered(teacher: ThreeViewNetwork, gaps: Blocks) -> Blocks:
    """What a teacher makes of a scan, as if it were a finer scan: to rehearse on (Li and Hoiem, Learning without
    Forgetting, ECCV 2016).

    Args:
        teacher: a network that does not change.
        gaps: blocks of a scan, and the factor by which to fill their gaps.
    """
    finer = replace(gaps, slice_ratio=gaps.slice_ratio / gaps.factor, overlap=_finer_overlap(gaps, gaps.factor))
    _, answer = teacher.answer(gaps.slices, gaps.factor, finer.facts)
    return replace(finer, slices=teacher.complete(gaps.slices, answer))


def agreement_terms(
    network: ThreeViewNetwork, blocks: Blocks, config: TrainingConfig, increments: int
) -> dict[str, Tensor]:
    """Level 1 and beyond: nobody has the truth between the slices of the scan itself, so the views must agree.

    After level 1 the answer made of the views joins the observed slices and goes in again, which doubles the
    resolution; again the views must agree, `increments` times. The answer that goes in again carries no gradient: a
    level must not make itself easier for the next.
    """
    terms = {}
    observed, facts = blocks.slices, ScanFacts(blocks.slice_ratio, blocks.profile, blocks.likeness)
    for level in range(1, increments + 2):
        facts = replace(facts, overlap=_finer_overlap(blocks, 2**level))
        views, answer = network.answer(observed, 2, facts, trains_fusion=False)
        terms[f"distillation_{level}"] = config.weights.distillation * cross_view_distillation(views, config)
        observed = network.complete(observed, answer)
        # Networks for thick slices answer with slices that touch; how alike they are, they tell themselves.
        facts = ScanFacts(facts.gap_ratio / 2, blocks.profile and SliceProfile())
    return terms


def _finer_overlap(blocks: Blocks, factor: int) -> Tensor | None:
    """That of slices between those of a block: as thick as thin ones, while between thick ones they touch."""
    return None if blocks.overlap is None or blocks.profile is not None else blocks.overlap * factor


def cross_view_distillation(views: Tensor, config: TrainingConfig) -> Tensor:
    """Axial against coronal and axial against sagittal: (3, ...) in network units -> scalar."""
    unit = to_network_units(torch.tensor(config.distillation_scale_hu)).item()
    axial, coronal, sagittal = views / unit
    return selective_distillation(axial, coronal, config.gamma) + selective_distillation(axial, sagittal, config.gamma)


def training_terms(
    network: ThreeViewNetwork, thinned: Blocks, untouched: Blocks | None, config: TrainingConfig, increments: int
) -> dict[str, Tensor]:
    """All weighted terms of one step; their sum is the loss. Without `untouched`, level 0 alone."""
    terms = restoration_terms(network, thinned, config)
    if untouched is not None:
        terms |= agreement_terms(network, untouched, config, increments)
    return terms
