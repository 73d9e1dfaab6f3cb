"""The canonical order of slices, rows and columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy, directions, layouts
from XViewSynthLib import Volume
from XViewSynthLib.geometry.orientation import to_slices

SMALL = anatomy((4, 6, 5))


def canonical(volume):
    return to_slices(volume, volume.through_plane_axis)


def turned_about_k(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


class TestOneScanStored48Ways:
    @given(directions())
    def test_same_array(self, turned):
        scan = Volume(SMALL, affine_from(directions=turned))
        expected, _ = canonical(scan)
        for stored in layouts(scan):
            np.testing.assert_array_equal(canonical(stored)[0], expected)

    @pytest.mark.parametrize("degrees", [45, -45, 135, 225, 44.9999, 45.0001])
    def test_same_array_where_two_patient_axes_are_equally_close(self, degrees):
        scan = Volume(SMALL, affine_from(directions=turned_about_k(degrees)))
        arrays = {canonical(stored)[0].tobytes() for stored in layouts(scan)}
        assert len(arrays) == 1

    def test_same_array_where_all_patient_axes_are_equally_close(self):
        diagonal = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
        arrays = {canonical(stored)[0].tobytes() for stored in layouts(Volume(SMALL, affine_from(directions=diagonal)))}
        assert len(arrays) == 1

    @given(directions())
    def test_same_points_of_the_patient(self, turned):
        scan = Volume(SMALL, affine_from(directions=turned))
        expected = _positions(scan)
        for stored in layouts(scan):
            np.testing.assert_allclose(_positions(stored), expected, atol=1e-6)


def _positions(volume):
    """RAS position of every voxel, in canonical order."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in volume.voxels.shape), indexing="ij")
    positions = volume.ijk_to_ras(np.stack([i, j, k], axis=-1))
    _, order = canonical(volume)
    return np.stack([order.apply(positions[..., n]) for n in range(3)], axis=-1)


class TestOrder:
    def test_axial_scan_has_rows_towards_anterior_and_columns_towards_right(self):
        array, order = to_slices(Volume(SMALL, affine_from()), "K")
        np.testing.assert_array_equal(array, SMALL)
        assert order.reversed == (False, False, False)

    def test_scan_stored_towards_left_and_posterior_is_turned(self):
        array, _ = to_slices(Volume(SMALL, affine_from(directions=np.diag([-1, -1, 1]))), "K")
        np.testing.assert_array_equal(array, SMALL[:, ::-1, ::-1])

    def test_coronal_scan_has_rows_towards_superior(self):
        array, _ = to_slices(Volume(SMALL, affine_from((1, 5, 1))), "J")
        np.testing.assert_array_equal(array, SMALL.transpose(1, 0, 2))

    @given(directions(), st.sampled_from("IJK"))
    def test_slices_rows_and_columns_grow_towards_their_patient_axes(self, turned, axis):
        scan = Volume(SMALL, affine_from(directions=turned))
        _, order = to_slices(scan, axis)
        columns = [2 - dimension for dimension in order.dimensions]
        signs = [-1 if backwards else 1 for backwards in order.reversed]
        canonical_directions = scan.directions[:, columns] * signs
        _, rows_axis, columns_axis = np.argmax(np.abs(canonical_directions), axis=0)
        assert columns[0] == "IJK".index(axis)
        if np.abs(canonical_directions).max(axis=0).min() > 0.8:
            assert (canonical_directions[np.abs(canonical_directions) > 0.8] > 0).all()
            assert rows_axis > columns_axis


class TestRestore:
    @given(directions(), st.sampled_from("IJK"))
    def test_leads_back(self, turned, axis):
        for stored in layouts(Volume(SMALL, affine_from(directions=turned))):
            array, order = to_slices(stored, axis)
            np.testing.assert_array_equal(order.restore(array), stored.voxels)

    @pytest.mark.parametrize("axis", ["I", "J", "K"])
    def test_up_sampled_slices_come_out_on_the_up_sampled_grid(self, axis):
        for stored in layouts(Volume(SMALL, affine_from())):
            array, order = to_slices(stored, axis)
            finer = order.restore(np.repeat(array, 3, axis=0)[1:-1])
            assert finer.shape == stored.upsampled_shape(axis, 3)
            dimension = 2 - "IJK".index(axis)
            np.testing.assert_array_equal(finer.take(range(0, finer.shape[dimension], 3), dimension), stored.voxels)

    def test_nothing_is_copied(self):
        scan = Volume(SMALL, affine_from(directions=np.diag([-1, 1, -1])))
        array, order = to_slices(scan, "K")
        assert np.shares_memory(array, scan.voxels)
        assert np.shares_memory(order.restore(array), scan.voxels)
