"""Best quality: the mean prediction of the scan and its mirrored and rotated copies."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy
from tiny import NETWORK, cramped, enhance_with_views, make_card, make_network
from XViewSynthLib import InputError, Volume, enhance, selfcheck
from XViewSynthLib.inference import plan, trial
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.model.catalogue import Model, load_model, save_model
from XViewSynthLib.model.ensemble import Augmentation, augmentations
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.request import Quality

#: For each pass, the scan as the networks see it.
SEEN = (
    lambda voxels: voxels,
    lambda voxels: voxels[::-1],
    lambda voxels: np.rot90(voxels, -1, (1, 2)),
    lambda voxels: np.rot90(voxels[::-1], 1, (1, 2)),
)
#: And back.
UNSEEN = (
    SEEN[0],
    SEEN[1],
    lambda voxels: np.rot90(voxels, 1, (1, 2)),
    lambda voxels: np.rot90(voxels, -1, (1, 2))[::-1],
)
#: The same plane of the body, where rows and columns are exchanged.
TURNED = {"coronal": "sagittal", "sagittal": "coronal"}


@pytest.fixture(scope="module", params=["gap", "thick"])
def model(request, tmp_path_factory) -> Model:
    sizes = {"fusion_blocks": 1, "likeness": 1} | ({"thick": 1} if request.param == "thick" else {})
    card = make_card(acquisition=request.param, network=NETWORK | sizes)
    return load_model(save_model(tmp_path_factory.mktemp("model"), make_network(**sizes), card).folder)


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Sides are even, as networks take pixels in pairs: an odd one is filled up where it ends, and a mirror moves
    that."""
    return Volume(anatomy((6, 24, 20)).astype(np.float32), affine_from((0.8, 0.8, 4.0)), slice_thickness=4.0)


@pytest.fixture(scope="module")
def best(scan, model):
    return enhance_with_views(scan, 3, model=model, quality=Quality.BEST, device="cpu")


@pytest.fixture(scope="module")
def alone(scan, model):
    """Predictions of the scan and its mirrored and rotated copies, transformed back."""
    found = []
    for index, (see, unsee) in enumerate(zip(SEEN, UNSEEN, strict=True)):
        seen = scan.with_voxels(np.ascontiguousarray(see(scan.voxels)))
        answer = enhance_with_views(seen, 3, model=model, device="cpu")
        grids = {"enhanced": answer.volume, "disagreement": answer.disagreement, **answer.views}
        renamed = TURNED if index > 1 else {}
        found.append({renamed.get(name, name): unsee(grid.voxels) for name, grid in grids.items()})
    return found


