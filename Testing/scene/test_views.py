"""The linked views: they move together, show the right planes, tell what is synthetic, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import slicer
import vtk

import offscreen
from scans import affine_from, anatomy, stored_as
from scene import make_bent_transform, make_shift, saved_and_loaded
from scene_pairs import FACTOR, Pair, make_pair
from XViewSynthLib import InputError, Volume
from XViewSynthScene.layout import ENHANCED, LAYOUT_ID, ORIGINAL, PLANES, ROWS, VIEW_GROUP, view_names
from XViewSynthScene.marks import BETWEEN, OBSERVED, SYNTHETIC, SliceMark, slice_mark, slice_position
from XViewSynthScene.overlay import UncertaintyOverlay
from XViewSynthScene.views import LinkedViews
from XViewSynthScene.volumes import array_from_matrix


@pytest.fixture
def application(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLApplicationLogic:
    return offscreen.application_logic(scene)


@pytest.fixture
def link(
    scene: slicer.vtkMRMLScene, application: slicer.vtkMRMLApplicationLogic
) -> Iterator[slicer.vtkMRMLSliceLinkLogic]:
    logic = slicer.vtkMRMLSliceLinkLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(scene)
    yield logic
    logic.SetMRMLScene(None)


@pytest.fixture
def pair(scene: slicer.vtkMRMLScene, scan: Volume) -> Pair:
    return make_pair(scene, scan)


@pytest.fixture
def views(scene: slicer.vtkMRMLScene, application: slicer.vtkMRMLApplicationLogic, pair: Pair) -> Iterator[LinkedViews]:
    views = LinkedViews(scene, application_logic=application)
    views.show(pair.original, pair.enhanced, pair.uncertainty)
    yield views
    views.close()


@pytest.fixture
def layout(scene: slicer.vtkMRMLScene) -> Iterator[slicer.vtkMRMLLayoutNode]:
    """The layout node of a real layout logic, which makes the slice nodes of a layout."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(scene)
    logic.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    yield logic.GetLayoutNode()
    logic.SetMRMLScene(None)


def node_ids(scene: slicer.vtkMRMLScene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def normal(node: slicer.vtkMRMLSliceNode) -> np.ndarray:
    return array_from_matrix(node.GetSliceToRAS())[:3, 2]


def scroll(application: slicer.vtkMRMLApplicationLogic, node: slicer.vtkMRMLSliceNode, offset: float) -> None:
    """What the slider of a view does."""
    logic = application.GetSliceLogic(node)
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(offset)
    logic.EndSliceOffsetInteraction()


def zoom(application: slicer.vtkMRMLApplicationLogic, node: slicer.vtkMRMLSliceNode, factor: float) -> None:
    """What the mouse in a view does."""
    logic = application.GetSliceLogic(node)
    logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.FieldOfViewFlag)
    width, height, depth = node.GetFieldOfView()
    node.SetFieldOfView(width / factor, height / factor, depth)
    node.UpdateMatrices()
    logic.EndSliceNodeInteraction()


def own_view(scene: slicer.vtkMRMLScene, application: slicer.vtkMRMLApplicationLogic) -> slicer.vtkMRMLSliceNode:
    """A linked view of the user's own."""
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application)
    application.GetSliceLogics().AddItem(logic)
    logic.SetMRMLScene(scene)
    node = logic.AddSliceNode("Red")
    logic.GetSliceCompositeNode().SetLinkedControl(True)
    logic.GetSliceCompositeNode().SetHotLinkedControl(True)
    return node


