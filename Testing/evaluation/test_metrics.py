"""The rules of measurement, against direct formulas."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from XViewSynthLib.errors import InputError
from XViewSynthLib.evaluation import metrics
from XViewSynthLib.evaluation.metrics import (
    Scores,
    body_mask,
    disagreement_correlation,
    field_of_view,
    mae_hu,
    make_reference,
    noise_ratio,
    psnr_db,
    rank_correlation,
    score,
    score_whole_volume,
    ssim,
)
from XViewSynthLib.geometry.acquisition import cut_to_factor, thin
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.geometry.volume import Volume

SHAPE = (9, 20, 24)
EVERYWHERE = np.ones(SHAPE, bool)


def _noise(seed: int = 0, scale: float = 100.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, scale, SHAPE)).astype(np.float32)


def _patient(slices: int = 9) -> np.ndarray:
    """A body of 40 HU with a lung in it, lying in air on a thin table; noise of 20 HU, from -1024 HU."""
    rows, columns = np.indices((60, 64))
    plane = np.full((60, 64), -1000.0)
    plane[((rows - 28) / 18) ** 2 + ((columns - 32) / 24) ** 2 < 1] = 40
    plane[((rows - 26) / 8) ** 2 + ((columns - 24) / 8) ** 2 < 1] = -850
    plane[54:56] = 100
    noise = np.random.default_rng(1).normal(0, 20, (slices, 60, 64))
    return (plane + noise).round().clip(-1024).astype(np.int16)


def _volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels, np.diag([2.0, 2.0, 1.0, 1.0]))


class TestPsnr:
    def test_formula(self):
        truth, candidate = _noise(0), _noise(1)
        expected = 20 * math.log10(4096) - 10 * math.log10(np.mean((truth - candidate).astype(float) ** 2))
        assert psnr_db(truth, candidate, EVERYWHERE) == pytest.approx(expected, abs=1e-6)

    def test_only_counted_voxels(self):
        candidate = np.zeros(SHAPE)
        candidate[0] = 64
        counted = EVERYWHERE.copy()
        counted[2:] = False
        assert psnr_db(np.zeros(SHAPE), candidate, counted) == pytest.approx(20 * math.log10(64) + 10 * math.log10(2))

    def test_hu_are_clipped(self):
        truth, candidate = np.full(SHAPE, -3024.0), np.full(SHAPE, -1024.0)
        assert psnr_db(truth, candidate, EVERYWHERE) == math.inf
        assert psnr_db(np.full(SHAPE, 9000), np.full(SHAPE, 3071), EVERYWHERE) == math.inf

    def test_integers_do_not_overflow(self):
        truth, candidate = np.full(SHAPE, -1024, np.int16), np.full(SHAPE, 3071, np.int16)
        assert psnr_db(truth, candidate, EVERYWHERE) == pytest.approx(20 * math.log10(4096 / 4095))

    def test_nothing_counted(self):
        assert math.isnan(psnr_db(_noise(), _noise(), ~EVERYWHERE))


class TestMeanAbsoluteError:
    def test_formula(self):
        truth, candidate = _noise(0), _noise(1)
        assert mae_hu(truth, candidate, EVERYWHERE) == pytest.approx(np.abs(truth - candidate).mean(), rel=1e-5)

    def test_only_counted_voxels(self):
        counted = EVERYWHERE.copy()
        counted[:, :, 5:] = False
        candidate = np.where(counted, 7.0, 900.0)
        assert mae_hu(np.zeros(SHAPE), candidate, counted) == pytest.approx(7)

    def test_nothing_counted(self):
        assert math.isnan(mae_hu(_noise(), _noise(), ~EVERYWHERE))


def _ssim_by_the_textbook(truth: np.ndarray, candidate: np.ndarray, counted: np.ndarray) -> float:
    """Wang et al. 2004: every window cut out and weighted, in float64, without any shortcut."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    families = []
    for dimension in range(3):
        values = []
        planes = zip(*(np.moveaxis(array, dimension, 0) for array in (truth, candidate, counted)), strict=True)
        for x, y, inside in planes:
            x, y = (np.pad(np.clip(p.astype(float), -1024, 3071) + 1024, 5, mode="symmetric") for p in (x, y))
            for row, column in np.argwhere(inside):
                a, b = (p[row : row + 11, column : column + 11] for p in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                variances = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = (0.01 * 4096) ** 2, (0.03 * 4096) ** 2
                luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
                values.append(luminance * (2 * covariance + c2) / (variances + c2))
        families.append(np.mean(values))
    return float(np.mean(families))


class TestSsim:
    def test_textbook(self):
        truth = _noise(0, 400)
        candidate = truth + _noise(1, 200) + 30
        counted = np.random.default_rng(2).random(SHAPE) < 0.1
        expected = _ssim_by_the_textbook(truth, candidate, counted)
        assert 0.2 < expected < 0.95
        assert ssim(truth, candidate, counted) == pytest.approx(expected, abs=1e-5)

    def test_one_for_the_truth_itself(self):
        assert ssim(_noise(), _noise(), EVERYWHERE) == pytest.approx(1, abs=1e-6)

    def test_same_however_many_planes_at_once(self, monkeypatch):
        truth, candidate = _noise(0), _noise(1)
        expected = ssim(truth, candidate, EVERYWHERE)
        monkeypatch.setattr(metrics, "_PIXELS_AT_ONCE", 1)
        assert ssim(truth, candidate, EVERYWHERE) == pytest.approx(expected, abs=1e-6)

    def test_check_can_end_it(self):
        def stop():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ssim(_noise(), _noise(), EVERYWHERE, stop)

    def test_nothing_counted(self):
        assert math.isnan(ssim(_noise(), _noise(), ~EVERYWHERE))


class TestNoiseRatio:
    is_new = np.arange(9) % 2 == 1

    def test_one_for_equal_noise(self):
        assert noise_ratio(_noise(), EVERYWHERE, self.is_new) == pytest.approx(1, abs=0.1)

    def test_smoother_new_slices(self):
        slices = _noise()
        slices[self.is_new] *= 0.5
        assert noise_ratio(slices, EVERYWHERE, self.is_new) == pytest.approx(0.5, abs=0.05)

    def test_edges_and_ramps_are_no_noise(self):
        slices = _noise()
        rows, columns = np.indices(SHAPE[1:])
        ramp = np.where(columns > 12, 900, 0) + 20 * rows
        expected = noise_ratio(slices, EVERYWHERE, self.is_new)
        slices[self.is_new] += ramp
        assert noise_ratio(slices, EVERYWHERE, self.is_new) == pytest.approx(expected, rel=0.15)

    def test_only_counted_pixels(self):
        slices = _noise()
        slices[self.is_new, 10:] = 0
        counted = EVERYWHERE.copy()
        counted[:, 8:] = False
        assert noise_ratio(slices, counted, self.is_new) == pytest.approx(1, abs=0.15)

    def test_cannot_be_measured(self):
        assert math.isnan(noise_ratio(_noise(), ~EVERYWHERE, self.is_new))
        assert math.isnan(noise_ratio(np.zeros(SHAPE), EVERYWHERE, self.is_new))


class TestRankCorrelation:
    def test_any_rising_function_is_perfect(self):
        values = np.random.default_rng(0).normal(size=100)
        assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
        assert rank_correlation(values, -(values**3)) == pytest.approx(-1)

    def test_ties_share_their_mean_rank(self):
        # Ranks 0.5 0.5 2 3 and 0 1 2.5 2.5: covariance 4, variances 4.5 and 4.5.
        assert rank_correlation(np.array([5, 5, 7, 9]), np.array([1, 2, 3, 3])) == pytest.approx(4 / 4.5)

    def test_unrelated(self):
        first, second = np.random.default_rng(0).normal(size=(2, 10_000))
        assert abs(rank_correlation(first, second)) < 0.05

    def test_constant_or_empty(self):
        assert math.isnan(rank_correlation(np.ones(5), np.arange(5)))
        assert math.isnan(rank_correlation(np.empty(0), np.empty(0)))


class TestMasks:
    @pytest.mark.parametrize("padding", [-2000, -2048, -3024])
    def test_padding_is_out_of_view(self, padding):
        assert field_of_view(np.array([padding, -1100, -1024, 3071])).tolist() == [False, True, True, True]

    def test_body_holds_the_lung(self):
        assert body_mask(_patient(), (1, 2, 2))[:, 26, 24].all()

    def test_body_leaves_out_air_and_table(self):
        body = body_mask(_patient(), (1, 2, 2))
        assert not body[:, 54:].any()
        assert not body[:, :5].any()
        assert body[0].sum() == pytest.approx(np.pi * 18 * 24, rel=0.03)

    def test_fine_pixels_give_the_same_body(self):
        fine = _patient().repeat(4, axis=1).repeat(4, axis=2)[:, :239, :255]
        expected = body_mask(_patient(), (1, 2, 2)).repeat(4, axis=1).repeat(4, axis=2)[:, :239, :255]
        assert np.array_equal(body_mask(fine, (1, 0.5, 0.5)), expected)

    def test_everything_in_view_where_there_is_no_body(self):
        voxels = np.full(SHAPE, -1000)
        voxels[:, :, 0] = -3024
        assert np.array_equal(body_mask(voxels, (1, 2, 2)), voxels == -1000)


class TestScore:
    def test_observed_slices_do_not_count(self):
        truth = _patient()
        worse = truth.copy()
        worse[::4] += 100
        scores = score(make_reference(_volume(truth), 4, "K"), _volume(worse))
        assert scores.psnr_db == math.inf
        assert scores.mae_hu == 0
        assert math.isfinite(scores.whole_volume_psnr_db)

    def test_padding_does_not_count(self):
        truth = _patient()
        truth[:, :, -4:] = -3024
        worse = truth.copy()
        worse[:, :, -4:] = 0
        assert score(make_reference(_volume(truth), 2, "K"), _volume(worse)).psnr_db == math.inf

    def test_mean_error_is_that_of_new_slices_inside_the_body(self):
        truth = _patient()
        worse = truth + np.int16(10)
        worse[:, :5] += 500
        worse[::2] += 70
        assert score(make_reference(_volume(truth), 2, "K"), _volume(worse)).mae_hu == pytest.approx(10)

    @pytest.mark.parametrize(("factor", "more"), [(2, 3.01), (4, 1.25)])
    def test_whole_volume_counts_the_faultless_observed_slices(self, factor, more):
        truth = np.zeros((401, 4, 4), np.int16)
        candidate = np.where(np.arange(401)[:, None, None] % factor, truth + 50, truth)
        gained = score_whole_volume(truth, candidate) - psnr_db(truth, candidate, candidate != 0)
        assert gained == pytest.approx(more, abs=0.02)

    def test_same_however_the_scan_is_stored(self):
        truth = _volume(_patient())
        thinned = thin(truth, 2)
        expected = score(make_reference(truth, 2, "K"), upsample(thinned, 2, "K", "cubic"))
        # Array axes (K, J, I) become (J, -K, I): J of the new array runs along the slices, downwards.
        from_new = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 8], [0, 0, 0, 1]])
        turned = Volume(truth.voxels.transpose(1, 0, 2)[:, ::-1], truth.affine @ from_new)
        restored = upsample(thin(turned, 2, "J"), 2, "J", "cubic")
        found = score(make_reference(turned, 2, "J"), restored)
        assert found.to_dict() == pytest.approx(expected.to_dict(), rel=1e-5)

    def test_interpolation_is_scored_like_this_by_hand(self):
        truth = cut_to_factor(_volume(_patient(10)), 2)
        linear = upsample(thin(truth, 2), 2, "K", "linear")
        new = np.array([1, 3, 5, 7])
        squares = (linear.voxels[new] - truth.voxels[new].astype(float)) ** 2
        expected = 10 * math.log10(4096**2 / squares.mean())
        assert score(make_reference(truth, 2, "K"), linear).psnr_db == pytest.approx(expected, abs=1e-4)

    def test_another_grid_is_refused(self):
        reference = make_reference(_volume(_patient()), 2, "K")
        with pytest.raises(InputError, match="grid of the truth"):
            score(reference, _volume(_patient(7)))
        with pytest.raises(InputError, match="grid of the truth"):
            score(reference, Volume(_patient(), np.eye(4)))

    def test_truth_must_be_cut(self):
        with pytest.raises(InputError, match="cut them first"):
            make_reference(_volume(_patient(10)), 4, "K")