def mean_where_none_is_clipped(grids: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Their mean, and where no answer is near the ends of the scan's range: each is clipped there, and not the mean."""
    within = np.all([np.abs(grid) < 650 for grid in grids], axis=0)
    assert within.mean() > 0.3
    return np.mean(grids, axis=0), within


class TestPrediction:
    def test_is_the_mean_over_all_augmentations(self, best, alone):
        expected, within = mean_where_none_is_clipped([answer["enhanced"] for answer in alone])
        np.testing.assert_allclose(best.volume.voxels[within], expected[within], atol=0.02)
        assert np.abs(alone[0]["enhanced"] - expected).max() > 1

    @pytest.mark.parametrize("view", ["axial", "coronal", "sagittal", "mean"])
    def test_so_are_its_views(self, best, alone, view):
        expected, within = mean_where_none_is_clipped([answer[view] for answer in alone])
        np.testing.assert_allclose(best.views[view].voxels[within], expected[within], atol=0.02)

    def test_its_disagreement_is_that_of_views_in_one_pass(self, best, alone):
        expected = np.sqrt(np.mean([answer["disagreement"] ** 2 for answer in alone], axis=0))
        np.testing.assert_allclose(best.disagreement.voxels, expected, atol=0.02)

    def test_observed_slices_stay(self, scan, best):
        if best.acquisition == "gap":
            np.testing.assert_array_equal(best.volume.voxels[::3], scan.voxels)

    def test_of_an_odd_scan(self, scan, model):
        odd = scan.with_voxels(scan.voxels[:, :-1, :-1])
        answer = enhance(odd, 2, model=model, quality=Quality.BEST, device="cpu")
        assert answer.volume.voxels.shape == (11, 23, 19)

    @pytest.mark.parametrize("factor", [2, 3])
    def test_selects_slices_from_the_prediction_of_another_factor(self, scan, tmp_path, factor):
        network = make_network(wide_gaps=4)
        small = Model("small", tmp_path, make_card(), "0" * 64, network)
        best = enhance(scan, factor, model=small, quality=Quality.BEST, device="cpu")
        assert best.plan.network_factor == 4
        np.testing.assert_array_equal(best.volume.voxels[::factor], scan.voxels)


class TestPlan:
    def test_takes_as_many_times_longer_and_more_memory(self, scan, model, monkeypatch):
        monkeypatch.setattr(trial.time, "perf_counter", count().__next__)
        monkeypatch.setattr(plan, "process_bytes", lambda: 10**8)
        one, four = (
            make_plan(scan, model, factor=3, device="cpu", quality=quality)
            for quality in (Quality.STANDARD, Quality.BEST)
        )
        assert four.expected_seconds == pytest.approx(4 * one.expected_seconds)
        more = four.expected_peak_bytes - one.expected_peak_bytes
        assert more == 4 * scan.voxels.size + 8 * 16 * 24 * 20
        assert four.to_dict()["quality"] == "best"

    def test_is_reported_pass_by_pass(self, scan, model):
        steps = []
        enhance(scan, 2, model=model, quality=Quality.BEST, device="cpu", progress=steps.append)
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert len(stages) == 16
        assert (stages[0], stages[-1]) == ("axial view, pass 1 of 4", "fusion, pass 4 of 4")
        assert steps[-1].seconds_left == 0

    def test_what_happens_in_every_pass_is_noted_once(self, scan, model):
        notes = enhance(scan, 3, model=cramped(model), quality=Quality.BEST, device="cpu").notes
        assert sum("halved" in note for note in notes) == 1

    def test_a_quality_that_does_not_exist(self, scan, model):
        with pytest.raises(InputError, match="The quality must be standard or best, not 'perfect'"):
            enhance(scan, 2, model=model, quality="perfect", device="cpu")


class TestBestSpecialists:
    """Networks that answer at best quality alone."""

    @pytest.fixture(params=[{}, {"4": {"fusion_blocks": 2}}], ids=["beside none", "beside one"])
    def sizes(self, request) -> dict:
        """Of networks with specialists for x2 and x4 at best quality, and none or one for x4 at standard quality."""
        return {
            "fusion_blocks": 1,
            "specialists": request.param,
            "best_specialists": {"2": {"fusion_blocks": 2}, "4": {"fusion_blocks": 3}},
        }

    @pytest.fixture
    def larger(self, sizes, tmp_path) -> Model:
        card = make_card(network=NETWORK | sizes)
        return load_model(save_model(tmp_path / "larger", make_network(**sizes), card).folder)

    def test_predict_only_at_best_quality(self, scan, larger):
        without, with_them = (larger.at_quality(quality) for quality in (Quality.STANDARD, Quality.BEST))
        for factor in (2, 3, 4):
            one, best = (enhance(scan, factor, model=larger, quality=quality, device="cpu") for quality in Quality)
            same = enhance(scan, factor, model=without, device="cpu")
            np.testing.assert_array_equal(one.volume.voxels, same.volume.voxels)
            of_all, of_others = (
                enhance(scan, factor, model=each, quality=Quality.BEST, device="cpu") for each in (with_them, without)
            )
            np.testing.assert_array_equal(best.volume.voxels, of_all.volume.voxels)
            assert np.array_equal(best.volume.voxels, of_others.volume.voxels) == (factor == 3)

    def test_are_chosen_and_not_copied(self, larger):
        before = list(larger.network.state_dict())
        best = larger.at_quality(Quality.BEST)
        assert best.network.network_for(4) is larger.network.best_specialists["4"]
        assert best.network.axial is larger.network.axial
        assert best.at_quality(Quality.BEST).network.network_for(4) is best.network.network_for(4)
        assert list(larger.network.state_dict()) == before

    def test_are_not_in_what_is_trained(self, sizes, larger):
        model = larger.trainable()
        assert model.card["network"] == NETWORK | {"fusion_blocks": 1, "specialists": sizes["specialists"]}
        expected = ThreeViewNetwork(**model.card["network"])
        assert model.network.state_dict().keys() == expected.state_dict().keys()

    @pytest.mark.parametrize("quality", Quality)
    def test_time_and_memory_are_those_of_the_network_that_predicts(self, scan, larger, monkeypatch, quality):
        expected = larger.network.at_quality(quality).network_for(4)
        asked = []
        answering = ThreeViewNetwork.network_for

        def listen(network, factor):
            asked.append(answering(network, factor))
            return asked[-1]

        monkeypatch.setattr(ThreeViewNetwork, "network_for", listen)
        make_plan(scan, larger, factor=4, device="cpu", quality=quality)
        # A network at a quality is a copy that has the same layers.
        assert {id(network.axial) for network in asked} == {id(expected.axial)}


def test_a_selfcheck_measures_it(scan, model):
    small = scan.with_voxels(np.tile(scan.voxels, (2, 1, 1)))
    reports = [selfcheck(small, model=model, device="cpu", quality=quality) for quality in ("standard", "best")]
    assert [report["quality"] for report in reports] == ["standard", "best"]
    one, four = (report["methods"]["enhanced"]["psnr_db"] for report in reports)
    assert one != four


class TestAugmentations:
    def test_one_pass_predicts_the_scan_as_it_is(self):
        assert augmentations("standard") == (Augmentation(),)

    def test_best_also_predicts_mirrored_and_rotated_copies(self):
        voxels = np.random.default_rng(0).normal(size=(3, 4, 6))
        seen = [augmentation.apply(torch.from_numpy(voxels)).numpy() for augmentation in augmentations("best")]
        for shown, see in zip(seen, SEEN, strict=True):
            assert np.array_equal(shown, see(voxels))

    @given(reversed_axes=st.sets(st.integers(0, 2)), turned=st.booleans(), index=st.integers(0, 2))
    def test_every_slice_comes_back_as_it_was(self, reversed_axes, turned, index):
        voxels = torch.arange(3.0 * 4 * 6).view(3, 4, 6)
        augmentation = Augmentation(tuple(sorted(reversed_axes)), turned)
        assert torch.equal(augmentation.inverse_slice(augmentation.apply(voxels), index), voxels[index])
