"""The choice of a model in a panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slicer.i18n import tr as _


def modelNames() -> list[str]:
    """Names of the models that are installed."""
    from XViewSynthLib.model.catalogue import list_models

    return [entry.name for entry in list_models()]


class ModelSelector:
    """Models in a combo box, whose item data are their names: "auto" for the one that ships, "" for none.

    Args:
        comboBox: a QComboBox.
        selected: called with the name that the user has selected.
    """

    def __init__(self, comboBox: Any, selected: Callable[[str], None]) -> None:
        self._comboBox, self._selected = comboBox, selected
        self._titles = {"auto": _("Standard for the acquisition"), "": _("From scratch")}
        comboBox.connect("currentIndexChanged(int)", self._onIndexChanged)

    def offer(self, names: Sequence[str]) -> None:
        """Show these names."""
        comboBox = self._comboBox
        if [comboBox.itemData(index) for index in range(comboBox.count)] != list(names):
            wasBlocked = comboBox.blockSignals(True)
            comboBox.clear()
            for name in names:
                comboBox.addItem(self._titles.get(name, name), name)
            comboBox.blockSignals(wasBlocked)

    def select(self, model: str) -> None:
        """Show a model as selected; one that is not installed here is added."""
        comboBox = self._comboBox
        wasBlocked = comboBox.blockSignals(True)
        if comboBox.findData(model) < 0:
            comboBox.addItem(model, model)
        comboBox.setCurrentIndex(comboBox.findData(model))
        comboBox.blockSignals(wasBlocked)

    def _onIndexChanged(self, index: int) -> None:
        if index >= 0:
            self._selected(self._comboBox.itemData(index))
