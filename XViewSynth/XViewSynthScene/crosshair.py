"""Showing one place in several views: their slices, and Slicer's crosshair."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from .volumes import array_from_matrix

# A place this close to the edge of a view, as a share of its size, is moved to the centre.
_EDGE = 0.05

_Position = tuple[float, float, float]


class Crosshair:
    """The crosshair of a scene, which Slicer draws in every slice view.

    Args:
        scene: one without a crosshair node, which Slicer's own always has, shows none.
    """

    def __init__(self, scene: slicer.vtkMRMLScene):
        self._scene = scene
        self._former_mode: int | None = None

    def show(self, position: _Position) -> None:
        """Show the crosshair at a place (RAS of the world, mm)."""
        node = self._node()
        if node is None:
            return
        if node.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair:
            self._former_mode = node.GetCrosshairMode()
            node.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowSmallBasic)
        node.SetCrosshairRAS(*position)

    def remove(self) -> None:
        """Hide the crosshair if it was shown here."""
        node, mode = self._node(), self._former_mode
        self._former_mode = None
        if node is not None and mode is not None:
            node.SetCrosshairMode(mode)

    def _node(self) -> slicer.vtkMRMLCrosshairNode | None:
        return self._scene.GetSingletonNode("default", "vtkMRMLCrosshairNode")


def show_position(slice_node: slicer.vtkMRMLSliceNode, position: _Position) -> None:
    """Move a view to the slice of a place; pan as well if the place is not in the view.

    Args:
        slice_node: the view.
        position: RAS of the world, mm.
    """
    slice_node.JumpSliceByOffsetting(*position)
    to_view = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(slice_node.GetXYToRAS(), to_view)
    shares = (array_from_matrix(to_view) @ [*position, 1])[:2] / slice_node.GetDimensions()[:2]
    if not np.all((shares > _EDGE) & (shares < 1 - _EDGE)):
        slice_node.JumpSliceByCentering(*position)
