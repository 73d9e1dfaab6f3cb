"""Loading and saving: `slicer.util`'s functions of that kind, with storage nodes in the place of the application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer


def loadVolume(filename: str, properties: dict[str, Any] | None = None, returnNode: bool = False) -> Any:
    """Load a volume from a file; "name" and "labelmap" are the properties that count here.

    Raises:
        RuntimeError: the file cannot be read.
    """
    properties = properties or {}
    kind = "vtkMRMLLabelMapVolumeNode" if properties.get("labelmap") else "vtkMRMLScalarVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(kind, properties.get("name") or Path(filename).name.split(".")[0])
    node.AddDefaultStorageNode()
    storage = node.GetStorageNode()
    storage.SetFileName(str(filename))
    if not Path(filename).exists() or not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(storage)
        slicer.mrmlScene.RemoveNode(node)
        if returnNode:
            return False, None
        raise RuntimeError(f"Failed to load node from file: {filename}")
    node.CreateDefaultDisplayNodes()
    return (True, node) if returnNode else node


def saveNode(node: slicer.vtkMRMLStorableNode, filename: str, properties: dict[str, Any] | None = None) -> bool:
    """Save a node's data to a file; True when that went well."""
    node.AddDefaultStorageNode()
    storage = node.GetStorageNode()
    storage.SetFileName(str(filename))
    if "useCompression" in (properties or {}):
        storage.SetUseCompression(bool(properties["useCompression"]))
    return bool(storage.WriteData(node))


def saveScene(filename: str, properties: dict[str, Any] | None = None) -> bool:
    """Save the scene as .mrb; True when that went well."""
    return bool(slicer.mrmlScene.WriteToMRB(str(filename), None))


def loadScene(filename: str, properties: dict[str, Any] | None = None) -> bool:
    """Load a scene from an .mrb file into the present one; True when that went well."""
    scene = slicer.mrmlScene
    if scene.GetCacheManager() is None:
        cache, data = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        cache.SetRemoteCacheDirectory(str(Path(filename).parent))
        data.SetCacheManager(cache)
        scene.SetCacheManager(cache)
        scene.SetDataIOManager(data)
    return bool(scene.ReadFromMRB(str(filename), False))


def functions() -> dict[str, Callable]:
    """The functions by their name in `slicer.util`."""
    own = {function.__name__: function for function in (loadVolume, saveNode, saveScene, loadScene)}
    return {**own, "exportNode": saveNode}
