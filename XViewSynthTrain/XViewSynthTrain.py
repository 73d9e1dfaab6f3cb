"""The desk: the Slicer module "XViewSynthTrain", its panel and its logic. What they do lies in XViewSynthTrainScene."""

import enum
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

MODULE_FOLDER = Path(__file__).resolve().parent
REQUIREMENTS = MODULE_FOLDER / "Resources" / "requirements-training.txt"
TRAIN_BUTTON = "Fine-tune"

# How often a run is looked at: often enough that its progress moves, seldom enough to cost nothing.
TICK_MILLISECONDS = 100
# Plots and preview, and the volumes that are offered.
LOOK_MILLISECONDS = 1000
# A folder is searched only once the user has stopped typing.
SETTLED_MILLISECONDS = 800

# What the user can do with a scan of the study set.
TRAIN, HOLD_OUT, NEITHER = "train", "hold out", "neither"
COLUMNS = (_("Train"), _("Hold out"), _("Scan"), _("Slices"), _("Spacing"), _("Remark"))
TRAIN_COLUMN, HOLD_OUT_COLUMN, NAME_COLUMN, SLICES_COLUMN, SPACING_COLUMN, REMARK_COLUMN = range(len(COLUMNS))


class XViewSynthTrain(ScriptedLoadableModule):
    """What Slicer shows of the module, and what is set up once."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("XViewSynth Train")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["XViewSynth"]
        self.parent.contributors = ["The XViewSynth authors"]
        self.parent.helpText = _(
            "Fine-tunes a model of XViewSynth on your own CT scans, without ground truth and without leaving this "
            "computer. Choose loaded volumes or a folder, press <b>Fine-tune</b>, and watch on scans that are held out "
            "whether the model becomes better. A run that is stopped, or interrupted, can be resumed. <b>Use this "
            "model</b> puts the result into XViewSynth's list. Synthetic slices are predictions: not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "An independent implementation of Fang, Wang, Zhang, Xu, Yuan and Han: Incremental Cross-view Mutual "
            "Distillation for Self-supervised Medical CT Synthesis, CVPR 2022 (arXiv 2112.10325)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted():
    """Called once all modules are there: get ready for scenes that were saved with the layout of a run."""
    layoutManager = slicer.app.layoutManager()
    if layoutManager:
        from XViewSynthTrainScene.layout import register_layout

        register_layout(layoutManager.layoutLogic().GetLayoutNode())


class Acquisition(enum.Enum):
    """How the scanner made slices; the values are the library's words."""

    GAP = "gap"
    THICK = "thick"

    def label(self):
        """What the panel calls it."""
        return {
            Acquisition.GAP: _("Thin slices far apart"),
            Acquisition.THICK: _("Averaged over thick slices"),
        }[self]


class Factors(enum.Enum):
    """Which factors to train and judge at."""

    AUTOMATIC = "automatic"
    RANGE = "range"

    def label(self):
        """What the panel calls it."""
        return {
            Factors.AUTOMATIC: _("Those that suit the scans"),
            Factors.RANGE: _("From, to"),
        }[self]


class Device(enum.Enum):
    """Where to compute; the values are the engine's words."""

    AUTOMATIC = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self):
        """What the panel calls it."""
        return {
            Device.AUTOMATIC: _("Automatic (a GPU if there is one)"),
            Device.CPU: _("Processor (CPU)"),
            Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS)"),
        }[self]


