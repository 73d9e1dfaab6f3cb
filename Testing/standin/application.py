"""The application around the modules: `slicer.app`, the main window, the module manager and the slice views."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, QObject, QProcessEnvironment, QSettings, QTimer, Signal
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QApplication, QMainWindow, QScrollArea

from .mrmlwidgets import qSlicerScriptedLoadableModuleWidget
from .pythonqt import wrap

# Width and height of every slice view, in pixels.
_VIEW_SIZE = (256, 256)


class qSlicerScriptedLoadableModule(QObject):
    """A scripted module as Slicer's factory knows it: a file, its Python object, and the panel made on demand."""

    def __init__(self, name: str, path: Path, manager: ModuleManager) -> None:
        super().__init__()
        self._values: dict[str, Any] = {
            "title": name,
            "helpText": "",
            "acknowledgementText": "",
            "categories": [],
            "dependencies": [],
            "contributors": [],
            "associatedNodeTypes": [],
            "hidden": False,
            "icon": QIcon(),
            "index": -1,
        }
        self._name, self._path, self._manager = name, str(path), manager
        self._widget: qSlicerScriptedLoadableModuleWidget | None = None

    def _new_widget(self) -> qSlicerScriptedLoadableModuleWidget:
        widget = qSlicerScriptedLoadableModuleWidget(wrap(self), self._make_python_widget)
        widget.setMRMLScene(slicer.mrmlScene)
        widget.setObjectName(f"{self._name}ModuleWidget")
        return widget

    def _make_python_widget(self, parent: qSlicerScriptedLoadableModuleWidget) -> object:
        python = getattr(sys.modules[self._name], f"{self._name}Widget")(wrap(parent))
        setattr(slicer.modules, f"{self._name}Widget", python)
        python.setup()
        return python

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        if self._widget is None:
            self._widget = self._new_widget()
            self._widget.make()
        return self._widget

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        widget = self._new_widget()
        widget.make()
        return widget

    def logic(self) -> None:
        """A scripted module has no C++ logic of its own."""

    def _value(kind: object, name: str):
        return Property(kind, lambda self: self._values[name], lambda self, value: self._values.update({name: value}))

    title = _value(str, "title")
    helpText = _value(str, "helpText")
    acknowledgementText = _value(str, "acknowledgementText")
    categories = _value("QStringList", "categories")
    dependencies = _value("QStringList", "dependencies")
    contributors = _value("QStringList", "contributors")
    associatedNodeTypes = _value("QStringList", "associatedNodeTypes")
    hidden = _value(bool, "hidden")
    icon = _value(QIcon, "icon")
    index = _value(int, "index")
    del _value
    name = Property(str, lambda self: self._name)
    path = Property(str, lambda self: self._path)
    defaultDocumentationLink = Property(str, lambda self: f"<p>{self._name} documentation</p>")


class ModuleManager(QObject):
    """Loads modules, and finds them by name."""

    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, qSlicerScriptedLoadableModule] = {}

    def load(self, path: Path) -> qSlicerScriptedLoadableModule:
        """Load a scripted module from its file, as Slicer's factory does at the start."""
        name = path.stem
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        code = importlib.util.module_from_spec(spec)
        sys.modules[name] = code
        spec.loader.exec_module(code)
        module = qSlicerScriptedLoadableModule(name, path, self)
        self._modules[name] = module
        setattr(slicer.modules, name.lower(), wrap(module))
        setattr(slicer.moduleNames, name, name)
        python = getattr(code, name)(wrap(module))
        setattr(slicer.modules, f"{name}Instance", python)
        getattr(python, "setup", lambda: None)()
        self.moduleLoaded.emit(name)
        return module

    def unload_all(self) -> None:
        """Tell every panel to clean up, and destroy it."""
        for name, module in self._modules.items():
            self.moduleAboutToBeUnloaded.emit(name)
            if module._widget is not None:
                module._widget.deleteLater()
                module._widget = None

    def module(self, name: str) -> qSlicerScriptedLoadableModule | None:
        return self._modules.get(name)

    def loadedModuleNames(self) -> list[str]:
        return list(self._modules)

    def factoryManager(self) -> ModuleManager:
        return self


class ModuleSelector(QObject):
    """The main window's choice of a module."""

    moduleSelected = Signal(str)

    def __init__(self, window: qSlicerMainWindow, manager: ModuleManager) -> None:
        super().__init__(window)
        self._window, self._manager, self._selected = window, manager, ""

    def selectModule(self, name: str) -> None:
        """Show a module's panel: the former one is left, this one entered."""
        if name == self._selected:
            return
        module = self._manager.module(name)
        if module is None:
            return
        if self._selected:
            self._manager.module(self._selected).widgetRepresentation().exit()
        self._selected = name
        widget = module.widgetRepresentation()
        self._window.show_panel(widget)
        widget.enter()
        self.moduleSelected.emit(name)

    selectedModule = Property(str, lambda self: self._selected)


