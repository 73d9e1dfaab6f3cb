"""The panel as a user meets it: the real .ui file, real buttons, real enhancements, on a stand-in for the window."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from desk import desk, volumes, workers
from scans import affine_from, anatomy
from scene import make_bent_transform, make_volume_node, saved_and_loaded
from XViewSynthLib import Volume, read_volume, write_volume
from XViewSynthLib.errors import InputError
from XViewSynthScene import packages
from XViewSynthScene.provenance import input_node, read_provenance, uncertainty_node
from XViewSynthScene.results import remove_volume
from XViewSynthScene.volumes import volume_from_node

pytestmark = pytest.mark.slow

STALL_LIMIT_MILLISECONDS = 200
ATTEMPTS = 3
CANCEL_LIMIT_SECONDS = 2
posix = pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")


@pytest.fixture
def node(slicer_desk, scan):
    return make_volume_node(slicer.mrmlScene, scan, "Chest")


@pytest.fixture
def panel(slicer_desk, node):
    """The panel with a scan and the quick model chosen, on the processor, without views at the end."""
    opened = slicer_desk.panel()
    opened.ui.modelSelector.setCurrentIndex(opened.ui.modelSelector.findText("small"))
    opened.ui.deviceComboBox.setCurrentIndex(1)
    opened.ui.showViewsCheckBox.checked = False
    return opened


@pytest.fixture
def enhanced(slicer_desk, panel):
    """The result of a click on Enhance."""
    panel.ui.enhanceButton.click()
    slicer_desk.finish(panel)
    return panel.ui.enhancedSelector.currentNode()


def parameters(panel):
    return panel.logic.getParameterNode()


class TestChoosing:
    def test_the_first_scan_is_chosen(self, panel, node):
        assert panel.ui.inputSelector.currentNode() is node

    def test_the_line_shows_the_size_of_the_result_at_once(self, panel):
        assert panel.ui.planLabel.text.startswith("4 mm → 1 mm, 17 → 65 slices, 0.2 MB")

    def test_the_line_follows_the_choice(self, panel):
        panel.ui.goalComboBox.setCurrentIndex(1)
        panel.ui.factorSpinBox.value = 2
        assert panel.ui.planLabel.text.startswith("4 mm → 2 mm, 17 → 33 slices")
        panel.ui.goalComboBox.setCurrentIndex(2)
        panel.ui.spacingSpinBox.value = 1.5
        assert panel.ui.planLabel.text.startswith("4 mm → 1.5 mm, 17 → 43 slices")
        panel.ui.goalComboBox.setCurrentIndex(3)
        assert panel.ui.planLabel.text.startswith("4 mm → 0.8 mm, 17 → 81 slices")

    def test_only_the_number_that_is_needed_is_shown(self, slicer_desk, panel):
        panel.parent.show()
        shown = []
        for goal in range(4):
            panel.ui.goalComboBox.setCurrentIndex(goal)
            shown.append((panel.ui.factorSpinBox.visible, panel.ui.spacingSpinBox.visible))
        assert shown == [(False, False), (True, False), (False, True), (False, False)]

    def test_nothing_is_measured_unless_the_user_wants_it(self, slicer_desk, panel):
        panel.parent.show()
        slicer_desk.desktop.pump(timeout=2)
        assert workers() == []
        assert panel.ui.timeButton.visible
        assert "about" not in panel.ui.planLabel.text

    def test_the_time_is_measured_on_this_computer(self, slicer_desk, panel):
        panel.parent.show()
        panel.ui.timeButton.click()
        assert panel.ui.timeButton.toolTip == "The measurement is running."
        slicer_desk.pump(lambda: "about" in panel.ui.planLabel.text)
        assert not panel.ui.timeButton.visible
        assert slicer_desk.leaves_nothing()

    def test_leaving_the_module_ends_the_measurement(self, slicer_desk, panel):
        panel.ui.timeButton.click()
        slicer_desk.wait_for_worker()
        panel.parent.exit()
        assert slicer_desk.leaves_nothing()
        panel.parent.enter()
        assert panel.ui.timeButton.enabled

    def test_a_result_gives_the_time_of_the_next(self, panel, enhanced):
        assert "about" in panel.ui.planLabel.text
        before = panel.logic.requestOf(parameters(panel))
        panel.ui.qualityComboBox.setCurrentIndex(1)
        after = panel.logic.requestOf(parameters(panel))
        assert (before.quality, after.quality) == ("standard", "best")
        assert panel.logic.checkRequestOf(parameters(panel)).quality == "best"
        outlook = panel.logic.lookAhead(parameters(panel).inputVolume, after)
        assert panel.speed.expectedSeconds(outlook, before) > 0
        assert panel.speed.expectedSeconds(outlook, after) is None
        assert panel.speed.missing(outlook, after).quality == "best"

    def test_a_thickness_counts_for_enhancing_and_checking(self, panel):
        assert panel.logic.requestOf(parameters(panel)).thickness is None
        panel.ui.thicknessSpinBox.value = 5
        assert panel.logic.requestOf(parameters(panel)).thickness == 5
        assert panel.logic.checkRequestOf(parameters(panel)).thickness == 5

    def test_a_model_that_is_not_installed_here_stays_chosen(self, panel):
        parameters(panel).model = "elsewhere"
        assert panel.ui.modelSelector.currentText == "elsewhere"
        assert parameters(panel).model == "elsewhere"

    def test_the_choice_is_saved_and_loaded_with_the_scene(self, slicer_desk, panel, node, tmp_path):
        panel.ui.goalComboBox.setCurrentIndex(1)
        panel.ui.factorSpinBox.value = 3
        with saved_and_loaded(slicer.mrmlScene, tmp_path, "mrml"):
            again = panel.logic.getParameterNode()
            assert (again.factor, again.model, again.goal.name) == (3, "small", "FACTOR")
            assert again.inputVolume.GetName() == "Chest"


class TestReasons:
    def test_without_a_scan(self, slicer_desk):
        panel = slicer_desk.panel()
        assert not panel.ui.enhanceButton.enabled
        assert "load a CT scan" in panel.ui.enhanceButton.toolTip
        assert "load a CT scan" in panel.ui.selfCheckButton.toolTip
        assert panel.ui.cancelButton.toolTip == "No task is running."
        assert "enhanced volume" in panel.ui.showViewsButton.toolTip

    def test_a_scan_that_is_fine_already(self, slicer_desk, panel, thin_scan):
        panel.ui.inputSelector.setCurrentNode(make_volume_node(slicer.mrmlScene, thin_scan, "Thin"))
        assert "fine already" in panel.ui.enhanceButton.toolTip
        assert not panel.ui.enhanceButton.enabled
        assert panel.ui.selfCheckButton.enabled

    def test_the_input_as_output(self, panel, node):
        panel.ui.outputSelector.setCurrentNode(node)
        assert "both input and output" in panel.ui.enhanceButton.toolTip

    def test_while_something_runs(self, slicer_desk, panel):
        panel.ui.enhanceButton.click()
        assert not panel.ui.enhanceButton.enabled
        assert "is running" in panel.ui.enhanceButton.toolTip
        assert panel.ui.cancelButton.enabled

    def test_labelmaps_are_not_offered(self, slicer_desk):
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        assert slicer_desk.panel().ui.inputSelector.nodeCount() == 0


class TestEnhancing:
    def test_panel_logic_and_command_line_give_the_same_voxels(self, slicer_desk, enhanced, node, scan, tmp_path):
        logic = slicer.util.getModuleLogic("XViewSynth")
        from_logic = logic.enhance(node, model="small", device="cpu")
        in_process = logic.enhance(node, model="small", device="cpu", inProcess=True)
        write_volume(scan, tmp_path / "scan.nrrd")
        command = [sys.executable, "-m", "XViewSynthLib", "enhance", str(tmp_path / "scan.nrrd")]
        command += [str(tmp_path / "thin.nrrd"), "--model", "small", "--device", "cpu"]
        folder = os.path.dirname(slicer.util.modulePath("XViewSynth"))
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        expected = read_volume(tmp_path / "thin.nrrd").voxels
        for result in (enhanced, from_logic, in_process):
            assert np.array_equal(volume_from_node(result).voxels, expected)

    def test_the_interface_never_stalls(self, slicer_desk, panel):
        # Large enough to be written, sent, read and shown while somebody looks at a clock.
        large = Volume(anatomy((40, 128, 128)), affine_from())
        panel.ui.inputSelector.setCurrentNode(make_volume_node(slicer.mrmlScene, large, "Large"))
        stalls = []
        # Other programs may take the processor away, which is not the panel's doing: one run in peace is enough.
        while len(stalls) < ATTEMPTS and min(stalls, default=np.inf) >= STALL_LIMIT_MILLISECONDS:
            slicer_desk.desktop.reset_stall()
            panel.ui.enhanceButton.click()
            slicer_desk.finish(panel)
            stalls.append(slicer_desk.desktop.longest_stall)
            assert panel.ui.enhancedSelector.currentNode().GetName().startswith("Large enhanced x4")
        assert min(stalls) < STALL_LIMIT_MILLISECONDS

    def test_progress_is_shown_with_stage_and_time_left(self, slicer_desk, panel):
        panel.parent.show()
        large = Volume(anatomy((40, 128, 128)), affine_from())
        panel.ui.inputSelector.setCurrentNode(make_volume_node(slicer.mrmlScene, large, "Large"))
        seen = set()
        panel.ui.enhanceButton.click()
        slicer_desk.pump(lambda: seen.add(panel.ui.stageLabel.text) or not panel.ui.cancelButton.enabled)
        assert any("view, " in text and text.endswith(" left") for text in seen), seen
        assert not panel.ui.progressBar.visible

    def test_the_result_is_reported_and_chosen_for_comparing(self, panel, enhanced, node):
        assert enhanced.GetName() == "Chest enhanced x4"
        assert "48 of its 65 slices are synthetic" in panel.ui.messageLabel.text
        assert panel.ui.enhancedSelector.comboBox().currentText == "Chest enhanced x4"
        assert input_node(enhanced) is node
        assert read_provenance(enhanced).model == "small"
        assert [volume.GetName() for volume in volumes()] == ["Chest", "Chest enhanced x4", "Chest uncertainty"]

    def test_no_box_was_opened(self, slicer_desk, enhanced):
        assert slicer_desk.desktop.shown_messages == []

    def test_nothing_is_left(self, slicer_desk, enhanced):
        assert slicer_desk.leaves_nothing()

    def test_a_chosen_output_is_filled(self, slicer_desk, panel):
        mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
        panel.ui.outputSelector.setCurrentNode(mine)
        panel.ui.enhanceButton.click()
        slicer_desk.finish(panel)
        assert mine.GetImageData().GetDimensions() == (36, 40, 65)
        assert panel.ui.enhancedSelector.currentNode() is mine

    def test_provenance_is_on_the_storage_when_the_scene_is_saved(self, enhanced, tmp_path):
        with saved_and_loaded(slicer.mrmlScene, tmp_path, "mrml") as loaded:
            again = loaded.GetFirstNodeByName("Chest enhanced x4")
            assert read_provenance(again).synthetic_slices == read_provenance(enhanced).synthetic_slices
            assert again.GetStorageNode().GetAttribute("XViewSynth.Model") == "small"


class TestInterrupted:
    def test_cancel_ends_everything_within_two_seconds(self, slicer_desk, panel):
        panel.ui.enhanceButton.click()
        slicer_desk.wait_for_worker()
        panel.ui.cancelButton.click()
        start = time.monotonic()
        slicer_desk.finish(panel)
        assert time.monotonic() - start < CANCEL_LIMIT_SECONDS
        assert "Cancelled" in panel.ui.messageLabel.text
        assert slicer_desk.leaves_nothing()
        assert len(volumes()) == 1
        assert panel.ui.enhanceButton.enabled

    @posix
    def test_a_killed_worker_gives_a_sentence(self, slicer_desk, panel):
        panel.ui.enhanceButton.click()
        slicer_desk.wait_for_worker().send_signal(signal.SIGKILL)
        slicer_desk.finish(panel)
        assert "signal 9" in panel.ui.messageLabel.text
        assert slicer_desk.leaves_nothing()
        assert len(volumes()) == 1
        assert slicer_desk.desktop.shown_messages == []

    def test_a_failure_shows_the_workers_log(self, slicer_desk, panel, models):
        panel.parent.show()
        (models / "small" / "model.safetensors").write_bytes(b"damaged")
        panel.ui.enhanceButton.click()
        slicer_desk.finish(panel)
        assert "are damaged" in panel.ui.messageLabel.text
        assert "are damaged" in panel.ui.logText.plainText
        assert panel.ui.logText.visible

    def test_a_model_that_is_missing_gives_a_sentence(self, slicer_desk, panel):
        parameters(panel).model = "elsewhere"
        panel.ui.enhanceButton.click()
        slicer_desk.finish(panel)
        assert "There is no model 'elsewhere'" in panel.ui.messageLabel.text

    def test_closing_the_scene_ends_it(self, slicer_desk, panel):
        panel.ui.enhanceButton.click()
        slicer_desk.wait_for_worker()
        slicer.mrmlScene.Clear(False)
        slicer_desk.finish(panel)
        assert "scene was closed" in panel.ui.messageLabel.text
        assert slicer_desk.leaves_nothing()
        assert volumes() == []

    def test_the_panel_works_on_after_the_scene_was_closed(self, slicer_desk, panel, scan):
        slicer.mrmlScene.Clear(False)
        assert not panel.ui.enhanceButton.enabled
        panel.ui.inputSelector.setCurrentNode(make_volume_node(slicer.mrmlScene, scan, "Next"))
        assert panel.ui.planLabel.text.startswith("4 mm → 1 mm")
        assert panel.ui.enhanceButton.enabled

    def test_deleting_the_input_does_not_lose_the_result(self, slicer_desk, panel, node, scan):
        panel.ui.enhanceButton.click()
        remove_volume(node)
        slicer_desk.finish(panel)
        result = panel.ui.enhancedSelector.currentNode()
        assert result.GetName() == "Chest enhanced x4"
        assert np.array_equal(volume_from_node(result).voxels[::4], scan.voxels)

    def test_deleting_the_input_is_said_beside_the_result(self, slicer_desk, panel, node):
        panel.ui.showViewsCheckBox.checked = True
        panel.ui.enhanceButton.click()
        remove_volume(node)
        slicer_desk.finish(panel)
        assert "48 of its 65 slices are synthetic" in panel.ui.messageLabel.text
        assert "no longer in the scene" in panel.ui.messageLabel.text
        assert panel.ui.inputSelector.currentNode() is None
        assert not panel.ui.enhanceButton.enabled

    def test_deleting_the_output_makes_a_new_one(self, slicer_desk, panel):
        mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
        panel.ui.outputSelector.setCurrentNode(mine)
        panel.ui.enhanceButton.click()
        remove_volume(mine)
        slicer_desk.finish(panel)
        assert panel.ui.enhancedSelector.currentNode().GetName() == "Chest enhanced x4"

    def test_reloading_reads_the_libraries_anew(self, slicer_desk, panel, libraries):
        former = sys.modules["XViewSynthUI.widget"]
        panel.onReload()
        assert sys.modules["XViewSynthScene.packages"] is not libraries["XViewSynthScene.packages"]
        assert sys.modules["XViewSynthUI.widget"] is not former
        assert type(slicer.util.getModuleWidget("XViewSynth")) is sys.modules["XViewSynthUI.widget"].XViewSynthWidget

    def test_reloading_the_module_ends_it(self, slicer_desk, panel, libraries):
        panel.ui.enhanceButton.click()
        worker = slicer_desk.wait_for_worker()
        panel.onReload()
        again = slicer.util.getModuleWidget("XViewSynth")
        assert again is not panel
        assert slicer_desk.leaves_nothing()
        assert not worker.is_running()
        assert again.ui.enhanceButton.enabled

    def test_leaving_the_module_does_not(self, slicer_desk, panel):
        panel.ui.enhanceButton.click()
        panel.parent.exit()
        slicer_desk.pump(lambda: len(volumes()) == 3)
        panel.parent.enter()
        assert panel.ui.enhancedSelector.currentNode().GetName() == "Chest enhanced x4"

    def test_a_result_that_comes_meanwhile_leaves_the_layout(self, slicer_desk, panel):
        panel.ui.showViewsCheckBox.checked = True
        before = slicer.app.layoutManager().layout
        panel.ui.enhanceButton.click()
        panel.parent.exit()
        slicer_desk.pump(lambda: len(volumes()) == 3)
        assert slicer.app.layoutManager().layout == before
        assert "is ready after" in panel.ui.messageLabel.text

    def test_closing_slicer_ends_it(self, tmp_path, models, scan):
        with desk(tmp_path / "again") as opened:
            make_volume_node(slicer.mrmlScene, scan, "Chest")
            opened.panel().ui.enhanceButton.click()
            opened.wait_for_worker()
        deadline = time.monotonic() + CANCEL_LIMIT_SECONDS
        while workers() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert workers() == []


class TestSelfCheck:
    def test_shows_the_gain_on_this_scan(self, slicer_desk, panel):
        panel.parent.show()
        panel.ui.selfCheckButton.click()
        slicer_desk.finish(panel)
        assert panel.ui.selfCheckLabel.visible
        assert "Typical error between slices: " in panel.ui.selfCheckLabel.text
        assert "every second slice of this scan was left out" in panel.ui.selfCheckLabel.text
        for method in ("linear", "cubic", "enhanced"):
            assert f"<td>{method}</td>" in panel.ui.selfCheckLabel.text
        assert len(volumes()) == 1
        assert slicer_desk.leaves_nothing()


class TestBentGrid:
    """A scan with irregular spacing or a tilted gantry, to which Slicer adds a non-linear transform."""

    @pytest.fixture
    def bent(self, panel, node):
        node.SetAndObserveTransformNodeID(make_bent_transform(slicer.mrmlScene).GetID())
        return node

    def test_the_line_says_so(self, panel, bent):
        assert "irregular spacing or a tilted gantry" in panel.ui.planLabel.text

    def test_no_leaves_all_as_it_is(self, slicer_desk, panel, bent):
        before = volume_from_bent(bent)
        slicer_desk.desktop.answers.append(False)
        panel.ui.enhanceButton.click()
        assert "resampled" in slicer_desk.desktop.shown_messages[0].text
        assert "was not enhanced" in panel.ui.messageLabel.text
        assert np.array_equal(volume_from_bent(bent), before)
        assert workers() == []

    def test_yes_straightens_and_enhances(self, slicer_desk, panel, bent):
        slicer_desk.desktop.answers.append(True)
        panel.ui.enhanceButton.click()
        slicer_desk.finish(panel)
        assert bent.GetParentTransformNode() is None
        assert panel.ui.enhancedSelector.currentNode().GetName().startswith("Chest enhanced x")


def volume_from_bent(node):
    return slicer.util.arrayFromVolume(node).copy()


class TestPackages:
    @pytest.fixture
    def missing(self, monkeypatch):
        """Makes packages count as missing until they are installed."""

        def make(*names):
            known = packages._is_met
            monkeypatch.setattr(packages, "_is_met", lambda line: line.split(">=")[0] not in names and known(line))

        return make

    @pytest.fixture
    def without_pytorch(self, tmp_path, models, scan):
        with desk(tmp_path / "bare", pytorch=False) as opened:
            make_volume_node(slicer.mrmlScene, scan, "Chest")
            yield opened

    def test_without_the_pytorch_extension_it_says_which_to_install(self, without_pytorch, missing):
        missing("torch")
        panel = without_pytorch.panel()
        panel.ui.enhanceButton.click()
        assert "install the extension 'PyTorch' in the Extensions Manager" in panel.ui.messageLabel.text
        assert without_pytorch.desktop.installed_requirements == []

    def test_with_it_torch_comes_from_there_alone(self, slicer_desk, panel, missing):
        import PyTorchUtils

        missing("torch")
        panel.ui.enhanceButton.click()
        assert {"ask": True, "version": ">=2.4"} in PyTorchUtils.PyTorchUtilsLogic.installations
        assert slicer_desk.desktop.installed_requirements == []

    def test_the_rest_comes_through_slicers_packaging(self, slicer_desk, panel, missing, monkeypatch):
        missing("psutil")
        asked = []
        monkeypatch.setattr("slicer.packaging.pip_ensure", lambda what, **options: asked.append((what, options)))
        panel.ui.enhanceButton.click()
        assert asked == [(["psutil>=5.9"], {"requester": "XViewSynth"})]

    def test_the_users_no_is_respected(self, slicer_desk, panel, missing, monkeypatch):
        def refuse(*_, **__):
            raise RuntimeError("User declined package installation")

        missing("psutil")
        monkeypatch.setattr("slicer.packaging.pip_ensure", refuse)
        panel.ui.enhanceButton.click()
        assert "psutil>=5.9 were not installed" in panel.ui.messageLabel.text
        assert workers() == []

    def test_before_slicer_5_12_it_asks_and_uses_pip(self, tmp_path, models, scan, missing):
        with desk(tmp_path / "older", packaging=False) as opened:
            make_volume_node(slicer.mrmlScene, scan, "Chest")
            missing("psutil")
            panel = opened.panel()
            opened.desktop.answers.append(True)
            panel.ui.enhanceButton.click()
            assert "psutil>=5.9" in opened.desktop.shown_messages[0].text
            assert opened.desktop.installed_requirements == ["psutil>=5.9"]

    def test_scripts_get_no_question(self, slicer_desk, panel, node, missing):
        missing("psutil")
        with pytest.raises(ValueError, match="Python packages are missing"):
            panel.logic.enhance(node)
        assert slicer_desk.desktop.shown_messages == []

    def test_versions_are_compared_as_numbers(self):
        assert packages._release("2.10.0+cpu") > packages._release("2.4")

    def test_what_is_not_installed_is_not_met(self):
        assert not packages._is_met("a-package-that-nobody-has>=1.0")


class TestViews:
    @pytest.fixture
    def compared(self, slicer_desk, panel, enhanced):
        panel.ui.showViewsButton.click()
        return panel

    def test_they_open_when_the_result_is_there(self, slicer_desk, panel):
        panel.ui.showViewsCheckBox.checked = True
        before = slicer.app.layoutManager().layoutLogic().GetLayoutNode().GetViewArrangement()
        panel.ui.enhanceButton.click()
        slicer_desk.finish(panel)
        layout = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        assert layout.GetViewArrangement() != before
        panel.ui.formerLayoutButton.click()
        assert layout.GetViewArrangement() == before
        assert not panel.ui.swapButton.enabled

    def test_swap_puts_the_original_in_place_of_the_enhanced(self, compared):
        composite = compared.comparison.views.composite_node("Enhanced", "Axial")
        assert composite.GetForegroundOpacity() == 0
        compared.ui.swapButton.click()
        assert composite.GetForegroundOpacity() == 1
        assert compared.ui.fadeSlider.value == 1
        compared.ui.swapButton.click()
        assert composite.GetForegroundOpacity() == 0

    def test_the_slider_fades(self, compared):
        compared.ui.fadeSlider.value = 0.25
        assert compared.comparison.views.composite_node("Enhanced", "Coronal").GetForegroundOpacity() == 0.25

    def test_blinking_goes_to_and_fro_until_it_is_switched_off(self, slicer_desk, compared):
        composite = compared.comparison.views.composite_node("Enhanced", "Axial")
        compared.ui.blinkCheckBox.checked = True
        slicer_desk.pump(lambda: composite.GetForegroundOpacity() == 1, 5)
        slicer_desk.pump(lambda: composite.GetForegroundOpacity() == 0, 5)
        compared.ui.blinkCheckBox.checked = False
        assert not compared.comparison.blinkTimer.active

    def test_uncertainty_is_shown_with_the_opacity_that_is_chosen(self, compared, enhanced):
        composite = compared.comparison.views.composite_node("Enhanced", "Axial")
        assert composite.GetLabelOpacity() == 0
        compared.ui.uncertaintyCheckBox.checked = True
        compared.ui.uncertaintySlider.value = 0.75
        assert composite.GetLabelVolumeID() == uncertainty_node(enhanced).GetID()
        assert composite.GetLabelOpacity() == 0.75

    def test_every_axial_slice_shows_whether_it_was_observed(self, compared):
        mark = compared.comparison.views.marks["XVSEnhancedAxial"]
        seen = set()
        for offset in (90.0, 91.0):
            compared.comparison.views.slice_node("Enhanced", "Axial").SetSliceOffset(offset)
            seen.add(mark.text.split(" - ")[-1])
        assert seen == {"observed slice", "synthetic slice"}

    def test_without_the_original_there_is_a_sentence(self, panel, enhanced, node):
        remove_volume(node)
        panel.ui.showViewsButton.click()
        assert "no longer in the scene" in panel.ui.messageLabel.text
        assert not panel.ui.swapButton.enabled

    def test_closing_the_scene_closes_them(self, slicer_desk, compared):
        slicer.mrmlScene.Clear(False)
        assert not compared.ui.swapButton.enabled
        assert compared.comparison.views is None


class TestWithoutAWindow:
    @pytest.fixture
    def windowless(self, tmp_path, models, scan):
        with desk(tmp_path / "batch", main_window=False, testing=True) as opened:
            make_volume_node(slicer.mrmlScene, scan, "Chest")
            yield opened

    def test_the_panel_is_built_and_works(self, windowless):
        panel = windowless.panel()
        panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText("small"))
        panel.ui.enhanceButton.click()
        windowless.finish(panel)
        assert panel.logic.getParameterNode().enhancedVolume.GetName() == "Chest enhanced x4"
        assert windowless.desktop.shown_messages == []


class TestDataModule:
    def item(self, node):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        return hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def test_a_right_click_on_a_volume_enhances_it(self, slicer_desk, panel, scan):
        other = make_volume_node(slicer.mrmlScene, scan, "Abdomen")
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        actions = handler.right_click(self.item(other))
        assert [action.text for action in actions] == ["Enhance slices"]
        actions[0].trigger()
        slicer_desk.finish(panel)
        assert panel.ui.enhancedSelector.currentNode().GetName() == "Abdomen enhanced x4"

    def test_a_scan_that_cannot_be_enhanced_gets_a_sentence(self, slicer_desk, panel, thin_scan):
        thin = make_volume_node(slicer.mrmlScene, thin_scan, "Thin")
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        handler.right_click(self.item(thin))[0].trigger()
        assert "fine already" in panel.ui.messageLabel.text

    def test_labelmaps_do_not_offer_it(self, slicer_desk):
        labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        assert not handler.right_click(self.item(labelmap))


class TestSampleData:
    def test_both_scans_are_offered_with_thumbnail_and_checksum(self, slicer_desk):
        sources = slicer.modules.sampleDataSources["XViewSynth"]
        assert [source.sampleName for source in sources] == ["ChestCTThick", "ChestCTThin"]
        for source in sources:
            assert os.path.isfile(source.thumbnailFileName)
            assert source.checksums.startswith("SHA256:")

    def test_they_are_read_from_disk(self, slicer_desk, tmp_path):
        from urllib.request import urlretrieve

        source = slicer.modules.sampleDataSources["XViewSynth"][0]
        urlretrieve(source.uris, tmp_path / "scan.nrrd")
        assert read_volume(tmp_path / "scan.nrrd").voxels.shape == (17, 320, 352)


class TestInputErrors:
    def test_they_are_value_errors_for_scripts(self):
        assert issubclass(InputError, ValueError)


class TestPhotographs:
    def test_one_command_takes_them_all(self, tmp_path, models):
        from importlib.util import module_from_spec, spec_from_file_location

        tool = Path(__file__).resolve().parents[1] / "tools" / "photograph_panel.py"
        spec = spec_from_file_location("photograph_panel", tool)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        # Large enough that it can be met at work.
        write_volume(Volume(anatomy((40, 128, 128)), affine_from()), tmp_path / "Chest.nrrd")
        pictures = module.photograph(tmp_path / "Chest.nrrd", tmp_path / "pictures", "small", tmp_path / "slicer")
        assert [picture.name for picture in pictures] == [
            f"panel_{name}.png" for name in ("idle", "running", "done", "checked")
        ]
        assert len({picture.read_bytes() for picture in pictures}) == len(pictures)