class TestWhatIsShown:
    def test_original_above_enhanced_below(self, views, pair):
        for plane in PLANES:
            assert views.composite_node(ORIGINAL, plane).GetBackgroundVolumeID() == pair.original.GetID()
            assert views.composite_node(ENHANCED, plane).GetBackgroundVolumeID() == pair.enhanced.GetID()

    def test_a_pair_takes_the_place_of_the_former_one(self, views, scene, scan):
        other = make_pair(scene, scan)
        views.show(other.original, other.enhanced)
        assert views.composite_node(ENHANCED, "Coronal").GetBackgroundVolumeID() == other.enhanced.GetID()
        assert views.overlay is None

    def test_loading_another_volume_leaves_the_pair_in_its_views(self, views, pair, application, scene):
        newcomer = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        application.GetSelectionNode().SetActiveVolumeID(newcomer.GetID())
        application.PropagateVolumeSelection()
        assert views.composite_node(ORIGINAL, "Axial").GetBackgroundVolumeID() == pair.original.GetID()

    def test_refuses_a_missing_volume(self, scene, pair):
        with pytest.raises(InputError, match="choose one of this scene"):
            LinkedViews(scene).show(pair.original, None)

    def test_refuses_a_volume_of_another_scene(self, pair):
        with pytest.raises(InputError, match="choose one of this scene"):
            LinkedViews(slicer.vtkMRMLScene()).show(pair.original, pair.enhanced)

    def test_refuses_a_volume_without_voxels(self, scene, pair):
        empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
        with pytest.raises(InputError, match="'nothing' has no voxels"):
            LinkedViews(scene).show(pair.original, empty)

    def test_refused_volumes_leave_the_views_as_they_were(self, views, pair):
        with pytest.raises(InputError):
            views.show(pair.original, None)
        assert views.shown
        assert views.composite_node(ENHANCED, "Axial").GetBackgroundVolumeID() == pair.enhanced.GetID()


class TestPlanes:
    @pytest.mark.parametrize(("plane", "axis"), [("Axial", 2), ("Coronal", 1), ("Sagittal", 0)])
    def test_straight_scans_show_the_patients_planes(self, views, plane, axis):
        for row in ROWS:
            assert abs(normal(views.slice_node(row, plane))[axis]) == pytest.approx(1)

    @pytest.mark.parametrize("degrees", [12, 40])
    def test_oblique_scans_show_their_own_slices(self, scene, degrees):
        turn = vtk.vtkTransform()
        turn.RotateX(degrees)
        turn.RotateZ(10)
        directions = array_from_matrix(turn.GetMatrix())[:3, :3]
        pair = make_pair(scene, Volume(anatomy((7, 20, 18)), affine_from(directions=directions)))
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced)
        for column, plane in enumerate(("Sagittal", "Coronal", "Axial")):
            assert abs(normal(views.slice_node(ENHANCED, plane)) @ directions[:, column]) == pytest.approx(1)

    def test_views_stay_different_at_the_worst_angle(self, scene):
        turn = vtk.vtkTransform()
        turn.RotateX(45)
        pair = make_pair(
            scene, Volume(anatomy((7, 20, 18)), affine_from(directions=array_from_matrix(turn.GetMatrix())[:3, :3]))
        )
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced)
        normals = np.stack([normal(views.slice_node(ENHANCED, plane)) for plane in PLANES])
        assert np.abs(normals @ normals.T) == pytest.approx(np.eye(3))

    def test_a_scan_acquired_in_sagittal_slices_marks_its_sagittal_view(self, scene, scan):
        pair = make_pair(scene, sagittal(scan))
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced)
        assert "slice" in views.marks["XVSEnhancedSagittal"].text
        assert views.marks["XVSEnhancedAxial"].text == "enhanced x4"

    def test_a_parent_transform_turns_the_views_along(self, scene, pair):
        turn = vtk.vtkTransform()
        turn.RotateX(20)
        parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        parent.SetMatrixTransformToParent(turn.GetMatrix())
        for node in (pair.original, pair.enhanced):
            node.SetAndObserveTransformNodeID(parent.GetID())
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced)
        across = array_from_matrix(turn.GetMatrix())[:3, 2]
        assert abs(normal(views.slice_node(ENHANCED, "Axial")) @ across) == pytest.approx(1)

    def test_the_whole_plane_is_in_view(self, views, scan):
        height = scan.slices("J") * scan.spacing_along("J")
        assert views.slice_node(ORIGINAL, "Axial").GetFieldOfView()[1] >= height - 1e-6

    def test_starts_on_a_slice_of_the_enhanced_volume(self, views, pair):
        position = slice_position(views.slice_node(ENHANCED, "Axial"), pair.enhanced, "K")
        assert position == pytest.approx(round(position))


def sagittal(scan: Volume) -> Volume:
    """The scan turned so that its slices lie one beside the other, from left to right."""
    directions = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    return Volume(scan.voxels, affine_from(scan.spacing, directions), scan.slice_thickness)