@parameterNodeWrapper
class XViewSynthTrainParameterNode:
    """What the user has chosen in the panel; saved and loaded with the scene.

    studyFolder - Where to look for scans; empty for loaded volumes alone.
    studyChoices - JSON: by key of a scan, whether to train on it, to hold it out, or neither; to train unless said.
    startModel - Name of the model to start from, "auto" for the one that ships for the acquisition; empty to start from
      scratch.
    runFolder - Full path of the run's folder.
    acquisition, device - As the command line's options of these names.
    factorGoal, lowestFactor, highestFactor - Which factors to train and judge at.
    minutes - How long to train.
    holdOutPercent - Share of scans, or of slices, to hold out where no scan is chosen for that.
    modelName - Name of the new model.
    gamma, distillation, wavelet, crossView, incremental, seed - The library's settings of these names.
    showViews - Whether plots and preview are shown while a run goes on.
    """

    studyFolder: str = ""
    studyChoices: str = "{}"
    startModel: str = "auto"
    runFolder: str = ""
    acquisition: Acquisition = Acquisition.GAP
    device: Device = Device.AUTOMATIC
    factorGoal: Factors = Factors.AUTOMATIC
    lowestFactor: Annotated[int, WithinRange(2, 8)] = 2
    highestFactor: Annotated[int, WithinRange(2, 8)] = 4
    minutes: Annotated[float, WithinRange(0.1, 10080.0)] = 10.0
    holdOutPercent: Annotated[int, WithinRange(0, 90)] = 25
    modelName: str = ""
    gamma: Annotated[float, WithinRange(0.01, 1.0)] = 0.25
    distillation: Annotated[float, WithinRange(0.0, 10.0)] = 0.15
    wavelet: Annotated[float, WithinRange(0.0, 10.0)] = 0.1
    crossView: bool = True
    incremental: bool = True
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0
    showViews: bool = True


class XViewSynthTrainWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It starts runs and looks at them from timers; nothing here waits."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._run = None
        self._live = None
        self._search = None
        self._candidates = []
        self._shownReport = None
        self._fillingTable = False
        self._isAtWork = False

    # Life cycle

    def setup(self):
        """Build the panel from its .ui file and connect it."""
        import ctk
        import qt

        from XViewSynthScene.desk import make_timer

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/XViewSynthTrain.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self._qt = qt
        self._setUpTable()
        for selector in (self.ui.folderSelector, self.ui.runFolderSelector):
            selector.filters = ctk.ctkPathLineEdit.Dirs

        self.logic = XViewSynthTrainLogic()
        self._runTimer = make_timer(qt, TICK_MILLISECONDS, self.onTick)
        self._liveTimer = make_timer(qt, LOOK_MILLISECONDS, self.onLook)
        self._studyTimer = make_timer(qt, LOOK_MILLISECONDS, self.onLookAtStudy)
        self._searchTimer = make_timer(qt, SETTLED_MILLISECONDS, self.onSearch, single_shot=True)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.folderSelector.connect("currentPathChanged(QString)", self.onFolderSelected)
        self.ui.runFolderSelector.connect("currentPathChanged(QString)", self.onRunFolderSelected)
        self.ui.modelSelector.connect("currentIndexChanged(int)", self.onModelSelected)
        self.ui.studyTable.connect("itemChanged(QTableWidgetItem*)", self.onTicked)
        self.ui.newFolderButton.connect("clicked(bool)", self.onNewFolder)
        self.ui.trainButton.connect("clicked(bool)", self.onTrain)
        self.ui.stopButton.connect("clicked(bool)", self.onStop)
        self.ui.resumeButton.connect("clicked(bool)", self.onResume)
        self.ui.useModelButton.connect("clicked(bool)", self.onUseModel)
        self.ui.reportButton.connect("clicked(bool)", self.onReport)
        self.ui.showButton.connect("clicked(bool)", self.onShow)
        self.ui.clearButton.connect("clicked(bool)", self.onClear)
        self.initializeParameterNode()

    def cleanup(self):
        """The panel goes away, because the application closes or the module is reloaded: what runs is saved."""
        self._endWork()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """The user opens the module."""
        self.initializeParameterNode()
        self._studyTimer.start()

    def exit(self):
        """The user opens another module; a run, its plots and its preview go on."""
        self._studyTimer.stop()
        self.setParameterNode(None)

    def onReload(self):
        """Reload the module together with its libraries, which Slicer by itself would keep."""
        import sys

        self._endWork()
        ours = ("XViewSynthTrainLib", "XViewSynthTrainScene")
        for name in [name for name in sys.modules if name.split(".")[0] in ours]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        """The scene is about to be closed: let go of its nodes. A run hears of it by itself, and saves."""
        self._closeLive()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """The scene was closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Make sure that there is a parameter node, with a folder for the run and a name for the model."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.runFolder:
            self.onNewFolder()
        if not self._parameterNode.modelName:
            self._parameterNode.modelName = self.logic.freeModelName()

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        if self._parameterNode:
            self._listModels()
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self._gatherCandidates()
        self.onParameters()

    # What is shown

    def onParameters(self, caller=None, event=None):
        """Bring everything in line with what is chosen and with what runs."""
        parameters = self._parameterNode
        for spinBox in (self.ui.lowestSpinBox, self.ui.highestSpinBox):
            spinBox.visible = bool(parameters) and parameters.factorGoal is Factors.RANGE
        self._showPaths()
        self._showRunFolder()
        self._selectModel()
        self._showTicks()
        refusal = self._showPlan()
        running = _("A training runs already: wait, or stop it.") if self._run else None
        self._allow(
            self.ui.trainButton,
            running or refusal,
            _("Train on the chosen scans; Slicer stays usable meanwhile."),
        )
        self._allow(
            self.ui.stopButton,
            self._stopRefusal(),
            _("Finish the step and save what was learned, so that the run can be resumed."),
        )
        self._allow(
            self.ui.resumeButton,
            running or self._resumeRefusal(),
            _("Go on with the run that was stopped in the run folder, with its own settings."),
        )
        self._updateResult()

    def _showPlan(self):
        """Show what Fine-tune would do; return why it cannot be done, or None."""
        from XViewSynthTrainScene.sentences import describe_study

        if not self._parameterNode:
            self.ui.planLabel.text = ""
            return _("The scene is being closed.")
        training, heldOut = self._chosen(TRAIN), self._chosen(HOLD_OUT)
        if training:
            share = self._parameterNode.holdOutPercent / 100
            self.ui.planLabel.text = describe_study(training, heldOut, share)
        else:
            self.ui.planLabel.text = _("Load a CT scan, or choose a folder with scans, and tick what to train on.")
            return _("Tick at least one scan to train on.")
        if self._search and not self._search.ended:
            return _("The folder is still being searched: wait a moment.")
        try:
            self.logic.checkNewRun(self._parameterNode)
        except ValueError as problem:
            return str(problem)
        return None

    def _showRunFolder(self):
        """Say what is in the run folder, unless the panel itself has it at work."""
        from XViewSynthTrainScene.sentences import describe_run_folder

        folder = self._runFolder()
        text = describe_run_folder(folder) if folder and not self._run else ""
        self.ui.runLabel.text = text
        self.ui.runLabel.visible = bool(text)
        self._isAtWork = bool(folder) and folder.is_at_work

    def _stopRefusal(self):
        if not self._run:
            return _("Nothing runs.")
        return _("It is stopping, and saves what was learned.") if self._run.stopping else None

    def _resumeRefusal(self):
        if not self._parameterNode:
            return _("The scene is being closed.")
        try:
            self._runFolder().check_resumable()
        except ValueError as problem:
            return str(problem)
        return None

    def _updateResult(self):
        """What the run folder holds, and what can be done with it."""
        from XViewSynthTrainScene.sentences import describe_report

        folder = self._runFolder()
        running = _("Wait for the end of the training, or stop it.") if self._run else None
        none = _("There is no run in the run folder.")
        self._allow(
            self.ui.useModelButton,
            running or (None if folder and folder.model else _("There is no model in the run folder yet.")),
            _("Put the model into XViewSynth's list, and choose it there."),
        )
        self._allow(
            self.ui.reportButton,
            None if folder and folder.report_page else _("There is no report yet: it is written at the end of a run."),
            _("Show the report of the run in the browser."),
        )
        self._allow(
            self.ui.showButton,
            running or (None if folder and folder.holds_run else none),
            _("Show loss, gain and preview of the run in the run folder."),
        )
        self._allow(
            self.ui.clearButton,
            None if self._live else _("No plots are shown."),
            _("Remove plots and preview from the scene, and go back to the layout before them."),
        )
        report = self._finishedReport(folder)
        if report != self._shownReport:
            self._shownReport = report
            self.ui.resultLabel.text = describe_report(report) if report else ""
        self.ui.resultLabel.visible = bool(report)

    def _finishedReport(self, folder):
        """The report in the run folder; None without one, and while a run goes on."""
        if self._run or not folder or not folder.is_finished:
            return None
        try:
            return folder.read_report()
        except ValueError as problem:
            return {"message": str(problem)}

    def _allow(self, button, refusal, toolTip):
        from XViewSynthScene.desk import allow

        allow(button, refusal, toolTip)

    def _say(self, text):
        """Show a sentence below the buttons."""
        self.ui.messageLabel.text = text
        self.ui.messageLabel.visible = bool(text)

    def _showLog(self, text):
        self.ui.logText.setPlainText(text)
        self.ui.logText.visible = bool(text)

    def _tell(self, entry):
        """Add an entry of the run's log to what is shown of it."""
        from XViewSynthTrainScene.sentences import describe_entry

        line = describe_entry(entry)
        if line:
            self.ui.logText.appendPlainText(line)
            self.ui.logText.visible = True

    def _showProgress(self, state):
        from XViewSynthScene.desk import show_progress

        show_progress(self.ui.progressBar, self.ui.stageLabel, state)

    # Study set

    def onFolderSelected(self, path):
        """The user has chosen, or is typing, another folder with scans."""
        if self._parameterNode and path != self._parameterNode.studyFolder:
            self._parameterNode.studyFolder = path
            self._searchTimer.start()

    def onSearch(self):
        """The user has stopped typing: look for scans there."""
        folder = self._parameterNode.studyFolder if self._parameterNode else ""
        if self._search and str(self._search.folder) == folder:
            return
        self._stopSearch()
        if folder:
            self._search = self.logic.startSearch(folder)
        self.onLookAtStudy()

    def onLookAtStudy(self):
        """Look whether volumes were loaded or removed, what the search has found, and who is in the run folder."""
        if self._parameterNode and self._parameterNode.studyFolder and not self._search:
            self._searchTimer.start()
        folder = self._runFolder()
        begunOrEnded = bool(folder) and folder.is_at_work != self._isAtWork
        if self._gatherCandidates() or begunOrEnded:
            self.onParameters()

    def onTicked(self, item):
        """The user has ticked a box of the table."""
        if self._fillingTable or not self._parameterNode or item.column() not in (TRAIN_COLUMN, HOLD_OUT_COLUMN):
            return
        use = {TRAIN_COLUMN: TRAIN, HOLD_OUT_COLUMN: HOLD_OUT}[item.column()]
        if item.checkState() != self._qt.Qt.Checked:
            use = NEITHER
        choices = self.logic.choicesOf(self._parameterNode)
        choices[self._candidates[item.row()].key] = use
        self._parameterNode.studyChoices = json.dumps(choices)

    def _gatherCandidates(self):
        """Bring the table in line with the scene and the search; return whether anything has changed."""
        candidates = self.logic.loadedCandidates() if self._parameterNode else []
        searching = bool(self._search) and not self._search.ended
        if self._search:
            candidates += self._search.candidates
        text = self._searchSentence(searching)
        changed = candidates != self._candidates or text != self.ui.searchLabel.text
        self.ui.searchLabel.text = text
        self.ui.searchLabel.visible = bool(text)
        if candidates != self._candidates:
            self._candidates = candidates
            self._fillTable()
        return changed

    def _searchSentence(self, searching):
        if not self._search:
            return ""
        if searching:
            progress = self._search.progress
            return _("Searching the folder: {done} of {total} scans looked at.").format(
                done=progress.done, total=max(progress.total, progress.done)
            )
        if self._search.problem:
            return self._search.problem
        if self._search.note:
            return self._search.note
        return "" if self._search.candidates else _("There is no CT scan in this folder or below.")

    def _setUpTable(self):
        table = self.ui.studyTable
        table.setColumnCount(len(COLUMNS))
        table.setHorizontalHeaderLabels(list(COLUMNS))
        table.horizontalHeader().setStretchLastSection(True)

    def _fillTable(self):
        from XViewSynthTrainScene.sentences import describe_spacing

        qt = self._qt
        self._fillingTable = True
        try:
            table = self.ui.studyTable
            table.setRowCount(len(self._candidates))
            for row, candidate in enumerate(self._candidates):
                texts = {
                    NAME_COLUMN: candidate.name,
                    SLICES_COLUMN: "" if candidate.slices is None else str(candidate.slices),
                    SPACING_COLUMN: describe_spacing(candidate.slice_spacing_mm),
                    REMARK_COLUMN: candidate.problem or _("usable"),
                }
                for column in range(len(COLUMNS)):
                    item = qt.QTableWidgetItem(texts.get(column, ""))
                    item.setToolTip(candidate.problem or str(candidate.key))
                    flags = qt.Qt.ItemIsSelectable
                    if candidate.problem is None:
                        flags = flags | qt.Qt.ItemIsEnabled
                        if column in (TRAIN_COLUMN, HOLD_OUT_COLUMN):
                            flags = flags | qt.Qt.ItemIsUserCheckable
                            item.setCheckState(qt.Qt.Unchecked)
                    item.setFlags(flags)
                    table.setItem(row, column, item)
            table.resizeColumnsToContents()
        finally:
            self._fillingTable = False

    def _showTicks(self):
        """Bring the boxes of the table in line with what is chosen."""
        if not self._parameterNode:
            return
        choices = self.logic.choicesOf(self._parameterNode)
        self._fillingTable = True
        try:
            for row, candidate in enumerate(self._candidates):
                if candidate.problem is None:
                    use = choices.get(candidate.key, TRAIN)
                    for column, ticked in ((TRAIN_COLUMN, use == TRAIN), (HOLD_OUT_COLUMN, use == HOLD_OUT)):
                        state = self._qt.Qt.Checked if ticked else self._qt.Qt.Unchecked
                        self.ui.studyTable.item(row, column).setCheckState(state)
        finally:
            self._fillingTable = False

    def _chosen(self, use):
        """The scans that the user wants to train on, or to hold out."""
        choices = self.logic.choicesOf(self._parameterNode)
        return [
            candidate
            for candidate in self._candidates
            if candidate.problem is None and choices.get(candidate.key, TRAIN) == use
        ]

    def _stopSearch(self):
        self._searchTimer.stop()
        if self._search:
            self._search.stop()
            self._search = None

    # Work

    def onTrain(self):
        """Train on the chosen scans."""
        self._begin(
            lambda: self.logic.startTraining(
                [candidate.source for candidate in self._chosen(TRAIN)],
                self._parameterNode.runFolder,
                [candidate.source for candidate in self._chosen(HOLD_OUT)],
                **self.logic.settingsOf(self._parameterNode),
            )
        )

    def onResume(self):
        """Go on with the run that was stopped in the run folder."""
        self._begin(lambda: self.logic.startResuming(self._parameterNode.runFolder, self._parameterNode.device.value))

    def onStop(self):
        """Have the run save what it has learned, and end."""
        if self._run:
            self._run.stop()
            self.onParameters()

    def onTick(self):
        """Look at what runs."""
        if not self._run:
            self._runTimer.stop()
            return
        state = self._run.poll()
        if not state.ended:
            self._showProgress(state)
            return
        run, self._run = self._run, None
        self._runTimer.stop()
        self._showProgress(None)
        self.onLook()
        # What a run has found is told as its result.
        self._say("" if state.status == "done" else state.message)
        if state.status == "failed":
            logging.error(f"XViewSynthTrain: {state.message}\n{run.log}")
            self._showLog(run.log)
        run.close()
        self.onParameters()

    def _begin(self, start):
        """Install what is missing, forget what is shown of another run, and start."""
        self._say("")
        self._showLog("")
        try:
            self.logic.installPackages()
            self._run = start()
        except ValueError as problem:
            self._say(str(problem))
            self.onParameters()
            return
        self._showLive(self._run.folder.path, self._parameterNode.showViews)
        self._showProgress(self._run.poll())
        self._runTimer.start()
        self.onParameters()

    def _endWork(self):
        """Have what runs save and end by itself, and stop looking."""
        self._stopSearch()
        if self._run:
            self._run.close()
            self._run = None
            self._showProgress(None)
        self._closeLive()
        for timer in (self._runTimer, self._liveTimer, self._studyTimer, self._searchTimer):
            timer.stop()

    # Plots and preview

    def onShow(self):
        """Show the run that lies in the run folder."""
        self._showLog("")
        self._showLive(self._runFolder().path, True)
        self.onLook()
        self.onParameters()

    def onClear(self):
        """Remove plots and preview, and go back to the layout before them."""
        self._closeLive()
        self.onParameters()

    def onLook(self):
        """Show what is new of a run."""
        if self._live:
            self._live.update(self._tell)

    def _showLive(self, folder, inViews):
        self._closeLive()
        self._live = self.logic.watch(folder, inViews)
        self._liveTimer.start()

    def _closeLive(self):
        self._liveTimer.stop()
        live, self._live = self._live, None
        if live:
            live.close()

    # Result

    def onUseModel(self):
        """Put the model into XViewSynth's list."""
        try:
            with slicer.util.WaitCursor():
                name = self.logic.useModel(self._parameterNode.runFolder)
        except ValueError as problem:
            self._say(str(problem))
            return
        self._listModels()
        self._parameterNode.modelName = self.logic.freeModelName()
        self._say(_("The model '{name}' is chosen in the module XViewSynth now.").format(name=name))

    def onReport(self):
        """Show the report in the browser."""
        self.openPage(self._runFolder().report_page)

    def openPage(self, path):
        """Show a file in the browser."""
        self._qt.QDesktopServices.openUrl(self._qt.QUrl.fromLocalFile(str(path)))

    # Folders and models

    def onRunFolderSelected(self, path):
        """The user has chosen, or is typing, another folder for the run."""
        if self._parameterNode and path != self._parameterNode.runFolder:
            self._parameterNode.runFolder = path

    def onNewFolder(self):
        """Choose a folder that there is not yet."""
        if self._parameterNode:
            documents = self._qt.QStandardPaths.writableLocation(self._qt.QStandardPaths.DocumentsLocation)
            self._parameterNode.runFolder = self.logic.newRunFolder(documents)

    def _runFolder(self):
        """The chosen folder; None while the scene is being closed."""
        from XViewSynthTrainScene.folders import RunFolder

        return RunFolder(Path(self._parameterNode.runFolder)) if self._parameterNode else None

    def _showPaths(self):
        if not self._parameterNode:
            return
        for selector, path in (
            (self.ui.folderSelector, self._parameterNode.studyFolder),
            (self.ui.runFolderSelector, self._parameterNode.runFolder),
        ):
            if selector.currentPath != path:
                wasBlocked = selector.blockSignals(True)
                selector.currentPath = path
                selector.blockSignals(wasBlocked)

    def _listModels(self):
        """Offer the installed models, and to start from scratch."""
        names = ["auto", *self.logic.modelNames(), ""]
        selector = self.ui.modelSelector
        shown = [selector.itemData(index) for index in range(selector.count)]
        if shown != names:
            wasBlocked = selector.blockSignals(True)
            selector.clear()
            titles = {"auto": _("Standard for the acquisition"), "": _("From scratch")}
            for name in names:
                selector.addItem(titles.get(name, name), name)
            selector.blockSignals(wasBlocked)

    def _selectModel(self):
        """Show the chosen model; one that is not installed here stays chosen and is shown as well."""
        if not self._parameterNode:
            return
        selector, model = self.ui.modelSelector, self._parameterNode.startModel
        wasBlocked = selector.blockSignals(True)
        if selector.findData(model) < 0:
            selector.addItem(model, model)
        selector.setCurrentIndex(selector.findData(model))
        selector.blockSignals(wasBlocked)

    def onModelSelected(self, index):
        """The user has chosen another model to start from."""
        if self._parameterNode and index >= 0:
            self._parameterNode.startModel = self.ui.modelSelector.itemData(index)


