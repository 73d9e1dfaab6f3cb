"""The table of scans to enhance one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from XViewSynthScene.desk import signals_blocked

_TICK_COLUMN, _SLICES_COLUMN, _STATE_COLUMN = range(3)


class SeveralScans:
    """The scans of the scene, each with a check box, its numbers of slices and its state.

    Args:
        ui: the widgets of the panel.
        ticked: called after the user has changed a box; it must not change the table.
    """

    def __init__(self, ui: Any, ticked: Callable[[], None]) -> None:
        self.ui = ui
        self._ticked = ticked
        self._candidates: Sequence[Any] = ()
        self._unticked: set[str] = set()  # node IDs
        self._states: dict[str, str] = {}
        titles = [_("Scan"), _("Slices"), _("State")]
        table = ui.severalTable
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(titles)
        table.horizontalHeader().setStretchLastSection(True)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        ui.tickAllButton.connect("clicked(bool)", self._onTickAll)

    @property
    def isOpen(self) -> bool:
        """Whether the user has opened this part of the panel."""
        return not self.ui.severalCollapsibleButton.collapsed

    @property
    def chosen(self) -> list[Any]:
        """The nodes with a tick that can be enhanced."""
        return [found.node for found in self._usable if found.node.GetID() not in self._unticked]

    def refusal(self) -> str | None:
        """The reason why the ticked scans cannot be enhanced; None if they can."""
        if not self._usable:
            return _("Load scans first.")
        return None if self.chosen else _("Tick at least one scan.")

    def update(self, request: Any | None) -> None:
        """Update the table from the scene and the settings.

        Args:
            request: of the enhancement; None while the scene is being closed.
        """
        from XViewSynthScene.several import candidates

        self._candidates = candidates(slicer.mrmlScene, request) if request and self.isOpen else ()
        self._fill()

    def showStates(self, run: Any) -> None:
        """Show the state of each scan of a run."""
        self._states |= {item.node.GetID(): _stateOf(item) for item in run.items}
        with signals_blocked(self.ui.severalTable):
            for row, found in enumerate(self._candidates):
                self._describe(self.ui.severalTable.item(row, _STATE_COLUMN), found)

    def forget(self) -> None:
        """Drop nodes and states when the scene is closed."""
        self._candidates, self._unticked, self._states = (), set(), {}
        self._fill()

    @property
    def _usable(self) -> list[Any]:
        return [found for found in self._candidates if found.problem is None]

    def _fill(self) -> None:
        table = self.ui.severalTable
        with signals_blocked(table):
            table.setRowCount(len(self._candidates))
            for row, found in enumerate(self._candidates):
                name = qt.QTableWidgetItem(found.node.GetName())
                flags = qt.Qt.ItemIsSelectable
                if found.problem is None:
                    flags = flags | qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable
                    isUnticked = found.node.GetID() in self._unticked
                    name.setCheckState(qt.Qt.Unchecked if isUnticked else qt.Qt.Checked)
                name.setFlags(flags)
                table.setItem(row, _TICK_COLUMN, name)
                table.setItem(row, _SLICES_COLUMN, _fixedItem(_slicesOf(found)))
                table.setItem(row, _STATE_COLUMN, _fixedItem(""))
                self._describe(table.item(row, _STATE_COLUMN), found)
            table.resizeColumnsToContents()

    def _describe(self, item: Any, found: Any) -> None:
        text = found.problem or self._states.get(found.node.GetID(), "")
        item.setText(text)
        item.setToolTip(text)

    def _onTickAll(self) -> None:
        """Tick all scans; untick all if all are ticked."""
        usable_ids = {found.node.GetID() for found in self._usable}
        self._unticked = usable_ids if not self._unticked & usable_ids else set()
        self._fill()
        self._ticked()

    def _onItemChanged(self, item: Any) -> None:
        if item.column() != _TICK_COLUMN:
            return
        identity = self._candidates[item.row()].node.GetID()
        if item.checkState() == qt.Qt.Checked:
            self._unticked.discard(identity)
        else:
            self._unticked.add(identity)
        self._ticked()


def describeSeveral(run: Any) -> str:
    """One or two sentences on a finished run over several scans."""
    done, count = len(run.done), len(run.items)
    text = _("{done} of {count} scans are enhanced.").format(done=done, count=count)
    return text if done == count else text + " " + _("The table says why the others are not.")


def _slicesOf(found: Any) -> str:
    return "" if found.outlook is None else f"{found.outlook.slices} → {found.outlook.grid.slices}"


def _stateOf(item: Any) -> str:
    from XViewSynthLib.progress import describe_seconds

    if item.status == "done":
        return _("done in {time}").format(time=describe_seconds(item.seconds))
    return (
        item.message
        or {
            "waiting": _("waiting"),
            "running": _("running"),
            "cancelled": _("cancelled"),
            "failed": _("failed"),
        }[item.status]
    )


def _fixedItem(text: str) -> Any:
    item = qt.QTableWidgetItem(text)
    item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
    return item