class TestLinkedBySlicer:
    """Through Slicer's own link logic alone: the views' own following is switched off."""

    def test_scrolling_one_view_scrolls_the_other(self, link, views, application):
        views.removeObservers()
        scroll(application, views.slice_node(ENHANCED, "Axial"), 103.0)
        assert views.slice_node(ORIGINAL, "Axial").GetSliceOffset() == pytest.approx(103.0)

    def test_scrolling_leaves_the_other_planes(self, link, views, application):
        before = views.slice_node(ENHANCED, "Coronal").GetSliceOffset()
        scroll(application, views.slice_node(ENHANCED, "Axial"), 103.0)
        assert views.slice_node(ENHANCED, "Coronal").GetSliceOffset() == before

    def test_zooming_one_view_zooms_all(self, link, views, application):
        views.removeObservers()
        zoom(application, views.slice_node(ORIGINAL, "Axial"), 2.0)
        widths = [views.slice_node(row, plane).GetFieldOfView()[0] for row in ROWS for plane in PLANES]
        assert widths == pytest.approx([widths[0]] * 6)

    def test_the_users_own_views_stay_where_they_are(self, link, application, scene, pair):
        red = own_view(scene, application)
        views = LinkedViews(scene, application_logic=application)
        views.show(pair.original, pair.enhanced)
        before = red.GetSliceOffset()
        scroll(application, views.slice_node(ENHANCED, "Axial"), 103.0)
        assert red.GetSliceOffset() == before
        views.close()

    def test_a_view_of_the_users_in_the_group_follows(self, link, application, scene, pair):
        red = own_view(scene, application)
        views = LinkedViews(scene, application_logic=application)
        views.show(pair.original, pair.enhanced)
        red.GetSliceToRAS().DeepCopy(views.slice_node(ENHANCED, "Axial").GetSliceToRAS())
        red.SetViewGroup(VIEW_GROUP)
        scroll(application, views.slice_node(ENHANCED, "Axial"), 103.0)
        assert red.GetSliceOffset() == pytest.approx(103.0)
        views.close()


class TestFollowing:
    """The two views of a plane follow each other whoever moves one, a script included."""

    @pytest.mark.parametrize(("moved", "follows"), [(ORIGINAL, ENHANCED), (ENHANCED, ORIGINAL)])
    def test_offset(self, views, moved, follows):
        views.slice_node(moved, "Coronal").SetSliceOffset(9.5)
        assert views.slice_node(follows, "Coronal").GetSliceOffset() == pytest.approx(9.5)

    def test_zoom(self, views):
        views.slice_node(ORIGINAL, "Axial").SetFieldOfView(11, 11, 1)
        assert views.slice_node(ENHANCED, "Axial").GetFieldOfView()[1] == pytest.approx(11)

    def test_pan(self, views):
        views.slice_node(ORIGINAL, "Sagittal").SetXYZOrigin(3, -4, 0)
        assert views.slice_node(ENHANCED, "Sagittal").GetXYZOrigin()[:2] == pytest.approx((3, -4))

    def test_turning(self, views):
        turned = views.slice_node(ENHANCED, "Axial")
        turned.SetOrientation("Sagittal")
        assert normal(views.slice_node(ORIGINAL, "Axial")) == pytest.approx(normal(turned))

    def test_resizing_the_window_keeps_the_zoom(self, views, application):
        height = views.slice_node(ORIGINAL, "Axial").GetFieldOfView()[1]
        for row in ROWS:
            application.GetSliceLogic(views.slice_node(row, "Axial")).ResizeSliceNode(900, 300)
        for row in ROWS:
            assert views.slice_node(row, "Axial").GetFieldOfView()[:2] == pytest.approx((3 * height, height))

    @pytest.mark.parametrize("moved", ["original", "enhanced"])
    def test_window_level(self, views, pair, moved):
        getattr(pair, moved).GetDisplayNode().SetWindowLevel(350, 40)
        for node in (pair.original, pair.enhanced):
            assert (node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()) == (350, 40)

    def test_the_enhanced_volume_takes_the_originals_window(self, views, pair):
        display = pair.enhanced.GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (2000, 0, 0)

    def test_ends_with_the_views(self, views, pair):
        views.close()
        pair.original.GetDisplayNode().SetWindowLevel(80, 40)
        assert pair.enhanced.GetDisplayNode().GetWindow() == 2000


