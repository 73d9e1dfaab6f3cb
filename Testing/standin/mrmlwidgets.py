"""The widgets of Slicer that show MRML nodes, over the real scene."""

from __future__ import annotations

import weakref

import slicer
from PySide6.QtCore import Property, Signal, Slot
from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QHBoxLayout, QVBoxLayout, QWidget

from .ctk import ctkSliderWidget

_SCENE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent", "EndRestoreEvent")


class qMRMLWidget(QWidget):
    """A widget that knows the scene, and tells its children."""

    mrmlSceneChanged = Signal(object)
    SIGNATURES = ("mrmlSceneChanged(vtkMRMLScene*)",)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene


class qSlicerWidget(qMRMLWidget):
    """Slicer's own base of panels."""


class qMRMLNodeComboBox(QWidget):
    """A choice among the scene's nodes of some classes, which may add, rename and remove them."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    SIGNATURES = (
        "currentNodeChanged(vtkMRMLNode*)",
        "currentNodeIDChanged(QString)",
        "nodeAddedByUser(vtkMRMLNode*)",
        "nodeActivated(vtkMRMLNode*)",
    )

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene = None
        self._node = None
        self._attributes: list[tuple[str, str, str | None]] = []
        self._observers: list[tuple[object, int]] = []
        self._settings = {
            "nodeTypes": [],
            "hideChildNodeTypes": [],
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "noneEnabled": False,
            "noneDisplay": "None",
            "baseName": "",
            "showHidden": False,
            "showChildNodeTypes": True,
            "selectNodeUponCreation": True,
            "interactionNodeSingletonTag": "",
        }
        self._box = QComboBox()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._box.activated.connect(self._on_activated)
        self._name_observers: list[tuple[object, int]] = []
        for observers in (self._observers, self._name_observers):
            self.destroyed.connect(_Disconnection(observers))

    # The scene

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        _Disconnection(self._observers)()
        self._scene = scene
        if scene is not None:
            # The scene outlives panels and must not keep them.
            me = weakref.ref(self)
            for name in _SCENE_EVENTS:
                tag = scene.AddObserver(getattr(slicer.vtkMRMLScene, name), lambda *_: me() and me()._refresh())
                self._observers.append((scene, tag))
        self._refresh()

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene

    def _nodes(self) -> list[slicer.vtkMRMLNode]:
        if self._scene is None:
            return []
        found = []
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            if self._offers(node):
                found.append(node)
        return found

    def _offers(self, node: slicer.vtkMRMLNode) -> bool:
        if node.GetHideFromEditors() and not self._settings["showHidden"]:
            return False
        if any(node.IsA(kind) for kind in self._settings["hideChildNodeTypes"]) or self._lacks_attribute(node):
            return False
        if self._settings["showChildNodeTypes"]:
            return any(node.IsA(kind) for kind in self._settings["nodeTypes"])
        return node.GetClassName() in self._settings["nodeTypes"]

    def _refresh(self) -> None:
        nodes = self._nodes()
        none_first = self._settings["noneEnabled"]
        blocked = self._box.blockSignals(True)
        self._box.clear()
        if none_first:
            self._box.addItem(self._settings["noneDisplay"], "")
        for node in nodes:
            self._box.addItem(node.GetName(), node.GetID())
        self._add_actions()
        self._box.blockSignals(blocked)
        self._follow_names(nodes)
        if self._node is not None and self._node not in nodes:
            self._node = None
            chosen = nodes[0] if nodes and not none_first else None
            self._show(chosen)
            self._take(chosen, always=True)
        self._show(self._node)

    def _follow_names(self, nodes: list[slicer.vtkMRMLNode]) -> None:
        _Disconnection(self._name_observers)()
        me = weakref.ref(self)
        for node in nodes:
            tag = node.AddObserver("ModifiedEvent", lambda caller, _event: me() and me()._rename(caller))
            self._name_observers.append((node, tag))

    def _rename(self, node: slicer.vtkMRMLNode) -> None:
        index = self._box.findData(node.GetID() or "")
        if index >= 0 and self._box.itemText(index) != node.GetName():
            self._box.setItemText(index, node.GetName())

    def _add_actions(self) -> None:
        kind = self._kind_label()
        if self._settings["addEnabled"] and self._scene is not None and self._settings["nodeTypes"]:
            self._box.addItem(f"Create new {kind}", "+")
        if self._settings["removeEnabled"] and self._node is not None:
            self._box.addItem(f"Delete current {kind}", "-")

    def _kind_label(self) -> str:
        if not self._settings["nodeTypes"]:
            return "node"
        name = self._settings["nodeTypes"][0]
        node = self._scene.CreateNodeByClass(name) if self._scene is not None else None
        if node is None:
            return name
        node.UnRegister(None)
        return node.GetNodeTagName()

    def _show(self, node: slicer.vtkMRMLNode | None) -> None:
        blocked = self._box.blockSignals(True)
        self._box.setCurrentIndex(self._box.findData(node.GetID() if node is not None else ""))
        self._box.blockSignals(blocked)

    def _take(self, node: slicer.vtkMRMLNode | None, always: bool = False) -> None:
        if node is self._node and not always:
            return
        self._node = node
        self._show(node)
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _on_activated(self, index: int) -> None:
        what = self._box.itemData(index)
        if what == "+":
            self.addNode()
        elif what == "-":
            self._scene.RemoveNode(self._node)
        else:
            self.setCurrentNode(self._scene.GetNodeByID(what) if what else None)
            self.nodeActivated.emit(self._node)

    # What modules call

    def currentNode(self) -> slicer.vtkMRMLNode | None:
        return self._node

    @Slot(object)
    def setCurrentNode(self, node: slicer.vtkMRMLNode | str | None) -> None:
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if node and self._scene is not None else None
        if node is not None and self._box.findData(node.GetID()) < 0:
            self._refresh()  # it may have got the attribute that is asked for since it was added
        self._take(node if node is not None and node in self._nodes() else None)

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(node_id)

    def addNode(self, kind: str | None = None) -> slicer.vtkMRMLNode:
        """Add a node as the user does with "Create new"."""
        node = self._scene.CreateNodeByClass(kind or self._settings["nodeTypes"][0])
        node.UnRegister(None)
        base = self._settings["baseName"] or node.GetNodeTagName()
        node.SetName(self._scene.GenerateUniqueName(base))
        self._scene.AddNode(node)
        if self._settings["selectNodeUponCreation"]:
            self._take(node)
        self.nodeAddedByUser.emit(node)
        return node

    def nodeCount(self) -> int:
        return len(self._nodes())

    def comboBox(self) -> QComboBox:
        return self._box

    def addAttribute(self, kind: str, name: str, value: str | None = None) -> None:
        """Offer of that class only nodes with this attribute, and with this value of it where one is given."""
        self._attributes.append((kind, name, value))
        self._refresh()

    def _lacks_attribute(self, node: slicer.vtkMRMLNode) -> bool:
        for kind, name, value in self._attributes:
            if node.IsA(kind) and (node.GetAttribute(name) is None or value not in (None, node.GetAttribute(name))):
                return True
        return False

    def _get(self, name: str) -> object:
        return self._settings[name]

    def _set(self, name: str, value: object) -> None:
        self._settings[name] = list(value) if isinstance(self._settings[name], list) else value
        self._refresh()

    def _setting(kind: object, name: str):
        return Property(kind, lambda self: self._get(name), lambda self, value: self._set(name, value))

    currentNodeID = Property(str, lambda self: self._node.GetID() if self._node is not None else "", setCurrentNodeID)
    nodeTypes = _setting("QStringList", "nodeTypes")
    hideChildNodeTypes = _setting("QStringList", "hideChildNodeTypes")
    addEnabled = _setting(bool, "addEnabled")
    removeEnabled = _setting(bool, "removeEnabled")
    editEnabled = _setting(bool, "editEnabled")
    renameEnabled = _setting(bool, "renameEnabled")
    noneEnabled = _setting(bool, "noneEnabled")
    noneDisplay = _setting(str, "noneDisplay")
    baseName = _setting(str, "baseName")
    showHidden = _setting(bool, "showHidden")
    showChildNodeTypes = _setting(bool, "showChildNodeTypes")
    selectNodeUponCreation = _setting(bool, "selectNodeUponCreation")
    interactionNodeSingletonTag = _setting(str, "interactionNodeSingletonTag")
    del _setting


class _Disconnection:
    """Removes observers, without holding the widget that added them."""

    def __init__(self, observers: list[tuple[object, int]]) -> None:
        self._observers = observers

    def __call__(self, *_: object) -> None:
        while self._observers:
            subject, tag = self._observers.pop()
            subject.RemoveObserver(tag)


class qMRMLSliderWidget(ctkSliderWidget):
    """A slider with the scene's units; here without."""

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        """Units are the scene's to tell, and a test's scene tells none."""


