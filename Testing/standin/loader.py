"""Reads a real .ui file, with Slicer's and CTK's widgets in it."""

from __future__ import annotations

from xml.etree import ElementTree

from PySide6.QtCore import QBuffer, QByteArray, QFile, QObject
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QWidget

from . import ctk, mrmlwidgets

_CUSTOM = {widget.__name__: widget for widget in (*ctk.WIDGETS, *mrmlwidgets.WIDGETS)}


class UiLoader(QUiLoader):
    """Qt's loader, which makes the custom widgets and their connections as well.

    Qt's own would leave out, with no more than a remark, what it does not know; here that is an error.
    """

    def load(self, file: QFile, parent: QWidget | None = None) -> QWidget:
        """Make the widgets of an open .ui file.

        Raises:
            ValueError: it has a widget, or a connection between widgets, that does not exist.
        """
        tree = ElementTree.fromstring(bytes(file.readAll()).decode())
        connections = self._take_connections(tree)
        self._missing: list[str] = []
        self._made: list[QWidget] = []
        buffer = QBuffer()
        buffer.setData(QByteArray(ElementTree.tostring(tree)))
        buffer.open(QBuffer.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if self._missing:
            raise ValueError(f"The .ui file has widgets that the stand-in does not know: {', '.join(self._missing)}")
        for connection in connections:
            self._connect(widget, *connection)
        return widget

    def createWidget(self, kind: str, parent: QWidget | None = None, name: str = "") -> QWidget:
        if kind in _CUSTOM:
            widget = _CUSTOM[kind](parent)
            widget.setObjectName(name)
        elif kind in self.availableWidgets():
            widget = super().createWidget(kind, parent, name)
        else:
            self._missing.append(kind)
            widget = QWidget(parent)
        self._made.append(widget)
        return widget

    def _take_connections(self, tree: ElementTree.Element) -> list[tuple[str, str, str, str]]:
        found = []
        for part in tree.findall("connections"):
            for item in part.findall("connection"):
                found.append(tuple(item.findtext(key, "").strip() for key in ("sender", "signal", "receiver", "slot")))
            tree.remove(part)
        return found

    def _connect(self, root: QWidget, sender: str, signal: str, receiver: str, slot: str) -> None:
        source, target = (self._find(root, name) for name in (sender, receiver))
        known = source is not None and (
            signal in getattr(source, "SIGNATURES", ()) or source.metaObject().indexOfSignal(signal) >= 0
        )
        method = getattr(target, slot.partition("(")[0], None)
        if not known or method is None:
            raise ValueError(f"The .ui file connects what does not exist: {sender}.{signal} to {receiver}.{slot}")
        getattr(source, signal.partition("(")[0]).connect(method)

    @staticmethod
    def _find(root: QWidget, name: str) -> QObject | None:
        return root if root.objectName() == name else root.findChild(QObject, name)
