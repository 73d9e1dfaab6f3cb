"""A copy of the uncertainty map for views across the slices.

Observed slices have no uncertainty, so in these views the map would be stripes. In the copy they have the mean of
their neighbours, so that a region looks like one. The copy is for display alone: it is hidden and not saved.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from XViewSynthLib.geometry.volume import array_axis

from .provenance import ROLE_ATTRIBUTE, UNCERTAINTY_ROLE, Provenance
from .results import UNCERTAINTY_LOOK, set_look
from .volumes import SCALAR_VOLUME, ijk_to_ras, matrix_from_array

_HIGHEST_HU = np.iinfo(np.int16).max


class BridgedMap(VTKObservationMixin):
    """The copy of a map, in whole HU; it follows the voxels, the geometry and the transform of the map until `remove`.

    It has no voxels until `fill`, because most comparisons begin without the map.

    Args:
        uncertainty_node: the map, HU.
        provenance: of the enhanced volume.
    """

    def __init__(self, uncertainty_node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance):
        super().__init__()
        self._source, self._provenance = uncertainty_node, provenance
        self._is_wanted = False
        self._copied: tuple[vtk.vtkImageData, int] | None = None
        self.node = _hidden_node(uncertainty_node.GetScene(), uncertainty_node.GetName())
        self._update()
        for event in (
            slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
            vtk.vtkCommand.ModifiedEvent,
        ):
            self.addObserver(uncertainty_node, event, self._update)

    def fill(self) -> None:
        """Copy the voxels, now and whenever those of the map change."""
        self._is_wanted = True
        self._update()

    def remove(self) -> None:
        """Remove the copy from its scene; harmless to repeat."""
        self.removeObservers()
        scene = self.node.GetScene()
        if scene is not None:
            for node in (self.node.GetDisplayNode(), self.node):
                if node is not None:
                    scene.RemoveNode(node)

    def _update(self, *_: object) -> None:
        image = self._source.GetImageData()
        if image is None or self.node.GetScene() is None:
            return
        state = image, image.GetMTime()
        if self._is_wanted and state != self._copied:
            self._copied = state
            self.node.SetAndObserveImageData(_bridged_image(image, self._provenance))
        self.node.SetIJKToRASMatrix(matrix_from_array(ijk_to_ras(self._source)))
        self.node.SetAndObserveTransformNodeID(self._source.GetTransformNodeID())


def bridged(voxels: np.ndarray, provenance: Provenance) -> np.ndarray:
    """(K, J, I) int16 HU: a map in which observed slices have the mean of their neighbours."""
    result = np.empty(voxels.shape, np.int16)
    source, target = (np.moveaxis(array, array_axis(provenance.axis), 0) for array in (voxels, result))
    last = len(source) - 1
    # One slice at a time stays in the processor's cache.
    hu = np.empty(source.shape[1:], np.float32)
    for index in range(len(source)):
        beside = [source[other] for other in (index - 1, index + 1) if 0 <= other <= last]
        if provenance.is_synthetic(index) or not beside:
            beside = [source[index]]
        np.clip(beside[0], 0, _HIGHEST_HU, out=hu)
        if len(beside) > 1:
            hu += np.clip(beside[1], 0, _HIGHEST_HU)
            hu *= 0.5
        np.copyto(target[index], np.rint(hu, out=hu), casting="unsafe")
    return result


def _bridged_image(source: vtk.vtkImageData, provenance: Provenance) -> vtk.vtkImageData:
    voxels = vtk_to_numpy(source.GetPointData().GetScalars()).reshape(source.GetDimensions()[::-1])
    image = vtk.vtkImageData()
    image.SetExtent(source.GetExtent())
    image.GetPointData().SetScalars(numpy_to_vtk(bridged(voxels, provenance).ravel()))
    return image


def _hidden_node(scene: slicer.vtkMRMLScene, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    node = scene.CreateNodeByClass(SCALAR_VOLUME)
    node.UnRegister(None)  # the reference that CreateNodeByClass returns
    node.SetName(f"{name} (display)")
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node.SetAttribute(ROLE_ATTRIBUTE, UNCERTAINTY_ROLE)
    scene.AddNode(node)
    # Slicer takes a second to choose a window for a large volume, unless it has one.
    set_look(node, UNCERTAINTY_LOOK)
    node.GetDisplayNode().SetSaveWithScene(False)
    return node
