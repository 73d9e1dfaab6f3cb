"""Saving an enhanced volume as a DICOM series."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from XViewSynthScene.desk import allow, process_events

from .messages import Messages


class DicomSaver:
    """The button "Save as DICOM".

    Args:
        ui: the widgets of the panel.
        messages: of the panel.
        logic: of the module.
        changed: called when saving begins and when it has ended.
    """

    def __init__(self, ui: Any, messages: Messages, logic: Any, changed: Callable[[], None]) -> None:
        self.ui, self._messages, self._logic, self._changed = ui, messages, logic, changed
        self._isSaving = False

    def update(self, parameters: Any | None) -> None:
        """Enable the button if the chosen enhanced volume can be saved as DICOM."""
        enhanced = parameters.enhancedVolume if parameters else None
        toDatabase = _("Add the enhanced volume to Slicer's DICOM database, as a new series of the scan's study.")
        toFolder = _("Write the enhanced volume into a folder, as a new DICOM series of the scan's study.")
        refusal = self._refusal(enhanced)
        isInDatabase = refusal is None and _savesToDatabase(enhanced)
        allow(self.ui.saveDicomButton, refusal, toDatabase if isInDatabase else toFolder)

    def save(self, enhancedVolume: Any) -> None:
        """Add the volume to the DICOM database, or ask for a folder if its scan does not come from there."""
        folder = None if _savesToDatabase(enhancedVolume) else _chosenFolder(enhancedVolume)
        if folder == Path():
            return
        self._isSaving = True
        self._changed()
        try:
            self._logic.saveToDicom(enhancedVolume, folder, self._showProgress)
            self._messages.show(_doneText(enhancedVolume, folder))
        except ValueError as problem:
            self._messages.show(str(problem))
        finally:
            self._isSaving = False
            self._changed()

    def _refusal(self, enhanced: Any | None) -> str | None:
        from XViewSynthScene.saving import check_can_save

        if enhanced is None:
            return _("Choose an enhanced volume first.")
        if self._isSaving:
            return _("A volume is being saved.")
        try:
            check_can_save(enhanced)
        except ValueError as problem:
            return str(problem)
        return None

    def _showProgress(self, done: int, total: int) -> None:
        self._messages.show(_("{done} of {total} slices are saved ...").format(done=done, total=total))
        process_events(qt)


def _savesToDatabase(enhancedVolume: Any) -> bool:
    from XViewSynthScene.saving import saves_to_database

    return saves_to_database(enhancedVolume)


def _chosenFolder(enhancedVolume: Any) -> Path:
    """A new folder in the one that the user chooses; Path() if the user chooses none."""
    from XViewSynthLib.system.names import portable_name

    title = _("Choose a folder. The DICOM series becomes a new folder in it.")
    parent = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
    if not parent:
        return Path()
    # Slicer's names of series have colons, which Windows does not allow.
    name = portable_name(re.sub(r'[\\/:*?"<>|]', "_", enhancedVolume.GetName()).strip(" .") or "series")
    folder, number = Path(parent, name), 1
    while folder.exists():
        number += 1
        folder = Path(parent, f"{name} {number}")
    return folder


def _doneText(enhancedVolume: Any, folder: Path | None) -> str:
    if folder is None:
        place = _("added to the DICOM database")
    else:
        place = _("saved as DICOM in {folder}").format(folder=folder)
    return f"'{enhancedVolume.GetName()}': {place}."
