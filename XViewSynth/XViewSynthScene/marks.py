"""Marks in the corner of a view: whether its slice was observed, is synthetic, or blends two slices."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from XViewSynthLib.geometry.volume import AXES, Axis, affine_column

from .provenance import Provenance
from .volumes import array_from_matrix, ijk_to_ras

OBSERVED, SYNTHETIC, BETWEEN = "observed", "synthetic", "between"

#: Text in the corner of a view.
TEXTS = {OBSERVED: "observed slice", SYNTHETIC: "synthetic slice", BETWEEN: "between slices"}

#: RGB, 0 to 1. Blue and orange as in the module's icon, which colour-blind people can distinguish.
COLORS = {OBSERVED: (0.45, 0.72, 1.0), SYNTHETIC: (1.0, 0.6, 0.2), BETWEEN: (0.75, 0.75, 0.75)}
PLAIN_COLOR = (1.0, 1.0, 1.0)

FONT_SIZE = 15  # pixels, the size of Slicer's own corner texts
_CORNER = (0.98, 0.02)  # bottom right: Slicer uses the other corners

# Least cosine between the normals of view and slices at which the view shows slices: 1 degree.
_SAME_PLANE = np.cos(np.radians(1))
# Up to this share of the slice distance from a slice, the neighbour adds too little to be visible.
_ON_SLICE = 0.1


def slice_mark(
    slice_node: slicer.vtkMRMLSliceNode, volume_node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance
) -> str | None:
    """Return the kind of slice that a view shows.

    Args:
        slice_node: the view.
        volume_node: the volume that the view shows.
        provenance: axis and synthetic slices of the volume.

    Returns:
        "observed" or "synthetic"; "between" if the view blends two slices, as it does off their centres when the
        display interpolates; None if the view cuts through the slices or lies outside the volume.
    """
    position = slice_position(slice_node, volume_node, provenance.axis)
    if position is None:
        return None
    index = round(position)
    display = volume_node.GetScalarVolumeDisplayNode()
    blends = display is None or display.GetInterpolate()
    if blends and abs(position - index) > _ON_SLICE:
        return BETWEEN
    return SYNTHETIC if provenance.is_synthetic(index) else OBSERVED


def slice_position(
    slice_node: slicer.vtkMRMLSliceNode, volume_node: slicer.vtkMRMLVolumeNode, axis: Axis
) -> float | None:
    """Position of a view along `axis` in slices: 0 at the centre of the first slice, 1 at that of the second.

    None if the view's plane is not that of the slices, or lies outside the volume.
    """
    to_world = ijk_to_world(volume_node)
    if to_world is None or volume_node.GetImageData() is None:
        return None
    plane = array_from_matrix(slice_node.GetSliceToRAS())
    column = affine_column(axis)
    first, second = (to_world[:3, affine_column(other)] for other in AXES if other != axis)
    normal = np.cross(first, second)
    if abs(normal @ plane[:3, 2]) < _SAME_PLANE * np.linalg.norm(normal) * np.linalg.norm(plane[:3, 2]):
        return None
    position = float(np.linalg.solve(to_world, plane[:, 3])[column])
    slices = volume_node.GetImageData().GetDimensions()[column]
    return position if -0.5 <= position <= slices - 0.5 else None


def ijk_to_world(volume_node: slicer.vtkMRMLVolumeNode) -> np.ndarray | None:
    """(4, 4) float64: voxel indices (I, J, K) to the world in mm, with parent transforms; None if one is not linear."""
    parent = volume_node.GetParentTransformNode()
    if parent is None:
        return ijk_to_ras(volume_node)
    if not parent.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return array_from_matrix(matrix) @ ijk_to_ras(volume_node)


class SliceMark(VTKObservationMixin):
    """A line in the bottom right corner of a view: the name of the volume and the kind of slice.

    It is updated with the view's slice and the volume's geometry and display, until `remove`.

    Args:
        renderer: of the view; None without a view: then only `text` is set.
        slice_node: the view.
    """

    def __init__(self, renderer: vtk.vtkRenderer | None, slice_node: slicer.vtkMRMLSliceNode):
        super().__init__()
        self._renderer = renderer
        self._slice_node = slice_node
        self._volume_node: slicer.vtkMRMLScalarVolumeNode | None = None
        self._provenance: Provenance | None = None
        self._caption = ""
        self._actor = _corner_text()
        if renderer is not None:
            renderer.AddViewProp(self._actor)

    @property
    def text(self) -> str:
        """The text in the corner."""
        return self._actor.GetInput() or ""

    @property
    def color(self) -> tuple[float, float, float]:
        """RGB of the line, 0 to 1."""
        return self._actor.GetTextProperty().GetColor()

    def show(
        self, volume_node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance | None, caption: str = ""
    ) -> None:
        """Mark the slices of a volume; without provenance the line holds only the caption."""
        self.removeObservers()
        self._volume_node, self._provenance, self._caption = volume_node, provenance, caption
        display = volume_node.GetScalarVolumeDisplayNode()
        observed = [(self._slice_node, vtk.vtkCommand.ModifiedEvent), (volume_node, vtk.vtkCommand.ModifiedEvent)]
        observed.append((volume_node, slicer.vtkMRMLTransformableNode.TransformModifiedEvent))
        if display is not None:
            observed.append((display, vtk.vtkCommand.ModifiedEvent))
        for node, event in observed:
            self.addObserver(node, event, self._update)
        self._update()

    def remove(self) -> None:
        """Remove the line from the view and stop observing; harmless to repeat."""
        self.removeObservers()
        if self._renderer is not None:
            self._renderer.RemoveViewProp(self._actor)
            self._renderer = None
        self._volume_node = None

    def _update(self, *_: object) -> None:
        mark = slice_mark(self._slice_node, self._volume_node, self._provenance) if self._provenance else None
        self._actor.SetInput(" - ".join(part for part in (self._caption, TEXTS.get(mark)) if part))
        self._actor.GetTextProperty().SetColor(COLORS.get(mark, PLAIN_COLOR))


def _corner_text() -> vtk.vtkTextActor:
    actor = vtk.vtkTextActor()
    actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    actor.SetPosition(*_CORNER)
    actor.SetPickable(False)
    style = actor.GetTextProperty()
    style.SetFontSize(FONT_SIZE)
    style.SetJustificationToRight()
    style.SetVerticalJustificationToBottom()
    # Legible on bone as well as on air.
    style.SetBackgroundColor(0, 0, 0)
    style.SetBackgroundOpacity(0.55)
    return actor
