"""Pairs of volumes for the linked views: a scan and what an enhancement might have made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer

from scene import make_volume_node
from XViewSynthLib import Volume
from XViewSynthLib.geometry.volume import Axis, array_axis
from XViewSynthScene.provenance import UNCERTAINTY_REFERENCE, Provenance, now, write_provenance

FACTOR = 4
#: HU that the synthetic slices of a pair differ from interpolated ones, in a block in the middle of the slices.
FINDING_HU = 600


@dataclass(frozen=True)
class Pair:
    """Nodes of a scan, of its enhanced volume and of the uncertainty map, and where the enhanced one comes from."""

    original: slicer.vtkMRMLScalarVolumeNode
    enhanced: slicer.vtkMRMLScalarVolumeNode
    uncertainty: slicer.vtkMRMLScalarVolumeNode
    provenance: Provenance


def make_pair(scene: slicer.vtkMRMLScene, scan: Volume, axis: Axis = "K") -> Pair:
    """Interpolated slices with a bright block in each synthetic one, whose left half is in uncertainty."""
    original = make_volume_node(scene, scan, "CT")
    display = original.GetScalarVolumeDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(2000, 0)
    thin, uncertainty, synthetic = _enhanced(scan, axis)
    enhanced = make_volume_node(scene, thin, "CT enhanced x4")
    uncertainty_node = make_volume_node(scene, uncertainty, "CT uncertainty")
    provenance = Provenance(
        model="small",
        model_sha256="0" * 64,
        factor=FACTOR,
        axis=axis,
        acquisition="gap",
        synthetic_slices=synthetic,
        observed_slices=scan.slices(axis),
        input_node_id=original.GetID(),
        input_name="CT",
        software_version="0.1.0",
        created=now(),
    )
    write_provenance(enhanced, provenance)
    enhanced.SetNodeReferenceID(UNCERTAINTY_REFERENCE, uncertainty_node.GetID())
    return Pair(original, enhanced, uncertainty_node, provenance)


def _enhanced(scan: Volume, axis: Axis) -> tuple[Volume, Volume, tuple[int, ...]]:
    slices = np.moveaxis(scan.voxels, array_axis(axis), 0).astype(np.float32)
    positions = np.arange(FACTOR * (len(slices) - 1) + 1) / FACTOR
    lower = np.minimum(positions.astype(int), len(slices) - 2)
    share = (positions - lower)[:, None, None]
    thin = (1 - share) * slices[lower] + share * slices[lower + 1]
    synthetic = tuple(index for index in range(len(thin)) if index % FACTOR)
    rows, columns = thin.shape[1:]
    block = (slice(rows // 3, 2 * rows // 3), slice(columns // 3, 2 * columns // 3))
    uncertain = (block[0], slice(columns // 3, columns // 2))
    uncertainty = np.zeros_like(thin)
    for index in synthetic:
        thin[index][block] += FINDING_HU
        uncertainty[index][uncertain] = 90
    affine = scan.upsampled_affine(axis, FACTOR)
    restored = [np.ascontiguousarray(np.moveaxis(voxels, 0, array_axis(axis))) for voxels in (thin, uncertainty)]
    return Volume(restored[0].round().astype(np.int16), affine), Volume(restored[1], affine), synthetic