class qSlicerMainWindow(QMainWindow):
    """The main window: a module's panel, and the status bar."""

    def __init__(self, manager: ModuleManager) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(self, manager)
        self._area = QScrollArea()
        self._area.setWidgetResizable(True)
        self.setCentralWidget(self._area)
        self.resize(520, 900)

    def moduleSelector(self) -> ModuleSelector:
        return self._selector

    def show_panel(self, widget: qSlicerScriptedLoadableModuleWidget) -> None:
        """Show a panel in the place of the former one, which lives on."""
        self._area.takeWidget()
        self._area.setWidget(widget)
        widget.show()


class CommandOptions(QObject):
    """What the program was started with."""

    def __init__(self, main_window: bool, testing: bool) -> None:
        super().__init__()
        self._main_window, self._testing = main_window, testing

    noMainWindow = Property(bool, lambda self: not self._main_window)
    testingEnabled = Property(bool, lambda self: self._testing)
    pythonScript = Property(str, lambda self: "")
    pythonCode = Property(str, lambda self: "")
    noSplash = Property(bool, lambda self: True)


class SliceView(QObject):
    """The picture of a slice view; its render window is made when somebody asks for it."""

    def __init__(self, node: slicer.vtkMRMLSliceNode) -> None:
        super().__init__()
        self._node, self._window, self.renders = node, None, 0

    def renderWindow(self) -> vtk.vtkRenderWindow:
        if self._window is None:
            self._window = vtk.vtkRenderWindow()
            self._window.SetOffScreenRendering(True)
            self._window.AddRenderer(vtk.vtkRenderer())
        return self._window

    def mrmlSliceNode(self) -> slicer.vtkMRMLSliceNode:
        return self._node

    def forceRender(self) -> None:
        self.renders += 1

    def scheduleRender(self) -> None:
        self.renders += 1


class SliceWidget(QObject):
    """One slice view of the layout, over the real slice logic."""

    def __init__(self, node: slicer.vtkMRMLSliceNode, logic: slicer.vtkMRMLSliceLogic) -> None:
        super().__init__()
        self._node, self._logic, self._view = node, logic, SliceView(node)

    def sliceLogic(self) -> slicer.vtkMRMLSliceLogic:
        return self._logic

    def mrmlSliceNode(self) -> slicer.vtkMRMLSliceNode:
        return self._node

    def mrmlSliceCompositeNode(self) -> slicer.vtkMRMLSliceCompositeNode:
        return self._logic.GetSliceCompositeNode()

    def sliceView(self) -> SliceView:
        return self._view


