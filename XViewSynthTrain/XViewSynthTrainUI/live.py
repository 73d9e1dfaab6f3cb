"""Plots and preview of a run, in the views or only as nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer

from XViewSynthScene.desk import is_shown, make_timer

POLL_MILLISECONDS = 1000


class LiveViews:
    """Shows new data of a run folder, from a timer.

    Args:
        appendLog: called with a line for each new entry of the run's log.
    """

    def __init__(self, appendLog: Callable[[str], None]) -> None:
        self._appendLog = appendLog
        self._timer = make_timer(qt, POLL_MILLISECONDS, self.update)
        # XViewSynthTrainScene.live.LiveRun, or None.
        self.live: Any | None = None

    def show(self, folder: Path, inViews: bool) -> None:
        """Show a run instead of the previous one, in the views or only as nodes."""
        self.close()
        self.live = _watch(folder, inViews)
        self._timer.start()

    def restore(self, folder: Any) -> None:
        """Fill the views of a scene that was saved with them, or close them if the folder holds no run.

        Args:
            folder: XViewSynthTrainScene.folders.RunFolder.
        """
        from XViewSynthTrainScene.layout import LAYOUT_ID

        if is_shown(LAYOUT_ID) and not self.live:
            self.show(folder.path, True)
            if not folder.holds_run:
                self.close()

    def update(self) -> None:
        """Show new data."""
        if self.live:
            self.live.update(self._report)

    def close(self) -> None:
        """Remove plots and preview, and restore the previous layout."""
        self._timer.stop()
        live, self.live = self.live, None
        if live:
            live.close()

    def _report(self, entry: dict) -> None:
        from XViewSynthTrainScene.sentences import describe_entry

        line = describe_entry(entry)
        if line:
            self._appendLog(line)


def _watch(folder: Path, inViews: bool) -> Any:
    from XViewSynthScene.desk import renderer_of
    from XViewSynthTrainScene.layout import TrainingViews
    from XViewSynthTrainScene.live import LiveRun

    layoutManager = slicer.app.layoutManager()
    views = None
    if layoutManager and inViews:
        layoutNode = layoutManager.layoutLogic().GetLayoutNode()
        views = TrainingViews(slicer.mrmlScene, layoutNode, slicer.app.applicationLogic(), renderer_of)
    return LiveRun(slicer.mrmlScene, Path(folder), views)
