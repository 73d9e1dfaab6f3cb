"""The panel that trains, as a user meets it: the real .ui file, real buttons, a real short training."""

from __future__ import annotations

import html
import json
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from desk import ENHANCING, TRAINING, desk, volumes, workers
from scans import affine_from, anatomy
from scene import make_volume_node, saved_and_loaded
from training_runs import REPORT, append_log, write_run
from XViewSynthLib import Volume, load_model, write_volume
from XViewSynthScene import packages
from XViewSynthTrainLib.lock import run_lock
from XViewSynthTrainScene.folders import RunFolder
from XViewSynthTrainScene.jobs import TrainingRun, TrainingScan, TrainSettings
from XViewSynthTrainScene.layout import LAYOUT_ID

pytestmark = pytest.mark.slow

TRAIN_COLUMN, HOLD_OUT_COLUMN = 0, 1
SMALL = {"network": {"channels": 4, "axial_blocks": 1, "pixel_blocks": 1}, "slices": 5, "pixels": 16}


def study_volume(seed: int = 0) -> Volume:
    """Thin enough to be thinned: (65, 64, 64), 0.8 x 0.8 x 1 mm."""
    return Volume(anatomy((65, 64, 64), seed), affine_from((0.8, 0.8, 1.0)))


@pytest.fixture
def models(models, tmp_path, monkeypatch):
    """The user's models, and a home of the user's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return models


@pytest.fixture
def slicer_desk(tmp_path, models):
    with desk(tmp_path / "slicer", TRAINING) as opened:
        yield opened


@pytest.fixture
def node(slicer_desk):
    return make_volume_node(slicer.mrmlScene, study_volume(), "Chest")


@pytest.fixture
def panel(slicer_desk, node):
    """The panel with a scan, a quick model to start from and a short time, on the processor."""
    opened = slicer_desk.panel()
    opened.ui.modelSelector.setCurrentIndex(opened.ui.modelSelector.findText("small"))
    opened.ui.deviceComboBox.setCurrentIndex(1)
    opened.ui.minutesSpinBox.value = 0.1
    return opened


@pytest.fixture
def study(tmp_path):
    """A folder with a scan and a file that is none."""
    folder = tmp_path / "study"
    folder.mkdir()
    write_volume(study_volume(1), folder / "lung.nrrd")
    (folder / "broken.nrrd").write_text("x")
    return folder


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory, tiny_model):
    """A real run that was stopped after its first checkpoint, long before its end."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    scan = folder.parent / "chest.nrrd"
    write_volume(study_volume(), scan)
    settings = TrainSettings(start=str(tiny_model), steps=100_000, factors=(2,), device="cpu", further=SMALL)
    run = TrainingRun([TrainingScan("Chest", scan)], folder, settings)
    run.start()
    asked = False
    while not (state := run.poll()).ended:
        if state.stage == "training" and not asked:
            run.stop()
            asked = True
        time.sleep(0.05)
    assert state.status == "cancelled", run.log
    return folder


