"""Candidates for training: volumes of the scene and scans below a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from XViewSynthScene.desk import make_timer

from .table import TRAIN, StudyTable

# The search starts after the user has stopped typing.
SETTLED_MILLISECONDS = 800


class StudySet:
    """Candidates for training in a table, with the use that the user has chosen for each.

    Args:
        ui: the widgets of the panel.
        settled: called after the user has stopped typing the folder.
        ticked: called with a candidate and its new use.
    """

    def __init__(self, ui: Any, settled: Callable[[], None], ticked: Callable[[Any, str], None]) -> None:
        self.ui = ui
        self.search: Any | None = None
        self._candidates: list[Any] = []
        self._table = StudyTable(ui.studyTable, ticked)
        self._settleTimer = make_timer(qt, SETTLED_MILLISECONDS, settled, single_shot=True)

    @property
    def isSearching(self) -> bool:
        """Whether the folder is still being searched."""
        return bool(self.search) and not self.search.ended

    def requestSearch(self) -> None:
        """Call `settled` after the user has stopped typing."""
        self._settleTimer.start()

    def searchFolder(self, folder: str) -> None:
        """Start to search a folder for scans, unless it was searched already; "" for none."""
        from XViewSynthTrainScene.study import FolderSearch

        if self.search and str(self.search.folder) == folder:
            return
        self.stop()
        if folder:
            self.search = FolderSearch(Path(folder))

    def stop(self) -> None:
        """End the search."""
        self._settleTimer.stop()
        if self.search:
            self.search.stop()
            self.search = None

    def gather(self, withScene: bool) -> bool:
        """Update the table from scene and search; return whether it has changed.

        Args:
            withScene: False while the scene is being closed.
        """
        from XViewSynthTrainScene.study import loaded_candidates

        candidates = loaded_candidates(slicer.mrmlScene) if withScene else []
        isSearching = self.isSearching
        if self.search:
            candidates += self.search.candidates
        text = self._searchSentence(isSearching)
        changed = candidates != self._candidates or text != self.ui.searchLabel.text
        self.ui.searchLabel.text = text
        self.ui.searchLabel.visible = bool(text)
        if candidates != self._candidates:
            self._candidates = candidates
            self._table.fill(candidates)
        return changed

    def update(self, parameters: Any) -> None:
        """Update the check boxes of the table from the parameters."""
        self._table.tick(choicesOf(parameters))

    def chosen(self, parameters: Any, use: str) -> list[Any]:
        """The scans with the chosen use."""
        choices = choicesOf(parameters)
        return [
            candidate
            for candidate in self._candidates
            if candidate.problem is None and choices.get(candidate.key, TRAIN) == use
        ]

    def _searchSentence(self, isSearching: bool) -> str:
        if not self.search:
            return ""
        if isSearching:
            progress = self.search.progress
            return _("Searching the folder: {done} of {total} scans checked.").format(
                done=progress.done, total=max(progress.total, progress.done)
            )
        if self.search.problem:
            return self.search.problem
        if self.search.note:
            return self.search.note
        return "" if self.search.candidates else _("There is no CT scan in this folder or its subfolders.")


def choicesOf(parameters: Any) -> dict[str, str]:
    """The chosen use of each scan, by key; {} if a loaded scene holds an invalid value."""
    try:
        choices = json.loads(parameters.studyChoices)
    except ValueError:
        choices = None
    return choices if isinstance(choices, dict) else {}


def choose(parameters: Any, candidate: Any, use: str) -> None:
    """Store the chosen use of a scan."""
    parameters.studyChoices = json.dumps({**choicesOf(parameters), candidate.key: use})
