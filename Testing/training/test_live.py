"""A run as it can be watched: its plots, its preview, the views they are in."""

from __future__ import annotations

import time
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from scans import affine_from
from scene import make_volume_node
from training_runs import LOG, append_log, preview_volume, voxels, write_run
from XViewSynthLib import Volume, write_volume
from XViewSynthScene.volumes import volume_from_node
from XViewSynthTrainScene.layout import GAIN_VIEW, LAYOUT_ID, LOSS_VIEW, TrainingViews, layout_description, view_name
from XViewSynthTrainScene.live import LiveRun
from XViewSynthTrainScene.plots import TrainingPlots
from XViewSynthTrainScene.preview import ROLES
from XViewSynthTrainScene.study import loaded_candidates

TIMEOUT_SECONDS = 60
POLL_LIMIT_SECONDS = 0.5


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def plots(scene):
    return TrainingPlots(scene)


@pytest.fixture
def live(scene, run):
    opened = LiveRun(scene, run)
    watch(opened, lambda: len(opened.preview.nodes) == len(ROLES))
    yield opened
    opened.close()


def watch(live, reached, tell=lambda entry: None):
    until = time.monotonic() + TIMEOUT_SECONDS
    while not reached():
        assert time.monotonic() < until
        began = time.perf_counter()
        live.update(tell)
        assert time.perf_counter() - began < POLL_LIMIT_SECONDS
        time.sleep(0.02)


def series(chart):
    nodes = (chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes()))
    return {node.GetName(): node for node in nodes}


def column(chart, name):
    table = series(chart)[name].GetTableNode().GetTable()
    return vtk_to_numpy(table.GetColumnByName(name)).tolist()


def ours(scene):
    nodes = (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes()))
    return [node for node in nodes if node.GetAttribute("XViewSynthTrain.Role")]


# In pixels, as seen in Slicer 5.12: the least width of a slice view, and that of the panel.
SCREEN_WIDTH, PANEL_WIDTH, VIEW_WIDTH = 1280, 430, 422


