"""Turning views to the planes of the patient and the axes of a volume."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import slicer
import vtk

from .layout import PLANES
from .marks import ijk_to_world
from .volumes import matrix_from_array


def turn_to_plane(
    scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLSliceNode, plane: str, volume_node: slicer.vtkMRMLVolumeNode
) -> None:
    """Rotate a view to one of the patient's planes and then to the nearest axes of the volume."""
    if not node.HasSliceOrientationPreset(plane):
        # A scene made by a program may have no presets; these are Slicer's own.
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        node.AddSliceOrientationPreset(plane, _preset(plane))
    node.SetOrientation(plane)
    to_world = ijk_to_world(volume_node)
    if to_world is not None:
        node.RotateToAxes(matrix_from_array(to_world), axis_across(to_world, PLANES[plane].normal))


def axis_across(to_world: np.ndarray, normal: int) -> int:
    """The volume's axis, 0 to 2 for I, J, K, closest to the R, A or S axis `normal`; each normal gets another axis."""
    cosines = np.abs(to_world[:3, :3] / np.linalg.norm(to_world[:3, :3], axis=0))
    best = max(permutations(range(3)), key=lambda axes: sum(cosines[patient, axes[patient]] for patient in range(3)))
    return best[normal]


def _preset(plane: str) -> vtk.vtkMatrix3x3:
    matrix = vtk.vtkMatrix3x3()
    fill = {
        "Axial": slicer.vtkMRMLSliceNode.GetAxialSliceToRASMatrix,
        "Coronal": slicer.vtkMRMLSliceNode.GetCoronalSliceToRASMatrix,
        "Sagittal": slicer.vtkMRMLSliceNode.GetSagittalSliceToRASMatrix,
    }
    fill[plane](matrix)
    return matrix