class TestDisagreementCorrelation:
    def test_uncertainty_that_equals_the_error(self):
        truth = _volume(_patient())
        error = np.abs(np.random.default_rng(0).normal(0, 30, truth.voxels.shape)).astype(np.float32)
        candidate = truth.with_voxels(truth.voxels + error)
        reference = make_reference(truth, 2, "K")
        assert disagreement_correlation(reference, candidate, truth.with_voxels(error)) > 0.99

    def test_observed_slices_do_not_count(self):
        truth = _volume(_patient())
        error = np.abs(np.random.default_rng(0).normal(0, 30, truth.voxels.shape)).astype(np.float32)
        uncertainty = error.copy()
        uncertainty[::2] = 1e3 - uncertainty[::2]
        candidate = truth.with_voxels(truth.voxels + error)
        assert disagreement_correlation(make_reference(truth, 2, "K"), candidate, truth.with_voxels(uncertainty)) > 0.99

    def test_a_sample_of_a_large_scan_is_enough(self, monkeypatch):
        truth = _volume(_patient())
        uncertainty = np.abs(_patient()[:, ::-1].astype(np.float32))
        candidate = truth.with_voxels(
            truth.voxels + np.abs(np.random.default_rng(0).normal(0, 1, uncertainty.shape)) * uncertainty
        )
        reference = make_reference(truth, 2, "K")
        expected = disagreement_correlation(reference, candidate, truth.with_voxels(uncertainty))
        monkeypatch.setattr(metrics, "_DRAWN_VOXELS", 20_000)
        found = [disagreement_correlation(reference, candidate, truth.with_voxels(uncertainty)) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0] == pytest.approx(expected, abs=0.03)
        assert found[0] != expected


class TestScores:
    def test_json_holds_no_infinity(self):
        scores = Scores(math.inf, 0.0, 1.0, math.nan, math.inf)
        assert json.loads(json.dumps(scores.to_dict(), allow_nan=False)) == {
            "psnr_db": None,
            "mae_hu": 0.0,
            "ssim": 1.0,
            "noise_ratio": None,
            "whole_volume_psnr_db": None,
        }
