"""The fusion of the three views: what it starts from, what it sees, and that the whole enhancement goes by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy
from tiny import NETWORK, cramped, enhance_with_views, make_card, make_network
from XViewSynthLib import Volume, enhance
from XViewSynthLib.geometry.slice_profile import SliceProfile
from XViewSynthLib.inference.enhancement import carry_out
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.inference.reconstruction import fuse
from XViewSynthLib.model.catalogue import load_model, save_model
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork
from XViewSynthLib.model.spline import spline_between, spline_through, to_network_units
from XViewSynthLib.progress import Progress
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.distillation import agreement_terms, restoration_terms
from XViewSynthTrainLib.sampling import Blocks

FACTS = ScanFacts(torch.tensor([3.0]))
FUSED = NETWORK | {"fusion_blocks": 2}


def trained(**changes: int) -> ThreeViewNetwork:
    """A network whose fusion adds something."""
    return make_network(fusion_blocks=2, **changes).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def observed() -> torch.Tensor:
    return torch.rand(1, 7, 12, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(scope="module", params=["gap", "thick"])
def model(request, tmp_path_factory):
    thick = {"thick": 1} if request.param == "thick" else {}
    card = make_card(acquisition=request.param, network=FUSED | thick)
    return load_model(save_model(tmp_path_factory.mktemp("models") / "fused", trained(**thick), card).folder)


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Odd numbers of rows and columns, which the networks' pixel pairs do not divide."""
    return Volume(anatomy((7, 23, 21)), affine_from((0.8, 0.8, 4.0)), slice_thickness=4.0)


