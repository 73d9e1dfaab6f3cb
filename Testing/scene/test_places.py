"""The worst places of an uncertainty map, the jump of the linked views to them, and the map across the slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import slicer

import offscreen
from scans import affine_from, stored_as
from scene import make_bent_transform, make_provenance, make_shift, make_volume_node
from scene_pairs import FACTOR, Pair, make_pair
from XViewSynthLib import InputError, Volume
from XViewSynthScene.bridging import bridged
from XViewSynthScene.layout import ENHANCED, PLANES, ROWS
from XViewSynthScene.places import find_places
from XViewSynthScene.views import LinkedViews
from XViewSynthScene.volumes import array_from_matrix, volume_from_node

SHAPE = (33, 80, 64)
FAINT = 20.0
PROVENANCE = make_provenance(SHAPE[0], FACTOR)


def map_with(*boxes: tuple[float, slice, slice, slice]) -> Volume:
    """A map that is 0 but for boxes of some HU; observed slices are 0."""
    voxels = np.zeros(SHAPE, np.float32)
    for hu, *box in boxes:
        voxels[tuple(box)] = hu
    voxels[::FACTOR] = 0
    return Volume(voxels, affine_from((0.8, 0.8, 1.0)))


WORST = (90.0, slice(5, 8), slice(8, 16), slice(8, 16))
WIDE = (50.0, slice(9, 24), slice(40, 56), slice(40, 48))


def places(scene, volume: Volume, provenance=PROVENANCE, faint_hu: float = FAINT):
    return find_places(make_volume_node(scene, volume, "map"), provenance, faint_hu)


def voxel_at(volume: Volume, position) -> tuple[int, int, int]:
    """(k, j, i) of a place."""
    return tuple(volume.ras_to_ijk(position).round().astype(int)[::-1])


class TestFindPlaces:
    def test_begins_with_the_worst(self, scene):
        volume = map_with(WIDE, WORST)
        found = places(scene, volume)
        assert [place.uncertainty_hu for place in found] == [90, 50]
        for place in found:
            assert volume.voxels[voxel_at(volume, place.position)] == place.uncertainty_hu

    def test_a_region_is_one_place_across_observed_slices(self, scene):
        assert len(places(scene, map_with(WIDE))) == 1

    def test_a_long_region_has_several(self, scene):
        found = places(scene, map_with((50.0, slice(5, 8), slice(0, 80), slice(8, 16))))
        rows = sorted(place.position[1] for place in found)
        assert len(found) == 3
        assert np.diff(rows).min() >= 20

    def test_near_regions_that_do_not_touch_are_two(self, scene):
        found = places(scene, map_with(WORST, (60.0, slice(5, 8), slice(24, 32), slice(8, 16))))
        assert [place.uncertainty_hu for place in found] == [90, 60]

    def test_no_place_without_uncertainty(self, scene):
        assert places(scene, map_with()) == []

    def test_what_is_as_faint_as_noise_does_not_count(self, scene):
        assert len(places(scene, map_with(WORST, WIDE), faint_hu=60)) == 1
        assert places(scene, map_with(WORST, WIDE), faint_hu=95) == []

    def test_a_single_voxel_says_nothing(self, scene):
        assert places(scene, map_with((200.0, slice(5, 6), slice(9, 10), slice(9, 10)))) == []

    def test_a_slice_too_small_for_a_block_has_none(self, scene):
        assert places(scene, Volume(np.full((9, 3, 3), 90, np.float32), affine_from()), None) == []

    @pytest.mark.parametrize("axis", ["I", "J", "K"])
    def test_follow_the_axis_of_the_slices(self, scene, axis):
        order = {"K": (0, 1, 2), "J": (1, 0, 2), "I": (1, 2, 0)}[axis]
        volume = stored_as(map_with(WORST), order, (False, False, False))
        found = places(scene, volume, replace(PROVENANCE, axis=axis))
        assert volume.voxels[voxel_at(volume, found[0].position)] == 90

    def test_lie_where_a_transform_puts_them(self, scene):
        node = make_volume_node(scene, map_with(WORST), "map")
        before = find_places(node, PROVENANCE, FAINT)[0].position
        node.SetAndObserveTransformNodeID(make_shift(scene, 10).GetID())
        assert np.subtract(find_places(node, PROVENANCE, FAINT)[0].position, before) == pytest.approx([0, 0, 10])

    @pytest.mark.parametrize("provenance", [None, replace(PROVENANCE, synthetic_slices=range(33), observed_slices=0)])
    def test_are_found_where_no_slice_was_observed(self, scene, provenance):
        volume = map_with(WORST)
        assert volume.voxels[voxel_at(volume, places(scene, volume, provenance)[0].position)] == 90

    def test_a_bent_map_is_refused(self, scene):
        node = make_volume_node(scene, map_with(WORST), "map")
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        with pytest.raises(InputError, match="non-linear"):
            find_places(node, PROVENANCE, FAINT)


class TestBridged:
    def test_observed_slices_have_the_mean_of_their_neighbours(self):
        voxels = map_with(WIDE).voxels.copy()
        voxels[11] = 30
        found = bridged(voxels, PROVENANCE)
        assert found[12, 50, 44] == 40
        assert found[12, 0, 0] == 15

    def test_synthetic_slices_stay(self):
        voxels = map_with(WORST, WIDE).voxels
        found = bridged(voxels, PROVENANCE)
        for index in PROVENANCE.synthetic_slices:
            assert np.array_equal(found[index], voxels[index])

    def test_the_ends_have_their_one_neighbour(self):
        voxels = map_with((70.0, slice(0, 33), slice(0, 80), slice(0, 64))).voxels
        assert (bridged(voxels, PROVENANCE) == 70).all()

    def test_large_values_do_not_wrap(self):
        voxels = np.full((5, 4, 4), 1e6, np.float32)
        assert bridged(voxels, make_provenance(5, FACTOR)).min() == 32767


@pytest.fixture
def pair(scene, scan: Volume) -> Pair:
    return make_pair(scene, scan)


@pytest.fixture
def views(scene, pair) -> Iterator[LinkedViews]:
    scene.AddNode(slicer.vtkMRMLCrosshairNode())
    views = LinkedViews(scene, application_logic=offscreen.application_logic(scene))
    views.show(pair.original, pair.enhanced, pair.uncertainty)
    yield views
    views.close()


class TestMapAcrossSlices:
    def shown(self, views, scene, plane: str):
        return scene.GetNodeByID(views.composite_node(ENHANCED, plane).GetLabelVolumeID())

    def test_has_no_stripes_and_the_other_view_keeps_them(self, views, pair, scene):
        for plane in PLANES:
            column = volume_from_node(self.shown(views, scene, plane)).voxels.max(axis=(1, 2))
            assert (column > 0).all() == (plane != "Axial")

    def test_is_that_of_the_axis_of_the_slices(self, scene, scan):
        pair = make_pair(scene, scan, "I")
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced, pair.uncertainty)
        own = [plane for plane in PLANES if self.shown(views, scene, plane) is pair.uncertainty]
        assert own == ["Sagittal"]
        views.close()

    def test_the_copy_is_hidden_and_not_saved(self, views, scene):
        copy = self.shown(views, scene, "Coronal")
        assert copy.GetHideFromEditors()
        assert not copy.GetSaveWithScene()
        assert not copy.GetDisplayNode().GetSaveWithScene()

    def test_the_copy_follows_the_map(self, views, pair, scene):
        slicer.util.arrayFromVolume(pair.uncertainty)[:] = 55
        slicer.util.arrayFromVolumeModified(pair.uncertainty)
        pair.uncertainty.SetAndObserveTransformNodeID(make_shift(scene).GetID())
        copy = self.shown(views, scene, "Coronal")
        assert (volume_from_node(copy).voxels == 55).all()
        assert copy.GetTransformNodeID() == pair.uncertainty.GetTransformNodeID()

    def test_the_copy_is_made_when_the_map_is_first_shown(self, views, pair, scene):
        views.show(pair.original, pair.enhanced, pair.uncertainty, opacity=0.0)
        copy = self.shown(views, scene, "Coronal")
        slicer.util.arrayFromVolumeModified(pair.uncertainty)
        assert copy.GetImageData() is None
        views.overlay.set_opacity(0.5)
        assert (volume_from_node(copy).voxels.max(axis=(1, 2)) > 0).all()

    def test_the_legend_and_opacity_are_those_of_all_views(self, views):
        views.overlay.set_opacity(0)
        assert [legend.GetVisibility() for legend in views.overlay.legend_nodes] == [0, 0]
        assert [views.composite_node(ENHANCED, plane).GetLabelOpacity() for plane in PLANES] == [0] * 3

    @pytest.mark.parametrize("by", ["close", "removal of the map"])
    def test_the_copy_goes_with_the_overlay(self, views, pair, scene, by):
        copy = self.shown(views, scene, "Coronal")
        views.close() if by == "close" else scene.RemoveNode(pair.uncertainty)
        assert copy.GetScene() is None
        assert scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 0

    def test_a_bent_map_is_shown_as_it_is(self, scene, pair):
        bend = make_bent_transform(scene).GetID()
        for node in (pair.original, pair.enhanced, pair.uncertainty):
            node.SetAndObserveTransformNodeID(bend)
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced, pair.uncertainty)
        assert {self.shown(views, scene, plane) for plane in PLANES} == {pair.uncertainty}
        views.close()

    def test_a_result_without_observed_slices_needs_no_copy(self, scene, pair):
        provenance = replace(pair.provenance, synthetic_slices=range(65), observed_slices=0)
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced, pair.uncertainty, provenance)
        assert {self.shown(views, scene, plane) for plane in PLANES} == {pair.uncertainty}
        views.close()


class TestJump:
    @pytest.fixture
    def position(self, pair):
        return find_places(pair.uncertainty, pair.provenance, FAINT)[0].position

    def test_shows_the_place_in_all_views(self, views, position):
        views.jump_to(position)
        for row in ROWS:
            for plane, look in PLANES.items():
                to_ras = array_from_matrix(views.slice_node(row, plane).GetSliceToRAS())
                assert to_ras[look.normal, 3] == pytest.approx(position[look.normal], abs=1e-6)

    def test_pans_where_the_place_is_out_of_view(self, views, position):
        for plane in PLANES:
            node = views.slice_node(ENHANCED, plane)
            width, height, depth = node.GetFieldOfView()
            node.SetFieldOfView(width / 20, height / 20, depth)
            node.SetXYZOrigin(width, 0, 0)
        views.jump_to(position)
        for row in ROWS:
            for plane in PLANES:
                node = views.slice_node(row, plane)
                across = [part for part in range(3) if part != PLANES[plane].normal]
                width, height, _ = node.GetDimensions()
                centre = node.GetXYToRAS().MultiplyPoint([width / 2, height / 2, 0, 1])
                assert [centre[part] for part in across] == pytest.approx([position[part] for part in across], abs=1.0)

    def test_marks_it_with_the_crosshair_until_the_views_are_closed(self, views, scene, position):
        node = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        views.jump_to(position)
        assert node.GetCrosshairRAS() == pytest.approx(position)
        assert node.GetCrosshairMode() != node.NoCrosshair
        views.close()
        assert node.GetCrosshairMode() == node.NoCrosshair

    def test_leaves_the_users_own_crosshair(self, views, scene, position):
        node = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        node.SetCrosshairMode(node.ShowBasic)
        views.jump_to(position)
        views.close()
        assert node.GetCrosshairMode() == node.ShowBasic
