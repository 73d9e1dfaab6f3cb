"""A run as it can be watched: its log, its plots, its preview, and the views they are in."""

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
    """What a run folder shows, at work or not. `update` it now and then; it never waits.

    Args:
        scene: gets the nodes.
        folder: of the run.
        views: where they are shown; None where there is no window, or nobody wants to look.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, folder: Path, views: TrainingViews | None = None):
        self.log = RunLog(folder)
        self.plots = TrainingPlots(scene)
        self.preview = PreviewVolumes(scene, folder)
        self._views = views
        if views is not None:
            views.show(self.plots)

    def update(self, tell: Callable[[dict[str, Any]], None] = lambda entry: None) -> None:
        """Show what is new; `tell` hears of each new entry of the log."""
        new = self.log.read()
        if new:
            self.plots.show(self.log.entries)
        for entry in new:
            tell(entry)
        if self.preview.update() and self._views is not None:
            self._views.put_volumes(self.preview.nodes)

    def close(self) -> None:
        """Leave the views, and remove every node; harmless to repeat."""
        if self._views is not None:
            self._views.close()
        self.plots.remove()
        self.preview.remove()
