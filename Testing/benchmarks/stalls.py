"""Measure how long the panel blocks Slicer's event loop, on the stand-in for Slicer's window.

python Testing/benchmarks/stalls.py [--slices 48] [--pixels 512] [--repeat 3] [--model NAME]

The scan is made by formula. Each line is the longest time between two events that are due every 10 ms, in ms: the
median, and the longest of all repeats. The views have render windows, but nothing is drawn, so a real Slicer adds its
own time for drawing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

TIMEOUT_SECONDS = 3600
SETTLE_SECONDS = 0.3
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="auto", help="name of an installed model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options, Path(folder))
    print(f"{options.slices} slices of {options.pixels} x {options.pixels} pixels, ms: median, longest")
    for name, stalls in measured.items():
        print(f"{name:<24}{statistics.median(stalls):8.0f}{max(stalls):8.0f}")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """The stalls of each action, ms."""
    from desk import desk

    with desk(folder / "slicer") as opened:
        panel = prepare(opened, options, folder / "series")
        measured: dict[str, list[float]] = {}

        def take(name: str, act: Callable[[], None], ended: Callable[[], bool] | None = None) -> None:
            opened.desktop.pump(timeout=SETTLE_SECONDS)
            opened.desktop.reset_stall()
            measured.setdefault(name, []).append(stall_of(opened, act, ended))

        for _ in range(options.repeat):
            panel.logic.getParameterNode().showViews = False
            take("enhance", panel.ui.enhanceButton.click, lambda: opened.is_idle(panel))
            take("open the views", panel.ui.showViewsButton.click)
            take("show the map", lambda: setattr(panel.ui.uncertaintyCheckBox, "checked", True))
            for step in range(STEPS):
                take("scroll", lambda step=step: scroll(panel, step))
            take("next uncertain, first", panel.ui.nextPlaceButton.click)
            take("next uncertain, further", panel.ui.nextPlaceButton.click)
            take("divider", lambda: setattr(panel.ui.dividerSlider, "value", 0.5))
            take("save as DICOM", panel.ui.saveDicomButton.click)
            panel.ui.dividerSlider.value = 0
            panel.ui.uncertaintyCheckBox.checked = False
            panel.ui.formerLayoutButton.click()
    return measured


def prepare(opened: object, options: argparse.Namespace, folder: Path) -> object:
    """The panel with a scan that was loaded from the DICOM database."""
    import slicer
    from DICOMLib import DICOMUtils

    from scans import affine_from, anatomy, write_dicom_series
    from scene import make_volume_node
    from XViewSynthLib import Volume

    voxels = anatomy((options.slices, options.pixels, options.pixels))
    scan = Volume(voxels, affine_from((0.7, 0.7, 5.0)), slice_thickness=5.0)
    series = "1.2.3.5"
    write_dicom_series(
        folder, scan, series=series, thickness=5.0, StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4"
    )
    DICOMUtils.importDicom(str(folder))
    node = make_volume_node(slicer.mrmlScene, scan, "Chest")
    node.SetAttribute("DICOM.instanceUIDs", " ".join(f"{series}.{k + 1}" for k in range(options.slices)))
    panel = opened.panel()
    panel.ui.modelSelector.setCurrentIndex(max(0, panel.ui.modelSelector.findText(options.model)))
    return panel


def stall_of(opened: object, act: Callable[[], None], ended: Callable[[], bool] | None) -> float:
    """The longest stall of an action that a timer starts, as a click does, until it has ended."""
    import qt

    done = []

    def begin() -> None:
        act()
        done.append(True)

    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(50)
    timer.connect("timeout()", begin)
    timer.start()
    opened.desktop.pump(lambda: bool(done) and (ended is None or ended()), TIMEOUT_SECONDS)
    opened.desktop.pump(timeout=SETTLE_SECONDS)
    return opened.desktop.longest_stall


def scroll(panel: object, step: int) -> None:
    """Move all views of the patient's axial plane, as the slider of a view does."""
    node = panel.comparison.views.slice_node("Enhanced", "Axial")
    node.SetSliceOffset(node.GetSliceOffset() + 1.25 * (1 if step % 2 else -1))


if __name__ == "__main__":
    main()
