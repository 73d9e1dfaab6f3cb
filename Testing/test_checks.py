"""Which scans and requests are refused before any work."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy, layouts
from XViewSynthLib import InputError, Volume
from XViewSynthLib.checks import check_enhanceable, check_factor


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

    @pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.74), (0.5, 1, 1)])
    def test_coarser_than_the_finest_axis(self, scan, spacing):
        check_enhanceable(Volume(scan.voxels, affine_from(spacing)))


class TestLabelmap:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
    @pytest.mark.parametrize("labels", [2, 12, 32])
    def test_few_whole_values_from_0(self, labels, dtype):
        voxels = np.random.default_rng(0).integers(0, labels, (8, 20, 20)).astype(dtype)
        assert "segmentation" in refused(Volume(voxels, affine_from()))

    def test_many_labels_in_solid_regions(self):
        labels = np.arange(120, dtype=np.uint8).reshape(6, 4, 5).repeat(12, axis=2)
        assert "segmentation" in refused(Volume(labels, affine_from()))

    def test_grey_values_of_8_bits_are_a_scan(self, scan):
        check_enhanceable(scan.with_voxels(((scan.voxels.clip(-1000, 1000) + 1000) / 8).astype(np.uint8)))

    def test_fractions_are_a_scan(self):
        check_enhanceable(Volume((np.arange(8 * 9 * 10) % 7 / 2).reshape(8, 9, 10), affine_from()))

    @given(st.integers(-1024, -1))
    def test_negative_values_are_a_scan(self, air):
        voxels = np.zeros((8, 9, 10), np.int16)
        voxels[:, :4] = air
        check_enhanceable(Volume(voxels, affine_from()))
