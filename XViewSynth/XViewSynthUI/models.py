"""The model selector of a panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slicer.i18n import tr as _


def modelNames() -> list[str]:
    """Names of the installed models."""
    from XViewSynthLib.model.catalogue import list_models

    return [entry.name for entry in list_models()]


class ModelSelector:
    """Models in a combo box. Its item data are the names: "auto" for the shipped model, "" for none.

    Args:
        comboBox: a QComboBox.
        selected: called with the name that the user has selected.
    """

    def __init__(self, comboBox: Any, selected: Callable[[str], None]) -> None:
        self._comboBox, self._selected = comboBox, selected
        self._titles = {"auto": _("Standard for the acquisition"), "": _("From scratch")}
        comboBox.connect("currentIndexChanged(int)", self._onIndexChanged)

    def offer(self, names: Sequence[str]) -> None:
        """Replace the items by these names."""
        comboBox = self._comboBox
        if [comboBox.itemData(index) for index in range(comboBox.count)] != list(names):
            wasBlocked = comboBox.blockSignals(True)
            comboBox.clear()
            for name in names:
                comboBox.addItem(self._titles.get(name, name), name)
            comboBox.blockSignals(wasBlocked)

    def select(self, model: str) -> None:
        """Select a model; a model that is not installed is added as an item."""
        comboBox = self._comboBox
        wasBlocked = comboBox.blockSignals(True)
        if comboBox.findData(model) < 0:
            comboBox.addItem(model, model)
        comboBox.setCurrentIndex(comboBox.findData(model))
        comboBox.blockSignals(wasBlocked)

    def _onIndexChanged(self, index: int) -> None:
        if index >= 0:
            self._selected(self._comboBox.itemData(index))
