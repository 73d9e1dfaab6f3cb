"""Volume: its checks at the door, its geometry, and what up-sampling makes of it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import XViewSynthLib
from scans import SPACING, affine_from, directions, layouts, shearing
from XViewSynthLib import InputError, Volume


def volume(shape=(5, 6, 7), dtype=np.int16, affine=None, **kwargs):
    return Volume(np.zeros(shape, dtype), affine_from() if affine is None else affine, **kwargs)


class TestPublicNames:
    @pytest.mark.parametrize("name", ["Cancelled", "InputError", "Volume", "read_volume", "write_volume"])
    def test_package_offers_them(self, name):
        assert callable(getattr(XViewSynthLib, name))

    @pytest.mark.parametrize("name", ["selfcheck", "enhance", "load_model"])
    def test_importing_modules_does_not_hide_a_function(self, name):
        importlib.import_module("XViewSynthLib.evaluation.selfcheck")
        assert isinstance(getattr(XViewSynthLib, name), FunctionType)

    def test_directory_lists_them(self):
        assert set(XViewSynthLib.__all__) <= set(dir(XViewSynthLib))

    def test_unknown_name_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="no attribute 'enhanse'"):
            _ = XViewSynthLib.enhanse

    def test_package_alone_does_not_load_torch(self):
        code = "import sys, XViewSynthLib; from XViewSynthLib import Volume; sys.exit('torch' in sys.modules)"
        environment = {**os.environ, "PYTHONPATH": str(Path(XViewSynthLib.__file__).parents[1])}
        assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


class TestConstruction:
    def test_voxels_are_read_only(self):
        with pytest.raises(ValueError, match="read-only"):
            volume().voxels[0, 0, 0] = 1

    def test_callers_array_stays_writeable_and_is_not_copied(self):
        array = np.zeros((5, 6, 7), np.int16)
        made = Volume(array, np.eye(4))
        array[0, 0, 0] = 7
        assert made.voxels[0, 0, 0] == 7

    def test_affine_is_a_read_only_copy(self):
        affine = np.eye(4)
        made = Volume(np.zeros((5, 6, 7)), affine)
        affine[0, 0] = 9
        assert made.affine[0, 0] == 1
        with pytest.raises(ValueError, match="read-only"):
            made.affine[0, 0] = 2

    def test_origin_is_a_copy(self):
        made = volume()
        made.origin[0] = 1e6
        assert made.origin[0] == -12.5

    def test_affine_is_float64(self):
        assert volume(affine=np.eye(4, dtype=np.float32)).affine.dtype == np.float64

    def test_other_byte_order_becomes_native(self):
        made = Volume(np.arange(24, dtype=">i2").reshape(2, 3, 4), np.eye(4))
        assert made.voxels.dtype.isnative
        assert made.voxels[1, 2, 3] == 23

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float64"])
    def test_scalar_type_is_kept(self, dtype):
        assert volume(dtype=dtype).voxels.dtype == dtype

    @pytest.mark.parametrize("dtype", ["bool", "complex64", "U3", "O"])
    def test_other_kinds_of_voxel_are_a_type_error(self, dtype):
        with pytest.raises(TypeError, match="integers or floats"):
            volume(dtype=dtype)

    def test_a_list_is_a_type_error(self):
        with pytest.raises(TypeError, match="NumPy array, not list"):
            Volume([[[1]]], np.eye(4))

    @pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 6, 7, 1)])
    def test_only_three_dimensions(self, shape):
        with pytest.raises(InputError, match="three dimensions"):
            volume(shape)

    def test_empty(self):
        with pytest.raises(InputError, match="empty"):
            volume((0, 6, 7))

    @pytest.mark.parametrize(
        ("affine", "sentence"),
        [
            (np.eye(3), "shape"),
            (np.diag([1, 1, np.nan, 1]), "NaN"),
            (np.diag([1, 1, np.inf, 1]), "NaN or infinite"),
            (np.diag([1, 1, 1, 2]), "last row"),
            (np.diag([1, 1, 0, 1]), "flattens"),
            (affine_from(directions=np.eye(3)[:, [0, 1, 1]]), "flattens"),
        ],
    )
    def test_affine_that_gives_no_place(self, affine, sentence):
        with pytest.raises(InputError, match=sentence):
            volume(affine=affine)

    @pytest.mark.parametrize("thickness", [0, -1, np.nan, np.inf])
    def test_slice_thickness_is_positive(self, thickness):
        with pytest.raises(InputError, match="slice thickness"):
            volume(slice_thickness=thickness)

    def test_slice_thickness_is_kept(self):
        assert volume(slice_thickness=5).with_voxels(np.zeros((5, 6, 7))).slice_thickness == 5.0


class TestGeometry:
    @given(directions())
    def test_spacing_directions_and_origin_make_up_the_affine(self, turned):
        made = volume(affine=affine_from(directions=turned))
        np.testing.assert_allclose(made.spacing, SPACING)
        np.testing.assert_allclose(made.directions, turned, atol=1e-12)
        np.testing.assert_allclose(made.origin, [-12.5, 7.25, 90])

    def test_shape_is_reversed(self):
        assert volume((5, 6, 7)).shape_ijk == (7, 6, 5)

    @pytest.mark.parametrize(("axis", "count"), [("I", 7), ("J", 6), ("K", 5)])
    def test_slices_along_an_axis(self, axis, count):
        assert volume((5, 6, 7)).slices(axis) == count

    @pytest.mark.parametrize(("axis", "spacing"), list(zip("IJK", SPACING, strict=True)))
    def test_spacing_along_an_axis(self, axis, spacing):
        assert volume().spacing_along(axis) == spacing

    @given(directions(), st.lists(st.floats(-500, 500), min_size=3, max_size=3))
    def test_points_go_to_the_patient_and_back(self, turned, point):
        made = volume(affine=affine_from(directions=turned))
        np.testing.assert_allclose(made.ras_to_ijk(made.ijk_to_ras(point)), point, atol=1e-6)

    def test_many_points_at_once(self):
        points = np.zeros((2, 3, 3))
        assert volume().ijk_to_ras(points).shape == (2, 3, 3)

    def test_right_angles_have_no_shear(self):
        assert volume().shear_degrees == 0

    def test_shear_is_measured_in_degrees(self):
        assert volume(affine=affine_from(directions=shearing(12))).shear_degrees == pytest.approx(12)


class TestThroughPlaneAxis:
    @pytest.mark.parametrize(
        ("spacing", "axis"),
        [
            ((1, 1, 5), "K"),
            ((1, 5, 1), "J"),
            ((5, 1, 1), "I"),
            ((1, 1, 1), "K"),
            ((0.977, 0.977, 0.625), "K"),
            ((0.8, 0.5, 0.8), "J"),
            ((0.5, 0.8, 0.8), "I"),
            ((0.9765625, 0.977, 0.625), "K"),
            ((0.7, 0.9, 0.8), "J"),
            ((0.9, 0.7, 0.8), "I"),
        ],
    )
    def test_spacing_that_differs_from_two_equal_ones_or_else_the_largest(self, spacing, axis):
        assert volume(affine=affine_from(spacing)).resolve_axis("auto") == axis

    @pytest.mark.parametrize("axis", "IJK")
    def test_known_slice_axis_wins_over_any_spacing(self, axis):
        made = Volume(np.zeros((4, 4, 4), np.int16), affine_from((1, 1, 5)), slice_axis=axis)
        assert made.resolve_axis() == axis
        assert made.resolve_axis("K") == "K"

    def test_thickness_belongs_to_the_slices_alone(self):
        made = Volume(np.zeros((4, 4, 4), np.int16), affine_from((1, 1, 5)), 5.0)
        assert [made.thickness_along(axis) for axis in "IJK"] == [None, None, 5.0]
        assert made.with_thickness(2.0, "J").thickness_along("J") == 2.0
        assert made.with_thickness(2.0, "J").thickness_along("K") is None

    def test_named_axis_wins(self):
        assert volume().resolve_axis("I") == "I"

    @pytest.mark.parametrize("axis", ["k", "S", "", "0"])
    def test_unknown_axis(self, axis):
        with pytest.raises(InputError, match="choose auto, I, J or K"):
            volume().resolve_axis(axis)

    def test_same_direction_in_all_48_layouts(self, scan):
        for stored in layouts(scan):
            along = stored.directions[:, "IJK".index(stored.through_plane_axis)]
            np.testing.assert_allclose(np.abs(along), [0, 0, 1], atol=1e-12)


class TestUpsampling:
    @given(directions(), st.sampled_from("IJK"), st.integers(2, 8))
    def test_observed_slices_keep_their_place(self, turned, axis, factor):
        made = volume(affine=affine_from(directions=turned))
        finer = Volume(np.zeros(made.upsampled_shape(axis, factor), np.int8), made.upsampled_affine(axis, factor))
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(made.shape_ijk) - 1)
        finer_corners = corners.copy()
        finer_corners[:, "IJK".index(axis)] *= factor
        np.testing.assert_allclose(finer.ijk_to_ras(finer_corners), made.ijk_to_ras(corners), atol=1e-6)
        assert finer.slices(axis) == factor * (made.slices(axis) - 1) + 1

    def test_other_spacings_stay(self):
        made = volume()
        finer = made.with_voxels(np.zeros(made.upsampled_shape("K", 4)))
        assert Volume(finer.voxels, made.upsampled_affine("K", 4)).spacing == (0.8, 0.8, 1.0)
