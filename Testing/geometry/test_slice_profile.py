"""Thick slices as averages of thin ones, and what averages say about thin slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from XViewSynthLib import InputError
from XViewSynthLib.geometry.slice_profile import (
    WIDTH_OVER_THICKNESS,
    SliceProfile,
    averaging_weights,
    consistent_slices,
    correcting_weights,
    preserving_weights,
    unexplained_noise,
)

FACTORS = st.integers(2, 8)
SLICES = st.integers(4, 20)
# Slices that overlap by more leave out what alternates from one to the next.
MODERATE = st.builds(SliceProfile, st.floats(0.5, 1.5), st.sampled_from(["box", "gaussian"])) | st.just(SliceProfile())


class TestBoxWidth:
    def test_of_a_box_is_its_thickness(self):
        assert SliceProfile(1.3).box_width == 1.3

    @pytest.mark.parametrize("thickness", [0.5, 1.0])
    def test_of_a_gaussian_is_that_of_the_box_that_blurs_as_much(self, thickness):
        def variance(profile: SliceProfile) -> float:
            row = averaging_weights(11, 8, profile)[5].astype(float)
            return float((row * (np.arange(len(row)) - 40) ** 2).sum())

        gaussian = SliceProfile(thickness, "gaussian")
        # A Gaussian that is cut off where it has fallen to 6 % blurs a little less than a whole one.
        assert variance(gaussian) == pytest.approx(variance(SliceProfile(gaussian.box_width)), rel=0.15)


class TestAveragingWeights:
    @given(SLICES, FACTORS, MODERATE)
    def test_a_uniform_body_stays_as_it_is(self, slices, factor, profile):
        assert np.allclose(averaging_weights(slices, factor, profile).sum(axis=1), 1, atol=1e-5)

    @given(SLICES, FACTORS, MODERATE)
    def test_are_the_same_from_either_end(self, slices, factor, profile):
        weights = averaging_weights(slices, factor, profile)
        assert np.allclose(weights, weights[::-1, ::-1], atol=1e-6)

    def test_a_box_averages_the_slices_under_it_alike(self):
        row = averaging_weights(5, 5, SliceProfile())[2]
        assert np.allclose(row[8:13], 0.2)
        assert row.sum() == pytest.approx(1)

    def test_a_thin_slice_half_under_a_box_counts_half(self):
        assert np.allclose(averaging_weights(5, 4, SliceProfile())[2, 6:11], [0.125, 0.25, 0.25, 0.25, 0.125])

    def test_a_gaussian_falls_to_half_at_half_its_width(self):
        row = averaging_weights(9, 4, SliceProfile(1.0, "gaussian"))[4]
        assert row[18] / row[16] == pytest.approx(0.5, abs=1e-3)

    def test_overlapping_slices_share_thin_ones(self):
        weights = averaging_weights(5, 4, SliceProfile(1.5))
        assert (weights[1] * weights[2]).sum() > 0
        assert (
            averaging_weights(5, 4, SliceProfile(0.5))[1] * averaging_weights(5, 4, SliceProfile(0.5))[2]
        ).sum() == 0

    def test_the_body_is_mirrored_at_the_ends(self):
        assert np.allclose(averaging_weights(4, 3, SliceProfile())[0, :3], [1 / 3, 2 / 3, 0])


class TestCorrectingWeights:
    @given(SLICES, FACTORS, MODERATE, st.integers(0, 2**32 - 1))
    def test_lead_onto_the_averages(self, slices, factor, profile, seed):
        random = np.random.default_rng(seed)
        averages, met = averaging_weights(slices, factor, profile), consistent_slices(slices, factor, profile)
        thin, observed = random.normal(size=averages.shape[1]), random.normal(size=slices)
        corrected = thin - correcting_weights(slices, factor, profile) @ (averages @ thin - observed)
        assert np.allclose((averages @ corrected)[met], observed[met], atol=1e-3)

    @given(SLICES, FACTORS, MODERATE, st.integers(0, 2**32 - 1))
    def test_leave_aside_what_reaches_beyond_the_scan(self, slices, factor, profile, seed):
        met = consistent_slices(slices, factor, profile)
        assert met[1:-1].all()
        missed = np.random.default_rng(seed).normal(size=slices) * ~met
        assert not (correcting_weights(slices, factor, profile) @ missed).any()

    @given(SLICES, FACTORS, st.floats(0.5, 2.0), st.integers(0, 2**32 - 1))
    def test_never_lead_away_from_the_truth(self, slices, factor, thickness, seed):
        profile, random = SliceProfile(thickness), np.random.default_rng(seed)
        averages = averaging_weights(slices, factor, profile)
        truth, guess = random.normal(size=(2, averages.shape[1]))
        corrected = guess - correcting_weights(slices, factor, profile) @ (averages @ guess - averages @ truth)
        assert np.square(corrected - truth).sum() <= np.square(guess - truth).sum() * (1 + 1e-5)


class TestMetSlices:
    def test_a_slice_as_thin_as_requested_lies_within_them(self):
        assert consistent_slices(5, 2, SliceProfile(0.5)).all()

    def test_of_slices_that_overlap_and_fade_out_several_reach_beyond(self):
        met = consistent_slices(7, 4, SliceProfile(2.0, "gaussian"))
        assert met.tolist() == [False, False, True, True, True, False, False]


class TestPreservingWeights:
    @given(SLICES, FACTORS, MODERATE, st.integers(0, 2**32 - 1))
    def test_the_scanner_would_see_what_it_saw(self, slices, factor, profile, seed):
        observed = np.random.default_rng(seed).normal(size=slices)
        thin = preserving_weights(slices, factor, profile) @ observed
        assert np.allclose(averaging_weights(slices, factor, profile) @ thin, observed, atol=1e-2)

    def test_bring_back_what_averaging_has_flattened(self):
        weights = averaging_weights(12, 4, SliceProfile())
        thin = np.sin(np.arange(weights.shape[1]) * 2 * np.pi / 18)
        restored = preserving_weights(12, 4, SliceProfile()) @ (weights @ thin)
        inner = slice(8, -8)
        assert np.abs(weights @ thin).max() < 0.95
        assert np.abs(restored - thin)[inner].max() < 0.04


class TestNoiseLeftOpen:
    @given(FACTORS, st.floats(0.2, 2.5), MODERATE | st.none())
    def test_is_the_same_from_either_side_of_an_observed_slice(self, factor, overlap, profile):
        left = unexplained_noise(factor, overlap, profile)
        assert left.shape == (factor,)
        assert np.allclose(left[1:], left[:0:-1], rtol=1e-2, atol=1e-3)
        assert (left >= 0).all()

    @given(FACTORS, st.floats(1.0, 2.0))
    def test_is_less_the_more_slices_overlap(self, factor, overlap):
        thin = [unexplained_noise(factor, by)[1:] for by in (overlap + 0.3, overlap)]
        thick = [unexplained_noise(factor, by, SliceProfile()) for by in (overlap + 0.3, overlap)]
        assert all((less < more).all() for less, more in (thin, thick))

    @given(FACTORS, st.floats(0.2, 2.5))
    def test_there_is_none_on_observed_thin_slices(self, factor, overlap):
        left = unexplained_noise(factor, overlap)
        assert left[0] == pytest.approx(0, abs=1e-6)
        assert (left <= 1).all()

    @pytest.mark.parametrize("profile", [None, SliceProfile(), SliceProfile(0.8, "gaussian")])
    def test_is_what_the_best_line_through_observed_slices_misses(self, profile):
        factor, overlap = 4, 1.5
        # White noise on a fine grid, under a Gaussian of the variance that a box of this width has.
        fine, variance = 8, (WIDTH_OVER_THICKNESS * overlap) ** 2 / 12
        offsets = np.arange(-4 * fine, 4 * fine + 1) / fine
        taps = np.exp(-(offsets**2) / (2 * variance))
        white = np.random.default_rng(0).normal(0, 1, (5000, 32 * fine + len(taps)))
        new = np.stack([white[:, i * fine : i * fine + len(taps)] @ taps for i in range(33)], axis=1)
        observed = new[:, ::factor] if profile is None else new @ averaging_weights(9, factor, profile).T
        restored = observed @ np.linalg.lstsq(observed, new, rcond=None)[0]
        left = (restored - new).var(axis=0)[16:20] / observed[:, 4].var()
        assert unexplained_noise(factor, overlap, profile) == pytest.approx(left, rel=0.05, abs=1e-6)


class TestSliceProfile:
    @pytest.mark.parametrize("thickness", [0, -1, np.nan, np.inf])
    def test_a_thickness_that_is_none(self, thickness):
        with pytest.raises(InputError, match="above 0 slice distances"):
            SliceProfile(thickness)

    def test_an_unknown_shape(self):
        with pytest.raises(InputError, match="'triangle' does not exist: choose box or gaussian"):
            SliceProfile(1.0, "triangle")
