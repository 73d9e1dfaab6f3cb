"""Results in the scene: seen as the input is, referring to each other, and there as a whole or not at all."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer

from scene import make_provenance, make_shift, make_volume_node, saved_and_loaded
from XViewSynthLib import InputError, Volume
from XViewSynthScene import results
from XViewSynthScene.provenance import input_node, read_provenance, uncertainty_node
from XViewSynthScene.results import check_output_node, create_output, look_of, remove_volume, snapshot
from XViewSynthScene.volumes import volume_from_node


@pytest.fixture
def node(scene, scan):
    return make_volume_node(scene, scan, "CT")


@pytest.fixture
def provenance(enhanced):
    return make_provenance(slices=enhanced.slices("K"), factor=4)


@pytest.fixture
def enhanced(scan):
    voxels = np.repeat(scan.voxels, 4, axis=0)[:-3].copy()
    return Volume(voxels, scan.upsampled_affine("K", 4))


@pytest.fixture
def uncertainty(enhanced):
    return enhanced.with_voxels(np.full(enhanced.voxels.shape, 12.5, np.float32))


def node_ids(scene):
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def hierarchy_of(scene):
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def parent_item(node):
    hierarchy = hierarchy_of(node.GetScene())
    return hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))


def in_a_folder(node):
    hierarchy = hierarchy_of(node.GetScene())
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), folder)
    return folder


class TestNewOutput:
    def test_holds_the_result(self, node, enhanced, uncertainty, provenance):
        output, map_ = create_output(node, enhanced, uncertainty, provenance)
        np.testing.assert_array_equal(volume_from_node(output).voxels, enhanced.voxels)
        np.testing.assert_allclose(volume_from_node(output).affine, enhanced.affine, atol=1e-9)
        np.testing.assert_array_equal(volume_from_node(map_).voxels, uncertainty.voxels)
        np.testing.assert_allclose(volume_from_node(map_).affine, uncertainty.affine, atol=1e-9)

    def test_is_named_after_the_input(self, node, enhanced, uncertainty, provenance):
        output, map_ = create_output(node, enhanced, uncertainty, provenance)
        assert (output.GetName(), map_.GetName()) == ("CT enhanced x4", "CT uncertainty")

    def test_name_that_is_taken_gets_a_number(self, node, enhanced, provenance):
        first, _ = create_output(node, enhanced, None, provenance)
        second, _ = create_output(node, enhanced, None, provenance)
        assert first.GetName() != second.GetName()
        assert second.GetName().startswith("CT enhanced x4")

    def test_name_can_be_chosen(self, node, enhanced, provenance):
        assert create_output(node, enhanced, None, provenance, name="Thin")[0].GetName() == "Thin"

    def test_refers_to_input_and_uncertainty(self, node, enhanced, uncertainty, provenance):
        output, map_ = create_output(node, enhanced, uncertainty, provenance)
        assert output.GetNodeReference("XViewSynth.Input") is node is input_node(output)
        assert output.GetNodeReference("XViewSynth.Disagreement") is map_ is uncertainty_node(output)

    def test_without_uncertainty_refers_to_none(self, node, enhanced, provenance):
        output, map_ = create_output(node, enhanced, None, provenance)
        assert map_ is None
        assert uncertainty_node(output) is None

    def test_has_provenance(self, node, enhanced, provenance):
        output, _ = create_output(node, enhanced, None, provenance)
        assert read_provenance(output).synthetic_slices == provenance.synthetic_slices

    def test_references_and_provenance_survive_the_scene(
        self, scene, node, enhanced, uncertainty, provenance, tmp_path
    ):
        output, _ = create_output(node, enhanced, uncertainty, provenance)
        expected = read_provenance(output)
        with saved_and_loaded(scene, tmp_path, "mrml") as loaded:
            again = loaded.GetFirstNodeByName("CT enhanced x4")
            assert read_provenance(again) == expected
            assert input_node(again).GetName() == "CT"
            assert uncertainty_node(again).GetName() == "CT uncertainty"


class TestLooksLikeTheInput:
    def test_window_threshold_and_colours(self, node, enhanced, provenance):
        display = node.GetDisplayNode()
        display.SetAutoWindowLevel(0)
        display.SetWindowLevel(350, 40)
        display.SetThreshold(-200, 900)
        display.SetApplyThreshold(1)
        display.SetInterpolate(0)
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
        output, _ = create_output(node, enhanced, None, provenance)
        assert look_of(output) == look_of(node)

    def test_window_that_slicer_chose_is_kept(self, node, enhanced, provenance):
        display = node.GetDisplayNode()
        assert display.GetAutoWindowLevel()
        chosen = display.GetWindow(), display.GetLevel()
        shown = create_output(node, enhanced.with_voxels(enhanced.voxels // 4), None, provenance)[0].GetDisplayNode()
        assert (shown.GetWindow(), shown.GetLevel()) == chosen

    def test_input_without_display_gives_the_default(self, scene, node, enhanced, provenance):
        scene.RemoveNode(node.GetDisplayNode())
        output, _ = create_output(node, enhanced, None, provenance)
        assert output.GetDisplayNode().GetAutoWindowLevel()

    def test_uncertainty_is_shown_from_0_to_100_hu(self, node, enhanced, uncertainty, provenance):
        display = create_output(node, enhanced, uncertainty, provenance)[1].GetDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 100)

    def test_transform(self, scene, node, enhanced, uncertainty, provenance):
        shift = make_shift(scene)
        node.SetAndObserveTransformNodeID(shift.GetID())
        for made in create_output(node, enhanced, uncertainty, provenance):
            assert made.GetParentTransformNode() is shift

    def test_place_in_the_hierarchy(self, node, enhanced, uncertainty, provenance):
        folder = in_a_folder(node)
        for made in create_output(node, enhanced, uncertainty, provenance):
            assert parent_item(made) == folder

    def test_input_in_no_hierarchy(self, scene, node, enhanced, provenance):
        hierarchy = hierarchy_of(scene)
        hierarchy.RemoveItem(hierarchy.GetItemByDataNode(node), False, False)
        output, _ = create_output(node, enhanced, None, provenance)
        assert hierarchy.GetItemByDataNode(output) == hierarchy.GetInvalidItemID()


class TestSpeed:
    def test_slicer_chooses_no_window_for_the_output(self, scene, node, provenance):
        """It would look at every voxel: seconds, for a large volume, in which Slicer does not answer."""
        large = Volume(np.zeros((129, 256, 256), np.int16), np.eye(4))
        began = perf_counter()
        make_volume_node(scene, large)
        choosing = perf_counter() - began
        began = perf_counter()
        create_output(node, large, None, provenance)
        assert perf_counter() - began < choosing / 3


class TestInputDeletedMeanwhile:
    def test_output_is_as_the_input_was(self, scene, node, enhanced, uncertainty, provenance):
        folder, shift = in_a_folder(node), make_shift(scene)
        node.SetAndObserveTransformNodeID(shift.GetID())
        node.GetDisplayNode().SetAutoWindowLevel(0)
        node.GetDisplayNode().SetWindowLevel(350, 40)
        before = snapshot(node)
        remove_volume(node)
        output, map_ = create_output(None, enhanced, uncertainty, provenance, snapshot=before)
        assert (output.GetName(), map_.GetName()) == ("CT enhanced x4", "CT uncertainty")
        assert look_of(output) == before.look
        assert output.GetParentTransformNode() is shift
        assert parent_item(output) == folder
        assert input_node(output) is None

    def test_node_out_of_the_scene_counts_as_deleted(self, scene, node, enhanced, provenance):
        before = snapshot(node)
        scene.RemoveNode(node)
        output, _ = create_output(node, enhanced, None, provenance, snapshot=before)
        assert output.GetScene() is scene
        assert input_node(output) is None

    def test_transform_and_folder_deleted_as_well(self, scene, node, enhanced, provenance):
        folder, shift = in_a_folder(node), make_shift(scene)
        node.SetAndObserveTransformNodeID(shift.GetID())
        before = snapshot(node)
        remove_volume(node)
        scene.RemoveNode(shift)
        hierarchy_of(scene).RemoveItem(folder)
        output, _ = create_output(None, enhanced, None, provenance, snapshot=before)
        assert output.GetParentTransformNode() is None

    def test_without_a_snapshot_the_name_is_known(self, scene, enhanced, provenance):
        output, _ = create_output(None, enhanced, None, provenance)
        assert output.GetName() == "CT enhanced x4"
        assert output.GetDisplayNode() is not None


class TestGivenOutput:
    @pytest.fixture
    def existing(self, scene, thin_scan):
        return make_volume_node(scene, thin_scan, "Mine")

    def test_gets_the_result_and_keeps_its_name(self, node, existing, enhanced, provenance):
        output, _ = create_output(node, enhanced, None, provenance, output_node=existing)
        assert output is existing
        assert output.GetName() == "Mine"
        np.testing.assert_array_equal(volume_from_node(output).voxels, enhanced.voxels)

    def test_looks_like_the_input(self, node, existing, enhanced, provenance):
        node.GetDisplayNode().SetAutoWindowLevel(0)
        node.GetDisplayNode().SetWindowLevel(350, 40)
        create_output(node, enhanced, None, provenance, output_node=existing)
        assert look_of(existing) == look_of(node)

    def test_old_map_of_uncertainty_is_filled_again(self, scene, node, existing, enhanced, uncertainty, provenance):
        _, first = create_output(node, enhanced, uncertainty, provenance, output_node=existing)
        other = uncertainty.with_voxels(uncertainty.voxels * 2)
        _, second = create_output(node, enhanced, other, provenance, output_node=existing)
        assert first is second
        assert volume_from_node(second).voxels[0, 0, 0] == 25

    def test_old_map_of_uncertainty_no_longer_belongs_to_it(self, node, existing, enhanced, uncertainty, provenance):
        create_output(node, enhanced, uncertainty, provenance, output_node=existing)
        create_output(node, enhanced, None, provenance, output_node=existing)
        assert uncertainty_node(existing) is None

    def test_input_cannot_be_the_output(self, node):
        with pytest.raises(InputError, match="both input and output.*choose another output"):
            check_output_node(node, node)

    def test_labelmap_cannot_be_the_output(self, scene, node):
        with pytest.raises(InputError, match="'Lung' is a labelmap"):
            check_output_node(scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Lung"), node)

    def test_deleted_output_is_reported(self, scene, node, existing):
        scene.RemoveNode(existing)
        with pytest.raises(InputError, match="'Mine' is no longer in the scene"):
            check_output_node(existing, node)

    def test_no_output_is_good(self, node):
        check_output_node(None, node)

    def test_empty_output_is_good(self, scene, node):
        check_output_node(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"), node)


class TestAllOrNothing:
    @pytest.fixture
    def broken(self, monkeypatch):
        def fail(*_):
            raise RuntimeError("broken on purpose")

        monkeypatch.setattr(results, "write_provenance", fail)

    @pytest.mark.usefixtures("broken")
    def test_new_nodes_are_removed(self, scene, node, enhanced, uncertainty, provenance):
        in_a_folder(node)
        before = node_ids(scene)
        with pytest.raises(RuntimeError, match="on purpose"):
            create_output(node, enhanced, uncertainty, provenance)
        assert node_ids(scene) == before

    @pytest.mark.usefixtures("broken")
    def test_hierarchy_is_as_before(self, scene, node, enhanced, uncertainty, provenance):
        hierarchy, folder = hierarchy_of(scene), in_a_folder(node)
        with pytest.raises(RuntimeError, match="on purpose"):
            create_output(node, enhanced, uncertainty, provenance)
        assert hierarchy.GetNumberOfItemChildren(folder) == 1

    def test_given_output_is_as_before(self, scene, node, enhanced, uncertainty, provenance, thin_scan, monkeypatch):
        existing = make_volume_node(scene, thin_scan, "Mine")
        old_map = create_output(node, enhanced, uncertainty, provenance, output_node=existing)[1]
        look, known, nodes = look_of(existing), read_provenance(existing), node_ids(scene)
        image, old_uncertainty = existing.GetImageData(), old_map.GetImageData()
        node.GetDisplayNode().SetWindowLevel(77, 7)
        node.SetAndObserveTransformNodeID(make_shift(scene).GetID())
        nodes.add(node.GetTransformNodeID())

        write = results.write_provenance

        def write_and_fail(*arguments):
            write(*arguments)
            raise RuntimeError("broken on purpose")

        monkeypatch.setattr(results, "write_provenance", write_and_fail)
        other = make_provenance(slices=9, factor=2)
        with pytest.raises(RuntimeError, match="on purpose"):
            create_output(node, thin_scan, thin_scan.with_voxels(thin_scan.voxels), other, output_node=existing)
        assert existing.GetImageData() is image
        assert old_map.GetImageData() is old_uncertainty
        assert look_of(existing) == look
        assert read_provenance(existing) == known
        assert existing.GetParentTransformNode() is None
        assert uncertainty_node(existing) is old_map
        assert node_ids(scene) == nodes

    @pytest.mark.usefixtures("broken")
    def test_given_output_without_display_stays_without(self, scene, node, enhanced, provenance):
        existing = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
        before = node_ids(scene)
        with pytest.raises(RuntimeError, match="on purpose"):
            create_output(node, enhanced, None, provenance, output_node=existing)
        assert existing.GetImageData() is None
        assert node_ids(scene) == before


class TestRemoving:
    def test_removes_display_storage_and_item(self, scene, scan):
        before = node_ids(scene)
        hierarchy = hierarchy_of(scene)
        before.add(hierarchy.GetID())
        node = make_volume_node(scene, scan)
        node.AddDefaultStorageNode()
        remove_volume(node)
        assert node_ids(scene) == before
        assert hierarchy.GetNumberOfItemChildren(hierarchy.GetSceneItemID()) == 0

    def test_removed_node_is_fine(self, scene, node):
        scene.RemoveNode(node)
        remove_volume(node)
        assert node.GetScene() is None
