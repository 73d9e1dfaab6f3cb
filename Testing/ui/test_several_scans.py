"""The list of scans in the panel, and their enhancement one after another."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from scans import affine_from, anatomy
from scene import make_bent_transform, make_volume_node
from XViewSynthLib import Volume
from XViewSynthScene.provenance import input_node, role_of
from XViewSynthScene.results import remove_volume

pytestmark = pytest.mark.slow

NAME, SLICES, STATE = range(3)


@pytest.fixture
def nodes(slicer_desk):
    shape, affine = (6, 20, 24), affine_from((0.7, 0.7, 4.0))
    return [make_volume_node(slicer.mrmlScene, Volume(anatomy(shape), affine), f"Scan {n}") for n in (1, 2, 3)]


@pytest.fixture
def panel(slicer_desk, nodes):
    """The panel with the list open and a quick model chosen, on the processor."""
    opened = slicer_desk.panel()
    opened.ui.modelSelector.setCurrentIndex(opened.ui.modelSelector.findText("small"))
    opened.ui.deviceComboBox.setCurrentIndex(1)
    opened.ui.severalCollapsibleButton.collapsed = False
    return opened


def column(panel, number):
    table = panel.ui.severalTable
    return [table.item(row, number).text() for row in range(table.rowCount)]


def tick(panel, row, ticked):
    import qt

    panel.ui.severalTable.item(row, NAME).setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)


def results():
    return [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if role_of(node) == "enhanced"]


class TestList:
    def test_shows_the_scans_and_what_they_would_give(self, panel):
        assert column(panel, NAME) == ["Scan 1", "Scan 2", "Scan 3"]
        assert column(panel, SLICES) == ["6 → 21"] * 3

    def test_is_empty_while_it_is_closed(self, panel):
        panel.ui.severalCollapsibleButton.collapsed = True
        assert panel.ui.severalTable.rowCount == 0

    def test_follows_the_settings(self, panel):
        panel.ui.goalComboBox.setCurrentIndex(1)
        panel.ui.factorSpinBox.value = 2
        assert column(panel, SLICES) == ["6 → 11"] * 3

    def test_follows_the_scene(self, slicer_desk, panel, nodes):
        make_volume_node(slicer.mrmlScene, Volume(anatomy((6, 20, 24)), affine_from((0.7, 0.7, 4.0))), "Late")
        remove_volume(nodes[1])
        slicer_desk.pump(lambda: column(panel, NAME) == ["Scan 1", "Scan 3", "Late"])

    def test_a_scan_that_cannot_be_enhanced_says_why_and_has_no_box(self, panel, nodes):
        import qt

        nodes[0].SetAndObserveTransformNodeID(make_bent_transform(slicer.mrmlScene).GetID())
        panel.onParameters()
        assert "non-linear" in column(panel, STATE)[0]
        assert not panel.ui.severalTable.item(0, NAME).flags() & qt.Qt.ItemIsUserCheckable
        assert panel.several.chosen == nodes[1:]

    def test_a_box_stays_as_the_user_left_it(self, panel, nodes):
        tick(panel, 1, False)
        panel.onParameters()
        assert panel.several.chosen == [nodes[0], nodes[2]]

    def test_all_or_none(self, panel, nodes):
        panel.ui.tickAllButton.click()
        assert panel.several.chosen == []
        assert (panel.ui.severalButton.enabled, panel.ui.severalButton.toolTip) == (False, "Tick at least one scan.")
        panel.ui.tickAllButton.click()
        assert panel.several.chosen == nodes
        assert panel.ui.severalButton.enabled

    def test_without_scans_there_is_nothing_to_do(self, slicer_desk, panel):
        slicer.mrmlScene.Clear(0)
        slicer_desk.pump(lambda: panel.ui.severalTable.rowCount == 0)
        assert (panel.ui.severalButton.enabled, panel.ui.severalButton.toolTip) == (False, "Load scans first.")


class TestEnhancing:
    def test_the_ticked_scans_are_enhanced(self, slicer_desk, panel, nodes):
        tick(panel, 1, False)
        panel.ui.severalButton.click()
        assert panel.ui.severalButton.toolTip == "Another task is running: wait, or cancel it."
        assert column(panel, STATE) == ["running", "", "waiting"]
        slicer_desk.finish(panel)
        assert [input_node(result) for result in results()] == [nodes[0], nodes[2]]
        assert [state.split(" in ")[0] for state in column(panel, STATE)] == ["done", "", "done"]
        assert panel.ui.messageLabel.text == "2 of 2 scans are enhanced."
        assert panel.ui.enhancedSelector.currentNode() is results()[0]
        assert slicer_desk.leaves_nothing()

    def test_one_that_fails_is_reported(self, slicer_desk, panel, nodes):
        panel.ui.severalButton.click()
        remove_volume(nodes[1])
        slicer_desk.finish(panel)
        assert [input_node(result) for result in results()] == [nodes[0], nodes[2]]
        assert panel.ui.messageLabel.text == "2 of 3 scans are enhanced. The table says why the others are not."

    def test_cancelling_keeps_what_is_done(self, slicer_desk, panel, nodes):
        panel.ui.severalButton.click()
        slicer_desk.pump(results)
        panel.ui.cancelButton.click()
        slicer_desk.finish(panel)
        assert (
            panel.ui.messageLabel.text == f"Cancelled; {len(results())} of 3 scans are enhanced and stay in the scene."
        )
        assert column(panel, STATE)[2] == "cancelled"
        assert slicer_desk.leaves_nothing()

    def test_closing_the_scene_ends_it(self, slicer_desk, panel):
        panel.ui.severalButton.click()
        slicer_desk.wait_for_worker()
        slicer.mrmlScene.Clear(0)
        slicer_desk.finish(panel)
        assert panel.ui.severalTable.rowCount == 0
        assert slicer_desk.leaves_nothing()
