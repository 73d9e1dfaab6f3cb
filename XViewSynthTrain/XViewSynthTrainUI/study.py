"""The scans that can be trained on: volumes of the scene, and what a search finds below a folder."""

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

# A folder is searched only once the user has stopped typing.
SETTLED_MILLISECONDS = 800


class StudySet:
    """Candidates for training, in a table, and what the user has chosen for each.

    Args:
        ui: the widgets of the panel.
        settled: called once the user has stopped typing the folder.
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
        """Call `settled` once the user has stopped typing."""
        self._settleTimer.start()

    def searchFolder(self, folder: str) -> None:
        """Begin to look for scans below a folder, unless that was done; "" for none."""
        from XViewSynthTrainScene.study import FolderSearch

        if self.search and str(self.search.folder) == folder:
            return
        self.stop()
        if folder:
            self.search = FolderSearch(Path(folder))

    def stop(self) -> None:
        """End the search, and begin none."""
        self._settleTimer.stop()
        if self.search:
            self.search.stop()
            self.search = None

    def gather(self, withScene: bool) -> bool:
        """Bring the table in line with scene and search; return whether anything has changed.

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
        """Bring the boxes of the table in line with what is chosen."""
        self._table.tick(choicesOf(parameters))

    def chosen(self, parameters: Any, use: str) -> list[Any]:
        """The scans that the user wants to train on, or to hold out."""
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
            return _("Searching the folder: {done} of {total} scans looked at.").format(
                done=progress.done, total=max(progress.total, progress.done)
            )
        if self.search.problem:
            return self.search.problem
        if self.search.note:
            return self.search.note
        return "" if self.search.candidates else _("There is no CT scan in this folder or below.")


def choicesOf(parameters: Any) -> dict[str, str]:
    """What the user wants with the scans, by key; a saved scene may hold anything."""
    try:
        choices = json.loads(parameters.studyChoices)
    except ValueError:
        choices = None
    return choices if isinstance(choices, dict) else {}


def choose(parameters: Any, candidate: Any, use: str) -> None:
    """Keep what the user wants with a scan."""
    parameters.studyChoices = json.dumps({**choicesOf(parameters), candidate.key: use})
