"""The three students: what they start from, and that parts joined are the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tiny import make_network
from XViewSynthLib.geometry.slice_profile import SliceProfile
from XViewSynthLib.model.network import VIEWS, ScanFacts, ThreeViewNetwork
from XViewSynthLib.model.noise import noise_correlation
from XViewSynthLib.model.spline import interleave, spline_between, spline_through, to_hu, to_network_units

FACTS = ScanFacts(torch.tensor([3.0]))
SPECIALISTS = {"2": {}, "4": {"fusion_blocks": 2, "likeness": 1}}


@pytest.fixture(scope="module")
def network() -> ThreeViewNetwork:
    return make_network().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def observed() -> torch.Tensor:
    return torch.rand(1, 7, 12, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


class TestUnits:
    def test_air_is_minus_one(self):
        assert to_network_units(torch.tensor([-1024.0])).item() == -1.0

    def test_hu_outside_the_range_are_clipped(self):
        assert to_network_units(torch.tensor([-3024.0, 9000.0])).tolist() == [-1.0, 3071 / 1024]

    def test_way_back_gives_hu(self):
        assert to_hu(to_network_units(torch.tensor([40.0]))).item() == pytest.approx(40.0)


class TestSpline:
    def test_passes_a_parabola_away_from_the_ends(self):
        slices = torch.arange(20.0).view(1, -1, 1, 1) ** 2
        between = spline_between(slices, 2)[0, 9, 0, 0, 0].item()
        assert between == pytest.approx(9.5**2, rel=1e-3)

    @pytest.mark.parametrize("profile", [None, SliceProfile()])
    def test_keeps_its_precision_where_networks_compute_in_less(self, observed, profile):
        def spline() -> torch.Tensor:
            return spline_between(observed, 3) if profile is None else spline_through(observed, 3, profile)

        expected = spline()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(spline(), expected)


class TestInterleave:
    def test_every_sth_slice_is_observed(self, observed):
        synthetic = torch.zeros(1, 6, 2, 12, 16)
        assert torch.equal(interleave(observed, synthetic)[:, ::3], observed)

    def test_synthetic_slices_lie_in_their_gap(self, observed):
        synthetic = torch.arange(12.0).view(1, 6, 2, 1, 1).expand(1, 6, 2, 12, 16)
        filled = interleave(observed, synthetic)
        assert filled.shape[1] == 3 * 6 + 1
        assert filled[0, 3 * 4 + 2, 0, 0] == 9.0


class TestStudents:
    def test_untrained_students_predict_the_spline(self, observed):
        untrained = ThreeViewNetwork(channels=4, axial_blocks=1, pixel_blocks=1)
        views = untrained(observed, 3, FACTS)
        assert torch.allclose(views, spline_between(observed, 3).expand_as(views), atol=1e-6)

    @pytest.mark.parametrize("factor", range(2, 9))
    def test_one_network_serves_every_factor(self, network, observed, factor):
        assert network(observed, factor, FACTS).shape == (3, 1, 6, factor - 1, 12, 16)

    def test_sagittal_view_is_the_coronal_one_of_the_transposed_scan(self, network, observed):
        sagittal = network(observed, 2, FACTS, ["sagittal"])[0]
        coronal = network(observed.transpose(2, 3).contiguous(), 2, FACTS, ["coronal"])[0]
        assert torch.allclose(sagittal, coronal.transpose(3, 4), atol=1e-5)

    @pytest.mark.parametrize(("view", "dimension", "size"), [("axial", 1, 6), ("coronal", 3, 12), ("sagittal", 4, 16)])
    def test_parts_joined_are_the_whole(self, network, observed, view, dimension, size):
        whole = network.residual(view, observed, 3, FACTS)
        cuts = [slice(0, 2), slice(2, 4), slice(4, size)]
        parts = [network.residual(view, observed, 3, FACTS, cut) for cut in cuts]
        assert torch.allclose(torch.cat(parts, dim=dimension), whole, atol=1e-6)

    def test_scans_of_a_batch_do_not_see_each_other(self, network, observed):
        other = observed.flip(1) * 0.5
        both = network(torch.cat([observed, other]), 2, ScanFacts(torch.tensor([3.0, 1.5])))
        alone = network(other, 2, ScanFacts(torch.tensor([1.5])))
        assert torch.allclose(both[:, 1:], alone, atol=1e-5)

    def test_the_gap_ratio_matters(self, network, observed):
        assert not torch.allclose(
            network(observed, 2, FACTS), network(observed, 2, ScanFacts(FACTS.gap_ratio * 3)), atol=1e-4
        )

    def test_unknown_view_is_refused(self, network, observed):
        with pytest.raises(ValueError, match="choose one of axial, coronal, sagittal"):
            network.residual("oblique", observed, 2, FACTS)

    def test_views_are_the_papers(self):
        assert VIEWS == ("axial", "coronal", "sagittal")


class TestSpecialists:
    """Networks of their own for some factors, within one model."""

    @pytest.fixture
    def team(self) -> ThreeViewNetwork:
        return make_network(fusion_blocks=1, specialists=SPECIALISTS).eval().requires_grad_(False)

    @pytest.mark.parametrize("factor", range(2, 9))
    def test_every_factor_is_predicted(self, team, observed, factor):
        views = team(observed, factor, FACTS)
        assert views.shape == (3, 1, 6, factor - 1, 12, 16)
        assert team.fuse(observed, views, factor, FACTS).shape == views.shape[1:]

    def test_a_specialist_predicts_its_factor(self, team, observed):
        alone = team.specialists["4"]
        views = team(observed, 4, FACTS)
        assert torch.equal(views, alone(observed, 4, FACTS))
        assert torch.equal(team.fuse(observed, views, 4, FACTS), alone.fuse(observed, views, 4, FACTS))

    def test_has_a_fusion_of_its_own_size_or_none(self, team, observed):
        views = team(observed, 2, FACTS)
        assert torch.equal(team.fuse(observed, views, 2, FACTS), views.mean(dim=0))
        assert [len(team.network_for(factor).fusion.blocks) for factor in (3, 4)] == [1, 2]

    def test_others_have_no_head_for_its_factor(self, team):
        assert list(team.axial.heads) == list(team.fusion.stems) == ["3", "5", "6", "7", "8"]

    def test_adopts_the_network_that_predicts_its_factor(self, team):
        other = make_network(seed=5, fusion_blocks=1, specialists=SPECIALISTS)
        other.adopt_backbones(team)
        for factor in (2, 3, 4):
            mine, theirs = other.network_for(factor), team.network_for(factor)
            assert torch.equal(mine.axial.trunk.head.weight, theirs.axial.trunk.head.weight)
            assert not torch.equal(mine.axial.heads[str(factor)].weight, theirs.axial.heads[str(factor)].weight)

    def test_a_step_at_its_factor_trains_it_alone(self, observed):
        network = make_network(specialists={"2": {}})
        network(observed, 2, FACTS).square().sum().backward()
        trained = {name for name, weight in network.named_parameters() if weight.grad is not None}
        assert trained == {name for name, _ in network.named_parameters() if name.startswith("specialists.2.")}


class TestNoiseCorrelation:
    """A network that is told how alike neighbouring slices of the scan are."""

    TOLD = torch.tensor([[0.6]])

    @pytest.fixture
    def told(self) -> ThreeViewNetwork:
        return make_network(fusion_blocks=1, likeness=1).eval().requires_grad_(False)

    def test_matters_to_views_and_fusion(self, told, observed):
        views = told(observed, 3, replace(FACTS, likeness=self.TOLD))
        assert not torch.allclose(views, told(observed, 3, replace(FACTS, likeness=-self.TOLD)), atol=1e-4)
        torch.nn.init.normal_(told.fusion.condition.weight, std=0.3)
        fused = told.fuse(observed, views, 3, replace(FACTS, likeness=self.TOLD))
        assert not torch.allclose(fused, told.fuse(observed, views, 3, replace(FACTS, likeness=-self.TOLD)), atol=1e-4)

    def test_beyond_what_was_learned_the_nearest_counts(self, told, observed):
        views = [
            told(observed, 3, replace(FACTS, likeness=torch.tensor([[number]]))) for number in (0.55, 0.9, 0.05, -0.2)
        ]
        assert torch.equal(views[0], views[1])
        assert torch.equal(views[2], views[3])

    def test_is_that_of_the_slices_by_default(self, told, observed):
        likeness = noise_correlation(observed)
        views = told(observed, 3, FACTS)
        assert torch.equal(views, told(observed, 3, replace(FACTS, likeness=likeness)))
        fused = told.fuse(observed, views, 3, FACTS)
        assert torch.equal(fused, told.fuse(observed, views, 3, replace(FACTS, likeness=likeness)))

    @pytest.mark.parametrize("before", [{}, {"thick": 1}, {"likeness": 1}, {"thick": 1, "likeness": 1, "overlap": 1}])
    @pytest.mark.parametrize("after", [{}, {"overlap": 1}, {"likeness": 1}, {"thick": 1, "likeness": 1}])
    def test_adopted_backbones_keep_common_conditions(self, before, after):
        teacher, pupil = make_network(seed=1, **before), make_network(seed=2, **after)
        own = pupil.axial.trunk.condition.weight.detach().clone()
        pupil.adopt_backbones(teacher)
        for column, name in enumerate(pupil.condition_names):
            weights = pupil.axial.trunk.condition.weight[:, column]
            if name in teacher.condition_names:
                assert torch.equal(
                    weights, teacher.axial.trunk.condition.weight[:, teacher.condition_names.index(name)]
                )
            else:
                assert torch.equal(weights, own[:, column])
