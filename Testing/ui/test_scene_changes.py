"""The panel when volumes are loaded and removed, scenes are loaded, and views are new: without an enhancement."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from scene import make_volume_node
from XViewSynthScene.layout import LAYOUT_ID, view_names
from XViewSynthScene.results import remove_volume

pytestmark = pytest.mark.slow


@pytest.fixture
def panel(slicer_desk, pair):
    """The panel with the pair chosen."""
    opened = slicer_desk.panel()
    opened.ui.inputSelector.setCurrentNode(pair.original)
    opened.ui.enhancedSelector.setCurrentNode(pair.enhanced)
    return opened


def process_events():
    for _ in range(3):
        slicer.app.processEvents()


def save_scene(folder):
    """Save the scene with its files; return the path of the .mrml file."""
    from scene import _save_mrml

    folder.mkdir()
    path = folder / "scene.mrml"
    _save_mrml(slicer.mrmlScene, path)
    return path


def load_scene(path):
    """Load a scene in place of the present one, as the user does with File > Load."""
    slicer.mrmlScene.Clear(False)
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Import()
    process_events()


class TestNewViews:
    def test_every_view_shows_the_middle_of_the_scan(self, panel, pair):
        panel.ui.showViewsButton.click()
        process_events()
        bounds = [0.0] * 6
        pair.original.GetRASBounds(bounds)
        views = panel.comparison.views
        for axis, plane in enumerate(("Sagittal", "Coronal", "Axial")):
            for row in ("Original", "Enhanced"):
                offset = views.slice_node(row, plane).GetSliceOffset()
                assert offset == pytest.approx((bounds[2 * axis] + bounds[2 * axis + 1]) / 2, abs=4), (row, plane)

    def test_the_marks_say_what_is_shown(self, panel):
        panel.ui.showViewsButton.click()
        process_events()
        marks = {name: mark.text for name, mark in panel.comparison.views.marks.items()}
        assert set(marks) == set(view_names())
        assert "between" not in " ".join(marks.values())
        assert marks["XVSEnhancedAxial"].endswith(("observed slice", "synthetic slice"))

    def test_a_volume_that_goes_meanwhile_gives_a_sentence(self, panel, pair):
        import qt

        qt.QTimer.singleShot(0, lambda: remove_volume(pair.original))
        panel.ui.showViewsButton.click()
        assert "original volume" in panel.ui.messageLabel.text
        assert slicer.app.layoutManager().layout != LAYOUT_ID


class TestLoadedScene:
    @pytest.fixture
    def saved(self, panel, tmp_path):
        panel.ui.showViewsButton.click()
        process_events()
        return save_scene(tmp_path / "saved")

    def test_the_choice_is_that_of_the_scene(self, panel, saved):
        load_scene(saved)
        assert panel.ui.inputSelector.currentNode().GetName() == "CT"
        assert panel.ui.enhancedSelector.currentNode().GetName() == "CT enhanced x4"
        assert panel.ui.planLabel.text.startswith("4 mm → 1 mm")

    def test_the_views_are_marked_again(self, panel, saved):
        load_scene(saved)
        assert slicer.app.layoutManager().layout == LAYOUT_ID
        assert panel.comparison.views.marks["XVSEnhancedAxial"].text.startswith("enhanced x4 - ")
        assert panel.ui.swapButton.enabled

    def test_the_former_layout_is_a_click_away(self, panel, saved):
        load_scene(saved)
        panel.ui.formerLayoutButton.click()
        assert slicer.app.layoutManager().layout != LAYOUT_ID

    def test_loaded_while_another_module_is_open(self, slicer_desk, panel, saved):
        panel.parent.exit()
        load_scene(saved)
        assert panel.comparison.views.marks["XVSEnhancedAxial"].text.startswith("enhanced x4 - ")
        panel.parent.enter()
        assert panel.ui.enhancedSelector.currentNode().GetName() == "CT enhanced x4"

    def test_a_scene_that_is_added_replaces_the_choice(self, panel, saved):
        slicer.mrmlScene.SetURL(str(saved))
        assert slicer.mrmlScene.Import()
        process_events()
        assert panel.ui.enhancedSelector.currentNode() is panel.logic.getParameterNode().enhancedVolume
        assert panel.comparison.views.marks["XVSEnhancedAxial"].text.startswith("enhanced x4 - ")

    def test_without_the_original_the_layout_is_left(self, slicer_desk, panel, pair, tmp_path):
        panel.ui.showViewsButton.click()
        process_events()
        original = pair.original
        original.SetSaveWithScene(False)
        saved = save_scene(tmp_path / "saved")
        load_scene(saved)
        assert slicer.app.layoutManager().layout != LAYOUT_ID
        assert "no longer in the scene" in panel.ui.messageLabel.text


class TestChoosing:
    def test_a_scan_that_is_loaded_is_chosen(self, slicer_desk, scan):
        panel = slicer_desk.panel()
        node = make_volume_node(slicer.mrmlScene, scan, "Chest")
        process_events()
        assert panel.ui.inputSelector.currentNode() is node
        assert panel.ui.planLabel.text.startswith("4 mm → 1 mm")

    def test_a_chosen_scan_stays_chosen(self, slicer_desk, panel, pair, scan):
        make_volume_node(slicer.mrmlScene, scan, "Chest")
        process_events()
        assert panel.ui.inputSelector.currentNode() is pair.original

    def test_a_scan_that_is_removed_leaves_none(self, panel, pair):
        remove_volume(pair.original)
        process_events()
        assert panel.ui.inputSelector.currentNode() is None
        assert panel.ui.inputSelector.comboBox().currentText == "Choose a scan"
        assert "choose" in panel.ui.planLabel.text
        assert not panel.ui.enhanceButton.enabled

    def test_a_scan_that_is_loaded_while_another_module_is_open(self, slicer_desk, scan):
        panel = slicer_desk.panel()
        panel.parent.exit()
        node = make_volume_node(slicer.mrmlScene, scan, "Chest")
        process_events()
        panel.parent.enter()
        assert panel.ui.inputSelector.currentNode() is node


class TestDerivedVolumes:
    """Volumes that XViewSynth made are no scans."""

    def test_they_are_not_chosen_in_place_of_the_scan(self, panel, pair):
        remove_volume(pair.original)
        process_events()
        assert panel.ui.inputSelector.currentNode() is None

    def test_they_are_refused_with_a_sentence(self, panel, pair):
        panel.ui.inputSelector.setCurrentNode(pair.enhanced)
        assert "synthetic slices: choose the scan that it was made from, 'CT'" in panel.ui.planLabel.text
        panel.ui.inputSelector.setCurrentNode(pair.uncertainty)
        assert "uncertainty map" in panel.ui.planLabel.text
        for button in (panel.ui.enhanceButton, panel.ui.selfCheckButton):
            assert not button.enabled
            assert "uncertainty map" in button.toolTip

    @pytest.mark.parametrize("which", ["enhanced", "uncertainty"])
    def test_scripts_are_refused_too(self, panel, pair, which):
        node = getattr(pair, which)
        for work in (panel.logic.enhance, panel.logic.selfCheck):
            for in_process in (False, True):
                with pytest.raises(ValueError, match="choose the scan"):
                    work(node, inProcess=in_process)

    def test_the_data_module_does_not_offer_them(self, panel, pair):
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        offered = [
            bool(handler.right_click(hierarchy.GetItemByDataNode(node)))
            for node in (pair.original, pair.enhanced, pair.uncertainty)
        ]
        assert offered == [True, False, False]


class TestDataModule:
    def test_the_plugin_needs_no_other_module(self, slicer_desk):
        assert slicer.qSlicerSubjectHierarchyPluginHandler.instance().pluginByName("XViewSynth") is not None


class TestMarksInOtherLayouts:
    """The standard layouts say as well which slices are synthetic."""

    @pytest.fixture
    def shown(self, panel, pair):
        """The red view shows the enhanced volume."""
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        process_events()
        self.composite("Red").SetBackgroundVolumeID(pair.enhanced.GetID())
        return panel.comparison.marks

    def composite(self, name):
        return slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()

    def test_a_view_with_an_enhanced_volume_is_marked(self, panel, pair, shown):
        seen = set()
        bounds = [0.0] * 6
        pair.enhanced.GetRASBounds(bounds)
        for offset in range(round(bounds[4]) + 5, round(bounds[4]) + 15):
            slicer.app.layoutManager().sliceWidget("Red").sliceLogic().SetSliceOffset(offset)
            seen.add(shown["Red"].text)
        assert {"enhanced x4 - observed slice", "enhanced x4 - synthetic slice"} <= seen
        assert set(shown) == {"Red"}

    def test_a_view_with_the_scan_is_not(self, panel, pair, shown):
        self.composite("Red").SetBackgroundVolumeID(pair.original.GetID())
        assert panel.comparison.marks == {}

    def test_the_switch_removes_them_and_brings_them_back(self, panel, shown):
        panel.ui.markSlicesCheckBox.checked = False
        assert panel.comparison.marks == {}
        panel.ui.markSlicesCheckBox.checked = True
        assert set(panel.comparison.marks) == {"Red"}

    def test_a_volume_that_is_removed_takes_its_mark_along(self, panel, pair, shown):
        remove_volume(pair.enhanced)
        process_events()
        assert panel.comparison.marks == {}

    def test_a_view_of_a_layout_that_comes_later_is_marked(self, panel, pair, shown):
        self.composite("Green").SetBackgroundVolumeID(pair.enhanced.GetID())
        assert set(panel.comparison.marks) == {"Red", "Green"}

    def test_the_linked_views_have_their_own(self, panel, shown):
        panel.ui.showViewsButton.click()
        process_events()
        assert not set(panel.comparison.marks) & set(view_names())

    def test_closing_the_scene_removes_them(self, panel, shown):
        slicer.mrmlScene.Clear(False)
        process_events()
        assert panel.comparison.marks == {}


class TestWidth:
    def test_it_is_the_same_for_every_choice_and_for_long_names(self, slicer_desk, panel, pair):
        def width():
            process_events()
            return panel.ui.scanCollapsibleButton.minimumSizeHint.width()

        panel.ui.goalComboBox.setCurrentIndex(1)
        before = width()
        pair.original.SetName("2: CT thorax with contrast medium, arterial phase, reconstructed for the lung, 5.0 mm")
        assert width() == before
        assert before < 350


class TestAcceptance:
    def test_every_step_passes_on_the_stand_in(self, slicer_desk, scan, tmp_path):
        from XViewSynthLib import write_volume

        tool = Path(__file__).resolve().parents[1] / "tools" / "accept_in_slicer.py"
        spec = spec_from_file_location("accept_in_slicer", tool)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        write_volume(scan, tmp_path / "Chest.nrrd")

        def photograph(path):
            slicer_desk.desktop.photograph(slicer.util.mainWindow(), path)

        acceptance = module.Acceptance(tmp_path / "accepted", tmp_path / "Chest.nrrd", photograph, "small")
        passed = acceptance.run()
        report = (tmp_path / "accepted" / "report.md").read_text(encoding="utf-8")
        assert passed, report
        assert len(list((tmp_path / "accepted").glob("*.png"))) == report.count("passed") == 7
