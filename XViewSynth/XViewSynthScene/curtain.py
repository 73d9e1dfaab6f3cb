"""A divider in a view: the original to the left of it, the enhanced volume to the right."""

from __future__ import annotations

import slicer
import vtk
from slicer.util import VTKObservationMixin

# The colours of a view's layer are bytes already, so the mapper must not change them.
_WINDOW, _LEVEL = 255, 127.5
_LINE_COLOR = (1.0, 1.0, 1.0)


class Curtain(VTKObservationMixin):
    """The part of a view to the left of a divider, in which only its foreground layer is seen.

    It draws what the view's own foreground layer has resliced and coloured, so it fits whatever the view's plane, pan,
    zoom and window are. It follows the view until `remove`.

    Args:
        renderer: of the view.
        slice_logic: of the view.
    """

    def __init__(self, renderer: vtk.vtkRenderer, slice_logic: slicer.vtkMRMLSliceLogic):
        super().__init__()
        self._renderer, self._logic = renderer, slice_logic
        self._position = 0.0
        self._clip = vtk.vtkImageClip()
        self._clip.ClipDataOn()
        self._picture = _picture(self._clip)
        self._line, self._divider = _divider()
        for actor in (self._picture, self._divider):
            renderer.AddViewProp(actor)
        self.addObserver(slice_logic.GetSliceNode(), vtk.vtkCommand.ModifiedEvent, self._update)

    @property
    def position(self) -> float:
        """Place of the divider: 0 at the left edge of the view, 1 at the right."""
        return self._position

    def move(self, position: float) -> None:
        """Move the divider; at 0 nothing of it is seen."""
        self._position = position
        self._update()

    def remove(self) -> None:
        """Remove it from the view; harmless to repeat."""
        self.removeObservers()
        for actor in (self._picture, self._divider):
            self._renderer.RemoveViewProp(actor)

    def _update(self, *_: object) -> None:
        width, height, _ = self._logic.GetSliceNode().GetDimensions()
        columns = round(self._position * width)
        layer = self._logic.GetForegroundLayer()
        connection = layer.GetImageDataConnection() if layer is not None else None
        is_visible = columns > 0 and connection is not None
        self._picture.SetVisibility(is_visible)
        self._divider.SetVisibility(is_visible)
        if is_visible:
            # The layer has another pipeline after its volume was exchanged.
            self._clip.SetInputConnection(connection)
            self._clip.SetOutputWholeExtent(0, columns - 1, 0, height - 1, 0, 0)
            self._line.SetPoint1(self._position, 0, 0)
            self._line.SetPoint2(self._position, 1, 0)


def _picture(source: vtk.vtkImageAlgorithm) -> vtk.vtkActor2D:
    mapper = vtk.vtkImageMapper()
    mapper.SetInputConnection(source.GetOutputPort())
    mapper.SetColorWindow(_WINDOW)
    mapper.SetColorLevel(_LEVEL)
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    # Above the view's own picture, which is in the background too, and below all texts.
    actor.GetProperty().SetDisplayLocationToBackground()
    actor.SetLayerNumber(1)
    actor.SetPickable(False)
    actor.SetVisibility(False)
    return actor


def _divider() -> tuple[vtk.vtkLineSource, vtk.vtkActor2D]:
    line = vtk.vtkLineSource()
    place = vtk.vtkCoordinate()
    place.SetCoordinateSystemToNormalizedViewport()
    mapper = vtk.vtkPolyDataMapper2D()
    mapper.SetInputConnection(line.GetOutputPort())
    mapper.SetTransformCoordinate(place)
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*_LINE_COLOR)
    actor.SetPickable(False)
    actor.SetVisibility(False)
    return line, actor