class TestPlots:
    def test_a_curve_of_one_point_is_seen(self, plots, scene):
        plots.show([entry for entry in LOG if entry["kind"] == "loss"][:1])
        series = slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")
        assert series
        assert {node.GetMarkerStyle() for node in series} == {slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle}

    def test_a_long_curve_is_a_line(self, plots, scene):
        entry = next(entry for entry in LOG if entry["kind"] == "loss")
        plots.show([{**entry, "step": step} for step in range(20, 400, 20)])
        series = slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")
        assert {node.GetMarkerStyle() for node in series} == {slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone}

    def test_a_series_for_every_term(self, plots):
        plots.show(LOG)
        assert list(series(plots.loss_chart)) == ["views", "mean", "distillation_1"]
        assert column(plots.loss_chart, "views") == [0.05, 0.04]

    def test_a_term_that_begins_later_leaves_a_gap(self, plots):
        plots.show(LOG)
        np.testing.assert_equal(column(plots.loss_chart, "distillation_1"), [np.nan, 0.002])

    def test_gain_over_both_baselines_for_every_factor(self, plots):
        plots.show(LOG)
        names = ["x2 over linear", "x2 over cubic", "x4 over linear", "x4 over cubic"]
        assert list(series(plots.gain_chart)) == names
        assert column(plots.gain_chart, "x2 over cubic") == [0.5, 0.75]

    def test_a_gain_that_is_not_finite_leaves_a_gap(self, plots):
        plots.show(LOG)
        np.testing.assert_equal(column(plots.gain_chart, "x4 over cubic"), [0.5, np.nan])

    def test_a_factor_has_one_colour(self, plots):
        plots.show(LOG)
        colors = [node.GetColor() for node in series(plots.gain_chart).values()]
        assert colors[0] == colors[1] != colors[2] == colors[3]

    def test_steps_are_the_x_axis(self, plots):
        plots.show(LOG)
        node = series(plots.loss_chart)["mean"]
        assert node.GetXColumnName() == "step"
        assert vtk_to_numpy(node.GetTableNode().GetTable().GetColumnByName("step")).tolist() == [20, 40]

    def test_the_newest_points_stay_clear_of_the_legend(self, plots):
        for entries, last in ((LOG[:2], 20), (LOG, 40)):
            plots.show(entries)
            low, high = plots.loss_chart.GetXAxisRange()
            assert (low, plots.loss_chart.GetXAxisRangeAuto()) == (0, False)
            assert last / high < 0.75

    def test_the_learning_rate_is_in_the_table(self, plots):
        plots.show(LOG)
        table = series(plots.loss_chart)["mean"].GetTableNode().GetTable()
        assert vtk_to_numpy(table.GetColumnByName("learning rate")).tolist() == [1e-3, 5e-4]

    def test_they_grow_without_new_nodes(self, plots, scene):
        plots.show(LOG)
        count = scene.GetNumberOfNodes()
        plots.show([*LOG, {**LOG[3], "step": 60}])
        assert scene.GetNumberOfNodes() == count
        assert len(column(plots.loss_chart, "views")) == 3

    def test_curves_without_entries_are_removed(self, plots):
        plots.show(LOG)
        plots.show(LOG[:2])
        assert list(series(plots.loss_chart)) == ["views", "mean"]

    def test_a_log_scale_has_no_place_for_zero(self, plots):
        plots.show([{**LOG[1], "loss": {"views": 0.0}}, {**LOG[1], "step": 30, "loss": {"views": 0.1}}])
        np.testing.assert_equal(column(plots.loss_chart, "views"), [np.nan, 0.1])

    def test_removed_they_leave_nothing(self, plots, scene):
        plots.show(LOG)
        plots.remove()
        plots.remove()
        assert ours(scene) == []

    def test_a_user_who_removes_one_does_no_harm(self, plots, scene):
        plots.show(LOG)
        scene.RemoveNode(plots.gain_chart)
        plots.show([*LOG, {**LOG[3], "step": 60}])
        plots.remove()
        assert ours(scene) == []

    def test_they_are_not_saved_with_the_scene(self, plots, scene):
        plots.show(LOG)
        assert not any(node.GetSaveWithScene() for node in ours(scene))


class TestPreview:
    def test_four_volumes_with_the_files_voxels(self, live):
        for seed, role in enumerate(ROLES):
            assert np.array_equal(volume_from_node(live.preview.nodes[role]).voxels, voxels(seed))

    def test_a_changed_file_changes_its_node_and_no_other(self, live, run, scene):
        before, count = live.preview.nodes, scene.GetNumberOfNodes()
        changed = []
        for role, node in before.items():
            node.AddObserver(
                slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, lambda *_, role=role: changed.append(role)
            )
        write_volume(preview_volume(9), run / "preview" / "now.nrrd", overwrite=True)
        watch(live, lambda: np.array_equal(volume_from_node(before["now"]).voxels, voxels(9)))
        assert live.preview.nodes == before
        assert set(changed) == {"now"}
        assert scene.GetNumberOfNodes() == count

    def test_they_share_one_window(self, live):
        displays = [node.GetScalarVolumeDisplayNode() for node in live.preview.nodes.values()]
        displays[2].SetAutoWindowLevel(False)
        displays[2].SetWindowLevel(900, -400)
        assert {(display.GetWindow(), display.GetLevel()) for display in displays} == {(900, -400)}

    def test_they_are_no_scans_to_train_on(self, live, scene, scan):
        make_volume_node(scene, scan, "Chest")
        assert [candidate.name for candidate in loaded_candidates(scene)] == ["Chest"]

    def test_one_that_the_user_removes_stays_away(self, live, run, scene):
        scene.RemoveNode(live.preview.nodes["now"])
        write_volume(preview_volume(9), run / "preview" / "now.nrrd", overwrite=True)
        write_volume(preview_volume(9), run / "preview" / "before.nrrd", overwrite=True)
        watch(live, lambda: np.array_equal(volume_from_node(live.preview.nodes["before"]).voxels, voxels(9)))
        assert "now" not in live.preview.nodes

    def test_a_half_written_file_is_read_once_it_is_whole(self, live, run):
        (run / "preview" / "now.nrrd").write_bytes(b"NRRD0004\n")
        for _ in range(20):
            live.update()
            time.sleep(0.02)
        write_volume(preview_volume(9), run / "preview" / "now.nrrd", overwrite=True)
        watch(live, lambda: np.array_equal(volume_from_node(live.preview.nodes["now"]).voxels, voxels(9)))

    def test_closed_it_leaves_nothing(self, live, scene):
        live.close()
        assert ours(scene) == []
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeDisplayNode") == 0

    def test_every_entry_is_reported_once(self, live, run):
        told = []
        append_log(run, {"kind": "note", "step": 50, "message": "More."})
        watch(live, lambda: told, told.append)
        live.update(told.append)
        assert [entry["step"] for entry in told] == [50]