class XViewSynthTrainLogic(ScriptedLoadableModuleLogic):
    """What the panel and scripts can ask for. Only `installPackages`, which scripts do not call, opens a dialog."""

    def getParameterNode(self):
        """The panel's choices."""
        return XViewSynthTrainParameterNode(super().getParameterNode())

    # For scripts

    def train(self, volumesOrPaths, runFolder, heldOut=(), **settings):
        """Train a model on scans, and wait for it; Slicer's events are processed meanwhile.

        :param volumesOrPaths: vtkMRMLScalarVolumeNodes, and paths of files or DICOM folders: CT in HU, no truth needed.
        :param runFolder: gets settings, log, checkpoint, report and model; there must be no run in it yet.
        :param heldOut: scans, given likewise, to judge the model on.
        :param settings: fields of XViewSynthTrainScene.jobs.TrainSettings: start (a model's name, or None to start from
          scratch), name, minutes or steps, hold_out_share, factors, device, gamma, distillation, wavelet, cross_view,
          incremental, seed, further.
        :return: the run's report, as a dictionary.
        :raises ValueError: with a sentence that says what to do.

        >>> logic = slicer.util.getModuleLogic("XViewSynthTrain")  # doctest: +SKIP
        >>> report = logic.train(["/study/chest.nrrd"], "/study/run", minutes=10)  # doctest: +SKIP
        >>> report["beats_start"] and logic.useModel("/study/run")  # doctest: +SKIP
        """
        self._requirePackages()
        return self._wait(self.startTraining(volumesOrPaths, runFolder, heldOut, **settings)).report

    def resume(self, runFolder, device="auto"):
        """Go on with a run that was stopped, with its own settings, and wait for it; see `train`.

        :raises ValueError: with a sentence that says what to do.
        """
        self._requirePackages()
        return self._wait(self.startResuming(runFolder, device)).report

    def startTraining(self, volumesOrPaths, runFolder, heldOut=(), **settings):
        """Begin to train, and return at once; the parameters are those of `train`.

        :return: XViewSynthTrainScene.jobs.TrainingRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthTrainScene.jobs import TrainingRun, settings_from
        from XViewSynthTrainScene.study import scan_from

        training, heldOut = ([scan_from(scan) for scan in scans] for scans in (volumesOrPaths, heldOut))
        run = TrainingRun(
            training, Path(runFolder).absolute(), settings_from(settings), heldOut, scene=slicer.mrmlScene
        )
        run.start()
        return run

    def startResuming(self, runFolder, device="auto"):
        """Begin to go on with a run that was stopped, and return at once.

        :return: XViewSynthTrainScene.jobs.TrainingRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthTrainScene.jobs import TrainingRun

        run = TrainingRun.resumed(Path(runFolder).absolute(), device, scene=slicer.mrmlScene)
        run.start()
        return run

    def useModel(self, runFolder):
        """Put the model of a run into XViewSynth's list, and choose it there.

        :return: its name; that of the starting model where the run found nothing better.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthTrainScene.folders import RunFolder, take_model

        name = take_model(RunFolder(Path(runFolder).absolute()))
        slicer.util.getModuleLogic("XViewSynth").getParameterNode().model = name
        return name

    def _requirePackages(self):
        from XViewSynthScene.packages import require_packages

        require_packages(REQUIREMENTS, TRAIN_BUTTON)

    def _wait(self, run):
        """Wait for a run and give it back; an interrupted script leaves a run that can be resumed."""
        from XViewSynthScene.desk import wait_for

        state = wait_for(run, run.close)
        if state.status != "done":
            raise ValueError(state.message)
        return run

    # For the panel

    def settingsOf(self, parameterNode):
        """The chosen settings, for `startTraining`."""
        factors = None
        if parameterNode.factorGoal is Factors.RANGE:
            factors = tuple(range(parameterNode.lowestFactor, parameterNode.highestFactor + 1))
        return {
            "start": parameterNode.startModel or None,
            "name": parameterNode.modelName,
            "minutes": parameterNode.minutes,
            "hold_out_share": parameterNode.holdOutPercent / 100,
            "factors": factors,
            "device": parameterNode.device.value,
            "acquisition": parameterNode.acquisition.value,
            "gamma": parameterNode.gamma,
            "distillation": parameterNode.distillation,
            "wavelet": parameterNode.wavelet,
            "cross_view": parameterNode.crossView,
            "incremental": parameterNode.incremental,
            "seed": parameterNode.seed,
        }

    def checkNewRun(self, parameterNode):
        """Raise ValueError with a sentence where a run with the chosen settings cannot begin."""
        from XViewSynthLib.model.catalogue import check_new_name
        from XViewSynthTrainScene.folders import RunFolder
        from XViewSynthTrainScene.jobs import settings_from

        settings_from(self.settingsOf(parameterNode)).arguments()
        check_new_name(parameterNode.modelName)
        RunFolder(Path(parameterNode.runFolder)).check_new()

    def choicesOf(self, parameterNode):
        """What the user wants with the scans of the study set, by key; a saved scene may hold anything."""
        try:
            choices = json.loads(parameterNode.studyChoices)
        except ValueError:
            choices = None
        return choices if isinstance(choices, dict) else {}

    def loadedCandidates(self):
        """The volumes of the scene that may be trained on, or why not."""
        from XViewSynthTrainScene.study import loaded_candidates

        return loaded_candidates(slicer.mrmlScene)

    def startSearch(self, folder):
        """Begin to look for scans below a folder."""
        from XViewSynthTrainScene.study import FolderSearch

        return FolderSearch(Path(folder))

    def installPackages(self):
        """Install what training needs, asking the user; raises ValueError where that is not possible or wanted."""
        from XViewSynthScene.packages import install_packages

        install_packages(REQUIREMENTS, "XViewSynthTrain")

    def modelNames(self):
        """Names of the models that are installed."""
        from XViewSynthLib.model.catalogue import list_models

        return [entry.name for entry in list_models()]

    def freeModelName(self):
        """A name that no model has."""
        names, number, name = self.modelNames(), 1, "fine-tuned"
        while name in names:
            number += 1
            name = f"fine-tuned-{number}"
        return name

    def newRunFolder(self, documents):
        """A folder that there is not yet, below the user's documents."""
        from XViewSynthTrainScene.folders import new_run_folder

        return str(new_run_folder(Path(documents) / "XViewSynth", datetime.now()))

    def watch(self, folder, inViews):
        """What a run folder shows, in this application's views or as nodes alone."""
        from XViewSynthScene.desk import renderer_of
        from XViewSynthTrainScene.layout import TrainingViews
        from XViewSynthTrainScene.live import LiveRun

        layoutManager = slicer.app.layoutManager()
        views = None
        if layoutManager and inViews:
            layoutNode = layoutManager.layoutLogic().GetLayoutNode()
            views = TrainingViews(slicer.mrmlScene, layoutNode, slicer.app.applicationLogic(), renderer_of)
        return LiveRun(slicer.mrmlScene, Path(folder), views)