class TestNetwork:
    @pytest.mark.parametrize("thick", [0, 1])
    def test_begins_with_the_mean_of_the_views(self, observed, thick):
        network = make_network(fusion_blocks=2, thick=thick)
        torch.nn.init.zeros_(network.fusion.heads["3"].weight)
        facts = replace(FACTS, profile=SliceProfile() if thick else None)
        views = network(observed, 3, facts)
        assert torch.allclose(network.fuse(observed, views, 3, facts), views.mean(dim=0), atol=1e-6)

    def test_without_one_the_prediction_is_the_mean(self, observed):
        network = make_network()
        views = network(observed, 3, FACTS)
        assert torch.equal(network.fuse(observed, views, 3, FACTS), views.mean(dim=0))

    @pytest.mark.parametrize("factor", range(2, 9))
    def test_serves_every_factor(self, observed, factor):
        network = trained()
        views = network(observed, factor, FACTS)
        answer = network.fuse(observed, views, factor, FACTS)
        assert answer.shape == views.shape[1:]
        assert not torch.allclose(answer, views.mean(dim=0), atol=1e-4)

    @pytest.mark.parametrize("thick", [0, 1])
    def test_parts_joined_are_the_whole(self, observed, thick):
        network, facts = trained(thick=thick), replace(FACTS, profile=SliceProfile(1.3) if thick else None)
        views = network(observed, 3, facts)
        spline = spline_through(observed, 3, facts.profile) if thick else spline_between(observed, 3)
        residuals = views - spline
        whole = network.correction(observed, residuals, 3, facts)
        for first, last in ((0, 2), (2, 6)):
            told = residuals[:, :, 3 * first : 3 * last + 1] if thick else residuals[:, :, first:last]
            part = network.correction(observed, told, 3, facts, slice(first, last))
            assert torch.allclose(part, whole[:, first:last], atol=1e-6)

    def test_distinguishes_the_views(self, observed):
        network = trained()
        views = network(observed, 2, FACTS)
        answer = network.fuse(observed, views, 2, FACTS)
        assert not torch.allclose(network.fuse(observed, views.flip(0), 2, FACTS), answer, atol=1e-4)

    def test_scans_of_a_batch_do_not_see_each_other(self, observed):
        network, facts = trained(), ScanFacts(torch.tensor([3.0, 1.5]))
        batch = torch.cat([observed, observed.flip(1) * 0.5])
        both = network.fuse(batch, network(batch, 2, facts), 2, facts)
        facts = ScanFacts(facts.gap_ratio[1:])
        alone = network.fuse(batch[1:], network(batch[1:], 2, facts), 2, facts)
        assert torch.allclose(both[1:], alone, atol=1e-5)

    def test_what_it_has_learned_goes_over_to_another_acquisition(self):
        thin, thick = trained(seed=1), trained(seed=2, thick=1)
        thick.adopt_backbones(thin)
        for mine, theirs in zip(thick.fusion.blocks.parameters(), thin.fusion.blocks.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    def test_another_size_does_not_go_over(self):
        with pytest.raises(ValueError, match="differ in their size"):
            make_network(fusion_blocks=1).adopt_backbones(trained())


class TestEnhancement:
    def test_predicts_the_fusion_of_the_network(self, scan, model):
        enhanced = enhance(scan, 3, model=model)
        network, profile = model.network, enhanced.plan.profile
        even = np.pad(scan.voxels.astype(np.float32), [(0, 0), (0, 1), (0, 1)], mode="edge")
        observed, facts = to_network_units(torch.from_numpy(even))[None], ScanFacts(torch.tensor([5.0]), profile)
        with torch.inference_mode():
            answer = network.fuse(observed, network(observed, 3, facts), 3, facts)
            spline = spline_between(observed, 3) if profile is None else spline_through(observed, 3, profile)
            missed = network.complete(torch.zeros_like(observed), answer - spline)[0, :, :23, :21]
        expected = fuse(scan.voxels, missed, 3, profile)
        assert np.abs(expected.astype(int) - enhanced.volume.voxels).max() <= 1

    def test_the_mean_of_the_views_is_returned_too(self, scan, model):
        views = enhance_with_views(scan, 3, model=model).views
        assert list(views) == ["axial", "coronal", "sagittal", "mean"]
        three = np.array([views[view].voxels for view in ("axial", "coronal", "sagittal")])
        inside = (three > three.min()).all(axis=0) & (three < three.max()).all(axis=0)
        assert np.abs(three.mean(axis=0) - views["mean"].voxels)[inside].max() < 0.1

    def test_the_disagreement_is_that_of_the_views(self, scan, model):
        alone = ThreeViewNetwork(**model.card["network"] | {"fusion_blocks": 0}).eval()
        alone.load_state_dict(model.network.state_dict(), strict=False)
        views = enhance(scan, 3, model=replace(model, network=alone), precision="fp32")
        fused = enhance(scan, 3, model=model, precision="fp32")
        assert np.allclose(fused.disagreement.voxels, views.disagreement.voxels, atol=1e-3)
        assert np.abs(fused.volume.voxels.astype(int) - views.volume.voxels).max() > 5

    def test_does_not_depend_on_the_size_of_tiles(self, scan, model):
        plan = make_plan(scan, model, factor=3)
        whole = carry_out(plan, scan, model)
        tiles = carry_out(replace(plan, tile_voxels=1), scan, model)
        assert np.abs(whole.volume.voxels.astype(int) - tiles.volume.voxels).max() <= 1

    def test_progress_ends_with_it(self, scan, model):
        steps: list[Progress] = []
        enhance(scan, 3, model=model, progress=steps.append)
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert stages == ["axial view", "coronal view", "sagittal view", "fusion"]
        assert steps[-1].done == steps[-1].total == 6

    def test_too_little_memory_for_it_halves_its_tiles(self, scan, model):
        result = enhance(scan, 3, model=cramped(model))
        assert any("tiles of the fusion were halved" in note for note in result.notes)
        plain = enhance(scan, 3, model=model)
        assert np.abs(plain.volume.voxels.astype(int) - result.volume.voxels).max() <= 1


class TestTraining:
    @pytest.fixture(params=["gap", "thick"])
    def blocks(self, request, observed):
        thick = request.param == "thick"
        slices = torch.rand(1, 13, 12, 16) * 2 - 1
        return Blocks(slices, observed, 2, FACTS.gap_ratio / 2, SliceProfile() if thick else None)

    def test_restoring_trains_fusion_and_views(self, blocks):
        network = make_network(fusion_blocks=2, thick=int(blocks.profile is not None))
        config = TrainingConfig()
        terms = restoration_terms(network, blocks, config)
        terms["mean"].backward()
        assert all(part.grad is not None for part in network.fusion.blocks.parameters())
        assert network.axial.heads["2"].weight.grad.abs().max() > 0

    def test_the_fused_prediction_is_the_next_input(self, blocks):
        network = make_network(fusion_blocks=2, thick=int(blocks.profile is not None))
        seen = []
        forward = network.forward

        def watched(observed, *rest, **more):
            seen.append(observed)
            return forward(observed, *rest, **more)

        network.forward = watched
        agreement_terms(network, blocks, TrainingConfig(), increments=1)
        first, second = seen
        facts = ScanFacts(FACTS.gap_ratio / 2, blocks.profile)
        answer = network.complete(first, network.fuse(first, forward(first, 2, facts), 2, facts))
        assert torch.allclose(second, answer, atol=1e-5)
        assert not second.requires_grad
