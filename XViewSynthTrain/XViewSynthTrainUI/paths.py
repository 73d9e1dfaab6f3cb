"""The folder selector of the panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk


class FolderSelector:
    """A folder in a ctkPathLineEdit, bound by hand because the parameter is a string.

    Args:
        lineEdit: a ctkPathLineEdit.
        selected: called with the path that the user chooses or types.
    """

    def __init__(self, lineEdit: Any, selected: Callable[[str], None]) -> None:
        self._lineEdit = lineEdit
        lineEdit.filters = ctk.ctkPathLineEdit.Dirs
        lineEdit.connect("currentPathChanged(QString)", selected)

    def show(self, path: str) -> None:
        """Show a path without calling `selected`."""
        if self._lineEdit.currentPath != path:
            wasBlocked = self._lineEdit.blockSignals(True)
            self._lineEdit.currentPath = path
            self._lineEdit.blockSignals(wasBlocked)
