"""The section "Compare" of the panel: uncertain places, and how original and enhanced are shown."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from XViewSynthScene.layout import PLANES

WIDTH = 350  # pixels


@pytest.fixture
def panel(slicer_desk, pair):
    """The panel while the pair is compared."""
    opened = slicer_desk.panel()
    opened.logic.getParameterNode().enhancedVolume = pair.enhanced
    opened.ui.showViewsButton.click()
    return opened


def offsets(panel) -> list[float]:
    views = panel.comparison.views
    shown = [(row, plane) for row in ("Original", "Enhanced") for plane in ("Axial", "Coronal")]
    return [views.slice_node(*view).GetSliceOffset() for view in shown]


class TestNextUncertainPlace:
    def test_moves_all_views_and_shows_the_map(self, panel, pair):
        before = offsets(panel)
        panel.ui.nextPlaceButton.click()
        after = offsets(panel)
        assert after != before
        assert after[:2] == after[2:]
        assert panel.ui.uncertaintyCheckBox.checked
        assert panel.ui.placeLabel.text == "1 of 3: 90 HU"

    def test_marks_the_place_with_the_crosshair(self, panel):
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        panel.ui.nextPlaceButton.click()
        assert crosshair.GetCrosshairMode() != crosshair.NoCrosshair
        panel.ui.formerLayoutButton.click()
        assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair

    def test_begins_again_after_the_last(self, panel, pair):
        slicer.util.arrayFromVolume(pair.uncertainty)[1:4, 0:8, 0:8] = 150
        texts = []
        for _ in range(5):
            panel.ui.nextPlaceButton.click()
            texts.append(panel.ui.placeLabel.text)
        assert texts == [f"{n} of 4: {hu} HU" for n, hu in ((1, 150), (2, 90), (3, 90), (4, 90), (1, 150))]

    def test_says_when_there_is_none(self, panel, pair):
        slicer.util.arrayFromVolume(pair.uncertainty)[:] = 5
        panel.ui.nextPlaceButton.click()
        assert "No place of the map is coloured" in panel.ui.placeLabel.text

    def test_has_a_shortcut(self, panel):
        assert panel.ui.nextPlaceButton.shortcut.toString() == "Ctrl+Shift+N"
        assert "Ctrl+Shift+N" in panel.ui.nextPlaceButton.toolTip

    def test_needs_the_views_and_a_map(self, slicer_desk, panel, pair):
        slicer.mrmlScene.RemoveNode(pair.uncertainty)
        panel.ui.showViewsButton.click()
        assert panel.ui.nextPlaceButton.toolTip == "This volume has no uncertainty map."
        panel.ui.formerLayoutButton.click()
        assert panel.ui.nextPlaceButton.toolTip == "Show the linked views first."
        assert not panel.ui.nextPlaceButton.enabled

    def test_other_volumes_begin_anew(self, panel):
        panel.ui.nextPlaceButton.click()
        panel.ui.showViewsButton.click()
        assert panel.ui.placeLabel.text == ""


class TestOriginalInPlace:
    def test_the_divider_moves_in_the_lower_views_which_are_drawn_anew(self, panel):
        layout = slicer.app.layoutManager()
        views = [layout.sliceWidget(f"XVSEnhanced{plane}").sliceView()._alive() for plane in PLANES]
        before = [view.renders for view in views]
        panel.ui.dividerSlider.value = 0.5
        assert [curtain.position for curtain in panel.comparison.views._curtains] == [0.5] * 3
        assert [view.renders for view in views] == [count + 1 for count in before]

    def test_the_divider_stays_for_the_next_pair(self, panel):
        panel.ui.dividerSlider.value = 0.5
        panel.ui.showViewsButton.click()
        assert [curtain.position for curtain in panel.comparison.views._curtains] == [0.5] * 3

    def test_the_original_is_shown_as_acquired(self, panel, pair):
        display = pair.original.GetScalarVolumeDisplayNode()
        panel.ui.asAcquiredCheckBox.checked = True
        assert not display.GetInterpolate()
        panel.ui.formerLayoutButton.click()
        assert display.GetInterpolate()

    def test_both_need_the_views(self, panel):
        panel.ui.formerLayoutButton.click()
        for widget in (panel.ui.dividerSlider, panel.ui.asAcquiredCheckBox):
            assert not widget.enabled
            assert widget.toolTip == "Show the linked views first."


class TestWidth:
    def test_the_section_fits_into_a_narrow_panel(self, slicer_desk, panel):
        panel.ui.nextPlaceButton.click()
        slicer.app.processEvents()
        assert panel.ui.compareCollapsibleButton.minimumSizeHint.width() < WIDTH
