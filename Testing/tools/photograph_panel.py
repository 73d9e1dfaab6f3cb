"""Photograph the Slicer module's panel before, during and after a real enhancement and a real self-check.

python Testing/tools/photograph_panel.py [SCAN] [--output FOLDER] [--model NAME]

The panel is the real one, on the stand-in for Slicer's window that the tests use; its own widgets are Qt's. It writes
panel_idle.png, panel_running.png, panel_done.png and panel_checked.png, by default into Resources/Screenshots.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

WIDTH, HEIGHT = 480, 300
TIMEOUT_SECONDS = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path, default=ROOT / "Resources" / "SampleData" / "ChestCTThick.nrrd")
    parser.add_argument("--output", type=Path, default=ROOT / "Resources" / "Screenshots")
    parser.add_argument("--model", help="name of an installed model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photograph(options.scan, options.output, options.model, Path(folder))


def photograph(scan: Path, output: Path, model: str | None, folder: Path) -> list[Path]:
    """Use the panel as a user does, and give the paths of the pictures.

    Args:
        scan: file of a thick-slice scan.
        output: folder for the pictures.
        model: name of the model, or None for the panel's own choice.
        folder: for temporary files.
    """
    import slicer

    from desk import desk
    from scene import make_volume_node
    from XViewSynthLib import read_volume

    pictures = []
    with desk(folder) as opened:
        make_volume_node(slicer.mrmlScene, read_volume(scan), scan.name.split(".")[0])
        panel = opened.panel()
        # The panel scrolls in a window that is too low for it, and so takes no more room than it needs.
        slicer.util.mainWindow().resize(WIDTH, HEIGHT)
        slicer.util.mainWindow().show()
        panel.ui.showViewsCheckBox.checked = False
        if model is not None:
            panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText(model))

        def take(name: str) -> None:
            pictures.append(opened.desktop.photograph(panel.parent, output / f"panel_{name}.png"))

        take("idle")
        panel.ui.enhanceButton.click()
        opened.pump(
            lambda: panel.ui.progressBar.value > 0 or not panel.ui.cancelButton.enabled,
            TIMEOUT_SECONDS,
        )
        take("running")
        opened.pump(lambda: not panel.ui.cancelButton.enabled, TIMEOUT_SECONDS)
        take("done")
        panel.ui.selfCheckButton.click()
        opened.pump(lambda: not panel.ui.cancelButton.enabled, TIMEOUT_SECONDS)
        take("checked")
    return pictures


if __name__ == "__main__":
    main()
