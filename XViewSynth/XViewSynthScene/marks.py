"""Which slice a view shows: one that was observed, a synthetic one, or a blend of both, told in the view's corner."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from XViewSynthLib.geometry.volume import AXES, Axis, affine_column

from .provenance import Provenance
from .volumes import array_from_matrix, ijk_to_ras

OBSERVED, SYNTHETIC, BETWEEN = "observed", "synthetic", "between"

#: What the corner of a view says about the slice it shows.
TEXTS = {OBSERVED: "observed slice", SYNTHETIC: "synthetic slice", BETWEEN: "between slices"}

#: RGB, 0 to 1. Blue and orange as in the module's icon, which colour-blind people tell apart.
COLORS = {OBSERVED: (0.45, 0.72, 1.0), SYNTHETIC: (1.0, 0.6, 0.2), BETWEEN: (0.75, 0.75, 0.75)}
PLAIN_COLOR = (1.0, 1.0, 1.0)

FONT_SIZE = 15  # pixels, as large as Slicer's own corner texts
_CORNER = (0.98, 0.02)  # bottom right: Slicer's own texts lie in the other corners

# Cosine between a view's normal and that of the slices above which the view shows slices, within 1 degree.
_SAME_PLANE = np.cos(np.radians(1))
# Share of the distance between two slices within which one of them is what is seen: the other adds too little.
_ON_SLICE = 0.1


def slice_mark(
    slice_node: slicer.vtkMRMLSliceNode, volume_node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance
) -> str | None:
    """Whether the slice at a view's offset was observed.

    Args:
        slice_node: the view.
        volume_node: the volume that the view shows.
        provenance: tells its axis and its synthetic slices.

    Returns:
        "observed" or "synthetic"; "between" where the view blends two slices, which it does off their centres unless
        the volume is displayed without interpolation; None where the view cuts through the slices, or shows nothing
        of the volume.
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
    """Where a view lies among the slices along `axis`: 0 at the centre of the first slice, 1 at that of the second.

    None where the view's plane is not that of the slices, or lies outside the volume.
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
    """(4, 4) float64: voxel indices (I, J, K) to the world in mm, with the parent transforms; None of bent ones."""
    parent = volume_node.GetParentTransformNode()
    if parent is None:
        return ijk_to_ras(volume_node)
    if not parent.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return array_from_matrix(matrix) @ ijk_to_ras(volume_node)


class SliceMark(VTKObservationMixin):
    """A line in the bottom right corner of a view: what it shows, and whether the slice was observed.

    It follows the view's slice, and the volume's geometry and display, until `remove`.

    Args:
        renderer: of the view; None where there is no view to draw in, so that only `text` tells.
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
        """The line as it stands in the corner."""
        return self._actor.GetInput() or ""

    @property
    def color(self) -> tuple[float, float, float]:
        """RGB of the line, 0 to 1."""
        return self._actor.GetTextProperty().GetColor()

    def show(
        self, volume_node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance | None, caption: str = ""
    ) -> None:
        """Mark the slices of a volume from now on; without provenance the line holds the caption alone."""
        self.removeObservers()
        self._volume_node, self._provenance, self._caption = volume_node, provenance, caption
        display = volume_node.GetScalarVolumeDisplayNode()
        followed = [(self._slice_node, vtk.vtkCommand.ModifiedEvent), (volume_node, vtk.vtkCommand.ModifiedEvent)]
        followed.append((volume_node, slicer.vtkMRMLTransformableNode.TransformModifiedEvent))
        if display is not None:
            followed.append((display, vtk.vtkCommand.ModifiedEvent))
        for node, event in followed:
            self.addObserver(node, event, self._update)
        self._update()

    def remove(self) -> None:
        """Take the line out of the view, and stop following it; harmless to repeat."""
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
