"""Linear, cubic spline and windowed-sinc interpolation along the slices."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.interpolation import METHODS, interpolation_weights, upsample
from XViewSynthLib.geometry.volume import Volume

AXES = ("I", "J", "K")


def _scan(shape=(7, 8, 9), dtype=np.int16) -> Volume:
    voxels = np.random.default_rng(5).integers(-1000, 2000, shape).astype(dtype)
    return Volume(voxels, np.diag([0.7, 0.8, 4.0, 1.0]))


def _resampled_in_three_dimensions(volume: Volume, factor: int, interpolator: int) -> np.ndarray:
    image = sitk.GetImageFromArray(volume.voxels.astype(np.float64))
    k, j, i = volume.voxels.shape
    grid = sitk.Image([i, j, factor * (k - 1) + 1], sitk.sitkFloat64)
    grid.SetSpacing([1.0, 1.0, 1.0 / factor])
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), interpolator))


class TestUpsample:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("axis", AXES)
    def test_observed_slices_stay_as_they_are(self, method, axis):
        scan = _scan()
        result = upsample(scan, 3, axis, method)
        kept = np.moveaxis(result.voxels, 2 - AXES.index(axis), 0)[::3]
        assert np.array_equal(kept, np.moveaxis(scan.voxels, 2 - AXES.index(axis), 0))

    @pytest.mark.parametrize("axis", AXES)
    def test_geometry(self, axis):
        scan = _scan()
        result = upsample(scan, 4, axis, "linear")
        assert result.voxels.shape == scan.upsampled_shape(axis, 4)
        assert np.array_equal(result.affine, scan.upsampled_affine(axis, 4))
        assert result.voxels.dtype == np.float32

    @pytest.mark.parametrize("method", METHODS)
    def test_every_axis_is_treated_alike(self, method):
        scan = _scan()
        along_k = upsample(scan, 2, "K", method).voxels
        turned = Volume(scan.voxels.transpose(1, 2, 0), np.eye(4))
        assert np.array_equal(upsample(turned, 2, "I", method).voxels.transpose(2, 0, 1), along_k)

    @pytest.mark.parametrize("method", METHODS)
    def test_constant_stays_constant(self, method):
        constant = _scan().with_voxels(np.full((6, 4, 4), -1000.0))
        assert np.allclose(upsample(constant, 5, "K", method).voxels, -1000, atol=1e-3)

    def test_linear_between_two_slices(self):
        scan = _scan()
        between = upsample(scan, 4, "K", "linear").voxels[5]
        assert np.allclose(between, 0.75 * scan.voxels[1] + 0.25 * scan.voxels[2], atol=1e-3)

    def test_cubic_meets_a_parabola_away_from_the_ends(self):
        heights = np.arange(40.0)
        parabola = Volume(np.broadcast_to(heights[:, None, None] ** 2, (40, 4, 4)), np.eye(4))
        found = upsample(parabola, 2, "K", "cubic").voxels[:, 0, 0]
        assert np.allclose(found[30:49], np.arange(15, 24.5, 0.5) ** 2, atol=1e-3)

    @pytest.mark.parametrize(("method", "interpolator"), [("linear", sitk.sitkLinear), ("cubic", sitk.sitkBSpline3)])
    def test_equals_resampling_in_three_dimensions(self, method, interpolator):
        scan = _scan((20, 8, 9))
        expected = _resampled_in_three_dimensions(scan, 3, interpolator)
        assert np.allclose(upsample(scan, 3, "K", method).voxels, expected, atol=0.01)

    def test_sinc_differs_from_the_three_dimensional_one_by_its_missing_sum_only(self):
        scan = _scan((12, 8, 9))
        ones = scan.with_voxels(np.ones((12, 8, 9)))
        expected, sums = (_resampled_in_three_dimensions(v, 3, sitk.sitkLanczosWindowedSinc) for v in (scan, ones))
        assert np.allclose(upsample(scan, 3, "K", "sinc").voxels, expected / sums, atol=0.01)
        assert sums.min() < 0.9995

    def test_input_of_any_real_type(self):
        expected = upsample(_scan(), 2, "K", "cubic").voxels
        assert np.array_equal(upsample(_scan(dtype=np.float64), 2, "K", "cubic").voxels, expected)

    def test_unknown_method(self):
        with pytest.raises(InputError, match="choose linear, cubic, sinc"):
            upsample(_scan(), 2, "K", "nearest")

    def test_too_few_slices(self):
        with pytest.raises(InputError, match="at least 4 slices along K, and there are 3"):
            upsample(_scan((3, 8, 9)), 2, "K", "cubic")


class TestInterpolationWeights:
    @pytest.mark.parametrize("method", METHODS)
    def test_rows_sum_to_one(self, method):
        assert np.allclose(interpolation_weights(9, 4, method).sum(axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize("method", METHODS)
    def test_same_from_both_ends(self, method):
        weights = interpolation_weights(9, 3, method)
        assert np.allclose(weights, weights[::-1, ::-1], atol=1e-6)

    def test_sinc_is_a_lanczos_kernel_of_five_slices(self):
        distances = np.arange(20) - 10.5
        kernel = np.where(np.abs(distances) < 5, np.sinc(distances) * np.sinc(distances / 5), 0)
        weights = interpolation_weights(20, 2, "sinc")[21]
        assert np.allclose(weights, kernel / kernel.sum(), atol=1e-6)
