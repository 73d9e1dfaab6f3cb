"""The widgets for the run folder and its result."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from XViewSynthScene.desk import allow


class RunResult:
    """The widgets for the run folder.

    Args:
        ui: the widgets of the panel.
    """

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        self._shownReport: dict | None = None
        self._isInUse = False

    def hasBegunOrEnded(self, folder: Any | None) -> bool:
        """Whether a process has started or ended in the folder since it was shown."""
        return bool(folder) and folder.is_at_work != self._isInUse

    def showFolder(self, folder: Any | None, isRunning: bool) -> None:
        """Describe the run in the folder, unless the panel itself trains in it.

        Args:
            folder: XViewSynthTrainScene.folders.RunFolder; None while the scene is being closed.
            isRunning: whether a run of the panel is running.
        """
        from XViewSynthTrainScene.sentences import describe_run_folder

        text = describe_run_folder(folder) if folder and not isRunning else ""
        self.ui.runLabel.text = text
        self.ui.runLabel.visible = bool(text)
        self._isInUse = bool(folder) and folder.is_at_work

    def update(self, folder: Any | None, isRunning: bool, isShown: bool) -> None:
        """Update buttons and report from the folder.

        Args:
            folder: as in `showFolder`.
            isRunning: whether a run of the panel is running.
            isShown: whether plots and preview are shown.
        """
        running = _("Wait for the end of the training, or stop it.") if isRunning else None
        none = _("There is no run in the run folder.")
        allow(
            self.ui.useModelButton,
            running or (None if folder and folder.model else _("There is no model in the run folder yet.")),
            _("Install the model and choose it in XViewSynth."),
        )
        allow(
            self.ui.reportButton,
            None if folder and folder.report_page else _("There is no report yet: it is written at the end of a run."),
            _("Show the report of the run in the browser."),
        )
        allow(
            self.ui.showButton,
            running or (None if folder and folder.holds_run else none),
            _("Show loss, gain and preview of the run in the run folder."),
        )
        allow(
            self.ui.clearButton,
            None if isShown else _("No plots are shown."),
            _("Remove plots and preview from the scene, and return to the previous layout."),
        )
        self._showReport(None if isRunning else _finishedReport(folder))

    def _showReport(self, report: dict | None) -> None:
        from XViewSynthTrainScene.sentences import describe_report

        if report != self._shownReport:
            self._shownReport = report
            self.ui.resultLabel.text = describe_report(report) if report else ""
        self.ui.resultLabel.visible = bool(report)


def resumeRefusal(folder: Any | None) -> str | None:
    """The reason why the run in a folder cannot be resumed; None if it can."""
    if not folder:
        return _("The scene is being closed.")
    try:
        folder.check_resumable()
    except ValueError as problem:
        return str(problem)
    return None


def _finishedReport(folder: Any | None) -> dict | None:
    """The report in the run folder; None without one."""
    if not folder or not folder.is_finished:
        return None
    try:
        return folder.read_report()
    except ValueError as problem:
        return {"message": str(problem)}
