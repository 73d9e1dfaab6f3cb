"""Base class of the panels: .ui file, parameter node, scene events and reloading."""

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
    """A panel that is bound to its parameter node while its module is open.

    A subclass sets `logic`, calls `initializeParameterNode` at the end of `setup`, and overrides the methods below
    "For subclasses".
    """

    # Packages that are imported again when the module is reloaded.
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
        """End the work when the application closes or the module is reloaded."""
        self.endWork()
        self.setParameterNode(None)
        self.removeObservers()
        # Last, as nodes that go with the views start it.
        self._settleTimer.stop()

    def enter(self) -> None:
        """Bind the panel when the user opens the module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Release the parameter node when the user opens another module; a run and its views continue."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the module with its packages, which Slicer does not reload itself."""
        self.endWork()
        for name in [name for name in sys.modules if name.split(".")[0] in self.packages]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: str) -> None:
        """Release all nodes before the scene is closed. A run observes the scene itself."""
        self.releaseScene()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: str) -> None:
        """Bind the panel again after the scene was closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartLoad(self, caller: Any, event: str) -> None:
        """Release the parameter node before a scene is loaded or restored, because the scene replaces it."""
        self.setParameterNode(None)

    def onSceneEndLoad(self, caller: Any, event: str) -> None:
        """Bind the panel again after a scene was loaded or restored.

        A parameter node wrapper resolves its nodes when the parameter node is modified, which is before the other
        nodes are loaded. A new wrapper finds them.
        """
        if self.parent.isEntered:
            self.initializeParameterNode()
        self._requestSettling(sceneWasLoaded=True)

    def onNodesChanged(self, caller: Any, event: str) -> None:
        """Schedule an update after a node was added, whose data come later, or removed."""
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
        """Bind the panel to the parameter node of the scene."""
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
        """Update the lists of the selectors before they are bound."""

    def onParameters(self, caller: Any = None, event: str | None = None) -> None:
        """Update all widgets from the parameters and the running work."""

    def restoreViews(self) -> None:
        """Fill the views of the panel's layout if a loaded scene shows it."""

    def chooseNew(self) -> None:
        """Choose one of the nodes of the scene if none is chosen."""

    def releaseScene(self) -> None:
        """Release all nodes."""

    def endWork(self) -> None:
        """End the running work and stop all timers."""
