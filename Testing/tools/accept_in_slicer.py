"""Click through the module XViewSynth in a Slicer with a window, photograph each step, and write a report.

Slicer --python-script Testing/tools/accept_in_slicer.py FOLDER

FOLDER gets a picture of each step and report.md, which says what passed. It uses the bundled scan, and takes minutes.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCAN = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "ChestCTThick.nrrd"
TIMEOUT_SECONDS = 1800


class Acceptance:
    """The steps, in order; each of them is a method whose docstring says what must hold.

    Args:
        folder: for the pictures and the report.
        scan: file of a thick-slice scan.
        photograph: saves a picture of the main window under a path.
        model: name of a model, or None for the panel's own choice.
    """

    def __init__(self, folder: Path, scan: Path, photograph: Callable[[Path], object], model: str | None = None):
        import slicer

        self.slicer, self.folder, self.scan, self._photograph, self._model = slicer, folder, scan, photograph, model
        self.panel: Any = None

    def run(self) -> bool:
        """Take all steps, also after one that failed; return whether all have passed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines, failed = ["# XViewSynth in Slicer", ""], 0
        steps = (self.load, self.enhance, self.mark, self.reload, self.leave, self.refuse, self.enhance_several)
        for number, step in enumerate(steps, 1):
            began = time.monotonic()
            try:
                step()
                self.process_events()
                outcome = "passed"
            except Exception:
                outcome, failed = f"FAILED\n\n```\n{traceback.format_exc()}```\n", failed + 1
            picture = self.folder / f"{number}_{step.__name__}.png"
            self._photograph(picture)
            seconds = time.monotonic() - began
            lines.append(f"{number}. {step.__doc__} {seconds:.1f} s: {outcome} ([picture]({picture.name}))")
        (self.folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return not failed

    def load(self) -> None:
        """A scan that is loaded while the panel is open is chosen."""
        self.slicer.mrmlScene.Clear(False)
        self.slicer.util.selectModule("XViewSynth")
        self.panel = self.slicer.util.getModuleWidget("XViewSynth")
        node = self.slicer.util.loadVolume(str(self.scan))
        self.wait(lambda: self.panel.ui.inputSelector.currentNode() is node)
        if self._model is not None:
            self.panel.ui.modelSelector.setCurrentIndex(self.panel.ui.modelSelector.findText(self._model))
        assert self.panel.ui.enhanceButton.enabled, self.panel.ui.enhanceButton.toolTip

    def enhance(self) -> None:
        """A click enhances the scan and opens the linked views, each of which says what it shows."""
        self.panel.ui.enhanceButton.click()
        self.wait(lambda: not self.panel.ui.cancelButton.enabled)
        assert "are synthetic" in self.panel.ui.messageLabel.text, self.panel.ui.messageLabel.text
        self.check_linked_views()

    def mark(self) -> None:
        """The standard layout says as well which slices are synthetic."""
        self.panel.ui.formerLayoutButton.click()
        self.slicer.app.layoutManager().setLayout(self.slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.process_events()
        self.slicer.util.setSliceViewerLayers(background=self.panel.ui.enhancedSelector.currentNode())
        self.process_events()
        assert "enhanced" in self.panel.comparison.marks["Red"].text

    def reload(self) -> None:
        """A scene that was saved with the linked views shows scan, result and marks again."""
        self.panel.ui.showViewsButton.click()
        self.process_events()
        path = self.folder / "scene.mrb"
        assert self.slicer.util.saveScene(str(path))
        self.slicer.mrmlScene.Clear(False)
        self.slicer.util.loadScene(str(path))
        self.process_events()
        assert self.panel.ui.inputSelector.currentNode() is not None
        assert self.panel.ui.enhancedSelector.currentNode() is not None
        self.check_linked_views()

    def leave(self) -> None:
        """The former layout is a click away."""
        self.panel.ui.formerLayoutButton.click()
        assert not self.panel.ui.swapButton.enabled

    def refuse(self) -> None:
        """An enhanced volume and an uncertainty map are refused as scans."""
        enhanced = self.panel.ui.enhancedSelector.currentNode()
        for node in (enhanced, enhanced.GetNodeReference("XViewSynth.Disagreement")):
            self.panel.ui.inputSelector.setCurrentNode(node)
            assert not self.panel.ui.enhanceButton.enabled
            assert "choose the scan" in self.panel.ui.planLabel.text

    def enhance_several(self) -> None:
        """The scans with a tick are enhanced one after another."""
        self.slicer.util.loadVolume(str(self.scan))
        self.panel.ui.severalCollapsibleButton.collapsed = False
        self.wait(lambda: self.panel.ui.severalTable.rowCount == 2)
        self.panel.ui.severalButton.click()
        self.wait(lambda: not self.panel.ui.cancelButton.enabled)
        assert self.panel.ui.messageLabel.text == "2 of 2 scans are enhanced.", self.panel.ui.messageLabel.text

    def check_linked_views(self) -> None:
        """Make sure that the six views are marked, and that each lies inside the scan."""
        self.process_events()
        views = self.panel.comparison.views
        assert len(views.marks) == 6
        assert not [mark.text for mark in views.marks.values() if "between" in mark.text]
        bounds = [0.0] * 6
        self.panel.ui.inputSelector.currentNode().GetRASBounds(bounds)
        for axis, plane in enumerate(("Sagittal", "Coronal", "Axial")):
            for row in ("Original", "Enhanced"):
                offset = views.slice_node(row, plane).GetSliceOffset()
                assert bounds[2 * axis] < offset < bounds[2 * axis + 1], (row, plane, offset)

    def wait(self, until: Callable[[], object]) -> None:
        """Let Slicer live until something holds."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not until():
            assert time.monotonic() < end, "This took too long."
            self.process_events()
            time.sleep(0.02)

    def process_events(self) -> None:
        """Let Slicer process what is waiting, and what follows from it."""
        for _ in range(3):
            self.slicer.app.processEvents()


def main() -> None:
    """Accept this Slicer; its exit code is 0 where all has passed."""
    import slicer

    def photograph(path: Path) -> None:
        slicer.util.mainWindow().grab().save(str(path))

    passed = Acceptance(Path(sys.argv[-1]).absolute(), SCAN, photograph).run()
    slicer.util.exit(0 if passed else 1)


if __name__ == "__main__":
    import qt

    # Slicer completes its start first.
    qt.QTimer.singleShot(1500, main)
