"""Which scans and requests are refused before any work."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy, layouts
from XViewSynthLib import InputError, Volume
from XViewSynthLib.geometry.checks import check_enhanceable, check_factor, geometry_notes
from XViewSynthLib.geometry.intensity import hu_offset
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.model.catalogue import load_model


def refused(volume, **request):
    """The sentence with which a request is refused."""
    with pytest.raises(InputError) as caught:
        check_enhanceable(volume, **request)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    return sentence


class TestFactor:
    @pytest.mark.parametrize("factor", [*range(2, 9), np.int64(4)])
    def test_whole_numbers_from_2_to_8(self, factor):
        assert check_factor(factor) == factor
        assert type(check_factor(factor)) is int

    @pytest.mark.parametrize("factor", [1, 9, 0, -4, 2.5, 4.0, "4", True, None, np.nan, Fraction(5, 2)])
    def test_anything_else(self, factor):
        with pytest.raises(InputError, match="whole number from 2 to 8, not"):
            check_factor(factor)

    @pytest.mark.parametrize("factor", [1, 9, 2.5])
    def test_is_checked_with_the_scan(self, scan, factor):
        assert f"not {factor}" in refused(scan, factor=factor)


class TestScan:
    @pytest.mark.parametrize("factor", [None, 2, 8])
    def test_real_looking_scan_passes_in_all_48_layouts(self, scan, factor):
        for stored in layouts(scan):
            check_enhanceable(stored, factor=factor)

    @pytest.mark.parametrize(("count", "words"), [(1, "1 slice along K"), (2, "2 slices"), (3, "3 slices")])
    def test_too_few_slices(self, count, words):
        assert words in refused(Volume(anatomy((count, 20, 20)), affine_from()))

    def test_four_slices_are_enough(self):
        check_enhanceable(Volume(anatomy((4, 20, 20)), affine_from()))

    def test_slices_are_counted_along_the_named_axis(self, scan):
        flat = Volume(scan.voxels[:, :3], scan.affine)
        check_enhanceable(flat, axis="K")
        assert "3 slices along J" in refused(flat, axis="J", forced=True)

    def test_unknown_axis(self, scan):
        assert "choose auto, I, J or K" in refused(scan, axis="Z")

    @pytest.mark.parametrize("value", [0, -1024, 40.5])
    def test_one_value_everywhere(self, value):
        assert f"value {value:g} everywhere" in refused(Volume(np.full((8, 9, 10), value), affine_from()))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_numbers(self, scan, value):
        voxels = scan.voxels.astype(np.float32)
        voxels[3, 4, 5] = value
        assert "NaN or infinite values in 1 voxel:" in refused(scan.with_voxels(voxels))
        voxels[4, 4, 5] = value
        assert "in 2 voxels:" in refused(scan.with_voxels(voxels))

    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64, np.int64])
    def test_any_scalar_type_passes(self, scan, dtype):
        check_enhanceable(scan.with_voxels((scan.voxels.astype(np.int32) + 1024).astype(dtype)))


class TestIsotropy:
    @pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 0.7, 0.73), (1.5, 1.5, 1.5)])
    def test_isotropic_already(self, scan, spacing):
        assert "isotropic already" in refused(Volume(scan.voxels, affine_from(spacing)))

    def test_unless_forced(self, scan):
        check_enhanceable(Volume(scan.voxels, affine_from((1, 1, 1))), factor=2, forced=True)

    @pytest.mark.parametrize("spacing", [(1, 1, 0.6), (0.5, 1, 1), (0.977, 0.977, 0.625)])
    def test_closer_than_the_pixels(self, scan, spacing):
        assert "The slices are closer than the pixels already" in refused(Volume(scan.voxels, affine_from(spacing)))

    @pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.74), (0.5, 0.7, 1)])
    def test_coarser_than_the_finest_axis(self, scan, spacing):
        check_enhanceable(Volume(scan.voxels, affine_from(spacing)))


def regions(labels: int) -> np.ndarray:
    """Boxes of 3 x 6 x 6 voxels with the values 0 to `labels` - 1."""
    boxes = np.arange(4 * 5 * 6).reshape(4, 5, 6) % labels
    return boxes.repeat(3, axis=0).repeat(6, axis=1).repeat(6, axis=2)


class TestLabelmap:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
    @pytest.mark.parametrize("labels", [2, 3, 12, 32, 120])
    def test_solid_regions_of_whole_values_from_0(self, labels, dtype):
        assert "segmentation" in refused(Volume(regions(labels).astype(dtype), affine_from()))

    @pytest.mark.parametrize("labels", [2, 12])
    def test_thin_structures_in_an_empty_background(self, labels):
        voxels = np.zeros((12, 30, 30), np.uint8)
        voxels[:, ::10, ::10] = np.arange(12 * 3 * 3).reshape(12, 3, 3) % labels
        assert "segmentation" in refused(Volume(voxels, affine_from()))

    def test_grey_values_of_a_narrow_range_are_a_scan(self, scan):
        check_enhanceable(scan.with_voxels(((scan.voxels.clip(-1000, 1000) + 1000) / 8).astype(np.int16) + 20))

    @pytest.mark.parametrize("sigma", [1.0, 1.5, 3.0])
    @pytest.mark.parametrize("mean", [12, 60])
    def test_noise_in_water_is_a_scan(self, mean, sigma):
        voxels = np.rint(np.random.default_rng(0).normal(mean, sigma, (8, 30, 30))).astype(np.int16)
        assert voxels.min() >= 0
        check_enhanceable(Volume(voxels, affine_from()))

    def test_fractions_are_a_scan(self):
        check_enhanceable(Volume((np.arange(8 * 9 * 10) % 77 / 2).reshape(8, 9, 10), affine_from()))

    @given(st.integers(-1024, -1))
    def test_negative_values_are_a_scan(self, air):
        voxels = np.zeros((8, 9, 10), np.int16)
        voxels[:, :4] = air
        check_enhanceable(Volume(voxels, affine_from()))


def bone_alone(_: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(900, 300, (8, 30, 30)).clip(200, 2500).round()


def soft_tissue_alone(_: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(60, 12, (8, 30, 30)).round()


class TestUnit:
    @pytest.mark.parametrize(
        "scale",
        [
            lambda hu: (hu + 1024) / 4095,
            lambda hu: (hu + 1024) / 2047.5 - 1,
            lambda hu: hu / 1000,
            lambda hu: hu / 1024,
            lambda hu: (hu - hu.mean()) / hu.std(),
            lambda hu: 0.0192 * (1 + hu / 1000),
            lambda hu: np.where(hu > 690, 30, hu / 1000),
        ],
    )
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_normalised_scans_are_refused(self, scan, scale, dtype):
        voxels = scale(scan.voxels.astype(np.float64)).astype(dtype)
        assert "normalised: give the scan in HU" in refused(scan.with_voxels(voxels))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_pictures_are_refused(self, scan, dtype):
        grey = (scan.voxels.astype(np.float64).clip(-160, 240) + 160) / 400 * 255
        assert "range from 0 to 255, as of a picture" in refused(scan.with_voxels(grey.astype(dtype)))

    def test_values_above_all_tissue_are_refused(self, scan):
        voxels = (scan.voxels.astype(np.int32).clip(0) + 9000).astype(np.uint16)
        assert "above all tissue: give the scan in HU" in refused(scan.with_voxels(voxels))

    @pytest.mark.parametrize(
        "change",
        [
            lambda hu: hu.clip(-1000, 1000),
            lambda hu: hu.clip(-160, 240),
            lambda hu: hu.clip(0, 100),
            lambda hu: np.where(hu > 600, 30000, hu),
            lambda hu: np.where(hu <= -1000, -3024, hu),
            lambda hu: np.where(hu <= -1000, -2000, hu),
            lambda hu: np.where(hu <= -1000, -32768, hu),
            lambda hu: np.where(hu > 200, hu, 0),
            lambda hu: 1.0007 * hu + 0.3,
            bone_alone,
            soft_tissue_alone,
        ],
    )
    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_any_ct_in_hu_passes_and_is_not_shifted(self, scan, change, dtype):
        voxels = change(scan.voxels.astype(np.float64)).astype(dtype)
        check_enhanceable(scan.with_voxels(voxels), forced=True)
        assert hu_offset(voxels) == 0


class TestGeometryNotes:
    def test_none_of_a_scan_as_scanners_make_it(self, scan):
        assert geometry_notes(scan) == ()

    @pytest.mark.parametrize(
        "spacing", [(0.0008, 0.0008, 0.004), (800, 800, 4000), (0.8, 0.8, 21), (0.005, 0.8, 4), (0.08, 0.08, 0.04)]
    )
    def test_of_lengths_in_another_unit(self, scan, spacing):
        (note,) = geometry_notes(Volume(scan.voxels, affine_from(spacing)))
        assert note.startswith(f"The header gives voxels of {spacing[0]:.3g} x ")

    def test_reach_the_plan(self, scan, tiny_model):
        huge = Volume(scan.voxels, affine_from((80, 80, 400)))
        assert geometry_notes(huge)[0] in make_plan(huge, load_model(tiny_model), factor=2).notes