class qMRMLSpinBox(QDoubleSpinBox):
    """A spin box with the scene's units; here without."""

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        """Units are the scene's to tell, and a test's scene tells none."""


class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The panel of a scripted module: it makes the Python widget and passes on what happens to the panel."""

    def __init__(self, module: object, make: object) -> None:
        super().__init__()
        self.setLayout(QVBoxLayout())
        self.module, self._make = module, make
        self._python, self._entered = None, False

    def make(self) -> None:
        """Make the Python widget and have it set up its panel."""
        self._python = self._make(self)

    def self(this):
        return this._python

    def reload(self) -> None:
        """Make the Python widget anew, from the class as it is now."""
        self.make()
        if self._entered:
            self._call("enter")

    def enter(self) -> None:
        self._entered = True
        self._call("enter")

    def exit(self) -> None:
        self._entered = False
        self._call("exit")

    def _call(self, name: str) -> None:
        from .pythonqt import report_exception

        try:
            getattr(self._python, name, lambda: None)()
        except Exception:
            report_exception()

    isEntered = Property(bool, lambda self: self._entered)
    moduleName = Property(str, lambda self: self.module.name)


WIDGETS = (
    qMRMLWidget,
    qSlicerWidget,
    qMRMLNodeComboBox,
    qMRMLSliderWidget,
    qMRMLSpinBox,
    qSlicerScriptedLoadableModuleWidget,
)
ABSENT = ("qMRMLRangeWidget",)
