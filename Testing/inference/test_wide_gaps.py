"""Slices so far apart that the network of one factor answers for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy
from tiny import NETWORK, enhance_with_views, make_card, make_network
from XViewSynthLib import Volume, enhance, selfcheck
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.inference.uncertainty import TERMS
from XViewSynthLib.model.catalogue import Model, card_fault, save_model
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork
from XViewSynthLib.model.spline import interleave, reading_weights, spline_between, to_hu, to_network_units
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.distillation import restoration_terms
from XViewSynthTrainLib.sampling import Sampler

SIZES = {"fusion_blocks": 1, "wide_gaps": 4, "specialists": {"2": {}, "4": {"fusion_blocks": 2, "overlap": 1}}}
NARROW, WIDE = ScanFacts(torch.tensor([3.0])), ScanFacts(torch.tensor([5.0]))


def scan(spacing: float, thickness: float | None = None) -> Volume:
    return Volume(anatomy((8, 24, 24)), affine_from((0.8, 0.8, spacing)), thickness)


@pytest.fixture(scope="module")
def network() -> ThreeViewNetwork:
    return make_network(**SIZES).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    calibrations = {
        str(factor): {
            "weights": [1.0, 0.0, 0.1],
            "scale_hu": [10.0, 100.0],
            "expected_error_hu": [float(factor), 10.0 * factor],
            "error_bound_hu": [3.0 * factor, 30.0 * factor],
        }
        for factor in (2, 4)
    }
    card = make_card(network=NETWORK | SIZES, doubt={"terms": list(TERMS), "factors": calibrations})
    return save_model(tmp_path_factory.mktemp("models") / "wide", make_network(**SIZES), card)


@pytest.fixture
def observed() -> torch.Tensor:
    return torch.rand(1, 6, 16, 16, generator=torch.Generator().manual_seed(0))


class TestNetworks:
    def test_narrow_gaps_have_a_network_of_their_own(self, network, observed):
        views, answer = network.predict(observed, 2, NARROW)
        assert torch.equal(views, network(observed, 2, NARROW))
        assert torch.equal(answer, network.fuse(observed, views, 2, NARROW))

    def test_wide_ones_get_the_middle_of_finer_slices(self, network, observed):
        told = replace(WIDE, overlap=torch.tensor([1.1]))
        views, answer = network.predict(observed, 2, told)
        finer = replace(WIDE, overlap=torch.tensor([2.2]))
        all_views = network(observed, 4, finer)
        torch.testing.assert_close(views, all_views[:, :, :, [1]])
        torch.testing.assert_close(answer, network.fuse(observed, all_views, 4, finer)[:, :, [1]])

    @pytest.mark.parametrize("factor", [3, 8])
    def test_other_slices_are_read_off_between(self, network, observed, factor):
        views, answer = network.predict(observed, factor, replace(WIDE, overlap=torch.tensor([factor / 2])))
        finer = replace(WIDE, overlap=torch.tensor([2.0]))
        fused = network.fuse(observed, network(observed, 4, finer), 4, finer)
        added = fused - spline_between(observed, 4)
        read_off = torch.einsum("kp,bgpij->bgkij", torch.tensor(reading_weights(4, factor)), added)
        torch.testing.assert_close(answer, spline_between(observed, factor) + read_off)
        assert views.shape == (3, *answer.shape)

    def test_all_factors_ask_the_same_network(self, network):
        assert {network.network_factor(factor, WIDE.gap_ratio) for factor in range(2, 9)} == {4}

    def test_but_each_its_own_where_gaps_are_narrow(self, network):
        assert [network.network_factor(factor, torch.tensor([2.9])) for factor in range(2, 9)] == list(range(2, 9))
        assert [network.network_factor(factor, torch.tensor([3.5])) for factor in (2, 3)] == [2, 4]

    def test_all_gaps_of_a_batch_must_be_wide(self, network):
        assert network.network_factor(2, torch.tensor([3.0, 9.0])) == 2
        assert network.network_factor(2, torch.tensor([5.0, 9.0])) == 4

    @pytest.mark.parametrize("sizes", [{"wide_gaps": 10}, {"wide_gaps": 4, "thick": 1}], ids=["unknown", "thick"])
    def test_networks_that_cannot_predict_are_refused(self, sizes):
        with pytest.raises(ValueError, match="one of its factors"):
            make_network(**sizes)

    def test_a_fusion_that_is_not_to_be_trained_has_no_gradient(self, observed):
        views, answer = make_network(**SIZES).predict(observed, 2, WIDE, trains_fusion=False)
        assert (views.requires_grad, answer.requires_grad) == (True, False)

    def test_an_exercise_trains_the_network_that_predicts(self):
        pupil = make_network(**SIZES)
        config = TrainingConfig(slices=5, pixels=16, factor_shares={2: 1.0}, network=NETWORK | SIZES)
        far_apart = Volume(anatomy((21, 24, 24)), affine_from((0.8, 0.8, 2.5)))
        terms = restoration_terms(pupil, Sampler([far_apart], config).thinned(0), config)
        sum(terms.values()).backward()
        trained = {name.split(".")[1] for name, weights in pupil.named_parameters() if weights.grad is not None}
        assert trained == {"4"}


class TestReadingOff:
    @given(asked=st.integers(2, 8), factor=st.integers(2, 8), linear=st.booleans())
    def test_a_requested_slice_that_was_predicted_is_kept(self, asked, factor, linear):
        weights = reading_weights(asked, factor, linear=linear)
        for index, place in enumerate(np.arange(1, factor) * asked / factor):
            if place == int(place):
                assert np.array_equal(weights[index], np.eye(asked - 1)[int(place) - 1])

    @given(asked=st.integers(2, 8), factor=st.integers(2, 8))
    def test_what_is_no_wilder_than_a_parabola_is_met(self, asked, factor):
        def parabola(slices: int) -> np.ndarray:
            place = np.arange(1, slices) / slices
            return place * (1 - place)

        assert reading_weights(asked, factor) @ parabola(asked) == pytest.approx(parabola(factor), abs=1e-5)

    @given(asked=st.integers(2, 8), factor=st.integers(2, 8))
    def test_lines_never_fall_below_0(self, asked, factor):
        weights = reading_weights(asked, factor, linear=True)
        assert weights.min() >= 0
        assert weights.sum(axis=1).max() <= 1 + 1e-6


class TestEnhancing:
    def test_other_slices_are_read_off_between(self, model):
        far_apart = scan(4.0)
        wide = enhance(far_apart, 3, model=model, axis="K", acquisition="gap", precision="fp32")
        observed = to_network_units(torch.tensor(far_apart.voxels, dtype=torch.float32))[None]
        with torch.inference_mode():
            _, answer = model.network.predict(observed, 3, WIDE)
        expected = to_hu(interleave(observed, answer))[0].numpy().clip(far_apart.voxels.min(), far_apart.voxels.max())
        assert wide.plan.network_factor == 4
        # Between two voxels at the end of the range of the networks, the spline alone counts.
        outside = far_apart.voxels <= -1024
        seen = np.repeat(~(outside[:-1] & outside[1:]), 3, axis=0)
        assert np.abs(wide.volume.voxels - expected)[:-1][seen].max() <= 0.51

    @pytest.mark.parametrize("factor", [3, 8])
    def test_views_differ_between_observed_slices_alone(self, model, factor):
        wide = enhance(scan(4.0), factor, model=model, axis="K", acquisition="gap")
        differ = wide.disagreement.voxels.mean(axis=(1, 2))
        assert (differ[::factor] == 0).all()
        assert (np.delete(differ, np.s_[::factor]) > 0).all()

    def test_every_second_slice_is_that_of_the_finer_scan(self, model):
        wide, finer = (
            enhance_with_views(scan(4.0, 2.2), factor, model=model, axis="K", acquisition="gap", precision="fp32")
            for factor in (2, 4)
        )
        assert (wide.plan.network_factor, wide.plan.network_overlap) == (4, pytest.approx(2.2))
        assert wide.plan.overlap == pytest.approx(1.1)
        assert np.array_equal(wide.volume.voxels, finer.volume.voxels[::2])
        assert np.array_equal(wide.disagreement.voxels, finer.disagreement.voxels[::2])
        assert wide.synthetic_slices == tuple(range(1, 15, 2))
        for name, view in wide.views.items():
            assert np.array_equal(view.voxels, finer.views[name].voxels[::2])

    def test_uncertainty_is_calibrated_for_the_network_that_predicted(self, model):
        wide, finer = (enhance(scan(4.0, 2.2), factor, model=model, axis="K", acquisition="gap") for factor in (2, 4))
        assert np.allclose(wide.expected_error.voxels, finer.expected_error.voxels[::2], rtol=1e-4)
        assert np.array_equal(wide.error_bound().voxels, finer.error_bound().voxels[::2])

    def test_narrow_gaps_are_planned_as_ever(self, model):
        plan = make_plan(scan(2.4), model, factor=2)
        assert (plan.factor, plan.network_factor) == (2, 2)

    def test_finer_slices_are_counted_in_time_and_memory(self, model):
        narrow, wide = (make_plan(scan(spacing), model, factor=2) for spacing in (3.0, 3.4))
        assert wide.network_factor == 4
        assert wide.expected_peak_bytes > narrow.expected_peak_bytes

    def test_a_self_check_asks_the_same_network(self, model):
        own = replace(model, network=make_network(**SIZES | {"wide_gaps": 0}).eval())
        checked, otherwise = (
            selfcheck(scan(2.0), 2, model=each, axis="K", acquisition="gap")["methods"]["enhanced"]["psnr_db"]
            for each in (model, own)
        )
        assert np.isfinite(checked)
        assert checked != otherwise


def test_a_card_may_say_so(model):
    assert card_fault(model.card) is None
