"""What the panels of both modules share: the .ui file, the parameter node, the scene's life and reloading."""

from __future__ import annotations

import sys
from typing import Any

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from XViewSynthScene.desk import make_timer


class Panel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A panel that is bound to its parameter node while the user has its module open.

    A subclass sets `logic`, calls `initializeParameterNode` at the end of `setup`, and overrides what is below
    "For subclasses".
    """

    # Packages that are read anew when the module is reloaded.
    packages: tuple[str, ...] = ()

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: int | None = None
        self._settleTimer = make_timer(qt, 0, self._onSceneSettled, single_shot=True)
        self._sceneWasLoaded = False

    # Life cycle

    def setup(self) -> None:
        """Load the .ui file and observe the scene."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        for event in (scene.StartImportEvent, scene.StartRestoreEvent):
            self.addObserver(scene, event, self.onSceneStartLoad)
        for event in (scene.EndImportEvent, scene.EndRestoreEvent):
            self.addObserver(scene, event, self.onSceneEndLoad)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodesChanged)
        self._requestSettling(sceneWasLoaded=True)

    def cleanup(self) -> None:
        """The panel goes away, because the application closes or the module is reloaded: end what runs."""
        self._settleTimer.stop()
        self.endWork()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """The user opens the module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """The user opens another module; a run and its views go on."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the module together with its packages, which Slicer by itself would keep."""
        self.endWork()
        for name in [name for name in sys.modules if name.split(".")[0] in self.packages]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: str) -> None:
        """The scene is about to be closed: let go of its nodes. A run notices that by itself."""
        self.releaseScene()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: str) -> None:
        """The scene was closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartLoad(self, caller: Any, event: str) -> None:
        """A scene is about to be loaded, or restored, into this one: its parameter node replaces the panel's."""
        self.setParameterNode(None)

    def onSceneEndLoad(self, caller: Any, event: str) -> None:
        """A scene was loaded or restored.

        A wrapper of a parameter node keeps the nodes that it found when the node was modified, which is before the
        other nodes are loaded: a new wrapper finds them.
        """
        if self.parent.isEntered:
            self.initializeParameterNode()
        self._requestSettling(sceneWasLoaded=True)

    def onNodesChanged(self, caller: Any, event: str) -> None:
        """A node was added, which has its data only later, or removed."""
        self._requestSettling()

    def _requestSettling(self, sceneWasLoaded: bool = False) -> None:
        self._sceneWasLoaded = self._sceneWasLoaded or sceneWasLoaded
        self._settleTimer.start()

    def _onSceneSettled(self) -> None:
        wasLoaded, self._sceneWasLoaded = self._sceneWasLoaded, False
        if wasLoaded:
            self.restoreViews()
        self.chooseNew()

    def initializeParameterNode(self) -> None:
        """Make sure that there is a parameter node."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode: Any | None) -> None:
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        if self._parameterNode:
            self.fillSelectors()
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self.onParameters()

    # For subclasses

    def fillSelectors(self) -> None:
        """Bring the lists that the user selects from up to date, before they are bound."""

    def onParameters(self, caller: Any = None, event: str | None = None) -> None:
        """Bring everything in line with the parameters and with what runs."""

    def restoreViews(self) -> None:
        """Fill the views of the panel's layout, if a loaded scene has brought it."""

    def chooseNew(self) -> None:
        """Choose among the nodes that are there now, where nothing is chosen."""

    def releaseScene(self) -> None:
        """Let go of all nodes."""

    def endWork(self) -> None:
        """End what runs, and stop every timer."""
