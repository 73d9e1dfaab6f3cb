"""Runs that a click starts: prepare the scan, start, show progress, report the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from XViewSynthScene.desk import allow

from .messages import Messages
from .progress import RunProgress
from .scan import canHarden, hardenAfterQuestion


class Work:
    """One run at a time, with its progress, its messages and its cancel button.

    Args:
        ui: the widgets of the panel.
        messages: the messages of the panel.
        changed: called after a run has started or ended.
    """

    def __init__(self, ui: Any, messages: Messages, changed: Callable[[], None]) -> None:
        self.ui = ui
        self._messages, self._changed = messages, changed
        self._progress = RunProgress(ui.progressBar, ui.stageLabel, self._ended)
        self._whenDone: Callable[[Any], None] | None = None

    @property
    def isRunning(self) -> bool:
        """Whether a run is running."""
        return self._progress.run is not None

    def begin(self, scan: Any, start: Callable[[], Any], whenDone: Callable[[Any], None]) -> None:
        """Install missing packages, straighten the scan if needed and if the user agrees, and start.

        Args:
            scan: the node; None for several scans, which are not straightened.
            start: starts a run and returns it, or raises ValueError.
            whenDone: called with the run after it has succeeded.
        """
        self._messages.show("")
        try:
            run = start() if self._prepare(scan) else None
        except ValueError as problem:
            self._messages.show(str(problem))
        else:
            if run is None:
                return
            self._whenDone = whenDone
            self._progress.watch(run)
        self._changed()

    def cancel(self) -> None:
        """Cancel the run; nothing is left behind."""
        if self._progress.run:
            self._progress.run.cancel()
            allow(self.ui.cancelButton, _("The task is being cancelled."), "")

    def close(self) -> None:
        """End the run at once without a message."""
        self._progress.close()

    def update(self) -> None:
        """Enable the cancel button while a run is running."""
        allow(
            self.ui.cancelButton,
            None if self.isRunning else _("No task is running."),
            _("Cancel the running task. Nothing is left behind."),
        )

    def _prepare(self, scan: Any) -> bool:
        from XViewSynthScene.packages import install_packages

        install_packages()
        if scan is None or not canHarden(scan) or hardenAfterQuestion(scan):
            return True
        self._messages.show(_("The volume was not enhanced: it still has its non-linear transform."))
        return False

    def _ended(self, run: Any, state: Any) -> None:
        if state.status == "done":
            self._whenDone(run)
        elif state.status == "cancelled":
            self._messages.show(state.message or _("Cancelled; nothing was changed."))
        else:
            logging.error(f"XViewSynth: {state.message}\n{run.log}")
            self._messages.show(state.message, run.log)
        run.close()
        self._changed()
