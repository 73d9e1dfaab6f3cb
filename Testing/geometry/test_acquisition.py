"""Thinning a scan, and the choice of the acquisition model."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.acquisition import (
    average,
    cut_to_factor,
    resolve_acquisition,
    resolve_profile,
    slices_left,
    thin,
)
from XViewSynthLib.geometry.slice_profile import SliceProfile
from XViewSynthLib.geometry.volume import Volume


def _scan(slices: int = 10, spacing: tuple[float, float, float] = (0.8, 0.8, 2.0), thickness=None) -> Volume:
    voxels = np.random.default_rng(3).integers(-1000, 1000, (slices, 6, 7)).astype(np.int16)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -10.0, 20.0, 300.0
    return Volume(voxels, affine, thickness)


def _layouts(volume: Volume):
    """The 48 ways to store one scan."""
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        voxels = volume.voxels.transpose([2 - axis for axis in reversed(order)])[
            tuple(slice(None, None, f) for f in flips[::-1])
        ]
        to_old = np.zeros((4, 4))
        to_old[3, 3] = 1
        for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
            to_old[old, new] = flip
            to_old[old, 3] = 0 if flip == 1 else volume.shape_ijk[old] - 1
        yield Volume(voxels, volume.affine @ to_old), "IJK"[order.index(2)]


def _points_and_values(volume: Volume) -> dict[tuple[float, ...], int]:
    k, j, i = np.indices(volume.voxels.shape)
    points = volume.ijk_to_ras(np.stack([i, j, k], axis=-1)).reshape(-1, 3).round(6) + 0.0
    return dict(zip(map(tuple, points.tolist()), volume.voxels.ravel().tolist(), strict=True))


class TestCutToFactor:
    @pytest.mark.parametrize(("slices", "factor", "kept"), [(10, 2, 9), (10, 3, 10), (10, 4, 9), (9, 4, 9), (8, 4, 5)])
    def test_number_of_slices(self, slices, factor, kept):
        assert cut_to_factor(_scan(slices), factor).slices("K") == kept

    def test_first_slices_and_origin_stay(self):
        scan = _scan(10)
        cut = cut_to_factor(scan, 4)
        assert np.array_equal(cut.voxels, scan.voxels[:9])
        assert np.array_equal(cut.affine, scan.affine)

    def test_same_slices_however_the_scan_is_stored(self):
        scan = _scan(8)
        expected = _points_and_values(cut_to_factor(scan, 4))
        for stored, axis in _layouts(scan):
            assert _points_and_values(cut_to_factor(stored, 4, axis)) == expected

    def test_nothing_to_drop(self):
        with pytest.raises(InputError, match="4 slices along K are too few"):
            cut_to_factor(_scan(4), 4)


class TestThin:
    def test_every_fourth_slice(self):
        scan = _scan(10)
        assert np.array_equal(thin(scan, 4).voxels, scan.voxels[::4])

    def test_along_another_axis(self):
        scan = _scan()
        thinned = thin(scan, 3, "I")
        assert np.array_equal(thinned.voxels, scan.voxels[:, :, ::3])
        assert thinned.spacing == pytest.approx((2.4, 0.8, 2.0))

    @pytest.mark.parametrize("factor", [2, 3, 4, 5])
    def test_upsampling_leads_back_to_the_grid_of_the_cut_scan(self, factor):
        scan = _scan(12)
        thinned, cut = thin(scan, factor), cut_to_factor(scan, factor)
        assert thinned.upsampled_shape("K", factor) == cut.voxels.shape
        assert np.allclose(thinned.upsampled_affine("K", factor), cut.affine, atol=1e-12)

    def test_same_slices_however_the_scan_is_stored(self):
        scan = _scan(8)
        expected = _points_and_values(thin(scan, 3))
        for stored, axis in _layouts(scan):
            assert _points_and_values(thin(stored, 3, axis)) == expected

    def test_keeps_type_and_slice_thickness(self):
        thinned = thin(_scan(thickness=1.25), 2)
        assert thinned.voxels.dtype == np.int16
        assert thinned.slice_thickness == 1.25

    def test_factor_that_drops_nothing(self):
        with pytest.raises(InputError, match="whole number from 2 to 8"):
            thin(_scan(), 1)


class TestAverage:
    @pytest.mark.parametrize("factor", [2, 3, 4])
    @pytest.mark.parametrize("profile", [SliceProfile(), SliceProfile(0.5), SliceProfile(1.0, "gaussian")])
    def test_up_sampled_it_has_the_grid_of_the_slices_it_can_restore(self, factor, profile):
        scan = _scan(20)
        averaged, fine = average(scan, factor, profile=profile), cut_to_factor(scan, factor, profile=profile)
        assert averaged.upsampled_shape("K", factor) == fine.voxels.shape
        assert np.allclose(averaged.upsampled_affine("K", factor), fine.affine)
        assert averaged.voxels.dtype == scan.voxels.dtype

    def test_is_the_mean_of_the_slices_around_each_position(self):
        scan = _scan()
        thirds = scan.voxels[:9].reshape(3, 3, *scan.voxels.shape[1:])
        assert np.array_equal(average(scan, 3).voxels, np.rint(thirds.mean(axis=1)))

    def test_with_an_even_factor_the_outer_slices_count_half(self):
        scan = _scan()
        fine = scan.voxels.astype(float)
        assert np.array_equal(average(scan, 2).voxels[0], np.rint(fine[0] / 4 + fine[1] / 2 + fine[2] / 4))

    def test_no_slice_reaches_beyond_the_scan(self):
        assert average(_scan(13), 4).slices("K") == slices_left(13, 4, SliceProfile()) == 3
        assert average(_scan(12), 4).slices("K") == 2
        with pytest.raises(InputError, match="8 slices along K are too few to make thick slices"):
            average(_scan(8), 4)

    @pytest.mark.parametrize("axis", ["I", "J", "K"])
    def test_averages_lie_where_the_slices_are_that_they_can_restore(self, axis):
        scan = _scan()
        profile = SliceProfile(0.5)  # thin enough to be the slice in its middle
        every = _points_and_values(cut_to_factor(scan, 2, axis, profile))
        assert _points_and_values(average(scan, 2, axis, profile)).items() <= every.items()

    def test_says_how_thick_its_slices_are(self):
        assert average(_scan(spacing=(0.8, 0.8, 1.5)), 4).slice_thickness == pytest.approx(6)
        assert average(_scan(spacing=(0.8, 0.8, 1.5)), 4, profile=SliceProfile(0.5)).slice_thickness == pytest.approx(3)

    def test_padding_stays_padding_and_is_averaged_as_air(self):
        scan = _scan()
        voxels = scan.voxels.copy()
        voxels[:, :2] = -3024
        voxels[4, 2] = -3024  # within the average whose middle is slice 3
        averaged = average(scan.with_voxels(voxels), 2).voxels
        assert (averaged[:, :2] == -3024).all()
        assert averaged[1, 2].min() >= -1024

    def test_what_is_stored_backwards_gives_the_same_slices(self):
        scan = _scan()
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = scan.slices("K") - 1
        backwards = Volume(scan.voxels[::-1], scan.affine @ flip)
        assert np.array_equal(average(backwards, 4).voxels[::-1], average(scan, 4).voxels)


class TestResolveAcquisition:
    def test_what_is_requested_counts(self):
        assert resolve_acquisition(_scan(thickness=5.0), "K", "gap") == "gap"
        assert resolve_acquisition(_scan(), "K", "thick") == "thick"

    @pytest.mark.parametrize(
        ("thickness", "expected"), [(5.0, "thick"), (8.0, "thick"), (3.0, "thick"), (2.9, "gap"), (None, "gap")]
    )
    def test_auto_believes_the_scan(self, thickness, expected):
        assert resolve_acquisition(_scan(spacing=(0.8, 0.8, 5.0), thickness=thickness), "K") == expected

    def test_a_given_thickness_counts_in_place_of_the_scans(self):
        scan = _scan(spacing=(0.8, 0.8, 5.0), thickness=1.0)
        assert resolve_acquisition(scan, "K", thickness=5.0) == "thick"
        assert resolve_acquisition(scan, "K", "gap", thickness=5.0) == "gap"

    def test_unknown(self):
        with pytest.raises(InputError, match="'box' does not exist"):
            resolve_acquisition(_scan(), "K", "box")


class TestResolveProfile:
    def test_the_scan_states_its_thickness(self):
        profile = resolve_profile(_scan(spacing=(0.8, 0.8, 4.0), thickness=5.0), "K")
        assert profile == SliceProfile(1.25, "box")

    def test_slices_of_unknown_thickness_touch(self):
        assert resolve_profile(_scan(spacing=(0.8, 0.8, 4.0)), "K", shape="gaussian") == SliceProfile(1.0, "gaussian")

    @pytest.mark.parametrize(("thickness", "ratio"), [(0.1, 0.5), (20.0, 2.0)])
    def test_what_the_scan_says_is_kept_within_what_models_know(self, thickness, ratio):
        assert resolve_profile(_scan(spacing=(0.8, 0.8, 4.0), thickness=thickness), "K").thickness == ratio

    def test_what_the_user_says_counts_and_is_checked(self):
        scan = _scan(spacing=(0.8, 0.8, 4.0), thickness=5.0)
        assert resolve_profile(scan, "K", thickness=3.0).thickness == 0.75
        with pytest.raises(InputError, match="Slices 4 mm apart are 2 to 8 mm thick, not 9 mm"):
            resolve_profile(scan, "K", thickness=9.0)
