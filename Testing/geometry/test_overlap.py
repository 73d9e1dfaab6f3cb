"""By how much new slices overlap: what the networks are told where slices are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy
from tiny import NETWORK, make_card, make_network
from XViewSynthLib import Volume, enhance, selfcheck
from XViewSynthLib.errors import InputError
from XViewSynthLib.evaluation.selfcheck import drop_slices
from XViewSynthLib.geometry.acquisition import known_thickness, resolve_overlap
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.model.catalogue import Model, save_model
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.distillation import agreement_terms, answered
from XViewSynthTrainLib.sampling import Blocks, Sampler, mixed_with_neighbours

FACTS = ScanFacts(torch.tensor([5.0]))


def scan(thickness: float | None = None, spacing: float = 4.0, slices: int = 8) -> Volume:
    return Volume(anatomy((slices, 24, 24)), affine_from((0.8, 0.8, spacing)), thickness)


@pytest.fixture
def told() -> ThreeViewNetwork:
    return make_network(fusion_blocks=1, overlap=1).eval().requires_grad_(False)


@pytest.fixture
def observed() -> torch.Tensor:
    return torch.rand(1, 6, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    card = make_card(network=NETWORK | {"fusion_blocks": 1, "overlap": 1})
    return save_model(tmp_path_factory.mktemp("models") / "told", make_network(fusion_blocks=1, overlap=1), card)


@pytest.fixture(scope="module")
def thick_model(tmp_path_factory) -> Model:
    sizes = {"thick": 1, "overlap": 1}
    card = make_card(acquisition="thick", network=NETWORK | sizes)
    return save_model(tmp_path_factory.mktemp("models") / "thick", make_network(**sizes), card)


class TestNetworks:
    def test_views_and_fusion_heed_it(self, told, observed):
        views = told(observed, 3, replace(FACTS, overlap=torch.tensor([2.0])))
        assert not torch.allclose(views, told(observed, 3, FACTS), atol=1e-4)
        torch.nn.init.normal_(told.fusion.condition.weight, std=0.3)
        fused = told.fuse(observed, views, 3, replace(FACTS, overlap=torch.tensor([2.0])))
        assert not torch.allclose(fused, told.fuse(observed, views, 3, FACTS), atol=1e-4)

    def test_without_it_slices_touch(self, told, observed):
        assert torch.equal(told(observed, 3, FACTS), told(observed, 3, replace(FACTS, overlap=torch.tensor([1.0]))))

    def test_beyond_what_was_learned_the_nearest_counts(self, told, observed):
        answers = [told(observed, 3, replace(FACTS, overlap=torch.tensor([number]))) for number in (1.0, 0.3, 3.0, 7.0)]
        assert torch.equal(answers[0], answers[1])
        assert torch.equal(answers[2], answers[3])

    def test_networks_that_do_not_ask_do_not_heed_it(self, observed):
        network = make_network()
        assert torch.equal(
            network(observed, 2, FACTS), network(observed, 2, replace(FACTS, overlap=torch.tensor([2.0])))
        )


class TestResolving:
    @pytest.mark.parametrize(("thickness", "expected"), [(2.0, 2.0), (1.0, 1.0), (0.5, 0.5), (None, 1.0)])
    def test_slices_between_thin_ones_are_as_thick(self, thickness, expected):
        assert resolve_overlap(scan(thickness), "K", 4, "gap") == pytest.approx(expected)

    def test_slices_in_place_of_thick_ones_touch(self):
        assert resolve_overlap(scan(4.0), "K", 4, "thick") == 1.0

    @pytest.mark.parametrize(("new", "expected"), [(1.0, 1.0), (0.9999, 1.0), (2.0, 2.0), (2.5, 2.5)])
    def test_or_have_the_requested_thickness(self, new, expected):
        overlap = resolve_overlap(scan(4.0), "K", 4, "thick", new_thickness=new)
        assert overlap >= 1.0
        assert overlap == pytest.approx(expected)

    @pytest.mark.parametrize("new", [0.5, 3.0, -1.0, float("nan")])
    def test_that_no_network_knows(self, new):
        with pytest.raises(InputError, match="New slices 1 mm apart can be 1 to 2.5 mm thick, not"):
            resolve_overlap(scan(4.0), "K", 4, "thick", new_thickness=new)

    def test_of_slices_between_thin_ones_cannot_be_requested(self):
        with pytest.raises(InputError, match="give the thickness of the scan.s slices"):
            resolve_overlap(scan(1.0), "K", 4, "gap", new_thickness=2.0)

    def test_a_given_thickness_counts_in_place_of_the_scans(self):
        assert resolve_overlap(scan(1.0), "K", 4, "gap", thickness=1.5) == pytest.approx(1.5)
        assert known_thickness(scan(1.0), "K", 1.5) == 1.5

    @pytest.mark.parametrize("thickness", [0.0, -1.0, float("nan")])
    def test_a_thickness_that_is_none_is_refused(self, thickness):
        with pytest.raises(InputError, match="positive number of millimetres"):
            known_thickness(scan(), "K", thickness)

    @given(thickness=st.floats(0.1, 3.9), factor=st.integers(2, 8))
    def test_is_what_a_thinned_scan_was_before(self, thickness, factor):
        """Thickness over distance is the same for what was taken away and for what is put in its place."""
        thinned = Volume(np.zeros((8, 8, 8), np.int16), affine_from((0.8, 0.8, 4.0 * factor)), thickness)
        assert resolve_overlap(thinned, "K", factor, "gap") == pytest.approx(thickness / 4.0)


class TestEnhancement:
    def test_the_thickness_of_the_scan_decides(self, model):
        answers = [enhance(scan(thickness), 4, model=model).volume.voxels for thickness in (None, 1.0, 2.0)]
        assert np.array_equal(answers[0], answers[1])
        assert not np.array_equal(answers[1], answers[2])
        less = enhance(scan(0.5), 4, model=model)
        assert np.array_equal(less.volume.voxels, answers[1])
        given = enhance(scan(), 4, model=model, thickness=2.0)
        assert np.array_equal(given.volume.voxels, answers[2])
        assert given.plan.overlap == pytest.approx(2.0)

    def test_the_report_states_it(self, model):
        assert make_plan(scan(2.0), model, factor=2).to_dict()["overlap"] == 1.0
        assert make_plan(scan(2.0), model, factor=4).to_dict()["overlap"] == 2.0

    def test_a_self_check_uses_the_same(self, model):
        thin = scan(slices=17, spacing=1.0)
        checks = [selfcheck(thin, 2, model=model, thickness=thickness)["methods"] for thickness in (None, 0.8, 2.0)]
        untold, touching, overlapping = (methods["enhanced"]["psnr_db"] for methods in checks)
        assert untold == touching != overlapping


class TestNewSlicesInPlaceOfThickOnes:
    def test_have_the_requested_thickness(self, thick_model):
        touching, wide = (enhance(scan(4.0), 4, model=thick_model, new_thickness=new) for new in (None, 2.0))
        assert (touching.volume.slice_thickness, wide.volume.slice_thickness) == (1.0, 2.0)
        assert not np.array_equal(touching.volume.voxels, wide.volume.voxels)

    def test_touch_where_a_model_knows_no_others(self):
        model = Model(
            "untold", None, make_card(acquisition="thick", network=NETWORK | {"thick": 1}), "", make_network(thick=1)
        )
        plan = make_plan(scan(4.0), model, factor=4, new_thickness=2.0)
        assert plan.overlap == 1.0
        assert plan.notes[-1] == "The model untold does not support a thickness of new slices: they touch."

    @pytest.mark.parametrize(("thickness", "expected"), [(None, None), (0.7, 1.0), (1.6, 1.6), (4.0, 2.5)])
    def test_are_requested_like_the_known_ones(self, thick_model, model, thickness, expected):
        trial = drop_slices(scan(thickness, spacing=1.0, slices=17), 4, acquisition="thick")
        assert trial.new_thickness(thick_model) == expected
        assert trial.new_thickness(model) is None

    def test_in_every_check(self, thick_model):
        thin = scan(spacing=1.0, slices=17)
        checks = [
            selfcheck(thin, 2, model=thick_model, thickness=thickness)["methods"] for thickness in (None, 1.0, 2.0)
        ]
        untold, touching, overlapping = (methods["enhanced"]["psnr_db"] for methods in checks)
        assert untold == touching != overlapping


class TestTraining:
    CONFIG = TrainingConfig(batch=4, slices=5, pixels=16, factor_shares={2: 1.0}, overlap_share=0.5)

    def sampler(self, thickness: float, acquisition: str = "gap") -> Sampler:
        network = NETWORK | {"thick": int(acquisition == "thick"), "overlap": 1}
        config = replace(self.CONFIG, acquisition=acquisition, network=network, in_plane_share=0.0)
        return Sampler([Volume(anatomy((40, 24, 24)), affine_from((0.8, 0.8, 1.0)), thickness)], config)

    @pytest.mark.parametrize("acquisition", ["gap", "thick"])
    def test_blocks_are_conditioned_on_that_of_their_target(self, acquisition):
        sampler = self.sampler(1.5, acquisition)
        overlap = torch.cat([sampler.thinned(step).overlap for step in range(8)])
        assert overlap.min() == pytest.approx(1.5)
        assert 1.6 < overlap.max() <= (1.5**2 + 24 / 3 / 1.5**2) ** 0.5
        assert sampler.thinned(0).part(0, 2).overlap.shape == (2,)

    def test_mixing_makes_slices_thicker_as_it_makes_them_alike(self):
        """Slices of a scan that see 1.5 times their thickness, and those of one that are mixed to the same thickness,
        share about the same part of their noise with the next one."""
        noise = np.random.default_rng(0).normal(size=(4000, 8))

        def seen(width: int) -> np.ndarray:
            return np.stack([noise[start : start + width].mean(axis=0) for start in range(0, 3800, 8)])

        def alike(slices: np.ndarray) -> float:
            return np.corrcoef(slices[:-1].ravel(), slices[1:].ravel())[0, 1]

        # Distance 8, thickness 8: seen are 12.
        material = self.sampler(1.0).along[0]
        for weight in (0.1, 0.2, 0.3):
            mixed = mixed_with_neighbours(seen(12)[..., None], weight)
            thicker = seen(round(12 * material.thickness_when_mixed(weight)))
            assert alike(mixed) == pytest.approx(alike(thicker), abs=0.12)

    def test_the_views_agree_on_slices_as_thick_as_the_scans(self):
        asked = []

        class Network(ThreeViewNetwork):
            def forward(self, observed, factor, facts):
                asked.append(facts.overlap)
                return super().forward(observed, factor, facts)

        blocks = Blocks(torch.rand(2, 5, 8, 8), torch.empty(0), 1, torch.ones(2), overlap=torch.tensor([0.5, 0.8]))
        agreement_terms(Network(**NETWORK, overlap=1), blocks, self.CONFIG, increments=1)
        assert [overlap.tolist() for overlap in asked] == [pytest.approx([1.0, 1.6]), pytest.approx([2.0, 3.2])]

    def test_predictions_of_a_teacher_are_as_thick(self):
        gaps = self.sampler(0.5).own_gaps(0)
        finer = answered(make_network(overlap=1), gaps)
        assert torch.allclose(finer.overlap, gaps.overlap * 2)
        thick = self.sampler(1.0, "thick").own_gaps(0)
        assert answered(make_network(thick=1, overlap=1), thick).overlap is None