class XViewSynthTrainTest(ScriptedLoadableModuleTest):
    """What can be tested wherever the module is installed. Without PyTorch, what needs it says so and passes."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def test_aShortRunLeavesAModel(self):
        """Two steps on a small scan, from scratch with a small network, are a whole run."""
        import tempfile

        from XViewSynthScene.packages import missing_packages

        missing = missing_packages(REQUIREMENTS)
        if missing:
            self.delayDisplay(f"Not tested, since these are missing: {', '.join(missing)}")
            return
        self.delayDisplay("Training for two steps")
        network = {"channels": 4, "axial_blocks": 1, "pixel_blocks": 1}
        with tempfile.TemporaryDirectory() as folder:
            report = XViewSynthTrainLogic().train(
                [self._makeScan()],
                Path(folder) / "run",
                start=None,
                steps=2,
                factors=(2,),
                device="cpu",
                further={"network": network, "slices": 5, "pixels": 16},
            )
            assert report["steps"] == 2
            assert (Path(folder) / "run" / "model" / "model.safetensors").is_file()

    def test_labelmapsAreRefused(self):
        """What is no CT is refused with a sentence, and no folder is made."""
        import tempfile

        labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        refusal = "none"
        with tempfile.TemporaryDirectory() as folder:
            try:
                XViewSynthTrainLogic().startTraining([labelmap], Path(folder) / "run")
            except ValueError as problem:
                refusal = str(problem)
            assert not (Path(folder) / "run").exists()
        assert "labelmap" in refusal

    def _makeScan(self):
        """A body with a bone in noise: (25, 48, 48) voxels of 0.8 x 0.8 x 2 mm, HU."""
        import numpy as np

        k, j, i = np.meshgrid(*(np.linspace(-1, 1, count) for count in (25, 48, 48)), indexing="ij")
        hu = np.where(i**2 + j**2 < 0.8, 40.0, -1000.0)
        hu[(i - 0.2 * k) ** 2 + j**2 < 0.05] = 700.0
        hu += np.random.default_rng(0).normal(0, 8, hu.shape)
        node = slicer.util.addVolumeFromArray(hu.round().astype(np.int16), name="Scan")
        node.SetSpacing(0.8, 0.8, 2.0)
        return node
