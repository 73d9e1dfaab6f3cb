"""From the views' spread to errors in HU: what is promised, what is kept, and what a model without it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scans import affine_from, anatomy
from tiny import UNCERTAINTY, make_card, make_network
from XViewSynthLib import Volume, enhance
from XViewSynthLib.evaluation.calibration import fit, measure, samples
from XViewSynthLib.evaluation.selfcheck import drop_slices
from XViewSynthLib.geometry.slice_profile import SliceProfile
from XViewSynthLib.inference.plan import Plan, make_plan
from XViewSynthLib.inference.uncertainty import Calibration, expected_error
from XViewSynthLib.model.catalogue import card_fault, save_model

ENTRY = UNCERTAINTY["factors"]["2"]


def fault_of(**changes: object) -> str | None:
    return card_fault({"schema_version": "1", **make_card(**changes), "weights_sha256": "0" * 64})


def made_up(seed: int, count: int = 20_000) -> np.ndarray:
    """(count, 4) terms in HU² and Laplacian errors, whose variance is twice the first and half the last term."""
    random = np.random.default_rng(seed)
    terms = random.gamma(1.0, 100.0, (count, 3))
    errors = np.abs(random.laplace(0, 1, count)) * np.sqrt((2 * terms[:, 0] + 0.5 * terms[:, 2]) / 2)
    return np.concatenate([terms, errors[:, None]], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    card = make_card(doubt=UNCERTAINTY | {"factors": {"2": ENTRY, "3": ENTRY}})
    return save_model(tmp_path_factory.mktemp("models") / "small", make_network(), card)


@pytest.fixture(scope="module")
def padded() -> Volume:
    """A scan whose first four columns are padding."""
    voxels = anatomy((7, 22, 20))
    voxels[:, :, :4] = -3024
    return Volume(voxels, affine_from())


@pytest.fixture(scope="module")
def enhanced(padded, model):
    return enhance(padded, 3, model=model)


@pytest.fixture(scope="module")
def plan(padded, model) -> Plan:
    """For one new slice between two."""
    return make_plan(padded, model, factor=2)


class TestCurves:
    def test_run_through_their_points(self):
        calibration = Calibration((1, 0, 0), (10, 20), (8, 16), (20, 50))
        assert np.allclose(calibration.expected_error(np.array([10, 15, 20])), [8, 12, 16])
        assert np.allclose(calibration.error_bound(np.array([8, 12, 16])), [20, 35, 50])

    def test_run_to_zero_below_and_in_proportion_beyond(self):
        calibration = Calibration((1, 0, 0), (10, 20), (8, 16), (20, 50))
        assert np.allclose(calibration.expected_error(np.array([0, 5, 40])), [0, 4, 32])
        assert np.allclose(calibration.error_bound(np.array([0, 4, 32])), [0, 10, 100])

    def test_come_from_the_card_of_the_factor(self):
        card = make_card(doubt=UNCERTAINTY | {"factors": {"3": ENTRY}})
        assert Calibration.from_card(card, 3).to_card() == ENTRY
        assert Calibration.from_card(card, 2) is None
        assert Calibration.from_card(make_card(), 3) is None

    def test_are_others_where_slices_are_read_off(self):
        other = ENTRY | {"weights": [2.0, 0.0, 0.5]}
        card = make_card(doubt=UNCERTAINTY | {"factors": {"2": other, "4": ENTRY}, "read_off_factors": {"2": ENTRY}})
        assert Calibration.from_card(card, 2).to_card() == Calibration.from_card(card, 2, 2).to_card() == other
        assert Calibration.from_card(card, 2, 4).to_card() == ENTRY

    def test_are_those_of_the_factor_of_the_network(self):
        other = ENTRY | {"weights": [2.0, 0.0, 0.5]}
        card = make_card(doubt=UNCERTAINTY | {"factors": {"2": other, "4": ENTRY}})
        assert Calibration.from_card(card, 2, 4).to_card() == ENTRY

    @pytest.mark.parametrize("terms", [{}, {"terms": ["disagreement", "age of the scanner", "phase of the moon"]}])
    def test_of_other_terms_are_none(self, terms):
        card = make_card(doubt={"factors": UNCERTAINTY["factors"]} | terms)
        assert Calibration.from_card(card, 2) is None


class TestCard:
    def test_may_hold_the_calibration_or_not(self):
        assert fault_of(doubt={"factors": {"2": ENTRY}, "scans": ["a"]}) is None
        assert fault_of() is None

    @pytest.mark.parametrize(
        "uncertainty",
        [
            None,
            [],
            {},
            {"factors": {"9": ENTRY}},
            {"factors": {}, "read_off_factors": []},
            {"factors": {}, "read_off_factors": {"2": None}},
            {"factors": {"2": None}},
            {"factors": {"2": {**ENTRY, "weights": [1, 1]}}},
            {"factors": {"2": {**ENTRY, "weights": [1, 1, -1]}}},
            {"factors": {"2": {**ENTRY, "weights": "much"}}},
            {"factors": {"2": {**ENTRY, "scale_hu": [5.0]}}},
            {"factors": {"2": {**ENTRY, "scale_hu": []}}},
            {"factors": {"2": {**ENTRY, "expected_error_hu": [40.0, 4.0]}}},
            {"factors": {"2": {**ENTRY, "error_bound_hu": [0.0, 4.0]}}},
            {"factors": {"2": {**ENTRY, "error_bound_hu": [9.0, float("nan")]}}},
        ],
    )
    def test_with_an_unsound_one_is_refused(self, uncertainty):
        assert '"doubt" must be' in fault_of(doubt=uncertainty)


class TestExpectedError:
    def test_is_zero_on_observed_slices_and_in_padding(self, enhanced):
        for grid in (enhanced.expected_error, enhanced.error_bound()):
            assert grid.voxels.dtype == np.float32
            assert not grid.voxels[::3].any()
            assert not grid.voxels[:, :, :4].any()
            assert all((grid.voxels[index][:, 4:] > 0).all() for index in enhanced.synthetic_slices)

    def test_lies_under_its_bound(self, enhanced):
        between = list(enhanced.synthetic_slices)
        expected, bound = enhanced.expected_error.voxels[between], enhanced.error_bound().voxels[between]
        assert (expected < bound)[:, :, 4:].all()

    def test_rises_with_the_disagreement(self, padded, plan):
        calibration = Calibration.from_card({"doubt": UNCERTAINTY}, 2)
        little, much = (
            expected_error(np.full((3, 22, 20), hu, np.float32), padded.voxels[:2], [1], 4.0, plan, calibration)
            for hu in (10, 20)
        )
        assert (much[1] > little[1])[:, 4:].all()

    def test_rises_with_noise(self, plan):
        calibration = Calibration.from_card({"doubt": UNCERTAINTY}, 2)
        noise = np.random.default_rng(0).normal(0, 1, (2, 40, 40))
        quiet, noisy = (
            expected_error(np.zeros((3, 40, 40)), strength * noise, [1], 4.0, plan, calibration)[1]
            for strength in (10, 40)
        )
        assert noisy.mean() > 3 * quiet.mean() > 0

    @pytest.mark.parametrize("profile", [None, SliceProfile()])
    def test_is_less_where_slices_overlap(self, plan, profile):
        calibration = Calibration.from_card({"doubt": UNCERTAINTY}, 2)
        noise = np.random.default_rng(0).normal(0, 30, (2, 64, 64))
        plans = (replace(plan, profile=profile, overlap=overlap) for overlap in (1.0, 2.0))
        touching, overlapping = (
            expected_error(np.zeros((3, 64, 64)), noise, [1], 4.0, plan, calibration)[1].mean() for plan in plans
        )
        assert 0 < overlapping < 0.7 * touching

    def test_counts_noise_of_a_soft_reconstruction_in_full(self, plan):
        calibration = Calibration.from_card({"doubt": UNCERTAINTY}, 2)
        sharp = np.random.default_rng(0).normal(0, 1, (2, 96, 96))
        soft = (sharp + np.roll(sharp, 1, 1)) + np.roll(sharp + np.roll(sharp, 1, 1), 1, 2)
        of_sharp, of_soft = (
            expected_error(np.zeros((3, 96, 96)), 30 * noise / noise.std(), [1], 4.0, plan, calibration)[1].mean()
            for noise in (sharp, soft)
        )
        assert of_soft == pytest.approx(of_sharp, rel=0.3)

    def test_of_a_predicted_slice_in_the_place_of_an_observed_one(self, padded, plan):
        calibration = Calibration.from_card({"doubt": UNCERTAINTY}, 2)
        uncertainty = np.full((5, 22, 20), 10, np.float32)
        thick = replace(plan, profile=SliceProfile())
        result = expected_error(uncertainty, padded.voxels[:3], range(5), 4.0, thick, calibration)
        assert (result[:, :, 4:] > 0).all()

    def test_is_unknown_to_a_model_without_a_calibration(self, padded, model):
        found = enhance(padded, 4, model=model)
        assert found.expected_error is None is found.error_bound()
        assert found.disagreement.voxels.any()

    def test_goes_along_to_a_resampled_grid(self, padded, model):
        found = enhance(padded, spacing=1.5, model=model)
        assert found.expected_error.voxels.shape == found.error_bound().voxels.shape == found.volume.voxels.shape

    def test_can_be_stopped(self, padded, plan):
        def stop():
            raise KeyboardInterrupt

        calibration = Calibration.from_card({"doubt": UNCERTAINTY}, 2)
        with pytest.raises(KeyboardInterrupt):
            expected_error(np.zeros((3, 22, 20)), padded.voxels[:2], [1], 4.0, plan, calibration, stop)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fit([made_up(0), made_up(1, 5000)])


class TestFit:
    def test_finds_what_errors_come_from(self, calibration):
        first, none, last = calibration.weights
        assert first / last == pytest.approx(4, rel=0.2)
        assert none < 0.1 * last

    def test_keeps_its_promise_on_other_voxels(self, calibration):
        fresh = made_up(2)
        scale = np.sqrt(fresh[:, :3] @ np.array(calibration.weights, np.float32))
        expected = calibration.expected_error(scale)
        assert expected.mean() == pytest.approx(fresh[:, 3].mean(), rel=0.03)
        assert (fresh[:, 3] <= calibration.error_bound(expected)).mean() == pytest.approx(0.9, abs=0.01)

    def test_of_errors_that_fall_with_the_uncertainty_still_rises(self):
        sample = made_up(3)
        sample[:, 3] = 1000 / (1 + sample[:, 0]) + np.linspace(0, 1, len(sample))
        card = fit([sample]).to_card()
        assert fault_of(doubt={"factors": {"2": card}}) is None

    def test_fits_on_the_card(self, calibration):
        assert fault_of(doubt={"factors": {"2": calibration.to_card()}}) is None


@pytest.fixture(scope="module")
def trial(thin_scan):
    return drop_slices(thin_scan, 2)


@pytest.fixture(scope="module")
def restored(trial, model):
    return enhance(trial.observed, 2, axis=trial.axis, model=model)


class TestMeasure:
    def test_counts_how_often_the_bound_holds(self, trial, restored):
        found = measure(trial.reference, restored)
        error = np.abs(trial.reference.slices[1::2].astype(float) - restored.volume.voxels[1::2])
        assert found["coverage"] == pytest.approx((error <= restored.error_bound().voxels[1::2]).mean())
        assert found["mean_error_hu"] == pytest.approx(error.mean())
        assert found["mean_expected_error_hu"] == pytest.approx(restored.expected_error.voxels[1::2].mean(), rel=1e-5)

    def test_has_the_same_values_for_each_fifth(self, trial, restored):
        found = measure(trial.reference, restored)
        bounds = [part["mean_bound_hu"] for part in found["bins"]]
        assert len(bounds) == 5
        assert bounds == sorted(bounds)
        assert np.mean([part["coverage"] for part in found["bins"]]) == pytest.approx(found["coverage"], abs=1e-3)

    def test_of_a_model_without_a_calibration_is_none(self, thin_scan, model):
        trial = drop_slices(thin_scan, 4)
        assert measure(trial.reference, enhance(trial.observed, 4, axis=trial.axis, model=model)) is None

    def test_calibrating_on_what_is_measured_keeps_the_promise(self, trial, restored, tmp_path):
        drawn = samples(trial.reference, restored, trial.observed.voxels, 20_000)
        card = make_card(doubt=UNCERTAINTY | {"factors": {"2": fit([drawn]).to_card()}})
        calibrated = save_model(tmp_path / "small", make_network(), card)
        found = measure(trial.reference, enhance(trial.observed, 2, axis=trial.axis, model=calibrated))
        assert found["coverage"] == pytest.approx(0.9, abs=0.02)
        assert found["mean_expected_error_hu"] == pytest.approx(found["mean_error_hu"], rel=0.1)