class TestSwap:
    def test_fades_the_original_into_the_enhanced_views_alone(self, views):
        views.set_fade(0.3)
        assert [views.composite_node(ENHANCED, plane).GetForegroundOpacity() for plane in PLANES] == [0.3] * 3
        assert [views.composite_node(ORIGINAL, plane).GetForegroundVolumeID() for plane in PLANES] == [None] * 3

    def test_there_and_back(self, views):
        views.swap()
        assert views.fade == 1
        views.toggle()
        assert views.fade == 0

    def test_the_corner_names_the_volume(self, views):
        views.swap()
        assert views.marks["XVSEnhancedAxial"].text.startswith("original")
        views.swap()
        assert views.marks["XVSEnhancedAxial"].text.startswith("enhanced x4")

    def test_slicers_own_fade_slider_is_followed(self, views):
        views.composite_node(ENHANCED, "Axial").SetForegroundOpacity(1)
        assert views.fade == 1
        assert views.marks["XVSEnhancedAxial"].text.startswith("original")

    @pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
    def test_refuses_more_than_all(self, views, fraction):
        with pytest.raises(ValueError, match="from 0 to 1"):
            views.set_fade(fraction)


class TestMarks:
    @pytest.mark.parametrize(
        ("position", "expected"),
        [
            (0, OBSERVED),
            (8, OBSERVED),
            (9, SYNTHETIC),
            (11.04, SYNTHETIC),
            (64, OBSERVED),
            (9.5, BETWEEN),
            (8.3, BETWEEN),
        ],
    )
    def test_enhanced_slices(self, views, pair, scan, position, expected):
        node = at_slice(views, scan, position)
        assert slice_mark(node, pair.enhanced, pair.provenance) == expected

    def test_views_across_the_slices_have_none(self, views, pair):
        assert slice_mark(views.slice_node(ENHANCED, "Coronal"), pair.enhanced, pair.provenance) is None

    @pytest.mark.parametrize("position", [-0.6, 64.6])
    def test_none_outside_the_volume(self, views, pair, scan, position):
        assert slice_mark(at_slice(views, scan, position), pair.enhanced, pair.provenance) is None

    def test_without_interpolation_nothing_is_between(self, views, pair, scan):
        pair.enhanced.GetDisplayNode().SetInterpolate(False)
        assert slice_mark(at_slice(views, scan, 8.3), pair.enhanced, pair.provenance) == OBSERVED
        assert slice_mark(at_slice(views, scan, 8.7), pair.enhanced, pair.provenance) == SYNTHETIC

    def test_a_shifted_volume_is_marked_where_it_lies(self, views, pair, scene, scan):
        pair.enhanced.SetAndObserveTransformNodeID(make_shift(scene, 1.0).GetID())
        assert slice_mark(at_slice(views, scan, 9), pair.enhanced, pair.provenance) == OBSERVED

    def test_a_bent_volume_has_none(self, views, pair, scene, scan):
        pair.enhanced.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        assert slice_mark(at_slice(views, scan, 8), pair.enhanced, pair.provenance) is None

    @pytest.mark.parametrize("flip", [False, True])
    def test_counts_from_the_first_slice_of_a_flipped_volume(self, scene, scan, flip):
        pair = make_pair(scene, stored_as(scan, (0, 1, 2), (flip, False, False)))
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced)
        node = views.slice_node(ENHANCED, "Axial")
        node.SetSliceOffset(scan.origin[2] + 3 * 4.0)
        assert slice_mark(node, pair.enhanced, pair.provenance) == OBSERVED
        node.SetSliceOffset(scan.origin[2] + 3 * 4.0 + 1.0)
        assert slice_mark(node, pair.enhanced, pair.provenance) == SYNTHETIC

    def test_the_corner_follows_scrolling(self, views, scan):
        at_slice(views, scan, 8)
        assert views.marks["XVSEnhancedAxial"].text == "enhanced x4 - observed slice"
        assert views.marks["XVSOriginalAxial"].text == "original - observed slice"
        at_slice(views, scan, 9)
        assert views.marks["XVSEnhancedAxial"].text == "enhanced x4 - synthetic slice"
        assert views.marks["XVSOriginalAxial"].text == "original - between slices"

    def test_observed_and_synthetic_have_colours_of_their_own(self, views, scan):
        mark = views.marks["XVSEnhancedAxial"]
        at_slice(views, scan, 8)
        observed = mark.color
        at_slice(views, scan, 9)
        assert mark.color != observed

    def test_a_volume_without_provenance_is_not_marked(self, scene, pair):
        views = LinkedViews(scene)
        views.show(pair.original, pair.uncertainty)
        assert views.marks["XVSEnhancedAxial"].text == "enhanced"

    def test_a_volume_can_be_compared_with_itself(self, scene, pair):
        views = LinkedViews(scene)
        views.show(pair.original, pair.original)
        assert views.shown

    def test_remove_takes_the_text_out_of_the_view(self, scene, pair, views):
        renderer = vtk.vtkRenderer()
        mark = SliceMark(renderer, views.slice_node(ENHANCED, "Axial"))
        mark.show(pair.enhanced, pair.provenance)
        assert renderer.GetViewProps().GetNumberOfItems() == 1
        mark.remove()
        mark.remove()
        assert renderer.GetViewProps().GetNumberOfItems() == 0
        assert not mark.Observations


