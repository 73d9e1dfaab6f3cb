"""Sequences: every frame is found, and the enhanced frames are shown together with the original ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer

from scene import make_bent_transform, make_provenance, make_shift, make_volume_node, saved_and_loaded
from XViewSynthLib import InputError, Volume
from XViewSynthScene import sequences
from XViewSynthScene.provenance import input_node, read_provenance, uncertainty_node
from XViewSynthScene.results import look_of, remove_volume
from XViewSynthScene.sequences import EnhancedFrame, browser_of, create_sequence_output, frames, sequence_of
from XViewSynthScene.volumes import volume_from_node

TIMES = ["0", "125", "250.5"]


@pytest.fixture
def sequence(scene, scan):
    """Three frames of a heart that gets brighter by 10 HU a frame."""
    node = make_volume_node(scene, scan, "Heart")
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
    sequence.SetIndexName("phase")
    sequence.SetIndexUnit("ms")
    for number, time in enumerate(TIMES):
        node.GetImageData().GetPointData().GetScalars().Fill(10 * number)
        sequence.SetDataNodeAtValue(node, time)
    remove_volume(node)
    return sequence


@pytest.fixture
def browser(scene, sequence):
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.vtkSlicerSequencesLogic().UpdateProxyNodesFromSequences(browser)
    return browser


@pytest.fixture
def outcome(sequence):
    return [outcome_of(frame.node) for frame in frames(sequence)]


def outcome_of(node, with_uncertainty=True):
    volume = volume_from_node(node)
    enhanced = Volume(np.repeat(volume.voxels, 4, axis=0)[:-3].copy(), volume.upsampled_affine("K", 4))
    uncertainty = enhanced.with_voxels(np.ones(enhanced.voxels.shape, np.float32)) if with_uncertainty else None
    return EnhancedFrame(enhanced, uncertainty, make_provenance(slices=65, factor=4, input_name="Heart"))


def show_frame(browser, number):
    browser.SetSelectedItemNumber(number)
    slicer.vtkSlicerSequencesLogic().UpdateProxyNodesFromSequences(browser)


def brightness(node):
    return int(volume_from_node(node).voxels[0, 0, 0])


def node_ids(scene):
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


class TestFinding:
    def test_frames_come_in_order(self, sequence):
        found = frames(sequence)
        assert [frame.index_value for frame in found] == TIMES
        assert [brightness(frame.node) for frame in found] == [0, 10, 20]

    def test_volume_knows_its_sequence(self, sequence, browser):
        proxy = browser.GetProxyNode(sequence)
        assert browser_of(proxy) is browser
        assert sequence_of(proxy) is sequence

    def test_other_volumes_have_none(self, scene, scan, browser):
        node = make_volume_node(scene, scan)
        assert browser_of(node) is None
        assert sequence_of(node) is None

    def test_removed_volume_has_none(self, scene, scan, browser):
        node = make_volume_node(scene, scan)
        scene.RemoveNode(node)
        assert browser_of(node) is None


class TestRefused:
    def test_no_sequence(self, scene, scan):
        with pytest.raises(InputError, match="'CT' is not a sequence"):
            frames(make_volume_node(scene, scan, "CT"))

    @pytest.mark.parametrize("gone", [True, False])
    def test_removed_sequence(self, scene, sequence, gone):
        scene.RemoveNode(sequence)
        with pytest.raises(InputError, match="no longer in the scene"):
            frames(None if gone else sequence)

    def test_empty_sequence(self, scene):
        with pytest.raises(InputError, match="is empty: choose another one"):
            frames(scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Nothing"))

    def test_sequence_of_transforms(self, scene):
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Moves")
        sequence.SetDataNodeAtValue(make_shift(scene), "0")
        with pytest.raises(InputError, match="Frame 1 of 1 of the sequence 'Moves': 'Shift' is no volume"):
            frames(sequence)

    def test_other_number_of_results(self, sequence, outcome):
        with pytest.raises(InputError, match="has 3 frames, but there are results for 2.*start again"):
            create_sequence_output(sequence, outcome[:2])

    def test_without_the_sequences_module(self, sequence, monkeypatch):
        monkeypatch.setattr(sequences, "BROWSER", "vtkMRMLNoSuchNode")
        with pytest.raises(InputError, match="Sequences module is switched off"):
            frames(sequence)


class TestOutput:
    def test_has_the_index_of_the_input(self, sequence, outcome):
        made = create_sequence_output(sequence, outcome).sequence
        assert [made.GetNthIndexValue(n) for n in range(made.GetNumberOfDataNodes())] == TIMES
        assert (made.GetIndexName(), made.GetIndexUnit()) == ("phase", "ms")
        assert made.GetName() == "Heart enhanced x4"

    def test_holds_the_results(self, sequence, outcome):
        made = create_sequence_output(sequence, outcome)
        for frame, result in zip(frames(made.sequence), outcome, strict=True):
            np.testing.assert_array_equal(volume_from_node(frame.node).voxels, result.enhanced.voxels)
            np.testing.assert_allclose(volume_from_node(frame.node).affine, result.enhanced.affine, atol=1e-9)

    def test_joins_the_browser_of_the_input(self, sequence, browser, outcome):
        made = create_sequence_output(sequence, outcome)
        assert made.browser is browser
        show_frame(browser, 2)
        shown = [brightness(node) for node in (browser.GetProxyNode(sequence), made.node)]
        assert shown == [20, 20]

    def test_gets_a_browser_where_the_input_has_none(self, sequence, outcome):
        made = create_sequence_output(sequence, outcome)
        show_frame(made.browser, 1)
        assert brightness(made.node) == 10
        assert made.browser.GetNumberOfItems() == 3

    def test_refers_to_input_and_uncertainty(self, sequence, browser, outcome):
        made = create_sequence_output(sequence, outcome)
        show_frame(browser, 1)
        assert input_node(made.node) is browser.GetProxyNode(sequence)
        assert uncertainty_node(made.node) is made.uncertainty_node
        assert uncertainty_node(made.sequence) is made.uncertainty_sequence

    def test_without_uncertainty(self, sequence, browser):
        made = create_sequence_output(sequence, [outcome_of(f.node, with_uncertainty=False) for f in frames(sequence)])
        assert made.uncertainty_node is None is made.uncertainty_sequence

    def test_is_shown_as_the_input_is(self, scene, sequence, browser, outcome):
        original, shift = browser.GetProxyNode(sequence), make_shift(scene)
        original.SetAndObserveTransformNodeID(shift.GetID())
        original.GetDisplayNode().SetAutoWindowLevel(0)
        original.GetDisplayNode().SetWindowLevel(350, 40)
        made = create_sequence_output(sequence, outcome)
        assert look_of(made.node) == look_of(original)
        assert made.node.GetParentTransformNode() is shift is made.uncertainty_node.GetParentTransformNode()

    def test_is_shown_by_the_logic_of_slicer(self, sequence, outcome, monkeypatch):
        logic = slicer.vtkSlicerSequencesLogic()
        asked = []
        module = SimpleNamespace(logic=lambda: asked.append(1) or logic)
        monkeypatch.setattr(slicer, "modules", SimpleNamespace(sequences=module), raising=False)
        assert brightness(create_sequence_output(sequence, outcome).node) == 0
        assert asked

    @staticmethod
    def break_presenting(monkeypatch):
        def fail(*_):
            raise RuntimeError("broken on purpose")

        monkeypatch.setattr(sequences, "_present", fail)

    def test_failure_leaves_nothing(self, scene, sequence, browser, outcome, monkeypatch):
        self.break_presenting(monkeypatch)
        before = node_ids(scene)
        with pytest.raises(RuntimeError, match="on purpose"):
            create_sequence_output(sequence, outcome)
        assert node_ids(scene) == before
        assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 1

    def test_failure_leaves_no_browser(self, scene, sequence, outcome, monkeypatch):
        self.break_presenting(monkeypatch)
        before = node_ids(scene)
        with pytest.raises(RuntimeError, match="on purpose"):
            create_sequence_output(sequence, outcome)
        assert node_ids(scene) == before


class TestProvenance:
    def test_every_frame_has_it(self, sequence, browser, outcome):
        made = create_sequence_output(sequence, outcome)
        for number in range(3):
            show_frame(browser, number)
            assert read_provenance(made.node).synthetic_slices == outcome[number].provenance.synthetic_slices

    @pytest.mark.parametrize("kind", ["mrml", "mrb"])
    def test_survives_the_scene(self, scene, sequence, browser, outcome, tmp_path, kind):
        made = create_sequence_output(sequence, outcome)
        made.node.SetName("Shown")
        synthetic = read_provenance(made.node).synthetic_slices
        with saved_and_loaded(scene, tmp_path, kind) as loaded:
            again = loaded.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
            for number in range(3):
                show_frame(again, number)
                shown = loaded.GetFirstNodeByName("Shown")
                assert brightness(shown) == 10 * number
                assert read_provenance(shown).synthetic_slices == synthetic

    def test_bent_volume_of_a_sequence_is_still_refused(self, scene, sequence, browser):
        proxy = browser.GetProxyNode(sequence)
        proxy.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        with pytest.raises(InputError, match="harden the transform first"):
            volume_from_node(proxy)
