"""Log, plots and preview of a run, and their views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from .folders import RunLog
from .layout import TrainingViews
from .plots import TrainingPlots
from .preview import PreviewVolumes


class LiveRun:
    """Plots and preview of a run folder, during a run or after it. Call `update` repeatedly; it never waits.

    Args:
        scene: receives the nodes.
        folder: run folder.
        views: views for plots and preview; None to show them in no view.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, folder: Path, views: TrainingViews | None = None):
        self.log = RunLog(folder)
        self.plots = TrainingPlots(scene)
        self.preview = PreviewVolumes(scene, folder)
        self._views = views
        if views is not None:
            views.show(self.plots)

    def update(self, report: Callable[[dict[str, Any]], None] = lambda entry: None) -> None:
        """Show new data; call `report` with each new entry of the log."""
        new = self.log.read()
        if new:
            self.plots.show(self.log.entries)
        for entry in new:
            report(entry)
        if self.preview.update() and self._views is not None:
            self._views.put_volumes(self.preview.nodes)

    def close(self) -> None:
        """Close the views and remove all nodes; harmless to repeat."""
        if self._views is not None:
            self._views.close()
        self.plots.remove()
        self.preview.remove()