def at_slice(views: LinkedViews, scan: Volume, position: float) -> slicer.vtkMRMLSliceNode:
    """Scroll the enhanced axial view to a slice of the enhanced volume, fractions allowed."""
    node = views.slice_node(ENHANCED, "Axial")
    node.SetSliceOffset(float(scan.origin[2] + position * scan.spacing_along("K") / FACTOR))
    return node


class TestOverlay:
    def test_lies_over_the_enhanced_views_alone(self, views, pair, scene):
        for plane in PLANES:
            shown = scene.GetNodeByID(views.composite_node(ENHANCED, plane).GetLabelVolumeID())
            assert (shown is pair.uncertainty) == (plane == "Axial")
            assert shown.GetDisplayNode().GetColorNode() is pair.uncertainty.GetDisplayNode().GetColorNode()
            assert views.composite_node(ORIGINAL, plane).GetLabelVolumeID() is None

    def test_opacity(self, views):
        views.overlay.set_opacity(0.8)
        assert views.overlay.opacity == 0.8
        assert [views.composite_node(ENHANCED, plane).GetLabelOpacity() for plane in PLANES] == [0.8] * 3

    def test_invisible_has_no_legend(self, views):
        views.overlay.set_opacity(0)
        assert not views.overlay.legend_node.GetVisibility()
        views.overlay.set_opacity(0.2)
        assert views.overlay.legend_node.GetVisibility()

    def test_the_legend_is_in_hu(self, views):
        assert "HU" in views.overlay.legend_node.GetTitleText()

    def test_colours_mean_what_the_overlay_says(self, views, pair):
        display = pair.uncertainty.GetDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == views.overlay.limits_hu == (50, 100)
        assert not display.GetAutoWindowLevel()

    @pytest.mark.parametrize("opacity", [-0.1, 1.1])
    def test_refuses_more_than_all(self, views, opacity):
        with pytest.raises(ValueError, match="between 0 and 1"):
            views.overlay.set_opacity(opacity)

    @pytest.mark.parametrize("faint", [-1, float("nan"), float("inf")])
    def test_refuses_a_range_that_is_none(self, pair, faint):
        with pytest.raises(ValueError, match="HU"):
            UncertaintyOverlay(pair.uncertainty, [], faint)

    def test_remove_gives_the_map_its_own_display_back(self, scene, pair):
        display = pair.uncertainty.GetDisplayNode()
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(55, 11)
        before = node_ids(scene)
        UncertaintyOverlay(pair.uncertainty, []).remove()
        assert (display.GetColorNodeID(), display.GetWindow(), display.GetLevel()) == (
            "vtkMRMLColorTableNodeGrey",
            55,
            11,
        )
        assert node_ids(scene) == before

    def test_needs_no_more_than_a_scene(self, scan):
        bare = slicer.vtkMRMLScene()
        overlay = UncertaintyOverlay(make_pair(bare, scan).uncertainty, [])
        assert overlay.legend_node.GetScene() is bare

    def test_two_overlays_share_their_colours(self, scene, pair, scan):
        other = make_pair(scene, scan)
        first, second = UncertaintyOverlay(pair.uncertainty, []), UncertaintyOverlay(other.uncertainty, [])
        colors = pair.uncertainty.GetDisplayNode().GetColorNode()
        assert other.uncertainty.GetDisplayNode().GetColorNode() is colors
        first.remove()
        assert colors.GetScene() is scene
        second.remove()
        assert colors.GetScene() is None