class TestLayout:
    def test_names_each_view_once(self):
        for name in (*map(view_name, ROLES), LOSS_VIEW, GAIN_VIEW):
            assert layout_description().count(f'singletontag="{name}"') == 1

    def test_fits_beside_the_panel_on_a_small_screen(self):
        rows = ElementTree.fromstring(layout_description()).iter("layout")
        columns = max(len(row.findall("item")) for row in rows if row.get("type") == "horizontal")
        assert columns * VIEW_WIDTH <= SCREEN_WIDTH - PANEL_WIDTH

    def test_charts_are_put_into_their_views_and_the_former_layout_comes_back(self, scene, plots):
        layout = slicer.vtkMRMLLayoutLogic()
        layout.SetMRMLScene(scene)
        node = layout.GetLayoutNode()
        before = node.GetViewArrangement()
        application = slicer.vtkMRMLApplicationLogic()
        application.SetMRMLScene(scene)
        views = TrainingViews(scene, node, application)
        views.show(plots)
        assert node.GetViewArrangement() == LAYOUT_ID
        for name, chart in ((LOSS_VIEW, plots.loss_chart), (GAIN_VIEW, plots.gain_chart)):
            assert scene.GetSingletonNode(name, "vtkMRMLPlotViewNode").GetPlotChartNode() is chart
        views.close()
        assert node.GetViewArrangement() == before
        assert scene.GetSingletonNode(LOSS_VIEW, "vtkMRMLPlotViewNode").GetPlotChartNode() is None
        layout.SetMRMLScene(None)

    @pytest.mark.parametrize(("slices", "least", "most"), [(10, 0.3, 0.5), (30, 0.6, 0.75), (90, 0.8, 1.0)])
    def test_a_region_of_few_slices_is_shown_large(self, scene, plots, slices, least, most):
        layout, application, logics = slicer.vtkMRMLLayoutLogic(), slicer.vtkMRMLApplicationLogic(), vtk.vtkCollection()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        layout.SetMRMLScene(scene)
        application.SetMRMLScene(scene)
        application.SetSliceLogics(logics)
        views = TrainingViews(scene, layout.GetLayoutNode(), application)
        views.show(plots)
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(application)
        logics.AddItem(logic)
        logic.SetMRMLScene(scene)
        logic.SetSliceNode(scene.GetSingletonNode(view_name("now"), "vtkMRMLSliceNode"))
        logic.ResizeSliceNode(300, 260)
        region = Volume(np.zeros((slices, 120, 120), np.int16), affine_from((1.0, 1.0, 1.0)))
        views.put_volumes({"now": make_volume_node(scene, region, "now")})
        share = slices / logic.GetSliceNode().GetFieldOfView()[1]
        views.close()
        for closed in (logic, layout, application):
            closed.SetMRMLScene(None)
        assert least <= share <= most