@pytest.fixture
def stopped(tmp_path, stopped_once):
    """A run for a panel to resume."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped run"))


def parameters(panel):
    return panel.logic.getParameterNode()


def tick(panel, row, column):
    import qt

    panel.ui.studyTable.item(row, column).setCheckState(qt.Qt.Checked)


def ticks(panel):
    import qt

    table = panel.ui.studyTable
    return [
        tuple(table.item(row, column).checkState() == qt.Qt.Checked for column in (TRAIN_COLUMN, HOLD_OUT_COLUMN))
        for row in range(table.rowCount)
    ]


def texts(panel, row):
    table = panel.ui.studyTable
    return [table.item(row, column).text() for column in range(2, table.columnCount)]


def search(opened, panel, folder):
    panel.ui.folderSelector.currentPath = str(folder)
    opened.pump(lambda: panel.study.search and panel.study.search.ended)
    opened.pump(lambda: not panel.ui.searchLabel.text.startswith("Searching"))


class TestTrainingSet:
    def test_loaded_volumes_are_listed_and_ticked(self, panel):
        assert texts(panel, 0) == ["Chest", "65", "1 mm", "usable"]
        assert ticks(panel) == [(True, False)]
        assert panel.ui.planLabel.text.startswith("1 scan to train on, 65 slices, of which the upper 25%")

    def test_a_volume_that_is_loaded_later_appears(self, slicer_desk, panel):
        make_volume_node(slicer.mrmlScene, study_volume(1), "Lung")
        slicer_desk.pump(lambda: panel.ui.studyTable.rowCount == 2)
        assert panel.ui.planLabel.text.startswith("2 scans to train on")

    def test_a_volume_that_is_removed_goes(self, slicer_desk, panel, node):
        slicer.mrmlScene.RemoveNode(node)
        slicer_desk.pump(lambda: panel.ui.studyTable.rowCount == 0)
        assert "Tick at least one scan" in panel.ui.trainButton.toolTip

    def test_a_folder_is_searched(self, slicer_desk, panel, study):
        search(slicer_desk, panel, study)
        slicer_desk.pump(lambda: panel.ui.studyTable.rowCount == 3)
        rows = {texts(panel, row)[0]: texts(panel, row) for row in range(3)}
        assert rows["lung.nrrd"] == ["lung.nrrd", "65", "1 mm", "usable"]
        assert "damaged" in rows["broken.nrrd"][-1]

    def test_a_folder_that_is_not_there_gives_a_sentence(self, slicer_desk, panel, study):
        search(slicer_desk, panel, study / "nowhere")
        slicer_desk.pump(lambda: "choose a folder" in panel.ui.searchLabel.text)

    def test_a_folder_without_scans_says_so(self, slicer_desk, panel, tmp_path):
        (tmp_path / "empty").mkdir()
        search(slicer_desk, panel, tmp_path / "empty")
        slicer_desk.pump(lambda: "no CT scan" in panel.ui.searchLabel.text)

    def test_to_hold_out_is_not_to_train(self, slicer_desk, panel, study):
        search(slicer_desk, panel, study)
        slicer_desk.pump(lambda: panel.ui.studyTable.rowCount == 3)
        row = next(row for row in range(3) if texts(panel, row)[0] == "lung.nrrd")
        tick(panel, row, HOLD_OUT_COLUMN)
        assert ticks(panel)[row] == (False, True)
        assert "1 scan held out" in panel.ui.planLabel.text
        tick(panel, row, TRAIN_COLUMN)
        assert ticks(panel)[row] == (True, False)

    def test_an_unticked_scan_is_left_out(self, panel):
        import qt

        panel.ui.studyTable.item(0, TRAIN_COLUMN).setCheckState(qt.Qt.Unchecked)
        assert ticks(panel) == [(False, False)]
        assert not panel.ui.trainButton.enabled

    def test_the_choice_is_saved_and_loaded_with_the_scene(self, panel, node, tmp_path):
        tick(panel, 0, HOLD_OUT_COLUMN)
        with saved_and_loaded(slicer.mrmlScene, tmp_path, "mrml"):
            again = panel.logic.getParameterNode()
            assert (again.startModel, again.minutes) == ("small", 0.1)
            assert json.loads(again.studyChoices) == {node.GetID(): "hold out"}

    def test_a_choice_that_is_nonsense_is_none(self, panel):
        parameters(panel).studyChoices = "["
        assert ticks(panel) == [(True, False)]


class TestReasons:
    def test_all_is_well(self, panel):
        assert panel.ui.trainButton.enabled
        assert panel.ui.stopButton.toolTip == "No task is running."
        assert "was stopped" in panel.ui.resumeButton.toolTip
        assert "no model" in panel.ui.useModelButton.toolTip
        assert "no report" in panel.ui.reportButton.toolTip

    def test_thick_slices_can_be_chosen(self, panel):
        panel.ui.acquisitionComboBox.setCurrentIndex(1)
        assert panel.ui.trainButton.enabled
        assert panel.logic.settingsOf(panel._parameterNode)["acquisition"] == "thick"

    def test_an_empty_range_of_factors(self, panel):
        panel.ui.factorGoalComboBox.setCurrentIndex(1)
        panel.ui.lowestSpinBox.value = 5
        assert "lowest must not be above" in panel.ui.trainButton.toolTip

    @pytest.mark.parametrize("name", ["", "my model", "small", "../up"])
    def test_a_name_that_a_model_cannot_get(self, panel, name):
        parameters(panel).modelName = name
        assert "choose" in panel.ui.trainButton.toolTip.lower()
        assert not panel.ui.trainButton.enabled

    def test_a_model_that_is_not_installed(self, panel):
        parameters(panel).startModel = "elsewhere"
        assert panel.ui.modelSelector.currentText == "elsewhere"
        assert "no model 'elsewhere'" in panel.ui.trainButton.toolTip

    def test_a_folder_with_a_run(self, panel, tmp_path):
        parameters(panel).runFolder = str(write_run(tmp_path / "run"))
        assert "holds a run already" in panel.ui.trainButton.toolTip
        panel.ui.newFolderButton.click()
        assert panel.ui.trainButton.enabled

    def test_the_factors_range_is_shown_where_it_counts(self, panel):
        panel.parent.show()
        assert not panel.ui.lowestSpinBox.visible
        panel.ui.factorGoalComboBox.setCurrentIndex(1)
        assert panel.ui.lowestSpinBox.visible


class TestDefaults:
    def test_a_new_dated_folder_below_the_users_documents(self, panel, tmp_path):
        folder = Path(panel.ui.runFolderSelector.currentPath)
        assert folder.is_relative_to(tmp_path / "home")
        assert folder.parent.name == "XViewSynth"
        assert folder.name.startswith(time.strftime("%Y-%m-"))
        assert not folder.exists()

    def test_a_name_that_no_model_has(self, panel, models):
        shutil.copytree(models / "small", models / "fine-tuned")
        assert panel.ui.nameLineEdit.text == "fine-tuned"
        assert panel.logic.freeModelName() == "fine-tuned-2"

    def test_from_scratch_is_offered(self, panel):
        panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText("From scratch"))
        assert parameters(panel).startModel == ""
        assert panel.logic.settingsOf(parameters(panel))["start"] is None


class TestTraining:
    def test_a_click_trains_shows_and_installs(self, slicer_desk, panel, node, models):
        """One real training, and all that a user sees of it: every one costs seconds."""
        layout = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        before, stages = layout.GetViewArrangement(), set()
        panel.parent.show()
        panel.ui.trainButton.click()
        assert "A training is running" in panel.ui.trainButton.toolTip
        assert layout.GetViewArrangement() == LAYOUT_ID
        slicer_desk.pump(
            lambda: (
                stages.add(panel.ui.stageLabel.text.split(",")[0])
                or panel.ui.stopButton.toolTip == "No task is running."
            )
        )
        run = Path(parameters(panel).runFolder)
        report = json.loads((run / "report.json").read_text())
        assert len(stages) > 3, stages
        assert html.escape(report["message"]) in panel.ui.resultLabel.text
        assert panel.ui.messageLabel.text == ""
        assert "choose a new folder to train again" in panel.ui.runLabel.text
        assert "Step 0: held-out gain x2" in panel.ui.logText.plainText
        assert "<td>x2</td>" in panel.ui.resultLabel.text
        assert not (run / "scans" / "volume-1.nrrd").read_bytes().count(b"Chest")
        slicer_desk.pump(lambda: len(panel.views.live.preview.nodes) == 4)
        assert panel.views.live.plots.gain_chart.GetNumberOfPlotSeriesNodes() >= 2

        panel.ui.useModelButton.click()
        chosen = slicer.util.getModuleLogic(ENHANCING).getParameterNode().model
        # A model that is not better is not installed beside the one it comes from.
        assert chosen == ("fine-tuned" if report["beats_start"] else "small")
        assert load_model(chosen).sha256 == report["model"]["sha256"]
        assert slicer_desk.panel(ENHANCING).ui.modelSelector.currentText == chosen
        panel = slicer_desk.panel()

        panel.ui.clearButton.click()
        assert layout.GetViewArrangement() == before
        assert volumes() == [node]
        assert slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode") == []
        assert slicer_desk.leaves_nothing()
        assert slicer_desk.desktop.shown_messages == []

    def test_stop_saves_and_resume_goes_on(self, slicer_desk, panel, stopped):
        parameters(panel).runFolder = str(stopped)
        assert not panel.ui.trainButton.enabled
        panel.ui.resumeButton.click()
        slicer_desk.pump(lambda: panel.ui.stageLabel.text.startswith("Training"))
        panel.ui.stopButton.click()
        assert "is being stopped and saved" in panel.ui.stopButton.toolTip
        slicer_desk.finish(panel)
        assert "was stopped and saved" in panel.ui.messageLabel.text
        assert panel.ui.resumeButton.enabled
        assert slicer_desk.leaves_nothing()

    def test_a_run_of_another_process_is_reported(self, slicer_desk, panel, stopped):
        with run_lock(stopped):
            parameters(panel).runFolder = str(stopped)
            assert "trains in this folder" in panel.ui.runLabel.text
            for button in (panel.ui.trainButton, panel.ui.resumeButton):
                assert not button.enabled
                assert "Wait until the training in" in button.toolTip
        slicer_desk.pump(lambda: panel.ui.resumeButton.enabled)
        assert "resume it" in panel.ui.runLabel.text

    def test_one_that_starts_at_the_same_moment_is_reported_by_the_worker(self, slicer_desk, panel, stopped):
        parameters(panel).runFolder = str(stopped)
        assert panel.ui.resumeButton.enabled
        panel.ui.resumeButton.click()
        # Before the worker, which takes a second to begin.
        with run_lock(stopped):
            slicer_desk.finish(panel)
            assert "Wait until the training in" in panel.ui.messageLabel.text
        slicer_desk.pump(lambda: panel.ui.resumeButton.enabled)

    def test_a_refusal_of_the_worker_is_reported(self, slicer_desk, panel, node):
        # Too short to be divided into slices to train on and slices to hold out, which the worker finds.
        slicer.util.updateVolumeFromArray(node, study_volume().voxels[:5])
        panel.ui.trainButton.click()
        slicer_desk.finish(panel)
        assert panel.ui.messageLabel.text
        assert "unexpectedly" not in panel.ui.messageLabel.text
        assert "volume-1" not in panel.ui.messageLabel.text
        assert not Path(parameters(panel).runFolder).exists()
        assert panel.ui.trainButton.enabled


class TestInterrupted:
    """What ends a run without the user's Stop: it saves, and nothing is orphaned."""

    @pytest.fixture
    def running(self, slicer_desk, panel, stopped):
        parameters(panel).runFolder = str(stopped)
        panel.ui.resumeButton.click()
        slicer_desk.pump(lambda: panel.ui.stageLabel.text.startswith("Training"))
        return panel

    def test_closing_the_scene(self, slicer_desk, running, stopped):
        slicer.mrmlScene.Clear(False)
        slicer_desk.finish(running)
        assert "The scene was closed." in running.ui.messageLabel.text
        assert slicer_desk.leaves_nothing()
        assert volumes() == []

    def test_reloading_the_module(self, slicer_desk, running, libraries):
        running.onReload()
        assert slicer.util.getModuleWidget(TRAINING) is not running
        slicer_desk.pump(lambda: not workers())
        assert slicer.util.getNodesByClass("vtkMRMLPlotChartNode") == []

    def test_closing_slicer(self, tmp_path, stopped):
        with desk(tmp_path / "again", TRAINING) as opened:
            panel = opened.panel()
            parameters(panel).runFolder = str(stopped)
            panel.ui.resumeButton.click()
            opened.wait_for_worker()
        until = time.monotonic() + 90
        while workers() and time.monotonic() < until:
            time.sleep(0.05)
        assert workers() == []

    def test_leaving_the_module_does_not(self, slicer_desk, running):
        slicer_desk.panel(ENHANCING)
        slicer_desk.desktop.pump(timeout=0.5)
        assert len(workers()) == 1
        assert slicer_desk.panel() is running
        assert running.ui.stopButton.enabled


