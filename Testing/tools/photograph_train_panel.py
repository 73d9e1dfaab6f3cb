"""Photograph the panel that trains before, during and after a real training, and its plots and preview.

python Testing/tools/photograph_train_panel.py [SCAN ...] [--minutes M] [--model NAME] [--output FOLDER]

The panel is the real one, on the stand-in for Slicer's window that the tests use; plots and preview are drawn from the
nodes that it makes, in the arrangement of its layout. It writes train_idle.png, train_running.png, train_done.png and
train_views.png, by default into Resources/Screenshots.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("XViewSynth", "XViewSynthTrain", "Testing", "Testing/tools")]

WIDTH, HEIGHT = 480, 300
VIEW_WIDTH, VIEW_HEIGHT = 300, 260
WINDOW_HU = (1500, -500)
TIMEOUT_SECONDS = 24 * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
    parser.add_argument("scans", nargs="*", type=Path, default=[sample], metavar="SCAN")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training (default: %(default)g)")
    parser.add_argument("--model", default="standard", help="name of the model to start from (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "Resources" / "Screenshots")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photograph(options.scans, options.output, options.model, options.minutes, Path(folder))


def photograph(scans: Sequence[Path], output: Path, model: str, minutes: float, folder: Path) -> list[Path]:
    """Use the panel as a user does, and give the paths of the pictures.

    Args:
        scans: files of scans, of which the last is held out where there are several.
        output: folder for the pictures.
        model: name of the model to start from.
        minutes: of training.
        folder: for temporary files, and the run.
    """
    import slicer

    from desk import TRAINING, desk
    from scene import make_volume_node
    from XViewSynthLib import read_volume

    pictures = []
    with desk(folder / "slicer", TRAINING) as opened:
        for scan in scans:
            make_volume_node(slicer.mrmlScene, read_volume(scan), scan.name.split(".")[0])
        import qt

        panel = opened.panel()
        # The panel scrolls in a window that is too low for it, and so takes no more room than it needs.
        slicer.util.mainWindow().resize(WIDTH, HEIGHT)
        slicer.util.mainWindow().show()
        panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText(model))
        panel.ui.minutesSpinBox.value = minutes
        # A path that tells nothing of this machine.
        parameters = panel.logic.getParameterNode()
        parameters.runFolder = str(folder / time.strftime("%Y-%m-%d %H.%M"))

        def take(name: str) -> None:
            panel.ui.logText.moveCursor(qt.QTextCursor.End)
            pictures.append(opened.desktop.photograph(panel.parent, output / f"train_{name}.png"))

        take("idle")
        panel.ui.trainButton.click()
        opened.pump(
            lambda: "loss" in panel.ui.logText.plainText or panel.ui.stopButton.toolTip == "No task is running.",
            TIMEOUT_SECONDS,
        )
        take("running")
        opened.pump(lambda: panel.ui.stopButton.toolTip == "No task is running.", TIMEOUT_SECONDS)
        take("done")
        run = Path(parameters.runFolder)
    picture = output / "train_views.png"
    if draw_views(run, picture):
        pictures.append(picture)
    return pictures


def draw_views(run: Path, picture: Path) -> bool:
    """Draw the plots and the preview of a run, as the module's layout arranges them; whether that is possible here.

    Args:
        run: its folder.
        picture: the PNG to write.
    """
    import slicer

    import offscreen
    from photograph_views import GAP, mosaic, save
    from scene import mrml_scene
    from XViewSynthTrainScene.layout import TrainingViews, view_name
    from XViewSynthTrainScene.live import LiveRun
    from XViewSynthTrainScene.preview import ROLES

    if offscreen.why_not():
        print(f"{picture} was not drawn: {offscreen.why_not()}", file=sys.stderr)
        return False
    with mrml_scene() as scene:
        application = offscreen.application_logic(scene)
        views = offscreen.OffscreenViews(scene, application, map(view_name, ROLES), (VIEW_WIDTH, VIEW_HEIGHT))
        layout = TrainingViews(scene, slicer.vtkMRMLLayoutNode(), application, views.renderer)
        live = LiveRun(scene, run, layout)
        there = [role for role in ROLES if (run / "preview" / f"{role}.nrrd").exists()]
        while not live.log.entries or len(live.preview.nodes) < len(there):
            live.update()
            time.sleep(0.05)
        for node in live.preview.nodes.values():
            node.GetScalarVolumeDisplayNode().SetAutoWindowLevel(False)
            node.GetScalarVolumeDisplayNode().SetWindowLevel(*WINDOW_HU)
        size = (2 * VIEW_WIDTH + GAP, VIEW_HEIGHT)
        charts = [offscreen.chart_picture(chart, size) for chart in (live.plots.loss_chart, live.plots.gain_chart)]
        save(mosaic([[views.picture(view_name(role)) for role in ROLES], charts]), picture)
        live.close()
        views.close()
    return True


if __name__ == "__main__":
    main()
