"""Scenes for the tests: Slicer's own MRML, without the application around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from XViewSynthLib import Volume
from XViewSynthScene.provenance import Provenance
from XViewSynthScene.volumes import set_voxels_and_geometry


@contextmanager
def mrml_scene() -> Iterator[slicer.vtkMRMLScene]:
    """An empty scene that knows all kinds of nodes, and is `slicer.mrmlScene` meanwhile."""
    scene = slicer.vtkMRMLScene()
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLScene(scene)  # its browsers are no part of the MRML core
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)  # adds the default colours
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())  # as Slicer's Colors module does
    before = getattr(slicer, "mrmlScene", None)
    slicer.mrmlScene = scene
    try:
        yield scene
    finally:
        slicer.mrmlScene = before
        for logic in (sequences, colors):
            logic.SetMRMLScene(None)
        scene.Clear(True)


@contextmanager
def runs_begun(kind: Callable[..., Any], folder: Path) -> Iterator[Callable[..., Any]]:
    """A function that starts runs of a kind with their temporary folders in `folder`; all are closed at the end."""
    runs = []

    def begin(*arguments: object) -> Any:
        run = kind(*arguments, folder=folder)
        runs.append(run)
        run.start()
        return run

    try:
        yield begin
    finally:
        for run in runs:
            run.close()


def wait_until(run: Any, holds: Callable[[Any], object], seconds: float) -> Any:
    """Poll a run until a condition on its state holds, and return the state."""
    deadline = time.monotonic() + seconds
    while not holds(state := run.poll()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def make_volume_node(scene: slicer.vtkMRMLScene, volume: Volume, name: str = "CT") -> slicer.vtkMRMLScalarVolumeNode:
    """A displayed node with a copy of a volume's voxels, at the top of the subject hierarchy."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    set_voxels_and_geometry(node, volume)
    node.CreateDefaultDisplayNodes()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    return node


def make_bent_transform(scene: slicer.vtkMRMLScene, shift: float = 4.0) -> slicer.vtkMRMLGridTransformNode:
    """A non-linear transform over the middle of every test scan; it moves what lies there by `shift` mm to superior."""
    displacements = vtk.vtkImageData()
    displacements.SetDimensions(3, 3, 3)
    displacements.AllocateScalars(vtk.VTK_DOUBLE, 3)
    displacements.GetPointData().GetScalars().Fill(0)
    for i, j, k in np.ndindex(3, 3, 3):
        displacements.SetScalarComponentFromDouble(i, j, k, 2, shift)
    displacements.SetSpacing(400, 400, 400)
    displacements.SetOrigin(-400, -400, -400)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(displacements)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Acquisition transform")
    node.SetAndObserveTransformToParent(transform)
    return node


def make_shift(scene: slicer.vtkMRMLScene, millimetres: float = 10.0) -> slicer.vtkMRMLLinearTransformNode:
    """A linear transform that moves by this much to superior."""
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, millimetres)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Shift")
    node.SetMatrixTransformToParent(matrix)
    return node


def make_provenance(slices: int, factor: int, **changes: object) -> Provenance:
    """How a volume of `slices` slices along K was made, of which every `factor`-th, from the first, was observed."""
    values = {
        "model": "standard",
        "model_sha256": "0123456789abcdef" * 4,
        "factor": factor,
        "axis": "K",
        "acquisition": "gap",
        "synthetic_slices": tuple(index for index in range(slices) if index % factor),
        "observed_slices": (slices - 1) // factor + 1,
        "input_node_id": "vtkMRMLScalarVolumeNode99",
        "input_name": "CT",
        "software_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Provenance(**{**values, **changes})


@contextmanager
def saved_and_loaded(scene: slicer.vtkMRMLScene, folder: Path, kind: str) -> Iterator[slicer.vtkMRMLScene]:
    """A second scene, loaded from the files that `scene` was saved to; `kind` is "mrml" or "mrb"."""
    path = folder / f"scene.{kind}"
    with mrml_scene() as loaded:
        if kind == "mrb":
            assert scene.WriteToMRB(str(path), None)
            cache, files = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
            cache.SetRemoteCacheDirectory(str(folder))
            files.SetCacheManager(cache)
            loaded.SetCacheManager(cache)
            loaded.SetDataIOManager(files)
            assert loaded.ReadFromMRB(str(path), False)
        else:
            _save_mrml(scene, path)
            loaded.SetURL(str(path))
            assert loaded.Import()
        yield loaded


def _save_mrml(scene: slicer.vtkMRMLScene, path: Path) -> None:
    scene.SetRootDirectory(str(path.parent))
    scene.SetURL(str(path))
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLStorableNode")
        if not node.GetSaveWithScene():
            continue
        node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is not None:
            storage.SetFileName(str(path.parent / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"))
            assert storage.WriteData(node)
    assert scene.Commit()