class LayoutManager(QObject):
    """The views of the current layout, which the real layout logic chooses."""

    layoutChanged = Signal(int)

    def __init__(self, application_logic: slicer.vtkMRMLApplicationLogic, scene: slicer.vtkMRMLScene) -> None:
        super().__init__()
        self._application_logic, self._scene = application_logic, scene
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self._link = slicer.vtkMRMLSliceLinkLogic()
        self._link.SetMRMLApplicationLogic(application_logic)
        self._link.SetMRMLScene(scene)
        self._slices = vtk.vtkCollection()
        application_logic.SetSliceLogics(self._slices)
        self._known: dict[str, SliceWidget] = {}
        self._widgets: dict[str, SliceWidget] = {}
        self._last = -1
        # Views that have no size yet: they get it when events are processed.
        self._unsized: list[SliceWidget] = []
        self._sizing = QTimer(self, interval=0, singleShot=True)
        self._sizing.timeout.connect(self._give_sizes)
        node = self._logic.GetLayoutNode()
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._follow_layout())
        self._follow_layout()

    def close(self) -> None:
        """Let go of the scene."""
        node = self._logic.GetLayoutNode()
        if node is not None:
            node.RemoveObserver(self._tag)
        self._sizing.stop()
        self._unsized.clear()
        self._widgets.clear()
        for widget in self._known.values():
            widget.sliceLogic().SetMRMLScene(None)
        self._known.clear()
        self._slices.RemoveAllItems()
        self._link.SetMRMLScene(None)
        self._logic.SetMRMLScene(None)

    def _follow_layout(self) -> None:
        layout = self._logic.GetLayoutNode().GetViewArrangement()
        self._forget_removed()
        shown = self._slice_nodes()
        for node in shown:
            if node.GetID() not in self._known:
                self._known[node.GetID()] = self._new_widget(node)
        for node_id, widget in self._known.items():
            widget.mrmlSliceNode().SetMappedInLayout(node_id in [node.GetID() for node in shown])
        self._widgets = {node.GetLayoutName(): self._known[node.GetID()] for node in shown}
        if layout != self._last:
            self._last = layout
            self.layoutChanged.emit(layout)

    def _slice_nodes(self) -> list[slicer.vtkMRMLSliceNode]:
        views = self._logic.GetViewNodes()
        nodes = [views.GetItemAsObject(index) for index in range(views.GetNumberOfItems() if views else 0)]
        return [node for node in nodes if node is not None and node.IsA("vtkMRMLSliceNode")]

    def _new_widget(self, node: slicer.vtkMRMLSliceNode) -> SliceWidget:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application_logic)
        self._slices.AddItem(logic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        widget = SliceWidget(node, logic)
        self._unsized.append(widget)
        self._sizing.start()
        return widget

    def _give_sizes(self) -> None:
        """Give new views their size. What was fitted or moved before that is lost, as in Slicer."""
        unsized, self._unsized = self._unsized, []
        for widget in unsized:
            if widget.mrmlSliceNode().GetScene() is not None:
                widget.sliceLogic().ResizeSliceNode(*_VIEW_SIZE)
                widget.sliceLogic().SetSliceOffset(0)

    def _forget_removed(self) -> None:
        for node_id, widget in list(self._known.items()):
            if widget.mrmlSliceNode().GetScene() is None:
                self._slices.RemoveItem(widget.sliceLogic())
                widget.sliceLogic().SetMRMLScene(None)
                del self._known[node_id]

    def layoutLogic(self) -> slicer.vtkMRMLLayoutLogic:
        return self._logic

    def setLayout(self, layout: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(layout)

    def sliceViewNames(self) -> list[str]:
        self._follow_layout()
        return list(self._widgets)

    def sliceWidget(self, name: str) -> SliceWidget | None:
        self._follow_layout()
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> vtk.vtkCollection:
        return self._slices

    def resetSliceViews(self) -> None:
        for index in range(self._slices.GetNumberOfItems()):
            self._slices.GetItemAsObject(index).FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """There are no 3D views here."""

    layout = Property(int, lambda self: self._logic.GetLayoutNode().GetViewArrangement(), setLayout)


class qSlicerApplication(QApplication):
    """`slicer.app`. Qt allows one application a process; each desktop fits it out anew with `begin`."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)
    pausedRender = Signal(bool)
    SIGNATURES = ("mrmlSceneChanged(vtkMRMLScene*)",)

    def begin(
        self,
        folder: Path,
        scene: slicer.vtkMRMLScene,
        main_window: bool,
        testing: bool,
        pip: Callable[[list[str]], None],
    ) -> None:
        """Become the application of a new desktop, whose files lie in `folder`."""
        self._folder, self._scene, self._testing, self._pip = folder, scene, testing, pip
        self._options = CommandOptions(main_window, testing)
        self._manager = ModuleManager()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        scene.AddNode(slicer.vtkMRMLCrosshairNode())
        self._layout = LayoutManager(self._logic, scene) if main_window else None
        self._window = qSlicerMainWindow(self._manager) if main_window else None
        self.exit_code: int | None = None
        for name in ("temporary", "settings"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(folder / "settings"))
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        self.setOrganizationName("Slicer stand-in")
        if self._window is not None:
            self._window.show()

    def end(self) -> None:
        """Let go of the desktop: its modules, its windows and its scene."""
        self._manager.unload_all()
        if self._layout is not None:
            self._layout.close()
        for widget in self.topLevelWidgets():
            widget.close()
            widget.deleteLater()
        self._window = self._layout = None
        self._logic.SetMRMLScene(None)

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return self._scene

    def applicationLogic(self) -> slicer.vtkMRMLApplicationLogic:
        return self._logic

    def moduleManager(self) -> ModuleManager:
        return self._manager

    def layoutManager(self) -> LayoutManager | None:
        return self._layout

    def mainWindow(self) -> qSlicerMainWindow | None:
        return self._window

    def commandOptions(self) -> CommandOptions:
        return self._options

    def testingEnabled(self) -> bool:
        return self._testing

    def settings(self) -> QSettings:
        return QSettings(str(self._folder / "settings" / "application.ini"), QSettings.Format.IniFormat)

    def startupEnvironment(self) -> QProcessEnvironment:
        return QProcessEnvironment.systemEnvironment()

    def translate(self, _context: str, text: str) -> str:
        return text

    def pauseRender(self) -> None:
        self.pausedRender.emit(True)

    def resumeRender(self) -> None:
        self.pausedRender.emit(False)

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def exit(self, code: int = 0) -> None:
        """Slicer would end here; the stand-in notes the code, and its event loops go on."""
        self.exit_code = code

    def quit(self) -> None:
        self.exit(0)

    temporaryPath = Property(str, lambda self: str(self._folder / "temporary"))
    slicerHome = Property(str, lambda self: str(self._folder))
    slicerSettingsPath = Property(str, lambda self: str(self._folder / "settings"))
    majorVersion = Property(int, lambda self: 5)
    minorVersion = Property(int, lambda self: 12)
    revision = Property(str, lambda self: "0")
    documentationBaseUrl = Property(str, lambda self: "https://slicer.readthedocs.io/en/latest/")
