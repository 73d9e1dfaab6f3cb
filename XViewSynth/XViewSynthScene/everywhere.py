"""Marks of observed and synthetic slices in every slice view that shows an enhanced volume, whatever the layout."""

from __future__ import annotations

from collections.abc import Iterator

import slicer
import vtk
from slicer.util import VTKObservationMixin

from .layout import view_names
from .marks import SliceMark
from .provenance import read_provenance
from .views import RendererOf

_COMPOSITE = "vtkMRMLSliceCompositeNode"


class MarksEverywhere(VTKObservationMixin):
    """The marks in all views of a scene except the linked views, which have their own.

    Args:
        scene: the scene whose views are marked.
        layout_node: node of Slicer's layout manager; None without a window.
        renderer_of: returns the renderer of a view by its layout name; None if the view is not drawn.
    """

    def __init__(
        self, scene: slicer.vtkMRMLScene, layout_node: slicer.vtkMRMLLayoutNode | None, renderer_of: RendererOf
    ):
        super().__init__()
        self._scene, self._layout_node, self._renderer_of = scene, layout_node, renderer_of
        self._marks: dict[str, tuple[str, SliceMark]] = {}
        self._enabled = False

    @property
    def marks(self) -> dict[str, SliceMark]:
        """The visible marks, by the layout name of the view."""
        return {name: mark for name, (_, mark) in self._marks.items()}

    def set_enabled(self, enabled: bool) -> None:
        """Show or remove the marks. Call it again after views may have been drawn."""
        changed, self._enabled = enabled != self._enabled, enabled
        if changed:
            self.removeObservers()
        if changed and enabled:
            for event in (slicer.vtkMRMLScene.NodeAddedEvent, slicer.vtkMRMLScene.NodeRemovedEvent):
                self.addObserver(self._scene, event, self._on_node_added_or_removed)
            if self._layout_node is not None:
                self.addObserver(self._layout_node, vtk.vtkCommand.ModifiedEvent, self._update)
        self._update()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added_or_removed(self, _scene: object, _event: str, node: slicer.vtkMRMLNode) -> None:
        if node.IsA(_COMPOSITE) or node.IsA("vtkMRMLScalarVolumeNode"):
            self._update()

    def _update(self, *_: object) -> None:
        targets = dict(self._views_of_enhanced_volumes()) if self._enabled else {}
        for name in [name for name in self._marks if name not in targets]:
            self._remove(name)
        for name, (slice_node, volume) in targets.items():
            if name in self._marks and self._marks[name][0] == volume.GetID():
                continue
            self._remove(name)
            renderer = self._renderer_of(name)
            if renderer is not None:
                mark = SliceMark(renderer, slice_node)
                provenance = read_provenance(volume)
                mark.show(volume, provenance, f"enhanced x{provenance.factor}")
                self._marks[name] = volume.GetID(), mark

    def _views_of_enhanced_volumes(
        self,
    ) -> Iterator[tuple[str, tuple[slicer.vtkMRMLSliceNode, slicer.vtkMRMLScalarVolumeNode]]]:
        """Layout name, slice node and volume of each view that shows an enhanced volume."""
        count = self._scene.GetNumberOfNodesByClass(_COMPOSITE)
        for composite in [self._scene.GetNthNodeByClass(index, _COMPOSITE) for index in range(count)]:
            if not self.hasObserver(composite, vtk.vtkCommand.ModifiedEvent, self._update):
                self.addObserver(composite, vtk.vtkCommand.ModifiedEvent, self._update)
            name = composite.GetLayoutName()
            slice_node = self._scene.GetSingletonNode(name, "vtkMRMLSliceNode") if name else None
            volume = self._scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
            if slice_node is None or name in view_names() or read_provenance(volume) is None:
                continue
            yield name, (slice_node, volume)

    def _remove(self, name: str) -> None:
        if name in self._marks:
            self._marks.pop(name)[1].remove()