class TestLayout:
    def test_shows_six_views_in_the_window(self, scene, layout, pair):
        views = LinkedViews(scene, layout)
        views.show(pair.original, pair.enhanced)
        assert layout.GetViewArrangement() == LAYOUT_ID
        for name in view_names():
            assert scene.GetSingletonNode(name, "vtkMRMLSliceNode").GetViewGroup() == VIEW_GROUP
        views.close()

    def test_goes_back_to_the_users_layout(self, scene, layout, pair):
        views = LinkedViews(scene, layout)
        views.show(pair.original, pair.enhanced)
        views.show(pair.original, pair.enhanced)
        views.restore_former_layout()
        assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView

    def test_leaves_a_layout_alone_that_the_user_chose_meanwhile(self, scene, layout, pair):
        views = LinkedViews(scene, layout)
        views.show(pair.original, pair.enhanced)
        layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        views.restore_former_layout()
        assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView

    def test_a_scene_that_opens_in_the_linked_views_can_leave_them(self, scene, layout, pair):
        LinkedViews(scene, layout).show(pair.original, pair.enhanced)
        LinkedViews(scene, layout).restore_former_layout()
        assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView

    def test_close_goes_back_too(self, scene, layout, pair):
        views = LinkedViews(scene, layout)
        views.show(pair.original, pair.enhanced)
        views.close()
        assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


class TestNothingIsLeft:
    def test_close_removes_all_that_was_made(self, scene, application, pair):
        before = node_ids(scene)
        views = LinkedViews(scene, application_logic=application)
        views.show(pair.original, pair.enhanced, pair.uncertainty)
        views.close()
        assert node_ids(scene) == before
        assert application.GetSliceLogics().GetNumberOfItems() == 0

    def test_close_twice_and_before_anything_was_shown(self, scene, pair):
        views = LinkedViews(scene)
        views.close()
        views.show(pair.original, pair.enhanced)
        views.close()
        views.close()
        assert not views.shown

    def test_works_without_an_application(self, scene, pair):
        before = node_ids(scene)
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced, pair.uncertainty)
        views.slice_node(ENHANCED, "Axial").SetSliceOffset(101.0)
        assert views.slice_node(ORIGINAL, "Axial").GetSliceOffset() == pytest.approx(101.0)
        views.close()
        assert node_ids(scene) == before

    @pytest.mark.parametrize("deleted", ["original", "enhanced"])
    def test_a_deleted_volume_empties_the_views(self, views, scene, pair, deleted):
        scene.RemoveNode(getattr(pair, deleted))
        assert not views.shown
        assert not views.marks
        assert views.overlay is None
        views.set_fade(0.5)
        views.fit()

    def test_a_deleted_map_of_uncertainty_takes_the_overlay_along(self, views, scene, pair):
        scene.RemoveNode(pair.uncertainty)
        assert views.overlay is None
        assert views.shown
        assert scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 0

    @pytest.mark.parametrize("everything", [False, True])
    def test_a_closed_scene_is_forgotten(self, views, scene, everything):
        scene.Clear(everything)
        assert not views.shown
        assert not views.Observations
        views.close()

    def test_after_a_closed_scene_the_views_work_again(self, views, scene, scan):
        scene.Clear(False)
        pair = make_pair(scene, scan)
        views.show(pair.original, pair.enhanced, pair.uncertainty)
        views.slice_node(ENHANCED, "Axial").SetSliceOffset(101.0)
        assert views.slice_node(ORIGINAL, "Axial").GetSliceOffset() == pytest.approx(101.0)


class TestSavedScene:
    @pytest.mark.parametrize("kind", ["mrml", "mrb"])
    def test_a_scene_saved_while_they_are_shown_opens_with_its_colours(self, views, scene, pair, tmp_path, kind):
        before = pair.uncertainty.GetDisplayNode().GetColorNode()
        with saved_and_loaded(scene, tmp_path, kind) as loaded:
            after = loaded.GetFirstNodeByName(pair.uncertainty.GetName()).GetScalarVolumeDisplayNode().GetColorNode()
            assert after.GetNumberOfColors() == before.GetNumberOfColors()
            for index in (0, 1, 255):
                assert color_of(after, index) == pytest.approx(color_of(before, index), abs=1 / 255)

    def test_and_can_be_compared_again(self, views, scene, pair, tmp_path):
        names = [node.GetName() for node in (pair.original, pair.enhanced, pair.uncertainty)]
        with saved_and_loaded(scene, tmp_path, "mrb") as loaded:
            again = LinkedViews(loaded)
            again.show(*(loaded.GetFirstNodeByName(name) for name in names))
            again.slice_node(ENHANCED, "Axial").SetSliceOffset(101.0)
            assert again.slice_node(ORIGINAL, "Axial").GetSliceOffset() == pytest.approx(101.0)
            # One for the map, and one for its copy.
            assert loaded.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 2
            again.close()


def color_of(node: slicer.vtkMRMLColorTableNode, index: int) -> list[float]:
    color = [0.0] * 4
    node.GetColor(index, color)
    return color
