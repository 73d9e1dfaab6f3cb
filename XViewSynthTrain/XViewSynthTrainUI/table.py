"""The table of scans to train on and to hold out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from XViewSynthScene.desk import signals_blocked

# Uses of a scan.
TRAIN, HOLD_OUT, NEITHER = "train", "hold out", "neither"
TRAIN_COLUMN, HOLD_OUT_COLUMN, NAME_COLUMN, SLICES_COLUMN, SPACING_COLUMN, REMARK_COLUMN = range(6)
_USES = {TRAIN_COLUMN: TRAIN, HOLD_OUT_COLUMN: HOLD_OUT}


class StudyTable:
    """A table of scans with two columns of check boxes.

    Args:
        table: a QTableWidget.
        ticked: called with the candidate and its new use.
    """

    def __init__(self, table: Any, ticked: Callable[[Any, str], None]) -> None:
        self._table, self._ticked = table, ticked
        self._candidates: Sequence[Any] = ()
        titles = [_("Train"), _("Hold out"), _("Scan"), _("Slices"), _("Spacing"), _("Remark")]
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(titles)
        table.horizontalHeader().setStretchLastSection(True)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)

    def fill(self, candidates: Sequence[Any]) -> None:
        """Show these scans (XViewSynthTrainScene.study.Candidate), all unticked."""
        self._candidates = candidates
        with signals_blocked(self._table):
            self._table.setRowCount(len(candidates))
            for row, candidate in enumerate(candidates):
                for column, item in enumerate(_itemsOf(candidate)):
                    self._table.setItem(row, column, item)
            self._table.resizeColumnsToContents()

    def tick(self, choices: Mapping[str, str]) -> None:
        """Tick the boxes of the chosen uses, by the key of a scan."""
        with signals_blocked(self._table):
            for row, candidate in enumerate(self._candidates):
                if candidate.problem is None:
                    chosen = choices.get(candidate.key, TRAIN)
                    for column, use in _USES.items():
                        state = qt.Qt.Checked if use == chosen else qt.Qt.Unchecked
                        self._table.item(row, column).setCheckState(state)

    def _onItemChanged(self, item: Any) -> None:
        if item.column() in _USES:
            use = _USES[item.column()] if item.checkState() == qt.Qt.Checked else NEITHER
            self._ticked(self._candidates[item.row()], use)


def _itemsOf(candidate: Any) -> list[Any]:
    """The cells of a row, in the order of the columns."""
    from XViewSynthTrainScene.sentences import describe_spacing

    texts = {
        NAME_COLUMN: candidate.name,
        SLICES_COLUMN: "" if candidate.slices is None else str(candidate.slices),
        SPACING_COLUMN: describe_spacing(candidate.slice_spacing_mm),
        REMARK_COLUMN: candidate.problem or _("usable"),
    }
    return [_itemOf(candidate, texts.get(column, ""), column in _USES) for column in range(REMARK_COLUMN + 1)]


def _itemOf(candidate: Any, text: str, isBox: bool) -> Any:
    item = qt.QTableWidgetItem(text)
    item.setToolTip(candidate.problem or str(candidate.key))
    flags = qt.Qt.ItemIsSelectable
    if candidate.problem is None:
        flags = flags | qt.Qt.ItemIsEnabled
        if isBox:
            flags = flags | qt.Qt.ItemIsUserCheckable
            item.setCheckState(qt.Qt.Unchecked)
    item.setFlags(flags)
    return item
