"""The panel of the module XViewSynthTrain. It starts runs and polls them from timers; no call here waits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from XViewSynthScene.desk import allow, make_timer
from XViewSynthUI.messages import Messages
from XViewSynthUI.models import ModelSelector
from XViewSynthUI.panel import Panel
from XViewSynthUI.progress import RunProgress

from .live import LiveViews
from .logic import XViewSynthTrainLogic
from .parameters import Factors
from .paths import FolderSelector
from .requirements import installPackages
from .result import RunResult, resumeRefusal
from .study import StudySet, choose
from .table import HOLD_OUT, TRAIN

# Interval of the updates of the table of scans.
POLL_MILLISECONDS = 1000


class XViewSynthTrainWidget(Panel):
    """Binds the parts of the panel to the parameter node and to each other."""

    packages = ("XViewSynthTrainLib", "XViewSynthTrainScene", "XViewSynthTrainUI")

    # Life cycle

    def setup(self) -> None:
        """Build the panel from its .ui file and connect it."""
        Panel.setup(self)
        self.logic = XViewSynthTrainLogic()
        self.messages = Messages(self.ui.messageLabel, self.ui.logText)
        self.progress = RunProgress(self.ui.progressBar, self.ui.stageLabel, self._ended)
        self.study = StudySet(self.ui, self.onSearch, self.onTicked)
        self.views = LiveViews(self.messages.appendLog)
        self.result = RunResult(self.ui)
        self.studyFolderSelector = FolderSelector(self.ui.folderSelector, self.onFolderSelected)
        self.runFolderSelector = FolderSelector(self.ui.runFolderSelector, self.onRunFolderSelected)
        self.models = ModelSelector(self.ui.modelSelector, self.onModelSelected)
        self._studyTimer = make_timer(qt, POLL_MILLISECONDS, self.onUpdateStudy)
        self.ui.newFolderButton.connect("clicked(bool)", self.onNewFolder)
        self.ui.trainButton.connect("clicked(bool)", self.onTrain)
        self.ui.stopButton.connect("clicked(bool)", self.onStop)
        self.ui.resumeButton.connect("clicked(bool)", self.onResume)
        self.ui.useModelButton.connect("clicked(bool)", self.onUseModel)
        self.ui.reportButton.connect("clicked(bool)", self.onReport)
        self.ui.showButton.connect("clicked(bool)", self.onShow)
        self.ui.clearButton.connect("clicked(bool)", self.onClear)
        self.initializeParameterNode()

    def enter(self) -> None:
        """Bind the panel when the user opens the module."""
        Panel.enter(self)
        self._studyTimer.start()

    def exit(self) -> None:
        """Release the parameter node when the user opens another module; a run with its plots continues."""
        self._studyTimer.stop()
        Panel.exit(self)

    def initializeParameterNode(self) -> None:
        """Bind the panel to the parameter node, with default run folder and model name."""
        Panel.initializeParameterNode(self)
        if not self._parameterNode.runFolder:
            self.onNewFolder()
        if not self._parameterNode.modelName:
            self._parameterNode.modelName = self.logic.freeModelName()

    def setParameterNode(self, parameterNode: Any | None) -> None:
        """Bind the panel to a parameter node, or to none, and list the scans of its scene."""
        self.study.gather(withScene=bool(parameterNode))
        Panel.setParameterNode(self, parameterNode)

    def fillSelectors(self) -> None:
        """List the installed models and the start from scratch."""
        self.models.offer(["auto", *self.logic.modelNames(), ""])

    def restoreViews(self) -> None:
        """Fill the views of a run if a loaded scene shows them."""
        from XViewSynthTrainScene.folders import RunFolder

        self.views.restore(RunFolder(Path(self.logic.getParameterNode().runFolder)))
        self.onParameters()

    def releaseScene(self) -> None:
        """Release all nodes."""
        self.messages.show("")
        self.views.close()

    def endWork(self) -> None:
        """Stop run, search and timers; the run saves a checkpoint and ends by itself."""
        self.study.stop()
        self.progress.close()
        self.views.close()
        self._studyTimer.stop()

    # Display

    def onParameters(self, caller: Any = None, event: str | None = None) -> None:
        """Update all widgets from the parameters and the running work."""
        parameters, folder, isRunning = self._parameterNode, self._runFolder(), self.progress.run is not None
        for spinBox in (self.ui.lowestSpinBox, self.ui.highestSpinBox):
            spinBox.visible = bool(parameters) and parameters.factorGoal is Factors.RANGE
        self.result.showFolder(folder, isRunning)
        if parameters:
            self.studyFolderSelector.show(parameters.studyFolder)
            self.runFolderSelector.show(parameters.runFolder)
            self.models.select(parameters.startModel)
            self.study.update(parameters)
        refusal = self._showPlan()
        running = _("A training is running: wait, or stop it.") if isRunning else None
        allow(self.ui.trainButton, running or refusal, _("Train on the chosen scans. Slicer stays usable meanwhile."))
        allow(
            self.ui.stopButton,
            self._stopRefusal(),
            _("Finish the current step and save the run, so that it can be resumed."),
        )
        allow(
            self.ui.resumeButton,
            running or resumeRefusal(folder),
            _("Resume the stopped run in the run folder with its own settings."),
        )
        self.result.update(folder, isRunning, self.views.live is not None)

    def _showPlan(self) -> str | None:
        """Describe the planned run; return the reason why it is not possible, or None."""
        from XViewSynthTrainScene.sentences import describe_study

        parameters = self._parameterNode
        if not parameters:
            self.ui.planLabel.text = ""
            return _("The scene is being closed.")
        training, heldOut = (self.study.chosen(parameters, use) for use in (TRAIN, HOLD_OUT))
        if not training:
            self.ui.planLabel.text = _("Load a CT scan or choose a folder with scans, then tick the scans to train on.")
            return _("Tick at least one scan to train on.")
        self.ui.planLabel.text = describe_study(training, heldOut, parameters.holdOutPercent / 100)
        if self.study.isSearching:
            return _("The folder is still being searched: wait a moment.")
        try:
            self.logic.checkNewRun(parameters)
        except ValueError as problem:
            return str(problem)
        return None

    def _stopRefusal(self) -> str | None:
        if not self.progress.run:
            return _("No task is running.")
        return _("The run is being stopped and saved.") if self.progress.run.stopping else None

    def _runFolder(self) -> Any | None:
        """The chosen folder; None while the scene is being closed."""
        from XViewSynthTrainScene.folders import RunFolder

        return RunFolder(Path(self._parameterNode.runFolder)) if self._parameterNode else None

    # Training set

    def onFolderSelected(self, path: str) -> None:
        """Set the folder with scans that the user chooses or types."""
        if self._parameterNode and path != self._parameterNode.studyFolder:
            self._parameterNode.studyFolder = path
            self.study.requestSearch()

    def onSearch(self) -> None:
        """Search the folder after the user has stopped typing."""
        self.study.searchFolder(self._parameterNode.studyFolder if self._parameterNode else "")
        self.onUpdateStudy()

    def onUpdateStudy(self) -> None:
        """Update the table of scans and the state of the run folder."""
        if self._parameterNode and self._parameterNode.studyFolder and not self.study.search:
            self.study.requestSearch()
        begunOrEnded = self.result.hasBegunOrEnded(self._runFolder())
        if self.study.gather(withScene=bool(self._parameterNode)) or begunOrEnded:
            self.onParameters()

    def onTicked(self, candidate: Any, use: str) -> None:
        """Store a tick in the table."""
        if self._parameterNode:
            choose(self._parameterNode, candidate, use)

    # Work

    def onTrain(self) -> None:
        """Train on the chosen scans."""
        parameters = self._parameterNode
        self._begin(
            lambda: self.logic.startTraining(
                [candidate.source for candidate in self.study.chosen(parameters, TRAIN)],
                parameters.runFolder,
                [candidate.source for candidate in self.study.chosen(parameters, HOLD_OUT)],
                **self.logic.settingsOf(parameters),
            )
        )

    def onResume(self) -> None:
        """Resume the stopped run in the run folder."""
        parameters = self._parameterNode
        self._begin(lambda: self.logic.startResuming(parameters.runFolder, parameters.device.value))

    def onStop(self) -> None:
        """Stop the run, which saves a checkpoint first."""
        if self.progress.run:
            self.progress.run.stop()
            self.onParameters()

    def _begin(self, start: Callable[[], Any]) -> None:
        """Install missing packages, clear the messages of the previous run, and start."""
        self.messages.show("")
        try:
            installPackages()
            run = start()
        except ValueError as problem:
            self.messages.showText(str(problem))
        else:
            self.progress.watch(run)
            self.views.show(run.folder.path, self._parameterNode.showViews)
        self.onParameters()

    def _ended(self, run: Any, state: Any) -> None:
        self.views.update()
        # The result of a finished run is shown separately.
        self.messages.showText("" if state.status == "done" else state.message)
        if state.status == "failed":
            logging.error(f"XViewSynthTrain: {state.message}\n{run.log}")
            self.messages.showLog(run.log)
        run.close()
        self.onParameters()

    # Result

    def onShow(self) -> None:
        """Show the run in the run folder."""
        self.messages.showLog("")
        self.views.show(self._runFolder().path, True)
        self.views.update()
        self.onParameters()

    def onClear(self) -> None:
        """Remove plots and preview, and restore the previous layout."""
        self.views.close()
        self.onParameters()

    def onUseModel(self) -> None:
        """Install the model of the run and choose it in XViewSynth."""
        try:
            with slicer.util.WaitCursor():
                name = self.logic.useModel(self._parameterNode.runFolder)
        except ValueError as problem:
            self.messages.showText(str(problem))
            return
        self.fillSelectors()
        self._parameterNode.modelName = self.logic.freeModelName()
        text = _("The model '{name}' is now chosen in the module XViewSynth.")
        if self._runFolder().gained_nothing:
            text = _("The training brought no gain, so its starting model '{name}' is chosen in XViewSynth.")
        self.messages.showText(text.format(name=name))

    def onReport(self) -> None:
        """Show the report in the browser."""
        self.openPage(self._runFolder().report_page)

    def openPage(self, path: Path) -> None:
        """Show a file in the browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))

    # Folders and models

    def onRunFolderSelected(self, path: str) -> None:
        """Set the run folder that the user chooses or types."""
        if self._parameterNode and path != self._parameterNode.runFolder:
            self._parameterNode.runFolder = path

    def onNewFolder(self) -> None:
        """Choose a new run folder."""
        if self._parameterNode:
            documents = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
            self._parameterNode.runFolder = self.logic.newRunFolder(documents)

    def onModelSelected(self, model: str) -> None:
        """Set the model to start from."""
        if self._parameterNode:
            self._parameterNode.startModel = model