class TestFinishedRun:
    """The folder of a run that finished some time ago."""

    @pytest.fixture
    def run(self, panel, tmp_path, tiny_model):
        folder = write_run(tmp_path / "run", tiny_model)
        parameters(panel).runFolder = str(folder)
        return folder

    def test_its_report_is_shown(self, panel, run):
        assert REPORT["message"].split("'")[-1] in panel.ui.resultLabel.text
        assert "step 40" in panel.ui.resultLabel.text

    def test_the_report_opens_in_the_browser(self, panel, run, monkeypatch):
        opened = []
        monkeypatch.setattr(panel, "openPage", opened.append)
        panel.ui.reportButton.click()
        assert opened == [run / "report.html"]

    def test_its_plots_and_preview_can_be_shown_and_follow_what_comes(self, slicer_desk, panel, run):
        panel.ui.showButton.click()
        slicer_desk.pump(lambda: len(panel.views.live.preview.nodes) == 4)
        for role, node in panel.views.live.preview.nodes.items():
            view = slicer.app.layoutManager().sliceWidget(f"XVSTrain{role.capitalize()}")
            slicer_desk.pump(
                lambda view=view, node=node: view.mrmlSliceCompositeNode().GetBackgroundVolumeID() == node.GetID()
            )
            assert view.mrmlSliceNode().GetOrientation() == "Coronal"
        append_log(run, {"kind": "note", "step": 60, "message": "More."})
        slicer_desk.pump(lambda: "Step 60: More." in panel.ui.logText.plainText)

    def test_showing_another_run_leaves_nothing_of_the_first(self, slicer_desk, panel, run):
        panel.ui.showButton.click()
        count = len(slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode"))
        panel.ui.showButton.click()
        assert len(slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")) == count
        panel.ui.clearButton.click()
        assert panel.ui.clearButton.toolTip == "No plots are shown."

    def test_a_model_that_is_installed_already_is_chosen(self, panel, run):
        panel.ui.useModelButton.click()
        assert "'small' is now chosen" in panel.ui.messageLabel.text

    def test_a_run_that_gained_nothing_says_so(self, panel, run):
        (run / "report.json").write_text(json.dumps({**REPORT, "beats_start": False}), encoding="utf-8")
        panel.ui.useModelButton.click()
        assert "training brought no gain" in panel.ui.messageLabel.text
        assert "'small'" in panel.ui.messageLabel.text

    def test_a_scene_that_was_saved_with_its_views_shows_it_again(self, slicer_desk, panel, run):
        panel.views.restore(RunFolder(run))
        assert panel.views.live is None
        slicer.app.layoutManager().setLayout(LAYOUT_ID)
        panel.restoreViews()
        assert panel.ui.clearButton.enabled
        panel.ui.clearButton.click()
        assert slicer.app.layoutManager().layout != LAYOUT_ID

    def test_such_a_scene_without_its_run_goes_back_to_the_standard_layout(self, slicer_desk, panel, tmp_path):
        parameters(panel).runFolder = str(tmp_path / "gone")
        slicer.app.layoutManager().setLayout(LAYOUT_ID)
        panel.restoreViews()
        assert slicer.app.layoutManager().layout != LAYOUT_ID
        assert panel.views.live is None

    def test_a_damaged_model_gives_a_sentence(self, panel, run, models):
        shutil.rmtree(models / "small")
        (run / "model" / "model.safetensors").write_bytes(b"damaged")
        panel.ui.useModelButton.click()
        assert "damaged" in panel.ui.messageLabel.text

    def test_a_damaged_report_gives_a_sentence(self, panel, run):
        (run / "report.json").write_text("{")
        panel.onParameters()
        assert "no report" in panel.ui.resultLabel.text


class TestPackages:
    def test_packages_of_training_are_installed_too(self, slicer_desk, panel, monkeypatch):
        known, asked = packages._is_met, []
        monkeypatch.setattr(packages, "_is_met", lambda line: "tensorboardX" not in line and known(line))
        monkeypatch.setattr("slicer.packaging.pip_ensure", lambda what, **options: asked.append((what, options)))
        panel.ui.trainButton.click()
        assert asked == [(["tensorboardX>=2.6"], {"requester": "XViewSynthTrain"})]
        assert "tensorboardX" in panel.ui.messageLabel.text
        assert workers() == []

    def test_scripts_get_no_question(self, slicer_desk, panel, node, monkeypatch, tmp_path):
        monkeypatch.setattr(packages, "_is_met", lambda line: "tensorboardX" not in line)
        with pytest.raises(ValueError, match="click 'Fine-tune' in the module once"):
            panel.logic.train([node], tmp_path / "run")
        assert slicer_desk.desktop.shown_messages == []
