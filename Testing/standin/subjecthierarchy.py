"""The Data module's plugins: what a scripted plugin meets when it registers, and when the user right-clicks."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import Property, QObject, Signal

from .pythonqt import wrap, wrap_class


class qSlicerSubjectHierarchyScriptedPlugin(QObject):
    """A plugin whose answers come from a Python file."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._name, self._python = "UnnamedScriptedPlugin", None

    def setPythonSource(self, path: str) -> bool:
        """Load the class named as the file, which registers itself."""
        name = Path(path).stem
        kind = name if name.endswith("SubjectHierarchyPlugin") else f"{name}SubjectHierarchyPlugin"
        if not hasattr(sys.modules.get(name), kind):
            spec = importlib.util.spec_from_file_location(name, path)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        self._python = getattr(sys.modules[name], kind)(wrap(self))
        return True

    def self(this) -> Any:
        return this._python

    name = Property(str, lambda self: self._name, lambda self, value: setattr(self, "_name", value))


class _Plugin:
    """One of Slicer's own plugins, as others ask it."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes

    def canOwnSubjectHierarchyItem(self, item: int) -> float:
        node = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene).GetItemDataNode(item)
        return 0.5 if node is not None and node.GetClassName() in self._classes else 0.0


_OWN_PLUGINS = {
    "Volumes": ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode", "vtkMRMLLabelMapVolumeNode"),
    "LabelMaps": ("vtkMRMLLabelMapVolumeNode",),
    "Default": (),
}


class PluginHandler(QObject):
    """Knows every plugin and the item that the user has right-clicked."""

    pluginRegistered = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._plugins: list[Any] = []
        self._items: list[int] = []

    def registerPlugin(self, plugin: QObject) -> bool:
        if plugin.name in [known.name for known in self._plugins]:
            return False
        self._plugins.append(plugin)
        return True

    def pluginByName(self, name: str) -> Any:
        own = {name: _Plugin(classes) for name, classes in _OWN_PLUGINS.items()}
        return own.get(name) or next((plugin for plugin in self._plugins if plugin.name == name), None)

    def subjectHierarchyNode(self) -> slicer.vtkMRMLSubjectHierarchyNode:
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)

    def currentItem(self) -> int:
        return self._items[0] if len(self._items) == 1 else 0

    def right_click(self, *items: int) -> list[Any]:
        """What the user sees after a right click on items of the tree: the visible actions of scripted plugins."""
        self._items = list(items)
        actions = []
        for plugin in self._plugins:
            offered = [wrap(action) for action in map(_unwrapped, plugin.self().itemContextMenuActions())]
            for action in offered:
                action.visible = False
            for item in items:
                plugin.self().showContextMenuActionsForItem(item)
            actions.extend(action for action in offered if action.visible)
        return actions


def _unwrapped(action: Any) -> Any:
    from .pythonqt import unwrap

    return unwrap(action)


def names() -> dict[str, Any]:
    """The names that `slicer` offers of the subject hierarchy's Qt side, with a handler of its own for each desktop."""
    handler = PluginHandler()
    handler_class = types.SimpleNamespace(instance=lambda: wrap(handler))
    return {
        "qSlicerSubjectHierarchyScriptedPlugin": wrap_class(qSlicerSubjectHierarchyScriptedPlugin),
        "qSlicerSubjectHierarchyPluginHandler": handler_class,
    }
