"""Noise of synthetic slices: as much as observed ones have, drawn anew, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scans import affine_from, anatomy, layouts
from XViewSynthLib import InputError, Volume, enhance
from XViewSynthLib.evaluation.metrics import noise_ratio
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.inference.enhancement import carry_out
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.inference.texture import MATCHED_NOTE, match_texture, textured
from XViewSynthLib.model.catalogue import load_model

FACTOR = 4
POSITIONS = np.arange(9) / FACTOR
SYNTHETIC = [index for index in range(9) if index % FACTOR]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


def smooth_body(rows: int = 96, columns: int = 80) -> np.ndarray:
    """One slice without noise: soft tissue with a bone, float32 HU."""
    j, i = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    plane = 40 + 20 * np.sin(3 * i) * np.cos(2 * j)
    plane[j**2 + (i - 0.3) ** 2 < 0.05] = 700
    return plane.astype(np.float32)


@pytest.fixture(scope="module")
def observed() -> np.ndarray:
    """Three observed slices whose noise has a soft grain, and is twice as strong in the upper rows."""
    noise = np.random.default_rng(1).normal(0, 1, (3, 97, 81))
    noise = (noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1] + noise[:, :-1, :-1]) / 2
    return (smooth_body() + noise * np.linspace(30, 15, 96)[:, None]).round().astype(np.int16)


@pytest.fixture(scope="module")
def predicted(observed) -> np.ndarray:
    """Nine slices, every fourth observed, the others without any noise."""
    slices = np.repeat(smooth_body()[None], 9, axis=0).round().astype(np.int16)
    slices[::FACTOR] = observed
    return slices


@pytest.fixture(scope="module")
def matched(observed, predicted) -> np.ndarray:
    slices = predicted.copy()
    match_texture(slices, observed, POSITIONS, SYNTHETIC)
    return slices


def added(matched: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return matched.astype(np.float64) - predicted


class TestNoise:
    def test_is_as_strong_as_in_observed_slices(self, matched, predicted):
        everywhere, new = np.ones(matched.shape, bool), np.arange(9) % FACTOR != 0
        assert noise_ratio(predicted, everywhere, new) < 0.2
        assert noise_ratio(matched, everywhere, new) == pytest.approx(1, abs=0.1)

    def test_follows_it_from_place_to_place(self, matched, predicted):
        noise = added(matched, predicted)[SYNTHETIC]
        assert 1.3 < noise[:, :24].std() / noise[:, -24:].std() < 2.5

    def test_has_its_grain(self, matched, observed, predicted):
        def likeness(noise):
            return np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]

        there = likeness(observed - smooth_body())
        assert likeness(added(matched, predicted)[SYNTHETIC]) == pytest.approx(there, abs=0.15)

    def test_is_half_alike_in_neighbouring_slices_and_no_longer_in_the_next(self, matched, predicted):
        noise = added(matched, predicted)
        assert np.corrcoef(noise[1].ravel(), noise[2].ravel())[0, 1] == pytest.approx(0.5, abs=0.1)
        assert abs(np.corrcoef(noise[1].ravel(), noise[3].ravel())[0, 1]) < 0.1
        assert abs(np.corrcoef(noise[3].ravel(), noise[5].ravel())[0, 1]) < 0.1

    def test_is_not_that_of_an_observed_slice(self, matched, observed, predicted):
        noise = added(matched, predicted)[1].ravel()
        assert abs(np.corrcoef(noise, (observed[0] - smooth_body()).ravel())[0, 1]) < 0.05

    def test_leaves_the_mean(self, matched, predicted):
        assert abs(added(matched, predicted)[SYNTHETIC].mean()) < 0.5

    def test_is_not_added_where_there_is_enough(self, observed):
        slices = np.repeat(observed[:1], 9, axis=0)
        match_texture(slices, observed[[0, 0, 0]], POSITIONS, SYNTHETIC)
        assert np.array_equal(slices, np.repeat(observed[:1], 9, axis=0))


class TestEverythingElse:
    def test_observed_slices_stay_bit_for_bit(self, matched, observed):
        assert np.array_equal(matched[::FACTOR], observed)

    def test_edges_of_slices_without_noise_do_not_come_along(self):
        edges = np.zeros((3, 64, 64), np.float32)
        edges[1, 20:40, 10:50] = 1000
        slices = np.zeros((9, 64, 64), np.float32)
        match_texture(slices, edges, POSITIONS, SYNTHETIC)
        assert not slices.any()

    def test_padding_stays_and_nothing_leaves_the_range_of_the_scan(self, observed, predicted):
        padded, slices = observed.copy(), predicted.copy()
        padded[:, :, :20] = slices[:, :, :20] = -3024
        match_texture(slices, padded, POSITIONS, SYNTHETIC)
        assert (slices[:, :, :20] == -3024).all()
        assert slices[:, :, 20:].min() >= -1024
        assert slices.max() <= padded.max()

    @pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
    def test_the_scalar_type_changes_nothing_but_rounding(self, observed, predicted, matched, dtype):
        slices = predicted.astype(dtype)
        match_texture(slices, observed.astype(dtype), POSITIONS, SYNTHETIC)
        assert slices.dtype == dtype
        assert np.abs(slices - matched).max() <= 0.51

    def test_can_be_stopped(self, observed, predicted):
        def stop():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            match_texture(predicted.copy(), observed, POSITIONS, SYNTHETIC, stop)


@pytest.fixture(scope="module")
def small() -> Volume:
    return Volume(anatomy((6, 19, 17)), affine_from())


class TestEnhance:
    def test_keeps_the_texture_by_default(self, small, model):
        plain = enhance(small, 3, model=model)
        assert plain.plan.texture == "keep"
        assert np.array_equal(enhance(small, 3, model=model, texture="keep").volume.voxels, plain.volume.voxels)

    def test_matches_it_on_request_and_reports_it(self, small, model):
        plain, found = enhance(small, 3, model=model), enhance(small, 3, model=model, texture="match")
        assert (found.plan.texture, found.notes[-1]) == ("match", MATCHED_NOTE)
        assert np.array_equal(found.volume.voxels, textured(plain, small).voxels)
        assert np.array_equal(found.volume.voxels[::3], small.voxels)
        assert not np.array_equal(found.volume.voxels, plain.volume.voxels)
        assert np.array_equal(found.disagreement.voxels, plain.disagreement.voxels)

    def test_refuses_another(self, small, model):
        with pytest.raises(InputError, match="The texture must be keep or match, not 'smooth'"):
            enhance(small, 3, model=model, texture="smooth")

    def test_how_a_scan_is_stored_does_not_matter(self, small, model):
        plain = enhance(small, 2, axis="K", model=model, texture="match").volume
        expected, _ = to_slices(plain, "K")
        for stored in list(layouts(small))[::5]:
            result = enhance(stored, 2, axis=stored.through_plane_axis, model=model, texture="match").volume
            assert np.array_equal(to_slices(result, stored.through_plane_axis)[0], expected)

    def test_nor_how_it_is_cut_into_tiles(self, small, model):
        plan = make_plan(small, model, factor=3, texture="match")
        whole = carry_out(plan, small, model).volume.voxels
        tiles = carry_out(replace(plan, tile_voxels=1), small, model).volume.voxels
        assert np.abs(whole.astype(int) - tiles).max() <= 1

    def test_of_a_resampled_grid(self, small, model):
        plain = enhance(small, spacing=1.5, model=model)
        found = enhance(small, spacing=1.5, model=model, texture="match")
        changed = (found.volume.voxels != plain.volume.voxels).any(axis=(1, 2))
        assert set(np.flatnonzero(changed)) == set(found.synthetic_slices)
        assert np.allclose(found.volume.affine, plain.volume.affine)
